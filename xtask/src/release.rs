//! `cargo xtask release`: the program as it is installed, built with link-time optimisation and guided by a profile.
//!
//! The code that a request runs through is wide and flat: no function stands out, and what slows it down is that the compiler does not know
//! which of its branches are taken. So it is built twice: with counters first, to serve the loads of [`training`], and then by what was
//! counted, which is [`profile`]'s.

mod profile;
mod training;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::tools::{self, step};

/// The package, and its program.
const PROGRAM: &str = "towline";

/// What `cargo xtask release` takes.
#[derive(Debug, Default, clap::Args)]
pub struct ReleaseArgs {
    /// Build without a profile: in less time, and with nothing but a Rust toolchain. The program takes more CPU time.
    #[arg(long)]
    no_profile: bool,
    /// Make the profile anew, although the program that it was made from has not changed.
    #[arg(long, conflicts_with = "no_profile")]
    retrain: bool,
}

/// Builds the program and prints where it is.
///
/// # Errors
/// When something that is needed cannot be had, or the program does not compile or does not serve what it is trained with.
pub fn run(arguments: &ReleaseArgs) -> Result<()> {
    println!("{}", program(arguments)?.display());
    Ok(())
}

/// Builds the program and says where it is. When nothing has changed, it is there at once.
///
/// # Errors
/// When something that is needed cannot be had, or the program does not compile or does not serve what it is trained with.
pub fn program(arguments: &ReleaseArgs) -> Result<PathBuf> {
    let host = tools::host()?;
    let mut build = Build { host: &host, directory: tools::target(), flags: vec![] };
    if arguments.no_profile {
        step("building towline without a profile, as --no-profile says (some minutes the first time)");
    } else {
        let profile = profile::get(&host, arguments.retrain)
            .context("there is no profile to build by; `cargo xtask release --no-profile` builds without one")?;
        step("building towline as it is released, by its profile (some minutes the first time)");
        build.flags.push(format!("-Cprofile-use={}", profile.display()));
    }
    build.run()
}

/// One of the builds: of the same package with the same cargo profile, so that they differ in rustc's flags only.
///
/// That is needed: the settings of a cargo profile (`lto`, `codegen-units`) go into the names of all functions, and a profile is looked up
/// by those. Counts of a build with other settings would be passed over without a word.
struct Build<'a> {
    /// What it is built for. Since it is named, build scripts and macros are built without our flags.
    host: &'a str,
    /// Where cargo puts it.
    directory: PathBuf,
    /// Flags beside those of whoever runs this task.
    flags: Vec<String>,
}

impl Build<'_> {
    fn run(&self) -> Result<PathBuf> {
        let mut cargo = tools::cargo();
        cargo.args(["build", "--release", "--locked", "--package", PROGRAM, "--target", self.host]);
        cargo.arg("--target-dir").arg(&self.directory);
        if !self.flags.is_empty() {
            let (encoded, plain) = (tools::variable("CARGO_ENCODED_RUSTFLAGS"), tools::variable("RUSTFLAGS"));
            cargo.env("CARGO_ENCODED_RUSTFLAGS", joined(encoded.as_deref(), plain.as_deref(), &self.flags));
        }
        tools::run(&mut cargo)?;
        Ok(program_in(&self.directory, self.host))
    }
}

fn program_in(directory: &Path, host: &str) -> PathBuf {
    directory.join(host).join("release").join(PROGRAM)
}

/// The flags of `CARGO_ENCODED_RUSTFLAGS`, or else of `RUSTFLAGS`, and ours, as the former has them: a path among them may hold blanks.
fn joined(encoded: Option<&str>, plain: Option<&str>, ours: &[String]) -> String {
    let theirs: Vec<&str> = match encoded {
        Some(encoded) => encoded.split('\x1f').collect(),
        None => plain.unwrap_or_default().split_whitespace().collect(),
    };
    theirs.into_iter().chain(ours.iter().map(String::as_str)).collect::<Vec<_>>().join("\x1f")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_come_after_the_flags_of_whoever_builds() {
        let ours = ["-Cprofile-use=/a b/c".to_owned()];
        assert_eq!(joined(None, None, &ours), "-Cprofile-use=/a b/c");
        assert_eq!(joined(None, Some(" -Ca  -C b"), &ours), "-Ca\x1f-C\x1fb\x1f-Cprofile-use=/a b/c");
        assert_eq!(joined(Some("-Ca=b c"), Some("-Cd"), &ours), "-Ca=b c\x1f-Cprofile-use=/a b/c");
    }

    #[test]
    fn the_program_is_where_cargo_puts_it_for_a_named_target() {
        let path = program_in(Path::new("/t"), "x86_64-unknown-linux-gnu");
        assert_eq!(path, Path::new("/t/x86_64-unknown-linux-gnu/release/towline"));
    }
}
