//! Crash safety: a process is killed at random moments, again and again, and what it had acknowledged is there.
//!
//! The child runs turns on a few sessions from several threads; they call tools of all three effects. It resumes what an
//! earlier child left unfinished, and prints what was acknowledged: ends of runs and, with the durability `sync`, the results
//! of tools that its stream showed. Every fifth time two children run at once. The parent kills them, and looks at what is left.
//! `PAR_TORTURE_KILLS` sets the number of kills.

mod support;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use par::runtime::Runtime;
use par::tools::{Invocation, Tool, ToolOutput};
use par::types::{Error, Status};
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use support::client::next;

const EFFECTS: [&str; 3] = ["pure", "idempotent", "once"];
/// Fewer than threads: several runs want each session.
const SESSIONS: u64 = 2;
const THREADS: u64 = 3;

/// Writes down that it ran: one line, which a kill cannot tear.
struct Witness {
    effect: &'static str,
    file: PathBuf,
}

impl Tool for Witness {
    fn call<'a>(&'a self, invocation: Invocation<'a>) -> BoxFuture<'a, ToolOutput> {
        async move {
            let line = format!("{} {}\n", self.effect, invocation.idempotency_key);
            OpenOptions::new().append(true).create(true).open(&self.file).unwrap().write_all(line.as_bytes()).unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(json!({"ran": invocation.idempotency_key}))
        }
        .boxed()
    }
}

fn open(folder: &Path, persistence: &Value) -> Runtime {
    let calls: Vec<Value> =
        EFFECTS.iter().map(|effect| json!({"id": effect, "name": effect, "input": {"n": 1}})).collect();
    let config = json!({
        "threads": 1,
        "persistence": persistence,
        "llm_providers": {"mock": {"type": "mock", "turns": [
            {"tool_calls": calls}, {"text": "once more", "tool_calls": [{"id": "again", "name": "once", "input": {"n": 2}}]},
            {"text": "all done"}]}}});
    let runtime = while_away(|| Runtime::create(&config.to_string()));
    for effect in EFFECTS {
        let tool = Arc::new(Witness { effect, file: folder.join("effects") });
        let definition = json!({"name": effect, "description": "A tool.", "effect": effect});
        runtime.register_native_tool(&definition.to_string(), tool).unwrap();
    }
    runtime.register_agent(&json!({"id": "a", "model": "mock/m", "tools": EFFECTS}).to_string()).unwrap();
    runtime
}

/// Whether the database's server is away.
fn is_away(error: &Error) -> bool {
    error.code() == Some("store_unavailable")
}

/// Does something again as long as the database's server is away.
fn while_away<T>(mut work: impl FnMut() -> Result<T, Error>) -> T {
    loop {
        match work() {
            Ok(done) => return done,
            Err(error) if is_away(&error) => std::thread::sleep(Duration::from_millis(10)),
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn call(runtime: &Runtime, method: &str, params: Value) -> Value {
    let answer = while_away(|| runtime.call(method, &params.to_string(), None));
    serde_json::from_str(&answer).unwrap()
}

/// Goes on with a run; a call that may have taken effect is not run again.
fn resume(runtime: &Runtime, run_id: &str) {
    let started = while_away(|| match runtime.call_start("runs.resume", &json!({"run_id": run_id}).to_string()) {
        // The other child was faster.
        Err(error) if matches!(error.code(), Some("run_lives" | "run_ended")) => Ok(None),
        started => started.map(Some),
    });
    let Some(stream) = started else { return };
    while let Some(event) = next(&stream) {
        if event["type"] == "approval_request" {
            let id = event["approval_id"].as_str().unwrap();
            let resolved = runtime.approval_resolve(id, r#"{"type": "reject", "reason": "it may have run"}"#);
            // A run that could not write its question fails: then nothing waits for the answer.
            if let Err(error) = resolved {
                assert!(is_away(&error) || error.status() == Status::NotFound, "{error:?}");
            }
        }
    }
    if let Err(error) = stream.answer().unwrap() {
        assert!(is_away(&error) || error.code() == Some("session_moved_on"), "{error:?}");
    }
}

#[test]
fn child() {
    let Some(folder) = std::env::var_os("PAR_TORTURE_FOLDER").map(PathBuf::from) else { return };
    let round: u64 = std::env::var("PAR_TORTURE_ROUND").unwrap().parse().unwrap();
    let persistence = std::env::var("PAR_TORTURE_PERSISTENCE").unwrap();
    let runtime = open(&folder, &serde_json::from_str(&persistence).unwrap());
    let out = std::io::stdout();
    let say = |line: String| {
        let mut out = out.lock();
        writeln!(out, "{line}").unwrap();
        out.flush().unwrap();
    };
    say("ready".into());
    for run in call(&runtime, "runs.list", json!({"status": "interrupted"}))["items"].as_array().unwrap() {
        resume(&runtime, run["run_id"].as_str().unwrap());
    }
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (runtime, say) = (&runtime, &say);
            scope.spawn(move || {
                // Until the process is killed.
                for number in 0.. {
                    take_turn(runtime, round, thread, number, say);
                }
            });
        }
    });
}

/// One turn, whose acknowledgement is printed.
fn take_turn(runtime: &Runtime, round: u64, thread: u64, number: u64, say: &(impl Fn(String) + Sync)) {
    let durability = ["sync", "async", "exit"][((thread + number) % 3) as usize];
    let (run_id, session) = (format!("{round}-{thread}-{number}"), format!("s{}", (thread + number) % SESSIONS));
    let request = json!({"agent": "a", "input": format!("say {run_id}"), "session": session, "run_id": run_id,
                         "durability": durability});
    let result = if number.is_multiple_of(2) {
        runtime.invoke(&request.to_string(), None)
    } else {
        let stream = while_away(|| runtime.stream(&request.to_string()));
        while let Some(event) = next(&stream) {
            if durability == "sync" && event["type"] == "tool_result" {
                say(format!("shown {run_id} {}", event["seq"]));
            }
        }
        stream.answer().unwrap()
    };
    match result {
        Ok(_) => {}
        // It was told that nothing is certain.
        Err(error) if is_away(&error) => return,
        Err(error) => panic!("{request}: {error:?}"),
    }
    if durability == "async" {
        // It promises nothing when it returns; whatever reads the store waits for what was said before.
        call(runtime, "runs.get", json!({"run_id": run_id}));
    }
    say(format!("done {run_id} {session}"));
}

/// What children have acknowledged.
#[derive(Default)]
struct Acknowledged {
    /// Runs that ended, by id, with their sessions.
    ended: BTreeMap<String, String>,
    /// Results of tools that were shown: the run and the number of the event.
    shown: BTreeSet<(String, u64)>,
}

impl Acknowledged {
    fn add(&mut self, other: Self) {
        self.ended.extend(other.ended);
        self.shown.extend(other.shown);
    }
}

/// Kills a child after a while, and answers what it had acknowledged.
fn kill_one(folder: &Path, persistence: &Value, round: u64, after: Duration) -> Acknowledged {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .env("PAR_TORTURE_FOLDER", folder)
        .env("PAR_TORTURE_PERSISTENCE", persistence.to_string())
        .env("PAR_TORTURE_ROUND", round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The time counts from where there is something to kill.
    let is_ready = lines.by_ref().any(|line| line.unwrap().contains("ready"));
    let killer = std::thread::spawn(move || {
        std::thread::sleep(after);
        let _ = child.kill();
        child.wait_with_output().unwrap()
    });
    let mut done = Acknowledged::default();
    for line in lines {
        let Ok(line) = line else { break };
        let words: Vec<_> = line.split(' ').collect();
        match words.as_slice() {
            ["done", run_id, session] => drop(done.ended.insert((*run_id).to_owned(), (*session).to_owned())),
            ["shown", run_id, seq] => drop(done.shown.insert(((*run_id).to_owned(), seq.parse().unwrap()))),
            _ => {}
        }
    }
    let output = killer.join().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(is_ready && output.status.code().is_none(), "round {round}: the child ended by itself: {said}");
    done
}

/// What was acknowledged is there, what is there is whole, and nothing that may run once ran twice.
fn look(folder: &Path, persistence: &Value, acknowledged: &Acknowledged) {
    let runtime = open(folder, persistence);
    assert_eq!(call(&runtime, "store.verify", json!({})), json!({"ok": true, "problems": []}));
    let mut said: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut stored = BTreeSet::new();
    let mut cursor = Value::Null;
    loop {
        let query = json!({"types": ["tool_result"], "limit": 1000, "cursor": cursor});
        let page = call(&runtime, "events.query", query);
        for event in page["items"].as_array().unwrap() {
            stored.insert((event["run_id"].as_str().unwrap().to_owned(), event["seq"].as_u64().unwrap()));
        }
        cursor = page["next_cursor"].clone();
        if cursor.is_null() {
            break;
        }
    }
    let lost: Vec<_> = acknowledged.shown.difference(&stored).collect();
    assert!(lost.is_empty(), "results of tools were shown and are not stored: {lost:?}");
    for number in 0..SESSIONS {
        let session = format!("s{number}");
        let Ok(found) = runtime.call("sessions.get", &json!({"session": session}).to_string(), None) else { continue };
        let found: Value = serde_json::from_str(&found).unwrap();
        let texts = found["messages"].as_array().unwrap().iter().filter(|message| message["role"] == "user");
        let texts: Vec<_> = texts.map(|message| message["parts"][0]["text"].as_str().unwrap().to_owned()).collect();
        let unique: BTreeSet<_> = texts.iter().cloned().collect();
        assert_eq!(unique.len(), texts.len(), "a turn is in {session} twice");
        said.insert(session, unique);
    }
    for (run_id, session) in &acknowledged.ended {
        assert!(said[session].contains(&format!("say {run_id}")), "{run_id} was acknowledged and is not in {session}");
        let run = call(&runtime, "runs.get", json!({"run_id": run_id}));
        assert_eq!((&run["status"], &run["result"]["text"]), (&json!("completed"), &json!("all done")), "{run}");
    }
    let effects = std::fs::read_to_string(folder.join("effects")).unwrap_or_default();
    let mut once = BTreeSet::new();
    for key in effects.lines().filter_map(|line| line.strip_prefix("once ")) {
        assert!(once.insert(key), "{key} ran twice");
    }
    runtime.close(None).unwrap();
}

#[test]
fn child_asks() {
    let Some(persistence) = std::env::var_os("PAR_TORTURE_ASKS") else { return };
    let run_id = std::env::var("PAR_TORTURE_ROUND").unwrap();
    let config = json!({"persistence": serde_json::from_str::<Value>(persistence.to_str().unwrap()).unwrap(),
        "llm_providers": {"mock": {"type": "mock", "turns": [{"tool_calls": [{"id": "c", "name": "t", "input": {}}]}]}}});
    let runtime = Runtime::create(&config.to_string()).unwrap();
    runtime.register_tool(r#"{"name": "t", "description": "d", "permission": "confirm"}"#).unwrap();
    runtime.register_agent(r#"{"id": "a", "model": "mock/m", "tools": ["t"]}"#).unwrap();
    let stream = runtime.stream(&json!({"agent": "a", "input": "go", "run_id": run_id}).to_string()).unwrap();
    while let Some(event) = next(&stream) {
        if event["type"] == "approval_request" {
            writeln!(std::io::stdout(), "asked {} {}", event["approval_id"].as_str().unwrap(), event["seq"]).unwrap();
            break;
        }
    }
    // Until it is killed.
    std::thread::sleep(Duration::from_secs(60));
}

/// Kills a process as soon as it has shown a question. The question waits in the next process, and its event is stored.
fn asks(persistence: &Value) {
    for round in 0..kills(10).min(30) {
        let run_id = format!("asks-{round}");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child_asks", "--exact", "--nocapture", "--test-threads=1"])
            .env("PAR_TORTURE_ASKS", persistence.to_string())
            .env("PAR_TORTURE_ROUND", &run_id)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let asked = lines.map_while(Result::ok).find_map(|line| line.split_once("asked ").map(|(_, id)| id.to_owned()));
        child.kill().unwrap();
        child.wait().unwrap();
        let asked = asked.expect("a question");
        let (id, seq) = asked.split_once(' ').unwrap();
        let config = json!({"persistence": persistence});
        let runtime = while_away(|| Runtime::create(&config.to_string()));
        let until = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            // In PostgreSQL its lease has to run out first.
            let waiting = call(&runtime, "approvals.list", json!({}));
            if waiting["items"].as_array().unwrap().iter().any(|question| question["approval_id"] == id) {
                break;
            }
            assert!(std::time::Instant::now() < until, "the question {id} is lost: {waiting}");
            std::thread::sleep(Duration::from_millis(20));
        }
        let stored = call(&runtime, "events.query", json!({"run_id": run_id, "types": ["approval_request"]}));
        assert_eq!(stored["items"][0]["seq"].to_string(), seq, "{stored}");
        call(&runtime, "runs.abandon", json!({"run_id": run_id}));
        runtime.close(None).unwrap();
    }
}

#[test]
fn a_question_that_was_shown_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    asks(&json!({"type": "sqlite", "path": folder.path().join("par.db")}));
    if let Some(server) = support::postgres::shared() {
        let mut persistence = server.persistence();
        persistence["lease_seconds"] = json!(0.5);
        asks(&persistence);
    }
}

/// Moments, always the same ones.
struct Moments(u64);

impl Moments {
    /// The next, of 150 milliseconds.
    fn next(&mut self) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_micros(self.0 % 150_000)
    }
}

fn kills(usual: u64) -> u64 {
    std::env::var("PAR_TORTURE_KILLS").map_or(usual, |kills| kills.parse().unwrap())
}

/// Kills again and again, and looks. `every_tenth` is done in the middle of every tenth child's life.
fn torture(persistence: &Value, kills: u64, every_tenth: impl Fn(Duration) + Sync) {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = Acknowledged::default();
    let mut moments = Moments(0x2545_f491_4f6c_dd1d);
    for round in 0..kills {
        let (after, at) = (moments.next(), moments.next());
        let done = match round % 10 {
            9 => std::thread::scope(|scope| {
                scope.spawn(|| every_tenth(at));
                // Long enough for the child to see more than the server's absence.
                kill_one(folder.path(), persistence, round, after + Duration::from_millis(500))
            }),
            4 => std::thread::scope(|scope| {
                let other = scope.spawn(|| kill_one(folder.path(), persistence, round + 1_000_000, at));
                let mut done = kill_one(folder.path(), persistence, round, after);
                done.add(other.join().unwrap());
                done
            }),
            _ => kill_one(folder.path(), persistence, round, after),
        };
        acknowledged.add(done);
        if round % 20 == 19 {
            look(folder.path(), persistence, &acknowledged);
        }
    }
    look(folder.path(), persistence, &acknowledged);
    let Acknowledged { ended, shown } = acknowledged;
    assert!(ended.len() as u64 > kills / 20, "only {} runs came to their end", ended.len());
    println!("{kills} kills, {} runs and {} results of tools acknowledged", ended.len(), shown.len());
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_runs_twice() {
    let folder = tempfile::tempdir().unwrap();
    let persistence = json!({"type": "sqlite", "path": folder.path().join("par.db")});
    torture(&persistence, kills(500), |_| ());
}

#[test]
fn nor_when_the_server_is_killed_too() {
    let Some(server) = support::postgres::Postgres::start(&[]) else { return };
    let mut persistence = server.persistence();
    persistence["lease_seconds"] = json!(0.1);
    torture(&persistence, kills(500), |at| {
        std::thread::sleep(at);
        server.kill();
        server.run();
    });
}
