//! The tables of `docs/performance.md`, made from what was measured.

use std::{fs, process::Command};

use anyhow::{Context, Result};

use super::{
    demands::{self, Bound, Verdict},
    results::{Measured, Results, Scenario},
    subject::Kind,
};
use crate::tools;

const BEGIN: &str = "<!-- measured: begin -->\n";
const END: &str = "<!-- measured: end -->\n";

/// Stands above the table of what is measured by turns: who divides the medians in it gets other ratios.
const BY_TURNS: &str = "Measured by turns of one second: a ratio (*of nginx*, and in the demands) is the median of the turns' \
                        quotients.\n\n";

/// A column of a table: its heading, where its figures come from, and their decimals.
type Column = (&'static str, Source, usize);

/// Where the figures of a column come from.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// The figure of this name.
    Figure(&'static str),
    /// The rate, by that of one nginx hop.
    OfNginx,
    /// The figures whose name begins so, each with the rest of its name: the role of a process.
    Roles(&'static str),
    /// CPU time by role, and in parentheses what of it the kernel has used.
    Cpu,
}

use Source::{Cpu, Figure, OfNginx, Roles};

const RATE: Column = ("requests/s", Figure("rate"), 0);
const OF_NGINX: Column = ("of nginx", OfNginx, 2);
const P50: Column = ("p50 µs", Figure("p50"), 0);
const P99: Column = ("p99 µs", Figure("p99"), 0);
const CPU: Column = ("CPU s per 100 k (kernel)", Cpu, 2);
const MIB: Column = ("MiB/s", Figure("rate"), 1);
const MEMORY_EACH: Column = ("memory for each, KiB", Roles("memory "), 1);

const REQUESTS: &[Column] = &[RATE, OF_NGINX, P50, P99, CPU];
const REQUESTS_AND_MEMORY: &[Column] =
    &[RATE, OF_NGINX, P50, P99, CPU, ("memory afterwards, MiB", Roles("memory "), 1)];
const LARGE: &[Column] = &[MIB, OF_NGINX, ("CPU s per GiB (kernel)", Cpu, 2)];
const MESSAGES: &[Column] = &[("messages/s", Figure("rate"), 0), OF_NGINX, CPU];
const EVENTS: &[Column] = &[
    ("first event p50 ms", Figure("first p50"), 1),
    ("p99 ms", Figure("first p99"), 1),
    ("each event's delay p50 ms", Figure("p50"), 2),
    ("p99 ms", Figure("p99"), 2),
    MEMORY_EACH,
];

const fn columns(scenario: Scenario) -> &'static [Column] {
    match scenario {
        Scenario::Json(256) => REQUESTS_AND_MEMORY,
        Scenario::Down100M | Scenario::Up100M => LARGE,
        // So few requests cost less CPU time than the kernel counts.
        Scenario::FarJson(_) => &[RATE, OF_NGINX, P50, P99],
        Scenario::Far2M => &[MIB, OF_NGINX],
        Scenario::Sse => EVENTS,
        Scenario::WebSocket(_) => MESSAGES,
        Scenario::Idle => &[MEMORY_EACH],
        Scenario::Json(_)
        | Scenario::Http2(..)
        | Scenario::Tls
        | Scenario::Setup
        | Scenario::Down64K
        | Scenario::Up64K
        | Scenario::Routes => REQUESTS,
    }
}

/// Every table, the demands first.
pub fn tables(results: &Results, rounds: u32) -> String {
    let mut text = format!("Medians of {rounds} interleaved rounds on {}.\n", machine());
    text += "\n### Demands\n\n| demand | bound | measured (quartiles of the turns) | |\n|---|---|---|---|\n";
    for verdict in demands::verdicts(results) {
        text += &row_of(&verdict);
    }
    for scenario in Scenario::ALL {
        text += &table(results, *scenario);
    }
    if !results.failures.is_empty() {
        text += "\n### What failed\n\n";
        results.failures.iter().for_each(|failure| text += &format!("- {failure}\n"));
    }
    text
}

fn table(results: &Results, scenario: Scenario) -> String {
    let columns = columns(scenario);
    let cells =
        |kind: Kind| columns.iter().map(move |(_, source, decimals)| cell(results, scenario, kind, *source, *decimals));
    let rows: String = Kind::rows()
        .filter(|kind| cells(*kind).any(|cell| !cell.is_empty()))
        .map(|kind| format!("| {} | {} |\n", kind.name(), cells(kind).collect::<Vec<_>>().join(" | ")))
        .collect();
    if rows.is_empty() {
        return rows;
    }
    let heads: Vec<_> = columns.iter().map(|(head, ..)| *head).collect();
    let rule = "---|".repeat(columns.len() + 1);
    let how = if scenario.is_by_turns() { BY_TURNS } else { "" };
    format!("\n### {}\n\n{how}| subject | {} |\n|{rule}\n{rows}", scenario.name(), heads.join(" | "))
}

fn cell(results: &Results, scenario: Scenario, kind: Kind, source: Source, decimals: usize) -> String {
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.decimals$}"));
    match source {
        Figure(name) => number(results.get(scenario, kind, name)),
        OfNginx => number(results.ratio(scenario, "rate", kind, Kind::Nginx).map(|ratio| ratio.value)),
        Roles(prefix) => {
            let each = results.with_prefix(scenario, kind, prefix);
            each.iter().map(|(role, value)| format!("{role} {value:.decimals$}")).collect::<Vec<_>>().join(", ")
        }
        Cpu => {
            let each = results.with_prefix(scenario, kind, "cpu ").into_iter().map(|(role, all)| {
                let kernel = results.get(scenario, kind, &format!("kernel {role}")).unwrap_or_default();
                format!("{role} {all:.decimals$} ({kernel:.decimals$})")
            });
            each.collect::<Vec<_>>().join(", ")
        }
    }
}

fn row_of(verdict: &Verdict) -> String {
    let bound = match verdict.bound {
        Bound::Least(bound) => format!("≥ {bound}"),
        Bound::Most(bound) => format!("≤ {bound}"),
    };
    let measured = verdict.measured.map_or_else(|| "–".to_owned(), in_words);
    let holds = verdict.holds().map_or("not measured", |holds| if holds { "holds" } else { "does not hold" });
    format!("| {} | {bound} | {measured} | {holds} |\n", verdict.what)
}

fn in_words(measured: Measured) -> String {
    let Measured { value, quartiles } = measured;
    quartiles.map_or_else(|| format!("{value:.2}"), |(first, third)| format!("{value:.2} ({first:.2}–{third:.2})"))
}

/// What the figures were taken on, in words.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("", |(_, m)| m);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let date = tools::output(Command::new("date").arg("-I")).unwrap_or_default();
    let version = kernel.split('-').next().unwrap_or_default().trim();
    format!("{cores} cores ({model}), Linux {version}, {}", date.trim())
}

/// Puts the tables between their marks in the document.
///
/// # Errors
/// When the document or its marks are missing.
pub fn write(text: &str) -> Result<()> {
    let path = tools::root().join("docs/performance.md");
    let document = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let (before, rest) = document.split_once(BEGIN).context("docs/performance.md has lost its first mark")?;
    let (_, after) = rest.split_once(END).context("docs/performance.md has lost its last mark")?;
    fs::write(&path, format!("{before}{BEGIN}{text}{END}{after}")).context("cannot write docs/performance.md")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_row_for_what_was_measured_and_no_other() {
        let mut results = Results::default();
        for (kind, rate) in [(Kind::Nginx, 50.0), (Kind::Towline, 40.0)] {
            for (figure, value) in
                [("rate", rate), ("p50", 10.0), ("p99", 20.0), ("cpu gateway", 1.0), ("kernel gateway", 0.5)]
            {
                results.add(Scenario::Json(32), kind, figure, value);
            }
        }
        let text = tables(&results, 1);
        assert!(text.contains("| Towline | 40 | 0.80 | 10 | 20 | gateway 1.00 (0.50) |\n"), "{text}");
        assert!(!text.contains("| Envoy |") && text.matches("### ").count() == 2, "{text}");
        assert!(text.contains("of one nginx hop | ≥ 0.9 | 0.80 | does not hold |"), "{text}");
        assert!(text.contains("of rathole | ≥ 1 | – | not measured |"), "{text}");
    }

    #[test]
    fn every_table_has_as_many_cells_as_headings() {
        let mut results = Results::default();
        for scenario in Scenario::ALL {
            results.add(*scenario, Kind::Towline, "rate", 1.0);
            results.add(*scenario, Kind::Towline, "memory gateway", 2.0);
        }
        for scenario in Scenario::ALL {
            let text = table(&results, *scenario);
            let bars: Vec<_> =
                text.lines().filter(|line| line.starts_with('|')).map(|line| line.matches('|').count()).collect();
            assert!(bars.len() == 3 && bars.iter().all(|count| *count == bars[0]), "{text}");
            // Without an empty line before it, a table is none.
            assert!(text.contains("\n\n| subject |"), "{text}");
            assert_eq!(text.contains("by turns of one second"), scenario.is_by_turns(), "{text}");
        }
    }

    #[test]
    fn a_demand_tells_the_quartiles_of_its_turns() {
        let mut results = Results::default();
        for (turn, rate) in (0..).zip([87.0, 92.0, 80.0, 82.0, 95.0, 86.0, 88.0, 90.0]) {
            results.turn = turn;
            for scenario in [Scenario::Json(32), Scenario::Down100M] {
                results.add(scenario, Kind::Towline, "rate", rate);
                results.add(scenario, Kind::Rathole, "rate", 100.0);
            }
        }
        let text = tables(&results, 1);
        assert!(text.contains("a second: of rathole | ≥ 1 | 0.88 (0.82–0.90) | does not hold |"), "{text}");
        assert!(text.contains("100 MiB to the caller, speed: of rathole | ≥ 0.9 | 0.88 | does not hold |"), "{text}");
    }
}
