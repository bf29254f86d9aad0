//! When the store fails: the error says what and what to do, nothing is lost that was acknowledged, and when the cause goes the
//! store goes on.

mod support;

use par::runtime::Runtime;
use par::types::{Error, Status};
use pretty_assertions::assert_eq;
use rusqlite::Connection;
use serde_json::{Value, json};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use support::client::next;
use support::small_disk;

fn open(path: &Path, keys: Value) -> Runtime {
    let mut config = json!({"threads": 1, "persistence": {"type": "sqlite", "path": path}});
    for (key, value) in keys.as_object().unwrap() {
        config[key] = value.clone();
    }
    let runtime = Runtime::create(&config.to_string()).unwrap();
    runtime.register_agent(r#"{"id": "a", "model": "mock/m"}"#).unwrap();
    runtime
}

fn invoke(runtime: &Runtime, input: &str, session: &str) -> Result<Value, Error> {
    let request = json!({"agent": "a", "input": input, "session": session});
    runtime.invoke(&request.to_string(), None).map(|json| serde_json::from_str(&json).unwrap())
}

fn call(runtime: &Runtime, method: &str, params: Value) -> Value {
    let answer = runtime.call(method, &params.to_string(), None);
    serde_json::from_str(&answer.unwrap_or_else(|error| panic!("{method} {params}: {error:?}"))).unwrap()
}

fn problems(runtime: &Runtime) -> String {
    let verified = call(runtime, "store.verify", json!({}));
    assert_eq!(verified["ok"], verified["problems"].as_array().unwrap().is_empty());
    verified["problems"].to_string()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn whatever_is_changed_behind_its_back_is_found() {
    let spoilt: [(&str, &str); 7] = [
        ("UPDATE events SET body = x'007b7d0a' WHERE run = 2", "were changed"),
        ("UPDATE events SET last_at_ms = last_at_ms + 1 WHERE run = 2", "were changed"),
        ("DELETE FROM events WHERE run = 2", "missing"),
        ("DELETE FROM runs WHERE id = 2", "of runs that are missing"),
        ("UPDATE runs SET last_seq = 99 WHERE id = 2", "should end with 99"),
        ("DELETE FROM entries WHERE position = 1", "should have"),
        (
            "UPDATE entries SET body = '[{\"role\":\"tool\",\"tool_call_id\":\"x\",\"content\":\"\"}]' WHERE position = 1",
            "breaks a rule",
        ),
    ];
    for (change, found) in spoilt {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("par.db");
        let runtime = open(&path, json!({}));
        for input in ["one", "two", "three"] {
            invoke(&runtime, input, "s").unwrap();
        }
        assert_eq!(problems(&runtime), "[]");
        Connection::open(&path).unwrap().execute_batch(change).unwrap();
        let told = problems(&runtime);
        assert!(told.contains(found), "{change}: {told}");
    }
}

/// What a careless program does to the files of an open database.
type Harm = fn(&Path);

fn beside(path: &Path, suffix: &str) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[test]
fn a_file_that_is_not_the_one_that_was_opened_is_noticed_before_a_turn_is_acknowledged() {
    let harms: [(&str, Harm); 6] = [
        ("deleted", |path| std::fs::remove_file(path).unwrap()),
        ("replaced", |path| {
            let other = path.with_extension("other");
            drop(open(&other, json!({})).close(None));
            std::fs::rename(other, path).unwrap();
        }),
        ("replaced", |path| {
            let copy = path.with_extension("copy");
            std::fs::copy(path, &copy).unwrap();
            std::fs::rename(copy, path).unwrap();
        }),
        ("truncated", |path| std::fs::File::options().write(true).open(path).unwrap().set_len(0).unwrap()),
        ("-wal", |path| std::fs::remove_file(beside(path, "-wal")).unwrap()),
        ("-wal", |path| {
            let copy = path.with_extension("copy");
            std::fs::copy(beside(path, "-wal"), &copy).unwrap();
            std::fs::rename(copy, beside(path, "-wal")).unwrap();
        }),
    ];
    for durability in ["sync", "exit"] {
        for (what, harm) in harms {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("par.db");
            // A file of some size: what is only in the "-wal" file cannot be cut off the other one.
            let runtime = open(&path, json!({}));
            invoke(&runtime, "before", "s").unwrap();
            runtime.close(None).unwrap();
            let runtime = open(&path, json!({"durability": durability}));
            invoke(&runtime, "one", "s").unwrap();
            harm(&path);
            let error = invoke(&runtime, "two", "s").unwrap_err();
            assert_eq!(
                (error.status(), error.code()),
                (Status::Persistence, Some("store_replaced")),
                "{what}: {error:?}"
            );
            assert!(error.message().contains(what), "{what}: {error}");
            assert!(!error.is_retryable());
            let found = problems(&runtime);
            assert!(found.contains("\"file\"") && found.contains(what), "{what}: {found}");
            // It stays so: nothing is acknowledged any more.
            let error = invoke(&runtime, "three", "s").unwrap_err();
            assert_eq!(error.code(), Some("store_replaced"));
            let report = runtime.close(None).unwrap();
            assert_eq!(report.unwritten.unwrap().code(), Some("store_replaced"), "{what}");
        }
    }
}

#[test]
fn what_cannot_be_written_is_not_shown() {
    for (permission, never_shown) in [("allow", "tool_result"), ("confirm", "approval_request")] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("par.db");
        let turns = json!([{"tool_calls": [{"id": "a", "name": "first", "input": {}}]},
                           {"tool_calls": [{"id": "b", "name": "second", "input": {}}], "delay_ms": 2_000}, {"text": "done"}]);
        let runtime =
            open(&path, json!({"durability": "sync", "llm_providers": {"mock": {"type": "mock", "turns": turns}}}));
        runtime.register_tool(r#"{"name": "first", "description": "d"}"#).unwrap();
        runtime
            .register_tool(&json!({"name": "second", "description": "d", "permission": permission}).to_string())
            .unwrap();
        runtime.register_agent(r#"{"id": "b", "model": "mock/m", "tools": ["first", "second"]}"#).unwrap();
        let stream = runtime.stream(r#"{"agent": "b", "input": "go"}"#).unwrap();
        let mut kinds = Vec::new();
        while let Some(event) = next(&stream) {
            let kind = event["type"].as_str().unwrap().to_owned();
            let is_last_step = match permission {
                "allow" => kind == "tool_call" && event["name"] == "second",
                _ => kind == "turn_started" && event["turn"] == 2,
            };
            if is_last_step {
                std::fs::remove_file(&path).unwrap();
            }
            if kind == "tool_call" {
                runtime.tool_complete(event["token"].as_u64().unwrap(), "1").unwrap();
            }
            kinds.push((kind, event["error"]["code"].clone()));
        }
        let shown = kinds.iter().filter(|(kind, _)| kind == never_shown).count();
        assert_eq!(shown, usize::from(permission == "allow"), "{kinds:?}");
        assert_eq!(kinds.last().unwrap(), &("failed".to_owned(), json!("store_replaced")), "{kinds:?}");
    }
}

#[test]
fn a_file_that_shrinks_since_old_data_went_is_still_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("par.db");
    let runtime = open(&path, json!({}));
    let text = "x".repeat(100_000);
    for _ in 0..10 {
        invoke(&runtime, &text, "s").unwrap();
    }
    // A checkpoint puts all of it into the file, and again when it is smaller.
    let checkpoint = || {
        let database = Connection::open(&path).unwrap();
        let truncate = "PRAGMA wal_checkpoint(TRUNCATE)";
        eventually("a checkpoint is made", || {
            database.query_row(truncate, [], |row| row.get::<_, i64>(0)).unwrap() == 0
        });
        std::fs::metadata(&path).unwrap().len()
    };
    let large = checkpoint();
    invoke(&runtime, "note the size", "t").unwrap();
    call(&runtime, "sessions.delete", json!({"session": "s"}));
    let zero = json!({"events_seconds": 0, "runs_seconds": 0, "sessions_seconds": 0, "blobs_seconds": 0});
    call(&runtime, "store.prune", zero);
    let small = checkpoint();
    assert!(small < large, "{small} {large}");
    invoke(&runtime, "go on", "t").unwrap();
    assert_eq!(problems(&runtime), "[]");
    runtime.close(None).unwrap();
}

#[test]
fn a_damaged_file_is_told_and_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("par.db");
    let runtime = open(&path, json!({}));
    let long = "many words ".repeat(2_000);
    for session in ["s", "t", "u"] {
        invoke(&runtime, &long, session).unwrap();
    }
    let said = call(&runtime, "sessions.get", json!({"session": "s"}))["messages"].clone();
    runtime.close(None);
    drop(runtime);
    let size = std::fs::metadata(&path).unwrap().len();
    for page in 2..size / 4096 {
        let copy = folder.path().join(format!("copy-{page}.db"));
        std::fs::copy(&path, &copy).unwrap();
        let mut file = std::fs::OpenOptions::new().write(true).open(&copy).unwrap();
        file.seek(SeekFrom::Start(page * 4096)).unwrap();
        file.write_all(&[0xa5; 4096]).unwrap();
        drop(file);
        let config = json!({"persistence": {"type": "sqlite", "path": copy}});
        let runtime = match Runtime::create(&config.to_string()) {
            Ok(runtime) => runtime,
            Err(error) => {
                assert_eq!(error.code(), Some("store_corrupt"), "{error:?}");
                continue;
            }
        };
        runtime.register_agent(r#"{"id": "a", "model": "mock/m"}"#).unwrap();
        let verified = runtime.call("store.verify", "{}", None);
        let told =
            verified.map_or_else(|error| error.code() == Some("store_corrupt"), |told| told.contains("\"ok\":false"));
        // A page that nothing is in may be damaged.
        let is_whole = || {
            let whole = |session| call(&runtime, "sessions.get", json!({"session": session}))["messages"] == said;
            ["s", "t", "u"].into_iter().all(whole)
        };
        assert!(told || is_whole(), "a damaged page {page} was not found");
        for session in ["s", "t", "u"] {
            if let Err(error) = invoke(&runtime, "more", session) {
                assert_eq!(error.status(), Status::Persistence, "{error:?}");
            }
        }
    }
}

#[test]
fn another_programs_lock_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("par.db");
    let runtime = open(&path, json!({"durability": "sync"}));
    invoke(&runtime, "one", "s").unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let holder = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        other.execute_batch("COMMIT").unwrap();
        other
    });
    invoke(&runtime, "two", "s").unwrap();
    let other = holder.join().unwrap();
    // For longer than anybody waits: said, and written when it is over.
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = invoke(&runtime, "three", "s").unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), (Some("store_busy"), true), "{error:?}");
    assert_eq!(invoke(&runtime, "four", "s").unwrap_err().code(), Some("store_busy"));
    other.execute_batch("COMMIT").unwrap();
    eventually("the store goes on", || runtime.info()["store"]["ok"] == true);
    invoke(&runtime, "five", "s").unwrap();
    let session = call(&runtime, "sessions.get", json!({"session": "s"}));
    let said: Vec<_> =
        session["messages"].as_array().unwrap().iter().filter(|message| message["role"] == "user").collect();
    assert_eq!(said.len(), 4, "what was not acknowledged in time was written all the same: {session}");
    assert_eq!(problems(&runtime), "[]");
}

#[test]
fn a_full_disk_loses_nothing() {
    let Some(folder) = small_disk::folder() else {
        return small_disk::run("a_full_disk_loses_nothing", 2, small_disk::As::Root);
    };
    let runtime = open(&folder.join("par.db"), json!({"durability": "sync"}));
    invoke(&runtime, "before", "s").unwrap();
    let junk = small_disk::fill(&folder);
    let long = "many words ".repeat(5_000);
    let error = invoke(&runtime, &long, "s").unwrap_err();
    assert_eq!(
        (error.status(), error.code(), error.is_retryable()),
        (Status::Persistence, Some("store_full"), true),
        "{error:?}"
    );
    // Nothing new is begun that could not be kept, and what there is can still be read.
    assert_eq!(invoke(&runtime, "refused", "s").unwrap_err().code(), Some("store_full"));
    let info = runtime.info();
    assert_eq!((&info["store"]["ok"], &info["store"]["error"]["code"]), (&json!(false), &json!("store_full")));
    std::fs::remove_file(&junk).unwrap();
    eventually("the store goes on", || runtime.info()["store"]["ok"] == true);
    invoke(&runtime, "after", "s").unwrap();
    let session = call(&runtime, "sessions.get", json!({"session": "s"}));
    let said: Vec<_> = session["messages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|message| message["role"] == "user")
        .map(|message| message["parts"][0]["text"].as_str().unwrap().len())
        .collect();
    assert_eq!(said, ["before".len(), long.len(), "after".len()]);
    assert_eq!(problems(&runtime), "[]");
    assert_eq!(runtime.close(None).unwrap().exit_code, 0);
}

#[test]
fn closing_says_what_could_not_be_written() {
    let test = "closing_says_what_could_not_be_written";
    let Some(folder) = small_disk::folder() else { return small_disk::run(test, 2, small_disk::As::Root) };
    let runtime = open(&folder.join("par.db"), json!({}));
    invoke(&runtime, "before", "s").unwrap();
    call(&runtime, "store.info", json!({}));
    small_disk::fill(&folder);
    // Asynchronous: nobody waits for the disk, so nobody is told but by the report.
    invoke(&runtime, &"many words ".repeat(5_000), "s").unwrap();
    let report = runtime.close(None).unwrap();
    assert_eq!((report.exit_code, report.unwritten.unwrap().code()), (1, Some("store_full")));
}

#[test]
fn a_file_system_that_becomes_read_only_is_told() {
    let test = "a_file_system_that_becomes_read_only_is_told";
    let Some(folder) = small_disk::folder() else { return small_disk::run(test, 4, small_disk::As::Root) };
    let path = folder.join("par.db");
    drop(open(&path, json!({})));
    let remount = |how: &str| {
        // Refused as long as a file is open for writing, so no runtime is there meanwhile.
        let done = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&folder).status().unwrap();
        assert!(done.success());
    };
    eventually("the runtime is gone", || {
        Command::new("mount").args(["-o", "remount,ro"]).arg(&folder).output().unwrap().status.success()
    });
    let config = json!({"persistence": {"type": "sqlite", "path": path}});
    let error = Runtime::create(&config.to_string()).err().unwrap();
    assert_eq!((error.status(), error.path()), (Status::Persistence, Some("config.persistence")), "{error:?}");
    assert!(matches!(error.code(), Some("store_read_only" | "store_unavailable")), "{error:?}");
    remount("rw");
    assert!(invoke(&open(&path, json!({})), "again", "s").is_ok());
}
