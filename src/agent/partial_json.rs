//! JSON out of a model's answer: the document in it, and, while it is still being written, the value it already
//! determines.
//!
//! What [`prefix_value`] gives only grows: more text adds elements, entries and characters, and changes nothing that was
//! there. So half a key, half an escape and a number that may get another digit are left out until they are complete.

use crate::types::json;
use serde::de::IgnoredAny;
use serde_json::{Map, Number, Value};

/// How deep arrays and objects may be nested; what is deeper is left out. One level is for what wraps a value.
const MAX_DEPTH: usize = json::MAX_DEPTH + 1;

/// How many beginnings of a document are tried: prose has few brackets.
const MAX_TRIES: usize = 32;

/// The value that the beginning of an answer determines so far; `None` while it determines nothing.
///
/// What stands before the document is skipped ([`json_start`]). Where the text stops being JSON, the value ends.
pub fn prefix_value(text: &str) -> Option<Value> {
    let document = text.get(json_start(text)?..)?;
    Reader { text: document, at: 0, ended: false }.value(0)
}

/// Where the JSON document of an answer begins: behind white space, the opening of a fence, or prose before the first
/// bracket. A document that is a bare string, number or literal begins at once or not at all.
pub fn json_start(text: &str) -> Option<usize> {
    let trimmed = text.trim_start();
    let start = text.len() - trimmed.len();
    if is_scalar(trimmed) {
        return Some(start);
    }
    trimmed.find(['{', '[']).map(|at| start + at)
}

/// Whether a text is a scalar, or the beginning of one, and nothing else.
fn is_scalar(text: &str) -> bool {
    let mut reader = Reader { text, at: 0, ended: false };
    match text.bytes().next() {
        Some(b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => reader.value(0),
        _ => return false,
    };
    reader.skip_space();
    reader.at == text.len()
}

/// The JSON document in a model's answer: the whole of it, what stands in a fence, or the first array or object.
///
/// If nothing in the text is JSON, the first balanced brackets are given, for their errors to be told.
pub fn extract(text: &str) -> Option<&str> {
    let is_json = |text: &str| serde_json::from_str::<IgnoredAny>(text).is_ok();
    let trimmed = text.trim();
    if is_json(trimmed) {
        return Some(trimmed);
    }
    if let Some(fenced) = fences(trimmed).find(|fenced| is_json(fenced)) {
        return Some(fenced);
    }
    let mut first = None;
    let mut rest = trimmed;
    for _ in 0..MAX_TRIES {
        rest = rest.find(['{', '[']).and_then(|at| rest.get(at..))?;
        let Some(length) = balanced(rest) else {
            // A bracket of the prose that nothing closes.
            rest = rest.get(1..)?;
            continue;
        };
        let (document, after) = rest.split_at_checked(length)?;
        if is_json(document) {
            return Some(document);
        }
        first.get_or_insert(document);
        if !after.contains(['{', '[']) {
            break;
        }
        rest = after;
    }
    first
}

/// What stands in the fences of a text, without the word after the opening one.
fn fences(text: &str) -> impl Iterator<Item = &str> {
    text.split("```").skip(1).step_by(2).map(|block| {
        let word = block.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(0);
        block.get(word..).unwrap_or_default().trim()
    })
}

/// How many bytes the brackets that open a text span, those in strings left aside.
fn balanced(text: &str) -> Option<usize> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

/// Two halves of a pair: `\ud83d\ude00`.
const LONGEST_ESCAPE: usize = 12;

struct Reader<'t> {
    text: &'t str,
    at: usize,
    /// The text is over, or no JSON from here on: nothing more is read.
    ended: bool,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) -> Option<u8> {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        self.peek()
    }

    fn end<T>(&mut self) -> Option<T> {
        self.ended = true;
        None
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        match self.skip_space() {
            Some(b'{' | b'[') if depth == MAX_DEPTH => self.end(),
            Some(b'{') => Some(Value::Object(self.object(depth + 1))),
            Some(b'[') => Some(Value::Array(self.array(depth + 1))),
            Some(b'"') => Some(Value::String(self.string())),
            Some(b'-' | b'0'..=b'9') => self.number().map(Value::Number),
            Some(b't') => self.literal("true", Value::Bool(true)),
            Some(b'f') => self.literal("false", Value::Bool(false)),
            Some(b'n') => self.literal("null", Value::Null),
            _ => self.end(),
        }
    }

    fn array(&mut self, depth: usize) -> Vec<Value> {
        let mut items = Vec::new();
        self.at += 1;
        if self.skip_space() == Some(b']') {
            self.at += 1;
            return items;
        }
        while !self.ended {
            items.extend(self.value(depth));
            self.next_or_close(b']');
            if self.closed(b']') {
                break;
            }
        }
        items
    }

    fn object(&mut self, depth: usize) -> Map<String, Value> {
        let mut entries = Map::new();
        self.at += 1;
        if self.skip_space() == Some(b'}') {
            self.at += 1;
            return entries;
        }
        while !self.ended {
            if self.skip_space() != Some(b'"') {
                self.ended = true;
                break;
            }
            let key = self.string();
            if self.ended || self.skip_space() != Some(b':') {
                self.ended = true;
                break;
            }
            self.at += 1;
            if let Some(value) = self.value(depth) {
                entries.insert(key, value);
            }
            self.next_or_close(b'}');
            if self.closed(b'}') {
                break;
            }
        }
        entries
    }

    /// After an element: a comma, or the end of what it is in.
    fn next_or_close(&mut self, close: u8) {
        if self.ended {
            return;
        }
        match self.skip_space() {
            Some(byte) if byte == b',' || byte == close => self.at += 1,
            _ => self.ended = true,
        }
    }

    fn closed(&self, close: u8) -> bool {
        !self.ended && self.at.checked_sub(1).and_then(|last| self.text.as_bytes().get(last)) == Some(&close)
    }

    /// A string, as far as it goes.
    fn string(&mut self) -> String {
        let mut string = String::new();
        self.at += 1;
        loop {
            let rest = self.text.get(self.at..).unwrap_or_default();
            let plain = rest.find(['"', '\\']).unwrap_or(rest.len());
            string.push_str(rest.get(..plain).unwrap_or_default());
            self.at += plain;
            if self.peek() == Some(b'"') {
                self.at += 1;
                return string;
            }
            let escaped = rest.get(plain..).unwrap_or_default();
            match escape(escaped) {
                Some((c, length)) => {
                    string.push(c);
                    self.at += length;
                }
                None => {
                    // The text is over, be it within an escape, or the escape is none.
                    self.at += if escaped.len() < LONGEST_ESCAPE { escaped.len() } else { 0 };
                    self.ended = true;
                    return string;
                }
            }
        }
    }

    fn number(&mut self) -> Option<Number> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let length = rest.find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E'));
        let Some(length) = length else {
            // It may go on.
            self.at = self.text.len();
            return self.end();
        };
        match rest.get(..length).unwrap_or_default().parse() {
            Ok(number) => {
                self.at += length;
                Some(number)
            }
            Err(_) => self.end(),
        }
    }

    fn literal(&mut self, word: &str, value: Value) -> Option<Value> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        if rest.starts_with(word) {
            self.at += word.len();
            return Some(value);
        }
        if word.starts_with(rest) {
            self.at = self.text.len();
        }
        self.end()
    }
}

/// The character of a complete escape at the beginning of a text, and how long the escape is.
fn escape(text: &str) -> Option<(char, usize)> {
    let unit = |at: usize| {
        let digits = text.get(at..)?.strip_prefix("\\u")?.get(..4)?;
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        is_hex.then(|| u16::from_str_radix(digits, 16).ok()).flatten()
    };
    let short = match text.as_bytes().get(1)? {
        b'u' => None,
        b'b' => Some('\u{8}'),
        b'f' => Some('\u{c}'),
        b'n' => Some('\n'),
        b'r' => Some('\r'),
        b't' => Some('\t'),
        byte @ (b'"' | b'\\' | b'/') => Some(char::from(*byte)),
        _ => return None,
    };
    if let Some(c) = short {
        return Some((c, 2));
    }
    let first = unit(0)?;
    if let Some(c) = char::from_u32(first.into()) {
        return Some((c, 6));
    }
    // The first half of a pair: the second must be there.
    let c = char::decode_utf16([first, unit(6)?]).next()?.ok()?;
    Some((c, LONGEST_ESCAPE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn a_beginning_determines_what_cannot_change() {
        for (text, value) in [
            ("", None),
            ("  ", None),
            ("Here is", None),
            ("{", Some(json!({}))),
            ("{\"a", Some(json!({}))),
            ("{\"a\"", Some(json!({}))),
            ("{\"a\": ", Some(json!({}))),
            ("{\"a\": \"", Some(json!({"a": ""}))),
            ("{\"a\": \"x\\", Some(json!({"a": "x"}))),
            ("{\"a\": \"x\\u00e", Some(json!({"a": "x"}))),
            ("{\"a\": \"x\\ud83d\\ude0", Some(json!({"a": "x"}))),
            ("{\"a\": \"x\\ud83d\\ude00", Some(json!({"a": "x😀"}))),
            ("{\"a\": 12", Some(json!({}))),
            ("{\"a\": 12,", Some(json!({"a": 12}))),
            ("{\"a\": 12}", Some(json!({"a": 12}))),
            ("{\"a\": tru", Some(json!({}))),
            ("{\"a\": true", Some(json!({"a": true}))),
            ("[1, [2, {\"b\": null, \"c\": [", Some(json!([1, [2, {"b": null, "c": []}]]))),
            ("\"half", Some(json!("half"))),
            ("12", None),
            ("12 ", Some(json!(12))),
            ("fals", None),
            ("```json\n{\"a\": [1,", Some(json!({"a": [1]}))),
            ("The list (in short):\n[\"a\"", Some(json!(["a"]))),
            ("true to form: {\"a\": 1}", Some(json!({"a": 1}))),
            ("{\"a\": 1, b: 2}", Some(json!({"a": 1}))),
            ("{\"a\": 1.2.3, \"b\": 2}", Some(json!({}))),
            ("[1, 2] and more", Some(json!([1, 2]))),
        ] {
            assert_eq!(prefix_value(text), value, "{text:?}");
        }
        assert!(prefix_value(&"[".repeat(100_000)).is_some());
    }

    #[test]
    fn the_document_of_an_answer_is_found() {
        for (text, document) in [
            (" {\"a\": 1}\n", Some("{\"a\": 1}")),
            ("42", Some("42")),
            ("Sure!\n```json\n{\"a\": \"}\"}\n```\nThat is {it}.", Some("{\"a\": \"}\"}")),
            ("```\n[1]\n```", Some("[1]")),
            ("```json [1]```", Some("[1]")),
            ("See [the note]: {\"a\": \"]}\\\"\"} done", Some("{\"a\": \"]}\\\"\"}")),
            ("An open ( { bracket, then [1, 2].", Some("[1, 2]")),
            ("so: {\"a\": 1,}", Some("{\"a\": 1,}")),
            ("nothing", None),
            ("{\"a\": 1", None),
            ("", None),
        ] {
            assert_eq!(extract(text), document, "{text:?}");
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            // Those that any parser reads exactly.
            any::<i32>().prop_map(|n| Value::from(f64::from(n) / 8.0)),
            "[a-z\"\\\\\n😀é]{0,6}".prop_map(Value::from),
        ];
        scalar.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec(("[a-z\"😀]{0,3}", inner), 0..4)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    fn is_prefix(part: &Value, whole: &Value) -> bool {
        match (part, whole) {
            (Value::String(part), Value::String(whole)) => whole.starts_with(part.as_str()),
            (Value::Array(part), Value::Array(whole)) => {
                part.len() <= whole.len() && part.iter().zip(whole).all(|(part, whole)| is_prefix(part, whole))
            }
            (Value::Object(part), Value::Object(whole)) => {
                part.iter().all(|(key, part)| whole.get(key).is_some_and(|whole| is_prefix(part, whole)))
            }
            (part, whole) => part == whole,
        }
    }

    proptest! {
        #[test]
        fn every_prefix_gives_a_prefix(value in value(), pretty: bool, ascii: bool) {
            let mut text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            if ascii {
                text = text.replace('😀', "\\ud83d\\ude00").replace('é', "\\u00e9");
            }
            let mut before: Option<Value> = None;
            for cut in (0..=text.len()).filter(|cut| text.is_char_boundary(*cut)) {
                let part = prefix_value(&text[..cut]);
                if let Some(before) = before {
                    prop_assert!(part.as_ref().is_some_and(|part| is_prefix(&before, part)), "{before} in {part:?}");
                }
                prop_assert!(part.as_ref().is_none_or(|part| is_prefix(part, &value)), "{part:?} of {value}");
                before = part;
            }
            prop_assert_eq!(prefix_value(&format!("{text}\n")), Some(value.clone()));
            prop_assert_eq!(extract(&text), Some(text.as_str()));
            if !value.is_number() {
                prop_assert_eq!(before, Some(value));
            }
        }

        #[test]
        fn any_text_is_survived(text in "[\\[\\]{}\":,\\\\ud8t0-9e.`\n 😀-]{0,40}") {
            prefix_value(&text);
            extract(&text);
        }
    }
}
