//! `POST /api/embed`. Pure.
//!
//! Source: Ollama API documentation, "Generate Embeddings". A text that is too long is an error: by default the server
//! would cut it without a word.

use super::Ollama;
use crate::llm::embed::{EmbedRequest, EmbedWire, Embeddings};
use crate::llm::outgoing::to_body;
use crate::types::Result;
use serde::{Deserialize, Serialize};

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    input: &'a [String],
    truncate: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    dimensions: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_alive: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    options: Option<Options>,
}

#[derive(Serialize)]
struct Options {
    num_ctx: u32,
}

#[derive(Deserialize)]
struct Answer {
    embeddings: Vec<Vec<f32>>,
    #[serde(default)]
    model: Option<String>,
    /// Missing where a cache had it all.
    #[serde(default)]
    prompt_eval_count: Option<u64>,
}

impl EmbedWire for Ollama {
    fn url(&self, base: &str, _: &str) -> String {
        format!("{base}/api/embed")
    }

    fn encode(&self, request: &EmbedRequest<'_>) -> Result<Vec<u8>> {
        let EmbedRequest { model, input, dimensions, .. } = *request;
        let options = self.num_ctx.map(|num_ctx| Options { num_ctx });
        to_body(&Body { model, input, truncate: false, dimensions, keep_alive: self.keep_alive.as_deref(), options })
    }

    fn decode(&self, body: &[u8]) -> Option<Embeddings> {
        let Answer { embeddings, model, prompt_eval_count } = serde_json::from_slice(body).ok()?;
        Some(Embeddings {
            model: model.unwrap_or_default(),
            vectors: embeddings,
            input_tokens: prompt_eval_count.unwrap_or_default(),
        })
    }
}
