//! A block that may still grow. Its main text goes to the answer at once; what deltas make of its other fields is put into the
//! block's own JSON when it closes, which stays as it came where they made nothing of it.

use crate::llm::BlockId;
use crate::llm::lenient::{Fields, Text};
use indexmap::IndexMap;
use serde_json::value::RawValue;
use std::collections::HashSet;

/// See the module's head.
pub struct Open {
    pub block: BlockId,
    pub shape: Shape,
    /// The block's JSON as it began.
    start: String,
    /// What deltas made of the fields that are not the block's main text.
    changes: IndexMap<String, Change>,
}

/// What kind of block it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Words.
    Text,
    /// Reasoning.
    Thinking,
    /// A call.
    ToolUse,
    /// Kept as JSON.
    Unknown,
}

enum Change {
    /// The field's new JSON.
    Set(String),
    /// More JSON text, in pieces, in place of what was there.
    Json(String),
    /// More of a string.
    Append(String),
    /// More elements of an array, as JSON.
    Push(Vec<String>),
}

impl Open {
    /// A block that began with this JSON.
    pub fn new(block: BlockId, shape: Shape, start: &str) -> Self {
        Self { block, shape, start: start.to_owned(), changes: IndexMap::new() }
    }

    /// The field is this now.
    pub fn set(&mut self, field: &str, json: String) {
        self.changes.insert(field.to_owned(), Change::Set(json));
    }

    /// More JSON text of a field.
    pub fn json(&mut self, field: &str, piece: &str) {
        self.grow(field, Change::Json, piece);
    }

    /// More of a field that is a string.
    pub fn append(&mut self, field: &str, piece: &str) {
        self.grow(field, Change::Append, piece);
    }

    /// One more element of a field that is an array.
    pub fn push(&mut self, field: &str, json: &str) {
        match self.changes.get_mut(field) {
            Some(Change::Push(items)) => items.push(json.to_owned()),
            Some(_) => {}
            None => {
                self.changes.insert(field.to_owned(), Change::Push(vec![json.to_owned()]));
            }
        }
    }

    /// A field that began to grow in one way goes on so.
    fn grow(&mut self, field: &str, how: fn(String) -> Change, piece: &str) {
        match self.changes.get_mut(field) {
            Some(Change::Json(text) | Change::Append(text)) => text.push_str(piece),
            Some(Change::Set(_) | Change::Push(_)) => {}
            None => {
                self.changes.insert(field.to_owned(), how(piece.to_owned()));
            }
        }
    }

    /// The block's JSON with what its deltas changed; untouched if they changed nothing.
    pub fn folded(&self) -> String {
        let Some(fields) = Fields::read(&self.start).filter(|_| !self.changes.is_empty()) else {
            return self.start.clone();
        };
        let mut folded = Vec::with_capacity(fields.0.len() + self.changes.len());
        for (key, value) in &fields.0 {
            let change = self.changes.get(&**key);
            folded.push((&**key, change.map_or_else(|| value.get().to_owned(), |change| change.apply(value.get()))));
        }
        let known: HashSet<&str> = fields.0.iter().map(|(key, _)| &**key).collect();
        for (name, change) in &self.changes {
            if !known.contains(name.as_str()) {
                folded.push((name, change.apply("null")));
            }
        }
        let inner: Vec<_> = folded.iter().map(|(key, value)| format!("{}:{value}", quoted(key))).collect();
        format!("{{{}}}", inner.join(","))
    }
}

impl Change {
    /// The field's JSON after the change.
    fn apply(&self, before: &str) -> String {
        match self {
            Self::Set(json) => json.clone(),
            // Pieces that make no JSON were cut off: the placeholder is what can be sent.
            Self::Json(json) if serde_json::from_str::<&RawValue>(json).is_err() => before.to_owned(),
            Self::Json(json) => json.clone(),
            Self::Append(text) => {
                let before: Text<'_> = serde_json::from_str(before).unwrap_or_default();
                quoted(&format!("{}{text}", &*before))
            }
            Self::Push(items) => {
                let before: Vec<&RawValue> = serde_json::from_str(before).unwrap_or_default();
                let all: Vec<_> =
                    before.iter().map(|item| item.get()).chain(items.iter().map(String::as_str)).collect();
                format!("[{}]", all.join(","))
            }
        }
    }
}

/// A string as JSON.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
