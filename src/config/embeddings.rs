//! Embeddings: which model makes them, apart from the models that chat, and what `embed` is asked.

use super::check_name;
use crate::types::{Error, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use std::fmt;

/// How many texts one request carries where nobody says.
const DEFAULT_BATCH: usize = 64;
/// How many texts any provider takes at once.
const MAX_BATCH: usize = 2_048;
/// More dimensions than any model has.
const MAX_DIMENSIONS: u32 = 65_536;

/// The model that makes embeddings, unless a call names another.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingsConfig {
    /// Key of `llm_providers`.
    pub provider: String,
    /// The provider's name of the model.
    pub model: String,
    /// How many numbers a vector has, of models that let one choose. Default: the model's own.
    #[serde(default)]
    pub dimensions: Option<u32>,
    /// How many texts one request carries, 1 to 2,048. Default 64.
    #[serde(default = "default_batch")]
    pub batch_size: usize,
}

fn default_batch() -> usize {
    DEFAULT_BATCH
}

impl EmbeddingsConfig {
    pub(super) fn check(&self, path: &str) -> Result<()> {
        check_name(&self.provider, &format!("{path}.provider"), "a provider")?;
        if self.model.is_empty() {
            return Err(Error::schema(format!("{path}.model"), "the name is empty"));
        }
        if !(1..=MAX_BATCH).contains(&self.batch_size) {
            let message = format!("a request carries 1 to {MAX_BATCH} texts");
            return Err(Error::schema(format!("{path}.batch_size"), message));
        }
        check_dimensions(self.dimensions, path)
    }
}

fn check_dimensions(dimensions: Option<u32>, path: &str) -> Result<()> {
    match dimensions {
        Some(given) if !(1..=MAX_DIMENSIONS).contains(&given) => {
            Err(Error::schema(format!("{path}.dimensions"), format!("a vector has 1 to {MAX_DIMENSIONS} dimensions")))
        }
        Some(_) | None => Ok(()),
    }
}

/// What is to be embedded, and by which model.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbedCall {
    /// The texts.
    pub input: EmbedInput,
    /// Key of `llm_providers`. Default: that of the runtime's `embeddings`.
    #[serde(default)]
    pub provider: Option<String>,
    /// Default: that of the runtime's `embeddings`, or the provider's `embedding_model`.
    #[serde(default)]
    pub model: Option<String>,
    /// How many numbers a vector has. Default: as the runtime's `embeddings` say of this model, else the model's own.
    #[serde(default)]
    pub dimensions: Option<u32>,
}

/// Which model embeds, as it comes of a call and the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbedTarget {
    /// Key of `llm_providers`.
    pub provider: String,
    /// None: the provider's own choice.
    pub model: Option<String>,
    /// None: the model's own.
    pub dimensions: Option<u32>,
    /// Texts of one request.
    pub batch_size: usize,
}

impl EmbedCall {
    /// Checks the call against the most texts it may have.
    pub fn check(&self, path: &str, most: usize) -> Result<()> {
        let texts = self.input.texts();
        if texts.is_empty() {
            return Err(Error::schema(format!("{path}.input"), "there is nothing to embed").with_hint("give a text"));
        }
        if texts.len() > most {
            let message = format!("{} texts are more than limits.max_embed_inputs = {most}", texts.len());
            return Err(Error::new(crate::types::Status::TooLarge, message)
                .with_path(format!("{path}.input"))
                .with_hint("embed them in several calls, or raise the limit in the runtime config"));
        }
        if let Some(index) = texts.iter().position(String::is_empty) {
            let at = match self.input {
                EmbedInput::One(_) => format!("{path}.input"),
                EmbedInput::Many(_) => format!("{path}.input[{index}]"),
            };
            return Err(Error::schema(at, "an empty text has no embedding").with_hint("leave it out"));
        }
        if self.model.as_ref().is_some_and(String::is_empty) {
            return Err(Error::schema(format!("{path}.model"), "the name is empty"));
        }
        check_dimensions(self.dimensions, path)
    }

    /// Which model it is for. What is configured of one model says nothing of another.
    pub fn target(&self, config: Option<&EmbeddingsConfig>, path: &str) -> Result<EmbedTarget> {
        let named = self.provider.as_deref();
        let Some(provider) = named.or_else(|| config.map(|config| config.provider.as_str())) else {
            return Err(Error::schema(format!("{path}.provider"), "no provider of embeddings is named or configured")
                .with_hint(PAIRING));
        };
        let config = config.filter(|config| config.provider == provider);
        let model = self.model.as_deref().or_else(|| config.map(|config| config.model.as_str()));
        let same = config.filter(|config| Some(config.model.as_str()) == model);
        Ok(EmbedTarget {
            provider: provider.to_owned(),
            model: model.map(str::to_owned),
            dimensions: self.dimensions.or_else(|| same.and_then(|config| config.dimensions)),
            batch_size: config.map_or(DEFAULT_BATCH, |config| config.batch_size),
        })
    }
}

/// How a provider of embeddings is named beside one that chats.
pub const PAIRING: &str = r#"add a provider that embeds (openai, gemini, ollama, custom) to llm_providers and name it in the runtime config: "embeddings": {"provider": "openai", "model": "text-embedding-3-small"}"#;

/// One text, or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EmbedInput {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl EmbedInput {
    /// The texts, in order.
    pub fn texts(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

impl<'de> Deserialize<'de> for EmbedInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InputVisitor;
        impl<'de> Visitor<'de> for InputVisitor {
            type Value = EmbedInput;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }

            fn visit_str<E>(self, text: &str) -> Result<EmbedInput, E> {
                Ok(EmbedInput::One(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<EmbedInput, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = seq.next_element::<String>()? {
                    texts.push(text);
                }
                Ok(EmbedInput::Many(texts))
            }
        }
        deserializer.deserialize_any(InputVisitor)
    }
}

impl JsonSchema for EmbedInput {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EmbedInput".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"oneOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1}
        ]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::strict;
    use pretty_assertions::assert_eq;

    fn call(json: &str) -> EmbedCall {
        strict::from_str(json, "params").unwrap()
    }

    #[test]
    fn what_is_configured_of_one_model_says_nothing_of_another() {
        let config: EmbeddingsConfig =
            strict::from_str(r#"{"provider": "p", "model": "m", "dimensions": 8, "batch_size": 2}"#, "embeddings")
                .unwrap();
        let target = |json: &str| {
            let EmbedTarget { provider, model, dimensions, batch_size } =
                call(json).target(Some(&config), "params").unwrap();
            (provider, model.unwrap_or_default(), dimensions, batch_size)
        };
        let tell = |provider: &str, model: &str, dimensions, batch| (provider.into(), model.into(), dimensions, batch);
        assert_eq!(target(r#"{"input": "x"}"#), tell("p", "m", Some(8), 2));
        assert_eq!(target(r#"{"input": "x", "dimensions": 4}"#), tell("p", "m", Some(4), 2));
        assert_eq!(target(r#"{"input": "x", "model": "n"}"#), tell("p", "n", None, 2));
        assert_eq!(target(r#"{"input": "x", "provider": "q"}"#), tell("q", "", None, 64));
        assert_eq!(target(r#"{"input": "x", "provider": "q", "model": "m"}"#), tell("q", "m", None, 64));
        let error = call(r#"{"input": "x"}"#).target(None, "params").unwrap_err();
        assert_eq!(error.path(), Some("params.provider"));
    }

    #[test]
    fn mistakes_are_told_with_their_path() {
        for (json, path) in [
            (r#"{"input": ""}"#, "params.input"),
            (r#"{"input": []}"#, "params.input"),
            (r#"{"input": ["a", "b", "c", "d"]}"#, "params.input"),
            (r#"{"input": ["a", ""]}"#, "params.input[1]"),
            (r#"{"input": "a", "model": ""}"#, "params.model"),
            (r#"{"input": "a", "dimensions": 0}"#, "params.dimensions"),
        ] {
            assert_eq!(call(json).check("params", 3).unwrap_err().path(), Some(path), "{json}");
        }
        for (json, path) in [
            (r#"{"input": ["a", 1]}"#, "params.input[1]"),
            (r#"{"input": {}}"#, "params.input"),
            (r#"{"inputs": "a"}"#, "params.inputs"),
        ] {
            assert_eq!(strict::from_str::<EmbedCall>(json, "params").unwrap_err().path(), Some(path), "{json}");
        }
    }
}
