//! What is wrong with a value, and where: gathered while reading, told as an [`Error`].

use super::nearest;
use crate::types::Error;
use serde::de::{self, Expected, Unexpected};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;

/// Where a value stands; a list on the stack, written out only when something is wrong.
pub(super) enum Path<'p> {
    Root(&'p str),
    Key(&'p Path<'p>, &'p str),
    Index(&'p Path<'p>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(root) => f.write_str(root),
            Self::Key(parent, key) => match parent {
                Self::Root("") => f.write_str(key),
                parent => write!(f, "{parent}.{key}"),
            },
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

#[derive(Debug)]
pub(super) struct Problem {
    pub path: Option<String>,
    pub message: String,
    pub hint: Option<String>,
}

impl Problem {
    /// The value is of another type than wanted.
    pub fn wrong_type(value: &Value, wanted: &str) -> Self {
        de::Error::custom(format_args!("expected {wanted}, got {}", unexpected_in_words(unexpected(value))))
    }

    /// The problem stands here, unless it stands deeper.
    pub fn at(mut self, path: &Path<'_>) -> Self {
        self.path.get_or_insert_with(|| path.to_string());
        self
    }

    /// The problem stands at a key of this, unless it stands deeper.
    pub fn below(mut self, path: &Path<'_>, key: &str) -> Self {
        self.path.get_or_insert_with(|| Path::Key(path, key).to_string());
        self
    }

    /// The error a host gets.
    pub fn into_error(self, root: &str) -> Error {
        let error = Error::schema(self.path.unwrap_or_else(|| root.to_owned()), self.message);
        match self.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }

    /// A word that none of the expected ones is.
    pub fn unknown(kind: &str, word: &str, expected: &'static [&'static str]) -> Self {
        let hint = match nearest(word, expected.iter().copied()) {
            Some(near) => format!("did you mean {near:?}?"),
            None if expected.is_empty() => "no key is allowed here".to_owned(),
            None => format!("known: {}", expected.join(", ")),
        };
        Self { path: None, message: format!("unknown {kind} {:?}", shortened(word)), hint: Some(hint) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

impl de::Error for Problem {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { path: None, message: message.to_string(), hint: None }
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("expected {}, got {}", in_words(expected), unexpected_in_words(unexpected)))
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::unknown("key", field, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::unknown("value", variant, expected)
    }

    fn missing_field(field: &'static str) -> Self {
        Self { path: None, message: format!("the key {field:?} is missing"), hint: Some(format!("add {field:?}")) }
    }
}

/// As much of a text as an error repeats.
fn shortened(text: &str) -> Cow<'_, str> {
    const MOST: usize = 128;
    match text.get(..text.floor_char_boundary(MOST)) {
        Some(start) if start.len() < text.len() => Cow::Owned(format!("{start}…")),
        Some(_) | None => Cow::Borrowed(text),
    }
}

fn in_words(expected: &dyn Expected) -> String {
    let said = expected.to_string();
    match said.as_str() {
        "f64" | "f32" => "a number".into(),
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more, within range".into(),
        "i8" | "i16" | "i32" | "i64" => "a whole number".into(),
        "a boolean" => "true or false".into(),
        "a sequence" => "an array".into(),
        "a map" => "an object".into(),
        other if other.starts_with("struct ") => "an object".into(),
        other => other.into(),
    }
}

fn unexpected_in_words(unexpected: Unexpected<'_>) -> String {
    match unexpected {
        Unexpected::Str(text) => format!("the string {:?}", shortened(text)),
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unsigned(value) => value.to_string(),
        Unexpected::Signed(value) => value.to_string(),
        Unexpected::Float(value) => value.to_string(),
        Unexpected::Unit => "null".into(),
        Unexpected::Seq => "an array".into(),
        Unexpected::Map => "an object".into(),
        other => other.to_string(),
    }
}

/// A value, as serde names what it did not expect.
pub(super) fn unexpected(value: &Value) -> Unexpected<'_> {
    match value {
        Value::Null => Unexpected::Unit,
        Value::Bool(value) => Unexpected::Bool(*value),
        Value::Number(number) => number.as_u64().map(Unexpected::Unsigned).unwrap_or_else(|| {
            number.as_i64().map_or(Unexpected::Float(number.as_f64().unwrap_or(f64::NAN)), Unexpected::Signed)
        }),
        Value::String(text) => Unexpected::Str(text),
        Value::Array(_) => Unexpected::Seq,
        Value::Object(_) => Unexpected::Map,
    }
}
