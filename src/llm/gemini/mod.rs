//! Gemini's native API: `generateContent` and `streamGenerateContent?alt=sse`.
//!
//! [`encode`] and [`Decoder`] are pure. What is particular here: a thought signature may stand on any part, even an
//! empty text, and goes back on that very part; calls arrive whole and often without an id; there is no word for the
//! end but a finish reason, which is the same with and without calls.

mod decode;
mod embed;
mod encode;
mod partial_args;

pub use decode::Decoder;
pub use encode::{Dialect, Thinking, ThinkingLevel, encode};

use super::server::{Wire, WireDecoder};
use super::{DeltaSink, EmbedWire, Frame, ModelAnswer, ModelRequest};
use crate::config::{Effort, ReasoningConfig};
use crate::types::{Result, Transcript};
use http::HeaderName;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The family of this wire's opaque data.
pub const FAMILY: &str = "gemini";

/// The wire of a server.
#[derive(Debug, Serialize, Deserialize)]
pub struct Gemini {
    /// Whether to ask for a stream.
    pub stream: bool,
}

impl Wire for Gemini {
    fn family(&self) -> &'static str {
        FAMILY
    }

    fn settings(&self) -> Value {
        json!(self)
    }

    fn url(&self, base: &str, model: &str) -> String {
        match self.stream {
            true => format!("{base}/v1beta/models/{model}:streamGenerateContent?alt=sse"),
            false => format!("{base}/v1beta/models/{model}:generateContent"),
        }
    }

    fn names_model_in_url(&self) -> bool {
        true
    }

    /// In a header, never in the URL: URLs are logged.
    fn key_header(&self, key: &str) -> (HeaderName, String) {
        (HeaderName::from_static("x-goog-api-key"), key.to_owned())
    }

    fn encode(&self, request: &ModelRequest<'_>) -> Result<Vec<u8>> {
        let reasoning = request.model.reasoning.unwrap_or_default();
        let dialect = Dialect {
            is_gemini_3: request.profile.signed_calls == Some(true),
            thinking: thinking(reasoning),
            include_thoughts: reasoning.show.unwrap_or(request.model.reasoning.is_some()),
        };
        encode(request, &dialect)
    }

    fn decoder<'a>(&self, provider: &'a str, transcript: &'a Transcript) -> Box<dyn WireDecoder + 'a> {
        Box::new(Decoder::new(provider, transcript))
    }

    fn embeddings(&self) -> Option<&dyn EmbedWire> {
        Some(self)
    }
}

fn thinking(reasoning: ReasoningConfig) -> Option<Thinking> {
    let level = |level| Some(Thinking::Level(level));
    match (reasoning.budget_tokens, reasoning.effort) {
        (Some(tokens), _) => Some(Thinking::Budget(i32::try_from(tokens).unwrap_or(i32::MAX))),
        (None, Some(Effort::None)) => Some(Thinking::Budget(0)),
        (None, Some(Effort::Minimal)) => level(ThinkingLevel::Minimal),
        (None, Some(Effort::Low)) => level(ThinkingLevel::Low),
        (None, Some(Effort::Medium)) => level(ThinkingLevel::Medium),
        (None, Some(Effort::High | Effort::Xhigh)) => level(ThinkingLevel::High),
        (None, None) => None,
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
