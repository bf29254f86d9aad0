//! Servers that claim to be compatible: what each is sent, by the name of its preset; and what only it understands goes back
//! to it byte for byte.

mod support;

use par::runtime::Runtime;
use par::types::Error;
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use support::client::of_type;
use support::{FakeServer, Reply, Request, openai};

const SCHEMA: &str = r#"{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}"#;

fn runtime(server: &FakeServer, quirks: Value, agent: Value) -> Runtime {
    let base_url = if quirks == "azure" { server.url() } else { server.base_url() };
    let provider =
        json!({"type": "custom", "base_url": base_url, "api_key": "k", "quirks": quirks, "retry": {"max_attempts": 1}});
    let runtime = support::create(&json!({"llm_providers": {"p": provider}}).to_string()).unwrap();
    runtime.register_tool(r#"{"name": "add"}"#).unwrap();
    let mut definition = json!({"id": "a", "system_prompt": "Be brief.", "tools": ["add"],
                                "model": {"provider": "p", "model_name": "m", "max_tokens": 50}});
    for (key, value) in agent.as_object().unwrap() {
        definition[key] = value.clone();
    }
    runtime.register_agent(&definition.to_string()).unwrap();
    runtime
}

/// Runs to the end, answering every call with 3 and a picture.
fn ask(runtime: &Runtime, request: Value) -> (Vec<Value>, Result<Value, Error>) {
    let stream = runtime.stream(&request.to_string()).unwrap();
    let mut seen = Vec::new();
    while let Some(event) = support::client::next(&stream) {
        if event["type"] == "tool_call" {
            let picture = r#"{"content_parts": [{"type": "text", "text": "3"},
                {"type": "image", "data": "aGk=", "media_type": "image/png"}]}"#;
            runtime.tool_complete(event["token"].as_u64().unwrap(), picture).unwrap();
        }
        seen.push(event);
    }
    (seen, stream.answer().unwrap().clone().map(|json| serde_json::from_str(&json).unwrap()))
}

/// A call with everything a server may want back, then a text.
fn talk() -> [Reply; 2] {
    let details = |detail: Value| openai::chunk(json!({"reasoning_details": [detail]}), None);
    let thought = [
        openai::chunk(json!({"reasoning": "Hm, "}), None),
        details(json!({"type": "reasoning.text", "text": "Hm, ", "index": 0})),
        details(json!({"type": "reasoning.text", "text": "add.", "index": 0, "signature": "s+/="})),
        openai::chunk(json!({"reasoning": "add."}), None),
    ];
    let signed = openai::chunk(
        json!({"tool_calls": [{"index": 0, "extra_content": {"google": {"thought_signature": "g+/="}}}]}),
        None,
    );
    let mut calls = openai::tool_call_chunks([openai::call("call_1", "add", "{}")], openai::usage(1, 1));
    calls.insert(2, signed);
    let said = openai::text_chunks(["{\"n\": 3}"], openai::usage(1, 1));
    [Reply::sse(thought.into_iter().chain(calls)), Reply::sse(said)]
}

/// What a server with these quirks is sent: the first request, and the one after the tool's answer.
fn sent(quirks: Value) -> Vec<Request> {
    let server = FakeServer::start(talk());
    let runtime = runtime(&server, quirks.clone(), json!({}));
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let (_, result) = ask(&runtime, json!({"agent": "a", "input": "1 + 2?", "response_schema": schema}));
    assert_eq!(result.unwrap_or_else(|error| panic!("{quirks}: {error:?}"))["output"], json!({"n": 3}));
    server.requests()
}

fn roles(request: &Request) -> String {
    let messages = request.body["messages"].as_array().unwrap();
    messages.iter().map(|message| message["role"].as_str().unwrap()).collect::<Vec<_>>().join(" ")
}

#[test]
fn without_quirks_it_is_the_api_as_it_was() {
    let [first, second] = &sent(json!({}))[..] else { panic!() };
    assert_eq!((first.path.as_str(), first.header("authorization")), ("/v1/chat/completions", Some("Bearer k")));
    assert_eq!(first.body["stream_options"], json!({"include_usage": true}));
    assert_eq!((&first.body["max_tokens"], first.body.get("max_completion_tokens")), (&json!(50), None));
    assert_eq!(first.body.get("response_format"), None);
    assert_eq!(roles(second), "system user assistant tool user");
    let call = &second.body["messages"][2];
    assert_eq!((&call["tool_calls"][0]["id"], &call["content"]), (&json!("call_1"), &Value::Null));
    assert!(!["reasoning", "reasoning_content", "reasoning_details"].iter().any(|key| call.get(key).is_some()));
    assert_eq!(call["tool_calls"][0]["extra_content"], json!({"google": {"thought_signature": "g+/="}}));
}

#[test]
fn azure_has_a_path_for_each_deployment() {
    for request in sent(json!("azure")) {
        assert_eq!(request.path, "/openai/deployments/m/chat/completions?api-version=2024-10-21");
        assert_eq!((request.header("api-key"), request.header("authorization")), (Some("k"), None));
        assert_eq!((&request.body["max_completion_tokens"], request.body.get("max_tokens")), (&json!(50), None));
        assert_eq!(request.body["response_format"]["type"], "json_schema");
    }
    let server = FakeServer::start([Reply::json(
        &json!({"data": [{"index": 0, "embedding": [1.0]}], "model": "e", "usage": {"prompt_tokens": 1}}),
    )]);
    let quirks = json!({"preset": "azure", "api_version": "2025-04-01-preview"});
    let provider = json!({"type": "custom", "base_url": server.url(), "api_key": "k", "quirks": quirks});
    let runtime = support::create(&json!({"llm_providers": {"p": provider}}).to_string()).unwrap();
    runtime.call("embed", r#"{"input": "x", "provider": "p", "model": "e"}"#, None).unwrap();
    assert_eq!(server.requests()[0].path, "/openai/deployments/e/embeddings?api-version=2025-04-01-preview");
}

#[test]
fn mistral_wants_nine_characters_and_an_answer_before_the_user() {
    let [first, second] = &sent(json!("mistral"))[..] else { panic!() };
    assert_eq!(first.body.get("stream_options"), None);
    assert_eq!(roles(second), "system user assistant tool assistant user");
    let messages = &second.body["messages"];
    let id = messages[2]["tool_calls"][0]["id"].as_str().unwrap();
    assert!(id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
    assert_eq!(messages[3]["tool_call_id"], id);
}

#[test]
fn openrouter_and_deepseek_get_their_reasoning_back() {
    let requests = sent(json!("openrouter"));
    let details = json!([{"type": "reasoning.text", "index": 0, "signature": "s+/=", "text": "Hm, add."}]);
    assert_eq!(requests[1].body["messages"][2]["reasoning_details"], details);
    let requests = sent(json!("deepseek"));
    assert_eq!(requests[1].body["messages"][2]["reasoning_content"], "Hm, add.");
    assert_eq!(requests[0].body.get("response_format"), None);
    let requests = sent(json!({"preset": "deepseek", "send_back_reasoning": "never", "call_content": "empty"}));
    let call = &requests[1].body["messages"][2];
    assert_eq!((call.get("reasoning_content"), &call["content"]), (None, &json!("")));
    let requests = sent(json!({"call_content": "absent", "send_back_reasoning": "reasoning"}));
    let call = &requests[1].body["messages"][2];
    assert_eq!((&call["reasoning"], call.get("content")), (&json!("Hm, add."), None));
}

#[test]
fn servers_that_hold_answers_to_a_schema_are_told_it() {
    for preset in ["mistral", "cohere", "vllm", "lm_studio", "localai", "azure"] {
        assert_eq!(sent(json!(preset))[0].body["response_format"]["type"], "json_schema", "{preset}");
    }
}

#[test]
fn a_tool_is_forced_in_the_form_that_the_server_takes() {
    for (quirks, choice) in [
        (json!({}), json!({"type": "function", "function": {"name": "final_answer"}})),
        (json!("lm_studio"), json!("required")),
        (json!("cohere"), json!("required")),
        (json!({"tool_choice": "never"}), Value::Null),
    ] {
        let answer = openai::tool_call_chunks([openai::call("c", "final_answer", "{\"n\": 3}")], openai::usage(1, 1));
        let server = FakeServer::start([Reply::sse(answer)]);
        let runtime = runtime(&server, quirks, json!({"tools": []}));
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        let request = json!({"agent": "a", "input": "1 + 2?", "response_schema": schema, "output_mode": "tool"});
        assert_eq!(ask(&runtime, request).1.unwrap()["output"], json!({"n": 3}));
        assert_eq!(server.requests()[0].body["tool_choice"], choice);
    }
}

/// Two marked turns of a session, as they are sent.
fn marked(quirks: Value, model: &str, strategy: Value) -> (Value, Vec<Value>) {
    let said = || Reply::sse(openai::text_chunks(["Yes."], openai::usage(1, 1)));
    let server = FakeServer::start([said(), said()]);
    let model = json!({"provider": "p", "model_name": model});
    let runtime = runtime(&server, quirks, json!({"tools": [], "model": model, "cache_strategy": strategy}));
    let mut events = Vec::new();
    for _ in 0..2 {
        let input =
            json!([{"type": "text", "text": "A book."}, {"type": "cache_point"}, {"type": "text", "text": "Well?"}]);
        let (seen, result) = ask(&runtime, json!({"agent": "a", "input": input, "session": "s"}));
        result.unwrap();
        events.extend(seen);
    }
    let warnings = of_type(&events, "warning").into_iter().cloned().collect();
    (server.requests()[1].body.clone(), warnings)
}

#[test]
fn cache_points_are_written_as_each_server_wants_them() {
    let explicit = json!({"type": "explicit", "system": true});
    let (body, warnings) = marked(json!("azure"), "gpt-5.6", explicit.clone());
    let mark = json!({"mode": "explicit"});
    assert_eq!(body["prompt_cache_options"], json!({"mode": "explicit", "ttl": "30m"}));
    assert_eq!(body["messages"][0]["content"][0]["prompt_cache_breakpoint"], mark);
    assert_eq!(body["messages"][1]["content"][0]["prompt_cache_breakpoint"], mark);
    assert_eq!(body.to_string().matches("prompt_cache_breakpoint").count(), 3);
    assert_eq!(warnings, Vec::<Value>::new());

    let hour = json!({"type": "explicit", "system": true, "ttl": "1h"});
    let (body, _) = marked(json!("openrouter"), "anthropic/claude-x", hour);
    assert_eq!(body["messages"][3]["content"][0]["cache_control"], json!({"type": "ephemeral", "ttl": "1h"}));
    assert_eq!((body.to_string().matches("cache_control").count(), body.get("prompt_cache_options")), (3, None));

    // A server that is told of none, and a model that takes none.
    for (quirks, model) in [(json!({}), "gpt-5.6"), (json!("azure"), "gpt-4o")] {
        let (body, warnings) = marked(quirks, model, explicit.clone());
        assert!(!body.to_string().contains("cache_"), "{body}");
        assert_eq!(warnings.len(), 2, "one for each run");
        assert_eq!(warnings[0]["code"], "cache_points_skipped");
    }
}

#[test]
fn too_many_cache_points_are_refused_before_anything_is_sent() {
    let server = FakeServer::start([]);
    let runtime =
        runtime(&server, json!("openrouter"), json!({"cache_strategy": {"type": "explicit", "system": true}}));
    let part = |text: &str| [json!({"type": "text", "text": text}), json!({"type": "cache_point"})];
    let input: Vec<Value> = (0..4).flat_map(|_| part("x")).collect();
    let error = runtime.stream(&json!({"agent": "a", "input": input}).to_string()).map(drop).unwrap_err();
    assert_eq!(error.path(), Some("request.input[7]"));
    assert!(error.message().contains("4 cache points") && error.hint().is_some(), "{error:?}");
    assert_eq!(server.requests().len(), 0);
}
