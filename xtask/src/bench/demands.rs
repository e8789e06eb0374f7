//! What is demanded, as ratios within one run, so that they mean the same on every machine, and as memory.

use super::{
    results::{Measured, Results, Scenario},
    subject::Kind,
};

/// One demand and what came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// What is demanded, in words.
    pub what: &'static str,
    /// The bound.
    pub bound: Bound,
    /// What was measured, if it was.
    pub measured: Option<Measured>,
}

/// On which side of it the measured value must be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// Not below.
    Least(f64),
    /// Not above.
    Most(f64),
}

impl Verdict {
    /// Whether it holds; `None` when it was not measured.
    pub fn holds(&self) -> Option<bool> {
        self.measured.map(|measured| match self.bound {
            Bound::Least(bound) => measured.value >= bound,
            Bound::Most(bound) => measured.value <= bound,
        })
    }
}

/// Every demand.
pub fn verdicts(results: &Results) -> Vec<Verdict> {
    use Bound::{Least, Most};
    use Kind::{Envoy, Nginx, NginxTwice, Rathole, Towline, TowlineMany};
    use Scenario::{Down100M, Idle, Json, Routes, Sse, Up100M};
    let of = |scenario, figure, other| results.ratio(scenario, figure, Towline, other);
    let gateway = |scenario| results.get(scenario, Towline, "memory gateway").map(Measured::from);
    let routes = results.ratio(Routes, "rate", TowlineMany, Towline);
    // Two runs of the same differ by some per cent on a machine that callers and origin share.
    let nothing_lost = Least(0.95);
    [
        ("small JSON, 32 connections, requests a second: of rathole", Least(1.0), of(Json(32), "rate", Rathole)),
        ("the same: of one nginx hop", Least(0.9), of(Json(32), "rate", Nginx)),
        ("the same: of one Envoy hop", Least(1.7), of(Json(32), "rate", Envoy)),
        ("the same, 99th percentile: of nginx → nginx", Most(1.3), of(Json(32), "p99", NginxTwice)),
        ("latency added at one connection: of what rathole adds", Most(1.3), added(results)),
        ("100 MiB to the caller, speed: of rathole", Least(0.9), of(Down100M, "rate", Rathole)),
        ("100 MiB to the origin, speed: of rathole", Least(0.9), of(Up100M, "rate", Rathole)),
        ("memory of the gateway for an idle caller, KiB", Most(20.0), gateway(Idle)),
        ("memory of the gateway for an open stream, KiB", Most(50.0), gateway(Sse)),
        ("small JSON with 1,000 services and 100 agents: of 1 service", nothing_lost, routes),
    ]
    .map(|(what, bound, measured)| Verdict { what, bound, measured })
    .into()
}

/// What Towline adds to the direct way's time of a request, by what rathole adds. From the rates, which at one connection are
/// the mean time, and are finer than wrk's microseconds.
fn added(results: &Results) -> Option<Measured> {
    let micros = |kind| results.get(Scenario::Json(1), kind, "rate").map(|rate| 1e6 / rate);
    let direct = micros(Kind::Direct)?;
    Some(((micros(Kind::Towline)? - direct) / (micros(Kind::Rathole)? - direct)).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_neither_holds_nor_fails() {
        assert!(verdicts(&Results::default()).iter().all(|verdict| verdict.holds().is_none()));
    }

    #[test]
    fn verdicts_follow_their_bounds() {
        let mut results = Results::default();
        results.add(Scenario::Json(1), Kind::Direct, "rate", 50_000.0);
        results.add(Scenario::Json(1), Kind::Rathole, "rate", 25_000.0);
        results.add(Scenario::Json(1), Kind::Towline, "rate", 20_000.0);
        // 20 µs, of which rathole adds 20 and Towline 30.
        assert!((added(&results).unwrap().value - 1.5).abs() < 1e-9);
        let latency = verdicts(&results).into_iter().find(|verdict| verdict.what.contains("latency added")).unwrap();
        assert_eq!(latency.holds(), Some(false));
        assert_eq!(Verdict { bound: Bound::Least(1.5), ..latency }.holds(), Some(true));
    }

    #[test]
    fn a_demand_of_what_is_measured_by_turns_knows_how_sure_it_is() {
        let mut results = Results::default();
        for (turn, p99) in (0..).zip([100.0, 150.0, 125.0, 120.0]) {
            results.turn = turn;
            results.add(Scenario::Json(32), Kind::Towline, "p99", p99);
            results.add(Scenario::Json(32), Kind::NginxTwice, "p99", 100.0);
            results.add(Scenario::Idle, Kind::Towline, "memory gateway", p99);
        }
        let verdicts = verdicts(&results);
        let measured = |what| verdicts.iter().find(|verdict| verdict.what.contains(what)).unwrap().measured;
        assert_eq!(measured("99th percentile"), Some(Measured { value: 1.225, quartiles: Some((1.0, 1.25)) }));
        assert_eq!(measured("an idle caller"), Some(122.5.into()));
    }
}
