//! The audit log: who did what to which thing, from where, with which credential.
//!
//! A verb that changes something calls [`App::record`] in its transaction, so that there is no change without an entry and no
//! entry without a change. Who asks and from where is the same for everything that a request does, and no rule depends on it:
//! the guard of the routes puts it around the handler ([`with_origin`]), and it is taken up here. What is done without
//! a request is done by the server itself.
//!
//! Each team has a log. What concerns no team (accounts, people who are in none, the end of a team) is in the server's own,
//! which is for whoever runs the server: no call of the API reads it, `towline audit --server-log` does.

use std::{future::Future, net::IpAddr, time::Duration};

use serde_json::Value;
use towline_model::{AuditAction, CredentialId, Principal, TeamId, Timestamp, UserId};
use towline_store::{AuditFilter, AuditRow, Page, Paged, Position, StoreError, Tx};
use uuid::Uuid;

use super::App;

/// How many entries are read at a time when all are.
const PIECE: u32 = 500;

tokio::task_local! {
    static ORIGIN: Origin;
}

/// Where a request comes from.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// Who made it.
    pub sender: Sender,
    /// The caller's address.
    pub address: Option<IpAddr>,
    /// The request's id.
    pub request_id: Option<String>,
}

/// Who made a request.
#[derive(Debug, Clone, Default)]
pub enum Sender {
    /// Somebody who is not known, or the server itself.
    #[default]
    Unknown,
    /// A signed-in user.
    User(UserId),
    /// Somebody in a team.
    Principal(Principal),
}

/// Something that was done.
#[derive(Debug)]
pub struct Deed {
    /// What.
    pub action: AuditAction,
    /// The id of what it was done to.
    pub target_id: Option<String>,
    /// Its name.
    pub target_name: String,
    /// More about it; never a secret.
    pub details: Option<Value>,
}

impl Deed {
    /// Something that was done to a thing of this id and name.
    pub fn new(action: AuditAction, target_id: impl ToString, target_name: impl Into<String>) -> Self {
        Self { action, target_id: Some(target_id.to_string()), target_name: target_name.into(), details: None }
    }

    /// With more about it.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }
}

/// Runs what a request asks for, so that what it changes is told to come from there.
pub fn with_origin<F: Future>(origin: Origin, work: F) -> impl Future<Output = F::Output> {
    ORIGIN.scope(origin, work)
}

/// Who it was, as it is written down.
struct Actor {
    kind: &'static str,
    name: String,
    user_id: Option<UserId>,
    credential_id: Option<CredentialId>,
}

impl App {
    /// Writes down what is done in a team in this transaction.
    pub(crate) async fn record(&self, tx: &mut Tx, team_id: TeamId, deed: Deed) -> Result<(), StoreError> {
        let origin = ORIGIN.try_with(Clone::clone).unwrap_or_default();
        let actor = actor(tx, &origin.sender).await?;
        self.record_by(tx, Some(team_id), deed, (actor, origin)).await
    }

    /// Writes down in the server's own log what a user does that concerns no team, whether the request named the user
    /// or not.
    pub(crate) async fn record_of_server(&self, tx: &mut Tx, user_id: UserId, deed: Deed) -> Result<(), StoreError> {
        let origin = ORIGIN.try_with(Clone::clone).unwrap_or_default();
        let actor = actor(tx, &Sender::User(user_id)).await?;
        self.record_by(tx, None, deed, (actor, origin)).await
    }

    /// Writes down in each of a user's teams what he or she has done that is not about one of them; in the server's own log
    /// when the user is in no team.
    pub(crate) async fn record_of_user(
        &self,
        tx: &mut Tx,
        user_id: UserId,
        action: AuditAction,
        details: Option<Value>,
    ) -> Result<(), StoreError> {
        let origin = ORIGIN.try_with(Clone::clone).unwrap_or_default();
        let memberships = tx.memberships_of_user(user_id).await?;
        let teams = memberships.iter().map(|membership| Some(membership.team_id));
        for log in teams.chain(memberships.is_empty().then_some(None)) {
            let actor = actor(tx, &Sender::User(user_id)).await?;
            let deed = Deed { details: details.clone(), ..Deed::new(action, user_id, actor.name.clone()) };
            self.record_by(tx, log, deed, (actor, origin.clone())).await?;
        }
        Ok(())
    }

    /// Writes down what somebody does in a team whom the request did not name: a new person who accepts an invitation.
    pub(crate) async fn record_as(
        &self,
        tx: &mut Tx,
        team_id: TeamId,
        user_id: UserId,
        deed: Deed,
    ) -> Result<(), StoreError> {
        let origin = ORIGIN.try_with(Clone::clone).unwrap_or_default();
        let actor = actor(tx, &Sender::User(user_id)).await?;
        self.record_by(tx, Some(team_id), deed, (actor, origin)).await
    }

    async fn record_by(
        &self,
        tx: &mut Tx,
        team_id: Option<TeamId>,
        deed: Deed,
        (actor, origin): (Actor, Origin),
    ) -> Result<(), StoreError> {
        let now = self.now();
        let entry = entry(team_id, deed, (actor, origin), now);
        let retention = i64::try_from(self.inner.audit_retention.as_micros()).unwrap_or(i64::MAX);
        let keep_since = Timestamp::from_micros(now.as_micros().saturating_sub(retention));
        tx.insert_audit_entry(&entry, keep_since).await
    }

    /// A page of what was done in the team, the newest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn list_audit_entries(
        &self,
        team_id: TeamId,
        filter: &AuditFilter,
        page: Page,
    ) -> Result<Paged<AuditRow>, StoreError> {
        self.read().await?.list_audit_entries(team_id, filter, page).await
    }

    /// The next entries behind a place in the log, the oldest first; none at its end.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn next_audit_entries(
        &self,
        team_id: TeamId,
        filter: &AuditFilter,
        position: Option<Position>,
    ) -> Result<Vec<AuditRow>, StoreError> {
        self.read().await?.audit_entries_after(team_id, filter, position, PIECE).await
    }
}

/// How long entries are kept when nothing else is wished: 400 days, which is a year and a month to look at it.
pub const DEFAULT_RETENTION: Duration = Duration::from_secs(400 * 24 * 3600);

/// Writes down what the first start makes, before there is an [`App`]: in a team's log, or in the server's own.
pub(crate) async fn record_first_start(
    tx: &mut Tx,
    team_id: Option<TeamId>,
    deed: Deed,
    now: Timestamp,
) -> Result<(), StoreError> {
    let actor = actor(tx, &Sender::Unknown).await?;
    let entry = entry(team_id, deed, (actor, Origin::default()), now);
    // In an empty database nothing is too old.
    tx.insert_audit_entry(&entry, Timestamp::from_micros(0)).await
}

fn entry(team_id: Option<TeamId>, deed: Deed, (actor, origin): (Actor, Origin), now: Timestamp) -> AuditRow {
    AuditRow {
        id: Uuid::now_v7(),
        team_id,
        at: now,
        action: deed.action.as_str().to_owned(),
        actor_kind: actor.kind.to_owned(),
        actor_name: actor.name,
        user_id: actor.user_id,
        credential_id: actor.credential_id,
        target_id: deed.target_id,
        target_name: deed.target_name,
        address: origin.address.map(|address| address.to_string()),
        request_id: origin.request_id,
        details: deed.details,
    }
}

async fn actor(tx: &mut Tx, sender: &Sender) -> Result<Actor, StoreError> {
    let (kind, user_id, key) = match sender {
        Sender::Unknown => ("system", None, None),
        Sender::User(user_id) | Sender::Principal(Principal::User { user_id, .. }) => ("user", Some(*user_id), None),
        Sender::Principal(Principal::Device { user_id, credential_id, .. }) => {
            ("device", Some(*user_id), Some(*credential_id))
        }
        Sender::Principal(Principal::Integration { credential_id, .. }) => ("integration", None, Some(*credential_id)),
    };
    let name = match (user_id, sender) {
        (Some(user_id), _) => tx.find_user(user_id).await?.map(|user| user.email_address),
        (None, Sender::Principal(Principal::Integration { team_id, credential_id, .. })) => {
            tx.find_credential(*team_id, *credential_id).await?.map(|key| key.display_name)
        }
        _ => Some("the server".to_owned()),
    };
    Ok(Actor { kind, name: name.unwrap_or_else(|| "removed meanwhile".to_owned()), user_id, credential_id: key })
}
