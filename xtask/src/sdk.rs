//! What the end-to-end tests run of others: the official `openai` and `anthropic` packages of PyPI and npm, a mail server (`aiosmtpd`,
//! PyPI), an OpenID Connect provider (`oidc-provider`, npm), an API tester (`schemathesis`, PyPI), and what makes and compiles a typed
//! client (`openapi-typescript`, `openapi-fetch`, `typescript`, npm), in the versions that `crates/e2e/sdk` pins, below `target/sdk`.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

use crate::tools;

/// Installs the packages, unless that is already done with the same pins.
///
/// # Errors
/// When an installer fails; what it said is on stderr.
pub fn provision() -> Result<()> {
    let pins = tools::root().join("crates/e2e/sdk");
    let sdk = tools::target().join("sdk");
    let python = tools::output(Command::new("python3").arg("--version"))?;
    unless_done(&sdk.join("python"), &[&pins.join("requirements.txt")], &python, |directory| {
        tools::step("installing the packages of PyPI: vendors' clients, a mail server, an API tester");
        tools::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(directory))?;
        let pip = directory.join("bin/pip");
        tools::run(Command::new(pip).args(["install", "--quiet", "-r"]).arg(pins.join("requirements.txt")))
    })?;
    let locked = [&*pins.join("package.json"), &*pins.join("package-lock.json")];
    let node = tools::output(Command::new("node").arg("--version"))?;
    unless_done(&sdk.join("node"), &locked, &node, |directory| {
        tools::step("installing the packages of npm: vendors' clients, an identity provider, a typed client's tools");
        for file in locked {
            fs::copy(file, directory.join(file.file_name().expect("both are files")))?;
        }
        let npm = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"];
        tools::run(Command::new("npm").args(npm).current_dir(directory))
    })
}

/// Fills a directory by `install` and notes in it what from; does nothing when the note says that it was the same.
fn unless_done(
    directory: &Path,
    sources: &[&Path],
    runtime: &str,
    install: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let mut wanted = runtime.to_owned();
    for source in sources {
        wanted += &fs::read_to_string(source).with_context(|| format!("cannot read {}", source.display()))?;
    }
    let note = directory.join("installed-from");
    if fs::read_to_string(&note).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    let _ = fs::remove_dir_all(directory);
    fs::create_dir_all(directory)?;
    install(directory)?;
    fs::write(note, wanted).context("cannot note what was installed")
}
