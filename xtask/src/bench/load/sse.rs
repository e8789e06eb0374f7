//! Many open streams of events. Each event of the demo service holds the time at which it was sent.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Result, bail};
use tokio::{io::AsyncReadExt, net::TcpStream, sync::Semaphore, task::JoinSet, time::timeout};

use super::{OPENING, PATIENCE, answer, send};
use crate::bench::subject::Target;

const STAMP: &str = "\"sent_at_us\":";

/// Streams that are open.
#[derive(Debug)]
pub struct Open {
    sockets: Vec<TcpStream>,
    /// For each, how long after the first byte of the connection its first event came, in milliseconds.
    pub first_millis: Vec<f64>,
}

/// Opens so many streams of one event a second.
///
/// # Errors
/// When one of them brings no event.
pub async fn open(target: &Target, count: usize) -> Result<Open> {
    let at_a_time = Arc::new(Semaphore::new(OPENING));
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let (target, at_a_time) = (target.clone(), Arc::clone(&at_a_time));
        tasks.spawn(async move {
            let _turn = at_a_time.acquire().await?;
            let started = Instant::now();
            let mut socket = send(&target, "GET", "/sse?n=0&interval_ms=1000", "").await?;
            let head = answer(&mut socket).await?;
            let mut body = head.body;
            while !body.windows(STAMP.len()).any(|window| window == STAMP.as_bytes()) {
                if timeout(PATIENCE, socket.read_buf(&mut body)).await?? == 0 || head.status != 200 {
                    bail!("a stream of events ended before its first one, with status {}", head.status);
                }
            }
            Ok((socket, started.elapsed().as_secs_f64() * 1e3))
        });
    }
    let opened: Result<Vec<_>> = tasks.join_all().await.into_iter().collect();
    let (sockets, first_millis) = opened?.into_iter().unzip();
    Ok(Open { sockets, first_millis })
}

impl Open {
    /// Listens for a while; gives for each event how long it was on its way, in milliseconds.
    ///
    /// # Errors
    /// When a stream ends meanwhile.
    pub async fn listen(self, duration: Duration) -> Result<Vec<f64>> {
        let begin = unix_micros();
        let until = tokio::time::Instant::now() + duration;
        let mut tasks = JoinSet::new();
        for mut socket in self.sockets {
            tasks.spawn(async move {
                let mut delays = vec![];
                let mut buffer = Vec::with_capacity(4096);
                while let Ok(read) = tokio::time::timeout_at(until, socket.read_buf(&mut buffer)).await {
                    if read? == 0 {
                        bail!("a stream of events was cut");
                    }
                    let now = unix_micros();
                    // What was sent before has waited for this reader, which proves nothing.
                    let sent = take_stamps(&mut buffer).into_iter().filter(|sent| *sent >= begin);
                    delays.extend(sent.map(|sent| now.saturating_sub(sent) as f64 / 1e3));
                }
                Ok(delays)
            });
        }
        let delays: Result<Vec<Vec<f64>>> = tasks.join_all().await.into_iter().collect();
        Ok(delays?.concat())
    }
}

/// Takes the times out of all lines that are whole.
fn take_stamps(buffer: &mut Vec<u8>) -> Vec<u64> {
    let Some(end) = buffer.iter().rposition(|byte| *byte == b'\n') else { return vec![] };
    let text = String::from_utf8_lossy(&buffer[..=end]).into_owned();
    buffer.drain(..=end);
    let stamps = text.split(STAMP).skip(1);
    stamps.filter_map(|rest| rest[..rest.find(|c: char| !c.is_ascii_digit())?].parse().ok()).collect()
}

#[expect(clippy::disallowed_methods, reason = "the times to compare with are another process's, on the same machine")]
fn unix_micros() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_taken_from_whole_lines_only() {
        let mut buffer = b"data: {\"n\":1,\"sent_at_us\":1234}\n\ndata: {\"n\":2,\"sent_at_us\":12".to_vec();
        assert_eq!(take_stamps(&mut buffer), [1234]);
        buffer.extend_from_slice(b"99}\n");
        assert_eq!(take_stamps(&mut buffer), [1299]);
        assert!(buffer.is_empty());
    }
}
