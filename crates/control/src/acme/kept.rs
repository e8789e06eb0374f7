//! What is kept of ACME in the data directory, so that a restart asks the authority for nothing: `acme/account.json`, the
//! account with its key, and `acme/certificate.pem`, the certificate with its key in one file, so that the two always fit.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use instant_acme::AccountCredentials;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use towline_gateway::certificate::{Certificate, CertificateError};
use towline_model::Secret;

use super::authority::Issued;
use crate::private_file;

/// The first line of the certificate's file; text before the first block of a PEM file means nothing (RFC 7468 §2).
const ORDERED_FROM: &str = "Ordered from: ";

/// Why something cannot be kept, or not be read again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeptError {
    /// The file.
    #[error("{}: {source}; check that this user may read and write it", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its content.
    #[error("{}: {source}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        source: CertificateError,
    },
    /// Its content.
    #[error("{} is not an ACME account; restore it from a backup, or remove it to have a new one made", path.display())]
    Account {
        /// The file.
        path: PathBuf,
    },
}

/// The directory `acme` in the data directory.
#[derive(Debug, Clone)]
pub(super) struct Kept(Arc<Path>);

/// An account at an authority.
#[derive(Serialize, Deserialize)]
pub(super) struct Account {
    /// The authority's directory.
    pub directory: String,
    /// What the authority was told of how people are reached.
    pub contacts: Vec<String>,
    /// The account's URL and key.
    pub credentials: AccountCredentials,
}

impl Kept {
    pub(super) fn in_data_dir(data_dir: &Path) -> Result<Self, KeptError> {
        let path = data_dir.join("acme");
        match private_file::create_directory(&path) {
            Ok(()) => Ok(Self(path.into())),
            Err(source) => Err(KeptError::Io { path, source }),
        }
    }

    fn certificate_path(&self) -> PathBuf {
        self.0.join("certificate.pem")
    }

    fn account_path(&self) -> PathBuf {
        self.0.join("account.json")
    }

    /// The certificate, and the directory of the authority that it was ordered from.
    pub(super) fn certificate(&self) -> Result<Option<(Certificate, String)>, KeptError> {
        let path = self.certificate_path();
        let Some(pem) = read(&path)? else { return Ok(None) };
        match Certificate::from_pem(pem.expose(), pem.expose()) {
            Ok(certificate) => {
                let first =
                    String::from_utf8_lossy(pem.expose().split(|byte| *byte == b'\n').next().unwrap_or_default());
                let directory = first.strip_prefix(ORDERED_FROM).unwrap_or_default().to_owned();
                Ok(Some((certificate, directory)))
            }
            Err(source) => Err(KeptError::Certificate { path, source }),
        }
    }

    /// Keeps what [`text`] has made.
    pub(super) async fn keep_certificate(&self, text: Secret<String>) -> Result<(), KeptError> {
        write(self.certificate_path(), Secret::new(text.expose().as_bytes().to_vec())).await
    }

    /// The account that is kept.
    pub(super) fn account(&self) -> Result<Option<Account>, KeptError> {
        let path = self.account_path();
        let Some(text) = read(&path)? else { return Ok(None) };
        // The error of the parser could show what it read.
        serde_json::from_slice(text.expose()).map(Some).map_err(|_| KeptError::Account { path })
    }

    pub(super) async fn keep_account(&self, account: &Account) -> Result<(), KeptError> {
        let path = self.account_path();
        let text = serde_json::to_vec(account).map_err(|_| KeptError::Account { path: path.clone() })?;
        write(path, Secret::new(text)).await
    }
}

/// A certificate and its key as they are kept.
pub(super) fn text(directory: &str, issued: &Issued) -> Secret<String> {
    Secret::new(format!("{ORDERED_FROM}{directory}\n{}{}", issued.key.expose(), issued.chain))
}

fn read(path: &Path) -> Result<Option<Secret<Vec<u8>>>, KeptError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(Secret::new(content))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(KeptError::Io { path: path.to_owned(), source }),
    }
}

/// Writes a file whole or not at all; a disk may take its time.
async fn write(path: PathBuf, content: Secret<Vec<u8>>) -> Result<(), KeptError> {
    let target = path.clone();
    let written = spawn_blocking(move || private_file::write(&target, content.expose())).await;
    written.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|source| KeptError::Io { path, source })
}
