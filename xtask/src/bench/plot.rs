//! `docs/performance.svg`: bars of the figures that most people ask for, drawn by hand, so that no library is needed.

use std::{fmt::Write as _, fs};

use anyhow::{Context, Result};

use super::{
    results::{Results, Scenario},
    subject::Kind,
};
use crate::tools;

/// What is drawn: a heading, the load, the figure.
const PANELS: [(&str, Scenario, &str); 6] = [
    ("Small JSON, 32 connections: requests/s", Scenario::Json(32), "rate"),
    ("Small JSON, 32 connections: 99th percentile, µs", Scenario::Json(32), "p99"),
    ("Small JSON, 1 connection: requests/s", Scenario::Json(1), "rate"),
    ("A connection for each request: requests/s", Scenario::Setup, "rate"),
    ("100 MiB to the caller: MiB/s", Scenario::Down100M, "rate"),
    ("WebSocket echoes, 32 connections: messages/s", Scenario::WebSocket(32), "rate"),
];
const COLUMNS: usize = 2;
const PANEL_WIDTH: usize = 470;
const ROW_HEIGHT: usize = 20;
const PANEL_HEIGHT: usize = 46 + ROW_HEIGHT * Kind::ALL.len();
/// Where bars begin in a panel, and how long the longest is.
const BARS_AT: usize = 115;
const BAR_LENGTH: f64 = 270.0;

/// Draws and writes it.
///
/// # Errors
/// When it cannot be written.
pub fn write(results: &Results) -> Result<()> {
    fs::write(tools::root().join("docs/performance.svg"), draw(results)).context("cannot write docs/performance.svg")
}

fn draw(results: &Results) -> String {
    let (width, height) = (PANEL_WIDTH * COLUMNS, PANEL_HEIGHT * PANELS.len().div_ceil(COLUMNS) + 10);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    for (number, (title, scenario, figure)) in PANELS.into_iter().enumerate() {
        let (x, y) = (number % COLUMNS * PANEL_WIDTH, number / COLUMNS * PANEL_HEIGHT);
        let values = Kind::ALL.map(|kind| (kind, results.get(scenario, kind, figure)));
        let _ = write!(svg, "<g transform=\"translate({x} {y})\">\n{}</g>\n", panel(title, &values));
    }
    svg + "</svg>\n"
}

fn panel(title: &str, values: &[(Kind, Option<f64>)]) -> String {
    let mut svg = format!("<text x=\"12\" y=\"28\" font-weight=\"bold\">{title}</text>\n");
    let most = values.iter().filter_map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let measured = values.iter().filter_map(|(kind, value)| Some((kind, (*value)?)));
    for (number, (kind, value)) in measured.enumerate() {
        let (top, length) = (38 + number * ROW_HEIGHT, value / most * BAR_LENGTH);
        let (base, name_end, value_at) = (top + 12, BARS_AT - 6, BARS_AT as f64 + length + 6.0);
        let colour = if *kind == Kind::Towline { "#c2410c" } else { "#94a3b8" };
        let _ = writeln!(
            svg,
            "<text x=\"{name_end}\" y=\"{base}\" text-anchor=\"end\">{name}</text>\
             <rect x=\"{BARS_AT}\" y=\"{top}\" width=\"{length:.1}\" height=\"15\" fill=\"{colour}\"/>\
             <text x=\"{value_at:.1}\" y=\"{base}\">{value:.0}</text>",
            name = kind.name(),
        );
    }
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_values() {
        let svg = panel("t", &[(Kind::Nginx, Some(50.0)), (Kind::Envoy, None), (Kind::Towline, Some(25.0))]);
        assert!(svg.contains("width=\"270.0\" height=\"15\" fill=\"#94a3b8\""), "{svg}");
        assert!(svg.contains("width=\"135.0\" height=\"15\" fill=\"#c2410c\""), "{svg}");
        assert!(!svg.contains("Envoy"), "{svg}");
    }

    #[test]
    fn every_panel_is_drawn() {
        let svg = draw(&Results::default());
        assert_eq!(svg.matches("<g ").count(), PANELS.len());
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }
}
