//! The statuses of a service, as its agents report.

use http::Method;
use serde_json::json;
use towline_e2e::{
    raw,
    system::Server,
    wait::{SOON, wait_until},
};

use super::{
    agent::{Machine, count_containers, wait_for_count},
    sim_service,
};

#[tokio::test]
async fn created_deploying_running_stopping_stopped() {
    let server = Server::start().await;
    let owner = server.owner().await;
    let id = owner.create_service(&sim_service("hello", 3)).await;
    assert_eq!(owner.service(&id).await["service_status"], "created");
    owner.deploy(&id).await;
    // There is no agent yet, so this is sure to be seen.
    assert_eq!(owner.service(&id).await["service_status"], "deploying");
    let machines = [Machine::start(&server, "one"), Machine::start(&server, "two")];
    owner.wait_for_ready(&id, 3).await;
    assert_eq!(count_containers(&machines), 3);
    // They are spread: two machines, three instances.
    assert!(machines.iter().all(|machine| (1..=2).contains(&machine.engine.containers().len())));
    let answer = server.api().get("/r/containers/hello/some/path?x=1").await;
    assert_eq!((answer.status, answer.text()), (200, "GET /some/path?x=1\n".to_owned()));

    owner.undeploy(&id).await;
    owner.wait_for_status(&id, "stopped").await;
    wait_for_count(&machines, 0).await;
    let service = owner.service(&id).await;
    assert_eq!((&service["instances_ready"], &service["instances_total"]), (&json!(0), &json!(0)));

    owner.deploy(&id).await;
    owner.wait_for_ready(&id, 3).await;
    assert_eq!(count_containers(&machines), 3);
}

#[tokio::test]
async fn an_update_takes_effect_at_the_next_deploy_and_never_leaves_callers_alone() {
    let server = Server::start().await;
    let owner = server.owner().await;
    let machines = [Machine::start(&server, "one"), Machine::start(&server, "two")];
    let id = owner.create_service(&sim_service("hello", 2)).await;
    owner.deploy(&id).await;
    owner.wait_for_ready(&id, 2).await;
    let before: Vec<_> = machines.iter().flat_map(|machine| machine.containers().into_keys()).collect();
    owner
        .put(&format!("/containers/{id}"), &json!({"env_config": [{"env_name": "A", "env_value": "2"}]}))
        .await
        .expect(200);
    let unchanged: Vec<_> = machines.iter().flat_map(|machine| machine.containers().into_keys()).collect();
    assert_eq!(unchanged, before);

    owner.deploy(&id).await;
    let api = server.api();
    wait_until("the rollout has succeeded", SOON, async || {
        // Callers are served all along.
        api.get("/r/containers/hello/").await.assert_status(200);
        let service = owner.service(&id).await;
        assert_eq!(service["service_status"], "running", "{service:#}");
        if service["rollout"]["state"] == "succeeded" && service["rollout"]["generation"] == 2 {
            Ok(())
        } else {
            Err(service.to_string())
        }
    })
    .await;
    wait_until("the old containers are gone", SOON, async || {
        api.get("/r/containers/hello/").await.assert_status(200);
        let now: Vec<_> = machines.iter().flat_map(|machine| machine.containers().into_keys()).collect();
        if now.len() == 2 && now.iter().all(|instance| !before.contains(instance)) {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    })
    .await;
}

#[tokio::test]
async fn a_restart_replaces_every_instance() {
    let server = Server::start().await;
    let owner = server.owner().await;
    let machines = [Machine::start(&server, "one")];
    let id = owner.create_service(&sim_service("hello", 2)).await;
    owner.deploy(&id).await;
    owner.wait_for_ready(&id, 2).await;
    let before = machines[0].containers();
    owner.act(&format!("/containers/{id}/restart")).await.expect(200);
    wait_until("there are two others", SOON, async || {
        server.api().get("/r/containers/hello/").await.assert_status(200);
        let now = machines[0].containers();
        let all_new = now.len() == 2 && now.keys().all(|instance| !before.contains_key(instance));
        if all_new { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    owner.wait_for_ready(&id, 2).await;
}

#[tokio::test]
async fn a_revoked_agent_key_ends_the_session_and_no_container() {
    let server = Server::start().await;
    let owner = server.owner().await;
    let machine = Machine::start(&server, "one");
    let id = owner.create_service(&sim_service("hello", 1)).await;
    owner.deploy(&id).await;
    owner.wait_for_ready(&id, 1).await;
    let keys = owner.get("/credentials?kind=agent").await.expect(200);
    for key in keys["credentials"].as_array().unwrap() {
        let request = owner.request(Method::DELETE, &format!("/credentials/{}", key["id"].as_str().unwrap()));
        owner.send(request).await.assert_status(204);
    }
    let agents = owner.get("/r/agents").await.expect(200);
    wait_until("the agent is offline", SOON, async || {
        let agents = owner.get("/r/agents").await.expect(200);
        if agents["agent_list"][0]["agent_status"] == "offline" { Ok(()) } else { Err(agents.to_string()) }
    })
    .await;
    assert_eq!(agents["agent_list"].as_array().unwrap().len(), 1);
    let answer = server.api().get("/r/containers/hello/").await;
    answer.gateway_problem(503, "agent_unreachable");
    assert_eq!(machine.engine.containers().len(), 1);
    assert_eq!(machine.count("stop"), 0);
}

#[tokio::test]
async fn logs_of_every_instance_come_through_the_tunnel() {
    let server = Server::start().await;
    let owner = server.owner().await;
    let machine = Machine::start(&server, "one");
    let id = owner.create_service(&sim_service("hello", 2)).await;
    owner.deploy(&id).await;
    owner.wait_for_ready(&id, 2).await;
    for (number, instance) in machine.containers().into_keys().enumerate() {
        machine.engine.write_line(instance, &format!("line of {number}"));
    }
    let logs = owner.get(&format!("/containers/{id}/logs")).await;
    assert_eq!(logs.status, 200, "{}", logs.text());
    assert!(logs.text().contains("line of 0") && logs.text().contains("line of 1"), "{}", logs.text());
    for wrong in ["?tail=-1", "?tail=x", "?since=yesterday", "?follow=maybe", "?instance=x"] {
        owner.get(&format!("/containers/{id}/logs{wrong}")).await.problem(400, "invalid_parameter");
    }
    let unknown = "?instance=01932c07-8a4e-7bbd-9c45-2f4b1f0d3a77";
    owner.get(&format!("/containers/{id}/logs{unknown}")).await.problem(404, "not_found");
}

/// What speaks to the agents' sockets without a right to them, or nonsense, gets an answer and nothing else.
#[tokio::test]
async fn the_agents_sockets_are_closed_to_strangers() {
    let server = Server::start().await;
    let address = server.api().address();
    let ask = async |path: &str, fields: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        raw::exchange(address, request.as_bytes()).await.status
    };
    let upgrade = "Connection: Upgrade, close\r\nUpgrade: towline-session/1\r\n";
    assert_eq!(ask("/api/v1/agent/session", upgrade).await, 401);
    let wrong = format!("{upgrade}Authorization: Bearer {}\r\n", server.bootstrap.api_key);
    assert_eq!(ask("/api/v1/agent/session", &wrong).await, 401);
    let right = format!("Authorization: Bearer {}\r\n", server.bootstrap.agent_key);
    assert_eq!(ask("/api/v1/agent/session", &format!("{right}Connection: close\r\n")).await, 426);
    let newer = format!("{right}Connection: Upgrade, close\r\nUpgrade: towline-session/99\r\n");
    assert_eq!(ask("/api/v1/agent/session", &newer).await, 426);
    let carrier = "Connection: Upgrade, close\r\nUpgrade: towline-carrier/1\r\nAuthorization: Bearer guessed\r\n";
    assert_eq!(ask("/api/v1/agent/carrier", carrier).await, 401);
}
