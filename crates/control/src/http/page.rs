//! Pages of lists, as they are asked for and answered.

use std::str::FromStr;

use axum::extract::FromRequestParts;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::request::Parts;
use serde::Serialize;
use towline_model::Timestamp;
use towline_store::{Page, Paged, Position};
use uuid::Uuid;

use super::{extract::QueryParams, problem::ApiError};

/// The most items of a page.
const MAX_PER_PAGE: u32 = 100;

/// How a cursor is written, as a regular expression.
pub(super) const CURSOR_PATTERN: &str = "^[A-Za-z0-9_-]{32}$";
const CURSOR_EXPECTED: &str = "the next_cursor of an earlier answer as it was; begin without one to start anew";

/// The page that a request asks for.
#[derive(Debug, Clone, Copy)]
pub struct PageParams(pub Page);

/// Where in a list an answer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct PageMeta {
    /// The page's number as it was asked for, from 1.
    #[schema(example = 1, minimum = 1)]
    pub current_page: u32,
    /// The most items of a page.
    #[schema(example = 20, minimum = 1, maximum = 100)]
    pub per_page: u32,
    /// How many items the whole list has.
    #[schema(example = 1)]
    pub total_count: u64,
    /// The `cursor` of the next page. It is not there on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, example = "AAZXqGkCsIABkywHik57vZxFL0sfDTp3")]
    pub next_cursor: Option<String>,
}

/// The query parameters of every list, for its description.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// The page's number, from 1. With a `cursor` it does not matter.
    #[param(default = 1, minimum = 1, required = false)]
    #[allow(dead_code, reason = "read by QueryParams; here for its description only")]
    current_page: u32,
    /// The most items of a page.
    #[param(default = 20, minimum = 1, maximum = 100, required = false)]
    #[allow(dead_code, reason = "read by QueryParams; here for its description only")]
    per_page: u32,
    /// The `next_cursor` of another page: the page that comes after it, whatever was added or deleted meanwhile.
    #[param(required = false)]
    #[allow(dead_code, reason = "read by QueryParams; here for its description only")]
    cursor: String,
}

/// A position as clients keep it: 24 bytes in base64url, which say nothing to them. Every text of this length is one, so
/// that the description says exactly what is taken.
struct Cursor(Position);

impl Cursor {
    fn write(position: Position) -> String {
        let bytes = [&position.at.as_micros().to_be_bytes()[..], position.id.as_bytes()].concat();
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let bytes: [u8; 24] = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(drop)?.try_into().map_err(drop)?;
        let (at, id) = bytes.split_first_chunk::<8>().ok_or(())?;
        let at = Timestamp::from_micros(i64::from_be_bytes(*at));
        Ok(Self(Position { at, id: Uuid::from_slice(id).map_err(drop)? }))
    }
}

impl PageMeta {
    /// What is answered with a page.
    #[must_use]
    pub fn new<T>(page: Page, part: &Paged<T>) -> Self {
        Self {
            current_page: page.current_page,
            per_page: page.per_page,
            total_count: part.total_count,
            next_cursor: part.next.map(Cursor::write),
        }
    }
}

impl PageParams {
    /// Reads the page from the query.
    ///
    /// # Errors
    /// When a number is not one, or out of range, or the cursor is none of ours.
    pub fn of(query: &QueryParams) -> Result<Self, ApiError> {
        let number = |name: &str, default: u32, max: u32| {
            let expected =
                if max == u32::MAX { "a number from 1".to_owned() } else { format!("a number from 1 to {max}") };
            let value = query.get(name, &expected)?.unwrap_or(default);
            let fits = (1..=max).contains(&value);
            fits.then_some(value)
                .ok_or_else(|| ApiError::invalid_parameter(name, format_args!("it must be {expected}")))
        };
        let default = Page::default();
        Ok(Self(Page {
            current_page: number("current_page", default.current_page, u32::MAX)?,
            per_page: number("per_page", default.per_page, MAX_PER_PAGE)?,
            after: query.get::<Cursor>("cursor", CURSOR_EXPECTED)?.map(|cursor| cursor.0),
        }))
    }
}

impl<S: Sync> FromRequestParts<S> for PageParams {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = QueryParams::from_request_parts(parts, state).await?;
        Self::of(&query)
    }
}
