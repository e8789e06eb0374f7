//! Secrets at rest: the keys that they are sealed under, and sealing and opening.
//!
//! A value is sealed with an AEAD under a key that is not in the database ([`KeyRing`]), together with the ids of its
//! team, its row and its key ([`seal`]). So a stolen database tells nothing but names, and a row that was moved or changed
//! does not open. [`rotate`] makes a new key and seals everything anew.
//!
//! Not here: who may do what, and where secrets are used (in [`crate::app::secret`]).

mod key_ring;
mod login;
pub mod rotate;
pub mod seal;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use towline_model::{Secret, SecretId, TeamId};
use towline_store::{SecretRow, StoreError, Tx};

use self::seal::{OpenError, Place, Sealed};
pub use self::{
    key_ring::{KeyRing, KeyRingError, KeySource},
    login::registry_login,
};

/// Seals and opens values. Clones share the keys.
#[derive(Debug, Clone)]
pub struct Vault {
    keys: Arc<KeyRing>,
}

impl Vault {
    /// A vault with these keys; the first one seals.
    #[must_use]
    pub fn new(keys: KeyRing) -> Self {
        Self { keys: Arc::new(keys) }
    }

    /// Seals a value for a row of a team.
    #[must_use]
    pub fn seal(&self, team_id: TeamId, id: SecretId, value: &Secret<String>) -> Sealed {
        seal::seal(self.keys.newest(), Place { team_id, id }, value)
    }

    /// Opens the value of a row.
    ///
    /// # Errors
    /// See [`OpenError`]; none of the texts holds anything of the value.
    pub fn open(&self, row: &SecretRow) -> Result<Secret<String>, OpenError> {
        let key = self.keys.find(&row.key_id).ok_or_else(|| OpenError::UnknownKey { key_id: row.key_id.clone() })?;
        seal::open(key, Place { team_id: row.team_id, id: row.id }, &row.sealed)
    }

    /// Opens secrets of a team. One that is not there, or does not open (which is logged), is not in the result.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn open_all(
        &self,
        tx: &mut Tx,
        team_id: TeamId,
        ids: &BTreeSet<SecretId>,
    ) -> Result<HashMap<SecretId, Secret<String>>, StoreError> {
        let mut opened = HashMap::with_capacity(ids.len());
        for id in ids {
            let Some(row) = tx.find_secret(team_id, *id).await? else { continue };
            match self.open(&row) {
                Ok(value) => drop(opened.insert(*id, value)),
                Err(error) => tracing::error!(team = %team_id, secret = %id, %error, "a secret cannot be opened"),
            }
        }
        Ok(opened)
    }
}
