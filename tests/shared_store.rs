//! Eight processes append to one database: nothing is refused, missing or doubled.

mod support;

use par::runtime::Runtime;
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use std::process::{Child, Command, Stdio};

const PROCESSES: usize = 8;
const RUNS: usize = 1_000;

fn open(persistence: &Value) -> Runtime {
    let runtime = Runtime::create(&json!({"threads": 1, "persistence": persistence}).to_string()).unwrap();
    runtime.register_agent(r#"{"id": "a", "model": "mock/m"}"#).unwrap();
    runtime
}

fn call(runtime: &Runtime, method: &str, params: Value) -> Value {
    let answer = runtime.call(method, &params.to_string(), None);
    serde_json::from_str(&answer.unwrap_or_else(|error| panic!("{method} {params}: {error:?}"))).unwrap()
}

#[test]
fn one_of_many_processes() {
    let Ok(persistence) = std::env::var("PAR_TEST_SHARED") else { return };
    let own = std::env::var("PAR_TEST_NUMBER").unwrap();
    let runtime = open(&serde_json::from_str(&persistence).unwrap());
    for number in 0..RUNS {
        let session = if number % 20 == 0 { "shared" } else { &own };
        let request = json!({"agent": "a", "input": format!("{own}-{number}"), "session": session});
        runtime.invoke(&request.to_string(), None).unwrap();
    }
    let report = runtime.close(None).unwrap();
    assert_eq!(report.exit_code, 0, "{report:?}");
}

fn eight_processes_append(persistence: &Value) {
    let start = |number: usize| -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["one_of_many_processes", "--exact", "--nocapture"])
            .env("PAR_TEST_SHARED", persistence.to_string())
            .env("PAR_TEST_NUMBER", format!("p{number}"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let children: Vec<Child> = (0..PROCESSES).map(start).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let runtime = open(persistence);
    assert_eq!(call(&runtime, "store.verify", json!({})), json!({"ok": true, "problems": []}));
    let messages = |session: &str| -> Vec<String> {
        let session = call(&runtime, "sessions.get", json!({"session": session}));
        let text = |message: &Value| message["parts"][0]["text"].as_str().unwrap().to_owned();
        session["messages"].as_array().unwrap().iter().filter(|message| message["role"] == "user").map(text).collect()
    };
    for number in 0..PROCESSES {
        let expected: Vec<_> = (0..RUNS).filter(|at| at % 20 != 0).map(|at| format!("p{number}-{at}")).collect();
        assert_eq!(messages(&format!("p{number}")), expected);
    }
    let mut shared = messages("shared");
    shared.sort();
    let mut expected: Vec<_> =
        (0..PROCESSES).flat_map(|number| (0..RUNS).step_by(20).map(move |at| format!("p{number}-{at}"))).collect();
    expected.sort();
    assert_eq!(shared, expected);
    assert_eq!(call(&runtime, "store.info", json!({}))["size"]["runs"], PROCESSES * RUNS);
}

#[test]
fn to_one_sqlite_file() {
    let folder = tempfile::tempdir().unwrap();
    eight_processes_append(&json!({"type": "sqlite", "path": folder.path().join("par.db")}));
}

#[test]
fn to_one_postgres_database() {
    // The test's own: the other test's load must not make its runtimes look dead.
    if let Some(server) = support::postgres::shared() {
        eight_processes_append(&server.persistence());
    }
}
