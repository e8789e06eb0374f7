//! How often one address, one account or one credential may ask: the limits of the management API.
//!
//! Each limit is a token bucket (GCRA): as many requests as its number at once, and then as many as its number within its
//! period. They are kept in this process's memory, bounded, and forgotten when it ends. Calls of services (proxy and
//! invoke) are not limited here: what a container takes is its own affair.

use std::{
    fmt,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    str::FromStr,
    sync::Mutex,
    time::Duration,
};

use governor::{
    Quota, RateLimiter, clock::Clock, middleware::NoOpMiddleware, nanos::Nanos, state::keyed::HashMapStateStore,
};
use tokio::time::Instant;
use towline_model::{CredentialId, Principal, UserId};

/// The most keys that one limit keeps in mind. More than that at a time share one bucket.
const MAX_KEYS: usize = 100_000;
/// How often those that have long been quiet are looked for when there are too many.
const SWEEP: Duration = Duration::from_secs(1);

/// So many requests in a period, such as `60/m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many; all of them may come at once.
    pub requests: NonZeroU32,
    /// After how long as many may come again.
    pub period: Duration,
}

/// A text that is not a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a number of requests and a period, such as 60/m, 20/10m or 5/s")]
pub struct InvalidRate;

impl Rate {
    const fn per_minute(requests: u32) -> Self {
        match NonZeroU32::new(requests) {
            Some(requests) => Self { requests, period: Duration::from_secs(60) },
            None => panic!("a rate of nothing"),
        }
    }
}

impl FromStr for Rate {
    type Err = InvalidRate;

    /// A whole number above zero, `/`, and `s`, `m` or `h`, which may have a whole number before it.
    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        let (requests, period) = text.split_once('/').ok_or(InvalidRate)?;
        let requests: NonZeroU32 = requests.trim().parse().map_err(|_| InvalidRate)?;
        let period = period.trim();
        let unit = period.len().checked_sub(1).filter(|&at| period.is_char_boundary(at)).ok_or(InvalidRate)?;
        let (count, unit) = period.split_at(unit);
        let count: u32 = if count.is_empty() { 1 } else { count.parse().map_err(|_| InvalidRate)? };
        let seconds: u64 = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(InvalidRate),
        };
        match (count, u64::from(count) * seconds) {
            (1.., seconds @ ..=86_400) => Ok(Self { requests, period: Duration::from_secs(seconds) }),
            _ => Err(InvalidRate),
        }
    }
}

/// The limits of a server; `None` is without limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimitConfig {
    /// Attempts to get in from one address: signing in, accepting an invitation, pairing. Default 60 a minute.
    pub sign_in_per_address: Option<Rate>,
    /// Passwords tried for one account, from wherever. Default 20 a minute.
    pub sign_in_per_account: Option<Rate>,
    /// Requests of the API with one credential, or of one signed-in user. Default 1200 a minute.
    pub api_per_credential: Option<Rate>,
    /// Requests of the API from one address that are not known to be anybody's. Default 600 a minute.
    pub api_per_address: Option<Rate>,
}

impl Default for RateLimitConfig {
    fn default() -> Self {
        Self {
            sign_in_per_address: Some(Rate::per_minute(60)),
            sign_in_per_account: Some(Rate::per_minute(20)),
            api_per_credential: Some(Rate::per_minute(1200)),
            api_per_address: Some(Rate::per_minute(600)),
        }
    }
}

/// There were too many requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests; the next one is possible in {} s", self.seconds())]
pub struct TooMany {
    wait: Duration,
}

impl TooMany {
    /// Whole seconds after which one more is possible.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.wait.as_secs() + (self.wait.subsec_nanos() > 0) as u64
    }
}

/// The counters of a server.
#[derive(Debug)]
pub struct RateLimits {
    sign_in_per_address: Limiter<Network>,
    sign_in_per_account: Limiter<String>,
    api_per_credential: Limiter<Sender>,
    api_per_address: Limiter<Network>,
}

impl RateLimits {
    /// Counters that stand at zero.
    #[must_use]
    pub fn new(config: &RateLimitConfig) -> Self {
        Self {
            sign_in_per_address: Limiter::new(config.sign_in_per_address, Network::of(Ipv6Addr::UNSPECIFIED.into())),
            sign_in_per_account: Limiter::new(config.sign_in_per_account, String::new()),
            api_per_credential: Limiter::new(config.api_per_credential, Sender::Rest),
            api_per_address: Limiter::new(config.api_per_address, Network::of(Ipv6Addr::UNSPECIFIED.into())),
        }
    }

    /// Counts an attempt to get in.
    ///
    /// # Errors
    /// When there were too many from this address.
    pub fn sign_in_from(&self, address: IpAddr) -> Result<(), TooMany> {
        self.sign_in_per_address.count(Network::of(address))
    }

    /// Counts a password that is tried.
    ///
    /// # Errors
    /// When there were too many for this account; whether there is one makes no difference.
    pub fn sign_in_as(&self, email_address: &str) -> Result<(), TooMany> {
        self.sign_in_per_account.count(email_address.trim().to_lowercase())
    }

    /// Counts a request of somebody in a team.
    ///
    /// # Errors
    /// When there were too many with this credential, or by this user.
    pub fn api_of(&self, principal: &Principal) -> Result<(), TooMany> {
        self.api_per_credential.count(match principal {
            Principal::User { user_id, .. } => Sender::User(*user_id),
            Principal::Device { credential_id, .. } | Principal::Integration { credential_id, .. } => {
                Sender::Credential(*credential_id)
            }
        })
    }

    /// Counts a request of a signed-in user.
    ///
    /// # Errors
    /// When there were too many.
    pub fn api_of_user(&self, user_id: UserId) -> Result<(), TooMany> {
        self.api_per_credential.count(Sender::User(user_id))
    }

    /// Counts a request of nobody known.
    ///
    /// # Errors
    /// When there were too many from this address.
    pub fn api_from(&self, address: IpAddr) -> Result<(), TooMany> {
        self.api_per_address.count(Network::of(address))
    }
}

/// What one party has to itself: an IPv4 address, or the 64 bits of an IPv6 network, in which anybody can have as many
/// addresses as there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Network(IpAddr);

impl Network {
    fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Sender {
    User(UserId),
    Credential(CredentialId),
    Rest,
}

type Counters<K> = RateLimiter<K, HashMapStateStore<K>, Monotonic, NoOpMiddleware<Nanos>>;

/// One limit for many keys.
struct Limiter<K: Clone + Eq + Hash> {
    counters: Option<Counters<K>>,
    /// The key of all those that there is no more room for.
    rest: K,
    last_sweep: Mutex<Option<Instant>>,
}

impl<K: Clone + Eq + Hash + fmt::Debug> Limiter<K> {
    fn new(rate: Option<Rate>, rest: K) -> Self {
        let quota = rate.and_then(|rate| {
            Quota::with_period(rate.period / rate.requests.get()).map(|quota| quota.allow_burst(rate.requests))
        });
        let counters = quota.map(|quota| RateLimiter::new(quota, HashMapStateStore::default(), Monotonic::new()));
        Self { counters, rest, last_sweep: Mutex::new(None) }
    }

    fn count(&self, key: K) -> Result<(), TooMany> {
        let Some(counters) = &self.counters else { return Ok(()) };
        if counters.len() >= MAX_KEYS && self.sweep_is_due() {
            counters.retain_recent();
        }
        let key = if counters.len() < MAX_KEYS { key } else { self.rest.clone() };
        counters.check_key(&key).map_err(|not_until| {
            let wait = not_until.wait_time_from(counters.clock().now());
            tracing::debug!(?key, seconds = wait.as_secs_f32(), "too many requests");
            TooMany { wait }
        })
    }

    /// Sweeping looks at every key, which a flood must not cause for each of its requests.
    fn sweep_is_due(&self) -> bool {
        let Ok(mut last) = self.last_sweep.lock() else { return false };
        let is_due = last.is_none_or(|last| last.elapsed() >= SWEEP);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }
}

impl<K: Clone + Eq + Hash> fmt::Debug for Limiter<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter").field("is_limited", &self.counters.is_some()).finish_non_exhaustive()
    }
}

/// Time that a change of the machine's clock does not touch, and that tests can stop.
#[derive(Debug, Clone)]
struct Monotonic {
    start: Instant,
}

impl Monotonic {
    fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for Monotonic {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.start.elapsed().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read() {
        for (text, requests, seconds) in
            [("60/m", 60, 60), ("5/s", 5, 1), ("20/10m", 20, 600), (" 1 / 24h ", 1, 86_400)]
        {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.requests.get(), rate.period.as_secs()), (requests, seconds), "{text}");
        }
        for text in ["", "60", "/m", "0/m", "60/", "60/0m", "60/x", "60/25h", "-1/m", "60/é", "1/1d", "1/m/m", "1/-5s"]
        {
            assert_eq!(text.parse::<Rate>(), Err(InvalidRate), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_empties_and_fills() {
        let limiter = Limiter::new(Some("3/m".parse().unwrap()), "");
        for _ in 0..3 {
            assert_eq!(limiter.count("a"), Ok(()));
        }
        let refused = limiter.count("a").unwrap_err();
        assert_eq!(refused.seconds(), 20);
        assert_eq!(limiter.count("b"), Ok(()), "another's bucket is full");
        tokio::time::advance(Duration::from_secs(19)).await;
        assert_eq!(limiter.count("a").unwrap_err().seconds(), 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(limiter.count("a"), Ok(()));
        assert!(limiter.count("a").is_err());
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!((0..9).filter(|_| limiter.count("a").is_ok()).count(), 3, "no more than a full bucket");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_keys_takes_no_more_room_than_there_is() {
        let limiter = Limiter::new(Some("2/m".parse().unwrap()), usize::MAX);
        for key in 0..MAX_KEYS {
            limiter.count(key).unwrap();
        }
        assert_eq!((0..9).filter(|key| limiter.count(MAX_KEYS + key).is_ok()).count(), 2, "they share one bucket");
        assert_eq!(limiter.counters.as_ref().unwrap().len(), MAX_KEYS + 1);
        tokio::time::advance(Duration::from_secs(120)).await;
        assert_eq!(
            (0..9).filter(|key| limiter.count(MAX_KEYS + key).is_ok()).count(),
            9,
            "the quiet ones are forgotten"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_what_one_party_has_to_itself() {
        let limits = |config| RateLimits::new(&config);
        let one = Some(Rate::per_minute(1));
        let from = limits(RateLimitConfig { sign_in_per_address: one, ..Default::default() });
        for (address, is_new) in [
            ("192.0.2.1", true),
            ("::ffff:192.0.2.1", false),
            ("192.0.2.2", true),
            ("2001:db8::1", true),
            ("2001:db8::2:3", false),
            ("2001:db8:0:1::1", true),
        ] {
            assert_eq!(from.sign_in_from(address.parse().unwrap()).is_ok(), is_new, "{address}");
        }
        let accounts = limits(RateLimitConfig { sign_in_per_account: one, ..Default::default() });
        for (account, is_new) in [("a@example.com", true), (" A@Example.com", false), ("b@example.com", true)] {
            assert_eq!(accounts.sign_in_as(account).is_ok(), is_new, "{account}");
        }
        let off = limits(RateLimitConfig { sign_in_per_account: None, ..Default::default() });
        assert!((0..1000).all(|_| off.sign_in_as("a@example.com").is_ok()));
    }
}
