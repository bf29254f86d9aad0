//! Keeps SIGPIPE from ending a C host while one of its own threads drives I/O for a blocking call.
//!
//! On threads of libpar every signal is blocked for good. On the host's thread SIGPIPE is blocked for the call alone; one
//! that the call itself raised is taken back before the mask is restored, one that was pending before is left.

use std::mem::MaybeUninit;

/// Blocks SIGPIPE on this thread until it is dropped.
pub(super) struct NoSigpipe {
    /// The mask to go back to, if it has to be changed at all.
    restore: Option<libc::sigset_t>,
}

impl NoSigpipe {
    pub fn new() -> Self {
        let mut old = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: both sets are valid for the call, which writes `old` when it succeeds.
        let changed = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &sigpipe(), old.as_mut_ptr()) == 0 };
        if !changed {
            return Self { restore: None };
        }
        // SAFETY: written by the successful call above.
        let old = unsafe { old.assume_init() };
        // SAFETY: `old` is a valid set.
        let was_blocked = unsafe { libc::sigismember(&old, libc::SIGPIPE) } == 1;
        Self { restore: (!was_blocked).then_some(old) }
    }
}

impl Drop for NoSigpipe {
    fn drop(&mut self) {
        let Some(old) = self.restore else { return };
        // It was not blocked before, so none was pending on this thread: one that is now was raised by the call.
        #[cfg(not(target_os = "macos"))]
        {
            let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: valid set and time; no information about the signal is asked for.
            unsafe { libc::sigtimedwait(&sigpipe(), std::ptr::null_mut(), &now) };
        }
        // SAFETY: `old` is the mask this thread had.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &old, std::ptr::null_mut()) };
    }
}

fn sigpipe() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initializes the set, sigaddset gets it initialized.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE);
        set.assume_init()
    }
}
