//! Numbers of this machine of which a test wants one that no other test has at the same time: ports, networks.
//!
//! A port that was free a moment ago can be somebody else's when a program that cannot be given port 0 listens on it, or when a
//! server starts again. A claimed one cannot: it is outside of the range from which the system gives ports to whoever asks for any,
//! and no two tests claim the same.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    ops::Range,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr as LockName, UnixListener},
    },
};

use rand::RngExt as _;

/// Below the ephemeral ports, which begin at 32768 (`net.ipv4.ip_local_port_range`).
const PORTS: Range<u16> = 20_000..32_000;

/// A number that nobody else claims as long as this lives, not even another process.
#[derive(Debug)]
pub struct Claim {
    number: u16,
    /// A name of which there is one on the machine, and that is gone with the process.
    _lock: UnixListener,
}

impl Claim {
    /// Claims a number of this range for this purpose.
    ///
    /// # Panics
    /// When all of them are taken.
    #[must_use]
    pub fn one_of(purpose: &str, range: Range<u16>) -> Self {
        Self::first(purpose, range, |_| true)
    }

    /// Claims a port of loopback that nobody listens on.
    ///
    /// # Panics
    /// When all of them are taken.
    #[must_use]
    pub fn port() -> Self {
        Self::first("port", PORTS, |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
    }

    fn first(purpose: &str, range: Range<u16>, is_free: impl Fn(u16) -> bool) -> Self {
        let start = rand::rng().random_range(range.clone());
        let mut numbers = (start..range.end).chain(range.start..start);
        let claimed = numbers.find_map(|number| {
            let name = LockName::from_abstract_name(format!("towline-test/{purpose}/{number}")).ok()?;
            let lock = UnixListener::bind_addr(&name).ok()?;
            is_free(number).then_some(Self { number, _lock: lock })
        });
        claimed.unwrap_or_else(|| panic!("every {purpose} from {} to {} is taken", range.start, range.end))
    }

    /// The number.
    #[must_use]
    pub const fn number(&self) -> u16 {
        self.number
    }

    /// The address of loopback with it as the port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}

#[cfg(test)]
mod tests {
    use super::Claim;

    #[test]
    fn what_is_claimed_is_nobody_elses_until_it_is_given_back() {
        let purpose = format!("test of {}", std::process::id());
        let two = [(); 2].map(|()| Claim::one_of(&purpose, 7..9));
        let mut numbers = two.each_ref().map(Claim::number);
        numbers.sort_unstable();
        assert_eq!(numbers, [7, 8]);
        let given_back = two[0].number();
        drop(two.into_iter().next());
        assert_eq!(Claim::one_of(&purpose, given_back..given_back + 1).number(), given_back);
    }

    #[test]
    fn a_port_can_be_listened_on_again_and_again() {
        let port = Claim::port();
        for _ in 0..2 {
            std::net::TcpListener::bind(port.address()).unwrap();
        }
    }
}
