//! Options of the TCP connection under a session or a carrier. Both sides set the same.

#[cfg(target_os = "linux")]
use std::time::Duration;
use std::{io, os::fd::AsFd};

use socket2::SockRef;

/// The kernel gives a connection up whose bytes were not acknowledged for so long.
#[cfg(target_os = "linux")]
const USER_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes that may wait unsent in the kernel: more only delays what is urgent (pings, resets, small answers).
#[cfg(target_os = "linux")]
const NOTSENT_LOWAT: u32 = 128 << 10;

/// Sets `TCP_NODELAY`, and on Linux `TCP_USER_TIMEOUT`, `TCP_NOTSENT_LOWAT`, and BBR where the kernel has it.
///
/// # Errors
/// When the system refuses one of them. The connection can be used all the same.
pub fn tune(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    #[cfg(target_os = "linux")]
    {
        socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
        socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
        // It does not take each lost packet for a full path. Kernels without it refuse, and keep what they have.
        let _ = socket.set_tcp_congestion(b"bbr");
    }
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_connection_gets_its_options() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let socket = TcpStream::connect(listener.local_addr().expect("it is bound")).await.expect("it listens");
        tune(&socket).expect("Linux has them all");
        let set = SockRef::from(&socket);
        assert!(set.tcp_nodelay().expect("it can be asked"));
        assert_eq!(set.tcp_user_timeout().expect("it can be asked"), Some(USER_TIMEOUT));
        assert_eq!(set.tcp_notsent_lowat().expect("it can be asked"), NOTSENT_LOWAT);
    }
}
