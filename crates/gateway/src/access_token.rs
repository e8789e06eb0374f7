//! Users' access tokens: JWTs signed with Ed25519 (RFC 8037 `EdDSA`), and no other algorithm.
//!
//! The signature is made and checked with ring, the one cryptography library of this program. A token that was checked
//! once is remembered by its hash until it expires, so that a caller's next request costs one hash instead of one
//! signature check.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{Error as JwtError, ErrorKind},
    signature,
};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use towline_model::{KeyHash, Secret, SignInId, Timestamp, UserId};

const ISSUER: &str = "towline";
/// Tokens that are remembered as checked; about 64 bytes each.
const MAX_REMEMBERED: usize = 8192;

/// The signing key is not an Ed25519 key in PKCS#8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signing key is not an Ed25519 key in PKCS#8 form")]
pub struct InvalidSigningKey;

/// Why an access token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not one of ours.
    #[error("the access token was not issued by this server or was changed; sign in again")]
    Invalid,
    /// Its time is over.
    #[error("the access token has expired; get a new one with POST /api/v1/auth/refresh or sign in again")]
    Expired,
    /// Its sign-in was ended.
    #[error("this sign-in was ended, by signing out or by a new password; sign in again")]
    Ended,
}

/// Issues and checks access tokens with one signing key.
pub struct AccessTokens {
    signing: EncodingKey,
    verifying: DecodingKey,
    validation: Validation,
    remembered: Mutex<HashMap<KeyHash, Claims>>,
}

/// For whom an access token stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenHolder {
    /// The user.
    pub user_id: UserId,
    /// The sign-in that it goes back to.
    pub sign_in: SignInId,
}

/// What is read from a token; its issuer is checked beside it.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Claims {
    sub: UserId,
    sid: SignInId,
    exp: i64,
}

#[derive(Serialize)]
struct IssuedClaims {
    iss: &'static str,
    sub: UserId,
    /// The sign-in (OpenID Connect Front-Channel Logout 1.0 §3 names the claim).
    sid: SignInId,
    iat: i64,
    exp: i64,
    /// Makes each token unlike any other, also two of one second.
    jti: String,
}

impl AccessTokens {
    /// Takes a signing key, as [`AccessTokens::generate_pkcs8`] makes it.
    ///
    /// # Errors
    /// When it is not an Ed25519 key in PKCS#8 (version 1 or 2).
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, InvalidSigningKey> {
        // A second installation changes nothing: the provider of jsonwebtoken is one for the process.
        let _ = RING.install_default();
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|_| InvalidSigningKey)?;
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["iss", "sub", "exp"]);
        // The expiry is checked here, by the clock that the caller passes in.
        validation.validate_exp = false;
        validation.validate_aud = false;
        Ok(Self {
            signing: EncodingKey::from_ed_der(der),
            verifying: DecodingKey::from_ed_der(pair.public_key().as_ref()),
            validation,
            remembered: Mutex::default(),
        })
    }

    /// A new signing key from the machine's random source.
    #[must_use]
    pub fn generate_pkcs8() -> Secret<Vec<u8>> {
        let document = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new())
            .expect("the machine's random source works");
        Secret::new(document.as_ref().to_vec())
    }

    /// A token that stands for the user until `now + lifetime` (to the second).
    #[must_use]
    pub fn issue(&self, holder: TokenHolder, now: Timestamp, lifetime: Duration) -> Secret<String> {
        let claims = IssuedClaims {
            iss: ISSUER,
            sub: holder.user_id,
            sid: holder.sign_in,
            iat: now.as_unix_seconds(),
            exp: (now + lifetime).as_unix_seconds(),
            jti: format!("{:016x}", rand::random::<u64>()),
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &self.signing)
            .expect("the key was checked when it was taken and the claims are plain fields");
        Secret::new(token)
    }

    /// For whom the token stands, whether or not the sign-in goes on.
    ///
    /// # Errors
    /// When it was not issued with this key, or has expired.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<TokenHolder, TokenError> {
        let hash = KeyHash::of(token);
        let known = self.remembered().get(&hash).copied();
        let claims = match known {
            Some(claims) => claims,
            None => self.check(token)?,
        };
        if claims.exp <= now.as_unix_seconds() {
            self.remembered().remove(&hash);
            return Err(TokenError::Expired);
        }
        if known.is_none() {
            self.remember(hash, claims, now);
        }
        Ok(TokenHolder { user_id: claims.sub, sign_in: claims.sid })
    }

    fn check(&self, token: &str) -> Result<Claims, TokenError> {
        jsonwebtoken::decode::<Claims>(token, &self.verifying, &self.validation)
            .map(|data| data.claims)
            .map_err(|_| TokenError::Invalid)
    }

    fn remember(&self, hash: KeyHash, claims: Claims, now: Timestamp) {
        let mut remembered = self.remembered();
        if remembered.len() >= MAX_REMEMBERED {
            remembered.retain(|_, claims| claims.exp > now.as_unix_seconds());
        }
        if remembered.len() >= MAX_REMEMBERED {
            remembered.clear();
        }
        remembered.insert(hash, claims);
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, HashMap<KeyHash, Claims>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for AccessTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessTokens(…)")
    }
}

/// jsonwebtoken's choice of cryptography: Ed25519 by ring, nothing else.
static RING: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| {
        if *algorithm != Algorithm::EdDSA {
            return Err(JwtError::from(ErrorKind::InvalidAlgorithm));
        }
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.as_bytes())
            .map_err(|_| JwtError::from(ErrorKind::InvalidEddsaKey))?;
        Ok(Box::new(RingSigner(pair)))
    },
    verifier_factory: |algorithm, key| {
        if *algorithm != Algorithm::EdDSA {
            return Err(JwtError::from(ErrorKind::InvalidAlgorithm));
        }
        Ok(Box::new(RingVerifier(key.try_get_as_bytes()?.to_vec())))
    },
    key_utils: KeyUtils::new_unimplemented(),
};

struct RingSigner(Ed25519KeyPair);

impl signature::Signer<Vec<u8>> for RingSigner {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        Ok(self.0.sign(message).as_ref().to_vec())
    }
}

impl JwtSigner for RingSigner {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}

struct RingVerifier(Vec<u8>);

impl signature::Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    fn holder() -> TokenHolder {
        TokenHolder { user_id: UserId::generate(), sign_in: SignInId::generate() }
    }

    fn tokens() -> AccessTokens {
        AccessTokens::from_pkcs8(AccessTokens::generate_pkcs8().expose()).unwrap()
    }

    #[test]
    fn a_token_stands_for_its_user_until_it_expires() {
        let tokens = tokens();
        let user = holder();
        let token = tokens.issue(user, NOW, HOUR);
        for _ in 0..2 {
            assert_eq!(tokens.verify(token.expose(), NOW), Ok(user));
        }
        assert_eq!(tokens.verify(token.expose(), NOW + HOUR), Err(TokenError::Expired));
        assert_eq!(tokens.verify(token.expose(), NOW), Ok(user), "time went back, the signature is still good");
    }

    #[test]
    fn a_key_survives_being_stored() {
        let key = AccessTokens::generate_pkcs8();
        let user = holder();
        let token = AccessTokens::from_pkcs8(key.expose()).unwrap().issue(user, NOW, HOUR);
        assert_eq!(AccessTokens::from_pkcs8(key.expose()).unwrap().verify(token.expose(), NOW), Ok(user));
        assert!(AccessTokens::from_pkcs8(b"nonsense").is_err());
    }

    #[test]
    fn tokens_of_others_and_changed_tokens_are_refused() {
        let tokens = tokens();
        let token = tokens.issue(holder(), NOW, HOUR);
        assert_eq!(self::tokens().verify(token.expose(), NOW), Err(TokenError::Invalid));
        let text = token.expose();
        for position in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            // The last character of unpadded base64 has bits that mean nothing; decoders refuse them when set.
            assert_eq!(tokens.verify(&changed, NOW), Err(TokenError::Invalid), "at {position}");
        }
        for bad in ["", "..", "a.b.c", "eyJhbGciOiJub25lIn0.e30."] {
            assert_eq!(tokens.verify(bad, NOW), Err(TokenError::Invalid), "{bad}");
        }
    }

    #[test]
    fn memory_of_checked_tokens_is_bounded() {
        let tokens = tokens();
        let claims = Claims { sub: UserId::generate(), sid: SignInId::generate(), exp: i64::MAX };
        for number in 0..MAX_REMEMBERED * 2 {
            tokens.remember(KeyHash::of(&number.to_string()), claims, NOW);
        }
        assert!(tokens.remembered().len() <= MAX_REMEMBERED);
    }
}
