//! WebSockets that send a small message, wait for its echo, and begin anew.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{PATIENCE, answer, send};
use crate::bench::subject::Target;

/// Bytes of a message.
const SIZE: usize = 64;
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Messages there and back a second, over so many connections.
///
/// # Errors
/// When a handshake is refused or an echo does not come back as it was sent.
pub async fn echo(target: &Target, connections: usize, duration: Duration) -> Result<f64> {
    let mut tasks = JoinSet::new();
    let started = Instant::now();
    for _ in 0..connections {
        let target = target.clone();
        tasks.spawn(async move { one(&target, started + duration).await });
    }
    let counts: Result<Vec<u64>> = tasks.join_all().await.into_iter().collect();
    Ok(counts?.iter().sum::<u64>() as f64 / started.elapsed().as_secs_f64())
}

async fn one(target: &Target, until: Instant) -> Result<u64> {
    let mut socket = send(target, "GET", "/ws", UPGRADE).await?;
    let head = answer(&mut socket).await?;
    if head.status != 101 || !head.body.is_empty() {
        bail!("the handshake of a WebSocket was answered with {}", head.status);
    }
    let (sent, expected) = (masked(), plain());
    let mut received = [0; SIZE + 2];
    let mut count = 0;
    while Instant::now() < until {
        socket.write_all(&sent).await?;
        timeout(PATIENCE, socket.read_exact(&mut received)).await.context("no echo came")??;
        if received != expected[..] {
            bail!("an echo differs from what was sent");
        }
        count += 1;
    }
    Ok(count)
}

/// A binary message as clients send it (RFC 6455 §5.2); the mask is zero, which leaves the bytes as they are.
fn masked() -> Vec<u8> {
    let mut frame = vec![0x82, 0x80 | SIZE as u8, 0, 0, 0, 0];
    frame.extend_from_slice(&[b'x'; SIZE]);
    frame
}

/// The same as servers send it.
fn plain() -> Vec<u8> {
    let mut frame = vec![0x82, SIZE as u8];
    frame.extend_from_slice(&[b'x'; SIZE]);
    frame
}
