//! Tries a request again: only while nothing of an answer was emitted, only if the failure says it may help, and no
//! longer than the policy allows.

use super::policy::{Policy, RetryPolicy};
use super::{DeltaSink, ModelAnswer, ModelRequest, Provider};
use crate::types::{Category, Error, Result, Status, millis};
use serde_json::{Map, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Makes a request under a policy. Cancel safe.
pub async fn generate(
    provider: &dyn Provider,
    request: &ModelRequest<'_>,
    policy: &Policy,
    sink: &mut dyn DeltaSink,
) -> Result<ModelAnswer> {
    // The provider's own rules are needed only when something fails.
    let mut retry: Option<Arc<RetryPolicy>> = policy.retry.clone();
    let mut attempt = 1;
    loop {
        for gate in &policy.gates {
            gate.pass(|wait| {
                let waits = Map::from_iter([("waiting_ms".to_owned(), json!(millis(wait)))]);
                sink.rate_limit(provider.name(), waits);
            })
            .await;
        }
        let asked = provider.request(request, sink);
        let answer = match policy.timeout {
            None => asked.await,
            Some(limit) => timeout(limit, asked).await.unwrap_or_else(|_| Err(overdue(limit))),
        };
        let error = match answer {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        attempt += 1;
        let retry = retry.get_or_insert_with(|| Arc::new(provider.retry().into()));
        let delay = if sink.has_emitted() { None } else { retry.delay(attempt, &error) };
        let Some(delay) = delay else { return Err(error) };
        let delay_ms = millis(delay);
        tracing::warn!(provider = provider.name(), attempt, delay_ms, "model request failed, trying again: {error}");
        sink.retrying(attempt, delay_ms, &error);
        sleep(delay).await;
    }
}

fn overdue(limit: Duration) -> Error {
    Error::new(Status::Deadline, format!("the model did not answer within {} s", limit.as_secs_f64()))
        .with_category(Category::Timeout)
        .with_code("llm_timeout")
        .with_retryable(true)
        .with_hint("raise the llm_seconds of the timeout middleware, or use a faster model")
}
