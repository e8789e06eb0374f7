//! The table of endpoints: one line each, for the dispatcher, the page at `/` and the test of the OpenAPI document.

use std::future::Future;
use std::pin::Pin;

use http::{Method, StatusCode};

use crate::body::{ErrorBody, method_not_allowed};
use crate::call::{Call, Reply};
use crate::{about, anthropic, early, echo, faults, openai, stream, upgrade, ws};

type Run = fn(Call) -> Pin<Box<dyn Future<Output = Reply> + Send>>;

/// One endpoint.
pub struct Endpoint {
    /// The path. A last part in braces stands for the rest of the path.
    pub path: &'static str,
    /// The methods that it takes; none listed means any. GET brings HEAD along.
    pub methods: &'static [&'static str],
    /// A path and query worth trying.
    pub example: &'static str,
    /// What it does.
    pub about: &'static str,
    run: Run,
}

macro_rules! endpoint {
    ($path:literal, $methods:expr, $example:literal, $run:path, $about:literal) => {
        Endpoint { path: $path, methods: &$methods, example: $example, about: $about, run: |call| Box::pin($run(call)) }
    };
}

/// All endpoints, in the order in which they are tried.
pub const ENDPOINTS: &[Endpoint] = &[
    endpoint!("/", ["GET"], "/", about::index, "this page"),
    endpoint!("/health", ["GET", "PUT"], "/health", faults::health, "ok, or what DEMO_HEALTH_* and PUT ?status= say"),
    endpoint!("/openapi.json", ["GET"], "/openapi.json", about::openapi, "this server in OpenAPI 3.1"),
    endpoint!("/v1/models", ["GET"], "/v1/models", openai::models, "OpenAI: the models"),
    endpoint!("/v1/models/{model}", ["GET"], "/v1/models/towline-demo", openai::retrieve_model, "OpenAI: one model"),
    endpoint!(
        "/v1/chat/completions",
        ["POST"],
        "/v1/chat/completions",
        openai::chat,
        "OpenAI: chat, whole or streamed; delay_ms sets the pace"
    ),
    endpoint!(
        "/v1/messages",
        ["POST"],
        "/v1/messages",
        anthropic::messages,
        "Anthropic: a message, whole or streamed; delay_ms sets the pace"
    ),
    endpoint!("/echo", [], "/echo?x=1", echo::echo, "the request as it was received"),
    endpoint!("/echo/{path}", [], "/echo/a%2Fb/../c//?x=%zz&&y", echo::echo, "the same, below any path"),
    endpoint!(
        "/bytes",
        ["GET"],
        "/bytes?n=1000&chunk=100&delay_ms=100",
        stream::bytes,
        "n bytes in chunks; chunked=1 for no Content-Length"
    ),
    endpoint!(
        "/upload",
        ["PUT", "POST"],
        "/upload",
        stream::upload,
        "length and digest of the body; delay_ms for a slow reader, digest=0 for the length only"
    ),
    endpoint!("/sse", ["GET"], "/sse?n=10&interval_ms=500", stream::sse, "Server-Sent Events; n=0 never ends"),
    endpoint!("/ws", ["GET"], "/ws", ws::ws, "WebSocket echo; close=code&reason= closes at once"),
    endpoint!(
        "/upgrade",
        ["GET"],
        "/upgrade",
        upgrade::upgrade,
        "byte echo after any Upgrade; digest=1 answers the half-close"
    ),
    endpoint!("/trailers", ["GET"], "/trailers", stream::trailers, "a chunked body with trailers, for TE: trailers"),
    endpoint!(
        "/early-hints",
        ["GET"],
        "/early-hints?n=2&delay_ms=500",
        early::early_hints,
        "103 before the answer (HTTP/1)"
    ),
    endpoint!("/status/{code}", [], "/status/418?reason=teapot", faults::status, "that status, with that reason"),
    endpoint!("/slow", [], "/slow?ms=1000", faults::slow, "answers late"),
    endpoint!(
        "/close",
        [],
        "/close?mode=chunked&after=100",
        faults::close,
        "dies mid-answer: mode=length|chunked|head, reset=1"
    ),
    endpoint!(
        "/raw",
        ["POST"],
        "/raw",
        faults::raw,
        "sends the request's body as the whole answer, unchecked (HTTP/1)"
    ),
    endpoint!("/log", ["POST"], "/log?line=hello", about::log, "prints line= as a line of the log"),
    endpoint!("/exit", ["POST"], "/exit", faults::exit, "ends the process with code="),
    endpoint!(
        "/count",
        [],
        "/count?key=a",
        about::count,
        "a counter; anything but GET counts; ?count=key does on every path"
    ),
    endpoint!(
        "/disconnects",
        ["GET"],
        "/disconnects",
        about::disconnects,
        "callers that went away early, by ?key= or path"
    ),
    endpoint!("/instance", ["GET"], "/instance", about::instance, "hostname, process id, time of the start"),
    endpoint!("/env", ["GET"], "/env", about::env, "names of environment variables; values of DEMO_*"),
];

impl Endpoint {
    /// What stands for the last part of the path, or `None` when the path is another.
    fn rest<'a>(&self, path: &'a str) -> Option<&'a str> {
        match self.path.split_once('{') {
            None => (path == self.path).then_some(""),
            Some((prefix, _)) => path.strip_prefix(prefix),
        }
    }

    fn takes(&self, method: &Method) -> bool {
        let takes = |name: &str| self.methods.contains(&name);
        self.methods.is_empty() || takes(method.as_str()) || method == Method::HEAD && takes("GET")
    }
}

/// Finds the endpoint of a request and runs it.
pub async fn dispatch(mut call: Call) -> Reply {
    let path = call.request.uri().path().to_owned();
    let found = ENDPOINTS.iter().find_map(|endpoint| endpoint.rest(&path).map(|rest| (endpoint, rest)));
    let Some((endpoint, rest)) = found else {
        let message = format!("there is nothing at {path}; GET / lists what there is");
        return Err(ErrorBody::new(StatusCode::NOT_FOUND, message).into());
    };
    if !endpoint.takes(call.request.method()) {
        return Ok(method_not_allowed(endpoint.methods));
    }
    call.rest = rest.to_owned();
    (endpoint.run)(call).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(path: &str) -> Option<(&'static str, &str)> {
        ENDPOINTS.iter().find_map(|endpoint| endpoint.rest(path).map(|rest| (endpoint.path, rest)))
    }

    #[test]
    fn paths_find_their_endpoint() {
        assert_eq!(find("/"), Some(("/", "")));
        assert_eq!(find("/echo"), Some(("/echo", "")));
        assert_eq!(find("/echo/"), Some(("/echo/{path}", "")));
        assert_eq!(find("/echo/a//b"), Some(("/echo/{path}", "a//b")));
        assert_eq!(find("/status/204"), Some(("/status/{code}", "204")));
        assert_eq!(find("/echoes"), None);
        assert_eq!(find("//"), None);
    }

    #[test]
    fn the_openapi_document_lists_every_endpoint_and_no_other() {
        let document: serde_json::Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
        let mut documented: Vec<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        let mut served: Vec<&str> = ENDPOINTS.iter().map(|endpoint| endpoint.path).collect();
        documented.sort_unstable();
        served.sort_unstable();
        assert_eq!(documented, served);
        for endpoint in ENDPOINTS.iter().filter(|endpoint| !endpoint.methods.is_empty()) {
            let operations = document["paths"][endpoint.path].as_object().unwrap();
            for method in endpoint.methods {
                assert!(operations.contains_key(&method.to_lowercase()), "{method} {}", endpoint.path);
            }
        }
    }
}
