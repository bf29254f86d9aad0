//! Bounds of what a model and a host may choose: how many calls an answer makes, how many run at once, how deep JSON is.

mod support;

use futures_util::future::BoxFuture;
use par::runtime::Runtime;
use par::tools::{Invocation, Tool, ToolOutput};
use par::types::Status;
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use support::client::{ask, next, of_type, run, scripted};

/// JSON that is nested so deep, in an object at last.
fn nested(depth: usize) -> Value {
    (1..depth).fold(json!({}), |inner, _| json!({"a": inner}))
}

/// A tool that notes how many of its calls run at the same time. A call ends when as many wait as may.
struct Crowd {
    inside: AtomicUsize,
    most: AtomicUsize,
    expected: usize,
}

impl Crowd {
    fn of(expected: usize) -> Arc<Self> {
        Arc::new(Self { inside: AtomicUsize::new(0), most: AtomicUsize::new(0), expected })
    }
}

impl Tool for Crowd {
    fn call<'a>(&'a self, _: Invocation<'a>) -> BoxFuture<'a, ToolOutput> {
        Box::pin(async {
            let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(inside, Ordering::SeqCst);
            // Time for others to come in, if they may.
            for _ in 0..200 {
                if self.most.load(Ordering::SeqCst) > self.expected {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            self.inside.fetch_sub(1, Ordering::SeqCst);
            Ok(json!("done"))
        })
    }
}

#[test]
fn calls_over_the_limit_of_an_answer_are_not_executed() {
    let calls = |count: usize| vec![json!({"name": "t", "input": {}}); count];
    let config = json!({"limits": {"max_tool_calls_per_turn": 3}, "llm_providers": {"mock": {"type": "mock", "turns": [
        {"tool_calls": calls(5)}, {"text": "done"}]}}});
    let runtime = support::create(&config.to_string()).unwrap();
    let crowd = Crowd::of(3);
    runtime.register_native_tool(r#"{"name": "t"}"#, crowd.clone()).unwrap();
    runtime
        .register_agent(
            &json!({"id": "a", "model": "mock/m", "tools": ["t"], "loop_guard": {"max_repeats": 0}}).to_string(),
        )
        .unwrap();
    let (events, result) = ask(&runtime, "go");
    assert_eq!(result.unwrap()["text"], "done");
    assert_eq!(of_type(&events, "tool_started").len(), 3);
    let refused: Vec<_> =
        of_type(&events, "tool_result").into_iter().filter(|result| result["is_error"] == true).collect();
    assert_eq!(refused.len(), 2);
    assert!(refused[0]["content"].as_str().unwrap().contains("one answer may make 3 tool calls"), "{}", refused[0]);
    let warnings = of_type(&events, "warning");
    assert_eq!((warnings.len(), &warnings[0]["code"]), (1, &json!("too_many_tool_calls")));
}

#[test]
fn the_concurrency_limit_of_a_tool_is_each_agents_own() {
    let calls = vec![json!({"name": "t", "input": {}}); 6];
    let runtime = scripted(json!([{"tool_calls": calls}, {"text": "done"}]));
    // Two calls of each of two agents.
    let crowd = Crowd::of(4);
    runtime.register_native_tool(r#"{"name": "t", "concurrency_limit": 2}"#, crowd.clone()).unwrap();
    for id in ["a", "b"] {
        let agent = json!({"id": id, "model": "mock/m", "tools": ["t"], "loop_guard": {"max_repeats": 0}});
        runtime.register_agent(&agent.to_string()).unwrap();
    }
    std::thread::scope(|scope| {
        let runtime = &runtime;
        for id in ["a", "a", "b"] {
            scope.spawn(move || run(runtime, json!({"agent": id, "input": "go"})).1.unwrap());
        }
    });
    assert_eq!(crowd.most.load(Ordering::SeqCst), 4);
}

#[test]
fn host_tools_without_a_limit_have_a_default_one_for_each_agent() {
    let calls = vec![json!({"name": "t", "input": {}}); 5];
    let config = json!({"limits": {"max_host_tool_calls": 2}, "llm_providers": {"mock": {"type": "mock", "turns": [
        {"tool_calls": calls}, {"text": "done"}]}}});
    let runtime = support::create(&config.to_string()).unwrap();
    runtime.register_tool(r#"{"name": "t"}"#).unwrap();
    runtime
        .register_agent(
            &json!({"id": "a", "model": "mock/m", "tools": ["t"], "loop_guard": {"max_repeats": 0}}).to_string(),
        )
        .unwrap();
    let stream = runtime.stream(r#"{"agent": "a", "input": "go"}"#).unwrap();
    let (mut waiting, mut asked) = (Vec::new(), 0);
    while let Some(event) = next(&stream) {
        if event["type"] == "tool_call" {
            waiting.push(event["token"].as_u64().unwrap());
            asked += 1;
            assert!(waiting.len() <= 2, "{} calls wait at once", waiting.len());
            // The last one comes alone.
            if waiting.len() == 2 || asked == 5 {
                runtime.tool_complete(waiting.remove(0), "1").unwrap();
            }
        } else if event["type"] == "tool_result" && asked == 5 && !waiting.is_empty() {
            runtime.tool_complete(waiting.remove(0), "1").unwrap();
        }
    }
    assert_eq!(asked, 5);
}

#[test]
fn what_is_nested_too_deep_is_refused_with_its_path() {
    let runtime = scripted(json!([{"text": "done"}]));
    runtime.register_agent(r#"{"id": "a", "model": "mock/m"}"#).unwrap();
    for key in ["tag", "variables", "response_schema"] {
        let mut request = json!({"agent": "a", "input": "go"});
        request[key] = nested(65);
        let error = runtime.invoke(&request.to_string(), None).unwrap_err();
        assert!(error.path().unwrap().starts_with(&format!("request.{key}")), "{error}");
        assert!(error.message().contains("nested deeper than 64 levels"), "{error}");
    }
    let tool = json!({"name": "t", "input_schema": nested(65)});
    let path = |refused: par::types::Result<()>| refused.unwrap_err().path().unwrap().to_owned();
    assert!(path(runtime.register_tool(&tool.to_string())).starts_with("tool.input_schema"));
    let tool = json!({"name": "t", "output_schema": nested(65)});
    assert!(path(runtime.register_tool(&tool.to_string())).starts_with("tool.output_schema"));
    let edit = json!({"type": "edit", "input": nested(65)});
    assert!(path(runtime.approval_resolve("x", &edit.to_string())).starts_with("decision.input"));
    for refused in
        [runtime.tool_complete(1, &nested(65).to_string()), runtime.tool_progress(1, &nested(65).to_string())]
    {
        assert_eq!(refused.unwrap_err().status(), Status::Json);
    }
}

/// Everything as deep as it may be is stored, and is read back as it was.
#[test]
fn what_is_accepted_is_stored_and_read_back() {
    let deep = nested(64);
    let folder = tempfile::tempdir().unwrap();
    let config = json!({
        "persistence": {"type": "sqlite", "path": folder.path().join("par.db")},
        "llm_providers": {"mock": {"type": "mock", "turns": [
            {"tool_calls": [{"id": "c1", "name": "t", "input": deep}]}, {"text": deep.to_string()}]}}});
    let runtime = Runtime::create(&config.to_string()).unwrap();
    runtime.register_tool(&json!({"name": "t", "effect": "pure"}).to_string()).unwrap();
    let template = json!({"template": "Say {{x}}.", "variables": ["x"]});
    let agent = json!({"id": "a", "model": "mock/m", "tools": ["t"], "system_prompt_template": template});
    runtime.register_agent(&agent.to_string()).unwrap();
    let request = json!({"agent": "a", "input": "go", "session": "s", "run_id": "r", "tag": deep, "variables": {"x": nested(63)},
                         "response_schema": {"type": "object"}});
    let stream = runtime.stream(&request.to_string()).unwrap();
    while let Some(event) = next(&stream) {
        if event["type"] == "tool_call" {
            let token = event["token"].as_u64().unwrap();
            runtime.tool_progress(token, &deep.to_string()).unwrap();
            runtime.tool_complete(token, &deep.to_string()).unwrap();
        }
    }
    let result: Value = serde_json::from_str(stream.answer().unwrap().as_ref().unwrap()).unwrap();
    assert_eq!(result["output"], deep);
    runtime.close(None).unwrap();
    let runtime = Runtime::create(&config.to_string()).unwrap();
    let call = |method: &str, params: Value| -> Value {
        serde_json::from_str(&runtime.call(method, &params.to_string(), None).unwrap()).unwrap()
    };
    let run = call("runs.get", json!({"run_id": "r"}));
    assert_eq!((&run["status"], &run["result"]["output"]), (&json!("completed"), &deep), "{run}");
    let session = call("sessions.get", json!({"session": "s"}));
    assert!(session.to_string().contains(&deep.to_string()));
    let events = call("events.query", json!({"run_id": "r", "limit": 1000}));
    let events = events["items"].as_array().unwrap();
    assert!(events.iter().all(|event| event["tag"] == deep), "{events:?}");
    assert_eq!(call("store.verify", json!({}))["ok"], true);
}

#[test]
fn arguments_and_answers_of_a_model_that_are_too_deep_are_told_to_it() {
    let deep = nested(65).to_string();
    let runtime = scripted(json!([
        {"tool_calls": [{"id": "c1", "name": "t", "input": deep}]}, {"text": deep}, {"text": "{}"}]));
    runtime.register_tool(r#"{"name": "t"}"#).unwrap();
    runtime.register_agent(r#"{"id": "a", "model": "mock/m", "tools": ["t"]}"#).unwrap();
    let request = json!({"agent": "a", "input": "go", "response_schema": {"type": "object"}});
    let (events, result) = run(&runtime, request);
    assert_eq!(result.unwrap()["output"], json!({}));
    let told = of_type(&events, "tool_result")[0]["content"].as_str().unwrap().to_owned();
    assert!(told.contains("nested deeper than 64 levels"), "{told}");
    assert!(of_type(&events, "tool_call").is_empty());
}
