//! The worker threads: started by the first run that needs them, ended by closing.

use super::threads;
use crate::events::{LogSubscriber, flush_deferred, promise_to_flush};
use crate::types::{Error, Result, Status};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::runtime::{Builder, Handle, Runtime};

/// See the module's head.
#[derive(Default)]
pub(super) struct Workers(Mutex<Option<Runtime>>);

impl Workers {
    /// Where tasks are spawned; starts the threads if none run.
    pub fn handle(&self, threads: usize, log: &Arc<LogSubscriber>) -> Result<Handle> {
        let mut runtime = self.0.lock();
        if let Some(runtime) = &*runtime {
            return Ok(runtime.handle().clone());
        }
        let log = Arc::clone(log);
        let adopt = move || {
            threads::adopt(&log);
            promise_to_flush();
        };
        // Work-stealing also for one thread: a host that answers a busy worker need not wake it.
        let started = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("par-worker")
            .on_thread_start(adopt)
            .on_thread_park(flush_deferred)
            .enable_all()
            .build()
            .map_err(|error| {
                Error::new(Status::Io, format!("the worker threads cannot be started: {error}"))
                    .with_hint("raise RLIMIT_NPROC and RLIMIT_NOFILE")
            })?;
        let handle = started.handle().clone();
        *runtime = Some(started);
        Ok(handle)
    }

    /// Takes the threads to be ended.
    pub fn take(&self) -> Option<Runtime> {
        self.0.lock().take()
    }
}
