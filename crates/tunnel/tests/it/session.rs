//! Sessions on in-memory pipes.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::Instant,
};
use towline_tunnel::{
    ProtocolError, SessionConfig, SessionEnd, SessionReceiver, SessionSender, agent_session,
    frame::{self, Frame},
    message::{AgentMessage, Refusal, ServerMessage},
    server_session,
};

struct Sessions {
    agent: (SessionSender<AgentMessage>, SessionReceiver<ServerMessage>),
    server: (SessionSender<ServerMessage>, SessionReceiver<AgentMessage>),
    drivers: JoinSet<SessionEnd>,
}

fn sessions(buffer: usize) -> Sessions {
    let (a, b) = tokio::io::duplex(buffer);
    let (agent_sender, agent_receiver, agent_driver) = agent_session(a, SessionConfig::default());
    let (server_sender, server_receiver, server_driver) = server_session(b, SessionConfig::default());
    let mut drivers = JoinSet::new();
    drivers.spawn(agent_driver.run());
    drivers.spawn(server_driver.run());
    Sessions { agent: (agent_sender, agent_receiver), server: (server_sender, server_receiver), drivers }
}

fn tickets(length: usize) -> ServerMessage {
    ServerMessage::DialCarriers { tickets: vec!["t".repeat(length)] }
}

#[tokio::test]
async fn messages_of_any_length_arrive_in_order() {
    for buffer in [7, 64 << 10] {
        let mut sessions = sessions(buffer);
        let lengths = [0, 1, 16_000, 16_384, 16_400, 100_000];
        let sender = sessions.server.0.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            for length in lengths {
                sender.send(&tickets(length)).await.unwrap();
            }
        });
        for length in lengths {
            assert_eq!(sessions.agent.1.next().await.unwrap(), tickets(length));
        }
        sessions.agent.0.send(&AgentMessage::Leaving).await.unwrap();
        assert_eq!(sessions.server.1.next().await.unwrap(), AgentMessage::Leaving);
    }
}

#[tokio::test]
async fn the_longest_message_passes_and_a_longer_one_is_not_sent() {
    let mut sessions = sessions(64 << 10);
    let longest = tickets((4 << 20) - 50);
    sessions.server.0.send(&longest).await.unwrap();
    assert_eq!(sessions.agent.1.next().await.unwrap(), longest);
    let too_long = sessions.server.0.send(&tickets(4 << 20)).await.unwrap_err();
    assert_eq!(too_long, SessionEnd::Protocol(ProtocolError::MessageTooLong));
    sessions.server.0.send(&tickets(1)).await.unwrap();
    assert_eq!(sessions.agent.1.next().await.unwrap(), tickets(1));
}

#[tokio::test]
async fn the_last_words_are_heard() {
    let Sessions { mut agent, server, mut drivers } = sessions(10);
    let refused = ServerMessage::Refused(Refusal { reason: "no such key".to_owned(), retry: false });
    agent.0.send(&AgentMessage::Leaving).await.unwrap();
    server.0.send(&refused).await.unwrap();
    drop(server);
    assert_eq!(agent.1.next().await.unwrap(), refused);
    assert_eq!(agent.1.next().await.unwrap_err(), SessionEnd::PeerClosed);
    assert_eq!(agent.0.closed().await, SessionEnd::PeerClosed);
    assert!(agent.0.send(&AgentMessage::Leaving).await.is_err());
    drop(agent);
    let mut ends = Vec::new();
    while let Some(end) = drivers.join_next().await {
        ends.push(end.unwrap());
    }
    assert!(ends.contains(&SessionEnd::Closed) && ends.contains(&SessionEnd::PeerClosed), "{ends:?}");
}

#[tokio::test]
async fn closing_sends_what_is_queued() {
    let mut sessions = sessions(10);
    for length in [10, 20_000, 30] {
        sessions.server.0.send(&tickets(length)).await.unwrap();
    }
    sessions.server.0.close();
    for length in [10, 20_000, 30] {
        assert_eq!(sessions.agent.1.next().await.unwrap(), tickets(length));
    }
    assert_eq!(sessions.agent.1.next().await.unwrap_err(), SessionEnd::PeerClosed);
    assert_eq!(sessions.server.0.closed().await, SessionEnd::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_dead_after_two_missed_pings() {
    let (a, _b) = tokio::io::duplex(1024);
    let (sender, mut receiver, driver) = agent_session(a, SessionConfig::default());
    let started = Instant::now();
    assert_eq!(driver.run().await, SessionEnd::PingTimeout);
    assert_eq!(started.elapsed().as_secs(), 25);
    assert_eq!(receiver.next().await.unwrap_err(), SessionEnd::PingTimeout);
    assert_eq!(sender.end(), Some(SessionEnd::PingTimeout));
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_lives() {
    let mut sessions = sessions(100);
    assert!(tokio::time::timeout(Duration::from_secs(86_400), sessions.drivers.join_next()).await.is_err());
}

#[tokio::test]
async fn a_dropped_driver_ends_the_session() {
    let mut sessions = sessions(100);
    sessions.drivers.abort_all();
    assert_eq!(sessions.agent.1.next().await.unwrap_err(), SessionEnd::Stopped);
    assert_eq!(sessions.agent.0.send(&AgentMessage::Leaving).await.unwrap_err(), SessionEnd::Stopped);
}

/// Sends frames to a server's session. Gives what its application and its driver say.
async fn after(frames: &[Frame]) -> (Result<AgentMessage, SessionEnd>, u16) {
    let (mut raw, b) = tokio::io::duplex(64 << 10);
    let (_sender, mut receiver, driver) = server_session(b, SessionConfig::default());
    let mut drivers = JoinSet::new();
    drivers.spawn(driver.run());
    let mut wire = BytesMut::new();
    for frame in frames {
        frame.encode(&mut wire);
    }
    raw.write_all(&wire).await.unwrap();
    let said = receiver.next().await;
    let mut answer = BytesMut::new();
    let code = loop {
        match frame::decode(&mut answer).unwrap() {
            Some(Frame::GoAway { code, .. }) => break code,
            Some(_) => {}
            None if said.is_ok() => break 0,
            None => assert_ne!(raw.read_buf(&mut answer).await.unwrap(), 0, "no GOAWAY"),
        }
    };
    (said, code)
}

fn message(text: &'static str, more: bool) -> Frame {
    Frame::Message { more, payload: Bytes::from_static(text.as_bytes()) }
}

#[tokio::test]
async fn what_is_unknown_is_skipped() {
    let said = after(&[
        Frame::Ignored,
        message(r#"{"type":"from_next_year","x":1}"#, false),
        message(r#"{"type":"#, true),
        message("", true),
        message(r#""leaving"}"#, false),
    ])
    .await;
    assert_eq!(said, (Ok(AgentMessage::Leaving), 0));
}

#[tokio::test]
async fn what_is_wrong_ends_the_session() {
    let cases: [(&[Frame], ProtocolError); 4] = [
        (&[message("not json", false)], ProtocolError::BadMessage),
        (&[message(r#"{"type":"hello"}"#, false)], ProtocolError::BadMessage),
        (&[Frame::Fin { stream: 1, delivered: None }], ProtocolError::Unexpected("carrier's")),
        (&vec![Frame::Ping(1); 5000], ProtocolError::Flood),
    ];
    for (frames, error) in cases {
        assert_eq!(after(frames).await, (Err(SessionEnd::Protocol(error)), error.to_wire()));
    }
}

#[tokio::test]
async fn a_message_that_never_ends_is_cut_off() {
    let (mut raw, b) = tokio::io::duplex(64 << 10);
    let (_sender, mut receiver, driver) = server_session(b, SessionConfig::default());
    let mut drivers = JoinSet::new();
    drivers.spawn(driver.run());
    drivers.spawn(async move {
        let mut wire = BytesMut::new();
        Frame::Message { more: true, payload: Bytes::from(vec![b' '; 16 << 10]) }.encode(&mut wire);
        while raw.write_all(&wire).await.is_ok() {}
        SessionEnd::Closed
    });
    assert_eq!(receiver.next().await.unwrap_err(), SessionEnd::Protocol(ProtocolError::MessageTooLong));
}

#[tokio::test]
async fn an_application_that_does_not_listen_is_waited_for() {
    let mut sessions = sessions(64 << 10);
    let sender = sessions.server.0.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        for _ in 0..100 {
            sender.send(&tickets(100_000)).await.unwrap();
        }
    });
    // The queues fill up, and then the sender waits.
    assert!(tokio::time::timeout(Duration::from_millis(100), tasks.join_next()).await.is_err());
    for _ in 0..100 {
        assert_eq!(sessions.agent.1.next().await.unwrap(), tickets(100_000));
    }
}
