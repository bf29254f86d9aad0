//! Chapter 1: version and memory. Never fail, and work after a fork.

use super::par_status_t;
use crate::types::Status;
use std::ffi::{c_char, c_void};

/// cbindgen:ignore
pub const ABI_VERSION: u32 = 0x0001_0000;

/// The ABI of the loaded library; compare with PAR_ABI_VERSION, the header's.
///
/// @return major << 16 | minor
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub extern "C" fn par_abi_version() -> u32 {
    ABI_VERSION
}

/// The version of the loaded library, such as "0.1.0".
///
/// @return static text
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub extern "C" fn par_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// How the library was built.
///
/// @return static JSON: version, abi_version, target, profile, commit, panic, tls, features
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub extern "C" fn par_build_info() -> *const c_char {
    const INFO: &str = concat!(
        r#"{"version":""#,
        env!("CARGO_PKG_VERSION"),
        r#"","abi_version":65536,"target":""#,
        env!("PAR_TARGET"),
        r#"","profile":""#,
        env!("PAR_PROFILE"),
        r#"","commit":""#,
        env!("PAR_COMMIT"),
        r#"","panic":""#,
        env!("PAR_PANIC"),
        r#"","tls":"rustls-ring","features":[]}"#,
        "\0"
    );
    INFO.as_ptr().cast()
}

/// The name of a status, such as "PAR_ERR_UTF8".
///
/// @return static text, never NULL; "PAR_ERR_UNKNOWN" for a number that is none
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub extern "C" fn par_status_name(status: par_status_t) -> *const c_char {
    Status::from_code(status).map_or(c"PAR_ERR_UNKNOWN", Status::c_name).as_ptr()
}

/// Frees what this library returned through an out parameter. NULL is ignored.
///
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_free(p: *mut c_void) {
    // SAFETY: NULL, or from malloc by `OutText`, and freed once: the header demands it.
    unsafe { libc::free(p) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use std::ffi::CStr;

    #[test]
    fn build_info_is_json_and_says_that_panics_unwind() {
        // SAFETY: static and NUL-terminated.
        let info = unsafe { CStr::from_ptr(par_build_info()) };
        let info: serde_json::Value = serde_json::from_slice(info.to_bytes()).unwrap();
        assert_eq!(info["abi_version"], ABI_VERSION);
        assert_eq!(info["panic"], "unwind");
    }
}
