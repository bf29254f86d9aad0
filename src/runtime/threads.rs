//! What every thread of libpar is: named, with all signals blocked, and known as ours.
//!
//! Blocked signals mean that a host's handlers run on the host's threads and that a write to a closed connection is an
//! error here, never a SIGPIPE that ends the host.

use crate::events::LogSubscriber;
use crate::types::{Error, Status};
use std::cell::{Cell, RefCell};
use std::io;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

thread_local! {
    static OURS: Cell<bool> = const { Cell::new(false) };
    static LOG: RefCell<Option<tracing::dispatcher::DefaultGuard>> = const { RefCell::new(None) };
}

/// Whether the calling thread belongs to libpar: then it must not block on a run.
pub fn is_own_thread() -> bool {
    OURS.get()
}

/// To be called first on every thread of libpar.
pub(super) fn adopt(log: &Arc<LogSubscriber>) {
    OURS.set(true);
    // Cannot fail for a valid set of signals.
    let _ = nix::sys::signal::SigSet::all().thread_block();
    let guard = tracing::dispatcher::set_default(&log.dispatch());
    LOG.set(Some(guard));
}

/// Starts a thread of libpar.
pub(super) fn spawn<T: Send + 'static>(
    name: &str,
    log: &Arc<LogSubscriber>,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let log = Arc::clone(log);
    std::thread::Builder::new().name(name.into()).spawn(move || {
        adopt(&log);
        work()
    })
}

/// Starts so many threads at the same time and ends them: whether there may be so many.
pub(super) fn try_out(count: usize, log: &Arc<LogSubscriber>) -> io::Result<()> {
    let mut refused = Ok(());
    let mut tried = Vec::with_capacity(count);
    for _ in 0..count {
        let (end, has_ended) = mpsc::channel::<()>();
        match spawn("par-try", log, move || has_ended.recv().is_ok()) {
            Ok(thread) => tried.push((end, thread)),
            Err(error) => {
                refused = Err(error);
                break;
            }
        }
    }
    let (ends, threads): (Vec<_>, Vec<_>) = tried.into_iter().unzip();
    drop(ends);
    for thread in threads {
        // It cannot panic: it only waits.
        let _ = thread.join();
    }
    refused
}

/// The error of a thread that the system refuses. `purpose` is what it was for.
pub(super) fn refused(purpose: &str, error: &io::Error) -> Error {
    Error::new(Status::Limit, format!("{purpose} cannot be started: the system allows no more threads ({error})"))
        .with_code("thread_limit")
        .with_retryable(true)
        .with_hint(
            "raise RLIMIT_NPROC (ulimit -u), the pids limit of the container or cgroup, or the memory limit; or lower `threads` in \
             the runtime config, or close other runtimes",
        )
}
