//! Bytes leave as they come, in both directions, and wait where they are made when nobody takes them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use towline_gateway::testing::{Container, World, within};

fn request(method: &str, key: &str, rest: &str) -> String {
    format!("{method} /api/v1/r/containers/hello/ HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n{rest}")
}

#[tokio::test]
async fn a_chunk_is_seen_before_the_next_is_sent() {
    let (send, wait) = mpsc::channel::<String>(1);
    let wait = Arc::new(tokio::sync::Mutex::new(wait));
    let container = Container::start(move |mut exchange, _| {
        let wait = Arc::clone(&wait);
        async move {
            exchange.head().await?;
            exchange
                .write("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
                .await?;
            let mut wait = wait.lock().await;
            while let Some(text) = wait.recv().await {
                exchange.write(format!("{:x}\r\n{text}\r\n", text.len())).await?;
            }
            exchange.write("0\r\n\r\n").await
        }
    })
    .await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    caller.send(request("GET", &team.key, "\r\n")).await;
    assert_eq!(within("the head, before any chunk", caller.head()).await.unwrap().status, 200);
    for round in 0..5 {
        let text = format!("data: {round}\n\n");
        send.send(text.clone()).await.unwrap();
        assert_eq!(within("the chunk", caller.chunk()).await.unwrap(), Some(text.into_bytes()));
    }
    drop(send);
    assert_eq!(within("the end", caller.chunk()).await.unwrap(), None);
}

#[tokio::test]
async fn a_chunk_of_a_request_arrives_before_the_next_is_sent() {
    let (seen, mut wait) = mpsc::channel::<Vec<u8>>(1);
    let container = Container::start(move |mut exchange, _| {
        let seen = seen.clone();
        async move {
            exchange.head().await?;
            for _ in 0..3 {
                let chunk = exchange.until(b"\r\nping\r\n").await?;
                seen.send(chunk).await.unwrap();
            }
            exchange.until(b"0\r\n\r\n").await?;
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await
        }
    })
    .await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    caller.send(request("POST", &team.key, "Transfer-Encoding: chunked\r\n\r\n")).await;
    for _ in 0..3 {
        caller.send("4\r\nping\r\n").await;
        within("the chunk at the container", wait.recv()).await.unwrap();
    }
    caller.send("0\r\n\r\n").await;
    assert_eq!(caller.answer().await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn request_and_answer_stream_at_the_same_time() {
    // The container answers while the request is still coming, as gRPC and speech recognition do.
    let container = Container::start(|mut exchange, _| async move {
        exchange.head().await?;
        exchange.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
        loop {
            let line = exchange.until(b"\r\n").await?;
            if line == b"0\r\n" {
                break;
            }
            let text = exchange.until(b"\r\n").await?;
            exchange.write([&line[..], &text].concat()).await?;
        }
        exchange.write("0\r\n\r\n").await
    })
    .await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    caller.send(request("POST", &team.key, "Transfer-Encoding: chunked\r\n\r\n")).await;
    assert_eq!(within("the head", caller.head()).await.unwrap().status, 200);
    for text in ["one", "two", "three"] {
        caller.send(format!("{:x}\r\n{text}\r\n", text.len())).await;
        assert_eq!(within("the echo", caller.chunk()).await.unwrap(), Some(text.as_bytes().to_vec()));
    }
    caller.send("0\r\n\r\n").await;
    assert_eq!(within("the end", caller.chunk()).await.unwrap(), None);
}

#[tokio::test]
async fn an_upload_goes_on_while_nobody_reads_the_answer() {
    const UPLOAD: usize = 8 << 20;
    let received = watch::Sender::new(0_usize);
    let progress = received.subscribe();
    let container = Container::start(move |exchange, _| {
        let received = received.clone();
        async move {
            // Two halves that know nothing of each other: one answers without end, one reads.
            let (mut reader, mut writer) = exchange.socket.into_split();
            let answer = async {
                writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await?;
                while writer.write_all(&[b'x'; 16 << 10]).await.is_ok() {}
                std::io::Result::Ok(())
            };
            let read = async {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(count) = tokio::io::AsyncReadExt::read(&mut reader, &mut buffer).await {
                    received.send_modify(|total| *total += count);
                }
            };
            tokio::join!(answer, read).0
        }
    })
    .await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    caller.send(request("POST", &team.key, &format!("Content-Length: {UPLOAD}\r\n\r\n"))).await;
    within("the whole upload", caller.socket.write_all(&vec![b'y'; UPLOAD])).await.unwrap();
    let mut progress = progress;
    within("the upload at the container", progress.wait_for(|total| *total >= UPLOAD)).await.unwrap();
}

#[tokio::test]
async fn a_slow_reader_holds_the_container_back() {
    let written = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&written);
    let container = Container::start(move |mut exchange, _| {
        let count = Arc::clone(&count);
        async move {
            exchange.head().await?;
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await?;
            loop {
                exchange.write(vec![b'x'; 64 << 10]).await?;
                count.fetch_add(64 << 10, Ordering::SeqCst);
            }
        }
    })
    .await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut stalled = world.caller().await;
    stalled.send(request("GET", &team.key, "\r\n")).await;
    assert_eq!(within("the head", stalled.head()).await.unwrap().status, 200);
    let total = settled(&written).await;
    // What the sockets of this machine take is theirs; the gateway and the agent add little to it.
    assert!(total < 32 << 20, "{total} bytes were taken from the container for a caller that reads nothing");
    assert!(world.gateway.tunnel_budget_used() <= 8 << 20);
    // It goes on when the caller goes on.
    within("more", stalled.exactly(4 << 20)).await.unwrap();
    assert!(written.load(Ordering::SeqCst) > total.saturating_sub(1));
}

#[tokio::test]
async fn a_slow_container_holds_the_caller_back() {
    let (go, wait) = watch::channel(false);
    let container = Container::start(move |mut exchange, _| {
        let mut wait = wait.clone();
        async move {
            exchange.head().await?;
            let _ = wait.wait_for(|go| *go).await;
            exchange.exactly(64 << 20).await?;
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await
        }
    })
    .await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    caller.send(request("POST", &team.key, &format!("Content-Length: {}\r\n\r\n", 64 << 20))).await;
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    let upload = async {
        for _ in 0..1024 {
            caller.socket.write_all(&[b'y'; 64 << 10]).await.unwrap();
            count.fetch_add(64 << 10, Ordering::SeqCst);
        }
    };
    let watch = async {
        let total = settled(&sent).await;
        assert!(total < 32 << 20, "{total} bytes were taken from the caller for a container that reads nothing");
        go.send_replace(true);
    };
    within("the upload", async { tokio::join!(upload, watch) }).await;
    assert_eq!(caller.answer().await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn large_bodies_pass_whole_both_ways() {
    const SIZE: usize = 64 << 20;
    let container = Container::start(|mut exchange, _| async move {
        exchange.head().await?;
        exchange.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n")).await?;
        let (mut reader, mut writer) = exchange.socket.split();
        writer.write_all(&exchange.buffer).await?;
        tokio::io::copy(&mut reader, &mut writer).await.map(drop)
    })
    .await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    caller.send(request("POST", &team.key, &format!("Content-Length: {SIZE}\r\n\r\n"))).await;
    assert_eq!(within("the head", caller.head()).await.unwrap().status, 200);
    let early = caller.buffer.split();
    let (mut reader, mut writer) = caller.socket.split();
    let block: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    let upload = async {
        for _ in 0..SIZE >> 20 {
            writer.write_all(&block).await.unwrap();
        }
    };
    let download = async {
        let mut total = early.len();
        let mut buffer = vec![0; 1 << 20];
        while total < SIZE {
            let count = tokio::io::AsyncReadExt::read(&mut reader, &mut buffer).await.unwrap();
            assert!(count > 0, "cut off at {total}");
            assert!(buffer[..count].iter().enumerate().all(|(i, b)| *b == ((total + i) % 256) as u8), "at {total}");
            total += count;
        }
        total
    };
    let (total, ()) = within("64 MiB both ways", async { tokio::join!(download, upload) }).await;
    assert_eq!(total, SIZE);
}

/// Waits until a count has not grown for a while, and gives it.
pub(super) async fn settled(count: &AtomicU64) -> u64 {
    within("an end of the growth", async {
        let (mut last, mut since) = (count.load(Ordering::SeqCst), Instant::now());
        while since.elapsed() < Duration::from_millis(500) {
            sleep(Duration::from_millis(10)).await;
            let now = count.load(Ordering::SeqCst);
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        last
    })
    .await
}
