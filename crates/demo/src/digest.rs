//! Length and SHA-256 of a request body, taken while it streams by.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::call::Stop;
use crate::heads;
use crate::query::pause;

/// What came in.
#[derive(Debug, Serialize)]
pub struct BodyDigest {
    /// Bytes of the body, without its framing.
    pub body_length: u64,
    /// In lower-case hexadecimal.
    pub body_sha256: String,
    /// Trailers, only when there were some.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trailers: Vec<(String, String)>,
}

/// Reads the body to its end and keeps nothing of it. With a `delay` it rests after each piece, as a slow reader does.
///
/// # Errors
/// [`Stop::CallerGone`] when the body does not arrive whole.
pub async fn digest(mut body: Incoming, delay: Duration) -> Result<BodyDigest, Stop> {
    let mut sha256 = Sha256::new();
    let mut body_length = 0;
    let mut trailers = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Stop::CallerGone)?;
        match frame.into_data() {
            Ok(bytes) => {
                sha256.update(&bytes);
                body_length += bytes.len() as u64;
                if !delay.is_zero() {
                    pause(delay).await;
                }
            }
            Err(frame) => {
                if let Ok(fields) = frame.into_trailers() {
                    trailers =
                        fields.iter().map(|(name, value)| (name.to_string(), heads::text(value.as_bytes()))).collect();
                }
            }
        }
    }
    Ok(BodyDigest { body_length, body_sha256: hex(&sha256.finalize()), trailers })
}

/// Reads the body to its end and says how many bytes it had.
///
/// # Errors
/// [`Stop::CallerGone`] when the body does not arrive whole.
pub async fn count(mut body: Incoming) -> Result<u64, Stop> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Stop::CallerGone)?;
        length += frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
    }
    Ok(length)
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}
