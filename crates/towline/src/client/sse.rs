//! Server-sent events (WHATWG HTML, "interpreting an event stream"), as far as the API uses them: no ids, no retry.

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its name; `message` when it has none.
    pub name: String,
    /// Its data, lines joined by line feeds.
    pub data: String,
}

/// The longest line that is kept; a longer one is cut.
const MAX_LINE: usize = 1 << 20;

/// Takes bytes as they arrive and gives whole events.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    after_return: bool,
    name: String,
    data: Option<String>,
}

impl Parser {
    /// The events that end in these bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = vec![];
        for &byte in bytes {
            let second_of_pair = byte == b'\n' && std::mem::take(&mut self.after_return);
            if second_of_pair {
                continue;
            }
            self.after_return = byte == b'\r';
            if matches!(byte, b'\n' | b'\r') {
                let line = std::mem::take(&mut self.line);
                events.extend(self.take_line(&String::from_utf8_lossy(&line)));
            } else if self.line.len() < MAX_LINE {
                self.line.push(byte);
            }
        }
        events
    }

    fn take_line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            let data = self.data.take()?;
            return Some(Event { name: if name.is_empty() { "message".to_owned() } else { name }, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": keep-alive\n\ndata: one\n\nevent: end\r\ndata: two\r\ndata:three\r\n\r\nid: 7\n\ndata\n\n";

    fn expected() -> Vec<Event> {
        let event = |name: &str, data: &str| Event { name: name.to_owned(), data: data.to_owned() };
        vec![event("message", "one"), event("end", "two\nthree"), event("message", "")]
    }

    #[test]
    fn events_are_whole_however_they_are_cut() {
        assert_eq!(Parser::default().push(STREAM.as_bytes()), expected());
        let mut parser = Parser::default();
        let one_by_one: Vec<_> = STREAM.bytes().flat_map(|byte| parser.push(&[byte])).collect();
        assert_eq!(one_by_one, expected());
    }

    #[test]
    fn an_unfinished_event_is_not_given() {
        assert_eq!(Parser::default().push(b"data: half\n"), vec![]);
    }
}
