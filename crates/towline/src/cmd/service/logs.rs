//! `towline service logs`: what the containers wrote, as it is written.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use towline_model::{Clock, InstanceId, ServiceId, SystemClock, Timestamp};

use crate::{
    cli::ClientArgs,
    client::{Client, ClientError, sse::Parser},
    cmd::Context,
    failure::Failure,
    units::parse_duration,
};

const EXAMPLE: &str = "\
Example:
  towline service logs hello --tail 100
  towline service logs hello -f --since 10m
  towline service logs hello --instance 01932c07-8a4e-7bbd-9c45-2f4b1f0d3a77";

/// Arguments of `towline service logs`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct LogsArgs {
    /// The service's slug or id.
    slug: String,
    /// Go on printing what is written, until interrupted.
    #[arg(short, long)]
    follow: bool,
    /// Only so many of the newest lines of each instance, 0 to 100000 [default: all that the engine keeps].
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(u32).range(0..=100_000))]
    tail: Option<u32>,
    /// Only lines from then on: an RFC 3339 time, or a duration back from now such as 10m.
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Since>,
    /// Only this instance [default: all of the deploy that runs; each line then begins with the end of its instance's
    /// id].
    #[arg(long, value_name = "ID")]
    instance: Option<InstanceId>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    Time(Timestamp),
    Ago(Duration),
}

impl Since {
    fn time(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Time(time) => time,
            Self::Ago(duration) => {
                let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
                Timestamp::from_micros(now.as_micros().saturating_sub(micros))
            }
        }
    }
}

/// Prints the logs.
pub async fn run(args: &LogsArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client(&args.client)?;
    let service = client.service(&args.slug).await?;
    let mut query = vec![];
    if args.follow {
        query.push(("follow", "true".to_owned()));
    }
    query.extend(args.tail.map(|lines| ("tail", lines.to_string())));
    query.extend(args.since.map(|since| ("since", since.time(SystemClock.now()).to_string())));
    query.extend(args.instance.map(|instance| ("instance", instance.to_string())));
    let mut response = client.open(&format!("/containers/{}/logs", service.view.id), &query).await?;
    let mut lines: Box<dyn Lines> = if args.follow { Box::<Parser>::default() } else { Box::<LineCutter>::default() };
    loop {
        let chunk = match response.chunk().await {
            Ok(chunk) => chunk,
            Err(error) => return Err(why_cut(&client, service.view.id, &error).await.into()),
        };
        let found = match &chunk {
            Some(chunk) => lines.push(chunk),
            None => lines.end(),
        };
        found.iter().try_for_each(|line| print(line, context))?;
        if chunk.is_none() {
            return Ok(());
        }
    }
}

/// Why lines do not come any more. A connection does not say that the key was revoked meanwhile, or the service deleted; the
/// answer to a question does.
async fn why_cut(client: &Client, service: ServiceId, error: &reqwest::Error) -> ClientError {
    match client.get::<Value>(&format!("/containers/{service}"), &[]).await {
        Err(refusal @ (ClientError::Refused(_) | ClientError::SignInEnded(_))) => refusal,
        _ => ClientError::transport(client.base(), error),
    }
}

/// Takes bytes as they arrive and gives whole lines.
trait Lines: Send {
    /// The lines that end in these bytes.
    fn push(&mut self, bytes: &[u8]) -> Vec<String>;
    /// What is left at the end.
    fn end(&mut self) -> Vec<String>;
}

/// Each event is a line.
impl Lines for Parser {
    fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        Self::push(self, bytes).into_iter().map(|event| event.data).collect()
    }

    fn end(&mut self) -> Vec<String> {
        vec![]
    }
}

/// Plain text.
#[derive(Default)]
struct LineCutter(Vec<u8>);

impl Lines for LineCutter {
    fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        self.0.extend_from_slice(bytes);
        let Some(end) = self.0.iter().rposition(|&byte| byte == b'\n') else { return vec![] };
        let rest = self.0.split_off(end + 1);
        let text = String::from_utf8_lossy(&std::mem::replace(&mut self.0, rest)).into_owned();
        text.lines().map(str::to_owned).collect()
    }

    fn end(&mut self) -> Vec<String> {
        if self.0.is_empty() {
            vec![]
        } else {
            vec![String::from_utf8_lossy(&std::mem::take(&mut self.0)).into_owned()]
        }
    }
}

fn print(line: &str, context: &Context) -> Result<(), Failure> {
    if context.output.is_json() {
        context.output.json_line(&json!({ "line": line }))
    } else {
        context.output.line(line)
    }
}

fn parse_since(text: &str) -> Result<Since, String> {
    if let Some(time) = Timestamp::parse(text) {
        return Ok(Since::Time(time));
    }
    parse_duration(text)
        .map(Since::Ago)
        .map_err(|_| "expected a time such as 2026-11-24T09:30:00Z or a duration such as 10m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_into_lines_wherever_it_arrives() {
        let mut cutter = LineCutter::default();
        assert_eq!(cutter.push("on".as_bytes()), Vec::<String>::new());
        assert_eq!(cutter.push("e\ntwo\nth".as_bytes()), ["one", "two"]);
        assert_eq!(cutter.end(), ["th"]);
        assert_eq!(cutter.end(), Vec::<String>::new());
    }

    #[test]
    fn since_is_a_time_or_a_duration_back() {
        let now = Timestamp::parse("2026-11-24T10:00:00Z").unwrap();
        let since = |text| parse_since(text).map(|since| since.time(now).to_string());
        assert_eq!(since("10m").unwrap(), "2026-11-24T09:50:00Z");
        assert_eq!(since("2026-11-24T09:30:00+01:00").unwrap(), "2026-11-24T08:30:00Z");
        assert!(since("yesterday").is_err());
    }
}
