//! The registries of a runtime under contention: every function from sixteen threads at once, and none hangs.

mod support;

use par::config::LogLevel;
use par::runtime::{Callback, CallbackSlot, Runtime};
use par::types::Status;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::client::scripted;

const THREADS: usize = 16;
/// Longer than any call takes on a busy machine.
const HANG: Duration = Duration::from_secs(30);

fn seconds() -> u64 {
    std::env::var("PAR_TEST_STRESS_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// What a call may come to while others change the same registries.
const EXPECTED: &[Status] = &[Status::NotFound, Status::Exists, Status::NoHandler, Status::Limit, Status::Schema];

type Step = (&'static str, fn(&Runtime, u64) -> Result<(), par::types::Error>);

fn agent(tools: &[&str], model: &str) -> String {
    json!({"id": "a", "model": model, "tools": tools}).to_string()
}

fn name(number: u64) -> String {
    format!("n{}", number % 3)
}

fn call(runtime: &Runtime, method: &str, params: serde_json::Value) -> Result<(), par::types::Error> {
    runtime.call(method, &params.to_string(), None).map(drop)
}

fn callback(runtime: &Runtime, slot: CallbackSlot) -> Result<(), par::types::Error> {
    let callback = Callback::new(|_, _| {}, || {});
    runtime.set_callback(slot, LogLevel::Trace, Some(callback)).map_err(|(error, callback)| {
        callback.into_iter().for_each(Callback::disarm);
        error
    })
}

fn no_callback(runtime: &Runtime, slot: CallbackSlot) -> Result<(), par::types::Error> {
    runtime.set_callback(slot, LogLevel::Off, None).map_err(|(error, _)| error)
}

const SLOTS: [CallbackSlot; 5] =
    [CallbackSlot::Tool, CallbackSlot::Event, CallbackSlot::Log, CallbackSlot::Wakeup, CallbackSlot::Approval];

fn slot(number: u64) -> CallbackSlot {
    SLOTS[usize::try_from(number).unwrap() % SLOTS.len()]
}

const STEPS: &[Step] = &[
    ("register an agent", |runtime, _| runtime.register_agent(&agent(&[], "mock/m"))),
    ("register an agent with a tool", |runtime, n| runtime.register_agent(&agent(&[&name(n)], "mock/m"))),
    ("register an agent without a provider", |runtime, _| runtime.register_agent(&agent(&[], "m"))),
    ("unregister an agent", |runtime, _| runtime.unregister_agent("a")),
    ("unregister an unknown agent", |runtime, _| runtime.unregister_agent("b")),
    ("start an unknown agent", |runtime, _| runtime.stream(r#"{"agent": "b", "input": "x"}"#).map(drop)),
    ("invoke an unknown agent", |runtime, _| runtime.invoke(r#"{"agent": "b", "input": "x"}"#, None).map(drop)),
    ("start an agent", |runtime, _| runtime.stream(r#"{"agent": "a", "input": "x"}"#).map(drop)),
    ("invoke an agent", |runtime, _| runtime.invoke(r#"{"agent": "a", "input": "x"}"#, None).map(drop)),
    ("register a tool", |runtime, n| runtime.register_tool(&json!({"name": name(n), "description": "d"}).to_string())),
    ("unregister a tool", |runtime, n| runtime.unregister_tool(&name(n))),
    ("register a provider", |runtime, n| {
        runtime.register_provider_config(&json!({"name": name(n), "type": "mock"}).to_string())
    }),
    ("remove a provider", |runtime, n| call(runtime, "providers.remove", json!({"provider": name(n)}))),
    ("set the default provider", |runtime, n| call(runtime, "providers.set_default", json!({"provider": name(n)}))),
    ("list", |runtime, n| {
        let kinds = ["agents", "tools", "providers", "sessions", "runs", "subscriptions"];
        runtime.list(kinds[usize::try_from(n).unwrap() % kinds.len()]).map(drop)
    }),
    ("providers.list", |runtime, _| call(runtime, "providers.list", json!({}))),
    ("agents.get", |runtime, _| call(runtime, "agents.get", json!({"agent": "a"}))),
    ("agents.update", |runtime, n| call(runtime, "agents.update", json!({"agent": "a", "add_tools": [name(n)]}))),
    ("tools.replace", |runtime, n| {
        call(runtime, "tools.replace", json!({"tool": {"name": name(n), "description": "other"}}))
    }),
    ("subscribe", |runtime, n| call(runtime, "events.subscribe", json!({"name": name(n)}))),
    ("unsubscribe", |runtime, n| call(runtime, "events.unsubscribe", json!({"name": name(n)}))),
    ("set a callback", |runtime, n| callback(runtime, slot(n))),
    ("remove a callback", |runtime, n| no_callback(runtime, slot(n))),
    ("cancel an unknown run", |runtime, _| runtime.cancel_run("no-run", "test")),
    ("steer an unknown run", |runtime, _| runtime.steer("no-run", r#""x""#)),
    ("answer an unknown approval", |runtime, _| runtime.approval_resolve("no-approval", r#""approve""#)),
    ("info", |runtime, _| {
        runtime.info();
        Ok(())
    }),
];

#[test]
fn every_registry_function_from_sixteen_threads() {
    let runtime = scripted(json!([{"text": "x"}]));
    runtime.inbox();
    let stop = AtomicBool::new(false);
    let calls: Vec<AtomicU64> = (0..THREADS).map(|_| AtomicU64::new(0)).collect();
    let doing: Vec<AtomicUsize> = (0..THREADS).map(|_| AtomicUsize::new(0)).collect();
    let hung = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (runtime, stop, calls, doing) = (&runtime, &stop, &calls[thread], &doing[thread]);
            scope.spawn(move || {
                // A stride that is coprime to the number of steps: each thread has another order.
                let mut random = u64::try_from(thread).unwrap() + 1;
                while !stop.load(Ordering::Relaxed) {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let number = random >> 33;
                    let index = usize::try_from(number).unwrap() % STEPS.len();
                    doing.store(index, Ordering::Relaxed);
                    let (what, step) = STEPS[index];
                    if let Err(error) = step(runtime, number / 64) {
                        assert!(EXPECTED.contains(&error.status()), "{what}: {error}");
                    }
                    while runtime
                        .inbox()
                        .drain(usize::MAX, |_| ())
                        .is_ok_and(|polled| polled == par::events::Polled::Event(()))
                    {}
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // The watchdog: a thread whose calls no longer count is stuck in one of them.
        let end = Instant::now() + Duration::from_secs(seconds());
        let mut seen: Vec<(u64, Instant)> = vec![(0, Instant::now()); THREADS];
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
            for (thread, (count, since)) in seen.iter_mut().enumerate() {
                let now = calls[thread].load(Ordering::Relaxed);
                if now != *count {
                    (*count, *since) = (now, Instant::now());
                } else if since.elapsed() > HANG {
                    let stuck: Vec<_> = doing.iter().map(|index| STEPS[index.load(Ordering::Relaxed)].0).collect();
                    eprintln!("thread {thread} hangs; the threads are in: {stuck:?}");
                    hung.store(true, Ordering::Relaxed);
                    // A scope waits for its threads, and these never end.
                    std::process::exit(101);
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let total: u64 = calls.iter().map(|count| count.load(Ordering::Relaxed)).sum();
    println!("{total} calls");
    assert!(total > 1_000, "{total} calls");
}

/// Two callbacks that each unregister the other's: neither may wait for the other.
#[test]
fn callbacks_that_unregister_each_others_are_refused() {
    let runtimes = [scripted(json!([{"text": "x"}])), scripted(json!([{"text": "x"}]))];
    let inside = Arc::new(AtomicUsize::new(0));
    let (sender, statuses) = std::sync::mpsc::channel();
    for (own, other) in [(0, 1), (1, 0)] {
        runtimes[own].register_agent(&agent(&[], "mock/m")).unwrap();
        let (other, inside, sender) = (runtimes[other].clone(), Arc::clone(&inside), sender.clone());
        let called = AtomicBool::new(false);
        let call = move |_: u64, _: &[u8]| {
            if called.swap(true, Ordering::SeqCst) {
                return;
            }
            inside.fetch_add(1, Ordering::SeqCst);
            let deadline = Instant::now() + HANG;
            while inside.load(Ordering::SeqCst) < 2 && Instant::now() < deadline {
                std::thread::yield_now();
            }
            let status = no_callback(&other, CallbackSlot::Event).map_err(|error| error.status());
            sender.send(status).unwrap();
        };
        let registered =
            runtimes[own].set_callback(CallbackSlot::Event, LogLevel::Off, Some(Callback::new(call, || {})));
        assert!(registered.is_ok());
    }
    for runtime in &runtimes {
        runtime.invoke(r#"{"agent": "a", "input": "x"}"#, None).unwrap();
    }
    for _ in 0..2 {
        match statuses.recv_timeout(HANG) {
            Ok(status) => assert_eq!(status, Err(Status::WouldDeadlock)),
            Err(_) => {
                eprintln!("a callback hangs");
                std::process::exit(101);
            }
        }
    }
    // A refused call changes nothing: the callbacks are still registered, and a host thread removes them.
    for runtime in &runtimes {
        no_callback(runtime, CallbackSlot::Event).unwrap();
    }
}

/// Every call that unregisters waits for the callback that runs, also the second of two at the same time.
#[test]
fn each_of_two_barriers_waits() {
    let runtime = scripted(json!([{"text": "x"}]));
    runtime.register_agent(&agent(&[], "mock/m")).unwrap();
    let (inside, leave) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let call = {
        let (inside, leave) = (Arc::clone(&inside), Arc::clone(&leave));
        move |_: u64, _: &[u8]| {
            inside.store(true, Ordering::SeqCst);
            let deadline = Instant::now() + HANG;
            while !leave.load(Ordering::SeqCst) && Instant::now() < deadline {
                std::thread::yield_now();
            }
            inside.store(false, Ordering::SeqCst);
        }
    };
    assert!(runtime.set_callback(CallbackSlot::Event, LogLevel::Off, Some(Callback::new(call, || {}))).is_ok());
    runtime.invoke(r#"{"agent": "a", "input": "x"}"#, None).unwrap();
    while !inside.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (runtime, inside) = (&runtime, &inside);
            scope.spawn(move || {
                no_callback(runtime, CallbackSlot::Event).unwrap();
                assert!(!inside.load(Ordering::SeqCst), "the callback runs after it was unregistered");
            });
        }
        std::thread::sleep(Duration::from_millis(100));
        leave.store(true, Ordering::SeqCst);
    });
}
