//! Passwords: argon2id, away from the tasks that serve requests, a few at a time.

use std::sync::Arc;

use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use tokio::sync::Semaphore;
use towline_model::{Secret, validate::Checks};

/// How many characters a new password must have.
const MIN_CHARACTERS: usize = 8;
/// How many bytes it may have.
const MAX_BYTES: usize = 1024;

/// How many passwords are hashed at the same time. Each takes 19 MiB and a processor.
const AT_A_TIME: usize = 2;
/// How many may wait for that.
const WAITING: usize = 64;

/// More people want to sign in than can wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many people are signing in at this moment; try again in a second")]
pub struct Busy;

/// Notes what is wrong with a new password.
pub fn check(checks: &mut Checks, field: &str, password: &Secret<String>) {
    let password = password.expose();
    checks.require(password.chars().count() >= MIN_CHARACTERS, field, "must have at least 8 characters");
    checks.require(password.len() <= MAX_BYTES, field, "must have at most 1024 bytes");
}

/// Hashes passwords and checks them.
pub struct Passwords {
    queue: Arc<Semaphore>,
    working: Arc<Semaphore>,
    /// The hash of a password that nobody has: what an unknown user's password is checked against, so that the answer
    /// takes as long.
    nobody: Secret<String>,
}

impl Passwords {
    /// Prepares for work; hashes one password.
    #[must_use]
    pub fn new() -> Self {
        Self {
            queue: Arc::new(Semaphore::new(AT_A_TIME + WAITING)),
            working: Arc::new(Semaphore::new(AT_A_TIME)),
            nobody: hash_now(&Secret::new(format!("{:032x}", rand::random::<u128>()))),
        }
    }

    /// The hash of a password in PHC form, with a fresh salt.
    ///
    /// # Errors
    /// When too many are waiting.
    pub async fn hash(&self, password: Secret<String>) -> Result<Secret<String>, Busy> {
        self.work(move || hash_now(&password)).await
    }

    /// Whether a password belongs to a hash. Without a hash the answer is no, after the same time.
    ///
    /// # Errors
    /// When too many are waiting.
    pub async fn verify(&self, password: Secret<String>, hash: Option<Secret<String>>) -> Result<bool, Busy> {
        let is_known = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.nobody.clone());
        Ok(self.work(move || verify_now(&password, &hash)).await? && is_known)
    }

    async fn work<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, Busy> {
        let place = Arc::clone(&self.queue).try_acquire_owned().map_err(|_| Busy)?;
        let turn = Arc::clone(&self.working).acquire_owned().await.map_err(|_| Busy)?;
        let job = move || {
            let result = job();
            drop((place, turn));
            result
        };
        tokio::task::spawn_blocking(job).await.map_err(|_| Busy)
    }
}

impl Default for Passwords {
    fn default() -> Self {
        Self::new()
    }
}

fn hash_now(password: &Secret<String>) -> Secret<String> {
    let hash = Argon2::default()
        .hash_password(password.expose().as_bytes())
        .expect("the default parameters are valid and the machine's random source works");
    Secret::new(hash.to_string())
}

fn verify_now(password: &Secret<String>, hash: &Secret<String>) -> bool {
    Argon2::default().verify_password(password.expose().as_bytes(), hash.expose().as_str()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret<String> {
        Secret::new(text.to_owned())
    }

    #[tokio::test]
    async fn a_password_is_recognised_and_nothing_else_is() {
        let passwords = Passwords::new();
        let hash = passwords.hash(secret("hunter2")).await.unwrap();
        assert!(hash.expose().starts_with("$argon2id$"), "{}", hash.expose());
        assert_eq!(passwords.verify(secret("hunter2"), Some(hash.clone())).await, Ok(true));
        assert_eq!(passwords.verify(secret("hunter3"), Some(hash)).await, Ok(false));
        assert_eq!(passwords.verify(secret("hunter2"), None).await, Ok(false));
        assert_eq!(passwords.verify(secret("x"), Some(secret("not a hash"))).await, Ok(false));
    }

    #[tokio::test]
    async fn those_who_cannot_wait_are_told_so() {
        let passwords = Passwords::new();
        let _all = Arc::clone(&passwords.queue).acquire_many_owned((AT_A_TIME + WAITING) as u32).await.unwrap();
        assert_eq!(passwords.verify(secret("x"), None).await, Err(Busy));
    }
}
