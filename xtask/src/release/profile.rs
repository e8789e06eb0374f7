//! The profile: how often each branch of the program was taken in training. It is kept for as long as the program that it was made from
//! stays the same, so that nothing is built anew when nothing has changed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::{Build, training};
use crate::tools::{self, find, step};

/// The profile as it was made, beside which it lies once more under a name of its own.
const MERGED: &str = "towline.profdata";

/// The profile of the code as it is, made if there is none yet.
///
/// # Errors
/// When something that is needed cannot be had, or the program does not compile or does not serve what it is trained with.
pub fn get(host: &str, retrain: bool) -> Result<PathBuf> {
    let llvm_profdata = llvm_profdata(host)?;
    let directory = tools::target().join("release-profile");
    let (raw, merged) = (directory.join("raw"), directory.join(MERGED));
    step("building towline with counters, for its profile (some minutes the first time)");
    let program = with_counters(host, &directory, &raw)?;
    if retrain || !is_newer(&merged, &program) {
        empty(&raw)?;
        training::train(&program, &directory.join("training"))?;
        merge(&llvm_profdata, &raw_profiles(&raw)?, &merged)?;
    }
    named(&merged)
}

/// Quicker to build without link-time optimisation, which comes after the counters have been placed. It is turned off by flags: by cargo's
/// profile it would change the names of all functions.
fn with_counters(host: &str, directory: &Path, raw: &Path) -> Result<PathBuf> {
    let generate = format!("-Cprofile-generate={}", raw.display());
    let flags = [generate.as_str(), "-Clto=off", "-Clinker-plugin-lto=no"];
    Build { host, directory: directory.to_owned(), flags: flags.map(str::to_owned).into() }.run()
}

/// The program that merges profiles. Only that of the same toolchain is sure to read what the program writes.
fn llvm_profdata(host: &str) -> Result<PathBuf> {
    let sysroot = tools::output(tools::rustc().args(["--print", "sysroot"]))?;
    let program = llvm_profdata_in(Path::new(sysroot.trim()), host);
    if program.exists() {
        return Ok(program);
    }
    let missing = || format!("{} is missing: install the llvm-tools of this Rust toolchain", program.display());
    let rustup = find("rustup").with_context(missing)?;
    step("installing llvm-tools, once");
    tools::run(Command::new(rustup).args(["component", "add", "llvm-tools"]).current_dir(tools::root()))
        .with_context(missing)?;
    ensure!(program.exists(), missing());
    Ok(program)
}

fn llvm_profdata_in(sysroot: &Path, host: &str) -> PathBuf {
    sysroot.join("lib/rustlib").join(host).join("bin/llvm-profdata")
}

/// Whether a file is there and was written after another.
fn is_newer(file: &Path, than: &Path) -> bool {
    matches!((modified(file), modified(than)), (Some(file), Some(than)) if file > than)
}

fn modified(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).and_then(|file| file.modified()).ok()
}

fn empty(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::create_dir_all(directory),
    }
    .with_context(|| format!("cannot empty {}", directory.display()))
}

/// What the processes of the training have written at their ends.
fn raw_profiles(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![];
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "profraw") {
            ensure!(fs::metadata(&path)?.len() > 0, "{} is empty: is the disk full?", path.display());
            found.push(path);
        }
    }
    ensure!(
        !found.is_empty(),
        "the training has written no profile into {}: see that LLVM_PROFILE_FILE is not set",
        directory.display()
    );
    Ok(found)
}

/// The old profile stays until the new one is whole.
fn merge(llvm_profdata: &Path, raw: &[PathBuf], merged: &Path) -> Result<()> {
    let unfinished = merged.with_extension("unfinished");
    tools::run(Command::new(llvm_profdata).arg("merge").arg("-o").arg(&unfinished).args(raw))?;
    fs::rename(&unfinished, merged).with_context(|| format!("cannot write {}", merged.display()))
}

/// The same profile under a name that changes with it: cargo compares flags, but not the files that they name, before it builds a
/// dependency anew. Profiles of earlier programs are removed.
fn named(merged: &Path) -> Result<PathBuf> {
    let content = fs::read(merged).with_context(|| format!("cannot read {}", merged.display()))?;
    let named = merged.with_file_name(name_for(&content));
    // A file that was written anew would be a reason to build anew.
    if fs::read(&named).ok().as_ref() != Some(&content) {
        remove_earlier(merged)?;
        fs::write(&named, content).with_context(|| format!("cannot write {}", named.display()))?;
    }
    Ok(named)
}

fn name_for(content: &[u8]) -> String {
    let digest: String = Sha256::digest(content).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("towline-{digest}.profdata")
}

fn remove_earlier(merged: &Path) -> Result<()> {
    let directory = merged.parent().context("the profile has no directory")?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with("towline-") && name.ends_with(".profdata")) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of a test's own.
    fn directory(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("xtask-release-{name}-{}", std::process::id()));
        empty(&directory).unwrap();
        directory
    }

    #[test]
    fn llvm_profdata_is_looked_for_in_the_toolchain() {
        let path = llvm_profdata_in(Path::new("/toolchain"), "x86_64-unknown-linux-gnu");
        assert_eq!(path, Path::new("/toolchain/lib/rustlib/x86_64-unknown-linux-gnu/bin/llvm-profdata"));
    }

    #[test]
    fn a_profile_has_one_name_for_as_long_as_it_is_the_same() {
        let directory = directory("named");
        let merged = directory.join(MERGED);
        fs::write(&merged, "abc").unwrap();
        let first = named(&merged).unwrap();
        assert_eq!(first, directory.join("towline-ba7816bf8f01cfea.profdata"));
        let written = modified(&first);
        assert_eq!(named(&merged).unwrap(), first);
        assert_eq!(modified(&first), written);

        fs::write(&merged, "abd").unwrap();
        let second = named(&merged).unwrap();
        assert_ne!(second, first);
        assert!(merged.exists() && second.exists() && !first.exists());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_profile_is_kept_while_it_is_newer_than_the_program() {
        let directory = directory("newer");
        let (merged, program) = (directory.join(MERGED), directory.join("towline"));
        let write = |path: &Path, seconds| {
            let file = fs::File::create(path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
        };
        write(&program, 1);
        assert!(!is_newer(&merged, &program));
        write(&merged, 2);
        assert!(is_newer(&merged, &program));
        write(&program, 3);
        assert!(!is_newer(&merged, &program));
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn profiles_that_are_missing_or_empty_are_an_error() {
        let directory = directory("raw");
        fs::write(directory.join("log"), "x").unwrap();
        assert!(raw_profiles(&directory).unwrap_err().to_string().contains("no profile"));
        fs::write(directory.join("a.profraw"), "x").unwrap();
        assert_eq!(raw_profiles(&directory).unwrap(), [directory.join("a.profraw")]);
        fs::write(directory.join("b.profraw"), "").unwrap();
        assert!(raw_profiles(&directory).unwrap_err().to_string().contains("b.profraw is empty"));
        fs::remove_dir_all(directory).unwrap();
    }
}
