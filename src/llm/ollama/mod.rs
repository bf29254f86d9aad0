//! Ollama's native API, `/api/chat`: the only one through which the context length can be set.
//!
//! [`encode`] and [`Decoder`] are pure. What is particular here: an answer is lines of JSON, not events; calls come whole;
//! only inline images are taken; a prompt longer than `num_ctx` is cut by the server without a word.

mod decode;
mod embed;
mod encode;

pub use decode::Decoder;
pub use encode::{Dialect, Think, encode};

use super::server::Framing;
use super::server::{Wire, WireDecoder};
use super::{DeltaSink, EmbedWire, Frame, ModelAnswer, ModelRequest};
use crate::config::{Effort, ModelProfile, ReasoningConfig, StructuredOutput};
use crate::types::{Result, Transcript};
use http::HeaderName;
use http::header::AUTHORIZATION;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The family of this wire. It has no data that must go back.
pub const FAMILY: &str = "ollama";

/// The wire of a server.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ollama {
    /// Whether to ask for a stream.
    pub stream: bool,
    /// The context length, in tokens.
    pub num_ctx: Option<u32>,
    /// How long the model stays loaded.
    pub keep_alive: Option<String>,
}

impl Wire for Ollama {
    fn family(&self) -> &'static str {
        FAMILY
    }

    fn settings(&self) -> Value {
        json!(self)
    }

    fn url(&self, base: &str, _: &str) -> String {
        format!("{base}/api/chat")
    }

    fn key_header(&self, key: &str) -> (HeaderName, String) {
        (AUTHORIZATION, format!("Bearer {key}"))
    }

    fn encode(&self, request: &ModelRequest<'_>) -> Result<Vec<u8>> {
        let dialect = Dialect {
            stream: self.stream,
            num_ctx: self.num_ctx,
            keep_alive: self.keep_alive.clone(),
            think: request.model.reasoning.map(think),
        };
        encode(request, &dialect)
    }

    fn decoder<'a>(&self, provider: &'a str, transcript: &'a Transcript) -> Box<dyn WireDecoder + 'a> {
        Box::new(Decoder::new(provider, transcript))
    }

    fn embeddings(&self) -> Option<&dyn EmbedWire> {
        Some(self)
    }

    fn framing(&self) -> Framing {
        Framing::Lines
    }

    /// The window is what the server was told; a grammar holds every local model to a schema.
    fn profile(&self, _: &str) -> ModelProfile {
        ModelProfile {
            context_window: self.num_ctx.map(u64::from),
            structured_output: Some(StructuredOutput::Native),
            ..ModelProfile::default()
        }
    }
}

fn think(reasoning: ReasoningConfig) -> Think {
    match reasoning.effort {
        Some(Effort::None) => Think::Off,
        Some(Effort::Minimal | Effort::Low) => Think::Low,
        Some(Effort::Medium) => Think::Medium,
        Some(Effort::High | Effort::Xhigh) => Think::High,
        None => Think::On,
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
