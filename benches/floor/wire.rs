//! The OpenAI shapes the floor writes and reads: typed, and no more of them than it uses.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::Scenario;

// ---- requests

#[derive(Serialize)]
pub struct Request<'a> {
    model: &'a str,
    pub messages: Vec<Message>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<&'a RawValue>,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Serialize)]
pub struct Message {
    role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<String>,
}

fn message(role: &'static str, content: impl Into<String>) -> Message {
    Message { role, content: Some(content.into()), tool_calls: Vec::new(), tool_call_id: None }
}

pub const SYSTEM_PROMPT: &str = "You are a benchmark: answer in one sentence.";
pub const QUESTION: &str = "What does the quick brown fox do?";
const TOOLS: &str = r#"[{"type":"function","function":{"name":"add","description":"Adds two numbers.","parameters":{"type":"object","properties":{"a":{"type":"number"},"b":{"type":"number"}},"required":["a","b"]}}}]"#;

impl<'a> Request<'a> {
    pub fn first(scenario: &Scenario, model: &'a str) -> Self {
        Self {
            model,
            messages: vec![message("system", SYSTEM_PROMPT), message("user", QUESTION)],
            tools: (scenario.name == "tools").then(|| serde_json::from_str(TOOLS).expect("valid JSON")),
            stream: scenario.sse,
            stream_options: scenario.sse.then_some(StreamOptions { include_usage: true }),
        }
    }

    pub fn encoded(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data")
    }

    /// Runs the calls of a reply and appends them with their results; false when there were none.
    pub fn continue_with(&mut self, reply: Reply) -> bool {
        let calls = reply.calls;
        if calls.is_empty() {
            return false;
        }
        let results: Vec<Message> = calls
            .iter()
            .map(|call| {
                let Terms { a, b } = serde_json::from_str(&call.function.arguments).expect("the server's arguments");
                Message { tool_call_id: Some(call.id.clone()), ..message("tool", (a + b).to_string()) }
            })
            .collect();
        self.messages.push(Message { role: "assistant", content: None, tool_calls: calls, tool_call_id: None });
        self.messages.extend(results);
        true
    }
}

#[derive(Deserialize)]
struct Terms {
    a: f64,
    b: f64,
}

// ---- replies

/// What a reply amounts to, whole or streamed.
#[derive(Default)]
pub struct Reply {
    pub text: String,
    pub calls: Vec<ToolCall>,
    pub finish_reason: Option<String>,
    pub usage: Option<Usage>,
    /// How many text chunks it came in.
    pub chunks: usize,
    /// `[DONE]` was seen.
    pub done: bool,
}

#[derive(Default, Deserialize, Serialize)]
pub struct ToolCall {
    #[serde(default)]
    pub id: String,
    #[serde(default, rename = "type")]
    kind: String,
    pub function: Function,
}

#[derive(Default, Deserialize, Serialize)]
pub struct Function {
    #[serde(default)]
    name: String,
    #[serde(default)]
    arguments: String,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "decoded as a client would")]
pub struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    message: Answer,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Answer {
    content: Option<String>,
    #[serde(default)]
    tool_calls: Vec<ToolCall>,
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    choices: Vec<ChunkChoice<'a>>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct ChunkChoice<'a> {
    #[serde(borrow)]
    delta: Delta<'a>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Cow<'a, str>,
    #[serde(default)]
    tool_calls: Vec<IndexedCall>,
}

#[derive(Deserialize)]
struct IndexedCall {
    index: usize,
    #[serde(flatten)]
    call: ToolCall,
}

impl Reply {
    pub fn whole(body: &[u8]) -> Self {
        let completion: Completion = serde_json::from_slice(body).expect("a completion");
        let choice = completion.choices.into_iter().next().expect("a choice");
        Self {
            text: choice.message.content.unwrap_or_default(),
            calls: choice.message.tool_calls,
            finish_reason: choice.finish_reason,
            usage: completion.usage,
            chunks: 1,
            done: true,
        }
    }

    /// Takes one event's payload, and hands its text on.
    pub fn payload(&mut self, payload: &[u8], mut on_text: impl FnMut(&str)) {
        if payload.starts_with(b"[DONE]") {
            self.done = true;
            return;
        }
        let chunk: Chunk = serde_json::from_slice(payload).expect("a chunk");
        self.usage = chunk.usage.or(self.usage.take());
        for choice in chunk.choices {
            if !choice.delta.content.is_empty() {
                on_text(&choice.delta.content);
                self.text.push_str(&choice.delta.content);
                self.chunks += 1;
            }
            for IndexedCall { index, call } in choice.delta.tool_calls {
                self.calls.resize_with(self.calls.len().max(index + 1), ToolCall::default);
                let slot = &mut self.calls[index];
                if !call.id.is_empty() {
                    (slot.id, slot.kind, slot.function.name) = (call.id, call.kind, call.function.name);
                }
                slot.function.arguments += &call.function.arguments;
            }
            self.finish_reason = choice.finish_reason.or(self.finish_reason.take());
        }
    }
}

/// Cuts a byte stream into the payloads of its events: one `data:` line each, which is all the server sends.
#[derive(Default)]
pub struct Events {
    partial: Vec<u8>,
}

impl Events {
    pub fn feed(&mut self, mut bytes: &[u8], mut on_payload: impl FnMut(&[u8])) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            let whole: &[u8] = if self.partial.is_empty() {
                line
            } else {
                self.partial.extend_from_slice(line);
                &self.partial
            };
            if let Some(payload) = whole.strip_prefix(b"data: ") {
                on_payload(payload);
            }
            self.partial.clear();
            bytes = rest;
        }
        self.partial.extend_from_slice(bytes);
    }
}
