//! The inbox as a listener to the events of the runtime.

mod support;

use par::events::Waited;
use par::runtime::Runtime;
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use std::time::Duration;

fn listening(turns: Value) -> Runtime {
    let mock = json!({"type": "mock", "turns": turns});
    let runtime =
        support::create(&json!({"inbox": {"events": true}, "llm_providers": {"mock": mock}}).to_string()).unwrap();
    runtime.register_tool(r#"{"name": "add", "description": "Adds."}"#).unwrap();
    runtime.register_agent(r#"{"id": "a", "model": "mock/m", "tools": ["add"]}"#).unwrap();
    runtime.inbox();
    runtime
}

/// Messages up to one of this type.
fn until(runtime: &Runtime, kind: &str) -> Vec<Value> {
    let mut seen: Vec<Value> = Vec::new();
    loop {
        let parse = |message: &[u8]| serde_json::from_slice(message).unwrap();
        match runtime.inbox().wait(Some(Duration::from_secs(10)), parse).unwrap() {
            Waited::Event(message) => seen.push(message),
            other => panic!("no {kind}: {other:?} after {seen:#?}"),
        }
        if seen.last().unwrap()["type"] == kind {
            return seen;
        }
    }
}

/// The last event of a failed run has the calls it made among its messages.
#[test]
fn the_end_of_a_failed_run_that_called_a_tool_comes() {
    let call = json!({"tool_calls": [{"id": "c1", "name": "add", "input": {}}]});
    let runtime = listening(json!([call, {"error": {"http_status": 400, "message": "no"}}]));
    let stream = runtime.stream(r#"{"agent": "a", "input": "x"}"#).unwrap();
    let calls = std::iter::from_fn(|| support::client::next(&stream)).find(|event| event["type"] == "tool_call");
    runtime.tool_complete(calls.unwrap()["token"].as_u64().unwrap(), "3").unwrap();
    let seen = until(&runtime, "failed");
    let end = seen.last().unwrap();
    assert!(end["messages"].to_string().contains(r#""type":"tool_call""#), "{end}");
    // Host work has one destination: the stream has it, so the inbox has not.
    assert!(seen.iter().all(|message| message["type"] != "tool_call"), "{seen:#?}");
}

/// A tag is any JSON of the host's: it does not make its event look like another one.
#[test]
fn a_tag_that_looks_like_a_message_hides_no_event() {
    let runtime = listening(json!([{"text": "x"}]));
    for kind in ["ready", "tool_call", "approval_request"] {
        let request = json!({"agent": "a", "input": "x", "tag": {"type": kind}});
        runtime.invoke(&request.to_string(), None).unwrap();
        let seen = until(&runtime, "completed");
        assert_eq!(seen[0]["type"], "run_started");
        assert!(seen.iter().all(|event| event["tag"]["type"] == kind), "{seen:#?}");
        let numbers: Vec<_> = seen.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    }
}

/// What a full inbox drops depends on what a message is, not on what it contains.
#[test]
fn a_full_inbox_drops_events_that_look_like_host_work() {
    let mock = json!({"type": "mock", "turns": [{"text": "x"}]});
    let config =
        json!({"inbox": {"events": true}, "limits": {"inbox_queue_events": 2}, "llm_providers": {"mock": mock}});
    let runtime = support::create(&config.to_string()).unwrap();
    runtime.register_agent(r#"{"id": "a", "model": "mock/m"}"#).unwrap();
    runtime.inbox();
    runtime.invoke(r#"{"agent": "a", "input": "x", "tag": {"type": "ready"}}"#, None).unwrap();
    let info = runtime.info();
    assert_eq!(info["inbox"]["queued"], 2, "{info:#}");
    assert!(info["inbox"]["dropped"].as_u64().unwrap() > 0, "{info:#}");
}
