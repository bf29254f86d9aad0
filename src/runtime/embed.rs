//! `par_call("embed")`: texts to vectors, by the model that the call or the configuration names.

use super::core::Core;
use super::stream::Answer;
use crate::agent::HostCredentials;
use crate::config::{EmbedCall, EmbedTarget, ModelConfig};
use crate::events::Emitter;
use crate::llm::{self, EmbedRequest, HttpPool};
use crate::types::{Cancel, Error, PicoUsd, Status, Usage};
use serde::Serialize;
use std::sync::atomic::Ordering;

/// What `embed` answers.
#[derive(Serialize)]
struct Embedded {
    model: String,
    dimensions: usize,
    embeddings: Vec<Vec<f32>>,
    usage: Tokens,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost_usd: Option<PicoUsd>,
}

#[derive(Serialize)]
struct Tokens {
    input_tokens: u64,
}

impl Core {
    /// `emitter` is where a key is asked for, should the host have to give one.
    pub async fn embed(&self, call: EmbedCall, emitter: &Emitter, http: &HttpPool, cancel: &Cancel) -> Answer {
        call.check("params", self.limits().max_embed_inputs)?;
        let EmbedTarget { provider: name, model, dimensions, batch_size } =
            call.target(self.config.embeddings.as_ref(), "params")?;
        let path = if call.provider.is_some() { "params.provider" } else { "config.embeddings.provider" };
        let provider = self.provider(&name, path)?;
        let model = model.or_else(|| provider.embedding_model().map(str::to_owned));
        let Some(model) = model else {
            // A provider that cannot embed says so rather than ask for a model.
            return Err(match provider.can_embed() {
                true => no_model(&name),
                false => llm::embedding_unsupported(&name, provider.kind()),
            });
        };
        let credentials = HostCredentials { emitter, desk: &self.desk };
        let input = call.input.texts();
        let request = EmbedRequest { model: &model, input, dimensions, credentials: &credentials, http };
        let embedded = tokio::select! {
            biased;
            embedded = llm::embed(&*provider, &request, batch_size) => embedded?,
            () = cancel.cancelled() => {
                return Err(Error::new(Status::Cancelled, format!("the call was cancelled: {}", cancel.reason())));
            }
        };
        self.metrics.input_tokens.fetch_add(embedded.input_tokens, Ordering::Relaxed);
        let usage = Usage { input_tokens: embedded.input_tokens, ..Usage::default() };
        let price =
            self.profile(&ModelConfig::from_short(&format!("{name}/{model}"), "params.model")?, &*provider).price;
        let answer = Embedded {
            model: embedded.model,
            dimensions: embedded.vectors.first().map_or(0, Vec::len),
            embeddings: embedded.vectors,
            usage: Tokens { input_tokens: embedded.input_tokens },
            // Without a count of tokens there is nothing to multiply.
            cost_usd: price.filter(|_| embedded.input_tokens > 0).map(|price| price.cost(&usage)),
        };
        serde_json::to_string(&answer).map_err(|error| Error::internal(error.to_string()))
    }
}

fn no_model(provider: &str) -> Error {
    Error::schema("params.model", format!("no model is named for the embeddings of the provider {provider:?}"))
        .with_hint("name it in the call, as the provider's \"embedding_model\", or in the runtime's \"embeddings\"")
}
