//! The keys that secrets are sealed under: made at the first start, kept in a file beside the database or given from
//! outside, never in the database.
//!
//! One key a line, `<id>:<base64 of 32 bytes>`, the newest first; it seals, the others only open. The id can be left out
//! of a key that was made elsewhere. Lines that start with `#` are remarks. Given in one line, keys are separated by
//! commas.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use towline_model::Secret;
use zeroize::Zeroize;

use super::seal::{KEY_BYTES, SealingKey};
use crate::private_file;

const FILE_NAME: &str = "secrets.key";

const HEADING: &str = "# The keys that secrets in the database are sealed under, the newest first.\n\
     # Without them no secret can be opened any more: keep a copy, apart from the copies of the database.\n";

/// Where the keys come from.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// A file, which is made when nothing is sealed yet.
    File(PathBuf),
    /// A text in the same form, from the environment.
    Given(Secret<String>),
}

/// Why there are no usable keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyRingError {
    /// The file cannot be read or written.
    #[error("cannot use the secrets' keys in {}: {source}; check that this user may read and write it", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is not a key. It is not shown.
    #[error("{origin}: key number {number} {why}; restore it from a backup")]
    Invalid {
        /// Where it stands.
        origin: String,
        /// Which one, from 1.
        number: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// There is no key.
    #[error("{origin} holds no key; it takes lines such as <id>:<base64 of 32 bytes>")]
    Empty {
        /// Where none is.
        origin: String,
    },
    /// The file is gone, and secrets are sealed under its keys.
    #[error(
        "{} is missing, and the database holds secrets that are sealed under its keys ({}): restore the file from a \
         backup, or name it with --secrets-key-file; no new key is made, since with it those secrets would be lost",
        path.display(), needed.join(", ")
    )]
    Missing {
        /// The file.
        path: PathBuf,
        /// The ids of the keys.
        needed: Vec<String>,
    },
    /// Some of the keys are not there.
    #[error(
        "{origin} lacks the key {}, under which secrets in the database are sealed: add its line, from a backup of the \
         keys or from the server that wrote them", ids.join(", ")
    )]
    Lacking {
        /// Where the others are.
        origin: String,
        /// The ids of the missing ones.
        ids: Vec<String>,
    },
}

/// Keys, the newest first; never empty.
#[derive(Debug)]
pub struct KeyRing {
    keys: Vec<SealingKey>,
}

impl KeySource {
    /// The file that is used when nothing else is said.
    #[must_use]
    pub fn in_data_dir(data_dir: &Path) -> Self {
        Self::File(data_dir.join(FILE_NAME))
    }

    fn origin(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Given(_) => "the given secrets' key (TOWLINE_SECRETS_KEY)".to_owned(),
        }
    }
}

impl KeyRing {
    /// Reads the keys. When there is no file and no key is in use, one is made.
    ///
    /// # Errors
    /// See [`KeyRingError`]; nothing is made or changed then.
    pub fn load(source: &KeySource, in_use: &[String]) -> Result<Self, KeyRingError> {
        let ring = match source {
            KeySource::Given(text) => Self::parse(text.expose(), &source.origin())?,
            KeySource::File(path) => match fs::read_to_string(path).map(Secret::new) {
                Ok(text) => {
                    warn_when_others_can_read(path);
                    Self::parse(text.expose(), &source.origin())?
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound && in_use.is_empty() => {
                    let ring = Self { keys: vec![SealingKey::generate()] };
                    ring.save(path)?;
                    tracing::info!(path = %path.display(), key = ring.newest().id(), "made the secrets' key; keep a copy of it");
                    ring
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(KeyRingError::Missing { path: path.clone(), needed: in_use.to_vec() });
                }
                Err(source) => return Err(KeyRingError::Io { path: path.clone(), source }),
            },
        };
        let ids: Vec<_> = in_use.iter().filter(|id| ring.find(id).is_none()).cloned().collect();
        if ids.is_empty() { Ok(ring) } else { Err(KeyRingError::Lacking { origin: source.origin(), ids }) }
    }

    /// Writes the keys, whole or not at all, readable by this user only.
    pub(super) fn save(&self, path: &Path) -> Result<(), KeyRingError> {
        let text = Secret::new(self.to_text());
        private_file::write(path, text.expose().as_bytes())
            .map_err(|source| KeyRingError::Io { path: path.to_owned(), source })
    }

    fn parse(text: &str, origin: &str) -> Result<Self, KeyRingError> {
        let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        let entries = lines.flat_map(|line| line.split(',')).map(str::trim).filter(|entry| !entry.is_empty());
        let mut keys = Vec::new();
        for (index, entry) in entries.enumerate() {
            let invalid = |why| KeyRingError::Invalid { origin: origin.to_owned(), number: index + 1, why };
            let (id, encoded) =
                entry.split_once(':').map_or((None, entry), |(id, rest)| (Some(id.trim()), rest.trim()));
            let mut bytes = BASE64_STANDARD.decode(encoded).map_err(|_| invalid("is not base64"))?;
            let key = <[u8; KEY_BYTES]>::try_from(bytes.as_slice());
            bytes.zeroize();
            let key = SealingKey::new(Secret::new(key.map_err(|_| invalid("does not have 32 bytes"))?));
            if id.is_some_and(|id| id != key.id()) {
                return Err(invalid("does not fit its id, so it was copied wrongly or damaged"));
            }
            keys.push(key);
        }
        if keys.is_empty() { Err(KeyRingError::Empty { origin: origin.to_owned() }) } else { Ok(Self { keys }) }
    }

    fn to_text(&self) -> String {
        // With its final length from the start: a text that grew would leave keys behind.
        let mut text = String::with_capacity(HEADING.len() + self.keys.len() * 64);
        text.push_str(HEADING);
        for key in &self.keys {
            text.push_str(key.id());
            text.push(':');
            BASE64_STANDARD.encode_string(key.expose(), &mut text);
            text.push('\n');
        }
        text
    }

    /// The key that seals.
    pub(super) fn newest(&self) -> &SealingKey {
        &self.keys[0]
    }

    /// The key of that id.
    pub(super) fn find(&self, id: &str) -> Option<&SealingKey> {
        self.keys.iter().find(|key| key.id() == id)
    }

    /// The ids, the newest first.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(SealingKey::id)
    }

    /// Puts a new key in front.
    pub(super) fn add_newest(&mut self) {
        self.keys.insert(0, SealingKey::generate());
    }

    /// Lets go of every key but the newest.
    pub(super) fn drop_old(&mut self) {
        self.keys.truncate(1);
    }
}

fn warn_when_others_can_read(path: &Path) {
    if fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o077 != 0) {
        tracing::warn!(path = %path.display(), "others may read the secrets' keys; let only this user read them (chmod 600)");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(directory: &tempfile::TempDir) -> (PathBuf, KeySource) {
        (directory.path().join(FILE_NAME), KeySource::in_data_dir(directory.path()))
    }

    #[test]
    fn a_key_is_made_once_private_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let (path, source) = file(&directory);
        let made = KeyRing::load(&source, &[]).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let in_use = vec![made.newest().id().to_owned()];
        let again = KeyRing::load(&source, &in_use).unwrap();
        assert_eq!(again.newest().expose(), made.newest().expose());
        let given = KeySource::Given(Secret::new(fs::read_to_string(&path).unwrap()));
        assert_eq!(KeyRing::load(&given, &in_use).unwrap().newest().expose(), made.newest().expose());
    }

    #[test]
    fn a_missing_file_is_not_replaced_while_something_is_sealed() {
        let directory = tempfile::tempdir().unwrap();
        let (path, source) = file(&directory);
        let error = KeyRing::load(&source, &["0badcafe".to_owned()]).unwrap_err().to_string();
        for part in ["secrets.key", "0badcafe", "backup", "--secrets-key-file"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(!path.exists());
    }

    #[test]
    fn a_key_that_is_lacking_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let (path, source) = file(&directory);
        KeyRing::load(&source, &[]).unwrap();
        let before = fs::read(&path).unwrap();
        let error = KeyRing::load(&source, &["0badcafe".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("lacks the key 0badcafe"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn keys_are_read_in_every_form_and_a_wrong_one_is_not_shown() {
        let mut ring = KeyRing { keys: vec![SealingKey::generate()] };
        ring.add_newest();
        let text = ring.to_text();
        let read = KeyRing::parse(&text, "x").unwrap();
        assert!(read.ids().eq(ring.ids()));
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let bare: Vec<_> = lines.iter().map(|line| line.split_once(':').unwrap().1).collect();
        assert!(KeyRing::parse(&bare.join(", "), "x").unwrap().ids().eq(ring.ids()));
        let swapped = format!("{}:{}", lines[0].split_once(':').unwrap().0, bare[1]);
        for (text, why) in [
            (swapped.as_str(), "key number 1 does not fit its id"),
            (&bare[0][..40], "does not have 32 bytes"),
            ("hunter2!", "is not base64"),
            ("# nothing\n", "holds no key"),
        ] {
            let error = KeyRing::parse(text, "the file").unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
            assert!(!format!("{error} {error:?}").contains(bare[1]) && !error.to_string().contains("hunter2"));
        }
    }
}
