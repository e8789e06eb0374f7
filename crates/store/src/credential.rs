//! Credentials: the keys of teams, devices and agents. Of a key only its hash and its first characters are stored.

use towline_model::{CredentialId, KeyHash, KeyKind, Scope, ServiceId, TeamId, Timestamp, UserId};

use crate::{
    Page, Paged, Position, StoreError, Tx,
    page::{Listed, Order, newest_first},
    query::{Query, query},
    value::{FromRow, Json, Row},
};

/// A key, without the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialRow {
    /// Its id.
    pub id: CredentialId,
    /// The team that it opens.
    pub team_id: TeamId,
    /// The user that a device key acts as; `None` for other kinds.
    pub user_id: Option<UserId>,
    /// Who made it.
    pub created_by: UserId,
    /// What it is for.
    pub kind: KeyKind,
    /// The name for people.
    pub display_name: String,
    /// The key's first 12 characters, to recognise it by.
    pub key_prefix: String,
    /// The key's SHA-256.
    pub key_hash: KeyHash,
    /// What an integration key may be used for.
    pub scopes: Vec<Scope>,
    /// The only services that there are for an integration key, in order; `None` for all of its team. Ids of services
    /// that are gone stay here: a service that takes over the slug of one is not on the list.
    pub services: Option<Vec<ServiceId>>,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it opens nothing; `None` for never.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, give or take the interval at which uses are written down.
    pub last_used_at: Option<Timestamp>,
    /// The agent's key that was made together with this device's key, and ends with it.
    pub companion_id: Option<CredentialId>,
}

macro_rules! columns {
    () => {
        "id, team_id, user_id, created_by, kind, display_name, key_prefix, key_hash, scopes, created_at, expires_at, \
         revoked_at, last_used_at, services, companion_id"
    };
}

impl FromRow for CredentialRow {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.take("id")?,
            team_id: row.take("team_id")?,
            user_id: row.take("user_id")?,
            created_by: row.take("created_by")?,
            kind: row.take("kind")?,
            display_name: row.take("display_name")?,
            key_prefix: row.take("key_prefix")?,
            key_hash: row.take("key_hash")?,
            scopes: row.take::<Json<_>>("scopes")?.0,
            created_at: row.take("created_at")?,
            expires_at: row.take("expires_at")?,
            revoked_at: row.take("revoked_at")?,
            last_used_at: row.take("last_used_at")?,
            services: row.take::<Option<Json<_>>>("services")?.map(|services| services.0),
            companion_id: row.take("companion_id")?,
        })
    }
}

impl Listed for CredentialRow {
    fn position(&self) -> Position {
        Position { at: self.created_at, id: self.id.as_uuid() }
    }
}

/// How many keys of a team are not revoked, of one kind or of all.
fn count(team_id: TeamId, kind: Option<KeyKind>) -> Query {
    let count = query(
        "SELECT COUNT(*) AS total FROM credentials \
         WHERE team_id = $1 AND revoked_at IS NULL AND ($2 IS NULL OR kind = $2)",
    );
    count.bind(team_id).bind(kind)
}

impl Tx {
    /// Adds a key. Moves the revision on.
    ///
    /// # Errors
    /// [`Constraint::CredentialHash`](crate::Constraint::CredentialHash) when the key exists, [`StoreError::NotFound`]
    /// when there is no such team or user.
    pub async fn insert_credential(&mut self, credential: &CredentialRow) -> Result<(), StoreError> {
        let insert = query(concat!(
            "INSERT INTO credentials (",
            columns!(),
            ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)"
        ))
        .bind(credential.id)
        .bind(credential.team_id)
        .bind(credential.user_id)
        .bind(credential.created_by)
        .bind(credential.kind)
        .bind(&credential.display_name)
        .bind(&credential.key_prefix)
        .bind(credential.key_hash)
        .bind(Json(&credential.scopes))
        .bind(credential.created_at)
        .bind(credential.expires_at)
        .bind(credential.revoked_at)
        .bind(credential.last_used_at)
        .bind(credential.services.as_ref().map(Json))
        .bind(credential.companion_id);
        self.execute(insert).await?;
        self.mark_changed();
        Ok(())
    }

    /// The team's key of that id, revoked or not.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn find_credential(
        &mut self,
        team_id: TeamId,
        id: CredentialId,
    ) -> Result<Option<CredentialRow>, StoreError> {
        let select = query(concat!("SELECT ", columns!(), " FROM credentials WHERE team_id = $1 AND id = $2"));
        self.fetch_optional(select.bind(team_id).bind(id)).await
    }

    /// A page of the team's keys that are not revoked, of one kind or of all, the newest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn list_credentials(
        &mut self,
        team_id: TeamId,
        kind: Option<KeyKind>,
        page: Page,
    ) -> Result<Paged<CredentialRow>, StoreError> {
        let select = query(concat!(
            "SELECT ",
            columns!(),
            " FROM credentials WHERE team_id = $1 AND revoked_at IS NULL AND ($2 IS NULL OR kind = $2)",
            newest_first!("created_at", "id", [3, 4, 5, 6])
        ));
        let both = (count(team_id, kind), select.bind(team_id).bind(kind));
        self.fetch_page(both, Order::NewestFirst, page).await
    }

    /// How many keys of the team are not revoked, of one kind or of all.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn count_credentials(&mut self, team_id: TeamId, kind: Option<KeyKind>) -> Result<u64, StoreError> {
        self.fetch_total(count(team_id, kind)).await
    }

    /// Revokes a key of the team, and the companion of a device's key. `false` when it was revoked before, or the team has no such key. Moves the revision on.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn revoke_credential(
        &mut self,
        team_id: TeamId,
        id: CredentialId,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let revoke =
            query("UPDATE credentials SET revoked_at = $1 WHERE team_id = $2 AND id = $3 AND revoked_at IS NULL");
        let revoked = self.execute(revoke.bind(now).bind(team_id).bind(id)).await? > 0;
        if revoked {
            let companion = query(
                "UPDATE credentials SET revoked_at = $1 WHERE team_id = $2 AND revoked_at IS NULL \
                 AND id IN (SELECT companion_id FROM credentials WHERE team_id = $2 AND id = $3)",
            );
            self.execute(companion.bind(now).bind(team_id).bind(id)).await?;
        }
        self.mark_changed_if(revoked);
        Ok(revoked)
    }

    /// Revokes the companions of a user's device keys in a team, and leaves the device keys: for a user who may not
    /// bring agents any more. Moves the revision on.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn revoke_companions_of(
        &mut self,
        team_id: TeamId,
        user_id: UserId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let revoke = query(
            "UPDATE credentials SET revoked_at = $1 WHERE team_id = $2 AND revoked_at IS NULL \
             AND id IN (SELECT companion_id FROM credentials WHERE team_id = $2 AND user_id = $3)",
        );
        let revoked = self.execute(revoke.bind(now).bind(team_id).bind(user_id)).await? > 0;
        self.mark_changed_if(revoked);
        Ok(())
    }

    /// Revokes the keys of a user's devices in a team, and their companions. Moves the revision on.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn revoke_device_keys_of(
        &mut self,
        team_id: TeamId,
        user_id: UserId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.revoke_companions_of(team_id, user_id, now).await?;
        let revoke =
            query("UPDATE credentials SET revoked_at = $1 WHERE team_id = $2 AND user_id = $3 AND revoked_at IS NULL");
        let revoked = self.execute(revoke.bind(now).bind(team_id).bind(user_id)).await? > 0;
        self.mark_changed_if(revoked);
        Ok(())
    }

    /// Every key of every team that is neither revoked nor expired, for the gateway's snapshot. It holds keys that will
    /// expire: who uses it looks at [`CredentialRow::expires_at`].
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn active_credentials(&mut self, now: Timestamp) -> Result<Vec<CredentialRow>, StoreError> {
        let select = query(concat!(
            "SELECT ",
            columns!(),
            " FROM credentials WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $1)"
        ));
        self.fetch_all(select.bind(now)).await
    }

    /// Writes down when keys were last used. An older time never replaces a newer one; unknown keys are passed over.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn touch_last_used(&mut self, uses: &[(CredentialId, Timestamp)]) -> Result<(), StoreError> {
        // In one order, so that two that touch the same keys do not wait for each other in a circle.
        let mut uses = uses.to_vec();
        uses.sort_unstable();
        for (id, at) in uses {
            let touch = query(
                "UPDATE credentials SET last_used_at = $1 \
                 WHERE id = $2 AND (last_used_at IS NULL OR last_used_at < $1)",
            );
            self.execute(touch.bind(at).bind(id)).await?;
        }
        Ok(())
    }
}
