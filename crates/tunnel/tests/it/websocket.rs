//! Sessions and carriers inside a WebSocket, on in-memory pipes.

use std::{io, time::Duration};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    task::JoinSet,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};
use towline_model::InstanceId;
use towline_tunnel::{
    CarrierConfig, CarrierEnd, OpenTarget, SessionConfig, agent_carrier, agent_session, gateway_carrier,
    message::{AgentMessage, ServerMessage},
    ping, server_session,
    websocket::WebSocketIo,
};

async fn pair(buffer: usize) -> (WebSocketIo<DuplexStream>, WebSocketIo<DuplexStream>) {
    let (client, server) = duplex(buffer);
    (WebSocketIo::client(client).await, WebSocketIo::server(server).await)
}

/// The adapter, and a peer that can send any message.
async fn against_peer() -> (WebSocketIo<DuplexStream>, WebSocketStream<DuplexStream>) {
    let (client, server) = duplex(1 << 20);
    (WebSocketIo::server(server).await, WebSocketStream::from_raw_socket(client, Role::Client, None).await)
}

#[tokio::test]
async fn streams_pass_over_pipes_of_any_size() {
    for buffer in [1, 7, 4096, 1 << 20] {
        let (client, server) = pair(buffer).await;
        let (gateway, gateway_driver) = gateway_carrier(server, CarrierConfig::default());
        let (agent, mut incoming, agent_driver) = agent_carrier(client, CarrierConfig::default());
        let mut drivers = JoinSet::new();
        drivers.spawn(gateway_driver.run());
        drivers.spawn(agent_driver.run());
        let data: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
        let mut stream = gateway.open(&OpenTarget::Instance(InstanceId::generate())).unwrap();
        let echo = async {
            let (mut read, mut write) = tokio::io::split(incoming.next().await.unwrap().accept());
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let talk = async {
            let (mut read, mut write) = tokio::io::split(&mut stream);
            let mut answer = Vec::new();
            let send = async {
                write.write_all(&data).await.unwrap();
                write.shutdown().await.unwrap();
            };
            tokio::join!(send, async { read.read_to_end(&mut answer).await.unwrap() });
            assert!(answer == data, "{} bytes of {}, buffer {buffer}", answer.len(), data.len());
        };
        timeout(Duration::from_secs(60), async { tokio::join!(echo, talk) }).await.unwrap();
        drop(stream);
        agent.go_away();
        while let Some(end) = drivers.join_next().await {
            assert_eq!(end.unwrap(), CarrierEnd::Drained, "buffer {buffer}");
        }
    }
}

#[tokio::test]
async fn messages_pass_and_the_last_words_are_heard() {
    let (client, server) = pair(10).await;
    let (agent, mut heard, agent_driver) = agent_session(client, SessionConfig::default());
    let (sender, mut received, server_driver) = server_session(server, SessionConfig::default());
    let mut drivers = JoinSet::new();
    drivers.spawn(agent_driver.run());
    drivers.spawn(server_driver.run());
    let long = ServerMessage::DialCarriers { tickets: vec!["t".repeat(200_000)] };
    sender.send(&long).await.unwrap();
    assert_eq!(heard.next().await.unwrap(), long);
    agent.send(&AgentMessage::Leaving).await.unwrap();
    drop((agent, heard));
    assert_eq!(received.next().await.unwrap(), AgentMessage::Leaving);
    assert!(received.next().await.is_err());
    drop((sender, received));
    while let Some(ended) = drivers.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn a_ping_is_answered_before_anything_is_said() {
    let (client, server) = pair(64).await;
    let (_sender, mut received, driver) = server_session(server, SessionConfig::default());
    let mut drivers = JoinSet::new();
    drivers.spawn(driver.run());
    timeout(Duration::from_secs(10), ping(client)).await.unwrap().unwrap();
    assert!(received.next().await.is_err(), "nothing was said, and the session is over");
}

#[tokio::test]
async fn pings_are_answered_between_frames_and_text_is_an_error() {
    let (mut io, mut peer) = against_peer().await;
    peer.send(Message::Ping(b"are you there".to_vec().into())).await.unwrap();
    peer.send(Message::Binary(b"fra".to_vec().into())).await.unwrap();
    peer.send(Message::Binary(b"mes".to_vec().into())).await.unwrap();
    let mut frames = [0; 6];
    io.read_exact(&mut frames).await.unwrap();
    assert_eq!(&frames, b"frames");
    io.write_all(b"back").await.unwrap();
    io.flush().await.unwrap();
    assert_eq!(peer.next().await.unwrap().unwrap(), Message::Pong(b"are you there".to_vec().into()));
    assert_eq!(peer.next().await.unwrap().unwrap(), Message::Binary(b"back".to_vec().into()));
    peer.send(Message::text("hello")).await.unwrap();
    assert_eq!(io.read_u8().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn messages_have_a_longest_length_in_both_directions() {
    let (mut io, mut peer) = against_peer().await;
    let sent = vec![7; 200_000];
    let read = async {
        let (mut longest, mut total) = (0, 0);
        while total < sent.len() {
            let Message::Binary(message) = peer.next().await.unwrap().unwrap() else { panic!("it is not binary") };
            (longest, total) = (longest.max(message.len()), total + message.len());
        }
        longest
    };
    let write = async {
        io.write_all(&sent).await.unwrap();
        io.flush().await.unwrap();
    };
    assert_eq!(tokio::join!(read, write).0, 64 << 10);
    peer.send(Message::Binary(vec![0; (64 << 10) + 1].into())).await.unwrap();
    assert_eq!(io.read_u8().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_close_message_and_a_lost_connection_are_both_the_end() {
    let (mut io, mut peer) = against_peer().await;
    peer.close(None).await.unwrap();
    assert_eq!(io.read(&mut [0; 8]).await.unwrap(), 0);
    let (mut io, peer) = against_peer().await;
    drop(peer);
    assert_eq!(io.read(&mut [0; 8]).await.unwrap(), 0);
}

proptest::proptest! {
    /// Whatever a peer sends: an error or an end, within limits, and never a panic.
    #[test]
    fn any_bytes_are_taken(pieces in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 0..200), 0..20)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut peer, server) = duplex(1 << 20);
            let mut io = WebSocketIo::server(server).await;
            for piece in &pieces {
                peer.write_all(piece).await.unwrap();
            }
            drop(peer);
            let mut read = Vec::new();
            let _ = io.read_to_end(&mut read).await;
            assert!(read.len() <= pieces.iter().map(Vec::len).sum::<usize>());
        });
    }
}
