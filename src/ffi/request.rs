//! Chapter 5: request and response.

use super::error::par_error_t;
use super::guard::{check_may_block, guard};
use super::handle;
use super::signals::NoSigpipe;
use super::text::{OutText, input, timeout};
use super::{par_runtime_t, par_status_t, par_stream_t};
use crate::types::{Error, Status};
use libc::size_t;
use std::ffi::c_char;

/// Run an agent and wait for its result. The calling thread drives the I/O itself.
///
/// @param  request     JSON: agent, input, session, timeout_ms, run_id, tag
/// @param  timeout_ms  then PAR_ERR_DEADLINE; below 0 for ever
/// @out    out         owned JSON, the result; free with par_free
/// @return PAR_OK, or how the run failed
/// @thread any but a thread of libpar    @blocks    @returns owned    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_invoke(
    rt: *mut par_runtime_t,
    request: *const c_char,
    request_len: size_t,
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
        // SAFETY: the header demands it of every input.
        let request = unsafe { input(request, request_len, "request", runtime.limits().max_input_bytes) }?;
        let _no_sigpipe = NoSigpipe::new();
        out.set(runtime.invoke(request, timeout(timeout_ms))?.as_bytes())
    })
}

/// Call a method: everything that needs no handle and no token. "describe" lists them.
///
/// @param  params      JSON; NULL with length 0 is {}
/// @param  timeout_ms  then PAR_ERR_DEADLINE; below 0 for ever
/// @out    out         owned JSON, the answer; free with par_free
/// @thread any but a thread of libpar    @blocks    @returns owned    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_call(
    rt: *mut par_runtime_t,
    method: *const c_char,
    method_len: size_t,
    params: *const c_char,
    params_len: size_t,
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
        let most = runtime.limits().max_input_bytes;
        // SAFETY: the header demands it of every input.
        let (method, params) =
            unsafe { (input(method, method_len, "method", most)?, input(params, params_len, "params", most)?) };
        let _no_sigpipe = NoSigpipe::new();
        out.set(runtime.call(method, params, timeout(timeout_ms))?.as_bytes())
    })
}

/// Start a method: a stream with one terminal event, and the answer as its result.
///
/// @out    out  the stream, free with par_stream_free
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_call_start(
    rt: *mut par_runtime_t,
    method: *const c_char,
    method_len: size_t,
    params: *const c_char,
    params_len: size_t,
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
        let most = runtime.limits().max_input_bytes;
        // SAFETY: the header demands it of every input.
        let (method, params) =
            unsafe { (input(method, method_len, "method", most)?, input(params, params_len, "params", most)?) };
        let stream = handle::new_stream(runtime.call_start(method, params)?)?;
        // SAFETY: checked above.
        unsafe { *out = stream };
        Ok(Status::Ok)
    })
}
