//! What is known of a model: its window, what it reads and writes, and what it costs. libpar knows the common ones
//! (`llm/profiles.json`); a user may say better.

use crate::types::{PicoUsd, Usage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// What is known of a model. What is absent is unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(default)]
pub struct ModelProfile {
    /// How many tokens prompt and answer may have together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_window: Option<u64>,
    /// How many tokens an answer may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u64>,
    /// How the model is best brought to give output of a shape.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub structured_output: Option<StructuredOutput>,
    /// Whether the model reasons before it answers, or can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<bool>,
    /// Whether it takes a temperature and top_p: models that always reason do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling: Option<bool>,
    /// Whether each turn's first tool call must carry the model's signature, and tools go with native output (Gemini 3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed_calls: Option<bool>,
    /// What the model reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Vec<Modality>>,
    /// How many cache points a request may have; absent where the provider is not told what to cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_points: Option<u32>,
    /// What it costs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
}

impl ModelProfile {
    /// This profile, with what is unknown in it taken from another.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            context_window: self.context_window.or(other.context_window),
            max_output_tokens: self.max_output_tokens.or(other.max_output_tokens),
            structured_output: self.structured_output.or(other.structured_output),
            reasoning: self.reasoning.or(other.reasoning),
            sampling: self.sampling.or(other.sampling),
            signed_calls: self.signed_calls.or(other.signed_calls),
            input: self.input.or(other.input),
            cache_points: self.cache_points.or(other.cache_points),
            price: self.price.or(other.price),
        }
    }
}

/// How a model is brought to give output of a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StructuredOutput {
    /// The provider holds the model to a JSON Schema.
    Native,
    /// The model is made to call a tool whose arguments are the output.
    Tool,
    /// The model is asked for it, and its answer checked.
    Prompted,
}

/// A kind of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Modality {
    /// Text.
    Text,
    /// Images.
    Image,
    /// Documents, such as PDF.
    Document,
    /// Sound.
    Audio,
}

/// What tokens cost, in US dollars for a million of them. Where a provider has tiers, the one of short prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Prompt tokens.
    pub input: Rate,
    /// Tokens the model writes, reasoning included.
    pub output: Rate,
    /// Prompt tokens read from a cache. Default: as `input`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read: Option<Rate>,
    /// Prompt tokens written to a cache. Default: as `input`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<Rate>,
}

impl Price {
    /// What a model request cost, exactly.
    pub fn cost(&self, usage: &Usage) -> PicoUsd {
        [
            (usage.input_tokens, self.input),
            (usage.output_tokens, self.output),
            (usage.cache_read_tokens, self.cache_read.unwrap_or(self.input)),
            (usage.cache_write_tokens, self.cache_write.unwrap_or(self.input)),
        ]
        .into_iter()
        .fold(PicoUsd::ZERO, |sum, (tokens, rate)| sum.saturating_add(rate.times(tokens)))
    }
}

/// The price of one token. As text it is a decimal number of US dollars for a million tokens, with up to six decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Rate {
    /// A millionth of a dollar per million is a pico-dollar per token: a whole number.
    pico_usd_per_token: u64,
}

/// How many tokens a rate is told for.
const MILLION: u128 = 1_000_000;

impl Rate {
    fn times(self, tokens: u64) -> PicoUsd {
        PicoUsd::new(u128::from(self.pico_usd_per_token).saturating_mul(tokens.into()))
    }
}

impl TryFrom<String> for Rate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let per_million = text.parse::<PicoUsd>()?.pico();
        if per_million % MILLION != 0 {
            return Err(format!("{text:?} is not a price per million tokens: it has more than 6 decimals"));
        }
        let pico_usd_per_token = u64::try_from(per_million / MILLION)
            .map_err(|_| format!("{text:?} is not a price per million tokens: it is too large"))?;
        Ok(Self { pico_usd_per_token })
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        PicoUsd::new(u128::from(rate.pico_usd_per_token).saturating_mul(MILLION)).to_string()
    }
}

impl JsonSchema for Rate {
    fn schema_name() -> Cow<'static, str> {
        "Rate".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": r"^\d+(\.\d{1,6})?$",
            "description": "US dollars for a million tokens, as a decimal number: \"0.15\"."
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::strict;
    use pretty_assertions::assert_eq;

    fn profile(text: &str) -> crate::types::Result<ModelProfile> {
        strict::from_str(text, "models.m")
    }

    #[test]
    fn a_cost_is_exact() {
        let price = r#"{"price": {"input": "0.15", "output": "0.60", "cache_read": "0.075"}}"#;
        let price = profile(price).unwrap().price.unwrap();
        let usage = Usage {
            input_tokens: 1_000_001,
            output_tokens: 10,
            cache_read_tokens: 3,
            cache_write_tokens: 1,
            reasoning_tokens: 5,
        };
        // 0.15 + 1·0.15e-6 + 10·0.6e-6 + 3·0.075e-6 + 1·0.15e-6
        assert_eq!(price.cost(&usage).to_string(), "0.150006525");
        let most = Usage { input_tokens: u64::MAX, output_tokens: u64::MAX, ..usage };
        assert!(price.cost(&most) > price.cost(&usage));
    }

    #[test]
    fn a_profile_is_completed_by_another_field_by_field() {
        let own = profile(r#"{"context_window": 8192, "reasoning": false}"#).unwrap();
        let known = profile(r#"{"context_window": 1, "reasoning": true, "input": ["text"]}"#).unwrap();
        let both = profile(r#"{"context_window": 8192, "reasoning": false, "input": ["text"]}"#).unwrap();
        assert_eq!(own.or(known), both);
    }

    #[test]
    fn mistakes_are_told_with_their_path() {
        for (text, path, message) in [
            (r#"{"price": {"input": "0.15"}}"#, "models.m.price", "\"output\" is missing"),
            (r#"{"price": {"input": 0.15, "output": "1"}}"#, "models.m.price.input", "expected a string"),
            (r#"{"price": {"input": "0,15", "output": "1"}}"#, "models.m.price.input", "write it like"),
            (r#"{"price": {"input": "0.0000001", "output": "1"}}"#, "models.m.price.input", "more than 6 decimals"),
            (r#"{"price": {"input": "99999999999999999999", "output": "1"}}"#, "models.m.price.input", "too large"),
            (r#"{"input": ["text", "video"]}"#, "models.m.input[1]", "unknown value"),
            (r#"{"context": 1}"#, "models.m.context", "unknown key"),
        ] {
            let error = profile(text).unwrap_err();
            assert!(error.path() == Some(path) && error.message().contains(message), "{error:?}");
        }
    }
}
