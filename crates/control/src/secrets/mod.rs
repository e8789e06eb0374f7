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
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use towline_model::{Secret, SecretId, ServiceSpec, TeamId};
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
    tried: Arc<Mutex<HashMap<SecretId, Tried>>>,
}

/// Whether a secret has opened, as of one of its versions.
#[derive(Debug, Clone)]
struct Tried {
    version: i64,
    closed: Option<ClosedSecret>,
}

/// A secret that does not open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedSecret {
    /// Its name; its id when it is gone.
    pub name: String,
    /// Why, and what helps. Holds nothing of the value.
    pub why: String,
}

/// The secrets that do not open.
pub type ClosedSecrets = HashMap<SecretId, ClosedSecret>;

/// Why this definition cannot be run: it needs a secret that does not open. `None` when all that it needs do.
#[must_use]
pub fn obstacle(spec: &ServiceSpec, closed: &ClosedSecrets) -> Option<String> {
    if closed.is_empty() {
        return None;
    }
    spec.secret_uses().into_iter().find_map(|used| {
        let ClosedSecret { name, why } = closed.get(&used.secret_id)?;
        Some(format!("the secret {name} ({}) cannot be opened: {why}", used.field))
    })
}

impl Vault {
    /// A vault with these keys; the first one seals.
    #[must_use]
    pub fn new(keys: KeyRing) -> Self {
        Self { keys: Arc::new(keys), tried: Arc::default() }
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
                Err(error) => {
                    tracing::error!(team = %team_id, secret = %id, %error, "a secret cannot be opened");
                    self.note(&row, Some(&error));
                }
            }
        }
        Ok(opened)
    }

    /// Those of these secrets that do not open. One that was tried is not tried again until it changes.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn closed(
        &self,
        tx: &mut Tx,
        needed: &BTreeMap<TeamId, BTreeSet<SecretId>>,
    ) -> Result<ClosedSecrets, StoreError> {
        let mut closed = ClosedSecrets::new();
        if needed.is_empty() {
            return Ok(closed);
        }
        let versions: HashMap<_, _> = tx.secret_versions().await?.into_iter().collect();
        self.tried().retain(|id, _| versions.contains_key(id));
        for (team_id, ids) in needed {
            for id in ids {
                let known = self.tried().get(id).cloned();
                let tried = match known.filter(|known| versions.get(id) == Some(&known.version)) {
                    Some(known) => known.closed,
                    None => self.try_open(tx, *team_id, *id).await?,
                };
                closed.extend(tried.map(|why| (*id, why)));
            }
        }
        Ok(closed)
    }

    async fn try_open(&self, tx: &mut Tx, team_id: TeamId, id: SecretId) -> Result<Option<ClosedSecret>, StoreError> {
        let Some(row) = tx.find_secret(team_id, id).await? else {
            let why = "there is no such secret any more; take the reference out or refer to another one".to_owned();
            return Ok(Some(ClosedSecret { name: id.to_string(), why }));
        };
        Ok(self.note(&row, self.open(&row).err().as_ref()))
    }

    fn note(&self, row: &SecretRow, error: Option<&OpenError>) -> Option<ClosedSecret> {
        let closed = error.map(|error| ClosedSecret { name: row.name.clone(), why: error.to_string() });
        self.tried().insert(row.id, Tried { version: row.version, closed: closed.clone() });
        closed
    }

    fn tried(&self) -> MutexGuard<'_, HashMap<SecretId, Tried>> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
