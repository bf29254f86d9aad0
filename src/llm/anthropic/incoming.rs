//! What the server sends, read leniently.

use crate::llm::lenient::{Count, Few, Fields, MaybeText, Text, or_default};
use crate::types::Usage;
use serde::Deserialize;
use serde_json::value::RawValue;

/// An event of the stream.
#[derive(Deserialize)]
pub struct Event<'a> {
    #[serde(borrow, default)]
    pub r#type: Text<'a>,
    #[serde(default)]
    pub index: Count,
    #[serde(borrow, default, deserialize_with = "or_default")]
    pub delta: Piece<'a>,
    #[serde(borrow, default)]
    pub content_block: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub message: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub error: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "or_default")]
    pub usage: WireUsage,
}

/// What a block begins with, or what a delta brings.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Piece<'a> {
    #[serde(borrow)]
    pub r#type: Text<'a>,
    #[serde(borrow)]
    pub id: Text<'a>,
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(borrow)]
    pub text: Text<'a>,
    #[serde(borrow)]
    pub thinking: Text<'a>,
    #[serde(borrow)]
    pub partial_json: Text<'a>,
    #[serde(borrow)]
    pub signature: MaybeText<'a>,
    #[serde(borrow)]
    pub citation: Option<&'a RawValue>,
    #[serde(borrow)]
    pub stop_reason: Text<'a>,
    #[serde(borrow, deserialize_with = "or_default")]
    pub stop_details: StopDetails<'a>,
}

/// Why it stopped, in words.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct StopDetails<'a> {
    #[serde(borrow)]
    pub explanation: Text<'a>,
}

/// A delta as its fields.
#[derive(Deserialize)]
pub struct RawDelta<'a> {
    #[serde(borrow)]
    pub delta: Fields<'a>,
}

/// The message that the stream is about.
#[derive(Deserialize)]
pub struct Message<'a> {
    #[serde(borrow, default)]
    pub id: Text<'a>,
    #[serde(borrow, default)]
    pub model: Text<'a>,
    #[serde(borrow, default)]
    pub content: Few<&'a RawValue>,
    #[serde(borrow, default)]
    pub stop_reason: Text<'a>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    pub stop_details: StopDetails<'a>,
    #[serde(default, deserialize_with = "or_default")]
    pub usage: WireUsage,
}

/// What was consumed so far.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct WireUsage {
    pub input_tokens: Count,
    pub output_tokens: Count,
    pub cache_creation_input_tokens: Count,
    pub cache_read_input_tokens: Count,
    #[serde(deserialize_with = "or_default")]
    pub output_tokens_details: OutputDetails,
}

/// What of the output is reasoning.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct OutputDetails {
    pub thinking_tokens: Count,
}

impl WireUsage {
    /// Takes over what the newer figures say.
    pub fn merge(&mut self, newer: &Self) {
        let merge = |old: &mut Count, new: Count| {
            if new.0.is_some() {
                *old = new;
            }
        };
        merge(&mut self.input_tokens, newer.input_tokens);
        merge(&mut self.output_tokens, newer.output_tokens);
        merge(&mut self.cache_creation_input_tokens, newer.cache_creation_input_tokens);
        merge(&mut self.cache_read_input_tokens, newer.cache_read_input_tokens);
        merge(&mut self.output_tokens_details.thinking_tokens, newer.output_tokens_details.thinking_tokens);
    }

    /// `input_tokens` counts neither what the cache covered nor what was written to it.
    pub fn total(&self) -> Usage {
        Usage {
            input_tokens: self.input_tokens.get(),
            output_tokens: self.output_tokens.get(),
            cache_read_tokens: self.cache_read_input_tokens.get(),
            cache_write_tokens: self.cache_creation_input_tokens.get(),
            reasoning_tokens: self.output_tokens_details.thinking_tokens.get(),
        }
    }
}
