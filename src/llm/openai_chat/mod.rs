//! OpenAI Chat Completions, and every server that claims to be compatible.
//!
//! [`encode`] and [`decode`] are pure. What is particular here: tool calls come in pieces that servers number each in its
//! own way ([`super::Assembler`]), and the usage comes after the last word.

mod decode;
mod embed;
mod encode;

pub use decode::decode;
pub use embed::OpenAiEmbeddings;
pub(super) use encode::is_strict;
pub use encode::{Dialect, encode};

use super::server::{Wire, WireDecoder};
use super::{Assembler, DeltaSink, EmbedWire, Frame, ModelAnswer, ModelRequest};
use crate::config::{ModelProfile, StructuredOutput};
use crate::types::{Result, Transcript};
use http::HeaderName;
use http::header::AUTHORIZATION;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The family of this wire. It has no data that must go back.
pub const FAMILY: &str = "openai_chat";

/// The wire of a server.
#[derive(Debug, Serialize, Deserialize)]
pub struct OpenAiChat {
    dialect: Dialect,
}

impl OpenAiChat {
    /// Asks in this dialect.
    pub fn new(dialect: Dialect) -> Self {
        Self { dialect }
    }
}

impl Wire for OpenAiChat {
    fn family(&self) -> &'static str {
        FAMILY
    }

    fn settings(&self) -> Value {
        json!(self)
    }

    fn url(&self, base: &str, _: &str) -> String {
        format!("{base}/chat/completions")
    }

    fn key_header(&self, key: &str) -> (HeaderName, String) {
        (AUTHORIZATION, format!("Bearer {key}"))
    }

    fn encode(&self, request: &ModelRequest<'_>) -> Result<Vec<u8>> {
        encode(request, self.dialect)
    }

    fn decoder<'a>(&self, provider: &'a str, transcript: &'a Transcript) -> Box<dyn WireDecoder + 'a> {
        Box::new(Decoder { provider, assembler: Assembler::new(transcript) })
    }

    fn embeddings(&self) -> Option<&dyn EmbedWire> {
        Some(&OpenAiEmbeddings)
    }

    /// OpenAI's own server holds models to a schema; of others only the table or the host can say.
    fn profile(&self, _: &str) -> ModelProfile {
        let native = match self.dialect.quirks.json_schema {
            Some(true) => Some(StructuredOutput::Native),
            Some(false) => Some(StructuredOutput::Prompted),
            None => self.dialect.is_openai.then_some(StructuredOutput::Native),
        };
        ModelProfile { structured_output: native, ..ModelProfile::default() }
    }
}

struct Decoder<'a> {
    provider: &'a str,
    assembler: Assembler<'a>,
}

impl WireDecoder for Decoder<'_> {
    fn event(&mut self, _: &str, data: &str, sink: &mut dyn DeltaSink) -> Frame {
        decode(data, self.provider, &mut self.assembler, sink)
    }

    fn is_finished(&self) -> bool {
        self.assembler.is_finished()
    }

    fn finish(self: Box<Self>, sink: &mut dyn DeltaSink) -> ModelAnswer {
        self.assembler.into_answer(sink)
    }
}
