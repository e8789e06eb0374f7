//! The page that people confirm a device on: three files without a framework. It is a client of the API like any other and
//! may do nothing that its user may not; so it is no part of the table of routes.
//!
//! Its policy lets it load its own two files and call its own origin, and nothing else. It is framed by nobody.

use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderName, HeaderValue, header};

use crate::app::{App, sign_in::Tokens};

const HTML: &str = include_str!("pair_page/pair.html");
const SCRIPT: &str = include_str!("pair_page/pair.js");
const STYLE: &str = include_str!("pair_page/pair.css");

/// A form is sent by the script only: a password never gets into a URL, also when the script does not load.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'none'; \
     frame-ancestors 'none'; base-uri 'none'";

/// The page and its files.
pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/pair", get(serve))
        .route("/pair/pair.js", get(|| async { file("text/javascript; charset=utf-8", SCRIPT.to_owned()) }))
        .route("/pair/pair.css", get(|| async { file("text/css; charset=utf-8", STYLE.to_owned()) }))
}

async fn serve(State(app): State<App>) -> Response {
    page(&app, None)
}

/// The page, for somebody who has signed in already when there are tokens.
pub(super) fn page(app: &App, tokens: Option<&Tokens>) -> Response {
    // Tokens are of the alphabet of base64url and dots, which needs no escapes.
    let (access_token, refresh_token) = tokens
        .map_or(("", ""), |tokens| (tokens.access_token.expose().as_str(), tokens.refresh_token.expose().as_str()));
    let html = HTML
        .replace("{oidc}", if app.has_oidc() { "true" } else { "false" })
        .replace("{access_token}", access_token)
        .replace("{refresh_token}", refresh_token);
    file("text/html; charset=utf-8", html)
}

fn file(content_type: &'static str, text: String) -> Response {
    const HEADERS: [(HeaderName, HeaderValue); 4] = [
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    ];
    ([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))], HEADERS, text).into_response()
}
