//! Chapter 7: host work, answered by token: once, from any thread, also inside a callback.

use super::error::par_error_t;
use super::guard::guard;
use super::handle;
use super::text::input;
use super::{par_runtime_t, par_status_t};
use crate::runtime::Runtime;
use crate::types::{Result, Status};
use libc::size_t;
use std::ffi::c_char;

/// Answer a tool call with its result.
///
/// @param  token   from the tool_call event
/// @param  result  any JSON; a string is told to the model as its text, anything else as its JSON
/// @return PAR_OK; PAR_ERR_STALE_TOKEN when it was answered, cancelled, timed out or is another runtime's;
///         PAR_ERR_JSON, PAR_ERR_TOO_LARGE, or PAR_ERR_SCHEMA for content parts that no model could be shown, after which the
///         token still waits
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_tool_complete(
    rt: *mut par_runtime_t,
    token: u64,
    result: *const c_char,
    result_len: size_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    // SAFETY: the header demands it of every input.
    guard(err, || unsafe { answer(rt, token, result, result_len, "result", Runtime::tool_complete) })
}

/// Answer a tool call with a failure. The model is told and may act on it.
///
/// @param  error  JSON {"message", "code"?, "retryable"?}
/// @return as par_tool_complete
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_tool_fail(
    rt: *mut par_runtime_t,
    token: u64,
    error: *const c_char,
    error_len: size_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    // SAFETY: the header demands it of every input.
    guard(err, || unsafe { answer(rt, token, error, error_len, "error", Runtime::tool_fail) })
}

/// Tell how far a tool call is. It gets its whole time anew.
///
/// @param  note  any JSON, passed on in a tool_progress event
/// @return as par_tool_complete; PAR_ERR_LIMIT when too many notes wait
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_tool_progress(
    rt: *mut par_runtime_t,
    token: u64,
    note: *const c_char,
    note_len: size_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    // SAFETY: the header demands it of every input.
    guard(err, || unsafe { answer(rt, token, note, note_len, "note", Runtime::tool_progress) })
}

/// Answer an approval request. An approved call then really runs.
///
/// @param  approval_id  from the approval_request event
/// @param  decision     JSON: "approve", or {"type": "approve" | "reject" | "edit", "reason"?, "input"?, "approver"?}
/// @return PAR_OK; PAR_ERR_NOT_FOUND when it was answered, has expired, or its run has ended; PAR_ERR_SCHEMA when edited
///         arguments do not fit, after which it still waits
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_approval_resolve(
    rt: *mut par_runtime_t,
    approval_id: *const c_char,
    approval_id_len: size_t,
    decision: *const c_char,
    decision_len: size_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    guard(err, || {
        let runtime = handle::runtime(rt)?;
        let most = runtime.limits().max_input_bytes;
        // SAFETY: the header demands it of every input.
        let approval_id = unsafe { input(approval_id, approval_id_len, "approval_id", most) }?;
        // SAFETY: the header demands it of every input.
        let decision = unsafe { input(decision, decision_len, "decision", most) }?;
        runtime.approval_resolve(approval_id, decision)?;
        Ok(Status::Ok)
    })
}

/// # Safety
/// As for [`input`].
unsafe fn answer(
    rt: *mut par_runtime_t,
    token: u64,
    text: *const c_char,
    len: size_t,
    name: &str,
    act: impl FnOnce(&Runtime, u64, &str) -> Result<()>,
) -> Result<Status> {
    let runtime = handle::runtime(rt)?;
    // SAFETY: as the caller promises.
    let text = unsafe { input(text, len, name, runtime.limits().max_input_bytes) }?;
    act(&runtime, token, text)?;
    Ok(Status::Ok)
}
