//! Runs: the loop, its tools, its ends, sessions, and closing. On the scripted provider, through the Rust SDK.

mod support;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use par::llm::{DeltaSink, ModelAnswer, ModelRequest, Provider};
use par::runtime::Runtime;
use par::tools::{Invocation, Review, Tool, ToolFailure, ToolOutput};
use par::types::{Error, Status};
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::client::{ask, events, next, of_type, run, scripted, types};

fn agent(runtime: &Runtime, tools: Value) {
    runtime.register_agent(&json!({"id": "a", "model": "mock/m", "tools": tools}).to_string()).unwrap();
}

fn tool(runtime: &Runtime, name: &str, extra: Value) {
    let mut definition = json!({"name": name, "description": "A tool."});
    for (key, value) in extra.as_object().unwrap() {
        definition[key] = value.clone();
    }
    runtime.register_tool(&definition.to_string()).unwrap();
}

fn invoke(runtime: &Runtime, request: Value) -> Result<Value, Error> {
    runtime.invoke(&request.to_string(), None).map(|json| serde_json::from_str(&json).unwrap())
}

#[test]
fn blocking_and_streaming_are_the_same_run() {
    let runtime = scripted(
        json!([{"reasoning": "Let me think.", "text": "Hello there", "usage": {"input_tokens": 3, "output_tokens": 2}}]),
    );
    agent(&runtime, json!([]));
    let mut blocking = invoke(&runtime, json!({"agent": "a", "input": "Hi"})).unwrap();
    let (events, streamed) = ask(&runtime, "Hi");
    let mut streamed = streamed.unwrap();
    for result in [&mut blocking, &mut streamed] {
        assert!(result["run_id"].take().is_string());
        assert!(result["duration_ms"].take().as_u64().is_some_and(|duration| duration < 10_000));
    }
    assert_eq!(blocking, streamed);
    assert_eq!(
        types(&events),
        [
            "run_started",
            "turn_started",
            "reasoning_delta",
            "reasoning_delta",
            "reasoning_delta",
            "text_delta",
            "text_delta",
            "usage_update",
            "completed"
        ]
    );
    assert_eq!(
        blocking["parts"],
        json!([{"type": "reasoning", "text": "Let me think."}, {"type": "text", "text": "Hello there"}])
    );
}

#[test]
fn a_stream_of_the_result_alone_has_host_work_and_the_end() {
    let runtime = scripted(json!([{"tool_calls": [{"name": "t"}], "text": "Let me see."}, {"text": "done"}]));
    tool(&runtime, "t", json!({}));
    agent(&runtime, json!(["t"]));
    let stream = runtime.stream(r#"{"agent": "a", "input": "go", "events": "result"}"#).unwrap();
    let mut seen = Vec::new();
    while let Some(event) = next(&stream) {
        if let Some(token) = event["token"].as_u64() {
            runtime.tool_complete(token, "1").unwrap();
        }
        seen.push(event);
    }
    assert_eq!(types(&seen), ["tool_call", "completed"]);
    assert_eq!(seen[1]["text"], "done");
    let blocking = runtime.invoke(r#"{"agent": "a", "input": "go", "events": "result"}"#, None).unwrap_err();
    assert_eq!(blocking.path(), Some("request.events"));
}

#[test]
fn a_session_continues_and_others_do_not_see_it() {
    let runtime = scripted(Value::Null);
    agent(&runtime, json!([]));
    for (session, input) in [("s1", "one"), ("s1", "two"), ("s2", "three")] {
        invoke(&runtime, json!({"agent": "a", "input": input, "session": session})).unwrap();
    }
    let get = |session: &str| -> Value {
        let params = json!({"session": session}).to_string();
        serde_json::from_str(&runtime.call("sessions.get", &params, None).unwrap()).unwrap()
    };
    let text = |text: &str| json!([{"type": "text", "text": text}]);
    assert_eq!(
        get("s1")["messages"],
        json!([{"role": "user", "parts": text("one")}, {"role": "assistant", "parts": text("one")},
               {"role": "user", "parts": text("two")}, {"role": "assistant", "parts": text("two")}])
    );
    assert_eq!(get("s2")["messages"].as_array().unwrap().len(), 2);
    runtime.call("sessions.delete", r#"{"session": "s1"}"#, None).unwrap();
    assert_eq!(runtime.call("sessions.get", r#"{"session": "s1"}"#, None).unwrap_err().status(), Status::NotFound);
}

#[test]
fn a_run_that_failed_before_an_answer_leaves_its_session_as_it_was() {
    let config = json!({"llm_providers": {"mock": {"type": "mock", "scope": "provider", "turns": [
        {"text": "one"}, {"error": {"http_status": 400}}, {"expect": {"messages": 3}, "text": "two"}]}}});
    let runtime = support::create(&config.to_string()).unwrap();
    agent(&runtime, json!([]));
    let request = json!({"agent": "a", "input": "Hi", "session": "s"});
    invoke(&runtime, request.clone()).unwrap();
    assert_eq!(invoke(&runtime, request.clone()).unwrap_err().status(), Status::Provider);
    assert_eq!(invoke(&runtime, request).unwrap()["text"], "two");
}

#[test]
fn a_run_that_was_cancelled_in_a_tool_keeps_an_honest_session() {
    let config = json!({"llm_providers": {"mock": {"type": "mock", "scope": "provider", "turns": [
        {"tool_calls": [{"id": "c1", "name": "slow"}, {"id": "c2", "name": "quick"}]}, {"text": "fine"}]}}});
    let runtime = support::create(&config.to_string()).unwrap();
    tool(&runtime, "slow", json!({}));
    tool(&runtime, "quick", json!({}));
    agent(&runtime, json!(["slow", "quick"]));
    let stream = runtime.stream(r#"{"agent": "a", "input": "go", "session": "s"}"#).unwrap();
    let mut cancelled = Vec::new();
    while let Some(event) = next(&stream) {
        match event["type"].as_str().unwrap() {
            "tool_call" if event["name"] == "quick" => {
                runtime.tool_complete(event["token"].as_u64().unwrap(), "\"done\"").unwrap();
            }
            "tool_result" => stream.cancel("changed my mind"),
            "tool_cancelled" => cancelled.push(event.clone()),
            "cancelled" => assert_eq!(event["reason"], "changed my mind"),
            _ => {}
        }
    }
    assert_eq!(cancelled.len(), 1);
    let token = cancelled[0]["token"].as_u64().unwrap();
    assert_eq!(runtime.tool_complete(token, "1").unwrap_err().status(), Status::StaleToken);
    let session: Value =
        serde_json::from_str(&runtime.call("sessions.get", r#"{"session": "s"}"#, None).unwrap()).unwrap();
    let messages = session["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 4, "{session}");
    assert!(messages[2]["content"].as_str().unwrap().contains("may have taken effect"), "{session}");
    assert_eq!(messages[3]["content"], "done");
    assert_eq!(
        invoke(&scripted_handler(&runtime), json!({"agent": "a", "input": "on", "session": "s"})).unwrap()["text"],
        "fine"
    );
}

/// A blocking run of an agent with host tools needs a way to the host: the inbox is one.
fn scripted_handler(runtime: &Runtime) -> Runtime {
    runtime.inbox();
    runtime.clone()
}

struct Sleepy {
    running: AtomicUsize,
    most: AtomicUsize,
}

impl Tool for Sleepy {
    fn call<'a>(&'a self, invocation: Invocation<'a>) -> BoxFuture<'a, ToolOutput> {
        async move {
            let now = self.running.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(invocation.input["ms"].as_u64().unwrap())).await;
            self.running.fetch_sub(1, Ordering::SeqCst);
            Ok(invocation.input["ms"].clone())
        }
        .boxed()
    }
}

fn sleepy(definition: Value, parallel: bool) -> (usize, Vec<String>) {
    let calls: Vec<Value> = [40, 20, 5].iter().map(|ms| json!({"name": "sleepy", "input": {"ms": ms}})).collect();
    let runtime = scripted(json!([{"tool_calls": calls}, {"text": "done"}]));
    let tool = Arc::new(Sleepy { running: AtomicUsize::new(0), most: AtomicUsize::new(0) });
    runtime.register_native_tool(&definition.to_string(), tool.clone()).unwrap();
    let agent = json!({"id": "a", "model": "mock/m", "tools": ["sleepy"], "parallel_tool_execution": parallel});
    runtime.register_agent(&agent.to_string()).unwrap();
    let session = json!({"agent": "a", "input": "go", "session": "s"});
    invoke(&runtime, session).unwrap();
    let session: Value =
        serde_json::from_str(&runtime.call("sessions.get", r#"{"session": "s"}"#, None).unwrap()).unwrap();
    let results = session["messages"].as_array().unwrap().iter().filter(|m| m["role"] == "tool");
    (tool.most.load(Ordering::SeqCst), results.map(|m| m["content"].as_str().unwrap().to_owned()).collect())
}

#[test]
fn tools_run_together_one_by_one_or_within_their_limit_and_answer_in_call_order() {
    let order = ["40", "20", "5"].map(str::to_owned).to_vec();
    assert_eq!(sleepy(json!({"name": "sleepy"}), true), (3, order.clone()));
    assert_eq!(sleepy(json!({"name": "sleepy"}), false), (1, order.clone()));
    assert_eq!(sleepy(json!({"name": "sleepy", "concurrency_limit": 2}), true), (2, order));
}

#[test]
fn a_tool_past_its_time_is_told_and_the_run_goes_on() {
    let runtime = scripted(json!([
        {"tool_calls": [{"name": "sleepy", "input": {"ms": 10_000}}]},
        {"expect": {"last_message_contains": "did not answer within 0.05 s"}, "text": "never mind"}
    ]));
    let tool = Arc::new(Sleepy { running: AtomicUsize::new(0), most: AtomicUsize::new(0) });
    runtime.register_native_tool(r#"{"name": "sleepy", "timeout": 0.05}"#, tool).unwrap();
    agent(&runtime, json!(["sleepy"]));
    assert_eq!(invoke(&runtime, json!({"agent": "a", "input": "go"})).unwrap()["text"], "never mind");
}

#[test]
fn what_the_model_calls_wrongly_it_hears() {
    let cases = [
        (json!([{"name": "nothing"}]), json!({}), "There is no tool"),
        (json!([{"name": "t", "input": "{broken"}]), json!({}), "not valid JSON"),
        (
            json!([{"name": "t", "input": {"x": "one"}}]),
            json!({"input_schema": {"properties": {"x": {"type": "integer"}}}}),
            "not of type",
        ),
        (json!([{"name": "t"}]), json!({"permission": "deny"}), "not allowed"),
    ];
    for (calls, definition, wanted) in cases {
        let runtime =
            scripted(json!([{"tool_calls": calls}, {"expect": {"last_message_contains": wanted}, "text": "ok"}]));
        tool(&runtime, "t", definition);
        agent(&runtime, json!(["t"]));
        let (events, result) = ask(&runtime, "go");
        assert_eq!(result.unwrap()["text"], "ok", "{wanted}");
        assert_eq!(of_type(&events, "tool_result")[0]["is_error"], true);
        assert_eq!(of_type(&events, "tool_call").len(), 0, "the host is not asked");
    }
}

#[test]
fn an_output_that_breaks_its_schema_is_an_error_for_the_model() {
    let runtime = scripted(
        json!([{"tool_calls": [{"name": "t"}]}, {"expect": {"last_message_contains": "output schema"}, "text": "ok"}]),
    );
    tool(&runtime, "t", json!({"output_schema": {"type": "integer"}}));
    agent(&runtime, json!(["t"]));
    let stream = runtime.stream(r#"{"agent": "a", "input": "go"}"#).unwrap();
    while let Some(event) = next(&stream) {
        if event["type"] == "tool_call" {
            runtime.tool_complete(event["token"].as_u64().unwrap(), "\"text\"").unwrap();
        }
    }
    assert!(stream.answer().unwrap().is_ok());
}

#[test]
fn an_agent_that_never_ends_is_stopped() {
    let turns: Vec<Value> = (0..5).map(|_| json!({"tool_calls": [{"name": "nothing"}]})).collect();
    let runtime = scripted(json!(turns));
    runtime.register_agent(r#"{"id": "a", "model": "mock/m", "max_iterations": 3}"#).unwrap();
    let (events, result) = ask(&runtime, "go");
    let error = result.unwrap_err();
    assert_eq!((error.status(), error.code()), (Status::Limit, Some("max_iterations")));
    assert_eq!(of_type(&events, "turn_started").len(), 3);
}

#[test]
fn deadlines_end_runs_and_say_so() {
    let runtime = scripted(json!([{"text": "a b c", "delay_ms": 10_000}]));
    agent(&runtime, json!([]));
    let start = Instant::now();
    let error = runtime.invoke(r#"{"agent": "a", "input": "go"}"#, Some(Duration::from_millis(50))).unwrap_err();
    assert_eq!(error.status(), Status::Deadline);
    let error = run(&runtime, json!({"agent": "a", "input": "go", "timeout_ms": 50})).1.unwrap_err();
    assert_eq!(error.status(), Status::Deadline);
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_blocked_call_can_be_cancelled_from_elsewhere() {
    let runtime = scripted(json!([{"text": "a b c", "delay_ms": 10_000}]));
    agent(&runtime, json!([]));
    let blocked = std::thread::spawn({
        let runtime = runtime.clone();
        move || runtime.invoke(r#"{"agent": "a", "input": "go", "run_id": "mine"}"#, None)
    });
    while runtime.run_status("mine").is_err() {
        std::thread::yield_now();
    }
    let twice = runtime.stream(r#"{"agent": "a", "input": "go", "run_id": "mine"}"#).err().unwrap();
    assert_eq!(twice.status(), Status::Exists);
    let start = Instant::now();
    runtime.cancel_run("mine", "no longer needed").unwrap();
    let error = blocked.join().unwrap().unwrap_err();
    assert!(start.elapsed() < Duration::from_millis(500));
    assert_eq!(error.status(), Status::Cancelled);
    assert!(error.message().contains("no longer needed"), "{error:?}");
    assert_eq!(runtime.cancel_run("mine", "again").unwrap_err().status(), Status::NotFound);
}

/// A provider that panics: before its future, or inside.
struct Panics {
    at_once: bool,
}

impl Provider for Panics {
    fn name(&self) -> &str {
        "panics"
    }

    fn kind(&self) -> &'static str {
        "test"
    }

    fn request<'a>(
        &'a self,
        _: &'a ModelRequest<'a>,
        _: &'a mut dyn DeltaSink,
    ) -> BoxFuture<'a, Result<ModelAnswer, Error>> {
        if self.at_once {
            std::panic::resume_unwind(Box::new("boom"));
        }
        async { std::panic::resume_unwind(Box::new("boom")) }.boxed()
    }
}

struct PanickingTool;

impl Tool for PanickingTool {
    fn call<'a>(&'a self, _: Invocation<'a>) -> BoxFuture<'a, ToolOutput> {
        std::panic::resume_unwind(Box::new("boom"));
    }
}

#[test]
fn a_panic_ends_one_run_and_nothing_else() {
    for at_once in [true, false] {
        let runtime = scripted(Value::Null);
        runtime.register_provider(Arc::new(Panics { at_once })).unwrap();
        runtime.register_agent(r#"{"id": "p", "model": "panics/m"}"#).unwrap();
        agent(&runtime, json!([]));
        let (events, result) = run(&runtime, json!({"agent": "p", "input": "x"}));
        assert_eq!(result.unwrap_err().status(), Status::Panic);
        assert_eq!(events.last().unwrap()["error"]["name"], "PAR_ERR_PANIC");
        assert_eq!(invoke(&runtime, json!({"agent": "p", "input": "x"})).unwrap_err().status(), Status::Panic);
        assert_eq!(invoke(&runtime, json!({"agent": "a", "input": "still here"})).unwrap()["text"], "still here");
    }
}

#[test]
fn a_panicking_tool_is_a_failed_tool() {
    let runtime =
        scripted(json!([{"tool_calls": [{"name": "t"}]}, {"expect": {"last_message_contains": "boom"}, "text": "ok"}]));
    runtime.register_native_tool(r#"{"name": "t"}"#, Arc::new(PanickingTool)).unwrap();
    agent(&runtime, json!(["t"]));
    assert_eq!(invoke(&runtime, json!({"agent": "a", "input": "go"})).unwrap()["text"], "ok");
}

struct Fails;

impl Tool for Fails {
    fn call<'a>(&'a self, _: Invocation<'a>) -> BoxFuture<'a, ToolOutput> {
        let failure =
            ToolFailure { message: "no such city".into(), code: Some("unknown_city".into()), retryable: true };
        std::future::ready(Err(failure)).boxed()
    }
}

/// Reviews its own calls: 1 goes, 2 is asked for, 3 is refused.
struct Careful;

impl Tool for Careful {
    fn call<'a>(&'a self, invocation: Invocation<'a>) -> BoxFuture<'a, ToolOutput> {
        invocation.progress(&json!({"half": true}));
        std::future::ready(Ok(invocation.input["n"].clone())).boxed()
    }

    fn review(&self, invocation: &Invocation<'_>) -> Result<Review, ToolFailure> {
        match invocation.input["n"].as_u64() {
            Some(1) => Ok(Review::Go),
            Some(2) => Ok(Review::Ask("two is a lot".into())),
            _ => Err(ToolFailure::new("three is too much")),
        }
    }

    fn may_ask(&self) -> bool {
        true
    }
}

#[test]
fn a_tool_reviews_its_calls_and_says_how_far_it_is() {
    let call = |n: u64| json!({"id": format!("c{n}"), "name": "t", "input": {"n": n}});
    let runtime = scripted(json!([{"tool_calls": [call(1), call(2), call(3)]}, {"text": "ok"}]));
    let definition = r#"{"name": "t", "input_schema": {"properties": {"n": {"type": "integer"}}}}"#;
    runtime.register_native_tool(definition, Arc::new(Careful)).unwrap();
    agent(&runtime, json!(["t"]));
    let refused = invoke(&runtime, json!({"agent": "a", "input": "go"})).unwrap_err();
    assert_eq!(refused.status(), Status::NoHandler, "a blocking call has no way to ask");
    let stream = runtime.stream(r#"{"agent": "a", "input": "go"}"#).unwrap();
    let mut seen = Vec::new();
    while let Some(event) = next(&stream) {
        if event["type"] == "approval_request" {
            assert_eq!(event["reason"], "two is a lot");
            runtime.approval_resolve(event["approval_id"].as_str().unwrap(), "\"approve\"").unwrap();
        }
        seen.push(event);
    }
    let results: Vec<_> = of_type(&seen, "tool_result").into_iter().map(|event| event["content"].clone()).collect();
    assert_eq!(of_type(&seen, "tool_progress").len(), 2);
    assert!(results.contains(&json!("1")) && results.contains(&json!("2")), "{results:?}");
    assert!(results.contains(&json!("The tool failed: three is too much")), "{results:?}");
}

#[test]
fn a_failing_tool_tells_the_model_why() {
    let runtime = scripted(json!([{"tool_calls": [{"name": "t"}]},
        {"expect": {"last_message_contains": "[unknown_city]: no such city You may try again"}, "text": "ok"}]));
    runtime.register_native_tool(r#"{"name": "t"}"#, Arc::new(Fails)).unwrap();
    agent(&runtime, json!(["t"]));
    assert_eq!(invoke(&runtime, json!({"agent": "a", "input": "go"})).unwrap()["text"], "ok");
}

#[test]
fn closing_cancels_reports_and_leaves_streams_readable() {
    let runtime = scripted(json!([{"text": "a b c", "delay_ms": 10_000}]));
    agent(&runtime, json!([]));
    let stream = runtime.stream(r#"{"agent": "a", "input": "go"}"#).unwrap();
    let blocked = std::thread::spawn({
        let runtime = runtime.clone();
        move || runtime.invoke(r#"{"agent": "a", "input": "go", "run_id": "b"}"#, None)
    });
    while runtime.run_status("b").is_err() {
        std::thread::yield_now();
    }
    let report = runtime.close(Some(Duration::from_secs(5))).expect("closed in time");
    assert_eq!((report.exit_code, report.runs_cancelled), (0, 2));
    assert_eq!(blocked.join().unwrap().unwrap_err().status(), Status::Cancelled);
    let events = events(&stream);
    assert_eq!(events.last().unwrap()["type"], "cancelled");
    assert_eq!(runtime.stream(r#"{"agent": "a", "input": "go"}"#).err().unwrap().status(), Status::Closed);
    assert_eq!(runtime.info()["close"]["runs_cancelled"], 2);
    assert_eq!(runtime.close(None).unwrap(), report, "closing twice tells the same");
}

#[test]
fn a_drain_timeout_lets_runs_end_by_themselves() {
    let config = json!({"shutdown": {"drain_timeout": 5}, "llm_providers": {"mock": {"type": "mock", "turns": [{"text": "a b", "delay_ms": 50}]}}});
    let runtime = support::create(&config.to_string()).unwrap();
    agent(&runtime, json!([]));
    let stream = runtime.stream(r#"{"agent": "a", "input": "go"}"#).unwrap();
    assert_eq!(runtime.close(None).unwrap().runs_cancelled, 0);
    assert!(stream.answer().unwrap().is_ok());
}

#[test]
fn a_script_that_was_not_played_is_reported() {
    let config = json!({"llm_providers": {"mock": {"type": "mock", "assert_complete": true, "turns": [{"text": "a"}, {"text": "b"}]}}});
    let runtime = support::create(&config.to_string()).unwrap();
    agent(&runtime, json!([]));
    ask(&runtime, "x").1.unwrap();
    let report = runtime.close(None).unwrap();
    assert_eq!((report.exit_code, report.unreached.len()), (1, 1));
}

#[test]
fn bounds_are_errors_and_retryable_where_waiting_helps() {
    let config = json!({"limits": {"max_runs": 1}, "llm_providers": {"mock": {"type": "mock", "turns": [{"text": "a", "delay_ms": 10_000}]}}});
    let runtime = support::create(&config.to_string()).unwrap();
    agent(&runtime, json!([]));
    let _first = runtime.stream(r#"{"agent": "a", "input": "x"}"#).unwrap();
    let error = runtime.stream(r#"{"agent": "a", "input": "x"}"#).err().unwrap();
    assert_eq!((error.status(), error.is_retryable()), (Status::Limit, true));
}

#[test]
fn the_description_is_complete() {
    let runtime = support::create("{}").unwrap();
    let described: Value = serde_json::from_str(&runtime.call("describe", "", None).unwrap()).unwrap();
    for (method, about) in described["methods"].as_object().unwrap() {
        assert!(about["params"].is_object() && about["description"].is_string(), "{method}");
        // Every method is there: it answers, or says what it misses.
        if let Err(error) = runtime.call(method, "{}", None) {
            let is_kept = error.code() != Some("not_persistent");
            assert!(error.status() == Status::Schema || !is_kept, "{method}: {error:?}");
        }
        let unknown = runtime.call(method, r#"{"surprise": 1}"#, None).unwrap_err();
        assert_eq!(unknown.path(), Some("params.surprise"), "{method}: {unknown:?}");
    }
    let builtin = described["builtin_tools"].as_array().unwrap();
    let calculator = builtin.iter().find(|tool| tool["name"] == "calculator").unwrap();
    assert_eq!(calculator["sets"], json!(["builtin:all", "builtin:readonly"]));
    assert_eq!(calculator["input_schema"]["required"], json!(["expression"]));
    assert_eq!(calculator["output_schema"]["type"], "number");
    for schema in described["schemas"].as_object().unwrap().values() {
        assert!(schema.get("properties").or(schema.get("oneOf")).or(schema.get("items")).is_some(), "{schema}");
    }
    let error = runtime.call("sessions.lst", "", None).unwrap_err();
    assert_eq!(error.hint(), Some("did you mean \"sessions.list\"?"));
}

/// A result says how long the run took, and so does the terminal event.
#[test]
fn a_result_has_its_duration() {
    let runtime = scripted(json!([{"text": "x", "delay_ms": 120}]));
    agent(&runtime, json!([]));
    let (events, result) = ask(&runtime, "x");
    let duration = result.unwrap()["duration_ms"].as_u64().unwrap();
    assert!((120..10_000).contains(&duration), "{duration}");
    assert_eq!(events.last().unwrap()["duration_ms"], duration);
}

/// When a stream has a result, all of its events can be read. (capi_tests/stream.c has the same of the descriptor.)
#[test]
fn a_result_is_there_with_the_last_event_and_not_before() {
    let runtime = scripted(json!([{"text": "abc", "chunks": ["a", "b", "c"]}]));
    agent(&runtime, json!([]));
    for _ in 0..300 {
        let stream = runtime.stream(r#"{"agent": "a", "input": "x"}"#).unwrap();
        let answer = loop {
            if let Some(answer) = stream.answer() {
                break answer;
            }
            std::hint::spin_loop();
        };
        answer.unwrap();
        assert!(stream.info().contains(r#""state":"completed""#));
        let mut last = Value::Null;
        loop {
            let parse = |event: &[u8]| serde_json::from_slice::<Value>(event).unwrap();
            match stream.queue().poll(parse).unwrap() {
                par::events::Polled::Event(event) => last = event,
                par::events::Polled::End => break,
                par::events::Polled::Pending => panic!("there is a result, and no event behind {last}"),
            }
        }
        assert_eq!(last["type"], "completed");
    }
}
