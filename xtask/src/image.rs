//! `cargo xtask image`: the demo service as one static program in an image with nothing else in it.
//!
//! The image is put together here and loaded over the engine's API: no base image, no network, no builder. The same program always makes
//! the same image, so that a second run changes nothing.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::archive::{Archive, EXECUTABLE, PLAIN};
use crate::engine;
use crate::tools::{self, step};

/// The image's name and tag.
pub const NAME: &str = "towline-demo:latest";

const PROGRAM: &str = "towline-demo";

/// An image in the engine.
#[derive(Debug)]
pub struct Image {
    /// The engine's id of it.
    pub id: String,
}

/// Builds the program and the image, and loads it into the engine.
///
/// # Errors
/// When there is no engine, the program does not build or is not static, or the engine does not take the image.
pub fn build() -> Result<Image> {
    let engine = engine::ensure()?;
    let archive = archive()?;
    step(&format!("loading {NAME} ({} KiB) into {}", archive.len() / 1024, engine.version));
    engine.load_image(&archive)?;
    let loaded =
        engine.inspect_image(NAME)?.with_context(|| format!("the engine took the image, but has no {NAME}"))?;
    Ok(Image { id: loaded["Id"].as_str().unwrap_or_default().to_owned() })
}

/// Builds the program and the image, as `docker save` would write it.
///
/// # Errors
/// When the program does not build or is not static.
pub fn archive() -> Result<Vec<u8>> {
    let program = build_program()?;
    let binary = std::fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    ensure_static(&binary).with_context(|| format!("{} would not start in an empty image", program.display()))?;
    image_archive(&binary)
}

/// A static program needs the C library as an archive, which glibc has on most systems. The target is named, though it is the host's own,
/// so that cargo does not build procedural macros with the same flags; and it has a directory of its own, so that nothing else is rebuilt.
fn build_program() -> Result<PathBuf> {
    if !cfg!(target_os = "linux") {
        bail!(
            "the image holds a Linux program, which is built on Linux only: run `cargo xtask image` in a Linux machine that shares this engine"
        );
    }
    let target = tools::host()?;
    let directory = tools::target().join("static");
    step(&format!("building {PROGRAM} as a static program"));
    let mut build = tools::cargo();
    build.args(["build", "--release", "--package", PROGRAM, "--bin", PROGRAM, "--target", &target]);
    build.arg("--target-dir").arg(&directory);
    // On a terminal cargo shows how far it is; elsewhere it would print a line for each crate.
    if !std::io::stderr().is_terminal() {
        build.arg("--quiet");
    }
    // This variable wins over the caller's flags for the same and over the configuration.
    build.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    build.env("CARGO_PROFILE_RELEASE_DEBUG", "false").env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    let status = build.status().context("cannot run cargo")?;
    ensure!(status.success(), "the static build failed ({status}). {STATIC_LIBRARY}");
    Ok(directory.join(target).join("release").join(PROGRAM))
}

const STATIC_LIBRARY: &str =
    "If the linker misses `-lc`, install the C library's archive: libc6-dev on Debian, glibc-static on Fedora";

/// Looks for the request for a dynamic loader, which an empty image does not have. Without this the only sign is "no such file" at the start.
fn ensure_static(elf: &[u8]) -> Result<()> {
    const PT_INTERP: u32 = 3;
    let number = |at: usize, length: usize| -> Option<u64> {
        let bytes = elf.get(at..at + length)?;
        Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    ensure!(elf.starts_with(b"\x7fELF\x02\x01"), "it is no 64-bit little-endian ELF file");
    let fields = (number(32, 8), number(54, 2), number(56, 2));
    let (Some(offset), Some(size), Some(count)) = fields else { bail!("its head is cut off") };
    for index in 0..count {
        let at = usize::try_from(offset + index * size)?;
        ensure!(number(at, 4) != Some(u64::from(PT_INTERP)), "it is linked dynamically");
    }
    Ok(())
}

/// The image: one layer, its description, and a list of both.
fn image_archive(binary: &[u8]) -> Result<Vec<u8>> {
    let mut layer = Archive::default();
    layer.add(PROGRAM, EXECUTABLE, binary);
    let layer = layer.finish();
    let config = image_config(&layer)?.to_string();
    let config_name = format!("{}.json", hex_sha256(config.as_bytes()));
    let manifest = json!([{ "Config": config_name, "RepoTags": [NAME], "Layers": ["layer.tar"] }]);

    let mut image = Archive::default();
    image.add("layer.tar", PLAIN, &layer);
    image.add(&config_name, PLAIN, config.as_bytes());
    image.add("manifest.json", PLAIN, manifest.to_string().as_bytes());
    Ok(image.finish())
}

fn image_config(layer: &[u8]) -> Result<serde_json::Value> {
    // A date would make every build another image.
    let created = "1970-01-01T00:00:00Z";
    Ok(json!({
        "architecture": architecture()?,
        "os": "linux",
        "created": created,
        "config": {
            "Entrypoint": [format!("/{PROGRAM}")],
            "ExposedPorts": { "8080/tcp": {} },
            "User": "65534:65534",
            "WorkingDir": "/",
            "Labels": {
                "org.opencontainers.image.title": PROGRAM,
                "org.opencontainers.image.description": "The demo service of Towline",
                "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
            },
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex_sha256(layer))] },
        "history": [{ "created": created, "created_by": "cargo xtask image" }],
    }))
}

/// The name that images have for the processor that this was built for.
fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("images for {other} are not supported"),
    }
}

fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_program_itself_is_dynamic() {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let error = ensure_static(&program).unwrap_err().to_string();
        assert_eq!(error, "it is linked dynamically");
        assert!(ensure_static(b"#!/bin/sh").is_err());
        assert!(ensure_static(b"\x7fELF\x02\x01").is_err());
    }

    #[test]
    fn the_same_program_makes_the_same_image() {
        assert_eq!(image_archive(b"program").unwrap(), image_archive(b"program").unwrap());
        assert_ne!(image_archive(b"program").unwrap(), image_archive(b"another").unwrap());
    }
}
