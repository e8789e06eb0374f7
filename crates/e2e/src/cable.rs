//! A TCP connection that can be cut: a forwarder on loopback that an agent dials instead of the server.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

/// What happens on the cable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Bytes flow.
    Whole,
    /// Connections are reset, and new ones are ended at once.
    Cut,
    /// Nothing flows and nothing ends: the other side is not there any more and nobody says so.
    Silent,
}

/// A cable to an address. Dropping it ends everything on it.
#[derive(Debug)]
pub struct Cable {
    address: SocketAddr,
    state: Arc<watch::Sender<State>>,
    _tasks: JoinSet<()>,
}

impl Cable {
    /// Lays a cable to an address.
    ///
    /// # Panics
    /// When loopback has no free port.
    pub async fn to(target: SocketAddr) -> Self {
        Self::with_lifetime(target, Duration::MAX).await
    }

    /// The same, which ends every connection when it is so old, whatever flows on it.
    ///
    /// # Panics
    /// When loopback has no free port.
    pub async fn with_lifetime(target: SocketAddr, lifetime: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port of loopback");
        let address = listener.local_addr().expect("a listener has an address");
        let state = Arc::new(watch::Sender::new(State::Whole));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, target, lifetime, state.subscribe()));
        Self { address, state, _tasks: tasks }
    }

    /// The URL at this end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Resets every connection and lets no new one through.
    pub fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    /// Lets nothing through any more, and tells nobody.
    pub fn silence(&self) {
        self.state.send_replace(State::Silent);
    }

    /// Lets new connections through. Those that were silent go on.
    pub fn mend(&self) {
        self.state.send_replace(State::Whole);
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, lifetime: Duration, state: watch::Receiver<State>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((near, _)) = listener.accept().await else { return };
        while connections.try_join_next().is_some() {}
        let flow = forward(near, target, state.clone());
        connections.spawn(async move { drop(timeout(lifetime, flow).await) });
    }
}

async fn forward(mut near: TcpStream, target: SocketAddr, mut state: watch::Receiver<State>) {
    if state.wait_for(|state| *state != State::Silent).await.is_err() || *state.borrow() == State::Cut {
        return;
    }
    let Ok(mut far) = TcpStream::connect(target).await else { return };
    let mut watched = state.clone();
    let mut flow = Box::pin(copy_bidirectional(&mut near, &mut far));
    loop {
        // While the cable is silent the flow is not polled: bytes stay where they are.
        let is_silent = *watched.borrow_and_update() == State::Silent;
        tokio::select! {
            _ = &mut flow, if !is_silent => return,
            changed = watched.changed() => if changed.is_err() { return },
        }
        if *watched.borrow() == State::Cut {
            break;
        }
    }
    drop(flow);
    // Both ends see a reset.
    for socket in [near, far] {
        let _ = socket.set_zero_linger();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_flow_until_it_is_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cable = Cable::to(listener.local_addr().unwrap()).await;
        let mut near = TcpStream::connect(cable.address).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        near.write_all(b"a").await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), b'a');
        cable.cut();
        assert!(near.read_u8().await.is_err() && far.read_u8().await.is_err());
        let mut refused = TcpStream::connect(cable.address).await.unwrap();
        assert!(refused.read_u8().await.is_err());
        cable.mend();
        let mut near = TcpStream::connect(cable.address).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        far.write_all(b"b").await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), b'b');
    }
}
