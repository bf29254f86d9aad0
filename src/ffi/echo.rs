//! Chapter 10: an aid for the tests of bindings.

use super::error::par_error_t;
use super::guard::guard;
use super::par_status_t;
use super::text::{MAX_INPUT_BYTES, OutText, input};
use crate::config::strict;
use libc::size_t;
use std::ffi::c_char;

/// Parse JSON as strictly as every other input and give it back: what a binding's strings survive.
///
/// @out    out  owned JSON; free with par_free
/// @thread any    @blocks never    @returns owned    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_echo(
    json: *const c_char,
    json_len: size_t,
    out: *mut *mut c_char,
    out_len: *mut size_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    // SAFETY: the header demands it of every output.
    let out = unsafe { OutText::cleared(out, out_len) };
    guard(err, || {
        out.check()?;
        // SAFETY: the header demands it of every input.
        let json = unsafe { input(json, json_len, "json", MAX_INPUT_BYTES) }?;
        out.set(strict::parse(json, "json")?.to_string().as_bytes())
    })
}
