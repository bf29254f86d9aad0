//! Two tiers: what a local database keeps is shipped elsewhere, whatever happens on the way.
#![cfg(feature = "object-store")]

mod archive;
mod kill;
mod postgres;
mod s3;
#[path = "../support/mod.rs"]
mod support;

use archive::{objects, replayed, stored};
use par::runtime::Runtime;
use par::types::{Error, Status};
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A database and a folder that it is forwarded to.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self::unreachable();
        place.mount();
        place
    }

    /// One whose archive cannot be made before [`Place::mount`].
    fn unreachable() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    fn mount(&self) {
        std::fs::create_dir(self.folder.path().join("mount")).unwrap();
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("par.db")
    }

    fn archive(&self) -> PathBuf {
        self.folder.path().join("mount/archive")
    }

    fn forward(&self) -> Value {
        json!({"to": {"type": "folder", "path": self.archive()}, "interval_seconds": 0.05})
    }

    fn open(&self, forward: Value) -> Runtime {
        open(&self.database(), forward, json!({}))
    }
}

fn try_open(database: &Path, forward: Value, extra: Value) -> Result<Runtime, Error> {
    let mut config = json!({"persistence": {"type": "sqlite", "path": database, "forward": forward}});
    for (key, value) in extra.as_object().unwrap() {
        config[key] = value.clone();
    }
    let runtime = Runtime::create(&config.to_string())?;
    runtime.register_agent(r#"{"id": "a", "model": "mock/m"}"#).unwrap();
    Ok(runtime)
}

fn open(database: &Path, forward: Value, extra: Value) -> Runtime {
    try_open(database, forward, extra).unwrap()
}

fn call(runtime: &Runtime, method: &str, params: Value) -> Result<Value, Error> {
    runtime.call(method, &params.to_string(), None).map(|json| serde_json::from_str(&json).unwrap())
}

fn say(runtime: &Runtime, session: &str, input: &str) {
    runtime.invoke(&json!({"agent": "a", "input": input, "session": session}).to_string(), None).unwrap();
}

/// What the runtime tells of forwarding.
fn told(runtime: &Runtime) -> Value {
    runtime.info()["store"]["forward"].clone()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Everything is shipped, and what is shipped is everything.
fn assert_shipped(place: &Place) {
    assert_eq!(replayed(&objects(&place.archive())), stored(&place.database()));
}

#[test]
fn what_is_kept_is_shipped_and_can_be_read() {
    let place = Place::new();
    let runtime = place.open(place.forward());
    for number in 0..20 {
        say(&runtime, &format!("s{}", number % 3), &format!("message {number} {}", "words ".repeat(number * 20)));
    }
    let shipped = call(&runtime, "store.forward", json!({})).unwrap();
    assert_eq!(
        (&shipped["state"], &shipped["pending"], &shipped["lag_seconds"]),
        (&json!("on"), &json!(0), &json!(0.0))
    );
    assert!(shipped["batches"].as_u64().unwrap() >= 1 && shipped["bytes"].as_u64().unwrap() > 1_000, "{shipped}");
    assert_eq!(shipped["destination"], format!("file://{}", place.archive().display()));
    let text: String = objects(&place.archive()).into_values().collect();
    assert!(text.contains(r#""type":"completed""#) && text.contains("message 19 words"));
    // What changed again, and what is no more.
    call(&runtime, "sessions.delete", json!({"session": "s1"})).unwrap();
    call(&runtime, "sessions.fork", json!({"session": "s2", "to": "f", "at": 2})).unwrap();
    say(&runtime, "s1", "anew");
    say(&runtime, "s2", "more");
    // By itself, also when it closes.
    assert_eq!(runtime.close(None).unwrap().unforwarded, Some(0));
    assert_shipped(&place);
    let last: Vec<_> = objects(&place.archive()).into_values().collect();
    assert!(last.iter().any(|text| text.contains(r#"{"kind":"session_deleted","scope":"","session":"s1"}"#)));
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(place.archive()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn objects_have_the_size_that_is_wanted() {
    let place = Place::unreachable();
    let mut forward = place.forward();
    let runtime = place.open(forward.clone());
    for number in 0..30 {
        say(&runtime, &format!("s{number}"), &format!("{number} {}", "0123456789".repeat(1_000)));
    }
    let report = runtime.close(None).unwrap();
    assert!(report.unforwarded.unwrap() > 60, "{report:?}");
    place.mount();
    forward["max_batch_bytes"] = json!(65_536);
    let runtime = place.open(forward);
    call(&runtime, "store.forward", json!({})).unwrap();
    runtime.close(None).unwrap();
    let objects = objects(&place.archive());
    assert!(objects.len() > 5, "{}", objects.len());
    assert!(objects.values().all(|text| text.len() < 100_000));
    assert_shipped(&place);
}

#[test]
fn a_database_that_has_data_is_shipped_from_its_beginning() {
    let place = Place::new();
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/store/schema-1.db");
    std::fs::copy(old, place.database()).unwrap();
    let connection = rusqlite::Connection::open(place.database()).unwrap();
    connection
        .execute_batch(
            "INSERT INTO blobs (hash, content, at_ms) VALUES (x'00ff', CAST('a large text' AS BLOB), 1);
             INSERT INTO dead_letters (subscription, reason, attempts, at_ms, event) VALUES ('inbox', 'why', 1, 1, '{}')",
        )
        .unwrap();
    drop(connection);
    let keep = json!({"event_retention_seconds": 1e10, "retention":
        {"runs_seconds": null, "blobs_seconds": 1e10, "dead_letters_seconds": 1e10}});
    let runtime = open(&place.database(), Value::Null, keep.clone());
    say(&runtime, "s", "without anybody to ship it");
    assert_eq!(told(&runtime), Value::Null);
    assert_eq!(call(&runtime, "store.forward", json!({})).unwrap_err().code(), Some("not_forwarded"));
    runtime.close(None).unwrap();
    let runtime = open(&place.database(), place.forward(), keep.clone());
    runtime.close(None).unwrap();
    assert_shipped(&place);
    let first = objects(&place.archive());
    assert_eq!(first.len(), 1);
    // Where nobody ships it marks what changes, and says so.
    let runtime = open(&place.database(), Value::Null, keep.clone());
    say(&runtime, "s", "later");
    until("marked", || told(&runtime)["pending"].as_u64().unwrap() > 0);
    assert_eq!(told(&runtime)["state"], "paused");
    runtime.close(None).unwrap();
    let runtime = open(&place.database(), place.forward(), keep.clone());
    call(&runtime, "store.forward", json!({})).unwrap();
    runtime.close(None).unwrap();
    assert_shipped(&place);
    // Another place gets everything, under another name.
    let elsewhere = place.folder.path().join("elsewhere");
    let runtime = open(&place.database(), json!({"to": format!("file://{}", elsewhere.display())}), keep.clone());
    call(&runtime, "store.forward", json!({})).unwrap();
    runtime.close(None).unwrap();
    assert_eq!(replayed(&objects(&elsewhere)), stored(&place.database()));
    assert_eq!(objects(&place.archive()).len(), 2, "nothing more went to the first");
    // No more.
    let runtime = open(&place.database(), json!("off"), keep);
    say(&runtime, "s", "for nobody");
    assert_eq!(told(&runtime), Value::Null);
    runtime.close(None).unwrap();
    let connection = rusqlite::Connection::open(place.database()).unwrap();
    let count = |query: &str| connection.query_row(query, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(
        count("SELECT count(*) FROM changes") + count("SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'"),
        0
    );
}

#[test]
fn what_was_shipped_and_not_noted_is_not_replaced_by_less() {
    let place = Place::unreachable();
    let mut forward = place.forward();
    forward["max_batch_bytes"] = json!(65_536);
    let runtime = place.open(forward.clone());
    for number in 0..30 {
        say(&runtime, &format!("s{}", number % 3), &format!("{number} {}", noise(8_000)));
    }
    call(&runtime, "store.info", json!({})).unwrap();
    // As if the process died between the two: what is shipped cannot be noted.
    let database = rusqlite::Connection::open(place.database()).unwrap();
    database
        .execute_batch("CREATE TRIGGER full BEFORE DELETE ON changes BEGIN SELECT RAISE(ABORT, 'no'); END")
        .unwrap();
    place.mount();
    until("a batch is shipped", || !objects(&place.archive()).is_empty());
    runtime.close(None).unwrap();
    database.execute_batch("DROP TRIGGER full").unwrap();
    let runtime = place.open(forward);
    call(&runtime, "store.forward", json!({})).unwrap();
    runtime.close(None).unwrap();
    assert_shipped(&place);
}

#[test]
fn closing_ships_what_came_behind_a_batch_that_failed() {
    let place = Place::unreachable();
    let runtime = place.open(place.forward());
    say(&runtime, "s", "first");
    until("it failed", || told(&runtime)["failures"].as_u64().unwrap() > 0);
    say(&runtime, "s", "behind it");
    place.mount();
    assert_eq!(runtime.close(None).unwrap().unforwarded, Some(0));
    assert_eq!(replayed(&objects(&place.archive())), stored(&place.database()));
}

#[test]
fn a_place_that_cannot_be_reached_is_told_and_disturbs_nobody() {
    let place = Place::unreachable();
    let small = json!({"retention": {"max_bytes": 1_048_576}});
    let runtime = open(&place.database(), place.forward(), small);
    say(&runtime, "s", "hello");
    until("it failed", || told(&runtime)["failures"].as_u64().unwrap() > 1);
    let state = told(&runtime);
    assert_eq!(state["state"], "failing");
    assert_eq!(state["error"]["code"], "archive_unavailable");
    assert!(state["lag_seconds"].as_f64().unwrap() > 0.0 && state["pending"].as_u64().unwrap() > 0, "{state}");
    let error = call(&runtime, "store.forward", json!({"timeout_seconds": 0.2})).unwrap_err();
    assert_eq!((error.status(), error.code()), (Status::Deadline, Some("forward_incomplete")));
    // What is not shipped stays, whatever its age and size.
    let all = json!({"events_seconds": 0, "runs_seconds": 0, "sessions_seconds": 0, "blobs_seconds": 0});
    let none = json!({"event_blocks": 0, "runs": 0, "sessions": 0, "blobs": 0, "dead_letters": 0});
    assert_eq!(call(&runtime, "store.prune", all.clone()).unwrap(), none);
    for _ in 0..20 {
        say(&runtime, "s", &noise(100_000));
    }
    until("it is too large", || told(&runtime)["over_max_bytes"] == true);
    assert_eq!(call(&runtime, "store.prune", all.clone()).unwrap(), none);
    // It recovers by itself.
    place.mount();
    until("it caught up", || told(&runtime)["pending"] == 0);
    assert_eq!((&told(&runtime)["state"], &told(&runtime)["error"]), (&json!("on"), &Value::Null));
    let pruned = call(&runtime, "store.prune", all).unwrap();
    assert!(pruned["event_blocks"].as_u64().unwrap() >= 21 && pruned["sessions"] == 1, "{pruned}");
    assert_eq!(told(&runtime)["over_max_bytes"], false);
    runtime.close(None).unwrap();
    let archive = replayed(&objects(&place.archive()));
    assert!(archive.keys().filter(|key| key.starts_with("run ")).count() == 21, "what retention removes stays there");
    assert!(archive.contains_key("session /s"));
}

/// A text that cannot be packed.
fn noise(length: usize) -> String {
    let mut state = 1_u64;
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'0' + (state >> 33) as u8 % 64)
    };
    (0..length).map(|_| letter()).filter(|c| c.is_alphanumeric()).collect()
}

#[test]
fn one_of_several_ships_and_another_takes_over() {
    let place = Place::new();
    let first = place.open(place.forward());
    until("it has the lock", || told(&first)["state"] == "on");
    say(&first, "s", "one");
    call(&first, "store.forward", json!({})).unwrap();
    let second = place.open(place.forward());
    until("it sees the other", || told(&second)["state"] == "elsewhere");
    say(&second, "t", "two");
    // Whoever ships: it waits until it is done.
    call(&second, "store.forward", json!({})).unwrap();
    assert_eq!(told(&second)["batches"], 0);
    let off = try_open(&place.database(), json!("off"), json!({})).err().unwrap();
    assert_eq!((off.status(), off.path()), (Status::Busy, Some("config.persistence.forward")));
    first.close(None).unwrap();
    say(&second, "t", "three");
    until("it takes over", || told(&second)["state"] == "on" && told(&second)["pending"] == 0);
    second.close(None).unwrap();
    assert_shipped(&place);
}

#[test]
fn a_copy_is_another_database() {
    let place = Place::new();
    let runtime = place.open(place.forward());
    say(&runtime, "s", "one");
    let copy = place.folder.path().join("copy.db");
    call(&runtime, "store.backup", json!({"path": copy})).unwrap();
    runtime.close(None).unwrap();
    let runtime = open(&copy, Value::Null, json!({}));
    assert_eq!(told(&runtime), Value::Null);
    runtime.close(None).unwrap();
    let runtime = open(&copy, place.forward(), json!({}));
    say(&runtime, "s", "two");
    runtime.close(None).unwrap();
    let sources = std::fs::read_dir(place.archive()).unwrap().count();
    assert_eq!(sources, 2, "it is not mixed with the first");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let place = Place::new();
    let refused = |forward: Value, path: &str| {
        let error = try_open(&place.database(), forward.clone(), json!({})).err().unwrap();
        assert_eq!((error.status(), error.path()), (Status::Schema, Some(path)), "{forward}: {error:?}");
    };
    let at = "config.persistence.forward";
    let s3 = |key: &str, value: Value| {
        let mut to = json!({"type": "s3", "bucket": "b"});
        to[key] = value;
        json!({"to": to})
    };
    refused(json!("on"), at);
    refused(json!({}), at);
    refused(json!({"too": "s3://b"}), &format!("{at}.too"));
    refused(json!({"to": "ftp://b"}), &format!("{at}.to"));
    refused(json!({"to": "file://relative"}), &format!("{at}.to"));
    refused(json!({"to": {"type": "folder"}}), &format!("{at}.to"));
    refused(json!({"to": {"type": "folder", "path": "/x", "bucket": "b"}}), &format!("{at}.to"));
    refused(json!({"to": {"type": "s3", "path": "/x"}}), &format!("{at}.to"));
    refused(json!({"to": "s3://"}), &format!("{at}.to.bucket"));
    refused(s3("prefix", json!("a/../b")), &format!("{at}.to.prefix"));
    refused(s3("prefix", json!("a b")), &format!("{at}.to.prefix"));
    refused(s3("endpoint", json!("localhost:9000")), &format!("{at}.to.endpoint"));
    refused(s3("access_key_id", json!("k")), &format!("{at}.to.secret_access_key"));
    refused(s3("secret_access_key", json!("k")), &format!("{at}.to.access_key_id"));
    refused(
        json!({"to": {"type": "s3", "bucket": "b", "access_key_id": "k",
                          "secret_access_key": {"env": "PAR_TEST_NOT_SET"}}}),
        &format!("{at}.to.secret_access_key"),
    );
    refused(json!({"to": "s3://b", "interval_seconds": 0}), &format!("{at}.interval_seconds"));
    refused(json!({"to": "s3://b", "max_batch_bytes": 1}), &format!("{at}.max_batch_bytes"));
    let memory =
        Runtime::create(r#"{"persistence": {"type": "sqlite", "path": ":memory:", "forward": {"to": "s3://b"}}}"#);
    assert_eq!(memory.err().unwrap().path(), Some(at));
}

/// What `store.restore` makes of an archive, in a new file.
fn restored(place: &Place, name: &str, params: Value) -> Result<(Runtime, Value), Error> {
    let keep = json!({"event_retention_seconds": 1e10, "retention":
        {"runs_seconds": null, "blobs_seconds": 1e10, "dead_letters_seconds": 1e10}});
    let runtime = open(&place.folder.path().join(name), Value::Null, keep);
    let told = call(&runtime, "store.restore", params)?;
    Ok((runtime, told))
}

#[test]
fn what_was_shipped_is_read_back() {
    let place = Place::new();
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/store/schema-1.db");
    std::fs::copy(old, place.database()).unwrap();
    let keep = json!({"event_retention_seconds": 1e10, "retention": {"runs_seconds": null}});
    let mut forward = place.forward();
    forward["max_batch_bytes"] = json!(65_536);
    let runtime = open(&place.database(), forward, keep);
    for number in 0..40 {
        say(&runtime, &format!("s{}", number % 3), &format!("{number} {}", noise(8_000)));
    }
    call(&runtime, "sessions.delete", json!({"session": "s1"})).unwrap();
    let sessions = |runtime: &Runtime| -> Vec<Value> {
        ["s", "s0", "s2"].map(|id| call(runtime, "sessions.get", json!({"session": id})).unwrap()).into()
    };
    let events = |runtime: &Runtime| call(runtime, "events.query", json!({"limit": 1000})).unwrap();
    let (before, said) = (sessions(&runtime), events(&runtime));
    runtime.close(None).unwrap();
    assert!(objects(&place.archive()).len() > 3);
    std::fs::rename(place.database(), place.folder.path().join("lost.db")).unwrap();

    let from = json!({"from": {"type": "folder", "path": place.archive()}});
    let (runtime, told) = restored(&place, "new.db", from.clone()).unwrap();
    assert_eq!(
        (&told["runs"], &told["sessions"], &told["runs_cut_short"]),
        (&json!(43), &json!(4), &json!(1)),
        "{told}"
    );
    assert_eq!(call(&runtime, "store.verify", json!({})).unwrap(), json!({"ok": true, "problems": []}));
    assert_eq!(sessions(&runtime), before);
    assert_eq!(events(&runtime)["items"].as_array().unwrap().len(), said["items"].as_array().unwrap().len());
    // What was under way when it was last seen has failed: a tool that may run once may have run since.
    let cut = call(&runtime, "runs.get", json!({"run_id": "unfinished"})).unwrap();
    assert_eq!((&cut["status"], &cut["error"]["code"]), (&json!("failed"), &json!("run_cut_short")));
    assert!(call(&runtime, "runs.resume", json!({"run_id": "unfinished"})).is_err());
    say(&runtime, "s0", "it goes on");
    let session = call(&runtime, "sessions.get", json!({"session": "s0"})).unwrap();
    assert_eq!(session["messages"].as_array().unwrap().len(), before[1]["messages"].as_array().unwrap().len() + 2);
    assert_eq!(call(&runtime, "store.verify", json!({})).unwrap()["ok"], true);
    // Only into nothing.
    let error = call(&runtime, "store.restore", from.clone()).unwrap_err();
    assert_eq!((error.status(), error.code()), (Status::Exists, Some("store_not_empty")));
    runtime.close(None).unwrap();
}

#[test]
fn an_archive_is_read_back_from_any_moment() {
    let place = Place::unreachable();
    let runtime = place.open(place.forward());
    for number in 0..60 {
        say(&runtime, &format!("s{}", number % 4), &format!("{number} {}", noise(6_000)));
    }
    runtime.close(None).unwrap();
    place.mount();
    let mut forward = place.forward();
    forward["max_batch_bytes"] = json!(65_536);
    place.open(forward).close(None).unwrap();
    let source = std::fs::read_dir(place.archive()).unwrap().next().unwrap().unwrap().path();
    let mut names: Vec<_> = std::fs::read_dir(&source).unwrap().map(|object| object.unwrap().path()).collect();
    names.sort();
    assert!(names.len() > 8, "{}", names.len());
    let from = json!({"from": {"type": "folder", "path": place.archive()}});
    // One in the middle is missing: that is told, and nothing is written.
    let away = place.folder.path().join("away");
    std::fs::rename(&names[3], &away).unwrap();
    let runtime = open(&place.folder.path().join("empty.db"), Value::Null, json!({}));
    let error = call(&runtime, "store.restore", from.clone()).unwrap_err();
    assert_eq!((error.status(), error.code()), (Status::NotFound, Some("archive_incomplete")));
    assert_eq!(call(&runtime, "store.info", json!({})).unwrap()["size"]["runs"], 0);
    // One is damaged.
    std::fs::write(&names[3], &std::fs::read(&away).unwrap()[..100]).unwrap();
    assert_eq!(call(&runtime, "store.restore", from.clone()).unwrap_err().code(), Some("archive_unavailable"));
    assert_eq!(call(&runtime, "store.info", json!({})).unwrap()["size"]["runs"], 0);
    std::fs::rename(&away, &names[3]).unwrap();
    runtime.close(None).unwrap();
    // The last ones were never shipped: what is there is whole.
    while let Some(last) = names.pop() {
        let name = format!("new-{}.db", names.len());
        let (runtime, told) = restored(&place, &name, from.clone()).unwrap();
        let verified = call(&runtime, "store.verify", json!({})).unwrap();
        assert_eq!(verified, json!({"ok": true, "problems": []}), "{} objects: {told}", names.len() + 1);
        say(&runtime, "s0", "it goes on");
        runtime.close(None).unwrap();
        std::fs::remove_file(last).unwrap();
    }
    let runtime = open(&place.folder.path().join("empty.db"), Value::Null, json!({}));
    assert_eq!(call(&runtime, "store.restore", from).unwrap_err().status(), Status::NotFound);
}

#[test]
fn a_session_that_is_begun_anew_is_not_taken_for_the_old_one() {
    let place = Place::unreachable();
    let runtime = place.open(place.forward());
    for round in 0..4 {
        for number in 0..3 {
            say(&runtime, "x", &format!("{round} {number} {}", noise(20_000)));
        }
        if round < 3 {
            // Its row's number is given to the next one.
            call(&runtime, "sessions.delete", json!({"session": "x"})).unwrap();
        }
    }
    runtime.close(None).unwrap();
    place.mount();
    let mut forward = place.forward();
    forward["max_batch_bytes"] = json!(65_536);
    place.open(forward).close(None).unwrap();
    assert!(objects(&place.archive()).len() > 4);
    assert_shipped(&place);
}
