//! The layers of one agent, and the rules that are no layers: retries, rate limits, timeouts.

use super::host::Host;
use super::logging::Logging;
use super::pii::PiiMask;
use super::sanitize::Sanitizer;
use super::text::{Masking, Sanitizing, Stripping};
use super::think::ThinkStrip;
use super::validation::Validation;
use super::{BeforeLlm, BeforeTool, LlmCall, Middleware, OnError, PendingCall, Scene, TextPipeline};
use crate::config::{MiddlewareConfig, RateLimitScope};
use crate::llm::{ModelAnswer, Policy, RateLimiter, RetryPolicy};
use crate::types::{Error, Part, Result, ToolCall, ToolResult};
use parking_lot::Mutex;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// See the module's head. Cheap to clone; what counts (rate limits, retry budgets) is shared by the clones.
#[derive(Clone, Default)]
pub struct Chain {
    /// Outermost first.
    layers: Vec<Arc<dyn Middleware>>,
    limits: Vec<Arc<Limit>>,
    retry: Option<Arc<RetryPolicy>>,
    llm_timeout: Option<Duration>,
    tool_timeout: Option<Duration>,
    masks: Vec<Arc<PiiMask>>,
    think: Option<Arc<ThinkStrip>>,
}

/// A rate limit, for all or for each.
struct Limit {
    max_requests: u32,
    window: Duration,
    scope: RateLimitScope,
    limiters: Mutex<HashMap<String, Arc<RateLimiter>>>,
}

impl Limit {
    fn of(&self, scene: Scene<'_>) -> Arc<RateLimiter> {
        let key = match self.scope {
            RateLimitScope::All => "",
            RateLimitScope::Provider => scene.provider,
            RateLimitScope::Agent => scene.agent.as_str(),
        };
        let mut limiters = self.limiters.lock();
        if let Some(limiter) = limiters.get(key) {
            return Arc::clone(limiter);
        }
        let limiter = Arc::new(RateLimiter::new(self.max_requests, self.window));
        limiters.insert(key.to_owned(), Arc::clone(&limiter));
        limiter
    }
}

impl Chain {
    /// The chain of a list, which has been checked. `path` is where it was written.
    pub fn build(configs: &[MiddlewareConfig], path: &str) -> Result<Self> {
        let mut chain = Self::default();
        for (index, config) in configs.iter().enumerate() {
            let at = |error: Error| {
                let inner = error.path().map(|inner| format!(".{inner}")).unwrap_or_default();
                error.with_path(format!("{path}[{index}]{inner}"))
            };
            match config {
                MiddlewareConfig::Logging { level } => chain.layers.push(Arc::new(Logging::new(*level))),
                MiddlewareConfig::Retry(policy) => chain.retry = Some(Arc::new(RetryPolicy::new(policy))),
                MiddlewareConfig::RateLimit { max_requests, window_seconds, scope } => {
                    chain.limits.push(Arc::new(Limit {
                        max_requests: *max_requests,
                        window: Duration::from_secs_f64(*window_seconds),
                        scope: *scope,
                        limiters: Mutex::default(),
                    }));
                }
                MiddlewareConfig::Timeout { llm_seconds, tool_seconds } => {
                    let seconds = |value: Option<f64>| value.map(Duration::from_secs_f64);
                    chain.llm_timeout = shorter(chain.llm_timeout, seconds(*llm_seconds));
                    chain.tool_timeout = shorter(chain.tool_timeout, seconds(*tool_seconds));
                }
                MiddlewareConfig::Validation { strict, output } => {
                    chain.layers.push(Arc::new(Validation::new(*strict, *output)));
                }
                MiddlewareConfig::PiiMask(config) => {
                    let mask = Arc::new(PiiMask::new(config));
                    chain.masks.push(Arc::clone(&mask));
                    chain.layers.push(Arc::new(Masking(mask)));
                }
                MiddlewareConfig::SanitizeToolOutput(config) => {
                    chain.layers.push(Arc::new(Sanitizing(Sanitizer::new(config).map_err(at)?)));
                }
                MiddlewareConfig::ThinkTagStrip(config) => {
                    let strip = Arc::new(ThinkStrip::new(config));
                    chain.think = Some(Arc::clone(&strip));
                    chain.layers.push(Arc::new(Stripping(strip)));
                }
                MiddlewareConfig::Host(config) => chain.layers.push(Arc::new(Host::new(config.clone()))),
            }
        }
        Ok(chain)
    }

    /// This chain around another one.
    pub fn around(&self, inner: &Self) -> Self {
        let both = |a: &[_], b: &[_]| a.iter().chain(b).cloned().collect();
        Self {
            layers: self.layers.iter().chain(&inner.layers).cloned().collect(),
            limits: both(&self.limits, &inner.limits),
            retry: inner.retry.clone().or_else(|| self.retry.clone()),
            llm_timeout: shorter(self.llm_timeout, inner.llm_timeout),
            tool_timeout: shorter(self.tool_timeout, inner.tool_timeout),
            masks: self.masks.iter().chain(&inner.masks).cloned().collect(),
            think: inner.think.clone().or_else(|| self.think.clone()),
        }
    }

    /// What holds for the model requests of an agent. `own` is the agent's `retry_policy`.
    pub fn policy(&self, scene: Scene<'_>, own: Option<&Arc<RetryPolicy>>) -> Policy {
        Policy {
            retry: own.cloned().or_else(|| self.retry.clone()),
            gates: self.limits.iter().map(|limit| limit.of(scene)).collect(),
            timeout: self.llm_timeout,
        }
    }

    /// The most time that a tool call may take, besides the tool's own.
    pub fn tool_timeout(&self) -> Option<Duration> {
        self.tool_timeout
    }

    /// What streamed text must pass; none if it is told as it comes.
    pub fn text_pipeline(&self) -> Option<TextPipeline> {
        (self.think.is_some() || !self.masks.is_empty()).then(|| TextPipeline::new(self.think.as_ref(), &self.masks))
    }

    /// A middleware that must have the host's word.
    pub fn needs_host(&self) -> Option<&str> {
        self.layers.iter().find(|layer| layer.needs_host()).map(|layer| layer.name())
    }

    /// Whether anything is masked.
    pub fn masks(&self) -> bool {
        !self.masks.is_empty()
    }

    /// Text as the model may be told it.
    pub fn mask<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.masks.iter().fold(Cow::Borrowed(text), |text, mask| match mask.mask(&text) {
            Cow::Borrowed(_) => text,
            Cow::Owned(masked) => Cow::Owned(masked),
        })
    }

    /// What a user says, as the model may be told it.
    pub fn mask_parts(&self, parts: &mut [Part]) {
        for part in parts.iter_mut().filter(|_| self.masks()) {
            if let Part::Text { text, opaque } = part
                && let Cow::Owned(masked) = self.mask(text)
            {
                (*text, *opaque) = (masked, None);
            }
        }
    }

    /// Before a model request, outside in.
    pub async fn before_llm(&self, scene: Scene<'_>, call: &mut LlmCall<'_>) -> Result<BeforeLlm> {
        for layer in &self.layers {
            match layer.before_llm(scene, call).await? {
                BeforeLlm::Go => {}
                decided @ (BeforeLlm::Answer(_) | BeforeLlm::Block(_)) => return Ok(decided),
            }
        }
        Ok(BeforeLlm::Go)
    }

    /// After a model's answer, inside out.
    pub async fn after_llm(&self, scene: Scene<'_>, answer: &mut ModelAnswer) -> Result<()> {
        for layer in self.layers.iter().rev() {
            layer.after_llm(scene, answer).await?;
        }
        Ok(())
    }

    /// Before a tool call, outside in.
    pub async fn before_tool(&self, scene: Scene<'_>, call: &mut PendingCall<'_>) -> Result<BeforeTool> {
        for layer in &self.layers {
            match layer.before_tool(scene, call).await? {
                BeforeTool::Go => {}
                decided @ (BeforeTool::Answer(_) | BeforeTool::Block(_)) => return Ok(decided),
            }
        }
        Ok(BeforeTool::Go)
    }

    /// After a tool call, inside out.
    pub async fn after_tool(&self, scene: Scene<'_>, call: &ToolCall, result: &mut ToolResult) -> Result<()> {
        for layer in self.layers.iter().rev() {
            layer.after_tool(scene, call, result).await?;
        }
        Ok(())
    }

    /// After a model request has failed for good, inside out.
    pub async fn on_error(&self, scene: Scene<'_>, error: &Error) -> Result<OnError> {
        for layer in self.layers.iter().rev() {
            match layer.on_error(scene, error).await? {
                OnError::Fail => {}
                decided @ (OnError::Retry | OnError::Answer(_)) => return Ok(decided),
            }
        }
        Ok(OnError::Fail)
    }
}

fn shorter(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
