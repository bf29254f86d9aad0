//! Floor 3: models. The contract every provider keeps ([`Provider`]), and one folder per wire family.
//!
//! A provider turns a [`ModelRequest`] into a [`ModelAnswer`], telling a [`DeltaSink`] what comes on the way. The stream
//! contract is the same for all:
//!
//! | what happens | what the run sees |
//! | --- | --- |
//! | connection or server error, nothing emitted yet | tried again, then an error |
//! | the same after something was emitted | an error, never a retry |
//! | a malformed frame | a warning; the stream goes on |
//! | the end of the bytes without the provider's own end | an error of category `truncated`, never success |

pub mod anthropic;
mod assemble;
mod breaker;
mod cache;
mod call_ids;
mod classify;
mod embed;
mod frame;
pub mod gemini;
mod http;
mod lenient;
pub mod mock;
pub mod ollama;
pub mod openai_chat;
pub mod openai_responses;
mod outgoing;
mod parts;
mod policy;
mod profile;
mod replay;
mod reply;
mod retry;
mod secrets;
mod server;
mod sse;
#[cfg(test)]
mod testing;
mod whole;

pub use assemble::Assembler;
pub use cache::{CacheRules, check_cache_points};
pub use embed::{EmbedRequest, EmbedWire, Embeddings, embed, unsupported as embedding_unsupported};
pub use frame::Frame;
pub use http::{HttpPool, trusting as trusted_tls};
pub use parts::{BlockId, Parts};
pub use policy::{Policy, RateLimiter, RetryPolicy};
pub use profile::Profiles;
pub use replay::{Recorder, Tape};
pub use retry::generate;
pub use server::Server;
pub use sse::{SseError, SseEvent, SseReader};

use crate::config::{CacheStrategy, ModelConfig, ModelProfile, RetryConfig};
use crate::types::{Error, FinishReason, Part, Result, Status, ToolCallId, ToolSpec, Transcript, Usage};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value};
use std::sync::atomic::AtomicU32;

/// A source of model answers.
pub trait Provider: Send + Sync {
    /// Key of `llm_providers`.
    fn name(&self) -> &str;

    /// The configured `type`.
    fn kind(&self) -> &'static str;

    /// How failed requests are tried again.
    fn retry(&self) -> RetryConfig {
        RetryConfig::default()
    }

    /// What a model of this provider can do, where that does not depend on the model alone.
    fn profile(&self, model: &str) -> ModelProfile {
        let _ = model;
        ModelProfile::default()
    }

    /// What a model of this provider can be told to cache, if anything.
    fn cache_rules(&self, profile: &ModelProfile) -> Option<CacheRules> {
        let _ = profile;
        None
    }

    /// Makes one request, without any retry. Cancel safe: dropping the future drops the connection.
    fn request<'a>(
        &'a self,
        request: &'a ModelRequest<'a>,
        sink: &'a mut dyn DeltaSink,
    ) -> BoxFuture<'a, Result<ModelAnswer>>;

    /// Whether it has embeddings at all.
    fn can_embed(&self) -> bool {
        false
    }

    /// What embeds where nobody names a model.
    fn embedding_model(&self) -> Option<&str> {
        None
    }

    /// Embeds texts in one request, without any retry. Cancel safe.
    fn embed<'a>(&'a self, request: &'a EmbedRequest<'a>) -> BoxFuture<'a, Result<Embeddings>> {
        let _ = request;
        Box::pin(std::future::ready(Err(embed::unsupported(self.name(), self.kind()))))
    }

    /// What a script still expected when the runtime closes, in words; only scripted providers have such.
    fn unreached(&self) -> Option<String> {
        None
    }
}

/// What a model is asked.
#[derive(Clone, Copy)]
pub struct ModelRequest<'a> {
    /// Which model and how.
    pub model: &'a ModelConfig,
    /// What the conversation starts with.
    pub system: Option<&'a str>,
    /// The conversation; every tool call in it is answered.
    pub transcript: &'a Transcript,
    /// The tools it may call, sorted by name.
    pub tools: &'a [ToolSpec],
    /// Whether it must call one.
    pub tool_choice: ToolChoice<'a>,
    /// What the provider itself shall hold the answer to.
    pub output: Option<&'a OutputSchema>,
    /// Whether the beginning of the conversation is to be cached.
    pub cache: CacheStrategy,
    /// What the model can do.
    pub profile: &'a ModelProfile,
    /// The most tokens of the answer, where the run wants less or more than `model.max_tokens`.
    pub max_tokens: Option<u32>,
    /// The same for all requests that share a beginning: lets a provider route them to the same cache.
    pub cache_key: Option<&'a str>,
    /// Keys that the host gives when they are needed.
    pub credentials: &'a dyn Credentials,
    /// Connections.
    pub http: &'a HttpPool,
    /// Requests the run has made so far, retries included.
    pub requests_made: &'a AtomicU32,
}

impl ModelRequest<'_> {
    /// The most tokens of the answer.
    pub fn output_limit(&self) -> Option<u32> {
        self.max_tokens.or(self.model.max_tokens)
    }
}

/// Gives keys that nobody has configured in words.
pub trait Credentials: Send + Sync {
    /// The key of this name, for a provider.
    fn ask<'a>(&'a self, name: &'a str, provider: &'a str) -> BoxFuture<'a, Result<String>>;
}

/// For requests without a host to be asked.
pub struct NoCredentials;

impl Credentials for NoCredentials {
    fn ask<'a>(&'a self, name: &'a str, provider: &'a str) -> BoxFuture<'a, Result<String>> {
        let message =
            format!("the provider {provider:?} needs the key {name:?} of the host, which cannot be asked here");
        Box::pin(std::future::ready(Err(Error::new(Status::Auth, message).with_code("no_credential"))))
    }
}

/// Whether the model must call a tool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice<'a> {
    /// As it likes.
    #[default]
    Auto,
    /// It must not, though tools are told.
    None,
    /// It must call one.
    Required,
    /// It must call this one.
    Tool(&'a str),
}

/// A schema that the provider itself holds the answer to.
#[derive(Clone, Debug)]
pub struct OutputSchema {
    /// A name that providers want: letters, digits, `_` and `-`.
    pub name: String,
    /// The JSON Schema, encoded once.
    pub schema: std::sync::Arc<serde_json::value::RawValue>,
}

/// What a model answered, whole.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelAnswer {
    /// The message, part by part: at least one, unless the model said nothing.
    pub parts: Vec<Part>,
    /// Why it stopped.
    pub finish_reason: FinishReason,
    /// What it consumed; zero where the provider did not tell.
    pub usage: Usage,
    /// The model that answered, as the provider names it.
    pub model: String,
}

/// Takes what a model says while it says it.
pub trait DeltaSink: Send {
    /// More text.
    fn text(&mut self, text: &str);
    /// More reasoning.
    fn reasoning(&mut self, text: &str);
    /// A tool call begins.
    fn tool_call_start(&mut self, id: &ToolCallId, name: &str);
    /// More of its arguments.
    fn tool_call_delta(&mut self, id: &ToolCallId, args_json: &str);
    /// Something odd that does not end the request.
    fn warning(&mut self, code: &str, message: &str);
    /// The provider's rate limit.
    fn rate_limit(&mut self, provider: &str, limits: Map<String, Value>);
    /// A failed attempt will be followed by another.
    fn retrying(&mut self, attempt: u32, delay_ms: u64, error: &Error);
    /// Whether anything of an answer was told since the last [`DeltaSink::retrying`]: then nothing may be retried.
    fn has_emitted(&self) -> bool;
    /// Whether it takes more at once. Asked between deltas; if false, wait for [`DeltaSink::ready`].
    fn is_ready(&self) -> bool;
    /// Whether [`DeltaSink::ready`] should be awaited beside the next read, since something held back wants out.
    fn is_holding(&self) -> bool;
    /// Completes when it takes more. Cancel safe.
    fn ready(&mut self) -> BoxFuture<'_, ()>;
}
