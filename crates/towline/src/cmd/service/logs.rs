//! `towline service logs`: what the containers wrote, as it is written.

use std::time::Duration;

use clap::Args;
use serde_json::Value;
use towline_model::{Clock, InstanceId, SystemClock, Timestamp};

use crate::{
    cli::ClientArgs,
    client::{ClientError, sse::Parser, types::text},
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
    /// Only so many of the newest lines of each instance [default: all that the engine keeps].
    #[arg(long, value_name = "LINES")]
    tail: Option<u32>,
    /// Only lines from then on: an RFC 3339 time, or a duration back from now such as 10m.
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Since>,
    /// Only this instance [default: all].
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
    let path = format!("/containers/{}/logs", service.view.id);
    if !args.follow {
        let answer: Value = client.get(&path, &query).await?;
        return print_all(&answer, context);
    }
    let mut response = client.open(&path, &query).await?;
    let mut parser = Parser::default();
    loop {
        let chunk = response.chunk().await.map_err(|error| ClientError::transport(client.base(), &error))?;
        let Some(chunk) = chunk else { return Ok(()) };
        for event in parser.push(&chunk) {
            print_event(&event.name, &event.data, context)?;
        }
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

fn print_all(answer: &Value, context: &Context) -> Result<(), Failure> {
    if context.output.is_json() {
        return context.output.json(answer);
    }
    let lines = answer.get("log_list").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    lines.iter().try_for_each(|line| context.output.line(line_text(line)))
}

fn print_event(name: &str, data: &str, context: &Context) -> Result<(), Failure> {
    let Ok(value) = serde_json::from_str::<Value>(data) else { return context.output.line(data) };
    if name == "error" {
        context.output.warn(text(&value, "error_message"));
        return Ok(());
    }
    if context.output.is_json() { context.output.json_line(&value) } else { context.output.line(line_text(&value)) }
}

fn line_text(line: &Value) -> String {
    match line {
        Value::String(line) => line.clone(),
        line => text(line, "line"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_time_or_a_duration_back() {
        let now = Timestamp::parse("2026-11-24T10:00:00Z").unwrap();
        let since = |text| parse_since(text).map(|since| since.time(now).to_string());
        assert_eq!(since("10m").unwrap(), "2026-11-24T09:50:00Z");
        assert_eq!(since("2026-11-24T09:30:00+01:00").unwrap(), "2026-11-24T08:30:00Z");
        assert!(since("yesterday").is_err());
    }
}
