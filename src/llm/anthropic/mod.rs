//! Anthropic Messages, and every server that claims to be compatible.
//!
//! [`encode`] and [`Decoder`] are pure. What is particular here: an answer is a list of content blocks whose order and
//! bytes must survive. A thinking block goes back with its signature, and a block that nobody here knows (a server
//! tool's call or result) goes back exactly as it came.

mod decode;
mod encode;
mod incoming;
mod open;
mod outgoing;

pub use decode::Decoder;
pub use encode::{Dialect, Thinking, encode};

use super::cache::ANTHROPIC_TTLS;
use super::server::{Wire, WireDecoder};
use super::{CacheRules, DeltaSink, Frame, ModelAnswer, ModelRequest};
use crate::config::{Effort, ModelProfile, ReasoningConfig};
use crate::types::{Result, Transcript};
use http::HeaderName;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The family of this wire's opaque data.
pub const FAMILY: &str = "anthropic";

/// The version of the API, which every request names.
const VERSION: &str = "2023-06-01";

/// The most tokens of an answer where nobody says: the API demands a figure.
const DEFAULT_MAX_TOKENS: u32 = 4_096;

/// The most cache points of a request where nobody says.
const CACHE_POINTS: u32 = 4;

/// The wire of a server.
#[derive(Debug, Serialize, Deserialize)]
pub struct Anthropic {
    /// Whether to ask for a stream.
    pub stream: bool,
}

impl Wire for Anthropic {
    fn family(&self) -> &'static str {
        FAMILY
    }

    fn settings(&self) -> Value {
        json!(self)
    }

    fn url(&self, base: &str, _: &str) -> String {
        format!("{base}/v1/messages")
    }

    fn key_header(&self, key: &str) -> (HeaderName, String) {
        (HeaderName::from_static("x-api-key"), key.to_owned())
    }

    fn headers(&self) -> &[(&'static str, &str)] {
        &[("anthropic-version", VERSION)]
    }

    fn encode(&self, request: &ModelRequest<'_>) -> Result<Vec<u8>> {
        let known = request.profile.max_output_tokens.and_then(|most| u32::try_from(most).ok());
        let dialect = Dialect {
            stream: self.stream,
            max_tokens: known.unwrap_or(DEFAULT_MAX_TOKENS),
            thinking: request.model.reasoning.and_then(thinking),
            cache_points: request.profile.cache_points.unwrap_or(CACHE_POINTS),
        };
        encode(request, &dialect)
    }

    fn cache_rules(&self, profile: &ModelProfile) -> Option<CacheRules> {
        Some(cache_rules(profile.cache_points.unwrap_or(CACHE_POINTS)))
    }

    fn decoder<'a>(&self, provider: &'a str, transcript: &'a Transcript) -> Box<dyn WireDecoder + 'a> {
        Box::new(Decoder::new(provider, transcript))
    }
}

fn cache_rules(points: u32) -> CacheRules {
    CacheRules { points, ttls: ANTHROPIC_TTLS, marks_tools: true }
}

fn thinking(reasoning: ReasoningConfig) -> Option<Thinking> {
    match reasoning {
        ReasoningConfig { effort: Some(Effort::None), .. } => None,
        ReasoningConfig { budget_tokens: Some(tokens), .. } => Some(Thinking::Budget(tokens)),
        ReasoningConfig { budget_tokens: None, .. } => Some(Thinking::Adaptive),
    }
}

impl WireDecoder for Decoder<'_> {
    fn event(&mut self, name: &str, data: &str, sink: &mut dyn DeltaSink) -> Frame {
        Decoder::event(self, name, data, sink)
    }

    fn is_finished(&self) -> bool {
        Decoder::is_finished(self)
    }

    fn finish(self: Box<Self>, sink: &mut dyn DeltaSink) -> ModelAnswer {
        Decoder::finish(*self, sink)
    }
}
