//! Chapter 6: streams and runs. Events are pulled; one consumer at a time.

use super::error::par_error_t;
use super::guard::{check_may_block, guard};
use super::handle;
use super::text::{OutText, input, timeout};
use super::{par_runtime_t, par_status_t};
use crate::events::{Polled, Waited};
use crate::types::{Error, Result, Status};
use libc::size_t;
use std::ffi::c_char;

/// A run that was started, or a method. Any thread may use it; one at a time may read from it.
pub struct par_stream_t {
    _private: [u8; 0],
}

/// Start an agent. What is wrong with the request is an error now; what goes wrong later is an event.
///
/// @param  request  JSON: agent, input, session, timeout_ms, run_id, tag, overflow, notify, events
/// @out    out      the stream, free with par_stream_free
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_stream_start(
    rt: *mut par_runtime_t,
    request: *const c_char,
    request_len: size_t,
    out: *mut *mut par_stream_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    if !out.is_null() {
        // SAFETY: not NULL, and the header demands that it is writable.
        unsafe { *out = std::ptr::null_mut() };
    }
    guard(err, || {
        let runtime = handle::runtime(rt)?;
        if out.is_null() {
            return Err(Error::new(Status::NullArg, "out is NULL"));
        }
        // SAFETY: the header demands it of every input.
        let request = unsafe { input(request, request_len, "request", runtime.limits().max_input_bytes) }?;
        let stream = handle::new_stream(runtime.stream(request)?)?;
        // SAFETY: checked above.
        unsafe { *out = stream };
        Ok(Status::Ok)
    })
}

/// Take the next event without waiting.
///
/// @out    out  owned JSON, one event; free with par_free
/// @return PAR_OK with an event; PAR_PENDING when there is none yet; PAR_END after the terminal event was taken
/// @thread any; one consumer at a time, else PAR_ERR_BUSY    @blocks never    @returns owned    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_stream_poll(
    s: *mut par_stream_t,
    out: *mut *mut c_char,
    out_len: *mut size_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    // SAFETY: the header demands it of every output.
    let out = unsafe { OutText::cleared(out, out_len) };
    guard(err, || {
        let stream = handle::stream(s)?;
        out.check()?;
        polled(stream.queue().poll(|event| out.set(event))?)
    })
}

/// Take the next event, waiting for it.
///
/// @param  timeout_ms  below 0 for ever, 0 not at all
/// @out    out         owned JSON, one event; free with par_free
/// @return PAR_OK with an event; PAR_TIMEOUT; PAR_WOKEN after par_stream_wake; PAR_END after the terminal event
/// @thread any but a thread of libpar; one consumer at a time, else PAR_ERR_BUSY    @blocks    @returns owned    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_stream_wait(
    s: *mut par_stream_t,
    timeout_ms: i64,
    out: *mut *mut c_char,
    out_len: *mut size_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    // SAFETY: the header demands it of every output.
    let out = unsafe { OutText::cleared(out, out_len) };
    guard(err, || {
        let stream = handle::stream(s)?;
        out.check()?;
        check_may_block()?;
        waited(stream.queue().wait(timeout(timeout_ms), |event| out.set(event))?)
    })
}

/// Take up to max events at once, without waiting: one crossing for many tokens.
///
/// @param  max  0 for all
/// @out    out  owned JSON array of events; free with par_free
/// @return as par_stream_poll
/// @thread any; one consumer at a time, else PAR_ERR_BUSY    @blocks never    @returns owned    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_stream_drain(
    s: *mut par_stream_t,
    max: u32,
    out: *mut *mut c_char,
    out_len: *mut size_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    // SAFETY: the header demands it of every output.
    let out = unsafe { OutText::cleared(out, out_len) };
    guard(err, || {
        let stream = handle::stream(s)?;
        out.check()?;
        polled(stream.queue().drain(most(max), |events| out.set_all(&[b"[", events, b"]"]))?)
    })
}

/// The result of the run or method. May be asked as often as wanted.
///
/// @out    out  owned JSON; free with par_free
/// @return PAR_PENDING until the terminal event can be read; then PAR_OK with the result, or how it failed, the same error as in
///         the event. Once this is not PAR_PENDING, par_stream_poll never is, and the descriptor is readable
/// @thread any    @blocks never    @returns owned    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_stream_result(
    s: *mut par_stream_t,
    out: *mut *mut c_char,
    out_len: *mut size_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    // SAFETY: the header demands it of every output.
    let out = unsafe { OutText::cleared(out, out_len) };
    guard(err, || {
        let stream = handle::stream(s)?;
        out.check()?;
        match stream.answer() {
            None => Ok(Status::Pending),
            Some(Ok(result)) => out.set(result.as_bytes()),
            Some(Err(error)) => Err(error),
        }
    })
}

/// How a stream stands.
///
/// @out    out  owned JSON {run_id, state, queued, dropped}; free with par_free
/// @thread any    @blocks never    @returns owned    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_stream_info(
    s: *mut par_stream_t,
    out: *mut *mut c_char,
    out_len: *mut size_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    // SAFETY: the header demands it of every output.
    let out = unsafe { OutText::cleared(out, out_len) };
    guard(err, || out.check()?.set(handle::stream(s)?.info().as_bytes()))
}

/// End a run early. It still has exactly one terminal event. Idempotent; no effect on a run that ended.
///
/// @param  reason  told in the event; may be empty
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_stream_cancel(
    s: *mut par_stream_t,
    reason: *const c_char,
    reason_len: size_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    guard(err, || {
        let stream = handle::stream(s)?;
        // SAFETY: the header demands it of every input.
        let reason = unsafe { input(reason, reason_len, "reason", MAX_REASON) }?;
        stream.cancel(reason_or_default(reason));
        Ok(Status::Ok)
    })
}

/// End a wait on the stream, or the next one if nobody waits.
///
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_stream_wake(s: *mut par_stream_t) -> par_status_t {
    guard(std::ptr::null_mut(), || {
        handle::stream(s)?.queue().wake();
        Ok(Status::Ok)
    })
}

/// A descriptor that is readable exactly while par_stream_poll would return PAR_OK or PAR_END. For poll, epoll, select,
/// kqueue and everything built on them. Only wait on it: never read, write or close it.
///
/// @out    out_fd  borrowed; lives until par_stream_free
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_stream_fd(
    s: *mut par_stream_t,
    out_fd: *mut isize,
    err: *mut *mut par_error_t,
) -> par_status_t {
    // SAFETY: the header demands it of every output.
    let out_fd = unsafe { OutFd::cleared(out_fd) };
    guard(err, || {
        let stream = handle::stream(s)?;
        out_fd.set(|| stream.queue().fd())
    })
}

/// Free a stream. A run that lives is cancelled. NULL is ignored.
///
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_stream_free(s: *mut par_stream_t) {
    guard(std::ptr::null_mut(), || {
        if let Some(stream) = handle::take_stream(s) {
            stream.abandon();
        }
        Ok(Status::Ok)
    });
}

/// End a living run by its id, a blocking one too.
///
/// @param  reason  told in the event and the error; may be empty
/// @return PAR_OK, or PAR_ERR_NOT_FOUND when no such run lives
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_run_cancel(
    rt: *mut par_runtime_t,
    run_id: *const c_char,
    run_id_len: size_t,
    reason: *const c_char,
    reason_len: size_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    guard(err, || {
        let runtime = handle::runtime(rt)?;
        // SAFETY: the header demands it of every input.
        let (run_id, reason) = unsafe {
            (input(run_id, run_id_len, "run_id", MAX_REASON)?, input(reason, reason_len, "reason", MAX_REASON)?)
        };
        runtime.cancel_run(run_id, reason_or_default(reason))?;
        Ok(Status::Ok)
    })
}

/// Say something to a living run: at the next safe point, or when it has answered.
///
/// @param  message  JSON: a text, or {"input", "when": "now" | "follow_up"}
/// @return PAR_OK; PAR_ERR_NOT_FOUND when the run has ended or is ending; PAR_ERR_LIMIT when too much waits
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_run_steer(
    rt: *mut par_runtime_t,
    run_id: *const c_char,
    run_id_len: size_t,
    message: *const c_char,
    message_len: size_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    guard(err, || {
        let runtime = handle::runtime(rt)?;
        // SAFETY: the header demands it of every input.
        let run_id = unsafe { input(run_id, run_id_len, "run_id", MAX_REASON) }?;
        // SAFETY: the header demands it of every input.
        let message = unsafe { input(message, message_len, "message", runtime.limits().max_input_bytes) }?;
        runtime.steer(run_id, message)?;
        Ok(Status::Ok)
    })
}

/// How a run stands, living or lately ended.
///
/// @out    out  owned JSON {run_id, agent, session, status, started_at_ms, ended_at_ms, error}; free with par_free
/// @thread any    @blocks never    @returns owned    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_run_status(
    rt: *mut par_runtime_t,
    run_id: *const c_char,
    run_id_len: size_t,
    out: *mut *mut c_char,
    out_len: *mut size_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    // SAFETY: the header demands it of every output.
    let out = unsafe { OutText::cleared(out, out_len) };
    guard(err, || {
        let runtime = handle::runtime(rt)?;
        out.check()?;
        // SAFETY: the header demands it of every input.
        let run_id = unsafe { input(run_id, run_id_len, "run_id", MAX_REASON) }?;
        out.set(runtime.run_status(run_id)?.as_bytes())
    })
}

/// A reason or an id is a line, not a document.
const MAX_REASON: usize = 64 << 10;

fn reason_or_default(reason: &str) -> &str {
    if reason.is_empty() { "the host cancelled it" } else { reason }
}

pub(super) fn most(max: u32) -> usize {
    if max == 0 { usize::MAX } else { usize::try_from(max).unwrap_or(usize::MAX) }
}

pub(super) fn polled(polled: Polled<Result<Status>>) -> Result<Status> {
    match polled {
        Polled::Event(stored) => stored,
        Polled::Pending => Ok(Status::Pending),
        Polled::End => Ok(Status::End),
    }
}

pub(super) fn waited(waited: Waited<Result<Status>>) -> Result<Status> {
    match waited {
        Waited::Event(stored) => stored,
        Waited::Timeout => Ok(Status::Timeout),
        Waited::Woken => Ok(Status::Woken),
        Waited::End => Ok(Status::End),
    }
}

/// Where a descriptor goes out.
pub(super) struct OutFd(*mut isize);

impl OutFd {
    /// Sets the output to -1: 0 would be a descriptor.
    ///
    /// # Safety
    /// The pointer is NULL or writable until the call returns.
    pub unsafe fn cleared(out: *mut isize) -> Self {
        if !out.is_null() {
            // SAFETY: writable, as the caller promises.
            unsafe { *out = -1 };
        }
        Self(out)
    }

    pub fn set(self, fd: impl FnOnce() -> Result<std::os::fd::RawFd>) -> Result<Status> {
        if self.0.is_null() {
            return Err(Error::new(Status::NullArg, "out_fd is NULL"));
        }
        let fd = isize::try_from(fd()?).unwrap_or(-1);
        // SAFETY: not NULL, and writable by the promise of `cleared`.
        unsafe { *self.0 = fd };
        Ok(Status::Ok)
    }
}
