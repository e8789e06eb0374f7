//! Files that only this user may read, written whole or not at all.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Makes a directory that only this user may enter. One that is there is left as it is.
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// A file that is written and not yet in place.
#[derive(Debug)]
pub(crate) struct Staged {
    staged: PathBuf,
    target: PathBuf,
}

impl Staged {
    /// Where a file waits before it is in place.
    pub(crate) fn path_for(target: &Path) -> PathBuf {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        target.with_file_name(name)
    }

    /// Writes a file beside its place, safe from a loss of power.
    pub(crate) fn write(target: &Path, content: &[u8]) -> io::Result<Self> {
        let staged = Self::path_for(target);
        // One that was left behind could have other permissions.
        match fs::remove_file(&staged) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?;
        file.write_all(content)?;
        file.sync_all()?;
        Ok(Self { staged, target: target.to_owned() })
    }

    /// Puts it in its place, over whatever is there.
    pub(crate) fn publish(self) -> io::Result<()> {
        fs::rename(&self.staged, &self.target)?;
        let directory = self.target.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }
}

/// Writes a file whole or not at all.
pub(crate) fn write(target: &Path, content: &[u8]) -> io::Result<()> {
    Staged::write(target, content)?.publish()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_private_and_replaced_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        fs::write(Staged::path_for(&path), "left behind").unwrap();
        write(&path, b"one").unwrap();
        let staged = Staged::write(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        staged.publish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
