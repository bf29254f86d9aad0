//! `POST …/embeddings`, as OpenAI and every compatible server have it. Pure.
//!
//! Source: OpenAI API reference, "Create embeddings". Numbers are asked for as numbers, since compatible servers need not
//! know the base64 form.

use crate::llm::embed::{EmbedRequest, EmbedWire, Embeddings};
use crate::llm::outgoing::to_body;
use crate::types::Result;
use serde::{Deserialize, Serialize};

/// See the module's head.
#[derive(Debug, Default)]
pub struct OpenAiEmbeddings {
    /// Below the server's address; `{model}` stands for the model's name. Default `embeddings`.
    pub path: Option<String>,
    /// The `api-version` of the URL.
    pub api_version: Option<String>,
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    input: &'a [String],
    encoding_format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dimensions: Option<u32>,
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<Item>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    index: Option<usize>,
    embedding: Vec<f32>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: Option<u64>,
}

impl EmbedWire for OpenAiEmbeddings {
    fn url(&self, base: &str, model: &str) -> String {
        super::place(base, self.path.as_deref().unwrap_or("embeddings"), model, self.api_version.as_deref())
    }

    fn encode(&self, request: &EmbedRequest<'_>) -> Result<Vec<u8>> {
        let EmbedRequest { model, input, dimensions, .. } = *request;
        to_body(&Body { model, input, encoding_format: "float", dimensions })
    }

    fn decode(&self, body: &[u8]) -> Option<Embeddings> {
        let Answer { mut data, model, usage } = serde_json::from_slice(body).ok()?;
        // The order is what the indices say; without any it is that of the texts.
        if data.iter().any(|item| item.index.is_some()) {
            data.sort_by_key(|item| item.index);
            if data.iter().enumerate().any(|(at, item)| item.index != Some(at)) {
                return None;
            }
        }
        Some(Embeddings {
            model: model.unwrap_or_default(),
            vectors: data.into_iter().map(|item| item.embedding).collect(),
            input_tokens: usage.and_then(|usage| usage.prompt_tokens).unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;

    fn decode(body: &str) -> Option<Vec<Vec<f32>>> {
        OpenAiEmbeddings::default().decode(body.as_bytes()).map(|answer| answer.vectors)
    }

    #[test]
    fn the_index_says_the_order() {
        let swapped = r#"{"data": [{"index": 1, "embedding": [2]}, {"index": 0, "embedding": [1]}]}"#;
        assert_eq!(decode(swapped), Some(vec![vec![1.0], vec![2.0]]));
        let without = r#"{"data": [{"embedding": [2]}, {"embedding": [1]}]}"#;
        assert_eq!(decode(without), Some(vec![vec![2.0], vec![1.0]]));
        for wrong in [
            r#"{"data": [{"index": 0, "embedding": [1]}, {"index": 0, "embedding": [2]}]}"#,
            r#"{"data": [{"index": 1, "embedding": [1]}, {"index": 2, "embedding": [2]}]}"#,
            r#"{"data": [{"embedding": [1]}, {"index": 1, "embedding": [2]}]}"#,
            r#"{"data": [{"index": 0, "embedding": "AAAA"}]}"#,
            r#"{"choices": []}"#,
            "<html>",
        ] {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
    }
}
