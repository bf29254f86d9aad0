//! Approvals that outlive their process: what was decided while the run was interrupted is checked when it resumes.

mod support;

use par::runtime::Runtime;
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use std::path::Path;
use support::client::next;

fn open(path: &Path) -> Runtime {
    let turns = json!([{"tool_calls": [{"id": "c", "name": "transfer", "input": {"amount": 7}}]}, {"text": "done"}]);
    let config = json!({"persistence": {"type": "sqlite", "path": path}, "durability": "sync", "shutdown": {"drain_timeout": 0},
                        "llm_providers": {"mock": {"type": "mock", "turns": turns}}});
    Runtime::create(&config.to_string()).unwrap()
}

fn register(runtime: &Runtime) {
    let schema = json!({"type": "object", "properties": {"amount": {"type": "integer"}}, "required": ["amount"]});
    let tool = json!({"name": "transfer", "permission": "confirm", "effect": "once", "input_schema": schema});
    runtime.register_tool(&tool.to_string()).unwrap();
    runtime.register_agent(r#"{"id": "a", "model": "mock/m", "tools": ["transfer"]}"#).unwrap();
}

/// A run that waits for an approval when its runtime is closed. Returns the approval's id.
fn interrupted(path: &Path) -> String {
    let runtime = open(path);
    register(&runtime);
    let stream = runtime.stream(r#"{"agent": "a", "input": "go", "run_id": "r"}"#).unwrap();
    let mut approval = None;
    while approval.is_none() {
        let event = next(&stream).expect("an approval request");
        approval = event["approval_id"].as_str().map(str::to_owned);
    }
    runtime.close(Some(std::time::Duration::from_secs(20))).unwrap();
    approval.unwrap()
}

/// Resumes the run; answers its questions with `decision`. The events seen.
fn resume(runtime: &Runtime, decision: &Value) -> Vec<Value> {
    let stream = runtime.call_start("runs.resume", r#"{"run_id": "r"}"#).unwrap();
    let mut seen = Vec::new();
    while let Some(event) = next(&stream) {
        if event["type"] == "approval_request" {
            runtime.approval_resolve(event["approval_id"].as_str().unwrap(), &decision.to_string()).unwrap();
        } else if event["type"] == "tool_call" {
            runtime.tool_complete(event["token"].as_u64().unwrap(), "1").unwrap();
        }
        seen.push(event);
    }
    seen
}

fn edit(amount: Value) -> Value {
    json!({"type": "edit", "input": {"amount": amount}})
}

fn inputs(events: &[Value], kind: &str) -> Vec<Value> {
    events.iter().filter(|event| event["type"] == kind).map(|event| event["input"].clone()).collect()
}

#[test]
fn stored_edits_that_do_not_fit_are_asked_for_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("par.db");
    let approval = interrupted(&path);
    let runtime = open(&path);
    // The tool is not registered here, so this cannot be checked yet.
    runtime.approval_resolve(&approval, &edit(json!("much")).to_string()).unwrap();
    register(&runtime);
    let events = resume(&runtime, &edit(json!(3)));
    assert_eq!(inputs(&events, "approval_request"), [json!({"amount": 7})], "{events:?}");
    assert_eq!(inputs(&events, "tool_call"), [json!({"amount": 3})]);
    assert_eq!(events.last().unwrap()["type"], "completed");
}

#[test]
fn stored_edits_that_fit_are_used_without_asking() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("par.db");
    let approval = interrupted(&path);
    let runtime = open(&path);
    runtime.approval_resolve(&approval, &edit(json!(5)).to_string()).unwrap();
    register(&runtime);
    let events = resume(&runtime, &edit(json!(3)));
    assert_eq!(inputs(&events, "approval_request"), Vec::<Value>::new());
    assert_eq!(inputs(&events, "tool_call"), [json!({"amount": 5})]);
}
