//! What a caller takes for granted when it changes something: that the thing is still as it was read.

use sha2::{Digest, Sha256};

/// What must hold of a thing before it is changed. It is looked at in the transaction that changes the thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    None,
    /// That it exists.
    Exists,
    /// That it has one of these versions.
    Versions(Vec<i64>),
}

/// The thing is not as its caller takes for granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this was changed since it was read; read it again, and repeat the change with the new ETag in If-Match")]
pub struct PreconditionFailed;

impl Precondition {
    /// Whether it holds of a thing that has this version.
    ///
    /// # Errors
    /// When it does not.
    pub fn check(&self, version: i64) -> Result<(), PreconditionFailed> {
        match self {
            Self::None | Self::Exists => Ok(()),
            Self::Versions(versions) => versions.contains(&version).then_some(()).ok_or(PreconditionFailed),
        }
    }
}

/// The version of a thing whose row has none: what can be changed of it, as a number that is not negative. So a thing that
/// was changed and changed back is as it was read.
#[must_use]
pub fn fingerprint(fields: &[Option<&str>]) -> i64 {
    let mut digest = Sha256::new();
    for field in fields {
        // With its length, so that no two lists of fields look alike.
        digest.update(field.map_or(-1, |field| i64::try_from(field.len()).unwrap_or(i64::MAX)).to_be_bytes());
        digest.update(field.unwrap_or_default());
    }
    let digest = digest.finalize();
    digest.iter().take(8).fold(0, |number: i64, byte| (number << 8) | i64::from(*byte)) & i64::MAX
}

/// Something of that id, as its caller has read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsRead<T> {
    /// Its id.
    pub id: T,
    /// What must hold of it.
    pub precondition: Precondition,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_tell_fields_apart() {
        let lists: [&[Option<&str>]; 6] =
            [&[Some("a")], &[Some("b")], &[Some("")], &[None], &[Some("a"), Some("b")], &[Some("ab"), Some("")]];
        for (at, fields) in lists.iter().enumerate() {
            assert!(fingerprint(fields) >= 0);
            for other in &lists[..at] {
                assert_ne!(fingerprint(fields), fingerprint(other), "{fields:?} {other:?}");
            }
        }
    }
}
