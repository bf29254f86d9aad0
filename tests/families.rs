//! Every wire family from end to end: what goes over the wire, what comes back, and that what a provider signed returns to
//! it byte for byte, across tool calls, sessions and other providers.

mod support;

use par::runtime::Runtime;
use par::types::{Category, Status};
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use support::client::{of_type, run, text};
use support::{FakeServer, Reply, openai};

fn runtime(provider: Value, agent: Value) -> Runtime {
    let runtime = support::create(&json!({"llm_providers": {"p": provider}}).to_string()).unwrap();
    let add = r#"{"name": "add", "description": "Adds.", "input_schema": {"type": "object"}, "permission": "confirm"}"#;
    runtime.register_tool(add).unwrap();
    let mut definition = json!({"id": "a", "model": "p/m", "system_prompt": "Be brief.", "tools": ["add"]});
    for (key, value) in agent.as_object().unwrap() {
        definition[key] = value.clone();
    }
    runtime.register_agent(&definition.to_string()).unwrap();
    runtime
}

/// Runs to the end, approving every tool call and answering it with 3.
fn ask(runtime: &Runtime, request: Value) -> (Vec<Value>, Result<Value, par::types::Error>) {
    let stream = runtime.stream(&request.to_string()).unwrap();
    let mut seen = Vec::new();
    while let Some(event) = support::client::next(&stream) {
        if event["type"] == "approval_request" {
            runtime.approval_resolve(event["approval_id"].as_str().unwrap(), "\"approve\"").unwrap();
        }
        if event["type"] == "tool_call" {
            runtime.tool_complete(event["token"].as_u64().unwrap(), "3").unwrap();
        }
        seen.push(event);
    }
    let answer = stream.answer().unwrap().map(|json| serde_json::from_str(&json).unwrap());
    (seen, answer)
}

/// One server-sent event of Anthropic's: its name is its type.
fn named(payloads: &[Value]) -> Reply {
    payloads.iter().fold(Reply::event_stream(), |reply, payload| {
        reply.chunk(format!("event: {}\ndata: {payload}\n\n", payload["type"].as_str().unwrap()))
    })
}

fn anthropic_calls() -> Vec<Value> {
    vec![
        json!({"type": "message_start", "message": {"id": "m1", "model": "claude-x", "role": "assistant", "content": [],
               "usage": {"input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 1}}}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "I should add."}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "c2lnbmVk+/="}}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "ping"}),
        json!({"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {}}}),
        json!({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{\"a\": 1,"}}),
        json!({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": " \"b\": 2}"}}),
        json!({"type": "content_block_stop", "index": 1}),
        json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 20}}),
        json!({"type": "message_stop"}),
    ]
}

fn anthropic_text(said: &str) -> Vec<Value> {
    vec![
        json!({"type": "message_start", "message": {"id": "m2", "model": "claude-x", "role": "assistant", "content": [],
               "usage": {"input_tokens": 30, "output_tokens": 1}}}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": said}}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}}),
        json!({"type": "message_stop"}),
    ]
}

#[test]
fn anthropic_gets_its_signed_thinking_back() {
    let server = FakeServer::start([
        named(&anthropic_calls()),
        named(&anthropic_text("It is 3.")),
        named(&anthropic_text("Still 3.")),
    ]);
    let runtime = runtime(
        json!({"type": "anthropic", "api_key": "key", "base_url": server.url()}),
        json!({"cache_strategy": "automatic", "model": {"provider": "p", "model_name": "claude-x", "max_tokens": 2_048,
               "reasoning": {"budget_tokens": 1_024}}}),
    );
    let (events, result) = ask(&runtime, json!({"agent": "a", "input": "1 + 2?", "session": "s"}));
    let result = result.unwrap();
    assert_eq!((&result["text"], text(&events).as_str()), (&json!("It is 3."), "It is 3."));
    assert_eq!(result["usage"], json!({"input_tokens": 40, "output_tokens": 25, "cache_read_tokens": 5}));
    assert_eq!(of_type(&events, "reasoning_delta")[0]["text"], "I should add.");
    ask(&runtime, json!({"agent": "a", "input": "Sure?", "session": "s"})).1.unwrap();
    let requests = server.requests();
    assert_eq!(requests[0].path, "/v1/messages");
    assert_eq!(
        (requests[0].header("x-api-key"), requests[0].header("anthropic-version")),
        (Some("key"), Some("2023-06-01"))
    );
    assert_eq!(requests[0].body["thinking"], json!({"type": "enabled", "budget_tokens": 1_024}));
    for request in &requests[1..] {
        let messages = request.body["messages"].as_array().unwrap();
        let thinking = json!({"type": "thinking", "thinking": "I should add.", "signature": "c2lnbmVk+/="});
        assert_eq!(messages[1]["content"][0], thinking, "{}", request.body);
        assert_eq!(messages[1]["content"][1]["id"], "toolu_1");
        assert_eq!(
            (&messages[2]["role"], &messages[2]["content"][0]["tool_use_id"]),
            (&json!("user"), &json!("toolu_1"))
        );
        let marks = request.body.to_string().matches("cache_control").count();
        assert!((1..=4).contains(&marks), "{marks} marks in {}", request.body);
    }
}

#[test]
fn another_family_is_not_shown_what_it_cannot_read() {
    let anthropic = FakeServer::start([named(&anthropic_calls()), named(&anthropic_text("It is 3."))]);
    let openai = FakeServer::start([Reply::sse(openai::text_chunks(["Yes."], openai::usage(1, 1)))]);
    let providers = json!({"p": {"type": "anthropic", "api_key": "k", "base_url": anthropic.url()},
                           "q": {"type": "openai", "api_key": "k", "base_url": openai.base_url()}});
    let runtime = support::create(&json!({"llm_providers": providers}).to_string()).unwrap();
    runtime.register_tool(r#"{"name": "add"}"#).unwrap();
    for (id, provider) in [("a", "p"), ("b", "q")] {
        let agent = json!({"id": id, "model": format!("{provider}/m"), "tools": ["add"]});
        runtime.register_agent(&agent.to_string()).unwrap();
    }
    ask(&runtime, json!({"agent": "a", "input": "1 + 2?", "session": "s"})).1.unwrap();
    ask(&runtime, json!({"agent": "b", "input": "Sure?", "session": "s"})).1.unwrap();
    let body = &openai.requests()[0].body;
    assert!(!body.to_string().contains("c2lnbmVk"), "{body}");
    let roles: Vec<&str> =
        body["messages"].as_array().unwrap().iter().map(|message| message["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "assistant", "user"]);
}

#[test]
fn gemini_gets_its_signatures_back_on_the_very_part() {
    let call = json!({"candidates": [{"content": {"role": "model", "parts": [
        {"functionCall": {"name": "add", "args": {"a": 1, "b": 2}}, "thoughtSignature": "Z2Vt+/=="}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 4, "thoughtsTokenCount": 6}, "modelVersion": "gemini-x"});
    let said = json!({"candidates": [{"content": {"role": "model", "parts": [{"text": "It is 3."}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 20, "candidatesTokenCount": 4}, "modelVersion": "gemini-x"});
    let server = FakeServer::start([Reply::sse([call.to_string()]), Reply::sse([said.to_string()])]);
    let runtime = runtime(json!({"type": "gemini", "api_key": "key", "base_url": server.url()}), json!({}));
    let (_, result) = ask(&runtime, json!({"agent": "a", "input": "1 + 2?"}));
    let result = result.unwrap();
    assert_eq!(result["text"], "It is 3.");
    assert_eq!(result["usage"], json!({"input_tokens": 30, "output_tokens": 14, "reasoning_tokens": 6}));
    let requests = server.requests();
    assert_eq!(requests[0].path, "/v1beta/models/m:streamGenerateContent?alt=sse");
    assert_eq!(requests[0].header("x-goog-api-key"), Some("key"));
    let contents = &requests[1].body["contents"];
    assert_eq!(contents[1]["parts"][0]["thoughtSignature"], "Z2Vt+/==");
    assert_eq!(contents[2]["parts"][0]["functionResponse"]["name"], "add");
}

#[test]
fn responses_gets_its_encrypted_reasoning_back() {
    let reasoning = json!({"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Adding."}],
                           "encrypted_content": "ZW5jcnlwdGVk+/="});
    let call = json!({"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "add", "arguments": "{\"a\":1}", "status": "completed"});
    let message = json!({"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
                         "content": [{"type": "output_text", "text": "It is 3.", "annotations": []}]});
    let whole = |items: Vec<Value>| {
        let mut events = vec![
            json!({"type": "response.created", "response": {"id": "r", "model": "gpt-x", "status": "in_progress", "output": []}}),
        ];
        for (index, item) in items.iter().enumerate() {
            events.push(json!({"type": "response.output_item.added", "output_index": index, "item": item}));
            events.push(json!({"type": "response.output_item.done", "output_index": index, "item": item}));
        }
        events.push(json!({"type": "response.completed", "response": {"id": "r", "model": "gpt-x", "status": "completed", "output": items,
            "usage": {"input_tokens": 12, "output_tokens": 8, "input_tokens_details": {"cached_tokens": 2},
                      "output_tokens_details": {"reasoning_tokens": 3}}}}));
        named(&events)
    };
    let server = FakeServer::start([whole(vec![reasoning.clone(), call.clone()]), whole(vec![message])]);
    let provider = json!({"type": "openai", "api": "responses", "api_key": "key", "base_url": server.base_url()});
    let agent = json!({"model": {"provider": "p", "model_name": "gpt-x", "reasoning": {"effort": "low"}}});
    let runtime = runtime(provider, agent);
    let (_, result) = ask(&runtime, json!({"agent": "a", "input": "1 + 2?"}));
    let result = result.unwrap();
    assert_eq!(result["text"], "It is 3.");
    assert_eq!(
        result["usage"],
        json!({"input_tokens": 20, "output_tokens": 16, "cache_read_tokens": 4, "reasoning_tokens": 6})
    );
    let requests = server.requests();
    assert_eq!((requests[0].path.as_str(), &requests[0].body["store"]), ("/v1/responses", &json!(false)));
    assert_eq!(requests[0].body["reasoning"]["effort"], "low");
    let input = requests[1].body["input"].as_array().unwrap();
    let at = input.iter().position(|item| item["type"] == "reasoning").unwrap();
    assert_eq!(input[at], reasoning);
    assert_eq!((&input[at + 1]["call_id"], &input[at + 2]["type"]), (&json!("call_1"), &json!("function_call_output")));
}

#[test]
fn ollama_is_told_its_context_length() {
    let lines = concat!(
        r#"{"model":"llama","message":{"role":"assistant","content":"","tool_calls":[{"function":{"name":"add","arguments":{"a":1}}}]},"done":false}"#,
        "\n",
        r#"{"model":"llama","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","prompt_eval_count":9,"eval_count":4}"#,
        "\n"
    );
    let said = concat!(
        r#"{"model":"llama","message":{"role":"assistant","content":"It is "},"done":false}"#,
        "\n",
        r#"{"model":"llama","message":{"role":"assistant","content":"3."},"done":false}"#,
        "\n",
        r#"{"model":"llama","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","prompt_eval_count":19,"eval_count":4}"#
    );
    let ndjson = |body: &str| Reply::status(200).header("content-type", "application/x-ndjson").body(body.to_owned());
    let server = FakeServer::start([ndjson(lines), ndjson(said).split_every(7)]);
    let provider = json!({"type": "ollama", "base_url": server.url(), "num_ctx": 8_192, "keep_alive": "5m"});
    let runtime = runtime(provider, json!({}));
    let (events, result) = ask(&runtime, json!({"agent": "a", "input": "1 + 2?"}));
    assert_eq!((result.unwrap()["text"].as_str(), text(&events).as_str()), (Some("It is 3."), "It is 3."));
    let requests = server.requests();
    assert_eq!((requests[0].path.as_str(), &requests[0].body["options"]["num_ctx"]), ("/api/chat", &json!(8_192)));
    assert_eq!(requests[1].body["messages"].as_array().unwrap().last().unwrap()["role"], "tool");
    assert_eq!(
        runtime.call("models.get", r#"{"model": "p/llama"}"#, None).unwrap().contains("\"context_window\":8192"),
        true
    );
}

#[test]
fn ollama_at_v1_speaks_the_compatible_api() {
    let server = FakeServer::start([Reply::sse(openai::text_chunks(["Hi."], openai::usage(1, 1)))]);
    let runtime = runtime(json!({"type": "ollama", "base_url": server.base_url()}), json!({}));
    assert_eq!(ask(&runtime, json!({"agent": "a", "input": "Hi"})).1.unwrap()["text"], "Hi.");
    assert_eq!(server.requests()[0].path, "/v1/chat/completions");
    let wrong = json!({"llm_providers": {"o": {"type": "ollama", "base_url": "http://h/v1", "num_ctx": 1}}});
    assert_eq!(support::create(&wrong.to_string()).err().unwrap().path(), Some("config.llm_providers.o.num_ctx"));
}

#[test]
fn a_custom_server_may_speak_anthropics_api() {
    let server = FakeServer::start([named(&anthropic_text("Hi."))]);
    let provider = json!({"type": "custom", "request_format": "anthropic_compatible", "base_url": server.url(), "headers": {"x-team": "blue"}});
    let runtime = runtime(provider, json!({}));
    assert_eq!(ask(&runtime, json!({"agent": "a", "input": "Hi"})).1.unwrap()["text"], "Hi.");
    assert_eq!(
        (server.requests()[0].path.as_str(), server.requests()[0].header("x-team")),
        ("/v1/messages", Some("blue"))
    );
}

#[test]
fn a_failure_inside_a_stream_is_told_like_one_before_it() {
    let overloaded = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
    let server = FakeServer::start([named(&[overloaded]), named(&anthropic_text("Hi."))]);
    let provider = json!({"type": "anthropic", "api_key": "k", "base_url": server.url(),
                          "retry": {"max_attempts": 2, "initial_delay_ms": 1}});
    let (events, result) = ask(&runtime(provider, json!({})), json!({"agent": "a", "input": "Hi"}));
    assert_eq!(result.unwrap()["text"], "Hi.");
    let retried = of_type(&events, "turn_retried");
    assert_eq!((retried.len(), &retried[0]["error"]["category"]), (1, &json!("unavailable")));
    // After output was emitted nothing is repeated.
    let mut broken = anthropic_text("Half an ans");
    broken.truncate(3);
    let server = FakeServer::start([named(&broken)]);
    let provider = json!({"type": "anthropic", "api_key": "k", "base_url": server.url()});
    let error = ask(&runtime(provider, json!({})), json!({"agent": "a", "input": "Hi"})).1.unwrap_err();
    assert_eq!(error.category(), Category::Truncated);
}

#[test]
fn a_wrong_address_is_told_as_it_was_asked() {
    let server = FakeServer::start([Reply::status(404).body("404 page not found")]);
    let provider = json!({"type": "anthropic", "api_key": "k", "base_url": format!("{}?secret=1", server.base_url())});
    let error = run(&runtime(provider, json!({})), json!({"agent": "a", "input": "Hi"})).1.unwrap_err();
    let asked = format!("check model_name and base_url: what was asked is {}/v1/messages", server.base_url());
    assert_eq!(error.hint(), Some(&*asked));
}

#[test]
fn what_an_api_cannot_take_is_said_before_it_is_sent() {
    let server = FakeServer::start([]);
    let provider = json!({"type": "anthropic", "api_key": "k", "base_url": server.url()});
    let input = json!([{"type": "audio", "media_type": "audio/wav", "data": "AAAA"}]);
    let error = run(&runtime(provider, json!({})), json!({"agent": "a", "input": input})).1.unwrap_err();
    assert_eq!(error.status(), Status::UnsupportedByProvider);
    assert!(server.requests().is_empty());
}

#[test]
fn every_family_holds_the_answer_to_a_schema_its_own_way() {
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
    let request = json!({"agent": "a", "input": "A number.", "response_schema": schema, "output_mode": "native"});
    let said = "{\"n\": 3}";
    let gemini =
        json!({"candidates": [{"content": {"role": "model", "parts": [{"text": said}]}, "finishReason": "STOP"}]});
    let ollama =
        json!({"model": "m", "message": {"role": "assistant", "content": said}, "done": true, "done_reason": "stop"});
    for (kind, reply, place) in [
        ("openai", Reply::sse(openai::text_chunks([said], openai::usage(1, 1))), "/response_format/json_schema/schema"),
        ("anthropic", named(&anthropic_text(said)), "/output_config/format/schema"),
        ("gemini", Reply::sse([gemini.to_string()]), "/generationConfig/responseJsonSchema"),
        (
            "ollama",
            Reply::status(200).header("content-type", "application/x-ndjson").body(ollama.to_string()),
            "/format",
        ),
    ] {
        let server = FakeServer::start([reply]);
        let url = if kind == "openai" { server.base_url() } else { server.url() };
        let provider = json!({"type": kind, "base_url": url});
        let runtime = runtime(provider, json!({"tools": []}));
        let (_, result) = run(&runtime, request.clone());
        assert_eq!(result.unwrap()["output"], json!({"n": 3}), "{kind}");
        let body = &server.requests()[0].body;
        assert_eq!(body.pointer(place), Some(&schema), "{kind}: {body}");
    }
}

#[test]
fn a_custom_server_has_its_quirks() {
    let calls = openai::tool_call_chunks([openai::call("c1", "add", "{}")], openai::usage(1, 1));
    let reasoned = json!({"choices": [{"index": 0, "delta": {"reasoning_content": "I should add."}}]}).to_string();
    let first = Reply::sse(std::iter::once(reasoned).chain(calls));
    let server = FakeServer::start([first, Reply::sse(openai::text_chunks(["{\"n\": 3}"], openai::usage(1, 1)))]);
    let provider = json!({"type": "custom", "base_url": server.base_url(), "quirks": {
        "max_tokens_key": "max_completion_tokens", "send_back_reasoning": "reasoning_content", "json_schema": true}});
    let runtime = runtime(provider, json!({"model": {"provider": "p", "model_name": "m", "max_tokens": 50}}));
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
    let (_, result) = ask(&runtime, json!({"agent": "a", "input": "1 + 2?", "response_schema": schema}));
    assert_eq!(result.unwrap()["output"], json!({"n": 3}));
    let body = &server.requests()[1].body;
    assert_eq!((&body["max_completion_tokens"], body.get("max_tokens")), (&json!(50), None));
    assert_eq!(body["messages"][2]["reasoning_content"], "I should add.");
    assert_eq!(body["response_format"]["type"], "json_schema");
}

#[test]
fn a_model_that_takes_no_temperature_is_known_before_it_is_asked() {
    let runtime = runtime(json!({"type": "openai", "api_key": "k"}), json!({}));
    let agent = |id: &str, model: &str| {
        json!({"id": id, "model": {"provider": "p", "model_name": model, "temperature": 0.5}}).to_string()
    };
    let error = runtime.register_agent(&agent("b", "o3")).unwrap_err();
    assert_eq!(error.path(), Some("agent.model.temperature"));
    runtime.register_agent(&agent("c", "gpt-4o")).unwrap();
}
