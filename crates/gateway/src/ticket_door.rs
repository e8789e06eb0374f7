//! A WebSocket ticket in a request (contract §6): where it may stand, and how it is taken out.
//!
//! * Only the opening handshake of a WebSocket, over HTTP/1.1 or HTTP/2, is opened by a ticket. Any other request can carry a header, and a link
//!   with a ticket in it would make whoever follows it act for its holder.
//! * It stands in the query, `towline_ticket=<ticket>`, or among the subprotocols, `towline.ticket.<ticket>`. All other
//!   bytes of the query and all other subprotocols stay as they are. Names are compared byte for byte, nothing is decoded.
//! * A browser that offered subprotocols fails a handshake whose answer names none of them (WHATWG WebSockets, "establish
//!   a WebSocket connection"; RFC 6455 §4.1 would let it pass). A container that was offered no other cannot name one, so
//!   that the ticket's own name is sent back, of which nothing is left to use. Where others were offered the container
//!   chooses as it does without us.

use std::borrow::Cow;

use http::{HeaderValue, Method, Version, header};
use towline_model::Secret;

use crate::{
    error::GatewayError,
    fields::{Fields, Headers, Value},
    headers::header_has_token,
    proxy::CallHead,
};

const PARAMETER: &str = "towline_ticket=";
const PROTOCOL: &str = "towline.ticket.";

/// A ticket as it was sent, and where.
#[derive(Debug)]
pub(crate) struct TicketDoor {
    pub ticket: Secret<String>,
    in_query: bool,
}

/// Finds the ticket of a handshake. Everything else has none.
pub(crate) fn find(head: &CallHead, target: &str) -> Result<Option<TicketDoor>, GatewayError> {
    if !is_handshake(head) {
        return Ok(None);
    }
    let in_query = parameters(target).map(|ticket| (ticket, true));
    let protocols = head.headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let in_protocols = protocols
        .flat_map(|line| line.as_bytes().split(|&byte| byte == b','))
        .filter_map(|name| std::str::from_utf8(name.trim_ascii()).ok()?.strip_prefix(PROTOCOL))
        .map(|ticket| (ticket, false));
    let mut found = in_query.chain(in_protocols);
    match (found.next(), found.next()) {
        (None, _) => Ok(None),
        (Some((ticket, in_query)), None) => Ok(Some(TicketDoor { ticket: Secret::new(ticket.to_owned()), in_query })),
        _ => Err(GatewayError::MalformedRequest("there is more than one ticket; send one".to_owned())),
    }
}

/// Whether there is a ticket in the query, of whatever request.
pub(crate) fn is_in_query(target: &str) -> bool {
    parameters(target).next().is_some()
}

impl TicketDoor {
    /// Takes the ticket out: gives the target without it, and the subprotocol that the answer has to name.
    pub(crate) fn take_from<'t>(&self, headers: &mut Fields, target: &'t str) -> (Cow<'t, str>, Option<HeaderValue>) {
        if self.in_query {
            return (Cow::Owned(without_parameter(target)), None);
        }
        let name = format!("{PROTOCOL}{}", self.ticket.expose());
        let lines: Vec<HeaderValue> =
            headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).filter_map(|line| without(line, &name)).collect();
        headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
        let answer = if lines.is_empty() { HeaderValue::try_from(name).ok() } else { None };
        for line in lines {
            headers.append(header::SEC_WEBSOCKET_PROTOCOL, line);
        }
        (Cow::Borrowed(target), answer)
    }
}

/// Whether a request is the opening handshake of a WebSocket (RFC 6455 §4.1).
pub(crate) fn is_handshake(head: &CallHead) -> bool {
    head.headers.contains_key(header::UPGRADE)
        && head.method == Method::GET
        // One that came over HTTP/2 was made this (RFC 8441): nothing else of HTTP/2 has such fields.
        && head.version != Version::HTTP_10
        && header_has_token(&head.headers, &header::UPGRADE, "websocket")
        && header_has_token(&head.headers, &header::CONNECTION, "upgrade")
}

fn parameters(target: &str) -> impl Iterator<Item = &str> {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    query.split('&').filter_map(|parameter| parameter.strip_prefix(PARAMETER))
}

fn without_parameter(target: &str) -> String {
    let Some((path, query)) = target.split_once('?') else { return target.to_owned() };
    let others: Vec<&str> = query.split('&').filter(|parameter| !parameter.starts_with(PARAMETER)).collect();
    if others.is_empty() { path.to_owned() } else { format!("{path}?{}", others.join("&")) }
}

/// A line of subprotocols without one of them; `None` when nothing is left of it.
fn without(line: Value<'_>, name: &str) -> Option<HeaderValue> {
    let is_other = |part: &&[u8]| part.trim_ascii() != name.as_bytes();
    let all = line.as_bytes().split(|&byte| byte == b',');
    if all.clone().all(|part| is_other(&part)) {
        return Some(line.to_value());
    }
    let others: Vec<&[u8]> = all.filter(is_other).collect();
    let joined = others.join(&b',');
    let left = joined.trim_ascii_start();
    if left.is_empty() { None } else { HeaderValue::from_bytes(left).ok() }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn handshake(protocols: &[&str]) -> CallHead {
        let mut request = Request::get("/").header("connection", "keep-alive, Upgrade").header("upgrade", "WebSocket");
        for line in protocols {
            request = request.header("sec-websocket-protocol", *line);
        }
        request.body(()).unwrap().into_parts().0.into()
    }

    /// What is left of the target and of the subprotocols, and what is sent back.
    fn taken(target: &str, protocols: &[&str]) -> Option<(String, Vec<String>, Option<String>)> {
        let mut head = handshake(protocols);
        let door = find(&head, target).unwrap()?;
        assert_eq!(door.ticket.expose(), "T");
        let (target, answer) = door.take_from(&mut head.headers, target);
        let text = |value: Value<'_>| value.to_str().unwrap().to_owned();
        let left = head.headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).map(text).collect();
        Some((target.into_owned(), left, answer.as_ref().map(Value::from).map(text)))
    }

    #[test]
    fn a_ticket_is_taken_out_of_the_query_and_nothing_else_is() {
        for (target, left) in [
            ("/ws?towline_ticket=T", "/ws"),
            ("/ws?towline_ticket=T&a=1", "/ws?a=1"),
            ("/ws?a=%20&&towline_ticket=T&b=+&", "/ws?a=%20&&b=+&"),
            ("/ws?&towline_ticket=T", "/ws?"),
            ("//ws/..?x?towline_ticket&towline_ticket=T", "//ws/..?x?towline_ticket"),
        ] {
            let offered = ["chat,  v2", "x"];
            let (target, protocols, answer) = taken(target, &offered).unwrap();
            assert_eq!((target.as_str(), answer), (left, None));
            assert_eq!(protocols, offered);
        }
        for target in
            ["/ws", "/ws?towline_ticket", "/towline_ticket=T", "/ws?Towline_ticket=T", "/ws?x=towline_ticket=T"]
        {
            assert_eq!(taken(target, &["chat"]), None, "{target}");
        }
    }

    #[test]
    fn a_ticket_is_taken_out_of_the_subprotocols_and_nothing_else_is() {
        for (offered, left, answer) in [
            (&["towline.ticket.T"][..], &[][..], Some("towline.ticket.T")),
            (&["chat,  towline.ticket.T , v2"], &["chat, v2"], None),
            (&["towline.ticket.T, chat"], &["chat"], None),
            (&["chat;x", "towline.ticket.T", "v2,v3"], &["chat;x", "v2,v3"], None),
        ] {
            let (target, protocols, sent_back) = taken("/ws?a", offered).unwrap();
            assert_eq!((target.as_str(), sent_back.as_deref()), ("/ws?a", answer), "{offered:?}");
            assert_eq!(protocols, left);
        }
    }

    #[test]
    fn one_ticket_opens_one_handshake() {
        for (target, protocols) in [
            ("/?towline_ticket=T&towline_ticket=T", &[][..]),
            ("/?towline_ticket=T", &["towline.ticket.T"]),
            ("/", &["towline.ticket.T", "towline.ticket.U"]),
        ] {
            assert!(find(&handshake(protocols), target).is_err(), "{target}");
        }
        let mut head = handshake(&[]);
        head.method = Method::POST;
        assert!(find(&head, "/?towline_ticket=T").unwrap().is_none());
        for (name, value) in [(header::UPGRADE, "h2c"), (header::CONNECTION, "close")] {
            let mut head = handshake(&[]);
            head.headers.insert(name.clone(), HeaderValue::from_static(value));
            assert!(find(&head, "/?towline_ticket=T").unwrap().is_none(), "{name}: {value}");
        }
    }
}
