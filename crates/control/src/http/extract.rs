//! What handlers take from a request: ids from the path, values from the query, JSON from the body. Whatever is wrong is
//! told by its name, and nothing is guessed.

use std::{collections::BTreeMap, str::FromStr, time::Duration};

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Path, Request},
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderMap, header, request::Parts};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Map, Value};
use towline_model::{ErrorCode, validate::without_value};

use super::problem::ApiError;
use crate::app::DEFAULT_BODY_LIMIT;

/// How long a body may be, in bytes: an extension of every request, which the guard of the routes puts there.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimit(pub usize);

/// How much of a body that is too long is read and thrown away, so that its sender gets to read the answer.
const MAX_DRAINED_BYTES: usize = 64 << 20;
/// How long a body may take.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// The only parameter of the path, parsed.
#[derive(Debug, Clone, Copy)]
pub struct PathParam<T>(pub T);

impl<T, S> FromRequestParts<S> for PathParam<T>
where
    T: FromStr,
    T::Err: std::fmt::Display,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path((name, text)) = Path::<Vec<(String, String)>>::from_request_parts(parts, state)
            .await
            .ok()
            .and_then(|Path(parameters)| parameters.into_iter().next())
            .map(Path)
            .ok_or_else(|| ApiError::invalid_parameter("path", "it must be UTF-8 in percent-encoding"))?;
        text.parse().map(Self).map_err(|error| ApiError::invalid_parameter(&name, error))
    }
}

/// The parameters of the query. Unknown ones are passed over.
#[derive(Debug, Clone, Default)]
pub struct QueryParams(BTreeMap<String, String>);

impl QueryParams {
    fn parse(query: &str) -> Result<Self, ApiError> {
        let mut parameters = BTreeMap::new();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            if parameters.insert(name.clone().into_owned(), value.into_owned()).is_some() {
                return Err(ApiError::invalid_parameter(&name, "it is sent more than once; send it once"));
            }
        }
        Ok(Self(parameters))
    }

    /// The value of a parameter, if it is there.
    ///
    /// # Errors
    /// When it is there and cannot be read; `expected` says what it must be.
    pub fn get<T: FromStr>(&self, name: &str, expected: &str) -> Result<Option<T>, ApiError> {
        let Some(text) = self.0.get(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| ApiError::invalid_parameter(name, format_args!("it must be {expected}")))
    }

    /// The value of a parameter as it was sent.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whether a switch is on: `true`, `1`, or just the name; off by default.
    ///
    /// # Errors
    /// When it is something else.
    pub fn switch(&self, name: &str) -> Result<bool, ApiError> {
        match self.text(name) {
            Some("true" | "1" | "") => Ok(true),
            None | Some("false" | "0") => Ok(false),
            Some(_) => Err(ApiError::invalid_parameter(name, "it must be true or false")),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for QueryParams {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Self::parse(parts.uri.query().unwrap_or_default())
    }
}

/// A body of JSON that fits a type.
#[derive(Debug, Clone)]
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        read_json(request).await.map(Self)
    }
}

/// A body that is a JSON object; its fields are checked by whoever takes it.
#[derive(Debug, Clone)]
pub struct JsonObject(pub Map<String, Value>);

impl<S: Sync> FromRequest<S> for JsonObject {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        match read_json(request).await? {
            Value::Object(object) => Ok(Self(object)),
            _ => Err(not_an_object()),
        }
    }
}

/// Reads a field of which null means something else than being left out; to be used with `serde(default)`.
///
/// # Errors
/// When the value is neither null nor of the type.
pub fn nullable<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

fn not_an_object() -> ApiError {
    ApiError::new(ErrorCode::MalformedBody, "the body must be a JSON object, such as {\"field\": 1}")
}

async fn read_json<T: DeserializeOwned>(request: Request) -> Result<T, ApiError> {
    check_content_type(request.headers())?;
    let limit = request.extensions().get::<BodyLimit>().map_or(DEFAULT_BODY_LIMIT, |limit| limit.0);
    let body = read_body(request.into_body(), limit).await?;
    // serde would take the values of an array for the fields in their order.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(not_an_object());
    }
    let mut deserializer = serde_json::Deserializer::from_slice(&body);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let at = if path == "." { String::new() } else { format!("{path}: ") };
        ApiError::new(ErrorCode::MalformedBody, format!("{at}{}", without_value(&error.inner().to_string())))
    })?;
    deserializer.end().map_err(|error| ApiError::new(ErrorCode::MalformedBody, error.to_string()))?;
    Ok(value)
}

/// `application/json`, or something that is written as JSON (RFC 6839 §3.1).
fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    let advice = "send the body as JSON with `Content-Type: application/json`";
    is_json.then_some(()).ok_or_else(|| ApiError::new(ErrorCode::UnsupportedMediaType, advice))
}

pub(super) async fn read_body(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let read = async {
        let mut stream = body.into_data_stream();
        let mut whole = BytesMut::new();
        let mut length = 0;
        while let Some(chunk) = stream.next().await {
            let chunk =
                chunk.map_err(|_| ApiError::new(ErrorCode::MalformedBody, "the body was cut off; send it whole"))?;
            length += chunk.len();
            if length <= limit {
                whole.extend_from_slice(&chunk);
            } else if length > MAX_DRAINED_BYTES.max(limit) {
                break;
            }
        }
        let too_large = || {
            ApiError::new(ErrorCode::BodyTooLarge, format!("the body has more than {limit} bytes; send a smaller one"))
        };
        if length > limit { Err(too_large()) } else { Ok(whole.freeze()) }
    };
    let late = || ApiError::new(ErrorCode::MalformedBody, "the body did not arrive within 30 seconds; send it faster");
    tokio::time::timeout(BODY_DEADLINE, read).await.map_err(|_| late())?
}
