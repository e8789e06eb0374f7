//! The hashes of keys that were sent here before.
//!
//! Callers send the same few keys again and again, and to hash one costs a tenth of what a request does. So each thread
//! remembers some, of those only that open something: with their texts, which are in the memory of their connections anyhow,
//! and are wiped when another takes their place.

use std::{array::from_fn, cell::RefCell};

use towline_model::{KeyHash, Secret};

/// How many keys a thread remembers; those that share a place push each other out.
const PLACES: usize = 64;

type Seen = [Option<(Secret<String>, KeyHash)>; PLACES];

thread_local! {
    static SEEN: RefCell<Seen> = RefCell::new(from_fn(|_| None));
}

/// Looks a key up by its hash.
pub(crate) fn look_up<T>(text: &str, by_hash: impl FnOnce(&KeyHash) -> Option<T>) -> Option<T> {
    SEEN.with_borrow_mut(|seen| {
        let seen = &mut seen[place_of(text)];
        if let Some((known, hash)) = seen
            && is_same(known.expose().as_bytes(), text.as_bytes())
        {
            return by_hash(hash);
        }
        let hash = KeyHash::of(text);
        let found = by_hash(&hash)?;
        *seen = Some((Secret::new(text.to_owned()), hash));
        Some(found)
    })
}

/// Characters behind the kind are random.
fn place_of(text: &str) -> usize {
    let sum = text.bytes().skip(3).take(4).fold(0_usize, |sum, byte| sum * 31 + usize::from(byte));
    sum % PLACES
}

/// Compares in a time that does not tell where the first difference is.
fn is_same(known: &[u8], text: &[u8]) -> bool {
    known.len() == text.len()
        && std::iter::zip(known, text).fold(0, |differs, (one, other)| differs | (one ^ other)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_looked_up_by_its_own_hash() {
        // More than there are places, and twice, so that all of them are remembered and pushed out.
        for number in (0..300).chain(0..300) {
            let text = format!("sk-{number}");
            assert_eq!(look_up(&text, |hash| Some(*hash)), Some(KeyHash::of(&text)));
            assert_eq!(look_up(&text, |hash| Some(*hash)), Some(KeyHash::of(&text)));
            assert_eq!(look_up(&text, |_| None::<()>), None, "what it opens is asked each time");
        }
    }

    #[test]
    fn only_keys_that_open_something_are_remembered() {
        let is_known = |text: &str| {
            SEEN.with_borrow(|seen| seen[place_of(text)].as_ref().is_some_and(|(known, _)| known.expose() == text))
        };
        assert_eq!(look_up("sk-guess", |_| None::<()>), None);
        assert!(!is_known("sk-guess"));
        assert_eq!(look_up("sk-right", |_| Some(())), Some(()));
        assert!(is_known("sk-right"));
        // Nor does a guess push out what another has sent.
        let guess = (0..).map(|number| format!("sk-right{number}")).find(|text| place_of(text) == place_of("sk-right"));
        assert_eq!(look_up(&guess.unwrap(), |_| None::<()>), None);
        assert!(is_known("sk-right"));
    }
}
