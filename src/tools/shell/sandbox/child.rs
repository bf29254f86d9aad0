//! A program that runs, seen from the host. With `forked`, the only unsafe code besides the C boundary.
//!
//! Two processes come of one program. The *supervisor* is a copy of this process that does nothing but watch: it adopts
//! whatever the program leaves behind, ends all of it when the program ends, when it is told to, or when this process is gone,
//! and says how the program ended. Below it the *program* is contained and executed.
//!
//! The supervisor is no child that the host could see: it ends without a signal, and a host that waits for any child does not
//! get it.

#![allow(unsafe_code, reason = "fork, exec and what contains a process have no safe interface")]

use super::Limit;
use super::forked::{fork, supervise};
use libc::{c_char, c_void, pid_t};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr::null;

/// Everything the child needs, made before the fork.
pub struct Prepared<'a> {
    /// What is executed.
    pub program: &'a CStr,
    /// Its arguments, ended by a null.
    pub argv: &'a Pointers<'a>,
    /// Its environment, ended by a null.
    pub environment: &'a Pointers<'a>,
    /// The folder it starts in.
    pub folder: RawFd,
    /// Its input, output and errors.
    pub streams: [RawFd; 3],
    /// The file sandbox, or -1.
    pub landlock: RawFd,
    /// The system call filter; empty for none.
    pub filter: &'a [libc::sock_filter],
    /// Its limits.
    pub limits: &'a [Limit],
}

/// Texts as the kernel wants them: pointers, ended by a null, that live as long as the texts.
pub struct Pointers<'a> {
    pub(super) pointers: Vec<*const c_char>,
    _texts: std::marker::PhantomData<&'a [CString]>,
}

/// The pointers of these texts.
pub fn pointers(texts: &[CString]) -> Pointers<'_> {
    let pointers = texts.iter().map(|text| text.as_ptr()).chain([null()]).collect();
    Pointers { pointers, _texts: std::marker::PhantomData }
}

/// What could not be done on the way to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Step {
    /// Its streams.
    Streams = 1,
    /// Its folder.
    Folder = 2,
    /// Its limits.
    Limits = 3,
    /// No new privileges.
    Privileges = 4,
    /// The file sandbox.
    Files = 5,
    /// The system call filter.
    Filter = 6,
    /// Its own group.
    Group = 7,
    /// The program itself.
    Exec = 8,
    /// A process for it.
    Fork = 9,
}

impl Step {
    fn from_number(number: i32) -> Self {
        [
            Self::Streams,
            Self::Folder,
            Self::Limits,
            Self::Privileges,
            Self::Files,
            Self::Filter,
            Self::Group,
            Self::Exec,
        ]
        .into_iter()
        .find(|step| *step as i32 == number)
        .unwrap_or(Self::Fork)
    }
}

/// What the supervisor says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// The program could not be started.
    Failed(Step, i32),
    /// It ended with this code.
    Exited(i32),
    /// It was ended by this signal.
    Killed(i32),
}

pub(super) const STARTED: i32 = 0;
pub(super) const FAILED: i32 = 1;
pub(super) const ENDED: i32 = 2;
/// Bytes of a report: three numbers.
pub(super) const REPORT: usize = 12;

/// What the supervisor is told.
pub(super) const TERMINATE: u8 = b't';
const KILL: u8 = b'k';

/// A program that runs, by its supervisor. Dropped, everything of it is ended and waited for.
pub struct Child {
    supervisor: pid_t,
    /// Closed or written to, it ends the program.
    control: OwnedFd,
    status: OwnedFd,
    said: Vec<u8>,
    is_gone: bool,
}

/// Starts the supervisor, and below it the program.
pub fn spawn(prepared: &Prepared<'_>) -> io::Result<Child> {
    let (told, control) = pipe_with(PipeFlags::CLOEXEC)?;
    let (status, says) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // SAFETY: the child makes system calls only, on memory that was made before, and never returns.
    let supervisor = unsafe { fork(0) };
    match supervisor {
        0 => {
            // SAFETY: this is the child, with one thread.
            unsafe { supervise(prepared, told.as_raw_fd(), says.as_raw_fd()) }
        }
        pid if pid > 0 => Ok(Child { supervisor: pid, control, status, said: Vec::new(), is_gone: false }),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Child {
    /// Where its report comes; readable when there is one, or when it is gone.
    pub fn status(&self) -> &OwnedFd {
        &self.status
    }

    /// Whether its supervisor is gone, as far as was listened.
    pub fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// Asks the program to end.
    pub fn terminate(&self) {
        self.tell(TERMINATE);
    }

    /// Ends it and everything below it.
    pub fn kill(&self) {
        self.tell(KILL);
    }

    fn tell(&self, word: u8) {
        // SAFETY: the byte lives through the call. A supervisor that is gone needs no word, and SIGPIPE is blocked on our
        // threads.
        unsafe { libc::write(self.control.as_raw_fd(), (&raw const word).cast(), 1) };
    }

    /// Takes what the supervisor said so far; whether it is gone.
    pub fn listen(&mut self) -> bool {
        let mut space = [0; 4 * REPORT];
        while !self.is_gone {
            match rustix::io::read(&self.status, &mut space) {
                Ok(0) => self.is_gone = true,
                Ok(count) => self.said.extend_from_slice(space.get(..count).unwrap_or_default()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                Err(_) => self.is_gone = true,
            }
        }
        true
    }

    /// How the program ended, once its supervisor is gone. `None`: somebody ended the supervisor.
    pub fn report(&self) -> Option<Report> {
        self.numbers().find_map(|numbers| match numbers {
            (FAILED, step, errno) => Some(Report::Failed(Step::from_number(step), errno)),
            (ENDED, status, _) if libc::WIFSIGNALED(status) => Some(Report::Killed(libc::WTERMSIG(status))),
            (ENDED, status, _) => Some(Report::Exited(libc::WEXITSTATUS(status))),
            _ => None,
        })
    }

    fn numbers(&self) -> impl Iterator<Item = (i32, i32, i32)> {
        let number = |bytes: &[u8]| bytes.try_into().map(i32::from_ne_bytes).unwrap_or_default();
        self.said.chunks_exact(REPORT).map(move |said| {
            let (kind, rest) = said.split_at(4);
            let (first, second) = rest.split_at(4);
            (number(kind), number(first), number(second))
        })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
        let mut status = 0;
        loop {
            // SAFETY: the number is that of our own child, which nobody else can have waited for: it is seen by `__WALL` only.
            let waited = unsafe { libc::waitpid(self.supervisor, &raw mut status, libc::__WALL) };
            if waited >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                break;
            }
        }
        self.listen();
        if self.report().is_none() {
            // Somebody ended the supervisor by force. Its program has got the signal of a parent's death; this is for the rest.
            for (_, program, _) in self.numbers().filter(|(kind, program, _)| *kind == STARTED && *program > 1) {
                // SAFETY: the group was made for the program, which was ours.
                unsafe { libc::kill(-program, libc::SIGKILL) };
            }
        }
    }
}

/// Which Landlock the kernel has; 0 for none.
pub fn landlock_abi() -> u32 {
    const VERSION: u32 = 1;
    // SAFETY: asked for the version, the call takes no memory.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, null::<c_void>(), 0_usize, VERSION) };
    u32::try_from(abi).unwrap_or(0)
}

/// Whether limits on the number of processes do not hold.
pub fn is_administrator() -> bool {
    // SAFETY: it cannot fail.
    unsafe { libc::geteuid() == 0 }
}
