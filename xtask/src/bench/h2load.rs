//! Runs h2load, the load over HTTP/2, and reads what it measured: from its log, which has a line for each request, because what it prints
//! has no percentiles.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use super::{stats, subject::Target, wrk::Figures};
use crate::tools;

/// One load.
#[derive(Debug, Clone, Copy)]
pub struct Load<'a> {
    /// Connections at a time.
    pub connections: usize,
    /// Requests at a time on each.
    pub streams: usize,
    /// How long.
    pub seconds: u64,
    /// What is asked for, after the subject's prefix.
    pub path: &'a str,
}

/// Runs it.
///
/// # Errors
/// When h2load fails, or anything but good answers came: figures of a subject that fails are worth nothing.
pub fn run(h2load: &Path, target: &Target, load: &Load<'_>, scratch: &Path) -> Result<Figures> {
    let log = scratch.join("h2load.log");
    // It only ever adds to it.
    let _ = fs::remove_file(&log);
    let mut command = Command::new(h2load);
    command.args(["-t", &load.connections.min(2).to_string(), "-c", &load.connections.to_string()]);
    command.args(["-m", &load.streams.to_string(), "-D", &load.seconds.to_string(), "--log-file"]).arg(&log);
    if let Some(key) = &target.key {
        command.arg("-H").arg(format!("authorization: Bearer {key}"));
    }
    let output = tools::output(command.arg(target.url(load.path)))?;
    let text = fs::read_to_string(&log).with_context(|| format!("h2load has written no log: {output}"))?;
    let figures = parse(&text, load.seconds * 1_000_000)?;
    if figures.requests == 0 || figures.status > 0 {
        bail!("{} answers of {} were bad: {output}", figures.status, figures.requests);
    }
    Ok(figures)
}

/// Lines of when a request began, the status of its answer, and how many microseconds it took, with tabs between. What was still
/// on its way at the end has none.
fn parse(log: &str, micros: u64) -> Result<Figures> {
    let mut times = Vec::new();
    let mut status = 0;
    for line in log.lines() {
        let mut fields = line.split('\t').skip(1);
        let (Some(code), Some(time)) = (fields.next(), fields.next()) else { bail!("h2load has logged {line}") };
        // One that came to nothing has -1 for its status.
        if !matches!(code.parse(), Ok(200..400)) {
            status += 1;
        }
        times.push(time.parse::<f64>().with_context(|| format!("h2load has logged {line}"))?);
    }
    let quantile = |part| stats::quantile(&times, part).unwrap_or_default();
    Ok(Figures { requests: times.len() as u64, micros, p50: quantile(0.5), p99: quantile(0.99), bad: 0, status })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_the_log() {
        let mut log: String = (1..=100).map(|time| format!("1790000000000000\t200\t{time}\n")).collect();
        let figures = parse(&log, 500_000).unwrap();
        assert_eq!((figures.rate(), figures.p50, figures.p99, figures.status), (200.0, 50.0, 99.0, 0));
        log += "1790000000000000\t503\t7\n1790000000000000\t-1\t7\n";
        assert_eq!(parse(&log, 1).unwrap().status, 2);
        assert!(parse("requests: 5\n", 1).is_err());
    }
}
