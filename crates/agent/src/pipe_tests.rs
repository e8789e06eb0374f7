//! Pipes between a real carrier and a real socket.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::TcpListener,
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;
use towline_tunnel::{
    Carrier, CarrierConfig, Incoming, OpenTarget, StreamEnd, Workers, agent_carrier, gateway_carrier,
};

use super::*;
use crate::{task::spawn_owned, tests::instance};

/// A caller's stream and a container's socket, joined by a pipe.
struct Joined {
    caller: TunnelStream,
    container: TcpStream,
    pipe: AbortOnDropHandle<()>,
    carrier: Carrier,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

async fn carriers() -> (Carrier, Carrier, Incoming, Vec<AbortOnDropHandle<()>>) {
    let (gateway_io, agent_io): (DuplexStream, DuplexStream) = duplex(256 << 10);
    let (gateway, gateway_driver) = gateway_carrier(gateway_io, CarrierConfig::default());
    let (agent, incoming, agent_driver) = agent_carrier(agent_io, CarrierConfig::default());
    let tasks = vec![
        spawn_owned(async { drop(gateway_driver.run().await) }),
        spawn_owned(async { drop(agent_driver.run().await) }),
    ];
    (gateway, agent, incoming, tasks)
}

async fn joined() -> Joined {
    joined_as(false).await
}

async fn joined_as(keep_alive: bool) -> Joined {
    let (carrier, agent, mut incoming, mut tasks) = carriers().await;
    let mut caller = carrier.open(&OpenTarget::Instance(instance(1))).unwrap();
    if keep_alive {
        caller.set_keep_alive();
    }
    caller.flush().await.unwrap();
    let accepted = incoming.next().await.unwrap().accept();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (container, _) = listener.accept().await.unwrap();
    // Dropped, it would take no more streams; this one is to go on.
    tasks.push(spawn_owned(async move {
        let (_incoming, _agent) = (incoming, agent);
        std::future::pending().await
    }));
    Joined { caller, container, pipe: spawn_owned(join(accepted, socket)), carrier, _tasks: tasks }
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(45), future).await.unwrap_or_else(|_| panic!("waited for {what}"))
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 31 % 251) as u8).collect()
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_direction_closes_by_itself() {
    let Joined { mut caller, mut container, pipe, _tasks, .. } = joined().await;
    caller.write_all(b"question").await.unwrap();
    caller.shutdown().await.unwrap();
    let mut question = String::new();
    soon("the question", container.read_to_string(&mut question)).await.unwrap();
    assert_eq!(question, "question");
    container.write_all(b"answer").await.unwrap();
    container.shutdown().await.unwrap();
    let mut answer = String::new();
    soon("the answer", caller.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "answer");
    soon("the pipe", pipe).await.unwrap();
    assert_eq!(caller.monitor().end(), Some(StreamEnd::Finished));
}

#[tokio::test]
async fn a_pipe_that_was_out_of_turn_is_woken_all_the_same() {
    // Only there a pipe asks less than it could.
    let workers = Workers::start(1, Duration::ZERO).unwrap();
    workers.next().spawn(out_of_turn()).await.unwrap();
}

async fn out_of_turn() {
    let (carrier, agent, mut incoming, _tasks) = carriers().await;
    let mut caller = carrier.open(&OpenTarget::Instance(instance(1))).unwrap();
    caller.flush().await.unwrap();
    let accepted = incoming.next().await.unwrap().accept();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut container, _) = listener.accept().await.unwrap();
    let (mut is_first, first) = (true, std::sync::Arc::new(tokio::sync::Notify::new()));
    let polled = std::sync::Arc::clone(&first);
    let _pipe = spawn_owned(async move {
        let mut pipe = pin!(join(accepted, socket));
        poll_fn(|cx| {
            // Whatever else the task does may have used up its turn before the pipe is polled.
            while is_first && let Poll::Ready(turn) = tokio::task::coop::poll_proceed(cx) {
                turn.made_progress();
            }
            if !std::mem::take(&mut is_first) {
                first.notify_one();
            }
            pipe.as_mut().poll(cx)
        })
        .await;
    });
    soon("the pipe", polled.notified()).await;
    caller.write_all(b"question").await.unwrap();
    soon("the question", container.read_exact(&mut [0; 8])).await.unwrap();
    container.write_all(b"answer").await.unwrap();
    soon("the answer", caller.read_exact(&mut [0; 6])).await.unwrap();
    drop((agent, incoming));
}

#[tokio::test]
async fn a_container_that_closes_first_can_still_be_talked_to() {
    let Joined { mut caller, mut container, pipe, _tasks, .. } = joined().await;
    container.write_all(b"greeting").await.unwrap();
    container.shutdown().await.unwrap();
    let mut greeting = String::new();
    soon("the greeting", caller.read_to_string(&mut greeting)).await.unwrap();
    caller.write_all(b"late").await.unwrap();
    caller.shutdown().await.unwrap();
    let mut late = String::new();
    soon("the late words", container.read_to_string(&mut late)).await.unwrap();
    assert_eq!((greeting.as_str(), late.as_str()), ("greeting", "late"));
    soon("the pipe", pipe).await.unwrap();
}

/// Sends a request and has it answered, over a connection that carries one after the other.
async fn after_one_request() -> Joined {
    let mut joined = joined_as(true).await;
    joined.caller.write_all(b"question").await.unwrap();
    soon("the question", joined.container.read_exact(&mut [0; 8])).await.unwrap();
    joined.container.write_all(b"answer").await.unwrap();
    soon("the answer", joined.caller.read_exact(&mut [0; 6])).await.unwrap();
    joined
}

#[tokio::test]
async fn an_idle_connection_that_its_container_closes_gets_no_more() {
    let Joined { mut caller, mut container, pipe: _pipe, carrier: _carrier, _tasks } = after_one_request().await;
    let monitor = caller.monitor();
    container.shutdown().await.unwrap();
    assert_eq!(soon("the end", caller.read(&mut [0; 8])).await.unwrap(), 0);
    assert_eq!(monitor.delivered(), Some(8));
    caller.write_all(b"the next question").await.unwrap();
    caller.shutdown().await.unwrap();
    let mut late = Vec::new();
    // Ended or reset, and nothing before.
    drop(soon("the end at the container", container.read_to_end(&mut late)).await);
    assert_eq!(late, b"");
    assert_eq!(monitor.delivered(), Some(8));
}

#[tokio::test]
async fn a_close_that_is_not_known_yet_is_looked_for_before_the_next_request() {
    let Joined { mut caller, mut container, pipe: _pipe, carrier: _carrier, _tasks } = after_one_request().await;
    let monitor = caller.monitor();
    tokio::time::sleep(2 * PAUSE).await;
    // Both in one turn of the only thread: no runtime can have told the pipe of either.
    container.shutdown().await.unwrap();
    caller.write_all(b"the next question").await.unwrap();
    assert_eq!(soon("the end", caller.read(&mut [0; 8])).await.unwrap(), 0);
    assert_eq!(monitor.delivered(), Some(8));
    drop(caller);
    let mut late = Vec::new();
    drop(soon("the end at the container", container.read_to_end(&mut late)).await);
    assert_eq!(late, b"");
}

#[tokio::test]
async fn a_reset_that_is_not_known_yet_is_looked_for_too() {
    let Joined { mut caller, container, pipe: _pipe, carrier: _carrier, _tasks } = after_one_request().await;
    tokio::time::sleep(2 * PAUSE).await;
    container.set_zero_linger().unwrap();
    drop(container);
    caller.write_all(b"the next question").await.unwrap();
    let error = soon("the reset", caller.read(&mut [0; 8])).await.unwrap_err();
    let expected = StreamEnd::Reset { code: ResetCode::ConnectionReset, delivered: 8 };
    assert_eq!(StreamEnd::of(&error), Some(&expected), "nothing of the next question was delivered");
}

#[tokio::test]
async fn a_request_that_was_passed_on_is_not_said_to_be_undelivered() {
    let Joined { mut caller, mut container, pipe: _pipe, carrier: _carrier, _tasks } = after_one_request().await;
    caller.write_all(b"the next").await.unwrap();
    soon("the next", container.read_exact(&mut [0; 8])).await.unwrap();
    container.shutdown().await.unwrap();
    assert_eq!(soon("the end", caller.read(&mut [0; 8])).await.unwrap(), 0);
    assert_eq!(caller.monitor().delivered(), None, "more may be delivered");
    caller.write_all(b" question").await.unwrap();
    soon("the rest", container.read_exact(&mut [0; 9])).await.unwrap();
}

#[tokio::test]
async fn much_goes_both_ways_at_once() {
    let Joined { caller, container, pipe, _tasks, .. } = joined().await;
    let sent = pattern(8 << 20);
    let (mut caller_reads, mut caller_writes) = tokio::io::split(caller);
    let (mut container_reads, mut container_writes) = container.into_split();
    let up = async {
        caller_writes.write_all(&sent).await.unwrap();
        caller_writes.shutdown().await.unwrap();
    };
    let down = async {
        container_writes.write_all(&sent).await.unwrap();
        container_writes.shutdown().await.unwrap();
    };
    let (mut above, mut below) = (Vec::new(), Vec::new());
    let all =
        async { tokio::join!(up, down, caller_reads.read_to_end(&mut above), container_reads.read_to_end(&mut below)) };
    soon("all bytes", all).await.2.unwrap();
    assert!(above == sent && below == sent, "bytes were changed or lost");
    soon("the pipe", pipe).await.unwrap();
}

#[tokio::test]
async fn a_container_that_resets_is_told_after_its_last_byte() {
    let Joined { mut caller, mut container, pipe, _tasks, .. } = joined().await;
    caller.write_all(b"12345").await.unwrap();
    let mut question = [0; 5];
    soon("the question", container.read_exact(&mut question)).await.unwrap();
    let half = pattern(100_000);
    container.write_all(&half).await.unwrap();
    let mut answer = vec![0; half.len()];
    soon("half of the answer", caller.read_exact(&mut answer)).await.unwrap();
    container.set_zero_linger().unwrap();
    drop(container);
    let error = soon("the reset", caller.read(&mut [0; 1])).await.unwrap_err();
    let expected = StreamEnd::Reset { code: ResetCode::ConnectionReset, delivered: 5 };
    assert_eq!(StreamEnd::of(&error), Some(&expected));
    assert_eq!(answer, half);
    soon("the pipe", pipe).await.unwrap();
}

#[tokio::test]
async fn a_reset_that_is_met_by_what_the_caller_sends_is_told_as_one() {
    let Joined { mut caller, container, pipe, _tasks, .. } = joined().await;
    // In one turn of the only thread: the pipe hears of the caller's bytes before the runtime can have told it of the reset.
    container.try_write(b"half").unwrap();
    container.set_zero_linger().unwrap();
    drop(container);
    caller.write_all(b"more").await.unwrap();
    let mut answer = Vec::new();
    let error = soon("the reset", caller.read_to_end(&mut answer)).await.unwrap_err();
    let is_reset = matches!(StreamEnd::of(&error), Some(StreamEnd::Reset { code: ResetCode::ConnectionReset, .. }));
    assert!(answer == b"half" && is_reset, "{answer:?}, {error:?}");
    soon("the pipe", pipe).await.unwrap();
}

#[tokio::test]
async fn a_caller_that_goes_away_resets_the_container() {
    let Joined { caller, mut container, pipe, _tasks, .. } = joined().await;
    drop(caller);
    let error = soon("the reset", container.read(&mut [0; 1])).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    soon("the pipe", pipe).await.unwrap();
}

#[tokio::test]
async fn a_carrier_that_is_lost_resets_the_container() {
    let Joined { caller, mut container, pipe, carrier, _tasks, .. } = joined().await;
    carrier.close();
    let error = soon("the reset", container.read(&mut [0; 1])).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    soon("the pipe", pipe).await.unwrap();
    drop(caller);
}

#[tokio::test]
async fn a_caller_that_goes_away_after_its_half_close_is_noticed_while_the_container_is_silent() {
    for is_lost in [false, true] {
        let Joined { mut caller, mut container, pipe, carrier, _tasks, .. } = joined().await;
        caller.write_all(b"question").await.unwrap();
        caller.shutdown().await.unwrap();
        let mut question = String::new();
        soon("the question", container.read_to_string(&mut question)).await.unwrap();
        assert!(!pipe.is_finished(), "an answer may still come");
        if is_lost {
            carrier.close();
        } else {
            drop(caller);
        }
        soon("the pipe", pipe).await.unwrap();
        soon("the reset", container.ready(tokio::io::Interest::ERROR)).await.unwrap();
    }
}

#[tokio::test]
async fn a_caller_that_goes_away_is_noticed_while_the_container_takes_nothing() {
    let Joined { mut caller, container, pipe, _tasks, .. } = joined().await;
    let chunk = pattern(64 << 10);
    // Until all buffers on the way are full.
    while let Ok(written) = timeout(Duration::from_millis(500), caller.write(&chunk)).await {
        written.unwrap();
    }
    drop(caller);
    soon("the pipe", pipe).await.unwrap();
    drop(container);
}

#[tokio::test]
async fn an_answer_to_an_upload_that_is_not_wanted_arrives_whole() {
    let Joined { caller, mut container, pipe, _tasks, .. } = joined().await;
    let (mut caller_reads, mut caller_writes) = tokio::io::split(caller);
    let upload = spawn_owned(async move {
        // It goes on until the pipe does not take it any more.
        while caller_writes.write_all(&[7; 16 << 10]).await.is_ok() {}
    });
    let mut first = [0; 1024];
    soon("the first bytes", container.read_exact(&mut first)).await.unwrap();
    let refusal = b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\n\r\n";
    container.write_all(refusal).await.unwrap();
    // Closed with bytes unread, the socket is reset.
    drop(container);
    let mut answer = vec![0; refusal.len()];
    soon("the answer", caller_reads.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, refusal);
    soon("the end of the upload", upload).await.unwrap();
    soon("the pipe", pipe).await.unwrap();
}

#[tokio::test]
async fn a_caller_that_does_not_read_stops_the_container() {
    let Joined { mut caller, mut container, pipe, _tasks, .. } = joined().await;
    let chunk = pattern(64 << 10);
    let mut sent = 0;
    while let Ok(written) = timeout(Duration::from_millis(500), container.write(&chunk)).await {
        sent += written.unwrap();
        assert!(sent < 64 << 20, "64 MiB were taken for a caller that reads nothing");
    }
    container.shutdown().await.unwrap();
    let mut received = Vec::new();
    soon("what was sent", caller.read_to_end(&mut received)).await.unwrap();
    assert_eq!(received.len(), sent);
    caller.shutdown().await.unwrap();
    drop(container);
    soon("the pipe", pipe).await.unwrap();
}

#[tokio::test]
async fn buffers_grow_with_what_comes_and_shrink_again() {
    let mut buffer = Buffer::default();
    assert_eq!(buffer.bytes.len(), 0, "an idle direction holds no memory");
    let plenty = vec![1; LARGEST_BUFFER];
    let mut read = async |source: &[u8]| {
        let mut source = source;
        poll_fn(|cx| buffer.poll_fill(&mut source, cx)).await.unwrap();
        buffer.bytes.len()
    };
    let mut sizes = Vec::new();
    for _ in 0..7 {
        sizes.push(read(&plenty).await);
    }
    assert_eq!(sizes, [8, 16, 32, 64, 128, 256, 256].map(|kib| kib << 10));
    for _ in 0..SMALL_READS {
        assert_eq!(read(b"token").await, LARGEST_BUFFER);
    }
    assert_eq!(read(b"token").await, FIRST_BUFFER);
}
