//! Writes tar archives: a few files, no owner, no date, so that the same content is always the same bytes.

/// Mode of a program.
pub const EXECUTABLE: u32 = 0o755;

/// Mode of everything else.
pub const PLAIN: u32 = 0o644;

const BLOCK: usize = 512;

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Archive(Vec<u8>);

impl Archive {
    /// Adds a file. `name` is a path of at most 100 bytes.
    pub fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.0.extend_from_slice(&header(name, mode, content.len()));
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
    }

    /// The archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }
}

/// The header of the format `ustar`, for a regular file of the superuser.
fn header(name: &str, mode: u32, size: usize) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, &format!("{mode:07o}"));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{size:011o}"));
    put(136, "00000000000");
    // The checksum is taken with blanks in its own place.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    #[test]
    fn tar_reads_it() {
        let mut archive = Archive::default();
        archive.add("program", EXECUTABLE, &[b'x'; 1000]);
        archive.add("text.json", PLAIN, b"{}");
        let mut tar = Command::new("tar");
        let mut tar = tar.args(["-tvf", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        tar.stdin.take().unwrap().write_all(&archive.finish()).unwrap();
        let output = tar.wait_with_output().unwrap();
        let listing = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success());
        let lines: Vec<Vec<&str>> = listing.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!((lines[0][0], lines[0][2], lines[0][5]), ("-rwxr-xr-x", "1000", "program"));
        assert_eq!((lines[1][0], lines[1][2], lines[1][5]), ("-rw-r--r--", "2", "text.json"));
    }
}
