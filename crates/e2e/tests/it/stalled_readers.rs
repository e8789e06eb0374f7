//! Two hundred callers that take a download's first bytes and then read no more, beside others that want small answers.
//!
//! The others must not be slower for it: the median of several rounds' 99th percentiles, the calmest of a few such medians, stays within
//! twice of what it is without them.
//! And the gateway keeps within its memory: what stalls is held back at its source.

use std::time::{Duration, Instant};

use http::Method;
use reqwest::Response;
use tokio::task::JoinSet;
use towline_e2e::{
    api::Api,
    process::Process,
    system::{Server, ServerOptions},
    wait::{SOON, wait_until},
};

use crate::docker::Running;

const STALLED: usize = 200;
const ROUNDS: usize = 7;
const ATTEMPTS: usize = 12;
const CALLERS: usize = 2;
const CALLS: usize = 500;

/// What data on its way to slow readers may take in all, as the server is told.
const TUNNEL_MEMORY: &str = "64MiB";

/// What the process may take with that: 64 MiB for the windows, 200 × 0.5 MiB for the buffers of an HTTP connection on either side,
/// and the process itself. Two hundred gibibytes are waiting to be read.
const BUDGET: u64 = 256 << 20;

/// A caller that reads one piece and then only keeps the connection.
async fn stall(api: Api) -> Response {
    let request = api.request(Method::GET, "/r/containers/hello/bytes?n=1073741824&chunk=65536");
    let mut response = request.send().await.expect("a head");
    assert_eq!(response.status(), 200);
    response.chunk().await.expect("a first piece").expect("a body");
    response
}

/// The 99th percentile of the times of small requests, a few at a time.
async fn p99(api: &Api) -> Duration {
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let api = api.clone();
        callers.spawn(async move {
            let mut times = Vec::with_capacity(CALLS);
            for _ in 0..CALLS {
                let started = Instant::now();
                let answer = api.get("/r/containers/hello/echo").await;
                times.push(started.elapsed());
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
            times
        });
    }
    let mut times: Vec<Duration> = callers.join_all().await.concat();
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

async fn median_p99(api: &Api) -> Duration {
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        rounds.push(p99(api).await);
    }
    rounds.sort_unstable();
    rounds[ROUNDS / 2]
}

/// The lowest of a few medians. A machine that is busy with something else for a while does not fail the test; what stalled
/// readers did to the others would be there in every one of them.
async fn calmest_p99(api: &Api, enough: Duration) -> Duration {
    let mut calmest = Duration::MAX;
    for _ in 0..ATTEMPTS {
        calmest = calmest.min(median_p99(api).await);
        if calmest <= enough {
            break;
        }
    }
    calmest
}

/// Readers stall when every buffer on their way is full. It is when the server takes no more memory.
async fn wait_until_it_rests(running: &Running) {
    let mut last = (running.server.process.memory().now, Instant::now());
    wait_until("the downloads have stalled", SOON, async || {
        let now = running.server.process.memory().now;
        if now != last.0 {
            last = (now, Instant::now());
        }
        if last.1.elapsed() > Duration::from_secs(1) { Ok(()) } else { Err(format!("{now} bytes")) }
    })
    .await;
}

fn assert_within_budget(process: &Process) {
    let memory = process.memory();
    assert!(memory.peak < BUDGET, "the server needed {} MiB", memory.peak >> 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_stalled_readers_are_in_nobodys_way() {
    let arguments = ["--tunnel-memory", TUNNEL_MEMORY].map(str::to_owned).to_vec();
    let server = Server::start_with(ServerOptions { arguments, ..ServerOptions::default() }).await;
    let running = Running::start_on(server, 1, |_| ()).await;
    p99(&running.api).await; // Warm: connections, carriers, caches.
    let idle = median_p99(&running.api).await;

    let mut stalled = JoinSet::new();
    for _ in 0..STALLED {
        stalled.spawn(stall(running.api.clone()));
    }
    let mut stalled = stalled.join_all().await;
    assert_eq!(stalled.len(), STALLED);
    wait_until_it_rests(&running).await;
    let beside = calmest_p99(&running.api, idle * 2).await;
    assert!(beside <= idle * 2, "p99 is {beside:?} beside {STALLED} stalled readers and {idle:?} without them");
    assert_within_budget(&running.server.process);
    assert_within_budget(&running.agent.process);

    // Each of them goes on where it stopped when its reader does.
    let mut woken = stalled.pop().expect("there are 200");
    let mut received = 0;
    while received < 32 << 20 {
        received += woken.chunk().await.expect("more pieces").expect("the body goes on").len();
    }
    drop((woken, stalled));
    // And when they have left, nothing of theirs is kept.
    let after = calmest_p99(&running.api, idle * 2).await;
    assert!(after <= idle * 2, "p99 is {after:?} after they have left and was {idle:?} before");
}
