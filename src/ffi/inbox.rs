//! Chapter 8: the inbox: host work of blocking calls, "ready" notes of streams, and, if configured, events and logs.

use super::error::par_error_t;
use super::guard::{check_may_block, guard};
use super::handle;
use super::stream::{OutFd, most, polled, waited};
use super::text::{OutText, timeout};
use super::{par_runtime_t, par_status_t};
use crate::types::Status;
use libc::size_t;
use std::ffi::c_char;

/// Take the next message without waiting. The first use of any inbox function opens the inbox.
///
/// @out    out  owned JSON, one message; free with par_free
/// @return PAR_OK with a message; PAR_PENDING; PAR_END after {"type":"closed"} was taken
/// @thread any; one consumer at a time, else PAR_ERR_BUSY    @blocks never    @returns owned    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_inbox_poll(
    rt: *mut par_runtime_t,
    out: *mut *mut c_char,
    out_len: *mut size_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    // SAFETY: the header demands it of every output.
    let out = unsafe { OutText::cleared(out, out_len) };
    guard(err, || {
        let runtime = handle::runtime(rt)?;
        out.check()?;
        polled(runtime.inbox().poll(|message| out.set(message))?)
    })
}

/// Take the next message, waiting for it.
///
/// @param  timeout_ms  below 0 for ever, 0 not at all
/// @out    out         owned JSON, one message; free with par_free
/// @return PAR_OK with a message; PAR_TIMEOUT; PAR_WOKEN after par_inbox_wake; PAR_END
/// @thread any but a thread of libpar; one consumer at a time, else PAR_ERR_BUSY    @blocks    @returns owned    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_inbox_wait(
    rt: *mut par_runtime_t,
    timeout_ms: i64,
    out: *mut *mut c_char,
    out_len: *mut size_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    // SAFETY: the header demands it of every output.
    let out = unsafe { OutText::cleared(out, out_len) };
    guard(err, || {
        let runtime = handle::runtime(rt)?;
        out.check()?;
        check_may_block()?;
        // The queue alone is held while waiting, so that freeing the runtime meanwhile closes it and ends the wait.
        let inbox = runtime.shared_inbox();
        drop(runtime);
        waited(inbox.wait(timeout(timeout_ms), |message| out.set(message))?)
    })
}

/// Take up to max messages at once, without waiting.
///
/// @param  max  0 for all
/// @out    out  owned JSON array of messages; free with par_free
/// @return as par_inbox_poll
/// @thread any; one consumer at a time, else PAR_ERR_BUSY    @blocks never    @returns owned    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_inbox_drain(
    rt: *mut par_runtime_t,
    max: u32,
    out: *mut *mut c_char,
    out_len: *mut size_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    // SAFETY: the header demands it of every output.
    let out = unsafe { OutText::cleared(out, out_len) };
    guard(err, || {
        let runtime = handle::runtime(rt)?;
        out.check()?;
        polled(runtime.inbox().drain(most(max), |messages| out.set_all(&[b"[", messages, b"]"]))?)
    })
}

/// End a wait on the inbox, or the next one if nobody waits.
///
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_inbox_wake(rt: *mut par_runtime_t) -> par_status_t {
    guard(std::ptr::null_mut(), || {
        handle::runtime(rt)?.inbox().wake();
        Ok(Status::Ok)
    })
}

/// A descriptor that is readable exactly while par_inbox_poll would return PAR_OK or PAR_END. Only wait on it.
///
/// @out    out_fd  borrowed; lives until par_runtime_free
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_inbox_fd(
    rt: *mut par_runtime_t,
    out_fd: *mut isize,
    err: *mut *mut par_error_t,
) -> par_status_t {
    // SAFETY: the header demands it of every output.
    let out_fd = unsafe { OutFd::cleared(out_fd) };
    guard(err, || {
        let runtime = handle::runtime(rt)?;
        out_fd.set(|| runtime.inbox().fd())
    })
}
