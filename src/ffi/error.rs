//! Chapter 2: errors. An error object belongs to the caller, never changes, and may go to another thread.

use super::par_status_t;
use crate::types::{Error, Status};
use std::ffi::{CStr, CString, c_char};

/// An error. Immutable; freed by par_error_free; may be kept, and used on any thread.
pub struct par_error_t {
    status: Status,
    message: CString,
    json: CString,
}

impl par_error_t {
    pub(super) fn into_raw(error: Error) -> *mut Self {
        let message = c_text(error.to_string());
        let json = c_text(error.to_json());
        Box::into_raw(Box::new(Self { status: error.status(), message, json }))
    }
}

/// JSON has no raw NUL; a message that quotes one loses it.
fn c_text(mut text: String) -> CString {
    text.retain(|c| c != '\0');
    CString::new(text).unwrap_or_default()
}

/// The status of an error; PAR_OK for NULL.
///
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_error_status(error: *const par_error_t) -> par_status_t {
    // SAFETY: NULL, or an error that was not freed: the header demands it.
    unsafe { error.as_ref() }.map_or(Status::Ok, |error| error.status).code()
}

/// One English line: where, what, and what to do.
///
/// @return text that lives until par_error_free; "" for NULL
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_error_message(error: *const par_error_t) -> *const c_char {
    // SAFETY: NULL, or an error that was not freed: the header demands it.
    unsafe { error.as_ref() }.map_or(c"", |error| CStr::as_ref(&error.message)).as_ptr()
}

/// The whole error: status, name, category, code, message, hint, path, retryable, retry_after_ms, provider, run_id.
///
/// @return JSON that lives until par_error_free; "{}" for NULL
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_error_json(error: *const par_error_t) -> *const c_char {
    // SAFETY: NULL, or an error that was not freed: the header demands it.
    unsafe { error.as_ref() }.map_or(c"{}", |error| CStr::as_ref(&error.json)).as_ptr()
}

/// Frees an error. NULL is ignored.
///
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_error_free(error: *mut par_error_t) {
    if !error.is_null() {
        // SAFETY: made by `into_raw` and freed once: the header demands it.
        drop(unsafe { Box::from_raw(error) });
    }
}
