//! The fields of a message's head as they pass through here: in their order, and spelt as they were.
//!
//! A [`HeaderMap`] finds a field among many by its hash, and knows neither. A head has a dozen fields that nobody asks for, and
//! is asked for three dozen that it does not have. So its [`Fields`] stay the text that they are, and remember of each name a
//! [mark](mark_of) that tells most of the absent ones apart. Whoever speaks in [`http`] types, which are the API, HTTP/2 and all
//! answers that are made here, has a map; what is asked of both is in [`Headers`].

mod headers;

use std::{borrow::Borrow, fmt};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) use self::headers::{Headers, Names, Value};

/// Bytes of a text, by their places.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    from: u32,
    to: u32,
}

impl Span {
    pub(crate) fn new(from: usize, to: usize) -> Self {
        // Nothing is longer than a head may be, or than the buffer that it is read into.
        let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self { from: place(from), to: place(to) }
    }

    pub(crate) fn of(self, text: &[u8]) -> &[u8] {
        &text[self.from as usize..self.to as usize]
    }

    /// The same bytes in a text that has so many more before them.
    const fn behind(self, length: u32) -> Self {
        Self { from: self.from.saturating_add(length), to: self.to.saturating_add(length) }
    }
}

/// A number below 64 that names have in common whatever the case of their letters, and different names mostly have not.
fn mark_of(name: &[u8]) -> u8 {
    let (first, last) = match name {
        [first, .., last] => (*first | 0x20, *last | 0x20),
        [only] => (*only | 0x20, 0),
        [] => (0, 0),
    };
    let length = name.len().to_le_bytes()[0];
    length.wrapping_add(first.wrapping_mul(7)).wrapping_add(last.wrapping_mul(13)) & 63
}

/// Whether a name is this one, of which there are no capital letters.
fn is_spelling(spelt: &[u8], name: &[u8]) -> bool {
    // Without a branch for each byte, so that many are compared at once.
    spelt.len() == name.len()
        && std::iter::zip(spelt, name).fold(true, |same, (spelt, byte)| same & (spelt.to_ascii_lowercase() == *byte))
}

/// The fields of one head.
#[derive(Clone, Default)]
pub(crate) struct Fields {
    /// The head that they were read from, and behind it what was added.
    text: Vec<u8>,
    lines: Vec<Line>,
    /// A bit for each mark that one of the lines has.
    marks: u64,
}

/// One of them.
#[derive(Debug, Clone, Copy)]
struct Line {
    /// As it was spelt.
    name: Span,
    value: Span,
    mark: u8,
    /// Whether it stands in the text as it is to be written.
    whole: bool,
    /// What is added under that name afterwards takes its place.
    removed: bool,
    /// Whether no compression may learn the value (RFC 7541 §7.1.3).
    sensitive: bool,
}

impl Line {
    /// Whether it has this name, whose mark is this.
    #[inline]
    fn is_of(&self, mark: u8, name: &[u8], text: &[u8]) -> bool {
        self.mark == mark && is_spelling(self.name.of(text), name)
    }

    /// Whether it has one of these names.
    #[inline]
    fn is_of_any<const N: usize>(&self, names: &Names<N>, text: &[u8]) -> bool {
        names.all_marks >> self.mark & 1 == 1
            && std::iter::zip(&names.names, names.marks)
                .any(|(name, mark)| self.is_of(mark, name.as_str().as_bytes(), text))
    }
}

impl Fields {
    /// None.
    pub(crate) const fn new() -> Self {
        Self { text: Vec::new(), lines: Vec::new(), marks: 0 }
    }

    /// Notes a line of a head that is still being read, with its name. It is `whole` if nothing but `: ` is between name and
    /// value.
    pub(crate) fn note(&mut self, name: &[u8], (at, value): (Span, Span), whole: bool) {
        let mark = mark_of(name);
        self.marks |= 1 << mark;
        self.lines.push(Line { name: at, value, mark, whole, removed: false, sensitive: false });
    }

    /// Takes the text of the head whose lines were noted.
    pub(crate) fn set_text(&mut self, head: &[u8]) {
        self.text.clear();
        self.text.extend_from_slice(head);
    }

    /// How many lines were noted.
    pub(crate) const fn noted(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Names as they are to be written, with their values.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.kept().map(|line| (line.name.of(&self.text), line.value.of(&self.text)))
    }

    fn kept(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| !line.removed)
    }

    /// Adds all lines of others behind its own, also those whose names had a place before.
    pub(crate) fn append_all(&mut self, others: &Self) {
        // Or what is added afterwards under such a name would stand before them.
        self.lines.retain(|line| !line.removed || others.marks >> line.mark & 1 == 0);
        let length = Span::new(0, self.text.len()).to;
        self.text.extend_from_slice(&others.text);
        let lines = others.lines.iter();
        self.lines.extend(lines.map(|line| Line {
            name: line.name.behind(length),
            value: line.value.behind(length),
            ..*line
        }));
        self.marks |= others.marks;
    }

    /// How many bytes they take at most when they are written.
    pub(crate) const fn most_bytes(&self) -> usize {
        // Of each line the name and the value are in the text, once.
        self.text.len() + 4 * self.lines.len() + 2
    }

    /// Writes them as they were spelt and in their order, with the empty line behind them.
    pub(crate) fn write(&self, out: &mut BytesMut) {
        out.reserve(self.most_bytes());
        // Lines that stand behind each other are written at once.
        let mut run = Span { from: 0, to: 0 };
        for line in self.kept() {
            if line.whole && line.name.from == run.to {
                run.to = line.value.to + 2;
                continue;
            }
            out.put_slice(run.of(&self.text));
            run = Span { from: line.name.from, to: line.value.to + 2 };
            if !line.whole {
                run = Span { from: 0, to: 0 };
                write_line(out, line.name.of(&self.text), line.value.of(&self.text));
            }
        }
        out.put_slice(run.of(&self.text));
        out.put_slice(b"\r\n");
    }

    /// The same for those who need a map: lines of one name follow each other there.
    pub(crate) fn into_map(self) -> HeaderMap {
        let Self { text, lines, .. } = self;
        let text = Bytes::from(text);
        // A map takes no more than some ten thousand names, but more lines.
        let mut map = HeaderMap::with_capacity(lines.len().min(256));
        for line in lines.into_iter().filter(|line| !line.removed) {
            let value = text.slice(line.value.from as usize..line.value.to as usize);
            let name = HeaderName::from_bytes(line.name.of(&text)).expect("it is the name of a field already");
            let mut value = HeaderValue::from_maybe_shared(value).expect("it is the value of a field already");
            value.set_sensitive(line.sensitive);
            map.append(name, value);
        }
        map
    }

    /// Makes it empty, for another head.
    pub(crate) fn clear(&mut self) {
        self.text.clear();
        self.lines.clear();
        self.marks = 0;
    }

    /// Bytes and lines that it has memory for.
    pub(crate) const fn capacity(&self) -> (usize, usize) {
        (self.text.capacity(), self.lines.capacity())
    }

    /// The lines that may have a name with this mark: none, or all of them.
    fn candidates(&self, mark: u8) -> &[Line] {
        if self.marks >> mark & 1 == 1 { &self.lines } else { &[] }
    }

    /// The places of the lines of a name, also of those that were removed.
    fn places(&self, name: &HeaderName) -> impl Iterator<Item = usize> {
        let name = name.as_str().as_bytes();
        let mark = mark_of(name);
        let lines = self.candidates(mark).iter().enumerate();
        lines.filter(move |(_, line)| line.is_of(mark, name, &self.text)).map(|(at, _)| at)
    }

    /// Puts a value where another was.
    fn put(&mut self, at: usize, value: &HeaderValue) {
        let from = self.text.len();
        self.text.extend_from_slice(value.as_bytes());
        let line = &mut self.lines[at];
        line.value = Span::new(from, self.text.len());
        (line.whole, line.removed, line.sensitive) = (false, false, value.is_sensitive());
    }

    /// Adds a line behind all others.
    fn push(&mut self, name: &HeaderName, value: &HeaderValue) {
        let (name, from) = (name.as_str().as_bytes(), self.text.len());
        self.text.reserve(name.len() + value.len() + 4);
        write_line(&mut self.text, name, value.as_bytes());
        let value_to = self.text.len() - 2;
        let spans = (Span::new(from, from + name.len()), Span::new(value_to - value.len(), value_to));
        self.note(name, spans, true);
        if let Some(line) = self.lines.last_mut() {
            line.sensitive = value.is_sensitive();
        }
    }
}

impl Headers for Fields {
    fn has_any<const N: usize>(&self, names: &Names<N>) -> bool {
        self.marks & names.all_marks != 0 && self.kept().any(|line| line.is_of_any(names, &self.text))
    }

    fn get_all(&self, name: impl Borrow<HeaderName>) -> impl DoubleEndedIterator<Item = Value<'_>> {
        let mark = mark_of(name.borrow().as_str().as_bytes());
        self.candidates(mark).iter().filter_map(move |line| {
            let is_it = !line.removed && line.is_of(mark, name.borrow().as_str().as_bytes(), &self.text);
            is_it.then(|| Value(line.value.of(&self.text)))
        })
    }

    fn insert(&mut self, name: HeaderName, value: impl Borrow<HeaderValue>) {
        let mut places = self.places(&name);
        let (first, is_only) = (places.next(), places.next().is_none());
        drop(places);
        let Some(first) = first else { return self.push(&name, value.borrow()) };
        if !is_only {
            self.remove(&name);
        }
        self.put(first, value.borrow());
    }

    fn append(&mut self, name: HeaderName, value: impl Borrow<HeaderValue>) {
        let removed = self.places(&name).find(|&at| self.lines[at].removed);
        match removed {
            Some(at) => self.put(at, value.borrow()),
            None => self.push(&name, value.borrow()),
        }
    }

    fn remove(&mut self, name: impl Borrow<HeaderName>) {
        let name = name.borrow().as_str().as_bytes();
        let mark = mark_of(name);
        if self.candidates(mark).is_empty() {
            return;
        }
        for line in &mut self.lines {
            line.removed |= line.is_of(mark, name, &self.text);
        }
    }

    fn remove_any<const N: usize>(&mut self, names: &Names<N>) {
        if self.marks & names.all_marks == 0 {
            return;
        }
        for line in &mut self.lines {
            line.removed |= line.is_of_any(names, &self.text);
        }
    }

    fn retain(&mut self, mut keeps: impl FnMut(&HeaderName) -> bool) {
        for line in self.lines.iter_mut().filter(|line| !line.removed) {
            let name = HeaderName::from_bytes(line.name.of(&self.text));
            line.removed = !name.is_ok_and(|name| keeps(&name));
        }
    }
}

/// Values may be secrets.
impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|(name, _)| name.escape_ascii().to_string())).finish()
    }
}

impl<N: Borrow<HeaderName>, V: Borrow<HeaderValue>> FromIterator<(N, V)> for Fields {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(lines: I) -> Self {
        let mut fields = Self::default();
        for (name, value) in lines {
            fields.push(name.borrow(), value.borrow());
        }
        fields
    }
}

impl From<HeaderMap> for Fields {
    fn from(map: HeaderMap) -> Self {
        map.iter().collect()
    }
}

/// Writes one line.
pub(crate) fn write_line(out: &mut impl BufMut, name: &[u8], value: &[u8]) {
    out.put_slice(name);
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use http::header;
    use proptest::prelude::*;

    use super::*;
    use crate::h1::head::HeadParser;

    /// Some names, so that many lines have the same.
    const NAMES: [&str; 4] = ["host", "via", "x-a", "x-b"];

    fn name(index: usize) -> HeaderName {
        HeaderName::from_static(NAMES[index % NAMES.len()])
    }

    fn lines(headers: &impl Headers) -> Vec<Vec<Value<'_>>> {
        (0..NAMES.len()).map(|index| headers.get_all(name(index)).collect()).collect()
    }

    /// What is written, one line after the other.
    fn line_by_line(fields: &Fields) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, value) in fields.iter() {
            write_line(&mut out, name, value);
        }
        [&out[..], b"\r\n"].concat()
    }

    proptest! {
        #[test]
        fn they_hold_what_a_map_holds(
            read in proptest::collection::vec((0_usize..4, 0_u16..9, any::<bool>(), 0_usize..3), 0..6),
            steps in proptest::collection::vec((0_usize..10, 0_usize..4, 0_u16..9), 0..24),
        ) {
            let (mut map, mut head) = (HeaderMap::new(), Vec::new());
            for (index, value, upper, space) in read {
                map.append(name(index), HeaderValue::from(value));
                let name = if upper { NAMES[index].to_ascii_uppercase() } else { NAMES[index].to_owned() };
                head.extend(format!("{name}:{}{value}\r\n", [" ", "", " \t"][space]).into_bytes());
            }
            head.extend(b"\r\n");
            let mut parser = HeadParser::trailers();
            prop_assert_eq!(parser.advance(&head), Ok(Some(head.len())));
            let mut fields = parser.finish_trailers(&head);
            for (step, index, value) in steps {
                let (name, value) = (name(index), HeaderValue::from(value));
                match step {
                    0 => {
                        Headers::insert(&mut map, name.clone(), value.clone());
                        fields.insert(name.clone(), value);
                    }
                    1 => {
                        map.remove(&name);
                        fields.remove(&name);
                    }
                    2 => {
                        Headers::retain(&mut map, |kept| *kept != name);
                        fields.retain(|kept| *kept != name);
                    }
                    3 => {
                        let names = Names::new(["via", "x-b"]);
                        prop_assert_eq!(map.has_any(&names), fields.has_any(&names));
                        map.remove_any(&names);
                        fields.remove_any(&names);
                    }
                    4 => {
                        let others = [(name.clone(), value.clone()), (header::VIA, value)];
                        others.clone().into_iter().for_each(|(name, value)| Headers::append(&mut map, name, value));
                        fields.append_all(&others.into_iter().collect());
                    }
                    _ => {
                        Headers::append(&mut map, name.clone(), value.clone());
                        fields.append(name.clone(), value);
                    }
                }
                prop_assert_eq!(lines(&map), lines(&fields));
                prop_assert_eq!(Headers::get(&map, &name), fields.get(&name));
                prop_assert_eq!(map.contains_key(&name), fields.contains_key(&name));
                prop_assert_eq!(map.only(&name), fields.only(&name));
                prop_assert_eq!(map.is_empty(), fields.is_empty());
                let mut out = BytesMut::new();
                fields.write(&mut out);
                prop_assert_eq!(&out[..], line_by_line(&fields));
            }
            let copy = Fields::from(map.clone());
            prop_assert_eq!(lines(&copy), lines(&map));
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
        let expected = [("host", "x"), ("via", "z"), ("host", "v"), ("accept", "d"), ("date", "y")];
        assert!(fields.iter().eq(expected.map(|(name, value)| (name.as_bytes(), value.as_bytes()))));
        let mut out = BytesMut::new();
        fields.write(&mut out);
        assert_eq!(out, "host: x\r\nvia: z\r\nhost: v\r\naccept: d\r\ndate: y\r\n\r\n");
    }
}
