//! Memory of heads, used again and again. A head is read, changed and written within microseconds, and what it is kept in until
//! then would otherwise be asked from the allocator and given back for each message.
//!
//! Each thread has some of its own. Whoever keeps a part of a head for longer keeps one block of memory with it: see [`text`].

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};

use crate::fields::Fields;

/// Bytes of a block that heads are copied into, one behind the other.
const BLOCK: usize = 4 << 10;
/// Longer heads have memory of their own, so that none of them keeps much more than itself.
const LONGEST: usize = 1 << 10;
/// Fields that are kept, and what one head of them may have memory for: bytes and lines.
const KEPT: usize = 8;
const ROOM: (usize, usize) = (4 << 10, 64);

#[derive(Default)]
struct Spare {
    block: BytesMut,
    fields: Vec<Fields>,
}

thread_local! {
    static SPARE: RefCell<Spare> = RefCell::default();
}

/// A copy of these bytes. While any part of it is held, so are the few KiB that it stands in.
pub(crate) fn text(bytes: &[u8]) -> Bytes {
    if bytes.len() > LONGEST {
        Bytes::copy_from_slice(bytes)
    } else {
        write(bytes.len(), |out| out.extend_from_slice(bytes))
    }
}

/// What is written, some `length` bytes. It is held like a [`text`].
pub(crate) fn write(length: usize, write: impl FnOnce(&mut BytesMut)) -> Bytes {
    SPARE.with_borrow_mut(|spare| {
        if spare.block.capacity() < length {
            // This begins at the front again when nobody holds any of it, and takes another block when somebody does.
            spare.block.reserve(BLOCK);
        }
        write(&mut spare.block);
        spare.block.split().freeze()
    })
}

/// No fields, with memory for some.
pub(crate) fn fields() -> Fields {
    SPARE.with_borrow_mut(|spare| spare.fields.pop()).unwrap_or_default()
}

/// Takes fields back that are not needed any more.
pub(crate) fn give_back(mut fields: Fields) {
    let (bytes, lines) = fields.capacity();
    if bytes > ROOM.0 || lines > ROOM.1 {
        return;
    }
    fields.clear();
    SPARE.with_borrow_mut(|spare| {
        if spare.fields.len() < KEPT {
            spare.fields.push(fields);
        }
    });
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header};

    use super::*;
    use crate::fields::Headers as _;

    #[test]
    fn what_is_held_stays_as_it_is() {
        let held: Vec<_> =
            (0..1000).map(|number: usize| text(number.to_string().repeat(number % 300).as_bytes())).collect();
        for (number, text) in held.iter().enumerate() {
            assert_eq!(*text, number.to_string().repeat(number % 300));
        }
        let long = vec![7; LONGEST + 1];
        assert_eq!(text(&long), long);
    }

    #[test]
    fn a_block_is_used_again_when_nobody_holds_any_of_it() {
        let first = text(b"x").as_ptr();
        let again = (0..2 * BLOCK).filter(|_| text(b"x").as_ptr() == first).count();
        assert!(again > 0);
    }

    #[test]
    fn fields_come_back_empty() {
        let mut used = fields();
        used.append(header::COOKIE, HeaderValue::from_static("a"));
        used.append(header::COOKIE, HeaderValue::from_static("b"));
        let room = used.capacity();
        give_back(used);
        let again = fields();
        assert!(again.is_empty() && !again.contains_key(header::COOKIE) && again.capacity() == room);
    }
}
