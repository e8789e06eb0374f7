//! Runs wrk and reads what it measured. A script in it prints the figures as JSON, so that no table for people is parsed.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::subject::Target;
use crate::tools;

const MARK: &str = "figures: ";

/// Prints the figures at the end. Latencies are in microseconds.
const SCRIPT: &str = r#"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'figures: {"requests":%d,"micros":%d,"p50":%d,"p99":%d,"bad":%d,"status":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.timeout, e.status))
end
"#;

/// What one run has measured.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Figures {
    /// Requests that were answered.
    pub requests: u64,
    /// How long it ran, in microseconds.
    pub micros: u64,
    /// Median latency in microseconds.
    pub p50: f64,
    /// 99th percentile of the latency in microseconds.
    pub p99: f64,
    /// Connections that failed.
    pub bad: u64,
    /// Answers that were not 2xx or 3xx.
    pub status: u64,
}

impl Figures {
    /// Requests a second.
    pub fn rate(&self) -> f64 {
        self.requests as f64 * 1e6 / self.micros.max(1) as f64
    }
}

/// One load.
#[derive(Debug, Clone, Copy)]
pub struct Load<'a> {
    /// Connections at a time.
    pub connections: usize,
    /// How long.
    pub seconds: u64,
    /// What is asked for, after the subject's prefix.
    pub path: &'a str,
    /// Bytes to send with each request.
    pub upload: usize,
    /// Ends the connection after each request.
    pub close: bool,
}

impl<'a> Load<'a> {
    /// Plain GETs.
    pub const fn get(path: &'a str, connections: usize, seconds: u64) -> Self {
        Self { connections, seconds, path, upload: 0, close: false }
    }
}

/// Runs it.
///
/// # Errors
/// When wrk fails, or anything but good answers came: figures of a subject that fails are worth nothing.
pub fn run(wrk: &Path, target: &Target, load: &Load<'_>, scratch: &Path) -> Result<Figures> {
    let script = scratch.join("wrk.lua");
    std::fs::write(&script, script_for(load))?;
    let threads = load.connections.min(2).to_string();
    let mut command = Command::new(wrk);
    command.args(["-t", &threads, "-c", &load.connections.to_string(), "-d", &format!("{}s", load.seconds)]);
    command.args(["--timeout", "10s", "-s"]).arg(&script);
    if let Some(key) = &target.key {
        command.arg("-H").arg(format!("Authorization: Bearer {key}"));
    }
    if load.close {
        command.args(["-H", "Connection: close"]);
    }
    let figures = parse(&tools::output(command.arg(target.url(load.path)))?)?;
    // With `Connection: close`, wrk counts the end of a connection that the server closes first as a failed read.
    if figures.requests == 0 || figures.status > 0 || (figures.bad > 0 && !load.close) {
        bail!("{} answers were bad and {} connections failed", figures.status, figures.bad);
    }
    Ok(figures)
}

fn script_for(load: &Load<'_>) -> String {
    let mut script = SCRIPT.to_owned();
    if load.upload > 0 {
        script += &format!("wrk.method = 'POST'\nwrk.body = string.rep('x', {})\n", load.upload);
    }
    script
}

fn parse(output: &str) -> Result<Figures> {
    let line = output.lines().find_map(|line| line.strip_prefix(MARK));
    let line = line.with_context(|| format!("wrk printed no figures: {output}"))?;
    serde_json::from_str(line).with_context(|| format!("wrk printed {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_among_its_other_words() {
        let output = "Running 1s test @ http://x\n  2 threads\nRequests/sec: 5\n\
                      figures: {\"requests\":5000,\"micros\":500000,\"p50\":90,\"p99\":210,\"bad\":0,\"status\":1}\n";
        let figures = parse(output).unwrap();
        assert_eq!(figures.rate(), 10_000.0);
        assert_eq!((figures.p50, figures.p99, figures.status), (90.0, 210.0, 1));
        assert!(parse("Running 1s test\n").is_err());
    }

    #[test]
    fn the_script_says_what_is_sent() {
        let script = script_for(&Load { upload: 10, ..Load::get("/", 1, 1) });
        assert!(script.contains("wrk.method = 'POST'\nwrk.body = string.rep('x', 10)"), "{script}");
        assert!(!script_for(&Load::get("/", 1, 1)).contains("wrk.body"));
    }
}
