//! How deep JSON may be nested that a host, a model or a tool may choose freely.

use serde_json::Value;

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

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use serde_json::json;

    #[test]
    fn depth_counts_brackets() {
        assert_eq!([json!(1), json!([]), json!({"a": [1, {}]})].map(|value| depth(&value)), [0, 1, 3]);
        assert!(TOO_DEEP.contains(&MAX_DEPTH.to_string()));
    }
}
