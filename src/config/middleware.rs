//! What stands around model requests and tool calls: `middleware` of the runtime and of an agent.
//!
//! The runtime's come first, then the agent's, each in the order written. Before a request or a call they act in that
//! order, afterwards in reverse: the first is the outermost.

use super::{LogLevel, PiiConfig, SanitizeConfig, ThinkConfig};
use crate::types::{Error, Result};
use schemars::JsonSchema;
use serde::Deserialize;

/// One middleware.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[schemars(tag = "type")]
pub enum MiddlewareConfig {
    /// Logs each request and call.
    Logging {
        /// As what. Default `info`.
        #[serde(default = "info")]
        level: LogLevel,
    },
    /// Tries failed model requests again; takes the place of the provider's own rules.
    Retry(RetryPolicyConfig),
    /// Lets so many model requests pass in so much time; the others wait.
    RateLimit {
        /// Requests. Default 60.
        #[serde(default = "sixty")]
        max_requests: u32,
        /// Seconds. Default 60.
        #[serde(default = "minute")]
        window_seconds: f64,
        /// What shares the limit. Default: everything this middleware stands around.
        #[serde(default)]
        scope: RateLimitScope,
    },
    /// Bounds the time of each model request, and of each tool call.
    Timeout {
        /// Seconds of one model request.
        #[serde(default)]
        llm_seconds: Option<f64>,
        /// Seconds of one tool call; the tool's own `timeout` applies besides.
        #[serde(default)]
        tool_seconds: Option<f64>,
    },
    /// Mends or refuses arguments of tools, and refuses empty answers.
    Validation {
        /// True: keys that the tool's schema does not name are refused. False: arguments that are nearly right (a number
        /// in quotes, an object as a string) are mended before they are checked.
        #[serde(default)]
        strict: bool,
        /// What an answer must be.
        #[serde(default)]
        output: OutputRule,
    },
    /// Masks personal data in what the model is told and says, and in arguments and results of tools.
    PiiMask(PiiConfig),
    /// Looks for instructions in tool results that are meant for the model.
    SanitizeToolOutput(SanitizeConfig),
    /// Takes reasoning in tags out of the text and makes it reasoning.
    ThinkTagStrip(ThinkConfig),
    /// Asks the host.
    Host(HostMiddlewareConfig),
}

fn info() -> LogLevel {
    LogLevel::Info
}

fn sixty() -> u32 {
    60
}

fn minute() -> f64 {
    60.0
}

/// What shares a rate limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RateLimitScope {
    /// Everything the middleware stands around: the runtime, or the agent.
    #[default]
    All,
    /// Each provider has the limit for itself.
    Provider,
    /// Each agent has the limit for itself.
    Agent,
}

/// What an answer must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputRule {
    /// Not empty: an answer without text and without tool calls fails the run.
    #[default]
    NonEmpty,
    /// Anything.
    Any,
}

/// How failed model requests are tried again: never after anything of the answer was emitted.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(default)]
pub struct RetryPolicyConfig {
    /// Attempts, the first included, 1 to 20. Default 3.
    pub max_attempts: u32,
    /// Seconds before the second attempt. Default 0.5.
    pub initial_delay: f64,
    /// How the wait grows. A provider's `Retry-After` goes before it.
    pub backoff: Backoff,
    /// Which failures. Default: any that may be retried.
    pub retry_on: Vec<RetryOn>,
    /// Whether waits are varied at random, so that callers do not come back all at once. Default true.
    pub jitter: bool,
    /// Seconds that a provider's `Retry-After` may ask for; beyond it the error is returned. Default 60.
    pub max_retry_after: f64,
    /// The most retries in a time, over everything the policy covers.
    pub budget: Option<RetryBudgetConfig>,
}

impl Default for RetryPolicyConfig {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            initial_delay: 0.5,
            backoff: Backoff::Exponential { base: 2.0, max_delay: 30.0 },
            retry_on: vec![RetryOn::AnyRetryable],
            jitter: true,
            max_retry_after: 60.0,
            budget: None,
        }
    }
}

/// How the wait before a retry grows.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[schemars(tag = "type")]
pub enum Backoff {
    /// `initial_delay * base^n`.
    Exponential {
        /// The factor from wait to wait. Default 2.
        #[serde(default = "two")]
        base: f64,
        /// The longest wait in seconds. Default 30.
        #[serde(default = "half_minute")]
        max_delay: f64,
    },
    /// Always the same.
    Fixed {
        /// Seconds.
        delay: f64,
    },
    /// `initial_delay + n * increment`.
    Linear {
        /// Seconds that each wait is longer.
        increment: f64,
        /// The longest wait in seconds. Default 30.
        #[serde(default = "half_minute")]
        max_delay: f64,
    },
}

fn two() -> f64 {
    2.0
}

fn half_minute() -> f64 {
    30.0
}

/// A kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryOn {
    /// Something took too long.
    Timeout,
    /// The provider asks for patience.
    RateLimited,
    /// The provider failed.
    ExternalFailure,
    /// No connection.
    ConnectionError,
    /// Whatever may be retried.
    AnyRetryable,
}

/// The most retries in a time.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryBudgetConfig {
    /// Retries.
    pub max_retries: u32,
    /// Seconds.
    pub window_seconds: f64,
}

/// Hooks that the host answers: host work like a tool call, by token (`middleware_call`).
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HostMiddlewareConfig {
    /// Told with each call.
    pub name: String,
    /// When it is asked.
    pub hooks: Vec<Hook>,
    /// Seconds the host has. Default 30.
    #[serde(default = "half_minute")]
    pub timeout: f64,
    /// What a failed or late answer means.
    #[serde(default)]
    pub on_failure: OnFailure,
}

/// When a host middleware is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// Before a model request.
    BeforeLlm,
    /// After a model's answer.
    AfterLlm,
    /// Before a tool call.
    BeforeTool,
    /// After a tool call.
    AfterTool,
    /// When a model request has failed for good.
    OnError,
}

impl Hook {
    /// As it is written in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::BeforeLlm => "before_llm",
            Self::AfterLlm => "after_llm",
            Self::BeforeTool => "before_tool",
            Self::AfterTool => "after_tool",
            Self::OnError => "on_error",
        }
    }
}

/// What a failed hook means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The run fails: what the hook was to prevent must not happen.
    #[default]
    Fail,
    /// The run goes on as if the hook had nothing to say.
    Continue,
}

impl MiddlewareConfig {
    pub(super) fn check(&self, path: &str) -> Result<()> {
        let seconds = |key: &str, value: f64| {
            if value > 0.0 && value <= 86_400.0 {
                return Ok(());
            }
            Err(Error::schema(format!("{path}.{key}"), "a number of seconds above 0, at most 86400, is needed"))
        };
        match self {
            Self::Logging { .. } | Self::Validation { .. } => Ok(()),
            Self::SanitizeToolOutput(config) => config.check(path),
            Self::PiiMask(config) => config.check(path),
            Self::Retry(policy) => policy.check(path),
            Self::RateLimit { max_requests, window_seconds, .. } => {
                if *max_requests == 0 {
                    return Err(Error::schema(format!("{path}.max_requests"), "at least 1 request is needed"));
                }
                seconds("window_seconds", *window_seconds)
            }
            Self::Timeout { llm_seconds, tool_seconds } => {
                if llm_seconds.is_none() && tool_seconds.is_none() {
                    return Err(Error::schema(path, "a timeout of what?")
                        .with_hint("give \"llm_seconds\", \"tool_seconds\", or both"));
                }
                llm_seconds.map_or(Ok(()), |value| seconds("llm_seconds", value))?;
                tool_seconds.map_or(Ok(()), |value| seconds("tool_seconds", value))
            }
            Self::ThinkTagStrip(config) => config.check(path),
            Self::Host(host) => {
                super::check_name(&host.name, &format!("{path}.name"), "a middleware")?;
                if host.hooks.is_empty() {
                    return Err(Error::schema(format!("{path}.hooks"), "a middleware without hooks does nothing")
                        .with_hint("hooks: before_llm, after_llm, before_tool, after_tool, on_error"));
                }
                seconds("timeout", host.timeout)
            }
        }
    }
}

impl RetryPolicyConfig {
    pub(super) fn check(&self, path: &str) -> Result<()> {
        if !(1..=20).contains(&self.max_attempts) {
            return Err(Error::schema(format!("{path}.max_attempts"), "1 to 20 attempts are possible"));
        }
        let mut times = vec![("initial_delay", self.initial_delay), ("max_retry_after", self.max_retry_after)];
        match self.backoff {
            Backoff::Exponential { base, max_delay } => {
                if !(1.0..=10.0).contains(&base) {
                    return Err(Error::schema(format!("{path}.backoff.base"), "a factor from 1 to 10 is needed"));
                }
                times.push(("backoff.max_delay", max_delay));
            }
            Backoff::Fixed { delay } => times.push(("backoff.delay", delay)),
            Backoff::Linear { increment, max_delay } => {
                times.extend([("backoff.increment", increment), ("backoff.max_delay", max_delay)]);
            }
        }
        if let Some(budget) = self.budget {
            times.push(("budget.window_seconds", budget.window_seconds));
        }
        match times.iter().find(|(_, value)| !(*value >= 0.0 && *value <= 86_400.0)) {
            Some((key, _)) => Err(Error::schema(format!("{path}.{key}"), "a number of seconds, 0 to 86400, is needed")),
            None => Ok(()),
        }
    }
}
