//! The certificate of everything here that speaks TLS: made for the run, and trusted by nobody but the run's agents.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::subject::LOOPBACK;

/// A certificate of this machine's loopback, as files. Its key is on the curve that all subjects take.
#[derive(Debug)]
pub struct Certificate {
    /// The certificate, which is its own authority.
    pub chain: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Both in one file, as HAProxy wants them.
    pub both: PathBuf,
}

impl Certificate {
    /// Makes one.
    ///
    /// # Errors
    /// When it cannot be made, or written there.
    pub fn make(directory: &Path) -> Result<Self> {
        let made = rcgen::generate_simple_self_signed([LOOPBACK.to_owned()]).context("cannot make a certificate")?;
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        fs::create_dir_all(directory)?;
        let write = |name: &str, text: &str| {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display())).map(|()| path)
        };
        Ok(Self {
            both: write("both.pem", &format!("{chain}{key}"))?,
            chain: write("chain.pem", &chain)?,
            key: write("key.pem", &key)?,
        })
    }
}
