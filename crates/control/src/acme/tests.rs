use std::{
    collections::VecDeque,
    fs,
    os::unix::fs::PermissionsExt,
    sync::{Mutex, PoisonError},
};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tempfile::TempDir;
use tokio::time::Instant;
use towline_model::Secret;

use super::{authority::Kind, *};

const DAY: Duration = Duration::from_secs(24 * 3600);
const DIRECTORY: &str = "https://acme.test/directory";

/// A time of day that goes with tokio's virtual time.
#[derive(Clone, Copy)]
struct Virtual(Timestamp, Instant);

impl Virtual {
    fn start() -> Self {
        Self(Timestamp::parse("2026-11-26T12:00:00Z").unwrap(), Instant::now())
    }
}

impl Clock for Virtual {
    fn now(&self) -> Timestamp {
        self.0 + self.1.elapsed()
    }
}

/// What an authority does with an order.
#[derive(Clone)]
enum Does {
    Refuse,
    NotAnswer,
    /// Refuses, and wants to be left alone for so long.
    RefuseFor(Duration),
    /// A certificate that began so long ago and is good for so long from now on.
    Issue(Duration, Duration),
    IssueForAnother,
}

/// An authority that does all this in turn, and the last for ever.
struct Scripted {
    script: VecDeque<Does>,
    clock: Virtual,
    asked: Arc<Mutex<Vec<Timestamp>>>,
}

impl Orders for Scripted {
    async fn order(&mut self) -> Result<Issued, Failure> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(self.clock.now());
        let next = if self.script.len() > 1 { self.script.pop_front() } else { self.script.front().cloned() };
        match next.unwrap() {
            Does::Refuse => Err(Failure::refused("no")),
            Does::NotAnswer => Err(Failure { kind: Kind::Unreachable, ..Failure::refused("no route") }),
            Does::RefuseFor(time) => Err(Failure { retry_after: Some(time), ..Failure::refused("not now") }),
            Does::Issue(ago, ahead) => Ok(self.issue("b.test", ago, ahead)),
            Does::IssueForAnother => Ok(self.issue("c.test", Duration::ZERO, DAY)),
        }
    }
}

impl Scripted {
    fn issue(&self, second: &str, ago: Duration, ahead: Duration) -> Issued {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![second.to_owned(), "a.test".to_owned()]).unwrap();
        let now = Duration::from_micros(self.clock.now().as_micros().unsigned_abs());
        params.not_before = date_time_ymd(1970, 1, 1) + now - ago;
        params.not_after = date_time_ymd(1970, 1, 1) + now + ahead;
        Issued { chain: params.self_signed(&key).unwrap().pem(), key: Secret::new(key.serialize_pem()) }
    }
}

struct World {
    clock: Virtual,
    data_dir: TempDir,
    asked: Arc<Mutex<Vec<Timestamp>>>,
}

impl World {
    fn new() -> Self {
        Self { clock: Virtual::start(), data_dir: tempfile::tempdir().unwrap(), asked: Arc::default() }
    }

    fn acme(
        &self,
        script: impl IntoIterator<Item = Does>,
        names: &[&str],
        directory: &str,
    ) -> (Acme<Scripted>, ServerTls) {
        let orders =
            Scripted { script: script.into_iter().collect(), clock: self.clock, asked: Arc::clone(&self.asked) };
        let tls = ServerTls::awaiting().unwrap();
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let kept = Kept::in_data_dir(self.data_dir.path()).unwrap();
        (Acme::with(orders, names, directory.to_owned(), kept, tls.clone(), Arc::new(self.clock)), tls)
    }

    /// Lets a server run for so long; returns what it shows then, and how many seconds lay between its orders.
    async fn run(&self, script: impl IntoIterator<Item = Does>, time: Duration) -> (ServerTls, Vec<u64>) {
        let (acme, tls) = self.acme(script, &["a.test", "b.test"], DIRECTORY);
        assert!(timeout(time, acme.run(CancellationToken::new())).await.is_err(), "it ends with the server only");
        let asked = self.asked.lock().unwrap().clone();
        (tls, asked.windows(2).map(|two| two[1].since(two[0]).as_secs()).collect())
    }
}

/// Whether each pause is as long as expected, or up to a tenth longer.
fn fit(pauses: &[u64], expected: &[u64]) -> bool {
    let fits = |(pause, expected): (&u64, &u64)| (*expected..=*expected + *expected / 10).contains(pause);
    pauses.len() == expected.len() && pauses.iter().zip(expected).all(fits)
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_after_two_thirds_of_its_life() {
    let world = World::new();
    let (tls, pauses) = world.run([Does::Issue(Duration::ZERO, 90 * DAY)], 365 * DAY).await;
    assert_eq!(pauses.len(), 6, "{pauses:?}");
    for pause in pauses {
        assert!((58 * 24 * 3600..=60 * 24 * 3600).contains(&pause), "{pause}");
    }
    assert!(tls.said().unwrap().not_after > world.clock.now() + 30 * DAY);
}

#[tokio::test(start_paused = true)]
async fn failures_make_it_wait_longer_each_time_and_a_certificate_begins_anew() {
    let world = World::new();
    let life = Does::Issue(Duration::ZERO, 90 * DAY);
    let script = [Does::NotAnswer, Does::NotAnswer, Does::NotAnswer, Does::Refuse, Does::Refuse, Does::IssueForAnother];
    let (tls, pauses) = world.run(script, Duration::from_secs(4000)).await;
    assert!(fit(&pauses, &[5, 10, 20, 60, 600]), "{pauses:?}");
    assert_eq!(tls.said(), None, "neither is there one, nor is another's shown");

    world.asked.lock().unwrap().clear();
    let (_, pauses) = world.run([Does::RefuseFor(DAY / 8), Does::Refuse], DAY / 6).await;
    assert!(fit(&pauses, &[3 * 3600, 600]), "{pauses:?}");

    world.asked.lock().unwrap().clear();
    let (tls, pauses) = world.run([Does::Refuse, life, Does::Refuse], 70 * DAY).await;
    assert!(fit(&pauses[..1], &[60]) && fit(&pauses[2..5], &[60, 600, 6000]), "{pauses:?}");
    assert!(tls.said().is_some(), "the one before stays");
}

#[tokio::test(start_paused = true)]
async fn an_expired_certificate_is_shown_until_its_renewal_succeeds() {
    let world = World::new();
    let (tls, _) = world.run([Does::Issue(Duration::ZERO, DAY), Does::NotAnswer], 3 * DAY).await;
    assert!(tls.said().unwrap().not_after < world.clock.now() - DAY);
    // Also by a process that was started since.
    let (tls, _) = world.run([Does::NotAnswer, Does::Issue(Duration::ZERO, DAY)], Duration::from_secs(4)).await;
    assert!(tls.said().unwrap().not_after < world.clock.now());
    let (tls, _) = world.run([Does::Issue(Duration::ZERO, DAY)], Duration::from_secs(4)).await;
    assert!(tls.said().unwrap().not_after > world.clock.now());
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_wrong_does_not_make_it_order_without_end() {
    for (ahead, is_shown) in [(10 * DAY, true), (Duration::ZERO, false)] {
        let world = World::new();
        let (tls, pauses) = world.run([Does::Issue(90 * DAY, ahead)], DAY / 8).await;
        assert!(fit(&pauses, &[60, 600, 6000]), "{pauses:?}");
        assert_eq!(tls.said().is_some(), is_shown);
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_orders_only_what_is_wanted_and_not_there() {
    let world = World::new();
    let life = Does::Issue(Duration::ZERO, 90 * DAY);
    world.run([life], DAY).await;
    let path = world.data_dir.path().join("acme/certificate.pem");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let now = world.clock.now();
    for (names, directory, is_due) in [
        (&["a.test", "b.test"][..], DIRECTORY, false),
        (&["a.test"], DIRECTORY, true),
        (&["a.test", "b.test", "c.test"], DIRECTORY, true),
        (&["a.test", "b.test"], "https://other.test/", true),
    ] {
        let (acme, tls) = world.acme([Does::Refuse], names, directory);
        assert_eq!(acme.due <= now, is_due, "{names:?}, {directory}");
        assert!(tls.said().is_some(), "it is better than none");
    }

    fs::write(&path, "broken").unwrap();
    let (acme, tls) = world.acme([Does::Refuse], &["a.test", "b.test"], DIRECTORY);
    assert!(acme.due <= now && tls.said().is_none());
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_the_server_stops() {
    let world = World::new();
    let (acme, _) = world.acme([Does::Issue(Duration::ZERO, 90 * DAY)], &["a.test", "b.test"], DIRECTORY);
    let stop = CancellationToken::new();
    let (stopping, ()) = tokio::join!(timeout(60 * DAY, acme.run(stop.clone())), async {
        sleep(DAY).await;
        stop.cancel();
    });
    stopping.unwrap();
    assert_eq!(world.clock.now().since(world.clock.0), DAY);
}
