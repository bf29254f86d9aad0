//! Many runs on one session, from threads and from processes: each acknowledged turn is in the session, once and in order.
//!
//! The writers are runtimes. The readers are plain SQL on the database, which share no code with them: they count the turns.
//! `PAR_CONTENTION_RUNS` sets the number of runs of each case.

mod support;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use par::runtime::Runtime;
use par::tools::{Invocation, Tool, ToolOutput};
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use support::postgres::Postgres;

const THREADS: usize = 4;
const PROCESSES: usize = 4;

fn runs(usual: usize) -> usize {
    std::env::var("PAR_CONTENTION_RUNS").map_or(usual, |runs| runs.parse().unwrap())
}

fn open(persistence: &Value) -> Runtime {
    let config = json!({"threads": 2, "persistence": persistence, "llm_providers": {"mock": {"type": "mock"}}});
    let runtime = Runtime::create(&config.to_string()).unwrap();
    runtime.register_agent(r#"{"id": "a", "model": "mock/m"}"#).unwrap();
    runtime
}

/// Runs `count` turns on the session `one` from several threads. Returns the ids of the acknowledged turns.
fn take_turns(runtime: &Runtime, prefix: &str, threads: usize, count: usize, durability: &str) -> Vec<String> {
    let one = |thread: usize| {
        (0..count / threads).map(move |number| {
            let id = format!("{prefix}-{thread}-{number}");
            let request = json!({"agent": "a", "input": id, "session": "one", "run_id": id, "durability": durability});
            // Half of the runs are streams: those run on the workers, and blocking ones on the caller's thread.
            if number % 2 == 0 {
                runtime.invoke(&request.to_string(), None).unwrap_or_else(|error| panic!("{id}: {error:?}"));
            } else {
                let (_, result) = support::client::run(runtime, request);
                result.unwrap_or_else(|error| panic!("{id}: {error:?}"));
            }
            id
        })
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || one(thread).collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

/// The texts of the users' messages in the session, as the database has them.
fn stored(bodies: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut texts = Vec::new();
    for body in bodies {
        let messages: Vec<Value> = serde_json::from_str(&body).unwrap();
        for message in messages.iter().filter(|message| message["role"] == "user") {
            texts.push(message["parts"][0]["text"].as_str().unwrap().to_owned());
        }
    }
    texts
}

fn in_sqlite(path: &Path) -> Vec<String> {
    let database = rusqlite::Connection::open(path).unwrap();
    let mut query = database
        .prepare("SELECT body FROM entries JOIN sessions ON session = id WHERE name = 'one' ORDER BY position")
        .unwrap();
    let bodies: Vec<String> = query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    stored(bodies)
}

fn in_postgres(server: &Postgres, schema: &str) -> Vec<String> {
    let query = "SELECT body FROM entries JOIN sessions ON session = id WHERE name = 'one' ORDER BY position";
    stored(server.sql(schema, query).lines().map(str::to_owned))
}

/// Every acknowledged turn is stored once, and nothing else is.
fn compare(stored: &[String], acknowledged: &[String]) {
    let expected: BTreeSet<&String> = acknowledged.iter().collect();
    let found: BTreeSet<&String> = stored.iter().collect();
    let lost: Vec<_> = expected.difference(&found).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged turns are lost: {lost:?}", lost.len(), acknowledged.len());
    assert_eq!((found.len(), stored.len()), (expected.len(), acknowledged.len()));
}

/// A tool that changes the stored session while the run that calls it has it.
struct Meddler(PathBuf);

impl Tool for Meddler {
    fn call<'a>(&'a self, _: Invocation<'a>) -> BoxFuture<'a, ToolOutput> {
        async move {
            let database = rusqlite::Connection::open(&self.0).unwrap();
            let changed = database.execute("UPDATE sessions SET version = version + 1 WHERE name = 'one'", []).unwrap();
            Ok(json!({"changed": changed}))
        }
        .boxed()
    }
}

#[test]
fn a_turn_that_does_not_follow_what_is_stored_is_refused_and_overwrites_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("par.db");
    let persistence = json!({"type": "sqlite", "path": path});
    let config = json!({"persistence": persistence, "llm_providers": {"mock": {"type": "mock", "turns": [
        {"tool_calls": [{"id": "c", "name": "meddle", "input": {}}]}, {"text": "done"}]}}});
    let runtime = Runtime::create(&config.to_string()).unwrap();
    runtime.register_native_tool(r#"{"name": "meddle", "description": "d"}"#, Arc::new(Meddler(path.clone()))).unwrap();
    runtime.register_agent(r#"{"id": "a", "model": "mock/m", "tools": ["meddle"]}"#).unwrap();
    for durability in ["sync", "async", "exit"] {
        let request = |input: &str| {
            json!({"agent": "a", "input": input, "session": "one", "run_id": input, "durability": durability})
                .to_string()
        };
        let first = format!("{durability}-1");
        // The session is new for the first run of all: the tool finds nothing to change.
        if durability == "sync" {
            runtime.invoke(&request("begin"), None).unwrap();
        }
        let refused = runtime.invoke(&request(&first), None);
        if durability == "async" {
            // Its result is reported before it is written, so the refusal is in the store only.
            runtime.call("store.verify", "{}", None).unwrap();
        } else {
            assert_eq!(refused.unwrap_err().code(), Some("session_moved_on"));
        }
        let database = rusqlite::Connection::open(&path).unwrap();
        let error: String =
            database.query_row("SELECT error FROM runs WHERE run_id = ?", [&first], |row| row.get(0)).unwrap();
        assert!(error.contains("session_moved_on"), "{error}");
        assert_eq!(in_sqlite(&path), ["begin"], "{durability}");
    }
    runtime.close(None).unwrap();
}

fn verify(runtime: &Runtime) {
    let verified: Value = serde_json::from_str(&runtime.call("store.verify", "{}", None).unwrap()).unwrap();
    assert_eq!(verified, json!({"ok": true, "problems": []}));
}

#[test]
fn threads_of_one_runtime_lose_no_turn_in_sqlite() {
    for durability in ["sync", "async", "exit"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("par.db");
        let runtime = open(&json!({"type": "sqlite", "path": path}));
        let acknowledged = take_turns(&runtime, durability, THREADS, runs(400), durability);
        verify(&runtime);
        runtime.close(None).unwrap();
        compare(&in_sqlite(&path), &acknowledged);
    }
}

#[test]
fn threads_of_one_runtime_lose_no_turn_in_postgres() {
    let Some(server) = support::postgres::shared() else { return };
    for durability in ["sync", "async", "exit"] {
        let persistence = server.persistence();
        let runtime = open(&persistence);
        let acknowledged = take_turns(&runtime, durability, THREADS, runs(400), durability);
        verify(&runtime);
        runtime.close(None).unwrap();
        compare(&in_postgres(server, persistence["schema"].as_str().unwrap()), &acknowledged);
    }
}

#[test]
fn child() {
    let Ok(persistence) = std::env::var("PAR_CONTENTION_PERSISTENCE") else { return };
    let name = std::env::var("PAR_CONTENTION_NAME").unwrap();
    let runtime = open(&serde_json::from_str(&persistence).unwrap());
    let per_durability = runs(720) / PROCESSES / 3;
    for durability in ["sync", "async", "exit"] {
        let prefix = format!("{name}-{durability}");
        for id in take_turns(&runtime, &prefix, 2, per_durability, durability) {
            writeln!(std::io::stdout(), "done {id}").unwrap();
        }
    }
    runtime.close(None).unwrap();
}

/// Runs children that share one session, and returns what they had acknowledged.
fn race(persistence: &Value) -> Vec<String> {
    let children: Vec<_> = (0..PROCESSES)
        .map(|number| {
            Command::new(std::env::current_exe().unwrap())
                .args(["child", "--exact", "--nocapture", "--test-threads=1"])
                .env("PAR_CONTENTION_PERSISTENCE", persistence.to_string())
                .env("PAR_CONTENTION_NAME", format!("p{number}"))
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut acknowledged = Vec::new();
    for mut child in children {
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            // The test harness writes its own lines, and may begin one of ours.
            if let Some((_, id)) = line.unwrap().split_once("done ") {
                acknowledged.push(id.to_owned());
            }
        }
        assert!(child.wait().unwrap().success());
    }
    assert!(acknowledged.len() >= PROCESSES * 6, "{acknowledged:?}");
    acknowledged
}

#[test]
fn processes_lose_no_turn_in_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("par.db");
    let persistence = json!({"type": "sqlite", "path": path});
    let acknowledged = race(&persistence);
    let runtime = open(&persistence);
    verify(&runtime);
    runtime.close(None).unwrap();
    compare(&in_sqlite(&path), &acknowledged);
}

#[test]
fn processes_lose_no_turn_in_postgres() {
    let Some(server) = support::postgres::shared() else { return };
    let persistence = server.persistence();
    let acknowledged = race(&persistence);
    let runtime = open(&persistence);
    verify(&runtime);
    runtime.close(None).unwrap();
    compare(&in_postgres(server, persistence["schema"].as_str().unwrap()), &acknowledged);
}
