//! The key that access tokens are signed with: made at the first start, kept in the data directory.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use towline_gateway::AccessTokens;
use towline_model::Secret;

use crate::private_file;

const FILE_NAME: &str = "signing-key.der";

/// Why there is no signing key.
#[derive(Debug, thiserror::Error)]
pub enum SigningKeyError {
    /// The file cannot be read or written.
    #[error("cannot use the signing key in {}: {source}; check that this user may read and write it", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else.
    #[error(
        "{} is not a signing key; restore it from a backup, or remove it to have a new one made, which signs everybody out",
        path.display()
    )]
    Invalid {
        /// The file.
        path: PathBuf,
    },
}

/// Reads the key, or makes one.
pub(crate) fn load_or_create(data_dir: &Path) -> Result<AccessTokens, SigningKeyError> {
    let path = data_dir.join(FILE_NAME);
    let key = match fs::read(&path) {
        Ok(bytes) => Secret::new(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = AccessTokens::generate_pkcs8();
            private_file::write(&path, key.expose())
                .map_err(|source| SigningKeyError::Io { path: path.clone(), source })?;
            key
        }
        Err(source) => return Err(SigningKeyError::Io { path, source }),
    };
    AccessTokens::from_pkcs8(key.expose()).map_err(|_| SigningKeyError::Invalid { path })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use towline_gateway::access_token::TokenHolder;
    use towline_model::{SignInId, Timestamp, UserId};

    use super::*;

    #[test]
    fn the_key_is_made_once_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let now = Timestamp::from_micros(0);
        let user = TokenHolder { user_id: UserId::generate(), sign_in: SignInId::generate() };
        let token = load_or_create(directory.path()).unwrap().issue(user, now, Duration::from_secs(60));
        assert_eq!(load_or_create(directory.path()).unwrap().verify(token.expose(), now), Ok(user));
    }

    #[test]
    fn something_else_in_its_place_is_told_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        fs::write(&path, "nonsense").unwrap();
        let error = load_or_create(directory.path()).unwrap_err().to_string();
        assert!(error.contains("signing-key.der"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"nonsense");
    }
}
