//! Chapter 9: callbacks. Optional: everything works without.
//!
//! They run one at a time on one thread of the runtime, never inside a call of the host. A NULL callback unregisters and
//! is a barrier: when the call returns, none runs or will run. Inside a callback of the same runtime it takes effect when that
//! returns; on any other thread of the library it would wait for a thread that may wait for this one, so it is refused.

use super::error::par_error_t;
use super::guard::guard;
use super::handle;
use super::{par_runtime_t, par_status_t};
use crate::config::LogLevel;
use crate::runtime::{Callback, CallbackSlot};
use crate::types::{Error, Result, Status};
use libc::size_t;
use std::ffi::c_char;

/// A callback: user_data as registered, a token or 0, and a JSON object that lives until it returns. It must not unwind.
pub type par_callback_t =
    Option<unsafe extern "C" fn(user_data: usize, token: u64, json: *const c_char, json_len: size_t)>;

/// Called once for each registration that succeeded, after its last callback, on the callback thread.
pub type par_destroy_t = Option<unsafe extern "C" fn(user_data: usize)>;

/// Take host tools: called with the token and the tool_call event; answered by par_tool_complete or par_tool_fail, at
/// once or later. Goes before streams and the inbox.
///
/// @param  cb       NULL unregisters
/// @param  destroy  may be NULL
/// @thread any; another runtime's callbacks cannot unregister: PAR_ERR_WOULD_DEADLOCK
/// @blocks when unregistering: until a running callback returns    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_on_tool(
    rt: *mut par_runtime_t,
    cb: par_callback_t,
    user_data: usize,
    destroy: par_destroy_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    guard(err, || register(rt, CallbackSlot::Tool, LogLevel::Off, cb, user_data, destroy))
}

/// Take approval requests: called with token 0 and the approval_request event; answered by par_approval_resolve, at once or
/// later. Goes before streams and the inbox.
///
/// @param  cb       NULL unregisters
/// @param  destroy  may be NULL
/// @thread any; another runtime's callbacks cannot unregister: PAR_ERR_WOULD_DEADLOCK
/// @blocks when unregistering: until a running callback returns    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_on_approval(
    rt: *mut par_runtime_t,
    cb: par_callback_t,
    user_data: usize,
    destroy: par_destroy_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    guard(err, || register(rt, CallbackSlot::Approval, LogLevel::Off, cb, user_data, destroy))
}

/// Take the events of every run. When the host is slow the oldest are dropped, and the next has "dropped": how many.
///
/// @param  cb       NULL unregisters
/// @param  destroy  may be NULL
/// @thread any; another runtime's callbacks cannot unregister: PAR_ERR_WOULD_DEADLOCK
/// @blocks when unregistering: until a running callback returns    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_on_event(
    rt: *mut par_runtime_t,
    cb: par_callback_t,
    user_data: usize,
    destroy: par_destroy_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    guard(err, || register(rt, CallbackSlot::Event, LogLevel::Off, cb, user_data, destroy))
}

/// Take log messages. When the host is slow the oldest are dropped, and the next has "dropped": how many.
///
/// @param  level    1 error, 2 warn, 3 info, 4 debug, 5 trace: this and worse
/// @param  cb       NULL unregisters
/// @param  destroy  may be NULL
/// @thread any; another runtime's callbacks cannot unregister: PAR_ERR_WOULD_DEADLOCK
/// @blocks when unregistering: until a running callback returns    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_on_log(
    rt: *mut par_runtime_t,
    level: i32,
    cb: par_callback_t,
    user_data: usize,
    destroy: par_destroy_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    guard(err, || {
        let level = match level {
            0 => LogLevel::Off,
            1 => LogLevel::Error,
            2 => LogLevel::Warn,
            3 => LogLevel::Info,
            4 => LogLevel::Debug,
            5 => LogLevel::Trace,
            other => {
                return Err(Error::new(Status::InvalidArg, format!("{other} is not a log level"))
                    .with_hint("0 off, 1 error, 2 warn, 3 info, 4 debug, 5 trace"));
            }
        };
        register(rt, CallbackSlot::Log, level, cb, user_data, destroy)
    })
}

/// Be told when the inbox or a stream started from now on goes from empty to not empty: for loops without descriptors.
///
/// @param  cb       NULL unregisters; gets {"type":"wakeup","run_id":...} or {"type":"wakeup","inbox":true}
/// @param  destroy  may be NULL
/// @thread any; another runtime's callbacks cannot unregister: PAR_ERR_WOULD_DEADLOCK
/// @blocks when unregistering: until a running callback returns    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_on_wakeup(
    rt: *mut par_runtime_t,
    cb: par_callback_t,
    user_data: usize,
    destroy: par_destroy_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    guard(err, || register(rt, CallbackSlot::Wakeup, LogLevel::Off, cb, user_data, destroy))
}

fn register(
    rt: *mut par_runtime_t,
    slot: CallbackSlot,
    level: LogLevel,
    cb: par_callback_t,
    user_data: usize,
    destroy: par_destroy_t,
) -> Result<Status> {
    let runtime = handle::runtime(rt)?;
    let callback = cb.map(|cb| {
        let call = move |token: u64, json: &[u8]| {
            let mut text = Vec::with_capacity(json.len() + 1);
            text.extend_from_slice(json);
            text.push(0);
            // SAFETY: the host registered it as a function of this type; the text lives until it returns.
            unsafe { cb(user_data, token, text.as_ptr().cast(), json.len()) };
        };
        let finish = move || {
            if let Some(destroy) = destroy {
                // SAFETY: the host registered it as a function of this type, to be called once.
                unsafe { destroy(user_data) };
            }
        };
        Callback::new(call, finish)
    });
    runtime.set_callback(slot, level, callback).map(|()| Status::Ok).map_err(|(error, callback)| {
        if let Some(callback) = callback {
            callback.disarm();
        }
        error
    })
}
