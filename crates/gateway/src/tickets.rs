//! WebSocket tickets: permissions to open one WebSocket to one service, for browsers, which cannot send a key with the
//! handshake. Each is good once and for 30 seconds.
//!
//! They live in the memory of the gateway that made them, because only one place can decide that something happens once:
//! a signed ticket, which every gateway could check, would be good once at each of them. What is kept is the ticket's
//! hash, with whose it is; what its holder may do is looked up when the ticket is used.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::time::Instant;
use towline_model::{CredentialId, KeyHash, Secret, ServiceId, TeamId};

use crate::access_token::TokenHolder;

/// How long a WebSocket ticket may be used.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(30);
/// Tickets that may be made within one lifetime, used or not; about 250 bytes each.
const MAX_TICKETS: usize = 20_000;
/// Those of one team.
const MAX_TICKETS_OF_TEAM: usize = 2_000;

/// Whose permission a ticket passes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// A signed-in user.
    User(TokenHolder),
    /// A key.
    Key(CredentialId),
}

/// What a ticket permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Permit {
    pub holder: Holder,
    pub team_id: TeamId,
    pub service_id: ServiceId,
}

/// The tickets of this gateway.
#[derive(Debug, Default)]
pub(crate) struct Tickets {
    issued: Mutex<Issued>,
}

#[derive(Debug, Default)]
struct Issued {
    unused: HashMap<KeyHash, Permit>,
    /// All of the last lifetime, the oldest first.
    recent: VecDeque<(Instant, KeyHash, TeamId)>,
    per_team: HashMap<TeamId, usize>,
}

impl Tickets {
    /// A new ticket. `None` while there are too many.
    pub(crate) fn issue(&self, permit: Permit, now: Instant) -> Option<Secret<String>> {
        let mut issued = self.issued();
        issued.forget_expired(now);
        let of_team = issued.per_team.get(&permit.team_id).copied().unwrap_or_default();
        if issued.recent.len() >= MAX_TICKETS || of_team >= MAX_TICKETS_OF_TEAM {
            return None;
        }
        // In the alphabet of a URL's query and of a subprotocol's name.
        let ticket = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 24]>());
        let hash = KeyHash::of(&ticket);
        issued.unused.insert(hash, permit);
        issued.recent.push_back((now + TICKET_LIFETIME, hash, permit.team_id));
        issued.per_team.insert(permit.team_id, of_team + 1);
        Some(Secret::new(ticket))
    }

    /// Takes a ticket back, once, in its time.
    pub(crate) fn redeem(&self, ticket: &str, now: Instant) -> Option<Permit> {
        let mut issued = self.issued();
        issued.forget_expired(now);
        issued.unused.remove(&KeyHash::of(ticket))
    }

    fn issued(&self) -> MutexGuard<'_, Issued> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Issued {
    fn forget_expired(&mut self, now: Instant) {
        while self.recent.front().is_some_and(|(expiry, ..)| *expiry <= now) {
            let Some((_, hash, team)) = self.recent.pop_front() else { return };
            self.unused.remove(&hash);
            let left = self.per_team.get(&team).copied().unwrap_or_default();
            if left > 1 {
                self.per_team.insert(team, left - 1);
            } else {
                self.per_team.remove(&team);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permit(team_id: TeamId) -> Permit {
        Permit { holder: Holder::Key(CredentialId::generate()), team_id, service_id: ServiceId::generate() }
    }

    #[test]
    fn a_ticket_is_good_once() {
        let (tickets, now, permit) = (Tickets::default(), Instant::now(), permit(TeamId::generate()));
        let ticket = tickets.issue(permit, now).unwrap();
        assert!(ticket.expose().bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
        assert_eq!(tickets.redeem("something else", now), None);
        assert_eq!(tickets.redeem(ticket.expose(), now), Some(permit));
        assert_eq!(tickets.redeem(ticket.expose(), now), None);
    }

    #[test]
    fn a_ticket_is_good_for_thirty_seconds() {
        let (tickets, now, permit) = (Tickets::default(), Instant::now(), permit(TeamId::generate()));
        let [early, late] = [(); 2].map(|()| tickets.issue(permit, now).unwrap());
        assert_eq!(tickets.redeem(early.expose(), now + Duration::from_millis(29_999)), Some(permit));
        assert_eq!(tickets.redeem(late.expose(), now + TICKET_LIFETIME), None);
    }

    #[test]
    fn there_is_a_bound_for_each_team_and_for_all() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        let first = permit(TeamId::generate());
        for _ in 0..MAX_TICKETS_OF_TEAM {
            let ticket = tickets.issue(first, now).unwrap();
            tickets.redeem(ticket.expose(), now).unwrap();
        }
        assert!(tickets.issue(first, now).is_none(), "used ones count");
        for _ in 1..MAX_TICKETS / MAX_TICKETS_OF_TEAM {
            let other = permit(TeamId::generate());
            for _ in 0..MAX_TICKETS_OF_TEAM {
                tickets.issue(other, now).unwrap();
            }
        }
        assert!(tickets.issue(permit(TeamId::generate()), now).is_none());
        assert!(tickets.issue(first, now + TICKET_LIFETIME).is_some());
        let issued = tickets.issued();
        assert_eq!((issued.unused.len(), issued.recent.len(), issued.per_team.len()), (1, 1, 1));
    }
}
