//! Every list while others add to it: who goes by cursors sees what was there all along once, in order.
//!
//! What is taken away meanwhile is in `parameters`, and both on both databases in the store's own tests.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use towline_control::openapi_json;
use towline_gateway::testing::SimAgent;
use towline_model::{Clock, InstancePhase, Role, Secret, SystemClock, UserId};
use towline_store::{MembershipRow, UserRow};

use crate::{
    agents::Machine,
    support::{TestServer, minimal, with},
};

/// The list that only a deploy adds to, all at once: it has a test of its own.
const OF_DEPLOYS: &str = "/api/v1/containers/{id}/instances";

/// The lists that begin with the newest.
const NEWEST_FIRST: [&str; 4] =
    ["/api/v1/audit", "/api/v1/containers/{id}/events", "/api/v1/credentials", "/api/v1/invitations"];

/// A list of a server.
struct Scene<'s> {
    server: &'s TestServer,
    path: String,
    /// Agents that have come, and are online.
    agents: Vec<SimAgent>,
    added: usize,
}

impl Scene<'_> {
    /// Adds something to the list.
    async fn add(&mut self, list: &str) {
        self.added += 1;
        let name = format!("{}-{}", list.replace("/api/v1/", "").replace(['/', '{', '}'], "-"), self.added);
        let server = self.server;
        let (path, body) = match list {
            "/api/v1/agents" | "/api/v1/r/agents" => {
                let hello = SimAgent::hello(&name);
                let agent = SimAgent::connect(server.server.addr(), &server.ours.keys["ak"], hello).await;
                return self.agents.push(agent.unwrap());
            }
            "/api/v1/members" => return add_member(server, &name).await,
            "/api/v1/audit" => {
                server.put(&server.owner(), "/api/v1/teams/current", &json!({"team_name": name})).await.json(200);
                return;
            }
            OF_DEPLOYS => return deploy(server, self.path.strip_suffix("/instances").unwrap()).await,
            "/api/v1/containers/{id}/events" => {
                let service = self.path.strip_suffix("/events").unwrap();
                server.put(&server.owner(), service, &json!({"display_name": name})).await.json(200);
                return;
            }
            "/api/v1/containers" | "/api/v1/r/containers" => ("/api/v1/containers", minimal(&name)),
            "/api/v1/credentials" => (list, json!({"kind": "integration", "display_name": name})),
            "/api/v1/invitations" => {
                (list, json!({"email_address": format!("{name}@example.com"), "invitation_role": "viewer"}))
            }
            "/api/v1/secrets" => (list, json!({"name": name, "value": "hunter2"})),
            "/api/v1/teams" => (list, json!({"team_name": name})),
            list => panic!("how is something added to {list}?"),
        };
        server.post(&server.owner(), path, &body).await.json(201);
    }

    async fn page(&self, query: &str) -> (Vec<String>, Option<String>) {
        let page = self.server.get(&self.server.owner(), &format!("{}?{query}", self.path)).await.json(200);
        let lists = page.as_object().unwrap().values().filter_map(Value::as_array).collect::<Vec<_>>();
        let [items] = lists[..] else { panic!("{page:#}") };
        let id = |item: &Value| item.get("id").or(item.get("user_id")).and_then(Value::as_str).unwrap().to_owned();
        (items.iter().map(id).collect(), page["page_meta"]["next_cursor"].as_str().map(str::to_owned))
    }

    /// Goes through the list by cursors, while something is added after each page. Gives what was seen.
    async fn walk(&mut self, list: &str) -> Vec<String> {
        let (mut seen, mut next) = self.page("per_page=2").await;
        while let Some(cursor) = next {
            if self.added < 9 {
                self.add(list).await;
            }
            let items;
            (items, next) = self.page(&format!("per_page=2&cursor={cursor}")).await;
            seen.extend(items);
            assert!(seen.len() < 100, "{list}: the walk has no end: {seen:?}");
        }
        seen
    }
}

/// Deploys a service; its new instances are there when this returns.
async fn deploy(server: &TestServer, service: &str) {
    let (owner, list) = (server.owner(), format!("{service}/instances"));
    let count = |list: &Value| list["page_meta"]["total_count"].as_u64().unwrap();
    let before = count(&server.get(&owner, &list).await.json(200));
    let replicas = server.get(&owner, service).await.json(200)["replica_count"].as_u64().unwrap();
    server.act(&owner, &format!("{service}/deploy")).await.json(200);
    server.wait_for(&list, "every new instance is there", |list| count(list) == before + replicas).await;
}

async fn add_member(server: &TestServer, name: &str) {
    let user = UserRow {
        id: UserId::generate(),
        email_address: format!("{name}@example.com"),
        password_hash: Secret::new(String::new()),
        display_name: None,
        created_at: SystemClock.now(),
    };
    let mut tx = server.server.store().write().await.unwrap();
    tx.insert_user(&user).await.unwrap();
    let membership = MembershipRow { team_id: server.ours.id, user_id: user.id, role: Role::Member };
    tx.insert_membership(&membership).await.unwrap();
    tx.commit().await.unwrap();
}

/// Every list with cursors, as the description has it.
fn lists() -> Vec<String> {
    let document: Value = serde_json::from_str(&openapi_json()).unwrap();
    let has_cursor = |item: &Value| {
        item["get"]["parameters"].as_array().into_iter().flatten().any(|parameter| parameter["name"] == "cursor")
    };
    let paths = document["paths"].as_object().unwrap().iter();
    paths.filter(|(_, item)| has_cursor(item)).map(|(path, _)| path.clone()).collect()
}

async fn check(server: &TestServer, list: &str, service: &str) {
    let path = list.replace("/api/v1/containers/{id}", service);
    let mut scene = Scene { server, path, agents: Vec::new(), added: 0 };
    for _ in 0..5 {
        scene.add(list).await;
    }
    let (before, _) = scene.page("per_page=100").await;
    assert!(before.len() >= 5, "{list}: {before:?}");
    let seen = scene.walk(list).await;
    assert!(scene.added > 6, "{list}: something was added between pages");
    let (after, _) = scene.page("per_page=100").await;
    assert!(after.len() >= before.len() + 2, "{list}: {after:?}");
    if NEWEST_FIRST.contains(&list) {
        assert_eq!(seen, before, "{list}: what is added stands in front");
    } else {
        assert_eq!(seen, after, "{list}: what is added stands behind");
        assert_eq!(after[..before.len()], before, "{list}");
    }
}

#[tokio::test]
async fn a_walk_by_cursors_is_not_disturbed_by_what_is_added() {
    let server = TestServer::start().await;
    let service = server.create(&minimal("first")).await;
    let lists = lists();
    assert!(lists.len() > 10, "{lists:?}");
    for list in lists.iter().filter(|list| *list != OF_DEPLOYS) {
        check(&server, list, &service).await;
    }
    let known: BTreeSet<_> = lists.iter().map(String::as_str).collect();
    assert!([OF_DEPLOYS].iter().chain(&NEWEST_FIRST).all(|list| known.contains(list)));
}

#[tokio::test]
async fn a_walk_through_instances_is_not_disturbed_by_a_deploy() {
    let server = TestServer::start().await;
    let machine = Machine::join(&server, "box").await;
    // The second deploy does not become ready, so the instances of the first are not replaced.
    let phase = |generation| if generation == 1 { InstancePhase::Ready } else { InstancePhase::Starting };
    machine.set(move |instance| (phase(instance.generation), None));
    let service = server.create(&with("hello", "replica_count", json!(5))).await;
    deploy(&server, &service).await;
    server.wait_for(&service, "all are ready", |service| service["instances_ready"] == 5).await;
    let mut scene = Scene { server: &server, path: format!("{service}/instances"), agents: Vec::new(), added: 8 };
    let (before, _) = scene.page("per_page=100").await;
    assert_eq!(before.len(), 5);
    let seen = scene.walk(OF_DEPLOYS).await;
    assert_eq!(scene.added, 9, "there was a deploy between pages");
    let (after, _) = scene.page("per_page=100").await;
    assert_eq!((seen.len(), &after[..5]), (10, &before[..]), "the old ones are there all along");
    assert_eq!(seen, after, "what is added stands behind");
}
