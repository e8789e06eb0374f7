//! The training: a server and an agent that count, under the kinds of load that users bring. It measures nothing.
//!
//! What is not done here is taken to be done never, and is built for size. So every way through the program that has to be quick belongs
//! here, however briefly.

use std::path::Path;

use anyhow::{Context, Result};

use crate::{
    bench::{
        certificate::Certificate,
        provision,
        subject::{Origin, Speech, Stage},
        wan::Place,
        work::{Callers, Large, UPLOAD, Work},
    },
    tools::step,
};

/// How long the loads are that users have most of.
const LONG: u64 = 4;
/// How long the others are.
const SHORT: u64 = 2;
/// A small answer of the demo service, JSON.
const JSON: &str = "/instance";
/// A middling answer of it.
const MIDDLING: &str = "/bytes?n=65536";
/// The same without its length.
const CHUNKED: &str = "/bytes?n=65536&chunk=8192&chunked=1";
/// A large answer of it.
const LARGE: Large = Large { path: "/bytes?n=33554432", mib: 32, times: 2 };

/// What callers of HTTP/1.1 do.
const HTTP1: [Work; 10] = [
    Work::get(JSON, 1, LONG),
    Work::get(JSON, 32, LONG),
    Work::get(JSON, 256, LONG),
    Work::get_and_close(JSON, 8, SHORT),
    Work::get(MIDDLING, 32, SHORT),
    Work::get(CHUNKED, 32, SHORT),
    Work::upload(32, SHORT),
    Work::Download(LARGE),
    Work::Upload(Large { path: UPLOAD, ..LARGE }),
    Work::Echo(32),
];

/// What callers of HTTP/2 do.
const HTTP2: [Work; 3] = [
    Work::get_over_http2(JSON, (32, 1), LONG),
    Work::get_over_http2(JSON, (4, 32), LONG),
    Work::get_over_http2(MIDDLING, (8, 4), SHORT),
];

/// What callers of both do within TLS, under which the tunnel is then, too.
const TLS: [Work; 5] = [
    Work::get(JSON, 32, LONG),
    Work::get_and_close(JSON, 8, SHORT),
    Work::get(MIDDLING, 32, SHORT),
    Work::upload(32, SHORT),
    Work::get_over_http2(JSON, (32, 1), SHORT),
];

/// Open streams of events.
const EVENTS: [Work; 1] = [Work::Events(256)];

/// Runs the loads on a program with counters, which writes down what it has counted when it ends.
///
/// # Errors
/// When something that is needed cannot be had, the program does not serve, or anything but good answers came: nothing is to be built by
/// those.
pub fn train(towline: &Path, scratch: &Path) -> Result<()> {
    let programs = provision::programs(towline)?;
    let certificate = Certificate::make(scratch)?;
    let (place, callers) = (Place::here(), Callers::new(&programs, scratch)?);
    let origin = Origin::streams(&programs.demo, &scratch.join("origin"))?;
    let all: [(Speech, &str, &[Work]); 4] = [
        (Speech::Http1, "HTTP/1.1", &HTTP1),
        (Speech::Http1, "events", &EVENTS),
        (Speech::Http2, "HTTP/2", &HTTP2),
        (Speech::Https, "TLS", &TLS),
    ];
    for (speech, name, loads) in all {
        step(&format!("training: {name}"));
        let stage = Stage { speech, ..Stage::at(&place, &programs, &origin, (&certificate, scratch)) };
        let subject = stage.towline().context("cannot start what is trained")?;
        for load in loads {
            callers.perform(&subject.target, *load).with_context(|| format!("training failed: {load:?}"))?;
        }
        subject.end()?;
    }
    Ok(())
}
