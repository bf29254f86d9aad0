//! What every thread of libpar is: named, with all signals blocked, and known as ours.
//!
//! Blocked signals mean that a host's handlers run on the host's threads and that a write to a closed connection is an
//! error here, never a SIGPIPE that ends the host.

use crate::events::LogSubscriber;
use std::cell::{Cell, RefCell};
use std::sync::Arc;

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
