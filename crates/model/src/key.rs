//! The format of keys: `<kind>-<33 random base62 characters><6 base62 characters of CRC-32>`.
//!
//! The random part holds 196 bits. The checksum covers everything before it, so that a typo, a cut-off paste or a leak
//! scanner's false hit is recognised without a look-up. Only the SHA-256 and the first 12 characters are ever stored.

use std::fmt;

use rand::{CryptoRng, RngExt};
use serde::{Deserialize, Serialize};

use crate::Secret;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const RANDOM_CHARS: usize = 33;
const CHECKSUM_CHARS: usize = 6;
const PREFIX_CHARS: usize = 12;

/// What a key is for. The kind is visible in its first three characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// `sk-`: a program that calls services of the team.
    Integration,
    /// `dk-`: a user's device, acting as that user in one team.
    Device,
    /// `ak-`: an agent that joins the team.
    Agent,
}

impl KeyKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Integration, Self::Device, Self::Agent];

    /// The first three characters of a key of this kind.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Integration => "sk-",
            Self::Device => "dk-",
            Self::Agent => "ak-",
        }
    }

    /// The name in the API and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Integration => "integration",
            Self::Device => "device",
            Self::Agent => "agent",
        }
    }

    /// The kind that a text starts with, whatever follows.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| text.starts_with(kind.prefix()))
    }
}

/// Why a text is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It starts with none of the known prefixes.
    #[error("a key starts with sk-, dk- or ak-")]
    UnknownKind,
    /// Its length, alphabet or checksum is wrong.
    #[error("the key is incomplete or mistyped: its checksum does not match; copy it again")]
    Mistyped,
}

/// A whole key as its holder has it.
#[derive(Clone)]
pub struct RawKey {
    kind: KeyKind,
    text: Secret<String>,
}

impl RawKey {
    /// Makes a new key.
    pub fn generate<R: CryptoRng>(kind: KeyKind, rng: &mut R) -> Self {
        let mut text = String::with_capacity(kind.prefix().len() + RANDOM_CHARS + CHECKSUM_CHARS);
        text.push_str(kind.prefix());
        text.extend((0..RANDOM_CHARS).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])));
        let sum = checksum(&text);
        text.push_str(&sum);
        Self { kind, text: Secret::new(text) }
    }

    /// Reads a key and checks its checksum; no look-up is made.
    ///
    /// # Errors
    /// When the text cannot be a key that Towline made.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let kind = KeyKind::of(text).ok_or(KeyError::UnknownKind)?;
        let expected = kind.prefix().len() + RANDOM_CHARS + CHECKSUM_CHARS;
        if text.len() != expected || !text.is_ascii() {
            return Err(KeyError::Mistyped);
        }
        let (body, sum) = text.split_at(expected - CHECKSUM_CHARS);
        if checksum(body) != sum {
            return Err(KeyError::Mistyped);
        }
        Ok(Self { kind, text: Secret::new(text.to_owned()) })
    }

    /// What the key is for.
    #[must_use]
    pub const fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The part that is stored and shown to recognise the key by: its first 12 characters.
    #[must_use]
    pub fn visible_prefix(&self) -> &str {
        &self.text.expose()[..PREFIX_CHARS]
    }

    /// What is stored instead of the key. A fast hash is enough: the key has 196 random bits, nothing to guess.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        KeyHash::of(self.text.expose())
    }

    /// The key itself, to be shown once.
    #[must_use]
    pub const fn expose(&self) -> &String {
        self.text.expose()
    }
}

impl fmt::Debug for RawKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawKey({}…)", self.visible_prefix())
    }
}

/// The SHA-256 of a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// The hash of a presented text.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }

    /// A stored hash.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The hash as it is stored.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(…)")
    }
}

fn checksum(body: &str) -> String {
    let mut rest = crc32fast::hash(body.as_bytes());
    let mut digits = [b'0'; CHECKSUM_CHARS];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    digits.iter().map(|&byte| char::from(byte)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_is_read_back_and_shows_its_prefix_only() {
        for kind in KeyKind::ALL {
            let key = RawKey::generate(kind, &mut rand::rng());
            let again = RawKey::parse(key.expose()).unwrap();
            assert_eq!(again.kind(), kind);
            assert_eq!(again.hash(), key.hash());
            assert_eq!(key.visible_prefix().len(), 12);
            assert!(!format!("{key:?}").contains(&key.expose()[12..]));
        }
    }

    #[test]
    fn a_typo_is_seen_without_a_look_up() {
        let key = RawKey::generate(KeyKind::Integration, &mut rand::rng());
        for position in 3..key.expose().len() {
            let mut bytes = key.expose().clone().into_bytes();
            bytes[position] = if bytes[position] == b'A' { b'B' } else { b'A' };
            let typo = String::from_utf8(bytes).unwrap();
            assert_eq!(RawKey::parse(&typo).unwrap_err(), KeyError::Mistyped);
        }
        assert_eq!(RawKey::parse("Bearer").unwrap_err(), KeyError::UnknownKind);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            let _ = RawKey::parse(&text);
            let _ = RawKey::parse(&format!("sk-{text}"));
        }
    }
}
