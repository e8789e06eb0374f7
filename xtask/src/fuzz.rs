//! `cargo xtask fuzz`: runs the targets of `/fuzz` one after the other, each for a while, and says how far they got.
//!
//! What a target has found stays in `fuzz/corpus`, so that the next run goes on from there; `fuzz/seeds` is what it begins with.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::tools::{self, Need, find, step};

/// The version that is installed when there is none.
const CARGO_FUZZ: &str = "cargo-fuzz@0.13.2";
/// Between these lines of the README stands what was measured.
const TABLE: (&str, &str) = ("<!-- written by `cargo xtask fuzz --record` -->\n", "<!-- end -->\n");

/// What `cargo xtask fuzz` takes.
#[derive(Debug, clap::Args)]
pub struct FuzzArgs {
    /// Only these targets; all if none is named.
    targets: Vec<String>,
    /// How long each of them runs.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Run nothing: see that every target compiles, without nightly and without the fuzzer.
    #[arg(long, conflicts_with_all = ["targets", "record"])]
    check: bool,
    /// Write the figures of all targets into fuzz/README.md.
    #[arg(long, conflicts_with = "targets")]
    record: bool,
}

/// Runs the targets.
///
/// # Errors
/// When something that is needed cannot be had, a target does not compile, or one finds an input that breaks a rule.
pub fn run(arguments: &FuzzArgs) -> Result<()> {
    if arguments.check {
        return check();
    }
    let all = targets()?;
    let chosen = if arguments.targets.is_empty() { &all } else { &arguments.targets };
    for target in chosen {
        ensure!(all.contains(target), "there is no target {target:?}; there are {}", all.join(", "));
    }
    tools::require(NEEDS)?;
    require_fuzzer()?;
    step("building the targets");
    tools::run(nightly().args(["fuzz", "build"]))?;
    let mut figures = Vec::new();
    for target in chosen {
        step(&format!("{target}, for {} seconds", arguments.seconds));
        figures.push(fuzz(target, arguments.seconds)?);
    }
    let table = table(&figures, arguments.seconds);
    println!("{table}");
    if arguments.record { record(&table) } else { Ok(()) }
}

/// The library of the fuzzer is not needed to compile against it, and takes a C++ compiler half a minute.
fn check() -> Result<()> {
    let mut cargo = tools::cargo();
    cargo.args(["check", "--quiet", "--bins", "--manifest-path"]).arg(directory().join("Cargo.toml"));
    cargo.arg("--target-dir").arg(tools::target().join("fuzz")).env("CUSTOM_LIBFUZZER_PATH", "/dev/null");
    tools::run(&mut cargo).context("a fuzz target does not compile")
}

fn directory() -> PathBuf {
    tools::root().join("fuzz")
}

/// The names of all targets, in order.
fn targets() -> Result<Vec<String>> {
    let files = fs::read_dir(directory().join("fuzz_targets")).context("there are no fuzz targets")?;
    let names = files.map(|file| Some(file.ok()?.path().file_stem()?.to_str()?.to_owned()));
    let mut names: Vec<String> = names.collect::<Option<_>>().context("a target has no name")?;
    names.sort_unstable();
    Ok(names)
}

const NEEDS: &[Need] = &[Need {
    name: "c++",
    package: "g++",
    purpose: "the fuzzer's own library",
    is_met: || find("c++").is_some() || find("clang++").is_some(),
}];

fn require_fuzzer() -> Result<()> {
    let rustup =
        find("rustup").context("fuzzing needs a nightly toolchain, and rustup to get it: https://rustup.rs")?;
    let toolchains = tools::output(Command::new(rustup).args(["toolchain", "list"]))?;
    if !toolchains.lines().any(|line| line.starts_with("nightly-")) {
        step("installing a nightly toolchain, once");
        tools::run(Command::new("rustup").args(["toolchain", "install", "nightly", "--profile", "minimal"]))?;
    }
    if find("cargo-fuzz").is_none() {
        step("installing cargo-fuzz, once (about a minute)");
        tools::run(tools::cargo().args(["install", CARGO_FUZZ, "--locked"]))?;
    }
    Ok(())
}

/// Nightly's cargo. Nothing of the toolchain that runs this task reaches it.
fn nightly() -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo"]).current_dir(directory());
    command.env_remove("CARGO").env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
    command
}

/// How far a target got.
struct Figures {
    target: String,
    executions: u64,
    /// Places in the code that were reached, as the fuzzer counts them.
    coverage: u64,
    /// Inputs that each reach something that the others do not.
    corpus: u64,
}

fn fuzz(target: &str, seconds: u32) -> Result<Figures> {
    let corpus = directory().join("corpus").join(target);
    fs::create_dir_all(&corpus)?;
    let mut command = nightly();
    command.args(["fuzz", "run", target]).arg(corpus);
    let seeds = directory().join("seeds").join(target);
    if seeds.is_dir() {
        command.arg(seeds);
    }
    command.args(["--", "-print_final_stats=1", "-timeout=20", "-dict=http.dict"]);
    command.arg(format!("-max_total_time={seconds}"));
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().context("cannot start cargo fuzz")?;
    let mut figures = Figures { target: target.to_owned(), executions: 0, coverage: 0, corpus: 0 };
    let mut has_found = false;
    for line in BufReader::new(child.stderr.take().context("it has no output")?).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        figures.note(&line);
        has_found |= line.contains("Test unit written to ");
        if !["\tREDUCE ", "\tNEW ", "\tNEW_FUNC"].iter().any(|noise| line.contains(noise)) {
            eprintln!("{line}");
        }
    }
    let status = child.wait()?;
    if has_found {
        bail!("{target} has found an input that breaks a rule; it is named above, and belongs into a test");
    }
    ensure!(status.success(), "cargo fuzz run {target} ended with {status}");
    Ok(figures)
}

impl Figures {
    /// Takes the numbers of one line of the fuzzer's: `#12 DONE cov: 3 ft: 4 corp: 5/6b …` or `stat::name: 7`.
    fn note(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        for pair in words.windows(2) {
            let number = pair[1].split('/').next().and_then(|text| text.parse().ok());
            let Some(number) = number else { continue };
            match pair[0] {
                "cov:" => self.coverage = number,
                "corp:" => self.corpus = number,
                "stat::number_of_executed_units:" => self.executions = number,
                _ => {}
            }
        }
    }
}

fn table(figures: &[Figures], seconds: u32) -> String {
    let mut text =
        format!("{seconds} seconds each:\n\n| target | executions | coverage | inputs |\n|---|---:|---:|---:|\n");
    for Figures { target, executions, coverage, corpus } in figures {
        text.push_str(&format!("| `{target}` | {executions} | {coverage} | {corpus} |\n"));
    }
    text
}

fn record(table: &str) -> Result<()> {
    let path = directory().join("README.md");
    let text = fs::read_to_string(&path)?;
    fs::write(&path, with_table(&text, table).with_context(|| missing_lines(&path))?)?;
    Ok(())
}

fn missing_lines(path: &Path) -> String {
    format!("{} has no place for the figures: the lines {:?} and {:?}", path.display(), TABLE.0, TABLE.1)
}

fn with_table(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(TABLE.0)?;
    let (_, after) = rest.split_once(TABLE.1)?;
    Some(format!("{before}{}{table}{}{after}", TABLE.0, TABLE.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_what_the_fuzzer_prints() {
        let mut figures = Figures { target: "mux".to_owned(), executions: 0, coverage: 0, corpus: 0 };
        for line in [
            "#2\tINITED cov: 10 ft: 11 corp: 1/1b exec/s: 0 rss: 30Mb",
            "#524288\tDONE   cov: 1234 ft: 5000 corp: 321/40Kb lim: 4096 exec/s: 8738 rss: 90Mb",
            "stat::number_of_executed_units: 524288",
            "stat::average_exec_per_sec:     8738",
        ] {
            figures.note(line);
        }
        assert_eq!((figures.executions, figures.coverage, figures.corpus), (524_288, 1234, 321));
        let written = with_table(&format!("a\n{}old\n{}b\n", TABLE.0, TABLE.1), &table(&[figures], 60)).unwrap();
        assert!(written.contains("| `mux` | 524288 | 1234 | 321 |\n") && !written.contains("old"), "{written}");
        assert!(written.starts_with("a\n") && written.ends_with("b\n"), "{written}");
    }

    #[test]
    fn every_target_is_built_and_described() {
        let read = |name: &str| fs::read_to_string(directory().join(name)).unwrap();
        let (manifest, readme) = (read("Cargo.toml"), read("README.md"));
        for target in targets().unwrap() {
            assert!(manifest.contains(&format!("name = \"{target}\"\n")), "{target} is not in fuzz/Cargo.toml");
            assert!(readme.contains(&format!("`{target}`")), "{target} is not in fuzz/README.md");
        }
    }
}
