//! The whole agent against a server in this process, with the fake engine.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use towline_model::{InstancePhase, KeyKind, RawKey, Secret};
use towline_tunnel::{
    Carrier, LogsRequest, OpenTarget, RefuseCode, StreamEnd,
    message::{EngineStatus, InstanceSpec, PROTOCOL_VERSION},
};

use super::*;
use crate::{
    runtime::fake::{FakeRuntime, Program},
    tests::{
        closed_port, instance,
        server::{Passes, TestServer, TestSession, soon},
        spec,
    },
};

struct TestAgent {
    engine: FakeRuntime,
    key: String,
    status: watch::Receiver<AgentStatus>,
    stop: CancellationToken,
    task: tokio_util::task::AbortOnDropHandle<()>,
}

impl TestAgent {
    fn start(server: &TestServer) -> Self {
        Self::start_with(server, |_| {})
    }

    fn start_with(server: &TestServer, change: impl FnOnce(&mut AgentConfig)) -> Self {
        let engine = FakeRuntime::new(&["towline-demo:latest"]).with_program(Program::Echo);
        Self::start_on(server, engine, change)
    }

    fn start_on(server: &TestServer, engine: FakeRuntime, change: impl FnOnce(&mut AgentConfig)) -> Self {
        let key = RawKey::generate(KeyKind::Agent, &mut rand::rng()).expose().clone();
        let url = format!("http://{}", server.address).parse().unwrap();
        let mut config = AgentConfig::new(url, Secret::new(key.clone()));
        config.name = "test".to_owned();
        config.labels = vec!["ssd".to_owned()];
        change(&mut config);
        let (sender, status) = watch::channel(AgentStatus::Connecting);
        let stop = CancellationToken::new();
        let running = crate::run_with_status(config, engine.clone(), stop.clone(), sender);
        let task = spawn_owned(async { running.await.unwrap() });
        Self { engine, key, status, stop, task }
    }

    async fn wait_until_disconnected(&mut self) -> String {
        let is_disconnected = |status: &AgentStatus| matches!(status, AgentStatus::Disconnected { .. });
        match &*soon("the agent to give up for now", self.status.wait_for(is_disconnected)).await.unwrap() {
            AgentStatus::Disconnected { reason } => reason.clone(),
            other => panic!("{other:?}"),
        }
    }
}

fn is_ready(instances: &[towline_tunnel::message::InstanceReport]) -> bool {
    !instances.is_empty() && instances.iter().all(|instance| instance.phase == InstancePhase::Ready)
}

/// An agent with one ready instance, its session, and a carrier.
async fn ready() -> (TestServer, TestAgent, TestSession, Carrier) {
    let mut server = TestServer::start().await;
    let agent = TestAgent::start(&server);
    let (mut session, _) = server.welcome().await;
    session.desire(1, vec![spec(1)]).await;
    session.report(is_ready).await;
    session.ask_for_carriers(&["ticket-1"]).await;
    let (_, carrier) = server.next_carrier().await;
    (server, agent, session, carrier)
}

async fn echo(stream: &mut towline_tunnel::TunnelStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = vec![0; text.len()];
    soon("the echo", stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(String::from_utf8(answer).unwrap(), text);
}

#[tokio::test]
async fn an_agent_says_who_it_is_and_does_what_it_is_told() {
    let mut server = TestServer::start().await;
    let agent = TestAgent::start(&server);
    let (mut session, hello) = server.welcome().await;
    assert_eq!(session.key, agent.key);
    assert_eq!((hello.name.as_str(), hello.labels.as_slice()), ("test", &["ssd".to_owned()][..]));
    assert_eq!(hello.protocol_versions, [PROTOCOL_VERSION]);
    assert_eq!(hello.engine, EngineStatus::Ready { version: "Fake 1.0".to_owned() });
    session.desire(7, vec![spec(1)]).await;
    let report = session.report(is_ready).await;
    assert_eq!((report.revision, report.instances[0].instance_id), (7, instance(1)));
    session.desire(8, Vec::new()).await;
    let report = session.report(<[_]>::is_empty).await;
    assert_eq!(report.revision, 8);
    assert_eq!(agent.engine.containers(), []);
}

#[tokio::test]
async fn an_agent_looks_for_another_way_when_nothing_comes_through() {
    for passes in [Passes::WebSockets, Passes::WebSocketsInTruth] {
        let mut server = TestServer::start().await;
        *server.passes.lock().unwrap() = passes;
        let _agent = TestAgent::start(&server);
        let (mut session, hello) = server.welcome().await;
        assert!(!hello.via_proxy);
        session.desire(1, vec![spec(1)]).await;
        session.report(is_ready).await;
        session.ask_for_carriers(&["ticket-1"]).await;
        let (_, carrier) = server.next_carrier().await;
        let mut stream = carrier.open(&OpenTarget::Instance(instance(1))).unwrap();
        echo(&mut stream, "through the tunnel").await;
    }
}

#[tokio::test]
async fn connections_are_replaced_before_they_are_cut_and_streams_go_on() {
    let mut server = TestServer::start().await;
    // The shorter of what the agent was told by somebody and by the server counts.
    server.connection_lifetime_seconds = Some(5);
    let mut agent = TestAgent::start_with(&server, |config| {
        config.connection_lifetime = Some(Duration::from_secs(3600));
    });
    let (mut old, _) = server.welcome().await;
    old.desire(1, vec![spec(1)]).await;
    old.report(is_ready).await;
    old.ask_for_carriers(&["ticket-1"]).await;
    let (_, old_carrier) = server.next_carrier().await;
    let mut stream = old_carrier.open(&OpenTarget::Instance(instance(1))).unwrap();
    echo(&mut stream, "before").await;
    // The next session comes by itself while this one lives; a server ends the old one then.
    let (mut new, _) = server.welcome().await;
    drop(old);
    new.desire(2, vec![spec(1)]).await;
    new.report(is_ready).await;
    new.ask_for_carriers(&["ticket-2"]).await;
    let (_, carrier) = server.next_carrier().await;
    echo(&mut carrier.open(&OpenTarget::Instance(instance(1))).unwrap(), "on the new one").await;
    echo(&mut stream, "after").await;
    assert!(!old_carrier.accepts_streams() && carrier.accepts_streams());
    let statuses = agent.status.borrow_and_update().clone();
    assert!(matches!(statuses, AgentStatus::Connected { .. }), "it was never disconnected: {statuses:?}");
    stream.shutdown().await.unwrap();
    drop(stream);
    assert_eq!(soon("the old carrier's end", old_carrier.closed()).await, towline_tunnel::CarrierEnd::Drained);
}

#[tokio::test]
async fn streams_reach_the_instances_that_they_name() {
    let (mut server, _agent, session, carrier) = ready().await;
    let mut stream = carrier.open(&OpenTarget::Instance(instance(1))).unwrap();
    echo(&mut stream, "through the tunnel").await;
    let refused = async |number: u128| {
        let mut stream = carrier.open(&OpenTarget::Instance(instance(number))).unwrap();
        match soon("an answer to OPEN", stream.opened()).await.unwrap_err() {
            StreamEnd::Refused(refused) => refused.code,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(2).await, RefuseCode::UnknownInstance);
    let waiting = InstanceSpec { instance_id: instance(3), image: "absent:1".to_owned(), ..spec(1) };
    session.desire(2, vec![spec(1), waiting]).await;
    // It is known a moment after it was told.
    while refused(3).await == RefuseCode::UnknownInstance {
        tokio::task::yield_now().await;
    }
    assert_eq!(refused(3).await, RefuseCode::NotReady);
    session.ask_for_carriers(&["ticket-2", "ticket-3"]).await;
    let mut tickets = [server.next_carrier().await.0, server.next_carrier().await.0];
    tickets.sort();
    assert_eq!(tickets, ["ticket-2", "ticket-3"]);
}

#[tokio::test]
async fn logs_are_sent_on_a_stream() {
    let (_server, agent, _session, carrier) = ready().await;
    for line in ["one", "two", "three"] {
        agent.engine.write_line(instance(1), line);
    }
    let open = |tail, follow| {
        let request = LogsRequest { instance: instance(1), tail, since: None, follow };
        carrier.open(&OpenTarget::Logs(request)).unwrap()
    };
    let mut stream = open(Some(2), false);
    let mut text = String::new();
    soon("the log", stream.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "two\nthree\n");
    let mut stream = open(Some(1), true);
    let mut line = [0; 6];
    soon("the last line", stream.read_exact(&mut line)).await.unwrap();
    agent.engine.write_line(instance(1), "fours");
    soon("the next line", stream.read_exact(&mut line)).await.unwrap();
    assert_eq!(&line, b"fours\n");
}

#[tokio::test]
async fn a_lost_session_is_replaced_and_stops_nothing() {
    let (mut server, agent, session, carrier) = ready().await;
    let mut stream = carrier.open(&OpenTarget::Instance(instance(1))).unwrap();
    echo(&mut stream, "before").await;
    let log = agent.engine.log();
    drop(session);
    let (mut session, _) = server.welcome().await;
    echo(&mut stream, "on the carrier of the lost session").await;
    session.report(is_ready).await;
    let mut late = carrier.open(&OpenTarget::Instance(instance(1)));
    if let Ok(stream) = &mut late {
        let end = soon("a refusal", stream.opened()).await.unwrap_err();
        assert!(matches!(end, StreamEnd::Refused(_)), "{end:?}");
    }
    session.ask_for_carriers(&["ticket-2"]).await;
    let (_, carrier) = server.next_carrier().await;
    let mut fresh = carrier.open(&OpenTarget::Instance(instance(1))).unwrap();
    echo(&mut fresh, "on a new one").await;
    assert_eq!(agent.engine.log(), log);
}

#[tokio::test]
async fn an_agent_that_is_told_to_stop_says_goodbye_and_finishes() {
    let (_server, agent, mut session, carrier) = ready().await;
    let mut stream = carrier.open(&OpenTarget::Instance(instance(1))).unwrap();
    echo(&mut stream, "before").await;
    agent.stop.cancel();
    loop {
        match session.next().await {
            AgentMessage::Leaving => break,
            AgentMessage::Report(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(!agent.task.is_finished());
    echo(&mut stream, "while it leaves").await;
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    soon("the end of the stream", stream.read_to_end(&mut rest)).await.unwrap();
    soon("the end of the agent", agent.task).await.unwrap();
    assert_eq!(agent.engine.containers().len(), 1, "its containers go on");
}

#[tokio::test]
async fn who_comes_before_the_goodbye_is_heard_is_refused_and_not_lost() {
    let (server, agent, mut session, carrier) = ready().await;
    server.reads.send_replace(false);
    agent.stop.cancel();
    while !matches!(session.next().await, AgentMessage::Leaving) {}
    let mut late = carrier.open(&OpenTarget::Instance(instance(1))).unwrap();
    late.write_all(b"late").await.unwrap();
    // An agent that waits for nothing ends within a few of these turns.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
        assert!(!agent.task.is_finished(), "it ends although the goodbye is not heard");
    }
    server.reads.send_replace(true);
    let end = soon("an answer to OPEN", late.opened()).await.unwrap_err();
    assert!(matches!(&end, StreamEnd::Refused(why) if why.code == RefuseCode::Draining), "{end:?}");
    soon("the end of the agent", agent.task).await.unwrap();
}

#[tokio::test]
async fn who_comes_before_an_agent_knows_its_instances_again_is_served() {
    let (mut server, agent, session, carrier) = ready().await;
    agent.stop.cancel();
    drop(session);
    soon("the end of the agent", agent.task).await.unwrap();
    drop(carrier);
    let _agent = TestAgent::start_on(&server, agent.engine, |_| {});
    let (session, _) = server.welcome().await;
    session.ask_for_carriers(&["ticket-2"]).await;
    let (_, carrier) = server.next_carrier().await;
    let mut early = carrier.open(&OpenTarget::Instance(instance(1))).unwrap();
    early.write_all(b"early").await.unwrap();
    let mut unknown = carrier.open(&OpenTarget::Instance(instance(2))).unwrap();
    // Both are on their way: the agent has told that it lives after it has taken them.
    soon("a sign of life", carrier.ping()).await.unwrap();
    session.desire(1, vec![spec(1)]).await;
    let mut answer = [0; 5];
    soon("the answer", early.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"early");
    assert!(soon("the refusal", unknown.read_u8()).await.is_err());
}

#[tokio::test]
async fn a_stream_that_does_not_finish_is_cut_at_the_deadline() {
    let mut server = TestServer::start().await;
    let agent = TestAgent::start_with(&server, |config| config.leave_deadline = Duration::from_millis(100));
    let (mut session, _) = server.welcome().await;
    session.desire(1, vec![spec(1)]).await;
    session.report(is_ready).await;
    session.ask_for_carriers(&["ticket-1"]).await;
    let (_, carrier) = server.next_carrier().await;
    let mut stream = carrier.open(&OpenTarget::Instance(instance(1))).unwrap();
    echo(&mut stream, "before").await;
    agent.stop.cancel();
    soon("the end of the agent", agent.task).await.unwrap();
    assert!(soon("the end of the stream", stream.read(&mut [0; 1])).await.is_err());
}

#[tokio::test]
async fn an_agent_whose_task_is_dropped_leaves_nothing_behind() {
    let (_server, agent, mut session, carrier) = ready().await;
    let mut stream = carrier.open(&OpenTarget::Instance(instance(1))).unwrap();
    echo(&mut stream, "before").await;
    drop(agent.task);
    soon("the end of the session", async { while session.receiver.next().await.is_ok() {} }).await;
    soon("the end of the carrier", carrier.closed()).await;
    assert!(stream.read(&mut [0; 1]).await.is_err());
}

#[tokio::test]
async fn no_more_carriers_are_dialled_than_allowed() {
    let mut server = TestServer::start().await;
    let agent = TestAgent::start_with(&server, |config| config.max_carriers = 2);
    let (session, _) = server.welcome().await;
    session.ask_for_carriers(&["a", "b", "c"]).await;
    let (_, first) = server.next_carrier().await;
    let (_, second) = server.next_carrier().await;
    assert!(!server.has_carrier());
    // One that has ended makes room for another.
    first.close();
    soon("the end of the carrier", first.closed()).await;
    loop {
        session.ask_for_carriers(&["d"]).await;
        if tokio::time::timeout(Duration::from_millis(200), server.next_carrier()).await.is_ok() {
            break;
        }
    }
    drop((second, agent));
}

#[tokio::test]
async fn a_key_that_is_not_accepted_is_explained_and_tried_again() {
    let rejection = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";
    let server = TestServer::start_with(Some(rejection)).await;
    let mut agent = TestAgent::start(&server);
    let reason = agent.wait_until_disconnected().await;
    assert!(reason.contains("towline key create --kind agent"), "{reason}");
    assert!(!agent.task.is_finished());
    agent.stop.cancel();
    soon("the end of the agent", agent.task).await.unwrap();
}

#[tokio::test]
async fn a_refusal_is_passed_on_in_the_servers_words() {
    let mut server = TestServer::start().await;
    let mut agent = TestAgent::start(&server);
    let session = server.next_session().await;
    let refusal = Refusal { reason: "the name test is taken; give this agent another".to_owned(), retry: false };
    session.send(ServerMessage::Refused(refusal)).await;
    let reason = agent.wait_until_disconnected().await;
    assert!(reason.contains("the name test is taken"), "{reason}");
}

#[tokio::test]
async fn a_server_of_another_version_is_not_talked_to() {
    let mut server = TestServer::start().await;
    let mut agent = TestAgent::start(&server);
    let session = server.next_session().await;
    let welcome = Welcome {
        protocol_version: PROTOCOL_VERSION + 1,
        agent_id: server.agent_id,
        session_id: SessionId::generate(),
        server_version: "9.9.9".to_owned(),
        connection_lifetime_seconds: None,
    };
    session.send(ServerMessage::Welcome(welcome)).await;
    let reason = agent.wait_until_disconnected().await;
    assert!(reason.contains("install an agent"), "{reason}");
}

#[tokio::test]
async fn a_server_that_says_go_away_is_served_to_its_end_and_called_again() {
    let (mut server, _agent, mut session, carrier) = ready().await;
    let mut stream = carrier.open(&OpenTarget::Instance(instance(1))).unwrap();
    echo(&mut stream, "before").await;
    session.send(ServerMessage::GoAway { drain_millis: 30_000 }).await;
    let mut waiting = carrier.open(&OpenTarget::Instance(instance(1))).unwrap();
    echo(&mut waiting, "what it has taken and not begun").await;
    let (mut next, _) = server.welcome().await;
    next.report(is_ready).await;
    echo(&mut stream, "what runs is finished").await;
    let mut late = carrier.open(&OpenTarget::Instance(instance(1))).unwrap();
    echo(&mut late, "also beside the next session").await;
    session.sender.close();
    soon("the end of the session", async { while session.receiver.next().await.is_ok() {} }).await;
    // With it the carrier takes no more.
    soon("the refusal", async {
        while let Ok(mut stream) = carrier.open(&OpenTarget::Instance(instance(1))) {
            if stream.write_all(b"x").await.is_err() || stream.read_u8().await.is_err() {
                return;
            }
        }
    })
    .await;
    echo(&mut stream, "and still what runs is finished").await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_waited_for() {
    let mut server = TestServer::start().await;
    let address = server.address;
    let (_held, closed) = closed_port();
    server.address = closed;
    let mut agent = TestAgent::start(&server);
    let reason = agent.wait_until_disconnected().await;
    assert!(reason.contains("cannot connect"), "{reason}");
    server.address = address;
}

#[tokio::test]
async fn a_wrong_setting_ends_the_agent_at_once() {
    let mut config = AgentConfig::new("http://127.0.0.1:1".parse().unwrap(), Secret::new("sk-nonsense".to_owned()));
    config.name = "test".to_owned();
    let error = crate::run(config, FakeRuntime::default(), CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("mistyped"), "{error}");
}
