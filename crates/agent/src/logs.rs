//! A container's log on a stream: lines as they come, ended by `\n` each. A slow reader slows the engine down, not the agent.

use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use towline_tunnel::{ResetCode, TunnelStream};

use crate::runtime::LogStream;

/// Sends the lines until there are no more, or the gateway does not want them.
pub async fn send(mut lines: LogStream, mut stream: TunnelStream) {
    let monitor = stream.monitor();
    let mut ends_with_newline = true;
    loop {
        let piece = tokio::select! {
            piece = lines.next() => piece,
            // While nothing is written nothing else tells that nobody reads any more.
            _ = monitor.ended() => return,
        };
        match piece {
            Some(Ok(piece)) if piece.is_empty() => {}
            Some(Ok(piece)) => {
                ends_with_newline = piece.ends_with(b"\n");
                if stream.write_all(&piece).await.is_err() {
                    return;
                }
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "a log ended early");
                return stream.reset_after_data(ResetCode::Internal);
            }
            None => break,
        }
    }
    if !ends_with_newline && stream.write_all(b"\n").await.is_err() {
        return;
    }
    let _ = stream.shutdown().await;
    // Dropped now, the stream would be reset: the gateway has not closed its direction yet, and has nothing to say.
    drain(stream).await;
}

/// Waits for the gateway to close its direction.
async fn drain(mut stream: TunnelStream) {
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
}
