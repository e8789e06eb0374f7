//! `bootstrap.json`: what a server wrote at its first start, for whoever may read its data directory.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use towline_model::{Secret, TeamId};

use crate::failure::Failure;

/// The first user, team and agent key of a server. The integration key in the file is for people.
#[derive(Debug, Clone, Deserialize)]
pub struct Bootstrap {
    /// Where the server was reached at its first start.
    pub url: String,
    /// The first team.
    pub team_id: TeamId,
    /// The owner's address.
    pub email_address: String,
    /// The owner's password.
    pub user_password: Secret<String>,
    /// The first agent key.
    #[serde(default)]
    pub agent_key: Option<Secret<String>>,
}

impl Bootstrap {
    /// Where the file is in a data directory.
    pub fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("bootstrap.json")
    }

    /// Reads the file. `None` when there is none, or when it is not for us to read.
    pub fn read(data_dir: &Path) -> Result<Option<Self>, Failure> {
        use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
        let path = Self::path(data_dir);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
                Failure::new(format!("{} is damaged: {error}", path.display()))
                    .hint("remove it and sign in with `towline login`")
            }),
            Err(error) if matches!(error.kind(), NotFound | NotADirectory | PermissionDenied) => Ok(None),
            Err(error) => Err(Failure::io(format!("cannot read {}", path.display()), &error)),
        }
    }
}
