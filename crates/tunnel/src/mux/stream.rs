//! The state of one stream.
//!
//! A stream lives in two places: on the wire, until both directions are closed or it is reset, and in the hands of the
//! application, until its handle is dropped. It is forgotten when it is gone from both.

use std::{sync::Arc, task::Waker};

use bytes::{Bytes, BytesMut};

use super::{recv::RecvHalf, watch::Watch};
use crate::{
    end::{ResetCode, StreamEnd},
    frame::Frame,
    target::OpenTarget,
};

/// A send buffer that has grown beyond this is given back when it is empty.
const KEEP: usize = 4 << 10;

/// How far a stream is with being opened.
#[derive(Debug)]
pub enum Opening {
    /// Gateway: OPEN waits to be sent, with this target.
    Queued(Bytes),
    /// Gateway: OPEN was sent and not answered yet.
    Asked,
    /// Agent: OPEN has come with this target (taken by the application when it hears of it), and is not answered yet.
    Pending(Option<OpenTarget>),
    /// OPENED was sent or has come.
    Open,
}

/// What follows when the queued bytes are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendState {
    /// More bytes.
    Open,
    /// FIN.
    Finishing,
    /// FIN, and then RST for the other direction, unless that is finished too.
    FinishingThenResetting(ResetCode),
    /// RST.
    Resetting(ResetCode),
    /// Nothing: it was sent, or the stream is no longer on the wire.
    Closed,
}

/// The sending half of a stream.
#[derive(Debug)]
pub struct SendHalf {
    pub queue: BytesMut,
    pub credit: u64,
    pub sent: u64,
    pub state: SendState,
    /// It stands in the line of streams that have something to send.
    pub in_line: bool,
    pub waker: Option<Waker>,
}

impl SendHalf {
    /// Whether a frame could be sent now.
    pub fn is_ready(&self) -> bool {
        match self.state {
            SendState::Closed => false,
            SendState::Open => !self.queue.is_empty() && self.credit > 0,
            _ => self.queue.is_empty() || self.credit > 0,
        }
    }

    /// Throws away what is queued; says how many bytes.
    pub fn close(&mut self) -> usize {
        let dropped = self.queue.len();
        self.queue = BytesMut::new();
        self.state = SendState::Closed;
        dropped
    }

    /// Gives memory back when nothing is queued.
    pub fn trim(&mut self) {
        if self.queue.is_empty() && self.queue.capacity() > KEEP {
            self.queue = BytesMut::new();
        }
    }
}

/// One stream.
#[derive(Debug)]
pub struct Stream {
    pub opening: Opening,
    pub send: SendHalf,
    pub recv: RecvHalf,
    /// How it ended; `None` while it is on the wire.
    pub end: Option<StreamEnd>,
    /// The application has dropped its handle.
    pub released: bool,
    pub open_waker: Option<Waker>,
    /// It carries one request after another.
    pub keep_alive: bool,
    /// FIN tells what was delivered: nothing more is.
    pub tells_delivered: bool,
    pub watch: Arc<Watch>,
}

impl Stream {
    pub fn new(opening: Opening, recv: RecvHalf, credit: u32) -> Self {
        let send = SendHalf {
            queue: BytesMut::new(),
            credit: u64::from(credit),
            sent: 0,
            state: SendState::Open,
            in_line: false,
            waker: None,
        };
        let watch = Arc::default();
        Self {
            opening,
            send,
            recv,
            end: None,
            released: false,
            open_waker: None,
            keep_alive: false,
            tells_delivered: false,
            watch,
        }
    }

    pub const fn on_wire(&self) -> bool {
        self.end.is_none()
    }

    /// What RST, and FIN where it does, tells as delivered.
    pub fn delivered(&self) -> u64 {
        self.watch.passed_on().unwrap_or_else(|| self.recv.bytes_read())
    }

    /// Something has come for whoever reads, who is to be woken.
    pub fn tell_reader(&mut self) -> Option<Waker> {
        self.watch.set_readable(true);
        self.recv.waker.take()
    }

    /// The FIN that ends this side's direction.
    pub fn fin(&self, id: u32) -> Frame {
        Frame::Fin { stream: id, delivered: self.tells_delivered.then(|| self.delivered()) }
    }
}
