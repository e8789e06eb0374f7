//! TCP: every address of a name gets its chance, and a dead peer is noticed.

use std::{io, net::SocketAddr, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use towline_tunnel::tcp;

use super::ConnectError;

/// The next address is tried beside the ones before it after so long (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);
/// Connects to the first address that answers.
pub(crate) async fn connect(addresses: &[SocketAddr], deadline: Duration) -> Result<TcpStream, ConnectError> {
    let mut waiting = addresses.iter().copied();
    let mut attempts = FuturesUnordered::new();
    let mut last = None;
    loop {
        let stagger = if attempts.is_empty() { Duration::ZERO } else { STAGGER };
        let more = waiting.len() > 0;
        if !more && attempts.is_empty() {
            return Err(last.unwrap_or(ConnectError::Timeout("TCP")));
        }
        tokio::select! {
            biased;
            Some(outcome) = attempts.next(), if !attempts.is_empty() => match outcome {
                Ok(socket) => return Ok(socket),
                Err(error) => last = Some(error),
            },
            () = sleep(stagger), if more => attempts.extend(waiting.next().map(|address| attempt(address, deadline))),
        }
    }
}

async fn attempt(address: SocketAddr, deadline: Duration) -> Result<TcpStream, ConnectError> {
    let failed = |source| ConnectError::Connect { address, source };
    let socket = timeout(deadline, TcpStream::connect(address)).await;
    let socket = socket.map_err(|_| failed(io::ErrorKind::TimedOut.into()))?.map_err(failed)?;
    tune(&socket).map_err(failed)?;
    Ok(socket)
}

fn tune(socket: &TcpStream) -> io::Result<()> {
    tcp::tune(socket)?;
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::tests::closed_port;

    #[tokio::test]
    async fn an_address_that_refuses_leaves_the_chance_to_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let (_held, closed) = closed_port();
        let socket = connect(&[closed, good], Duration::from_secs(5)).await.unwrap();
        assert_eq!(socket.peer_addr().unwrap(), good);
        assert!(socket.nodelay().unwrap());
        let error = connect(&[closed], Duration::from_secs(5)).await.unwrap_err();
        assert!(error.to_string().contains(&closed.to_string()), "{error}");
    }
}
