//! Arguments that are nearly right are mended, or everything that is not exactly right is refused; answers must say
//! something.

use super::{BeforeTool, Middleware, PendingCall, Scene};
use crate::config::OutputRule;
use crate::llm::ModelAnswer;
use crate::types::{Error, FinishReason, Part, Result, Status};
use futures_util::future::{BoxFuture, ready};
use serde_json::{Map, Value};

/// See the module's head.
pub struct Validation {
    strict: bool,
    output: OutputRule,
}

impl Validation {
    /// The layer of a configuration.
    pub fn new(strict: bool, output: OutputRule) -> Self {
        Self { strict, output }
    }
}

impl Middleware for Validation {
    fn name(&self) -> &str {
        "validation"
    }

    fn before_tool<'a>(&'a self, _: Scene<'a>, call: &'a mut PendingCall<'_>) -> BoxFuture<'a, Result<BeforeTool>> {
        let schema = call.tool.map(|tool| &tool.config.input_schema);
        let decided = match schema {
            Some(schema) if self.strict => match unknown_key(&call.input, schema) {
                Some(key) => BeforeTool::Block(format!(
                    "{:?} has no argument {key:?}. Call it again without it.",
                    call.call.name
                )),
                None => BeforeTool::Go,
            },
            Some(schema) => {
                mend(&mut call.input, schema);
                BeforeTool::Go
            }
            None => BeforeTool::Go,
        };
        Box::pin(ready(Ok(decided)))
    }

    fn after_llm<'a>(&'a self, _: Scene<'a>, answer: &'a mut ModelAnswer) -> BoxFuture<'a, Result<()>> {
        let says_something = answer.parts.iter().any(|part| match part {
            Part::Text { text, .. } => !text.trim().is_empty(),
            Part::Reasoning { .. } | Part::CachePoint(_) => false,
            Part::ToolCall(_) | Part::Image(_) | Part::Document(_) | Part::Audio(_) | Part::Opaque(_) => true,
        });
        let excused = matches!(answer.finish_reason, FinishReason::ContentFilter | FinishReason::Refusal);
        let verdict = if self.output == OutputRule::NonEmpty && !says_something && !excused {
            Err(Error::new(Status::InvalidOutput, "the model answered without text and without a tool call")
                .with_code("empty_output")
                .with_retryable(true)
                .with_hint("ask again, or set \"output\": \"any\" of the validation middleware"))
        } else {
            Ok(())
        };
        Box::pin(ready(verdict))
    }
}

/// The first key that the schema does not name, though it names keys.
fn unknown_key<'v>(input: &'v Value, schema: &Value) -> Option<&'v str> {
    let properties = schema.get("properties")?.as_object()?;
    input.as_object()?.keys().map(String::as_str).find(|key| !properties.contains_key(*key))
}

/// Gives values the type that the schema wants, where only their writing is wrong.
fn mend(input: &mut Value, schema: &Value) {
    let wanted = schema.get("type").and_then(Value::as_str).unwrap_or_default();
    if let Value::String(text) = input
        && !matches!(wanted, "" | "string")
        && let Ok(parsed) = serde_json::from_str::<Value>(text.trim())
        && is_of(&parsed, wanted)
    {
        *input = parsed;
    } else if input.is_null() && wanted == "object" {
        *input = Value::Object(Map::new());
    } else if wanted == "string" && (input.is_number() || input.is_boolean()) {
        *input = Value::String(input.to_string());
    } else if wanted == "array" && !input.is_array() && !input.is_null() {
        // One thing where a list of them is wanted.
        *input = Value::Array(vec![input.take()]);
    }
    if let (Value::Object(fields), Some(properties)) =
        (&mut *input, schema.get("properties").and_then(Value::as_object))
    {
        let required: Vec<&str> =
            schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        // null where nothing is needed means that nothing is given.
        fields.retain(|key, value| {
            !value.is_null() || required.contains(&key.as_str()) || allows_null(properties.get(key))
        });
        for (key, value) in fields {
            if let Some(schema) = properties.get(key) {
                mend(value, schema);
            }
        }
    }
    if let (Value::Array(items), Some(schema)) = (&mut *input, schema.get("items")) {
        items.iter_mut().for_each(|item| mend(item, schema));
    }
}

fn allows_null(schema: Option<&Value>) -> bool {
    match schema.and_then(|schema| schema.get("type")) {
        Some(Value::String(kind)) => kind == "null",
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "null"),
        Some(_) | None => true,
    }
}

fn is_of(value: &Value, wanted: &str) -> bool {
    match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use serde_json::json;

    #[test]
    fn nearly_right_becomes_right_and_right_stays() {
        let schema = json!({"type": "object", "required": ["n"], "properties": {
            "n": {"type": "integer"}, "on": {"type": "boolean"}, "name": {"type": "string"},
            "tags": {"type": "array", "items": {"type": "string"}}, "where": {"type": "object"}}});
        for (given, mended) in [
            (json!({"n": "3", "on": "true"}), json!({"n": 3, "on": true})),
            (json!("{\"n\": 1}"), json!({"n": 1})),
            (json!({"n": 1, "name": 5}), json!({"n": 1, "name": "5"})),
            (json!({"n": 1, "tags": "a"}), json!({"n": 1, "tags": ["a"]})),
            (json!({"n": 1, "on": null, "where": "{}"}), json!({"n": 1, "where": {}})),
            (json!({"n": "three"}), json!({"n": "three"})),
            (json!({"n": 1, "name": "3"}), json!({"n": 1, "name": "3"})),
        ] {
            let mut input = given.clone();
            mend(&mut input, &schema);
            assert_eq!(input, mended, "{given}");
        }
        assert_eq!(unknown_key(&json!({"n": 1, "m": 2}), &schema), Some("m"));
    }
}
