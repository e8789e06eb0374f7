//! Carriers: who may open them, and which requests share them.

use towline_gateway::testing::{AgentKind, Answer, RawCaller, SimAgent, World, wait_until, within};
use towline_tunnel::upgrade::{CARRIER_PATH, CARRIER_UPGRADE};

use crate::agents::{code, upgrade};

const HELLO: &str = "/api/v1/r/containers/hello/";

#[tokio::test]
async fn a_ticket_opens_one_carrier() {
    let world = World::start().await;
    let team = world.team();
    let agent =
        SimAgent::connect_without_carriers(world.address, &team.agent_key, SimAgent::hello("one")).await.unwrap();
    let mut tickets = agent.tickets();
    let tickets = within("tickets", tickets.wait_for(|tickets| tickets.len() >= 4)).await.unwrap().clone();
    let carriers = || world.gateway.sessions()[0].carriers;

    let first = carrier(&world, &tickets[0]).await.unwrap();
    wait_until("one carrier", || carriers() == 1).await;
    for bad in [tickets[0].clone(), format!("{}x", tickets[1]), "x".to_owned(), String::new(), team.agent_key.clone()] {
        let refused = carrier(&world, &bad).await.unwrap_err();
        assert_eq!(code(&refused), (401, "unauthenticated".to_owned()), "{bad}");
    }
    drop(first);
    wait_until("no carrier", || carriers() == 0).await;

    // A ticket is worth nothing without its session.
    drop(agent);
    wait_until("the end of the session", || world.gateway.sessions().is_empty()).await;
    assert_eq!(carrier(&world, &tickets[2]).await.unwrap_err().status, 401);
}

async fn carrier(world: &World, ticket: &str) -> Result<RawCaller, Answer> {
    let mut caller = world.caller().await;
    caller.send(upgrade(CARRIER_PATH, CARRIER_UPGRADE, ticket)).await;
    let mut head = within("an answer", caller.head()).await.unwrap();
    if head.status == 101 {
        return Ok(caller);
    }
    let length = head.header("content-length").unwrap().parse().unwrap();
    head.body = caller.exactly(length).await.unwrap();
    Err(head)
}

/// Sends so many requests that are not answered, and gives their callers.
async fn wait_in_vain(world: &World, key: &str, extra: &str, count: usize) -> Vec<RawCaller> {
    let mut callers = Vec::new();
    for _ in 0..count {
        let mut caller = world.caller().await;
        caller.send(format!("GET {HELLO} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n{extra}\r\n")).await;
        callers.push(caller);
    }
    callers
}

#[tokio::test]
async fn requests_keep_company_on_a_near_carrier() {
    // The first few may come before the round trip is known. And on a busy machine none may be as short as it is between
    // neighbours; then another agent is tried.
    let mut seen = Vec::new();
    while seen.len() < 30 {
        let world = World::start().await;
        let team = world.team();
        let agent = world.agent(&team, "one").await;
        let service = world.service(&team, "hello");
        world.instance(service, &agent, AgentKind::Silent);
        let _callers = wait_in_vain(&world, &team.key, "", 24).await;
        wait_until("all requests at the agent", || agent.streams() == 24).await;
        seen.push(agent.carriers());
        if agent.carriers() < 12 {
            return;
        }
    }
    panic!("so many carriers were dialled for 24 requests: {seen:?}");
}

#[tokio::test]
async fn what_lasts_has_a_carrier_of_its_own() {
    let world = World::start().await;
    let team = world.team();
    let agent = world.agent(&team, "one").await;
    let service = world.service(&team, "hello");
    world.instance(service, &agent, AgentKind::Silent);
    let mut callers = Vec::new();
    for count in 1..=8 {
        let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
        callers.extend(wait_in_vain(&world, &team.key, upgrade, 1).await);
        wait_until("the request at the agent", || agent.streams() == count).await;
        wait_until("two carriers more than are in use", || agent.carriers() >= count + 2).await;
    }
    assert!(agent.carriers() <= 64);
}
