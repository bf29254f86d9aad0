//! What outlives a run: sessions, runs and events, held to the same by every backend that keeps them.

mod support;

use par::config::{Persistence, RuntimeConfig};
use par::runtime::Runtime;
use par::store::{Backend, Head, HeadFilter, HeadKey, HeadKind, Item, Postgres, Process, SessionKey, Sqlite};
use par::types::{Error, Status};
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
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
    small_states_have_versions,
    who_has_a_session_keeps_others_away,
    runs_are_adopted_or_abandoned_once,
    an_approval_outlives_its_process,
    a_clock_that_jumps_back_harms_nothing,
    a_session_goes_on_after_a_restart,
    the_stored_events_are_those_of_the_stream,
    events_are_found_by_type_time_session_and_page,
    nothing_of_one_scope_is_seen_from_another,
    a_session_is_forked_exported_and_made,
    one_run_at_a_time_has_a_session,
    a_run_id_names_one_run_for_ever,
    what_is_written_at_the_end_keeps_nobody_waiting,
    what_is_waited_for_is_committed_durably,
}

fn what_is_waited_for_is_committed_durably(place: Place) {
    let runtime = place.open_with(json!([{"text": "one"}]), json!({}));
    let durable = || runtime.info()["store"]["durable_commits"].as_u64().unwrap();
    let request = |durability: &str| json!({"agent": "a", "input": "x", "durability": durability}).to_string();
    // The first write is the thread's; the others may be the caller's own.
    for round in 0..3 {
        for durability in ["sync", "exit"] {
            let before = durable();
            runtime.invoke(&request(durability), None).unwrap();
            assert!(durable() > before, "{durability}, blocking, round {round}");
            let before = durable();
            let stream = runtime.stream(&request(durability)).unwrap();
            events(&stream);
            assert!(durable() > before, "{durability}, streaming, round {round}");
        }
    }
    let before = durable();
    for _ in 0..20 {
        runtime.invoke(&request("async"), None).unwrap();
    }
    assert_eq!(durable(), before, "nothing waits for the disk with async");
    runtime.close(None).unwrap();
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

    /// Changes rows as another program could.
    fn sql(&self, sql: &str) {
        match self.persistence["type"].as_str().unwrap() {
            "sqlite" => {
                let connection = rusqlite::Connection::open(self.persistence["path"].as_str().unwrap()).unwrap();
                connection.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
                connection.execute_batch(sql).unwrap();
            }
            _ => {
                let server = support::postgres::shared().unwrap();
                server.sql(self.persistence["schema"].as_str().unwrap(), sql);
            }
        }
    }

    /// All that was under way is somebody's who lives no more.
    fn set_owner(&self, owner: &str) {
        self.sql(&format!("UPDATE runs SET owner = '{owner}' WHERE status = 'running'"));
    }

    /// All that is stored happened so much later.
    fn shift_clock(&self, ms: i64) {
        self.sql(&format!(
            "UPDATE sessions SET version = version + {ms}, created_at_ms = created_at_ms + {ms}, updated_at_ms = updated_at_ms + {ms}; \
             UPDATE runs SET started_at_ms = started_at_ms + {ms}, ended_at_ms = ended_at_ms + {ms}"
        ));
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

/// The database itself, below any runtime, opened by a runtime of this name.
fn backend(place: &Place, owner: &str) -> Arc<dyn Backend> {
    let parsed: RuntimeConfig =
        RuntimeConfig::from_json(&json!({"persistence": place.persistence}).to_string()).unwrap();
    match &parsed.persistence {
        Persistence::Sqlite { path, .. } => Arc::new(Sqlite::open(path, owner).unwrap()),
        Persistence::Postgres(config) => {
            let process = Process { begin_thread: Arc::new(|| ()), trusted_tls: || panic!("no TLS is needed") };
            Arc::new(Postgres::open(config, owner, &process).unwrap())
        }
        Persistence::Noop => unreachable!("it keeps nothing"),
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn small_states_have_versions(place: Place) {
    let backend = backend(&place, "me");
    let key = |kind, scope: &str, name: &str| HeadKey { kind, scope: scope.into(), name: name.into() };
    let head = |key: HeadKey, version: u64, body: &str| Head {
        key,
        run_id: Some("r".into()),
        version,
        body: body.into(),
        updated_at_ms: 7,
    };
    let one = key(HeadKind::Workflow, "", "one");
    assert!(!backend.replace_head(&head(one.clone(), 2, "{}")).unwrap(), "there is no first version");
    assert!(backend.replace_head(&head(one.clone(), 1, "{}")).unwrap());
    assert!(!backend.replace_head(&head(one.clone(), 1, "[]")).unwrap(), "the first version is there");
    // Of several that want to be the next, one is.
    let next: Vec<bool> =
        (0..3).map(|at| backend.replace_head(&head(one.clone(), 2, &at.to_string())).unwrap()).collect();
    assert_eq!(next, [true, false, false]);
    assert_eq!(wait(backend.head(&one)).unwrap(), Some(head(one.clone(), 2, "0")));
    // Others of its name are others.
    for other in [key(HeadKind::Approval, "", "one"), key(HeadKind::Workflow, "tenant", "one")] {
        assert_eq!(wait(backend.head(&other)).unwrap(), None);
    }
    let many = ["b", "a", "C"].map(|name| Item::Head(Box::new(head(key(HeadKind::Approval, "tenant", name), 1, "1"))));
    backend.write(&many, true).unwrap();
    let filter = |scope: Option<&str>, run_id: Option<&str>, name: Option<&str>| HeadFilter {
        kind: HeadKind::Approval,
        scope: scope.map(Into::into),
        run_id: run_id.map(Into::into),
        name: name.map(Into::into),
    };
    let names = |filter: HeadFilter, most: usize| -> Vec<String> {
        wait(backend.heads(&filter, most)).unwrap().into_iter().map(|head| head.key.name).collect()
    };
    assert_eq!(names(filter(None, None, None), 10), ["C", "a", "b"]);
    assert_eq!(names(filter(None, None, None), 2), ["C", "a"]);
    assert_eq!(names(filter(Some("other"), None, None), 10), [""; 0]);
    assert_eq!(names(filter(None, Some("q"), None), 10), [""; 0]);
    assert_eq!(names(filter(Some("tenant"), Some("r"), Some("a")), 10), ["a"]);
    backend.write(&[Item::NoHead(key(HeadKind::Approval, "tenant", "a"))], true).unwrap();
    assert_eq!(names(filter(None, None, None), 10), ["C", "b"]);
    backend.close().unwrap();
}

fn who_has_a_session_keeps_others_away(place: Place) {
    let (mine, theirs) = (backend(&place, "me"), backend(&place, "they"));
    let key = |scope: &str, id: &str| SessionKey { scope: scope.into(), id: id.into() };
    wait(async {
        let lock = mine.try_lock_session(&key("", "s")).await.unwrap().expect("it is free");
        assert!(theirs.try_lock_session(&key("", "s")).await.unwrap().is_none());
        for other in [key("tenant", "s"), key("", "t")] {
            assert!(theirs.try_lock_session(&other).await.unwrap().is_some(), "{other:?} is another session");
        }
        let wanted = key("", "s");
        let mut waiting = theirs.lock_session(&wanted);
        let too_long = std::time::Duration::from_millis(50);
        assert!(tokio::time::timeout(too_long, &mut waiting).await.is_err(), "it is not free");
        drop(lock);
        let theirs_now = waiting.await.unwrap();
        assert!(mine.try_lock_session(&key("", "s")).await.unwrap().is_none());
        drop(theirs_now);
        assert!(mine.is_alive("they").await.unwrap() && !mine.is_alive("nobody").await.unwrap());
        // What a runtime leaves behind keeps nobody waiting.
        let left = theirs.lock_session(&key("", "left")).await.unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| theirs.close());
        });
        drop((left, theirs));
        let _free = mine.lock_session(&key("", "left")).await.unwrap();
        assert!(!mine.is_alive("they").await.unwrap());
    });
    mine.close().unwrap();
}

/// Turns in which a tool is called that waits for the host, and one more.
fn tool_turns() -> Value {
    json!([{"tool_calls": [{"id": "c", "name": "t", "input": {}}]}, {"text": "done"}])
}

/// A runtime that dies with its run under way, as far as another one can see: it is leaked, and its name is the dead's.
fn left_behind(place: &Place, tool: Value, until: &str) -> Vec<Value> {
    let runtime = place.open(tool_turns());
    runtime.register_tool(&tool.to_string()).unwrap();
    runtime.register_agent(r#"{"id": "b", "model": "mock/m", "tools": ["t"]}"#).unwrap();
    let stream = runtime.stream(r#"{"agent": "b", "input": "go", "run_id": "r"}"#).unwrap();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|event: &Value| event["type"] != until) {
        seen.push(support::client::next(&stream).expect("the run goes on"));
    }
    call(&runtime, "store.info", json!({})).unwrap();
    place.set_owner("dead");
    std::mem::forget((runtime, stream));
    seen
}

fn runs_are_adopted_or_abandoned_once(place: Place) {
    left_behind(&place, json!({"name": "t", "description": "A tool."}), "tool_call");
    let (mine, theirs) = (backend(&place, "me"), backend(&place, "they"));
    let run = "r".into();
    let orphans = wait(mine.orphans(None)).unwrap();
    assert_eq!(orphans.iter().map(|run| run.run_id.as_str()).collect::<Vec<_>>(), ["r"]);
    assert!(wait(mine.orphans(Some(&"other".into()))).unwrap().is_empty());
    let unfinished = wait(mine.unfinished(&run)).unwrap().expect("it has not ended");
    assert_eq!((&*unfinished.begin.owner, unfinished.calls.len()), ("dead", 1));
    assert!(mine.adopt(&run, "dead", "me").unwrap());
    assert!(!theirs.adopt(&run, "dead", "they").unwrap(), "somebody else was first");
    assert!(!theirs.adopt(&run, "me", "they").unwrap(), "it lives");
    assert!(!theirs.abandon(&run, "{}", 5).unwrap(), "it lives");
    assert!(mine.adopt(&run, "me", "me").unwrap(), "the answer to the first adoption was lost");
    mine.close().unwrap();
    drop(mine);
    assert!(theirs.abandon(&run, r#"{"code": "abandoned"}"#, 5).unwrap());
    assert!(!theirs.abandon(&run, "{}", 6).unwrap(), "it has ended");
    let ended = wait(theirs.run("", &run)).unwrap().unwrap();
    assert_eq!((ended.status.name(), ended.ended_at_ms), ("failed", Some(5)));
    assert!(wait(theirs.unfinished(&run)).unwrap().is_none());
    theirs.close().unwrap();
}

fn an_approval_outlives_its_process(place: Place) {
    let tool = json!({"name": "t", "description": "A tool.", "permission": "confirm"});
    for (decision, told) in
        [(json!("approve"), "the result"), (json!({"type": "reject", "reason": "not today"}), "not today")]
    {
        let asked = left_behind(&place, tool.clone(), "approval_request");
        let id = asked.last().unwrap()["approval_id"].as_str().unwrap().to_owned();
        let runtime = place.open(tool_turns());
        let listed = call(&runtime, "approvals.list", json!({})).unwrap();
        assert_eq!(listed["items"][0]["approval_id"], id, "{listed}");
        let resolve =
            |decision: Value| call(&runtime, "approvals.resolve", json!({"approval_id": id, "decision": decision}));
        assert!(resolve(json!({"type": "maybe"})).is_err());
        // Also by the other way in.
        runtime.approval_resolve(&id, &decision.to_string()).unwrap();
        assert_eq!(resolve(json!("approve")).unwrap_err().status(), Status::NotFound, "it was answered");
        assert_eq!(call(&runtime, "approvals.list", json!({})).unwrap()["items"], json!([]));
        runtime.register_tool(&tool.to_string()).unwrap();
        runtime.register_agent(r#"{"id": "b", "model": "mock/m", "tools": ["t"]}"#).unwrap();
        let stream = runtime.call_start("runs.resume", r#"{"run_id": "r"}"#).unwrap();
        let mut seen = Vec::new();
        while let Some(event) = support::client::next(&stream) {
            if let Some(token) = event["token"].as_u64() {
                runtime.tool_complete(token, r#""the result""#).unwrap();
            }
            seen.push(event);
        }
        assert!(!types(&seen).contains(&"approval_request"), "{seen:?}");
        let resolved = seen.iter().find(|event| event["type"] == "approval_resolved").unwrap();
        assert_eq!(resolved["approval_id"], id);
        let result = seen.iter().find(|event| event["type"] == "tool_result").unwrap();
        assert!(result["content"].as_str().unwrap().contains(told), "{result}");
        assert_eq!(types(&seen).last(), Some(&"completed"));
        assert_whole(&runtime);
        // So that its name is free again.
        call(&runtime, "store.prune", json!({"events_seconds": 0, "runs_seconds": 0, "sessions_seconds": 0})).unwrap();
        close(runtime);
    }
    // Not answered in time: it is asked again, under the same name.
    let asked = left_behind(&place, tool.clone(), "approval_request");
    let runtime = place.open(tool_turns());
    runtime.register_tool(&tool.to_string()).unwrap();
    runtime.register_agent(r#"{"id": "b", "model": "mock/m", "tools": ["t"]}"#).unwrap();
    let stream = runtime.call_start("runs.resume", r#"{"run_id": "r"}"#).unwrap();
    let again = std::iter::from_fn(|| support::client::next(&stream)).find(|event| event["type"] == "approval_request");
    assert_eq!(again.unwrap()["approval_id"], asked.last().unwrap()["approval_id"]);
    let listed = call(&runtime, "approvals.list", json!({})).unwrap();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
}

fn a_clock_that_jumps_back_harms_nothing(place: Place) {
    let runtime = place.open(Value::Null);
    for input in ["one", "two"] {
        invoke(&runtime, json!({"agent": "a", "input": input, "session": "s"})).unwrap();
    }
    close(runtime);
    // As if all of it had happened under a clock that was ten days ahead, and has been set right since.
    place.shift_clock(864_000_000);
    let runtime = place.open(Value::Null);
    for input in ["three", "four"] {
        invoke(&runtime, json!({"agent": "a", "input": input, "session": "s"})).unwrap();
    }
    let other = place.open(Value::Null);
    invoke(&other, json!({"agent": "a", "input": "five", "session": "s"})).unwrap();
    let session = call(&other, "sessions.get", json!({"session": "s"})).unwrap();
    let texts: Vec<_> =
        session["messages"].as_array().unwrap().iter().map(|message| &message["parts"][0]["text"]).collect();
    assert_eq!(texts, ["one", "one", "two", "two", "three", "three", "four", "four", "five", "five"]);
    let events = call(&other, "events.query", json!({"types": ["completed"]})).unwrap();
    let order: Vec<_> = events["items"].as_array().unwrap().iter().map(|event| &event["text"]).collect();
    assert_eq!(order, ["one", "two", "three", "four", "five"], "in the order in which they were committed");
    assert_eq!(call(&other, "sessions.list", json!({})).unwrap()["items"][0]["messages"], 10);
    call(&other, "store.prune", json!({})).unwrap();
    assert_eq!(call(&other, "runs.list", json!({})).unwrap()["items"].as_array().unwrap().len(), 5);
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
        // However old they are by now.
        let for_ever =
            json!({"event_retention_seconds": 1e11, "retention": {"runs_seconds": null, "blobs_seconds": null}});
        let runtime = place.open_with(Value::Null, for_ever);
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
    assert_eq!(create(&text).code(), Some("store_not_a_database"));
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
