//! What `towline server` and `towline up` share: the settings of a server, and starting one.

mod certificate;
mod settings;

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use tokio::net::TcpListener;
use towline_control::{Bootstrap, Server, ServerConfig};
use towline_model::{Secret, SystemClock};
use towline_tunnel::Workers;
use url::Url;

pub use self::settings::{SecretsKeyArgs, ServeArgs};
use crate::{client, cmd::Context, failure::Failure};

/// A server that runs, and what belongs to its process.
pub struct Started {
    /// The server.
    pub server: Server,
    /// Where its state is.
    pub data_dir: PathBuf,
    /// Whether this start made the first owner, team and keys.
    pub is_first: bool,
    /// The threads that carry its connections.
    pub workers: Workers,
    _lock: File,
}

impl Started {
    /// What the first start made, as far as its file is still there.
    pub fn bootstrap(&self) -> Option<&Bootstrap> {
        self.server.bootstrap()
    }

    /// Where the file of the first start is, or was.
    pub fn bootstrap_path(&self) -> PathBuf {
        client::bootstrap::Bootstrap::path(&self.data_dir)
    }

    /// The address that is listened on, as this machine reaches it.
    pub fn loopback_addr(&self) -> SocketAddr {
        let addr = self.server.addr();
        let ip = match addr.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        SocketAddr::new(ip, addr.port())
    }

    /// Where other machines reach the server, as far as this one can tell.
    pub fn url_for_others(&self, public_url: Option<&Url>) -> String {
        let addr = self.server.addr();
        match public_url {
            None if addr.ip().is_unspecified() => {
                let ip = outward_address(addr.ip()).unwrap_or(addr.ip());
                format!("http://{}", SocketAddr::new(ip, addr.port()))
            }
            _ => self.server.url().to_owned(),
        }
    }
}

/// Starts a server: locks its data directory, listens, opens its database.
///
/// # Errors
/// When another one uses the directory or the port, or the database cannot be opened.
pub async fn start(
    args: &ServeArgs,
    database_url: Option<Secret<String>>,
    bootstrap: bool,
    context: &Context,
) -> Result<Started, Failure> {
    let data_dir = args.data_dir.clone().unwrap_or_else(|| context.environment.data_dir());
    let lock = lock(&data_dir)?;
    let listener = TcpListener::bind(args.listen).await.map_err(|error| cannot_listen(args.listen, &error))?;
    let metrics = match args.metrics_listen {
        Some(addr) => Some(TcpListener::bind(addr).await.map_err(|error| cannot_listen(addr, &error))?),
        None => None,
    };
    let path = client::bootstrap::Bootstrap::path(&data_dir);
    let was_there = path.exists();
    let mut config = ServerConfig { bootstrap, ..args.config(&data_dir, database_url)? };
    let workers = workers(args.busy_poll)?;
    config.gateway.workers = workers.clone();
    let started = Box::pin(Server::start(config, listener, Arc::new(SystemClock))).await;
    let mut server = started.map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    if let Some(listener) = metrics {
        if let Ok(addr) = listener.local_addr() {
            tracing::info!("serving metrics at http://{addr}/metrics");
        }
        server.serve_metrics(listener);
    }
    let is_first = !was_there && server.bootstrap().is_some();
    Ok(Started { server, data_dir, is_first, workers, _lock: lock })
}

/// A thread for each core that this process may use, to carry bytes. It may look for more for so long before it sleeps.
///
/// # Errors
/// When the machine has no threads left.
pub fn workers(busy_poll: Duration) -> Result<Workers, Failure> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    Workers::start(cores, busy_poll).map_err(|error| Failure::io("cannot start the worker threads", &error))
}

/// Keeps other servers, and commands that need the server stopped, from a data directory: two servers would both decide
/// what runs.
///
/// # Errors
/// When another process uses the directory, or it cannot be made.
pub fn lock(data_dir: &Path) -> Result<File, Failure> {
    let cannot = |error: &io::Error| {
        Failure::io(format!("cannot use the data directory {}", data_dir.display()), error)
            .hint("choose another with --data-dir")
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(|error| cannot(&error))?;
    let open =
        OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(data_dir.join("server.lock"));
    let file = open.map_err(|error| cannot(&error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Failure::new(format!("another towline server uses the data directory {}", data_dir.display()))
                .hint("end it, or choose another directory with --data-dir"))
        }
        Err(TryLockError::Error(error)) => Err(cannot(&error)),
    }
}

fn cannot_listen(addr: SocketAddr, error: &io::Error) -> Failure {
    let failure = Failure::new(format!("cannot listen on {addr}: {error}"));
    match error.kind() {
        io::ErrorKind::AddrInUse => failure.hint(format!(
            "something listens there already; choose another port, or a free one with --listen {}:0",
            addr.ip()
        )),
        io::ErrorKind::AddrNotAvailable => failure.hint("this machine does not have that address"),
        io::ErrorKind::PermissionDenied => failure.hint("ports below 1024 need a privilege; choose a higher one"),
        _ => failure,
    }
}

/// The address of this machine that its packets to elsewhere bear. Nothing is sent to find out.
fn outward_address(like: IpAddr) -> Option<IpAddr> {
    // Addresses of documentation (RFC 5737, RFC 3849): routed like any other, owned by nobody.
    let (from, to) = if like.is_ipv4() { ("0.0.0.0:0", "192.0.2.1:9") } else { ("[::]:0", "[2001:db8::1]:9") };
    let socket = UdpSocket::bind(from).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(&dir.path().join("data")).unwrap();
        let failure = lock(&dir.path().join("data")).unwrap_err();
        assert!(failure.message().starts_with("another towline server uses"), "{failure}");
        drop(held);
        lock(&dir.path().join("data")).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let failure = lock(&dir.path().join("file")).unwrap_err();
        assert_eq!(failure.hint_text(), Some("choose another with --data-dir"));
    }
}
