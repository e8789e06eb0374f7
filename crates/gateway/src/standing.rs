//! What a request in flight lives by: its caller's key, or the membership and the sign-in of a user. When that ends, the
//! request ends too.
//!
//! Keys and memberships are known one by one, so each has a [`Lifetime`] that the next state ends. Sign-ins are not: there is a
//! list of those that were ended, and none of those that go on. So a signed-in user's requests are written down here while
//! they are in flight.

use std::{
    collections::HashMap,
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use towline_model::SignInId;

use crate::{lifetime::Lifetime, snapshot::CredentialTable};

/// Whether the caller of a request may still do what it was let in for. In the extensions of an answer of the management
/// API it cuts that answer off when it is lost.
#[derive(Debug, Clone)]
pub struct Standing {
    /// The key's, or the membership's.
    lifetime: Lifetime,
    sign_in: Option<Arc<Place>>,
}

impl Standing {
    /// What a request lives by that was let in by a key.
    pub(crate) const fn of_key(lifetime: Lifetime) -> Self {
        Self { lifetime, sign_in: None }
    }

    /// The sign-in has ended.
    pub(crate) fn sign_out(&self) {
        if let Some(place) = &self.sign_in {
            place.lifetime.end();
        }
    }

    /// Whether the key, the membership or the sign-in has ended.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lifetime.has_ended() || self.sign_in.as_ref().is_some_and(|place| place.lifetime.has_ended())
    }

    /// Waits until the key, the membership or the sign-in ends.
    pub async fn lost(&self) {
        let signed_out = async {
            match &self.sign_in {
                Some(place) => place.lifetime.ended().await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = self.lifetime.ended() => {}
            () = signed_out => {}
        }
    }
}

/// Requests of signed-in users that are in flight.
#[derive(Debug, Default)]
pub(crate) struct SignIns(Mutex<Live>);

#[derive(Debug, Default)]
struct Live {
    next: u64,
    requests: HashMap<u64, (SignInId, Lifetime)>,
}

/// A request's place among those of signed-in users.
#[derive(Debug)]
struct Place {
    sign_ins: Arc<SignIns>,
    number: u64,
    lifetime: Lifetime,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sign_ins.live().requests.remove(&self.number);
    }
}

impl SignIns {
    /// What a request of this sign-in lives by, besides the membership, until the last of the clones is dropped.
    pub(crate) fn enter(self: &Arc<Self>, sign_in: SignInId, member: Lifetime) -> Standing {
        let lifetime = Lifetime::default();
        let mut live = self.live();
        let number = live.next;
        live.next += 1;
        live.requests.insert(number, (sign_in, lifetime.clone()));
        drop(live);
        let place = Place { sign_ins: Arc::clone(self), number, lifetime };
        Standing { lifetime: member, sign_in: Some(Arc::new(place)) }
    }

    /// Ends the requests of sign-ins that were ended. Tells whether there were any.
    pub(crate) fn end(&self, credentials: &CredentialTable) -> bool {
        let live = self.live();
        let mut any = false;
        for (sign_in, lifetime) in live.requests.values() {
            if lifetime.has_ended() || !credentials.has_ended(*sign_in) {
                continue;
            }
            lifetime.end();
            any = true;
        }
        any
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
