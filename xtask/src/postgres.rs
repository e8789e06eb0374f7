//! A PostgreSQL cluster for one run of the tests: its own data directory, port and password, gone when it is dropped.

use std::{
    ffi::OsStr,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{Read, Write},
    net::TcpListener,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::tools;

/// Durability is what tests do not need, and what makes a cluster slow.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 300
shared_buffers = 64MB
fsync = off
synchronous_commit = off
full_page_writes = off
log_min_messages = warning
";

/// A running cluster. Dropping it stops it and removes its data.
pub struct Cluster {
    directory: PathBuf,
    account: Option<Account>,
    url: String,
}

impl Cluster {
    /// Makes a cluster and starts it, in a directory of this name. One that a killed run has left there is stopped first.
    ///
    /// # Errors
    /// When PostgreSQL's programs are missing or fail; the error holds what they said.
    pub fn start(name: &str) -> Result<Self> {
        let account = if tools::is_root() { Some(Account::named("postgres")?) } else { None };
        let directory = usable_directory(name, account.as_ref())?;
        let password = random_hex()?;
        let port = free_port()?;
        let url = format!("postgres://postgres:{password}@127.0.0.1:{port}/postgres");
        let cluster = Self { directory, account, url };
        cluster.initialise(&password, port)?;
        cluster.control(&["start", "-w", "-t", "60", "-l", &cluster.log().to_string_lossy()]).with_context(|| {
            let log = fs::read_to_string(cluster.log()).unwrap_or_default();
            format!("PostgreSQL does not start:\n{log}")
        })?;
        Ok(cluster)
    }

    /// `postgres://…` of a superuser who may create databases.
    pub fn url(&self) -> &str {
        &self.url
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    fn initialise(&self, password: &str, port: u16) -> Result<()> {
        let password_file = self.directory.join("password");
        fs::write(&password_file, password)?;
        self.give(&password_file)?;
        let mut initdb = self.command("initdb")?;
        initdb.arg("-D").arg(self.data()).arg("--pwfile").arg(&password_file);
        initdb.args(["-U", "postgres", "--auth=scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"]);
        tools::output(&mut initdb)?;
        fs::remove_file(&password_file)?;
        let mut settings = fs::OpenOptions::new().append(true).open(self.data().join("postgresql.conf"))?;
        writeln!(settings, "{SETTINGS}port = {port}")?;
        Ok(())
    }

    fn give(&self, path: &Path) -> Result<()> {
        match &self.account {
            Some(account) => {
                chown(path, Some(account.uid), Some(account.gid)).context("cannot give a file to postgres")
            }
            None => Ok(()),
        }
    }

    fn control(&self, arguments: &[&str]) -> Result<()> {
        let status = self.command("pg_ctl")?.arg("-s").arg("-D").arg(self.data()).args(arguments).status()?;
        if !status.success() {
            bail!("pg_ctl {} ended with {status}", arguments.join(" "));
        }
        Ok(())
    }

    fn command(&self, program: &str) -> Result<Command> {
        let path = tools::find(program).with_context(|| format!("{program} of PostgreSQL is missing"))?;
        Ok(as_account(self.account.as_ref(), path.as_os_str()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.data().join("postmaster.pid").exists() {
            let _ = self.control(&["stop", "-w", "-m", "immediate"]);
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The system account that PostgreSQL runs as: it refuses to run as root.
#[derive(Clone, Copy)]
struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    fn named(name: &str) -> Result<Self> {
        let accounts = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
        let fields = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == name);
        let numbers = fields.and_then(|fields| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)));
        let (uid, gid) = numbers.with_context(|| format!("there is no account `{name}`: is PostgreSQL installed?"))?;
        Ok(Self { uid, gid })
    }
}

fn as_account(account: Option<&Account>, program: &OsStr) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/");
    if let Some(account) = account {
        command.uid(account.uid).gid(account.gid);
    }
    command
}

/// An empty directory that the account can use: below `target/`, or in the temporary directory when the account cannot
/// get to the repository (a clone in root's home).
fn usable_directory(name: &str, account: Option<&Account>) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    tools::target().hash(&mut hasher);
    let elsewhere = std::env::temp_dir().join(format!("towline-{name}-{:016x}", hasher.finish()));
    for directory in [tools::target().join(name), elsewhere] {
        // What a killed run has left behind is stopped and removed by the drop.
        drop(Cluster { directory: directory.clone(), account: account.copied(), url: String::new() });
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        if let Some(account) = account {
            chown(&directory, Some(account.uid), Some(account.gid))?;
        }
        let mut test = as_account(account, OsStr::new("test"));
        if test.arg("-w").arg(&directory).status()?.success() {
            return Ok(directory);
        }
    }
    bail!("found no directory that the account `postgres` may write to")
}

fn random_hex() -> Result<String> {
    let mut bytes = [0u8; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A port that was free a moment ago. Nothing holds it until PostgreSQL takes it; if somebody else does first, the start
/// fails and says so.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_takes_connections_and_leaves_nothing() {
        tools::find("initdb").expect("PostgreSQL is missing: run `cargo xtask test`, which installs it");
        let cluster = Cluster::start("postgres-of-xtask").unwrap();
        let psql = |url: &str| tools::output(Command::new("psql").args([url, "-Atc", "SELECT 6 * 7"]));
        assert_eq!(psql(cluster.url()).unwrap().trim(), "42");
        // Without the password there is no way in.
        assert!(psql(&cluster.url().replace("postgres://postgres:", "postgres://postgres:x")).is_err());
        let (url, directory) = (cluster.url().to_owned(), cluster.directory.clone());
        drop(cluster);
        assert!(psql(&url).is_err() && !directory.exists());
    }
}
