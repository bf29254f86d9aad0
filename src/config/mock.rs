//! The mock provider's script. See json.md, "The mock provider".

use crate::types::{Error, FinishReason, Result, Usage};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

/// Scripted answers. Without `turns` it echoes the last user message.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(default)]
pub struct MockConfig {
    /// What counts the turns.
    pub scope: MockScope,
    /// Turn n answers the nth model request.
    pub turns: Option<Vec<MockTurn>>,
    /// Whether closing the runtime reports turns that were never reached.
    pub assert_complete: bool,
}

impl MockConfig {
    pub(super) fn check(&self, path: &str) -> Result<()> {
        for (index, turn) in self.turns.iter().flatten().enumerate() {
            let at = |key: &str| format!("{path}.turns[{index}].{key}");
            if let (Some(text), Some(chunks)) = (&turn.text, &turn.chunks)
                && chunks.concat() != *text
            {
                return Err(Error::schema(at("chunks"), "the chunks do not concatenate to the text"));
            }
            if let Some(error) = &turn.error {
                if !(400..=599).contains(&error.http_status) {
                    return Err(Error::schema(at("error.http_status"), "an HTTP error status, 400 to 599, is needed"));
                }
                if turn.text.is_some() || turn.chunks.is_some() || !turn.tool_calls.is_empty() {
                    return Err(Error::schema(at("error"), "a turn either fails or answers")
                        .with_hint("remove the error, or the text and tool_calls"));
                }
            }
        }
        Ok(())
    }
}

/// What counts the turns of a script.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MockScope {
    /// Each run starts at the first turn.
    #[default]
    Run,
    /// One count for the provider.
    Provider,
}

/// One scripted answer.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(default)]
pub struct MockTurn {
    /// What must hold of the request; else the run fails and says what was received.
    pub expect: Option<MockExpect>,
    /// Fails the request instead of answering.
    pub error: Option<MockError>,
    /// Reasoning before the text.
    pub reasoning: Option<String>,
    /// The text. With `chunks` it may be left out.
    pub text: Option<String>,
    /// The text as it arrives, piece by piece. Default: word by word.
    pub chunks: Option<Vec<String>>,
    /// Milliseconds before each piece.
    pub delay_ms: u64,
    /// Calls of tools.
    pub tool_calls: Vec<MockToolCall>,
    /// What the request is said to have consumed. Default: counted from the text, four characters a token.
    pub usage: Option<Usage>,
    /// Default: `tool_calls` with tool calls, else `stop`.
    pub finish_reason: Option<FinishReason>,
}

/// What a request must look like.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(default)]
pub struct MockExpect {
    /// The last message's text contains this.
    pub last_message_contains: Option<String>,
    /// The number of messages, the system prompt not counted.
    pub messages: Option<usize>,
    /// Some message contains this: a text, a result, or arguments of a call.
    pub contains: Option<String>,
    /// No message contains this.
    pub not_contains: Option<String>,
    /// The most tokens of the answer.
    pub max_tokens: Option<u32>,
    /// Whether the provider is to hold the answer to a schema.
    pub has_schema: Option<bool>,
    /// `auto`, `none`, `required`, or the name of the tool that must be called.
    pub tool_choice: Option<String>,
    /// Images, documents and recordings in the conversation.
    pub media: Option<usize>,
    /// The system prompt contains this.
    pub system_contains: Option<String>,
    /// These tools, by name and in order, are offered.
    pub tools: Option<Vec<String>>,
}

/// A failure as a provider would answer it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MockError {
    /// 400 to 599.
    pub http_status: u16,
    /// The provider's `Retry-After`.
    #[serde(default)]
    pub retry_after_ms: Option<u64>,
    /// The provider's message.
    #[serde(default)]
    pub message: Option<String>,
}

/// A scripted tool call.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MockToolCall {
    /// The call's id; minted if absent.
    #[serde(default)]
    pub id: Option<String>,
    /// The tool.
    pub name: String,
    /// The arguments. A string is sent as it is, so that broken JSON can be scripted.
    #[serde(default, deserialize_with = "super::strict::free")]
    pub input: Value,
}
