//! The chunked coding (RFC 9112 §7.1), taken apart piece by piece as it comes. No I/O, and nothing is copied: the
//! decoder says what the next bytes are, and whoever relays them may send them on as they stand.
//!
//! Anything that RFC 9112 does not allow is a fault. Chunk extensions end here (§7.1.1).

use super::head::{HeadFault, HeadParser, MAX_HEAD, is_value_byte};

/// Bytes of extensions that one body may have.
const MAX_EXTENSIONS: usize = 16 << 10;
/// Digits of a chunk's size; more than any length needs.
const MAX_DIGITS: u8 = 16;

/// What is wrong with a body's framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ChunkFault(pub &'static str);

impl From<HeadFault> for ChunkFault {
    fn from(fault: HeadFault) -> Self {
        match fault {
            HeadFault::Malformed(why) => Self(why),
            HeadFault::TooLarge | HeadFault::Version => Self("its trailers are too large"),
        }
    }
}

/// What the next bytes of a body are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Content.
    Data(usize),
    /// A size, or the end of a line.
    Framing(usize),
    /// Nothing that is passed on.
    Extension(usize),
    /// The whole trailer section with the empty line at its end. The body ends with it.
    Trailers(usize),
    /// Not enough bytes to say.
    NeedMore,
    /// The body is over.
    End,
}

/// Reads one chunked body.
#[derive(Debug)]
pub(crate) struct ChunkDecoder {
    state: State,
    extensions: usize,
}

#[derive(Debug)]
enum State {
    Size { value: u64, digits: u8 },
    Extension { value: u64 },
    SizeLf { value: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    Trailers(Box<HeadParser>),
    Over,
}

impl Default for ChunkDecoder {
    fn default() -> Self {
        Self { state: State::Size { value: 0, digits: 0 }, extensions: 0 }
    }
}

impl ChunkDecoder {
    /// What `input` begins with. The next call gets what is behind it.
    pub(crate) fn next(&mut self, input: &[u8]) -> Result<Piece, ChunkFault> {
        if let State::Trailers(parser) = &mut self.state {
            return match parser.advance(input)? {
                Some(length) => Ok(Piece::Trailers(length)),
                None if input.len() > MAX_HEAD => Err(ChunkFault("its trailers are too large")),
                None => Ok(Piece::NeedMore),
            };
        }
        let Some(&first) = input.first() else {
            return Ok(if matches!(self.state, State::Over) { Piece::End } else { Piece::NeedMore });
        };
        match &mut self.state {
            State::Over => Ok(Piece::End),
            State::Data { left } => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= count as u64;
                if *left == 0 {
                    self.state = State::DataCr;
                }
                Ok(Piece::Data(count))
            }
            State::DataCr if first == b'\r' => {
                self.state = State::DataLf;
                Ok(Piece::Framing(1))
            }
            State::DataLf if first == b'\n' => {
                self.state = State::Size { value: 0, digits: 0 };
                Ok(Piece::Framing(1))
            }
            State::DataCr | State::DataLf => Err(ChunkFault("a chunk is longer than its size says")),
            State::Extension { .. } => self.extension(input),
            State::Size { .. } | State::SizeLf { .. } => self.size(input),
            State::Trailers(_) => Ok(Piece::NeedMore),
        }
    }

    /// The trailers that were found have been taken: the body is over.
    pub(crate) fn take_trailers(&mut self) -> Option<Box<HeadParser>> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Trailers(parser) => Some(parser),
            _ => None,
        }
    }

    /// A size with the end of its line, as far as they are here.
    fn size(&mut self, input: &[u8]) -> Result<Piece, ChunkFault> {
        for (at, &byte) in input.iter().enumerate() {
            match (&mut self.state, byte) {
                (State::Size { value, digits }, _) if byte.is_ascii_hexdigit() => {
                    let digit = char::from(byte).to_digit(16).unwrap_or(0);
                    *digits += 1;
                    if *digits > MAX_DIGITS || *value >> 58 != 0 {
                        return Err(ChunkFault("a chunk's size is too large"));
                    }
                    *value = *value << 4 | u64::from(digit);
                }
                (State::Size { digits: 0, .. }, _) => return Err(ChunkFault("a chunk's size is no number")),
                (State::Size { value, .. }, b'\r') => self.state = State::SizeLf { value: *value },
                (State::Size { value, .. }, b';') => {
                    self.state = State::Extension { value: *value };
                    return if at > 0 { Ok(Piece::Framing(at)) } else { self.extension(input) };
                }
                (State::SizeLf { value }, b'\n') => {
                    self.state = match *value {
                        0 => State::Trailers(Box::new(HeadParser::trailers())),
                        left => State::Data { left },
                    };
                    return Ok(Piece::Framing(at + 1));
                }
                _ => return Err(ChunkFault("a chunk's size is followed by something else")),
            }
        }
        Ok(Piece::Framing(input.len()))
    }

    fn extension(&mut self, input: &[u8]) -> Result<Piece, ChunkFault> {
        let State::Extension { value } = self.state else { return Ok(Piece::NeedMore) };
        let length = input.iter().position(|&byte| !is_value_byte(byte)).unwrap_or(input.len());
        self.extensions += length;
        if self.extensions > MAX_EXTENSIONS {
            return Err(ChunkFault("its chunk extensions are too large"));
        }
        match input.get(length) {
            None => {}
            Some(b'\r') => self.state = State::Size { value, digits: 1 },
            Some(_) => return Err(ChunkFault("a chunk extension has a control byte in it")),
        }
        Ok(Piece::Extension(length))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Decoded = (Vec<u8>, Vec<u8>, Vec<u8>, usize);

    /// What a body is, with each piece cut at `step` bytes: its content, what is relayed of its framing and content,
    /// its trailers, and what is left behind it.
    fn decode(text: &[u8], step: usize) -> Result<Option<Decoded>, ChunkFault> {
        let mut decoder = ChunkDecoder::default();
        let (mut from, mut to) = (0, 0);
        let (mut content, mut relayed) = (Vec::new(), Vec::new());
        loop {
            let input = &text[from..to];
            match decoder.next(input)? {
                Piece::Data(count) => {
                    assert!(count > 0);
                    content.extend_from_slice(&input[..count]);
                    relayed.extend_from_slice(&input[..count]);
                    from += count;
                }
                Piece::Framing(count) => {
                    assert!(count > 0);
                    relayed.extend_from_slice(&input[..count]);
                    from += count;
                }
                Piece::Extension(count) => from += count,
                Piece::Trailers(count) => {
                    let trailers = input[..count].to_vec();
                    assert!(decoder.take_trailers().is_some());
                    assert_eq!(decoder.next(&[])?, Piece::End);
                    return Ok(Some((content, relayed, trailers, from + count)));
                }
                Piece::NeedMore if to == text.len() => return Ok(None),
                Piece::NeedMore => to = (to + step).min(text.len()),
                Piece::End => panic!("the end comes with the trailers"),
            }
        }
    }

    #[test]
    fn bodies_are_taken_apart() {
        for (text, content, relayed, trailers) in [
            ("0\r\n\r\n", "", "0\r\n", "\r\n"),
            ("3\r\nabc\r\n0\r\n\r\n", "abc", "3\r\nabc\r\n0\r\n", "\r\n"),
            ("00A\r\n0123456789\r\n000\r\n\r\n", "0123456789", "00A\r\n0123456789\r\n000\r\n", "\r\n"),
            ("1;a\r\nx\r\n0;b=\"c d\";e\r\n\r\n", "x", "1\r\nx\r\n0\r\n", "\r\n"),
            ("2\r\n\r\n\r\n0\r\nX: 1\r\nY: 2\r\n\r\n", "\r\n", "2\r\n\r\n\r\n0\r\n", "X: 1\r\nY: 2\r\n\r\n"),
        ] {
            for step in [1, 2, 3, 100] {
                let text = [text.as_bytes(), b"next"].concat();
                let (found, passed, rest, end) = decode(&text, step).unwrap().unwrap();
                assert_eq!((found, passed, rest), (content.into(), relayed.into(), trailers.into()), "{text:?} {step}");
                assert_eq!(&text[end..], b"next");
            }
        }
    }

    #[test]
    fn what_breaks_the_rules_is_a_fault() {
        let long = format!("1;{}\r\nx\r\n0\r\n\r\n", "x".repeat(17 << 10));
        let digits = format!("{}1\r\nx", "0".repeat(16));
        for (rule, text) in [
            ("§7.1 a size is a number", "\r\n"),
            ("§7.1 a size is a number", "x\r\n"),
            ("§7.1 a size is a number", "-1\r\nx"),
            ("§7.1 a size is a number", "+1\r\nx"),
            ("§7.1 a size is a number", "0x1\r\nx"),
            ("§7.1 a size is a number", " 1\r\nx"),
            ("§7.1 a size is a number", ";a\r\n"),
            ("§7.1 nothing between size and end", "1 \r\nx"),
            ("§7.1 nothing between size and end", "1\t;a\r\nx"),
            ("§7.1 sizes do not overflow", "10000000000000000\r\n"),
            ("§7.1 sizes do not overflow", "ffffffffffffffff\r\n"),
            ("§7.1 sizes do not overflow", &digits),
            ("§2.2 no bare LF", "1\nx\r\n0\r\n\r\n"),
            ("§2.2 no bare LF", "1;a\nx\r\n0\r\n\r\n"),
            ("§2.2 no bare LF", "1\r\nx\n0\r\n\r\n"),
            ("§2.2 no bare LF", "0\r\n\n"),
            ("§2.2 no bare LF", "0\r\nX: a\n\r\n"),
            ("§2.2 no bare CR", "1\rx"),
            ("§2.2 no bare CR", "1;a\rb\r\nx"),
            ("§2.2 no bare CR", "1\r\nx\r0\r\n\r\n"),
            ("§7.1 chunks have their size", "1\r\nxy\r\n0\r\n\r\n"),
            ("§7.1.1 no control bytes", "1;a\0\r\nx"),
            ("§7.1.1 extensions are limited", &long),
            ("§7.1.2 trailers are fields", "0\r\nX : a\r\n\r\n"),
            ("§7.1.2 trailers are fields", "0\r\n folded\r\n\r\n"),
            ("§7.1.2 trailers are fields", "0\r\nGET / HTTP/1.1\r\n\r\n"),
        ] {
            for step in [1, 7, 100_000] {
                assert!(decode(text.as_bytes(), step).is_err(), "{rule}: {text:?} by {step}");
            }
        }
        let many = format!("0\r\n{}\r\n", "X: 1\r\n".repeat(129));
        assert!(decode(many.as_bytes(), 100_000).is_err());
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_body(
            text in proptest::collection::vec(prop_oneof![
                4 => Just(b"1\r\nx\r\n".to_vec()), 2 => Just(b"0\r\n".to_vec()), 2 => Just(b"\r\n".to_vec()),
                1 => Just(b"A: b\r\n".to_vec()), 1 => Just(b";e".to_vec()), 1 => Just(b"\n".to_vec()),
                1 => proptest::collection::vec(any::<u8>(), 0..4),
            ], 0..8),
            step in 1_usize..20,
        ) {
            let text = text.concat();
            let (whole, pieces) = (decode(&text, usize::MAX / 2), decode(&text, step));
            prop_assert_eq!(whole.is_err(), pieces.is_err());
            prop_assert_eq!(whole.ok(), pieces.ok());
        }
    }
}
