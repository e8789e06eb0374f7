//! Keys: made once, shown once, revoked for the very next request.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;
use towline_model::{
    AuditAction, CredentialId, KeyKind, RawKey, Scope, ServiceId, TeamId, Timestamp, UserId, ValidationError,
    validate::Checks,
};
use towline_store::{CredentialRow, Page, Paged, StoreError, Tx};

use super::{App, audit::Deed};

/// Services that a key's list may name.
const MAX_SERVICES: usize = 100;

/// The key that is wished.
#[derive(Debug, Clone)]
pub struct NewCredential {
    /// What it is for: an integration or an agent.
    pub kind: KeyKind,
    /// Its name for people, 1 to 100 characters.
    pub display_name: String,
    /// After how many days it ends, 1 to 365; `None` for never.
    pub expires_in_days: Option<u32>,
    /// What it may do; only for integrations. `None` for [`Scope::DEFAULT`].
    pub scopes: Option<Vec<Scope>>,
    /// The slugs of the only services that it sees and calls; only for integrations. `None` for all of the team.
    pub services: Option<Vec<String>>,
}

/// A key with the slugs of the services on its list that are still there, in order.
#[derive(Debug)]
pub struct ListedCredential {
    /// What is kept of it.
    pub row: CredentialRow,
    /// The slugs; `None` when it has no list.
    pub services: Option<Vec<String>>,
}

/// A key that was just made.
#[derive(Debug)]
pub struct MadeCredential {
    /// What is kept of it.
    pub row: CredentialRow,
    /// The key, which is not kept.
    pub key: RawKey,
}

/// Why nothing was done with a key.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// What was wished is not allowed.
    #[error(transparent)]
    Invalid(#[from] ValidationError),
    /// The team has no such key, or it was revoked before.
    #[error("there is no key with this id in this team; GET /api/v1/credentials lists those that there are")]
    NotFound,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl NewCredential {
    fn check(&self) -> Result<(), ValidationError> {
        let mut checks = Checks::default();
        let length = self.display_name.chars().count();
        checks.require((1..=100).contains(&length), "display_name", "must have 1 to 100 characters");
        let is_plain = !self.display_name.contains(char::is_control);
        checks.require(is_plain, "display_name", "must not contain control characters");
        let days_fit = self.expires_in_days.is_none_or(|days| (1..=365).contains(&days));
        checks.require(days_fit, "expires_in_days", "must be from 1 to 365");
        if let Some(scopes) = &self.scopes {
            checks.require(
                !scopes.is_empty(),
                "scopes",
                "must name at least one of read, invoke, manage, or be left out",
            );
            checks.require(self.kind == KeyKind::Integration, "scopes", "is for keys of the kind integration only");
        }
        if let Some(services) = &self.services {
            let count = (1..=MAX_SERVICES).contains(&services.len());
            checks.require(count, "services", "must name 1 to 100 services by their slugs, or be left out");
            checks.require(self.kind == KeyKind::Integration, "services", "is for keys of the kind integration only");
        }
        checks.finish()
    }

    fn scopes(&self) -> Vec<Scope> {
        match (&self.scopes, self.kind) {
            (Some(scopes), _) => scopes.iter().copied().collect::<BTreeSet<_>>().into_iter().collect(),
            (None, KeyKind::Integration) => Scope::DEFAULT.to_vec(),
            (None, _) => Vec::new(),
        }
    }

    /// Makes the key and the row that stands for it.
    pub(crate) fn make(&self, team_id: TeamId, created_by: UserId, now: Timestamp) -> MadeCredential {
        let key = RawKey::generate(self.kind, &mut rand::rng());
        let day = Duration::from_secs(24 * 3600);
        let row = CredentialRow {
            id: CredentialId::generate(),
            team_id,
            user_id: None,
            created_by,
            kind: self.kind,
            display_name: self.display_name.clone(),
            key_prefix: key.visible_prefix().to_owned(),
            key_hash: key.hash(),
            scopes: self.scopes(),
            created_at: now,
            expires_at: self.expires_in_days.map(|days| now + day * days),
            revoked_at: None,
            last_used_at: None,
            services: None,
            companion_id: None,
        };
        MadeCredential { row, key }
    }
}

impl MadeCredential {
    /// That it was made, as the audit log tells it.
    pub(crate) fn deed(&self) -> Deed {
        let details = json!({ "kind": self.row.kind, "key_prefix": self.row.key_prefix });
        Deed::new(AuditAction::CredentialCreate, self.row.id, &self.row.display_name).with_details(details)
    }
}

impl App {
    /// Makes a key of the team.
    ///
    /// # Errors
    /// See [`CredentialError`].
    pub async fn create_credential(
        &self,
        team_id: TeamId,
        created_by: UserId,
        wished: &NewCredential,
    ) -> Result<MadeCredential, CredentialError> {
        wished.check()?;
        let mut made = wished.make(team_id, created_by, self.now());
        let mut tx = self.write().await?;
        if let Some(slugs) = &wished.services {
            made.row.services = Some(ids_of(&mut tx, team_id, slugs).await?);
        }
        tx.insert_credential(&made.row).await?;
        self.record(&mut tx, team_id, made.deed()).await?;
        tx.commit().await?;
        self.publish().await?;
        Ok(made)
    }

    /// A page of the team's keys, of one kind or of all, the newest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn list_credentials(
        &self,
        team_id: TeamId,
        kind: Option<KeyKind>,
        page: Page,
    ) -> Result<Paged<ListedCredential>, StoreError> {
        let mut tx = self.read().await?;
        let rows = tx.list_credentials(team_id, kind, page).await?;
        let slugs = match rows.items.iter().any(|row| row.services.is_some()) {
            true => tx.service_slugs(team_id).await?,
            false => Vec::new(),
        };
        let listed = |row: CredentialRow| {
            let names = |ids: &Vec<ServiceId>| {
                let on_it = slugs.iter().filter(|(id, _)| ids.binary_search(id).is_ok());
                on_it.map(|(_, slug)| slug.clone()).collect()
            };
            ListedCredential { services: row.services.as_ref().map(names), row }
        };
        Ok(rows.map(listed))
    }

    /// Revokes a key of the team, and the companion of a device's key. When this returns, they open nothing any more.
    ///
    /// # Errors
    /// See [`CredentialError`].
    pub async fn revoke_credential(&self, team_id: TeamId, id: CredentialId) -> Result<(), CredentialError> {
        let mut tx = self.write().await?;
        if !tx.revoke_credential(team_id, id, self.now()).await? {
            return Err(CredentialError::NotFound);
        }
        let key = tx.find_credential(team_id, id).await?;
        let name = key.as_ref().map(|key| key.display_name.clone()).unwrap_or_default();
        let deed = Deed::new(AuditAction::CredentialRevoke, id, name);
        let deed = match key.and_then(|key| key.companion_id) {
            Some(companion) => deed.with_details(json!({ "companion_id": companion })),
            None => deed,
        };
        self.record(&mut tx, team_id, deed).await?;
        tx.commit().await?;
        self.publish().await?;
        Ok(())
    }
}

/// The ids of the services of these slugs, in order, each once.
async fn ids_of(tx: &mut Tx, team_id: TeamId, slugs: &[String]) -> Result<Vec<ServiceId>, CredentialError> {
    let known = tx.service_slugs(team_id).await?;
    let mut checks = Checks::default();
    let mut ids = BTreeSet::new();
    for (index, slug) in slugs.iter().enumerate() {
        let found = known.iter().find(|(_, known)| known == slug);
        ids.extend(found.map(|(id, _)| *id));
        checks.require_with(found.is_some(), || {
            let shown: String = slug.chars().take(100).collect();
            (format!("services[{index}]"), format!("there is no service with the slug {shown:?} in this team"))
        });
    }
    checks.finish()?;
    Ok(ids.into_iter().collect())
}
