//! A real OpenAI-compatible server: llama.cpp with a tiny random model. Its text is gibberish, but its SSE, usage and
//! tool calls are real.
//!
//! `tests/scripts/llama_server.sh install` installs it; where it is not, the test says so and is done, or fails under
//! `PAR_TEST_REQUIRE_ALL`.

mod support;

use par::runtime::Runtime;
use serde_json::{Value, json};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::client::{events, next, of_type, text};

struct Server {
    process: Child,
    port: u16,
}

impl Server {
    fn start(options: &[&str]) -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/llama_server.sh");
        let folder = std::env::var("PAR_TEST_LLAMA_DIR").ok();
        let command = |verb: &str| {
            let mut command = Command::new("sh");
            command
                .arg(&script)
                .arg(verb)
                .args(&folder)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command
        };
        if !command("installed").status().unwrap().success() {
            assert!(
                std::env::var_os("PAR_TEST_REQUIRE_ALL").is_none(),
                "the llama.cpp server is required and not installed"
            );
            support::skipped("no llama.cpp server (tests/scripts/llama_server.sh install)");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = command("run").arg(port.to_string()).args(options).spawn().unwrap();
        let server = Self { process, port };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !server.is_healthy() {
            assert!(Instant::now() < deadline, "the llama.cpp server does not come up");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(server)
    }

    fn is_healthy(&self) -> bool {
        use std::io::{Read, Write};
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        let mut answer = String::new();
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.starts_with("HTTP/1.1 200")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn runtime(server: &Server, extra: Value) -> Runtime {
    let config = json!({"llm_providers": {"llama": {"type": "custom", "base_url": format!("http://127.0.0.1:{}/v1", server.port)}}});
    let runtime = support::create(&config.to_string()).unwrap();
    let mut agent =
        json!({"id": "a", "model": {"provider": "llama", "model_name": "tiny", "max_tokens": 24, "temperature": 0}});
    for (key, value) in extra.as_object().unwrap() {
        agent[key] = value.clone();
    }
    runtime.register_tool(r#"{"name": "get_weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}"#).unwrap();
    runtime.register_agent(&agent.to_string()).unwrap();
    runtime
}

#[test]
fn a_real_server_streams_answers_and_tool_calls() {
    let Some(server) = Server::start(&[]) else { return };

    // Text: what is streamed is what is returned, and what a blocking call returns.
    let talking = runtime(&server, json!({}));
    let stream = talking.stream(r#"{"agent": "a", "input": "Hello", "session": "s"}"#).unwrap();
    let streamed = events(&stream);
    let result: Value = serde_json::from_str(stream.answer().unwrap().as_ref().unwrap()).unwrap();
    assert_eq!(text(&streamed), result["text"].as_str().unwrap());
    assert!(of_type(&streamed, "text_delta").len() > 1, "it came in pieces");
    assert!(
        result["usage"]["input_tokens"].as_u64().unwrap() > 0 && result["usage"]["output_tokens"].as_u64().unwrap() > 0
    );
    assert_eq!(result["finish_reason"], if result["usage"]["output_tokens"] == 24 { "max_tokens" } else { "stop" });
    let blocking: Value =
        serde_json::from_str(&talking.invoke(r#"{"agent": "a", "input": "Hello"}"#, None).unwrap()).unwrap();
    assert_eq!(blocking["text"], result["text"], "the same model, seed and prompt");
    let again: Value =
        serde_json::from_str(&talking.invoke(r#"{"agent": "a", "input": "And?", "session": "s"}"#, None).unwrap())
            .unwrap();
    assert!(again["usage"]["input_tokens"].as_u64() > result["usage"]["input_tokens"].as_u64(), "the history was sent");

    // Tools: whether a random model calls one is chance, but over some prompts it does, and every call is answered.
    let mut calls = 0;
    for prompt in 0..100 {
        let acting = runtime(
            &server,
            json!({"tools": ["get_weather"], "max_iterations": 2,
                   "model": {"provider": "llama", "model_name": "tiny", "max_tokens": 200, "temperature": 1}}),
        );
        let stream = acting.stream(&json!({"agent": "a", "input": format!("Weather{}?", " in Rome".repeat(prompt % 10 + 1) + &prompt.to_string())}).to_string()).unwrap();
        while let Some(event) = next(&stream) {
            match event["type"].as_str().unwrap() {
                "tool_call" => {
                    calls += 1;
                    assert!(event["input"].is_object(), "{event}");
                    acting.tool_complete(event["token"].as_u64().unwrap(), r#""sunny""#).unwrap();
                }
                "failed" => assert_eq!(event["error"]["code"], "max_iterations", "{event}"),
                "warning" => panic!("{event}"),
                _ => {}
            }
        }
        if calls >= 3 {
            break;
        }
    }
    assert!(calls > 0, "the model never called a tool");

    // A request the server refuses.
    let wrong = runtime(
        &server,
        json!({"id": "b", "model": {"provider": "llama", "model_name": "tiny", "max_tokens": 5, "stop_sequences": ["x"]}}),
    );
    let huge = json!({"agent": "b", "input": "word ".repeat(200_000)}).to_string();
    let error = wrong.invoke(&huge, None).unwrap_err();
    assert_eq!(error.status(), par::types::Status::ContextLength, "{error:?}");
}

#[test]
fn a_real_server_holds_an_answer_to_its_schema() {
    let Some(server) = Server::start(&[]) else { return };
    let config = json!({"llm_providers": {"llama": {"type": "custom", "quirks": {"json_schema": true},
                                                    "base_url": format!("http://127.0.0.1:{}/v1", server.port)}}});
    let runtime = support::create(&config.to_string()).unwrap();
    let model = json!({"provider": "llama", "model_name": "tiny", "max_tokens": 60, "temperature": 0});
    runtime.register_agent(&json!({"id": "a", "model": model}).to_string()).unwrap();
    // Nothing but the schema could make a model of random weights say this; and not a word of it is in the prompt.
    let schema = json!({"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"],
                        "additionalProperties": false});
    let request = json!({"agent": "a", "input": "Hello", "response_schema": schema, "output_mode": "native",
                         "max_repair_attempts": 0});
    let result: Value = serde_json::from_str(&runtime.invoke(&request.to_string(), None).unwrap()).unwrap();
    let colour = &result["output"]["colour"];
    assert!(colour == "red" || colour == "blue", "{result}");
}

#[test]
fn a_real_server_embeds() {
    let Some(server) = Server::start(&["--embeddings", "--pooling", "mean"]) else { return };
    let config = json!({"llm_providers": {"llama": {"type": "custom", "base_url": format!("http://127.0.0.1:{}/v1", server.port)}},
                        "embeddings": {"provider": "llama", "model": "tiny", "batch_size": 2}});
    let runtime = support::create(&config.to_string()).unwrap();
    let embed = |params: Value| -> Value {
        serde_json::from_str(&runtime.call("embed", &params.to_string(), None).unwrap()).unwrap()
    };
    let answer = embed(json!({"input": ["one fish", "two", "one fish"]}));
    let vectors = answer["embeddings"].as_array().unwrap();
    assert_eq!((&answer["model"], vectors.len()), (&json!("tiny"), 3), "{answer}");
    assert_eq!(answer["dimensions"], vectors[0].as_array().unwrap().len());
    assert!(answer["usage"]["input_tokens"].as_u64().unwrap() > 0);
    let dot = |a: &Value, b: &Value| -> f64 {
        let (a, b) = (a.as_array().unwrap(), b.as_array().unwrap());
        a.iter().zip(b).map(|(a, b)| a.as_f64().unwrap() * b.as_f64().unwrap()).sum()
    };
    let likeness = |a: usize, b: usize| {
        let length = |n: usize| dot(&vectors[n], &vectors[n]).sqrt();
        dot(&vectors[a], &vectors[b]) / (length(a) * length(b))
    };
    assert!(likeness(0, 2) > 0.999 && likeness(0, 1) < likeness(0, 2), "{answer}");
}
