//! A server that echoes the key it was sent, in every way in which one can fail: the key is in nothing that the library
//! gives out, and not in the database.

mod support;

use par::runtime::Runtime;
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

const KEY: &str = "sk-proj/ABCdef0123456789+secret";
const QUERY: &str = "Zm9vYmFyLWtleQ-in-the-address";
const HEADER: &str = "tenant-credential-0123456789";

/// A way to fail: the head of the answer and its body. `{KEY}` stands for what was sent.
struct Failure {
    name: String,
    head: String,
    body: String,
}

fn failures() -> Vec<Failure> {
    let mut failures = Vec::new();
    let shapes = [
        (
            "openai",
            r#"{"error":{"message":"Incorrect API key provided: {KEY}","type":"invalid_request_error","code":"{KEY}"}}"#,
        ),
        ("anthropic", r#"{"type":"error","error":{"type":"{KEY}","message":"bad key {KEY}"},"request_id":"{KEY}"}"#),
        (
            "gemini",
            r#"[{"error":{"code":400,"message":"API key not valid: {KEY}","status":"{KEY}","details":[{"x":"{KEY}"}]}}]"#,
        ),
        ("string", r#"{"error":"no such key: {KEY}"}"#),
        ("detail", r#"{"detail":[{"loc":["header"],"msg":"{KEY}"}]}"#),
        ("text", "you sent authorization: Bearer {KEY}"),
        ("html", "<html><body><h1>Denied</h1><pre>{KEY}</pre></body></html>"),
    ];
    for status in [
        "400 Bad Request",
        "401 Unauthorized",
        "403 {KEY}",
        "404 Not Found",
        "422 Unprocessable",
        "429 Slow Down",
        "500 Oops",
        "503 Away",
    ] {
        for (shape, body) in shapes {
            let kind = if shape == "html" { "text/html" } else { "application/json" };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nX-Request-Id: {{KEY}}\r\nRetry-After: {{KEY}}\r\n\
                                X-RateLimit-Limit: {{KEY}}\r\n"
            );
            failures.push(Failure { name: format!("{status}, {shape}"), head, body: body.to_owned() });
        }
    }
    // Longer than what an error carries, so that it is cut in the middle of the key.
    for length in 1_975..2_001 {
        let body = format!(r#"{{"error":{{"message":"{}{{KEY}} and more"}}}}"#, "x".repeat(length));
        let head = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n".to_owned();
        failures.push(Failure { name: format!("cut after {length}"), head, body });
    }
    let streams = [
        ("error event", "data: {\"error\":{\"message\":\"{KEY}\",\"type\":\"{KEY}\"}}\n\n"),
        (
            "anthropic error",
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"{KEY}\"}}\n\n",
        ),
        ("malformed", "data: {\"choices\": {KEY}\n\ndata: {KEY}\n\n"),
        ("ends early", "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n: {KEY}\n\n"),
        ("garbage", "{KEY} {KEY} {KEY}"),
        (
            "incomplete",
            "data: {\"type\":\"response.incomplete\",\"response\":{\"incomplete_details\":{\"reason\":\"{KEY}\"}}}\n\n",
        ),
        ("stopped", "data: {\"candidates\":[{\"finishReason\":\"{KEY}\",\"finishMessage\":\"{KEY}\"}]}\n\n"),
    ];
    for (name, body) in streams {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-RateLimit-Remaining: {KEY}\r\n".to_owned();
        failures.push(Failure { name: format!("stream, {name}"), head, body: body.to_owned() });
    }
    for (name, kind) in [("json", "application/json"), ("html", "text/html"), ("lines", "application/x-ndjson")] {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n");
        failures.push(Failure {
            name: format!("not an answer, {name}"),
            head,
            body: "{\"unexpected\": \"{KEY}\"}".into(),
        });
    }
    // The line of the status is broken, so that the client's own words carry what came.
    failures.push(Failure { name: "no HTTP".into(), head: "{KEY}\r\n".into(), body: String::new() });
    failures
}

/// Answers every request with the failure that its path names, echoing what it was sent.
fn serve(failures: Vec<Failure>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.map(|stream| answer(stream, &failures));
        }
    });
    port
}

fn answer(mut stream: TcpStream, failures: &[Failure]) -> std::io::Result<()> {
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    let head_end = loop {
        let count = stream.read(&mut buffer)?;
        request.extend_from_slice(&buffer[..count]);
        if let Some(end) = request.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        if count == 0 {
            return Ok(());
        }
    };
    let head = String::from_utf8_lossy(&request[..head_end]).into_owned();
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut missing = head_end + length.unwrap_or(0) - request.len();
    while missing > 0 {
        missing -= stream.read(&mut buffer)?.min(missing);
    }
    assert!(head.contains(KEY) && head.contains(HEADER) && head.contains(QUERY), "{head}");
    let number: usize = head.split('/').nth(1).unwrap().parse().unwrap();
    let Failure { head, body, .. } = &failures[number];
    let echo = |text: &str| text.replace("{KEY}", &format!("{KEY} {HEADER} {QUERY}"));
    let body = echo(body);
    write!(stream, "{}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", echo(head), body.len())
}

/// Any stretch of a secret that is long enough to be of use.
fn find_secret(text: &str) -> Option<String> {
    [KEY, QUERY, HEADER].into_iter().find_map(|secret| {
        let stretches = (0..=secret.len() - 12).map(|at| &secret[at..at + 12]);
        let escaped: Vec<String> = stretches.flat_map(|part| [part.to_owned(), part.replace('/', "\\/")]).collect();
        let found = escaped.into_iter().find(|part| text.contains(part.as_str()))?;
        let at = text.find(&found).unwrap();
        let start = text.floor_char_boundary(at.saturating_sub(100));
        Some(text[start..text.ceil_char_boundary((at + 100).min(text.len()))].to_owned())
    })
}

fn call(runtime: &Runtime, method: &str, params: Value) -> String {
    runtime.call(method, &params.to_string(), None).unwrap_or_else(|error| format!("{error:?}"))
}

fn files(folder: &Path) -> Vec<u8> {
    let files = std::fs::read_dir(folder).unwrap();
    files.flat_map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
}

#[test]
fn a_key_that_a_server_echoes_is_nowhere() {
    let failures = failures();
    let names: Vec<String> = failures.iter().map(|failure| failure.name.clone()).collect();
    assert!(names.len() >= 60, "{}", names.len());
    let port = serve(failures);
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("par.db");
    let families = ["openai", "anthropic", "gemini", "ollama", "responses"];
    let mut providers = serde_json::Map::new();
    for (number, _) in names.iter().enumerate() {
        for family in families {
            let mut provider = json!({"type": family, "base_url": format!("http://127.0.0.1:{port}/{number}?token={QUERY}"),
                "api_key": KEY, "headers": {"x-tenant": HEADER},
                "retry": {"max_attempts": 2, "initial_delay_ms": 1, "max_delay_ms": 1}});
            match family {
                "responses" => (provider["type"], provider["api"]) = (json!("openai"), json!("responses")),
                // It has no key of its own.
                "ollama" => provider["headers"]["authorization"] = json!(format!("Bearer {KEY}")),
                _ => {}
            }
            if family == "ollama" {
                provider.as_object_mut().unwrap().remove("api_key");
            }
            providers.insert(format!("{family}-{number}"), provider);
        }
    }
    // No server at all, and one that hangs up.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("http://127.0.0.1:{closed}/?token={QUERY}");
    providers.insert("closed".into(), json!({"type": "openai", "base_url": address, "api_key": KEY}));
    let unknown = format!("https://no.such.host.invalid/?token={QUERY}");
    providers.insert("unknown".into(), json!({"type": "openai", "base_url": unknown, "api_key": KEY}));
    let names_of_providers: BTreeSet<String> = providers.keys().cloned().collect();
    let config = json!({"persistence": {"type": "sqlite", "path": database}, "llm_providers": providers,
                        "inbox": {"events": true, "log_level": "trace"}, "limits": {"inbox_queue_events": 1_000_000}});
    let runtime = Runtime::create(&config.to_string()).unwrap();
    for provider in &names_of_providers {
        let agent = json!({"id": provider, "model": format!("{provider}/m")});
        runtime.register_agent(&agent.to_string()).unwrap();
        let (events, result) = support::client::run(
            &runtime,
            json!({"agent": provider, "input": "hi", "session": "s", "run_id": format!("run-{provider}")}),
        );
        let seen = format!(
            "{events:?} {}",
            result.map_or_else(
                |error| format!("{error:?} {}", serde_json::to_string(&error).unwrap()),
                |ok| ok.to_string()
            )
        );
        assert_eq!(find_secret(&seen), None, "{provider}");
        let blocking = runtime.invoke(&json!({"agent": provider, "input": "hi"}).to_string(), None);
        assert_eq!(find_secret(&format!("{blocking:?}")), None, "{provider}");
        let embedded = call(&runtime, "embed", json!({"model": format!("{provider}/m"), "input": ["x"]}));
        assert_eq!(find_secret(&embedded), None, "{provider}");
    }
    let parse = |event: &[u8]| String::from_utf8_lossy(event).into_owned();
    let mut logged = String::new();
    while let Ok(par::events::Polled::Event(event)) = runtime.inbox().poll(parse) {
        logged.push_str(&event);
    }
    assert!(logged.contains("\"type\":\"log\"") && logged.contains("failed"), "{:.500}", logged);
    assert_eq!(find_secret(&logged), None, "the inbox");
    for method in ["runs.list", "events.query", "providers.list", "agents.list", "metrics.snapshot", "store.info"] {
        let mut cursor = Value::Null;
        loop {
            let params = match method {
                "runs.list" | "events.query" => json!({"limit": 1000, "cursor": cursor}),
                _ => json!({}),
            };
            let answer = call(&runtime, method, params);
            assert_eq!(find_secret(&answer), None, "{method}");
            cursor = serde_json::from_str::<Value>(&answer).map_or(Value::Null, |answer| answer["next_cursor"].clone());
            if cursor.is_null() {
                break;
            }
        }
    }
    assert_eq!(find_secret(&runtime.info().to_string()), None, "the info");
    runtime.close(None).unwrap();
    // Events are compressed there; errors and conversations are not.
    assert_eq!(find_secret(&String::from_utf8_lossy(&files(folder.path()))), None, "the database");
}
