//! Streams on a carrier: bytes, half-close, resets, backpressure, many and stalled streams.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf},
    task::JoinSet,
};
use towline_model::InstanceId;
use towline_tunnel::{
    Budget, Carrier, CarrierConfig, CarrierEnd, Incoming, OpenTarget, RefuseCode, Refused, ResetCode, StreamEnd,
    TunnelStream, agent_carrier, gateway_carrier,
};

/// Both ends of a carrier on a pipe, with their drivers.
pub struct Pair {
    pub gateway: Carrier,
    pub agent: Carrier,
    pub incoming: Incoming,
    pub drivers: JoinSet<CarrierEnd>,
    pub budget: Budget,
}

/// A carrier on a pipe that holds `buffer` bytes in each direction.
pub fn pair(buffer: usize) -> Pair {
    let (a, b) = tokio::io::duplex(buffer);
    pair_on(a, b)
}

pub fn pair_on(
    a: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    b: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Pair {
    let budget = Budget::new(64 << 20);
    let config = CarrierConfig { budget: budget.clone(), ..CarrierConfig::default() };
    let (gateway, gateway_driver) = gateway_carrier(a, config.clone());
    let (agent, incoming, agent_driver) = agent_carrier(b, config);
    let mut drivers = JoinSet::new();
    drivers.spawn(gateway_driver.run());
    drivers.spawn(agent_driver.run());
    Pair { gateway, agent, incoming, drivers, budget }
}

pub fn target() -> OpenTarget {
    OpenTarget::Instance(InstanceId::generate())
}

/// Opens a stream and accepts it on the other side.
pub async fn connect(pair: &mut Pair) -> (TunnelStream, TunnelStream) {
    let mut near = pair.gateway.open(&target()).unwrap();
    let (far, opened) = tokio::join!(pair.incoming.next(), async {
        near.flush().await.unwrap();
    });
    let () = opened;
    (near, far.unwrap().accept())
}

/// Sends everything back until the caller has finished, then finishes.
async fn echo(stream: TunnelStream) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    tokio::io::copy(&mut reader, &mut writer).await?;
    writer.shutdown().await
}

/// Accepts streams and echoes them for ever.
async fn echo_server(mut incoming: Incoming) {
    let mut streams = JoinSet::new();
    while let Some(stream) = incoming.next().await {
        streams.spawn(echo(stream.accept()));
        while streams.try_join_next().is_some() {}
    }
}

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|i| ((i * 31 + seed * 7) % 251) as u8).collect()
}

/// A connection that counts its writes.
#[derive(Debug)]
struct Counted {
    io: DuplexStream,
    writes: Arc<AtomicUsize>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Six streams of a carrier whose gateway's writes are counted, and the agent's ends of them.
async fn six_streams() -> (Pair, Vec<TunnelStream>, Vec<TunnelStream>, Arc<AtomicUsize>) {
    let (a, b) = tokio::io::duplex(1 << 20);
    let writes = Arc::new(AtomicUsize::new(0));
    let mut pair = pair_on(Counted { io: a, writes: Arc::clone(&writes) }, b);
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        let (one, other) = connect(&mut pair).await;
        near.push(one);
        far.push(other);
    }
    (pair, near, far, writes)
}

#[tokio::test]
async fn streams_that_write_in_one_turn_share_a_write() {
    const ROUNDS: usize = 50;
    let (_pair, near, mut far, writes) = six_streams().await;
    let begin = Arc::new(tokio::sync::Barrier::new(near.len() + 1));
    let mut writers = JoinSet::new();
    for mut stream in near {
        let begin = Arc::clone(&begin);
        writers.spawn(async move {
            for _ in 0..ROUNDS {
                begin.wait().await;
                stream.write_all(b"question").await.unwrap();
            }
            stream
        });
    }
    let before = writes.load(Ordering::Relaxed);
    for _ in 0..ROUNDS {
        begin.wait().await;
        for stream in &mut far {
            let mut arrived = [0; 8];
            stream.read_exact(&mut arrived).await.unwrap();
            assert_eq!(&arrived, b"question");
        }
    }
    let writes = writes.load(Ordering::Relaxed) - before;
    assert!(writes <= 2 * ROUNDS, "{writes} writes for {ROUNDS} rounds of six streams");
}

#[tokio::test]
async fn a_stream_that_is_alone_writes_by_itself() {
    let (_pair, mut near, mut far, writes) = six_streams().await;
    for _ in 0..10 {
        near[2].write_all(b"question").await.unwrap();
        far[2].read_exact(&mut [0; 8]).await.unwrap();
    }
    let before = writes.load(Ordering::Relaxed);
    near[2].write_all(b"question").await.unwrap();
    assert_eq!(writes.load(Ordering::Relaxed), before + 1, "it waited for the driver");
}

#[tokio::test]
async fn bytes_arrive_and_both_directions_close_on_their_own() {
    let mut pair = pair(64);
    let (mut near, mut far) = connect(&mut pair).await;
    near.write_all(b"question").await.unwrap();
    near.shutdown().await.unwrap();
    let mut question = Vec::new();
    far.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"question");

    // The other direction is still open.
    far.write_all(b"answer").await.unwrap();
    far.shutdown().await.unwrap();
    let mut answer = Vec::new();
    near.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"answer");
    assert_eq!(near.monitor().ended().await, StreamEnd::Finished);
    assert_eq!(far.monitor().ended().await, StreamEnd::Finished);
    assert!(near.write_all(b"x").await.is_err());

    drop((near, far));
    assert_eq!((pair.gateway.active_streams(), pair.agent.active_streams()), (0, 0));
}

#[tokio::test]
async fn what_was_written_before_a_drop_is_sent_when_both_directions_are_finished() {
    let mut pair = pair(16);
    let (mut near, mut far) = connect(&mut pair).await;
    near.shutdown().await.unwrap();
    assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
    let body = pattern(60_000, 1);
    far.write_all(&body).await.unwrap();
    far.shutdown().await.unwrap();
    drop(far);
    let mut seen = Vec::new();
    near.read_to_end(&mut seen).await.unwrap();
    assert_eq!(seen, body);
}

#[tokio::test]
async fn a_stream_is_quiet_when_a_read_would_wait() {
    let mut pair = pair(1024);
    let (mut near, mut far) = connect(&mut pair).await;
    assert!(far.is_quiet());
    near.write_all(b"some").await.unwrap();
    let mut some = [0; 3];
    far.read_exact(&mut some).await.unwrap();
    assert!(!far.is_quiet(), "there is more");
    far.read_exact(&mut some[..1]).await.unwrap();
    assert!(far.is_quiet());
    near.shutdown().await.unwrap();
    assert_eq!(far.read(&mut some).await.unwrap(), 0);
    assert!(!far.is_quiet(), "the end stays");
    drop(far);
    near.monitor().ended().await;
    assert!(!near.is_quiet(), "so does an error");
}

#[tokio::test]
async fn a_dropped_stream_is_reset_and_tells_how_much_was_delivered() {
    let mut pair = pair(1024);
    let (mut near, mut far) = connect(&mut pair).await;
    near.write_all(b"0123456789").await.unwrap();
    far.note_delivered(0);
    let mut some = [0; 6];
    far.read_exact(&mut some).await.unwrap();
    far.note_delivered(4);
    drop(far);
    let end = near.monitor().ended().await;
    assert_eq!(end, StreamEnd::Reset { code: ResetCode::Cancelled, delivered: 4 });
    let error = near.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(StreamEnd::of(&error), Some(&end));
    assert!(near.write_all(b"more").await.is_err());
}

#[tokio::test]
async fn a_caller_that_goes_away_is_noticed_without_reading() {
    let mut pair = pair(1024);
    let (mut near, far) = connect(&mut pair).await;
    near.write_all(b"unread").await.unwrap();
    let monitor = far.monitor();
    drop(near);
    assert_eq!(monitor.ended().await, StreamEnd::Reset { code: ResetCode::Cancelled, delivered: 0 });
}

#[tokio::test]
async fn an_answer_before_a_reset_arrives() {
    let mut pair = pair(100);
    let (mut near, mut far) = connect(&mut pair).await;
    let body = pattern(50_000, 2);
    far.write_all(&body).await.unwrap();
    far.reset_after_data(ResetCode::ConnectionReset);
    let mut seen = Vec::new();
    let error = near.read_to_end(&mut seen).await.unwrap_err();
    assert_eq!(seen, body);
    let end = StreamEnd::Reset { code: ResetCode::ConnectionReset, delivered: 0 };
    assert_eq!(StreamEnd::of(&error), Some(&end));
}

#[tokio::test]
async fn a_refused_stream_says_why() {
    let mut pair = pair(1024);
    let mut near = pair.gateway.open(&target()).unwrap();
    near.write_all(b"early bytes").await.unwrap();
    let why = Refused::new(RefuseCode::ConnectFailed, "port 8080 is closed");
    pair.incoming.next().await.unwrap().refuse(why.clone());
    assert_eq!(near.opened().await, Err(StreamEnd::Refused(why.clone())));
    let error = near.read(&mut [0]).await.unwrap_err();
    assert_eq!(StreamEnd::of(&error), Some(&StreamEnd::Refused(why)));
    drop(near);
    assert_eq!((pair.gateway.active_streams(), pair.agent.active_streams()), (0, 0));
}

#[tokio::test]
async fn streams_are_accepted_with_what_was_sent_early() {
    let mut pair = pair(1024);
    let wanted = target();
    let mut near = pair.gateway.open(&wanted).unwrap();
    assert_eq!(near.monitor().bytes_sent(), 0);
    near.write_all(b"early").await.unwrap();
    assert_eq!(near.monitor().bytes_sent(), 5);
    let arrived = pair.incoming.next().await.unwrap();
    assert_eq!(arrived.target(), &wanted);
    let mut far = arrived.accept();
    near.opened().await.unwrap();
    let mut early = [0; 5];
    far.read_exact(&mut early).await.unwrap();
    assert_eq!(&early, b"early");
}

#[tokio::test]
async fn a_stream_that_was_never_sent_leaves_no_trace() {
    let mut pair = pair(1024);
    drop(pair.gateway.open(&target()).unwrap());
    assert_eq!(pair.gateway.active_streams(), 0);
    let (near, _far) = connect(&mut pair).await;
    assert_eq!(pair.agent.active_streams(), 1);
    drop(near);
}

#[tokio::test]
async fn sixty_four_mebibytes_go_through_one_stream() {
    let mut pair = pair(256 << 10);
    let (near, mut far) = connect(&mut pair).await;
    let (mut reader, mut writer) = tokio::io::split(near);
    let total = 64 << 20;
    let chunk = pattern(100_000, 3);
    let mut tasks = JoinSet::new();
    let sent = chunk.clone();
    tasks.spawn(async move {
        let mut left = total;
        while left > 0 {
            let step = left.min(sent.len());
            writer.write_all(&sent[..step]).await.unwrap();
            left -= step;
        }
        writer.shutdown().await.unwrap();
    });
    let mut seen = 0;
    let mut buffer = vec![0; chunk.len()];
    while seen < total {
        let step = (total - seen).min(chunk.len());
        far.read_exact(&mut buffer[..step]).await.unwrap();
        assert!(buffer[..step] == chunk[..step], "bytes differ after {seen}");
        seen += step;
    }
    assert_eq!(far.read(&mut buffer).await.unwrap(), 0);
    tasks.join_next().await.unwrap().unwrap();
    drop((far, reader.read(&mut buffer)));
    drop(reader);
    assert_eq!(pair.budget.used(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_short_streams_come_and_go() {
    let Pair { gateway, agent, incoming, mut drivers, budget } = pair(64 << 10);
    let mut server = JoinSet::new();
    server.spawn(echo_server(incoming));
    let mut clients = JoinSet::new();
    for client in 0..16 {
        let gateway = gateway.clone();
        clients.spawn(async move {
            for round in 0..200 {
                let body = pattern((client * 37 + round * 113) % 20_000, round);
                let mut stream = gateway.open(&target()).unwrap();
                let mut seen = Vec::new();
                stream.write_all(&body).await.unwrap();
                stream.shutdown().await.unwrap();
                stream.read_to_end(&mut seen).await.unwrap();
                assert!(seen == body, "client {client}, round {round}");
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
    assert_eq!(gateway.active_streams(), 0);
    assert_eq!(gateway.queued_bytes(), 0);
    drop((gateway, agent));
    server.shutdown().await;
    while drivers.join_next().await.is_some() {}
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn two_hundred_stalled_readers_stop_nobody() {
    let mut pair = pair(64 << 10);
    let mut stalled = Vec::new();
    let mut writers = JoinSet::new();
    for _ in 0..200 {
        let (near, mut far) = connect(&mut pair).await;
        stalled.push(near);
        // Downloads that nobody reads: they stop at their own window.
        writers.spawn(async move {
            far.write_all(&vec![1; 1 << 20]).await.unwrap();
            far
        });
    }
    let (mut near, far) = connect(&mut pair).await;
    let mut server = JoinSet::new();
    server.spawn(echo(far));
    for round in 0..50 {
        let body = pattern(1000, round);
        let mut seen = vec![0; body.len()];
        near.write_all(&body).await.unwrap();
        near.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, body);
    }
    assert!(pair.agent.queued_bytes() <= 201 * (64 << 10));
    // They were only stalled, not lost.
    for mut near in stalled {
        let mut seen = vec![0; 1 << 20];
        near.read_exact(&mut seen).await.unwrap();
    }
}

#[tokio::test]
async fn a_socket_that_takes_nothing_stops_the_writer() {
    let (a, _b) = tokio::io::duplex(100);
    let (gateway, driver) = gateway_carrier(a, CarrierConfig::default());
    let mut drivers = JoinSet::new();
    drivers.spawn(driver.run());
    let mut stream = gateway.open(&target()).unwrap();
    let write = stream.write_all(&[0; 1 << 20]);
    assert!(tokio::time::timeout(Duration::from_millis(20), write).await.is_err());
    assert!(gateway.queued_bytes() <= 64 << 10);
}

#[tokio::test]
async fn a_bulk_writer_leaves_room_for_others() {
    let mut pair = pair(32 << 10);
    let (mut bulk, mut sink) = connect(&mut pair).await;
    let (mut near, far) = connect(&mut pair).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { while bulk.write_all(&[7; 64 << 10]).await.is_ok() {} });
    tasks.spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        while matches!(sink.read(&mut buffer).await, Ok(n) if n > 0) {}
    });
    tasks.spawn(async move { drop(echo(far).await) });
    for round in 0..100 {
        let body = pattern(100, round);
        let mut seen = vec![0; 100];
        near.write_all(&body).await.unwrap();
        near.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, body);
    }
}
