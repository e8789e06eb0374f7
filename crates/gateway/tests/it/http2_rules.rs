//! Requests of HTTP/2 that break its rules, frame by frame: none of them reaches a container, and those that do not break
//! the connection leave it usable. Sections are those of RFC 9113 unless said otherwise.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use towline_gateway::testing::{Container, World, within};

use crate::http2_frames::{DATA, END_STREAM, Frames, Outcome, good};

#[tokio::test]
async fn requests_that_break_the_rules_reach_no_container() {
    let reached = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reached);
    let container = Container::start(move |mut exchange, _| {
        let reached = Arc::clone(&counted);
        async move {
            while exchange.request().await?.is_some() {
                reached.fetch_add(1, Ordering::SeqCst);
                exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await?;
            }
            Ok(())
        }
    })
    .await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let path = "/api/v1/r/containers/hello/";
    let plain = || good(&team.key, path);
    let with = |name, value| [plain(), vec![(name, value)]].concat();
    let without = |name: &str| plain().into_iter().filter(|(found, _)| *found != name).collect::<Vec<_>>();
    let first = |name, value| [vec![(name, value)], plain()].concat();
    let rows: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("§8.2.1: names in upper case", with("X-Upper", "1")),
        ("§8.2.1: a name with a space", with("x y", "1")),
        ("§8.2.1: a name with a colon", with("x:y", "1")),
        ("§8.2.1: an empty name", with("", "1")),
        ("§8.2.1: CR in a value", with("x-a", "1\r2")),
        ("§8.2.1: LF in a value", with("x-a", "1\n2")),
        ("§8.2.1: NUL in a value", with("x-a", "1\x002")),
        ("§8.2.2: Connection", with("connection", "x-a")),
        ("§8.2.2: Keep-Alive", with("keep-alive", "timeout=5")),
        ("§8.2.2: Proxy-Connection", with("proxy-connection", "keep-alive")),
        ("§8.2.2: Transfer-Encoding", with("transfer-encoding", "chunked")),
        ("§8.2.2: Upgrade", with("upgrade", "websocket")),
        ("§8.2.2: TE other than trailers", with("te", "gzip")),
        ("§8.3: a pseudo-header behind a field", first("x-a", "1")),
        ("§8.3: an unknown pseudo-header", first(":colour", "red")),
        ("§8.3: one for answers", first(":status", "200")),
        ("§8.3: one twice", first(":path", "/")),
        ("§8.3.1: no :method", without(":method")),
        ("§8.3.1: no :path", without(":path")),
        ("§8.3.1: no :scheme", without(":scheme")),
        ("§8.3.1: an empty :path", [vec![(":path", "")], without(":path")].concat()),
        (
            "RFC 9110 §9.3.6: CONNECT",
            vec![(":method", "CONNECT"), (":authority", "other.test:80"), ("x-towline-key", &team.key)],
        ),
        ("RFC 9110 §8.6: a length that is no number", with("content-length", "1x")),
        ("RFC 8441 §4: :protocol without CONNECT", first(":protocol", "websocket")),
        (
            "RFC 8441 §4: CONNECT with :protocol and no :path",
            [vec![(":method", "CONNECT"), (":protocol", "websocket")], without(":path")[1..].to_vec()].concat(),
        ),
        (
            "RFC 8441 §4: CONNECT with :protocol and no :scheme",
            [vec![(":method", "CONNECT"), (":protocol", "websocket")], without(":scheme")[1..].to_vec()].concat(),
        ),
    ];
    for (rule, fields) in rows {
        let mut frames = Frames::connect(&world).await;
        frames.headers(1, true, &fields).await;
        let outcome = within(rule, frames.outcome(1)).await;
        assert!(
            matches!(outcome, Outcome::Reset(_) | Outcome::Over(_) | Outcome::Answered(400)),
            "{rule}: {outcome:?}"
        );
        if matches!(outcome, Outcome::Over(_)) {
            continue;
        }
        frames.headers(3, true, &plain()).await;
        assert_eq!(within(rule, frames.outcome(3)).await, Outcome::Answered(200), "{rule}: the connection goes on");
        reached.fetch_sub(1, Ordering::SeqCst);
    }
    assert_eq!(reached.load(Ordering::SeqCst), 0, "nothing of it has reached the container");
}

#[tokio::test]
async fn a_body_is_as_long_as_its_length_says() {
    // §8.1.1: both ways to be wrong.
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    for (length, body) in [("3", "hello"), ("9", "hello")] {
        let mut frames = Frames::connect(&world).await;
        let mut fields = good(&team.key, "/api/v1/r/containers/hello/");
        fields.push(("content-length", length));
        frames.headers(1, false, &fields).await;
        frames.frame(DATA, END_STREAM, 1, body.as_bytes()).await;
        let outcome = within("it is refused", frames.outcome(1)).await;
        assert_ne!(outcome, Outcome::Answered(200), "{length} for {body}");
    }
}

#[tokio::test]
async fn te_trailers_and_a_list_of_cookies_are_no_faults() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut frames = Frames::connect(&world).await;
    let mut fields = good(&team.key, "/api/v1/r/containers/hello/");
    fields.extend([("te", "trailers"), ("cookie", "a=1"), ("cookie", "b=2")]);
    frames.headers(1, true, &fields).await;
    assert_eq!(within("an answer", frames.outcome(1)).await, Outcome::Answered(200));
}
