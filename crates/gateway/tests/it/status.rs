//! The answers that the gateway makes itself (contract §5), and that a container's answer is never mistaken for one.

use std::time::Duration;

use towline_gateway::{
    Credential, GatewayConfig, LastUse,
    testing::{AgentKind, Answer, Container, SimAgent, World, mistyped},
};
use towline_model::{Clock, CredentialId, KeyKind, Role, Scope, ServiceId, ServiceStatus, SystemClock, TeamId, UserId};
use towline_tunnel::RefuseCode;

const HELLO: &str = "/api/v1/r/containers/hello/";

/// Checks everything that every answer of the gateway has.
fn check(answer: &Answer, status: u16, code: &str) {
    let body = answer.json();
    assert_eq!((answer.status, body["error_code"].as_str().unwrap()), (status, code), "{body}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let proxy_status = answer.header("proxy-status").expect("Proxy-Status");
    assert!(proxy_status.starts_with("towline; error="), "{proxy_status}");
    assert_eq!(body["status"], status);
    assert_eq!(body["error"]["message"], body["error_message"]);
    assert_eq!(body["error"]["type"], "towline_error");
    assert_eq!(body["error"]["code"], code);
    assert_eq!(answer.header("x-request-id"), body["request_id"].as_str());
    assert!(answer.header("date").is_some() && answer.header("x-towline-request-id").is_none());
    assert_eq!(
        answer.header("retry-after").is_some(),
        status == 503 || code == "upstream_failed" && status != 502 || proxy_status.contains("connection_refused")
    );
}

#[tokio::test]
async fn whoever_is_not_known_is_told_why() {
    let world = World::start().await;
    let team = world.team();
    world.service(&team, "hello");
    let expired = Credential {
        id: CredentialId::generate(),
        kind: KeyKind::Integration,
        team_id: team.id,
        user_id: None,
        scopes: Scope::DEFAULT.into(),
        services: None,
        expires_at: Some(SystemClock.now()),
        last_use: LastUse::default(),
    };
    let expired = world.add_key(expired);
    let revoked = world.team();
    world.revoke(&revoked.key);
    let mistyped = mistyped(&team.key);
    for (authorization, words) in [
        (String::new(), "no credential"),
        ("Authorization: Basic eDp5\r\n".to_owned(), "must be `Bearer"),
        (format!("Authorization: Bearer {0}\r\nAuthorization: Bearer {0}\r\n", team.key), "sent once"),
        (format!("Authorization: Bearer {mistyped}\r\n"), "mistyped"),
        (format!("Authorization: Bearer {}\r\n", revoked.key), "unknown or was revoked"),
        (format!("Authorization: Bearer {expired}\r\n"), "expired"),
        (format!("Authorization: Bearer {}\r\n", team.agent_key), "only connects agents"),
        ("Authorization: Bearer a.b.c\r\n".to_owned(), "not issued by this server"),
    ] {
        let answer = world.call(format!("GET {HELLO} HTTP/1.1\r\nHost: h\r\n{authorization}\r\n")).await;
        check(&answer, 401, "unauthenticated");
        assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer realm=\"towline\""));
        let message = answer.json()["error_message"].as_str().unwrap().to_owned();
        assert!(message.contains(words), "{message}");
        assert!(!message.contains(&team.key[3..]), "no key is ever shown");
    }
}

#[tokio::test]
async fn a_malformed_request_is_answered_as_every_other() {
    let world = World::start().await;
    let invoke = "/api/v1/r/containers/hello/invoke";
    for text in [
        format!("GET {HELLO} HTTP/1.1\r\n\r\n"),
        format!("GET {HELLO} HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        format!("POST {invoke} HTTP/1.1\r\nHost: a/b\r\n\r\n"),
        // Of this one not even the path is known.
        format!("GET {HELLO} HTTP/1.1\r\nHost: a\r\nX-A : 1\r\n\r\n"),
    ] {
        check(&world.call(text).await, 400, "malformed_request");
    }
}

#[tokio::test]
async fn access_tokens_need_a_team() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let viewer = UserId::generate();
    world.add_member(viewer, team.id, Role::Viewer);
    let call = async |token: &str, team: &str| {
        let request = format!("GET {HELLO} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n{team}\r\n");
        world.call(request).await
    };
    let token = world.token(team.member);
    let named = format!("X-Team-ID: {}\r\n", team.id);
    assert_eq!(call(&token, &named).await.status, 200);
    check(&call(&token, "").await, 400, "team_required");
    check(&call(&token, "X-Team-ID: nonsense\r\n").await, 400, "invalid_parameter");
    check(&call(&token, &format!("X-Team-ID: {}\r\n", TeamId::generate())).await, 403, "not_in_team");
    check(&call(&world.token(UserId::generate()), &named).await, 403, "not_in_team");
    check(&call(&world.token(viewer), &named).await, 403, "forbidden");
}

#[tokio::test]
async fn to_a_key_with_a_list_other_services_are_missing() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, agent, hello) = world.hello(&container).await;
    let other = world.service(&team, "other");
    world.instance(other, &agent, AgentKind::Connect(container.address()));
    let key = |services: &[ServiceId]| {
        world.add_key(Credential {
            id: CredentialId::generate(),
            kind: KeyKind::Integration,
            team_id: team.id,
            user_id: None,
            scopes: Scope::DEFAULT.into(),
            services: Some(services.into()),
            expires_at: None,
            last_use: LastUse::default(),
        })
    };
    let (limited, empty) = (key(&[hello]), key(&[]));
    assert_eq!(world.get(&limited, HELLO).await.status, 200);
    let described = r#"{"method": "GET", "path": "/echo"}"#;
    assert_eq!(world.post_json(&limited, "/api/v1/r/invoke/hello", described).await.status, 200);
    assert_eq!(world.get(&team.key, "/api/v1/r/containers/other/echo").await.status, 200);
    // Word for word what a slug gets that nobody has.
    let same_id = "X-Request-Id: same\r\n";
    let ask = async |key: &str, line: &str, slug: &str| {
        let line = line.replace("{}", slug);
        let head =
            format!("{line} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n{same_id}Content-Length: 0\r\n\r\n");
        let mut answer = world.call(head).await;
        answer.lines.retain(|line| !line.to_ascii_lowercase().starts_with("date:"));
        (answer.status, answer.lines, String::from_utf8(answer.body).unwrap().replace(slug, "…"))
    };
    for line in ["GET /api/v1/r/containers/{}/echo", "POST /api/v1/r/invoke/{}"] {
        let hidden = ask(&limited, line, "other").await;
        assert_eq!(hidden.0, 404, "{hidden:?}");
        let missing = ask(&limited, line, "outer").await;
        let without_slug = |lines: &[String], slug: &str| lines.join("\n").replace(slug, "…");
        assert_eq!(without_slug(&hidden.1, "other"), without_slug(&missing.1, "outer"));
        assert_eq!(hidden.2, missing.2);
        assert_eq!(ask(&empty, line, "hello").await.0, 404);
    }
}

#[tokio::test]
async fn keys_may_do_what_their_scopes_and_their_users_may() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let key = |kind, user_id, scopes: &[Scope]| Credential {
        id: CredentialId::generate(),
        kind,
        team_id: team.id,
        user_id,
        scopes: scopes.into(),
        services: None,
        expires_at: None,
        last_use: LastUse::default(),
    };
    let viewer = UserId::generate();
    world.add_member(viewer, team.id, Role::Viewer);
    for (credential, status) in [
        (key(KeyKind::Integration, None, &[Scope::Invoke]), 200),
        (key(KeyKind::Integration, None, &[Scope::Read]), 403),
        (key(KeyKind::Device, Some(team.member), &[]), 200),
        (key(KeyKind::Device, Some(viewer), &[]), 403),
        // The user has left the team.
        (key(KeyKind::Device, Some(UserId::generate()), &[]), 401),
    ] {
        let text = format!("{credential:?}");
        assert_eq!(world.get(&world.add_key(credential), HELLO).await.status, status, "{text}");
    }
}

#[tokio::test]
async fn a_foreign_slug_looks_like_one_that_is_not_there() {
    let container = Container::echo().await;
    let world = World::start().await;
    world.hello(&container).await;
    let other = world.team();
    let request = |slug: &str| {
        format!(
            "GET /api/v1/r/containers/{slug}/ HTTP/1.1\r\nHost: h\r\nX-Request-Id: same\r\nAuthorization: Bearer {}\r\n\r\n",
            other.key
        )
    };
    let foreign = world.call(request("hello")).await;
    check(&foreign, 404, "not_found");
    let missing = world.call(request("hullo")).await;
    assert_eq!(foreign.text(), missing.text().replace("hullo", "hello"));
    let without_date = |answer: &Answer| {
        answer.lines.iter().filter(|l| !l.starts_with("date:")).map(|l| l.replace("hullo", "hello")).collect::<Vec<_>>()
    };
    assert_eq!(without_date(&foreign), without_date(&missing));
    for slug in ["", "%68ello", "HELLO", "a"] {
        check(&world.call(request(slug)).await, 404, "not_found");
    }
}

#[tokio::test]
async fn only_a_running_service_is_called() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, _agent, service) = world.hello(&container).await;
    for status in ServiceStatus::ALL {
        world.change(service, |route| route.status = status);
        let answer = world.get(&team.key, HELLO).await;
        if status == ServiceStatus::Running {
            assert_eq!(answer.status, 200);
        } else {
            check(&answer, 400, "service_not_running");
            assert!(answer.json()["error_message"].as_str().unwrap().contains(status.as_str()));
        }
    }
}

#[tokio::test]
async fn what_is_missing_is_told_apart() {
    let world = World::start().await;
    let team = world.team();
    let service = world.service(&team, "hello");
    check(&world.get(&team.key, HELLO).await, 503, "no_ready_instance");

    let agent = world.agent(&team, "one").await;
    let container = Container::echo().await;
    world.instance(service, &agent, AgentKind::Connect(container.address()));
    assert_eq!(world.get(&team.key, HELLO).await.status, 200);
    world.change(service, |route| route.instances[0].ready = false);
    check(&world.get(&team.key, HELLO).await, 503, "no_ready_instance");
    world.change(service, |route| route.instances[0].ready = true);

    drop(agent);
    towline_gateway::testing::wait_until("the agent to be gone", || world.gateway.sessions().is_empty()).await;
    check(&world.get(&team.key, HELLO).await, 503, "agent_unreachable");
}

#[tokio::test]
async fn an_agent_without_carriers_is_waited_for() {
    let config = GatewayConfig { carrier_wait: Duration::from_millis(50), ..GatewayConfig::default() };
    let world = World::start_with(config).await;
    let team = world.team();
    let agent =
        SimAgent::connect_without_carriers(world.address, &team.agent_key, SimAgent::hello("one")).await.unwrap();
    let service = world.service(&team, "hello");
    world.instance(service, &agent, AgentKind::Silent);
    check(&world.get(&team.key, HELLO).await, 503, "agent_unreachable");
}

#[tokio::test]
async fn refusals_become_statuses() {
    let world = World::start().await;
    let team = world.team();
    let agent = world.agent(&team, "one").await;
    let service = world.service(&team, "hello");
    let instance = world.instance(service, &agent, AgentKind::Silent);
    for (code, status, error_code) in [
        (RefuseCode::ConnectFailed, 502, "upstream_failed"),
        (RefuseCode::UnknownInstance, 503, "no_ready_instance"),
        (RefuseCode::NotReady, 503, "no_ready_instance"),
        (RefuseCode::Draining, 503, "agent_unreachable"),
        (RefuseCode::Limit, 503, "agent_unreachable"),
    ] {
        agent.set(instance, AgentKind::Refuse(code));
        let answer = world.post_json(&team.key, HELLO, "{}").await;
        check(&answer, status, error_code);
        assert!(answer.header("x-should-retry").is_none(), "nothing of it has reached a container");
    }
}

#[tokio::test]
async fn a_containers_errors_are_its_own() {
    let container = Container::answering("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\nRetry-After: 9\r\n\r\nbusy").await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let answer = world.get(&team.key, HELLO).await;
    assert_eq!((answer.status, answer.text().as_str()), (503, "busy"));
    assert!(answer.header("proxy-status").is_none() && answer.header("x-request-id").is_none());
    assert_eq!(answer.header("retry-after"), Some("9"));
}

#[tokio::test]
async fn a_container_that_takes_too_long_is_given_up() {
    let container = Container::start(|mut exchange, _| async move {
        exchange.head().await?;
        exchange.ended().await
    })
    .await;
    let world = World::start().await;
    let (team, _agent, service) = world.hello(&container).await;
    world.change(service, |route| route.timeouts.total = Some(Duration::from_millis(50)));
    let answer = world.get(&team.key, HELLO).await;
    check(&answer, 502, "upstream_timeout");
    assert!(answer.header("proxy-status").unwrap().contains("error=http_response_timeout"));
    assert!(answer.header("x-should-retry").is_none());
    let answer = world.post_json(&team.key, HELLO, "{}").await;
    check(&answer, 502, "upstream_timeout");
    assert_eq!(answer.header("x-should-retry"), Some("false"));
}
