//! Pairings of devices: a device has asked to be let in and waits until somebody confirms it. Of its codes only hashes are
//! stored.

use towline_model::{PairingId, TeamId, Timestamp, UserId};

use crate::{
    StoreError, Tx,
    query::query,
    value::{FromRow, Row},
};

/// A device that waits to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevicePairingRow {
    /// Its id.
    pub id: PairingId,
    /// The SHA-256 of the code that the device asks with.
    pub device_code_hash: [u8; 32],
    /// The SHA-256 of the code that a person types.
    pub user_code_hash: [u8; 32],
    /// When the device asked.
    pub created_at: Timestamp,
    /// From when on it is of no use.
    pub expires_at: Timestamp,
    /// Who has confirmed it; `None` while it waits.
    pub paired_with: Option<PairedWith>,
}

/// Who has let a device in, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairedWith {
    /// The team that the device gets keys of.
    pub team_id: TeamId,
    /// The user that it will act as.
    pub user_id: UserId,
    /// Its name for people.
    pub device_name: String,
}

macro_rules! columns {
    () => {
        "id, device_code_hash, user_code_hash, created_at, expires_at, team_id, user_id, device_name"
    };
}

impl FromRow for DevicePairingRow {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        let (team_id, user_id, device_name) = (row.take("team_id")?, row.take("user_id")?, row.take("device_name")?);
        let paired_with = match (team_id, user_id, device_name) {
            (Some(team_id), Some(user_id), Some(device_name)) => Some(PairedWith { team_id, user_id, device_name }),
            (None, None, None) => None,
            _ => return Err(StoreError::Corrupt("a device pairing is half confirmed".to_owned())),
        };
        Ok(Self {
            id: row.take("id")?,
            device_code_hash: row.take("device_code_hash")?,
            user_code_hash: row.take("user_code_hash")?,
            created_at: row.take("created_at")?,
            expires_at: row.take("expires_at")?,
            paired_with,
        })
    }
}

impl Tx {
    /// Adds a pairing.
    ///
    /// # Errors
    /// [`Constraint::PairingCode`](crate::Constraint::PairingCode) when one of its codes is in use.
    pub async fn insert_device_pairing(&mut self, pairing: &DevicePairingRow) -> Result<(), StoreError> {
        let paired_with = pairing.paired_with.as_ref();
        let insert =
            query(concat!("INSERT INTO device_pairings (", columns!(), ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"))
                .bind(pairing.id)
                .bind(pairing.device_code_hash)
                .bind(pairing.user_code_hash)
                .bind(pairing.created_at)
                .bind(pairing.expires_at)
                .bind(paired_with.map(|paired| paired.team_id))
                .bind(paired_with.map(|paired| paired.user_id))
                .bind(paired_with.map(|paired| paired.device_name.as_str()));
        self.execute(insert).await.map(drop)
    }

    /// The pairing that a device asks about with this code, unless it has expired.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn find_device_pairing(
        &mut self,
        device_code_hash: [u8; 32],
        now: Timestamp,
    ) -> Result<Option<DevicePairingRow>, StoreError> {
        let select = query(concat!(
            "SELECT ",
            columns!(),
            " FROM device_pairings WHERE device_code_hash = $1 AND expires_at > $2"
        ));
        self.fetch_optional(select.bind(device_code_hash).bind(now)).await
    }

    /// Confirms the pairing of that user code, which lasts at least until `lasts_until` then. Of several that do so at the
    /// same time, one gets it; `None` for the others, and when there is no such code, or it has expired.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such team or user.
    pub async fn confirm_device_pairing(
        &mut self,
        user_code_hash: [u8; 32],
        paired_with: &PairedWith,
        now: Timestamp,
        lasts_until: Timestamp,
    ) -> Result<Option<DevicePairingRow>, StoreError> {
        let confirm = query(concat!(
            "UPDATE device_pairings SET team_id = $1, user_id = $2, device_name = $3, \
             expires_at = CASE WHEN expires_at < $4 THEN $4 ELSE expires_at END \
             WHERE user_code_hash = $5 AND user_id IS NULL AND expires_at > $6 RETURNING ",
            columns!()
        ));
        let confirm = confirm.bind(paired_with.team_id).bind(paired_with.user_id).bind(&paired_with.device_name);
        self.fetch_optional(confirm.bind(lasts_until).bind(user_code_hash).bind(now)).await
    }

    /// Takes a confirmed pairing away: its device gets its keys now. Of several that do so at the same time, one gets it;
    /// `None` for the others, and when there is no such code, or it has expired or is not confirmed.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn take_confirmed_device_pairing(
        &mut self,
        device_code_hash: [u8; 32],
        now: Timestamp,
    ) -> Result<Option<DevicePairingRow>, StoreError> {
        let delete = query(concat!(
            "DELETE FROM device_pairings WHERE device_code_hash = $1 AND user_id IS NOT NULL AND expires_at > $2 RETURNING ",
            columns!()
        ));
        self.fetch_optional(delete.bind(device_code_hash).bind(now)).await
    }

    /// How many pairings there are, expired or not.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn count_device_pairings(&mut self) -> Result<u64, StoreError> {
        self.fetch_total(query("SELECT COUNT(*) AS total FROM device_pairings")).await
    }

    /// Forgets the pairings that have expired. Tells how many there were.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn prune_device_pairings(&mut self, now: Timestamp) -> Result<u64, StoreError> {
        self.execute(query("DELETE FROM device_pairings WHERE expires_at <= $1").bind(now)).await
    }

    /// Forgets what a user has confirmed for a team and no device has taken yet.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn delete_device_pairings_of(&mut self, team_id: TeamId, user_id: UserId) -> Result<(), StoreError> {
        let delete = query("DELETE FROM device_pairings WHERE team_id = $1 AND user_id = $2");
        self.execute(delete.bind(team_id).bind(user_id)).await.map(drop)
    }
}
