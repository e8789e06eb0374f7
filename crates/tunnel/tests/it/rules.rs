//! The rules of the protocol, one by one: what a multiplexer sends, in which order, and what it does not put up with.

use std::{
    io::IoSlice,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};
use towline_model::InstanceId;
use towline_tunnel::{
    Budget, CarrierEnd, OpenTarget, ProtocolError, RefuseCode, Refused, ResetCode, StreamEnd,
    frame::{self, Frame},
    mux::{INITIAL_WINDOW, Mux, MuxConfig, OpenError, SEND_QUEUE, Side, outbox::Outbox},
};

const WINDOW: usize = INITIAL_WINDOW as usize;

struct Subject {
    mux: Mux,
    now: Instant,
}

fn subject(side: Side) -> Subject {
    let now = Instant::now();
    let config = MuxConfig {
        side,
        initial_window: INITIAL_WINDOW,
        max_window: 1 << 20,
        max_streams: 4,
        send_queue: SEND_QUEUE,
        ping_interval: Duration::from_secs(15),
        ping_timeout: Duration::from_secs(20),
        budget: Budget::new(1 << 20),
    };
    let mut subject = Subject { mux: Mux::new(config, now), now };
    assert_eq!(subject.sent(), [Frame::Ping(1)]);
    subject
}

fn target() -> OpenTarget {
    OpenTarget::Instance(InstanceId::generate())
}

fn open(stream: u32) -> Frame {
    let mut payload = BytesMut::from(&[1][..]);
    payload.put_slice(InstanceId::generate().as_uuid().as_bytes());
    Frame::Open { stream, target: payload.freeze(), keep_alive: false }
}

fn data(stream: u32, length: usize) -> Frame {
    Frame::Data { stream, payload: Bytes::from(vec![0; length]) }
}

fn rst(stream: u32) -> Frame {
    Frame::Rst { stream, code: ResetCode::Cancelled, delivered: 0 }
}

impl Subject {
    /// Everything that waits to be sent.
    fn sent(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while self.mux.has_output() {
            frames.extend(self.sent_at_once());
        }
        frames
    }

    /// What is encoded in one go.
    fn sent_at_once(&mut self) -> Vec<Frame> {
        let mut outbox = Outbox::new(true);
        self.mux.transmit(&mut outbox, self.now);
        let mut wire = BytesMut::new();
        while !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); 16];
            let used = outbox.slices(&mut slices);
            let length = slices[..used].iter().map(|slice| slice.len()).sum();
            slices[..used].iter().for_each(|slice| wire.extend_from_slice(slice));
            outbox.advance(length);
        }
        std::iter::from_fn(|| frame::decode(&mut wire).unwrap()).collect()
    }

    fn gets(&mut self, frame: Frame) -> Result<(), ProtocolError> {
        self.mux.handle(frame, self.now)
    }

    fn gets_all(&mut self, frames: impl IntoIterator<Item = Frame>) -> Result<(), ProtocolError> {
        frames.into_iter().try_for_each(|frame| self.gets(frame))
    }

    fn write(&mut self, id: u32, length: usize) -> usize {
        match self.mux.poll_write(id, &[IoSlice::new(&vec![1; length])], Waker::noop()) {
            Poll::Ready(written) => written.unwrap(),
            Poll::Pending => 0,
        }
    }

    fn read(&mut self, id: u32, most: usize) -> Poll<Result<usize, StreamEnd>> {
        let mut bytes = Vec::new();
        self.mux.poll_read(id, &mut (&mut bytes).limit(most), Waker::noop()).map_ok(|outcome| {
            if outcome.credit_is_due {
                self.mux.give_credit(id, self.now);
            }
            outcome.bytes
        })
    }

    /// Agent: accepts the next stream.
    fn accept(&mut self) -> u32 {
        let Poll::Ready(Some((id, _))) = self.mux.poll_arrival(Waker::noop()) else { panic!("no stream came") };
        self.mux.accept(id);
        id
    }

    /// Gateway: opens a stream and has it accepted.
    fn opened(&mut self) -> u32 {
        let id = self.mux.open(&target()).unwrap();
        self.sent();
        self.gets(Frame::Opened { stream: id }).unwrap();
        id
    }
}

/// Stream and length of DATA frames.
fn lengths(frames: &[Frame]) -> Vec<(u32, usize)> {
    let length = |frame: &Frame| match frame {
        Frame::Data { stream, payload } => Some((*stream, payload.len())),
        _ => None,
    };
    frames.iter().filter_map(length).collect()
}

#[test]
fn streams_take_turns_and_control_goes_first() {
    let mut gateway = subject(Side::Gateway);
    let (a, b) = (gateway.opened(), gateway.opened());
    gateway.write(a, 40_000);
    gateway.write(b, 20_000);
    gateway.gets(Frame::Ping(7)).unwrap();
    let c = gateway.mux.open(&target()).unwrap();
    let sent = gateway.sent();
    assert!(matches!(sent[..2], [Frame::Pong(7), Frame::Open { stream, .. }] if stream == c), "{sent:?}");
    let k = 16 << 10;
    assert_eq!(lengths(&sent), [(a, k), (b, k), (a, k), (b, 20_000 - k), (a, 40_000 - 2 * k)]);
}

#[test]
fn control_overtakes_what_is_not_encoded_yet() {
    let mut gateway = subject(Side::Gateway);
    let (a, b, c) = (gateway.opened(), gateway.opened(), gateway.opened());
    for id in [a, b, c] {
        assert_eq!(gateway.write(id, 100_000), SEND_QUEUE);
    }
    let first = gateway.sent_at_once();
    assert!(lengths(&first).iter().map(|(_, length)| length).sum::<usize>() <= 64 << 10);
    gateway.gets(Frame::Ping(9)).unwrap();
    gateway.mux.reset(c, ResetCode::Cancelled);
    let second = gateway.sent_at_once();
    assert!(matches!(second[..2], [Frame::Pong(9), Frame::Rst { .. }]), "{second:?}");
    assert!(gateway.sent().iter().all(|frame| !matches!(frame, Frame::Data { stream, .. } if *stream == c)));
}

#[test]
fn a_sender_keeps_to_its_credit() {
    let mut gateway = subject(Side::Gateway);
    let id = gateway.opened();
    let mut sent = 0;
    for _ in 0..3 {
        gateway.write(id, SEND_QUEUE);
        sent += lengths(&gateway.sent()).iter().map(|(_, length)| length).sum::<usize>();
    }
    assert_eq!(sent, WINDOW);
    gateway.gets(Frame::Window { stream: id, increment: 2000 }).unwrap();
    assert_eq!(lengths(&gateway.sent()), [(id, 2000)]);
    assert_eq!(gateway.mux.watch(id).unwrap().bytes_sent(), WINDOW as u64 + 2000);
}

#[test]
fn credit_comes_back_when_half_is_read() {
    let mut agent = subject(Side::Agent);
    agent.gets_all([open(1), data(1, 16 << 10), data(1, 16 << 10)]).unwrap();
    let id = agent.accept();
    assert_eq!(agent.sent(), [Frame::Opened { stream: 1 }]);
    assert_eq!(agent.read(id, (32 << 10) - 1), Poll::Ready(Ok((32 << 10) - 1)));
    assert_eq!(agent.sent(), []);
    // Half of it was read in no time: the window doubles.
    assert_eq!(agent.read(id, 1), Poll::Ready(Ok(1)));
    assert_eq!(agent.sent(), [Frame::Window { stream: 1, increment: (32 << 10) + (64 << 10) }]);
}

#[test]
fn too_much_data_or_credit_is_an_error() {
    let mut agent = subject(Side::Agent);
    agent.gets(open(1)).unwrap();
    agent.gets_all((0..4).map(|_| data(1, WINDOW / 4))).unwrap();
    assert_eq!(agent.gets(data(1, 1)), Err(ProtocolError::WindowOverrun));
    assert_eq!(
        agent.sent().last(),
        Some(&Frame::GoAway { code: 4, message: ProtocolError::WindowOverrun.to_string() })
    );

    let mut gateway = subject(Side::Gateway);
    let id = gateway.opened();
    let window = Frame::Window { stream: id, increment: 1 << 30 };
    assert_eq!(gateway.gets(window), Err(ProtocolError::WindowOverflow));
}

#[test]
fn frames_that_do_not_fit_the_state_are_errors() {
    let fin = |stream| Frame::Fin { stream, delivered: None };
    let refused = |stream| Frame::Refused { stream, why: Refused::new(RefuseCode::Limit, "") };
    let opened = |stream| Frame::Opened { stream };
    let cases: [(Side, Vec<Frame>, &str); 12] = [
        (Side::Agent, vec![open(5), open(5)], "OPEN"),
        (Side::Agent, vec![open(5), open(4)], "OPEN"),
        (Side::Agent, vec![open(1), fin(1), data(1, 1)], "DATA"),
        (Side::Agent, vec![open(1), fin(1), fin(1)], "FIN"),
        (Side::Agent, vec![open(1), opened(1)], "OPENED"),
        (Side::Agent, vec![open(1), refused(1)], "REFUSED"),
        (Side::Agent, vec![rst(1)], "RST"),
        (Side::Gateway, vec![open(1)], "OPEN"),
        (Side::Gateway, vec![data(1, 1)], "DATA"),
        (Side::Gateway, vec![opened(1), opened(1)], "OPENED"),
        (Side::Gateway, vec![opened(1), refused(1)], "REFUSED"),
        (Side::Gateway, vec![Frame::Message { more: false, payload: Bytes::new() }], "MESSAGE"),
    ];
    for (side, frames, name) in cases {
        let mut subject = subject(side);
        if side == Side::Gateway {
            subject.mux.open(&target()).unwrap();
            subject.sent();
        }
        let text = format!("{side:?} {frames:?}");
        assert_eq!(subject.gets_all(frames), Err(ProtocolError::Unexpected(name)), "{text}");
        assert_eq!(subject.mux.end(), Some(&CarrierEnd::Protocol(ProtocolError::Unexpected(name))));
    }
}

#[test]
fn frames_for_a_stream_that_has_ended_are_ignored_as_far_as_they_may_be_late() {
    let mut gateway = subject(Side::Gateway);
    let id = gateway.opened();
    gateway.gets(data(id, 10_000)).unwrap();
    gateway.mux.reset(id, ResetCode::Cancelled);
    gateway.mux.release(id, gateway.now);
    assert_eq!(gateway.mux.stream_count(), 0);
    gateway.gets_all([data(id, 16_000), Frame::Fin { stream: id, delivered: None }, rst(id)]).unwrap();
    gateway.gets_all((0..2).map(|_| data(id, 16_384))).unwrap();
    let left = WINDOW - 10_000 - 16_000 - 2 * 16_384;
    gateway.gets(data(id, left)).unwrap();
    assert_eq!(gateway.gets(data(id, 1)), Err(ProtocolError::WindowOverrun));
}

#[test]
fn floods_are_errors() {
    let resets = |round: u32| [open(round + 1), rst(round + 1)];
    let floods: [(&str, Vec<Frame>); 5] = [
        ("empty data", std::iter::once(open(1)).chain((0..5000).map(|_| data(1, 0))).collect()),
        ("skipped frames", vec![Frame::Ignored; 5000]),
        ("answers to nothing", vec![Frame::Pong(77); 5000]),
        ("rapid resets", (0..5000).flat_map(resets).collect()),
        ("unanswered pings", vec![Frame::Ping(1); 40]),
    ];
    for (name, frames) in floods {
        let mut agent = subject(Side::Agent);
        let outcome = frames.chunks(2).try_for_each(|pair| {
            let outcome = agent.gets_all(pair.iter().cloned());
            // The application keeps up, and so never hears of streams that were reset at once.
            let _ = agent.mux.poll_arrival(Waker::noop());
            outcome
        });
        assert_eq!(outcome, Err(ProtocolError::Flood), "{name}");
    }
}

#[test]
fn small_data_is_no_flood() {
    let mut agent = subject(Side::Agent);
    agent.gets(open(1)).unwrap();
    let id = agent.accept();
    for _ in 0..100_000 {
        agent.gets(data(1, 1)).unwrap();
        assert_eq!(agent.read(id, 10), Poll::Ready(Ok(1)));
        agent.sent();
    }
}

#[test]
fn an_agent_refuses_what_is_beyond_its_limit() {
    let mut agent = subject(Side::Agent);
    agent.gets_all((1..=5).map(open)).unwrap();
    let sent = agent.sent();
    assert!(
        matches!(&sent[..], [Frame::Refused { stream: 5, why }] if why.code == RefuseCode::Limit),
        "the fifth is one too many: {sent:?}"
    );
    agent.gets(Frame::Open { stream: 6, target: Bytes::from_static(&[99]), keep_alive: false }).unwrap();
    let sent = agent.sent();
    assert!(matches!(&sent[..], [Frame::Refused { stream: 6, why }] if why.code == RefuseCode::Unsupported));

    let mut gateway = subject(Side::Gateway);
    for _ in 0..4 {
        gateway.mux.open(&target()).unwrap();
    }
    assert_eq!(gateway.mux.open(&target()), Err(OpenError::Limit));
}

#[test]
fn refusals_of_the_application_do_not_pile_up() {
    let mut agent = subject(Side::Agent);
    let end = (1..10_000).find_map(|stream| {
        let outcome = agent.gets(open(stream));
        if let Poll::Ready(Some((id, _))) = agent.mux.poll_arrival(Waker::noop()) {
            agent.mux.refuse(id, Refused::new(RefuseCode::UnknownInstance, "there is no such instance"), agent.now);
        }
        outcome.err().map(|error| (stream, error))
    });
    // Four for each of four streams and 256 more wait; nothing is sent meanwhile.
    assert_eq!(end, Some((4 * 4 + 256 + 1, ProtocolError::Flood)));
}

#[test]
fn an_open_that_was_not_sent_is_taken_back() {
    let mut gateway = subject(Side::Gateway);
    let id = gateway.mux.open(&target()).unwrap();
    gateway.write(id, 100);
    gateway.mux.release(id, gateway.now);
    assert_eq!(gateway.sent(), []);
    assert_eq!(gateway.mux.queued_bytes(), 0);
}

#[test]
fn a_reader_takes_nothing_less_for_the_whole() {
    // The direction was complete before the reset: it can be read to its end.
    let mut agent = subject(Side::Agent);
    agent.gets_all([open(1), data(1, 10), Frame::Fin { stream: 1, delivered: None }, rst(1)]).unwrap();
    assert!(agent.mux.poll_arrival(Waker::noop()).is_pending(), "nobody needs to hear of it");

    let mut gateway = subject(Side::Gateway);
    let id = gateway.opened();
    gateway.gets_all([data(id, 10), Frame::Fin { stream: id, delivered: None }, rst(id)]).unwrap();
    assert_eq!(gateway.read(id, 100), Poll::Ready(Ok(10)));
    assert_eq!(gateway.read(id, 100), Poll::Ready(Ok(0)));

    // It was not: the rest is an error.
    let id = gateway.opened();
    gateway.gets_all([data(id, 10), rst(id)]).unwrap();
    let end = StreamEnd::Reset { code: ResetCode::Cancelled, delivered: 0 };
    assert_eq!(gateway.read(id, 100), Poll::Ready(Err(end)));
}

#[test]
fn a_reset_does_not_overtake_a_queued_end() {
    for caller_has_finished in [false, true] {
        let mut agent = subject(Side::Agent);
        agent.gets(open(1)).unwrap();
        let id = agent.accept();
        agent.write(id, WINDOW);
        agent.sent();
        agent.write(id, 1);
        agent.mux.shut_down(id).unwrap();
        agent.mux.reset_after_data(id, ResetCode::ConnectionReset);
        agent.mux.reset_after_data(id, ResetCode::ConnectionReset);
        agent.mux.release(id, agent.now);
        assert_eq!(agent.sent(), [], "there is no credit for the last byte");
        if caller_has_finished {
            agent.gets(Frame::Fin { stream: 1, delivered: None }).unwrap();
        }
        agent.gets(Frame::Window { stream: 1, increment: 1 << 14 }).unwrap();
        let sent = agent.sent();
        let reset = Frame::Rst { stream: 1, code: ResetCode::ConnectionReset, delivered: 0 };
        assert_eq!(lengths(&sent), [(1, 1)]);
        assert_eq!(sent[1], Frame::Fin { stream: 1, delivered: None });
        assert_eq!(sent[2..], if caller_has_finished { vec![] } else { vec![reset] }[..]);
        assert_eq!(agent.mux.stream_count(), 0);
    }
}

#[test]
fn delivered_is_what_was_read_unless_the_application_knows_better() {
    for (noted, expected) in [(None, 10), (Some(3), 3)] {
        let mut agent = subject(Side::Agent);
        agent.gets_all([open(1), data(1, 30)]).unwrap();
        let id = agent.accept();
        assert_eq!(agent.read(id, 10), Poll::Ready(Ok(10)));
        if let Some(bytes) = noted {
            agent.mux.watch(id).unwrap().note_delivered(bytes);
        }
        agent.mux.release(id, agent.now);
        let reset = Frame::Rst { stream: 1, code: ResetCode::Cancelled, delivered: expected };
        assert_eq!(agent.sent(), [Frame::Opened { stream: 1 }, reset].into_iter().skip(1).collect::<Vec<_>>());
    }
}
