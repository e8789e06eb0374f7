//! Device pairing: a device shows a short code, a signed-in user confirms it, and the device fetches keys of its own
//! (the shape of RFC 8628). So a password never gets to the device.
//!
//! The device asks with a code of 256 random bits. The code for people has 8 letters, about 34 bits; what makes up for that
//! is that it works once and for five minutes, and that a user who types wrong ones is slowed down (RFC 8628 §5.1).
//! The keys are made when the device fetches them, in the transaction that takes its pairing away, and are stored nowhere.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use rand::RngExt;
use serde_json::json;
use towline_model::{
    Action, AuditAction, CredentialId, KeyHash, KeyKind, PairingId, Principal, RawKey, Secret, TeamId, Timestamp,
    UserId, ValidationError, validate::Checks,
};
use towline_store::{DevicePairingRow, PairedWith, StoreError};

use super::{
    App,
    audit::Deed,
    credential::{CredentialError, MadeCredential, NewCredential},
    team::{TeamError, lock_as},
};

/// How long a device may wait to be confirmed.
pub const LIFETIME: Duration = Duration::from_secs(300);
/// How often a device asks whether it was.
pub const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// The least time that a device has to fetch its keys once it is confirmed, however late that was.
const TIME_TO_FETCH: Duration = Duration::from_secs(30);

/// The most devices that may wait at the same time, in all teams together: by chance, a guessed code is that of one of
/// them once in 25 million times.
const MAX_OPEN: u64 = 1000;
/// When to ask again while there are so many.
const WAIT_WHILE_FULL: Duration = Duration::from_secs(10);
/// Wrong codes that a user may type within [`LIFETIME`].
const MAX_WRONG_CODES: u32 = 10;

/// The letters of codes for people: no vowels, so that there are no words; nothing that looks like another (RFC 8628 §6.1).
const ALPHABET: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
const USER_CODE_CHARS: usize = 8;
const DEVICE_CODE_PREFIX: &str = "dc-";
/// What a device is called whose user gives it no name.
const DEFAULT_NAME: &str = "paired device";

/// A device that has begun to wait.
#[derive(Debug)]
pub struct StartedPairing {
    /// What the device asks with.
    pub device_code: Secret<String>,
    /// What a person types, as `XXXX-XXXX`.
    pub user_code: Secret<String>,
    /// Where a person types it.
    pub verification_uri: String,
}

/// The keys of a device. They are kept nowhere.
#[derive(Debug)]
pub struct PairedKeys {
    /// The device's key (`dk-`).
    pub device_key: RawKey,
    /// The key for an agent on the device (`ak-`); none when the user's role does not allow keys for agents.
    pub agent_key: Option<RawKey>,
}

/// Why nothing was done with a pairing.
#[derive(Debug, thiserror::Error)]
pub enum PairingError {
    /// What was wished is not allowed.
    #[error(transparent)]
    Invalid(#[from] ValidationError),
    /// One answer for all reasons, to a device.
    #[error("this device code is unknown, has expired, or its keys were fetched already; start again")]
    UnknownDeviceCode,
    /// One answer for all reasons, to a person.
    #[error("this code is unknown, has expired or was used already; check it, or let the device show a new one")]
    UnknownUserCode,
    /// Too many devices wait.
    #[error("too many devices wait to be paired at this moment; try again in {} seconds", .0.as_secs())]
    Full(Duration),
    /// The user has typed too many wrong codes.
    #[error("too many wrong codes; try again in {} seconds", .0.as_secs().max(1))]
    TooManyWrongCodes(Duration),
    /// Who confirms may not.
    #[error(transparent)]
    Team(#[from] TeamError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl App {
    /// Lets a device begin to wait.
    ///
    /// # Errors
    /// See [`PairingError`].
    pub async fn start_pairing(&self) -> Result<StartedPairing, PairingError> {
        let device_code = format!("{DEVICE_CODE_PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
        let user_code = new_user_code();
        let now = self.now();
        let row = DevicePairingRow {
            id: PairingId::generate(),
            device_code_hash: hash(&device_code),
            user_code_hash: hash(&user_code),
            created_at: now,
            expires_at: now + LIFETIME,
            paired_with: None,
        };
        let mut tx = self.write().await?;
        // Those that nobody fetched are swept out when the next one comes.
        tx.prune_device_pairings(now).await?;
        if tx.count_device_pairings().await? >= MAX_OPEN {
            return Err(PairingError::Full(WAIT_WHILE_FULL));
        }
        tx.insert_device_pairing(&row).await?;
        tx.commit().await?;
        let (first, second) = user_code.split_at(USER_CODE_CHARS / 2);
        Ok(StartedPairing {
            device_code: Secret::new(device_code),
            user_code: Secret::new(format!("{first}-{second}")),
            verification_uri: format!("{}/pair", self.inner.public_url.trim_end_matches('/')),
        })
    }

    /// Lets the device in that shows this code: it will act as the principal. It gets its keys when it asks next.
    ///
    /// # Errors
    /// See [`PairingError`].
    pub async fn confirm_pairing(
        &self,
        principal: &Principal,
        user_code: &Secret<String>,
        device_name: Option<String>,
    ) -> Result<(), PairingError> {
        let device_name = device_name.unwrap_or_else(|| DEFAULT_NAME.to_owned());
        let mut checks = Checks::default();
        checks.require_name("device_name", &device_name);
        checks.finish()?;
        let user_code = normalised(user_code.expose()).ok_or(PairingError::UnknownUserCode)?;
        let (team_id, now) = (principal.team_id(), self.now());
        let mut tx = self.write().await?;
        let user_id = lock_as(&mut tx, principal, Action::PairDevices).await?.user_id;
        // Each counts as wrong until it has proved right, so that many at once are no way around the limit.
        self.inner.wrong_codes.count(user_id, now).map_err(PairingError::TooManyWrongCodes)?;
        let paired = PairedWith { team_id, user_id, device_name };
        let confirmed = tx.confirm_device_pairing(hash(&user_code), &paired, now, now + TIME_TO_FETCH).await?;
        let id = confirmed.ok_or(PairingError::UnknownUserCode)?.id;
        self.record(&mut tx, team_id, Deed::new(AuditAction::DevicePair, id, paired.device_name)).await?;
        tx.commit().await?;
        self.inner.wrong_codes.forgive(user_id);
        Ok(())
    }

    /// Gives a confirmed device its keys, once; `None` while it waits.
    ///
    /// # Errors
    /// See [`PairingError`].
    pub async fn poll_pairing(&self, device_code: &Secret<String>) -> Result<Option<PairedKeys>, PairingError> {
        let (hash, now) = (hash(device_code.expose()), self.now());
        let waiting = self.read().await?.find_device_pairing(hash, now).await?;
        let Some(paired) = waiting.ok_or(PairingError::UnknownDeviceCode)?.paired_with else { return Ok(None) };
        let mut tx = self.write().await?;
        // The team first, as everybody does who changes who is in it: a member who is removed meanwhile gets no keys.
        if !tx.lock_team(paired.team_id).await? {
            return Err(PairingError::UnknownDeviceCode);
        }
        let taken = tx.take_confirmed_device_pairing(hash, now).await?;
        let taken = taken.and_then(|row| row.paired_with).ok_or(PairingError::UnknownDeviceCode)?;
        let membership = tx.find_membership(taken.team_id, taken.user_id).await?;
        let role = membership.ok_or(PairingError::UnknownDeviceCode)?.role;
        let may_bring_agents = role >= Action::ManageCredentials.minimum_role();
        let agent = may_bring_agents.then(|| make(KeyKind::Agent, &taken, now));
        let mut device = make(KeyKind::Device, &taken, now);
        device.row.user_id = Some(taken.user_id);
        device.row.companion_id = agent.as_ref().map(|agent| agent.row.id);
        if let Some(agent) = &agent {
            tx.insert_credential(&agent.row).await?;
        }
        tx.insert_credential(&device.row).await?;
        let deed = Deed::new(AuditAction::CredentialCreate, device.row.id, taken.device_name);
        let details = json!({
            "kind": KeyKind::Device,
            "key_prefix": device.row.key_prefix,
            "companion_id": device.row.companion_id,
            "companion_key_prefix": agent.as_ref().map(|agent| &agent.row.key_prefix),
        });
        self.record_as(&mut tx, taken.team_id, taken.user_id, deed.with_details(details)).await?;
        tx.commit().await?;
        self.publish().await?;
        Ok(Some(PairedKeys { device_key: device.key, agent_key: agent.map(|agent| agent.key) }))
    }

    /// Revokes a device's key and its companion at the device's own wish. That it was revoked meanwhile is no error.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn revoke_device(&self, team_id: TeamId, id: CredentialId) -> Result<(), StoreError> {
        match self.revoke_credential(team_id, id).await {
            Ok(()) | Err(CredentialError::NotFound | CredentialError::Invalid(_)) => Ok(()),
            Err(CredentialError::Store(error)) => Err(error),
        }
    }
}

fn make(kind: KeyKind, paired: &PairedWith, now: Timestamp) -> MadeCredential {
    let display_name = paired.device_name.clone();
    let wished = NewCredential { kind, display_name, expires_in_days: None, scopes: None, services: None };
    wished.make(paired.team_id, paired.user_id, now)
}

fn new_user_code() -> String {
    let mut rng = rand::rng();
    (0..USER_CODE_CHARS).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

/// A code as it was made, from what a person has typed; `None` when it cannot be one.
fn normalised(typed: &str) -> Option<String> {
    let is_filling = |c: char| c.is_whitespace() || c == '-' || ('\u{2010}'..='\u{2015}').contains(&c);
    let code: String = typed.chars().filter(|&c| !is_filling(c)).map(|c| c.to_ascii_uppercase()).take(20).collect();
    let is_code = code.len() == USER_CODE_CHARS && code.bytes().all(|byte| ALPHABET.contains(&byte));
    is_code.then_some(code)
}

fn hash(code: &str) -> [u8; 32] {
    *KeyHash::of(code).as_bytes()
}

/// How many wrong codes users have typed of late. In memory: a server that starts again forgets them.
#[derive(Debug, Default)]
pub struct WrongCodes(Mutex<HashMap<UserId, (Timestamp, u32)>>);

impl WrongCodes {
    /// Counts a code of a user, or says how long to wait.
    fn count(&self, user_id: UserId, now: Timestamp) -> Result<(), Duration> {
        let mut of_late = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        of_late.retain(|_, (since, _)| now.since(*since) < LIFETIME);
        let (since, count) = of_late.entry(user_id).or_insert((now, 0));
        if *count >= MAX_WRONG_CODES {
            return Err(LIFETIME.saturating_sub(now.since(*since)));
        }
        *count += 1;
        Ok(())
    }

    /// Takes the last one back: it was right.
    fn forgive(&self, user_id: UserId) {
        let mut of_late = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, count)) = of_late.get_mut(&user_id) {
            *count = count.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_typed_in_many_ways() {
        let code = Some("BCDFGHJK".to_owned());
        for typed in ["BCDF-GHJK", "bcdfghjk", " bc df – gh jk\n", "B-C-D-F-G-H-J-K"] {
            assert_eq!(normalised(typed), code, "{typed:?}");
        }
        for typed in ["", "BCDF-GHJ", "BCDF-GHJKL", "BCDF-GHJA", "BCDF_GHJK", "ßcdfghjk"] {
            assert_eq!(normalised(typed), None, "{typed:?}");
        }
    }

    #[test]
    fn codes_differ_and_are_codes() {
        let (one, other) = (new_user_code(), new_user_code());
        assert_ne!(one, other);
        assert_eq!(normalised(&one), Some(one));
    }

    #[test]
    fn wrong_codes_are_counted_for_each_user_and_for_a_time() {
        let (codes, now) = (WrongCodes::default(), Timestamp::from_micros(1_800_000_000_000_000));
        let (ada, bob) = (UserId::generate(), UserId::generate());
        for _ in 0..MAX_WRONG_CODES {
            codes.count(ada, now).unwrap();
        }
        let later = now + Duration::from_secs(100);
        assert_eq!(codes.count(ada, later), Err(Duration::from_secs(200)));
        codes.count(bob, later).unwrap();
        codes.forgive(ada);
        codes.count(ada, later).unwrap();
        codes.count(ada, later).unwrap_err();
        codes.count(ada, now + LIFETIME).unwrap();
    }
}
