//! Arguments of a call that arrive leaf by leaf (Vertex AI, `streamFunctionCallArguments`).
//!
//! Source: Vertex AI API reference, `FunctionCall.partialArgs`: each piece names its place by a JSONPath (RFC 9535,
//! names and indexes only) and brings a value; strings come in pieces that concatenate.

use crate::llm::lenient::Text;
use serde::Deserialize;
use serde_json::{Map, Value};

/// How deep a path may lead.
const MAX_DEPTH: usize = 64;
/// How many elements one call may leave out. Servers send arrays in order; a gap is a lost piece.
const MAX_GAPS: usize = 256;

/// One piece.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PartialArg<'a> {
    #[serde(borrow)]
    json_path: Text<'a>,
    #[serde(flatten)]
    value: Map<String, Value>,
}

/// The arguments of one call as far as they came. They take memory in proportion to what was sent.
pub struct PartialArgs {
    value: Value,
    /// How many elements of arrays were left out.
    gaps: usize,
}

impl Default for PartialArgs {
    fn default() -> Self {
        Self { value: Value::Object(Map::new()), gaps: 0 }
    }
}

impl std::fmt::Display for PartialArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.value.fmt(f)
    }
}

impl PartialArgs {
    /// Puts a piece into its place. False if the path leads nowhere.
    pub fn put(&mut self, piece: PartialArg<'_>) -> bool {
        let Some(mut path) = piece.json_path.strip_prefix('$') else { return false };
        let Self { value: place, gaps } = self;
        let mut place = place;
        for _ in 0..MAX_DEPTH {
            if path.is_empty() {
                return piece.put_here(place);
            }
            let Some((segment, rest)) = Segment::read(path) else { return false };
            path = rest;
            place = match segment {
                Segment::Name(name) => {
                    if !place.is_object() {
                        *place = Value::Object(Map::new());
                    }
                    let Value::Object(map) = place else { return false };
                    map.entry(name).or_insert(Value::Null)
                }
                Segment::Index(index) => {
                    if !place.is_array() {
                        *place = Value::Array(Vec::new());
                    }
                    let Value::Array(items) = place else { return false };
                    let gap = index.saturating_sub(items.len());
                    if gap > MAX_GAPS - *gaps {
                        return false;
                    }
                    if index >= items.len() {
                        *gaps += gap;
                        items.resize(index + 1, Value::Null);
                    }
                    let Some(item) = items.get_mut(index) else { return false };
                    item
                }
            };
        }
        false
    }
}

impl PartialArg<'_> {
    fn put_here(mut self, place: &mut Value) -> bool {
        let mut take = |name: &str| self.value.remove(name);
        let value = match take("stringValue") {
            Some(Value::String(piece)) => {
                match place {
                    Value::String(text) => text.push_str(&piece),
                    _ => *place = Value::String(piece),
                }
                return true;
            }
            Some(_) => None,
            None => {
                let number = take("numberValue").filter(Value::is_number);
                number
                    .or_else(|| take("boolValue").filter(Value::is_boolean))
                    .or_else(|| take("nullValue").map(|_| Value::Null))
            }
        };
        if let Some(value) = value {
            *place = value;
            return true;
        }
        false
    }
}

enum Segment {
    Name(String),
    Index(usize),
}

impl Segment {
    /// The first segment of a path, and the rest.
    fn read(path: &str) -> Option<(Self, &str)> {
        if let Some(rest) = path.strip_prefix('.') {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let (name, rest) = rest.split_at(end);
            return (!name.is_empty()).then(|| (Self::Name(name.to_owned()), rest));
        }
        let rest = path.strip_prefix('[')?;
        for quote in ['\'', '"'] {
            if let Some(quoted) = rest.strip_prefix(quote) {
                let (name, rest) = quoted.split_once(&format!("{quote}]"))?;
                return Some((Self::Name(name.to_owned()), rest));
            }
        }
        let (index, rest) = rest.split_once(']')?;
        Some((Self::Index(index.parse().ok()?), rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use serde_json::json;

    #[test]
    fn pieces_find_their_places() {
        let mut arguments = PartialArgs::default();
        for (piece, fits) in [
            (r#"{"jsonPath":"$.a.b[0].c","stringValue":"x","willContinue":true}"#, true),
            (r#"{"jsonPath":"$.a.b[0].c","stringValue":"y"}"#, true),
            (r#"{"jsonPath":"$.a.b[1]","numberValue":0.5}"#, true),
            (r#"{"jsonPath":"$['d e']","boolValue":true}"#, true),
            (r#"{"jsonPath":"$[\"f\"]","nullValue":"NULL_VALUE"}"#, true),
            (r#"{"jsonPath":"$.a.b[4000000000]","numberValue":1}"#, false),
            (r#"{"jsonPath":"a","numberValue":1}"#, false),
            (r#"{"jsonPath":"$.","numberValue":1}"#, false),
            (r#"{"jsonPath":"$[x]","numberValue":1}"#, false),
            (r#"{"jsonPath":"$.g","numberValue":[[1]]}"#, false),
        ] {
            let piece: PartialArg<'_> = serde_json::from_str(piece).unwrap();
            assert_eq!(arguments.put(piece), fits);
        }
        assert_eq!(arguments.value, json!({"a": {"b": [{"c": "xy"}, 0.5]}, "d e": true, "f": null, "g": null}));
    }

    #[test]
    fn a_call_leaves_out_only_so_many_elements() {
        let (mut arguments, mut sent) = (PartialArgs::default(), 0);
        for number in 0..2_000 {
            let piece = format!(r#"{{"jsonPath":"$.a{number}{}","numberValue":1}}"#, "[200]".repeat(60));
            sent += piece.len();
            let piece: PartialArg<'_> = serde_json::from_str(&piece).unwrap();
            arguments.put(piece);
        }
        assert_eq!(arguments.gaps, 200);
        let built = arguments.to_string().len();
        assert!(built < sent + 5 * MAX_GAPS, "{built} bytes were made of {sent}");
    }
}
