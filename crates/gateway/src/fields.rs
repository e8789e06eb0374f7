//! The fields of a message's head as they pass through here: in their order, and spelt as they were.
//!
//! A [`HeaderMap`] finds a field among many by its hash, and knows neither. A head has a dozen fields, of which each is found
//! sooner by looking at all of them, and written without being looked up again. Whoever speaks in [`http`] types, which are the
//! API, HTTP/2 and all answers that are made here, has a map; what is asked of both is in [`Headers`].

use std::borrow::Borrow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::h1::{head::Span, spare};

/// Fields by their names.
pub(crate) trait Headers {
    /// The values of all lines of that name, in their order.
    fn get_all(&self, name: impl Borrow<HeaderName>) -> impl DoubleEndedIterator<Item = &HeaderValue>;

    /// The names of all lines, in their order; some may come more than once.
    fn keys(&self) -> impl Iterator<Item = &HeaderName>;

    /// Sets the only line of that name: where the first was, or behind all others.
    fn insert(&mut self, name: HeaderName, value: HeaderValue);

    /// Adds a line.
    fn append(&mut self, name: HeaderName, value: HeaderValue);

    /// Removes all lines of that name, and gives the value of the first.
    fn remove(&mut self, name: impl Borrow<HeaderName>) -> Option<HeaderValue>;

    /// Removes all lines whose names are not to be kept.
    fn retain(&mut self, keeps: impl FnMut(&HeaderName) -> bool);

    /// The value of the first line of that name.
    fn get(&self, name: impl Borrow<HeaderName>) -> Option<&HeaderValue> {
        self.get_all(name).next()
    }

    /// Whether there is a line of that name.
    fn contains_key(&self, name: impl Borrow<HeaderName>) -> bool {
        self.get(name).is_some()
    }

    /// The value of the line of that name, if it is the only one.
    fn only(&self, name: impl Borrow<HeaderName>) -> Option<&HeaderValue> {
        let mut values = self.get_all(name);
        values.next().filter(|_| values.next().is_none())
    }
}

/// The fields of one head.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fields {
    /// The head that they were read from.
    text: Bytes,
    lines: Vec<Line>,
}

/// One of them.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    name: HeaderName,
    /// `None` when it was removed: what is added under that name afterwards takes its place.
    value: Option<HeaderValue>,
    /// Where the name stands in the text as it was spelt; nowhere if it was not read from one.
    spelling: Option<Span>,
}

impl Fields {
    /// None yet, of a head with this text, and room for so many.
    pub(crate) fn of(text: Bytes, room: usize) -> Self {
        Self { text, lines: spare::lines(room) }
    }

    /// The head that they were read from.
    pub(crate) const fn text(&self) -> &Bytes {
        &self.text
    }

    /// Adds a line that stands in the text.
    pub(crate) fn push(&mut self, name: HeaderName, value: HeaderValue, spelling: Span) {
        self.lines.push(Line { name, value: Some(value), spelling: Some(spelling) });
    }

    /// Names as they are to be written, with their values.
    pub(crate) fn written(&self) -> impl Iterator<Item = (&[u8], &HeaderValue)> {
        self.lines.iter().filter_map(|line| {
            let name = line.spelling.map_or(line.name.as_str().as_bytes(), |spelling| spelling.of(&self.text));
            Some((name, line.value.as_ref()?))
        })
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.lines.iter().all(|line| line.value.is_none())
    }

    /// The same for those who need a map: lines of one name follow each other there.
    pub(crate) fn into_map(self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.lines.len());
        for line in self.lines {
            if let Some(value) = line.value {
                map.append(line.name, value);
            }
        }
        map
    }

    /// The lines of a name, also those that were removed, which are behind all others of that name.
    fn lines_of(&mut self, name: &HeaderName) -> impl Iterator<Item = &mut Line> {
        self.lines.iter_mut().filter(move |line| line.name == *name)
    }

    /// What is left of them when they are not needed any more.
    pub(crate) fn into_lines(self) -> Vec<Line> {
        self.lines
    }
}

impl Headers for Fields {
    fn get_all(&self, name: impl Borrow<HeaderName>) -> impl DoubleEndedIterator<Item = &HeaderValue> {
        let lines = self.lines.iter().filter(move |line| line.name == *name.borrow());
        lines.filter_map(|line| line.value.as_ref())
    }

    fn keys(&self) -> impl Iterator<Item = &HeaderName> {
        self.lines.iter().filter(|line| line.value.is_some()).map(|line| &line.name)
    }

    fn insert(&mut self, name: HeaderName, value: HeaderValue) {
        let mut lines = self.lines_of(&name);
        match lines.next() {
            Some(first) => {
                first.value = Some(value);
                lines.for_each(|line| line.value = None);
            }
            None => {
                drop(lines);
                self.lines.push(Line { name, value: Some(value), spelling: None });
            }
        }
    }

    fn append(&mut self, name: HeaderName, value: HeaderValue) {
        let removed = self.lines_of(&name).find(|line| line.value.is_none());
        match removed {
            Some(line) => line.value = Some(value),
            None => self.lines.push(Line { name, value: Some(value), spelling: None }),
        }
    }

    fn remove(&mut self, name: impl Borrow<HeaderName>) -> Option<HeaderValue> {
        let mut lines = self.lines_of(name.borrow());
        let first = lines.next()?.value.take();
        lines.for_each(|line| line.value = None);
        first
    }

    fn retain(&mut self, mut keeps: impl FnMut(&HeaderName) -> bool) {
        for line in &mut self.lines {
            if !keeps(&line.name) {
                line.value = None;
            }
        }
    }
}

impl Headers for HeaderMap {
    fn get_all(&self, name: impl Borrow<HeaderName>) -> impl DoubleEndedIterator<Item = &HeaderValue> {
        Self::get_all(self, name.borrow()).iter()
    }

    fn keys(&self) -> impl Iterator<Item = &HeaderName> {
        Self::keys(self)
    }

    fn insert(&mut self, name: HeaderName, value: HeaderValue) {
        Self::insert(self, name, value);
    }

    fn append(&mut self, name: HeaderName, value: HeaderValue) {
        Self::append(self, name, value);
    }

    fn remove(&mut self, name: impl Borrow<HeaderName>) -> Option<HeaderValue> {
        Self::remove(self, name.borrow())
    }

    fn retain(&mut self, mut keeps: impl FnMut(&HeaderName) -> bool) {
        let dropped: Vec<HeaderName> = Self::keys(self).filter(|name| !keeps(name)).cloned().collect();
        for name in dropped {
            Self::remove(self, name);
        }
    }

    fn get(&self, name: impl Borrow<HeaderName>) -> Option<&HeaderValue> {
        Self::get(self, name.borrow())
    }
}

impl FromIterator<(HeaderName, HeaderValue)> for Fields {
    fn from_iter<I: IntoIterator<Item = (HeaderName, HeaderValue)>>(fields: I) -> Self {
        let lines = fields.into_iter().map(|(name, value)| Line { name, value: Some(value), spelling: None });
        Self { text: Bytes::new(), lines: lines.collect() }
    }
}

impl From<HeaderMap> for Fields {
    fn from(map: HeaderMap) -> Self {
        let mut fields = Self::of(Bytes::new(), map.len());
        let mut current = None;
        for (name, value) in map {
            // A name is given with the first of its values only.
            current = name.or(current);
            if let Some(name) = &current {
                fields.lines.push(Line { name: name.clone(), value: Some(value), spelling: None });
            }
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use http::header;
    use proptest::prelude::*;

    use super::*;

    /// Some names, so that many lines have the same.
    const NAMES: [&str; 4] = ["host", "via", "x-a", "x-b"];

    fn name(index: usize) -> HeaderName {
        HeaderName::from_static(NAMES[index % NAMES.len()])
    }

    fn lines(headers: &impl Headers) -> Vec<Vec<HeaderValue>> {
        (0..NAMES.len()).map(|index| headers.get_all(name(index)).cloned().collect()).collect()
    }

    proptest! {
        #[test]
        fn they_hold_what_a_map_holds(steps in proptest::collection::vec((0_usize..8, 0_usize..4, 0_u16..9), 0..24)) {
            let (mut map, mut fields) = (HeaderMap::new(), Fields::default());
            for (step, index, value) in steps {
                let (name, value) = (name(index), HeaderValue::from(value));
                match step {
                    0 => {
                        Headers::insert(&mut map, name.clone(), value.clone());
                        fields.insert(name.clone(), value);
                    }
                    1 => prop_assert_eq!(map.remove(&name), fields.remove(&name)),
                    2 => {
                        Headers::retain(&mut map, |kept| *kept != name);
                        fields.retain(|kept| *kept != name);
                    }
                    _ => {
                        Headers::append(&mut map, name.clone(), value.clone());
                        fields.append(name.clone(), value);
                    }
                }
                prop_assert_eq!(lines(&map), lines(&fields));
                prop_assert_eq!(Headers::get(&map, &name), fields.get(&name));
                prop_assert_eq!(map.only(&name), fields.only(&name));
                prop_assert_eq!(map.is_empty(), fields.is_empty());
            }
            prop_assert_eq!(lines(&Fields::from(map.clone())), lines(&map));
            prop_assert_eq!(fields.into_map(), map);
        }
    }

    #[test]
    fn what_comes_back_takes_its_old_place() {
        let mut fields: Fields =
            [(header::HOST, "a"), (header::VIA, "b"), (header::HOST, "c"), (header::ACCEPT, "d"), (header::HOST, "e")]
                .into_iter()
                .map(|(name, value)| (name, HeaderValue::from_static(value)))
                .collect();
        fields.insert(header::HOST, HeaderValue::from_static("x"));
        fields.insert(header::DATE, HeaderValue::from_static("y"));
        fields.retain(|name| *name != header::VIA);
        fields.append(header::VIA, HeaderValue::from_static("z"));
        fields.append(header::HOST, HeaderValue::from_static("v"));
        let written: Vec<_> = fields.written().map(|(name, value)| (name.to_vec(), value.clone())).collect();
        let expected = [("host", "x"), ("via", "z"), ("host", "v"), ("accept", "d"), ("date", "y")];
        let expected = expected.map(|(name, value)| (name.as_bytes().to_vec(), HeaderValue::from_static(value)));
        assert_eq!(written, expected);
    }
}
