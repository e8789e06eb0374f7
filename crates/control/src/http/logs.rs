//! Logs of a service: as text, or followed as server-sent events.

use std::{convert::Infallible, io, pin::Pin, time::Duration};

use axum::{
    body::Body,
    extract::State,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use bytes::Bytes;
use futures_util::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use http::header;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use towline_model::{InstanceId, ServiceId, Timestamp};

use super::{
    access::Caller,
    extract::{PathParam, QueryParams},
    problem::{ApiError, ApiResult},
};
use crate::app::{
    App,
    log::{InstanceLog, LogsQuery},
};

/// The most lines that can be asked for by `tail`.
const MAX_TAIL: u32 = 100_000;
/// A longer line is passed on in pieces of so many bytes.
const MAX_LINE_BYTES: u64 = 64 * 1024;
/// How long an agent may pause within logs that are not followed.
const READ_DEADLINE: Duration = Duration::from_secs(30);
/// How often a caller that follows is sent something, so that its absence is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The query parameters, for their description.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "read by QueryParams; here for its description only")]
pub struct LogsParams {
    /// Whether to go on with new lines as they come, as server-sent events.
    #[param(default = false, required = false)]
    follow: bool,
    /// Only the last so many lines of each instance.
    #[param(minimum = 0, maximum = 100_000)]
    tail: Option<u32>,
    /// Only lines written at or after this moment.
    since: Option<Timestamp>,
    /// Only of this instance.
    instance: Option<InstanceId>,
}

/// Read the logs of a service.
///
/// Without `instance`, of every instance of the deploy that serves callers; when there are several, each line begins with
/// the end of its instance's id. With `follow`, each line is one event, and the answer ends when its caller leaves.
#[utoipa::path(
    get,
    path = "/api/v1/containers/{id}/logs",
    operation_id = "read_logs",
    tag = "services",
    params(("id" = ServiceId, Path, description = "The service's id."), LogsParams),
    responses(
        (status = 200, description = "The lines.", content((String = "text/plain"), (String = "text/event-stream"))),
        (status = 409, description = "`invalid_state`: the service is `attached` or `external`; its process writes its logs elsewhere.", body = towline_model::Problem, content_type = "application/problem+json"),
        (status = 503, description = "`agent_unreachable`: no agent gave any lines.", body = towline_model::Problem, content_type = "application/problem+json"),
    )
)]
pub async fn read(
    State(app): State<App>,
    Caller(principal): Caller,
    PathParam(id): PathParam<ServiceId>,
    query: QueryParams,
) -> ApiResult<Response> {
    let wanted = parse(&query)?;
    let logs = app.open_logs(&principal, id, wanted).await?;
    let are_several = logs.len() > 1;
    let streams = logs.into_iter().map(move |log| lines(log, are_several, wanted.follow));
    let end = app.shutdown().clone().cancelled_owned();
    Ok(if wanted.follow {
        let events = stream::select_all(streams).take_until(end).map(|line| Ok::<_, Infallible>(event(&line)));
        Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
    } else {
        let text = stream::iter(streams).flatten().take_until(end).map(|mut line| {
            line.push(b'\n');
            Ok::<_, io::Error>(Bytes::from(line))
        });
        ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(text)).into_response()
    })
}

fn parse(query: &QueryParams) -> ApiResult<LogsQuery> {
    let tail = query.get::<u32>("tail", "a number from 0 to 100000")?;
    if tail.is_some_and(|tail| tail > MAX_TAIL) {
        return Err(ApiError::invalid_parameter("tail", "it must be a number from 0 to 100000"));
    }
    let since = match query.text("since") {
        None => None,
        Some(text) => Some(Timestamp::parse(text).ok_or_else(|| {
            ApiError::invalid_parameter("since", "it must be an RFC 3339 time such as 2026-11-24T09:30:00Z")
        })?),
    };
    let instance = match query.text("instance") {
        None => None,
        Some(text) => Some(text.parse().map_err(|error| ApiError::invalid_parameter("instance", error))?),
    };
    Ok(LogsQuery { instance, tail, since, follow: query.switch("follow")? })
}

/// The lines of one instance without their ends. What goes wrong becomes a line of its own: the status is long sent.
fn lines(log: InstanceLog, is_named: bool, follow: bool) -> BoxStream<'static, Vec<u8>> {
    let prefix = if is_named { format!("{} | ", short(log.instance)) } else { String::new() };
    match log.lines {
        Err(why) => {
            let line = format!("{prefix}(these logs cannot be read: {why})").into_bytes();
            stream::once(async { line }).boxed()
        }
        Ok(reader) => read_lines(reader, prefix, follow).boxed(),
    }
}

fn read_lines(
    reader: Pin<Box<dyn AsyncRead + Send>>,
    prefix: String,
    follow: bool,
) -> impl Stream<Item = Vec<u8>> + Send {
    stream::unfold(Some((BufReader::new(reader), prefix)), move |state| async move {
        let (mut reader, prefix) = state?;
        let mut line = prefix.clone().into_bytes();
        match next_line(&mut reader, &mut line, follow).await {
            Ok(true) => Some((line, Some((reader, prefix)))),
            Ok(false) => None,
            Err(error) => Some((format!("{prefix}(the logs were cut off: {error})").into_bytes(), None)),
        }
    })
}

/// Appends the next line to `line`. `false` at the end.
async fn next_line<R: AsyncRead + Unpin>(
    reader: &mut BufReader<R>,
    line: &mut Vec<u8>,
    follow: bool,
) -> io::Result<bool> {
    let mut limited = reader.take(MAX_LINE_BYTES);
    let read = limited.read_until(b'\n', line);
    let count = if follow {
        read.await?
    } else {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the agent does not answer");
        tokio::time::timeout(READ_DEADLINE, read).await.map_err(late)??
    };
    while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        line.pop();
    }
    Ok(count > 0)
}

fn event(line: &[u8]) -> Event {
    // A carriage return would end the line within an event.
    Event::default().data(String::from_utf8_lossy(line).replace(['\r', '\n'], " "))
}

/// The last characters of an id: ids that were made together begin alike.
fn short(instance: InstanceId) -> String {
    let text = instance.to_string();
    text[text.len() - 8..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn collect(text: &'static [u8], are_several: bool) -> Vec<String> {
        let instance = "01932c07-8a4e-7bbd-9c45-2f4b1f0d3a77".parse().unwrap();
        let log = InstanceLog { instance, lines: Ok(Box::pin(text)) };
        lines(log, are_several, false).map(|line| String::from_utf8_lossy(&line).into_owned()).collect().await
    }

    #[tokio::test]
    async fn lines_are_cut_at_their_ends_and_named_when_there_are_several() {
        assert_eq!(collect(b"one\r\ntwo\n\nfour", false).await, ["one", "two", "", "four"]);
        assert_eq!(collect(b"one\n", true).await, ["1f0d3a77 | one"]);
        assert!(collect(b"", false).await.is_empty());
    }

    #[tokio::test]
    async fn a_line_without_end_comes_in_pieces() {
        let text: &'static [u8] = vec![b'x'; MAX_LINE_BYTES as usize + 1].leak();
        let pieces = collect(text, false).await;
        assert_eq!(pieces.iter().map(String::len).collect::<Vec<_>>(), [MAX_LINE_BYTES as usize, 1]);
    }

    #[tokio::test]
    async fn what_goes_wrong_is_a_line() {
        let log = InstanceLog { instance: InstanceId::generate(), lines: Err("no such agent".to_owned()) };
        let lines: Vec<_> = lines(log, true, true).collect().await;
        assert!(String::from_utf8_lossy(&lines[0]).contains("no such agent"));
    }
}
