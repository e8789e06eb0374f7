//! What was measured: for each load, subject and figure the values of all rounds.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{stats, subject::Kind};

/// A load, in the order of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// Small JSON over so many connections.
    Json(usize),
    /// Small JSON over so many connections of HTTP/2, so many requests at a time on each.
    Http2(usize, usize),
    /// Small JSON by TLS, 32 connections.
    Tls,
    /// A connection for each small request.
    Setup,
    /// 64 KiB to the caller, 32 connections.
    Down64K,
    /// 64 KiB to the origin, 32 connections.
    Up64K,
    /// 100 MiB to the caller.
    Down100M,
    /// 100 MiB to the origin.
    Up100M,
    /// Open streams of events.
    Sse,
    /// WebSocket echoes over so many connections.
    WebSocket(usize),
    /// Idle connections.
    Idle,
    /// Small JSON of one service, alone or among many.
    Routes,
    /// Small JSON over a slow and lossy link, so many connections.
    FarJson(usize),
    /// 2 MiB over a slow and lossy link.
    Far2M,
}

impl Scenario {
    /// All, in the order of the tables.
    pub const ALL: &'static [Self] = &[
        Self::Json(1),
        Self::Json(32),
        Self::Json(256),
        Self::Http2(32, 1),
        Self::Http2(4, 32),
        Self::Tls,
        Self::Setup,
        Self::Down64K,
        Self::Up64K,
        Self::Down100M,
        Self::Up100M,
        Self::Sse,
        Self::WebSocket(1),
        Self::WebSocket(32),
        Self::Idle,
        Self::Routes,
        Self::FarJson(1),
        Self::FarJson(32),
        Self::Far2M,
    ];

    /// What it is, as a heading.
    pub fn name(self) -> String {
        let name = match self {
            Self::Json(connections) => return format!("Small JSON, {}", plural(connections)),
            Self::WebSocket(connections) => return format!("WebSocket echoes of 64 bytes, {}", plural(connections)),
            Self::FarJson(connections) => {
                return format!("40 ms and 0.5 % loss between proxy and origin: small JSON, {}", plural(connections));
            }
            Self::Http2(connections, 1) => {
                return format!("Small JSON from callers of HTTP/2, {}", plural(connections));
            }
            Self::Http2(connections, streams) => {
                return format!("The same, {streams} requests at a time on each of {}", plural(connections));
            }
            Self::Tls => "Small JSON by TLS, 32 connections of HTTP/1.1",
            Self::Far2M => "40 ms and 0.5 % loss between proxy and origin: 2 MiB to the caller, 1 connection",
            Self::Setup => "Small JSON, a connection for each request",
            Self::Down64K => "64 KiB to the caller, 32 connections",
            Self::Up64K => "64 KiB to the origin, 32 connections",
            Self::Down100M => "100 MiB to the caller, 1 connection",
            Self::Up100M => "100 MiB to the origin, 1 connection",
            Self::Sse => "1,000 open streams of events, each with an event a second",
            Self::Idle => "10,000 idle connections, each after one request",
            Self::Routes => "Small JSON, 32 connections, one service alone or among many",
        };
        name.to_owned()
    }
}

fn plural(connections: usize) -> String {
    if connections == 1 { "1 connection".to_owned() } else { format!("{connections} connections") }
}

/// All values.
#[derive(Debug, Default)]
pub struct Results {
    values: BTreeMap<(Scenario, Kind, String), Vec<f64>>,
    /// What could not be measured, and why.
    pub failures: Vec<String>,
}

impl Results {
    /// Notes a value.
    pub fn add(&mut self, scenario: Scenario, kind: Kind, figure: impl Into<String>, value: f64) {
        self.values.entry((scenario, kind, figure.into())).or_default().push(value);
    }

    /// The median of all rounds; `None` when there was none.
    pub fn get(&self, scenario: Scenario, kind: Kind, figure: &str) -> Option<f64> {
        stats::median(self.values.get(&(scenario, kind, figure.to_owned()))?)
    }

    /// The figures of this load and subject whose name begins so: the rest of the name and the median.
    pub fn with_prefix(&self, scenario: Scenario, kind: Kind, prefix: &str) -> Vec<(String, f64)> {
        let of_subject = self.values.iter().filter(|((s, k, _), _)| (*s, *k) == (scenario, kind));
        of_subject
            .filter_map(|((_, _, figure), values)| {
                Some((figure.strip_prefix(prefix)?.to_owned(), stats::median(values)?))
            })
            .collect()
    }

    /// One subject's figure by another's.
    pub fn ratio(&self, scenario: Scenario, figure: &str, of: Kind, by: Kind) -> Option<f64> {
        Some(self.get(scenario, of, figure)? / self.get(scenario, by, figure)?)
    }

    /// Every value of every round, by load, subject and figure, and what failed.
    pub fn raw(&self) -> Value {
        let mut measured = Map::new();
        for ((scenario, kind, figure), values) in &self.values {
            let of_load = measured.entry(scenario.name()).or_insert_with(|| json!({}));
            of_load[kind.name()][figure] = json!(values);
        }
        json!({ "measured": measured, "failures": self.failures })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios_of_rounds() {
        let mut results = Results::default();
        for rate in [90.0, 100.0, 400.0] {
            results.add(Scenario::Json(1), Kind::Towline, "rate", rate);
        }
        results.add(Scenario::Json(1), Kind::Rathole, "rate", 50.0);
        results.add(Scenario::Json(1), Kind::Towline, "cpu agent", 1.5);
        assert_eq!(results.get(Scenario::Json(1), Kind::Towline, "rate"), Some(100.0));
        assert_eq!(results.ratio(Scenario::Json(1), "rate", Kind::Towline, Kind::Rathole), Some(2.0));
        assert_eq!(results.ratio(Scenario::Json(1), "rate", Kind::Towline, Kind::Envoy), None);
        assert_eq!(results.with_prefix(Scenario::Json(1), Kind::Towline, "cpu "), [("agent".to_owned(), 1.5)]);
        let raw = results.raw();
        assert_eq!(raw["measured"]["Small JSON, 1 connection"]["Towline"]["rate"], json!([90.0, 100.0, 400.0]));
    }
}
