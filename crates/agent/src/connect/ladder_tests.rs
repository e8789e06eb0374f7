//! Choosing and testing again, in virtual time, against a way to the server that changes.

use std::{future::ready, io, sync::Arc};

use http::StatusCode;
use tokio::time::Instant;

use super::*;
use crate::{connect::Rejection, task::spawn_owned};

const UPGRADE: Rung = Rung::pair(false)[0];
const WEBSOCKET: Rung = Rung::pair(false)[1];
const PROXIED: Rung = Rung::pair(true)[0];
const PROXIED_WEBSOCKET: Rung = Rung::pair(true)[1];

/// What stands between agent and server, and which ways it was asked for.
#[derive(Debug, Default)]
struct Network {
    passes: Mutex<Vec<Rung>>,
    asked: Mutex<Vec<Rung>>,
}

impl Network {
    fn pass(&self, rungs: &[Rung]) {
        *self.passes.lock().unwrap() = rungs.to_vec();
    }

    fn dial(&self, rung: Rung) -> Result<(), ConnectError> {
        self.asked.lock().unwrap().push(rung);
        if self.passes.lock().unwrap().contains(&rung) { Ok(()) } else { Err(of_balancer(400)) }
    }

    fn take_asked(&self) -> Vec<Rung> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

fn of_balancer(status: u16) -> ConnectError {
    Rejection::for_test(StatusCode::from_u16(status).unwrap(), "<html>").into()
}

fn of_server(status: u16) -> ConnectError {
    let body = r#"{"error_code":"x","error_message":"because"}"#;
    Rejection::for_test(StatusCode::from_u16(status).unwrap(), body).into()
}

fn unreachable() -> ConnectError {
    ConnectError::Connect { address: "192.0.2.1:443".parse().unwrap(), source: io::ErrorKind::TimedOut.into() }
}

/// Dials with these outcomes, in the order in which ways are tried; a missing one is success. Gives the ways that were tried.
async fn tried(ladder: &Ladder, outcomes: Vec<ConnectError>) -> (Vec<Rung>, Result<Rung, ConnectError>) {
    let (mut tried, mut outcomes) = (Vec::new(), outcomes.into_iter());
    let outcome = choose(ladder, |rung| {
        tried.push(rung);
        ready(outcomes.next().map_or(Ok(()), Err))
    });
    let outcome = outcome.await.map(|((), rung)| rung);
    (tried, outcome)
}

#[tokio::test]
async fn only_what_another_way_can_mend_leads_to_another_way() {
    let both = || Ladder::new(Rung::pair(false).to_vec());
    for status in [200, 301, 400, 401, 403, 404, 426, 502, 503] {
        let (ways, outcome) = tried(&both(), vec![of_balancer(status)]).await;
        assert_eq!((ways, outcome.unwrap()), (vec![UPGRADE, WEBSOCKET], WEBSOCKET), "{status}");
    }
    let (ways, _) = tried(&both(), vec![of_server(426)]).await;
    assert_eq!(ways, [UPGRADE, WEBSOCKET], "the upgrade has got lost on the way");
    for status in [401, 403, 429, 500, 503] {
        let (ways, outcome) = tried(&both(), vec![of_server(status)]).await;
        assert_eq!(ways, [UPGRADE], "{status}");
        assert!(outcome.unwrap_err().to_string().contains("because"), "{status}");
    }
    let (ways, outcome) = tried(&both(), vec![unreachable()]).await;
    assert_eq!(ways, [UPGRADE], "what cannot be connected to is not asked for a WebSocket");
    assert!(matches!(outcome.unwrap_err(), ConnectError::Connect { .. }));
}

#[tokio::test]
async fn the_proxy_comes_first_and_what_lies_behind_it_is_tried_too() {
    let ladder = || Ladder::new(Rung::pair(true).into_iter().chain(Rung::pair(false)).collect());
    let (ways, _) = tried(&ladder(), vec![of_balancer(400)]).await;
    assert_eq!(ways, [PROXIED, PROXIED_WEBSOCKET]);
    let refused = || ConnectError::ProxyRefused {
        proxy: "p:1".to_owned(),
        target: "s:443".to_owned(),
        status: StatusCode::FORBIDDEN,
    };
    let (ways, outcome) = tried(&ladder(), vec![refused()]).await;
    assert_eq!((ways, outcome.unwrap()), (vec![PROXIED, UPGRADE], UPGRADE));
    let (ways, outcome) = tried(&ladder(), vec![refused(), of_balancer(404), of_balancer(404)]).await;
    assert_eq!(ways, [PROXIED, UPGRADE, WEBSOCKET]);
    assert!(outcome.unwrap_err().to_string().contains("the proxy p:1 refuses"), "the first failure is told");
    let (_, outcome) = tried(&ladder(), vec![refused(), of_balancer(404), of_balancer(502)]).await;
    assert!(!outcome.unwrap_err().is_lasting(), "one that may pass by itself is told before one that will not");
}

#[tokio::test]
async fn the_way_that_worked_is_tried_first_and_the_others_from_the_top() {
    let ladder = Ladder::new(Rung::pair(true).into_iter().chain(Rung::pair(false)).collect());
    let (_, outcome) = tried(&ladder, vec![unreachable(), of_balancer(400)]).await;
    assert_eq!(outcome.unwrap(), WEBSOCKET);
    let (ways, _) = tried(&ladder, vec![]).await;
    assert_eq!(ways, [WEBSOCKET]);
    let (ways, _) = tried(&ladder, vec![of_balancer(502), of_balancer(502)]).await;
    assert_eq!(ways, [WEBSOCKET, PROXIED, PROXIED_WEBSOCKET]);
    ladder.broke(PROXIED);
    let (ways, _) = tried(&ladder, vec![]).await;
    assert_eq!(ways, [PROXIED_WEBSOCKET], "it is not the present way that broke");
    ladder.broke(PROXIED_WEBSOCKET);
    let (ways, _) = tried(&ladder, vec![]).await;
    assert_eq!(ways, [UPGRADE], "one lower");
    ladder.broke(UPGRADE);
    ladder.broke(WEBSOCKET);
    let (ways, _) = tried(&ladder, vec![]).await;
    assert_eq!(ways, [PROXIED], "below the last comes the top");
}

#[tokio::test(start_paused = true)]
async fn the_ways_above_are_tested_again_every_ten_minutes_for_ever() {
    let ladder = Arc::new(Ladder::new(Rung::pair(false).to_vec()));
    let network = Arc::new(Network::default());
    network.pass(&[WEBSOCKET]);
    let dial = |rung| ready(network.dial(rung));
    assert_eq!(choose(&ladder, dial).await.unwrap().1, WEBSOCKET);
    network.take_asked();
    let testing = (Arc::clone(&ladder), Arc::clone(&network));
    let _testing = spawn_owned(async move { retest(&testing.0, |rung| ready(testing.1.dial(rung))).await });
    let began = Instant::now();
    sleep(Duration::from_secs(24 * 3600 + 1)).await;
    assert_eq!(network.take_asked(), [UPGRADE; 144], "a day of tests, and nothing else is asked for");
    network.pass(&[WEBSOCKET, UPGRADE]);
    sleep(RETEST_INTERVAL).await;
    assert_eq!(network.take_asked(), [UPGRADE]);
    assert_eq!(choose(&ladder, dial).await.unwrap().1, UPGRADE);
    network.take_asked();
    sleep(Duration::from_secs(24 * 3600)).await;
    assert_eq!(network.take_asked(), [], "from the top there is nothing to look for");
    // And down again when it stops to pass.
    network.pass(&[WEBSOCKET]);
    assert_eq!(choose(&ladder, dial).await.unwrap().1, WEBSOCKET);
    assert!(began.elapsed() < Duration::from_secs(3 * 24 * 3600));
}
