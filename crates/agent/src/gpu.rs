//! How many NVIDIA GPUs containers of this machine can be given. Other vendors' are not counted yet.

use std::{ffi::OsStr, fs, path::Path, process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

/// `nvidia-smi` wakes the driver, which takes seconds on a cold machine.
const SMI_DEADLINE: Duration = Duration::from_secs(10);

/// Counts the GPUs: what the driver lists, else what `nvidia-smi` lists (WSL has no list of the driver), else none.
pub async fn count() -> u32 {
    match count_listed(Path::new("/proc/driver/nvidia/gpus")) {
        0 => count_by_smi().await,
        listed => listed,
    }
}

fn count_listed(directory: &Path) -> u32 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    u32::try_from(entries.filter_map(Result::ok).count()).unwrap_or(u32::MAX)
}

async fn count_by_smi() -> u32 {
    let mut command = Command::new(OsStr::new("nvidia-smi"));
    command.arg("-L").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    match timeout(SMI_DEADLINE, command.output()).await {
        Ok(Ok(output)) if output.status.success() => count_lines(&String::from_utf8_lossy(&output.stdout)),
        _ => 0,
    }
}

fn count_lines(listing: &str) -> u32 {
    u32::try_from(listing.lines().filter(|line| line.starts_with("GPU ")).count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_counted_as_the_driver_lists_them() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(count_listed(&directory.path().join("absent")), 0);
        fs::create_dir(directory.path().join("0000:01:00.0")).unwrap();
        fs::create_dir(directory.path().join("0000:02:00.0")).unwrap();
        assert_eq!(count_listed(directory.path()), 2);
    }

    #[test]
    fn gpus_are_counted_as_nvidia_smi_lists_them() {
        let listing = "GPU 0: NVIDIA A100 (UUID: GPU-1)\n  MIG 1g.5gb\nGPU 1: NVIDIA A100 (UUID: GPU-2)\n";
        assert_eq!(count_lines(listing), 2);
        assert_eq!(count_lines("No devices were found\n"), 0);
    }
}
