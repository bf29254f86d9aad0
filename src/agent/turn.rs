//! One model request of a run: what the provider tells becomes events.

use super::run::RunSpec;
use crate::events::Emitter;
use crate::llm::{DeltaSink, HttpPool, ModelAnswer, ModelRequest, generate};
use crate::types::{Error, EventBody, Result, ToolCallId, ToolSpec, Transcript};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::sync::atomic::AtomicU32;

/// Asks the model. Cancel safe.
pub(super) async fn ask_model(
    spec: &RunSpec,
    transcript: &Transcript,
    tools: &[ToolSpec],
    http: &HttpPool,
    requests_made: &AtomicU32,
    emitter: &mut Emitter,
) -> Result<ModelAnswer> {
    let request = ModelRequest {
        model: &spec.agent.model,
        system: spec.agent.system_prompt.as_deref(),
        transcript,
        tools,
        http,
        requests_made,
    };
    let attempt_starts_at = emitter.next_seq();
    let mut sink = TurnSink { emitter, attempt_starts_at, has_emitted: false };
    generate(&*spec.provider, &request, &mut sink).await
}

struct TurnSink<'a> {
    emitter: &'a mut Emitter,
    attempt_starts_at: u64,
    has_emitted: bool,
}

impl DeltaSink for TurnSink<'_> {
    fn text(&mut self, text: &str) {
        self.has_emitted = true;
        self.emitter.emit_text(text, false);
    }

    fn reasoning(&mut self, text: &str) {
        self.has_emitted = true;
        self.emitter.emit_text(text, true);
    }

    fn tool_call_start(&mut self, id: &ToolCallId, name: &str) {
        self.has_emitted = true;
        self.emitter.emit(&EventBody::ToolCallStart { tool_call_id: id, name });
    }

    fn tool_call_delta(&mut self, id: &ToolCallId, args_json: &str) {
        self.emitter.emit(&EventBody::ToolCallDelta { tool_call_id: id, args_json });
    }

    fn warning(&mut self, code: &str, message: &str) {
        tracing::warn!(code, "{message}");
        self.emitter.emit(&EventBody::Warning { code, message: Cow::Borrowed(message) });
    }

    fn rate_limit(&mut self, provider: &str, limits: Map<String, Value>) {
        self.emitter.emit(&EventBody::RateLimit { provider, limits });
    }

    fn retrying(&mut self, attempt: u32, delay_ms: u64, error: &Error) {
        let discard_from_seq = self.attempt_starts_at;
        self.emitter.emit(&EventBody::TurnRetried { attempt, delay_ms, discard_from_seq, error });
        self.attempt_starts_at = self.emitter.next_seq();
    }

    fn has_emitted(&self) -> bool {
        self.has_emitted
    }

    fn is_ready(&self) -> bool {
        self.emitter.is_ready()
    }

    fn is_holding(&self) -> bool {
        self.emitter.is_holding()
    }

    fn ready(&mut self) -> BoxFuture<'_, ()> {
        self.emitter.ready().boxed()
    }
}
