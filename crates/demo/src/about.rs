//! What the server knows about itself, and what it logs: endpoints, environment, instance, counters.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::atomic::Ordering;

use http::{Method, StatusCode};
use serde_json::json;

use crate::body::{ErrorBody, full, json_ok, response};
use crate::call::{Call, Reply};
use crate::endpoints::ENDPOINTS;

const OPENAPI: &str = include_str!("openapi.json");

/// `GET /`. The links are relative, so that they work behind a prefix.
pub async fn index(_: Call) -> Reply {
    let mut rows = String::new();
    for endpoint in ENDPOINTS {
        let methods = if endpoint.methods.is_empty() { "any".to_owned() } else { endpoint.methods.join(" ") };
        let (path, example, about) = (endpoint.path, endpoint.example, endpoint.about);
        let link = example.trim_start_matches('/').replace('&', "&amp;");
        let link = if link.is_empty() { "./".to_owned() } else { link };
        // Writing to a string cannot fail.
        let _ = writeln!(rows, "<tr><td>{methods}</td><td><a href=\"{link}\">{path}</a></td><td>{about}</td></tr>");
    }
    let page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Towline demo</title><style>body{{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}\
         td{{padding:.2rem .8rem .2rem 0;vertical-align:top}}td:nth-child(-n+2){{font-family:ui-monospace,monospace;white-space:nowrap}}</style>\
         <h1>Towline demo</h1><p>A small server that shows and tests what a container can do.</p>\n<table>\n{rows}</table></html>\n"
    );
    Ok(response(StatusCode::OK, "text/html; charset=utf-8", full(page)))
}

/// `GET /openapi.json`.
pub async fn openapi(_: Call) -> Reply {
    Ok(response(StatusCode::OK, "application/json", full(OPENAPI)))
}

/// `GET /env`: every name, but values only of our own.
pub async fn env(_: Call) -> Reply {
    let variables = std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value)));
    let variables: BTreeMap<String, String> = variables.collect();
    let names: Vec<&String> = variables.keys().collect();
    let values: BTreeMap<_, _> = variables.iter().filter(|(name, _)| name.starts_with("DEMO_")).collect();
    Ok(json_ok(&json!({ "names": names, "values": values })))
}

fn lossy(text: std::ffi::OsString) -> String {
    text.to_string_lossy().into_owned()
}

/// `GET /instance`: tells one replica from another, and one start from the next.
pub async fn instance(call: Call) -> Reply {
    Ok(json_ok(&json!({
        "hostname": hostname(),
        "pid": std::process::id(),
        "started_at_ms": call.demo.started_at_ms,
        "uptime_ms": call.demo.started.elapsed().as_millis() as u64,
        "version": env!("CARGO_PKG_VERSION"),
    })))
}

/// Linux has it in a file, also in an image with nothing else in it.
fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_else(|_| "unknown".to_owned())
}

/// `/count?key=`: anything but a look counts one more. (Every other endpoint counts with `?count=key`.)
pub async fn count(call: Call) -> Reply {
    let key = call.query.get("key").unwrap_or("default");
    let count = match *call.request.method() {
        Method::GET | Method::HEAD => call.demo.counts.get(key),
        _ => call.demo.counts.add(key),
    };
    Ok(json_ok(&json!({ "key": key, "count": count })))
}

/// `POST /log?line=`: prints a line to the standard output, which is a container's log.
pub async fn log(call: Call) -> Reply {
    let line = call.query.get("line").unwrap_or_default();
    match writeln!(io::stdout(), "{line}") {
        Ok(()) => Ok(json_ok(&json!({ "line": line }))),
        Err(error) => {
            let message = format!("the line cannot be printed: {error}");
            Err(ErrorBody::new(StatusCode::INTERNAL_SERVER_ERROR, message).into())
        }
    }
}

/// `GET /disconnects?key=`: callers that went away before their answer ended, by the `?key=` of their request or else its path.
pub async fn disconnects(call: Call) -> Reply {
    // This very request is in flight too.
    let in_flight = call.demo.in_flight.load(Ordering::Relaxed) - 1;
    if let Some(key) = call.query.get("key") {
        let count = call.demo.disconnects.get(key);
        return Ok(json_ok(&json!({ "key": key, "count": count, "in_flight": in_flight })));
    }
    let by_key = call.demo.disconnects.all();
    let total: u64 = by_key.values().sum();
    Ok(json_ok(&json!({ "total": total, "by_key": by_key, "in_flight": in_flight })))
}
