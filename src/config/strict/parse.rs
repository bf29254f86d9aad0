//! JSON text → value, refusing what a lenient parser lets pass: duplicate keys, too much depth.

use crate::types::json::{DUPLICATE_KEY, MAX_DEPTH, Strict};
use crate::types::{Error, Result, Status};
use serde::de::{DeserializeSeed, Deserializer};
use serde_json::Value;

/// Parses JSON text. `name` is what the text is, for messages (`config`, `request`).
pub fn parse(text: &str, name: &str) -> Result<Value> {
    parse_within(text, name, MAX_DOCUMENT_DEPTH)
}

/// The same for a text that is a free value as a whole, such as the result of a tool.
pub fn parse_free(text: &str, name: &str) -> Result<Value> {
    parse_within(text, name, MAX_DEPTH)
}

fn parse_within(text: &str, name: &str, most: usize) -> Result<Value> {
    Strict::within(most).parse(text).map_err(|error| syntax_error(text, name, &error))
}
/// Reads a free value in a shape for [`from_str_fast`]: duplicate keys are refused inside it too.
pub fn value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    free(deserializer).map(|value| Some(value).filter(|value| !value.is_null()))
}

/// Reads a free value: duplicate keys are refused inside it too, and it is not nested too deep to be stored.
pub fn free<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    Strict::within(MAX_DEPTH).deserialize(deserializer)
}

fn syntax_error(text: &str, name: &str, error: &serde_json::Error) -> Error {
    let offset = byte_offset(text, error.line(), error.column());
    let place = format!("line {}, column {} (byte {offset})", error.line(), error.column());
    let said = error.to_string();
    let said = said.split(" at line ").next().unwrap_or_default();
    if let Some(key) = said.strip_prefix(DUPLICATE_KEY) {
        return Error::new(Status::Json, format!("the {name} has the key {key:?} twice, the second near {place}"))
            .with_path(key)
            .with_hint("keep one of the two");
    }
    let hint = if text.trim().is_empty() {
        "the text is empty; an empty object is {}"
    } else if error.is_eof() {
        "the text ends too early: check the length that was passed"
    } else {
        "the text must be one JSON document (RFC 8259)"
    };
    let near = excerpt(text, offset);
    let near = if near.is_empty() { String::new() } else { format!(", near {near:?}") };
    Error::new(Status::Json, format!("the {name} is not valid JSON at {place}: {said}{near}")).with_hint(hint)
}

/// What stands around a place, on its line.
fn excerpt(text: &str, offset: usize) -> &str {
    const AROUND: usize = 20;
    let line_start = text.get(..offset).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1);
    let start = text.ceil_char_boundary(offset.saturating_sub(AROUND).max(line_start));
    let end = text.floor_char_boundary((offset + AROUND).min(text.len()));
    let line = text.get(start..end.max(start)).unwrap_or_default();
    let within = line.len().min(offset.saturating_sub(start) + 1);
    let stop = line.get(line.floor_char_boundary(within)..).and_then(|rest| rest.find('\n'));
    stop.map_or(line, |stop| line.get(..line.floor_char_boundary(within) + stop).unwrap_or_default()).trim()
}

fn byte_offset(text: &str, line: usize, column: usize) -> usize {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    (before + column.saturating_sub(1)).min(text.len())
}

/// How deep a document may be nested: a free value, and what stands around it.
const MAX_DOCUMENT_DEPTH: usize = MAX_DEPTH + 16;
