//! Affinity (contract §6): coming back to the instance that has served one.

use towline_gateway::testing::{AgentKind, Answer, Container, SimAgent, TeamSetup, World};
use towline_model::{InstanceId, ServiceId};

const HELLO: &str = "/api/v1/r/containers/hello/";

struct Pair {
    world: World,
    team: TeamSetup,
    service: ServiceId,
    instances: [InstanceId; 2],
    agent: SimAgent,
    _containers: [Container; 2],
}

impl Pair {
    /// A service of two instances, of which each answers with what it got.
    async fn start() -> Self {
        let containers = [Container::echo().await, Container::echo().await];
        let world = World::start().await;
        let team = world.team();
        let agent = world.agent(&team, "one").await;
        let service = world.service(&team, "hello");
        let instances = containers.each_ref().map(|c| world.instance(service, &agent, AgentKind::Connect(c.address())));
        Self { world, team, service, instances, agent, _containers: containers }
    }

    async fn get(&self, lines: &str) -> Answer {
        let key = &self.team.key;
        self.world.call(format!("GET {HELLO} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n{lines}\r\n")).await
    }

    fn remove(&self, instance: InstanceId) {
        self.world.change(self.service, |route| route.instances.retain(|known| known.instance_id != instance));
    }
}

fn name(answer: &Answer) -> InstanceId {
    answer.header("x-towline-instance").unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_program_comes_back_by_header_fields() {
    let pair = Pair::start().await;
    for mode in ["soft", "strict"] {
        let first = name(&pair.get(&format!("X-Towline-Affinity: {mode}\r\n")).await);
        assert!(pair.instances.contains(&first));
        for wanted in pair.instances.repeat(10) {
            let answer = pair.get(&format!("X-Towline-Affinity: {mode}\r\nX-Towline-Instance: {wanted}\r\n")).await;
            assert_eq!((answer.status, name(&answer)), (200, wanted));
            assert!(answer.header("set-cookie").is_none());
        }
    }
    let plain = pair.get(&format!("X-Towline-Instance: {}\r\n", pair.instances[0])).await;
    assert!(plain.header("x-towline-instance").is_none(), "nothing is added for whoever does not ask");
}

#[tokio::test]
async fn when_the_instance_is_gone_soft_goes_elsewhere_and_strict_goes_nowhere() {
    let pair = Pair::start().await;
    let [gone, left] = pair.instances;
    pair.remove(gone);
    let lines = |mode: &str, id| format!("X-Towline-Affinity: {mode}\r\nX-Towline-Instance: {id}\r\n");
    assert_eq!(name(&pair.get(&lines("soft", gone)).await), left);
    let answer = pair.get(&lines("strict", gone)).await;
    let body = answer.json();
    assert_eq!((answer.status, body["error_code"].as_str().unwrap()), (503, "no_ready_instance"));
    assert!(body["error_message"].as_str().unwrap().contains("is gone; leave X-Towline-Instance out"), "{body}");
    assert!(answer.header("proxy-status").unwrap().contains("error=destination_unavailable"));
    assert!(answer.header("retry-after").is_some() && answer.header("set-cookie").is_none());

    pair.world.change(pair.service, |route| route.instances[0].ready = false);
    let answer = pair.get(&lines("strict", left)).await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("is not ready at the moment"), "{}", answer.text());
    pair.world.change(pair.service, |route| route.instances[0].ready = true);

    let pair = Pair::start().await;
    let [refusing, _] = pair.instances;
    pair.agent.set(refusing, AgentKind::Refuse(towline_tunnel::RefuseCode::NotReady));
    assert_eq!(pair.get(&lines("soft", refusing)).await.status, 200);
    assert_eq!(pair.get(&lines("strict", refusing)).await.status, 503, "refused there, and not sent anywhere else");
}

#[tokio::test]
async fn what_is_not_understood_is_refused() {
    let pair = Pair::start().await;
    for lines in [
        "X-Towline-Affinity: hard\r\n",
        "X-Towline-Affinity: soft\r\nX-Towline-Affinity: soft\r\n",
        "X-Towline-Affinity: soft\r\nX-Towline-Instance: one\r\n",
    ] {
        let answer = pair.get(lines).await;
        assert_eq!(
            (answer.status, answer.json()["error_code"].as_str().unwrap()),
            (400, "malformed_request"),
            "{lines}"
        );
    }
}

#[tokio::test]
async fn a_browser_comes_back_by_cookies_that_the_container_does_not_see() {
    let pair = Pair::start().await;
    let answer = pair.get("Cookie: a=b; towline_affinity=soft;c=\"d\"\r\n").await;
    assert!(answer.text().contains("\r\nCookie: a=b;c=\"d\"\r\n"), "{}", answer.text());
    assert!(answer.header("x-towline-instance").is_none());
    let cookie = answer.header("set-cookie").unwrap().to_owned();
    let (pair_text, attributes) = cookie.split_once("; ").unwrap();
    assert_eq!(attributes, "Path=/api/v1/r/containers/hello/; HttpOnly; SameSite=Lax");
    assert!(pair.instances.iter().any(|id| pair_text == format!("towline_instance={id}")), "{cookie}");

    for mode in ["soft", "strict"] {
        for wanted in pair.instances.repeat(5) {
            let lines = format!("Cookie: towline_affinity={mode}; towline_instance={wanted}\r\n");
            let answer = pair.get(&lines).await;
            assert_eq!(answer.header("set-cookie"), None, "it came back to where it was");
            assert!(!answer.text().contains("cookie"), "{}", answer.text());
        }
    }
    let asked = pair.get(&format!("Cookie: towline_instance={}\r\n", pair.instances[0])).await;
    assert!(asked.header("set-cookie").is_none(), "a browser that has not opted in gets nothing");

    let [gone, left] = pair.instances;
    pair.remove(gone);
    let soft = pair.get(&format!("Cookie: towline_affinity=soft; towline_instance={gone}\r\n")).await;
    assert!(soft.header("set-cookie").unwrap().starts_with(&format!("towline_instance={left}; ")));
    let strict = pair.get(&format!("Cookie: towline_affinity=strict; towline_instance={gone}\r\n")).await;
    assert_eq!(strict.status, 503);
    assert!(strict.header("set-cookie").unwrap().starts_with("towline_instance=; Path=/api/v1/r/containers/hello/; "));
    assert!(strict.header("set-cookie").unwrap().ends_with("; Max-Age=0"), "the next request is served by another");
}

#[tokio::test]
async fn an_invoke_has_affinity_by_its_own_header_fields() {
    let pair = Pair::start().await;
    let body = r#"{"method": "GET", "path": "/"}"#;
    for wanted in pair.instances.repeat(5) {
        let answer = pair
            .world
            .call(format!(
                "POST /api/v1/r/invoke/hello HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\n\
                 X-Towline-Affinity: strict\r\nX-Towline-Instance: {wanted}\r\nContent-Length: {}\r\n\r\n{body}",
                pair.team.key,
                body.len()
            ))
            .await;
        assert_eq!((answer.status, name(&answer)), (200, wanted));
    }
}
