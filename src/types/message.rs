//! Messages as the model and the host see them: content parts, tool calls and their results.

use super::ToolCallId;
use schemars::JsonSchema;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;
use std::sync::Arc;

/// One piece of a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Part {
    /// Plain text.
    Text {
        /// The text.
        text: String,
    },
    /// Reasoning the model showed.
    Reasoning {
        /// The text, possibly a summary.
        text: String,
    },
    /// The model asks for a tool.
    ToolCall(ToolCall),
    /// Data of one provider family that must survive byte for byte and goes back only to that family.
    Opaque {
        /// The wire family that made it and alone may read it.
        family: String,
        /// The data, untouched.
        data: Value,
    },
}

/// A request of the model to run a tool.
///
/// `arguments` is the text as the model wrote it: what is sent back to the model must be what it said, to the byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// Unique in its transcript.
    pub id: ToolCallId,
    /// The tool's name.
    pub name: String,
    /// The arguments as text; valid JSON unless the model erred.
    pub arguments: String,
}

impl ToolCall {
    /// The arguments parsed, or what is wrong with them.
    pub fn input(&self) -> Result<Value, serde_json::Error> {
        serde_json::from_str(&self.arguments)
    }
}

/// The JSON form of a [`ToolCall`].
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ToolCall")]
struct ToolCallShape {
    tool_call_id: ToolCallId,
    name: String,
    /// The arguments; absent when the model's text was not JSON.
    #[serde(default)]
    input: Option<Value>,
    /// The model's text, when it was not JSON.
    #[serde(default)]
    invalid_arguments: Option<String>,
}

impl Serialize for ToolCall {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("tool_call_id", &self.id)?;
        map.serialize_entry("name", &self.name)?;
        match serde_json::from_str::<&RawValue>(&self.arguments) {
            Ok(input) => map.serialize_entry("input", input)?,
            Err(_) => map.serialize_entry("invalid_arguments", &self.arguments)?,
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for ToolCall {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let shape = ToolCallShape::deserialize(deserializer)?;
        let arguments = match (shape.input, shape.invalid_arguments) {
            (Some(input), None) => input.to_string(),
            (None, Some(text)) => text,
            (Some(_), Some(_)) | (None, None) => {
                return Err(serde::de::Error::custom("a tool call has either input or invalid_arguments"));
            }
        };
        Ok(Self { id: shape.tool_call_id, name: shape.name, arguments })
    }
}

impl JsonSchema for ToolCall {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ToolCall".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        ToolCallShape::json_schema(generator)
    }
}

/// What came of a tool call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ToolResult {
    /// What the model reads.
    pub content: String,
    /// Whether it reports a failure.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_error: bool,
}

impl ToolResult {
    /// A success.
    pub fn ok(content: impl Into<String>) -> Self {
        Self { content: content.into(), is_error: false }
    }

    /// A failure, told so that the model can act on it.
    pub fn error(content: impl Into<String>) -> Self {
        Self { content: content.into(), is_error: true }
    }
}

/// A tool as a model is told of it. The schema is encoded once, and its bytes never change, which is what prompt caches
/// live on.
#[derive(Clone, Debug)]
pub struct ToolSpec {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// JSON Schema of the arguments.
    pub input_schema: Arc<RawValue>,
}

/// One message of a [`super::Transcript`], as it is listed and stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "role", rename_all = "snake_case", deny_unknown_fields)]
pub enum Message {
    /// From the host's user.
    User {
        /// What was said.
        parts: Vec<Part>,
    },
    /// From the model.
    Assistant {
        /// What it said, tool calls included.
        parts: Vec<Part>,
    },
    /// The result of one tool call.
    Tool {
        /// The call it answers.
        tool_call_id: ToolCallId,
        /// The answer.
        #[serde(flatten)]
        result: ToolResult,
    },
}

/// Why a model stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FinishReason {
    /// It was done, or met a stop sequence.
    Stop,
    /// It reached the output limit.
    MaxTokens,
    /// It wants tools.
    ToolCalls,
    /// The provider filtered it.
    ContentFilter,
    /// The model declined.
    Refusal,
}
