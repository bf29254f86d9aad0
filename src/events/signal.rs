//! A file descriptor that is readable exactly while something is to be had.
//!
//! The library arms and clears it; the host only polls it. Linux: an eventfd. Elsewhere: a pipe.

use crate::types::{Error, Result, Status};
use std::os::fd::{AsRawFd, RawFd};

#[cfg(target_os = "linux")]
use nix::sys::eventfd::{EfdFlags, EventFd};

#[derive(Debug)]
pub(super) struct Signal {
    #[cfg(target_os = "linux")]
    event: EventFd,
    #[cfg(not(target_os = "linux"))]
    pipe: (std::os::fd::OwnedFd, std::os::fd::OwnedFd),
    raised: bool,
}

impl Signal {
    /// A lowered signal: close-on-exec, non-blocking.
    pub fn new() -> Result<Self> {
        let failed = |error: nix::Error| {
            Error::new(Status::Io, format!("no file descriptor for readiness: {error}"))
                .with_hint("raise RLIMIT_NOFILE, or wait by par_stream_wait instead")
        };
        #[cfg(target_os = "linux")]
        {
            let event =
                EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(failed)?;
            Ok(Self { event, raised: false })
        }
        #[cfg(not(target_os = "linux"))]
        {
            use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
            let (read, write) = nix::unistd::pipe().map_err(failed)?;
            for end in [&read, &write] {
                fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(failed)?;
                fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(failed)?;
            }
            Ok(Self { pipe: (read, write), raised: false })
        }
    }

    pub fn fd(&self) -> RawFd {
        #[cfg(target_os = "linux")]
        return self.event.as_raw_fd();
        #[cfg(not(target_os = "linux"))]
        return self.pipe.0.as_raw_fd();
    }

    /// Makes the descriptor readable, or not. Called under the queue's lock, so it never lags behind the queue.
    pub fn set(&mut self, raised: bool) {
        if self.raised == raised {
            return;
        }
        self.raised = raised;
        // Neither can fail on a non-blocking descriptor of our own whose state we track.
        #[cfg(target_os = "linux")]
        let _ = if raised { self.event.write(1).map(drop) } else { self.event.read().map(drop) };
        #[cfg(not(target_os = "linux"))]
        let _ = if raised { nix::unistd::write(&self.pipe.1, &[1]) } else { nix::unistd::read(&self.pipe.0, &mut [0]) };
    }
}

#[cfg(all(test, feature = "model"))]
impl Signal {
    pub fn is_raised(&self) -> bool {
        self.raised
    }
}

#[cfg(all(test, target_os = "linux", not(feature = "model")))]
impl Signal {
    pub fn event_for_test(&self) -> &EventFd {
        &self.event
    }
}
