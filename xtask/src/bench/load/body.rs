//! Large bodies, one at a time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{PATIENCE, answer, send};
use crate::bench::subject::Target;

/// Downloads and says how long it took.
///
/// # Errors
/// When not exactly so many bytes come.
pub async fn download(target: &Target, path: &str, length: usize) -> Result<Duration> {
    let started = Instant::now();
    let mut socket = send(target, "GET", path, "Connection: close\r\n").await?;
    let head = answer(&mut socket).await?;
    let mut received = head.body.len();
    let mut buffer = vec![0; 256 << 10];
    while received < length {
        let read = timeout(PATIENCE, socket.read(&mut buffer)).await.context("the body stands still")??;
        if read == 0 {
            break;
        }
        received += read;
    }
    if head.status != 200 || received != length {
        bail!("a download of {length} bytes ended with status {} after {received} bytes", head.status);
    }
    Ok(started.elapsed())
}

/// Uploads, waits for the answer and says how long it took.
///
/// # Errors
/// When the answer is not good.
pub async fn upload(target: &Target, path: &str, length: usize) -> Result<Duration> {
    let started = Instant::now();
    let head = format!("Connection: close\r\nContent-Length: {length}\r\n");
    let mut socket = send(target, "POST", path, &head).await?;
    let piece = vec![b'x'; 256 << 10];
    let mut sent = 0;
    while sent < length {
        let size = piece.len().min(length - sent);
        timeout(PATIENCE, socket.write_all(&piece[..size])).await.context("the body stands still")??;
        sent += size;
    }
    let answer = answer(&mut socket).await?;
    if answer.status != 200 {
        bail!("an upload of {length} bytes was answered with {}", answer.status);
    }
    Ok(started.elapsed())
}
