//! What ends with a key, a membership or a sign-in: everything that is in flight by it, whoever reads it or does not.

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, task::JoinSet};
use towline_gateway::{
    Credential, LastUse,
    access_token::TokenHolder,
    testing::{BEGUN, Container, RawCaller, TeamSetup, World, wait_until, within},
};
use towline_model::{Clock as _, CredentialId, KeyKind, Role, Scope, SignInId, SystemClock};

const HELLO: &str = "/api/v1/r/containers/hello/";

fn get(path: &str, key: &str, rest: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n{rest}\r\n")
}

/// A container that begins an answer and then waits.
async fn pausing() -> Container {
    Container::start(|mut exchange, _| async move {
        exchange.head().await?;
        exchange.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n").await?;
        exchange.ended().await
    })
    .await
}

/// A container that sends more than anybody's buffers hold.
async fn endless() -> Container {
    Container::start(|mut exchange, _| async move {
        exchange.head().await?;
        exchange.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        loop {
            exchange.write(&chunk).await?;
        }
    })
    .await
}

/// A container that switches to another protocol and says nothing in it.
async fn switching() -> Container {
    Container::start(|mut exchange, _| async move {
        exchange.head().await?;
        exchange.write("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n").await?;
        exchange.ended().await
    })
    .await
}

fn device(team: &TeamSetup) -> Credential {
    Credential {
        id: CredentialId::generate(),
        kind: KeyKind::Device,
        team_id: team.id,
        user_id: Some(team.member),
        scopes: [].into(),
        services: None,
        expires_at: None,
        last_use: LastUse::default(),
    }
}

/// A caller whose answer has begun.
async fn reading(world: &World, text: String) -> RawCaller {
    let mut caller = world.caller().await;
    caller.send(text).await;
    assert_eq!(within("the head", caller.head()).await.unwrap().status, 200);
    within("a chunk", caller.chunk()).await.unwrap();
    caller
}

#[tokio::test]
async fn what_a_user_has_in_flight_ends_with_the_membership_and_with_the_right_to_call() {
    let container = pausing().await;
    for role in [None, Some(Role::Viewer)] {
        let world = World::start().await;
        let (team, _agent, service) = world.hello(&container).await;
        let key = world.add_key(device(&team));
        let named = format!("X-Team-ID: {}\r\n", team.id);
        let mut signed_in = reading(&world, get(HELLO, &world.token(team.member), &named)).await;
        let mut by_device = reading(&world, get(HELLO, &key, "")).await;
        let _by_team = reading(&world, get(HELLO, &team.key, "")).await;
        world.set_role(team.member, team.id, role);
        for caller in [&mut signed_in, &mut by_device] {
            assert!(within("the cut", caller.chunk()).await.is_err(), "{role:?}");
        }
        wait_until("only the team's key in flight", || world.gateway.in_flight(service) == 1).await;
        world.set_role(team.member, team.id, Some(Role::Member));
        reading(&world, get(HELLO, &key, "")).await;
        reading(&world, get(HELLO, &world.token(team.member), &named)).await;
    }
}

#[tokio::test]
async fn a_role_that_still_calls_ends_nothing() {
    let container = pausing().await;
    let world = World::start().await;
    let (team, _agent, service) = world.hello(&container).await;
    let named = format!("X-Team-ID: {}\r\n", team.id);
    let _signed_in = reading(&world, get(HELLO, &world.token(team.member), &named)).await;
    world.set_role(team.member, team.id, Some(Role::Admin));
    // A call that comes later has been through the whole gateway.
    reading(&world, get(HELLO, &team.key, "")).await;
    assert!(world.gateway.in_flight(service) >= 1);
}

#[tokio::test]
async fn a_sign_in_that_ended_opens_nothing_and_keeps_nothing() {
    let container = pausing().await;
    let world = World::start().await;
    let (team, _agent, service) = world.hello(&container).await;
    let named = format!("X-Team-ID: {}\r\n", team.id);
    let holder = |sign_in| TokenHolder { user_id: team.member, sign_in };
    let [ended, other] = [(); 2].map(|()| SignInId::generate());
    let mut cut = reading(&world, get(HELLO, &world.token_of(holder(ended)), &named)).await;
    let _stays = reading(&world, get(HELLO, &world.token_of(holder(other)), &named)).await;
    world.end_sign_in(ended);
    assert!(within("the cut", cut.chunk()).await.is_err());
    wait_until("the other sign-in's request", || world.gateway.in_flight(service) == 1).await;
    let answer = world.call(get(HELLO, &world.token_of(holder(ended)), &named)).await;
    assert_eq!((answer.status, answer.json()["error_code"].as_str().unwrap()), (401, "unauthenticated"));
    assert!(answer.text().contains("sign-in was ended"), "{}", answer.text());
}

#[tokio::test]
async fn a_key_that_expires_ends_an_open_websocket_and_an_answer() {
    let (upgrades, answers) = (switching().await, pausing().await);
    for container in [&upgrades, &answers] {
        let world = World::start().await;
        let (team, _agent, service) = world.hello(container).await;
        let key = world.add_key(Credential {
            kind: KeyKind::Integration,
            user_id: None,
            scopes: [Scope::Invoke].into(),
            expires_at: Some(SystemClock.now() + BEGUN),
            ..device(&team)
        });
        let mut caller = world.caller().await;
        caller.send(get(HELLO, &key, "Connection: upgrade\r\nUpgrade: x\r\n")).await;
        assert!(matches!(within("the head", caller.head()).await.unwrap().status, 101 | 200));
        assert!(within("the cut", caller.ended()).await.is_err());
        wait_until("nothing in flight", || world.gateway.in_flight(service) == 0).await;
    }
}

#[tokio::test]
async fn an_answer_of_the_management_api_that_goes_on_ends_with_what_let_its_reader_in() {
    let world = World::start().await;
    let team = world.team();
    let named = format!("X-Team-ID: {}\r\n", team.id);
    let sign_in = SignInId::generate();
    let token = world.token_of(TokenHolder { user_id: team.member, sign_in });
    let mut by_key = reading(&world, get("/api/v1/follow", &team.key, "")).await;
    let mut by_token = reading(&world, get("/api/v1/follow", &token, &named)).await;
    let mut by_member = reading(&world, get("/api/v1/follow", &world.token(team.member), &named)).await;
    world.revoke(&team.key);
    assert!(within("the cut", by_key.chunk()).await.is_err());
    world.end_sign_in(sign_in);
    assert!(within("the cut", by_token.chunk()).await.is_err());
    world.set_role(team.member, team.id, None);
    assert!(within("the cut", by_member.chunk()).await.is_err());
}

#[tokio::test]
async fn a_log_that_nobody_reads_ends_too() {
    let world = World::start().await;
    let team = world.team();
    let mut stalled = world.caller().await;
    stalled.send(get("/api/v1/follow?flood", &team.key, "")).await;
    within("the head", stalled.head()).await.unwrap();
    world.revoke(&team.key);
    let end = async { while stalled.chunk().await.is_ok() {} };
    within("the end", end).await;
}

/// An HTTP/2 connection of a caller that takes one answer's head and reads no further.
async fn stall(world: &World, key: &str, driver: &mut JoinSet<()>) -> hyper::body::Incoming {
    let socket = TcpStream::connect(world.address).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket));
    let (mut sender, connection) = within("the handshake", handshake).await.unwrap();
    driver.spawn(async move { drop(connection.await) });
    let request = Request::get(format!("http://gateway.test{HELLO}"))
        .version(Version::HTTP_2)
        .header("authorization", format!("Bearer {key}"))
        .body(Empty::<Bytes>::new())
        .unwrap();
    within("an answer", sender.send_request(request)).await.unwrap().into_body()
}

#[tokio::test]
async fn an_http_2_caller_that_does_not_read_is_in_reach() {
    let container = endless().await;
    for revoke in [true, false] {
        let world = World::start().await;
        let (team, agent, service) = world.hello(&container).await;
        if !revoke {
            world.change(service, |route| route.timeouts.total = Some(BEGUN));
        }
        let mut driver = JoinSet::new();
        let mut body = stall(&world, &team.key, &mut driver).await;
        if revoke {
            world.revoke(&team.key);
        }
        wait_until("nothing in flight", || world.gateway.in_flight(service) == 0).await;
        wait_until("nothing at the agent", || agent.streams() == 0).await;
        let read = async {
            while let Some(frame) = body.frame().await {
                if frame.is_err() {
                    return true;
                }
            }
            false
        };
        assert!(within("the end", read).await, "a cut answer does not look complete");
    }
}
