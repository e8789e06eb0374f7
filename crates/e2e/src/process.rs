//! A process that a test starts: its output goes to a file, and it ends with its guard.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use crate::wait::{SOON, wait_until};

/// A running process. Dropping it kills it; when the test has failed, the end of its output is printed first.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program. Its output is appended to `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let output = File::options().create(true).append(true).open(log).expect("a log file in the test's directory");
        let errors = output.try_clone().expect("a second handle of the log file");
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it has printed.
    #[must_use]
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// SIGKILL: it gets no chance to say goodbye. Returns when it is gone.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child may be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// Sends a signal by name, such as `TERM`.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.id().to_string()]).status();
        assert!(status.expect("kill is there").success(), "cannot send {name} to {}", self.name);
    }

    /// SIGTERM, and waits until it has ended.
    ///
    /// # Panics
    /// When it does not end in `limit`.
    pub async fn terminate(&mut self, limit: Duration) -> ExitStatus {
        self.signal("TERM");
        let name = format!("{} has ended after SIGTERM", self.name);
        wait_until(&name, limit, async || match self.exit_status() {
            Some(status) => Ok(status),
            None => Err("it still runs".to_owned()),
        })
        .await
    }

    /// Waits until it has ended by itself, or by a signal that it takes, and with this exit code.
    ///
    /// # Panics
    /// When it does not end in `limit`, or with another.
    pub async fn wait_for_end(&mut self, code: i32, limit: Duration) {
        let status = wait_until(&format!("{} has ended", self.name), limit, async || {
            self.exit_status().ok_or_else(|| self.output())
        })
        .await;
        assert_eq!(status.code(), Some(code), "{} has ended with {status}: {}", self.name, self.output());
    }

    /// SIGTERM, and waits for its end without a runtime: for a drop.
    #[expect(clippy::disallowed_methods, reason = "a drop cannot await")]
    pub fn end(&mut self, limit: Duration) {
        let _ = Command::new("kill").arg(self.id().to_string()).status();
        let started = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && started.elapsed() < limit {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// How it ended; `None` while it runs.
    ///
    /// # Panics
    /// When the system does not know the child.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Panics with its output when it has ended by itself.
    ///
    /// # Panics
    /// When it has ended.
    pub fn assert_runs(&mut self) {
        if let Some(status) = self.exit_status() {
            panic!("{} has ended by itself with {status}:\n{}", self.name, self.output());
        }
    }

    /// Waits until it has printed this text.
    ///
    /// # Panics
    /// When it does not, or ends before.
    pub async fn wait_for_output(&mut self, text: &str) {
        wait_until(&format!("{} says {text:?}", self.name), SOON, async || {
            if self.output().contains(text) {
                return Ok(());
            }
            self.assert_runs();
            Err(self.output())
        })
        .await;
    }

    /// Memory of the process in bytes: what it has now, and the most that it ever had.
    ///
    /// # Panics
    /// When it has ended, or the system has no `/proc`.
    #[must_use]
    pub fn memory(&self) -> Memory {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).expect("a running process has a status");
        let bytes = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field is there");
            line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") * 1024
        };
        Memory { now: bytes("VmRSS:"), peak: bytes("VmHWM:") }
    }
}

/// Resident memory in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// At the moment.
    pub now: u64,
    /// The most since the process started.
    pub peak: u64,
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let output = self.output();
            let tail: Vec<&str> = output.lines().rev().take(60).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            #[expect(clippy::print_stderr, reason = "the test has failed, and this is why")]
            {
                eprintln!("---- the end of what {} printed ----\n{}\n----", self.name, tail.join("\n"));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end and returns what it printed.
///
/// # Panics
/// When it cannot be started or does not exit with 0.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let started = Instant::now();
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("cannot start {program}: {error}; run `cargo xtask test`"));
    assert!(
        output.status.success(),
        "{program} {} ended with {} after {:?}: {}",
        arguments.join(" "),
        output.status,
        started.elapsed(),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
