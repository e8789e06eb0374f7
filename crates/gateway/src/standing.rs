//! What a request in flight lives by: its caller's key, or the membership and the sign-in of a user. When that ends, the
//! request ends too.
//!
//! Keys and memberships are known one by one, so each has a token that the next state cancels. Sign-ins are not: there is a
//! list of those that were ended, and none of those that go on. So a signed-in user's requests are written down here while
//! they are in flight.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;
use towline_model::SignInId;

use crate::snapshot::CredentialTable;

/// Whether the caller of a request may still do what it was let in for. In the extensions of an answer of the management
/// API it cuts that answer off when it is lost.
#[derive(Debug, Clone)]
pub struct Standing {
    lost: CancellationToken,
    _place: Option<Arc<Place>>,
}

impl Standing {
    /// What a request lives by that was let in by a key.
    pub(crate) const fn of_key(lost: CancellationToken) -> Self {
        Self { lost, _place: None }
    }

    pub(crate) fn lose(&self) {
        self.lost.cancel();
    }

    /// Whether the key, the membership or the sign-in has ended.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Waits until the key, the membership or the sign-in ends.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

/// Requests of signed-in users that are in flight.
#[derive(Debug, Default)]
pub(crate) struct SignIns(Mutex<Live>);

#[derive(Debug, Default)]
struct Live {
    next: u64,
    requests: HashMap<u64, (SignInId, CancellationToken)>,
}

/// A request's place among those of signed-in users.
#[derive(Debug)]
struct Place {
    sign_ins: Arc<SignIns>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sign_ins.live().requests.remove(&self.number);
    }
}

impl SignIns {
    /// What a request of this sign-in lives by, besides the membership, until the last of the clones is dropped.
    pub(crate) fn enter(self: &Arc<Self>, sign_in: SignInId, member: &CancellationToken) -> Standing {
        let lost = member.child_token();
        let mut live = self.live();
        let number = live.next;
        live.next += 1;
        live.requests.insert(number, (sign_in, lost.clone()));
        drop(live);
        Standing { lost, _place: Some(Arc::new(Place { sign_ins: Arc::clone(self), number })) }
    }

    /// Cancels the requests of sign-ins that were ended. Tells whether there were any.
    pub(crate) fn end(&self, credentials: &CredentialTable) -> bool {
        let live = self.live();
        let mut any = false;
        for (sign_in, lost) in live.requests.values() {
            if lost.is_cancelled() || !credentials.has_ended(*sign_in) {
                continue;
            }
            lost.cancel();
            any = true;
        }
        any
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
