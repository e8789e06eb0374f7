//! Pages of lists, as they are asked for and answered.

use axum::extract::FromRequestParts;
use http::request::Parts;
use serde::Serialize;
use towline_store::Page;

use super::{extract::QueryParams, problem::ApiError};

/// The most items of a page.
const MAX_PER_PAGE: u32 = 100;

/// The page that a request asks for.
#[derive(Debug, Clone, Copy)]
pub struct PageParams(pub Page);

/// Where in a list an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct PageMeta {
    /// The page's number, from 1.
    #[schema(example = 1, minimum = 1)]
    pub current_page: u32,
    /// The most items of a page.
    #[schema(example = 20, minimum = 1, maximum = 100)]
    pub per_page: u32,
    /// How many items the whole list has.
    #[schema(example = 1)]
    pub total_count: u64,
}

/// The query parameters of every list, for its description.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// The page's number, from 1.
    #[param(default = 1, minimum = 1, required = false)]
    #[allow(dead_code, reason = "read by QueryParams; here for its description only")]
    current_page: u32,
    /// The most items of a page.
    #[param(default = 20, minimum = 1, maximum = 100, required = false)]
    #[allow(dead_code, reason = "read by QueryParams; here for its description only")]
    per_page: u32,
}

impl PageMeta {
    /// What is answered with a page.
    #[must_use]
    pub const fn new(page: Page, total_count: u64) -> Self {
        Self { current_page: page.current_page, per_page: page.per_page, total_count }
    }
}

impl PageParams {
    /// Reads the page from the query.
    ///
    /// # Errors
    /// When a number is not one, or out of range.
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
