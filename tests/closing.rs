//! How a runtime closes: runs end by themselves, or stop where they are and can be resumed; nothing is left open.

mod support;

use par::runtime::{Runtime, Stream};
use par::types::Status;
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use support::client::{events, next, run};

/// A runtime whose model calls the tool `transfer`, which needs an approval, and then says that it is done.
fn open(persistence: &Value, keys: Value) -> Runtime {
    let mut config = json!({"threads": 2, "persistence": persistence, "llm_providers": {"mock": {"type": "mock", "turns": [
        {"tool_calls": [{"id": "c", "name": "transfer", "input": {"amount": 7}}]}, {"text": "done"}]},
        "slow": {"type": "mock", "turns": [{"text": "a b c d", "delay_ms": 100}]},
        "stuck": {"type": "mock", "turns": [{"text": "a b c d", "delay_ms": 100_000}]}}});
    for (key, value) in keys.as_object().unwrap() {
        config[key] = value.clone();
    }
    let runtime = Runtime::create(&config.to_string()).unwrap();
    let tool =
        json!({"name": "transfer", "description": "Transfers money.", "permission": "confirm", "effect": "once"});
    runtime.register_tool(&tool.to_string()).unwrap();
    runtime.register_agent(&json!({"id": "a", "model": "mock/m", "tools": ["transfer"]}).to_string()).unwrap();
    for provider in ["slow", "stuck"] {
        runtime.register_agent(&json!({"id": provider, "model": format!("{provider}/m")}).to_string()).unwrap();
    }
    runtime
}

fn call(runtime: &Runtime, method: &str, params: Value) -> Value {
    let answer = runtime.call(method, &params.to_string(), None);
    serde_json::from_str(&answer.unwrap_or_else(|error| panic!("{method} {params}: {error:?}"))).unwrap()
}

fn start(runtime: &Runtime, agent: &str, run_id: &str) -> Stream {
    let request = json!({"agent": agent, "input": "go", "run_id": run_id, "session": "s", "session_busy": "fail"});
    runtime.stream(&request.to_string()).unwrap()
}

/// Reads until an event of this type.
fn until(stream: &Stream, kind: &str) -> Value {
    loop {
        let event = next(stream).unwrap_or_else(|| panic!("no {kind}"));
        if event["type"] == kind {
            return event;
        }
    }
}

/// Resumes a run, doing what it asks of the host. Returns its last event.
fn resume(runtime: &Runtime, run_id: &str) -> Value {
    let stream = runtime.call_start("runs.resume", &json!({"run_id": run_id}).to_string()).unwrap();
    let mut last = Value::Null;
    while let Some(event) = next(&stream) {
        if event["type"] == "tool_call" {
            runtime.tool_complete(event["token"].as_u64().unwrap(), "\"transferred\"").unwrap();
        }
        assert_ne!(event["type"], "approval_request", "it was answered before");
        last = event;
    }
    last
}

/// Nothing says that the run has ended, and one approval waits.
fn is_interrupted(runtime: &Runtime, run_id: &str, approval_id: &Value) {
    let runs = call(runtime, "runs.list", json!({"status": "interrupted"}));
    assert_eq!(runs["items"][0]["run_id"], *run_id, "{runs}");
    let waiting = call(runtime, "approvals.list", json!({}));
    assert_eq!(waiting["items"][0]["approval_id"], *approval_id, "{waiting}");
    let ends = json!({"run_id": run_id, "types": ["completed", "failed", "cancelled", "suspended"]});
    assert_eq!(call(runtime, "events.query", ends)["items"], json!([]));
}

fn stores() -> Vec<(Value, Option<tempfile::TempDir>)> {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = json!({"type": "sqlite", "path": folder.path().join("par.db")});
    let mut stores = vec![(sqlite, Some(folder))];
    stores.extend(support::postgres::shared().map(|server| (server.persistence(), None)));
    stores
}

#[test]
fn what_waits_for_a_person_outlives_an_orderly_close() {
    for durability in ["sync", "async"] {
        for (persistence, _folder) in stores() {
            let runtime = open(&persistence, json!({"durability": durability}));
            let stream = start(&runtime, "a", "r");
            let asked = until(&stream, "approval_request");
            let began = Instant::now();
            let report = runtime.close(None).unwrap();
            assert!(began.elapsed() < Duration::from_secs(10), "a run that waits for a person is not waited for");
            assert_eq!((report.exit_code, report.runs_suspended, report.runs_cancelled), (0, 1, 0));
            let last = events(&stream).pop().unwrap();
            assert_eq!((&last["type"], &last["reason"]), (&json!("suspended"), &json!("closing")));
            let error = stream.answer().unwrap().unwrap_err();
            assert_eq!((error.status(), error.code()), (Status::Closed, Some("suspended")));

            let runtime = open(&persistence, json!({}));
            is_interrupted(&runtime, "r", &asked["approval_id"]);
            runtime.approval_resolve(asked["approval_id"].as_str().unwrap(), "\"approve\"").unwrap();
            assert_eq!(resume(&runtime, "r")["type"], "completed");
            assert_eq!(call(&runtime, "store.verify", json!({})), json!({"ok": true, "problems": []}));
            runtime.close(None).unwrap();
        }
    }
}

#[test]
fn what_waits_for_a_person_outlives_its_stream() {
    for (persistence, _folder) in stores() {
        let runtime = open(&persistence, json!({}));
        let stream = start(&runtime, "a", "r");
        let asked = until(&stream, "approval_request");
        drop(stream);
        let waited = Instant::now();
        while call(&runtime, "runs.get", json!({"run_id": "r"}))["status"] != "interrupted" {
            assert!(waited.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(5));
        }
        is_interrupted(&runtime, "r", &asked["approval_id"]);
        runtime.approval_resolve(asked["approval_id"].as_str().unwrap(), "\"approve\"").unwrap();
        // Another runtime may continue it as well as this one.
        let other = open(&persistence, json!({}));
        assert_eq!(resume(&other, "r")["type"], "completed");
        assert_eq!(call(&runtime, "metrics.snapshot", json!({}))["runs_suspended"], 1);
        other.close(None).unwrap();
        runtime.close(None).unwrap();
    }
}

#[test]
fn a_detached_run_is_suspended_like_any_other() {
    for (persistence, _folder) in stores() {
        let runtime = open(&persistence, json!({}));
        let stream = start(&runtime, "a", "r");
        let asked = until(&stream, "approval_request");
        call(&runtime, "runs.detach", json!({"run_id": "r"}));
        drop(stream);
        assert_eq!(runtime.close(None).unwrap().runs_suspended, 1);
        let runtime = open(&persistence, json!({}));
        is_interrupted(&runtime, "r", &asked["approval_id"]);
        runtime.close(None).unwrap();
    }
}

#[test]
fn a_run_that_does_not_end_in_time_is_resumed_later() {
    for (persistence, _folder) in stores() {
        let runtime = open(&persistence, json!({"shutdown": {"drain_timeout": 0.2}}));
        let stream = start(&runtime, "stuck", "r");
        until(&stream, "turn_started");
        let report = runtime.close(None).unwrap();
        assert_eq!((report.runs_suspended, report.runs_cancelled), (1, 0));
        assert_eq!(events(&stream).pop().unwrap()["type"], "suspended");

        // The session is free again, and as it was.
        let quick = json!({"stuck": {"type": "mock", "turns": [{"text": "quick"}]}, "slow": {"type": "mock"}});
        let runtime = open(&persistence, json!({"llm_providers": quick}));
        assert_eq!(resume(&runtime, "r")["text"], "quick");
        let said = call(&runtime, "sessions.get", json!({"session": "s"}));
        assert_eq!(said["messages"].as_array().unwrap().len(), 2, "{said}");
        runtime.close(None).unwrap();
    }
}

#[test]
fn the_host_can_have_unfinished_runs_cancelled() {
    for (persistence, _folder) in stores() {
        let shutdown = json!({"shutdown": {"drain_timeout": 0, "on_unfinished": "cancel"}});
        let runtime = open(&persistence, shutdown);
        let stream = start(&runtime, "a", "r");
        until(&stream, "approval_request");
        let report = runtime.close(None).unwrap();
        assert_eq!((report.runs_suspended, report.runs_cancelled), (0, 1));
        assert_eq!(events(&stream).pop().unwrap()["type"], "cancelled");
        let runtime = open(&persistence, json!({}));
        assert_eq!(call(&runtime, "runs.get", json!({"run_id": "r"}))["status"], "cancelled");
        assert_eq!(call(&runtime, "approvals.list", json!({}))["items"], json!([]));
        runtime.close(None).unwrap();
    }
}

#[test]
fn what_is_not_stored_is_cancelled() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = json!({"type": "sqlite", "path": folder.path().join("par.db")});
    for (persistence, durability) in [(json!("noop"), "async"), (sqlite, "exit")] {
        let runtime = open(&persistence, json!({"durability": durability, "shutdown": {"drain_timeout": 0}}));
        let stream = start(&runtime, "a", "r");
        until(&stream, "approval_request");
        let report = runtime.close(None).unwrap();
        assert_eq!((report.runs_suspended, report.runs_cancelled), (0, 1));
        assert_eq!(events(&stream).pop().unwrap()["type"], "cancelled");
    }
}

#[test]
fn runs_may_end_by_themselves_by_default() {
    let runtime = open(&json!("noop"), json!({}));
    let stream = start(&runtime, "slow", "r");
    until(&stream, "turn_started");
    let report = runtime.close(None).unwrap();
    assert_eq!((report.runs_suspended, report.runs_cancelled), (0, 0));
    assert_eq!(events(&stream).pop().unwrap()["text"], "a b c d");
}

#[test]
fn a_timeout_bounds_the_drain_and_a_later_one_shortens_it() {
    let runtime = open(&json!("noop"), json!({}));
    let _stream = start(&runtime, "stuck", "r");
    let began = Instant::now();
    let report = runtime.close(Some(Duration::from_secs(2))).expect("the rest of the timeout is for the end");
    assert_eq!(report.runs_cancelled, 1);
    assert!(began.elapsed() >= Duration::from_millis(1500), "{:?}", began.elapsed());

    let runtime = open(&json!("noop"), json!({}));
    let _stream = start(&runtime, "stuck", "r");
    let waiting = std::thread::spawn({
        let runtime = runtime.clone();
        move || runtime.close(None)
    });
    while runtime.info()["state"] == "open" {
        std::thread::yield_now();
    }
    assert_eq!(runtime.close(Some(Duration::ZERO)), None);
    assert_eq!(waiting.join().unwrap().unwrap().runs_cancelled, 1);
}

/// Runs a test of this file alone in a process: what it counts is its own.
fn alone(test: &str, folder: &Path) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env("PAR_CLOSING_FOLDER", folder)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stdout));
}

fn descriptors() -> Vec<PathBuf> {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    // The one of this listing has gone when it is looked at.
    let mut open: Vec<_> = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok()).collect();
    open.sort();
    open
}

#[test]
fn child_counts_descriptors() {
    let Some(folder) = std::env::var_os("PAR_CLOSING_FOLDER").map(PathBuf::from) else { return };
    let path = folder.join("par.db");
    let count = |persistence: &Value| {
        let before = descriptors();
        let runtime = open(persistence, json!({}));
        let (_, result) = run(&runtime, json!({"agent": "slow", "input": "go", "session": "s"}));
        result.unwrap();
        runtime.invoke(&json!({"agent": "slow", "input": "go", "session": "s"}).to_string(), None).unwrap();
        call(&runtime, "runs.list", json!({}));
        runtime.close(None).unwrap();
        assert_eq!(descriptors(), before, "{persistence}");
        runtime
    };
    // What tokio opens once in a process with its feature `signal`, which only these tests have, is open after the first run.
    let first = open(&json!("noop"), json!({}));
    run(&first, json!({"agent": "slow", "input": "go"})).1.unwrap();
    first.close(None);
    let closed = count(&json!({"type": "sqlite", "path": path}));
    let mut names: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["par.db", "par.db-locks"]);
    // The one file has everything, before the runtime is freed.
    let copy = folder.join("copy.db");
    std::fs::copy(&path, &copy).unwrap();
    let copied = rusqlite::Connection::open(&copy).unwrap();
    let runs: i64 = copied.query_row("SELECT count(*) FROM runs", [], |row| row.get(0)).unwrap();
    assert_eq!(runs, 2);
    drop(copied);
    drop(closed);
    count(&json!("noop"));
    if let Some(server) = support::postgres::shared() {
        count(&server.persistence());
    }
}

#[test]
fn a_closed_runtime_has_no_descriptor_and_leaves_one_file() {
    let folder = tempfile::tempdir().unwrap();
    alone("child_counts_descriptors", folder.path());
}
