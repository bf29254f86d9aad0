//! Where a server differs from OpenAI's Chat Completions: single quirks, and named sets of them (`quirks.json`).

use crate::types::{Error, Result};
use schemars::JsonSchema;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::OnceLock;

/// Where a server differs from OpenAI's Chat Completions. May be written as the bare name of a preset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuirksConfig(Box<Quirks>);

/// The quirks themselves. What is absent is as the preset says, or else as OpenAI has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(default)]
pub struct Quirks {
    /// A known server, whose quirks hold where none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// The name of the answer's limit. Default `max_tokens`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens_key: Option<MaxTokensKey>,
    /// The field in which the model wants its reasoning back within a tool loop, as DeepSeek does. Default: nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_back_reasoning: Option<ReasoningField>,
    /// Whether the server holds answers to a JSON Schema. Default: what is known of the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json_schema: Option<bool>,
    /// Whether the figures of a stream must be asked for (`stream_options`). Default true; false where that is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_usage: Option<bool>,
    /// In which form a tool can be forced. Default `full`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<ToolChoiceForm>,
    /// What ids of tool calls look like. Default `any`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_ids: Option<ToolCallIds>,
    /// Whether the model must have spoken between a tool's result and the user's next word. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer_before_user: Option<bool>,
    /// The content of a message that only calls tools. Default `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call_content: Option<CallContent>,
    /// The header of the key, which is then the bare key. Default: `Authorization`, as a bearer token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_header: Option<String>,
    /// The path below `base_url`; `{model}` stands for the model's name. Default `chat/completions`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_path: Option<String>,
    /// The same for embeddings. Default `embeddings`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embeddings_path: Option<String>,
    /// Sent as the `api-version` of every URL. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// How the server is told what to cache. Default: it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_points: Option<CachePointForm>,
}

/// A server whose quirks are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// Azure OpenAI: a path for each deployment, `api-version`, and a header of its own for the key.
    Azure,
    /// Cohere's compatibility API.
    Cohere,
    /// DeepSeek.
    DeepSeek,
    /// LM Studio.
    #[serde(rename = "lm_studio")]
    LmStudio,
    /// LocalAI.
    LocalAi,
    /// Mistral.
    Mistral,
    /// OpenRouter.
    OpenRouter,
    /// vLLM.
    Vllm,
}

/// How the limit of an answer is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MaxTokensKey {
    /// The older name, which most servers know.
    MaxTokens,
    /// OpenAI's present name.
    MaxCompletionTokens,
}

/// A field of an assistant's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReasoningField {
    /// None: it is kept, but not sent.
    Never,
    /// DeepSeek, Moonshot, older vLLM.
    ReasoningContent,
    /// Ollama, newer vLLM.
    Reasoning,
    /// OpenRouter: as it came, signatures included.
    ReasoningDetails,
}

/// In which form a tool can be forced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolChoiceForm {
    /// By its name, or any of them.
    Full,
    /// Any of them only: `required`.
    Words,
    /// In none: the model is merely asked.
    Never,
}

/// What ids of tool calls look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolCallIds {
    /// As they like.
    Any,
    /// Nine letters and digits: ids of other servers are rewritten, the same ones always alike.
    NineAlphanumerics,
}

/// The content of a message that only calls tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CallContent {
    /// `null`.
    Null,
    /// The empty string.
    Empty,
    /// The key is left out.
    Absent,
}

/// How a server is told what to cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CachePointForm {
    /// It is not.
    Never,
    /// As OpenAI is.
    PromptCacheBreakpoint,
    /// As Anthropic is; OpenRouter hands it on to whoever has the model.
    CacheControl,
}

/// What is known of a server.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    #[serde(default)]
    base_url: Option<String>,
    quirks: Quirks,
}

impl Preset {
    fn known(self) -> Option<&'static Known> {
        static TABLE: OnceLock<BTreeMap<Preset, Known>> = OnceLock::new();
        // That it parses, and has everybody in it, is tested.
        TABLE.get_or_init(|| serde_json::from_str(include_str!("quirks.json")).unwrap_or_default()).get(&self)
    }
}

impl QuirksConfig {
    /// What holds: the quirks that are given, and those of the preset for the others.
    pub fn resolve(&self) -> Quirks {
        let own = (*self.0).clone();
        match own.preset.and_then(Preset::known) {
            Some(known) => own.or(&known.quirks),
            None => own,
        }
    }

    /// Where the server of the preset is, if that is known.
    pub fn base_url(&self) -> Option<&'static str> {
        self.0.preset.and_then(Preset::known)?.base_url.as_deref()
    }

    pub(super) fn check(&self, path: &str) -> Result<()> {
        let quirks = &self.0;
        if let Some(header) = &quirks.key_header
            && http::HeaderName::try_from(header).is_err()
        {
            return Err(Error::schema(format!("{path}.key_header"), "this is not an HTTP header name"));
        }
        for (key, value) in [("chat_path", &quirks.chat_path), ("embeddings_path", &quirks.embeddings_path)] {
            if value
                .as_ref()
                .is_some_and(|value| value.is_empty() || value.contains(['?', '#']) || value.contains("://"))
            {
                return Err(Error::schema(format!("{path}.{key}"), "not a path").with_hint(
                    "write what stands behind base_url, like \"openai/deployments/{model}/chat/completions\"",
                ));
            }
        }
        let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if quirks.api_version.as_ref().is_some_and(|version| version.is_empty() || !version.chars().all(is_legal)) {
            return Err(
                Error::schema(format!("{path}.api_version"), "not a version").with_hint("write it like \"2024-10-21\"")
            );
        }
        Ok(())
    }
}

impl Quirks {
    /// These quirks, with what is absent taken from others.
    fn or(self, other: &Self) -> Self {
        Self {
            preset: None,
            max_tokens_key: self.max_tokens_key.or(other.max_tokens_key),
            send_back_reasoning: self.send_back_reasoning.or(other.send_back_reasoning),
            json_schema: self.json_schema.or(other.json_schema),
            stream_usage: self.stream_usage.or(other.stream_usage),
            tool_choice: self.tool_choice.or(other.tool_choice),
            tool_call_ids: self.tool_call_ids.or(other.tool_call_ids),
            answer_before_user: self.answer_before_user.or(other.answer_before_user),
            call_content: self.call_content.or(other.call_content),
            key_header: self.key_header.or_else(|| other.key_header.clone()),
            chat_path: self.chat_path.or_else(|| other.chat_path.clone()),
            embeddings_path: self.embeddings_path.or_else(|| other.embeddings_path.clone()),
            api_version: self.api_version.or_else(|| other.api_version.clone()),
            cache_points: self.cache_points.or(other.cache_points),
        }
    }
}

impl<'de> Deserialize<'de> for QuirksConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrQuirks;
        impl<'de> Visitor<'de> for NameOrQuirks {
            type Value = QuirksConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a preset, or an object of quirks")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<QuirksConfig, E> {
                let preset = Preset::deserialize(serde::de::value::StrDeserializer::new(name))?;
                Ok(QuirksConfig(Box::new(Quirks { preset: Some(preset), ..Quirks::default() })))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<QuirksConfig, A::Error> {
                let quirks = Quirks::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(QuirksConfig(Box::new(quirks)))
            }
        }
        deserializer.deserialize_struct("quirks", &[], NameOrQuirks)
    }
}

impl JsonSchema for QuirksConfig {
    fn schema_name() -> Cow<'static, str> {
        "QuirksConfig".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let (name, quirks) = (generator.subschema_for::<Preset>(), generator.subschema_for::<Quirks>());
        schemars::json_schema!({"oneOf": [name, quirks]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::strict;
    use pretty_assertions::assert_eq;

    fn quirks(text: &str) -> Result<QuirksConfig> {
        let quirks: QuirksConfig = strict::from_str(text, "quirks")?;
        quirks.check("quirks")?;
        Ok(quirks)
    }

    #[test]
    fn every_preset_has_its_row() {
        let table: BTreeMap<Preset, Known> = serde_json::from_str(include_str!("quirks.json")).unwrap();
        for preset in [
            Preset::Azure,
            Preset::Cohere,
            Preset::DeepSeek,
            Preset::LmStudio,
            Preset::LocalAi,
            Preset::Mistral,
            Preset::OpenRouter,
            Preset::Vllm,
        ] {
            let known = &table[&preset];
            assert_eq!(known.base_url.is_none(), preset == Preset::Azure);
            let all = QuirksConfig(Box::new(known.quirks.clone()));
            all.check("quirks").unwrap();
            assert!(all != QuirksConfig::default() && known.quirks.preset.is_none(), "{preset:?} says something");
        }
        assert_eq!(table.len(), 8);
    }

    #[test]
    fn a_name_alone_is_enough_and_what_is_given_goes_before() {
        let mistral = quirks("\"mistral\"").unwrap();
        assert_eq!(mistral.resolve().tool_call_ids, Some(ToolCallIds::NineAlphanumerics));
        assert_eq!(mistral.base_url(), Some("https://api.mistral.ai/v1"));
        let own = quirks(r#"{"preset": "mistral", "tool_call_ids": "any", "max_tokens_key": "max_completion_tokens"}"#);
        let own = own.unwrap().resolve();
        assert_eq!(own.tool_call_ids, Some(ToolCallIds::Any));
        assert_eq!(own.max_tokens_key, Some(MaxTokensKey::MaxCompletionTokens));
        assert_eq!(own.stream_usage, Some(false));
        assert_eq!(quirks("{}").unwrap().resolve(), Quirks::default());
    }

    #[test]
    fn mistakes_are_told_with_their_place_and_the_nearest_name() {
        for (text, path, hint) in [
            (r#""mistrall""#, "quirks", "mistral"),
            (r#"{"preset": "lmstudio"}"#, "quirks.preset", "lm_studio"),
            (r#"{"presets": "azure"}"#, "quirks.presets", "preset"),
            (r#"{"tool_choice": "word"}"#, "quirks.tool_choice", "words"),
            (r#"{"chat_path": "chat?x=1"}"#, "quirks.chat_path", "{model}"),
            (r#"{"api_version": "a b"}"#, "quirks.api_version", "2024"),
            ("7", "quirks", ""),
        ] {
            let error = quirks(text).unwrap_err();
            assert_eq!(error.path(), Some(path), "{error:?}");
            assert!(error.hint().unwrap_or_default().contains(hint), "{error:?}");
        }
        assert_eq!(quirks(r#"{"key_header": "api key"}"#).unwrap_err().path(), Some("quirks.key_header"));
    }
}
