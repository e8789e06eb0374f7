//! What a caller takes for granted when it changes something: that the thing is still as it was read.

/// What must hold of a thing before it is changed. It is looked at in the transaction that changes the thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    None,
    /// That it exists.
    Exists,
    /// That its row has one of these versions.
    Versions(Vec<i64>),
}

/// The thing is not as its caller takes for granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this was changed since it was read; read it again, and repeat the change with the new ETag in If-Match")]
pub struct PreconditionFailed;

impl Precondition {
    /// Whether it holds of a thing whose row has this version.
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

/// Something of that id, as its caller has read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsRead<T> {
    /// Its id.
    pub id: T,
    /// What must hold of it.
    pub precondition: Precondition,
}
