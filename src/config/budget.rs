//! What runs may consume: budgets and quotas.

use crate::types::{Error, PicoUsd, Result};
use schemars::JsonSchema;
use serde::Deserialize;

/// The most that may be consumed. What is left out has no bound. Checked before each model request, with the most that
/// the request could consume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(default)]
pub struct Budget {
    /// US dollars, as a decimal string such as `"0.25"`.
    pub usd: Option<PicoUsd>,
    /// Prompt tokens, cached ones included.
    pub input_tokens: Option<u64>,
    /// Tokens the model writes.
    pub output_tokens: Option<u64>,
    /// Model requests.
    pub requests: Option<u64>,
    /// Tool calls.
    pub tool_calls: Option<u64>,
    /// Milliseconds from the first use.
    pub wall_ms: Option<u64>,
}

impl Budget {
    /// Whether it bounds nothing.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}

/// How much may run at the same time, and how much one run may consume. Runs over it wait for their turn.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(default)]
pub struct QuotaConfig {
    /// Runs at the same time; more wait, first come, first served. Default 10.
    pub max_concurrent_tasks: u32,
    /// Tool calls of one agent at the same time, over all its runs; more wait. Default 5.
    pub max_concurrent_tools_per_agent: u32,
    /// Tokens the model may write in one turn.
    pub max_tokens_per_turn: Option<u32>,
    /// Tokens one run may consume, prompt and answer together.
    pub max_total_tokens: Option<u64>,
}

impl Default for QuotaConfig {
    fn default() -> Self {
        Self {
            max_concurrent_tasks: 10,
            max_concurrent_tools_per_agent: 5,
            max_tokens_per_turn: None,
            max_total_tokens: None,
        }
    }
}

impl QuotaConfig {
    pub(super) fn check(&self, path: &str) -> Result<()> {
        for (key, value) in [
            ("max_concurrent_tasks", Some(u64::from(self.max_concurrent_tasks))),
            ("max_concurrent_tools_per_agent", Some(u64::from(self.max_concurrent_tools_per_agent))),
            ("max_tokens_per_turn", self.max_tokens_per_turn.map(u64::from)),
            ("max_total_tokens", self.max_total_tokens),
        ] {
            if value == Some(0) {
                return Err(Error::schema(format!("{path}.{key}"), "at least 1 is needed")
                    .with_hint("leave the key out for no bound of that kind"));
            }
        }
        Ok(())
    }
}
