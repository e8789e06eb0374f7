//! One stream and one connection to a container, joined: bytes both ways, half-close both ways, resets both ways.
//!
//! Everything happens in one task and without knowledge of what the bytes mean. A side that does not take bytes holds up
//! the side that sends them and nobody else. What ends how:
//!
//! | what happens | what the other side sees |
//! |---|---|
//! | the caller closes its direction (FIN) | the container's connection is half-closed |
//! | the caller goes away (RST, carrier lost) | the container's connection is reset |
//! | the container closes its direction | FIN, after its last byte |
//! | the container resets its connection | RST, after its last byte, with the bytes that reached it |
//! | the container takes no more bytes, and still answers | the answer; what the caller still sends is thrown away |
//! | the container closes an idle connection that carries one request after another | FIN with the bytes that reached it; no more do |

use std::{
    future::{Future, poll_fn},
    io,
    mem::MaybeUninit,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};
use towline_tunnel::{ResetCode, StreamEnd, TunnelStream, wait};

/// Buffers start small: most streams carry a request of a few hundred bytes and are then idle.
const FIRST_BUFFER: usize = 8 << 10;
/// And grow while they are filled by one read.
const LARGEST_BUFFER: usize = 256 << 10;
/// After so many reads in a row that fill an eighth at most, a buffer shrinks.
const SMALL_READS: u8 = 32;
/// A connection that was idle for so long is looked at before it is used again.
const PAUSE: Duration = Duration::from_millis(1);
/// How long a caller may go on sending to a container that takes no more, after the container's answer is complete.
const LINGER: Duration = Duration::from_secs(5);

/// Joins a stream and a connection until both directions have ended, or one side has given up.
pub async fn join(stream: TunnelStream, socket: TcpStream) {
    let keep_alive = stream.is_keep_alive();
    if keep_alive {
        // What was read from the stream and not written yet has not been passed on.
        stream.note_delivered(0);
    }
    let mut pipe = Pipe {
        stream,
        socket,
        idle: keep_alive.then(Idle::new),
        up: Buffer::default(),
        down: Buffer::default(),
        stream_wakes: false,
        socket_wakes: false,
        caller: Caller::Sends,
        container: Container::Sends,
        was_reset: false,
        linger: None,
    };
    // While nothing is to be read or written, as after a half-close, only this tells that the caller has gone.
    let monitor = pipe.stream.monitor();
    let mut gone = pin!(async {
        if monitor.ended().await == StreamEnd::Finished {
            // What has arrived of it is still to be delivered.
            std::future::pending::<()>().await;
        }
        End::CallerGone
    });
    let mut waits = false;
    let end = poll_fn(|cx| {
        if let Poll::Ready(end) = pipe.poll(cx) {
            return Poll::Ready(end);
        }
        // Everything happens in one task: once it waits for the end, it is woken by it, and need not ask each time. (It does
        // wait from the first time on: what it waits for takes none of the task's budget.)
        if std::mem::replace(&mut waits, true) && monitor.end().is_none() {
            return Poll::Pending;
        }
        gone.as_mut().poll(cx)
    })
    .await;
    let Pipe { stream, socket, .. } = pipe;
    match end {
        End::Finished => {}
        // The container is to see at once that nobody waits for its answer any more.
        End::CallerGone => drop(socket.set_zero_linger()),
        End::ContainerReset(code) => stream.reset_after_data(code),
    }
}

/// How a pipe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Finished,
    CallerGone,
    ContainerReset(ResetCode),
}

/// The direction from the caller to the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    Sends,
    /// Everything is sent; the container is still to be told.
    Closing,
    /// The container takes no more. What comes is thrown away.
    Ignored,
    Closed,
}

/// The direction from the container to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Container {
    Sends,
    Closing,
    Closed,
}

/// Whether a connection that carries one request after another is between two of them, as far as can be known without
/// reading them: whether the container spoke last.
#[derive(Debug)]
struct Idle {
    /// When the container last sent something.
    since: Instant,
    /// Whether something was passed on to it since.
    is_over: bool,
}

impl Idle {
    fn new() -> Self {
        Self { since: Instant::now(), is_over: false }
    }
}

struct Pipe {
    stream: TunnelStream,
    socket: TcpStream,
    /// For a connection that carries one request after another.
    idle: Option<Idle>,
    up: Buffer,
    down: Buffer,
    /// Whether the task is woken as soon as there is something to be read: nobody has read since one found nothing.
    stream_wakes: bool,
    socket_wakes: bool,
    caller: Caller,
    container: Container,
    /// Whether what was to be passed on to the container has met its reset.
    was_reset: bool,
    linger: Option<Pin<Box<Sleep>>>,
}

impl Pipe {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Poll::Ready(end) = self.poll_down(cx) {
            return Poll::Ready(end);
        }
        if let Poll::Ready(end) = self.poll_up(cx) {
            return Poll::Ready(end);
        }
        match (self.container, self.caller) {
            (Container::Closed, Caller::Closed) => Poll::Ready(End::Finished),
            (Container::Closed, Caller::Ignored) => {
                let linger = self.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
                linger.as_mut().poll(cx).map(|()| End::ContainerReset(ResetCode::ConnectionReset))
            }
            _ => Poll::Pending,
        }
    }

    /// Moves bytes to the caller. Ready only when the pipe is over.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        while self.container == Container::Sends {
            if self.down.is_empty() {
                match ready!(self.poll_fill_down(cx)) {
                    // The system tells of a reset once; whoever reads behind it sees an end.
                    Ok(0) if self.was_reset => return Poll::Ready(End::ContainerReset(ResetCode::ConnectionReset)),
                    Ok(0) => self.container_has_closed(),
                    Ok(_) => self.idle = self.idle.take().map(|_| Idle::new()),
                    Err(error) => return Poll::Ready(End::ContainerReset(code_of(&error))),
                }
            } else if ready!(self.down.poll_drain(&mut self.stream, cx)).is_err() {
                return Poll::Ready(End::CallerGone);
            }
        }
        if self.container == Container::Closing {
            if ready!(Pin::new(&mut self.stream).poll_shutdown(cx)).is_err() {
                return Poll::Ready(End::CallerGone);
            }
            self.container = Container::Closed;
            self.down.free();
        }
        Poll::Pending
    }

    /// Moves bytes to the container. Ready only when the pipe is over.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        while matches!(self.caller, Caller::Sends | Caller::Ignored) {
            if self.up.is_empty() {
                match ready!(self.poll_fill_up(cx)) {
                    Ok(0) if self.caller == Caller::Sends => self.caller = Caller::Closing,
                    Ok(0) => self.caller = Caller::Closed,
                    Ok(_) if self.caller == Caller::Ignored => self.up.clear(),
                    Ok(_) => {}
                    Err(_) => return Poll::Ready(End::CallerGone),
                }
                continue;
            }
            if self.caller == Caller::Sends {
                match self.was_left() {
                    Ok(false) => {}
                    Ok(true) => {
                        self.container_has_closed();
                        // Its end is passed on in its turn.
                        cx.waker().wake_by_ref();
                        continue;
                    }
                    Err(error) => return Poll::Ready(End::ContainerReset(code_of(&error))),
                }
            }
            match ready!(self.up.poll_drain(&mut self.socket, cx)) {
                Ok(delivered) => {
                    self.stream.note_delivered(delivered as u64);
                    if let Some(idle) = &mut self.idle {
                        idle.is_over = true;
                    }
                }
                // It may have answered before it closed (413, and bytes that it did not want): the answer counts.
                Err(error) => {
                    self.was_reset = error.kind() == io::ErrorKind::ConnectionReset;
                    self.caller = Caller::Ignored;
                    self.up.clear();
                }
            }
        }
        if self.caller == Caller::Closing {
            // The container may be gone already; then its direction tells.
            let _ = ready!(Pin::new(&mut self.socket).poll_shutdown(cx));
            self.caller = Caller::Closed;
            self.up.free();
        }
        Poll::Pending
    }
}

impl Pipe {
    /// Reads from the container, if there may be something: whichever side woke the task, both are looked at, and to be told
    /// once more that there is nothing costs locks.
    fn poll_fill_down(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.socket_wakes && wait::is_quiet(&self.socket) {
            return Poll::Pending;
        }
        let filled = self.down.poll_fill(&mut self.socket, cx);
        self.socket_wakes = wait::is_noted(&filled);
        filled
    }

    /// The same for what comes from the caller.
    fn poll_fill_up(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.stream_wakes && self.stream.is_quiet() {
            return Poll::Pending;
        }
        let filled = self.up.poll_fill(&mut self.stream, cx);
        self.stream_wakes = wait::is_noted(&filled);
        filled
    }

    /// The container has closed its direction. If its connection was idle it gets no more requests, and the gateway is told
    /// how much it got, so that the next one can be sent elsewhere for sure.
    fn container_has_closed(&mut self) {
        self.container = Container::Closing;
        if self.caller == Caller::Sends && self.idle.as_ref().is_some_and(|idle| !idle.is_over) {
            self.stream.tell_delivered();
            self.caller = Caller::Ignored;
            self.up.clear();
        }
    }

    /// Whether the container has closed an idle connection, or reset it, and the runtime has not told yet. Asked before the
    /// first bytes after a pause are passed on, because what is passed on to a closed connection cannot be taken back.
    fn was_left(&self) -> io::Result<bool> {
        let idle = self.idle.as_ref().filter(|idle| !idle.is_over && self.container == Container::Sends);
        if idle.is_none_or(|idle| idle.since.elapsed() <= PAUSE) {
            return Ok(false);
        }
        match SockRef::from(&self.socket).peek(&mut [MaybeUninit::uninit()]) {
            Ok(0) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Err(error),
            _ => Ok(false),
        }
    }
}

fn code_of(error: &io::Error) -> ResetCode {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
            ResetCode::ConnectionReset
        }
        _ => ResetCode::ConnectFailed,
    }
}

/// Bytes on their way in one direction. Its size follows what one read brings.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    was_filled: bool,
    small_reads: u8,
}

impl Buffer {
    const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    const fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    fn free(&mut self) {
        *self = Self::default();
    }

    /// Reads once into the empty buffer; says how many bytes came.
    fn poll_fill(&mut self, source: &mut (impl AsyncRead + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.clear();
        self.resize();
        let mut buf = ReadBuf::new(&mut self.bytes);
        ready!(Pin::new(source).poll_read(cx, &mut buf))?;
        self.end = buf.filled().len();
        self.was_filled = self.end == self.bytes.len();
        self.small_reads = if self.end <= self.bytes.len() / 8 { self.small_reads.saturating_add(1) } else { 0 };
        Poll::Ready(Ok(self.end))
    }

    /// Writes what is there; says how many bytes went.
    fn poll_drain(&mut self, target: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(target).poll_write(cx, &self.bytes[self.start..self.end]))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.start += written;
        Poll::Ready(Ok(written))
    }

    /// Between two reads: twice the size after one that filled it, back to the first after many small ones.
    fn resize(&mut self) {
        let size = self.bytes.len();
        let next = match size {
            0 => FIRST_BUFFER,
            _ if self.was_filled => (size * 2).min(LARGEST_BUFFER),
            _ if self.small_reads >= SMALL_READS => FIRST_BUFFER,
            _ => size,
        };
        if next != size {
            self.bytes = vec![0; next].into_boxed_slice();
            self.small_reads = 0;
        }
    }
}

#[cfg(test)]
#[path = "pipe_tests.rs"]
mod tests;
