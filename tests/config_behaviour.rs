//! Config keys whose behaviour no other test shows.

mod support;

use futures_util::future::BoxFuture;
use par::runtime::Runtime;
use par::tools::{Invocation, Tool, ToolOutput};
use par::types::{Error, Status};
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::client::{ask, of_type, run};
use support::{FakeServer, Reply, openai};

/// A server that says "hi" in OpenAI's stream.
fn hi() -> Reply {
    Reply::sse(openai::text_chunks(["hi"], openai::usage(3, 2)))
}

fn create(provider: Value, extra: Value) -> Runtime {
    let mut config = json!({"llm_providers": {"p": provider}});
    for (key, value) in extra.as_object().unwrap() {
        config[key] = value.clone();
    }
    support::create(&config.to_string()).unwrap()
}

fn agent(runtime: &Runtime, keys: Value) {
    let mut agent = json!({"id": "a", "model": "p/m"});
    for (key, value) in keys.as_object().unwrap() {
        agent[key] = value.clone();
    }
    runtime.register_agent(&agent.to_string()).unwrap();
}

fn openai_at(url: &str) -> Value {
    json!({"type": "openai", "base_url": url, "api_key": "k"})
}

#[test]
fn api_base_is_asked_instead_of_the_providers_own_address() {
    let (own, other) = (FakeServer::start([]), FakeServer::start([hi()]));
    let runtime = create(openai_at(&own.base_url()), json!({}));
    agent(&runtime, json!({"model": {"provider": "p", "model_name": "m", "api_base": other.base_url()}}));
    assert_eq!(ask(&runtime, "go").1.unwrap()["text"], "hi");
    assert_eq!((own.requests().len(), other.requests().len()), (0, 1));
}

#[test]
fn default_provider_has_the_models_that_name_none() {
    let (one, two) = (FakeServer::start([]), FakeServer::start([hi()]));
    let config = json!({"default_provider": "two",
                        "llm_providers": {"one": openai_at(&one.base_url()), "two": openai_at(&two.base_url())}});
    let runtime = support::create(&config.to_string()).unwrap();
    agent(&runtime, json!({"model": "m"}));
    assert_eq!(ask(&runtime, "go").1.unwrap()["text"], "hi");
    assert_eq!((one.requests().len(), two.requests().len()), (0, 1));
    let unknown = json!({"default_provider": "three"});
    let error = support::create(&unknown.to_string()).err().unwrap();
    assert_eq!((error.status(), error.path()), (Status::NotFound, Some("config.default_provider")));
}

#[test]
fn reasoning_is_shown_unless_show_says_no() {
    for (show, shown) in [(json!(null), true), (json!(true), true), (json!(false), false)] {
        let end = r#"{"candidates":[{"content":{"parts":[{"text":"hi"}]},"finishReason":"STOP"}]}"#;
        let server = FakeServer::start([Reply::sse([end])]);
        let runtime = create(json!({"type": "gemini", "base_url": server.url(), "api_key": "k"}), json!({}));
        let model = json!({"provider": "p", "model_name": "m", "reasoning": {"budget_tokens": 100, "show": show}});
        agent(&runtime, json!({"model": model}));
        ask(&runtime, "go").1.unwrap();
        let told = &server.requests()[0].body["generationConfig"]["thinkingConfig"]["includeThoughts"];
        assert_eq!(told.as_bool().unwrap_or(false), shown, "{told}");
    }
}

#[test]
fn cache_points_of_an_automatic_strategy_last_as_long_as_ttl_says() {
    let end = json!({"id": "m", "type": "message", "role": "assistant", "model": "claude", "stop_reason": "end_turn",
                     "content": [{"type": "text", "text": "hi"}], "usage": {"input_tokens": 1, "output_tokens": 1}});
    let server = FakeServer::start([Reply::json(&end)]);
    let runtime = create(json!({"type": "anthropic", "base_url": server.url(), "api_key": "k"}), json!({}));
    agent(&runtime, json!({"system_prompt": "Be brief.", "cache_strategy": {"type": "automatic", "ttl": "1h"}}));
    ask(&runtime, "go").1.unwrap();
    let body = server.requests()[0].body.to_string();
    assert!(body.contains(r#""cache_control":{"type":"ephemeral","ttl":"1h"}"#), "{body}");
}

#[test]
fn quirks_that_no_preset_of_the_tests_has() {
    let server = FakeServer::with(|request, _| {
        if request.path.contains("vectors") {
            Reply::json(&json!({"data": [{"index": 0, "embedding": [1.0]}], "usage": {"prompt_tokens": 1}}))
        } else {
            hi()
        }
    });
    let quirks = json!({"embeddings_path": "my/vectors", "chat_path": "my/chat"});
    let runtime = create(
        json!({"type": "custom", "base_url": server.base_url(), "request_format": "openai_compatible", "quirks": quirks}),
        json!({}),
    );
    runtime.call("embed", &json!({"provider": "p", "model": "e", "input": "x"}).to_string(), None).unwrap();
    assert!(server.requests()[0].path.ends_with("/my/vectors"), "{}", server.requests()[0].path);
    agent(&runtime, json!({}));
    ask(&runtime, "go").1.unwrap();
    assert!(server.requests()[1].path.ends_with("/my/chat"), "{}", server.requests()[1].path);
}

#[test]
fn quirks_of_keys_calls_and_streams() {
    let server = FakeServer::start([
        Reply::sse(openai::tool_call_chunks([openai::call("call_with_a_long_id", "t", "{}")], openai::usage(3, 2))),
        hi(),
    ]);
    let quirks = json!({"key_header": "x-key", "stream_usage": false, "tool_call_ids": "nine_alphanumerics",
                        "cache_points": "cache_control", "answer_before_user": true});
    let provider = json!({"type": "custom", "base_url": server.base_url(), "request_format": "openai_compatible",
                          "api_key": "secret-key", "quirks": quirks});
    let runtime = create(provider, json!({}));
    runtime.register_native_tool(r#"{"name": "t"}"#, std::sync::Arc::new(Steers)).unwrap();
    agent(
        &runtime,
        json!({"system_prompt": "Be brief.", "tools": ["t"],
                           "cache_strategy": {"type": "explicit", "system": true, "ttl": "5m"}}),
    );
    let stream = runtime.stream(r#"{"agent": "a", "input": "go", "run_id": "r"}"#).unwrap();
    while let Some(event) = support::client::next(&stream) {
        if event["type"] == "tool_progress" {
            // What the user says now comes right behind the tool's result.
            runtime.steer("r", "\"more\"").unwrap();
        }
    }
    stream.answer().unwrap().as_ref().unwrap();
    let (first, second) = (&server.requests()[0], &server.requests()[1]);
    assert_eq!((first.header("x-key"), first.header("authorization")), (Some("secret-key"), None));
    assert!(first.body.get("stream_options").is_none(), "{}", first.body);
    assert!(first.body["messages"][0].to_string().contains("cache_control"), "{}", first.body);
    let messages = second.body["messages"].as_array().unwrap();
    let roles: Vec<_> = messages.iter().map(|message| message["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "tool", "assistant", "user"]);
    assert_eq!(messages[3]["tool_call_id"].as_str().map(str::len), Some(9));
}

/// A tool that waits until the run was steered.
struct Steers;

impl Tool for Steers {
    fn call<'a>(&'a self, invocation: Invocation<'a>) -> BoxFuture<'a, ToolOutput> {
        Box::pin(async move {
            invocation.progress(&"now");
            tokio::time::sleep(Duration::from_millis(300)).await;
            Ok(json!("done"))
        })
    }
}

#[test]
fn an_answer_that_was_cut_off_is_asked_for_again_within_max_output_tokens() {
    let cut = json!({"text": "a", "finish_reason": "max_tokens"});
    let turns = json!([cut, {"expect": {"max_tokens": 150}, "text": "whole",
                             "usage": {"input_tokens": 5, "output_tokens": 7, "reasoning_tokens": 4}}]);
    let runtime =
        create(json!({"type": "mock", "turns": turns}), json!({"models": {"p/m": {"max_output_tokens": 150}}}));
    agent(
        &runtime,
        json!({"model": {"provider": "p", "model_name": "m", "max_tokens": 100}, "on_max_tokens": "retry"}),
    );
    let result = ask(&runtime, "go").1.unwrap();
    assert_eq!((&result["text"], &result["usage"]["reasoning_tokens"]), (&json!("whole"), &json!(4)));
}

#[test]
fn a_page_may_redirect_max_redirects_times() {
    let server = FakeServer::with(|request, _| match request.path.as_str() {
        "/begin" => Reply::status(302).header("location", "/again"),
        "/again" => Reply::status(302).header("location", "/end"),
        _ => Reply::status(200).content_type("text/plain").body("the page"),
    });
    let fetch = |max_redirects: usize| {
        let call = json!({"name": "fetch_url", "input": {"url": format!("{}/begin", server.url())}});
        let turns = json!([{"tool_calls": [call]}, {"text": "done"}]);
        let web = json!({"allow": [server.address().to_string()], "max_redirects": max_redirects});
        let runtime = create(json!({"type": "mock", "turns": turns}), json!({"web": web}));
        agent(&runtime, json!({"tools": ["fetch_url"]}));
        let (events, _) = ask(&runtime, "go");
        of_type(&events, "tool_result")[0]["content"].to_string()
    };
    let read = fetch(2);
    assert!(read.contains("the page"), "{read}");
    let refused = fetch(1);
    assert!(refused.contains("more than 1 times"), "{refused}");
}

#[test]
fn a_policy_goes_on_from_its_base() {
    let run_under = |base: Value| {
        let call = json!({"name": "bash", "input": {"argv": ["ls"]}});
        let turns = json!([{"tool_calls": [call]}, {"text": "done"}]);
        let shell = json!({"policy": {"name": "mine", "base": base, "default": "deny", "rules": []}});
        let extra = json!({"shell": shell, "bash_confirm": {"default_policy": "never"}});
        let runtime = create(json!({"type": "mock", "turns": turns}), extra);
        agent(&runtime, json!({"tools": ["bash"]}));
        let folder = tempfile::tempdir().unwrap();
        let request = json!({"agent": "a", "input": "go", "workspace": folder.path()});
        let (events, _) = run(&runtime, request);
        of_type(&events, "tool_result")[0]["content"].to_string()
    };
    let refused = run_under(json!(null));
    assert!(refused.contains("[bash-policy]"), "{refused}");
    let allowed = run_under(json!("read_only"));
    assert!(!allowed.contains("[bash-policy]"), "{allowed}");
}

#[test]
fn a_wait_that_the_server_asks_for_has_a_bound() {
    let refusal = || Reply::status(429).retry_after_seconds(5).body("slow down");
    let retry = |max_retry_after_ms: u64| json!({"max_attempts": 2, "initial_delay_ms": 1, "max_delay_ms": 1, "max_retry_after_ms": max_retry_after_ms});
    let server = FakeServer::start([refusal(), hi()]);
    let mut provider = openai_at(&server.base_url());
    provider["retry"] = retry(1_000);
    let runtime = create(provider, json!({}));
    agent(&runtime, json!({}));
    let error = ask(&runtime, "go").1.unwrap_err();
    assert_eq!((error.status(), server.requests().len()), (Status::RateLimited, 1));
}

#[test]
fn delays_between_attempts_grow_to_max_delay_ms_and_no_further() {
    let server = FakeServer::start((0..4).map(|_| Reply::status(503)).chain([hi()]));
    let mut provider = openai_at(&server.base_url());
    provider["retry"] = json!({"max_attempts": 5, "initial_delay_ms": 20, "max_delay_ms": 40});
    let runtime = create(provider, json!({}));
    agent(&runtime, json!({}));
    let (events, result) = ask(&runtime, "go");
    result.unwrap();
    let delays: Vec<u64> =
        of_type(&events, "turn_retried").iter().map(|event| event["delay_ms"].as_u64().unwrap()).collect();
    assert_eq!(delays.len(), 4);
    assert!(delays.iter().all(|delay| (15..=40).contains(delay)), "{delays:?}");
    assert!(delays[1..].iter().all(|delay| *delay >= 30), "{delays:?}");
}

#[test]
fn keep_messages_stay_beside_a_summary() {
    let turns = json!([{"text": "one"}, {"text": "two"}, {"text": "three"}]);
    let summary = json!({"type": "mock", "turns": [{"text": "SUMMARY"}]});
    for (keep, kept) in [(1, 1), (3, 3)] {
        let config =
            json!({"llm_providers": {"p": {"type": "mock", "scope": "provider", "turns": turns}, "s": summary}});
        let runtime = support::create(&config.to_string()).unwrap();
        agent(
            &runtime,
            json!({
            "context_window_override": 60, "compression_cooldown_messages": 0,
            "context_strategy": {"type": "summarize", "summary_model": "s/m", "keep_messages": keep}}),
        );
        let say = |text: &str| run(&runtime, json!({"agent": "a", "session": "s", "input": text}));
        say(&"first ".repeat(20)).1.unwrap();
        say("second").1.unwrap();
        let (events, _) = say(&"thirds, ".repeat(10));
        let compactions = of_type(&events, "compaction");
        assert!(!compactions.is_empty(), "{events:?}");
        let messages = compactions[0]["messages_after"].as_u64();
        assert_eq!(messages.map(|messages| messages - 1), Some(kept), "{}", compactions[0]);
    }
}

#[test]
fn exactly_min_messages_are_kept_whatever_they_cost() {
    // Each message has about 25 tokens: one fits, two and the question before them do not.
    let long = "word ".repeat(20);
    for (min_messages, is_possible) in [(1, true), (2, false)] {
        let runtime = create(json!({"type": "mock", "turns": [{"text": long}]}), json!({}));
        let strategy = json!({"type": "truncate_oldest", "max_tokens": 60, "min_messages": min_messages});
        agent(&runtime, json!({"context_strategy": strategy}));
        let say = || run(&runtime, json!({"agent": "a", "session": "s", "input": long}));
        say().1.unwrap();
        let (events, result) = say();
        assert_eq!(result.is_ok(), is_possible, "{min_messages}: {result:?}");
        if is_possible {
            assert_eq!(of_type(&events, "compaction")[0]["messages_after"], 1);
        }
    }
}

#[test]
fn a_command_may_ask_for_max_timeout_and_no_more() {
    let call = |timeout: f64| json!({"name": "bash", "input": {"argv": ["true"], "timeout": timeout}});
    let config = json!({"shell": {"max_timeout": 2.0}, "bash_confirm": {"default_policy": "never"},
        "llm_providers": {"p": {"type": "mock", "turns": [{"tool_calls": [call(3.0), call(2.0)]}, {"text": "done"}]}}});
    let runtime = support::create(&config.to_string()).unwrap();
    agent(&runtime, json!({"tools": ["bash"]}));
    let (events, _) = ask(&runtime, "go");
    let told: Vec<String> = of_type(&events, "tool_result").iter().map(|event| event["content"].to_string()).collect();
    assert_eq!(told.iter().filter(|told| told.contains("may take 2 s here, not 3")).count(), 1, "{told:?}");
}

#[test]
fn a_session_outside_of_cached_sessions_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({"persistence": {"type": "sqlite", "path": folder.path().join("par.db")},
                        "limits": {"cached_sessions": 1}, "llm_providers": {"p": {"type": "mock"}}});
    let runtime = Runtime::create(&config.to_string()).unwrap();
    agent(&runtime, json!({}));
    for round in 0..3 {
        for session in ["x", "y", "z"] {
            let input = format!("{session}{round}");
            run(&runtime, json!({"agent": "a", "session": session, "input": input})).1.unwrap();
        }
    }
    for session in ["x", "y", "z"] {
        let kept = runtime.call("sessions.get", &json!({"session": session}).to_string(), None).unwrap();
        for round in 0..3 {
            assert!(kept.contains(&format!("\"{session}{round}\"")), "{kept}");
        }
    }
}

#[test]
fn flush_interval_ms_is_how_long_text_waits_to_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("par.db");
    // One piece of text, and then nothing for a long time.
    let turns = json!([{"text": "ab", "chunks": ["a", "b"], "delay_ms": 60_000}]);
    let config = json!({"persistence": {"type": "sqlite", "path": path}, "writer": {"flush_interval_ms": 20, "capacity": 100},
                        "llm_providers": {"p": {"type": "mock", "turns": turns}}});
    let runtime = Runtime::create(&config.to_string()).unwrap();
    agent(&runtime, json!({}));
    let stream = runtime.stream(r#"{"agent": "a", "input": "go", "run_id": "r"}"#).unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    let is_written = || {
        let events = runtime.call("events.query", r#"{"run_id": "r"}"#, None).unwrap();
        serde_json::from_str::<Value>(&events).unwrap()["items"].as_array().is_some_and(|items| !items.is_empty())
    };
    while !is_written() {
        assert!(Instant::now() < until, "what the run said is not written");
        std::thread::sleep(Duration::from_millis(5));
    }
    stream.cancel("enough");
}

#[test]
fn a_condition_may_visit_so_many_nodes() {
    let operands = vec![json!({"type": "literal", "value": true}); 20];
    let condition = json!({"type": "and", "operands": operands});
    let call = |max_node_visits: usize| -> Result<Value, Error> {
        let config = json!({"eval_limits": {"max_node_visits": max_node_visits}, "llm_providers": {"p": {"type": "mock",
            "turns": [{"tool_calls": [{"name": "calculate", "input": {}}]}, {"text": "done"}]}}});
        let runtime = support::create(&config.to_string()).unwrap();
        let tool = json!({"name": "calculate", "permission": {"type": "condition_based", "condition": condition,
                                                              "otherwise": "deny"}});
        runtime.register_tool(&tool.to_string()).unwrap();
        agent(&runtime, json!({"tools": ["calculate"]}));
        let stream = runtime.stream(r#"{"agent": "a", "input": "go"}"#).unwrap();
        while let Some(event) = support::client::next(&stream) {
            if let Some(token) = event["token"].as_u64() {
                runtime.tool_complete(token, "1").unwrap();
            }
        }
        stream.answer().unwrap().clone().map(|json| serde_json::from_str(&json).unwrap())
    };
    assert_eq!(call(21).unwrap()["text"], "done");
    let error = call(20).unwrap_err();
    assert!(error.message().contains("20"), "{error}");
}

#[cfg(feature = "object-store")]
#[test]
fn a_bucket_is_asked_with_region_and_session_token() {
    let server = FakeServer::with(|_, _| Reply::status(403));
    let folder = tempfile::tempdir().unwrap();
    let to = json!({"type": "s3", "bucket": "b", "endpoint": server.url(), "region": "eu-test-7", "access_key_id": "AKID",
                    "secret_access_key": "secret", "session_token": "session-9"});
    let config = json!({"persistence": {"type": "sqlite", "path": folder.path().join("par.db"),
                                        "forward": {"to": to, "interval_seconds": 0.05}},
                        "llm_providers": {"p": {"type": "mock"}}});
    let runtime = Runtime::create(&config.to_string()).unwrap();
    agent(&runtime, json!({}));
    ask(&runtime, "go").1.unwrap();
    server.wait_until("a request", |server| !server.requests().is_empty());
    let request = &server.requests()[0];
    assert_eq!(request.header("x-amz-security-token"), Some("session-9"));
    assert!(
        request.header("authorization").unwrap().contains("/eu-test-7/s3/"),
        "{:?}",
        request.header("authorization")
    );
}
