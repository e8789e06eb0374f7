//! Whether anybody is still at the other end: one that has said nothing for a while is pinged (RFC 9113 §6.7), and has gone
//! when nothing at all comes back.
//!
//! Anything that is heard counts, not only the answer to the ping: that one waits behind what the caller has to send. Whoever says
//! something after a ping is as one that was never asked, also when the ping is not answered.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

use super::signs::Signs;

/// What asks a silent caller whether it is there.
pub(super) struct KeepAlive {
    pings: PingPong,
    signs: Arc<Signs>,
    /// How long a caller may say nothing before it is pinged.
    silence: Duration,
    /// How long it may go on saying nothing then.
    patience: Duration,
    /// Whether it is to say something now.
    asked: bool,
    next_look: Pin<Box<Sleep>>,
}

impl KeepAlive {
    pub(super) fn new((pings, signs): (PingPong, Arc<Signs>), silence: Duration, patience: Duration) -> Self {
        Self { pings, signs, silence, patience, asked: false, next_look: Box::pin(sleep(silence)) }
    }

    /// Ready when nobody is there.
    pub(super) fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.next_look.as_mut().poll(cx));
            let is_silent = !self.signs.take_heard();
            if self.asked && is_silent {
                return Poll::Ready(());
            }
            if is_silent {
                // There is one at a time. It fails when the last was not answered, which then asks on, and when the connection is
                // over, which is noticed elsewhere.
                let _ = self.pings.poll_pong(cx);
                let _ = self.pings.send_ping(Ping::opaque());
            }
            self.asked = is_silent;
            let wait = if self.asked { self.patience } else { self.silence };
            self.next_look.as_mut().reset(Instant::now() + wait);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::{super::signs::Watched, *};

    const SILENCE: Duration = Duration::from_secs(30);
    const PATIENCE: Duration = Duration::from_secs(20);
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    /// For the connection, by 1.
    const WINDOW_UPDATE: &[u8] = &[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1];

    /// What a caller does while its connection is kept.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Does {
        Nothing,
        /// It answers pings.
        Answers,
        /// It sends something else, so often.
        Speaks(Duration),
    }

    async fn caller(mut io: DuplexStream, does: Does) {
        io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        io.write_all(SETTINGS).await.unwrap();
        if let Does::Speaks(pause) = does {
            loop {
                sleep(pause).await;
                io.write_all(WINDOW_UPDATE).await.unwrap();
            }
        }
        loop {
            let mut head = [0; 9];
            io.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; usize::from(head[2])];
            io.read_exact(&mut payload).await.unwrap();
            if does == Does::Answers && head[3] == 6 {
                head[4] = 1;
                io.write_all(&[&head[..], &payload].concat()).await.unwrap();
            }
        }
    }

    /// How long a caller is waited for, an hour at most.
    async fn kept(does: Does) -> Duration {
        let (io, other) = duplex(1 << 10);
        let signs = Arc::new(Signs::default());
        let served = async {
            let mut conn = h2::server::handshake(Watched::new(io, Arc::clone(&signs))).await.unwrap();
            let mut keep_alive = KeepAlive::new((conn.ping_pong().unwrap(), Arc::clone(&signs)), SILENCE, PATIENCE);
            poll_fn(|cx| {
                assert!(conn.poll_accept(cx).is_pending(), "the connection goes on");
                keep_alive.poll_silent(cx)
            })
            .await;
        };
        let began = Instant::now();
        tokio::select! {
            () = served => {}
            () = caller(other, does) => {}
            () = sleep(Duration::from_secs(3600)) => {}
        }
        Duration::from_secs(began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_says_nothing_at_all_has_gone() {
        // Its first frames were heard at once: that is found at the first look.
        assert_eq!(kept(Does::Nothing).await, SILENCE * 2 + PATIENCE);
        assert_eq!(kept(Does::Answers).await, Duration::from_secs(3600));
        // Whoever says something within both of these counts as there, whether it answers pings or not.
        for pause in [1, 19, 29, 31, 35, 49] {
            let pause = Duration::from_secs(pause);
            assert_eq!(kept(Does::Speaks(pause)).await, Duration::from_secs(3600), "{pause:?}");
        }
        for pause in [81, 300] {
            let pause = Duration::from_secs(pause);
            assert!(kept(Does::Speaks(pause)).await < pause, "{pause:?}");
        }
    }
}
