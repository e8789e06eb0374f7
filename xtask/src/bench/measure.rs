//! The course of the benchmark: which loads there are, and in which order subjects get them.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use tokio::runtime::Runtime;

use super::{
    BenchArgs, Measure,
    load::{body, idle, sse, websocket},
    process::open_files,
    provision::Programs,
    results::{Results, Scenario},
    stats,
    subject::{Kind, Origin, Stage, Subject},
    wrk::{self, Load},
};
use crate::tools::step;

/// Open streams of events.
const STREAMS: usize = 1000;
/// Idle connections.
const IDLE: usize = 10_000;
/// How long streams of events are listened to.
const LISTEN: Duration = Duration::from_secs(3);
/// A large body.
const LARGE: usize = 100 << 20;
/// How often it is sent at a time, one after the other.
const LARGE_TIMES: usize = 4;
/// Where an origin takes bodies and reads them to their end.
const UPLOAD: &str = "/upload?digest=0";

/// What is done to a subject.
#[derive(Debug, Clone, Copy)]
enum Work {
    Requests(Load<'static>),
    Download,
    Upload,
    /// Over so many connections.
    Echo(usize),
}

/// What came of it.
struct Outcome {
    /// What CPU time is told for, how often: a hundred thousand requests or messages, or a GiB.
    units: f64,
    figures: Vec<(&'static str, f64)>,
}

/// What all measurements need.
pub struct Bench<'a> {
    programs: &'a Programs,
    scratch: &'a Path,
    arguments: &'a BenchArgs,
    runtime: Runtime,
}

impl<'a> Bench<'a> {
    /// Nothing is started yet.
    ///
    /// # Errors
    /// When no runtime can be had.
    pub fn new(programs: &'a Programs, scratch: &'a Path, arguments: &'a BenchArgs) -> Result<Self> {
        let runtime = Runtime::new().context("cannot start a runtime")?;
        Ok(Self { programs, scratch, arguments, runtime })
    }

    /// Measures everything that is wanted.
    ///
    /// # Errors
    /// When a subject does not start. A load that fails is noted in the results.
    pub fn run(&self, results: &mut Results) -> Result<()> {
        let files = Origin::files(self.programs, &self.scratch.join("files"))?;
        self.side_by_side(results, &self.stage(&files), &self.file_loads())?;
        if self.arguments.wants(Measure::Routes) {
            self.many_routes(results, &self.stage(&files))?;
        }
        if self.arguments.wants(Measure::Idle) {
            self.afresh(results, &self.stage(&files), Scenario::Idle, &Kind::PROXIES, Self::idle)?;
        }
        drop(files);
        let streams = Origin::streams(self.programs, &self.scratch.join("streams"))?;
        self.side_by_side(results, &self.stage(&streams), &self.stream_loads())?;
        if self.arguments.wants(Measure::Sse) {
            self.afresh(results, &self.stage(&streams), Scenario::Sse, &Kind::ALL, Self::streams)?;
        }
        Ok(())
    }

    fn stage(&self, origin: &Origin) -> Stage<'a> {
        Stage { programs: self.programs, origin: origin.port, scratch: self.scratch }
    }

    /// The loads that the origin of files answers.
    fn file_loads(&self) -> Vec<(Scenario, Work)> {
        let seconds = self.arguments.seconds();
        let json =
            |connections| (Scenario::Json(connections), Work::Requests(Load::get("/json", connections, seconds)));
        let mut loads = vec![];
        if self.arguments.wants(Measure::Json) {
            loads.extend([1, 32, 256].map(json));
        }
        if self.arguments.wants(Measure::Setup) {
            loads.push((Scenario::Setup, Work::Requests(Load { close: true, ..Load::get("/json", 8, 1) })));
        }
        if self.arguments.wants(Measure::Bodies) {
            loads.push((Scenario::Down64K, Work::Requests(Load::get("/64k", 32, 1))));
            loads.push((Scenario::Down100M, Work::Download));
        }
        loads
    }

    /// The loads that the origin of streams answers.
    fn stream_loads(&self) -> Vec<(Scenario, Work)> {
        let mut loads = vec![];
        if self.arguments.wants(Measure::Bodies) {
            let upload = Load { upload: 64 << 10, ..Load::get(UPLOAD, 32, 1) };
            loads.push((Scenario::Up64K, Work::Requests(upload)));
            loads.push((Scenario::Up100M, Work::Upload));
        }
        if self.arguments.wants(Measure::Websocket) {
            loads.extend([1, 32].map(|connections| (Scenario::WebSocket(connections), Work::Echo(connections))));
        }
        loads
    }

    /// Every subject under every load, by turns.
    fn side_by_side(&self, results: &mut Results, stage: &Stage<'_>, loads: &[(Scenario, Work)]) -> Result<()> {
        if loads.is_empty() {
            return Ok(());
        }
        let subjects = Kind::ALL.into_iter().map(|kind| stage.start(kind)).collect::<Result<Vec<_>>>()?;
        for round in 1..=self.arguments.rounds() {
            step(&format!("round {round} of {}", self.arguments.rounds()));
            for (scenario, work) in loads {
                for subject in &subjects {
                    self.measure(results, *scenario, subject, *work);
                    if *scenario == Scenario::Json(256) && round == self.arguments.rounds() {
                        add_memory(results, *scenario, subject)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// One service, and one among many, by turns.
    fn many_routes(&self, results: &mut Results, stage: &Stage<'_>) -> Result<()> {
        step("1,000 services on 100 agents");
        let few = stage.start(Kind::Towline)?;
        let many = match stage.start(Kind::TowlineMany) {
            Ok(many) => many,
            Err(error) => {
                results.failures.push(format!("{error:#}"));
                return Ok(());
            }
        };
        for _ in 0..self.arguments.rounds() {
            for subject in [&few, &many] {
                let load = Load::get("/json", 32, self.arguments.seconds());
                self.measure(results, Scenario::Routes, subject, Work::Requests(load));
            }
        }
        Ok(())
    }

    fn measure(&self, results: &mut Results, scenario: Scenario, subject: &Subject, work: Work) {
        if let Err(error) = self.try_measure(results, scenario, subject, work) {
            results.failures.push(format!("{}, {}: {error:#}", scenario.name(), subject.kind.name()));
        }
    }

    fn try_measure(&self, results: &mut Results, scenario: Scenario, subject: &Subject, work: Work) -> Result<()> {
        let before = subject.cpu()?;
        let outcome = self.perform(subject, work)?;
        for ((role, after), (_, before)) in subject.cpu()?.into_iter().zip(before) {
            results.add(scenario, subject.kind, format!("cpu {role}"), (after - before) / outcome.units);
        }
        for (figure, value) in outcome.figures {
            results.add(scenario, subject.kind, figure, value);
        }
        Ok(())
    }

    fn perform(&self, subject: &Subject, work: Work) -> Result<Outcome> {
        let target = &subject.target;
        let large = |durations: &[Duration]| {
            let seconds: Vec<_> = durations.iter().map(Duration::as_secs_f64).collect();
            let mib = LARGE as f64 / f64::from(1 << 20);
            let rate = mib / stats::median(&seconds).unwrap_or(f64::INFINITY);
            Outcome { units: mib * durations.len() as f64 / 1024.0, figures: vec![("rate", rate)] }
        };
        match work {
            Work::Requests(load) => {
                let figures = wrk::run(&self.programs.wrk, target, &load, self.scratch)?;
                let named = vec![("rate", figures.rate()), ("p50", figures.p50), ("p99", figures.p99)];
                Ok(Outcome { units: figures.requests as f64 / 1e5, figures: named })
            }
            Work::Download => {
                let one = || self.runtime.block_on(body::download(target, "/100m", LARGE));
                Ok(large(&(0..LARGE_TIMES).map(|_| one()).collect::<Result<Vec<_>>>()?))
            }
            Work::Upload => {
                let one = || self.runtime.block_on(body::upload(target, UPLOAD, LARGE));
                Ok(large(&(0..LARGE_TIMES).map(|_| one()).collect::<Result<Vec<_>>>()?))
            }
            Work::Echo(connections) => {
                let seconds = 1.0;
                let echo = websocket::echo(target, connections, Duration::from_secs_f64(seconds));
                let rate = self.runtime.block_on(echo)?;
                Ok(Outcome { units: rate * seconds / 1e5, figures: vec![("rate", rate)] })
            }
        }
    }

    /// Something that is done to a subject which has just been started, so that what it has kept from before counts not:
    /// every round, every subject.
    fn afresh(
        &self,
        results: &mut Results,
        stage: &Stage<'_>,
        scenario: Scenario,
        kinds: &[Kind],
        act: fn(&Self, &mut Results, &Subject) -> Result<()>,
    ) -> Result<()> {
        for round in 1..=self.arguments.rounds() {
            step(&format!("{}: round {round} of {}", scenario.name(), self.arguments.rounds()));
            for kind in kinds {
                let subject = stage.start(*kind)?;
                if let Err(error) = act(self, results, &subject) {
                    results.failures.push(format!("{}, {}: {error:#}", scenario.name(), kind.name()));
                }
            }
        }
        Ok(())
    }

    fn idle(&self, results: &mut Results, subject: &Subject) -> Result<()> {
        wrk::run(&self.programs.wrk, &subject.target, &Load::get("/json", 32, 1), self.scratch)?;
        let before = subject.memory()?;
        // rathole opens two files for each connection, in both of its processes.
        let most = if subject.kind == Kind::Rathole { (open_files() as usize).saturating_sub(2000) / 2 } else { IDLE };
        let connections = self.runtime.block_on(idle::open(&subject.target, most.min(IDLE)))?;
        add_growth(results, Scenario::Idle, subject, &before, connections.len())
    }

    fn streams(&self, results: &mut Results, subject: &Subject) -> Result<()> {
        wrk::run(&self.programs.wrk, &subject.target, &Load::get("/health", 32, 1), self.scratch)?;
        let before = subject.memory()?;
        let open = self.runtime.block_on(sse::open(&subject.target, STREAMS))?;
        add_growth(results, Scenario::Sse, subject, &before, STREAMS)?;
        let first = open.first_millis.clone();
        let delays = self.runtime.block_on(open.listen(LISTEN))?;
        for (name, values, part) in
            [("first p50", &first, 0.5), ("first p99", &first, 0.99), ("p50", &delays, 0.5), ("p99", &delays, 0.99)]
        {
            let value = stats::quantile(values, part).context("no event came")?;
            results.add(Scenario::Sse, subject.kind, name, value);
        }
        Ok(())
    }
}

/// Memory as it is, in MiB.
fn add_memory(results: &mut Results, scenario: Scenario, subject: &Subject) -> Result<()> {
    for (role, kib) in subject.memory()? {
        results.add(scenario, subject.kind, format!("memory {role}"), kib / 1024.0);
    }
    Ok(())
}

/// By how much memory has grown for each of so many connections, in KiB.
fn add_growth(
    results: &mut Results,
    scenario: Scenario,
    subject: &Subject,
    before: &[(&'static str, f64)],
    count: usize,
) -> Result<()> {
    for ((role, after), (_, before)) in subject.memory()?.into_iter().zip(before) {
        results.add(scenario, subject.kind, format!("memory {role}"), (after - before) / count as f64);
    }
    Ok(())
}
