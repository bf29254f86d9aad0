//! JSON Schema checks. The only file that knows the validator: its versions change their interface often.
//!
//! Schemas come from hosts and servers, so nothing is fetched: a `$ref` outside of the schema does not compile.
//! Patterns run on a linear-time engine.

use crate::types::{Error, Result};
use jsonschema::{PatternOptions, Retrieve, Uri, Validator};
use serde_json::Value;

/// A compiled schema.
pub struct Schema(Validator);

/// How many violations are told at once: enough to mend a call, not enough to drown it.
const MOST_VIOLATIONS: usize = 5;

impl Schema {
    /// Compiles a schema. `path` is where it was given.
    pub fn compile(schema: &Value, path: &str) -> Result<Self> {
        jsonschema::options()
            .with_retriever(Refuse)
            .with_pattern_options(PatternOptions::regex())
            .build(schema)
            .map(Self)
            .map_err(|error| {
                let at = error.instance_path().to_string();
                let message = format!("this is not a JSON Schema{}: {error}", place(&at));
                Error::schema(path, message).with_hint("JSON Schema 2020-12; references must stay inside the schema")
            })
    }

    /// Checks a value. The error says every violation, up to a few, with its place.
    pub fn check(&self, value: &Value) -> std::result::Result<(), String> {
        let mut violations = self.0.iter_errors(value);
        let told: Vec<String> = violations
            .by_ref()
            .take(MOST_VIOLATIONS)
            .map(|error| format!("{error}{}", place(&error.instance_path().to_string())))
            .collect();
        if told.is_empty() {
            return Ok(());
        }
        let more = match violations.count() {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        Err(format!("{}{more}", told.join("; ")))
    }
}

fn place(pointer: &str) -> String {
    if pointer.is_empty() { String::new() } else { format!(" (at {pointer})") }
}

struct Refuse;

impl Retrieve for Refuse {
    fn retrieve(&self, uri: &Uri<String>) -> std::result::Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        Err(format!("the reference {uri} leads outside of the schema, and nothing is fetched").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use serde_json::json;

    #[test]
    fn violations_are_told_with_their_place() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a", "b"]});
        let schema = Schema::compile(&schema, "tool.input_schema").unwrap();
        assert_eq!(schema.check(&json!({"a": 1, "b": 2})), Ok(()));
        let told = schema.check(&json!({"a": "x"})).unwrap_err();
        assert!(told.contains("\"b\" is a required property") && told.contains("(at /a)"), "{told}");
    }

    #[test]
    fn a_schema_that_is_none_or_leads_outside_is_refused() {
        for schema in [
            json!({"type": "objekt"}),
            json!({"type": "object", "properties": []}),
            json!({"$ref": "http://127.0.0.1:1/schema.json"}),
            json!({"$ref": "file:///etc/passwd"}),
            json!({"pattern": "("}),
        ] {
            let error = Schema::compile(&schema, "tool.input_schema").err().unwrap_or_else(|| panic!("{schema}"));
            assert_eq!(error.path(), Some("tool.input_schema"));
        }
    }
}
