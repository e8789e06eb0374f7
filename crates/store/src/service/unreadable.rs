//! Documents of a service that this build cannot read, and what can be said of them all the same.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use towline_model::validate::without_value;
use uuid::Uuid;

/// What cannot be read of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Which document it is, why, and what to do, in words for the service's owner. Holds no value of the document.
    pub why: String,
    /// Every id that is somewhere in it. What refers to what is not known; what is not here is not referred to.
    pub ids: BTreeSet<Uuid>,
}

/// Reads the documents of one service.
#[derive(Debug, Default)]
pub(super) struct Documents {
    unreadable: Option<Unreadable>,
}

impl Documents {
    /// Reads a document. `None` when there is none, and when it cannot be read.
    pub(super) fn read<T: DeserializeOwned>(&mut self, name: &str, text: Option<String>) -> Option<T> {
        let text = text?;
        match serde_json::from_str(&text) {
            Ok(document) => Some(document),
            Err(error) => {
                self.note(name, &error, &text);
                None
            }
        }
    }

    /// What could not be read so far.
    pub(super) fn unreadable(self) -> Option<Unreadable> {
        self.unreadable
    }

    fn note(&mut self, name: &str, error: &serde_json::Error, text: &str) {
        let said = without_value(&error.to_string());
        // What would have been expected there fills lines and says nothing to who sees it.
        let said = said.split(", expected").next().unwrap_or_default();
        let why = format!(
            "the stored {name} cannot be read ({said}); run the version of Towline that has written it, or delete the \
             service and define it anew"
        );
        let unreadable = self.unreadable.get_or_insert_with(|| Unreadable { why, ids: BTreeSet::new() });
        unreadable.ids.extend(ids(text));
    }
}

/// Every id in a text.
fn ids(text: &str) -> impl Iterator<Item = Uuid> + '_ {
    const CHARS: usize = 36;
    let ends = |at: &usize| text.as_bytes().get(at + 8) == Some(&b'-') && text.as_bytes().get(at + 23) == Some(&b'-');
    let starts = (0..=text.len().saturating_sub(CHARS)).filter(ends);
    starts.filter_map(|at| Uuid::try_parse(text.get(at..at + CHARS)?).ok())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn ids_are_found_wherever_they_are() {
        let (one, two) = (Uuid::now_v7(), Uuid::now_v7());
        let text = format!("ü{{\"a\":\"{one}\",\"b\":[\"Bearer {two}");
        let mut documents = Documents::default();
        assert_eq!(documents.read::<Value>("definition", Some(text)), None);
        let unreadable = documents.unreadable().unwrap();
        assert_eq!(unreadable.ids, [one, two].into());
        assert!(unreadable.why.contains("definition") && !unreadable.why.contains("Bearer"), "{}", unreadable.why);
        assert_eq!(ids("").count() + ids("--------").count(), 0);
    }

    #[test]
    fn what_can_be_read_is_read() {
        let mut documents = Documents::default();
        assert_eq!(documents.read("a", Some("[1]".to_owned())), Some(vec![1]));
        assert_eq!(documents.read::<Value>("b", None), None);
        assert_eq!(documents.unreadable(), None);
    }
}
