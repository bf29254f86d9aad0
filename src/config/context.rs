//! How an agent keeps a long conversation inside its model's window, and how its system prompt is made.

use super::{ModelConfig, agent::model_option};
use crate::types::{Error, Result};
use schemars::JsonSchema;
use serde::Deserialize;

/// What the model stops seeing when a conversation grows. Always whole rounds: a tool call and its result stay together,
/// and the system prompt always stays.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[schemars(tag = "type")]
pub enum ContextStrategy {
    /// Nothing: the provider's own limit applies.
    None,
    /// The oldest messages, until the rest fits.
    TruncateOldest {
        /// The system prompt is always kept; `false` is refused.
        #[serde(default = "yes", alias = "keepSystem")]
        keep_system: bool,
        /// Messages that are kept even if they are too many tokens; then the run fails. Default 4.
        #[serde(default = "default_min_messages")]
        min_messages: usize,
        /// The most tokens. Default: the threshold of the model's window.
        #[serde(default)]
        max_tokens: Option<u64>,
    },
    /// A summary, made by a model, takes the place of the older messages.
    Summarize {
        /// The most tokens of the summary. Default 1024.
        #[serde(default = "default_summary_tokens")]
        max_tokens: u32,
        /// The model that summarizes. Default: the agent's own.
        #[serde(default, deserialize_with = "model_option")]
        #[schemars(with = "Option<String>")]
        summary_model: Option<ModelConfig>,
        /// Messages that stay as they are. Default 4.
        #[serde(default = "default_min_messages")]
        keep_messages: usize,
    },
    /// Everything but the newest messages.
    SlidingWindow {
        /// The most messages. Default 100.
        #[serde(default = "default_max_messages")]
        max_messages: usize,
        /// The most tokens. Default 200,000.
        #[serde(default = "default_max_tokens")]
        max_tokens: u64,
    },
}

impl Default for ContextStrategy {
    fn default() -> Self {
        Self::SlidingWindow { max_messages: default_max_messages(), max_tokens: default_max_tokens() }
    }
}

impl ContextStrategy {
    pub(super) fn check(&self, path: &str) -> Result<()> {
        let needs = |key: &str, what: &str| Err(Error::schema(format!("{path}.{key}"), what.to_owned()));
        match self {
            Self::None => Ok(()),
            Self::TruncateOldest { keep_system: false, .. } => {
                needs("keep_system", "the system prompt is never dropped: leave the key out")
            }
            Self::TruncateOldest { max_tokens: Some(0), .. } => needs("max_tokens", "at least 1 token is needed"),
            Self::TruncateOldest { min_messages: 0, .. } => needs("min_messages", "at least 1 message is kept"),
            Self::Summarize { max_tokens: 0, .. } => needs("max_tokens", "a summary needs at least 1 token"),
            Self::Summarize { keep_messages: 0, .. } => needs("keep_messages", "at least 1 message is kept"),
            Self::SlidingWindow { max_messages: 0, .. } => needs("max_messages", "at least 1 message is kept"),
            Self::SlidingWindow { max_tokens: 0, .. } => needs("max_tokens", "at least 1 token is needed"),
            Self::TruncateOldest { .. } | Self::Summarize { .. } | Self::SlidingWindow { .. } => Ok(()),
        }
    }
}

fn yes() -> bool {
    true
}

fn default_min_messages() -> usize {
    4
}

fn default_summary_tokens() -> u32 {
    1024
}

fn default_max_messages() -> usize {
    100
}

fn default_max_tokens() -> u64 {
    200_000
}

/// A system prompt with `{{variables}}`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TemplateConfig {
    /// The text. Besides the declared variables it may use `agent_id`, `runtime_id`, `available_tools` (a JSON array),
    /// `user_variables` (a JSON object) and `current_time` (RFC 3339, UTC).
    ///
    /// A line that uses `current_time` is told with the user's message instead of in the system prompt: what changes
    /// from run to run must not stand before what does not, or no provider could cache it.
    pub template: String,
    /// Every variable that a request may give.
    #[serde(default)]
    pub variables: Vec<String>,
    /// Those that it must give.
    #[serde(default)]
    pub required: Vec<String>,
}
