//! A database of one's own on the PostgreSQL server of the test run.

use std::{
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{needs, process::run};

/// An empty database. Dropping it removes it, whoever is still connected.
#[derive(Debug)]
pub struct TempDatabase {
    server: String,
    name: String,
    url: String,
}

impl TempDatabase {
    /// Creates one.
    ///
    /// # Panics
    /// When there is no server, or it does not allow it.
    #[must_use]
    pub fn create() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let server = needs::postgres_url();
        let name = format!("e2e_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        run("psql", &[&server, "-qc", &format!("CREATE DATABASE {name}")]);
        let (base, _) = server.rsplit_once('/').expect("the URL names a database");
        let url = format!("{base}/{name}");
        Self { server, name, url }
    }

    /// `postgres://…`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for TempDatabase {
    fn drop(&mut self) {
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let _ = Command::new("psql").args([&self.server, "-qc", &drop]).output();
    }
}
