//! The course of the benchmark: which loads there are, and in which order subjects get them.

use std::{ops::Range, path::Path};

use anyhow::Result;

use super::{
    BenchArgs, Measure,
    certificate::Certificate,
    load::{idle, sse},
    process::open_files,
    provision::{Programs, Rivals},
    results::{Results, Scenario},
    subject::{Kind, Origin, Speech, Stage, Subject},
    wan::{Place, Wan},
    work::{Callers, Large, UPLOAD, Work},
};
use crate::tools::step;

/// Open streams of events.
const STREAMS: usize = 1000;
/// Idle connections.
const IDLE: usize = 10_000;
/// The largest bodies.
const LARGE: Large = Large { path: "/100m", mib: 100, times: 2 };
/// What a slow link can be asked to carry.
const FAR: Large = Large { path: "/2m", mib: 2, times: 1 };
/// Subjects that are measured with a slow link.
const FAR_KINDS: [Kind; 5] = [Kind::Direct, Kind::Nginx, Kind::NginxTwice, Kind::Rathole, Kind::Towline];
/// Subjects that are measured with open streams: each takes its time.
const STREAM_KINDS: [Kind; 4] = [Kind::Direct, Kind::Nginx, Kind::Rathole, Kind::Towline];
/// Rounds of idle connections at most: memory is the same every time.
const IDLE_ROUNDS: u32 = 2;

/// What all measurements need.
pub struct Bench<'a> {
    programs: &'a Programs,
    rivals: &'a Rivals,
    scratch: &'a Path,
    arguments: &'a BenchArgs,
    callers: Callers<'a>,
    here: Place,
    certificate: Certificate,
}

impl<'a> Bench<'a> {
    /// Nothing is started yet.
    ///
    /// # Errors
    /// When no runtime can be had, or no certificate.
    pub fn new(
        (programs, rivals): (&'a Programs, &'a Rivals),
        scratch: &'a Path,
        arguments: &'a BenchArgs,
    ) -> Result<Self> {
        let callers = Callers::new(programs, scratch)?;
        let certificate = Certificate::make(scratch)?;
        Ok(Self { programs, rivals, scratch, arguments, callers, here: Place::here(), certificate })
    }

    /// Measures everything that is wanted.
    ///
    /// # Errors
    /// When a subject does not start. A load that fails is noted in the results.
    pub fn run(&self, results: &mut Results) -> Result<()> {
        let files = Origin::files(&self.rivals.nginx, &self.here, &self.certificate, &self.scratch.join("files"))?;
        self.side_by_side(results, &self.stage(&files), &Kind::ALL, &self.file_loads())?;
        for (speech, loads) in [(Speech::Http2, self.http2_loads()), (Speech::Https, self.tls_loads())] {
            let stage = Stage { speech, origin_of_callers: files.port_of(speech), ..self.stage(&files) };
            self.side_by_side(results, &stage, &Kind::ALL, &loads)?;
        }
        let one_or_many = [Kind::Towline, Kind::TowlineMany];
        if let Err(error) = self.side_by_side(results, &self.stage(&files), &one_or_many, &self.route_loads()) {
            results.failures.push(format!("1,000 services on 100 agents: {error:#}"));
        }
        if self.arguments.wants(Measure::Idle) {
            self.afresh(results, &self.stage(&files), (Scenario::Idle, IDLE_ROUNDS), &Kind::PROXIES, Self::idle)?;
        }
        drop(files);
        let streams = Origin::streams(&self.programs.demo, &self.scratch.join("streams"))?;
        self.side_by_side(results, &self.stage(&streams), &Kind::ALL, &self.stream_loads())?;
        if self.arguments.wants(Measure::Sse) {
            self.afresh(results, &self.stage(&streams), (Scenario::Sse, u32::MAX), &STREAM_KINDS, Self::streams)?;
        }
        drop(streams);
        if self.arguments.wants(Measure::Wan)
            && let Err(error) = self.far(results)
        {
            results.failures.push(format!("a slow and lossy link: {error:#}"));
        }
        Ok(())
    }

    fn stage(&self, origin: &Origin) -> Stage<'_> {
        Stage::at(&self.here, self.programs, origin, (&self.certificate, self.scratch))
    }

    /// With a slow and lossy link between the proxy and the origin, or within the tunnel.
    fn far(&self, results: &mut Results) -> Result<()> {
        let wan = Wan::lay(&self.scratch.join("wan"), &self.callers.runtime)?;
        let files = Origin::files(&self.rivals.nginx, &wan.far, &self.certificate, &self.scratch.join("far-files"))?;
        let stage = Stage { near: &wan.near, far: &wan.far, ..self.stage(&files) };
        let json =
            |connections| (Scenario::FarJson(connections), Work::get("/json", connections, self.arguments.seconds()));
        self.side_by_side(results, &stage, &FAR_KINDS, &[json(1), json(32), (Scenario::Far2M, Work::Download(FAR))])
    }

    /// The loads that the origin of files answers.
    fn file_loads(&self) -> Vec<(Scenario, Work)> {
        let seconds = self.arguments.seconds();
        let json = |connections| (Scenario::Json(connections), Work::get("/json", connections, seconds));
        let mut loads = vec![];
        if self.arguments.wants(Measure::Json) {
            loads.extend([1, 32, 256].map(json));
        }
        if self.arguments.wants(Measure::Setup) {
            loads.push((Scenario::Setup, Work::get_and_close("/json", 8, 1)));
        }
        if self.arguments.wants(Measure::Bodies) {
            loads.push((Scenario::Down64K, Work::get("/64k", 32, 1)));
            loads.push((Scenario::Down100M, Work::Download(LARGE)));
        }
        loads
    }

    /// The loads of callers of HTTP/2.
    fn http2_loads(&self) -> Vec<(Scenario, Work)> {
        let seconds = self.arguments.seconds();
        let load = |(connections, streams)| {
            (Scenario::Http2(connections, streams), Work::get_over_http2("/json", (connections, streams), seconds))
        };
        if self.arguments.wants(Measure::Http2) { [(32, 1), (4, 32)].map(load).into() } else { vec![] }
    }

    /// The loads by TLS.
    fn tls_loads(&self) -> Vec<(Scenario, Work)> {
        let load = Work::get("/json", 32, self.arguments.seconds());
        if self.arguments.wants(Measure::Tls) { vec![(Scenario::Tls, load)] } else { vec![] }
    }

    /// The load of one service, which is alone or among many.
    fn route_loads(&self) -> Vec<(Scenario, Work)> {
        let load = Work::get("/json", 32, self.arguments.seconds());
        if self.arguments.wants(Measure::Routes) { vec![(Scenario::Routes, load)] } else { vec![] }
    }

    /// The loads that the origin of streams answers.
    fn stream_loads(&self) -> Vec<(Scenario, Work)> {
        let mut loads = vec![];
        if self.arguments.wants(Measure::Bodies) {
            loads.push((Scenario::Up64K, Work::upload(32, 1)));
            loads.push((Scenario::Up100M, Work::Upload(Large { path: UPLOAD, ..LARGE })));
        }
        if self.arguments.wants(Measure::Websocket) {
            loads.extend([1, 32].map(|connections| (Scenario::WebSocket(connections), Work::Echo(connections))));
        }
        loads
    }

    /// Every subject under every load, round by round.
    fn side_by_side(
        &self,
        results: &mut Results,
        stage: &Stage<'_>,
        kinds: &[Kind],
        loads: &[(Scenario, Work)],
    ) -> Result<()> {
        if loads.is_empty() {
            return Ok(());
        }
        for round in 1..=self.arguments.rounds() {
            step(&format!("round {round} of {}", self.arguments.rounds()));
            // Anew for each round: two processes of the same program were seen to differ by some per cent for as long as they ran.
            let subjects = kinds.iter().map(|kind| stage.start(self.rivals, *kind)).collect::<Result<Vec<_>>>()?;
            for (scenario, work) in loads {
                self.round(results, round, &subjects, (*scenario, *work))?;
            }
        }
        Ok(())
    }

    /// A round of one load: every subject once for the whole of it, or in every turn for a slice of it.
    fn round(
        &self,
        results: &mut Results,
        round: u32,
        subjects: &[Subject],
        (scenario, work): (Scenario, Work),
    ) -> Result<()> {
        let (turns, work) = if scenario.is_by_turns() { work.in_slices() } else { (1, work) };
        for turn in turns_of(round, turns) {
            results.turn = turn;
            for subject in in_order(subjects, if scenario.is_by_turns() { turn } else { 0 }) {
                self.measure(results, scenario, subject, work);
                if scenario == Scenario::Json(256) {
                    add_memory(results, scenario, subject)?;
                }
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
        let outcome = self.callers.perform(&subject.target, work)?;
        for ((role, after), (_, before)) in subject.cpu()?.into_iter().zip(before) {
            let used = after - before;
            results.add(scenario, subject.kind, format!("cpu {role}"), used.all() / outcome.units);
            results.add(scenario, subject.kind, format!("kernel {role}"), used.kernel / outcome.units);
        }
        for (figure, value) in outcome.figures {
            results.add(scenario, subject.kind, figure, value);
        }
        Ok(())
    }

    /// Something that is done to a subject which has just been started, so that what it has kept from before counts not:
    /// every round, every subject.
    fn afresh(
        &self,
        results: &mut Results,
        stage: &Stage<'_>,
        (scenario, most_rounds): (Scenario, u32),
        kinds: &[Kind],
        act: fn(&Self, &mut Results, &Subject) -> Result<()>,
    ) -> Result<()> {
        let rounds = self.arguments.rounds().min(most_rounds);
        for round in 1..=rounds {
            step(&format!("{}: round {round} of {rounds}", scenario.name()));
            results.turn = u64::from(round - 1);
            for kind in kinds {
                let subject = stage.start(self.rivals, *kind)?;
                if let Err(error) = act(self, results, &subject) {
                    results.failures.push(format!("{}, {}: {error:#}", scenario.name(), kind.name()));
                }
            }
        }
        Ok(())
    }

    fn idle(&self, results: &mut Results, subject: &Subject) -> Result<()> {
        self.callers.perform(&subject.target, Work::get("/json", 32, 1))?;
        let before = subject.memory()?;
        // rathole opens two files for each connection, in both of its processes.
        let most = if subject.kind == Kind::Rathole { (open_files() as usize).saturating_sub(2000) / 2 } else { IDLE };
        let connections = self.callers.runtime.block_on(idle::open(&subject.target, most.min(IDLE)))?;
        add_growth(results, Scenario::Idle, subject, &before, connections.len())
    }

    fn streams(&self, results: &mut Results, subject: &Subject) -> Result<()> {
        self.callers.perform(&subject.target, Work::get("/health", 32, 1))?;
        let before = subject.memory()?;
        let open = self.callers.runtime.block_on(sse::open(&subject.target, STREAMS))?;
        add_growth(results, Scenario::Sse, subject, &before, STREAMS)?;
        for (name, value) in self.callers.listen(open)?.figures {
            results.add(Scenario::Sse, subject.kind, name, value);
        }
        Ok(())
    }
}

/// The numbers of a round's turns, from 0. They go on from round to round, and so does the order of subjects.
fn turns_of(round: u32, turns: u64) -> Range<u64> {
    let round = u64::from(round);
    (round - 1) * turns..round * turns
}

/// All of them, in every turn beginning with another one: who comes first was seen to have an advantage.
fn in_order<T>(all: &[T], turn: u64) -> impl Iterator<Item = &T> {
    all.iter().cycle().skip(turn as usize).take(all.len())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_comes_first_in_turn_across_rounds() {
        let orders: Vec<Vec<char>> = [1, 2]
            .into_iter()
            .flat_map(|round| turns_of(round, 2))
            .map(|turn| in_order(&['a', 'b', 'c'], turn).copied().collect())
            .collect();
        assert_eq!(orders, [['a', 'b', 'c'], ['b', 'c', 'a'], ['c', 'a', 'b'], ['a', 'b', 'c']]);
        assert_eq!(in_order::<char>(&[], 3).next(), None);
    }
}
