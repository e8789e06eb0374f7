//! `credentials.json`: who has signed in where, with tokens or with keys of this machine's own, readable by nobody but the
//! user.
//!
//! Refresh tokens are used once: each use gives a new one and ends the old. So the file is locked while a token is
//! being renewed, read again under the lock, and replaced whole before the new token is used.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize, Serializer};
use tokio::time::{Instant, sleep};
use towline_model::{Secret, TeamId, Timestamp};

use super::ClientError;

/// How long another run may hold the lock: longer than a renewal may take that the server lets wait for as long as any.
const LOCK_TIMEOUT: Duration = Duration::from_secs(200);
const LOCK_POLL: Duration = Duration::from_millis(25);

/// A sign-in to one server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Login {
    /// Who signed in.
    pub email_address: String,
    /// The team that calls are about.
    pub team_id: TeamId,
    /// The token that gets the next tokens, once.
    #[serde(serialize_with = "expose")]
    pub refresh_token: Secret<String>,
    /// The token that calls are made with.
    #[serde(serialize_with = "expose")]
    pub access_token: Secret<String>,
    /// When the access token expires.
    pub access_expires_at: Timestamp,
}

/// Keys of this machine's own at one server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeviceLogin {
    /// The key that calls are made with (`dk-`). It names its team by itself.
    #[serde(serialize_with = "expose")]
    pub device_key: Secret<String>,
    /// The key that an agent on this machine joins with (`ak-`), when there is one.
    #[serde(default, serialize_with = "expose_optional", skip_serializing_if = "Option::is_none")]
    pub agent_key: Option<Secret<String>>,
}

/// A sign-in of either kind.
#[derive(Debug, Clone)]
pub enum Kept {
    /// Tokens of a user.
    Login(Login),
    /// Keys of this machine's own.
    Device(DeviceLogin),
}

/// The content of the file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Credentials {
    /// The server that is meant when none is named.
    #[serde(default)]
    pub current: Option<String>,
    /// The sign-ins by the server's URL.
    #[serde(default)]
    pub logins: BTreeMap<String, Login>,
    /// This machine's keys by the server's URL. A server is here or among the sign-ins with tokens.
    #[serde(default)]
    pub devices: BTreeMap<String, DeviceLogin>,
}

impl Credentials {
    /// Keeps the sign-in to a server, in place of any other to it.
    pub fn keep(&mut self, server: &str, kept: Kept) {
        self.take(server);
        match kept {
            Kept::Login(login) => drop(self.logins.insert(server.to_owned(), login)),
            Kept::Device(device) => drop(self.devices.insert(server.to_owned(), device)),
        }
    }

    /// Forgets the sign-in to a server, and gives it.
    pub fn take(&mut self, server: &str) -> Option<Kept> {
        let login = self.logins.remove(server).map(Kept::Login);
        self.devices.remove(server).map(Kept::Device).or(login)
    }

    /// Every server that there is a sign-in to.
    pub fn servers(&self) -> impl Iterator<Item = &String> {
        self.logins.keys().chain(self.devices.keys())
    }
}

/// Where sign-ins are kept.
#[derive(Debug, Clone)]
pub struct CredentialsFile(PathBuf);

impl CredentialsFile {
    /// The file at that path, which need not exist.
    pub const fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Reads the file; nothing when there is none.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub fn read(&self) -> Result<Credentials, ClientError> {
        match fs::read(&self.0) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                let path = self.0.display();
                ClientError::SignInStore(format!("{path} is damaged ({error}); remove it and run `towline login`"))
            }),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(Credentials::default())
            }
            Err(error) => Err(self.failed("read", &error)),
        }
    }

    /// Waits until no other run changes the file.
    ///
    /// # Errors
    /// When the directory cannot be written to, or another run holds the lock too long.
    pub async fn lock(&self) -> Result<Locked<'_>, ClientError> {
        let lock = self.open_lock().map_err(|error| self.failed("lock", &error))?;
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Locked { file: self, _lock: lock }),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => sleep(LOCK_POLL).await,
                Err(TryLockError::WouldBlock) => {
                    let path = self.0.display();
                    return Err(ClientError::SignInStore(format!(
                        "{path} is locked by another towline that hangs; end it"
                    )));
                }
                Err(TryLockError::Error(error)) => return Err(self.failed("lock", &error)),
            }
        }
    }

    fn open_lock(&self) -> io::Result<File> {
        if let Some(dir) = self.0.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        // A file of its own, since the other one is replaced.
        OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(self.0.with_extension("lock"))
    }

    fn failed(&self, verb: &str, error: &io::Error) -> ClientError {
        ClientError::SignInStore(format!("cannot {verb} {}: {error}", self.0.display()))
    }
}

/// The file while no other run may change it.
pub struct Locked<'f> {
    file: &'f CredentialsFile,
    _lock: File,
}

impl Locked<'_> {
    /// Reads the file.
    ///
    /// # Errors
    /// As [`CredentialsFile::read`].
    pub fn read(&self) -> Result<Credentials, ClientError> {
        self.file.read()
    }

    /// Replaces the file, or removes it when nothing is left to keep: either the old or the new content is there, whatever happens meanwhile.
    ///
    /// # Errors
    /// When the directory cannot be written to.
    pub fn write(&self, credentials: &Credentials) -> Result<(), ClientError> {
        self.replace(credentials).map_err(|error| self.file.failed("write", &error))
    }

    fn replace(&self, credentials: &Credentials) -> io::Result<()> {
        let path = &self.file.0;
        if credentials.servers().next().is_none() {
            return match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            };
        }
        let fresh = path.with_extension("json.new");
        let _ = fs::remove_file(&fresh);
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&fresh)?;
        let mut text = serde_json::to_vec_pretty(credentials)?;
        text.push(b'\n');
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    }
}

fn expose<S: Serializer>(secret: &Secret<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose())
}

fn expose_optional<S: Serializer>(secret: &Option<Secret<String>>, serializer: S) -> Result<S::Ok, S::Error> {
    match secret {
        Some(secret) => expose(secret, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    pub fn login(token: &str) -> Login {
        Login {
            email_address: "ada@example.com".to_owned(),
            team_id: TeamId::generate(),
            refresh_token: Secret::new(token.to_owned()),
            access_token: Secret::new("a".to_owned()),
            access_expires_at: Timestamp::from_micros(0),
        }
    }

    #[tokio::test]
    async fn it_is_kept_for_the_user_only_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = CredentialsFile::at(dir.path().join("sub/credentials.json"));
        assert!(file.read().unwrap().logins.is_empty());
        let locked = file.lock().await.unwrap();
        let mut credentials = Credentials { current: Some("http://a/".to_owned()), ..Credentials::default() };
        credentials.logins.insert("http://a/".to_owned(), login("r"));
        locked.write(&credentials).unwrap();
        drop(locked);
        assert_eq!(file.read().unwrap().logins["http://a/"].refresh_token.expose(), "r");
        assert_eq!(file.read().unwrap().current.as_deref(), Some("http://a/"));
        assert_eq!(fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(file.path().parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[tokio::test]
    async fn a_server_has_one_sign_in_and_an_empty_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = CredentialsFile::at(dir.path().join("credentials.json"));
        let locked = file.lock().await.unwrap();
        let mut credentials = Credentials::default();
        credentials.keep("http://a/", Kept::Login(login("r")));
        let device = DeviceLogin { device_key: Secret::new("dk-1".to_owned()), agent_key: None };
        credentials.keep("http://a/", Kept::Device(device));
        assert!(credentials.logins.is_empty());
        locked.write(&credentials).unwrap();
        let mut credentials = locked.read().unwrap();
        assert_eq!(credentials.servers().collect::<Vec<_>>(), ["http://a/"]);
        assert!(matches!(credentials.take("http://a/"), Some(Kept::Device(device)) if device.agent_key.is_none()));
        assert!(credentials.take("http://a/").is_none());
        locked.write(&credentials).unwrap();
        assert!(!file.path().exists());
        locked.write(&credentials).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn only_one_run_changes_it_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = CredentialsFile::at(dir.path().join("credentials.json"));
        let held = file.lock().await.unwrap();
        let Err(error) = file.lock().await else { panic!("locked twice") };
        assert!(error.to_string().contains("another towline"), "{error}");
        drop(held);
        file.lock().await.unwrap();
    }

    #[test]
    fn a_damaged_file_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let file = CredentialsFile::at(dir.path().join("credentials.json"));
        fs::write(file.path(), "{").unwrap();
        assert!(file.read().unwrap_err().to_string().contains("towline login"));
    }
}
