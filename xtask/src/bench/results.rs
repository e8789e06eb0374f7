//! What was measured: for each load, subject and figure the values of all rounds, or of all turns where a round has several.

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

    /// Whether a round of it is many short turns, in each of which every subject has one. The machine's speed changes within
    /// seconds and by more than subjects differ, so only what was measured next to each other can decide a close demand.
    pub const fn is_by_turns(self) -> bool {
        matches!(self, Self::Json(32) | Self::Routes)
    }
}

fn plural(connections: usize) -> String {
    if connections == 1 { "1 connection".to_owned() } else { format!("{connections} connections") }
}

/// What came of it in the end, and how sure that is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// A ratio or a median.
    pub value: f64,
    /// The first and the third quartile of the turns' quotients, when it is the median of several.
    pub quartiles: Option<(f64, f64)>,
}

impl From<f64> for Measured {
    fn from(value: f64) -> Self {
        Self { value, quartiles: None }
    }
}

impl Measured {
    /// The median of quotients; `None` of nothing.
    fn of(quotients: &[f64]) -> Option<Self> {
        let value = stats::median(quotients)?;
        let quartiles = stats::quantile(quotients, 0.25).zip(stats::quantile(quotients, 0.75));
        // Those of a single one would look as if it were quite sure.
        Some(Self { value, quartiles: quartiles.filter(|_| quotients.len() > 1) })
    }
}

/// The values of one figure, each with its turn: a turn that failed has none, and the others must not move up.
type Values = BTreeMap<u64, f64>;

/// All values.
#[derive(Debug, Default)]
pub struct Results {
    values: BTreeMap<(Scenario, Kind, String), Values>,
    /// The turn that values are noted for, counted from 0: the round, unless a round has several.
    pub turn: u64,
    /// What could not be measured, and why.
    pub failures: Vec<String>,
}

impl Results {
    /// Notes a value of this turn.
    pub fn add(&mut self, scenario: Scenario, kind: Kind, figure: impl Into<String>, value: f64) {
        self.values.entry((scenario, kind, figure.into())).or_default().insert(self.turn, value);
    }

    /// The median of all turns; `None` when there was none.
    pub fn get(&self, scenario: Scenario, kind: Kind, figure: &str) -> Option<f64> {
        median(self.values_of(scenario, kind, figure)?)
    }

    /// The figures of this load and subject whose name begins so: the rest of the name and the median.
    pub fn with_prefix(&self, scenario: Scenario, kind: Kind, prefix: &str) -> Vec<(String, f64)> {
        let of_subject = self.values.iter().filter(|((s, k, _), _)| (*s, *k) == (scenario, kind));
        of_subject
            .filter_map(|((_, _, figure), values)| Some((figure.strip_prefix(prefix)?.to_owned(), median(values)?)))
            .collect()
    }

    /// One subject's figure by another's: the quotient of their medians, or the median of the turns' quotients of what is
    /// measured by turns.
    pub fn ratio(&self, scenario: Scenario, figure: &str, of: Kind, by: Kind) -> Option<Measured> {
        if scenario.is_by_turns() {
            return Measured::of(&self.quotients(scenario, figure, of, by)?);
        }
        Some((self.get(scenario, of, figure)? / self.get(scenario, by, figure)?).into())
    }

    /// One by the other, in every turn in which both have a value.
    fn quotients(&self, scenario: Scenario, figure: &str, of: Kind, by: Kind) -> Option<Vec<f64>> {
        let (of, by) = (self.values_of(scenario, of, figure)?, self.values_of(scenario, by, figure)?);
        Some(of.iter().filter_map(|(turn, value)| Some(value / by.get(turn)?)).collect())
    }

    fn values_of(&self, scenario: Scenario, kind: Kind, figure: &str) -> Option<&Values> {
        self.values.get(&(scenario, kind, figure.to_owned()))
    }

    /// Every value of every turn, by load, subject and figure, and what failed.
    pub fn raw(&self) -> Value {
        let mut measured = Map::new();
        for ((scenario, kind, figure), values) in &self.values {
            let of_load = measured.entry(scenario.name()).or_insert_with(|| json!({}));
            of_load[kind.name()][figure] = values.values().copied().collect();
        }
        json!({ "measured": measured, "failures": self.failures })
    }
}

fn median(values: &Values) -> Option<f64> {
    stats::median(&values.values().copied().collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add_rates(results: &mut Results, scenario: Scenario, kind: Kind, rates: &[(u64, f64)]) {
        for (turn, rate) in rates {
            results.turn = *turn;
            results.add(scenario, kind, "rate", *rate);
        }
    }

    #[test]
    fn medians_and_ratios_of_rounds() {
        let mut results = Results::default();
        add_rates(&mut results, Scenario::Json(1), Kind::Towline, &[(0, 90.0), (1, 400.0), (2, 100.0)]);
        results.add(Scenario::Json(1), Kind::Rathole, "rate", 50.0);
        results.add(Scenario::Json(1), Kind::Towline, "cpu agent", 1.5);
        assert_eq!(results.get(Scenario::Json(1), Kind::Towline, "rate"), Some(100.0));
        assert_eq!(results.ratio(Scenario::Json(1), "rate", Kind::Towline, Kind::Rathole), Some(2.0.into()));
        assert_eq!(results.ratio(Scenario::Json(1), "rate", Kind::Towline, Kind::Envoy), None);
        assert_eq!(results.with_prefix(Scenario::Json(1), Kind::Towline, "cpu "), [("agent".to_owned(), 1.5)]);
        let raw = results.raw();
        assert_eq!(raw["measured"]["Small JSON, 1 connection"]["Towline"]["rate"], json!([90.0, 400.0, 100.0]));
    }

    #[test]
    fn a_ratio_by_turns_is_the_median_of_their_quotients() {
        let mut results = Results::default();
        // By turns 0.8, 0.5 and 2.4; the medians of both are 100.
        let (towline, nginx) = ([(0, 40.0), (1, 100.0), (2, 240.0)], [(0, 50.0), (1, 200.0), (2, 100.0)]);
        for scenario in [Scenario::Json(1), Scenario::Json(32)] {
            add_rates(&mut results, scenario, Kind::Towline, &towline);
            add_rates(&mut results, scenario, Kind::Nginx, &nginx);
        }
        let ratio = |scenario| results.ratio(scenario, "rate", Kind::Towline, Kind::Nginx);
        assert_eq!(ratio(Scenario::Json(1)), Some(1.0.into()));
        assert_eq!(ratio(Scenario::Json(32)), Some(Measured { value: 0.8, quartiles: Some((0.5, 2.4)) }));
    }

    #[test]
    fn a_turn_that_failed_for_one_counts_for_nobody_with_it() {
        let mut results = Results::default();
        let all = [(0, 50.0), (1, 100.0), (2, 200.0)];
        add_rates(&mut results, Scenario::Routes, Kind::Towline, &all);
        add_rates(&mut results, Scenario::Routes, Kind::Nginx, &all);
        add_rates(&mut results, Scenario::Routes, Kind::TowlineMany, &[(1, 90.0), (2, 180.0)]);
        let ratio = |by| results.ratio(Scenario::Routes, "rate", Kind::TowlineMany, by);
        let nine_tenths = Some(Measured { value: 0.9, quartiles: Some((0.9, 0.9)) });
        assert_eq!((ratio(Kind::Towline), ratio(Kind::Nginx)), (nine_tenths, nine_tenths));
        let others = results.ratio(Scenario::Routes, "rate", Kind::Towline, Kind::Nginx);
        assert_eq!(others, Some(Measured { value: 1.0, quartiles: Some((1.0, 1.0)) }));
    }

    #[test]
    fn turns_without_a_pair_make_no_ratio_and_a_single_pair_no_quartiles() {
        let mut results = Results::default();
        add_rates(&mut results, Scenario::Json(32), Kind::Towline, &[(0, 50.0), (1, 80.0)]);
        add_rates(&mut results, Scenario::Json(32), Kind::Nginx, &[(1, 100.0)]);
        add_rates(&mut results, Scenario::Json(32), Kind::Envoy, &[(2, 100.0)]);
        let ratio = |by| results.ratio(Scenario::Json(32), "rate", Kind::Towline, by);
        assert_eq!(ratio(Kind::Nginx), Some(0.8.into()));
        assert_eq!((ratio(Kind::Envoy), ratio(Kind::Rathole)), (None, None));
    }
}
