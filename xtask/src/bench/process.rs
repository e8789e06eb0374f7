//! Processes that the benchmark starts, and what they cost: CPU time and memory, from /proc, with all their descendants.

use std::{
    collections::HashMap,
    fs::{self, File},
    ops::{Add, Sub},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Resource, getrlimit};

/// The kernel counts CPU time in these units (USER_HZ), whatever its own clock does.
const TICKS_PER_SECOND: f64 = 100.0;
/// More open files than this no subject needs.
const OPEN_FILES: u64 = 100_000;
/// How long a process may take to listen.
const START: Duration = Duration::from_secs(20);
/// How long a process may take to end.
const END: Duration = Duration::from_secs(5);
/// The same for one that has something to finish.
const LAST_WORK: Duration = Duration::from_secs(30);

/// CPU time, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CpuTime {
    /// In the program's own code.
    pub user: f64,
    /// In the kernel, for the program.
    pub kernel: f64,
}

impl CpuTime {
    /// All of it.
    pub fn all(self) -> f64 {
        self.user + self.kernel
    }
}

impl Add for CpuTime {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { user: self.user + other.user, kernel: self.kernel + other.kernel }
    }
}

impl Sub for CpuTime {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { user: self.user - other.user, kernel: self.kernel - other.kernel }
    }
}

/// A process and its descendants. Dropping it ends them.
#[derive(Debug)]
pub struct Running {
    /// What it is in the tables: `gateway`, `agent`, `proxy`, …
    pub role: &'static str,
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts a program with room for as many open files as are allowed; what it prints goes to a file.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(role: &'static str, command: &Command, log: &Path) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        // prlimit replaces itself with the program, so the process id is the program's.
        let mut limited = Command::new("prlimit");
        let files = open_files();
        limited.arg(format!("--nofile={files}:{files}")).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => limited.env(name, value),
                None => limited.env_remove(name),
            };
        }
        limited.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = limited.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { role, child, log: log.to_owned() })
    }

    /// Waits until something takes connections there.
    ///
    /// # Errors
    /// When the process ends instead, or takes too long; with the end of what it printed.
    #[expect(clippy::disallowed_methods, reason = "a foreign program does not say when it listens; it has to be asked")]
    pub fn wait_for(&mut self, host: &str, port: u16) -> Result<()> {
        let started = Instant::now();
        while std::net::TcpStream::connect((host, port)).is_err() {
            let ended = self.child.try_wait()?;
            if ended.is_some() || started.elapsed() > START {
                bail!("the {} does not listen on port {port}: {}", self.role, self.last_words());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Asks it to end and waits until it has: whatever a program writes at its end is there then.
    ///
    /// # Errors
    /// When it does not end in time, or not with 0; with the end of what it printed.
    pub fn end(mut self) -> Result<()> {
        let status = self.terminate(LAST_WORK);
        let status = status.with_context(|| format!("the {} does not end: {}", self.role, self.last_words()))?;
        ensure!(status.success(), "the {} ended with {status}: {}", self.role, self.last_words());
        Ok(())
    }

    /// Sends SIGTERM, and gives the status with which it ends, if it does in time. One that has ended is not sent anything: its id may
    /// be another's by now.
    #[expect(clippy::disallowed_methods, reason = "a drop, which calls this, cannot await")]
    fn terminate(&mut self, patience: Duration) -> Option<ExitStatus> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Some(status);
        }
        let _ = Command::new("kill").arg(self.child.id().to_string()).stderr(Stdio::null()).status();
        let started = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && started.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.child.try_wait().ok().flatten()
    }

    /// The end of what it printed.
    pub fn last_words(&self) -> String {
        let text = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    /// CPU time that it and its living descendants have used.
    ///
    /// # Errors
    /// When it has ended: what it was to be measured for has failed then.
    pub fn cpu(&self) -> Result<CpuTime> {
        self.sum(|pid| parse_cpu(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?))
    }

    /// Memory in KiB: pages of its own, and its share of those that its processes have together.
    ///
    /// # Errors
    /// When it has ended.
    pub fn memory(&self) -> Result<u64> {
        self.sum(|pid| parse_pss(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?))
    }

    fn sum<T: Add<Output = T>>(&self, figure: impl Fn(u32) -> Option<T>) -> Result<T> {
        let id = self.child.id();
        let own = figure(id).filter(|_| Path::new(&format!("/proc/{id}/exe")).exists());
        let own = own.with_context(|| format!("the {} has ended: {}", self.role, self.last_words()))?;
        Ok(descendants(id, &parents()).into_iter().filter_map(figure).fold(own, T::add))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let children = descendants(self.child.id(), &parents());
        if self.terminate(END).is_none() {
            let ids = children.iter().map(ToString::to_string);
            let _ = Command::new("kill").arg("-KILL").args(ids).stderr(Stdio::null()).status();
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// How many files a process may open here, within reason.
pub fn open_files() -> u64 {
    getrlimit(Resource::Nofile).maximum.map_or(OPEN_FILES, |limit| limit.min(OPEN_FILES))
}

/// Of every process of this machine, whose child it is.
fn parents() -> HashMap<u32, u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter_map(|id: u32| Some((id, parse_parent(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)?))).collect()
}

fn descendants(ancestor: u32, parents: &HashMap<u32, u32>) -> Vec<u32> {
    let mut found = vec![ancestor];
    let mut at = 0;
    while at < found.len() {
        let ancestor = found[at];
        found.extend(parents.iter().filter(|(_, parent)| **parent == ancestor).map(|(child, _)| *child));
        at += 1;
    }
    found.split_off(1)
}

/// The fields after the name, which may hold anything, also blanks and parentheses.
fn fields(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace()
}

/// Fields 14 and 15 of proc_pid_stat(5): time in user mode and in the kernel.
fn parse_cpu(stat: &str) -> Option<CpuTime> {
    let mut seconds = fields(stat).skip(11).map(|ticks| Some(ticks.parse::<u64>().ok()? as f64 / TICKS_PER_SECOND));
    Some(CpuTime { user: seconds.next()??, kernel: seconds.next()?? })
}

/// Field 4.
fn parse_parent(stat: &str) -> Option<u32> {
    fields(stat).nth(1)?.parse().ok()
}

fn parse_pss(smaps: &str) -> Option<u64> {
    smaps.lines().find_map(|line| line.strip_prefix("Pss:"))?.trim().trim_end_matches(" kB").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "42 (a (b) c) S 7 42 42 0 -1 4194560 1 0 0 0 150 25 9 9 20 0 1 0 100 1 1";

    #[test]
    fn stat_is_read_whatever_the_name() {
        assert_eq!(parse_cpu(STAT), Some(CpuTime { user: 1.5, kernel: 0.25 }));
        assert_eq!(parse_parent(STAT), Some(7));
        assert_eq!(parse_cpu("garbage"), None);
    }

    #[test]
    fn descendants_are_found_at_any_depth() {
        let parents = HashMap::from([(2, 1), (3, 2), (4, 2), (5, 9)]);
        let mut found = descendants(1, &parents);
        found.sort_unstable();
        assert_eq!(found, [2, 3, 4]);
    }

    #[test]
    fn shared_memory_counts_by_share() {
        assert_eq!(parse_pss("00-ff ---p\nRss:  900 kB\nPss:             123 kB\nPss_Dirty: 1 kB\n"), Some(123));
    }

    #[test]
    fn what_a_process_uses_is_counted_and_it_ends_with_its_guard() {
        let log = std::env::temp_dir().join(format!("xtask-bench-{}", std::process::id()));
        let mut shell = Command::new("sh");
        shell.args(["-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done & wait; exec sleep 60"]);
        let running = Running::start("shell", &shell, &log).unwrap();
        // The loop runs in a child, and is counted all the same.
        while running.cpu().unwrap().all() < 0.03 {
            std::thread::yield_now();
        }
        assert!(running.memory().unwrap() > 0);
        let id = running.child.id();
        drop(running);
        assert!(!Path::new(&format!("/proc/{id}")).exists());
        let _ = fs::remove_file(log);
    }

    #[test]
    fn one_that_is_to_end_has_done_its_last_work_and_says_so() {
        let log = std::env::temp_dir().join(format!("xtask-bench-end-{}", std::process::id()));
        let start = |code: u32| {
            let mut shell = Command::new("sh");
            shell
                .args(["-c", &format!("trap 'echo last; exit {code}' TERM; echo ready; while :; do sleep 0.01; done")]);
            let _ = fs::remove_file(&log);
            let running = Running::start("shell", &shell, &log).unwrap();
            while !running.last_words().contains("ready") {
                std::thread::yield_now();
            }
            running
        };
        start(0).end().unwrap();
        assert!(fs::read_to_string(&log).unwrap().ends_with("last\n"));
        assert!(start(3).end().unwrap_err().to_string().contains("exit status: 3"));
        let _ = fs::remove_file(log);
    }
}
