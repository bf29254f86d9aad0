//! Masking of personal data in text and JSON, whole or streamed. A stream gives the same as the whole text does, and
//! holds back only what may be the beginning of a match.
//!
//! That holds exactly for the kinds of libpar, which look at a bounded stretch of text ([`super::pii_match`]). A pattern
//! of the user's may look anywhere: with one, a stream holds back its last 256 bytes, and a longer match may be cut.

use super::pii_match::{Found, match_at};
use super::stream_filter::StreamFilter;
use crate::config::{Pattern, PiiConfig, PiiPattern};
use serde_json::Value;
use std::borrow::Cow;
use std::cmp::Reverse;
use std::sync::Arc;

/// What a stream holds back for the user's patterns, in bytes.
const CUSTOM_HOLD: usize = 256;

/// A masker, ready to use.
pub struct PiiMask {
    patterns: Vec<(PiiPattern, String)>,
    custom: Vec<(Pattern, String)>,
}

/// A stretch of text to be masked.
#[derive(Clone, Copy, Debug)]
struct Span<'m> {
    start: usize,
    end: usize,
    replacement: &'m str,
}

impl PiiMask {
    /// A masker of a config that was checked.
    pub fn new(config: &PiiConfig) -> Self {
        let template = config.replacement.as_deref().unwrap_or("[REDACTED]");
        let replacement = |name: &str| template.replace("{kind}", &name.to_ascii_uppercase());
        let patterns = config.patterns.as_deref().unwrap_or(&PiiPattern::ALL);
        Self {
            patterns: patterns.iter().map(|pattern| (*pattern, replacement(pattern.name()))).collect(),
            custom: config.custom.iter().map(|(name, pattern)| (pattern.clone(), replacement(name))).collect(),
        }
    }

    /// The text, masked.
    pub fn mask<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let (spans, _) = self.scan(text, 0, true);
        if spans.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut out = String::with_capacity(text.len());
        write(text, 0, text.len(), &spans, &mut out);
        Cow::Owned(out)
    }

    /// The value with every string in it masked, keys and numbers as they are; `None` if nothing was to mask.
    pub fn mask_json(&self, value: &Value) -> Option<Value> {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => None,
            Value::String(text) => match self.mask(text) {
                Cow::Borrowed(_) => None,
                Cow::Owned(masked) => Some(Value::String(masked)),
            },
            Value::Array(items) => {
                let masked: Vec<Option<Value>> = items.iter().map(|item| self.mask_json(item)).collect();
                masked.iter().any(Option::is_some).then(|| {
                    items.iter().zip(masked).map(|(item, masked)| masked.unwrap_or_else(|| item.clone())).collect()
                })
            }
            Value::Object(entries) => {
                let masked: Vec<Option<Value>> = entries.values().map(|value| self.mask_json(value)).collect();
                masked.iter().any(Option::is_some).then(|| {
                    entries
                        .iter()
                        .zip(masked)
                        .map(|((key, value), masked)| (key.clone(), masked.unwrap_or_else(|| value.clone())))
                        .collect()
                })
            }
        }
    }

    /// A filter of streamed text.
    pub fn stream(self: &Arc<Self>) -> Box<dyn StreamFilter> {
        Box::new(PiiStream { mask: Arc::clone(self), buffer: String::new(), done: 0 })
    }

    /// What is to be masked from `from` on, in order and without overlap, and up to where that is certain.
    fn scan(&self, text: &str, from: usize, finished: bool) -> (Vec<Span<'_>>, usize) {
        let (mut spans, mut decided) = self.scan_kinds(text, from, finished);
        if self.custom.is_empty() {
            return (spans, decided);
        }
        for (pattern, replacement) in &self.custom {
            let mut at = from;
            while let Some(found) = pattern.regex().find_at(text, at) {
                // An empty match (`\b`) masks nothing, and the search must go on behind it.
                at = found.end().max(text.ceil_char_boundary(found.start() + 1));
                if !found.is_empty() {
                    spans.push(Span { start: found.start(), end: found.end(), replacement });
                }
                if at >= text.len() {
                    break;
                }
            }
        }
        spans.sort_by_key(|span| (span.start, Reverse(span.end)));
        spans.dedup_by(|next, span| {
            let overlaps = next.start < span.end;
            if overlaps {
                span.end = span.end.max(next.end);
            }
            overlaps
        });
        if !finished {
            decided = decided.min(word_end_before(text, from, text.len().saturating_sub(CUSTOM_HOLD)));
            if let Some(span) = spans.iter().find(|span| span.start < decided && decided < span.end) {
                // A match that began right at the front has been waited for long enough.
                decided = if span.start > from { span.start } else { span.end };
            }
        }
        (spans, decided)
    }

    fn scan_kinds(&self, text: &str, from: usize, finished: bool) -> (Vec<Span<'_>>, usize) {
        let mut spans = Vec::new();
        let mut at = from;
        while let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) {
            let mut longest: Option<Span<'_>> = None;
            let may_begin = c.is_alphanumeric() || c.is_ascii_punctuation();
            for (pattern, replacement) in self.patterns.iter().filter(|_| may_begin) {
                match match_at(*pattern, text, at, finished) {
                    Found::Undecided => return (spans, at),
                    Found::Match(length) if longest.is_none_or(|longest| longest.end < at + length) => {
                        longest = Some(Span { start: at, end: at + length, replacement });
                    }
                    Found::Match(_) | Found::Nothing => {}
                }
            }
            at = longest.map_or(at + c.len_utf8(), |span| span.end);
            spans.extend(longest);
        }
        (spans, at)
    }
}

/// Where the last word that ends at or before `most` ends, its white space included; `from` if none does, unless that
/// would hold back twice as much as intended.
fn word_end_before(text: &str, from: usize, most: usize) -> usize {
    let most = text.floor_char_boundary(most).max(from);
    let held = text.get(from..most).unwrap_or_default();
    match held.char_indices().rev().find(|(_, c)| c.is_whitespace()) {
        Some((at, space)) => from + at + space.len_utf8(),
        None if held.len() > CUSTOM_HOLD => most,
        None => from,
    }
}

fn write(text: &str, from: usize, to: usize, spans: &[Span<'_>], out: &mut String) {
    let mut at = from;
    for span in spans.iter().take_while(|span| span.end <= to) {
        out.push_str(text.get(at..span.start).unwrap_or_default());
        out.push_str(span.replacement);
        at = span.end;
    }
    out.push_str(text.get(at..to).unwrap_or_default());
}

struct PiiStream {
    mask: Arc<PiiMask>,
    buffer: String,
    /// How much of the buffer is out already: it is kept for what has to look back.
    done: usize,
}

/// What matchers look back at, in bytes: two characters.
const CONTEXT: usize = 8;

impl PiiStream {
    fn release(&mut self, finished: bool, out: &mut String) {
        let (spans, decided) = self.mask.scan(&self.buffer, self.done, finished);
        write(&self.buffer, self.done, decided, &spans, out);
        let keep = self.buffer.floor_char_boundary(decided.saturating_sub(CONTEXT));
        self.buffer.drain(..keep);
        self.done = decided - keep;
    }
}

impl StreamFilter for PiiStream {
    fn push(&mut self, text: &str, out: &mut String) {
        self.buffer.push_str(text);
        self.release(false, out);
    }

    fn finish(&mut self, out: &mut String) {
        self.release(true, out);
        self.buffer.clear();
        self.done = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::strict;
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;
    use serde_json::json;

    fn mask(config: &str) -> Arc<PiiMask> {
        let config: PiiConfig = strict::from_str(config, "pii").unwrap();
        config.check("pii").unwrap();
        Arc::new(PiiMask::new(&config))
    }

    #[test]
    fn every_kind_is_masked_by_its_name() {
        let mask = mask(r#"{"replacement": "[{kind}]", "custom": {"key": "sk-\\w+"}}"#);
        assert_eq!(
            mask.mask("joe@x.io, 555-123-4567, 4111 1111 1111 1111, 123-45-6789, DE89 3704 0044 0532 0130 00, sk-a1."),
            "[EMAIL], [PHONE], [CARD], [SSN], [IBAN], [KEY]."
        );
        let text = "on 2024-05-01 at 10.0.0.1: 1234567890 of 42";
        assert!(matches!(mask.mask(text), Cow::Borrowed(same) if same == text));
    }

    #[test]
    fn only_what_was_asked_for_is_masked() {
        let mask = mask(r#"{"patterns": ["email"]}"#);
        assert_eq!(mask.mask("joe@x.io 555-123-4567"), "[REDACTED] 555-123-4567");
    }

    #[test]
    fn overlapping_matches_leave_nothing_behind() {
        let mask = mask(r#"{"custom": {"name": "joe|io doe"}}"#);
        assert_eq!(mask.mask("to joe@x.io doe!"), "to [REDACTED]!");
    }

    #[test]
    fn strings_in_json_are_masked_and_keys_kept() {
        let mask = mask("{}");
        let value = json!({"joe@x.io": ["joe@x.io", 4111111111111111_u64, null], "n": {"a": "b"}});
        let masked = json!({"joe@x.io": ["[REDACTED]", 4111111111111111_u64, null], "n": {"a": "b"}});
        assert_eq!(mask.mask_json(&value), Some(masked));
        assert_eq!(mask.mask_json(&json!({"a": [1, "b"]})), None);
    }

    #[test]
    fn a_stream_holds_back_only_what_may_be_a_match() {
        let (mut stream, mut out) = (mask("{}").stream(), String::new());
        for (piece, so_far) in [
            ("Hello wor", "Hello "),
            ("ld, ", "Hello world, "),
            ("joe@x", "Hello world, "),
            (".io or 4111 1111 ", "Hello world, [REDACTED] or "),
            ("1111 1111 ok ", "Hello world, [REDACTED] or [REDACTED] ok "),
        ] {
            stream.push(piece, &mut out);
            assert_eq!(out, so_far);
        }
        stream.push("555-123-4567", &mut out);
        stream.finish(&mut out);
        assert_eq!(out, "Hello world, [REDACTED] or [REDACTED] ok [REDACTED]");
    }

    #[test]
    fn a_stream_is_bounded_whatever_comes() {
        for config in ["{}", r#"{"custom": {"any": "b+"}}"#] {
            for piece in ["a", "4", "@", "A1", "a@b.", "9 ", "b"] {
                let (mut stream, mut out) = (mask(config).stream(), String::new());
                stream.push(&piece.repeat(5_000), &mut out);
                assert!(!out.is_empty(), "{config} {piece}");
            }
        }
    }

    /// Each kind and a pattern of the user's, with letters of one to four bytes right before and after it.
    fn surrounded() -> impl Strategy<Value = String> {
        let known = proptest::sample::select(vec![
            "x@y.aa",
            "joe@example.com",
            "x@y.xn--p1ai",
            "+49 30 1234567",
            "4111 1111 1111 1111",
            "DE89 3704 0044 0532 0130 00",
            "123-45-6789",
            "sk-secret",
        ]);
        let letters = || {
            let letter = proptest::sample::select(vec![
                "é", "ß", "Ǽ", "ж", "是", "𝒳", "\u{301}", "\u{200b}", "a", "-", ".", " ", "@",
            ]);
            prop_oneof![
                proptest::collection::vec(letter.clone(), 0..4).prop_map(|letters| letters.concat()),
                (letter, 20_usize..140).prop_map(|(letter, count)| letter.repeat(count)),
            ]
        };
        proptest::collection::vec((letters(), known, letters()), 1..5).prop_map(|parts| {
            parts.into_iter().map(|(before, known, after)| format!("{before}{known}{after}")).collect()
        })
    }

    /// Whether the text is these pieces with something between each two of them that has a letter or a digit.
    fn is_made_of(text: &str, pieces: &[&str]) -> bool {
        let Some((first, others)) = pieces.split_first() else { return text.is_empty() };
        let Some(rest) = text.strip_prefix(first) else { return false };
        if others.is_empty() {
            return rest.is_empty();
        }
        // A piece may also be in what was masked, so each place is tried.
        let ends = rest.char_indices().map(|(at, c)| at + c.len_utf8());
        ends.filter(|end| rest[..*end].chars().any(|c| c.is_ascii_alphanumeric()))
            .any(|end| is_made_of(&rest[end..], others))
    }

    #[test]
    fn a_match_that_would_end_inside_a_letter_loses_nothing() {
        let text = format!("x@y.aa{} and more", "é".repeat(31));
        for config in ["{}", r#"{"patterns": ["email"]}"#] {
            let masked = mask(config).mask(&text).into_owned();
            assert_eq!(masked, "[REDACTED]é and more");
        }
    }

    proptest! {
        #[test]
        fn nothing_but_matches_is_ever_changed(text in surrounded()) {
            let mark = "\u{1}";
            let text = text + " the end";
            let mask = mask(&json!({"replacement": mark, "custom": {"key": "sk-[a-z]{1,40}"}}).to_string());
            let masked = mask.mask(&text).into_owned();
            prop_assert!(masked.ends_with(" the end"), "{text:?} became {masked:?}");
            let pieces: Vec<&str> = masked.split(mark).collect();
            prop_assert!(is_made_of(&text, &pieces), "{text:?} became {masked:?}");
            for (cut, _) in text.char_indices().step_by(5) {
                let (mut stream, mut out) = (mask.stream(), String::new());
                stream.push(&text[..cut], &mut out);
                stream.push(&text[cut..], &mut out);
                stream.finish(&mut out);
                prop_assert_eq!(&out, &masked, "cut at {}", cut);
            }
        }
    }

    fn text() -> impl Strategy<Value = String> {
        let known = proptest::sample::select(vec![
            "joe@example.com",
            "müller@bücher.de",
            "+49 30 1234567",
            "(555) 123-4567",
            "030/123456",
            "4111 1111 1111 1111",
            "5500-0000-0000-0004",
            "378282246310005",
            "DE89 3704 0044 0532 0130 00",
            "GB29NWBK60161331926819",
            "123-45-6789",
            "2024-05-01",
            "192.168.0.1",
            "4111",
            "A",
            "sk-secret",
            "@",
            "+",
            "(",
            "0",
        ])
        .prop_map(str::to_owned);
        let part = prop_oneof![3 => known, 2 => "[a-zA-Z]{1,9}", 1 => "[0-9]{1,20}", 1 => "\\PC{0,6}"];
        let gap = proptest::sample::select(vec![" ", " ", " ", "", "\n", ", ", ". ", "-", ".", ": "]);
        proptest::collection::vec((part, gap), 0..30)
            .prop_map(|parts| parts.into_iter().map(|(part, gap)| part + gap).collect())
    }

    proptest! {
        #[test]
        fn a_stream_gives_what_the_whole_gives(text in text(), cuts in proptest::collection::vec(1_usize..12, 1..40)) {
            for config in ["{}", r#"{"replacement": "<{kind}>", "custom": {"key": "\\bsk-\\w+"}}"#] {
                let mask = mask(config);
                let (mut stream, mut out) = (mask.stream(), String::new());
                for _ in 0..2 {
                    out.clear();
                    let (mut rest, mut cuts) = (text.as_str(), cuts.iter().cycle());
                    while !rest.is_empty() {
                        let cut = rest.floor_char_boundary(*cuts.next().unwrap()).max(rest.chars().next().unwrap().len_utf8());
                        stream.push(&rest[..cut], &mut out);
                        rest = &rest[cut..];
                    }
                    stream.finish(&mut out);
                    prop_assert_eq!(&out, &*mask.mask(&text));
                }
            }
        }
    }
}
