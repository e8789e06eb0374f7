//! The ways in (contract §6): which header opens the door, that exactly it is removed, and that the container sees every
//! other one as it was sent.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use towline_gateway::testing::{Answer, Container, SimAgent, TeamSetup, World, mistyped};
use towline_model::ServiceId;

const PROXY: &str = "/api/v1/r/containers/hello/x?key=a&towline=b";
const INVOKE: &str = "/api/v1/r/invoke/hello";
/// A vendor's key, which starts like one of ours.
const VENDOR: &str = "sk-ant-api03-8Q2vLmN4xY7wRtZk3HjPqS6dFgBnC1aE";
/// What every request also has: repeats in an order that counts, empty and non-ASCII values, and names that look like
/// those of the doors.
const OTHERS: [(&str, &str); 9] = [
    ("X-A", "2"),
    ("X-Key", "sk-mine"),
    ("X-A", "1"),
    ("X-Empty", ""),
    ("Proxy-Authorization", "Basic eDp5"),
    ("X-Latin", "süß"),
    ("X-A", "3,  4"),
    ("Cookie", "a=b; towline=c"),
    ("X-Api-Keys", "k"),
];

type Lines = Vec<(&'static str, String)>;

struct Doors {
    world: World,
    container: Container,
    team: TeamSetup,
    other: TeamSetup,
    _agent: SimAgent,
    _service: ServiceId,
}

impl Doors {
    async fn open() -> Self {
        let container = Container::echo().await;
        let world = World::start().await;
        let (team, agent, service) = world.hello(&container).await;
        let other = world.team();
        Self { world, container, team, other, _agent: agent, _service: service }
    }

    async fn call(&self, lines: &[(&str, String)]) -> Answer {
        self.send(&format!("GET {PROXY} HTTP/1.1\r\n"), lines, "").await
    }

    async fn send(&self, line: &str, lines: &[(&str, String)], body: &str) -> Answer {
        let mut text = format!("{line}Host: h\r\n");
        for (name, value) in lines {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        self.world.call(format!("{text}\r\n{body}")).await
    }

    /// Each way in with a name, the lines that are sent, and those of them that stay.
    fn ways(&self) -> Vec<(&'static str, Lines, Lines)> {
        let key = || self.team.key.clone();
        let basic = |pair: String| format!("Basic {}", STANDARD.encode(pair));
        let theirs = || vec![("Authorization", format!("Bearer {VENDOR}")), ("X-Api-Key", VENDOR.to_owned())];
        let named = ("X-Team-ID", self.team.id.to_string());
        let rows: Vec<(&str, Lines, Lines)> = vec![
            ("X-Towline-Key", vec![("X-Towline-Key", key())], theirs()),
            (
                "X-Towline-Key beside what is no good Authorization",
                vec![("X-Towline-Key", key())],
                vec![("Authorization", String::new()), ("Authorization", "Digest x=y".to_owned())],
            ),
            (
                "X-Towline-Key beside a key that the container is to use",
                vec![("X-Towline-Key", key())],
                vec![("Authorization", format!("Bearer {}", self.other.key))],
            ),
            (
                "X-Towline-Key with an access token",
                vec![("X-Towline-Key", self.world.token(self.team.member))],
                vec![named.clone(), ("Authorization", "Bearer x".to_owned())],
            ),
            (
                "X-Towline-Key, nominated",
                vec![("Connection", "x-towline-key".into()), ("x-towline-key", key())],
                theirs(),
            ),
            (
                "Bearer",
                vec![("Authorization", format!("Bearer {}", key()))],
                vec![("X-Api-Key", VENDOR.to_owned()), ("api-key", String::new()), ("x-goog-api-key", "ü".to_owned())],
            ),
            (
                "Bearer with an access token",
                vec![("AUTHORIZATION", format!("bearer  {}", self.world.token(self.team.member)))],
                vec![named, ("X-Api-Key", VENDOR.to_owned()), ("X-Api-Key", "again".to_owned())],
            ),
            (
                "Bearer, with the container's key nominated",
                vec![("Connection", "x-api-key, authorization".into()), ("Authorization", format!("Bearer {}", key()))],
                vec![("X-Api-Key", VENDOR.to_owned())],
            ),
            ("X-Api-Key", vec![("X-Api-Key", key())], vec![("Authorization", format!("Bearer {VENDOR}"))]),
            (
                "X-Api-Key beside another issuer's token",
                vec![("x-api-key", key())],
                vec![("Authorization", "Bearer eyJhbGciOiJub25lIn0.e30.x".to_owned()), ("api-key", VENDOR.to_owned())],
            ),
            ("X-Api-Key, nominated", vec![("Connection", "x-api-key".into()), ("X-Api-Key", key())], vec![]),
            ("api-key", vec![("api-key", key())], vec![("Authorization", basic("user:pass".to_owned()))]),
            ("x-goog-api-key", vec![("x-goog-api-key", key())], theirs()),
            (
                "Basic",
                vec![("Authorization", basic(format!("anybody:{}", key())))],
                vec![("X-Api-Key", VENDOR.to_owned())],
            ),
            ("Basic without a name", vec![("Authorization", basic(format!(":{}", key())))], vec![]),
        ];
        rows
    }
}

/// The values of a field as the container saw them.
fn seen<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let field = |line: &'a str| line.split_once(':').filter(|(found, _)| found.eq_ignore_ascii_case(name));
    head.lines().filter_map(field).map(|(_, value)| value.trim()).collect()
}

fn sent<'a>(lines: &'a [(&str, String)], name: &str) -> Vec<&'a str> {
    lines.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
}

#[tokio::test]
async fn exactly_the_header_that_opens_the_door_is_removed() {
    let doors = Doors::open().await;
    for (way, opening, staying) in doors.ways() {
        let others = OTHERS.map(|(name, value)| (name, value.to_owned()));
        let (before, after) = others.split_at(4);
        let stays = [before, &staying, after].concat();
        // Between the others, so that the place does not matter.
        let answer = doors.call(&[before, &opening, &staying, after].concat()).await;
        let head = answer.text();
        assert_eq!(answer.status, 200, "{way}: {head}");
        assert!(head.starts_with("GET /x?key=a&towline=b HTTP/1.1\r\n"), "{way}: {head}");
        for (name, _) in opening.iter().chain(&stays) {
            assert_eq!(seen(&head, name), sent(&stays, name), "{way}: {name} in {head}");
        }
        let (_, credential) = opening.last().unwrap();
        for secret in [credential.as_str(), &doors.team.key] {
            assert!(!head.contains(secret), "{way}: {head}");
        }
    }
}

#[tokio::test]
async fn the_same_ways_lead_to_an_invoke() {
    let doors = Doors::open().await;
    let body = json!({"method": "GET", "path": "/y", "headers": {"X-Api-Key": VENDOR}}).to_string();
    for (way, opening, staying) in doors.ways() {
        let mut lines = [opening, staying].concat();
        lines.push(("Content-Type", "application/json".to_owned()));
        lines.push(("Content-Length", body.len().to_string()));
        let answer = doors.send(&format!("POST {INVOKE} HTTP/1.1\r\n"), &lines, &body).await;
        assert_eq!(answer.status, 200, "{way}: {}", answer.text());
        let head = STANDARD.decode(answer.json()["body_base64"].as_str().unwrap()).unwrap();
        let head = String::from_utf8(head).unwrap();
        // Nothing of the call itself reaches the container, only what is described.
        assert_eq!(seen(&head, "x-api-key"), [VENDOR], "{way}: {head}");
        assert!(seen(&head, "authorization").is_empty() && !head.contains(&doors.team.key), "{way}: {head}");
    }
}

#[tokio::test]
async fn what_opens_no_door_reaches_nobody() {
    let doors = Doors::open().await;
    let (key, other) = (doors.team.key.clone(), doors.other.key.clone());
    let revoked = doors.world.team();
    doors.world.revoke(&revoked.key);
    let mistyped = mistyped(&doors.team.key);
    let basic = |pair: String| format!("Basic {}", STANDARD.encode(pair));
    let token = doors.world.token(doors.team.member);
    let bearer = |key: &str| ("Authorization", format!("Bearer {key}"));
    let rows: Vec<(u16, &str, Lines)> = vec![
        (401, "X-Towline-Key header must", vec![("X-Towline-Key", String::new())]),
        (401, "X-Towline-Key header must", vec![("X-Towline-Key", key.clone()), ("X-Towline-Key", key.clone())]),
        (401, "X-Towline-Key header must", vec![("X-Towline-Key", format!("Bearer {key}"))]),
        (401, "X-Towline-Key header must", vec![("X-Towline-Key", format!("{key},{key}"))]),
        (401, "X-Towline-Key header must", vec![("X-Towline-Key", format!("{key}ü"))]),
        // What comes first decides, also when it is refused.
        (401, "mistyped", vec![("X-Towline-Key", mistyped.clone()), bearer(&key)]),
        (401, "unknown or was revoked", vec![("X-Towline-Key", revoked.key.clone()), ("X-Api-Key", key.clone())]),
        (401, "unknown or was revoked", vec![("X-Api-Key", revoked.key.clone()), bearer(VENDOR)]),
        (401, "only connects agents", vec![("X-Api-Key", doors.team.agent_key.clone())]),
        (401, "mistyped", vec![("X-Api-Key", mistyped.clone())]),
        (401, "mistyped", vec![("api-key", VENDOR.to_owned())]),
        (401, "mistyped", vec![("Authorization", basic(format!("x:{mistyped}")))]),
        (401, "no credential", vec![("X-Api-Key", "ü".to_owned())]),
        (401, "no credential", vec![("x-goog-api-key", String::new())]),
        // Vendors' headers take keys, not tokens.
        (401, "no credential", vec![("X-Api-Key", token), ("X-Team-ID", doors.team.id.to_string())]),
        (401, "no credential", vec![("Proxy-Authorization", format!("Bearer {key}"))]),
        (401, "must be `Bearer", vec![("Authorization", basic(format!("{key}:")))]),
        (401, "must be `Bearer", vec![("Authorization", "Basic %%%".to_owned())]),
        (401, "must be `Bearer", vec![("Authorization", String::new())]),
        (
            401,
            "X-Api-Key header holds a key and is sent more",
            vec![("X-Api-Key", key.clone()), ("X-Api-Key", VENDOR.to_owned())],
        ),
        (
            401,
            "Authorization header holds a key and is sent more",
            vec![("Authorization", basic(format!("x:{key}"))), ("Authorization", "Digest x=y".to_owned())],
        ),
        // A second key of this server would be seen by the container.
        (400, "second key of this server in the X-Api-Key header", vec![bearer(&key), ("X-Api-Key", other.clone())]),
        (400, "second key of this server in the X-Api-Key header", vec![bearer(&key), ("X-Api-Key", key.clone())]),
        (
            400,
            "second key of this server in the x-goog-api-key header",
            vec![("api-key", key.clone()), ("x-goog-api-key", other.clone())],
        ),
        (
            400,
            "second key of this server in the Authorization header",
            vec![("X-Api-Key", key.clone()), ("Authorization", basic(format!("x:{other}")))],
        ),
        (
            400,
            "second key of this server in the Authorization header",
            vec![("X-Api-Key", key.clone()), bearer(&other), bearer(VENDOR)],
        ),
        (
            400,
            "second key of this server in the Authorization header",
            vec![("X-Api-Key", key.clone()), ("Authorization", other.clone())],
        ),
    ];
    for (status, words, lines) in rows {
        let answer = doors.call(&lines).await;
        let names: Vec<_> = lines.iter().map(|(name, _)| name).collect();
        let body = answer.json();
        let code = if status == 400 { "malformed_request" } else { "unauthenticated" };
        assert_eq!((answer.status, body["error_code"].as_str().unwrap()), (status, code), "{names:?}: {body}");
        assert!(body["error_message"].as_str().unwrap().contains(words), "{names:?}: {body}");
        assert_eq!(answer.header("www-authenticate").is_some(), status == 401, "{names:?}");
        for secret in [&key, &other, &mistyped] {
            assert!(!answer.text().contains(&secret[12..]), "{names:?}: no key is ever shown");
        }
    }
    let in_the_url = format!("GET /api/v1/r/containers/hello/?key={key}&api_key={key} HTTP/1.1\r\n");
    assert_eq!(doors.send(&in_the_url, &[], "").await.status, 401);
    assert_eq!(doors.container.accepted(), 0);
}
