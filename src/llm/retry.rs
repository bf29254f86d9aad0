//! Tries a request again: only while nothing of an answer was emitted, only if the failure says it may help, and no
//! longer than configured. Exponential waits with jitter, or what the provider asked for.

use super::{DeltaSink, ModelAnswer, ModelRequest, Provider};
use crate::types::Result;
use backon::{BackoffBuilder, ExponentialBuilder};
use std::time::Duration;

/// Makes a request, with retries. Cancel safe.
pub async fn generate(
    provider: &dyn Provider,
    request: &ModelRequest<'_>,
    sink: &mut dyn DeltaSink,
) -> Result<ModelAnswer> {
    let config = provider.retry();
    let mut delays = None;
    let mut attempt = 1;
    loop {
        let error = match provider.request(request, sink).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        if !error.is_retryable() || sink.has_emitted() || attempt >= config.max_attempts {
            return Err(error);
        }
        let delay = match error.retry_after_ms() {
            // Waiting longer than the host allows is the host's decision.
            Some(wait) if wait > config.max_retry_after_ms => return Err(error),
            Some(wait) => Duration::from_millis(wait),
            None => delays
                .get_or_insert_with(|| {
                    ExponentialBuilder::default()
                        .with_min_delay(Duration::from_millis(config.initial_delay_ms))
                        .with_max_delay(Duration::from_millis(config.max_delay_ms))
                        .with_max_times(config.max_attempts as usize)
                        .with_jitter()
                        .build()
                })
                .next()
                .unwrap_or_default(),
        };
        attempt += 1;
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        tracing::warn!(provider = provider.name(), attempt, delay_ms, "model request failed, trying again: {error}");
        sink.retrying(attempt, delay_ms, &error);
        tokio::time::sleep(delay).await;
    }
}
