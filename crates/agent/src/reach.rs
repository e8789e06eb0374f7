//! From the place of an instance that is no container to a TCP connection: look the name up, check each address, and
//! connect to exactly one of those that were checked.
//!
//! Every connection looks the name up anew and checks what comes of it, so a name that is pointed elsewhere later is
//! checked later, and what was checked is what is connected to.

pub mod address;
pub mod policy;
pub mod rule;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};
use towline_model::service::place::HostPort;
use towline_tunnel::message::Place;

use self::policy::{Denied, ReachPolicy};
use crate::connect::socket;

/// How long looking up a name may take.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);
/// How long the connection to one address may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// The most addresses of a name that are tried.
const MAX_ADDRESSES: usize = 8;

/// Looks up the addresses of a name.
type Resolve = dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync;

/// Why a place was not reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReachError {
    /// The agent's lists do not allow it.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The name has no address, or cannot be looked up.
    #[error("{host} cannot be looked up: {said}")]
    Unresolved {
        /// The name.
        host: String,
        /// What the resolver said.
        said: String,
    },
    /// Nothing listens there.
    #[error("nothing listens on {0}")]
    NothingListens(HostPort),
    /// It could not be connected to in another way.
    #[error("{at} does not take the connection: {said}")]
    Failed {
        /// The place.
        at: HostPort,
        /// What went wrong.
        said: String,
    },
    /// The place is of a kind that this build does not know.
    #[error("this agent does not know that kind of place; install the server's version")]
    UnknownKind,
}

/// Connects to places, within the agent's lists.
pub struct Reach {
    policy: ReachPolicy,
    resolve: Box<Resolve>,
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reach").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Reach {
    /// Looks names up as the machine does.
    pub fn new(policy: ReachPolicy) -> Arc<Self> {
        Self::with_resolver(policy, |host, port| {
            Box::pin(async move { lookup_host((host, port)).await.map(Iterator::collect) })
        })
    }

    /// Looks names up in that way.
    pub fn with_resolver(
        policy: ReachPolicy,
        resolve: impl Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { policy, resolve: Box::new(resolve) })
    }

    /// Connects to a place.
    ///
    /// # Errors
    /// Why not, in words for the service's owner.
    pub async fn connect(&self, place: &Place) -> Result<TcpStream, ReachError> {
        let at = match place {
            Place::Attached(at) | Place::External(at) => at,
            Place::Unknown => return Err(ReachError::UnknownKind),
        };
        let mut allowed = Vec::new();
        let mut refusal = None;
        for address in self.addresses(at).await? {
            let checked = match place {
                Place::Attached(_) => self.policy.check_attached(at, address),
                _ => self.policy.check_external(at, address),
            };
            match checked {
                Ok(()) => allowed.push(address),
                Err(denied) => refusal = refusal.or(Some(denied)),
            }
        }
        if let (true, Some(denied)) = (allowed.is_empty(), refusal) {
            return Err(denied.into());
        }
        alternate(&mut allowed);
        allowed.truncate(MAX_ADDRESSES);
        socket::connect(&allowed, CONNECT_DEADLINE).await.map_err(|error| match error.into_source() {
            Some(source) if source.kind() == io::ErrorKind::ConnectionRefused => ReachError::NothingListens(at.clone()),
            Some(source) => ReachError::Failed { at: at.clone(), said: source.to_string() },
            None => ReachError::Failed { at: at.clone(), said: "no answer in time".to_owned() },
        })
    }

    async fn addresses(&self, at: &HostPort) -> Result<Vec<SocketAddr>, ReachError> {
        if let Ok(address) = at.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, at.port)]);
        }
        let unresolved = |said: String| ReachError::Unresolved { host: at.host.clone(), said };
        let found = timeout(RESOLVE_DEADLINE, (self.resolve)(at.host.clone(), at.port)).await;
        let found = found
            .map_err(|_| unresolved("there was no answer within 5 seconds".to_owned()))?
            .map_err(|error| unresolved(error.to_string()))?;
        if found.is_empty() { Err(unresolved("it has no address".to_owned())) } else { Ok(found) }
    }
}

/// Puts the two families in turns (RFC 8305 §4), keeping the resolver's order within each.
fn alternate(addresses: &mut Vec<SocketAddr>) {
    let Some(first) = addresses.first().map(SocketAddr::is_ipv6) else { return };
    let (like_first, others): (Vec<_>, Vec<_>) = addresses.iter().copied().partition(|a| a.is_ipv6() == first);
    let mut others = others.into_iter();
    addresses.clear();
    for address in like_first {
        addresses.push(address);
        addresses.extend(others.next());
    }
    addresses.extend(others);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::net::TcpListener;

    use super::*;

    fn at(text: &str) -> HostPort {
        HostPort::parse(text).unwrap()
    }

    fn policy(external_allow: &[&str]) -> ReachPolicy {
        let external_allow = external_allow.iter().map(|text| text.parse().unwrap()).collect();
        ReachPolicy { external_allow, ..ReachPolicy::default() }
    }

    /// A resolver that gives the next answer each time, and the last one from then on.
    fn answers(policy: ReachPolicy, answers: Vec<Vec<SocketAddr>>) -> (Arc<Reach>, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let reach = Reach::with_resolver(policy, move |_, _| {
            let index = count.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
            let answer = answers[index].clone();
            Box::pin(async move { Ok(answer) })
        });
        (reach, asked)
    }

    #[tokio::test]
    async fn a_name_that_is_pointed_elsewhere_is_checked_again_and_each_time_looked_up_once() {
        let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = good.local_addr().unwrap().port();
        // The address that is allowed, then the same port on another address of this machine, where something listens, too.
        let bad = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
        let (reach, asked) =
            answers(policy(&["127.0.0.1"]), vec![vec![good.local_addr().unwrap()], vec![bad.local_addr().unwrap()]]);
        let place = Place::External(HostPort { host: "rebind.example".to_owned(), port });
        let socket = reach.connect(&place).await.unwrap();
        assert_eq!((socket.peer_addr().unwrap(), asked.load(Ordering::SeqCst)), (good.local_addr().unwrap(), 1));
        let error = reach.connect(&place).await.unwrap_err();
        assert!(matches!(&error, ReachError::Denied(_)), "{error}");
        assert!(error.to_string().contains("127.0.0.2") && error.to_string().contains("--external-allow"), "{error}");
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn of_several_addresses_only_those_that_are_allowed_are_tried() {
        let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = good.local_addr().unwrap().port();
        let bad = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
        let both = vec![bad.local_addr().unwrap(), good.local_addr().unwrap()];
        let (reach, _) = answers(policy(&["127.0.0.1"]), vec![both]);
        let place = Place::External(HostPort { host: "two.example".to_owned(), port });
        assert_eq!(reach.connect(&place).await.unwrap().peer_addr().unwrap(), good.local_addr().unwrap());
    }

    #[tokio::test]
    async fn what_fails_is_said() {
        let (_held, closed) = crate::tests::closed_port();
        let reach = Reach::new(ReachPolicy::default());
        let nothing = reach.connect(&Place::Attached(at(&closed.to_string()))).await.unwrap_err();
        assert_eq!(nothing, ReachError::NothingListens(at(&closed.to_string())));
        let denied = reach.connect(&Place::External(at(&closed.to_string()))).await.unwrap_err();
        assert!(denied.to_string().contains("own machine"), "{denied}");
        let denied = reach.connect(&Place::Attached(at("192.0.2.1:80"))).await.unwrap_err();
        assert!(denied.to_string().contains("--attach-allow"), "{denied}");
        assert_eq!(reach.connect(&Place::Unknown).await.unwrap_err(), ReachError::UnknownKind);
        let (reach, _) = answers(ReachPolicy::default(), vec![vec![]]);
        let error = reach.connect(&Place::External(at("nowhere.example:443"))).await.unwrap_err();
        assert_eq!(error.to_string(), "nowhere.example cannot be looked up: it has no address");
    }

    #[test]
    fn families_take_turns() {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let mut addresses = parse(&["[::1]:1", "[::2]:1", "1.1.1.1:1", "[::3]:1", "2.2.2.2:1"]);
        alternate(&mut addresses);
        assert_eq!(addresses, parse(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"]));
        let mut none = Vec::new();
        alternate(&mut none);
        assert!(none.is_empty());
    }
}
