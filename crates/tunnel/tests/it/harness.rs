//! What the fuzzers do with their bytes. The targets in `/fuzz` include this file, and the tests beside it run it on random
//! input, so that it does not rest between two sessions of fuzzing.

use std::{
    io::IoSlice,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};
use towline_model::InstanceId;
use towline_tunnel::{
    Budget, CarrierEnd, OpenTarget, RefuseCode, Refused, ResetCode,
    frame::{self, Frame},
    message::{AgentMessage, ServerMessage},
    mux::{BATCH, Mux, MuxConfig, Side, outbox::Outbox},
};

/// Decodes the bytes in pieces; what can be decoded must be the same when encoded and decoded again.
pub fn frame_decoder(data: &[u8]) {
    let Some((&piece, data)) = data.split_first() else { return };
    let mut buffer = BytesMut::new();
    for piece in data.chunks(usize::from(piece) + 1) {
        buffer.extend_from_slice(piece);
        loop {
            let missing = frame::missing(&buffer);
            match frame::decode(&mut buffer) {
                Ok(Some(decoded)) => {
                    assert_eq!(missing, 0);
                    let mut again = BytesMut::new();
                    decoded.encode(&mut again);
                    // Broken text is mended, which may make it longer and so be cut: that changes it once.
                    let mended = frame::decode(&mut again).unwrap().unwrap();
                    mended.encode(&mut again);
                    assert_eq!(frame::decode(&mut again).unwrap().as_ref(), Some(&mended));
                    assert!(again.is_empty());
                }
                Ok(None) => {
                    assert_ne!(missing, 0);
                    break;
                }
                Err(_) => return,
            }
        }
    }
}

/// Reads the bytes as a message of either side; what can be read must be the same when written and read again.
pub fn message(data: &[u8]) {
    if let Ok(message) = serde_json::from_slice::<AgentMessage>(data) {
        let again = serde_json::to_vec(&message).unwrap();
        assert_eq!(serde_json::from_slice::<AgentMessage>(&again).unwrap(), message);
    }
    if let Ok(message) = serde_json::from_slice::<ServerMessage>(data) {
        let again = serde_json::to_vec(&message).unwrap();
        assert_eq!(serde_json::from_slice::<ServerMessage>(&again).unwrap(), message);
    }
}

/// Numbers from the fuzzer's bytes; zeros when they are used up.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn number(&mut self) -> u32 {
        u32::from_be_bytes([0, 0, self.byte(), self.byte()])
    }

    fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()).min(self.0.len());
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }
}

const MAX_STREAMS: u32 = 3;
const SEND_QUEUE: usize = 500;

/// One multiplexer between an application and a peer that both do what the bytes say.
struct Bench {
    mux: Mux,
    side: Side,
    budget: Budget,
    outbox: Outbox,
    input: BytesMut,
    handles: Vec<u32>,
    undecided: Vec<u32>,
    now: Instant,
}

/// Runs a multiplexer, as either side, with a peer and an application that do anything.
pub fn mux(data: &[u8]) {
    let mut script = Script(data);
    let mut bench = Bench::new(&mut script);
    while !script.0.is_empty() {
        bench.step(&mut script);
        bench.check();
    }
    bench.end();
}

impl Bench {
    fn new(script: &mut Script<'_>) -> Self {
        let first = script.byte();
        let side = if first & 1 == 0 { Side::Gateway } else { Side::Agent };
        let budget = Budget::new(if first & 2 == 0 { 0 } else { 100_000 });
        let now = Instant::now();
        let config = MuxConfig {
            side,
            initial_window: if first & 4 == 0 { 300 } else { 65_536 },
            max_window: 20_000,
            max_streams: MAX_STREAMS,
            send_queue: SEND_QUEUE,
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
            budget: budget.clone(),
        };
        let outbox = Outbox::new(first & 8 == 0);
        Self {
            mux: Mux::new(config, now),
            side,
            budget,
            outbox,
            input: BytesMut::new(),
            handles: Vec::new(),
            undecided: Vec::new(),
            now,
        }
    }

    fn step(&mut self, script: &mut Script<'_>) {
        let action = script.byte();
        match action % 16 {
            0 => self.input.extend_from_slice(script.bytes()),
            1..=7 => {
                let frame = self.frame(action % 16, script);
                frame.encode(&mut self.input);
            }
            8 => self.transmit(),
            9 => self.open_or_accept(script),
            10 => self.now += Duration::from_millis(u64::from(script.number())),
            11 => self.mux.handle_timeout(self.now),
            _ => self.use_stream(action, script),
        }
        self.take_in();
    }

    /// A frame that makes sense by itself.
    fn frame(&self, kind: u8, script: &mut Script<'_>) -> Frame {
        let stream = u32::from(script.byte() % 16) + 1;
        match kind {
            1 => Frame::Data { stream, payload: Bytes::from(vec![7; script.number() as usize % 2000]) },
            2 => Frame::Window { stream, increment: (script.number() << 12).max(1) },
            3 => Frame::Fin { stream, delivered: None },
            4 => Frame::Rst { stream, code: ResetCode::from_wire(script.byte().into()), delivered: 9 },
            5 if self.side == Side::Gateway => Frame::Opened { stream },
            5 => {
                let mut target = BytesMut::from(&[1][..]);
                target.put_slice(InstanceId::generate().as_uuid().as_bytes());
                Frame::Open { stream, target: target.freeze(), keep_alive: false }
            }
            6 if self.side == Side::Gateway => {
                Frame::Refused { stream, why: Refused::new(RefuseCode::NotReady, "not now") }
            }
            6 => Frame::Ping(script.byte().into()),
            _ if stream > 8 => Frame::GoAway { code: 0, message: String::new() },
            _ => Frame::Pong(script.byte().into()),
        }
    }

    fn take_in(&mut self) {
        self.mux.received(self.now);
        while self.mux.end().is_none() {
            match frame::decode(&mut self.input) {
                Ok(Some(frame)) => drop(self.mux.handle(frame, self.now)),
                Ok(None) => break,
                Err(error) => self.mux.finish(CarrierEnd::Protocol(error)),
            }
        }
        self.mux.take_wakes().wake();
        self.mux.take_answers();
    }

    /// What goes out must be frames.
    fn transmit(&mut self) {
        self.mux.transmit(&mut self.outbox, self.now);
        let mut wire = BytesMut::new();
        while !self.outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); 4];
            let used = self.outbox.slices(&mut slices);
            slices[..used].iter().for_each(|slice| wire.extend_from_slice(slice));
            self.outbox.advance(slices[..used].iter().map(|slice| slice.len()).sum());
        }
        assert!(wire.len() <= BATCH + frame::MAX_PAYLOAD + 64);
        while frame::decode(&mut wire).unwrap().is_some() {}
        assert!(wire.is_empty(), "half a frame");
    }

    fn open_or_accept(&mut self, script: &mut Script<'_>) {
        if self.side == Side::Gateway {
            if self.handles.len() < 8 {
                self.handles.extend(self.mux.open(&OpenTarget::Instance(InstanceId::generate())));
            }
            return;
        }
        if let Poll::Ready(Some((id, _))) = self.mux.poll_arrival(Waker::noop()) {
            self.undecided.push(id);
        }
        if script.byte() & 1 == 0 {
            return;
        }
        match self.undecided.pop() {
            Some(id) if script.byte() & 3 == 0 => {
                self.mux.refuse(id, Refused::new(RefuseCode::NotReady, "not now"), self.now);
            }
            Some(id) => {
                self.mux.accept(id);
                self.handles.push(id);
            }
            None => {}
        }
    }

    fn use_stream(&mut self, action: u8, script: &mut Script<'_>) {
        if self.handles.is_empty() {
            return;
        }
        let position = usize::from(script.byte()) % self.handles.len();
        let id = self.handles[position];
        match action % 16 {
            12 => {
                let bytes = vec![3; script.number() as usize % 1000];
                let _ = self.mux.poll_write(id, &[IoSlice::new(&bytes)], Waker::noop());
            }
            13 => {
                let mut bytes = Vec::new();
                let most = script.number() as usize % 5000;
                let read = self.mux.poll_read(id, &mut (&mut bytes).limit(most), Waker::noop());
                if matches!(read, Poll::Ready(Ok(outcome)) if outcome.credit_is_due) {
                    self.mux.give_credit(id, self.now);
                }
            }
            14 => drop(self.mux.shut_down(id)),
            _ => match action >> 4 {
                0..4 => self.mux.watch(id).unwrap().note_delivered(3),
                4..6 => drop(self.mux.poll_opened(id, Waker::noop())),
                6 => drop(self.mux.ping(self.now)),
                7 => self.mux.go_away(),
                8..10 => self.leave(position, |mux| mux.reset(id, ResetCode::Internal)),
                10..12 => self.leave(position, |mux| mux.reset_after_data(id, ResetCode::ConnectionReset)),
                _ => self.leave(position, |_| {}),
            },
        }
    }

    fn leave(&mut self, position: usize, how: impl FnOnce(&mut Mux)) {
        let id = self.handles.swap_remove(position);
        how(&mut self.mux);
        self.mux.release(id, self.now);
    }

    fn check(&mut self) {
        let most = 2 * MAX_STREAMS as usize + self.handles.len();
        assert!(self.mux.stream_count() <= most, "{} streams", self.mux.stream_count());
        assert!(self.mux.queued_bytes() <= self.mux.stream_count() * SEND_QUEUE);
        assert!(self.budget.used() <= self.budget.total());
        for &id in &self.handles {
            let reads = self.mux.poll_read(id, &mut [0_u8; 0].as_mut_slice(), Waker::noop()).is_ready();
            assert_eq!(self.mux.watch(id).unwrap().is_readable(), reads, "of stream {id}");
        }
    }

    /// However it went, nothing may be left.
    fn end(mut self) {
        self.transmit();
        self.mux.peer_closed();
        self.transmit();
        while !self.handles.is_empty() {
            self.leave(0, |_| {});
        }
        while let Some(id) = self.undecided.pop() {
            self.mux.refuse(id, Refused::new(RefuseCode::Draining, ""), self.now);
        }
        assert!(matches!(self.mux.poll_arrival(Waker::noop()), Poll::Ready(None)));
        self.mux.take_wakes().wake();
        assert_eq!((self.mux.stream_count(), self.mux.queued_bytes(), self.budget.used()), (0, 0, 0));
    }
}
