//! Forwarded to PostgreSQL: the archive is a database of the same shape, that runtimes can read and not go on with.

use super::support::postgres::{Postgres, shared};
use super::{open, try_open};
use par::runtime::Runtime;
use par::types::{Error, Status};
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn invoke(runtime: &Runtime, input: &str, session: &str) -> Result<String, Error> {
    runtime.invoke(&json!({"agent": "a", "input": input, "session": session}).to_string(), None)
}

fn call(runtime: &Runtime, method: &str, params: Value) -> Value {
    super::call(runtime, method, params).unwrap_or_else(|error| panic!("{method}: {error:?}"))
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What can be asked of a database, in words that do not depend on where it is.
fn seen(runtime: &Runtime) -> Value {
    let sessions = call(runtime, "sessions.list", json!({}));
    let names: Vec<&str> =
        sessions["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect();
    let transcripts: Vec<Value> =
        names.iter().map(|name| call(runtime, "sessions.get", json!({"session": name}))).collect();
    let runs = call(runtime, "runs.list", json!({"limit": 1000}));
    let mut events = Vec::new();
    for run in runs["items"].as_array().unwrap() {
        events.push(call(runtime, "events.query", json!({"run_id": run["run_id"], "limit": 1000}))["items"].clone());
    }
    let mut runs: Vec<String> = runs["items"].as_array().unwrap().iter().map(Value::to_string).collect();
    runs.sort();
    events.sort_by_key(Value::to_string);
    json!({"sessions": transcripts, "runs": runs, "events": events})
}

fn archive(server: &Postgres) -> Value {
    server.persistence()
}

fn forward(archive: &Value) -> Value {
    json!({"to": archive, "interval_seconds": 0.05})
}

fn read(archive: &Value) -> Runtime {
    let runtime =
        Runtime::create(&json!({"persistence": archive, "event_retention_seconds": 1e11}).to_string()).unwrap();
    runtime.register_agent(r#"{"id": "a", "model": "mock/m"}"#).unwrap();
    runtime
}

#[test]
fn what_was_shipped_is_a_database() {
    let Some(server) = shared() else { return };
    let folder = TempDir::new().unwrap();
    let archive = archive(server);
    let local = open(&folder.path().join("par.db"), forward(&archive), json!({}));
    for number in 0..30 {
        invoke(&local, &format!("{number} \u{0} zero"), &format!("s{}", number % 3)).unwrap();
    }
    call(&local, "sessions.fork", json!({"session": "s0", "to": "fork", "at": 4}));
    call(&local, "sessions.delete", json!({"session": "s1"}));
    let shipped = call(&local, "store.forward", json!({}));
    assert_eq!(shipped["pending"], 0, "{shipped}");
    let remote = read(&archive);
    assert_eq!(seen(&remote), seen(&local));
    assert_eq!(call(&remote, "store.verify", json!({})), json!({"ok": true, "problems": []}));
    // Another batch on top of the first, with what it replaces.
    invoke(&local, "more", "s0").unwrap();
    call(&local, "store.forward", json!({}));
    assert_eq!(seen(&remote), seen(&local));
    // It is the local database's to go on with.
    let busy = remote.invoke(r#"{"agent": "a", "input": "x", "session": "s0", "session_busy": "fail"}"#, None);
    assert_eq!(busy.unwrap_err().status(), Status::Busy);
}

#[test]
fn what_goes_on_here_is_not_interrupted_there() {
    let Some(server) = shared() else { return };
    let folder = TempDir::new().unwrap();
    let archive = archive(server);
    let turns = json!([{"tool_calls": [{"name": "t", "input": {}}]}, {"text": "done"}]);
    let keys = json!({"llm_providers": {"mock": {"type": "mock", "turns": turns}}});
    let local = open(&folder.path().join("par.db"), forward(&archive), keys);
    local.register_tool(r#"{"name": "t", "description": "A tool."}"#).unwrap();
    local.register_agent(r#"{"id": "b", "model": "mock/m", "tools": ["t"]}"#).unwrap();
    let stream = local.stream(r#"{"agent": "b", "input": "go", "run_id": "r"}"#).unwrap();
    let token = std::iter::from_fn(|| super::support::client::next(&stream)).find_map(|event| event["token"].as_u64());
    call(&local, "store.forward", json!({}));
    let remote = read(&archive);
    assert_eq!(call(&remote, "runs.get", json!({"run_id": "r"}))["status"], "running");
    assert_eq!(call(&remote, "runs.list", json!({"status": "interrupted"}))["items"], json!([]));
    assert_eq!(remote.call("runs.abandon", r#"{"run_id": "r"}"#, None).unwrap_err().status(), Status::Busy);
    local.tool_complete(token.unwrap(), "1").unwrap();
    super::support::client::events(&stream);
    call(&local, "store.forward", json!({}));
    assert_eq!(call(&remote, "runs.get", json!({"run_id": "r"}))["result"]["text"], "done");
}

#[test]
fn a_server_that_goes_and_comes_back_has_everything_once() {
    let Some(server) = Postgres::start(&[]) else { return };
    let folder = TempDir::new().unwrap();
    let archive = archive(&server);
    let forward = {
        let mut forward = forward(&archive);
        forward["max_batch_bytes"] = json!(65_536);
        forward
    };
    let local = open(&folder.path().join("par.db"), forward, json!({}));
    let long = "what is said ".repeat(300);
    for round in 0..4 {
        for number in 0..25 {
            invoke(&local, &format!("{round} {number} {long}"), "s").unwrap();
        }
        server.kill();
        invoke(&local, "while it is away", "s").unwrap();
        eventually("the trouble to be told", || {
            let info = local.info();
            info["store"]["forward"]["state"] == "failing"
                && info["store"]["forward"]["lag_seconds"].as_f64() > Some(0.0)
        });
        server.run();
    }
    call(&local, "store.forward", json!({"timeout_seconds": 60}));
    let remote = read(&archive);
    assert_eq!(seen(&remote), seen(&local));
    assert_eq!(call(&remote, "store.verify", json!({})), json!({"ok": true, "problems": []}));
}

#[test]
fn a_schema_belongs_to_one_database() {
    let Some(server) = shared() else { return };
    let folder = TempDir::new().unwrap();
    let refused = |database: &str, archive: &Value| {
        let local = open(&folder.path().join(database), forward(archive), json!({}));
        invoke(&local, "hello", "s").unwrap();
        let error = local.call("store.forward", r#"{"timeout_seconds": 1}"#, None).unwrap_err();
        assert_eq!(error.code(), Some("forward_incomplete"), "{error:?}");
        let info = local.info();
        assert_eq!(info["store"]["forward"]["error"]["code"], "archive_taken", "{info}");
    };
    // That of runtimes.
    let used = archive(server);
    let runtime = read(&used);
    invoke(&runtime, "hello", "s").unwrap();
    // Reads what was written, so that it is.
    assert_eq!(call(&runtime, "store.verify", json!({}))["ok"], true);
    refused("one.db", &used);
    invoke(&runtime, "still", "s").unwrap();
    // That of another database.
    let taken = archive(server);
    let first = open(&folder.path().join("two.db"), forward(&taken), json!({}));
    invoke(&first, "hello", "s").unwrap();
    call(&first, "store.forward", json!({}));
    refused("three.db", &taken);
    invoke(&first, "still", "s").unwrap();
    assert_eq!(call(&first, "store.forward", json!({}))["pending"], 0);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let folder = TempDir::new().unwrap();
    for (to, what) in [
        (json!({"type": "postgres"}), "url"),
        (json!({"type": "postgres", "url": "postgres://u@h/d", "path": "x"}), "no other key"),
        (json!({"type": "postgres", "url": "postgres://u@h/d", "schema": "No"}), "schema"),
        (json!({"type": "folder", "path": "x", "url": "postgres://u@h/d"}), "no other key"),
    ] {
        let error = try_open(&folder.path().join("par.db"), json!({"to": to}), json!({})).err().unwrap();
        assert_eq!(error.status(), Status::Schema, "{error:?}");
        assert!(error.message().contains(what), "{error:?}");
    }
    // The password is nowhere to be seen.
    let to = json!({"to": "postgres://u:secret@127.0.0.1:1/d", "interval_seconds": 0.05});
    let local = open(&folder.path().join("par.db"), to, json!({}));
    invoke(&local, "hello", "s").unwrap();
    eventually("an attempt", || local.info()["store"]["forward"]["state"] == "failing");
    assert!(!local.info().to_string().contains("secret"));
    assert_eq!(local.info()["store"]["forward"]["destination"], "postgres://127.0.0.1:1/d schema par_archive");
}
