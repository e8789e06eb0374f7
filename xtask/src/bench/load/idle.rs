//! Connections that have made one request and are kept.

use std::sync::Arc;

use anyhow::{Result, bail};
use tokio::{io::AsyncReadExt, net::TcpStream, sync::Semaphore, task::JoinSet, time::timeout};

use super::{OPENING, PATIENCE, answer, send};
use crate::bench::subject::Target;

/// Opens so many connections, each of which has had one good answer.
///
/// # Errors
/// When one of them has not.
pub async fn open(target: &Target, count: usize) -> Result<Vec<TcpStream>> {
    let at_a_time = Arc::new(Semaphore::new(OPENING));
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let (target, at_a_time) = (target.clone(), Arc::clone(&at_a_time));
        tasks.spawn(async move {
            let _turn = at_a_time.acquire().await?;
            let mut socket = send(&target, "GET", "/json", "").await?;
            let answer = answer(&mut socket).await?;
            let missing = answer.length.unwrap_or_default().saturating_sub(answer.body.len());
            timeout(PATIENCE, socket.read_exact(&mut vec![0; missing])).await??;
            if answer.status != 200 {
                bail!("the answer has status {}", answer.status);
            }
            Ok(socket)
        });
    }
    tasks.join_all().await.into_iter().collect()
}
