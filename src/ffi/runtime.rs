//! Chapter 3: the runtime.

use super::error::par_error_t;
use super::guard::{check_may_block, guard, silence_panics};
use super::text::{MAX_INPUT_BYTES, OutText, input, timeout};
use super::version::ABI_VERSION;
use super::{fork, handle, par_status_t};
use crate::runtime::Runtime;
use crate::types::{Error, Status};
use libc::size_t;
use std::ffi::c_char;

/// A runtime. Any thread may use it, at the same time.
pub struct par_runtime_t {
    _private: [u8; 0],
}

/// Create a runtime.
///
/// @param  abi_version  PAR_ABI_VERSION: what the caller was compiled against
/// @param  config       JSON; {} is valid
/// @out    out          the runtime; end it with par_runtime_close, then par_runtime_free
/// @return PAR_OK, or PAR_ERR_ABI, PAR_ERR_JSON, PAR_ERR_SCHEMA, PAR_ERR_FORKED, ...
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_runtime_create(
    abi_version: u32,
    config: *const c_char,
    config_len: size_t,
    out: *mut *mut par_runtime_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    if !out.is_null() {
        // SAFETY: not NULL, and the header demands that it is writable.
        unsafe { *out = std::ptr::null_mut() };
    }
    guard(err, || {
        silence_panics();
        if out.is_null() {
            return Err(Error::new(Status::NullArg, "out is NULL"));
        }
        check_abi(abi_version)?;
        // SAFETY: the header demands it of every input.
        let config = unsafe { input(config, config_len, "config", MAX_INPUT_BYTES) }?;
        let runtime = Runtime::create(if config.is_empty() { "{}" } else { config })?;
        fork::remember();
        let handle = handle::new_runtime(runtime)?;
        // SAFETY: checked above.
        unsafe { *out = handle };
        Ok(Status::Ok)
    })
}

fn check_abi(header: u32) -> crate::types::Result<()> {
    let (major, minor) = (header >> 16, header & 0xffff);
    let (own_major, own_minor) = (ABI_VERSION >> 16, ABI_VERSION & 0xffff);
    if major == own_major && minor <= own_minor {
        return Ok(());
    }
    Err(Error::new(
        Status::Abi,
        format!("the header has ABI {major}.{minor}, the library {own_major}.{own_minor}"),
    )
    .with_hint("the major numbers must be equal and the header's minor not above the library's: install both from one release"))
}

/// Health, counts, open handles and bounds. Works on a closed runtime too, and then says how closing went.
///
/// @out    out  owned JSON, free with par_free
/// @thread any    @blocks never    @returns owned    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_runtime_info(
    rt: *mut par_runtime_t,
    out: *mut *mut c_char,
    out_len: *mut size_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    // SAFETY: the header demands it of every output.
    let out = unsafe { OutText::cleared(out, out_len) };
    guard(err, || out.check()?.set(handle::runtime(rt)?.info().to_string().as_bytes()))
}

/// Close a runtime: refuse new work, let runs end by themselves, suspend or cancel those that do not, join, write, report.
/// Idempotent. Streams stay readable to their end.
///
/// Runs may go on for shutdown.drain_timeout seconds (30 by default), or for most of timeout_ms if that is shorter. Then a stored
/// run is suspended: its stream ends with the event "suspended", and runs.resume continues it, in this process or another. A run
/// that is not stored is cancelled. A later call with a shorter timeout shortens the wait.
///
/// @param  timeout_ms  how long to wait; below 0 for ever
/// @return PAR_OK when closed; PAR_TIMEOUT when it goes on in the background (call again to wait on); PAR_ERR_PERSISTENCE when
///         closed, and something could not be written; PAR_ERR_PROVIDER when closed, and a mock provider with assert_complete
///         was not played to its end
/// @thread any but a thread of libpar, which gets PAR_ERR_WOULD_DEADLOCK    @blocks    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_runtime_close(
    rt: *mut par_runtime_t,
    timeout_ms: i64,
    err: *mut *mut par_error_t,
) -> par_status_t {
    guard(err, || {
        let runtime = handle::runtime(rt)?;
        check_may_block()?;
        match runtime.close(timeout(timeout_ms)) {
            None => Ok(Status::Timeout),
            Some(report) => report.problem().map_or(Ok(Status::Ok), Err),
        }
    })
}

/// Free a runtime. One that was not closed is closed in the background. NULL is ignored.
///
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_runtime_free(rt: *mut par_runtime_t) {
    guard(std::ptr::null_mut(), || {
        if let Some(runtime) = handle::take_runtime(rt) {
            runtime.begin_close();
        }
        Ok(Status::Ok)
    });
}
