//! Answers that fit a schema: how the model is asked for them, and how they are checked.
//!
//! Whatever the mode, the value is validated here. What does not fit goes back to the model with what was wrong, a few
//! times.

use super::partial_json;
use crate::config::{Limits, ModelProfile, OutputMode, StructuredOutput};
use crate::llm::OutputSchema;
use crate::tools::{Helpers, Schema};
use crate::types::json::{MAX_DEPTH, Strict, TOO_DEEP, is_too_deep};
use crate::types::{Cancel, Error, Result, Status, ToolSpec};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use std::sync::Arc;

/// The tool whose arguments are the answer.
pub const ANSWER_TOOL: &str = "final_answer";

/// What an answer must fit.
pub struct Structured {
    schema: Schema,
    /// What the model is told: always an object, since providers take nothing else.
    told: Arc<RawValue>,
    /// Whether `told` wraps the schema as the property `value`.
    is_wrapped: bool,
    mode: OutputMode,
    /// How often an answer may be mended.
    pub max_repairs: u32,
}

/// How the model is held to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// By the provider.
    Native,
    /// By [`ANSWER_TOOL`].
    Tool,
    /// By words.
    Prompted,
}

impl Structured {
    /// Compiles a request's `response_schema`, given at `path`.
    pub fn new(schema: &Value, mode: OutputMode, max_repairs: u32, limits: &Limits, path: &str) -> Result<Self> {
        let compiled = Schema::compile(schema, path, limits.max_schema_steps)?;
        let is_wrapped = schema.get("type").and_then(Value::as_str) != Some("object");
        let told = if is_wrapped { wrapped(schema) } else { schema.clone() };
        let told = to_raw_value(&told).map_err(|error| Error::internal(error.to_string()))?;
        Ok(Self { schema: compiled, told: Arc::from(told), is_wrapped, mode, max_repairs })
    }

    /// How a model with these abilities is held to it.
    pub fn means(&self, profile: &ModelProfile) -> Means {
        match self.mode {
            OutputMode::Native => Means::Native,
            OutputMode::Tool => Means::Tool,
            OutputMode::Prompted => Means::Prompted,
            OutputMode::Auto => match profile.structured_output {
                Some(StructuredOutput::Native) => Means::Native,
                Some(StructuredOutput::Tool) => Means::Tool,
                Some(StructuredOutput::Prompted) | None => Means::Prompted,
            },
        }
    }

    /// For providers that hold the model to it themselves.
    pub fn native(&self) -> OutputSchema {
        OutputSchema { name: "answer".into(), schema: Arc::clone(&self.told) }
    }

    /// For models that answer by calling a tool.
    pub fn tool(&self) -> ToolSpec {
        ToolSpec {
            name: ANSWER_TOOL.into(),
            description: "Gives the final answer. Call it once, when everything is known.".into(),
            input_schema: Arc::clone(&self.told),
        }
    }

    /// For models that are asked in words; goes to the end of the system prompt.
    pub fn directive(&self) -> String {
        format!(
            "When you give your final answer, answer with one JSON value and nothing else: no explanation, no code fence. It must \
             fit this JSON Schema:\n{}",
            self.told.get()
        )
    }

    /// The value in an answer, or what is wrong with it.
    pub async fn read(&self, answer: &str, helpers: &Helpers, cancel: &Cancel) -> std::result::Result<Value, String> {
        let text = partial_json::extract(answer).ok_or("it contains no JSON")?;
        // One level more: the property that wraps a value.
        let value = Strict::within(MAX_DEPTH + 1).parse(text).map_err(|error| format!("it cannot be read: {error}"))?;
        let value = self.unwrap(value).ok_or("the property \"value\" is missing")?;
        if is_too_deep(&value) {
            return Err(format!("it is {TOO_DEEP}"));
        }
        self.schema.check_within(&value, helpers, cancel).await.map(|()| value)
    }

    /// The value that the beginning of an answer determines already.
    pub fn read_prefix(&self, answer: &str) -> Option<Value> {
        self.unwrap(partial_json::prefix_value(answer)?)
    }

    /// What the model is told when its answer does not fit.
    pub fn feedback(problem: &str) -> String {
        format!("The answer does not fit: {problem}. Give the whole answer again, corrected, as JSON and nothing else.")
    }

    /// The error when it never fitted.
    pub fn failure(problem: &str, attempts: u32) -> Error {
        Error::new(
            Status::InvalidOutput,
            format!("the model's answer did not fit the schema in {attempts} attempts: {problem}"),
        )
        .with_code("invalid_output")
        .with_hint("raise max_repair_attempts, simplify response_schema, or try another output_mode")
    }

    fn unwrap(&self, value: Value) -> Option<Value> {
        match value {
            Value::Object(mut fields) if self.is_wrapped => fields.remove("value"),
            // A model that was told the wrapped form may answer the plain one all the same.
            other => Some(other),
        }
    }
}

/// Definitions must stay at the root, where references look for them.
fn wrapped(schema: &Value) -> Value {
    let mut inner = schema.clone();
    let mut whole = json!({"type": "object", "properties": {}, "required": ["value"], "additionalProperties": false});
    if let (Some(inner), Some(whole)) = (inner.as_object_mut(), whole.as_object_mut()) {
        for key in ["$schema", "$defs", "definitions"] {
            if let Some(value) = inner.remove(key) {
                whole.insert(key.into(), value);
            }
        }
    }
    if let Some(properties) = whole.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert("value".into(), inner);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use pretty_assertions::assert_eq;

    fn structured(schema: Value) -> Structured {
        Structured::new(&schema, OutputMode::Auto, 3, &Limits::default(), "request.response_schema").unwrap()
    }

    fn read(structured: &Structured, answer: &str) -> std::result::Result<Value, String> {
        structured.read(answer, &Helpers::default(), &Cancel::new()).now_or_never().unwrap()
    }

    #[test]
    fn a_value_is_found_and_checked() {
        let person =
            structured(json!({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}));
        assert_eq!(read(&person, "{\"age\": 3}"), Ok(json!({"age": 3})));
        assert_eq!(read(&person, "Here you are:\n```json\n{\"age\": 3}\n```"), Ok(json!({"age": 3})));
        assert!(read(&person, "{\"age\": \"x\"}").unwrap_err().contains("(at /age)"));
        assert!(read(&person, "no idea").unwrap_err().contains("no JSON"));
    }

    #[test]
    fn what_is_no_object_is_wrapped_with_its_definitions_at_the_root() {
        let list =
            structured(json!({"type": "array", "items": {"$ref": "#/$defs/n"}, "$defs": {"n": {"type": "integer"}}}));
        let told: Value = serde_json::from_str(list.tool().input_schema.get()).unwrap();
        assert_eq!(told["properties"]["value"], json!({"type": "array", "items": {"$ref": "#/$defs/n"}}));
        assert_eq!(told["$defs"], json!({"n": {"type": "integer"}}));
        assert_eq!(read(&list, "{\"value\": [1, 2]}"), Ok(json!([1, 2])));
        assert_eq!(read(&list, "[1, 2]"), Ok(json!([1, 2])));
        assert_eq!(list.read_prefix("{\"value\": [1, 2"), Some(json!([1])));
    }
}
