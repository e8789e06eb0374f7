//! What only a browser can tell: whether its WebSockets open with tickets, and whether its cookies do what they are for.
//! A gateway in this process, the demo service behind it, and Chromium.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use towline_e2e::browser::Browser;
use towline_gateway::testing::{AgentKind, SimAgent, TeamSetup, World};
use towline_model::{InstanceId, Principal, Role, ServiceId, SignInId};

const SERVICE: &str = "/api/v1/r/containers/hello";
/// Opens a WebSocket, sends a word, and tells what came of it.
const OPEN: &str = "(url, protocols) => new Promise((resolve) => {
    const socket = new WebSocket(`ws://${location.host}${url}`, protocols);
    socket.onopen = () => socket.send('tow ü');
    socket.onmessage = (event) => { resolve({ protocol: socket.protocol, said: event.data }); socket.close(); };
    socket.onerror = () => resolve('refused');
})";

/// A page of the demo service in a browser, behind a gateway.
struct Page {
    browser: Browser,
    world: World,
    team: TeamSetup,
    service: ServiceId,
    instances: Vec<InstanceId>,
    _agent: SimAgent,
    _demos: JoinSet<()>,
}

impl Page {
    async fn open(replicas: usize) -> Self {
        let world = World::start().await;
        let team = world.team();
        let agent = world.agent(&team, "one").await;
        let service = world.service(&team, "hello");
        let mut demos = JoinSet::new();
        let mut instances = Vec::new();
        for _ in 0..replicas {
            instances.push(world.instance(service, &agent, AgentKind::Connect(demo(&mut demos).await)));
        }
        let mut browser = Browser::start().await;
        let url = format!("http://{}{SERVICE}/health", world.address);
        browser.open(&url, &format!("Bearer {}", team.key)).await;
        Self { browser, world, team, service, instances, _agent: agent, _demos: demos }
    }

    fn ticket(&self) -> String {
        let (user_id, team_id) = (self.team.member, self.team.id);
        let principal = Principal::User { user_id, team_id, role: Role::Member, sign_in: SignInId::generate() };
        self.world.gateway.issue_ticket(&principal, "hello").unwrap().expose().clone()
    }

    async fn socket(&mut self, target: &str, protocols: &[&str]) -> Value {
        let arguments = format!("({}, {})", json!(format!("{SERVICE}{target}")), json!(protocols));
        self.browser.evaluate(&format!("({OPEN}){arguments}")).await
    }

    /// The status and the body of a request of the page.
    async fn fetch(&mut self, method: &str, path: &str) -> (u64, Value) {
        let options = json!({"method": method, "headers": {"X-Towline-Key": self.team.key}});
        let script = format!("fetch({}, {options}).then(async (a) => [a.status, await a.text()])", json!(path));
        let answer = self.browser.evaluate(&script).await;
        let body = serde_json::from_str(answer[1].as_str().unwrap()).unwrap_or_else(|_| answer[1].clone());
        (answer[0].as_u64().unwrap(), body)
    }

    async fn instance(&mut self) -> Option<InstanceId> {
        let url = format!("http://{}{SERVICE}/", self.world.address);
        let value = self.browser.cookie(&url, "towline_instance").await?;
        Some(value.parse().unwrap())
    }
}

async fn demo(tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        towline_demo::serve(listener, towline_demo::Config::default(), CancellationToken::new()).await;
    });
    address
}

#[tokio::test]
async fn a_page_opens_websockets_with_tickets() {
    let mut page = Page::open(1).await;
    assert_eq!(page.socket("/ws", &[]).await, "refused", "without a ticket");
    let opened = |protocol: &str| json!({"protocol": protocol, "said": "tow ü"});

    let target = format!("/ws?x=1&towline_ticket={}", page.ticket());
    assert_eq!(page.socket(&target, &[]).await, opened(""));
    assert_eq!(page.socket(&target, &[]).await, "refused", "a second time");
    let target = format!("/ws?towline_ticket={}", page.ticket());
    assert_eq!(page.socket(&target, &["chat"]).await, opened("chat"));

    // A browser that has offered subprotocols wants one of them in the answer.
    let own = format!("towline.ticket.{}", page.ticket());
    assert_eq!(page.socket("/ws", &[&own]).await, opened(&own));
    assert_eq!(page.socket("/ws", &[&own]).await, "refused", "a second time");
    for first in [true, false] {
        let own = format!("towline.ticket.{}", page.ticket());
        let offered = if first { [own.as_str(), "chat"] } else { ["chat", own.as_str()] };
        assert_eq!(page.socket("/ws", &offered).await, opened("chat"));
    }
}

#[tokio::test]
async fn a_page_comes_back_to_its_instance() {
    let mut page = Page::open(2).await;
    page.fetch("GET", "echo").await;
    assert_eq!(page.instance().await, None, "it has not opted in");

    page.browser.evaluate(&format!("document.cookie = 'towline_affinity=soft; path={SERVICE}/'")).await;
    page.browser.evaluate("document.cookie = 'mine=1'").await;
    for round in 1..=20 {
        let (status, body) = page.fetch("POST", "count?key=a").await;
        assert_eq!((status, body["count"].as_u64()), (200, Some(round)), "all at one instance");
    }
    let instance = page.instance().await.unwrap();
    assert!(page.instances.contains(&instance));
    let seen = page.browser.evaluate("document.cookie").await;
    assert!(!seen.as_str().unwrap().contains("towline_instance"), "{seen}");
    let (_, echo) = page.fetch("GET", "echo").await;
    let echo = echo.to_string();
    assert!(echo.contains("mine=1") && !echo.contains("towline_"), "{echo}");

    page.browser.evaluate(&format!("document.cookie = 'towline_affinity=strict; path={SERVICE}/'")).await;
    let remove = |page: &Page, gone| {
        page.world.change(page.service, |route| route.instances.retain(|known| known.instance_id != gone));
    };
    remove(&page, instance);
    let (status, problem) = page.fetch("GET", "echo").await;
    assert_eq!((status, problem["error_code"].as_str()), (503, Some("no_ready_instance")), "{problem}");
    assert_eq!(page.instance().await, None, "it was made to forget");
    assert_eq!(page.fetch("GET", "echo").await.0, 200);
    let next = page.instance().await.unwrap();
    assert!(next != instance && page.instances.contains(&next));
    // A WebSocket's handshake goes to the same, and can be told as well.
    let target = format!("/ws?towline_ticket={}", page.ticket());
    assert_eq!(page.socket(&target, &[]).await["said"], "tow ü");
    assert_eq!(page.instance().await, Some(next));
}
