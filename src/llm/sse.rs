//! Server-sent events, byte exact.
//!
//! WHATWG HTML, section 9.2.6 ("Interpreting an event stream"), with what real servers need: bounds, an event flushed
//! at the end of the stream ([`SseReader::finish`]), and bytes that are not UTF-8 replaced rather than fatal. Feeding
//! the same bytes in any pieces gives the same events.

use std::borrow::Cow;

/// One line may have this many bytes: a base64 image fits.
const MAX_LINE: usize = 16 << 20;
/// One event may have this many.
const MAX_EVENT: usize = 32 << 20;

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SseEvent<'a> {
    /// The `event:` field, empty if absent.
    pub name: Cow<'a, str>,
    /// The `data:` lines, joined by `\n`.
    pub data: Cow<'a, str>,
}

/// Why reading cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SseError {
    /// A line or event exceeds its bound.
    TooLarge,
}

/// Splits bytes into events. Push bytes, then take events until there is none.
#[derive(Debug, Default)]
pub struct SseReader {
    buffer: Vec<u8>,
    /// What of `buffer` is consumed.
    head: usize,
    /// What of `buffer` was searched for a line end.
    searched: usize,
    /// The last line ended in CR, so a LF at `head` belongs to it.
    skip_lf: bool,
    bom_checked: bool,
    name: Vec<u8>,
    /// `name` went out with its event, and is to be forgotten.
    is_told: bool,
    /// Data of an event that has more than one data line.
    joined: Vec<u8>,
    /// Where the only data line so far stands in `buffer`.
    single: Option<(usize, usize)>,
    has_data: bool,
    invalid_bytes: u64,
    /// Each line is an event by itself.
    by_line: bool,
}

enum Line {
    /// `start..end` in the buffer.
    Found(usize, usize),
    NeedMore,
}

impl SseReader {
    /// A reader at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// A reader of newline-delimited JSON: each line that is not empty is an event without a name.
    pub fn lines() -> Self {
        Self { by_line: true, ..Self::default() }
    }

    /// Takes more bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.compact();
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole event.
    pub fn next_event(&mut self) -> Result<Option<SseEvent<'_>>, SseError> {
        self.forget_name();
        loop {
            match self.next_line() {
                Line::Found(start, end) if start == end => {
                    if self.has_data {
                        return Ok(Some(self.dispatch()));
                    }
                    // An event without data is none, but its name is forgotten.
                    self.name.clear();
                }
                Line::Found(start, end) => {
                    self.field(start, end)?;
                    if self.by_line {
                        return Ok(Some(self.dispatch()));
                    }
                }
                Line::NeedMore => {
                    let waiting = self.buffer.len() - self.head;
                    return if waiting > MAX_LINE { Err(SseError::TooLarge) } else { Ok(None) };
                }
            }
        }
    }

    /// The event that the end of the stream leaves unterminated, if any. The standard drops it; some servers forget the
    /// last blank line.
    pub fn finish(&mut self) -> Result<Option<SseEvent<'_>>, SseError> {
        self.forget_name();
        if self.head < self.buffer.len() {
            let (start, end) = (self.line_start(), self.buffer.len());
            self.head = end;
            if start < end {
                self.field(start, end)?;
            }
        }
        Ok(self.has_data.then(|| self.dispatch()))
    }

    /// How many lines were not UTF-8 and were read with replacement characters.
    pub fn invalid_lines(&self) -> u64 {
        self.invalid_bytes
    }

    fn forget_name(&mut self) {
        if self.is_told {
            self.name.clear();
            self.is_told = false;
        }
    }

    fn compact(&mut self) {
        if let Some((start, end)) = self.single {
            // The event's line must outlive the buffer's start.
            if self.head > 0 {
                self.joined.clear();
                self.joined.extend_from_slice(self.buffer.get(start..end).unwrap_or_default());
                self.single = None;
            }
        }
        if self.head > 0 {
            self.buffer.drain(..self.head);
            self.searched = self.searched.saturating_sub(self.head);
            self.head = 0;
        }
    }

    /// Where the next line starts, past what belongs to the last line's end.
    fn line_start(&mut self) -> usize {
        if self.skip_lf && self.head < self.buffer.len() {
            if self.buffer.get(self.head) == Some(&b'\n') {
                self.head += 1;
            }
            self.skip_lf = false;
        }
        if !self.bom_checked && self.buffer.len() - self.head >= 3 {
            if self.buffer.get(self.head..).is_some_and(|rest| rest.starts_with(b"\xEF\xBB\xBF")) {
                self.head += 3;
            }
            self.bom_checked = true;
        }
        self.head
    }

    fn next_line(&mut self) -> Line {
        let start = self.line_start();
        if !self.bom_checked && self.buffer.get(start..).is_some_and(|rest| b"\xEF\xBB\xBF".starts_with(rest)) {
            return Line::NeedMore;
        }
        self.bom_checked = true;
        let from = self.searched.max(start);
        let Some(rest) = self.buffer.get(from..) else { return Line::NeedMore };
        let Some(at) = memchr::memchr2(b'\n', b'\r', rest) else {
            self.searched = self.buffer.len();
            return Line::NeedMore;
        };
        let end = from + at;
        self.skip_lf = self.buffer.get(end) == Some(&b'\r');
        self.head = end + 1;
        self.searched = self.head;
        Line::Found(start, end)
    }

    fn field(&mut self, start: usize, end: usize) -> Result<(), SseError> {
        if end - start > MAX_LINE {
            return Err(SseError::TooLarge);
        }
        if self.by_line {
            return self.data(start, end);
        }
        let line = self.buffer.get(start..end).unwrap_or_default();
        let (field, value_at) = match memchr::memchr(b':', line) {
            Some(colon) => (line.get(..colon).unwrap_or_default(), colon + 1),
            None => (line, line.len()),
        };
        // One space after the colon is not part of the value.
        let value_at = value_at + usize::from(line.get(value_at) == Some(&b' '));
        match field {
            b"data" => self.data(start + value_at, end),
            b"event" => {
                self.name.clear();
                self.name.extend_from_slice(line.get(value_at..).unwrap_or_default());
                Ok(())
            }
            // Comments have an empty field name; `id` and `retry` serve reconnecting, which a POST never does.
            _ => Ok(()),
        }
    }

    fn data(&mut self, start: usize, end: usize) -> Result<(), SseError> {
        if !self.has_data {
            self.has_data = true;
            self.joined.clear();
            self.single = Some((start, end));
            return Ok(());
        }
        if let Some((start, end)) = self.single.take() {
            self.joined.clear();
            self.joined.extend_from_slice(self.buffer.get(start..end).unwrap_or_default());
        }
        self.joined.push(b'\n');
        self.joined.extend_from_slice(self.buffer.get(start..end).unwrap_or_default());
        if self.joined.len() > MAX_EVENT { Err(SseError::TooLarge) } else { Ok(()) }
    }

    fn dispatch(&mut self) -> SseEvent<'_> {
        self.has_data = false;
        let data = match self.single.take() {
            Some((start, end)) => self.buffer.get(start..end).unwrap_or_default(),
            None => &self.joined,
        };
        let data = text(data, &mut self.invalid_bytes);
        self.is_told = true;
        SseEvent { name: String::from_utf8_lossy(&self.name), data }
    }
}

fn text<'a>(bytes: &'a [u8], invalid: &mut u64) -> Cow<'a, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => {
            *invalid += 1;
            String::from_utf8_lossy(bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    type Owned = (String, String);

    fn read(pieces: &[&[u8]]) -> Vec<Owned> {
        let mut reader = SseReader::new();
        let mut events = Vec::new();
        for piece in pieces {
            reader.push(piece);
            while let Some(event) = reader.next_event().unwrap() {
                events.push((event.name.into_owned(), event.data.into_owned()));
            }
        }
        if let Some(event) = reader.finish().unwrap() {
            events.push((event.name.into_owned(), event.data.into_owned()));
        }
        events
    }

    fn data(texts: &[&str]) -> Vec<Owned> {
        texts.iter().map(|text| (String::new(), (*text).to_owned())).collect()
    }

    #[test]
    fn lines_are_events_by_themselves() {
        for split in 0..24 {
            let mut reader = SseReader::lines();
            let mut seen = Vec::new();
            let bytes = b"{\"a\":1}\r\n\ndata: 2\n{\"c\"";
            for piece in [&bytes[..split.min(bytes.len())], &bytes[split.min(bytes.len())..]] {
                reader.push(piece);
                while let Some(event) = reader.next_event().unwrap() {
                    seen.push(event.data.into_owned());
                }
            }
            seen.extend(reader.finish().unwrap().map(|event| event.data.into_owned()));
            assert_eq!(seen, ["{\"a\":1}", "data: 2", "{\"c\""], "split at {split}");
        }
    }

    #[test]
    fn every_edge_of_the_standard() {
        let cases: &[(&[u8], Vec<Owned>)] = &[
            (b"data: a\n\ndata: b\n\n", data(&["a", "b"])),
            (b"data: a\r\n\r\ndata: b\r\n\r\n", data(&["a", "b"])),
            (b"data: a\r\rdata: b\r\r", data(&["a", "b"])),
            (b"\xEF\xBB\xBFdata: a\n\n", data(&["a"])),
            (b"data:a\ndata:  b\ndata\n\n", data(&["a\n b\n"])),
            (b": comment\n\ndata: a\n\n", data(&["a"])),
            (b"event: e\ndata: a\n\ndata: b\n\n", vec![("e".into(), "a".into()), (String::new(), "b".into())]),
            (b"event: e\n\ndata: b\n\n", data(&["b"])),
            (b"id: 7\nretry: 10\ndata: a\n\n", data(&["a"])),
            (b"data: \n\n", data(&[""])),
            (b"data: unterminated", data(&["unterminated"])),
            (b"data: one\n", data(&["one"])),
            (b"data: \xff\xc3\xa9\n\n", data(&["\u{fffd}\u{e9}"])),
            (b"nothing\n\n", vec![]),
            (b"", vec![]),
            (b"\xEF\xBB", vec![]),
        ];
        for (bytes, expected) in cases {
            assert_eq!(&read(&[bytes]), expected, "{:?}", String::from_utf8_lossy(bytes));
            for split in 0..=bytes.len() {
                let (a, b) = bytes.split_at(split);
                assert_eq!(&read(&[a, b]), expected, "{:?} split at {split}", String::from_utf8_lossy(bytes));
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(&read(&single), expected, "{:?} byte by byte", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut reader = SseReader::new();
        reader.push(b"data: ");
        let block = vec![b'x'; 1 << 20];
        let refused = (0..20).find_map(|_| {
            reader.push(&block);
            reader.next_event().err()
        });
        assert_eq!(refused, Some(SseError::TooLarge));
    }

    proptest! {
        #[test]
        fn pieces_never_matter(bytes in "(data|event|:|\r|\n|\r\n| |a|é|\u{feff}){0,60}", cuts in proptest::collection::vec(0usize..200, 0..8)) {
            let bytes = bytes.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.push(0);
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            prop_assert_eq!(read(&pieces), read(&[bytes]));
        }
    }

    #[test]
    fn a_cr_at_the_end_of_a_piece_and_its_lf_are_one_line_end() {
        let named = |name: &str, data: &str| vec![(name.to_owned(), data.to_owned())];
        // A second line end would be a blank line, which forgets the name, or ends the event too soon.
        assert_eq!(read(&[b"event: e\r", b"\ndata: a\r", b"\ndata: b\r", b"\n\r", b"\n"]), named("e", "a\nb"));
        assert_eq!(read(&[b"data: a\r", b"\n", b"data: b\r", b"", b"\n\r\n"]), data(&["a\nb"]));
        // Alone, each is a line end by itself.
        assert_eq!(read(&[b"event: e\r", b"data: a\r", b"data: b\r", b"\r"]), named("e", "a\nb"));
        assert_eq!(read(&[b"data: a\r", b"\r", b"data: b\r\r"]), data(&["a", "b"]));
    }
}
