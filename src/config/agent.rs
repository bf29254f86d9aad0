//! Agents: `par_register_agent`.

use super::{check_name, strict};
use crate::types::{AgentId, Error, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::fmt;

/// An agent: a prompt, a model and tools.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// Its name.
    pub id: AgentId,
    /// What every conversation starts with.
    #[serde(default)]
    pub system_prompt: Option<String>,
    /// The model: `"provider/model"`, or an object.
    #[serde(deserialize_with = "model")]
    #[schemars(with = "ModelShape")]
    pub model: ModelConfig,
    /// Names of registered tools.
    #[serde(default)]
    pub tools: Vec<String>,
    /// Model requests in one run, at most. Default 25. Reaching it is an error.
    #[serde(default = "default_max_iterations")]
    pub max_iterations: u32,
    /// Overrides the runtime's setting.
    #[serde(default)]
    pub parallel_tool_execution: Option<bool>,
}

fn default_max_iterations() -> u32 {
    25
}

/// A model and how it is asked.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Key of `llm_providers`.
    pub provider: String,
    /// The model's name, as the provider has it.
    pub model_name: String,
    /// Another endpoint than the provider's own.
    #[serde(default)]
    pub api_base: Option<String>,
    /// 0 to 2. Not sent unless given.
    #[serde(default)]
    pub temperature: Option<f64>,
    /// The most tokens of one answer.
    #[serde(default)]
    pub max_tokens: Option<u32>,
    /// 0 to 1. Not sent unless given.
    #[serde(default)]
    pub top_p: Option<f64>,
    /// Texts at which the model stops.
    #[serde(default)]
    pub stop_sequences: Vec<String>,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[allow(dead_code, reason = "it only describes")]
enum ModelShape {
    /// `provider/model`.
    Short(String),
    Long(ModelConfig),
}

impl AgentConfig {
    /// Parses and checks an agent.
    pub fn from_json(text: &str) -> Result<Self> {
        let agent: Self = strict::from_str(text, "agent")?;
        check_name(agent.id.as_str(), "agent.id", "an agent")?;
        if agent.max_iterations == 0 {
            return Err(Error::schema("agent.max_iterations", "an agent needs at least 1 iteration"));
        }
        let model = &agent.model;
        let within = |value: Option<f64>, most: f64| value.is_none_or(|value| (0.0..=most).contains(&value));
        if !within(model.temperature, 2.0) {
            return Err(Error::schema("agent.model.temperature", "a temperature is a number from 0 to 2"));
        }
        if !within(model.top_p, 1.0) {
            return Err(Error::schema("agent.model.top_p", "top_p is a number from 0 to 1"));
        }
        if model.max_tokens == Some(0) {
            return Err(Error::schema("agent.model.max_tokens", "max_tokens is 1 or more"));
        }
        if let Some(url) = &model.api_base {
            super::provider::check_url(url, "agent.model.api_base")?;
        }
        for (index, tool) in agent.tools.iter().enumerate() {
            if agent.tools.iter().take(index).any(|other| other == tool) {
                return Err(Error::schema(
                    format!("agent.tools[{index}]"),
                    format!("the tool {tool:?} is listed twice"),
                ));
            }
        }
        Ok(agent)
    }
}

fn model<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ModelConfig, D::Error> {
    struct ModelVisitor;
    impl<'de> Visitor<'de> for ModelVisitor {
        type Value = ModelConfig;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("\"provider/model\" or an object")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ModelConfig, E> {
            let (provider, model_name) = text
                .split_once('/')
                .filter(|(provider, model)| !provider.is_empty() && !model.is_empty())
                .ok_or_else(|| E::custom(format_args!("expected \"provider/model\", got {text:?}")))?;
            Ok(ModelConfig {
                provider: provider.to_owned(),
                model_name: model_name.to_owned(),
                api_base: None,
                temperature: None,
                max_tokens: None,
                top_p: None,
                stop_sequences: Vec::new(),
            })
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ModelConfig, A::Error> {
            ModelConfig::deserialize(serde::de::value::MapAccessDeserializer::new(map))
        }
    }
    deserializer.deserialize_struct("model", &[], ModelVisitor)
}
