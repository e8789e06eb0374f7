//! Every list while others add to it: who goes by cursors sees what was there all along once, in order.
//!
//! What is taken away meanwhile is in `parameters`, and both on both databases in the store's own tests.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use towline_control::openapi_json;
use towline_gateway::testing::SimAgent;
use towline_model::{Clock, Role, Secret, SystemClock, UserId};
use towline_store::{MembershipRow, UserRow};

use crate::support::{TestServer, minimal};

/// Lists that nobody but the reconciler adds to, and takes away from what is added by others: the store's tests
/// (`pages`) walk them.
const NOT_HERE: [&str; 1] = ["/api/v1/containers/{id}/instances"];

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
        }
        seen
    }
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
    for list in lists.iter().filter(|list| !NOT_HERE.contains(&list.as_str())) {
        check(&server, list, &service).await;
    }
    let known: BTreeSet<_> = lists.iter().map(String::as_str).collect();
    assert!(NOT_HERE.iter().chain(&NEWEST_FIRST).all(|list| known.contains(list)));
}
