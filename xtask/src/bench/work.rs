//! What can be done to a subject, and who does it: every load of the benchmark that is measured by its requests, messages or bytes.
//! What is measured by memory is in `measure`.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use tokio::runtime::Runtime;

use super::{
    h2load,
    load::{body, sse, websocket},
    provision::Programs,
    stats,
    subject::Target,
    wrk::{self, Figures, Load},
};

/// Where the demo service takes bodies and reads them to their end.
pub const UPLOAD: &str = "/upload?digest=0";
/// What a body of 64 KiB is.
const MIDDLING: usize = 64 << 10;
/// How long WebSockets are sent to.
const ECHO: Duration = Duration::from_secs(1);
/// How long streams of events are listened to.
const LISTEN: Duration = Duration::from_secs(3);

/// What is done to a subject.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    /// Requests of HTTP/1.1, or of HTTP/1.1 within TLS.
    Requests(Load<'static>),
    /// Requests of HTTP/2, or of HTTP/2 within TLS.
    OverHttp2(h2load::Load<'static>),
    /// A large body to the caller.
    Download(Large),
    /// A large body to the origin.
    Upload(Large),
    /// WebSockets, over so many connections.
    Echo(usize),
    /// So many streams of events.
    Events(usize),
}

impl Work {
    /// Plain GETs.
    pub const fn get(path: &'static str, connections: usize, seconds: u64) -> Self {
        Self::Requests(Load::get(path, connections, seconds))
    }

    /// GETs with a connection for each.
    pub const fn get_and_close(path: &'static str, connections: usize, seconds: u64) -> Self {
        Self::Requests(Load { close: true, ..Load::get(path, connections, seconds) })
    }

    /// Bodies of 64 KiB to the demo service.
    pub const fn upload(connections: usize, seconds: u64) -> Self {
        Self::Requests(Load { upload: MIDDLING, ..Load::get(UPLOAD, connections, seconds) })
    }

    /// Plain GETs over HTTP/2, with so many requests at a time on each connection.
    pub const fn get_over_http2(path: &'static str, (connections, streams): (usize, usize), seconds: u64) -> Self {
        Self::OverHttp2(h2load::Load { connections, streams, seconds, path })
    }

    /// The same in slices of one second: how many there are, and one of them. What takes as long as it takes is one slice.
    pub const fn in_slices(self) -> (u64, Self) {
        match self {
            Self::Requests(load) => (load.seconds, Self::Requests(Load { seconds: 1, ..load })),
            Self::OverHttp2(load) => (load.seconds, Self::OverHttp2(h2load::Load { seconds: 1, ..load })),
            Self::Download(_) | Self::Upload(_) | Self::Echo(_) | Self::Events(_) => (1, self),
        }
    }
}

/// A large body, and how often it is sent at a time, one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Large {
    /// Where it is, or goes to.
    pub path: &'static str,
    /// Its size.
    pub mib: usize,
    /// How often.
    pub times: usize,
}

impl Large {
    fn repeat(self, mut once: impl FnMut() -> Result<Duration>) -> Result<Outcome> {
        let seconds = (0..self.times).map(|_| Ok(once()?.as_secs_f64())).collect::<Result<Vec<_>>>()?;
        let mib = self.mib as f64;
        let rate = mib / stats::median(&seconds).unwrap_or(f64::INFINITY);
        Ok(Outcome { units: mib * self.times as f64 / 1024.0, figures: vec![("rate", rate)] })
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// What CPU time is told for, how often: a hundred thousand requests or messages, or a GiB.
    pub units: f64,
    /// What was measured, by name.
    pub figures: Vec<(&'static str, f64)>,
}

impl Outcome {
    fn of_requests(figures: Figures) -> Self {
        let named = vec![("rate", figures.rate()), ("p50", figures.p50), ("p99", figures.p99)];
        Self { units: figures.requests as f64 / 1e5, figures: named }
    }
}

/// Those who do it.
#[derive(Debug)]
pub struct Callers<'a> {
    programs: &'a Programs,
    scratch: &'a Path,
    /// What the loads of our own run on.
    pub runtime: Runtime,
}

impl<'a> Callers<'a> {
    /// Nothing is started yet.
    ///
    /// # Errors
    /// When no runtime can be had.
    pub fn new(programs: &'a Programs, scratch: &'a Path) -> Result<Self> {
        Ok(Self { programs, scratch, runtime: Runtime::new().context("cannot start a runtime")? })
    }

    /// Does it.
    ///
    /// # Errors
    /// When anything but good answers came.
    pub fn perform(&self, target: &Target, work: Work) -> Result<Outcome> {
        match work {
            Work::Requests(load) => wrk::run(&self.programs.wrk, target, &load, self.scratch).map(Outcome::of_requests),
            Work::OverHttp2(load) => {
                h2load::run(&self.programs.h2load, target, &load, self.scratch).map(Outcome::of_requests)
            }
            Work::Download(large) => {
                large.repeat(|| self.runtime.block_on(body::download(target, large.path, large.mib << 20)))
            }
            Work::Upload(large) => {
                large.repeat(|| self.runtime.block_on(body::upload(target, large.path, large.mib << 20)))
            }
            Work::Echo(connections) => {
                let rate = self.runtime.block_on(websocket::echo(target, connections, ECHO))?;
                Ok(Outcome { units: rate * ECHO.as_secs_f64() / 1e5, figures: vec![("rate", rate)] })
            }
            Work::Events(streams) => {
                let open = self.runtime.block_on(sse::open(target, streams))?;
                self.listen(open)
            }
        }
    }

    /// Listens to streams that are open.
    ///
    /// # Errors
    /// When one of them is cut, or no event comes.
    pub fn listen(&self, open: sse::Open) -> Result<Outcome> {
        let first = open.first_millis.clone();
        let delays = self.runtime.block_on(open.listen(LISTEN))?;
        let quantiles =
            [("first p50", &first, 0.5), ("first p99", &first, 0.99), ("p50", &delays, 0.5), ("p99", &delays, 0.99)];
        let figures = quantiles.map(|(name, values, part)| Some((name, stats::quantile(values, part)?)));
        let figures = figures.into_iter().collect::<Option<_>>().context("no event came")?;
        Ok(Outcome { units: delays.len() as f64 / 1e5, figures })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_take_as_long_as_the_whole() {
        let (count, slice) = Work::get("/json", 32, 5).in_slices();
        assert!(count == 5 && matches!(slice, Work::Requests(Load { connections: 32, seconds: 1, .. })), "{slice:?}");
        let (count, slice) = Work::get_over_http2("/json", (4, 32), 3).in_slices();
        assert!(count == 3 && matches!(slice, Work::OverHttp2(h2load::Load { streams: 32, seconds: 1, .. })));
        let (count, slice) = Work::Echo(32).in_slices();
        assert!(count == 1 && matches!(slice, Work::Echo(32)));
    }
}
