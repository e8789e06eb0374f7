//! What is asked of fields, whichever way they are kept: as the text of a head, or in a map of [`http`].

use std::borrow::Borrow;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::mark_of;
use crate::h1::spare;

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Value<'a>(pub(super) &'a [u8]);

impl<'a> Value<'a> {
    pub(crate) const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The value as text, if it is ASCII.
    pub(crate) fn to_str(self) -> Option<&'a str> {
        // There are no control bytes in it: see `HeadParser`.
        std::str::from_utf8(self.0).ok().filter(|text| text.is_ascii())
    }

    /// A copy of it. It is held like a [`spare::text`].
    pub(crate) fn to_value(self) -> HeaderValue {
        HeaderValue::from_maybe_shared(spare::text(self.0)).expect("it is the value of a field already")
    }
}

impl<'a> From<&'a HeaderValue> for Value<'a> {
    fn from(value: &'a HeaderValue) -> Self {
        Self(value.as_bytes())
    }
}

/// Fields by their names.
pub(crate) trait Headers {
    /// The values of all lines of that name, in their order.
    fn get_all(&self, name: impl Borrow<HeaderName>) -> impl DoubleEndedIterator<Item = Value<'_>>;

    /// Sets the only line of that name: where the first was, or behind all others.
    fn insert(&mut self, name: HeaderName, value: impl Borrow<HeaderValue>);

    /// Adds a line.
    fn append(&mut self, name: HeaderName, value: impl Borrow<HeaderValue>);

    /// Removes all lines of that name.
    fn remove(&mut self, name: impl Borrow<HeaderName>);

    /// Removes all lines with one of these names.
    fn remove_any<const N: usize>(&mut self, names: &Names<N>) {
        for name in &names.names {
            self.remove(name);
        }
    }

    /// Removes all lines whose names are not to be kept.
    fn retain(&mut self, keeps: impl FnMut(&HeaderName) -> bool);

    /// The value of the first line of that name.
    fn get(&self, name: impl Borrow<HeaderName>) -> Option<Value<'_>> {
        self.get_all(name).next()
    }

    /// Whether there is a line with one of these names.
    fn has_any<const N: usize>(&self, names: &Names<N>) -> bool {
        names.names.iter().any(|name| self.contains_key(name))
    }

    /// Whether there is a line of that name.
    fn contains_key(&self, name: impl Borrow<HeaderName>) -> bool {
        self.get(name).is_some()
    }

    /// The value of the line of that name, if it is the only one.
    fn only(&self, name: impl Borrow<HeaderName>) -> Option<Value<'_>> {
        let mut values = self.get_all(name);
        values.next().filter(|_| values.next().is_none())
    }
}

/// Names that are mostly asked for together, and mostly not there.
pub(crate) struct Names<const N: usize> {
    pub(crate) names: [HeaderName; N],
    pub(super) marks: [u8; N],
    /// A bit for each of them.
    pub(super) all_marks: u64,
}

impl<const N: usize> Names<N> {
    /// These names, in lower case.
    pub(crate) fn new(texts: [&'static str; N]) -> Self {
        let marks = texts.map(|text| mark_of(text.as_bytes()));
        let all_marks = marks.iter().fold(0, |all, mark| all | 1 << mark);
        Self { names: texts.map(HeaderName::from_static), marks, all_marks }
    }
}

impl Headers for HeaderMap {
    fn get_all(&self, name: impl Borrow<HeaderName>) -> impl DoubleEndedIterator<Item = Value<'_>> {
        Self::get_all(self, name.borrow()).iter().map(Value::from)
    }

    fn insert(&mut self, name: HeaderName, value: impl Borrow<HeaderValue>) {
        Self::insert(self, name, value.borrow().clone());
    }

    fn append(&mut self, name: HeaderName, value: impl Borrow<HeaderValue>) {
        Self::append(self, name, value.borrow().clone());
    }

    fn remove(&mut self, name: impl Borrow<HeaderName>) {
        Self::remove(self, name.borrow());
    }

    fn retain(&mut self, mut keeps: impl FnMut(&HeaderName) -> bool) {
        let dropped: Vec<HeaderName> = self.keys().filter(|name| !keeps(name)).cloned().collect();
        for name in dropped {
            Self::remove(self, name);
        }
    }
}
