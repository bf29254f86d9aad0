//! What a model says while it says it, on its way to events.

use super::seam::Seam;
use super::structured::{ANSWER_TOOL, Means, Structured};
use crate::events::Emitter;
use crate::llm::DeltaSink;
use crate::middleware::{Chain, TextPipeline};
use crate::types::{Error, EventBody, ToolCallId};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value};
use std::borrow::Cow;

/// See the module's head. One per model request.
pub struct TurnSink<'a> {
    emitter: &'a Emitter,
    attempt_starts_at: u64,
    has_emitted: bool,
    /// What text passes before anybody reads it.
    pipeline: Option<TextPipeline>,
    /// The same for arguments that are the answer.
    arguments: Option<TextPipeline>,
    /// Joins the text to the text it continues.
    joint: Option<&'a mut Joint>,
    partial: Option<Partial<'a>>,
    /// The call of [`ANSWER_TOOL`], which is no call for the host.
    answer_call: Option<ToolCallId>,
}

/// A text and its continuation.
pub struct Joint {
    seam: Seam,
    /// What the continuation adds, as anybody may read it.
    pub added: String,
}

impl Joint {
    /// Continues `before`.
    pub fn new(before: &str) -> Self {
        Self { seam: Seam::new(before), added: String::new() }
    }
}

/// A value that grows with the answer.
struct Partial<'a> {
    structured: &'a Structured,
    means: Means,
    text: String,
    /// How long the text must be for the next event: each is an eighth longer than the last, so that all of them together
    /// cost no more than a few times the whole.
    next_at: usize,
    told: Option<Value>,
}

impl<'a> TurnSink<'a> {
    /// Tells the events of one request.
    pub fn new(emitter: &'a Emitter, chain: &Chain) -> Self {
        Self {
            emitter,
            attempt_starts_at: emitter.next_seq(),
            has_emitted: false,
            pipeline: chain.text_pipeline(),
            arguments: chain.text_pipeline(),
            joint: None,
            partial: None,
            answer_call: None,
        }
    }

    /// Tells the value, too, as far as the answer determines it.
    pub fn with_value(mut self, structured: Option<(&'a Structured, Means)>) -> Self {
        self.partial = structured.map(|(structured, means)| Partial {
            structured,
            means,
            text: String::new(),
            next_at: 1,
            told: None,
        });
        self
    }

    /// The answer continues a text.
    pub fn continuing(mut self, joint: Option<&'a mut Joint>) -> Self {
        self.joint = joint;
        self
    }

    /// Nothing more comes: what was held back is told.
    pub fn finish(mut self) {
        if let Some(joint) = &mut self.joint {
            let mut rest = String::new();
            joint.seam.finish(&mut rest);
            self.tell(&rest);
        }
        self.end_of_text();
        if let Some(pipeline) = &mut self.arguments {
            let mut rest = String::new();
            pipeline.finish(&mut |text, _| rest.push_str(text));
            self.grow(&rest);
        }
        self.tell_value(true);
    }

    fn tell(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        self.has_emitted = true;
        match &mut self.pipeline {
            None => self.let_out(text, false),
            Some(pipeline) => {
                let mut released = Vec::new();
                pipeline.text(text, &mut |text, is_reasoning| released.push((text.to_owned(), is_reasoning)));
                self.let_out_all(released);
            }
        }
    }

    fn end_of_text(&mut self) {
        if let Some(pipeline) = &mut self.pipeline {
            let mut released = Vec::new();
            pipeline.finish(&mut |text, is_reasoning| released.push((text.to_owned(), is_reasoning)));
            self.let_out_all(released);
        }
    }

    fn let_out_all(&mut self, released: Vec<(String, bool)>) {
        for (text, is_reasoning) in released {
            self.let_out(&text, is_reasoning);
        }
    }

    /// Text that anybody may read: the value grows from nothing else.
    fn let_out(&mut self, text: &str, is_reasoning: bool) {
        self.emitter.emit_text(text, is_reasoning);
        if let Some(joint) = self.joint.as_mut().filter(|_| !is_reasoning) {
            joint.added.push_str(text);
        }
        if !is_reasoning && self.partial.as_ref().is_some_and(|partial| partial.means != Means::Tool) {
            self.grow(text);
        }
    }

    fn grow(&mut self, text: &str) {
        if let Some(partial) = &mut self.partial {
            partial.text.push_str(text);
        }
        self.tell_value(false);
    }

    /// More of the arguments that are the answer.
    fn grow_from_arguments(&mut self, args_json: &str) {
        match &mut self.arguments {
            None => self.grow(args_json),
            Some(pipeline) => {
                let mut released = String::new();
                pipeline.reasoning(args_json, &mut |text, _| released.push_str(text));
                self.grow(&released);
            }
        }
    }

    fn tell_value(&mut self, is_last: bool) {
        let Some(partial) = &mut self.partial else { return };
        if partial.text.is_empty() || (!is_last && partial.text.len() < partial.next_at) {
            return;
        }
        partial.next_at = partial.text.len() + (partial.text.len() / 8).max(16);
        let value = partial.structured.read_prefix(&partial.text);
        if let Some(value) = value.filter(|value| partial.told.as_ref() != Some(value)) {
            self.emitter.emit(&EventBody::OutputDelta { value: &value });
            partial.told = Some(value);
        }
    }
}

impl DeltaSink for TurnSink<'_> {
    fn text(&mut self, text: &str) {
        match &mut self.joint {
            None => self.tell(text),
            Some(joint) => {
                let mut new = String::new();
                joint.seam.push(text, &mut new);
                self.tell(&new);
            }
        }
    }

    fn reasoning(&mut self, text: &str) {
        self.has_emitted = true;
        match &mut self.pipeline {
            None => self.emitter.emit_text(text, true),
            Some(pipeline) => {
                pipeline.reasoning(text, &mut |text, is_reasoning| self.emitter.emit_text(text, is_reasoning));
            }
        }
    }

    fn tool_call_start(&mut self, id: &ToolCallId, name: &str) {
        self.has_emitted = true;
        self.end_of_text();
        if name == ANSWER_TOOL && self.partial.is_some() {
            self.answer_call = Some(id.clone());
            return;
        }
        self.emitter.emit(&EventBody::ToolCallStart { tool_call_id: id, name });
    }

    fn tool_call_delta(&mut self, id: &ToolCallId, args_json: &str) {
        if self.answer_call.as_ref() == Some(id) {
            self.grow_from_arguments(args_json);
        } else if self.pipeline.is_none() {
            // What may have to be masked is told whole, by the tool's own events.
            self.emitter.emit(&EventBody::ToolCallDelta { tool_call_id: id, args_json });
        }
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
