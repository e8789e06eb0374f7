//! What a request is for, judged by its raw path: nothing is decoded or normalised here or later.

use http::Method;
use towline_tunnel::upgrade::{CARRIER_PATH, SESSION_PATH};

/// What the paths of proxied requests start with; the slug and the container's path follow.
pub(crate) const PROXY_PREFIX: &str = "/api/v1/r/containers/";
/// What the path of an invoke starts with; the slug follows.
pub(crate) const INVOKE_PREFIX: &str = "/api/v1/r/invoke/";

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destination<'a> {
    /// An agent opens its session.
    AgentSession,
    /// An agent opens a carrier.
    AgentCarrier,
    /// A request that is passed on to a service.
    Proxy {
        /// The path segment that names the service, which may be no valid slug.
        slug: &'a str,
        /// The container's path and query: everything from the slash after the slug on.
        target: &'a str,
    },
    /// A request that describes another request in its body.
    Invoke {
        /// The path segment that names the service, which may be no valid slug.
        slug: &'a str,
    },
    /// Anything else is the control plane's.
    Api,
}

/// What a WebSocket ticket is asked for with, in place of a container's path. Everything else below a service's slug is
/// the container's, `POST …/ticket?` included.
const TICKET_TARGET: &str = "/ticket";

/// Looks at the method and at the path and query of a request, as it was sent.
pub(crate) fn destination<'a>(method: &Method, path_and_query: &'a str) -> Destination<'a> {
    if let Some(rest) = path_and_query.strip_prefix(PROXY_PREFIX) {
        return match rest.find(['/', '?']) {
            Some(end) if method == Method::POST && rest[end..] == *TICKET_TARGET => Destination::Api,
            Some(end) if rest.as_bytes()[end] == b'/' => {
                Destination::Proxy { slug: &rest[..end], target: &rest[end..] }
            }
            // Without a slash after the slug it is the service's description that is asked for.
            _ => Destination::Api,
        };
    }
    let path = path_and_query.split('?').next().unwrap_or_default();
    if let Some(slug) = path.strip_prefix(INVOKE_PREFIX)
        && !slug.is_empty()
        && !slug.contains('/')
    {
        return Destination::Invoke { slug };
    }
    match path {
        SESSION_PATH => Destination::AgentSession,
        CARRIER_PATH => Destination::AgentCarrier,
        _ => Destination::Api,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Destination::*, *};

    #[test]
    fn every_path_has_its_destination() {
        for (path, expected) in [
            ("/api/v1/agent/session", AgentSession),
            ("/api/v1/agent/session?x", AgentSession),
            ("/api/v1/agent/session/", Api),
            ("/api/v1/agent/carrier", AgentCarrier),
            ("/api/v1/r/containers", Api),
            ("/api/v1/r/containers/", Api),
            ("/api/v1/r/containers/hello", Api),
            ("/api/v1/r/containers/hello?a=/", Api),
            ("/api/v1/r/containers/hello/", Proxy { slug: "hello", target: "/" }),
            ("/api/v1/r/containers/hello/?a=b", Proxy { slug: "hello", target: "/?a=b" }),
            ("/api/v1/r/containers/hello//x/../y;z", Proxy { slug: "hello", target: "//x/../y;z" }),
            ("/api/v1/r/containers/hello/%2F%zz?%20", Proxy { slug: "hello", target: "/%2F%zz?%20" }),
            ("/api/v1/r/containers//x", Proxy { slug: "", target: "/x" }),
            ("/api/v1/r/containers/%68ello/x", Proxy { slug: "%68ello", target: "/x" }),
            ("/API/v1/r/containers/hello/x", Api),
            ("/api/v1/r/invoke/hello", Invoke { slug: "hello" }),
            ("/api/v1/r/invoke/hello?x=/y", Invoke { slug: "hello" }),
            ("/api/v1/r/invoke/hello/", Api),
            ("/api/v1/r/invoke/", Api),
            ("*", Api),
            ("", Api),
        ] {
            assert_eq!(destination(&Method::GET, path), expected, "{path}");
            assert_eq!(destination(&Method::POST, path), expected, "{path}");
        }
    }

    #[test]
    fn only_a_post_of_exactly_this_path_asks_for_a_ticket() {
        let path = |target: &str| format!("{PROXY_PREFIX}hello{target}");
        assert_eq!(destination(&Method::POST, &path("/ticket")), Api);
        for (method, target) in [
            (Method::GET, "/ticket"),
            (Method::OPTIONS, "/ticket"),
            (Method::POST, "/ticket?"),
            (Method::POST, "/ticket?a"),
            (Method::POST, "/ticket/"),
            (Method::POST, "//ticket"),
            (Method::POST, "/a/ticket"),
            (Method::POST, "/Ticket"),
        ] {
            assert_eq!(destination(&method, &path(target)), Proxy { slug: "hello", target }, "{method} {target}");
        }
    }

    proptest! {
        #[test]
        fn a_target_is_always_the_rest_of_the_path(slug in "[a-z0-9-]{0,9}", rest in "(/[ -~]{0,30})?") {
            let path = format!("{PROXY_PREFIX}{slug}{rest}");
            match destination(&Method::GET, &path) {
                Proxy { slug: s, target } => prop_assert_eq!((s, target), (slug.as_str(), rest.as_str())),
                other => prop_assert!(rest.is_empty() && other == Api),
            }
        }
    }
}
