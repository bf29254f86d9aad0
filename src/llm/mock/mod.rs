//! The scripted provider: deterministic answers inside the library, for tests in every language and for
//! demonstrations. It takes the same path as a real one: retries, deltas, backpressure and cancellation included.
//!
//! The script is [`MockConfig`]; json.md describes it.

mod embed;

use super::assemble::CallPiece;
use super::classify::Failure;
use super::{Assembler, DeltaSink, EmbedRequest, Embeddings, ModelAnswer, ModelRequest, Provider, ToolChoice};
use crate::config::{MockConfig, MockExpect, MockScope, MockTurn, ModelProfile, StructuredOutput};
use crate::types::{Error, FinishReason, Part, Result, Status, Usage, View};
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// See the module's head.
pub struct Mock {
    name: String,
    config: MockConfig,
    /// Requests so far, for the scope `provider`.
    requests: AtomicUsize,
    /// Turns reached by any run.
    reached: AtomicUsize,
}

impl Mock {
    /// A provider with this script.
    pub fn new(name: String, config: MockConfig) -> Self {
        Self { name, config, requests: AtomicUsize::new(0), reached: AtomicUsize::new(0) }
    }

    async fn answer(&self, request: &ModelRequest<'_>, sink: &mut dyn DeltaSink) -> Result<ModelAnswer> {
        let number = match self.config.scope {
            MockScope::Run => request.requests_made.load(Ordering::Relaxed) as usize,
            MockScope::Provider => self.requests.load(Ordering::Relaxed),
        };
        self.requests.fetch_add(1, Ordering::Relaxed);
        request.requests_made.fetch_add(1, Ordering::Relaxed);
        let echo;
        let turn = match &self.config.turns {
            None => {
                echo = MockTurn { text: Some(last_user_text(request)), ..MockTurn::default() };
                &echo
            }
            Some(turns) => {
                self.reached.fetch_max(number + 1, Ordering::Relaxed);
                turns.get(number).ok_or_else(|| self.exhausted(number, turns.len()))?
            }
        };
        if let Some(expect) = &turn.expect {
            self.check(expect, number, request)?;
        }
        if let Some(error) = &turn.error {
            tokio::time::sleep(Duration::from_millis(turn.delay_ms)).await;
            return Err(self.failure(error));
        }
        self.play(turn, request, sink).await
    }

    async fn play(&self, turn: &MockTurn, request: &ModelRequest<'_>, sink: &mut dyn DeltaSink) -> Result<ModelAnswer> {
        let mut assembler = Assembler::new(request.transcript);
        assembler.model(&request.model.model_name);
        let text = turn.text.clone().or_else(|| turn.chunks.as_ref().map(|chunks| chunks.concat())).unwrap_or_default();
        if let Some(reasoning) = &turn.reasoning {
            for word in words(reasoning) {
                pace(turn, sink).await;
                assembler.reasoning(word, sink);
            }
        }
        match &turn.chunks {
            Some(chunks) => {
                for chunk in chunks {
                    pace(turn, sink).await;
                    assembler.text(chunk, sink);
                }
            }
            None => {
                for word in words(&text) {
                    pace(turn, sink).await;
                    assembler.text(word, sink);
                }
            }
        }
        for (index, call) in turn.tool_calls.iter().enumerate() {
            let arguments = match &call.input {
                Value::Null => "{}".to_owned(),
                Value::String(raw) => raw.clone(),
                input => input.to_string(),
            };
            let index = u32::try_from(index).ok();
            pace(turn, sink).await;
            assembler.call(
                CallPiece { index, id: call.id.as_deref(), name: Some(&call.name), ..CallPiece::default() },
                sink,
            );
            // Two pieces, as a real server would send more than one.
            let half = (0..=arguments.len() / 2).rev().find(|at| arguments.is_char_boundary(*at)).unwrap_or(0);
            let (first, second) = arguments.split_at(half);
            for piece in [first, second] {
                assembler.call(CallPiece { index, arguments: Some(piece), ..CallPiece::default() }, sink);
            }
        }
        if let Some(reason) = turn.finish_reason {
            assembler.finish(reason);
        }
        assembler.usage(turn.usage.unwrap_or_else(|| estimate(request, turn, &text)));
        let mut answer = assembler.into_answer(sink);
        if turn.finish_reason.is_none() && turn.tool_calls.is_empty() {
            answer.finish_reason = FinishReason::Stop;
        }
        Ok(answer)
    }

    fn exhausted(&self, number: usize, turns: usize) -> Error {
        Error::new(
            Status::Provider,
            format!("the mock provider {:?} has {turns} turns, and this is model request {}", self.name, number + 1),
        )
        .with_code("mock_exhausted")
        .with_hint("add a turn to the script; each retry is a request too")
    }

    fn failure(&self, error: &crate::config::MockError) -> Error {
        let mut headers = HeaderMap::new();
        if let Some(wait) = error.retry_after_ms {
            headers.insert("retry-after-ms", HeaderValue::from(wait));
        }
        let message = error.message.as_deref().unwrap_or("scripted failure");
        let body = json!({"error": {"message": message}}).to_string();
        let status = StatusCode::from_u16(error.http_status).ok();
        Failure { provider: &self.name, status, headers: Some(&headers), body: body.as_bytes() }.into_error()
    }

    fn check(&self, expect: &MockExpect, number: usize, request: &ModelRequest<'_>) -> Result<()> {
        let last = request.transcript.view().last().map(text_of).unwrap_or_default();
        let system = request.system.unwrap_or_default();
        let tools: Vec<&str> = request.tools.iter().map(|tool| tool.name.as_str()).collect();
        let unmet = if let Some(wanted) = expect.last_message_contains.as_ref().filter(|wanted| !last.contains(*wanted))
        {
            format!("the last message to contain {wanted:?}, received {last:?}")
        } else if let Some(wanted) = expect.messages.filter(|wanted| *wanted != request.transcript.len()) {
            format!("{wanted} messages, received {}", request.transcript.len())
        } else if let Some(wanted) = expect.system_contains.as_ref().filter(|wanted| !system.contains(*wanted)) {
            format!("the system prompt to contain {wanted:?}, received {system:?}")
        } else if let Some(wanted) = expect.tools.as_ref().filter(|wanted| **wanted != tools) {
            format!("the tools {wanted:?}, received {tools:?}")
        } else if let Some(seen) =
            expect.not_contains.as_ref().filter(|unwanted| whole_text(request).contains(*unwanted))
        {
            format!("nothing to contain {seen:?}, received it")
        } else if let Some(wanted) = expect.contains.as_ref().filter(|wanted| !whole_text(request).contains(*wanted)) {
            format!("a message to contain {wanted:?}, received {:?}", whole_text(request))
        } else if let Some(wanted) = expect.max_tokens.filter(|wanted| request.output_limit() != Some(*wanted)) {
            format!("max_tokens {wanted}, received {:?}", request.output_limit())
        } else if let Some(wanted) = expect.has_schema.filter(|wanted| request.output.is_some() != *wanted) {
            format!("has_schema to be {wanted}")
        } else if let Some(wanted) = expect.tool_choice.as_ref().filter(|wanted| **wanted != choice_name(request)) {
            format!("the tool choice {wanted:?}, received {:?}", choice_name(request))
        } else if let Some(wanted) = expect.media.filter(|wanted| *wanted != media_count(request)) {
            format!("{wanted} images, documents and recordings, received {}", media_count(request))
        } else {
            return Ok(());
        };
        Err(Error::new(
            Status::Provider,
            format!("the mock provider {:?} expected in request {}: {unmet}", self.name, number + 1),
        )
        .with_code("mock_expectation"))
    }
}

impl Provider for Mock {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "mock"
    }

    fn request<'a>(
        &'a self,
        request: &'a ModelRequest<'a>,
        sink: &'a mut dyn DeltaSink,
    ) -> BoxFuture<'a, Result<ModelAnswer>> {
        Box::pin(self.answer(request, sink))
    }

    fn profile(&self, _: &str) -> ModelProfile {
        ModelProfile { structured_output: Some(StructuredOutput::Native), ..ModelProfile::default() }
    }

    fn can_embed(&self) -> bool {
        true
    }

    fn embedding_model(&self) -> Option<&str> {
        Some("mock")
    }

    fn embed<'a>(&'a self, request: &'a EmbedRequest<'a>) -> BoxFuture<'a, Result<Embeddings>> {
        Box::pin(std::future::ready(Ok(embed::embed(request))))
    }

    fn unreached(&self) -> Option<String> {
        let turns = self.config.turns.as_ref().filter(|_| self.config.assert_complete)?.len();
        let reached = self.reached.load(Ordering::Relaxed).min(turns);
        (reached < turns).then(|| format!("the mock provider {:?} reached {reached} of {turns} turns", self.name))
    }
}

async fn pace(turn: &MockTurn, sink: &mut dyn DeltaSink) {
    if turn.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(turn.delay_ms)).await;
    }
    if !sink.is_ready() {
        sink.ready().await;
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(' ')
}

/// Four characters a token: what nobody will take for a measurement.
fn estimate(request: &ModelRequest<'_>, turn: &MockTurn, text: &str) -> Usage {
    let tokens = |characters: usize| characters.div_ceil(4) as u64;
    let length = |view| match view {
        View::User(parts) | View::Assistant(parts) => parts.iter().filter_map(Part::as_text).map(str::len).sum(),
        View::Tool(_, result) => result.content.len(),
    };
    let input: usize = request.transcript.view().map(length).sum();
    let reasoning = tokens(turn.reasoning.as_ref().map_or(0, String::len));
    Usage {
        input_tokens: tokens(input + request.system.map_or(0, str::len)),
        output_tokens: tokens(text.len()) + reasoning,
        reasoning_tokens: reasoning,
        ..Usage::default()
    }
}

/// Everything the model is told but the system prompt and the tools.
fn whole_text(request: &ModelRequest<'_>) -> String {
    let mut text = String::new();
    for view in request.transcript.view() {
        text.push_str(&text_of(view));
        if let View::Assistant(parts) = view {
            for call in parts.iter().filter_map(Part::as_tool_call) {
                text.push_str(&call.arguments);
            }
        }
        text.push('\n');
    }
    text
}

fn choice_name<'a>(request: &ModelRequest<'a>) -> &'a str {
    match request.tool_choice {
        ToolChoice::Auto => "auto",
        ToolChoice::None => "none",
        ToolChoice::Required => "required",
        ToolChoice::Tool(name) => name,
    }
}

fn media_count(request: &ModelRequest<'_>) -> usize {
    let is_media = |part: &&Part| matches!(part, Part::Image(_) | Part::Document(_) | Part::Audio(_));
    let count = |parts: &[Part]| parts.iter().filter(is_media).count();
    let views = request.transcript.view();
    views
        .map(|view| match view {
            View::User(parts) | View::Assistant(parts) => count(parts),
            View::Tool(_, result) => count(&result.parts),
        })
        .sum()
}

fn last_user_text(request: &ModelRequest<'_>) -> String {
    let users = request.transcript.view().filter(|view| matches!(view, View::User(_)));
    users.last().map(text_of).unwrap_or_default()
}

fn text_of(view: View<'_>) -> String {
    match view {
        View::User(parts) | View::Assistant(parts) => crate::types::text_of(parts),
        View::Tool(_, result) => result.content.clone(),
    }
}
