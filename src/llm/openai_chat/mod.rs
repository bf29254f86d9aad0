//! OpenAI Chat Completions, and every server that claims to be compatible.
//!
//! [`encode`] and [`decode`] are pure. What is particular here: tool calls come in pieces that servers number each in its
//! own way ([`super::Assembler`]), the usage comes after the last word, and servers differ ([`Quirks`]).

mod cache;
mod decode;
mod details;
mod embed;
mod encode;
mod messages;

pub(super) use cache::{CacheMark, CacheOptions, openai_cache_rules};
pub use decode::decode;
pub(super) use details::Details;
pub use embed::OpenAiEmbeddings;
pub(super) use encode::is_strict;
pub use encode::{Dialect, encode};

use super::server::{Wire, WireDecoder};
use super::{Assembler, CacheRules, DeltaSink, EmbedWire, Frame, ModelAnswer, ModelRequest};
use crate::config::{ModelProfile, Quirks, StructuredOutput};
use crate::types::{Result, Transcript};
use http::HeaderName;
use http::header::AUTHORIZATION;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::OnceLock;

/// The family of this wire's opaque data.
pub const FAMILY: &str = "openai_chat";

/// The wire of a server.
#[derive(Debug, Serialize, Deserialize)]
pub struct OpenAiChat {
    dialect: Dialect,
    #[serde(skip)]
    embeddings: OnceLock<OpenAiEmbeddings>,
}

impl OpenAiChat {
    /// Asks in this dialect.
    pub fn new(dialect: Dialect) -> Self {
        Self { dialect, embeddings: OnceLock::new() }
    }
}

impl Wire for OpenAiChat {
    fn family(&self) -> &'static str {
        FAMILY
    }

    fn settings(&self) -> Value {
        json!(self)
    }

    fn url(&self, base: &str, model: &str) -> String {
        let Quirks { chat_path, api_version, .. } = &self.dialect.quirks;
        place(base, chat_path.as_deref().unwrap_or("chat/completions"), model, api_version.as_deref())
    }

    fn names_model_in_url(&self) -> bool {
        self.dialect.quirks.chat_path.as_ref().is_some_and(|path| path.contains(MODEL))
    }

    fn key_header(&self, key: &str) -> (HeaderName, String) {
        match self.dialect.quirks.key_header.as_ref().and_then(|name| HeaderName::try_from(name).ok()) {
            Some(name) => (name, key.to_owned()),
            None => (AUTHORIZATION, format!("Bearer {key}")),
        }
    }

    fn encode(&self, request: &ModelRequest<'_>) -> Result<Vec<u8>> {
        encode(request, &self.dialect)
    }

    fn decoder<'a>(&self, provider: &'a str, transcript: &'a Transcript) -> Box<dyn WireDecoder + 'a> {
        Box::new(Decoder { provider, assembler: Assembler::new(transcript) })
    }

    fn embeddings(&self) -> Option<&dyn EmbedWire> {
        Some(self.embeddings.get_or_init(|| {
            let Quirks { embeddings_path, api_version, .. } = &self.dialect.quirks;
            OpenAiEmbeddings { path: embeddings_path.clone(), api_version: api_version.clone() }
        }))
    }

    fn cache_rules(&self, profile: &ModelProfile) -> Option<CacheRules> {
        cache::rules(self.dialect.cache_form()?, profile)
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

/// What stands for the model's name in a path.
const MODEL: &str = "{model}";

/// An address below `base`.
fn place(base: &str, path: &str, model: &str, api_version: Option<&str>) -> String {
    let query = api_version.map(|version| format!("?api-version={version}")).unwrap_or_default();
    format!("{base}/{}{query}", path.replace(MODEL, model).trim_start_matches('/'))
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
