//! What is PostgreSQL's own: connecting, failing and coming back, and who may write when two believe that they may.

mod support;

use par::config::{Persistence, RuntimeConfig};
use par::runtime::Runtime;
use par::store::{self, Backend, DeadLetter, Item, Process};
use par::types::{Error, Status};
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::client::{events, next};
use support::postgres::Postgres;
use support::small_disk;

fn create(persistence: &Value, keys: Value) -> Result<Runtime, Error> {
    let mut config = json!({"threads": 1, "persistence": persistence});
    for (key, value) in keys.as_object().unwrap() {
        config[key] = value.clone();
    }
    let runtime = Runtime::create(&config.to_string())?;
    runtime.register_agent(r#"{"id": "a", "model": "mock/m"}"#).unwrap();
    Ok(runtime)
}

fn open(persistence: &Value) -> Runtime {
    create(persistence, json!({})).unwrap()
}

fn invoke(runtime: &Runtime, input: &str, session: &str) -> Result<Value, Error> {
    let request = json!({"agent": "a", "input": input, "session": session});
    runtime.invoke(&request.to_string(), None).map(|json| serde_json::from_str(&json).unwrap())
}

fn call(runtime: &Runtime, method: &str, params: Value) -> Value {
    let answer = runtime.call(method, &params.to_string(), None);
    serde_json::from_str(&answer.unwrap_or_else(|error| panic!("{method} {params}: {error:?}"))).unwrap()
}

fn assert_whole(runtime: &Runtime) {
    assert_eq!(call(runtime, "store.verify", json!({})), json!({"ok": true, "problems": []}));
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn schema(persistence: &Value) -> &str {
    persistence["schema"].as_str().unwrap()
}

#[test]
fn a_database_that_cannot_be_used_is_told_at_once() {
    let Some(server) = support::postgres::shared() else { return };
    let usual = server.persistence();
    let with = |key: &str, value: Value| {
        let mut persistence = usual.clone();
        persistence[key] = value;
        create(&persistence, json!({})).err().unwrap_or_else(|| panic!("{key} {persistence} was accepted"))
    };
    let at = |port: u16, rest: &str| format!("postgres://postgres:pass%20word@127.0.0.1:{port}/{rest}");
    let refused = |error: &Error| (error.status(), error.code().map(str::to_owned), error.path().map(str::to_owned));
    let unavailable =
        (Status::Persistence, Some("store_unavailable".to_owned()), Some("config.persistence".to_owned()));
    for url in [
        format!("postgres://postgres:wrong@127.0.0.1:{}/postgres", server.port()),
        at(1, "postgres"),
        at(server.port(), "nowhere"),
        at(server.port(), "postgres?sslmode=require"),
    ] {
        let error = with("url", json!(url));
        assert_eq!(refused(&error), unavailable, "{error:?}");
        assert!(!error.message().contains("wrong") && !error.message().contains("pass word"), "{error:?}");
    }
    let in_url = (Status::Schema, None, Some("config.persistence.url".to_owned()));
    for url in [
        at(server.port(), "postgres?sslmode=sometimes"),
        at(server.port(), "postgres?sslmode=verify-ca"),
        at(server.port(), "postgres?sslmode=verify-full&sslrootcert=/no/such/file"),
        at(server.port(), "postgres?colour=red"),
        "postgres://127.0.0.1/postgres".to_owned(),
        "postgres://postgres@/postgres".to_owned(),
    ] {
        let error = with("url", json!(url));
        assert_eq!(refused(&error), in_url, "{error:?}");
    }
    assert_eq!(with("url", json!({"env": "PAR_NO_SUCH_VARIABLE"})).path(), Some("config.persistence.url"));
    for (key, value) in [
        ("schema", json!("No-Name")),
        ("schema", json!("pg_mine")),
        ("pool_size", json!(0)),
        ("lease_seconds", json!(0)),
        ("path", json!("par.db")),
    ] {
        let error = with(key, value);
        assert_eq!((error.status(), error.path()), (Status::Schema, Some("config.persistence")), "{error:?}");
        assert!(error.message().contains(key) || key == "schema", "{error:?}");
    }
    server.sql("public", "CREATE SCHEMA theirs; CREATE TABLE theirs.things (id int)");
    assert_eq!(with("schema", json!("theirs")).code(), Some("store_foreign"));
    open(&usual).close(None).unwrap();
    server.sql(schema(&usual), "UPDATE facts SET value = 9999 WHERE name = 'schema'");
    assert_eq!(create(&usual, json!({})).err().unwrap().code(), Some("store_newer"));
}

#[test]
fn the_password_may_come_from_elsewhere() {
    let Some(server) = support::postgres::shared() else { return };
    let mut persistence = server.persistence();
    persistence["url"] = json!(format!("postgres://postgres@127.0.0.1:{}/postgres", server.port()));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "pass word\n").unwrap();
    persistence["password"] = json!({"file": file});
    let runtime = open(&persistence);
    assert_eq!(invoke(&runtime, "hello", "s").unwrap()["text"], "hello");
    // By the server's Unix socket, too, where there is no TLS to be had.
    let folder = server.socket_folder().to_str().unwrap().replace('/', "%2F");
    persistence["url"] = json!(format!("postgres://postgres@{folder}:{}/postgres?sslmode=verify-full", server.port()));
    assert_eq!(invoke(&open(&persistence), "again", "s").unwrap()["text"], "again");
}

#[test]
fn tls_means_what_it_means_to_libpq() {
    let issuer_key = rcgen::KeyPair::generate().unwrap();
    let mut issuer = rcgen::CertificateParams::new(Vec::new()).unwrap();
    issuer.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = issuer.self_signed(&issuer_key).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let issuer = rcgen::Issuer::new(issuer, issuer_key);
    let certificate = certificate.signed_by(&key, &issuer).unwrap();
    let other_key = rcgen::KeyPair::generate().unwrap();
    let other = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&other_key).unwrap();
    let Some(server) = Postgres::start(&[]) else { return };
    server.stop();
    let (cert, key) =
        (server.write("server.crt", &certificate.pem()), server.write("server.key", &key.serialize_pem()));
    let server = server.with_options(&[
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", cert.display()),
        format!("ssl_key_file={}", key.display()),
    ]);
    server.run();
    let folder = tempfile::tempdir().unwrap();
    let (root_file, other_file) = (folder.path().join("root.pem"), folder.path().join("other.pem"));
    std::fs::write(&root_file, root.pem()).unwrap();
    std::fs::write(&other_file, other.pem()).unwrap();
    let (root_file, other_file) = (root_file.to_str().unwrap(), other_file.to_str().unwrap());
    let connects = |host: &str, parameters: &str| {
        let url = format!("postgres://postgres:pass%20word@{host}:{}/postgres?{parameters}", server.port());
        create(&json!({"type": "postgres", "url": url}), json!({})).map(drop)
    };
    let encrypted = |expected: &str| {
        let connected = "SELECT bool_or(ssl)::text FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'libpar'";
        eventually("a connection of ours", || server.sql("public", connected) == expected);
    };
    let url = |parameters: &str| {
        let url = format!("postgres://postgres:pass%20word@127.0.0.1:{}/postgres?{parameters}", server.port());
        json!({"type": "postgres", "url": url})
    };
    for (parameters, is_encrypted) in
        [("sslmode=disable", "false"), ("sslmode=prefer", "true"), ("", "true"), ("sslmode=require", "true")]
    {
        let runtime = open(&url(parameters));
        encrypted(is_encrypted);
        runtime.close(None).unwrap();
        eventually("the connections to go", || {
            server.sql("public", "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'libpar'") == "0"
        });
    }
    let with_root = |mode: &str, root: &str| format!("sslmode={mode}&sslrootcert={root}");
    connects("127.0.0.1", &with_root("verify-ca", root_file)).unwrap();
    connects("localhost", &with_root("verify-full", root_file)).unwrap();
    for (host, parameters) in [
        ("127.0.0.1", with_root("verify-full", root_file)),
        ("localhost", with_root("verify-full", other_file)),
        ("localhost", with_root("verify-ca", other_file)),
        ("localhost", with_root("require", other_file)),
        ("localhost", "sslmode=verify-full".to_owned()),
    ] {
        let error = connects(host, &parameters).unwrap_err();
        assert!(error.message().contains("certificate"), "{host} {parameters}: {error:?}");
    }
}

#[test]
fn a_server_that_goes_and_comes_back_loses_nothing() {
    let Some(server) = Postgres::start(&[]) else { return };
    let persistence = server.persistence();
    let runtime = with_tool(&persistence);
    invoke_sync(&runtime, "before").unwrap();
    // A run that is under way when the server goes.
    let (stream, token) =
        waiting(&runtime, json!({"agent": "b", "input": "go", "session": "under way", "run_id": "u"}));
    server.kill();
    let error = eventually_err(|| invoke_sync(&runtime, "while it is away"));
    assert_eq!((error.status(), error.code()), (Status::Persistence, Some("store_unavailable")), "{error:?}");
    assert!(error.is_retryable());
    eventually("the runtime to say so", || runtime.info()["store"]["ok"] == false);
    runtime.tool_complete(token, "1").unwrap();
    server.run();
    eventually("the runtime to come back", || runtime.info()["store"]["ok"] == true);
    let ended = events(&stream);
    assert_eq!(ended.last().unwrap()["type"], "completed", "{ended:?}");
    invoke_sync(&runtime, "after").unwrap();
    assert_eq!(call(&runtime, "runs.get", json!({"run_id": "u"}))["status"], "completed");
    assert_eq!(
        call(&runtime, "sessions.get", json!({"session": "under way"}))["messages"].as_array().unwrap().len(),
        4
    );
    assert_whole(&runtime);
    assert_eq!(runtime.close(None).unwrap().exit_code, 0);
    let runtime = open(&persistence);
    let session = call(&runtime, "sessions.get", json!({"session": "s"}));
    let messages = session["messages"].as_array().unwrap().iter().filter(|message| message["role"] == "user");
    let texts: Vec<_> = messages.map(|message| &message["parts"][0]["text"]).collect();
    assert_eq!(texts, ["before", "after"]);
}

#[test]
fn another_server_takes_over() {
    let Some(primary) = Postgres::start(&[]) else { return };
    let standby = primary.standby();
    primary.wait_for_standby();
    let both = format!(
        "postgres://postgres:pass%20word@127.0.0.1:{},127.0.0.1:{}/postgres?target_session_attrs=read-write",
        primary.port(),
        standby.port()
    );
    let persistence = json!({"type": "postgres", "url": both, "lease_seconds": 1});
    let runtime = with_tool(&persistence);
    let texts = |runtime: &Runtime| -> Vec<String> {
        let session = call(runtime, "sessions.get", json!({"session": "s"}));
        let said = session["messages"].as_array().unwrap().iter().filter(|message| message["role"] == "user");
        said.map(|message| message["parts"][0]["text"].as_str().unwrap().to_owned()).collect()
    };
    let mut acknowledged = Vec::new();
    for number in 0..20 {
        invoke_sync(&runtime, &format!("before {number}")).unwrap();
        acknowledged.push(format!("before {number}"));
    }
    let (stream, token) = waiting(&runtime, json!({"agent": "b", "input": "go", "session": "t", "run_id": "u"}));
    primary.kill();
    standby.promote();
    runtime.tool_complete(token, "1").unwrap();
    assert_eq!(events(&stream).last().unwrap()["type"], "completed");
    eventually("the runtime to come back", || invoke_sync(&runtime, "after").is_ok());
    let said = texts(&runtime);
    assert_eq!(
        said.iter().filter(|text| text.starts_with("before")).collect::<Vec<_>>(),
        acknowledged.iter().collect::<Vec<_>>()
    );
    assert_eq!(said.last().map(String::as_str), Some("after"));
    assert_eq!(call(&runtime, "runs.get", json!({"run_id": "u"}))["status"], "completed");
    assert_whole(&runtime);
}

#[test]
fn a_server_that_can_only_be_read_is_told() {
    let Some(server) = Postgres::start(&[]) else { return };
    let persistence = server.persistence();
    let runtime = open(&persistence);
    invoke_sync(&runtime, "before").unwrap();
    let only_reads = |value: &str| {
        server.sql("public", &format!("START TRANSACTION READ WRITE; ALTER DATABASE postgres {value}; COMMIT"));
        server
            .sql("public", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'libpar'");
    };
    only_reads("SET default_transaction_read_only = on");
    let error = eventually_err(|| match invoke_sync(&runtime, "no") {
        // The connections that were cut.
        Err(error) if error.code() == Some("store_unavailable") => Ok(()),
        other => other.map(drop),
    });
    assert_eq!(error.code(), Some("store_read_only"), "{error:?}");
    only_reads("RESET default_transaction_read_only");
    eventually("the runtime to come back", || invoke_sync(&runtime, "after").is_ok());
    assert_whole(&runtime);
}

#[test]
fn a_full_disk_loses_nothing() {
    let Some(folder) = small_disk::folder() else {
        if support::postgres::programs().is_some() {
            small_disk::run("a_full_disk_loses_nothing", 160, small_disk::As::User);
        }
        return;
    };
    let server = Postgres::start(&["max_wal_size=32MB", "min_wal_size=32MB"]).unwrap();
    let runtime = open(&server.persistence());
    invoke_sync(&runtime, "before").unwrap();
    let junk = small_disk::fill(&folder);
    let mut told = vec!["before".to_owned()];
    let error = eventually_err(|| {
        told.push(noise(20_000, told.len()));
        invoke_sync(&runtime, told.last().unwrap())
    });
    assert_eq!(
        (error.status(), error.code(), error.is_retryable()),
        (Status::Persistence, Some("store_full"), true),
        "{error:?}"
    );
    // Nothing new is begun that could not be kept.
    assert_eq!(invoke_sync(&runtime, "refused").unwrap_err().code(), Some("store_full"));
    assert_eq!(runtime.info()["store"]["ok"], false);
    std::fs::remove_file(junk).unwrap();
    eventually("the store goes on", || runtime.info()["store"]["ok"] == true);
    invoke_sync(&runtime, "after").unwrap();
    told.push("after".to_owned());
    let session = call(&runtime, "sessions.get", json!({"session": "s"}));
    let said = session["messages"].as_array().unwrap().iter().filter(|message| message["role"] == "user");
    let said: Vec<_> = said.map(|message| message["parts"][0]["text"].as_str().unwrap().to_owned()).collect();
    assert_eq!(said, told);
    assert_whole(&runtime);
    assert_eq!(runtime.close(None).unwrap().exit_code, 0);
}

#[test]
fn a_damaged_page_is_told_and_does_no_harm() {
    let Some(server) = Postgres::start(&[]) else { return };
    let persistence = server.persistence();
    let runtime = open(&persistence);
    for input in ["one", "two", "three"] {
        invoke_sync(&runtime, input).unwrap();
    }
    let file = server.sql(schema(&persistence), "SELECT pg_relation_filepath('events')");
    server.stop();
    let mut file = std::fs::File::options().write(true).open(server.data().join(file)).unwrap();
    file.write_all(&[0xa5; 8192]).unwrap();
    drop(file);
    server.run();
    eventually("the runtime to come back", || runtime.call("sessions.list", "{}", None).is_ok());
    let error = runtime.call("store.verify", "{}", None).unwrap_err();
    assert_eq!((error.status(), error.code()), (Status::Persistence, Some("store_corrupt")), "{error:?}");
    // What is not damaged can be read.
    let session = call(&runtime, "sessions.get", json!({"session": "s"}));
    assert_eq!(session["messages"].as_array().unwrap().len(), 6);
}

fn invoke_sync(runtime: &Runtime, input: &str) -> Result<Value, Error> {
    let request = json!({"agent": "a", "input": input, "session": "s", "durability": "sync"});
    runtime.invoke(&request.to_string(), None).map(|json| serde_json::from_str(&json).unwrap())
}

fn eventually_err<T: std::fmt::Debug>(mut work: impl FnMut() -> Result<T, Error>) -> Error {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        match work() {
            Err(error) => return error,
            Ok(_) => assert!(Instant::now() < until, "it never fails"),
        }
    }
}

/// A run that waits for its tool, its stream, and the token to answer.
fn waiting(runtime: &Runtime, request: Value) -> (par::runtime::Stream, u64) {
    let stream = runtime.stream(&request.to_string()).unwrap();
    while let Some(event) = next(&stream) {
        if event["type"] == "tool_call" {
            return (stream, event["token"].as_u64().unwrap());
        }
    }
    panic!("the run ended without its tool");
}

fn with_tool(persistence: &Value) -> Runtime {
    let turns = json!([{"tool_calls": [{"name": "t", "input": {}}]}, {"text": "done"}]);
    let runtime = create(persistence, json!({"llm_providers": {"mock": {"type": "mock", "turns": turns}}})).unwrap();
    runtime.register_tool(r#"{"name": "t", "description": "A tool.", "effect": "once"}"#).unwrap();
    runtime.register_agent(r#"{"id": "b", "model": "mock/m", "tools": ["t"]}"#).unwrap();
    runtime
}

#[test]
fn a_run_that_was_taken_over_writes_nothing_more() {
    let Some(server) = support::postgres::shared() else { return };
    let persistence = server.persistence();
    let runtime = with_tool(&persistence);
    let (stream, token) =
        waiting(&runtime, json!({"agent": "b", "input": "go", "session": "s", "run_id": "r", "durability": "sync"}));
    let kept = call(&runtime, "runs.get", json!({"run_id": "r"}));
    assert_eq!(kept["status"], "running");
    server.sql(schema(&persistence), "UPDATE runs SET owner = 'another' WHERE run_id = 'r'");
    runtime.tool_complete(token, "1").unwrap();
    let seen = events(&stream);
    let last = seen.last().unwrap();
    assert_eq!((&last["type"], &last["error"]["code"]), (&json!("failed"), &json!("run_taken_over")), "{last}");
    let left = server.sql(schema(&persistence), "SELECT status FROM runs WHERE run_id = 'r'");
    assert_eq!(left, "running");
    let absent = runtime.call("sessions.get", r#"{"session": "s"}"#, None).unwrap_err();
    assert_eq!(absent.status(), Status::NotFound);
    assert_whole(&runtime);
}

#[test]
fn a_session_that_went_on_is_not_overwritten() {
    let Some(server) = support::postgres::shared() else { return };
    let persistence = server.persistence();
    let runtime = with_tool(&persistence);
    let plain = open(&persistence);
    invoke(&plain, "first", "s").unwrap();
    for durability in ["sync", "async"] {
        let request =
            json!({"agent": "b", "input": "go", "session": "s", "run_id": durability, "durability": durability});
        let (stream, token) = waiting(&runtime, request);
        // As if this runtime had been taken for dead: another one uses the session.
        server.sql(schema(&persistence), "DELETE FROM leases");
        invoke(&plain, durability, "s").unwrap();
        call(&plain, "store.info", json!({}));
        runtime.tool_complete(token, "1").unwrap();
        let seen = events(&stream);
        if durability == "sync" {
            let last = seen.last().unwrap();
            assert_eq!(
                (&last["type"], &last["error"]["code"]),
                (&json!("failed"), &json!("session_moved_on")),
                "{last}"
            );
        }
        // Whoever does not wait learns it later; what is stored is right all the same.
        call(&runtime, "store.info", json!({}));
        let kept = format!(
            "SELECT concat_ws(' ', status, error::json ->> 'name', error::json ->> 'code') FROM runs WHERE run_id = '{durability}'"
        );
        assert_eq!(server.sql(schema(&persistence), &kept), "failed PAR_ERR_PERSISTENCE session_moved_on");
    }
    let session = call(&runtime, "sessions.get", json!({"session": "s"}));
    let texts: Vec<_> =
        session["messages"].as_array().unwrap().iter().map(|message| &message["parts"][0]["text"]).collect();
    assert_eq!(texts, ["first", "first", "sync", "sync", "async", "async"]);
    // And it goes on with what the other has left.
    assert_eq!(invoke(&runtime, "last", "s").unwrap()["session"], "s");
    assert_whole(&runtime);
}

#[test]
fn the_leases_of_the_dead_end_and_those_of_the_living_do_not() {
    let Some(server) = support::postgres::shared() else { return };
    let mut persistence = server.persistence();
    persistence["lease_seconds"] = json!(0.5);
    let (dead, living) = (with_tool(&persistence), open(&persistence));
    let (stream, token) = waiting(&dead, json!({"agent": "b", "input": "go", "session": "s", "run_id": "r"}));
    let sql = |text: &str| server.sql(schema(&persistence), text);
    let busy = || living.invoke(r#"{"agent": "a", "input": "x", "session": "s", "session_busy": "fail"}"#, None);
    // Longer than the lease: it is said again and again that the runtime lives.
    std::thread::sleep(Duration::from_millis(1_200));
    assert_eq!(busy().unwrap_err().status(), Status::Busy);
    let listed = || call(&living, "runs.list", json!({"status": "interrupted"}))["items"].as_array().unwrap().len();
    assert_eq!(listed(), 0);
    // As if it were another's, of which nothing is heard any more.
    sql(
        "UPDATE runs SET owner = 'gone'; UPDATE leases SET owner = 'gone'; INSERT INTO runtimes VALUES ('gone', now(), false)",
    );
    assert_eq!((busy().unwrap_err().status(), listed()), (Status::Busy, 0));
    sql("UPDATE runtimes SET seen_at = now() - interval '1 second' WHERE owner = 'gone'");
    assert_eq!(listed(), 1);
    busy().unwrap();
    drop((stream, token));
}

#[test]
fn whatever_is_changed_behind_its_back_is_found() {
    let Some(server) = support::postgres::shared() else { return };
    let spoilt = [
        ("UPDATE events SET body = '\\x007b7d0a' WHERE run = 2", "were changed"),
        ("UPDATE events SET last_at_ms = last_at_ms + 1 WHERE run = 2", "were changed"),
        ("DELETE FROM events WHERE run = 2", "missing"),
        ("DELETE FROM runs WHERE id = 2", "of runs that are missing"),
        ("UPDATE runs SET last_seq = 99 WHERE id = 2", "should end with 99"),
        ("DELETE FROM entries WHERE position = 1", "should have"),
        (
            r#"UPDATE entries SET body = '[{"role":"tool","tool_call_id":"x","content":""}]' WHERE position = 1"#,
            "cannot be read",
        ),
    ];
    for (sql, what) in spoilt {
        let persistence = server.persistence();
        let runtime = open(&persistence);
        for input in ["one", "two", "three"] {
            invoke(&runtime, input, "s").unwrap();
        }
        assert_whole(&runtime);
        server.sql(schema(&persistence), sql);
        let verified = call(&runtime, "store.verify", json!({}));
        assert_eq!(verified["ok"], false, "{sql}");
        assert!(verified["problems"].to_string().contains(what), "{sql}: {verified}");
    }
}

#[test]
fn what_is_too_old_goes() {
    let Some(server) = support::postgres::shared() else { return };
    let persistence = server.persistence();
    let runtime = open(&persistence);
    for number in 0..20 {
        invoke(&runtime, &format!("{number}"), &format!("s{}", number % 4)).unwrap();
    }
    let size = |what: &str| call(&runtime, "store.info", json!({}))["size"][what].as_u64().unwrap();
    assert_eq!((size("runs"), size("sessions")), (20, 4));
    assert!(size("bytes") > 0 && size("event_blocks") >= 20);
    server.sql(
        schema(&persistence),
        "WITH old AS (UPDATE events SET last_at_ms = last_at_ms - 1000000 WHERE id IN (SELECT id FROM events ORDER BY id LIMIT 5) \
         RETURNING run) UPDATE runs SET started_at_ms = started_at_ms - 1000000 WHERE id IN (SELECT run FROM old)",
    );
    // Changed times break the chain; what is changed goes at once, and what stays is whole.
    let gone = call(&runtime, "store.prune", json!({"events_seconds": 500}));
    assert_eq!(gone["event_blocks"], 5);
    assert_whole(&runtime);
    let gone = call(&runtime, "store.prune", json!({"events_seconds": 0, "runs_seconds": 0, "sessions_seconds": 0}));
    assert_eq!((&gone["runs"], &gone["sessions"]), (&json!(20), &json!(4)), "{gone}");
    assert_eq!((size("runs"), size("sessions"), size("event_blocks")), (0, 0, 0));
    assert_whole(&runtime);
    let small =
        create(&server.persistence(), json!({"retention": {"max_bytes": 1_048_576, "interval_seconds": 1}})).unwrap();
    for number in 0..40 {
        invoke(&small, &format!("{number} {}", noise(60_000, number)), "s").unwrap();
    }
    eventually("the oldest events to go", || runtime_pruned(&small) > 0);
}

/// Text that does not compress to nothing.
fn noise(length: usize, seed: usize) -> String {
    let mut state = seed as u64 + 1;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'a' + ((state >> 33) % 26) as u8)
        })
        .collect()
}

fn runtime_pruned(runtime: &Runtime) -> u64 {
    runtime.info()["store"]["pruned"]["event_blocks"].as_u64().unwrap()
}

#[test]
fn a_batch_that_is_written_twice_is_there_once() {
    let Some(server) = support::postgres::shared() else { return };
    let persistence = server.persistence();
    let config = RuntimeConfig::from_json(&json!({"persistence": persistence}).to_string()).unwrap();
    let Persistence::Postgres(database) = &config.persistence else { panic!("{persistence}") };
    let process = Process { begin_thread: Arc::new(|| ()), trusted_tls: || panic!("no TLS is needed") };
    let backend = store::Postgres::open(database, "me", &process).unwrap();
    let letter = |run: &str| {
        let event = json!({"run_id": run, "seq": 1});
        let (subscription, reason) = ("s".to_owned(), "full".to_owned());
        Item::DeadLetter(Box::new(DeadLetter { id: 0, subscription, reason, attempts: 1, at_ms: 5, event }))
    };
    // As when the answer to the commit was lost.
    for _ in 0..2 {
        backend.write(&[letter("a"), letter("b")], true).unwrap();
    }
    assert_eq!(server.sql(schema(&persistence), "SELECT count(*) FROM dead_letters"), "2");
    backend.close().unwrap();
}

#[test]
fn a_backup_is_the_servers_matter() {
    let Some(server) = support::postgres::shared() else { return };
    let runtime = open(&server.persistence());
    let error = runtime.call("store.backup", r#"{"path": "copy.db"}"#, None).unwrap_err();
    assert_eq!((error.status(), error.code()), (Status::Unsupported, Some("backup_failed")));
    assert!(error.hint().unwrap().contains("pg_dump"));
}
