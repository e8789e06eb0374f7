//! A slow and lossy link between this machine and a network namespace of its own, in which the origin and agents are.
//!
//! The kernel's own impairment (netem) is not in every kernel. So the link is a TUN device at each end, opened by socat, and
//! this process hands packets from one to the other, late, and some not at all.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::{net::UnixDatagram, runtime::Runtime, sync::mpsc, task::JoinSet, time::Instant};

use super::process::Running;
use crate::tools;

/// How long a packet is on its way, so that the round trip takes 40 ms.
pub const ONE_WAY: Duration = Duration::from_millis(20);
/// Of so many packets each way, one is lost.
pub const LOSS_ONE_IN: u64 = 200;
/// Packets on their way; what does not fit is lost, as in a router.
const QUEUE: usize = 4000;
/// The addresses of this side and the other.
const ADDRESSES: [&str; 2] = ["10.203.0.1", "10.203.0.2"];

/// A side of the link, or this machine when there is none.
#[derive(Debug, Clone)]
pub struct Place {
    /// The address that processes there listen on, and are reached by from the other side.
    pub address: &'static str,
    namespace: Option<String>,
}

impl Place {
    /// This machine by itself.
    pub const fn here() -> Self {
        Self { address: "127.0.0.1", namespace: None }
    }

    /// A command that runs there.
    pub fn command(&self, program: &Path) -> Command {
        let Some(name) = &self.namespace else { return Command::new(program) };
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{name}")).arg(program);
        command
    }
}

/// The link. Dropping it removes it with its namespace.
#[derive(Debug)]
pub struct Wan {
    /// Where callers, proxies and the gateway are: this machine.
    pub near: Place,
    /// Where the origin and agents are.
    pub far: Place,
    namespace: String,
    ends: Vec<Running>,
    _relays: JoinSet<()>,
}

impl Wan {
    /// Lays the link.
    ///
    /// # Errors
    /// When namespaces or TUN devices are not allowed here.
    pub fn lay(scratch: &Path, runtime: &Runtime) -> Result<Self> {
        fs::create_dir_all(scratch)?;
        let namespace = format!("towline-bench-{}", std::process::id());
        tools::output(Command::new("ip").args(["netns", "add", &namespace]))?;
        let near = Place { address: ADDRESSES[0], namespace: None };
        let far = Place { address: ADDRESSES[1], namespace: Some(namespace.clone()) };
        let mut wan = Self { near, far, namespace, ends: vec![], _relays: JoinSet::new() };
        tools::output(Command::new("ip").args(["-n", &wan.namespace, "link", "set", "lo", "up"]))?;
        let _entered = runtime.enter();
        let sides = [End::open(scratch, "near")?, End::open(scratch, "far")?];
        for (place, end) in [&wan.near, &wan.far].into_iter().zip(&sides) {
            let mut socat = place.command(Path::new("socat"));
            socat.arg(format!("TUN:{}/24,tun-type=tun,iff-no-pi,iff-up", place.address));
            socat.arg(format!("UNIX-SENDTO:{},bind={}", end.relay.display(), end.tun.display()));
            wan.ends.push(Running::start("link", &socat, &scratch.join("link.log"))?);
        }
        for (from, to, seed) in [(0, 1, 0x5eed_0001), (1, 0, 0x5eed_0002)] {
            let (from, to): (&End, &End) = (&sides[from], &sides[to]);
            wan._relays.spawn(relay(Arc::clone(&from.socket), Arc::clone(&to.socket), to.tun.clone(), seed));
        }
        wan.wait_until_up()?;
        Ok(wan)
    }

    #[expect(clippy::disallowed_methods, reason = "an interface comes up a moment after its program has started")]
    fn wait_until_up(&self) -> Result<()> {
        let sides = [(&self.near, &self.far), (&self.far, &self.near)];
        for _ in 0..100 {
            if sides.iter().all(|(place, other)| {
                let mut look = place.command(Path::new("ip"));
                tools::output(look.args(["route", "get", other.address])).is_ok_and(|route| route.contains("dev tun"))
            }) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let words: Vec<_> = self.ends.iter().map(Running::last_words).collect();
        bail!("the link to the namespace does not come up: {}", words.join("; "))
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        self.ends.clear();
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).output();
    }
}

/// One end of the link: the socket of this process, and the paths of it and of socat's.
struct End {
    socket: Arc<UnixDatagram>,
    relay: PathBuf,
    tun: PathBuf,
}

impl End {
    fn open(scratch: &Path, name: &str) -> Result<Self> {
        let [relay, tun] = ["relay", "tun"].map(|kind| scratch.join(format!("{name}.{kind}")));
        let _ = (fs::remove_file(&relay), fs::remove_file(&tun));
        let socket = Arc::new(UnixDatagram::bind(&relay).context("cannot make an end of the link")?);
        Ok(Self { socket, relay, tun })
    }
}

/// Hands packets on in their order, each after its time.
async fn relay(from: Arc<UnixDatagram>, to: Arc<UnixDatagram>, path: PathBuf, seed: u64) {
    let (sender, mut on_their_way) = mpsc::channel::<(Instant, Vec<u8>)>(QUEUE);
    let deliver = async {
        while let Some((at, packet)) = on_their_way.recv().await {
            tokio::time::sleep_until(at).await;
            let _ = to.send_to(&packet, &path).await;
        }
    };
    let take = async {
        let mut loss = Loss(seed);
        let mut buffer = vec![0; 65_536];
        while let Ok(length) = from.recv(&mut buffer).await {
            if !loss.next() {
                let _ = sender.try_send((Instant::now() + ONE_WAY, buffer[..length].to_vec()));
            }
        }
    };
    tokio::join!(deliver, take);
}

/// Which packets are lost: the same ones in every run (xorshift).
struct Loss(u64);

impl Loss {
    const fn next(&mut self) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.is_multiple_of(LOSS_ONE_IN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_percent_is_lost() {
        let mut loss = Loss(0x5eed_0001);
        let lost = (0..100_000).filter(|_| loss.next()).count();
        assert!((400..600).contains(&lost), "{lost}");
    }
}
