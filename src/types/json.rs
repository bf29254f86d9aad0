//! JSON that a host, a model or a tool may choose freely: how deep it may be nested, and that no key is there twice.

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// How deep a free value may be nested: a tag, a tool's input or result, a structured output, variables. What is accepted is
/// stored inside of other JSON, and every JSON parser has a bound; that of `serde_json` is 127.
pub(crate) const MAX_DEPTH: usize = 64;

/// What is said of a value that is nested deeper.
pub(crate) const TOO_DEEP: &str = "nested deeper than 64 levels";

/// How deep a value is nested: 0 for a scalar, 1 for `[]`.
pub(crate) fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// Whether a value is nested deeper than [`MAX_DEPTH`].
pub(crate) fn is_too_deep(value: &Value) -> bool {
    depth(value) > MAX_DEPTH
}

/// How the message of a [`Strict`] begins that has found a key twice.
pub(crate) const DUPLICATE_KEY: &str = "duplicate key ";

/// Builds a [`Value`] and refuses duplicate keys, at any depth, and too much depth.
#[derive(Clone, Copy)]
pub(crate) struct Strict {
    /// How many levels may follow.
    room: usize,
    most: usize,
}

impl Strict {
    /// One that refuses what is nested deeper than this.
    pub(crate) fn within(most: usize) -> Self {
        Self { room: most, most }
    }

    /// Parses a whole text.
    pub(crate) fn parse(self, text: &str) -> serde_json::Result<Value> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        // Its own bound is one short of ours.
        deserializer.disable_recursion_limit();
        self.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value))
    }

    fn inner<E: de::Error>(self) -> Result<Self, E> {
        match self.room.checked_sub(1) {
            Some(room) => Ok(Self { room, ..self }),
            None => Err(E::custom(format_args!("nested deeper than {} levels", self.most))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(de::Error::custom(format_args!("{DUPLICATE_KEY}{key}")));
            }
            let value = map.next_value_seed(inner)?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use serde_json::json;

    #[test]
    fn a_key_that_is_there_twice_is_refused_at_any_depth() {
        let parse = |text| Strict::within(MAX_DEPTH).parse(text);
        assert_eq!(parse(r#"{"a": 1, "b": [{"a": 2}]}"#).unwrap(), json!({"a": 1, "b": [{"a": 2}]}));
        for text in [r#"{"a": 1, "a": 1}"#, r#"[{"b": {"a": 1, "\u0061": 2}}]"#] {
            assert!(parse(text).unwrap_err().to_string().starts_with(DUPLICATE_KEY), "{text}");
        }
    }

    #[test]
    fn depth_counts_brackets() {
        assert_eq!([json!(1), json!([]), json!({"a": [1, {}]})].map(|value| depth(&value)), [0, 1, 3]);
        assert!(TOO_DEEP.contains(&MAX_DEPTH.to_string()));
    }
}
