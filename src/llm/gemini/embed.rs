//! `POST …/models/{model}:batchEmbedContents`. Pure.
//!
//! Source: Gemini API reference, "Embeddings". Each text is a request by itself, which names the model again; the answer
//! names none.

use super::Gemini;
use crate::llm::embed::{EmbedRequest, EmbedWire, Embeddings};
use crate::llm::outgoing::to_body;
use crate::types::Result;
use serde::{Deserialize, Serialize};

#[derive(Serialize)]
struct Body<'a> {
    requests: Vec<One<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct One<'a> {
    model: &'a str,
    content: Content<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_dimensionality: Option<u32>,
}

#[derive(Serialize)]
struct Content<'a> {
    parts: [Text<'a>; 1],
}

#[derive(Serialize)]
struct Text<'a> {
    text: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    embeddings: Vec<Vector>,
    #[serde(default)]
    usage_metadata: Option<Usage>,
}

#[derive(Deserialize)]
struct Vector {
    values: Vec<f32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Usage {
    #[serde(default)]
    prompt_token_count: Option<u64>,
}

impl EmbedWire for Gemini {
    fn url(&self, base: &str, model: &str) -> String {
        format!("{base}/v1beta/models/{model}:batchEmbedContents")
    }

    fn encode(&self, request: &EmbedRequest<'_>) -> Result<Vec<u8>> {
        let model = format!("models/{}", request.model);
        let (model, output_dimensionality) = (model.as_str(), request.dimensions);
        let texts = request.input.iter();
        let requests = texts
            .map(|text| One { model, content: Content { parts: [Text { text }] }, output_dimensionality })
            .collect();
        to_body(&Body { requests })
    }

    fn decode(&self, body: &[u8]) -> Option<Embeddings> {
        let Answer { embeddings, usage_metadata } = serde_json::from_slice(body).ok()?;
        Some(Embeddings {
            model: String::new(),
            vectors: embeddings.into_iter().map(|vector| vector.values).collect(),
            input_tokens: usage_metadata.and_then(|usage| usage.prompt_token_count).unwrap_or_default(),
        })
    }
}
