//! Subscriptions to events: what is delivered to whom, how often that is tried, and what becomes of what nobody takes.

mod support;

use par::events::Waited;
use par::runtime::{Callback, CallbackSlot, Runtime};
use par::types::{Error, Status};
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::client::next;
use tempfile::TempDir;

/// How long a test waits for what must come.
const LONG: Duration = Duration::from_secs(60);

fn open_with(persistence: Value, extra: Value) -> Runtime {
    let mut config = json!({"persistence": persistence, "llm_providers": {"mock": {"type": "mock"}}});
    for (key, value) in extra.as_object().unwrap() {
        config[key] = value.clone();
    }
    let runtime = Runtime::create(&config.to_string()).unwrap();
    for agent in ["a", "b"] {
        runtime.register_agent(&json!({"id": agent, "model": "mock/m"}).to_string()).unwrap();
    }
    runtime
}

fn open(extra: Value) -> Runtime {
    open_with(json!("sqlite::memory:"), extra)
}

fn file(folder: &Path) -> Value {
    json!({"type": "sqlite", "path": folder.join("par.db")})
}

fn try_call(runtime: &Runtime, method: &str, params: Value) -> Result<Value, Error> {
    runtime.call(method, &params.to_string(), None).map(|json| serde_json::from_str(&json).unwrap())
}

fn call(runtime: &Runtime, method: &str, params: Value) -> Value {
    try_call(runtime, method, params.clone()).unwrap_or_else(|error| panic!("{method} {params}: {error:?}"))
}

fn invoke(runtime: &Runtime, request: Value) {
    runtime.invoke(&request.to_string(), None).unwrap();
}

/// The next message of the inbox.
fn message(runtime: &Runtime) -> Value {
    let parse = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap();
    match runtime.inbox().wait(Some(LONG), parse).unwrap() {
        Waited::Event(message) => message,
        other => panic!("no message came: {other:?}"),
    }
}

/// What the inbox has now.
fn messages(runtime: &Runtime) -> Vec<Value> {
    let parse = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap();
    let mut found = Vec::new();
    while let Waited::Event(message) = runtime.inbox().wait(Some(Duration::ZERO), parse).unwrap() {
        found.push(message);
    }
    found
}

/// Waits until it is so.
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + LONG;
    loop {
        match look() {
            Some(found) => return found,
            None if Instant::now() < until => std::thread::sleep(Duration::from_millis(2)),
            None => panic!("it never came to this: {what}"),
        }
    }
}

fn subscription(runtime: &Runtime, name: &str) -> Option<Value> {
    let listed = call(runtime, "events.subscriptions", json!({}));
    listed["items"].as_array().unwrap().iter().find(|item| item["name"] == name).cloned()
}

fn count(runtime: &Runtime, name: &str, key: &str) -> u64 {
    subscription(runtime, name).unwrap()["counts"][key].as_u64().unwrap()
}

/// Waits until nothing waits to be delivered.
fn settle(runtime: &Runtime, name: &str) {
    eventually("nothing waits", || (count(runtime, name, "waiting") == 0).then_some(()));
}

fn dead_letters(runtime: &Runtime) -> Vec<Value> {
    call(runtime, "events.dead_letters", json!({"limit": 1000}))["items"].as_array().unwrap().clone()
}

fn some_dead_letters(runtime: &Runtime, least: usize) -> Vec<Value> {
    eventually("dead letters", || Some(dead_letters(runtime)).filter(|letters| letters.len() >= least))
}

fn letter_counts(runtime: &Runtime) -> Value {
    runtime.info()["event_bus"]["dead_letters"].clone()
}

fn close(runtime: Runtime) {
    let report = runtime.close(Some(LONG)).expect("it closes in time");
    assert_eq!(report.exit_code, 0, "{report:?}");
}

/// The quickest there is.
fn quick() -> Value {
    json!({"initial_retry_delay": 0.001, "max_retry_delay": 0.002})
}

#[test]
fn each_subscription_gets_what_its_filter_wants() {
    let runtime = open(json!({}));
    for (name, filter) in [
        ("all", json!({})),
        ("ends", json!({"types": ["completed", "failed"]})),
        ("run", json!({"run_id": "r2"})),
        ("session", json!({"session": "s"})),
        ("agent", json!({"agent": "b", "types": ["run_started"]})),
        ("tenant", json!({"scope": "t", "types": ["run_started"]})),
    ] {
        let mut params = filter;
        params["name"] = name.into();
        assert_eq!(call(&runtime, "events.subscribe", params), json!({"name": name}));
    }
    invoke(&runtime, json!({"agent": "a", "input": "one", "run_id": "r1", "session": "s"}));
    invoke(&runtime, json!({"agent": "b", "input": "two", "run_id": "r2"}));
    invoke(&runtime, json!({"agent": "b", "input": "three", "run_id": "r3", "scope": "t", "session": "s"}));
    for name in ["all", "ends", "run", "session", "agent", "tenant"] {
        settle(&runtime, name);
    }
    let messages = messages(&runtime);
    let of = |name: &str| -> Vec<&Value> {
        messages.iter().filter(|message| message["subscription"] == name).map(|message| &message["event"]).collect()
    };
    let runs = |name: &str| -> BTreeSet<&str> {
        of(name).into_iter().map(|event| event["run_id"].as_str().unwrap()).collect()
    };
    let types =
        |name: &str| -> Vec<&str> { of(name).into_iter().map(|event| event["type"].as_str().unwrap()).collect() };
    assert_eq!(runs("all"), BTreeSet::from(["r1", "r2"]), "another scope's are not seen");
    assert_eq!(runs("run"), BTreeSet::from(["r2"]));
    assert_eq!(runs("session"), BTreeSet::from(["r1"]));
    assert_eq!((types("ends"), runs("ends").len()), (vec!["completed"; 2], 2));
    assert_eq!((types("agent"), runs("agent")), (vec!["run_started"], BTreeSet::from(["r2"])));
    assert_eq!((types("tenant"), runs("tenant")), (vec!["run_started"], BTreeSet::from(["r3"])));
    // As in a stream: gapless, in order.
    let numbers: Vec<u64> = of("run").into_iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    let whole = messages.iter().find(|message| message["subscription"] == "agent").unwrap();
    let keys: Vec<&str> = whole.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["type", "subscription", "attempt", "event"]);
    assert_eq!(count(&runtime, "ends", "delivered"), 2);
    close(runtime);
}

#[test]
fn runs_below_another_one_are_its_own_and_those_of_a_dispatch_their_own() {
    let runtime = open(json!({"llm_providers": {"mock": {"type": "mock", "turns": [
        {"tool_calls": [{"id": "c", "name": "helper", "input": {"task": "go"}}]}, {"text": "done"}]},
        "plain": {"type": "mock"}}}));
    runtime.register_agent(r#"{"id": "below", "model": "plain/m"}"#).unwrap();
    let above = json!({"id": "above", "model": "mock/m",
                       "sub_agents": [{"agent": "below", "name": "helper", "description": "Helps."}]});
    runtime.register_agent(&above.to_string()).unwrap();
    call(&runtime, "events.subscribe", json!({"name": "s", "run_id": "r", "types": ["text_delta"]}));
    call(&runtime, "events.subscribe", json!({"name": "p", "agent": "below", "types": ["subrun_finished"]}));
    invoke(&runtime, json!({"agent": "above", "input": "go", "run_id": "r"}));
    settle(&runtime, "s");
    let below: Vec<Value> = messages(&runtime).into_iter().filter(|message| message["subscription"] == "s").collect();
    let whose: BTreeSet<_> = below.iter().map(|message| message["event"]["parent_run_id"].as_str()).collect();
    assert_eq!(whose, BTreeSet::from([None, Some("r")]), "the agent's, and the sub-agent's");
    let requests = json!([{"agent": "below", "input": "1"}, {"agent": "below", "input": "2"}]);
    call(&runtime, "invoke_parallel", json!({"specs": requests}));
    settle(&runtime, "p");
    let ends: Vec<Value> = messages(&runtime).into_iter().filter(|message| message["subscription"] == "p").collect();
    assert_eq!(ends.len(), 2, "{ends:?}");
    close(runtime);
}

#[test]
fn a_delivery_is_acknowledged_refused_or_tried_again() {
    let runtime = open(json!({"event_bus": quick()}));
    let params = json!({"name": "s", "types": ["completed"], "ack": true, "max_attempts": 3});
    call(&runtime, "events.subscribe", params);
    invoke(&runtime, json!({"agent": "a", "input": "one", "run_id": "r1"}));
    let first = message(&runtime);
    assert_eq!((&first["attempt"], &first["event"]["run_id"]), (&1.into(), &"r1".into()));
    assert_eq!(count(&runtime, "s", "unacknowledged"), 1);
    let delivery = json!({"delivery": first["delivery"]});
    assert_eq!(call(&runtime, "events.ack", delivery.clone()), json!({"acknowledged": true}));
    let error = try_call(&runtime, "events.ack", delivery).unwrap_err();
    assert_eq!((error.status(), error.path()), (Status::StaleToken, Some("params.delivery")));

    invoke(&runtime, json!({"agent": "a", "input": "two", "run_id": "r2"}));
    let mut number = Value::Null;
    for attempt in 1..=3 {
        let again = message(&runtime);
        assert_eq!((&again["attempt"], &again["event"]["run_id"]), (&attempt.into(), &"r2".into()));
        assert!(attempt == 1 || again["delivery"] == number, "a delivery keeps its number: {again}");
        number = again["delivery"].clone();
        call(&runtime, "events.nack", json!({"delivery": number, "reason": format!("no {attempt}")}));
    }
    let letters = some_dead_letters(&runtime, 1);
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!((&letter["subscription"], &letter["reason"]), (&"s".into(), &"no 3".into()));
    assert_eq!((&letter["attempts"], &letter["event"]["run_id"]), (&3.into(), &"r2".into()));
    let counts = subscription(&runtime, "s").unwrap()["counts"].clone();
    let want = json!({"delivered": 2, "acknowledged": 1, "retried": 2, "dead_letters": 1, "waiting": 0,
                      "unacknowledged": 0});
    assert_eq!(counts, want);
    assert_eq!(letter_counts(&runtime), json!({"kept": 1, "not_kept": 0, "trimmed": 0}));

    // It goes through its subscription once more, and is forgotten when that was acknowledged.
    let ids = json!({"ids": [letter["id"]]});
    let replayed = call(&runtime, "events.replay", ids.clone());
    assert_eq!(replayed, json!({"replayed": 1, "left": 0, "errors": []}));
    let again = call(&runtime, "events.replay", ids);
    assert_eq!((&again["replayed"], &again["errors"][0]["error"]["name"]), (&0.into(), &"PAR_ERR_BUSY".into()));
    let again = message(&runtime);
    assert_eq!((&again["attempt"], &again["event"]), (&1.into(), &letter["event"]));
    assert_eq!(dead_letters(&runtime).len(), 1);
    call(&runtime, "events.ack", json!({"delivery": again["delivery"]}));
    eventually("the letter is forgotten", || dead_letters(&runtime).is_empty().then_some(()));
    close(runtime);
}

#[test]
fn a_replay_that_fails_again_is_a_new_dead_letter_in_the_place_of_the_old_one() {
    let runtime = open(json!({"event_bus": quick()}));
    call(&runtime, "events.subscribe", json!({"name": "s", "types": ["completed"], "ack": true, "max_attempts": 1}));
    invoke(&runtime, json!({"agent": "a", "input": "one"}));
    call(&runtime, "events.nack", json!({"delivery": message(&runtime)["delivery"], "reason": "first"}));
    let old = some_dead_letters(&runtime, 1).remove(0);
    call(&runtime, "events.replay", json!({"ids": [old["id"]]}));
    call(&runtime, "events.nack", json!({"delivery": message(&runtime)["delivery"], "reason": "second"}));
    let new = eventually("a new letter", || {
        Some(dead_letters(&runtime)).filter(|letters| letters.len() == 1 && letters[0]["id"] != old["id"])
    });
    assert_eq!((&new[0]["reason"], &new[0]["event"]), (&"second".into(), &old["event"]));
    // Without its subscription it stays, and the answer says why.
    call(&runtime, "events.unsubscribe", json!({"name": "s"}));
    let answer = call(&runtime, "events.replay", json!({"ids": [new[0]["id"]]}));
    assert_eq!((&answer["replayed"], &answer["left"]), (&0.into(), &1.into()));
    let error = &answer["errors"][0];
    assert_eq!((&error["id"], &error["error"]["name"]), (&new[0]["id"], &"PAR_ERR_NOT_FOUND".into()));
    assert_eq!(dead_letters(&runtime), new);
    close(runtime);
}

#[test]
fn who_does_not_answer_in_time_is_asked_again_after_a_delay() {
    let bus = json!({"delivery_timeout": 0.05, "initial_retry_delay": 0.2, "max_retry_delay": 0.3,
                     "max_delivery_attempts": 3});
    let runtime = open(json!({"event_bus": bus}));
    call(&runtime, "events.subscribe", json!({"name": "s", "types": ["completed"], "ack": true}));
    let began = Instant::now();
    invoke(&runtime, json!({"agent": "a", "input": "one"}));
    let mut times = Vec::new();
    for attempt in 1..=3 {
        assert_eq!(message(&runtime)["attempt"], attempt);
        times.push(began.elapsed());
    }
    let letter = some_dead_letters(&runtime, 1).remove(0);
    assert_eq!(letter["attempts"], 3);
    assert_eq!(letter["reason"], "it was not acknowledged within 0.05 seconds");
    // At least the time to answer and the delay: 0.2 s, then 0.3 s, since twice 0.2 s is more than the most.
    assert!(times[1] - times[0] >= Duration::from_millis(240), "{times:?}");
    assert!(times[2] - times[1] >= Duration::from_millis(340), "{times:?}");
    close(runtime);
}

#[test]
fn a_full_inbox_is_waited_for() {
    let bus = json!({"initial_retry_delay": 3600, "max_retry_delay": 3600});
    let runtime = open(json!({"limits": {"inbox_queue_events": 2}, "event_bus": bus}));
    call(&runtime, "events.subscribe", json!({"name": "s"}));
    for input in ["one", "two", "three"] {
        invoke(&runtime, json!({"agent": "a", "input": input}));
    }
    let total = count(&runtime, "s", "waiting") + count(&runtime, "s", "delivered");
    eventually("the inbox is full", || (count(&runtime, "s", "delivered") == 2).then_some(()));
    assert_eq!(count(&runtime, "s", "waiting"), total - 2);
    // As soon as there is room, not when an hour is over; in order.
    let mut last = (String::new(), 0);
    for _ in 0..total {
        let event = message(&runtime)["event"].clone();
        let (run, seq) = (event["run_id"].as_str().unwrap().to_owned(), event["seq"].as_u64().unwrap());
        assert_eq!(seq, if run == last.0 { last.1 + 1 } else { 1 });
        last = (run, seq);
    }
    assert!(dead_letters(&runtime).is_empty());
    assert!(count(&runtime, "s", "retried") > 0);
    close(runtime);
}

#[test]
fn those_who_share_a_small_inbox_all_get_their_part_of_it() {
    let bus = json!({"initial_retry_delay": 3600, "max_retry_delay": 3600});
    let runtime = open(json!({"limits": {"inbox_queue_events": 1}, "event_bus": bus}));
    for name in ["x", "y", "z"] {
        call(&runtime, "events.subscribe", json!({"name": name, "types": ["run_started", "completed"]}));
    }
    for _ in 0..10 {
        invoke(&runtime, json!({"agent": "a", "input": "x"}));
    }
    for _ in 0..60 {
        message(&runtime);
    }
    for name in ["x", "y", "z"] {
        assert_eq!(count(&runtime, name, "delivered"), 20);
    }
    close(runtime);
}

#[test]
fn a_full_inbox_that_nobody_reads_makes_dead_letters() {
    let mut bus = quick();
    bus["max_delivery_attempts"] = 2.into();
    let runtime = open(json!({"limits": {"inbox_queue_events": 1}, "event_bus": bus}));
    call(&runtime, "events.subscribe", json!({"name": "waits", "types": ["completed"]}));
    let at_once = json!({"name": "at_once", "types": ["completed"], "overflow": "dead_letter", "agent": "b"});
    for _ in 0..3 {
        invoke(&runtime, json!({"agent": "a", "input": "x"}));
    }
    let letters = some_dead_letters(&runtime, 2);
    let told: Vec<_> = letters.iter().map(|letter| (&letter["subscription"], letter["attempts"].as_u64())).collect();
    assert_eq!(told, [(&"waits".into(), Some(2)), (&"waits".into(), Some(2))]);
    assert_eq!(letters[0]["reason"], "its reader was too slow: the queue was full");
    call(&runtime, "events.unsubscribe", json!({"name": "waits"}));
    call(&runtime, "events.subscribe", at_once);
    invoke(&runtime, json!({"agent": "b", "input": "x"}));
    let letter = some_dead_letters(&runtime, 3).pop().unwrap();
    assert_eq!((&letter["subscription"], &letter["attempts"]), (&"at_once".into(), &1.into()));
    assert_eq!(messages(&runtime).len(), 1);
    close(runtime);
}

#[test]
fn a_full_buffer_makes_dead_letters_at_once() {
    let bus = json!({"buffer_capacity": 2, "initial_retry_delay": 3600, "max_retry_delay": 3600});
    let runtime = open(json!({"event_bus": bus}));
    call(&runtime, "events.subscribe", json!({"name": "s", "types": ["completed"], "ack": true}));
    for _ in 0..5 {
        invoke(&runtime, json!({"agent": "a", "input": "x"}));
    }
    let letters = some_dead_letters(&runtime, 3);
    assert_eq!((letters.len(), &letters[0]["attempts"]), (3, &0.into()));
    assert!(letters[0]["reason"].as_str().unwrap().contains("event_bus.buffer_capacity"));
    // What is acknowledged makes room.
    let delivery = message(&runtime)["delivery"].clone();
    call(&runtime, "events.ack", json!({"delivery": delivery}));
    invoke(&runtime, json!({"agent": "a", "input": "x"}));
    eventually("it was delivered", || (count(&runtime, "s", "delivered") == 3).then_some(()));
    close(runtime);
}

#[test]
fn a_few_large_events_fill_the_buffer_like_many_small_ones() {
    let bus = json!({"buffer_bytes": 100_000});
    let turns = json!([{"text": "word ".repeat(12_000)}]);
    let runtime = open(json!({"event_bus": bus, "llm_providers": {"mock": {"type": "mock", "turns": turns}}}));
    call(&runtime, "events.subscribe", json!({"name": "s", "types": ["completed"], "ack": true}));
    for _ in 0..4 {
        invoke(&runtime, json!({"agent": "a", "input": "x"}));
    }
    let letters = some_dead_letters(&runtime, 3);
    assert!(letters[0]["reason"].as_str().unwrap().contains("event_bus.buffer_bytes"));
    assert_eq!(count(&runtime, "s", "delivered"), 1);
    close(runtime);
}

#[test]
fn runs_wait_for_a_subscription_that_blocks_and_close_does_not() {
    let text = "word ".repeat(200);
    let extra = json!({"limits": {"inbox_queue_events": 1}, "event_bus": {"buffer_capacity": 4},
                       "shutdown": {"drain_timeout": 0},
                       "llm_providers": {"mock": {"type": "mock", "turns": [{"text": text}]}}});
    let runtime = Arc::new(open(extra));
    call(&runtime, "events.subscribe", json!({"name": "s", "overflow": "block"}));
    let ended = Arc::new(AtomicBool::new(false));
    let run = |input: &'static str| {
        let (runtime, ended) = (Arc::clone(&runtime), Arc::clone(&ended));
        std::thread::spawn(move || {
            let answer = runtime.invoke(&json!({"agent": "a", "input": input}).to_string(), None);
            ended.store(true, Ordering::SeqCst);
            answer
        })
    };
    let first = run("first");
    eventually("the buffer is full", || (count(&runtime, "s", "waiting") >= 4).then_some(()));
    let mut seen = 0;
    while !ended.load(Ordering::SeqCst) {
        seen += messages(&runtime).len();
        assert!(count(&runtime, "s", "waiting") <= 8);
    }
    first.join().unwrap().unwrap();
    assert!(seen > 150, "it waited for its reader: {seen}");
    settle_and_drain(&runtime);
    assert!(dead_letters(&runtime).is_empty());
    // A host that reads no more holds up its runs, but not the end of the runtime.
    ended.store(false, Ordering::SeqCst);
    let second = run("second");
    eventually("the buffer is full", || (count(&runtime, "s", "waiting") >= 4).then_some(()));
    assert!(!ended.load(Ordering::SeqCst));
    assert!(runtime.close(Some(LONG)).is_some());
    assert_eq!(second.join().unwrap().unwrap_err().code(), Some("suspended"));
}

fn settle_and_drain(runtime: &Runtime) {
    eventually("all is delivered", || {
        messages(runtime);
        (count(runtime, "s", "waiting") == 0).then_some(())
    });
    messages(runtime);
}

#[test]
fn dead_letters_are_bounded_and_the_oldest_go() {
    let bus = json!({"max_dead_letters": 3, "max_delivery_attempts": 1});
    let runtime = open(json!({"limits": {"inbox_queue_events": 1}, "event_bus": bus}));
    call(&runtime, "events.subscribe", json!({"name": "s", "types": ["completed"]}));
    for number in 0..8 {
        invoke(&runtime, json!({"agent": "a", "input": "x", "run_id": format!("r{number}")}));
    }
    eventually("all are counted", || (letter_counts(&runtime)["trimmed"] == 4).then_some(()));
    assert_eq!(letter_counts(&runtime), json!({"kept": 7, "not_kept": 0, "trimmed": 4}));
    let runs: Vec<Value> = dead_letters(&runtime).iter().map(|letter| letter["event"]["run_id"].clone()).collect();
    assert_eq!(runs, ["r5", "r6", "r7"]);
    close(runtime);
}

#[test]
fn the_bound_also_holds_for_what_the_inbox_itself_loses() {
    let extra = json!({"limits": {"inbox_queue_events": 1}, "inbox": {"events": true},
                       "event_bus": {"max_dead_letters": 2}});
    let runtime = open(extra);
    for _ in 0..3 {
        invoke(&runtime, json!({"agent": "a", "input": "x"}));
    }
    let counts = eventually("the oldest go", || {
        let counts = letter_counts(&runtime);
        (counts["trimmed"].as_u64().unwrap() + 2 == counts["kept"].as_u64().unwrap()).then_some(counts)
    });
    assert!(counts["kept"].as_u64().unwrap() > 8, "{counts}");
    assert_eq!(dead_letters(&runtime).len(), 2);
    close(runtime);
}

#[test]
fn without_a_database_dead_letters_are_counted() {
    let runtime = open_with(json!("noop"), json!({"limits": {"inbox_queue_events": 1}}));
    call(&runtime, "events.subscribe", json!({"name": "s", "types": ["completed"], "overflow": "dead_letter"}));
    for _ in 0..3 {
        invoke(&runtime, json!({"agent": "a", "input": "x"}));
    }
    eventually("they are counted", || (letter_counts(&runtime)["not_kept"] == 2).then_some(()));
    assert_eq!(letter_counts(&runtime), json!({"kept": 0, "not_kept": 2, "trimmed": 0}));
    let error = try_call(&runtime, "events.subscribe", json!({"reach": "store"})).unwrap_err();
    assert_eq!((error.status(), error.code()), (Status::Unsupported, Some("not_persistent")));
    close(runtime);
}

#[test]
fn the_inbox_drops_nothing_of_a_subscription_for_other_events() {
    let runtime = open(json!({"limits": {"inbox_queue_events": 2}, "inbox": {"events": true}}));
    call(&runtime, "events.subscribe", json!({"name": "s", "types": ["run_started"]}));
    invoke(&runtime, json!({"agent": "a", "input": "x", "run_id": "r1"}));
    invoke(&runtime, json!({"agent": "a", "input": "x", "run_id": "r2"}));
    // Whatever came and went in it, both are delivered.
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let message = message(&runtime);
        if message["subscription"] == "s" {
            seen.push(message["event"]["run_id"].clone());
        }
    }
    assert_eq!(seen, ["r1", "r2"]);
    close(runtime);
}

#[test]
fn a_callback_gets_what_it_subscribed_to() {
    let runtime = open(json!({"event_bus": quick()}));
    let error = try_call(&runtime, "events.subscribe", json!({"deliver": "callback"})).unwrap_err();
    assert_eq!((error.status(), error.path()), (Status::NoHandler, Some("params.deliver")));
    let (told, heard) = std::sync::mpsc::channel();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let callback = Callback::new(
        move |_, json| {
            let message: Value = serde_json::from_slice(json).unwrap();
            if message["subscription"] == "s" {
                let _ = told.send(message);
                let _ = wait.lock().unwrap().recv();
            }
        },
        || {},
    );
    assert!(runtime.set_callback(CallbackSlot::Event, par::config::LogLevel::Off, Some(callback)).is_ok());
    let params = json!({"name": "s", "deliver": "callback", "types": ["completed"]});
    call(&runtime, "events.subscribe", params);
    for run in ["r1", "r2"] {
        invoke(&runtime, json!({"agent": "a", "input": "x", "run_id": run}));
    }
    assert_eq!(heard.recv_timeout(LONG).unwrap()["event"]["run_id"], "r1");
    settle(&runtime, "s");
    // The second one waits in its queue when it is unregistered: it is not lost.
    drop(heard);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert!(runtime.set_callback(CallbackSlot::Event, par::config::LogLevel::Off, None).is_ok());
        });
        // Unregistering waits for the one that runs.
        std::thread::sleep(Duration::from_millis(50));
        go.send(()).unwrap();
        drop(go);
    });
    let letters = some_dead_letters(&runtime, 1);
    let letter = letters.iter().find(|letter| letter["subscription"] == "s").unwrap();
    assert_eq!(
        (&letter["event"]["run_id"], &letter["reason"]),
        (&"r2".into(), &"the callback was unregistered".into())
    );
    close(runtime);
}

#[test]
fn what_is_outstanding_when_a_subscription_ends_becomes_dead_letters() {
    let folder = TempDir::new().unwrap();
    let runtime = open_with(file(folder.path()), json!({}));
    for name in ["ended", "closed"] {
        call(&runtime, "events.subscribe", json!({"name": name, "types": ["completed"], "ack": true}));
    }
    invoke(&runtime, json!({"agent": "a", "input": "x"}));
    for name in ["ended", "closed"] {
        eventually("it was delivered", || (count(&runtime, name, "unacknowledged") == 1).then_some(()));
    }
    let answer = call(&runtime, "events.unsubscribe", json!({"name": "ended"}));
    assert_eq!(answer, json!({"unsubscribed": true, "dead_letters": 1}));
    let error = try_call(&runtime, "events.unsubscribe", json!({"name": "ended"})).unwrap_err();
    assert_eq!(error.status(), Status::NotFound);
    close(runtime);
    let runtime = open_with(file(folder.path()), json!({}));
    let letters = dead_letters(&runtime);
    let told: Vec<_> =
        letters.iter().map(|letter| (letter["subscription"].as_str(), letter["reason"].as_str())).collect();
    assert_eq!(
        told,
        [
            (Some("ended"), Some("the subscription ended: it was unsubscribed")),
            (Some("closed"), Some("the subscription ended: the runtime was closed"))
        ]
    );
    close(runtime);
}

#[test]
fn the_last_events_of_runs_that_closing_ends_are_delivered() {
    for (on_unfinished, last) in [("cancel", "cancelled"), ("interrupt", "suspended")] {
        let folder = TempDir::new().unwrap();
        let turns = json!([{"text": "never", "delay_ms": 600_000}]);
        let extra = json!({"shutdown": {"drain_timeout": 0, "on_unfinished": on_unfinished},
                           "llm_providers": {"mock": {"type": "mock", "turns": turns}}});
        let runtime = open_with(file(folder.path()), extra);
        call(&runtime, "events.subscribe", json!({"name": "s", "types": [last], "ack": true}));
        let stream = runtime.stream(r#"{"agent": "a", "input": "x", "run_id": "r"}"#).unwrap();
        while next(&stream).unwrap()["type"] != "turn_started" {}
        close(runtime);
        let runtime = open_with(file(folder.path()), json!({}));
        let letters = dead_letters(&runtime);
        assert_eq!((letters.len(), &letters[0]["event"]["type"]), (1, &last.into()));
        close(runtime);
    }
}

#[test]
fn a_subscription_is_a_stream_when_it_is_started_as_one() {
    let runtime = open(json!({"limits": {"stream_queue_events": 4}}));
    let error = runtime.call_start("events.subscribe", r#"{"deliver": "inbox"}"#).err().unwrap();
    assert_eq!((error.status(), error.path()), (Status::Schema, Some("params.deliver")));
    let params = json!({"name": "s", "types": ["run_started", "completed"], "ack": true});
    let stream = runtime.call_start("events.subscribe", &params.to_string()).unwrap();
    let error = runtime.call_start("events.subscribe", &params.to_string()).err().unwrap();
    assert_eq!((error.status(), error.path()), (Status::Exists, Some("params.name")));
    assert_eq!(subscription(&runtime, "s").unwrap()["deliver"], "stream");
    assert!(stream.queue().fd().unwrap() >= 0);
    for run in ["r1", "r2", "r3"] {
        invoke(&runtime, json!({"agent": "a", "input": "x", "run_id": run}));
    }
    eventually("the stream is full", || (count(&runtime, "s", "unacknowledged") == 4).then_some(()));
    assert_eq!(count(&runtime, "s", "waiting"), 2);
    for number in 0..6 {
        let message = next(&stream).unwrap();
        assert_eq!(message["event"]["run_id"], ["r1", "r2", "r3"][number / 2]);
        call(&runtime, "events.ack", json!({"delivery": message["delivery"]}));
    }
    stream.cancel("enough");
    let end = next(&stream).unwrap();
    assert_eq!((&end["type"], end["reason"].as_str()), (&"cancelled".into(), Some("enough")));
    assert!(next(&stream).is_none());
    assert_eq!(stream.answer().unwrap().unwrap_err().status(), Status::Cancelled);
    assert!(subscription(&runtime, "s").is_none(), "its name is free when the stream has ended");

    // Ended by its name, or with the runtime, it has its one terminal event, too.
    for by_name in [true, false] {
        let stream = runtime.call_start("events.subscribe", &params.to_string()).unwrap();
        if by_name {
            call(&runtime, "events.unsubscribe", json!({"name": "s"}));
        } else {
            runtime.begin_close();
        }
        assert_eq!(next(&stream).unwrap()["type"], "cancelled");
        assert!(next(&stream).is_none());
    }
    close(runtime);
}

#[test]
fn a_stream_that_is_freed_is_no_subscription_any_more() {
    let runtime = open(json!({}));
    let stream = runtime.call_start("events.subscribe", r#"{"name": "s"}"#).unwrap();
    drop(stream);
    eventually("it is gone", || subscription(&runtime, "s").is_none().then_some(()));
    invoke(&runtime, json!({"agent": "a", "input": "x"}));
    assert!(dead_letters(&runtime).is_empty());
    close(runtime);
}

// ---- stored events

/// Reads messages until this run has ended; the types of its events, and the last cursor.
fn until_end(runtime: &Runtime, run: &str) -> (Vec<String>, String) {
    let mut types = Vec::new();
    loop {
        let message = message(runtime);
        let event = &message["event"];
        if event["run_id"] != run {
            continue;
        }
        types.push(event["type"].as_str().unwrap().to_owned());
        if event["type"] == "completed" {
            return (types, message["cursor"].as_str().unwrap().to_owned());
        }
    }
}

#[test]
fn stored_events_come_with_a_cursor_that_a_restarted_host_goes_on_behind() {
    let folder = TempDir::new().unwrap();
    a_restarted_host_goes_on(&file(folder.path()));
}

#[test]
fn stored_events_of_postgres_come_with_such_a_cursor_too() {
    if let Some(server) = support::postgres::shared() {
        a_restarted_host_goes_on(&server.persistence());
    }
}

fn a_restarted_host_goes_on(persistence: &Value) {
    let runtime = open_with(persistence.clone(), json!({}));
    invoke(&runtime, json!({"agent": "a", "input": "before", "run_id": "r0"}));
    let params = json!({"name": "s", "reach": "store"});
    let answer = call(&runtime, "events.subscribe", params.clone());
    assert!(answer["cursor"].is_string(), "{answer}");
    invoke(&runtime, json!({"agent": "a", "input": "one", "run_id": "r1"}));
    let (types, cursor) = until_end(&runtime, "r1");
    assert_eq!((types[0].as_str(), types.iter().filter(|kind| *kind == "text_delta").count()), ("run_started", 1));
    invoke(&runtime, json!({"agent": "a", "input": "two", "run_id": "r2"}));
    close(runtime);

    let runtime = open_with(persistence.clone(), json!({}));
    invoke(&runtime, json!({"agent": "a", "input": "three", "run_id": "r3"}));
    let mut params = params;
    params["cursor"] = cursor.clone().into();
    call(&runtime, "events.subscribe", params.clone());
    let mut runs = Vec::new();
    while runs.len() < 2 {
        let event = message(&runtime)["event"].clone();
        if event["type"] == "completed" {
            runs.push(event["run_id"].clone());
        }
    }
    assert_eq!(runs, ["r2", "r3"]);
    // Of the middle of a block, and from the beginning.
    let types = json!({"name": "begin", "reach": "store", "cursor": "0.0", "types": ["run_started"], "run_id": "r0"});
    call(&runtime, "events.subscribe", types);
    let first = message(&runtime);
    assert_eq!((&first["subscription"], &first["event"]["run_id"]), (&"begin".into(), &"r0".into()));
    let middle = first["cursor"].clone();
    call(&runtime, "events.subscribe", json!({"name": "mid", "reach": "store", "cursor": middle, "run_id": "r0"}));
    assert_eq!(message(&runtime)["event"]["seq"], 2);

    // A cursor outlives the events it is of.
    call(&runtime, "store.prune", json!({"events_seconds": 0}));
    assert_eq!(call(&runtime, "events.query", json!({}))["items"], json!([]));
    let params = json!({"name": "late", "reach": "store", "cursor": cursor, "types": ["completed"]});
    call(&runtime, "events.subscribe", params);
    invoke(&runtime, json!({"agent": "a", "input": "four", "run_id": "r4"}));
    while message(&runtime)["subscription"] != "late" {}
    for (cursor, hint) in [("nonsense", "next_cursor"), ("999999.1", "this database")] {
        let error = try_call(&runtime, "events.subscribe", json!({"reach": "store", "cursor": cursor})).unwrap_err();
        assert_eq!((error.status(), error.path()), (Status::Schema, Some("params.cursor")));
        assert!(error.hint().unwrap().contains(hint), "{error:?}");
    }
    close(runtime);
}

#[test]
fn a_slow_reader_of_stored_events_loses_none_and_holds_few() {
    let folder = TempDir::new().unwrap();
    let extra = json!({"event_bus": {"buffer_capacity": 3}, "limits": {"inbox_queue_events": 2}});
    let runtime = open_with(file(folder.path()), extra);
    let params = json!({"name": "s", "reach": "store", "overflow": "block", "types": ["run_started", "completed"]});
    call(&runtime, "events.subscribe", params);
    for number in 0..20 {
        invoke(&runtime, json!({"agent": "a", "input": "x", "run_id": format!("r{number}"), "durability": "sync"}));
    }
    let mut seen = Vec::new();
    while seen.len() < 40 {
        assert!(count(&runtime, "s", "waiting") <= 3);
        seen.push(message(&runtime)["event"]["run_id"].as_str().unwrap().to_owned());
    }
    let want: Vec<String> = (0..40).map(|number| format!("r{}", number / 2)).collect();
    assert_eq!(seen, want);
    assert!(dead_letters(&runtime).is_empty());
    close(runtime);
}

#[test]
fn what_was_read_and_not_acknowledged_is_a_dead_letter_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let runtime = open_with(file(folder.path()), json!({}));
    let params = json!({"name": "s", "reach": "store", "types": ["completed"], "ack": true});
    call(&runtime, "events.subscribe", params);
    for run in ["r1", "r2"] {
        invoke(&runtime, json!({"agent": "a", "input": "x", "run_id": run}));
    }
    let (_, second) = (message(&runtime), message(&runtime));
    call(&runtime, "events.ack", json!({"delivery": second["delivery"]}));
    close(runtime);
    // Whoever goes on behind the second one finds the first among the dead letters.
    let runtime = open_with(file(folder.path()), json!({}));
    let runs: Vec<Value> = dead_letters(&runtime).iter().map(|letter| letter["event"]["run_id"].clone()).collect();
    assert_eq!(runs, ["r1"]);
    close(runtime);
}

#[test]
fn child() {
    let Ok(persistence) = std::env::var("PAR_TEST_SUBSCRIBED") else { return };
    let runtime = open_with(serde_json::from_str(&persistence).unwrap(), json!({}));
    for number in 0..10 {
        let scope = if number == 9 { "t" } else { "" };
        invoke(&runtime, json!({"agent": "a", "input": "x", "run_id": format!("c{number}"), "scope": scope}));
    }
    close(runtime);
}

#[test]
fn events_of_another_process_are_seen() {
    let folder = TempDir::new().unwrap();
    another_process_is_seen(&file(folder.path()));
}

#[test]
fn events_of_another_process_are_seen_in_postgres() {
    if let Some(server) = support::postgres::shared() {
        another_process_is_seen(&server.persistence());
    }
}

fn another_process_is_seen(persistence: &Value) {
    let runtime = open_with(persistence.clone(), json!({}));
    call(&runtime, "events.subscribe", json!({"name": "s", "reach": "store", "types": ["completed"]}));
    // Only those of this runtime.
    call(&runtime, "events.subscribe", json!({"name": "live", "types": ["completed"]}));
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--test-threads=1"])
        .env("PAR_TEST_SUBSCRIBED", persistence.to_string())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let runs: Vec<Value> = (0..9).map(|_| message(&runtime)["event"]["run_id"].clone()).collect();
    assert!(child.wait().unwrap().success());
    let want: Vec<String> = (0..9).map(|number| format!("c{number}")).collect();
    assert_eq!(runs, want, "in the order of their commits, without the other scope's");
    assert_eq!(count(&runtime, "live", "delivered"), 0);
    // And its own beside them.
    invoke(&runtime, json!({"agent": "a", "input": "x", "run_id": "own"}));
    let own: BTreeSet<String> =
        (0..2).map(|_| message(&runtime)["subscription"].as_str().unwrap().to_owned()).collect();
    assert_eq!(own, BTreeSet::from(["live".to_owned(), "s".to_owned()]));
    close(runtime);
}

// ---- what is refused

#[test]
fn what_makes_no_sense_is_refused() {
    let runtime = open(json!({"limits": {"max_subscriptions": 1}}));
    for (params, path) in [
        (json!({"name": "no spaces"}), "params.name"),
        (json!({"name": "inbox"}), "params.name"),
        (json!({"types": ["complete"]}), "params.types[0]"),
        (json!({"overflow": "drop"}), "params.overflow"),
        (json!({"deliver": "pigeon"}), "params.deliver"),
        (json!({"max_attempts": 0}), "params.max_attempts"),
        (json!({"ack": true, "delivery_timeout": 0}), "params.delivery_timeout"),
        (json!({"delivery_timeout": 1}), "params.delivery_timeout"),
        (json!({"cursor": "0.0"}), "params.cursor"),
        (json!({"filter": {}}), "params.filter"),
    ] {
        let error = try_call(&runtime, "events.subscribe", params.clone()).unwrap_err();
        assert_eq!((error.status(), error.path()), (Status::Schema, Some(path)), "{params}: {error:?}");
    }
    assert_eq!(call(&runtime, "events.subscriptions", json!({})), json!({"items": []}));
    let name = call(&runtime, "events.subscribe", json!({}))["name"].as_str().unwrap().to_owned();
    let error = try_call(&runtime, "events.subscribe", json!({})).unwrap_err();
    assert_eq!(error.status(), Status::Limit);
    let listed: Value = serde_json::from_str(&runtime.list("subscriptions").unwrap()).unwrap();
    assert_eq!(listed["items"][0]["name"], name);
    assert_eq!(runtime.info()["event_bus"]["subscriptions"], 1);
    close(runtime);

    for (bus, path) in [
        (json!({"buffer_capacity": 0}), "config.event_bus.buffer_capacity"),
        (json!({"buffer_bytes": 1}), "config.event_bus.buffer_bytes"),
        (json!({"max_delivery_attempts": 0}), "config.event_bus.max_delivery_attempts"),
        (json!({"initial_retry_delay": 0}), "config.event_bus.initial_retry_delay"),
        (json!({"max_retry_delay": 0.5}), "config.event_bus.max_retry_delay"),
        (json!({"delivery_timeout": 1e9}), "config.event_bus.delivery_timeout"),
        (json!({"max_dead_letters": 0}), "config.event_bus.max_dead_letters"),
        (json!({"bufer_capacity": 1}), "config.event_bus.bufer_capacity"),
    ] {
        let config = json!({"persistence": "noop", "event_bus": bus}).to_string();
        let error = Runtime::create(&config).err().unwrap();
        assert_eq!((error.status(), error.path()), (Status::Schema, Some(path)));
    }
}
