//! The bodies of an OpenAI-compatible `/chat/completions`: SSE payloads as `Reply::sse` takes them, and whole JSON replies.

use serde_json::{Value, json};

/// `(prompt_tokens, completion_tokens)`.
pub type Usage = Option<(u64, u64)>;

pub fn usage(prompt: u64, completion: u64) -> Usage {
    Some((prompt, completion))
}

fn usage_json((prompt, completion): (u64, u64)) -> Value {
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
}

/// One chunk: a delta, and the finish reason if it is the last with a choice.
pub fn chunk(delta: Value, finish_reason: Option<&str>) -> String {
    envelope(json!([{"index": 0, "delta": delta, "finish_reason": finish_reason}]), Value::Null)
}

/// The extra chunk without choices that carries the usage.
pub fn usage_chunk(prompt: u64, completion: u64) -> String {
    envelope(json!([]), usage_json((prompt, completion)))
}

fn envelope(choices: Value, usage: Value) -> String {
    json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "fake-1", "choices": choices, "usage": usage}).to_string()
}

/// A text, piece by piece, with finish reason `stop`, the usage chunk if there is one, and `[DONE]`.
pub fn text_chunks<S: AsRef<str>>(pieces: impl IntoIterator<Item = S>, usage: Usage) -> Vec<String> {
    let deltas = pieces.into_iter().map(|piece| json!({"content": piece.as_ref()}));
    stream(deltas, "stop", usage)
}

/// A call the model makes; `arguments` is JSON text, or what a broken model takes for it.
#[derive(Clone, Debug)]
pub struct Call {
    pub id: String,
    pub name: String,
    pub arguments: String,
}

pub fn call(id: &str, name: &str, arguments: impl ToString) -> Call {
    Call { id: id.into(), name: name.into(), arguments: arguments.to_string() }
}

/// Parallel calls as OpenAI streams them: id and name first, then the arguments in pieces of four characters.
pub fn tool_call_chunks(calls: impl IntoIterator<Item = Call>, usage: Usage) -> Vec<String> {
    let deltas = calls.into_iter().enumerate().flat_map(|(index, call)| {
        let opening = json!({"index": index, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}});
        let characters: Vec<char> = call.arguments.chars().collect();
        let pieces: Vec<Value> = characters.chunks(4).map(|four| json!({"index": index, "function": {"arguments": String::from_iter(four)}})).collect();
        std::iter::once(opening).chain(pieces).map(|call| json!({"tool_calls": [call]}))
    });
    stream(deltas, "tool_calls", usage)
}

fn stream(deltas: impl Iterator<Item = Value>, finish_reason: &str, usage: Usage) -> Vec<String> {
    let role = chunk(json!({"role": "assistant", "content": ""}), None);
    std::iter::once(role)
        .chain(deltas.map(|delta| chunk(delta, None)))
        .chain([chunk(json!({}), Some(finish_reason))])
        .chain(usage.map(|(prompt, completion)| usage_chunk(prompt, completion)))
        .chain(["[DONE]".to_owned()])
        .collect()
}

/// The whole reply of a request without `"stream": true`.
pub fn completion(text: &str, usage: Usage) -> Value {
    whole(json!({"role": "assistant", "content": text}), "stop", usage)
}

pub fn tool_call_completion(calls: impl IntoIterator<Item = Call>, usage: Usage) -> Value {
    let calls: Vec<Value> = calls.into_iter().map(|call| json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}})).collect();
    whole(json!({"role": "assistant", "content": null, "tool_calls": calls}), "tool_calls", usage)
}

fn whole(message: Value, finish_reason: &str, usage: Usage) -> Value {
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": "fake-1",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": usage.map(usage_json),
    })
}

/// The error body, also what comes as a payload inside a stream that fails half-way.
pub fn error(message: &str, kind: &str, code: Option<&str>) -> Value {
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}
