//! Running an agent in a test: the events as values, and the result.

use par::events::Waited;
use par::runtime::{Runtime, Stream};
use par::types::Error;
use serde_json::{Value, json};
use std::time::Duration;

/// A runtime with one provider `p` and an agent `a` on it; `extra` is merged into the provider.
pub fn runtime_for(base_url: &str, extra: Value) -> Runtime {
    let mut provider = json!({"type": "openai", "base_url": base_url, "api_key": "secret-key",
                              "retry": {"max_attempts": 3, "initial_delay_ms": 5, "max_delay_ms": 20}});
    for (key, value) in extra.as_object().unwrap() {
        provider[key] = value.clone();
    }
    let runtime = super::create(&json!({"llm_providers": {"p": provider}}).to_string()).unwrap();
    runtime.register_agent(&json!({"id": "a", "model": "p/m", "system_prompt": "Be brief."}).to_string()).unwrap();
    runtime
}

/// A runtime whose provider `mock` plays these turns.
pub fn scripted(turns: Value) -> Runtime {
    let config = json!({"llm_providers": {"mock": {"type": "mock", "turns": turns}}});
    super::create(&config.to_string()).unwrap()
}

/// The next event, at most ten seconds away; None after the end.
pub fn next(stream: &Stream) -> Option<Value> {
    let parse = |event: &[u8]| serde_json::from_slice(event).unwrap();
    match stream.queue().wait(Some(Duration::from_secs(10)), parse).unwrap() {
        Waited::Event(event) => Some(event),
        Waited::End => None,
        other => panic!("the stream stalled: {other:?}"),
    }
}

/// Every event up to the end.
pub fn events(stream: &Stream) -> Vec<Value> {
    std::iter::from_fn(|| next(stream)).collect()
}

/// Runs a request to its end: its events, and its result.
pub fn run(runtime: &Runtime, request: Value) -> (Vec<Value>, Result<Value, Error>) {
    let stream = runtime.stream(&request.to_string()).unwrap();
    let events = events(&stream);
    let answer = stream.answer().expect("an answer after the terminal event").clone();
    (events, answer.map(|json| serde_json::from_str(&json).unwrap()))
}

/// `input` asked of the agent `a`.
pub fn ask(runtime: &Runtime, input: &str) -> (Vec<Value>, Result<Value, Error>) {
    run(runtime, json!({"agent": "a", "input": input}))
}

/// The events of one type.
pub fn of_type<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["type"] == kind).collect()
}

/// The types of all events, in order.
pub fn types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

/// The streamed text, put together.
pub fn text(events: &[Value]) -> String {
    of_type(events, "text_delta").iter().map(|event| event["text"].as_str().unwrap()).collect()
}
