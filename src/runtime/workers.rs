//! The worker threads: started by the first run that needs them, ended by closing.
//!
//! One thread is a single-threaded scheduler of its own, which spares every task the bookkeeping of being moved between
//! threads; more are tokio's work-stealing one.

use super::threads;
use crate::events::{LogSubscriber, flush_deferred, promise_to_flush};
use crate::types::{Error, Result, Status};
use parking_lot::Mutex;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

/// See the module's head.
#[derive(Default)]
pub(super) struct Workers(Mutex<Option<Started>>);

/// How long helpers of libraries, such as name lookups, are waited for.
const HELPERS_TIME: Duration = Duration::from_millis(500);

/// Running threads.
pub(super) enum Started {
    One { handle: Handle, stop: oneshot::Sender<()>, thread: JoinHandle<()> },
    Many(Runtime),
}

impl Workers {
    /// Where tasks are spawned; starts the threads if none run.
    pub fn handle(&self, threads: usize, log: &Arc<LogSubscriber>) -> Result<Handle> {
        let mut started = self.0.lock();
        if let Some(started) = &*started {
            return Ok(started.handle().clone());
        }
        let new = start(threads, log).map_err(|error| {
            Error::new(Status::Io, format!("the worker threads cannot be started: {error}"))
                .with_hint("raise RLIMIT_NPROC and RLIMIT_NOFILE")
        })?;
        let handle = new.handle().clone();
        *started = Some(new);
        Ok(handle)
    }

    /// Takes the threads to be ended.
    pub fn take(&self) -> Option<Started> {
        self.0.lock().take()
    }
}

fn start(threads: usize, log: &Arc<LogSubscriber>) -> std::io::Result<Started> {
    let adopting = Arc::clone(log);
    let adopt = move || {
        threads::adopt(&adopting);
        promise_to_flush();
    };
    if threads > 1 {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder
            .worker_threads(threads)
            .thread_name("par-worker")
            .on_thread_start(adopt)
            .on_thread_park(flush_deferred)
            .enable_all()
            .build()?;
        return Ok(Started::Many(runtime));
    }
    // `on_thread_start` is for the helpers it may start; its one worker is ours.
    let runtime = Builder::new_current_thread()
        .thread_name("par-worker")
        .on_thread_start(adopt.clone())
        .on_thread_park(flush_deferred)
        .enable_all()
        .build()?;
    let handle = runtime.handle().clone();
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new().name("par-worker".into()).spawn(move || {
        adopt();
        // Ends when told to, or when nobody is left to tell it.
        let _ = runtime.block_on(stopped);
        runtime.shutdown_timeout(HELPERS_TIME);
    })?;
    Ok(Started::One { handle, stop, thread })
}

impl Started {
    pub fn handle(&self) -> &Handle {
        match self {
            Self::One { handle, .. } => handle,
            Self::Many(runtime) => runtime.handle(),
        }
    }

    /// Ends the threads. Every task must have ended.
    pub fn end(self) {
        match self {
            Self::One { stop, thread, handle } => {
                drop((stop.send(()), handle));
                // It only panics if a task did, and then it has been told.
                let _ = thread.join();
            }
            Self::Many(runtime) => runtime.shutdown_timeout(HELPERS_TIME),
        }
    }
}
