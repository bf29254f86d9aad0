//! Arguments of a call that arrive leaf by leaf (Vertex AI, `streamFunctionCallArguments`).
//!
//! Source: Vertex AI API reference, `FunctionCall.partialArgs`: each piece names its place by a JSONPath (RFC 9535,
//! names and indexes only) and brings a value; strings come in pieces that concatenate.

use crate::llm::lenient::Text;
use serde::Deserialize;
use serde_json::{Map, Value};

/// How deep a path may lead, and how far beyond its end an array may grow: no answer of a server costs more than that.
const MAX_DEPTH: usize = 64;
const MAX_GAP: usize = 256;

/// One piece.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PartialArg<'a> {
    #[serde(borrow)]
    json_path: Text<'a>,
    #[serde(flatten)]
    value: Map<String, Value>,
}

impl PartialArg<'_> {
    /// Puts the piece into its place. False if the path leads nowhere.
    pub fn put(self, arguments: &mut Value) -> bool {
        let Some(mut path) = self.json_path.strip_prefix('$') else { return false };
        let mut place = arguments;
        for _ in 0..MAX_DEPTH {
            if path.is_empty() {
                return self.put_here(place);
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
                    if index > items.len() + MAX_GAP {
                        return false;
                    }
                    if index >= items.len() {
                        items.resize(index + 1, Value::Null);
                    }
                    let Some(item) = items.get_mut(index) else { return false };
                    item
                }
            };
        }
        false
    }

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
                take("numberValue").or_else(|| take("boolValue")).or_else(|| take("nullValue").map(|_| Value::Null))
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
        let mut arguments = json!({});
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
        ] {
            let piece: PartialArg<'_> = serde_json::from_str(piece).unwrap();
            assert_eq!(piece.put(&mut arguments), fits);
        }
        assert_eq!(arguments, json!({"a": {"b": [{"c": "xy"}, 0.5]}, "d e": true, "f": null}));
    }
}
