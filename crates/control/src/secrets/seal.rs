//! The seal: ChaCha20-Poly1305 (RFC 8439) under one key, bound to one row.
//!
//! Sealed is `1.` and, in base64url without padding, a random nonce of 96 bits, the ciphertext and the tag. The associated
//! data is the version, the key's id, the team's id and the row's id. A key seals far fewer values than the 2³² for which
//! random nonces of this length are safe (each write of a secret is one); rotating starts anew.

use std::fmt::Write as _;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest,
};
use towline_model::{Secret, SecretId, TeamId};

/// What a sealed text starts with.
const VERSION: &str = "1.";
/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Characters of a key's id.
const ID_CHARS: usize = 8;

/// A key, and its id: the beginning of a hash of it. So a key that was copied wrongly does not fit its id, and two keys
/// never share one by mistake.
pub struct SealingKey {
    id: String,
    bytes: Secret<[u8; KEY_BYTES]>,
}

/// Where a value belongs.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The team.
    pub team_id: TeamId,
    /// The row.
    pub id: SecretId,
}

/// A sealed value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The id of the key that opens it.
    pub key_id: String,
    /// The sealed value as it is stored.
    pub text: String,
}

/// Why a value does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Its key is not there.
    #[error(
        "it is sealed under the key {key_id}, which this server does not have; add that key to the secrets' keys, or set the \
         value anew"
    )]
    UnknownKey {
        /// The key's id.
        key_id: String,
    },
    /// It was changed, or it is in another row than the one that it was sealed for.
    #[error("what is stored was changed, or moved from another row; restore the row, or set the value anew")]
    Damaged,
}

impl SealingKey {
    /// Takes a key.
    #[must_use]
    pub fn new(bytes: Secret<[u8; KEY_BYTES]>) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"towline secrets key");
        context.update(bytes.expose());
        let mut id = String::with_capacity(ID_CHARS);
        for byte in &context.finish().as_ref()[..ID_CHARS / 2] {
            let _ = write!(id, "{byte:02x}");
        }
        Self { id, bytes }
    }

    /// Makes a key.
    #[must_use]
    pub fn generate() -> Self {
        Self::new(Secret::new(rand::random()))
    }

    /// Its id: 8 hexadecimal characters.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The key itself.
    #[must_use]
    pub const fn expose(&self) -> &[u8; KEY_BYTES] {
        self.bytes.expose()
    }

    fn aead(&self) -> LessSafeKey {
        let key = UnboundKey::new(&CHACHA20_POLY1305, self.bytes.expose());
        LessSafeKey::new(key.unwrap_or_else(|_| unreachable!("the key has the algorithm's length")))
    }

    fn associated_data(&self, place: Place) -> Aad<Vec<u8>> {
        let Place { team_id, id } = place;
        let mut data = format!("towline secret {VERSION}{}.", self.id).into_bytes();
        data.extend_from_slice(team_id.as_uuid().as_bytes());
        data.extend_from_slice(id.as_uuid().as_bytes());
        Aad::from(data)
    }
}

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SealingKey({})", self.id)
    }
}

/// Seals a value. Each time it comes out differently.
#[must_use]
pub fn seal(key: &SealingKey, place: Place, value: &Secret<String>) -> Sealed {
    let plain = value.expose().as_bytes();
    let nonce: [u8; NONCE_LEN] = rand::random();
    // With its final length from the start: a buffer that grew would leave the plain text behind.
    let mut whole = Vec::with_capacity(NONCE_LEN + plain.len() + CHACHA20_POLY1305.tag_len());
    whole.extend_from_slice(&nonce);
    whole.extend_from_slice(plain);
    let (nonce, data) = (Nonce::assume_unique_for_key(nonce), key.associated_data(place));
    let tag = key.aead().seal_in_place_separate_tag(nonce, data, &mut whole[NONCE_LEN..]);
    let tag = tag.unwrap_or_else(|_| unreachable!("a value is far shorter than the algorithm's limit"));
    whole.extend_from_slice(tag.as_ref());
    Sealed { key_id: key.id.clone(), text: format!("{VERSION}{}", BASE64_URL_SAFE_NO_PAD.encode(&whole)) }
}

/// Opens a value that was sealed under this key for this place.
///
/// # Errors
/// [`OpenError::Damaged`] for everything else.
pub fn open(key: &SealingKey, place: Place, sealed: &str) -> Result<Secret<String>, OpenError> {
    let encoded = sealed.strip_prefix(VERSION).ok_or(OpenError::Damaged)?;
    let whole = BASE64_URL_SAFE_NO_PAD.decode(encoded).map_err(|_| OpenError::Damaged)?;
    let (nonce, ciphertext) = whole.split_first_chunk::<NONCE_LEN>().ok_or(OpenError::Damaged)?;
    let mut text = ciphertext.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let opened = key.aead().open_in_place(nonce, key.associated_data(place), &mut text);
    let length = opened.map_err(|_| OpenError::Damaged)?.len();
    text.truncate(length);
    let text = String::from_utf8(text).map_err(|error| {
        drop(Secret::new(error.into_bytes()));
        OpenError::Damaged
    })?;
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place() -> Place {
        Place { team_id: TeamId::generate(), id: SecretId::generate() }
    }

    fn secret(text: &str) -> Secret<String> {
        Secret::new(text.to_owned())
    }

    #[test]
    fn sealed_bytes_differ_each_time_and_hold_nothing_of_the_value() {
        let (key, place) = (SealingKey::generate(), place());
        let (one, two) = (seal(&key, place, &secret("hunter2hunter2")), seal(&key, place, &secret("hunter2hunter2")));
        assert_ne!(one.text, two.text);
        assert_ne!(one.text[..18], two.text[..18], "the nonces differ");
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(&one.text[2..]).unwrap();
        assert!(!bytes.windows(7).any(|window| window == b"hunter2"));
        assert_eq!(bytes.len(), 12 + 14 + 16);
        assert_eq!(open(&key, place, &one.text).unwrap().expose(), "hunter2hunter2");
    }

    #[test]
    fn a_value_opens_in_its_place_only() {
        let (key, home) = (SealingKey::generate(), place());
        let sealed = seal(&key, home, &secret("x")).text;
        for other in [
            Place { team_id: TeamId::generate(), ..home },
            Place { id: SecretId::generate(), ..home },
            // The two ids changed places.
            Place { team_id: TeamId::from_uuid(home.id.as_uuid()), id: SecretId::from_uuid(home.team_id.as_uuid()) },
        ] {
            assert_eq!(open(&key, other, &sealed).unwrap_err(), OpenError::Damaged);
        }
        assert_eq!(open(&SealingKey::generate(), home, &sealed).unwrap_err(), OpenError::Damaged);
    }

    #[test]
    fn the_format_never_changes() {
        // If this fails, what is stored can be opened no more.
        let place = Place {
            team_id: TeamId::from_uuid(uuid::Uuid::from_u128(1)),
            id: SecretId::from_uuid(uuid::Uuid::from_u128(2)),
        };
        let key = SealingKey::new(Secret::new([7; KEY_BYTES]));
        assert_eq!(key.id(), "bf4ae86b");
        assert_eq!(open(&key, place, "1.AAECAwQFBgcICQoLRBCdTwOWVdPeTWRuLhjHzc2SU0A4").unwrap().expose(), "hello");
    }

    #[test]
    fn a_key_is_not_logged() {
        let key = SealingKey::new(Secret::new([7; KEY_BYTES]));
        assert_eq!(format!("{key:?}"), format!("SealingKey({})", key.id()));
    }

    proptest! {
        #[test]
        fn every_value_comes_back(text in "\\PC{0,200}|[\\x01-\\x7f]{0,200}") {
            let (key, place) = (SealingKey::generate(), place());
            let sealed = seal(&key, place, &secret(&text));
            let opened = open(&key, place, &sealed.text).unwrap();
            prop_assert_eq!(opened.expose(), &text);
        }

        #[test]
        fn one_changed_character_and_it_stays_shut(text in "[a-z]{1,60}", at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_-]") {
            let (key, place) = (SealingKey::generate(), place());
            let sealed = seal(&key, place, &secret(&text)).text;
            let at = at.index(sealed.len());
            let mut changed = sealed.clone();
            changed.replace_range(at..=at, &to);
            if changed != sealed {
                prop_assert_eq!(open(&key, place, &changed).unwrap_err(), OpenError::Damaged);
            }
        }

        #[test]
        fn no_text_makes_the_opener_panic(text in "\\PC{0,80}", bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let (key, place) = (SealingKey::generate(), place());
            prop_assert!(open(&key, place, &text).is_err());
            let encoded = BASE64_URL_SAFE_NO_PAD.encode(&bytes);
            for sealed in [format!("1.{text}"), format!("1.{encoded}")] {
                prop_assert!(open(&key, place, &sealed).is_err());
            }
        }
    }
}
