//! Events: what happens in a run, numbered once, as every consumer reads it.
//!
//! An event is an envelope (`v`, `seq`, `at_ms`, `run_id`, `tag`?) around an [`EventBody`] whose `type` names it. A run
//! has exactly one terminal event: `completed`, `failed`, `cancelled` or `suspended`, and nothing after it.

use super::{Error, FinishReason, Part, RunId, SessionId, ToolCallId, Usage, now_ms};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::io::Write;

/// What happened. Borrowed, since an event is written out at once and never kept as a value.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventBody<'a> {
    /// The run begins.
    RunStarted {
        /// The agent that runs.
        agent: &'a str,
        /// The conversation it continues.
        #[serde(skip_serializing_if = "Option::is_none")]
        session: Option<&'a str>,
    },
    /// A model request is about to be made.
    TurnStarted {
        /// Counts from 1.
        turn: u32,
    },
    /// More of the answer's text.
    TextDelta {
        /// The new text.
        text: &'a str,
    },
    /// More of the model's reasoning.
    ReasoningDelta {
        /// The new text.
        text: &'a str,
    },
    /// The model begins a tool call.
    ToolCallStart {
        /// The call.
        tool_call_id: &'a ToolCallId,
        /// The tool.
        name: &'a str,
    },
    /// More of a tool call's arguments.
    ToolCallDelta {
        /// The call.
        tool_call_id: &'a ToolCallId,
        /// A piece of JSON text; the pieces concatenate to the arguments.
        args_json: &'a str,
    },
    /// Host work: the host must answer the token once, by `par_tool_complete` or `par_tool_fail`.
    ToolCall {
        /// The single-use token.
        token: u64,
        /// The call.
        tool_call_id: &'a ToolCallId,
        /// The tool.
        name: &'a str,
        /// The arguments, already checked against the tool's schema.
        #[schemars(with = "serde_json::Value")]
        input: &'a RawValue,
        /// How long the host has.
        deadline_ms: u64,
    },
    /// A tool begins to run.
    ToolStarted {
        /// The call.
        tool_call_id: &'a ToolCallId,
        /// The tool.
        name: &'a str,
    },
    /// A running tool says how far it is.
    ToolProgress {
        /// The call.
        tool_call_id: &'a ToolCallId,
        /// What the tool says: any JSON.
        #[schemars(with = "serde_json::Value")]
        note: &'a RawValue,
    },
    /// A tool's result, as the model will read it.
    ToolResult {
        /// The call.
        tool_call_id: &'a ToolCallId,
        /// The tool.
        name: &'a str,
        /// The text for the model.
        content: &'a str,
        /// Whether it reports a failure.
        is_error: bool,
        /// How long it took.
        duration_ms: u64,
    },
    /// Host work that needs no answer any more.
    ToolCancelled {
        /// The token, now stale.
        token: u64,
        /// The call.
        tool_call_id: &'a ToolCallId,
        /// The tool.
        name: &'a str,
        /// Why.
        reason: &'a str,
    },
    /// What the last model request consumed, and the run so far.
    UsageUpdate {
        /// Of the last request.
        usage: Usage,
        /// Of the run so far.
        total: Usage,
    },
    /// A model request failed before it said anything and is tried again.
    TurnRetried {
        /// Which attempt comes next, from 2.
        attempt: u32,
        /// How long it waits before.
        delay_ms: u64,
        /// Events of this turn from here on are void.
        discard_from_seq: u64,
        /// What failed.
        error: &'a Error,
    },
    /// The provider told how much of its rate limit is left.
    RateLimit {
        /// Key of `llm_providers`.
        provider: &'a str,
        /// The provider's figures by name, as it wrote them.
        limits: serde_json::Map<String, serde_json::Value>,
    },
    /// Something is odd but the run goes on.
    Warning {
        /// A stable word.
        code: &'a str,
        /// What is odd.
        message: Cow<'a, str>,
    },
    /// Terminal: the run is done.
    Completed(&'a RunResult),
    /// Terminal of a method started by `par_call_start`.
    #[serde(rename = "completed")]
    Answered {
        /// The method's answer.
        #[schemars(with = "serde_json::Value")]
        result: &'a RawValue,
    },
    /// Terminal: the run failed.
    Failed {
        /// Why.
        error: &'a Error,
        /// What it had consumed.
        usage: Usage,
    },
    /// Terminal: the run was cancelled.
    Cancelled {
        /// Why.
        reason: &'a str,
        /// What it had consumed.
        usage: Usage,
    },
}

impl EventBody<'_> {
    /// Whether the host must act on it: an answer is wanted, or not wanted any more.
    pub fn is_host_work(&self) -> bool {
        matches!(self, Self::ToolCall { .. } | Self::ToolCancelled { .. })
    }
}

/// What a run came to. `par_invoke` and `par_stream_result` answer it with `run_id` and `status` in front.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RunResult {
    /// The whole text of the last answer.
    pub text: String,
    /// The last answer, part by part.
    pub parts: Vec<Part>,
    /// Every tool call of the run, in order.
    pub tool_calls: Vec<ToolCallRecord>,
    /// Why the model stopped.
    pub finish_reason: FinishReason,
    /// What all requests of the run consumed.
    pub usage: Usage,
    /// The model that answered, as the provider names it.
    pub model: String,
    /// How many model requests were made.
    pub iterations: u32,
    /// The conversation it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
}

/// One tool call in a [`RunResult`].
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ToolCallRecord {
    /// The call, with its input.
    #[serde(flatten)]
    pub call: super::ToolCall,
    /// Whether its result reports a failure.
    pub is_error: bool,
}

/// The head of every event of one run, encoded once: numbering and addressing without work per event.
///
/// Wire form: `{"v":1,"seq":n,"at_ms":t,"run_id":"…","tag"?:…,"type":…}` (json.md, "A run").
#[derive(Debug)]
pub struct Envelope {
    /// `,"run_id":"…"` and what else is the same in every event of the run.
    constant: Vec<u8>,
    next_seq: u64,
}

impl Envelope {
    /// The envelope of a run.
    pub fn new(run_id: &RunId, tag: Option<&RawValue>) -> Self {
        let mut constant = br#","run_id":"#.to_vec();
        write_json(&mut constant, run_id);
        if let Some(tag) = tag {
            constant.extend_from_slice(br#","tag":"#);
            constant.extend_from_slice(tag.get().as_bytes());
        }
        Self { constant, next_seq: 1 }
    }

    /// The number the next event will have.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Counts an event that nobody reads, so that numbers do not depend on who listens.
    pub fn skip(&mut self) {
        self.next_seq += 1;
    }

    /// Appends the event to `out` as one JSON object and counts it.
    pub fn write(&mut self, body: &EventBody<'_>, out: &mut Vec<u8>) {
        self.write_as(self.next_seq, body, out);
        self.next_seq += 1;
    }

    /// Appends a message about the run that is not one of its events: it has the number of the last event before it.
    pub fn write_aside(&self, body: &EventBody<'_>, out: &mut Vec<u8>) {
        self.write_as(self.next_seq - 1, body, out);
    }

    fn write_as(&self, seq: u64, body: &EventBody<'_>, out: &mut Vec<u8>) {
        // Writing to a vector cannot fail.
        let _ = write!(out, r#"{{"v":1,"seq":{seq},"at_ms":{}"#, now_ms());
        out.extend_from_slice(&self.constant);
        let brace = out.len();
        write_json(out, body);
        // The body is an object: its opening brace becomes the comma that joins it to the head.
        if let Some(byte) = out.get_mut(brace) {
            *byte = b',';
        }
    }
}

/// Appends a value of our own types, which cannot fail to serialize.
fn write_json<T: Serialize>(out: &mut Vec<u8>, value: &T) {
    let start = out.len();
    if serde_json::to_writer(&mut *out, value).is_err() {
        out.truncate(start);
        out.extend_from_slice(b"{}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use serde_json::{Value, json};

    #[test]
    fn head_and_body_make_one_object() {
        let tag = RawValue::from_string(r#"{"a":1}"#.into()).unwrap();
        let mut envelope = Envelope::new(&"r1".into(), Some(&tag));
        let mut out = Vec::new();
        envelope.write(&EventBody::TextDelta { text: "a \"quote\"\n" }, &mut out);
        let mut event: Value = serde_json::from_slice(&out).unwrap();
        assert!(event["at_ms"].take().as_u64().unwrap() > 1_700_000_000_000);
        assert_eq!(
            event,
            json!({"v": 1, "seq": 1, "at_ms": null, "run_id": "r1", "tag": {"a": 1}, "type": "text_delta",
                   "text": "a \"quote\"\n"})
        );
        assert_eq!(envelope.next_seq(), 2);
    }

    #[test]
    fn a_completed_run_carries_its_result_once() {
        let result = RunResult {
            text: "hi".into(),
            parts: vec![Part::Text { text: "hi".into() }],
            tool_calls: vec![],
            finish_reason: FinishReason::Stop,
            usage: Usage::default(),
            model: "m".into(),
            iterations: 1,
            session: None,
        };
        let mut out = Vec::new();
        Envelope::new(&"r1".into(), None).write(&EventBody::Completed(&result), &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches("run_id").count(), 1);
        let event: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&event["type"], &event["text"], &event["finish_reason"]),
            (&json!("completed"), &json!("hi"), &json!("stop"))
        );
    }
}
