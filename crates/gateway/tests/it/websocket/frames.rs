//! The frames of the Autobahn test suite's cases (RFC 6455 and RFC 7692), as one end sends them.

use std::iter;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;
/// The bit of a message's last frame.
const FIN: u8 = 0x80;
/// The bit of a compressed message's first frame.
const RSV1: u8 = 0x40;
const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// A frame: its first byte, and what it carries.
type Frame = (u8, Vec<u8>);

/// One or more cases of the suite.
pub struct Case {
    /// Their numbers, and what is special.
    pub name: String,
    /// What a caller sends.
    pub masked: Vec<u8>,
    /// What a container sends.
    pub unmasked: Vec<u8>,
    /// Octets of a piece when it is sent in pieces.
    pub chop: usize,
    /// The lines of `Sec-WebSocket-Extensions` that the caller sends.
    pub offer: &'static [&'static str],
    /// Those that the container answers.
    pub taken: &'static [&'static str],
}

impl Case {
    fn new(name: impl Into<String>, frames: Vec<Frame>) -> Self {
        let (masked, unmasked) = (masked(&frames), unmasked(&frames));
        Self { name: name.into(), masked, unmasked, chop: 1, offer: &[], taken: &[] }
    }

    const fn chopped(mut self, chop: usize) -> Self {
        self.chop = chop;
        self
    }
}

fn masked(frames: &[Frame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, (first, payload)) in frames.iter().enumerate() {
        // Another key for each frame.
        let key = u32::try_from(number).unwrap().wrapping_mul(0x9E37_79B9).wrapping_add(0x37FA_213D).to_be_bytes();
        head(&mut bytes, *first, payload.len(), 0x80);
        bytes.extend(key);
        bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    }
    bytes
}

fn unmasked(frames: &[Frame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (first, payload) in frames {
        head(&mut bytes, *first, payload.len(), 0);
        bytes.extend(payload);
    }
    bytes
}

fn head(bytes: &mut Vec<u8>, first: u8, length: usize, mask: u8) {
    bytes.push(first);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => bytes.push(mask | short),
        (_, Ok(middle)) => {
            bytes.push(mask | 126);
            bytes.extend(middle.to_be_bytes());
        }
        _ => {
            bytes.push(mask | 127);
            bytes.extend(u64::try_from(length).unwrap().to_be_bytes());
        }
    }
}

/// Octets that are not the same anywhere near: a piece that is lost, doubled or moved shows.
fn octets(count: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_u32;
    iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
    .take(count)
    .collect()
}

fn text(count: usize) -> Vec<u8> {
    octets(count).into_iter().map(|octet| b' ' + octet % 94).collect()
}

fn payload(opcode: u8, count: usize) -> Vec<u8> {
    if opcode == TEXT { text(count) } else { octets(count) }
}

fn frame(first: u8, payload: impl AsRef<[u8]>) -> Frame {
    (first, payload.as_ref().to_vec())
}

fn closing(code: u16, reason: &[u8]) -> Frame {
    (FIN | CLOSE, [&code.to_be_bytes(), reason].concat())
}

/// A message in fragments of a size.
fn fragments(first: u8, message: &[u8], size: usize) -> Vec<Frame> {
    let last = message.len().div_ceil(size) - 1;
    let part = |(number, part)| {
        let opcode = if number == 0 { first } else { CONTINUATION };
        frame(if number == last { FIN | opcode } else { opcode }, part)
    };
    message.chunks(size).enumerate().map(part).collect()
}

fn with_close(mut frames: Vec<Frame>) -> Vec<Frame> {
    frames.push(closing(1000, b""));
    frames
}

pub fn framing() -> Vec<Case> {
    let mut cases = Vec::new();
    for (group, opcode) in [(1, TEXT), (2, BINARY)] {
        for (number, size) in [0, 125, 126, 127, 128, 65_535, 65_536].into_iter().enumerate() {
            let name = format!("1.{group}.{}: {size} octets", number + 1);
            let frames = with_close(vec![frame(FIN | opcode, payload(opcode, size))]);
            // 1.1.8 and 1.2.8 are the last of these in pieces of 997.
            cases.push(Case::new(name, frames).chopped(if size > 128 { 997 } else { 1 }));
        }
    }
    cases
}

pub fn pings() -> Vec<Case> {
    let ping = |payload: &[u8]| frame(FIN | PING, payload);
    let ten = (0..10_u8).map(|number| ping(&[b'0' + number])).collect();
    let unasked = vec![frame(FIN | PONG, "unsolicited"), ping(b"ping"), frame(FIN | PONG, "ping")];
    vec![
        Case::new("2.1: an empty ping", with_close(vec![ping(b"")])),
        Case::new("2.2: a ping with text", with_close(vec![ping(b"Hello, world!")])),
        Case::new("2.3: a ping with octets", with_close(vec![ping(b"\x00\xFF\xFE\xFD\xFC\xFB\x00\xFF")])),
        Case::new("2.4, 2.6: a ping of 125", with_close(vec![ping(&[0xFE; 125])])),
        Case::new("2.5: a ping of 126, which is one too many", with_close(vec![ping(&[0xFE; 126])])),
        Case::new("2.7: an unsolicited empty pong", with_close(vec![frame(FIN | PONG, "")])),
        Case::new("2.8, 2.9: an unsolicited pong, then a ping", with_close(unasked)),
        Case::new("2.10, 2.11: ten pings", with_close(ten)),
    ]
}

pub fn reserved_bits() -> Vec<Case> {
    let case = |bits: u8| {
        let (hello, bits_at) = (frame(FIN | TEXT, "Hello"), bits << 4);
        let frames = [TEXT, BINARY, PING, CLOSE].map(|opcode| frame(FIN | bits_at | opcode, "*"));
        Case::new(format!("3.{bits}: reserved bits {bits:03b}"), iter::once(hello).chain(frames).collect())
    };
    (1..=7).map(case).collect()
}

pub fn reserved_opcodes() -> Vec<Case> {
    let case = |opcode: u8| {
        let frames =
            vec![frame(FIN | TEXT, "Hello"), frame(FIN | opcode, ""), frame(opcode, text(200)), frame(FIN | PING, "")];
        Case::new(format!("4.{}: opcode {opcode}", if opcode < 8 { 1 } else { 2 }), frames)
    };
    (3..=7).chain(11..=15).map(case).collect()
}

pub fn fragmentation() -> Vec<Case> {
    let part = |first: u8, text: &str| frame(first, text);
    let ping = || frame(FIN | PING, "between");
    let two = || [part(TEXT, "fragment1"), part(FIN, "fragment2")];
    let [first, second] = two();
    let five = |opcode| {
        let mut frames = fragments(opcode, b"fragment1fragment2fragment3fragment4fragment5", 9);
        frames.insert(4, ping());
        frames.insert(2, ping());
        with_close(frames)
    };
    vec![
        Case::new("5.1: a ping in fragments", vec![part(PING, "fragment1"), part(FIN, "fragment2")]),
        Case::new("5.2: a pong in fragments", vec![part(PONG, "fragment1"), part(FIN, "fragment2")]),
        Case::new("5.3-5.5: two fragments", with_close(two().to_vec())),
        Case::new("5.6-5.8: a ping between them", with_close(vec![first, ping(), second])),
        Case::new("5.9-5.14: an end of nothing", vec![part(FIN, "no start"), part(FIN | TEXT, "Hello")]),
        Case::new(
            "5.15: one end too many",
            two().into_iter().chain([part(CONTINUATION, "3"), part(FIN | TEXT, "4")]).collect(),
        ),
        Case::new("5.16, 5.17: a middle of nothing", [part(CONTINUATION, "0")].into_iter().chain(two()).collect()),
        Case::new("5.18: two starts", vec![part(TEXT, "fragment1"), part(FIN | TEXT, "fragment2")]),
        Case::new("5.19: five fragments, pings in between", five(TEXT)),
        Case::new("5.20: the same, binary", five(BINARY)),
    ]
}

pub fn utf8() -> Vec<Case> {
    const VALID: &str = "Hello-µ@ßöäüàá-UTF-8!! κόσμε \u{10FFFF}\u{FFFE}\u{D7FF}\u{E000}";
    const INVALID: &[(&str, &[u8])] = &[
        ("6.3: surrogates within", b"\xCE\xBA\xE1\xBD\xB9\xCF\x83\xCE\xBC\xCE\xB5\xED\xA0\x80edited"),
        ("6.4: above U+10FFFF, fail fast", b"\xCE\xBA\xE1\xBD\xB9\xCF\x83\xCE\xBC\xCE\xB5\xF4\x90\x80\x80edited"),
        ("6.6: cut off", b"\xCE\xBA\xE1\xBD\xB9\xCF"),
        ("6.8: first sequences that are too long", b"\xF8\x88\x80\x80\x80\xFC\x84\x80\x80\x80\x80"),
        ("6.12, 6.13: lone continuations and starts", b"\x80\xBF\x80\xC0 \xC1 \xE0 \xF0 \xF8 \xFC "),
        ("6.14, 6.15: the last octet is missing", b"\xC0\xE0\x80\xF0\x80\x80\xDF\xEF\xBF\xF7\xBF\xBF"),
        ("6.16: impossible octets", b"\xFE\xFF\xFE\xFE\xFF\xFF"),
        ("6.17-6.19: overlong", b"\xC0\xAF\xE0\x80\xAF\xF0\x80\x80\xAF\xC1\xBF\xC0\x80"),
        ("6.20, 6.21: surrogates", b"\xED\xA0\x80\xED\xBF\xBF\xED\xA0\x80\xED\xB0\x80"),
    ];
    let empty = vec![frame(TEXT, ""), frame(CONTINUATION, "middle"), frame(FIN, ""), frame(FIN | TEXT, "")];
    let valid = || VALID.as_bytes();
    let mut cases = vec![
        Case::new("6.1: empty messages and fragments", with_close(empty)),
        Case::new("6.2.1, 6.5, 6.7, 6.9-6.11, 6.22: valid", with_close(vec![frame(FIN | TEXT, valid())])),
        Case::new("6.2.2: split within a character", with_close(fragments(TEXT, valid(), 7))),
        Case::new("6.2.3, 6.2.4: an octet a fragment", with_close(fragments(TEXT, valid(), 1))),
    ];
    for (name, octets) in INVALID {
        // Sent octet by octet in step: whoever fails fast can do so at the octet that is wrong, since it arrives before what follows.
        cases.push(Case::new(*name, vec![frame(FIN | TEXT, octets)]));
        cases.push(Case::new(format!("{name}, an octet a fragment"), fragments(TEXT, octets, 1)));
    }
    cases
}

pub fn closes() -> Vec<Case> {
    // 7.7, 7.9 and 7.13: codes that may be sent, that may not, and that mean nothing.
    const CODES: [u16; 30] = [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999, 0, 999, 1004, 1005, 1006, 1012,
        1013, 1014, 1015, 1016, 1100, 2000, 2999, 5000, 10_000, 65_534, 65_535,
    ];
    let close = || closing(1000, b"");
    let hello = || frame(FIN | TEXT, "Hello World!");
    let after = |name: &str, more: Frame| Case::new(name, vec![hello(), close(), more]);
    let within = vec![frame(TEXT, "fragment1"), close(), frame(FIN, "fragment2")];
    let large = vec![frame(FIN | TEXT, text(256 * KIB)), hello(), close(), frame(FIN | PING, "")];
    let mut cases = vec![
        Case::new("7.1.1: a message, then a close", vec![hello(), close()]),
        after("7.1.2: two closes", close()),
        after("7.1.3: a ping after the close", frame(FIN | PING, "")),
        after("7.1.4: a message after the close", hello()),
        Case::new("7.1.5: a close between fragments", within),
        Case::new("7.1.6: 256 KiB, a close, a ping", large).chopped(4096),
        Case::new("7.3.1: a close without a code", vec![frame(FIN | CLOSE, "")]),
        Case::new("7.3.2: a close of one octet", vec![frame(FIN | CLOSE, "a")]),
        Case::new("7.3.3, 7.3.4: a reason", vec![closing(1000, b"Hello World!")]),
        Case::new("7.3.5: the longest reason", vec![closing(1000, &[b'*'; 123])]),
        Case::new("7.3.6: one octet more", vec![closing(1000, &[b'*'; 124])]),
        Case::new("7.5.1: a reason that is not UTF-8", vec![closing(1000, b"\xCE\xBA\xED\xA0\x80edited")]),
    ];
    cases.extend(CODES.map(|code| Case::new(format!("7.7, 7.9, 7.13: code {code}"), vec![closing(code, b"reason")])));
    cases
}

pub fn large_messages() -> Vec<Case> {
    let mut cases = Vec::new();
    for (group, opcode) in [(1, TEXT), (2, BINARY)] {
        for (number, size) in [64 * KIB, 256 * KIB, MIB, 4 * MIB, 8 * MIB, 16 * MIB].into_iter().enumerate() {
            let frames = with_close(vec![frame(FIN | opcode, payload(opcode, size))]);
            cases.push(Case::new(format!("9.{group}.{}: {size} octets", number + 1), frames).chopped(size / 64));
        }
    }
    cases
}

pub fn large_in_parts() -> Vec<Case> {
    let mut cases = Vec::new();
    for (group, opcode) in [(3, TEXT), (4, BINARY)] {
        for (number, size) in
            [64, 256, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB].into_iter().enumerate()
        {
            let frames = with_close(fragments(opcode, &payload(opcode, 4 * MIB), size));
            cases.push(Case::new(format!("9.{group}.{}: 4 MiB, fragments of {size}", number + 1), frames).chopped(MIB));
        }
    }
    for (group, opcode) in [(5, TEXT), (6, BINARY)] {
        for (number, chop) in [64, 128, 256, 512, 1024, 2048].into_iter().enumerate() {
            let frames = with_close(vec![frame(FIN | opcode, payload(opcode, MIB))]);
            cases.push(Case::new(format!("9.{group}.{}: 1 MiB, pieces of {chop}", number + 1), frames).chopped(chop));
        }
    }
    cases
}

pub fn many_messages() -> Vec<Case> {
    let mut cases = Vec::new();
    for (group, opcode) in [(7, TEXT), (8, BINARY)] {
        for (number, size) in [0, 16, 64, 256, KIB, 4 * KIB].into_iter().enumerate() {
            let message = frame(FIN | opcode, payload(opcode, size));
            // A message a piece: each has arrived before the next is sent. The caller's masks make its frames longer than the container's.
            let chop = size + if size < 126 { 6 } else { 8 };
            let frames = with_close(vec![message; 1000]);
            cases.push(Case::new(format!("9.{group}.{}: 1000 messages of {size}", number + 1), frames).chopped(chop));
        }
    }
    cases
}

pub fn automatic_fragments() -> Vec<Case> {
    let frames = with_close(fragments(TEXT, &text(65_536), 1300));
    vec![Case::new("10.1.1: 64 KiB in fragments of 1300", frames).chopped(1300)]
}

/// Parameters as the suite's groups 12 and 13 offer them, and answers to them.
const PARAMETERS: [(&str, &[&str], &[&str]); 9] = [
    ("12.*, 13.1", &["permessage-deflate"], &["permessage-deflate"]),
    ("an offer that is not taken", &["permessage-deflate"], &[]),
    ("12.*, 13.1", &["permessage-deflate; client_max_window_bits"], &["permessage-deflate; client_max_window_bits=15"]),
    ("13.2", &["permessage-deflate; server_no_context_takeover"], &["permessage-deflate; server_no_context_takeover"]),
    ("13.3", &["permessage-deflate; server_max_window_bits=9"], &["permessage-deflate; server_max_window_bits=9"]),
    ("13.4", &["permessage-deflate;  server_max_window_bits=15"], &["permessage-deflate;server_max_window_bits=15"]),
    (
        "13.5, 13.6",
        &[
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9; client_max_window_bits=9",
        ],
        &["permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9"],
    ),
    (
        "13.7",
        &[
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=\"9\", permessage-deflate; server_no_context_takeover, \
           permessage-deflate",
        ],
        &["permessage-deflate; server_no_context_takeover"],
    ),
    ("13.7 in two lines", &["x-unknown; a=1", "permessage-deflate; client_max_window_bits"], &["permessage-deflate"]),
];

pub fn deflate() -> Vec<Case> {
    // RFC 7692, 7.2.3: one block, a block without compression, BFINAL, two blocks, and a message that refers to the one before.
    let hello = b"\xF2\x48\xCD\xC9\xC9\x07\x00";
    let mut frames = vec![
        frame(FIN | RSV1 | TEXT, hello),
        frame(FIN | RSV1 | TEXT, b"\xF2\x00\x11\x00\x00"),
        frame(RSV1 | TEXT, &hello[..3]),
        frame(FIN | PING, "between"),
        frame(FIN, &hello[3..]),
        frame(FIN | RSV1 | TEXT, b"\x00\x05\x00\xFA\xFFHello\x00"),
        frame(FIN | RSV1 | TEXT, b"\xF3\x48\xCD\xC9\xC9\x07\x00\x00"),
        frame(FIN | RSV1 | TEXT, b"\xF2\x48\x05\x00\x00\x00\xFF\xFF\xCA\xC9\xC9\x07\x00"),
        frame(FIN | TEXT, "not compressed"),
    ];
    // Octets that a deflater cannot make smaller are what its output looks like.
    for size in [16, 64, 256, KIB, 4 * KIB, 8 * KIB, 16 * KIB, 32 * KIB, 64 * KIB, 128 * KIB] {
        frames.push(frame(FIN | RSV1 | BINARY, octets(size)));
        frames.extend(fragments(RSV1 | BINARY, &octets(size), size.min(KIB)));
    }
    let frames = with_close(frames);
    let case = |(name, offer, taken): (&str, _, _)| {
        let case = Case::new(format!("{name}: {offer:?}"), frames.clone()).chopped(997);
        Case { offer, taken, ..case }
    };
    PARAMETERS.map(case).into()
}
