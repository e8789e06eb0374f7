//! Rotating: a new key, and every secret sealed anew under it.
//!
//! It can be interrupted at any moment and run again: the new key is in the file, beside the old ones, before anything is
//! sealed under it, and an old key leaves the file, if at all, after nothing is sealed under it any more. No server may
//! write secrets meanwhile, since it would go on sealing under the key that it knows; reading is no problem.

use towline_store::{SecretRow, Store, StoreError};

use super::{
    Vault,
    key_ring::{KeyRing, KeyRingError, KeySource},
    seal::OpenError,
};

/// How many secrets are sealed anew in one transaction.
const BATCH: u32 = 100;

/// What a rotation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// The key that everything is sealed under now.
    pub key_id: String,
    /// How many secrets were sealed anew.
    pub resealed: usize,
    /// The older keys that are still kept; nothing is sealed under them any more.
    pub kept: Vec<String>,
}

/// Why a rotation did not come to its end. What was done stands, and nothing is lost.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeyRingError),
    /// A secret does not open.
    #[error("the secret {} of team {}: {error}", row.id, row.team_id)]
    Open {
        /// Which one.
        row: Box<SecretRow>,
        /// Why.
        error: OpenError,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Puts a new key in front of those in a file, and seals everything anew under it. Of keys that were given, the first one
/// is the new one. With `drop_old` the older keys leave the file when nothing needs them any more.
///
/// # Errors
/// See [`RotateError`].
pub async fn rotate(store: &Store, source: &KeySource, drop_old: bool) -> Result<Rotated, RotateError> {
    let in_use = store.read().await?.sealing_keys_in_use().await?;
    let mut keys = KeyRing::load(source, &in_use)?;
    if let KeySource::File(path) = source {
        keys.add_newest();
        keys.save(path)?;
    }
    let key_id = keys.newest().id().to_owned();
    let vault = Vault::new(keys);
    let resealed = reseal(store, &vault, &key_id).await?;
    let mut keys = KeyRing::load(source, std::slice::from_ref(&key_id))?;
    if let (true, KeySource::File(path)) = (drop_old, source) {
        keys.drop_old();
        keys.save(path)?;
    }
    let kept = keys.ids().filter(|id| *id != key_id).map(str::to_owned).collect();
    Ok(Rotated { key_id, resealed, kept })
}

/// Seals every secret that is under another key under this one, the vault's newest.
async fn reseal(store: &Store, vault: &Vault, key_id: &str) -> Result<usize, RotateError> {
    let mut resealed = 0;
    loop {
        let mut tx = store.write().await?;
        let rows = tx.secrets_not_under(key_id, BATCH).await?;
        if rows.is_empty() {
            return Ok(resealed);
        }
        for mut row in rows {
            let value = vault.open(&row).map_err(|error| RotateError::Open { row: Box::new(row.clone()), error })?;
            let sealed = vault.seal(row.team_id, row.id, &value);
            (row.key_id, row.sealed) = (sealed.key_id, sealed.text);
            tx.update_secret(&mut row).await?;
            resealed += 1;
        }
        tx.commit().await?;
    }
}
