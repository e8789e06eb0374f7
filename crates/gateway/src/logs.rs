//! An instance's log lines, over a stream that is no connection to the container.

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWriteExt, ReadBuf},
    time::{Instant, timeout_at},
};
use towline_model::AgentId;
use towline_tunnel::{LogsRequest, OpenTarget, StreamEnd, TunnelStream};

use crate::{
    agents::{link::LinkUse, registry::Registry},
    error::{ExchangeError, ExchangeFailure, GatewayError},
};

/// How long an agent may take to take the stream.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);

/// Log lines as they come. Dropping it tells the agent to stop.
#[derive(Debug)]
pub(crate) struct LogStream {
    stream: TunnelStream,
    _used: LinkUse,
}

/// Opens the log lines of an instance on its agent.
pub(crate) async fn open(
    agents: &Registry,
    agent: AgentId,
    request: LogsRequest,
    now: Instant,
) -> Result<LogStream, GatewayError> {
    let unreachable = || GatewayError::AgentOffline { agent };
    let deadline = now + OPEN_DEADLINE;
    let target = OpenTarget::Logs(request);
    let slot = agents.slot(agent);
    let (mut stream, used) = loop {
        let mut changed = pin!(slot.changed());
        changed.as_mut().enable();
        let session = slot.session().ok_or_else(unreachable)?;
        if let Some(opened) = session.open_target(&target, Instant::now()) {
            break opened;
        }
        timeout_at(deadline, changed).await.map_err(|_| unreachable())?;
    };
    match timeout_at(deadline, stream.opened()).await {
        Ok(Ok(())) => {
            // Nothing will be said from this side.
            stream.shutdown().await.map_err(|_| unreachable())?;
            Ok(LogStream { stream, _used: used })
        }
        Ok(Err(StreamEnd::Refused(refused))) => {
            let reason = ExchangeFailure::Refused(refused);
            Err(GatewayError::Exchange(ExchangeError { reason, maybe_processed: false }))
        }
        Ok(Err(_)) | Err(_) => Err(unreachable()),
    }
}

impl AsyncRead for LogStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}
