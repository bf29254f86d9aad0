//! What outlives a run: sessions, runs and events, held to the same by every backend that keeps them.

mod support;

use par::runtime::Runtime;
use par::types::{Error, Status};
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use std::path::Path;
use support::client::{events, types};
use tempfile::TempDir;

/// A database for one test: how to configure it, and what must stay as long as it is used.
struct Place {
    persistence: Value,
    folder: TempDir,
}

fn sqlite() -> Place {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("par.db");
    Place { persistence: json!({"type": "sqlite", "path": path}), folder }
}

/// Holds every backend to the same.
macro_rules! suite {
    ($($name:ident,)*) => {
        mod on_sqlite {
            $(#[test]
            fn $name() {
                super::$name(super::sqlite());
            })*
        }

        mod on_postgres {
            $(#[test]
            fn $name() {
                if let Some(place) = super::postgres() {
                    super::$name(place);
                }
            })*
        }
    };
}

suite! {
    a_session_goes_on_after_a_restart,
    the_stored_events_are_those_of_the_stream,
    events_are_found_by_type_time_session_and_page,
    nothing_of_one_scope_is_seen_from_another,
    a_session_is_forked_exported_and_made,
    one_run_at_a_time_has_a_session,
    a_run_id_names_one_run_for_ever,
    what_is_written_at_the_end_keeps_nobody_waiting,
}

/// A schema of its own on a real server; none if there is no server to be had.
fn postgres() -> Option<Place> {
    let persistence = support::postgres::shared()?.persistence();
    Some(Place { persistence, folder: TempDir::new().unwrap() })
}

impl Place {
    fn open_with(&self, turns: Value, extra: Value) -> Runtime {
        let mut config = json!({"persistence": self.persistence,
                                "llm_providers": {"mock": {"type": "mock", "turns": turns}}});
        for (key, value) in extra.as_object().unwrap() {
            config[key] = value.clone();
        }
        let runtime = Runtime::create(&config.to_string()).unwrap();
        runtime.register_agent(r#"{"id": "a", "model": "mock/m"}"#).unwrap();
        runtime
    }

    fn open(&self, turns: Value) -> Runtime {
        self.open_with(turns, json!({}))
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

fn invoke(runtime: &Runtime, request: Value) -> Result<Value, Error> {
    runtime.invoke(&request.to_string(), None).map(|json| serde_json::from_str(&json).unwrap())
}

fn call(runtime: &Runtime, method: &str, params: Value) -> Result<Value, Error> {
    runtime.call(method, &params.to_string(), None).map(|json| serde_json::from_str(&json).unwrap())
}

fn close(runtime: Runtime) {
    let report = runtime.close(None).unwrap();
    assert_eq!(report.exit_code, 0, "{report:?}");
}

fn assert_whole(runtime: &Runtime) {
    assert_eq!(call(runtime, "store.verify", json!({})).unwrap(), json!({"ok": true, "problems": []}));
}

fn a_session_goes_on_after_a_restart(place: Place) {
    for (turn, durability) in ["async", "sync", "exit", "async"].into_iter().enumerate() {
        let runtime = place.open(json!([{"expect": {"messages": 2 * turn + 1}, "text": "ok"}]));
        let request = json!({"agent": "a", "input": format!("turn {turn}"), "session": "s", "durability": durability});
        assert_eq!(invoke(&runtime, request).unwrap()["text"], "ok");
        assert_whole(&runtime);
        close(runtime);
    }
    let runtime = place.open(Value::Null);
    let session = call(&runtime, "sessions.get", json!({"session": "s"})).unwrap();
    assert_eq!(session["messages"].as_array().unwrap().len(), 8);
    let list = call(&runtime, "sessions.list", json!({})).unwrap();
    assert_eq!(list["items"][0]["messages"], 8);
    let runs = call(&runtime, "runs.list", json!({"session": "s"})).unwrap();
    let statuses: Vec<_> = runs["items"].as_array().unwrap().iter().map(|run| &run["status"]).collect();
    assert_eq!(statuses, ["completed"; 4]);
}

fn the_stored_events_are_those_of_the_stream(place: Place) {
    let turns = json!([{"reasoning": "Hm. Well.", "text": "one two three", "tool_calls": [{"id": "c", "name": "t", "input": {}}]},
                       {"text": "done and done"}]);
    let runtime = place.open(turns);
    runtime.register_tool(r#"{"name": "t", "description": "A tool."}"#).unwrap();
    runtime.register_agent(r#"{"id": "b", "model": "mock/m", "tools": ["t"]}"#).unwrap();
    let stream = runtime.stream(r#"{"agent": "b", "input": "go", "run_id": "r", "tag": {"my": 1}}"#).unwrap();
    let mut seen = Vec::new();
    while let Some(event) = support::client::next(&stream) {
        if let Some(token) = event["token"].as_u64() {
            runtime.tool_complete(token, "1").unwrap();
        }
        seen.push(event);
    }
    let stored = call(&runtime, "events.query", json!({"run_id": "r"})).unwrap();
    let stored = stored["items"].as_array().unwrap();
    // Gapless: what is joined says where it began.
    let mut next = 1;
    for event in stored {
        assert_eq!(event["first_seq"].as_u64().unwrap_or(event["seq"].as_u64().unwrap()), next, "{event}");
        next = event["seq"].as_u64().unwrap() + 1;
    }
    assert_eq!(next, seen.last().unwrap()["seq"].as_u64().unwrap() + 1);
    let text = |events: &[Value], kind: &str| -> String {
        events.iter().filter(|event| event["type"] == kind).map(|event| event["text"].as_str().unwrap()).collect()
    };
    for kind in ["text_delta", "reasoning_delta"] {
        assert_eq!(text(stored, kind), text(&seen, kind));
    }
    let others = |events: &[Value]| -> Vec<Value> {
        events.iter().filter(|event| !event["type"].as_str().unwrap().ends_with("_delta")).cloned().collect()
    };
    let without_time = |events: Vec<Value>| -> Vec<Value> {
        events
            .into_iter()
            .map(|mut event| {
                event["at_ms"] = Value::Null;
                event
            })
            .collect()
    };
    assert_eq!(without_time(others(stored)), without_time(others(&seen)));
    assert!(stored.len() < seen.len());
    assert_whole(&runtime);
}

fn events_are_found_by_type_time_session_and_page(place: Place) {
    let runtime = place.open(Value::Null);
    for (session, input) in [("x", "one"), ("y", "two"), ("x", "three")] {
        invoke(&runtime, json!({"agent": "a", "input": input, "session": session})).unwrap();
    }
    let query = |params: Value| call(&runtime, "events.query", params).unwrap();
    let of_x = query(json!({"session": "x", "types": ["completed"]}));
    let texts: Vec<_> = of_x["items"].as_array().unwrap().iter().map(|event| &event["text"]).collect();
    assert_eq!(texts, ["one", "three"]);
    let all = query(json!({}))["items"].as_array().unwrap().clone();
    let (mut paged, mut cursor) = (Vec::new(), Value::Null);
    loop {
        let page = query(json!({"limit": 2, "cursor": cursor}));
        paged.extend(page["items"].as_array().unwrap().iter().cloned());
        cursor = page["next_cursor"].clone();
        if cursor.is_null() {
            break;
        }
    }
    assert_eq!(paged, all);
    let last = all.last().unwrap()["at_ms"].as_u64().unwrap();
    assert_eq!(query(json!({"from_ms": last + 1}))["items"], json!([]));
    assert_eq!(query(json!({"to_ms": last + 1}))["items"].as_array().unwrap().len(), all.len());
    assert_eq!(query(json!({"scope": "other"}))["items"], json!([]));
    let wrong = call(&runtime, "events.query", json!({"types": ["complete"]})).unwrap_err();
    assert_eq!((wrong.path(), wrong.hint()), (Some("params.types[0]"), Some("did you mean \"completed\"?")));
    assert_eq!(call(&runtime, "events.query", json!({"cursor": "x"})).unwrap_err().path(), Some("params.cursor"));
    let path = place.path().join("events.jsonl");
    let exported = call(&runtime, "events.export", json!({"path": path, "session": "x"})).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(exported["bytes"], text.len());
    assert_eq!(exported["events"], text.lines().count());
    assert!(call(&runtime, "events.export", json!({"path": path})).is_err());
}

fn nothing_of_one_scope_is_seen_from_another(place: Place) {
    let runtime = place.open(Value::Null);
    for scope in ["t1", "t2"] {
        let request =
            json!({"agent": "a", "input": scope, "session": "s", "scope": scope, "run_id": format!("r-{scope}")});
        invoke(&runtime, request).unwrap();
    }
    let get = |scope: &str| call(&runtime, "sessions.get", json!({"session": "s", "scope": scope}));
    assert_eq!(get("t1").unwrap()["messages"][0]["parts"][0]["text"], "t1");
    assert_eq!(get("t2").unwrap()["messages"].as_array().unwrap().len(), 2);
    assert_eq!(get("").unwrap_err().status(), Status::NotFound);
    assert_eq!(call(&runtime, "runs.get", json!({"run_id": "r-t1"})).unwrap_err().status(), Status::NotFound);
    assert_eq!(call(&runtime, "runs.get", json!({"run_id": "r-t1", "scope": "t1"})).unwrap()["status"], "completed");
    for (method, params) in [("sessions.list", json!({})), ("runs.list", json!({})), ("events.query", json!({}))] {
        assert_eq!(call(&runtime, method, params).unwrap()["items"], json!([]), "{method}");
    }
    let delete = |scope: &str| call(&runtime, "sessions.delete", json!({"session": "s", "scope": scope}));
    assert_eq!(delete("t3").unwrap_err().status(), Status::NotFound);
    delete("t1").unwrap();
    assert!(get("t1").is_err() && get("t2").is_ok());
    assert_eq!(call(&runtime, "events.query", json!({"scope": "t1"})).unwrap()["items"], json!([]));
    assert_whole(&runtime);
}

fn a_session_is_forked_exported_and_made(place: Place) {
    let runtime = place.open(Value::Null);
    for input in ["one", "two"] {
        invoke(&runtime, json!({"agent": "a", "input": input, "session": "s"})).unwrap();
    }
    let fork = |params: Value| call(&runtime, "sessions.fork", params);
    assert_eq!(fork(json!({"session": "s", "to": "f", "at": 2})).unwrap(), json!({"id": "f", "entries": 2}));
    assert_eq!(fork(json!({"session": "s", "to": "f"})).unwrap_err().status(), Status::Exists);
    assert_eq!(fork(json!({"session": "s", "to": "g", "at": 9})).unwrap_err().path(), Some("params.at"));
    assert_eq!(fork(json!({"session": "none", "to": "g"})).unwrap_err().status(), Status::NotFound);
    invoke(&runtime, json!({"agent": "a", "input": "other", "session": "f"})).unwrap();
    let texts = |session: &str| -> Vec<String> {
        let session = call(&runtime, "sessions.get", json!({"session": session})).unwrap();
        let text = |message: &Value| message["parts"][0]["text"].as_str().unwrap().to_owned();
        session["messages"].as_array().unwrap().iter().map(text).collect()
    };
    assert_eq!(texts("f"), ["one", "one", "other", "other"]);
    assert_eq!(texts("s"), ["one", "one", "two", "two"]);
    let export = call(&runtime, "sessions.export", json!({"session": "s"})).unwrap();
    assert_eq!(export["runs"].as_array().unwrap().len(), 2);
    assert!(export["events"].as_array().unwrap().len() >= 8, "{export}");
    call(&runtime, "sessions.create", json!({"session": "new"})).unwrap();
    assert_eq!(call(&runtime, "sessions.create", json!({"session": "new"})).unwrap_err().status(), Status::Exists);
    assert_eq!(texts("new"), [""; 0]);
    assert_whole(&runtime);
}

fn one_run_at_a_time_has_a_session(place: Place) {
    let runtime = place.open(json!([{"text": "slow", "delay_ms": 100}]));
    let other = place.open(Value::Null);
    let stream = runtime.stream(r#"{"agent": "a", "input": "go", "session": "s"}"#).unwrap();
    support::client::next(&stream).unwrap();
    support::client::next(&stream).unwrap();
    for (runtime, what) in [(&runtime, "the same runtime"), (&other, "another runtime")] {
        let busy = json!({"agent": "a", "input": "x", "session": "s", "session_busy": "fail"});
        let error = invoke(runtime, busy).unwrap_err();
        assert_eq!((error.status(), error.is_retryable()), (Status::Busy, true), "{what}");
    }
    // Another runtime waits, and sees what this one has left.
    let waited = invoke(&other, json!({"agent": "a", "input": "after", "session": "s"})).unwrap();
    assert_eq!(waited["text"], "after");
    assert_eq!(types(&events(&stream)).last(), Some(&"completed"));
    let session = call(&other, "sessions.get", json!({"session": "s"})).unwrap();
    assert_eq!(session["messages"].as_array().unwrap().len(), 4);
    // And this one sees what the other has left.
    invoke(&runtime, json!({"agent": "a", "input": "again", "session": "s"})).unwrap();
    let session = call(&runtime, "sessions.get", json!({"session": "s"})).unwrap();
    assert_eq!(session["messages"].as_array().unwrap().len(), 6);
}

fn a_run_id_names_one_run_for_ever(place: Place) {
    let request = json!({"agent": "a", "input": "x", "run_id": "mine"});
    let runtime = place.open(Value::Null);
    invoke(&runtime, request.clone()).unwrap();
    assert_eq!(invoke(&runtime, request.clone()).unwrap_err().path(), Some("request.run_id"));
    close(runtime);
    let runtime = place.open(Value::Null);
    assert_eq!(invoke(&runtime, request).unwrap_err().status(), Status::Exists);
    let run = call(&runtime, "runs.get", json!({"run_id": "mine"})).unwrap();
    assert_eq!((&run["status"], &run["result"]["text"]), (&json!("completed"), &json!("x")));
    assert_whole(&runtime);
}

#[test]
fn databases_of_every_version_are_opened() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/store");
    let mut opened = 0;
    for version in 1.. {
        let old = fixtures.join(format!("schema-{version}.db"));
        if !old.exists() {
            break;
        }
        let place = sqlite();
        std::fs::copy(&old, place.path().join("par.db")).unwrap();
        let runtime = place.open(Value::Null);
        assert_whole(&runtime);
        let session = call(&runtime, "sessions.get", json!({"session": "s"})).unwrap();
        assert_eq!(session["messages"][1]["parts"][0]["text"], "Good.");
        assert_eq!(call(&runtime, "sessions.list", json!({"scope": "tenant"})).unwrap()["items"][0]["messages"], 2);
        assert_eq!(call(&runtime, "runs.get", json!({"run_id": "done"})).unwrap()["result"]["text"], "Good.");
        let left = call(&runtime, "runs.list", json!({"status": "interrupted"})).unwrap();
        assert_eq!(left["items"][0]["run_id"], "unfinished");
        invoke(&runtime, json!({"agent": "a", "input": "more", "session": "s"})).unwrap();
        assert_whole(&runtime);
        opened += 1;
    }
    assert_eq!(opened, par::store::SQLITE_SCHEMA, "a database of each version is kept");
}

fn what_is_written_at_the_end_keeps_nobody_waiting(place: Place) {
    let calls = json!([{"name": "echo", "input": {"text": "x"}}]);
    let mut turns: Vec<Value> = (0..30).map(|_| json!({"tool_calls": calls})).collect();
    turns.push(json!({"text": "done"}));
    let runtime = place.open_with(json!(turns), json!({"writer": {"capacity": 10}}));
    let agent = json!({"id": "b", "model": "mock/m", "tools": ["echo"], "max_iterations": 50, "loop_guard": {"max_repeats": 0}});
    runtime.register_agent(&agent.to_string()).unwrap();
    for durability in ["exit", "async", "sync"] {
        let request = json!({"agent": "b", "input": "go", "durability": durability, "timeout_ms": 20_000});
        assert_eq!(invoke(&runtime, request).unwrap()["text"], "done", "{durability}");
    }
    assert_eq!(call(&runtime, "store.info", json!({})).unwrap()["backlog"], 0);
    assert_whole(&runtime);
}

#[test]
fn a_database_is_private_and_of_one_program() {
    use std::os::unix::fs::PermissionsExt;
    let place = sqlite();
    close(place.open(Value::Null));
    let file = place.path().join("par.db");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let create = |path: &Path| {
        let config = json!({"persistence": {"type": "sqlite", "path": path}});
        Runtime::create(&config.to_string()).err().unwrap()
    };
    let text = place.path().join("text");
    std::fs::write(&text, "This is no database, but it is long enough to be taken for one by its first bytes.")
        .unwrap();
    assert_eq!(create(&text).code(), Some("store_corrupt"));
    let error = create(&place.path().join("no/such/folder/par.db"));
    assert_eq!((error.code(), error.path()), (Some("store_unavailable"), Some("config.persistence")));
    for (sql, code) in [("PRAGMA user_version = 9999", "store_newer"), ("PRAGMA application_id = 7", "store_foreign")] {
        let connection = rusqlite::Connection::open(&file).unwrap();
        connection.execute_batch(sql).unwrap();
        drop(connection);
        assert_eq!(create(&file).code(), Some(code));
        let connection = rusqlite::Connection::open(&file).unwrap();
        connection.execute_batch("PRAGMA user_version = 1").unwrap();
    }
}
