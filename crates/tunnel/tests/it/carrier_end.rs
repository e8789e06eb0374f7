//! How carriers end, and what their streams hear of it.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter, DuplexStream, ReadBuf},
    task::JoinSet,
    time::Instant,
};
use towline_tunnel::{
    CarrierConfig, CarrierEnd, OpenError, ProtocolError, RefuseCode, StreamEnd, agent_carrier,
    frame::{self, Frame},
    gateway_carrier,
};

use super::carrier::{Pair, connect, pair, pair_on, target};

fn config() -> CarrierConfig {
    CarrierConfig::default()
}

#[tokio::test]
async fn a_lost_connection_ends_every_stream() {
    let mut pair = pair(1024);
    let (mut near, mut far) = connect(&mut pair).await;
    far.write_all(b"last words").await.unwrap();
    let mut first = [0; 4];
    near.read_exact(&mut first).await.unwrap();
    pair.drivers.abort_all();
    let lost = StreamEnd::CarrierLost(CarrierEnd::Stopped);
    assert_eq!(near.monitor().ended().await, lost);
    // What had arrived can be read; then comes the error.
    let mut rest = Vec::new();
    let error = near.read_to_end(&mut rest).await.unwrap_err();
    assert_eq!(rest, b" words");
    assert_eq!(StreamEnd::of(&error), Some(&lost));
    assert!(near.write_all(b"x").await.is_err());
    assert_eq!(pair.gateway.closed().await, CarrierEnd::Stopped);
    assert!(matches!(pair.gateway.open(&target()), Err(OpenError::Closed(CarrierEnd::Stopped))));
    assert!(pair.incoming.next().await.is_none());
    assert!(pair.gateway.ping().await.is_err());
}

#[tokio::test]
async fn the_peers_end_of_the_connection_is_a_lost_carrier() {
    let (a, b) = tokio::io::duplex(1024);
    let (gateway, driver) = gateway_carrier(a, config());
    let mut drivers = JoinSet::new();
    drivers.spawn(driver.run());
    let mut stream = gateway.open(&target()).unwrap();
    stream.write_all(b"hello").await.unwrap();
    drop(b);
    assert!(matches!(stream.monitor().ended().await, StreamEnd::CarrierLost(_)));
    let end = drivers.join_next().await.unwrap().unwrap();
    assert_eq!(gateway.closed().await, end);
}

#[tokio::test]
async fn dropping_every_handle_closes_the_connection() {
    let Pair { gateway, agent, incoming, mut drivers, .. } = pair(1024);
    drop((gateway, agent, incoming));
    while let Some(end) = drivers.join_next().await {
        assert!(matches!(end.unwrap(), CarrierEnd::Closed | CarrierEnd::Drained));
    }
}

#[tokio::test]
async fn a_stream_keeps_its_carrier_open() {
    let mut pair = pair(1024);
    let (mut near, mut far) = connect(&mut pair).await;
    let Pair { gateway, agent, incoming, mut drivers, .. } = pair;
    drop((gateway, agent, incoming));
    near.write_all(b"still here").await.unwrap();
    let mut seen = [0; 10];
    far.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"still here");
    drop((near, far));
    while drivers.join_next().await.is_some() {}
}

#[tokio::test]
async fn going_away_lets_streams_finish() {
    for agent_goes in [false, true] {
        let mut pair = pair(1024);
        let (mut near, mut far) = connect(&mut pair).await;
        if agent_goes {
            pair.agent.go_away()
        } else {
            pair.gateway.go_away()
        }
        near.write_all(b"question").await.unwrap();
        near.shutdown().await.unwrap();
        let mut question = Vec::new();
        far.read_to_end(&mut question).await.unwrap();
        assert!(!pair.gateway.accepts_streams());
        assert!(matches!(pair.gateway.open(&target()), Err(OpenError::Draining)));
        far.write_all(b"answer").await.unwrap();
        far.shutdown().await.unwrap();
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
        while let Some(end) = pair.drivers.join_next().await {
            assert_eq!(end.unwrap(), CarrierEnd::Drained, "agent goes: {agent_goes}");
        }
    }
}

#[tokio::test]
async fn what_crosses_with_going_away_is_refused() {
    let mut pair = pair(1024);
    // Both happen before either side hears of the other.
    let mut near = pair.gateway.open(&target()).unwrap();
    pair.agent.go_away();
    let Err(StreamEnd::Refused(why)) = near.opened().await else { panic!("not refused") };
    assert_eq!(why.code, RefuseCode::Draining);
    while let Some(end) = pair.drivers.join_next().await {
        assert_eq!(end.unwrap(), CarrierEnd::Drained);
    }
}

#[tokio::test]
async fn closing_ends_both_sides_at_once() {
    let mut pair = pair(1024);
    let (near, far) = connect(&mut pair).await;
    pair.gateway.close();
    assert_eq!(near.monitor().end(), Some(StreamEnd::CarrierLost(CarrierEnd::Closed)));
    assert_eq!(far.monitor().ended().await, StreamEnd::CarrierLost(CarrierEnd::PeerClosed));
    while pair.drivers.join_next().await.is_some() {}
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_taken_for_dead() {
    let (a, _b) = tokio::io::duplex(1024);
    let (gateway, driver) = gateway_carrier(a, config());
    let started = Instant::now();
    assert_eq!(driver.run().await, CarrierEnd::PingTimeout);
    assert_eq!(started.elapsed().as_secs(), config().ping_timeout.as_secs());
    assert_eq!(gateway.closed().await, CarrierEnd::PingTimeout);
}

#[tokio::test(start_paused = true)]
async fn an_idle_carrier_lives_on_its_pings() {
    let mut pair = pair(1024);
    tokio::time::advance(Duration::from_secs(1)).await;
    for _ in 0..100 {
        tokio::time::timeout(Duration::from_secs(36), pair.drivers.join_next()).await.unwrap_err();
        assert!(pair.gateway.last_received().elapsed() < Duration::from_secs(20));
    }
    assert!(pair.gateway.ping().await.unwrap() < Duration::from_secs(1));
    assert!(pair.gateway.rtt().is_some());
    assert!(pair.gateway.idle_since().elapsed() > Duration::from_secs(3600));
}

/// Sends raw bytes to a gateway; gives the code that it answers with, and how the carrier ended there.
async fn end_after(bytes: &[u8]) -> (u16, CarrierEnd) {
    let (a, mut raw) = tokio::io::duplex(64 << 10);
    let (_gateway, driver) = gateway_carrier(a, config());
    let mut drivers = JoinSet::new();
    drivers.spawn(driver.run());
    raw.write_all(bytes).await.unwrap();
    let mut buffer = BytesMut::new();
    let code = loop {
        match frame::decode(&mut buffer).unwrap() {
            Some(Frame::GoAway { code, .. }) => break code,
            Some(_) => {}
            None => assert_ne!(raw.read_buf(&mut buffer).await.unwrap(), 0, "no GOAWAY"),
        }
    };
    drop(raw);
    (code, drivers.join_next().await.unwrap().unwrap())
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_told_so() {
    let cases: [(&[u8], ProtocolError); 4] = [
        (&[0x33, 0, 0, 0, 0, 0, 0, 0], ProtocolError::UnknownFrame(0x33)),
        (&[4, 0, 0, 1, 0, 0, 0, 9, 0], ProtocolError::Unexpected("DATA")),
        (&[4, 0, 0xff, 0xff, 0, 0, 0, 1], ProtocolError::FrameTooLong("DATA")),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", ProtocolError::UnknownFrame(b'H')),
    ];
    for (bytes, error) in cases {
        assert_eq!(end_after(bytes).await, (error.to_wire(), CarrierEnd::Protocol(error)));
    }
}

/// A pipe that notes how many bytes each write call was given.
struct Recorded {
    io: DuplexStream,
    writes: Arc<Mutex<Vec<usize>>>,
}

impl AsyncRead for Recorded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Recorded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<std::io::Result<usize>> {
        self.writes.lock().unwrap().push(data.len());
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_request_leaves_in_one_write_from_its_own_task() {
    let (a, _b) = tokio::io::duplex(64 << 10);
    let writes = Arc::new(Mutex::new(Vec::new()));
    let (gateway, driver) = gateway_carrier(Recorded { io: a, writes: Arc::clone(&writes) }, config());
    let mut drivers = JoinSet::new();
    drivers.spawn(driver.run());
    tokio::task::yield_now().await;
    writes.lock().unwrap().clear();
    let mut stream = gateway.open(&target()).unwrap();
    assert!(writes.lock().unwrap().is_empty());
    stream.write_all(&[0; 300]).await.unwrap();
    stream.write_all(&[0; 200]).await.unwrap();
    assert_eq!(*writes.lock().unwrap(), [8 + 17 + 8 + 300, 8 + 200]);
}

#[tokio::test]
async fn a_carrier_on_a_tiny_pipe_ends_in_order() {
    let (a, b) = tokio::io::duplex(1);
    let mut pair = pair_on(a, b);
    let (mut near, mut far) = connect(&mut pair).await;
    near.write_all(b"byte by byte").await.unwrap();
    let mut seen = [0; 12];
    far.read_exact(&mut seen).await.unwrap();
    drop((near, far));
    pair.gateway.go_away();
    while let Some(end) = pair.drivers.join_next().await {
        assert_eq!(end.unwrap(), CarrierEnd::Drained);
    }
}

#[tokio::test]
async fn a_connection_that_must_be_flushed_is_flushed() {
    let (a, b) = tokio::io::duplex(64 << 10);
    let (gateway, gateway_driver) = gateway_carrier(BufWriter::new(a), config());
    let (_agent, mut incoming, agent_driver) = agent_carrier(BufWriter::new(b), config());
    let mut drivers = JoinSet::new();
    drivers.spawn(gateway_driver.run());
    drivers.spawn(agent_driver.run());
    let mut near = gateway.open(&target()).unwrap();
    near.write_all(b"ping").await.unwrap();
    let mut far = incoming.next().await.unwrap().accept();
    let mut seen = [0; 4];
    far.read_exact(&mut seen).await.unwrap();
    far.write_all(&seen).await.unwrap();
    near.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"ping");
}
