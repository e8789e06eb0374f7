//! How a task that waits for several things leaves those alone that have nothing for it. To ask each of them again whenever one
//! has woken the task, and to be told once more that there is nothing, costs locks. It need not, as long as nothing has come
//! ([`is_quiet`], and [`TunnelStream::is_quiet`](crate::TunnelStream::is_quiet)) since it was asked and has noted whom to wake
//! ([`is_noted`]).

use std::{io, task::Poll};

use tokio::{io::Interest, net::TcpStream, task::coop::has_budget_remaining};

use crate::Workers;

/// Whether the system has told nothing of the connection that a read would find: it would wait for sure. Asks the runtime and
/// not the system, so it costs less than to read.
///
/// Only a worker's own connections are known so well ([`Workers`]): there, whoever hears from the system and the task that reads
/// are one thread. Elsewhere one thread may note that something has come and wake the task a moment later, when the task has read
/// it already and waits for more: that wake-up takes the place of the one that the task waits for. It has to ask again then.
#[must_use]
pub fn is_quiet(socket: &TcpStream) -> bool {
    let told = || socket.try_io(Interest::READABLE, || Ok(()));
    Workers::here().is_some() && told().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Whether what was polled just now has noted whom to wake: it had nothing, and it was asked. Nothing of tokio, and no
/// [`TunnelStream`](crate::TunnelStream), is asked in truth by a task that has used up its turn (tokio's `coop`); such a task is
/// woken once, at once, and has to ask again.
#[must_use]
pub fn is_noted<T>(polled: &Poll<T>) -> bool {
    polled.is_pending() && has_budget_remaining()
}

#[cfg(test)]
mod tests {
    use std::{
        future::{Future as _, poll_fn},
        pin::pin,
        task::Context,
        time::Duration,
    };

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        task::coop::poll_proceed,
        time::{sleep, timeout},
    };

    use super::*;

    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let near = TcpStream::connect(listener.local_addr().expect("it is bound")).await.expect("it listens");
        (near, listener.accept().await.expect("it connects").0)
    }

    #[tokio::test]
    async fn only_on_a_worker_is_it_known_that_a_connection_is_quiet() {
        let (near, _far) = connected().await;
        assert!(!is_quiet(&near));
        let workers = Workers::start(1, Duration::ZERO).expect("threads are left");
        workers.next().spawn(is_quiet_until_something_has_come_and_when_all_of_it_is_read()).await.expect("it holds");
    }

    async fn is_quiet_until_something_has_come_and_when_all_of_it_is_read() {
        let (mut near, mut far) = connected().await;
        // Whether the runtime knows is for it to say; that it does in the end, and not before, is what matters.
        let told = async |near: &TcpStream| {
            let told = async {
                while is_quiet(near) {
                    sleep(Duration::from_millis(1)).await;
                }
            };
            timeout(Duration::from_secs(30), told).await.expect("it is told");
        };
        let mut some = [0; 64];
        for message in [&b"first"[..], b"second"] {
            assert!(timeout(Duration::from_millis(1), near.read(&mut some)).await.is_err());
            assert!(is_quiet(&near));
            far.write_all(message).await.expect("it is open");
            told(&near).await;
            let count = near.read(&mut some).await.expect("it is open");
            assert_eq!(&some[..count], message);
        }
        drop(far);
        told(&near).await;
        assert_eq!(near.read(&mut some).await.expect("it ends in order"), 0);
        assert!(!is_quiet(&near), "the end stays");
    }

    #[tokio::test]
    async fn a_task_that_has_used_up_its_turn_has_asked_nobody() {
        let (mut near, _far) = connected().await;
        let mut some = [0; 64];
        let mut ask = |cx: &mut Context<'_>| is_noted(&pin!(near.read(&mut some)).poll(cx));
        let asked = poll_fn(|cx| {
            let with_time = ask(cx);
            while let Poll::Ready(turn) = poll_proceed(cx) {
                turn.made_progress();
            }
            Poll::Ready((with_time, ask(cx)))
        });
        assert_eq!(asked.await, (true, false));
    }
}
