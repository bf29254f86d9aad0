//! The OpenAI chat provider against a server that does what servers do: split, stall, cut, fail and lie.

mod support;

use par::types::{Category, Status};
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::client::{ask, of_type, run, runtime_for, text, types};
use support::{FakeServer, Reply, openai};

fn one(reply: Reply) -> FakeServer {
    FakeServer::start([reply])
}

fn hello() -> Vec<String> {
    openai::text_chunks(["Hel", "lo ", "wörld"], openai::usage(12, 3))
}

#[test]
fn a_text_streams_and_adds_up() {
    let server = one(Reply::sse(hello()));
    let (events, result) = ask(&runtime_for(&server.base_url(), json!({})), "Hi");
    let result = result.unwrap();
    assert_eq!(text(&events), "Hello wörld");
    assert_eq!(
        types(&events),
        ["run_started", "turn_started", "text_delta", "text_delta", "text_delta", "usage_update", "completed"]
    );
    let seqs: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=events.len() as u64).collect::<Vec<_>>());
    assert_eq!(
        json!([result["text"], result["finish_reason"], result["usage"], result["model"], result["iterations"]]),
        json!(["Hello wörld", "stop", {"input_tokens": 12, "output_tokens": 3}, "fake-1", 1])
    );
    let request = &server.requests()[0];
    assert_eq!(request.path, "/v1/chat/completions");
    assert_eq!(request.header("authorization"), Some("Bearer secret-key"));
    assert_eq!(
        request.body,
        json!({"model": "m", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
               "stream": true, "stream_options": {"include_usage": true}})
    );
}

/// Byte positions of the body: every one of them is a place where a network may cut.
#[test]
fn a_stream_split_at_every_byte_reads_the_same() {
    let body: String = hello().iter().map(|payload| format!("data: {payload}\r\n\r\n")).collect();
    let server = FakeServer::with({
        let body = body.clone();
        move |_, n| Reply::event_stream().chunk(body.clone()).split_at(&[n])
    });
    let runtime = runtime_for(&server.base_url(), json!({}));
    for position in 0..body.len() {
        let result: Value =
            serde_json::from_str(&runtime.invoke(r#"{"agent": "a", "input": "Hi"}"#, None).unwrap()).unwrap();
        assert_eq!(
            (&result["text"], &result["usage"]["output_tokens"]),
            (&json!("Hello wörld"), &json!(3)),
            "{position}"
        );
    }
    assert_eq!(server.connections(), 1, "the connection is kept");
}

#[test]
fn a_whole_answer_is_read_too_asked_for_or_not() {
    for stream in [true, false] {
        let server = one(Reply::json(&openai::completion("Hello", openai::usage(1, 2))));
        let (events, result) = ask(&runtime_for(&server.base_url(), json!({"stream": stream})), "Hi");
        assert_eq!((text(&events).as_str(), &result.unwrap()["text"]), ("Hello", &json!("Hello")));
        assert_eq!(server.requests()[0].body["stream"], stream);
    }
}

fn with_add(server: &FakeServer) -> par::runtime::Runtime {
    let runtime = runtime_for(&server.base_url(), json!({}));
    runtime
        .register_tool(
            r#"{"name": "add", "description": "Adds.", "input_schema": {"type": "object",
                "properties": {"a": {"type": "number"}, "b": {"type": "number"}}, "required": ["a", "b"]}}"#,
        )
        .unwrap();
    runtime.register_agent(r#"{"id": "t", "model": "p/m", "tools": ["add"]}"#).unwrap();
    runtime
}

/// Runs the agent `t`, answering each host call with the sum of its arguments.
fn adding(runtime: &par::runtime::Runtime) -> (Vec<Value>, Result<Value, par::types::Error>) {
    let stream = runtime.stream(r#"{"agent": "t", "input": "add"}"#).unwrap();
    let mut events = Vec::new();
    while let Some(event) = support::client::next(&stream) {
        if event["type"] == "tool_call" {
            let sum = event["input"]["a"].as_f64().unwrap() + event["input"]["b"].as_f64().unwrap();
            runtime.tool_complete(event["token"].as_u64().unwrap(), &sum.to_string()).unwrap();
        }
        events.push(event);
    }
    let answer = stream.answer().unwrap().clone();
    (events, answer.map(|json| serde_json::from_str(&json).unwrap()))
}

#[test]
fn parallel_calls_are_answered_in_call_order() {
    let calls = [openai::call("c1", "add", r#"{"a":1,"b":2}"#), openai::call("c2", "add", r#"{"a":10,"b":20}"#)];
    let server = FakeServer::start([
        Reply::sse(openai::tool_call_chunks(calls, openai::usage(5, 5))).split_every(3),
        Reply::sse(openai::text_chunks(["3 and 30"], openai::usage(9, 4))),
    ]);
    let (events, result) = adding(&with_add(&server));
    let result = result.unwrap();
    assert_eq!(result["text"], "3 and 30");
    assert_eq!(result["usage"], json!({"input_tokens": 14, "output_tokens": 9}));
    assert_eq!(result["tool_calls"][1]["input"], json!({"a": 10, "b": 20}));
    let arguments: String = of_type(&events, "tool_call_delta")
        .iter()
        .filter(|event| event["tool_call_id"] == "c1")
        .map(|event| event["args_json"].as_str().unwrap())
        .collect();
    assert_eq!(arguments, r#"{"a":1,"b":2}"#);
    assert_eq!(
        server.requests()[1].body["messages"],
        json!([
            {"role": "user", "content": "add"},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{\"a\":1,\"b\":2}"}},
                {"id": "c2", "type": "function", "function": {"name": "add", "arguments": "{\"a\":10,\"b\":20}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "3"},
            {"role": "tool", "tool_call_id": "c2", "content": "30"}
        ])
    );
    assert_eq!(server.requests()[0].body["tools"][0]["function"]["name"], "add");
}

/// The name of a case, the chunks a server really sends, and the calls they must make: id, or "" for any, and input.
type AssemblyCase = (&'static str, Vec<String>, Vec<(&'static str, Value)>);

#[test]
fn calls_assemble_as_servers_send_them() {
    let call = |value: Value| openai::chunk(json!({"tool_calls": [value]}), None);
    let cases: Vec<AssemblyCase> = vec![
        (
            "no index, whole arguments (old Ollama)",
            vec![
                call(json!({"function": {"name": "add", "arguments": "{\"a\":1,\"b\":1}"}})),
                call(json!({"function": {"name": "add", "arguments": "{\"a\":2,\"b\":2}"}})),
            ],
            vec![("", json!({"a": 1, "b": 1})), ("", json!({"a": 2, "b": 2}))],
        ),
        (
            "index always 0, ids differ (Ollama)",
            vec![
                call(json!({"index": 0, "id": "x", "function": {"name": "add", "arguments": "{\"a\":1,\"b\":1}"}})),
                call(json!({"index": 0, "id": "y", "function": {"name": "add", "arguments": "{\"a\":2,\"b\":2}"}})),
            ],
            vec![("x", json!({"a": 1, "b": 1})), ("y", json!({"a": 2, "b": 2}))],
        ),
        (
            "name and id repeat on each chunk",
            vec![
                call(json!({"index": 0, "id": "x", "function": {"name": "add", "arguments": "{\"a\":1"}})),
                call(json!({"index": 0, "id": "x", "function": {"name": "add", "arguments": ",\"b\":2}"}})),
            ],
            vec![("x", json!({"a": 1, "b": 2}))],
        ),
        (
            "id \"null\", then empty; sparse index",
            vec![
                call(json!({"index": 3, "id": "null", "function": {"name": "add", "arguments": ""}})),
                call(json!({"index": 3, "id": "", "function": {"arguments": "{\"a\":1,\"b\":2}"}})),
            ],
            vec![("", json!({"a": 1, "b": 2}))],
        ),
        (
            "arguments as an object, then null",
            vec![
                call(json!({"index": 0, "id": "x", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}})),
                call(json!({"index": 0, "function": {"arguments": null}})),
            ],
            vec![("x", json!({"a": 1, "b": 2}))],
        ),
        (
            "one id for two calls: made unique",
            vec![
                call(json!({"index": 0, "id": "x", "function": {"name": "add", "arguments": "{\"a\":1,\"b\":1}"}})),
                call(json!({"index": 1, "id": "x", "function": {"name": "add", "arguments": "{\"a\":2,\"b\":2}"}})),
            ],
            vec![("x", json!({"a": 1, "b": 1})), ("", json!({"a": 2, "b": 2}))],
        ),
    ];
    for (name, mut chunks, expected) in cases {
        // Servers say `stop` although there are calls.
        chunks.push(openai::chunk(json!({}), Some("stop")));
        chunks.push("[DONE]".into());
        let server = FakeServer::start([Reply::sse(chunks), Reply::sse(openai::text_chunks(["ok"], None))]);
        let (events, result) = adding(&with_add(&server));
        assert_eq!(result.unwrap()["text"], "ok", "{name}");
        let calls = of_type(&events, "tool_call");
        let mut ids: Vec<&Value> = calls.iter().map(|event| &event["tool_call_id"]).collect();
        for (event, (id, input)) in calls.iter().zip(&expected) {
            assert_eq!(&event["input"], input, "{name}");
            assert!(id.is_empty() || event["tool_call_id"] == *id, "{name}: {event}");
        }
        assert_eq!(calls.len(), expected.len(), "{name}");
        ids.dedup();
        assert_eq!(ids.len(), expected.len(), "{name}: ids are unique");
        assert!(ids.iter().all(|id| id.as_str().is_some_and(|id| !id.is_empty())), "{name}");
    }
}

#[test]
fn the_same_id_in_the_next_turn_is_made_unique() {
    let calls = || openai::tool_call_chunks([openai::call("c1", "add", r#"{"a":1,"b":2}"#)], None);
    let server =
        FakeServer::start([Reply::sse(calls()), Reply::sse(calls()), Reply::sse(openai::text_chunks(["ok"], None))]);
    let (events, result) = adding(&with_add(&server));
    assert_eq!(result.unwrap()["text"], "ok");
    let calls = of_type(&events, "tool_call");
    assert_ne!(calls[0]["tool_call_id"], calls[1]["tool_call_id"]);
}

#[test]
fn bad_arguments_never_reach_the_host_and_the_model_hears_why() {
    for (arguments, wanted) in [("{\"a\":", "not valid JSON"), ("{\"a\":1}", "\"b\" is a required property")] {
        let server = FakeServer::start([
            Reply::sse(openai::tool_call_chunks([openai::call("c1", "add", arguments)], None)),
            Reply::sse(openai::text_chunks(["sorry"], None)),
        ]);
        let (events, result) = adding(&with_add(&server));
        assert_eq!(result.unwrap()["text"], "sorry");
        assert_eq!(of_type(&events, "tool_call").len(), 0);
        let told = server.requests()[1].body["messages"][2]["content"].as_str().unwrap().to_owned();
        assert!(told.contains(wanted), "{told}");
    }
}

#[test]
fn usage_counts_once_whatever_the_server_repeats() {
    let cumulative = |n: u64| {
        let mut chunk: Value = serde_json::from_str(&openai::chunk(json!({"content": "x"}), None)).unwrap();
        chunk["usage"] = json!({"prompt_tokens": 100, "completion_tokens": n, "prompt_tokens_details": {"cached_tokens": 64},
                                "completion_tokens_details": {"reasoning_tokens": 1}});
        chunk.to_string()
    };
    let server =
        one(Reply::sse([cumulative(1), cumulative(2), openai::chunk(json!({}), Some("stop")), "[DONE]".into()]));
    let (_, result) = ask(&runtime_for(&server.base_url(), json!({})), "Hi");
    assert_eq!(
        result.unwrap()["usage"],
        json!({"input_tokens": 36, "output_tokens": 2, "cache_read_tokens": 64, "reasoning_tokens": 1})
    );
}

#[test]
fn reasoning_refusal_and_odd_shapes_are_understood() {
    let cases = [
        (json!({"reasoning_content": "hm"}), "reasoning", "hm"),
        (json!({"reasoning": "hm"}), "reasoning", "hm"),
        (json!({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}), "reasoning", "hm"),
        (json!({"content": [{"type": "text", "text": "yo"}]}), "text", "yo"),
        (json!({"refusal": "no"}), "text", "no"),
    ];
    for (delta, kind, wanted) in cases {
        let server = one(Reply::sse([openai::chunk(delta.clone(), None), openai::chunk(json!({}), Some("stop"))]));
        let (events, result) = ask(&runtime_for(&server.base_url(), json!({})), "Hi");
        let told = of_type(&events, &format!("{kind}_delta"));
        assert_eq!(told.first().map(|event| &event["text"]), Some(&json!(wanted)), "{delta}");
        let reason = result.unwrap()["finish_reason"].clone();
        assert_eq!(reason, if delta.get("refusal").is_some() { "refusal" } else { "stop" });
    }
    // Gateways that send null for everything.
    let nulls = json!({"id": null, "model": null, "choices": null, "usage": null, "error": null}).to_string();
    let null_delta = json!({"choices": [{"index": 0, "delta": null, "finish_reason": null}]}).to_string();
    let server = one(Reply::sse(vec![nulls, null_delta].into_iter().chain(hello())));
    assert_eq!(ask(&runtime_for(&server.base_url(), json!({})), "Hi").1.unwrap()["text"], "Hello wörld");
}

#[test]
fn comments_missing_done_and_bytes_after_done_do_not_matter() {
    let [role, a, b, c, stop, usage, _] = <[String; 7]>::try_from(hello()).unwrap();
    let without_done = Reply::event_stream()
        .chunk(": OPENROUTER PROCESSING\n\n")
        .event(&role)
        .event(&a)
        .chunk(": again\n\n")
        .event(&b)
        .event(&c)
        .event(&stop)
        .chunk(format!("data: {usage}"));
    let after_done = Reply::sse(hello()).event("{\"error\": {\"message\": \"late\"}}").event("nonsense");
    for reply in [without_done, after_done] {
        let server = one(reply);
        let result = ask(&runtime_for(&server.base_url(), json!({})), "Hi").1.unwrap();
        assert_eq!((&result["text"], &result["usage"]["output_tokens"]), (&json!("Hello wörld"), &json!(3)));
    }
}

#[test]
fn a_malformed_frame_is_a_warning_and_the_stream_goes_on() {
    let mut payloads = hello();
    payloads.insert(2, "{broken".into());
    let server = one(Reply::sse(payloads));
    let (events, result) = ask(&runtime_for(&server.base_url(), json!({})), "Hi");
    assert_eq!(result.unwrap()["text"], "Hello wörld");
    assert_eq!(of_type(&events, "warning")[0]["code"], "malformed_frame");
}

#[test]
fn a_cut_stream_is_truncated_never_complete() {
    let chunks: Vec<String> = hello().into_iter().take(3).collect();
    for reply in [Reply::sse(&chunks).cut(), Reply::sse(&chunks).reset(), Reply::sse(&chunks)] {
        let server = one(reply);
        let (events, result) = ask(&runtime_for(&server.base_url(), json!({})), "Hi");
        let error = result.unwrap_err();
        assert_eq!((error.status(), error.category()), (Status::Network, Category::Truncated), "{error:?}");
        assert_eq!(events.last().unwrap()["type"], "failed");
        assert_eq!(events.last().unwrap()["error"]["category"], "truncated");
        assert_eq!(server.requests().len(), 1, "nothing is repeated after text was emitted");
    }
}

#[test]
fn failures_before_any_text_are_repeated() {
    let server = FakeServer::start([
        Reply::status(429).retry_after_ms(20).json_body(&openai::error(
            "slow down",
            "rate_limit",
            Some("rate_limit_exceeded"),
        )),
        Reply::event_stream().cut(),
        Reply::sse(hello()),
    ]);
    let start = Instant::now();
    let (events, result) = ask(&runtime_for(&server.base_url(), json!({})), "Hi");
    assert_eq!(result.unwrap()["text"], "Hello wörld");
    assert!(start.elapsed() >= Duration::from_millis(20));
    let retried = of_type(&events, "turn_retried");
    assert_eq!(retried.len(), 2);
    assert_eq!(
        json!([retried[0]["attempt"], retried[0]["delay_ms"], retried[0]["error"]["name"]]),
        json!([2, 20, "PAR_ERR_RATE_LIMITED"])
    );
    // Nothing was said yet, so there is nothing to discard before the event itself.
    assert_eq!(retried[0]["discard_from_seq"], retried[0]["seq"]);
}

#[test]
fn what_cannot_help_is_not_repeated() {
    let quota = openai::error("You exceeded your current quota", "insufficient_quota", Some("insufficient_quota"));
    let context =
        openai::error("maximum context length is 8", "invalid_request_error", Some("context_length_exceeded"));
    let cases = [
        (Reply::status(401).json_body(&openai::error("bad key", "auth", None)), Status::Auth),
        (Reply::status(429).json_body(&quota), Status::RateLimited),
        (Reply::status(400).json_body(&context), Status::ContextLength),
        (Reply::status(404).body("not here"), Status::Provider),
        (Reply::status(302).header("location", "http://127.0.0.1:1/"), Status::Provider),
        (Reply::status(429).retry_after_seconds(600).body("busy"), Status::RateLimited),
    ];
    for (reply, status) in cases {
        let server = one(reply);
        let error = ask(&runtime_for(&server.base_url(), json!({})), "Hi").1.unwrap_err();
        assert_eq!((error.status(), server.requests().len()), (status, 1), "{error:?}");
        assert!(error.provider().is_some_and(|detail| detail.http_status.is_some()), "{error:?}");
    }
}

#[test]
fn errors_inside_a_stream_are_errors() {
    let failure = openai::error("server overloaded", "server_error", Some("overloaded")).to_string();
    let early = one(Reply::sse([failure.clone()]));
    let runtime = runtime_for(&early.base_url(), json!({"retry": {"max_attempts": 1}}));
    let error = ask(&runtime, "Hi").1.unwrap_err();
    assert_eq!((error.status(), error.is_retryable()), (Status::Provider, true), "{error:?}");
    let late = one(Reply::sse([openai::chunk(json!({"content": "Hel"}), None), failure.clone()]));
    let (events, result) = ask(&runtime_for(&late.base_url(), json!({})), "Hi");
    assert_eq!(text(&events), "Hel");
    assert!(result.unwrap_err().message().contains("server overloaded"));
    let array = one(Reply::sse([format!("[{failure}]")]));
    let runtime = runtime_for(&array.base_url(), json!({"retry": {"max_attempts": 1}}));
    assert!(ask(&runtime, "Hi").1.unwrap_err().message().contains("server overloaded"));
}

#[test]
fn values_of_another_type_cost_nothing_but_themselves() {
    let odd = json!({"choices": [{"index": "0", "finish_reason": false, "delta": {"role": 1, "content": "Hi.", "refusal": false, "tool_calls": {}}}]});
    let mut end: Value = serde_json::from_str(&openai::chunk(json!({}), Some("stop"))).unwrap();
    end["usage"] = json!({"prompt_tokens": 12.0, "completion_tokens": "3", "prompt_tokens_details": [],
                          "completion_tokens_details": {"reasoning_tokens": null}});
    let server = one(Reply::sse([odd.to_string(), end.to_string()]));
    let result = ask(&runtime_for(&server.base_url(), json!({})), "Hi").1.unwrap();
    assert_eq!((&result["text"], &result["usage"]), (&json!("Hi."), &json!({"input_tokens": 12, "output_tokens": 3})));
}

#[test]
fn a_body_is_what_it_is_whatever_it_is_called() {
    let body: String = hello().iter().map(|payload| format!("data: {payload}\n\n")).collect();
    let whole = openai::completion("Hello wörld", openai::usage(12, 3)).to_string();
    for (kind, body) in [
        ("application/json", &body),
        ("text/plain", &body),
        ("Application/JSON; charset=utf-8", &whole),
        ("text/event-stream", &whole),
    ] {
        let server = one(Reply::status(200).content_type(kind).body(body.clone()));
        let result = ask(&runtime_for(&server.base_url(), json!({})), "Hi").1.unwrap();
        assert_eq!((&result["text"], &result["usage"]["output_tokens"]), (&json!("Hello wörld"), &json!(3)), "{kind}");
    }
    let pretty = serde_json::to_string_pretty(&openai::error("no such model", "odd", None)).unwrap();
    let html = "\n<!DOCTYPE html><html>Sign in</html>".to_owned();
    for (kind, body, words) in [
        ("text/event-stream", &pretty, "no such model"),
        ("text/plain", &pretty, "no such model"),
        ("text/event-stream", &html, "Sign in"),
        ("application/json", &html, "Sign in"),
        ("text/plain", &"upstream connect error".to_owned(), "upstream connect error"),
    ] {
        let server = one(Reply::status(200).content_type(kind).body(body.clone()));
        let error = ask(&runtime_for(&server.base_url(), json!({})), "Hi").1.unwrap_err();
        assert!(error.message().contains(words), "{kind}: {error:?}");
    }
}

#[test]
fn a_server_that_broke_off_did_not_stop() {
    for reason in ["error", "insufficient_system_resource"] {
        let chunks = [openai::chunk(json!({"content": "Hel"}), None), openai::chunk(json!({}), Some(reason))];
        let server = one(Reply::sse(chunks));
        let error = ask(&runtime_for(&server.base_url(), json!({})), "Hi").1.unwrap_err();
        assert_eq!((error.code(), error.is_retryable()), (Some("provider_error"), true), "{error:?}");
        assert_eq!(error.provider().unwrap().code.as_deref(), Some(reason));
    }
    let cut = one(Reply::sse([openai::chunk(json!({"content": "Hel"}), Some("model_length"))]));
    assert_eq!(ask(&runtime_for(&cut.base_url(), json!({})), "Hi").1.unwrap()["finish_reason"], "max_tokens");
}

#[test]
fn pages_and_wrong_answers_are_named_for_what_they_are() {
    let html = one(Reply::html(200, "Welcome to the gateway"));
    let error = ask(&runtime_for(&html.base_url(), json!({})), "Hi").1.unwrap_err();
    assert!(error.hint().unwrap().contains("HTML") && error.message().contains("Welcome"), "{error:?}");
    let bad_gateway = FakeServer::with(|_, _| Reply::html(502, "Bad Gateway"));
    let error = ask(&runtime_for(&bad_gateway.base_url(), json!({})), "Hi").1.unwrap_err();
    assert_eq!((error.status(), bad_gateway.requests().len()), (Status::Provider, 3), "{error:?}");
    let not_chat = one(Reply::json(&json!({"hello": "world"})));
    let error = ask(&runtime_for(&not_chat.base_url(), json!({})), "Hi").1.unwrap_err();
    assert_eq!(error.code(), Some("bad_answer"), "{error:?}");
}

#[test]
fn of_an_error_page_what_came_counts() {
    let said = openai::error("no such key", "auth", None).to_string();
    for reply in [
        Reply::status(401).chunk(said.clone()).stall(),
        Reply::status(401).header("content-length", 900).chunk(said.clone()).cut(),
    ] {
        let server = one(reply);
        let error = ask(&runtime_for(&server.base_url(), json!({"timeouts": {"idle_ms": 50}})), "Hi").1.unwrap_err();
        assert!(error.message().contains("no such key"), "{error:?}");
    }
}

#[test]
fn nothing_is_waited_for_without_end() {
    let timeouts =
        json!({"timeouts": {"connect_ms": 500, "first_byte_ms": 80, "idle_ms": 80}, "retry": {"max_attempts": 1}});
    let silent = one(Reply::sse(hello()).pause_before_head(Duration::from_secs(20)));
    let stalled = one(Reply::sse(hello().into_iter().take(2)).stall());
    for server in [silent, stalled] {
        let start = Instant::now();
        let error = ask(&runtime_for(&server.base_url(), timeouts.clone()), "Hi").1.unwrap_err();
        assert_eq!((error.status(), error.category()), (Status::Network, Category::Timeout), "{error:?}");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        server.wait_until("the connection is dropped", |server| server.abandoned() == 1);
    }
    // A blocking call drives its connection itself, and must let go of it before it returns.
    let stalled = one(Reply::sse(hello().into_iter().take(2)).stall());
    let runtime = runtime_for(&stalled.base_url(), json!({}));
    let late = runtime.invoke(r#"{"agent": "a", "input": "Hi"}"#, Some(Duration::from_millis(100))).unwrap_err();
    assert_eq!(late.status(), Status::Deadline, "{late:?}");
    stalled.wait_until("the connection is dropped", |server| server.abandoned() == 1);
    let slow = one(Reply::sse(openai::text_chunks(vec!["x"; 200], None)).paced(Duration::from_millis(10)));
    let total = json!({"timeouts": {"total_ms": 150}, "retry": {"max_attempts": 1}});
    let error = ask(&runtime_for(&slow.base_url(), total), "Hi").1.unwrap_err();
    assert!(error.message().contains("the whole answer"), "{error:?}");
}

#[test]
fn unreachable_servers_are_told_apart() {
    let unbound = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let once = json!({"retry": {"max_attempts": 1}, "timeouts": {"connect_ms": 3000}});
    let cases = [
        (format!("http://{unbound}/v1"), ["no connection"; 2]),
        // A resolver that does not answer is as good as one that says no.
        ("http://name.invalid/v1".to_owned(), ["cannot be resolved", "took too long"]),
        ("https://127.0.0.1:1/v1".to_owned(), ["no connection"; 2]),
    ];
    for (url, wanted) in cases {
        let error = ask(&runtime_for(&url, once.clone()), "Hi").1.unwrap_err();
        assert_eq!(error.status(), Status::Network);
        assert!(wanted.iter().any(|wanted| error.message().contains(wanted)), "{error:?}");
    }
    let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let tls = format!("https://{}/v1", plain.local_addr().unwrap());
    std::thread::spawn(move || {
        use std::io::Write;
        plain.accept().unwrap().0.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    });
    let error = ask(&runtime_for(&tls, once), "Hi").1.unwrap_err();
    assert!(error.message().contains("TLS"), "{error:?}");
}

#[test]
fn a_flood_stays_bounded() {
    let endless_line = one(Reply::event_stream().chunk("data: ").endless("x".repeat(1 << 16)));
    let error = ask(&runtime_for(&endless_line.base_url(), json!({})), "Hi").1.unwrap_err();
    assert_eq!(error.code(), Some("oversized_answer"), "{error:?}");
    let delta = format!("data: {}\n\n", openai::chunk(json!({"content": "x".repeat(1 << 20)}), None));
    let comment = format!(": {}\n\n", "x".repeat(1 << 16));
    for endless in [delta, comment] {
        let server = one(Reply::event_stream().endless(endless));
        let runtime = runtime_for(&server.base_url(), json!({}));
        let error = runtime.invoke(r#"{"agent": "a", "input": "Hi"}"#, None).unwrap_err();
        assert_eq!(error.code(), Some("oversized_answer"), "{error:?}");
        server.wait_until("the connection is dropped", |server| server.abandoned() == 1);
    }
    let endless_page = FakeServer::with(|_, _| Reply::status(500).chunked().endless("x".repeat(1 << 16)));
    let error = ask(&runtime_for(&endless_page.base_url(), json!({"retry": {"max_attempts": 1}})), "Hi").1.unwrap_err();
    assert!(error.to_json().len() < 10_000, "the message is bounded");
}

/// The host reads nothing, so the library must stop reading from the socket: what waits is bounded by the queue.
#[test]
fn a_slow_reader_holds_the_provider_back() {
    let delta = format!("data: {}\n\n", openai::chunk(json!({"content": "x".repeat(1000)}), None));
    let server = one(Reply::event_stream().repeat(delta, 100_000));
    let runtime = runtime_for(&server.base_url(), json!({}));
    let stream = runtime.stream(r#"{"agent": "a", "input": "flood"}"#).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let (queued, dropped) = stream.queue().counts();
    assert!((900..=1100).contains(&queued), "{queued} events wait");
    assert_eq!(dropped, 0);
    stream.cancel("enough");
    let events = support::client::events(&stream);
    assert_eq!(events.last().unwrap()["type"], "cancelled");
    server.wait_until("the connection is dropped", |server| server.abandoned() == 1);
}

#[test]
fn a_coalescing_stream_loses_no_text() {
    let pieces: Vec<String> = (0..5000).map(|n| format!("{n} ")).collect();
    let server = one(Reply::sse(openai::text_chunks(&pieces, None)));
    let runtime = runtime_for(&server.base_url(), json!({}));
    let stream = runtime.stream(r#"{"agent": "a", "input": "count", "overflow": "coalesce"}"#).unwrap();
    server.wait_until("all is sent", |_| stream.queue().counts().0 >= 1024);
    std::thread::sleep(Duration::from_millis(100));
    let events = support::client::events(&stream);
    assert_eq!(text(&events), pieces.concat());
    // How many are joined is a matter of how fast the machine is.
    assert!(events.len() < pieces.len(), "{} events", events.len());
}

#[test]
fn the_first_token_arrives_when_it_is_sent() {
    let chunks = hello();
    let server = one(Reply::event_stream().event(&chunks[0]).event(&chunks[1]).pause(Duration::from_secs(2)).cut());
    let runtime = runtime_for(&server.base_url(), json!({}));
    let start = Instant::now();
    let stream = runtime.stream(r#"{"agent": "a", "input": "Hi"}"#).unwrap();
    while let Some(event) = support::client::next(&stream) {
        if event["type"] == "text_delta" {
            break;
        }
    }
    assert!(start.elapsed() < Duration::from_millis(1000), "{:?}", start.elapsed());
}

#[test]
fn rate_limits_are_told() {
    let server = one(Reply::sse(hello()).header("x-ratelimit-remaining-requests", "59"));
    let (events, _) = ask(&runtime_for(&server.base_url(), json!({})), "Hi");
    assert_eq!(of_type(&events, "rate_limit")[0]["limits"]["x-ratelimit-remaining-requests"], "59");
}

#[test]
fn parameters_and_headers_are_sent_and_nothing_else() {
    let server = FakeServer::with(|_, _| Reply::sse(hello()));
    let runtime = runtime_for(&server.base_url(), json!({"headers": {"x-team": "blue"}, "organization": "org-1"}));
    let model = json!({"provider": "p", "model_name": "m", "temperature": 0, "top_p": 0.5, "max_tokens": 7, "stop_sequences": ["END"]});
    runtime.register_agent(&json!({"id": "full", "model": model}).to_string()).unwrap();
    run(&runtime, json!({"agent": "full", "input": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}))
        .1
        .unwrap();
    let request = &server.requests()[0];
    assert_eq!(request.header("x-team"), Some("blue"));
    assert_eq!(request.header("openai-organization"), Some("org-1"));
    assert_eq!(
        request.body,
        json!({"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
               "temperature": 0.0, "top_p": 0.5, "max_tokens": 7, "stop": ["END"], "stream": true,
               "stream_options": {"include_usage": true}})
    );
}
