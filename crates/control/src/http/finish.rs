//! The outermost layer: gives every answer its request id, error answers their body, and panics no say.

use std::panic::AssertUnwindSafe;

use axum::{
    body::Body,
    extract::Request,
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use http::{HeaderValue, header};
use towline_gateway::{RequestIdText, request_id::X_REQUEST_ID};
use towline_model::problem::CONTENT_TYPE;

use super::problem::{ApiError, PendingProblem};

/// Runs a request and finishes its answer.
pub(super) async fn finish(mut request: Request, next: Next) -> Response {
    let id = match request.extensions().get::<RequestIdText>() {
        Some(id) => id.clone(),
        None => RequestIdText::of(request.headers()),
    };
    request.extensions_mut().insert(id.clone());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = AssertUnwindSafe(next.run(request)).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!(request_id = id.as_str(), "a handler panicked");
        ApiError::internal().into_response()
    });
    render(&mut response, &id);
    let headers = response.headers_mut();
    headers.insert(X_REQUEST_ID, id.value().clone());
    // Answers hold what is true now, and some hold keys.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    tracing::debug!(request_id = id.as_str(), %method, path, status = response.status().as_u16(), "answered");
    response
}

fn render(response: &mut Response, id: &RequestIdText) {
    let Some(PendingProblem(problem)) = response.extensions_mut().remove() else { return };
    let problem = problem.with_request_id(id.as_str());
    let body = serde_json::to_vec(&problem).expect("a problem is plain fields with string keys");
    *response.body_mut() = Body::from(body);
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
}

#[cfg(test)]
mod tests {
    use axum::{Router, middleware, routing::get};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_answer_without_its_words() {
        async fn panics() {
            panic!("hunter2");
        }
        let router: Router = Router::new().route("/", get(panics)).layer(middleware::from_fn(finish));
        let response = router.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.status(), 500);
        let id = response.headers()[X_REQUEST_ID].to_str().unwrap().to_owned();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&body);
        assert!(text.contains(&id) && text.contains("\"internal\"") && !text.contains("hunter2"), "{text}");
    }
}
