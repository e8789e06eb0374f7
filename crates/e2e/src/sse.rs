//! Server-Sent Events from an answer that is still coming.

use bytes::BytesMut;
use reqwest::Response;
use serde_json::Value;

/// The events of a streamed answer.
#[derive(Debug)]
pub struct EventStream {
    response: Response,
    buffer: BytesMut,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// The `event` field, empty when there is none.
    pub kind: String,
    /// The `id` field, empty when there is none.
    pub id: String,
    /// The `data` lines, joined.
    pub data: String,
}

impl Event {
    /// The data as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {}", self.data))
    }
}

impl EventStream {
    /// Reads an answer as events.
    ///
    /// # Panics
    /// When it is not 200 with the media type of events.
    #[must_use]
    pub fn new(response: Response) -> Self {
        let media_type = response.headers().get("content-type").and_then(|value| value.to_str().ok());
        let media_type = media_type.unwrap_or_default();
        assert!(
            response.status() == 200 && media_type.starts_with("text/event-stream"),
            "not an event stream: {} {media_type}",
            response.status()
        );
        Self { response, buffer: BytesMut::new() }
    }

    /// The next event, as soon as it has arrived; `None` at a proper end. Comments are passed over.
    ///
    /// # Errors
    /// When the answer is cut off.
    pub async fn next(&mut self) -> reqwest::Result<Option<Event>> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|window| window == b"\n\n") {
                let text = self.buffer.split_to(end + 2);
                if let Some(event) = parse(&String::from_utf8_lossy(&text)) {
                    return Ok(Some(event));
                }
                continue;
            }
            match self.response.chunk().await? {
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                None => return Ok(None),
            }
        }
    }
}

fn parse(text: &str) -> Option<Event> {
    let mut event = Event::default();
    let mut data: Vec<&str> = Vec::new();
    for line in text.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut event.kind),
            "id" => value.clone_into(&mut event.id),
            "data" => data.push(value),
            _ => {}
        }
    }
    event.data = data.join("\n");
    (!data.is_empty()).then_some(event)
}

#[cfg(test)]
mod tests {
    use super::{Event, parse};

    #[test]
    fn an_event_has_fields() {
        let event = parse("id: 7\nevent: tick\ndata: a\ndata:b\n\n").unwrap();
        assert_eq!(event, Event { kind: "tick".to_owned(), id: "7".to_owned(), data: "a\nb".to_owned() });
        assert_eq!(parse(": keep-alive\n\n"), None);
    }
}
