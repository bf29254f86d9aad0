//! OpenAI Responses, used without the server's memory: nothing is stored there, and what the model needs of its own
//! reasoning travels encrypted.
//!
//! [`encode`] and [`Decoder`] are pure. What is particular here: an answer is a list of items. A reasoning item goes back
//! exactly as it came, directly before the item it led to, and so does every item that nobody here knows.

mod decode;
mod encode;
mod items;
mod outgoing;

pub use decode::Decoder;
pub use encode::{Dialect, Effort, encode};

use super::openai_chat::OpenAiEmbeddings;
use super::server::{Wire, WireDecoder};
use super::{CacheRules, DeltaSink, EmbedWire, Frame, ModelAnswer, ModelRequest};
use crate::config::{ModelProfile, StructuredOutput};
use crate::types::{Result, Transcript};
use http::HeaderName;
use http::header::AUTHORIZATION;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The family of this wire's opaque data.
pub const FAMILY: &str = "openai_responses";

/// The wire of a server.
#[derive(Debug, Serialize, Deserialize)]
pub struct OpenAiResponses {
    /// Whether to ask for a stream.
    pub stream: bool,
    /// OpenAI's own server.
    pub is_openai: bool,
}

impl Wire for OpenAiResponses {
    fn family(&self) -> &'static str {
        FAMILY
    }

    fn settings(&self) -> Value {
        json!(self)
    }

    fn url(&self, base: &str, _: &str) -> String {
        format!("{base}/responses")
    }

    fn key_header(&self, key: &str) -> (HeaderName, String) {
        (AUTHORIZATION, format!("Bearer {key}"))
    }

    fn encode(&self, request: &ModelRequest<'_>) -> Result<Vec<u8>> {
        let reasoning = request.model.reasoning;
        let strict = |output: &super::OutputSchema| {
            serde_json::from_str(output.schema.get()).is_ok_and(|schema| super::openai_chat::is_strict(&schema))
        };
        let dialect = Dialect {
            stream: self.stream,
            is_openai: self.is_openai,
            reasons: reasoning.is_some() || request.profile.reasoning == Some(true),
            effort: reasoning.and_then(|reasoning| reasoning.effort).map(effort),
            summary: reasoning.is_some_and(|reasoning| reasoning.show.unwrap_or(true)),
            strict_output: request.output.is_some_and(strict),
            cache_points: request.profile.cache_points.filter(|_| self.is_openai),
        };
        encode(request, &dialect)
    }

    fn cache_rules(&self, profile: &ModelProfile) -> Option<CacheRules> {
        profile.cache_points.filter(|_| self.is_openai).map(super::openai_chat::openai_cache_rules)
    }

    fn decoder<'a>(&self, provider: &'a str, transcript: &'a Transcript) -> Box<dyn WireDecoder + 'a> {
        Box::new(Decoder::new(provider, transcript))
    }

    /// The same as beside Chat Completions.
    fn embeddings(&self) -> Option<&dyn EmbedWire> {
        Some(&OpenAiEmbeddings { path: None, api_version: None })
    }

    fn profile(&self, _: &str) -> ModelProfile {
        let native = self.is_openai.then_some(StructuredOutput::Native);
        ModelProfile { structured_output: native, ..ModelProfile::default() }
    }
}

fn effort(effort: crate::config::Effort) -> Effort {
    use crate::config::Effort as Asked;
    match effort {
        Asked::None => Effort::None,
        Asked::Minimal => Effort::Minimal,
        Asked::Low => Effort::Low,
        Asked::Medium => Effort::Medium,
        Asked::High => Effort::High,
        Asked::Xhigh => Effort::Xhigh,
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
