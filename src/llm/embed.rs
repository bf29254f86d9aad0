//! Texts to vectors: what a provider that can embed keeps, and the batches that a long list is sent in.
//!
//! The vectors come in the order of the texts, one for each, all of the same length: what a server answers otherwise is
//! an error, never a guess. The first batch that fails for good fails the whole.

use super::{Credentials, HttpPool, Provider, RetryPolicy};
use crate::config::PAIRING;
use crate::types::{Category, Error, Result, Status};
use tokio::time::sleep;

/// What a model is to embed.
#[derive(Clone, Copy)]
pub struct EmbedRequest<'a> {
    /// The model.
    pub model: &'a str,
    /// The texts: one at least, and none empty.
    pub input: &'a [String],
    /// How many numbers a vector shall have; none: as many as the model makes.
    pub dimensions: Option<u32>,
    /// Keys that the host gives when they are needed.
    pub credentials: &'a dyn Credentials,
    /// Connections.
    pub http: &'a HttpPool,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embeddings {
    /// The model, as the provider names it.
    pub model: String,
    /// A vector for each text, in the order of the texts.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens read; 0 where the provider does not tell.
    pub input_tokens: u64,
}

/// How one wire family embeds. Pure.
pub trait EmbedWire: Send + Sync {
    /// Where a model of the server at `base` is asked.
    fn url(&self, base: &str, model: &str) -> String;

    /// The body of a request.
    fn encode(&self, request: &EmbedRequest<'_>) -> Result<Vec<u8>>;

    /// Reads an answer. None: it is not one of this API. The vectors are in the order of the texts; how many there are
    /// is checked by the caller.
    fn decode(&self, body: &[u8]) -> Option<Embeddings>;
}

/// Embeds texts, in batches one after the other, each tried again as the provider is configured. Cancel safe.
pub async fn embed(provider: &dyn Provider, request: &EmbedRequest<'_>, batch_size: usize) -> Result<Embeddings> {
    let retry = RetryPolicy::from(provider.retry());
    let batches = request.input.len().div_ceil(batch_size.max(1));
    let mut whole = Embeddings { vectors: Vec::with_capacity(request.input.len()), ..Embeddings::default() };
    for (number, input) in request.input.chunks(batch_size.max(1)).enumerate() {
        let batch = EmbedRequest { input, ..*request };
        let answer = one(provider, &batch, &retry).await.and_then(|answer| {
            let length = whole.vectors.first().map(Vec::len).or(request.dimensions.map(|asked| asked as usize));
            check(&answer, input.len(), length, provider.name())?;
            Ok(answer)
        });
        let answer = answer.map_err(|error| match batches {
            1 => error,
            _ => {
                let first = number * batch_size;
                let last = first + input.len() - 1;
                error.within(&format!("batch {} of {batches} (input {first} to {last})", number + 1))
            }
        })?;
        whole.model = answer.model;
        whole.input_tokens = whole.input_tokens.saturating_add(answer.input_tokens);
        whole.vectors.extend(answer.vectors);
    }
    if whole.model.is_empty() {
        request.model.clone_into(&mut whole.model);
    }
    Ok(whole)
}

async fn one(provider: &dyn Provider, request: &EmbedRequest<'_>, retry: &RetryPolicy) -> Result<Embeddings> {
    let mut attempt = 1;
    loop {
        let error = match provider.embed(request).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        attempt += 1;
        let Some(delay) = retry.delay(attempt, &error) else { return Err(error) };
        tracing::warn!(provider = provider.name(), attempt, "embedding failed, trying again: {error}");
        sleep(delay).await;
    }
}

/// One vector for each text, all alike: as long as `length` says, else as the first.
fn check(answer: &Embeddings, texts: usize, length: Option<usize>, provider: &str) -> Result<()> {
    let vectors = &answer.vectors;
    if vectors.len() != texts {
        let message = format!("the provider {provider:?} answered {} vectors for {texts} texts", vectors.len());
        return Err(bad_answer(message, "check that the model is one for embeddings, or lower embeddings.batch_size"));
    }
    let length = length.or_else(|| vectors.first().map(Vec::len)).unwrap_or_default();
    for (index, vector) in vectors.iter().enumerate() {
        if vector.len() != length || vector.is_empty() {
            let message = format!(
                "the provider {provider:?} answered a vector of {} dimensions for text {index}, where {length} were due",
                vector.len()
            );
            return Err(bad_answer(message, "a model that cannot choose its dimensions needs \"dimensions\" left out"));
        }
        if vector.iter().any(|number| !number.is_finite()) {
            let message = format!("the provider {provider:?} answered a number for text {index} that is too large");
            return Err(bad_answer(message, "check that the model is one for embeddings"));
        }
    }
    Ok(())
}

fn bad_answer(message: String, hint: &str) -> Error {
    Error::new(Status::Provider, message).with_code("bad_answer").with_hint(hint)
}

/// What a provider without embeddings answers.
pub fn unsupported(name: &str, kind: &str) -> Error {
    Error::new(Status::UnsupportedByProvider, format!("the provider {name:?} ({kind}) has no embeddings"))
        .with_category(Category::EmbeddingUnsupported)
        .with_code("embedding_unsupported")
        .with_hint(PAIRING)
}
