//! Agents: `par_register_agent`.

use super::{
    Budget, ContextStrategy, MiddlewareConfig, QuotaConfig, RetryPolicyConfig, TemplateConfig, check_name, strict,
    tool::check_tool_name,
};
use crate::types::{AgentId, CacheTtl, Error, Result};
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
    /// A system prompt with variables, instead of `system_prompt`.
    #[serde(default)]
    pub system_prompt_template: Option<TemplateConfig>,
    /// Other models that are asked, in this order, when the model cannot be reached: after its own retries, never once it has
    /// said something.
    #[serde(default, deserialize_with = "models")]
    #[schemars(with = "Vec<ModelShape>")]
    pub fallback: Vec<ModelConfig>,
    /// Names of registered tools, of built-in ones such as `calculator`, and of sets of those: `builtin:readonly`,
    /// `builtin:all`.
    #[serde(default)]
    pub tools: Vec<String>,
    /// Agents it may hand the conversation over to: names, or objects.
    #[serde(default)]
    pub handoffs: Vec<HandoffConfig>,
    /// Agents it may use as tools: names, or objects.
    #[serde(default)]
    pub sub_agents: Vec<SubAgentConfig>,
    /// Model requests in one run, at most. Default 25.
    #[serde(default = "default_max_iterations")]
    pub max_iterations: u32,
    /// Seconds one run may take, at most; whatever it waits for is interrupted.
    #[serde(default)]
    pub max_execution_time: Option<f64>,
    /// What reaching `max_iterations` means.
    #[serde(default)]
    pub early_stopping_method: EarlyStopping,
    /// What an answer that was cut off at its token limit means.
    #[serde(default)]
    pub on_max_tokens: OnMaxTokens,
    /// How often a cut-off answer is continued, or retried, at most. Default 10.
    #[serde(default = "default_max_continuations")]
    pub max_continuations: u32,
    /// Overrides the runtime's setting.
    #[serde(default)]
    pub parallel_tool_execution: Option<bool>,
    /// What stands around its model requests and tool calls, inside of the runtime's.
    #[serde(default)]
    pub middleware: Vec<MiddlewareConfig>,
    /// How failed model requests are tried again. Goes before a `retry` middleware and the provider's own rules.
    #[serde(default)]
    pub retry_policy: Option<RetryPolicyConfig>,
    /// How a long conversation is kept inside the model's window.
    #[serde(default)]
    pub context_strategy: ContextStrategy,
    /// The part of the model's window at which the strategy applies by itself. Default 0.8.
    #[serde(default = "default_threshold")]
    pub context_compression_threshold: f64,
    /// Messages between two such compactions, at least. Default 6.
    #[serde(default = "default_cooldown")]
    pub compression_cooldown_messages: usize,
    /// The model's window in tokens, where the built-in table is wrong or does not know it.
    #[serde(default)]
    pub context_window_override: Option<u64>,
    /// Whether the provider caches the beginning of its conversations, where it must be told.
    #[serde(default)]
    pub cache_strategy: CacheStrategy,
    /// How much of it may run at the same time, and what one run may consume.
    #[serde(default)]
    pub resource_quota: Option<QuotaConfig>,
    /// The most that one run may consume.
    #[serde(default)]
    pub budget: Option<Budget>,
    /// When a repeated tool call is stopped.
    #[serde(default)]
    pub loop_guard: LoopGuardConfig,
    /// Seconds an approval is waited for. Default 300.
    #[serde(default = "default_approval_timeout")]
    pub approval_timeout: f64,
}

fn default_max_iterations() -> u32 {
    25
}

fn default_max_continuations() -> u32 {
    10
}

fn default_threshold() -> f64 {
    0.8
}

fn default_cooldown() -> usize {
    6
}

fn default_approval_timeout() -> f64 {
    300.0
}

/// What reaching `max_iterations` means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EarlyStopping {
    /// An error.
    #[default]
    Force,
    /// One more request, without tools, for a final answer from what is known.
    Generate,
}

/// What an answer that was cut off at its token limit means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnMaxTokens {
    /// It is the answer, with `finish_reason` `max_tokens`.
    #[default]
    ReturnPartial,
    /// It is thrown away and asked for again, with twice the limit if there is one.
    Retry,
    /// It is continued where it was cut off, until it is whole.
    Continue,
}

/// An agent that may take over.
#[derive(Clone, Debug, JsonSchema)]
pub struct HandoffConfig {
    /// Its id.
    pub agent: AgentId,
    /// When to hand over to it, for the model.
    pub description: Option<String>,
    /// Whether it sees what was said before. Default true.
    pub carry_context: bool,
}

/// An agent that is used as a tool.
#[derive(Clone, Debug, JsonSchema)]
pub struct SubAgentConfig {
    /// Its id.
    pub agent: AgentId,
    /// The tool's name. Default: the id.
    pub name: Option<String>,
    /// What it is for, for the model.
    pub description: Option<String>,
    /// The most that one call may consume; the budget of the run that calls it applies besides.
    pub budget: Option<Budget>,
}

/// When a repeated tool call is stopped.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(default)]
pub struct LoopGuardConfig {
    /// How often a run may make the same call with the same arguments; further ones are not executed and the model is
    /// told, and after as many again the run fails. 0: as often as it likes. Default 5.
    pub max_repeats: u32,
}

impl Default for LoopGuardConfig {
    fn default() -> Self {
        Self { max_repeats: 5 }
    }
}

/// Reads a name, or an object.
macro_rules! named_or_whole {
    ($name:ident, $whole:ident { $($(#[$attribute:meta])* $field:ident: $type:ty = $default:expr),* $(,)? }) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct $whole {
                    agent: AgentId,
                    $($(#[$attribute])* #[serde(default)] $field: Option<$type>,)*
                }
                struct NameOrObject;
                impl<'de> Visitor<'de> for NameOrObject {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an agent's id or an object with \"agent\"")
                    }

                    fn visit_str<E: serde::de::Error>(self, id: &str) -> Result<$name, E> {
                        Ok($name { agent: id.into(), $($field: $default(None),)* })
                    }

                    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<$name, A::Error> {
                        let whole = $whole::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                        Ok($name { agent: whole.agent, $($field: $default(whole.$field),)* })
                    }
                }
                deserializer.deserialize_struct("agent", &[], NameOrObject)
            }
        }
    };
}

named_or_whole!(
    HandoffConfig,
    WholeHandoff {
        description: String = std::convert::identity,
        carry_context: bool = |given: Option<bool>| given.unwrap_or(true),
    }
);
named_or_whole!(
    SubAgentConfig,
    WholeSubAgent {
        name: String = std::convert::identity,
        description: String = std::convert::identity,
        budget: Budget = std::convert::identity,
    }
);

/// A model and how it is asked.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Key of `llm_providers`. Empty or left out: the default provider.
    #[serde(default)]
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
    /// Whether and how much it reasons before it answers. Default: as the model does.
    #[serde(default)]
    pub reasoning: Option<ReasoningConfig>,
}

/// Whether and how much a model reasons. Models take one of the two figures, or both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(default)]
pub struct ReasoningConfig {
    /// How much.
    pub effort: Option<Effort>,
    /// The most tokens of it.
    pub budget_tokens: Option<u32>,
    /// Whether the host is shown a summary of it. Default true.
    pub show: Option<bool>,
}

/// How much a model reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Effort {
    /// Not at all.
    None,
    /// Hardly.
    Minimal,
    /// A little.
    Low,
    /// Some.
    Medium,
    /// Much.
    High,
    /// As much as it can.
    Xhigh,
}

/// Whether a provider that must be told caches the beginning of conversations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[schemars(tag = "type")]
pub enum CacheStrategy {
    /// It is told nothing. Some cache all the same.
    #[default]
    None,
    /// The tools, the system prompt and the conversation so far are marked.
    Automatic {
        /// How long it is kept.
        #[serde(default)]
        ttl: CacheTtl,
    },
    /// Only what is marked: here, and by a `cache_point` in the input of a request.
    Explicit {
        /// How long it is kept, where a point does not say. Default: as the provider does.
        #[serde(default)]
        ttl: Option<CacheTtl>,
        /// Whether the tools are marked.
        #[serde(default)]
        tools: bool,
        /// Whether the system prompt is marked, which comes after the tools.
        #[serde(default)]
        system: bool,
    },
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
        let agent: Self =
            strict::from_str(text, "agent").map_err(|error| of_the_model(super::to_come(error, "agent")))?;
        agent.check()?;
        Ok(agent)
    }

    /// Refuses what makes no sense.
    pub fn check(&self) -> Result<()> {
        let agent = self;
        check_name(agent.id.as_str(), "agent.id", "an agent")?;
        if agent.max_iterations == 0 {
            return Err(Error::schema("agent.max_iterations", "an agent needs at least 1 iteration"));
        }
        agent.model.check("agent.model")?;
        for (index, model) in agent.fallback.iter().enumerate() {
            model.check(&format!("agent.fallback[{index}]"))?;
        }
        for (key, seconds) in
            [("max_execution_time", agent.max_execution_time), ("approval_timeout", Some(agent.approval_timeout))]
        {
            if seconds.is_some_and(|seconds| !(seconds > 0.0 && seconds <= 31_536_000.0)) {
                return Err(Error::schema(format!("agent.{key}"), "a number of seconds above 0 is needed"));
            }
        }
        if !(agent.context_compression_threshold > 0.0 && agent.context_compression_threshold <= 1.0) {
            let message = "a part of the window above 0, at most 1, is needed";
            return Err(Error::schema("agent.context_compression_threshold", message));
        }
        if agent.context_window_override == Some(0) {
            return Err(Error::schema("agent.context_window_override", "a window has at least 1 token"));
        }
        for (index, sub_agent) in agent.sub_agents.iter().enumerate() {
            if let Some(name) = &sub_agent.name {
                check_tool_name(name, &format!("agent.sub_agents[{index}].name"))?;
            }
        }
        agent.context_strategy.check("agent.context_strategy")?;
        if let ContextStrategy::Summarize { summary_model: Some(model), .. } = &agent.context_strategy {
            model.check("agent.context_strategy.summary_model")?;
        }
        for (index, middleware) in agent.middleware.iter().enumerate() {
            middleware.check(&format!("agent.middleware[{index}]"))?;
        }
        agent.retry_policy.as_ref().map_or(Ok(()), |policy| policy.check("agent.retry_policy"))?;
        agent.resource_quota.as_ref().map_or(Ok(()), |quota| quota.check("agent.resource_quota"))?;
        for (index, tool) in agent.tools.iter().enumerate() {
            if agent.tools.iter().take(index).any(|other| other == tool) {
                return Err(Error::schema(
                    format!("agent.tools[{index}]"),
                    format!("the tool {tool:?} is listed twice"),
                ));
            }
        }
        if agent.system_prompt.is_some() && agent.system_prompt_template.is_some() {
            return Err(Error::schema(
                "agent.system_prompt",
                "an agent has a system_prompt or a system_prompt_template",
            )
            .with_hint("leave out one of them"));
        }
        Ok(())
    }
}

/// Helps who gives the agent what its model has.
fn of_the_model(error: Error) -> Error {
    let keys =
        ["provider", "model_name", "api_base", "temperature", "max_tokens", "top_p", "stop_sequences", "reasoning"];
    let key = error.path().and_then(|path| path.strip_prefix("agent.")).filter(|key| keys.contains(key));
    match key.filter(|_| error.message().starts_with("unknown key")) {
        Some(key) => {
            let hint = format!(
                "it belongs into \"model\": {{\"provider\": \"openai\", \"model_name\": \"gpt-4o-mini\", {key:?}: …}}"
            );
            error.with_hint(hint)
        }
        None => error,
    }
}

impl ModelConfig {
    /// Reads `provider/model`, written at `path`.
    pub fn from_short(text: &str, path: &str) -> Result<Self> {
        Self::short(text).ok_or_else(|| Error::schema(path, format!("expected \"provider/model\", got {text:?}")))
    }

    /// `provider/model`, or a model of the default provider.
    fn short(text: &str) -> Option<Self> {
        let (provider, model_name) = text.split_once('/').unwrap_or(("", text));
        if model_name.is_empty() || (text.contains('/') && provider.is_empty()) {
            return None;
        }
        Some(Self {
            provider: provider.to_owned(),
            model_name: model_name.to_owned(),
            api_base: None,
            temperature: None,
            max_tokens: None,
            top_p: None,
            stop_sequences: Vec::new(),
            reasoning: None,
        })
    }

    /// Checks the values.
    pub(super) fn check(&self, path: &str) -> Result<()> {
        let within = |value: Option<f64>, most: f64| value.is_none_or(|value| (0.0..=most).contains(&value));
        if !within(self.temperature, 2.0) {
            return Err(Error::schema(format!("{path}.temperature"), "a temperature is a number from 0 to 2"));
        }
        if !within(self.top_p, 1.0) {
            return Err(Error::schema(format!("{path}.top_p"), "top_p is a number from 0 to 1"));
        }
        if self.max_tokens == Some(0) {
            return Err(Error::schema(format!("{path}.max_tokens"), "max_tokens is 1 or more"));
        }
        match &self.api_base {
            Some(url) => super::provider::check_url(url, &format!("{path}.api_base")),
            None => Ok(()),
        }
    }
}

/// As [`model`], where there may be none.
pub(super) fn model_option<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ModelConfig>, D::Error> {
    model(deserializer).map(Some)
}

/// As [`model`], a list of them.
fn models<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ModelConfig>, D::Error> {
    #[derive(Deserialize)]
    struct One(#[serde(deserialize_with = "model")] ModelConfig);
    Ok(Vec::<One>::deserialize(deserializer)?.into_iter().map(|One(model)| model).collect())
}

fn model<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ModelConfig, D::Error> {
    struct ModelVisitor;
    impl<'de> Visitor<'de> for ModelVisitor {
        type Value = ModelConfig;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("\"provider/model\" or an object")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ModelConfig, E> {
            ModelConfig::short(text).ok_or_else(|| E::custom(format_args!("expected \"provider/model\", got {text:?}")))
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ModelConfig, A::Error> {
            ModelConfig::deserialize(serde::de::value::MapAccessDeserializer::new(map))
        }
    }
    deserializer.deserialize_struct("model", &[], ModelVisitor)
}
