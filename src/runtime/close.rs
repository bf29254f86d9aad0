//! How a runtime ends: refuse, drain, cancel, join, flush, report.

use super::core::Core;
use crate::agent::Suspension;
use crate::config::OnUnfinished;
use crate::store::Closed;
use crate::types::{Error, Result, Status, millis};
use parking_lot::{Condvar, Mutex};
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long closing waits for the blocking work of tools.
const HELPERS_TIME: Duration = Duration::from_secs(5);

/// What closing came to; `close` in `par_runtime_info`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct CloseReport {
    /// 0 if everything ended as it should.
    pub exit_code: i32,
    /// Runs that did not end by themselves in time, and were cancelled.
    pub runs_cancelled: usize,
    /// Runs that did not end by themselves in time, and can be resumed.
    pub runs_suspended: usize,
    /// Expectations of scripted providers that were not met.
    pub unreached: Vec<String>,
    /// Why what happened last could not be written, if it could not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unwritten: Option<Error>,
    /// Changes that are not forwarded yet, if the database is forwarded: they go at the next start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unforwarded: Option<u64>,
    /// How long it took.
    pub duration_ms: u64,
}

impl CloseReport {
    /// What a host must hear of, if not everything ended as it should.
    pub fn problem(&self) -> Option<Error> {
        if let Some(unwritten) = &self.unwritten {
            let message =
                format!("the runtime is closed, but not everything could be written: {}", unwritten.message());
            return Some(unwritten.clone().with_message(message));
        }
        (!self.unreached.is_empty()).then(|| {
            Error::new(Status::Provider, self.unreached.join("; ")).with_code("mock_incomplete").with_hint(
                "the runtime is closed; the script of a mock provider with assert_complete was not played to its end",
            )
        })
    }
}

/// Where a runtime stands between open and closed.
#[derive(Default)]
pub(super) struct Closing {
    phase: Mutex<Phase>,
    changed: Condvar,
    /// Until when runs may end by themselves; no bound if none. A later call can only make it earlier.
    drain: Mutex<Drain>,
    /// The thread that closes. It holds the core, so until it has ended, so do the descriptors of what is closed.
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Drain(Option<Instant>);

impl Drain {
    fn ends_by(&mut self, until: Option<Instant>) {
        self.0 = match (self.0, until) {
            (Some(before), Some(until)) => Some(before.min(until)),
            (before, until) => before.or(until),
        };
    }
}

#[derive(Clone, Debug, Default)]
pub(super) enum Phase {
    #[default]
    Open,
    Closing,
    Closed(CloseReport),
}

impl Closing {
    pub fn phase(&self) -> Phase {
        self.phase.lock().clone()
    }

    pub fn is_open(&self) -> bool {
        matches!(*self.phase.lock(), Phase::Open)
    }

    /// Waits for the last steps of the thread that has published its report.
    fn join(&self) {
        // Held while joining: whoever waits, too, is not told earlier.
        let mut thread = self.thread.lock();
        if let Some(thread) = thread.take() {
            // It panicked after the report: there is nothing else to be told.
            let _ = thread.join();
        }
    }

    /// The error of calls that a closed runtime cannot take.
    pub fn check_open(&self) -> Result<()> {
        if self.is_open() { Ok(()) } else { Err(closed()) }
    }
}

pub(super) fn closed() -> Error {
    Error::new(Status::Closed, "the runtime is closed").with_hint("create another one")
}

/// Begins closing, once. The work is done on a thread of its own, so that a host which stops waiting can go on. Runs may end by
/// themselves for as long as `shutdown.drain_timeout` and `drain` both allow.
pub(super) fn begin(core: &Arc<Core>, drain: Duration) {
    let drain = drain.min(Duration::from_secs_f64(core.config.shutdown.drain_timeout));
    // A time too long for the clock is no bound.
    core.closing.drain.lock().ends_by(Instant::now().checked_add(drain));
    if !core.closing.is_open() {
        return;
    }
    // Held until the thread is there: who sees the report finds it.
    let mut thread = core.closing.thread.lock();
    {
        let mut phase = core.closing.phase.lock();
        if !matches!(*phase, Phase::Open) {
            return;
        }
        *phase = Phase::Closing;
    }
    let worker = Arc::clone(core);
    let spawned = std::thread::Builder::new().name("par-close".into()).spawn(move || {
        super::threads::adopt(&worker.log);
        run(&worker);
    });
    match spawned {
        Ok(spawned) => *thread = Some(spawned),
        // No thread can be started, and this one may be among those that closing waits for. The next call tries again.
        Err(_) if super::threads::is_own_thread() => {
            *core.closing.phase.lock() = Phase::Open;
            core.closing.changed.notify_all();
        }
        // No thread can be started: this one does the work.
        Err(_) => {
            drop(thread);
            run(core);
        }
    }
}

/// Waits until closing is done and nothing of it is left: no thread, no descriptor. `None`: for ever.
pub(super) fn wait(core: &Core, timeout: Option<Duration>) -> Option<CloseReport> {
    let report = wait_for_report(core, timeout)?;
    core.closing.join();
    Some(report)
}

fn wait_for_report(core: &Core, timeout: Option<Duration>) -> Option<CloseReport> {
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut phase = core.closing.phase.lock();
    loop {
        if let Phase::Closed(report) = &*phase {
            return Some(report.clone());
        }
        match deadline {
            None => core.closing.changed.wait(&mut phase),
            Some(deadline) => {
                if core.closing.changed.wait_until(&mut phase, deadline).timed_out()
                    && !matches!(*phase, Phase::Closed(_))
                {
                    return None;
                }
            }
        }
    }
}

fn run(core: &Arc<Core>) {
    let began = Instant::now();
    core.runs.drain(|| core.closing.drain.lock().0);
    let unfinished = core.runs.live();
    let suspended_before = core.metrics.runs_suspended.load(Ordering::Relaxed);
    match core.config.shutdown.on_unfinished {
        OnUnfinished::Interrupt => core.runs.suspend_all(Suspension::Closing),
        OnUnfinished::Cancel => {}
    }
    core.scope.cancel().cancel("the runtime was closed");
    core.runs.wait_for_none();
    let suspended = core.metrics.runs_suspended.load(Ordering::Relaxed) - suspended_before;
    let runs_suspended = usize::try_from(suspended).unwrap_or(usize::MAX);
    // Told by now that nobody waits for it; a read of a file system that hangs is not waited for any longer.
    let helpers_left = !core.helpers.wait_for_none(Instant::now() + HELPERS_TIME);
    if helpers_left {
        tracing::warn!("{} helper threads of tools did not end", core.helpers.running());
    }
    if let Some(workers) = core.workers.take() {
        workers.block_on(core.scope.join());
        // Last: what the runs said when they ended is delivered, too.
        core.deliveries.cancel().cancel("the runtime was closed");
        workers.block_on(core.deliveries.join());
        // The threads end at once, but for helpers of libraries, such as name lookups: those are not waited for long.
        workers.shutdown_timeout(Duration::from_millis(500));
    }
    core.drivers.clear();
    let Closed { unwritten, unforwarded } = core.store.close();
    core.inbox.push_terminal(br#"{"type":"closed"}"#);
    core.callbacks.stop(None);
    core.hub.clear();
    core.log.clear();
    let unreached: Vec<String> = core.providers.read().values().filter_map(|provider| provider.unreached()).collect();
    let report = CloseReport {
        exit_code: i32::from(!unreached.is_empty() || unwritten.is_some()),
        runs_cancelled: unfinished.saturating_sub(runs_suspended),
        runs_suspended,
        unreached,
        unwritten,
        unforwarded,
        duration_ms: millis(began.elapsed()),
    };
    *core.closing.phase.lock() = Phase::Closed(report);
    core.closing.changed.notify_all();
}
