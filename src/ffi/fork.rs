//! Knows whether the process was forked after a runtime was created in it.
//!
//! Threads do not survive a fork, so nothing of a runtime works in the child. On Linux the mark is a page that the
//! kernel wipes in the child (`MADV_WIPEONFORK`, madvise(2)): the check is a load, no system call. Elsewhere, or when
//! that fails, it is the process id.

use crate::types::{Error, Result, Status};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

enum Mark {
    #[cfg(target_os = "linux")]
    Page(&'static AtomicU32),
    Pid(u32),
}

static MARK: OnceLock<Mark> = OnceLock::new();

/// Remembers that this process has created a runtime.
pub(super) fn remember() {
    MARK.get_or_init(|| {
        #[cfg(target_os = "linux")]
        if let Some(page) = wiped_page() {
            page.store(1, Ordering::Release);
            return Mark::Page(page);
        }
        Mark::Pid(std::process::id())
    });
}

/// Whether a parent of this process, and not this process, has created a runtime.
pub(super) fn is_forked() -> bool {
    match MARK.get() {
        None => false,
        #[cfg(target_os = "linux")]
        Some(Mark::Page(page)) => page.load(Ordering::Acquire) == 0,
        Some(Mark::Pid(pid)) => *pid != std::process::id(),
    }
}

/// Refuses work in a forked child.
pub(super) fn check() -> Result<()> {
    if !is_forked() {
        return Ok(());
    }
    Err(Error::new(Status::Forked, "this process was forked after a runtime was created in its parent")
        .with_hint("create the runtime after fork (gunicorn: post_fork; Puma: on_worker_boot; multiprocessing: spawn)"))
}

#[cfg(target_os = "linux")]
fn wiped_page() -> Option<&'static AtomicU32> {
    // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no memory of ours.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the range is the mapping just made.
    if unsafe { libc::madvise(page, PAGE, libc::MADV_WIPEONFORK) } != 0 {
        // SAFETY: as above; nothing refers to it yet.
        unsafe { libc::munmap(page, PAGE) };
        return None;
    }
    // SAFETY: page-aligned, zeroed, readable and writable, never unmapped, and used as an atomic only.
    Some(unsafe { &*page.cast::<AtomicU32>() })
}

/// Enough for the mark on every page size: the kernel rounds up.
#[cfg(target_os = "linux")]
const PAGE: usize = 4096;
