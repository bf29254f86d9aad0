//! Strings across the boundary: in as pointer and length, out as NUL-terminated `malloc` memory.

use crate::types::{Error, Result, Status};
use libc::size_t;
use std::ffi::{CStr, c_char};

/// The length of an input that is NUL-terminated: `PAR_NTS` of the header.
pub(super) const NUL_TERMINATED: size_t = size_t::MAX;

/// What an input may have where no runtime's limit applies.
pub(super) const MAX_INPUT_BYTES: usize = 64 << 20;

/// Reads an input. NULL with length 0 is empty.
///
/// # Safety
/// `text` is NULL, or readable for `len` bytes or, with [`NUL_TERMINATED`], up to its NUL, while `'a` lasts.
pub(super) unsafe fn input<'a>(text: *const c_char, len: size_t, name: &str, most: usize) -> Result<&'a str> {
    let bytes: &[u8] = if text.is_null() {
        if len != 0 {
            return Err(Error::new(Status::NullArg, format!("the {name} is NULL")));
        }
        &[]
    } else if len == NUL_TERMINATED {
        // SAFETY: not NULL, and the caller says that it is NUL-terminated.
        unsafe { CStr::from_ptr(text) }.to_bytes()
    } else {
        if len > most {
            return Err(too_large(name, len, most));
        }
        // SAFETY: not NULL, and the caller says that it has `len` bytes; `len` is below isize::MAX.
        unsafe { std::slice::from_raw_parts(text.cast::<u8>(), len) }
    };
    if bytes.len() > most {
        return Err(too_large(name, bytes.len(), most));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        Error::new(Status::Utf8, format!("the {name} is not UTF-8 at byte {}", error.valid_up_to()))
            .with_hint("every input is UTF-8: encode it before the call")
    })
}

fn too_large(name: &str, bytes: usize, most: usize) -> Error {
    Error::new(Status::TooLarge, format!("the {name} has {bytes} bytes, more than {most}"))
        .with_hint("pass less, or raise limits.max_input_bytes")
}

/// Where a string goes out.
#[derive(Clone, Copy)]
pub(super) struct OutText {
    out: *mut *mut c_char,
    len: *mut size_t,
}

impl OutText {
    /// Sets the outputs to NULL and 0.
    ///
    /// # Safety
    /// Each pointer is NULL or writable until the call returns.
    pub unsafe fn cleared(out: *mut *mut c_char, len: *mut size_t) -> Self {
        if !out.is_null() {
            // SAFETY: writable, as the caller promises.
            unsafe { *out = std::ptr::null_mut() };
        }
        if !len.is_null() {
            // SAFETY: as above.
            unsafe { *len = 0 };
        }
        Self { out, len }
    }

    /// Refuses to work for nothing.
    pub fn check(self) -> Result<Self> {
        if self.out.is_null() {
            return Err(Error::new(Status::NullArg, "out is NULL").with_hint("pass the address of a char pointer"));
        }
        Ok(self)
    }

    /// Stores a string.
    pub fn set(self, text: &[u8]) -> Result<Status> {
        self.set_all(&[text])
    }

    /// Stores pieces as one string.
    pub fn set_all(self, pieces: &[&[u8]]) -> Result<Status> {
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        // SAFETY: malloc may be called with any size; the result is checked.
        let memory = unsafe { libc::malloc(total + 1) }.cast::<u8>();
        if memory.is_null() {
            return Err(Error::new(Status::OutOfMemory, format!("no memory for {total} bytes of output")));
        }
        let mut at = 0;
        for piece in pieces {
            // SAFETY: the pieces sum to `total`, and the memory, which is new and so apart from them, has one byte more.
            unsafe { std::ptr::copy_nonoverlapping(piece.as_ptr(), memory.add(at), piece.len()) };
            at += piece.len();
        }
        // SAFETY: `at` is `total`, the last byte of the memory; `out` and `len` are writable by the promise of `cleared`.
        unsafe {
            *memory.add(at) = 0;
            *self.out = memory.cast();
            if !self.len.is_null() {
                *self.len = total;
            }
        }
        Ok(Status::Ok)
    }
}

/// A timeout in milliseconds: below 0 for ever.
pub(super) fn timeout(ms: i64) -> Option<std::time::Duration> {
    u64::try_from(ms).ok().map(std::time::Duration::from_millis)
}
