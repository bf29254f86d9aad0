//! What every entry does before and after its work.

use super::error::par_error_t;
use super::{fork, par_status_t};
use crate::types::{Error, Result, Status};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs the body of an entry: `*err` is NULL until there is an error, a forked child is refused, a panic becomes
/// [`Status::Panic`], and an error becomes its object and its status.
pub(super) fn guard(err: *mut *mut par_error_t, body: impl FnOnce() -> Result<Status>) -> par_status_t {
    clear(err);
    let outer = INSIDE.replace(true);
    let result = match fork::check() {
        Ok(()) => catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(crate::agent::panic_error(&*panic))),
        Err(forked) => Err(forked),
    };
    INSIDE.set(outer);
    match result {
        Ok(status) => status.code(),
        Err(error) => {
            let status = error.status().code();
            if !err.is_null() {
                // SAFETY: not NULL, and the header demands that it points to a writable pointer.
                unsafe { *err = par_error_t::into_raw(error) };
            }
            status
        }
    }
}

fn clear(err: *mut *mut par_error_t) {
    if !err.is_null() {
        // SAFETY: not NULL, and the header demands that it points to a writable pointer.
        unsafe { *err = std::ptr::null_mut() };
    }
}

/// Refuses a call that waits, on a thread of libpar: it would wait for itself.
pub(super) fn check_may_block() -> Result<()> {
    if crate::runtime::is_own_thread() {
        return Err(Error::new(Status::WouldDeadlock, "a blocking call was made from a thread of libpar")
            .with_hint("callbacks may make every call that does not block; hand this one to a thread of your own"));
    }
    Ok(())
}

/// A panic is told by an error object or a `failed` event, so nothing is to be printed. Panics elsewhere in a host that
/// shares our copy of Rust's library keep the hook they had.
pub(super) fn silence_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let ours = INSIDE.try_with(Cell::get).unwrap_or(true) || crate::runtime::is_own_thread();
            if !ours {
                previous(info);
            }
        }));
    });
}
