//! Record and replay: what a provider said comes again offline, byte for byte; what changed is told; no key is written.

mod support;

use par::runtime::Runtime;
use par::types::{Category, Error, Status};
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::client::{next, of_type, text};
use support::{FakeServer, Reply, openai};

const KEY: &str = "sk-secret-0123456789";

struct Cassette(tempfile::TempDir);

impl Cassette {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("cassette.jsonl")
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.path()).unwrap()
    }

    fn lines(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// A runtime whose provider `p` is recorded.
    fn recording(&self, provider: Value) -> Runtime {
        create(json!({"llm_providers": {"p": provider}, "record": {"path": self.path()}}))
    }

    /// A runtime whose provider `p` plays this cassette.
    fn replaying(&self) -> Runtime {
        self.replaying_with(json!({}))
    }

    fn replaying_with(&self, extra: Value) -> Runtime {
        let mut provider = json!({"type": "replay", "path": self.path(), "retry": {"initial_delay_ms": 1}});
        for (key, value) in extra.as_object().unwrap() {
            provider[key] = value.clone();
        }
        create(json!({"llm_providers": {"p": provider}}))
    }
}

fn create(config: Value) -> Runtime {
    let runtime = support::create(&config.to_string()).unwrap();
    runtime.register_tool(r#"{"name": "add", "description": "Adds.", "input_schema": {"type": "object"}}"#).unwrap();
    runtime
        .register_agent(&json!({"id": "a", "model": "p/m", "system_prompt": "Be brief.", "tools": ["add"]}).to_string())
        .unwrap();
    runtime
}

fn openai_at(server: &FakeServer) -> Value {
    json!({"type": "openai", "api_key": KEY, "base_url": server.base_url(), "retry": {"initial_delay_ms": 1}})
}

/// Runs to the end, answering every tool call with 3. The events are without what is new in each run.
fn ask(runtime: &Runtime, input: &str) -> (Vec<Value>, Result<Value, Error>) {
    ask_of(runtime, "a", input)
}

fn ask_of(runtime: &Runtime, agent: &str, input: &str) -> (Vec<Value>, Result<Value, Error>) {
    let stream = runtime.stream(&json!({"agent": agent, "input": input}).to_string()).unwrap();
    let mut seen = Vec::new();
    while let Some(mut event) = next(&stream) {
        if event["type"] == "tool_call" {
            runtime.tool_complete(event["token"].as_u64().unwrap(), "3").unwrap();
        }
        strip(&mut event);
        seen.push(event);
    }
    let answer = stream.answer().unwrap().map(|json| {
        let mut answer: Value = serde_json::from_str(&json).unwrap();
        strip(&mut answer);
        answer
    });
    (seen, answer)
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for key in ["run_id", "at_ms", "token", "idempotency_key", "duration_ms", "deadline_ms", "delay_ms"] {
                fields.remove(key);
            }
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

fn openai_replies() -> [Reply; 2] {
    let calls = [openai::call("c1", "add", r#"{"a": 1, "b": 2}"#), openai::call("c2", "add", r#"{"a": 3, "b": 4}"#)];
    [
        Reply::sse(openai::tool_call_chunks(calls, openai::usage(10, 5)))
            .header("x-request-id", "req-1")
            .split_every(7),
        Reply::sse(openai::text_chunks(["Es ", "ist 3 €", "."], openai::usage(20, 3)))
            .header("x-ratelimit-remaining-requests", 9)
            .header("set-cookie", "session=abc")
            .split_every(2),
    ]
}

fn anthropic_replies() -> [Reply; 2] {
    let named = |payloads: &[Value]| {
        payloads.iter().fold(Reply::event_stream(), |reply, payload| {
            reply.chunk(format!("event: {}\ndata: {payload}\n\n", payload["type"].as_str().unwrap()))
        })
    };
    let start = json!({"type": "message_start", "message": {"id": "m", "model": "claude-x", "role": "assistant", "content": [],
                       "usage": {"input_tokens": 10, "output_tokens": 1}}});
    let block =
        |index: usize, block: Value| json!({"type": "content_block_start", "index": index, "content_block": block});
    let delta = |index: usize, delta: Value| json!({"type": "content_block_delta", "index": index, "delta": delta});
    let stop = |index: usize| json!({"type": "content_block_stop", "index": index});
    let end = |reason: &str| {
        [
            json!({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 9}}),
            json!({"type": "message_stop"}),
        ]
    };
    let call = [
        vec![
            start.clone(),
            block(0, json!({"type": "thinking", "thinking": "", "signature": ""})),
            delta(0, json!({"type": "thinking_delta", "thinking": "I should add."})),
            delta(0, json!({"type": "signature_delta", "signature": "c2ln+/="})),
            stop(0),
            block(1, json!({"type": "tool_use", "id": "toolu_1", "name": "add", "input": {}})),
            delta(1, json!({"type": "input_json_delta", "partial_json": "{\"a\": 1}"})),
            stop(1),
        ],
        end("tool_use").to_vec(),
    ];
    let said = [
        vec![
            start,
            block(0, json!({"type": "text", "text": ""})),
            delta(0, json!({"type": "text_delta", "text": "It is "})),
            delta(0, json!({"type": "text_delta", "text": "3."})),
            stop(0),
        ],
        end("end_turn").to_vec(),
    ];
    [named(&call.concat()), named(&said.concat())]
}

#[test]
fn a_replay_says_what_was_recorded() {
    for family in ["openai_chat", "anthropic"] {
        let cassette = Cassette::new();
        let server = FakeServer::start(if family == "anthropic" { anthropic_replies() } else { openai_replies() });
        let provider = match family {
            "anthropic" => json!({"type": "anthropic", "api_key": KEY, "base_url": server.url()}),
            _ => openai_at(&server),
        };
        let (recorded, answer) = ask(&cassette.recording(provider), "1 + 2?");
        let answer = answer.unwrap();
        assert!(!of_type(&recorded, "tool_call").is_empty() && text(&recorded).contains('3'), "{recorded:?}");
        let port = server.address();
        drop(server);
        let (replayed, again) = ask(&cassette.replaying(), "1 + 2?");
        assert_eq!((replayed, again.unwrap()), (recorded, answer), "{family}");
        let lines = cassette.lines();
        assert_eq!(lines.iter().map(|line| line["n"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1]);
        for line in lines {
            assert_eq!(
                (&line["family"], &line["provider"], &line["request"]["method"]),
                (&json!(family), &json!("p"), &json!("POST"))
            );
            assert!(line["request"]["url"].as_str().unwrap().contains(&port.to_string()));
            assert_eq!(line["response"]["status"], 200);
            // A slow server may not get to its goodbye.
            assert_ne!(line["response"]["end"], "broken");
        }
    }
}

#[test]
fn the_bytes_are_those_that_came_piece_by_piece() {
    let cassette = Cassette::new();
    let server = FakeServer::start(openai_replies());
    ask(&cassette.recording(openai_at(&server)), "1 + 2?").1.unwrap();
    let second = &cassette.lines()[1]["response"];
    let chunks = second["chunks"].as_array().unwrap();
    assert!(chunks.len() > 20, "{} pieces", chunks.len());
    assert!(chunks.iter().any(|chunk| chunk.get("base64").is_some()), "a character was cut in two");
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk["at_ms"].is_u64() && (chunk.get("text").is_some() ^ chunk.get("base64").is_some()))
    );
    let headers: Vec<&String> = second["headers"].as_object().unwrap().keys().collect();
    assert_eq!(headers, ["content-type", "x-ratelimit-remaining-requests"]);
    assert_eq!(cassette.lines()[0]["response"]["headers"]["x-request-id"], "req-1");
}

#[test]
fn no_key_is_in_the_file() {
    let cassette = Cassette::new();
    let echo = json!({"error": {"message": format!("Incorrect API key provided: {KEY}"), "code": "invalid_api_key"}});
    let chunks = openai::text_chunks([&format!("your key is {KEY}")], None);
    let server = FakeServer::start([Reply::sse(chunks).split_every(5), Reply::status(401).json_body(&echo)]);
    let provider = json!({"type": "custom", "api_key": KEY, "base_url": format!("{}?api-key=in-the-url-42&x=1", server.base_url()),
                          "headers": {"x-portkey-token": "Basic dG9rZW4tdG9rZW4=", "x-plain": "seen"}});
    let other = json!({"type": "openai", "api_key": "another-key-7777", "base_url": server.base_url()});
    let runtime = create(json!({"llm_providers": {"p": provider, "q": other}, "record": {"path": cassette.path()}}));
    ask(&runtime, "is another-key-7777 a key, and dG9rZW4tdG9rZW4=?").1.unwrap();
    ask(&runtime, "again").1.unwrap_err();
    let text = cassette.text();
    for secret in [KEY, "another-key-7777", "in-the-url-42", "dG9rZW4tdG9rZW4="] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    let lines = cassette.lines();
    let whole: String = lines[0]["response"]["chunks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|chunk| chunk["text"].as_str().unwrap())
        .collect();
    assert!(whole.contains("your key is [SECRET]\""), "{whole}");
    let headers = &lines[0]["request"]["headers"];
    assert_eq!(
        (&headers["authorization"], &headers["x-portkey-token"], &headers["x-plain"]),
        (&json!("[SECRET]"), &json!("[SECRET]"), &json!("seen"))
    );
    assert_eq!(lines[0]["request"]["body"]["messages"][1]["content"], "is [SECRET] a key, and [SECRET]?");
    assert!(lines[0]["request"]["url"].as_str().unwrap().ends_with("/v1/chat/completions?api-key=[SECRET]&x=1"));
    assert!(lines[1]["response"]["chunks"].to_string().contains("provided: [SECRET]"));
}

#[test]
fn a_changed_request_is_told_with_where_it_differs() {
    let cassette = Cassette::new();
    let server = FakeServer::start(openai_replies());
    ask(&cassette.recording(openai_at(&server)), "1 + 2?").1.unwrap();
    let replaying = cassette.replaying();
    let error = ask(&replaying, "1 + 3?").1.unwrap_err();
    assert_eq!(
        (error.status(), error.code(), error.is_retryable()),
        (Status::Provider, Some("replay_mismatch"), false)
    );
    let message = error.message();
    assert!(message.contains("request 1 is not the one"), "{message}");
    assert!(message.contains(r#"/messages/1/content: recorded "1 + 2?", now "1 + 3?""#), "{message}");
    // What did not match was not used up.
    ask(&replaying, "1 + 2?").1.unwrap();
    let error = ask(&replaying, "1 + 2?").1.unwrap_err();
    assert_eq!((error.status(), error.code()), (Status::Provider, Some("replay_exhausted")), "{error:?}");
    assert!(error.message().contains("has 2 requests"), "{error:?}");
}

#[test]
fn the_address_counts_where_the_model_is_in_it() {
    let cassette = Cassette::new();
    let said =
        json!({"candidates": [{"content": {"role": "model", "parts": [{"text": "Yes."}]}, "finishReason": "STOP"}]});
    let server = FakeServer::start([Reply::sse([said.to_string()])]);
    let runtime = cassette.recording(json!({"type": "gemini", "api_key": KEY, "base_url": server.url()}));
    ask(&runtime, "Hi").1.unwrap();
    let replaying = cassette.replaying();
    replaying
        .register_agent(r#"{"id": "b", "model": "p/other", "system_prompt": "Be brief.", "tools": ["add"]}"#)
        .unwrap();
    let error = ask_of(&replaying, "b", "Hi").1.unwrap_err();
    assert!(error.code() == Some("replay_mismatch") && error.message().contains("models/other"), "{error:?}");
    assert_eq!(ask(&replaying, "Hi").1.unwrap()["text"], "Yes.");
}

#[test]
fn failures_come_again_too() {
    let cassette = Cassette::new();
    let server = FakeServer::start([
        Reply::status(429).retry_after_ms(3).header("x-request-id", "r").json_body(&openai::error(
            "slow down",
            "rate",
            None,
        )),
        Reply::sse(openai::text_chunks(["Hel", "lo"], None)),
        Reply::sse(openai::text_chunks(["Hel", "lo"], None).into_iter().take(2)).reset(),
        Reply::html(502, "Bad gateway"),
        Reply::status(400).json_body(&openai::error("no such model", "invalid_request_error", None)),
    ]);
    let recording = cassette.recording(openai_at(&server));
    let recorded: Vec<_> = (0..3).map(|_| ask(&recording, "Hi")).collect();
    let replaying = cassette.replaying();
    let replayed: Vec<_> = (0..3).map(|_| ask(&replaying, "Hi")).collect();
    assert_eq!(of_type(&recorded[0].0, "turn_retried").len(), 1);
    assert_eq!(recorded[0], replayed[0]);
    let broken = replayed[1].1.as_ref().unwrap_err();
    assert_eq!((broken.status(), broken.category()), (Status::Network, Category::Truncated));
    assert_eq!(text(&recorded[1].0), text(&replayed[1].0));
    // The error of a result names its run, which is another one.
    assert_eq!(recorded[2].0, replayed[2].0);
}

#[test]
fn embeddings_are_recorded_as_well() {
    let cassette = Cassette::new();
    let reply = json!({"model": "e", "data": [{"index": 0, "embedding": [0.5, 0.25]}], "usage": {"prompt_tokens": 2}});
    let server = FakeServer::start([Reply::json(&reply)]);
    let params = r#"{"input": "x", "provider": "p", "model": "e"}"#;
    let recorded = cassette.recording(openai_at(&server)).call("embed", params, None).unwrap();
    let replaying = cassette.replaying();
    assert_eq!(replaying.call("embed", params, None).unwrap(), recorded);
    assert_eq!(replaying.call("embed", params, None).unwrap_err().code(), Some("replay_exhausted"));
}

#[test]
fn one_cassette_holds_several_providers() {
    let cassette = Cassette::new();
    let hello = |text: &str| FakeServer::start([Reply::sse(openai::text_chunks([text], None))]);
    let (one, two) = (hello("one"), hello("two"));
    let config =
        json!({"llm_providers": {"p": openai_at(&one), "q": openai_at(&two)}, "record": {"path": cassette.path()}});
    let runtime = create(config);
    runtime.register_agent(r#"{"id": "b", "model": "q/m", "system_prompt": "Be brief.", "tools": ["add"]}"#).unwrap();
    ask_of(&runtime, "b", "Hi").1.unwrap();
    ask(&runtime, "Hi").1.unwrap();
    let played =
        |provider: &str| ask(&cassette.replaying_with(json!({"provider": provider})), "Hi").1.unwrap()["text"].clone();
    assert_eq!((played("p"), played("q")), (json!("one"), json!("two")));
    let wrong = |extra: Value| {
        let mut provider = json!({"type": "replay", "path": cassette.path()});
        provider.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        support::create(&json!({"llm_providers": {"p": provider}}).to_string()).err().unwrap()
    };
    for error in [wrong(json!({})), wrong(json!({"provider": "r"}))] {
        assert_eq!(error.path(), Some("config.llm_providers.p.provider"));
        assert!(error.hint().unwrap().ends_with("p, q"), "{error:?}");
    }
}

#[test]
fn timing_is_kept_on_demand() {
    let cassette = Cassette::new();
    let server =
        FakeServer::start([Reply::sse(openai::text_chunks(["a", "b", "c"], None)).paced(Duration::from_millis(40))]);
    ask(&cassette.recording(openai_at(&server)), "Hi").1.unwrap();
    let took = |extra: Value| {
        let runtime = cassette.replaying_with(extra);
        let began = Instant::now();
        ask(&runtime, "Hi").1.unwrap();
        began.elapsed()
    };
    assert!(took(json!({"keep_timing": true})) >= Duration::from_millis(150));
    assert!(took(json!({})) < Duration::from_millis(150));
}

#[test]
fn a_cassette_is_its_owners_and_is_continued() {
    use std::os::unix::fs::PermissionsExt;
    let cassette = Cassette::new();
    for _ in 0..2 {
        let server = FakeServer::start([Reply::sse(openai::text_chunks(["Hi"], None))]);
        ask(&cassette.recording(openai_at(&server)), "Hi").1.unwrap();
    }
    let mode = std::fs::metadata(cassette.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(cassette.lines().iter().map(|line| line["n"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1]);
    let replaying = cassette.replaying();
    ask(&replaying, "Hi").1.unwrap();
    ask(&replaying, "Hi").1.unwrap();
}

#[test]
fn a_full_disk_is_a_warning() {
    if !Path::new("/dev/full").exists() {
        return support::skipped("no /dev/full");
    }
    let server = FakeServer::start([Reply::sse(openai::text_chunks(["Hi"], None))]);
    let runtime = create(json!({"llm_providers": {"p": openai_at(&server)}, "record": {"path": "/dev/full"}}));
    let (events, answer) = ask(&runtime, "Hi");
    assert_eq!(answer.unwrap()["text"], "Hi");
    assert_eq!(of_type(&events, "warning")[0]["code"], "record_failed", "{events:?}");
}

#[test]
fn what_cannot_be_opened_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let created = |config: Value| support::create(&config.to_string()).err().unwrap();
    let error = created(json!({"record": {"path": folder.path().join("no/such/folder.jsonl")}}));
    assert_eq!((error.status(), error.path()), (Status::Io, Some("config.record.path")));
    for (content, said) in [
        (None, "cannot be read"),
        (Some(""), "is empty"),
        (Some("{\"n\": 0}\n"), "line 1 of the cassette"),
        (Some("not json"), "line 1 of the cassette"),
    ] {
        let file = folder.path().join("c.jsonl");
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        let error = created(json!({"llm_providers": {"p": {"type": "replay", "path": file}}}));
        assert!(error.path() == Some("config.llm_providers.p.path") && error.message().contains(said), "{error:?}");
    }
    for (config, path) in [
        (json!({"record": {}}), "config.record"),
        (json!({"record": {"path": ""}}), "config.record.path"),
        (json!({"record": {"file": "x"}}), "config.record.file"),
        (json!({"llm_providers": {"p": {"type": "replay"}}}), "config.llm_providers.p"),
        (
            json!({"llm_providers": {"p": {"type": "replay", "path": "x", "timing": true}}}),
            "config.llm_providers.p.timing",
        ),
    ] {
        assert_eq!(created(config).path(), Some(path));
    }
}
