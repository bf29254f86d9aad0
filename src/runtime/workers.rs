//! The worker threads: started by the first run that needs them, ended by closing.
//!
//! tokio panics when the system refuses it a thread, and then waits for ever for the threads it has started. So as many threads
//! are tried out first: a limit is an error before tokio starts. Another process may take the last thread between the two. Then
//! what tokio has begun is given up: its threads end, and a few descriptors stay open, for tokio cannot take them back.

use super::threads;
use crate::events::{LogSubscriber, flush_deferred, promise_to_flush};
use crate::types::{Error, Result, Status};
use parking_lot::{Condvar, Mutex};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, mpsc};
use tokio::runtime::{Builder, Handle, Runtime};

/// See the module's head.
#[derive(Default)]
pub(super) struct Workers(Mutex<Option<Runtime>>);

impl Workers {
    /// Where tasks are spawned; starts the threads if none run.
    pub fn handle(&self, threads: usize, log: &Arc<LogSubscriber>) -> Result<Handle> {
        // Held during the start, so that the threads start once. The start takes no other lock and does not wait for events.
        let mut runtime = self.0.lock();
        if let Some(runtime) = &*runtime {
            return Ok(runtime.handle().clone());
        }
        let started = start(threads, log)?;
        let handle = started.handle().clone();
        *runtime = Some(started);
        Ok(handle)
    }

    /// Takes the threads to be ended.
    pub fn take(&self) -> Option<Runtime> {
        self.0.lock().take()
    }
}

/// Starts the threads, or none.
fn start(threads: usize, log: &Arc<LogSubscriber>) -> Result<Runtime> {
    let purpose = format!("{threads} worker threads");
    let refused = |error: &std::io::Error| threads::refused(&purpose, error);
    let (begin, may_begin) = mpsc::channel();
    let own_log = Arc::clone(log);
    // The thread that starts tokio is not the caller's: that may be inside another tokio runtime.
    let starter = threads::spawn("par-start", log, move || may_begin.recv().ok().map(|()| build(threads, &own_log)))
        .map_err(|error| refused(&error))?;
    let tried = threads::try_out(threads, log);
    if tried.is_ok() {
        // The starter waits for this, so it is there.
        let _ = begin.send(());
    }
    drop(begin);
    let started = starter.join();
    tried.map_err(|error| refused(&error))?;
    match started {
        Ok(Some(Ok(runtime))) => Ok(runtime),
        Ok(Some(Err(error))) => Err(error),
        Ok(None) => Err(Error::internal("the worker threads were not started")),
        Err(panic) => Err(crate::agent::panic_error(&*panic)),
    }
}

/// Whether the threads that tokio has started may begin to work, once that is known.
#[derive(Default)]
struct Gate {
    open: Mutex<Option<bool>>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, open: bool) {
        *self.open.lock() = Some(open);
        self.changed.notify_all();
    }

    /// Waits until that is known. False: the thread must end.
    fn pass(&self) -> bool {
        let mut open = self.open.lock();
        loop {
            match *open {
                Some(open) => return open,
                None => self.changed.wait(&mut open),
            }
        }
    }
}

/// Starts tokio on the calling thread, which is not inside a tokio runtime.
fn build(threads: usize, log: &Arc<LogSubscriber>) -> Result<Runtime> {
    let refused = |error: &std::io::Error| {
        Error::new(Status::Io, format!("the worker threads cannot be started: {error}"))
            .with_retryable(true)
            .with_hint("raise RLIMIT_NOFILE (ulimit -n), or close descriptors: the workers need a few")
    };
    let gate = Arc::<Gate>::default();
    let on_start = {
        let (log, gate) = (Arc::clone(log), Arc::clone(&gate));
        move || {
            threads::adopt(&log);
            if !gate.pass() {
                // Ends this thread without a message: `start` returns the error.
                resume_unwind(Box::new("the start of the workers was given up"));
            }
            promise_to_flush();
        }
    };
    // Work-stealing also for one thread: a host that answers a busy worker need not wake it.
    let start = move || {
        Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("par-worker")
            .on_thread_start(on_start)
            .on_thread_park(flush_deferred)
            .enable_all()
            .build()
    };
    // Inside a runtime, since there a panic of the start does not wait for the threads that were started.
    let around = Builder::new_current_thread().build().map_err(|error| refused(&error))?;
    let started = around.block_on(async { catch_unwind(AssertUnwindSafe(start)) });
    gate.set(matches!(started, Ok(Ok(_))));
    match started {
        Ok(started) => started.map_err(|error| refused(&error)),
        Err(_) => Err(threads::refused(&format!("{threads} worker threads"), &std::io::ErrorKind::WouldBlock.into())),
    }
}
