//! Secrets: named values that definitions refer to and that nobody gets to see again.
//!
//! A definition refers to a secret by its id, so the secret must be there as long as a definition does, and its value must
//! be one that the field can hold. Whoever refers and whoever changes or deletes locks the secret first, so of two at the
//! same time one sees the other.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Value, json};
use towline_model::{
    AuditAction, Principal, Secret, SecretId, ServiceId, ServiceSpec, ServiceStatus, TeamId, ValidationError,
    secret_use::{SecretPurpose, SecretUse, secret_uses, value_objection},
    service::MAX_TOLD_BYTES,
    validate::Checks,
};
use towline_store::{Constraint, Page, Paged, SecretRow, ServiceRow, StoreError, Tx};

use super::{
    App,
    audit::Deed,
    precondition::{AsRead, PreconditionFailed},
};
use crate::secrets::{Vault, obstacle};

/// How often a change is tried when somebody else changes the same secret at the same moment.
const ATTEMPTS: u32 = 5;
/// How many places a refusal names.
const PLACES_NAMED: usize = 10;
const MAX_DESCRIPTION_CHARS: usize = 1000;

/// The secret that is wished.
#[derive(Debug)]
pub struct NewSecret {
    /// Its name, unique in the team.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// Its value.
    pub value: Secret<String>,
}

/// What is to be changed of a secret; `None` keeps it.
#[derive(Debug, Default)]
pub struct SecretChanges {
    /// Another name.
    pub name: Option<String>,
    /// Another description.
    pub description: Option<String>,
    /// Another value.
    pub value: Option<Secret<String>>,
}

impl SecretChanges {
    /// The names of the fields that change.
    fn fields(&self) -> Vec<&'static str> {
        let is_there = [
            ("name", self.name.is_some()),
            ("description", self.description.is_some()),
            ("value", self.value.is_some()),
        ];
        is_there.into_iter().filter_map(|(field, is_there)| is_there.then_some(field)).collect()
    }
}

/// A secret, without its value, and where it is used.
#[derive(Debug, Clone)]
pub struct SecretDetails {
    /// The secret.
    pub row: SecretRow,
    /// Where it is used.
    pub used_by: Vec<SecretPlace>,
}

/// One place where a secret is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretPlace {
    /// The service.
    pub service_id: ServiceId,
    /// Its slug.
    pub service_slug: String,
    /// The path of the field in its definition.
    pub field: String,
    /// Whether the definition refers to it as it is now; if not, only a deploy that runs does.
    pub is_in_definition: bool,
}

/// Why nothing was done with a secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// What was wished is not allowed.
    #[error(transparent)]
    Invalid(#[from] ValidationError),
    /// The team has a secret of that name.
    #[error("the team has a secret with the name {name:?} already; choose another name, or change that secret")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The team has no such secret.
    #[error("there is no such secret in this team; GET /api/v1/secrets lists those that there are")]
    NotFound,
    /// It is not as the caller takes for granted.
    #[error(transparent)]
    Changed(#[from] PreconditionFailed),
    /// Services refer to it.
    #[error("{}", in_use(.0))]
    InUse(Vec<SecretPlace>),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn in_use(places: &[SecretPlace]) -> String {
    let named: Vec<_> = places
        .iter()
        .take(PLACES_NAMED)
        .map(|place| {
            let only_deployed = if place.is_in_definition { "" } else { ", in the deploy that runs" };
            format!("{} ({}{only_deployed})", place.service_slug, place.field)
        })
        .collect();
    let more = places.len().saturating_sub(PLACES_NAMED);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let all_deployed_only = places.iter().all(|place| !place.is_in_definition);
    let advice = if all_deployed_only {
        "deploy or undeploy it"
    } else {
        "take the reference out and deploy, or delete the service"
    };
    format!("the secret is used by {}{more}; {advice} first", named.join(", "))
}

/// Whether a text can be a secret's name: 1 to 100 letters, digits, `.`, `_`, `-` and `/`, a letter or digit first, and not
/// an id.
#[must_use]
pub fn is_secret_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=100).contains(&bytes.len())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(byte))
        && bytes[0].is_ascii_alphanumeric()
        && text.parse::<SecretId>().is_err()
}

fn check(changes: &SecretChanges) -> Result<(), ValidationError> {
    let mut checks = Checks::default();
    checks.require(
        changes.name.as_deref().is_none_or(is_secret_name),
        "name",
        "must be 1 to 100 letters, digits and any of . _ - /, with a letter or digit first, and not an id",
    );
    let fits = |text: &str| text.chars().count() <= MAX_DESCRIPTION_CHARS && !text.contains('\0');
    checks.require(
        changes.description.as_deref().is_none_or(fits),
        "description",
        "must have at most 1000 characters and no NUL",
    );
    if let Some(objection) = changes.value.as_ref().and_then(value_objection) {
        checks.require(false, "value", objection);
    }
    checks.finish()
}

impl App {
    /// Stores a secret of the team.
    ///
    /// # Errors
    /// See [`SecretError`].
    pub async fn create_secret(&self, principal: &Principal, wished: NewSecret) -> Result<SecretId, SecretError> {
        let NewSecret { name, description, value } = wished;
        let wished =
            SecretChanges { name: Some(name.clone()), description: Some(description.clone()), value: Some(value) };
        check(&wished)?;
        let value = wished.value.unwrap_or_else(|| unreachable!("it was put there"));
        let (id, team_id, now) = (SecretId::generate(), principal.team_id(), self.now());
        let sealed = self.inner.vault.seal(team_id, id, &value);
        let row = SecretRow {
            id,
            team_id,
            name: name.clone(),
            description,
            key_id: sealed.key_id,
            sealed: sealed.text,
            told_bytes: told_bytes(&value),
            version: 1,
            created_at: now,
            updated_at: now,
        };
        let mut tx = self.write().await?;
        tx.insert_secret(&row).await.map_err(|error| named(error, &name))?;
        self.record(&mut tx, team_id, Deed::new(AuditAction::SecretCreate, id, name)).await?;
        tx.commit().await?;
        Ok(id)
    }

    /// A page of the team's secrets, the oldest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn list_secrets(&self, team_id: TeamId, page: Page) -> Result<Paged<SecretDetails>, StoreError> {
        let mut tx = self.read().await?;
        let rows = tx.list_secrets(team_id, page).await?;
        let mut places = if rows.items.is_empty() { HashMap::new() } else { places(&mut tx, team_id).await? };
        let details = |row: SecretRow| SecretDetails { used_by: places.remove(&row.id).unwrap_or_default(), row };
        Ok(rows.map(details))
    }

    /// The team's secret of that id.
    ///
    /// # Errors
    /// [`SecretError::NotFound`], or the database.
    pub async fn secret(&self, team_id: TeamId, id: SecretId) -> Result<SecretDetails, SecretError> {
        let mut tx = self.read().await?;
        let row = tx.find_secret(team_id, id).await?.ok_or(SecretError::NotFound)?;
        let used_by = places(&mut tx, team_id).await?.remove(&id).unwrap_or_default();
        Ok(SecretDetails { row, used_by })
    }

    /// Changes a secret. Containers that are made from now on get the new value; those that run keep the old one.
    ///
    /// # Errors
    /// See [`SecretError`].
    pub async fn update_secret(
        &self,
        principal: &Principal,
        secret: &AsRead<SecretId>,
        changes: &SecretChanges,
    ) -> Result<(), SecretError> {
        check(changes)?;
        for _ in 1..ATTEMPTS {
            match self.try_update_secret(principal, secret, changes).await {
                Err(SecretError::Store(StoreError::Concurrent)) => {}
                result => return result,
            }
        }
        self.try_update_secret(principal, secret, changes).await
    }

    async fn try_update_secret(
        &self,
        principal: &Principal,
        secret: &AsRead<SecretId>,
        changes: &SecretChanges,
    ) -> Result<(), SecretError> {
        let (team_id, id, now) = (principal.team_id(), secret.id, self.now());
        let mut tx = self.write().await?;
        let mut row = lock(&mut tx, team_id, id).await?;
        secret.precondition.check(row.version)?;
        if let Some(name) = &changes.name {
            row.name.clone_from(name);
        }
        if let Some(description) = &changes.description {
            row.description.clone_from(description);
        }
        if let Some(value) = &changes.value {
            check_new_value(&mut tx, &row, value).await?;
            let sealed = self.inner.vault.seal(team_id, id, value);
            (row.key_id, row.sealed, row.told_bytes) = (sealed.key_id, sealed.text, told_bytes(value));
        }
        row.updated_at = now;
        let name = row.name.clone();
        tx.update_secret(&mut row).await.map_err(|error| named(error, &name))?;
        let deed = Deed::new(AuditAction::SecretUpdate, id, name).with_details(json!({ "fields": changes.fields() }));
        self.record(&mut tx, team_id, deed).await?;
        tx.commit().await?;
        self.publish().await?;
        Ok(())
    }

    /// Forgets a secret that nothing refers to.
    ///
    /// # Errors
    /// See [`SecretError`].
    pub async fn delete_secret(&self, principal: &Principal, secret: &AsRead<SecretId>) -> Result<(), SecretError> {
        let (team_id, id) = (principal.team_id(), secret.id);
        let mut tx = self.write().await?;
        let row = lock(&mut tx, team_id, id).await?;
        secret.precondition.check(row.version)?;
        let mut places = places(&mut tx, team_id).await?.remove(&id).unwrap_or_default();
        // Of what cannot be read it is not known which fields refer to secrets, so being named there is enough.
        let unreadable = tx.services_mentioning(team_id, id).await?.into_iter().filter(|row| row.unreadable.is_some());
        for row in unreadable {
            note_unreadable(&mut places, &row);
        }
        if !places.is_empty() {
            return Err(SecretError::InUse(places));
        }
        tx.delete_secret(team_id, id).await?;
        self.record(&mut tx, team_id, Deed::new(AuditAction::SecretDelete, id, row.name)).await?;
        tx.commit().await?;
        Ok(())
    }
}

async fn lock(tx: &mut Tx, team_id: TeamId, id: SecretId) -> Result<SecretRow, SecretError> {
    tx.lock_secrets(team_id, &BTreeSet::from([id])).await?.pop().ok_or(SecretError::NotFound)
}

fn named(error: StoreError, name: &str) -> SecretError {
    match error {
        StoreError::Conflict { constraint: Constraint::SecretName } => SecretError::NameTaken { name: name.to_owned() },
        error => error.into(),
    }
}

/// How many bytes a value takes in a message to an agent.
fn told_bytes(value: &Secret<String>) -> i64 {
    let told = Secret::new(serde_json::to_vec(value.expose()).unwrap_or_default());
    i64::try_from(told.expose().len()).unwrap_or(i64::MAX)
}

/// Checks that a definition's secrets are there and fit their fields, and keeps them from being changed and deleted until
/// the transaction ends. Another team's secrets are not there.
pub(super) async fn check_references(
    tx: &mut Tx,
    vault: &Vault,
    team_id: TeamId,
    spec: &ServiceSpec,
) -> Result<(), super::service::ServiceError> {
    let uses = spec.secret_uses();
    if uses.is_empty() {
        return Ok(());
    }
    let ids = uses.iter().map(|used| used.secret_id).collect();
    let rows: HashMap<_, _> = tx.lock_secrets(team_id, &ids).await?.into_iter().map(|row| (row.id, row)).collect();
    let mut checks = Checks::default();
    for SecretUse { secret_id, field, purpose } in &uses {
        let objection = match rows.get(secret_id).map(|row| vault.open(row)) {
            None => {
                Some("there is no such secret in this team; GET /api/v1/secrets lists those that there are".to_owned())
            }
            Some(Ok(value)) => purpose.objection(&value).map(|form| format!("the secret's value {form}")),
            Some(Err(error)) => Some(error.to_string()),
        };
        if let Some(objection) = objection {
            checks.require(false, field, &objection);
        }
    }
    checks.finish()?;
    let sizes = rows.iter().map(|(id, row)| (*id, row.told_bytes)).collect();
    Ok(check_size(spec.told_bytes(), &uses, &sizes).map_err(|rule| ValidationError::one("env_config", rule))?)
}

/// Checks that everything that a deploy of this definition needs of secrets opens.
pub(super) async fn check_opens(
    tx: &mut Tx,
    vault: &Vault,
    team_id: TeamId,
    spec: &ServiceSpec,
) -> Result<(), super::service::ServiceError> {
    let ids: BTreeSet<_> = spec.secret_ids().collect();
    if ids.is_empty() {
        return Ok(());
    }
    let closed = vault.closed(tx, &BTreeMap::from([(team_id, ids)])).await?;
    match obstacle(spec, &closed) {
        Some(why) => Err(super::service::ServiceError::SecretClosed(why)),
        None => Ok(()),
    }
}

/// Checks a new value against every definition that refers to the secret.
async fn check_new_value(tx: &mut Tx, row: &SecretRow, value: &Secret<String>) -> Result<(), SecretError> {
    let mut sizes: HashMap<_, _> = tx.secret_sizes(Some(row.team_id)).await?.into_iter().collect();
    sizes.insert(row.id, told_bytes(value));
    for service in tx.services_with_secrets(row.team_id).await? {
        for (definition, _) in definitions(&service) {
            let uses = secret_uses(&definition);
            let slug = &service.spec.service_slug;
            let own: Vec<_> = uses.iter().filter(|used| used.secret_id == row.id).collect();
            if own.is_empty() {
                continue;
            }
            for used in own {
                if let Some(form) = used.purpose.objection(value) {
                    let rule = format!("{form}, since {slug} uses it ({})", used.field);
                    return Err(ValidationError::one("value", rule).into());
                }
            }
            let plain = serde_json::from_value::<ServiceSpec>(definition).map_or(0, |spec| spec.told_bytes());
            let fits = check_size(plain, &uses, &sizes);
            fits.map_err(|rule| ValidationError::one("value", format!("is too long for {slug}: {rule}")))?;
        }
    }
    Ok(())
}

/// Agents are told everything that they should run in one message, so one definition must not take much of it, its secrets
/// included.
fn check_size(plain: usize, uses: &[SecretUse], sizes: &HashMap<SecretId, i64>) -> Result<(), String> {
    let environment = uses.iter().filter(|used| used.purpose == SecretPurpose::Environment);
    let secret: i64 = environment.map(|used| sizes.get(&used.secret_id).copied().unwrap_or(0)).sum();
    let total = plain + usize::try_from(secret).unwrap_or(usize::MAX / 2);
    if total <= MAX_TOLD_BYTES {
        return Ok(());
    }
    Err(format!(
        "command, args, env_config and volume_config must have at most 131072 bytes (128 KiB) together with the values of \
         their secrets, not {total}; put large texts into a file or the image"
    ))
}

/// What a service may still be told to run, as JSON: its definition, and, while one runs, its deploys. With whether it is
/// the definition.
fn definitions(service: &ServiceRow) -> Vec<(Value, bool)> {
    let json = |spec: &ServiceSpec| serde_json::to_value(spec).unwrap_or_default();
    let mut found = vec![(json(&service.spec), true)];
    let has_deploys =
        matches!(service.status, ServiceStatus::Deploying | ServiceStatus::Running | ServiceStatus::Stopping);
    if has_deploys {
        found.extend(service.deployed_spec.as_ref().map(|spec| (json(spec), false)));
        let previous = service.rollout.as_ref().and_then(|rollout| rollout.pointer("/previous/spec"));
        found.extend(previous.map(|spec| (spec.clone(), false)));
    }
    found
}

/// Where each secret of the team is used. A place that a definition and a deploy have in common is one place.
async fn places(tx: &mut Tx, team_id: TeamId) -> Result<HashMap<SecretId, Vec<SecretPlace>>, StoreError> {
    let mut places: HashMap<SecretId, Vec<SecretPlace>> = HashMap::new();
    for service in tx.services_with_secrets(team_id).await? {
        for (definition, is_in_definition) in definitions(&service) {
            for SecretUse { secret_id, field, .. } in secret_uses(&definition) {
                let known = places.entry(secret_id).or_default();
                if known.iter().any(|place| place.service_id == service.id && place.field == field) {
                    continue;
                }
                let service_slug = service.spec.service_slug.clone();
                known.push(SecretPlace { service_id: service.id, service_slug, field, is_in_definition });
            }
        }
        for id in service.unreadable.iter().flat_map(|unreadable| &unreadable.ids) {
            note_unreadable(places.entry(SecretId::from_uuid(*id)).or_default(), &service);
        }
    }
    Ok(places)
}

/// Adds a service that may use a secret in what cannot be read of it, unless it is known to use it.
fn note_unreadable(places: &mut Vec<SecretPlace>, service: &ServiceRow) {
    if places.iter().any(|place| place.service_id == service.id) {
        return;
    }
    places.push(SecretPlace {
        service_id: service.id,
        service_slug: service.spec.service_slug.clone(),
        field: "a stored definition that cannot be read".to_owned(),
        is_in_definition: true,
    });
}
