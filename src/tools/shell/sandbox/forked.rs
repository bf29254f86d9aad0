//! After the fork: the supervisor, and below it the process that is contained and becomes the program.
//!
//! Between fork and exec only system calls are made: no memory is taken, no lock, nothing of the host is called.

#![allow(unsafe_code, reason = "fork, exec and what contains a process have no safe interface")]

use super::Limit;
use super::child::{ENDED, FAILED, Prepared, REPORT, STARTED, Step, TERMINATE};
use libc::{c_int, c_long, c_void, pid_t};
use std::io;
use std::os::fd::RawFd;
use std::ptr::null_mut;

/// A copy of this process that ends with this signal; 0: without any, unseen by who waits for children.
///
/// # Safety
/// As after `fork` in a process with threads, and besides without the handlers that others have set for it.
pub unsafe fn fork(signal: c_int) -> pid_t {
    // SAFETY: without flags, stack and places it is a fork on every machine that `filter` knows, and the others.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone,
            c_long::from(signal),
            null_mut::<c_void>(),
            null_mut::<c_void>(),
            null_mut::<c_void>(),
            0_usize,
        )
    };
    pid as pid_t
}

/// Says three numbers.
unsafe fn say(to: RawFd, kind: i32, first: i32, second: i32) {
    let numbers = [kind, first, second];
    // SAFETY: the numbers live through the call; so few bytes are written at once.
    unsafe { libc::write(to, numbers.as_ptr().cast(), REPORT) };
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or_default()
}

/// The same file under a number from `least` on, closed by exec.
unsafe fn lift(file: RawFd, least: RawFd) -> RawFd {
    // SAFETY: plain numbers.
    unsafe { libc::fcntl(file, libc::F_DUPFD_CLOEXEC, least) }
}

/// Closes every file from `first` on, now or by exec.
unsafe fn close_from(first: RawFd, by_exec: bool) {
    let flags = if by_exec { libc::CLOSE_RANGE_CLOEXEC } else { 0 };
    // SAFETY: plain numbers; what is closed is only this process's.
    if unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, libc::c_uint::MAX, flags) } == 0 {
        return;
    }
    // A kernel without it.
    for file in first..65_536 {
        // SAFETY: plain numbers.
        unsafe {
            match by_exec {
                true => libc::fcntl(file, libc::F_SETFD, libc::FD_CLOEXEC),
                false => libc::close(file),
            }
        };
    }
}

/// The supervisor's whole life.
///
/// # Safety
/// To be called in a forked process only, which ends with it.
pub unsafe fn supervise(prepared: &Prepared<'_>, told: RawFd, says: RawFd) -> ! {
    // SAFETY: system calls on plain numbers and on memory of this stack; signal sets are filled before they are used.
    unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, null_mut());
        // What the host ignores, and how it handles signals, is not what its children should.
        // By number: the library keeps two signals to itself.
        let plain = [0_u64; 4];
        for signal in 1..=64_u32 {
            libc::syscall(libc::SYS_rt_sigaction, signal, plain.as_ptr(), null_mut::<c_void>(), 8_usize);
        }
        libc::setsid();
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1_u64, 0_u64, 0_u64, 0_u64);
        // The thread that forked waits for this process: it dies only with the whole.
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM as u64, 0_u64, 0_u64, 0_u64);
        let supervisor = libc::getpid();
        let program = fork(libc::SIGCHLD);
        if program == 0 {
            become_program(prepared, says, supervisor);
        }
        if program < 0 {
            say(says, FAILED, Step::Fork as i32, errno());
            end();
        }
        say(says, STARTED, program, 0);
        libc::prctl(libc::PR_SET_NAME, c"par-shell".as_ptr());
        let mut watched = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut watched);
        libc::sigaddset(&raw mut watched, libc::SIGCHLD);
        libc::sigaddset(&raw mut watched, libc::SIGTERM);
        // Only these three stay open: the ends of the program's pipes among the others would keep its readers waiting.
        let (told, says) = (lift(told, 64), lift(says, 64));
        let signals = libc::signalfd(-1, &raw const watched, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        let signals = lift(signals, 64);
        libc::dup2(told, 0);
        libc::dup2(says, 1);
        libc::dup2(signals, 2);
        close_from(3, false);
        let status = watch(program, 0, 2);
        end_all(program);
        say(1, ENDED, status, 0);
        end();
    }
}

/// Ends this process without anything else: what the host had set for its end is not run.
unsafe fn end() -> ! {
    // SAFETY: it does not return.
    unsafe {
        libc::kill(libc::getpid(), libc::SIGKILL);
        loop {
            libc::pause();
        }
    }
}

/// Waits for the program's end, its order to end, or the end of who gives orders; the program's status.
unsafe fn watch(program: pid_t, told: RawFd, signals: RawFd) -> c_int {
    let mut status = 0;
    loop {
        // SAFETY: the memory lives through the calls.
        unsafe {
            let mut ready = [
                libc::pollfd { fd: told, events: libc::POLLIN, revents: 0 },
                libc::pollfd { fd: signals, events: libc::POLLIN, revents: 0 },
            ];
            libc::poll(ready.as_mut_ptr(), 2, -1);
            let mut signal = std::mem::zeroed::<libc::signalfd_siginfo>();
            let size = size_of::<libc::signalfd_siginfo>();
            let mut is_over = false;
            while libc::read(signals, (&raw mut signal).cast(), size) == size as isize {
                is_over |= signal.ssi_signo == libc::SIGTERM as u32;
            }
            // What is left behind is adopted, and let go of as it ends.
            loop {
                let mut ended = 0;
                let pid = libc::waitpid(-1, &raw mut ended, libc::WNOHANG);
                if pid <= 0 {
                    break;
                }
                if pid == program {
                    return ended;
                }
            }
            let [orders, _] = ready;
            if orders.revents != 0 {
                let mut word = 0_u8;
                match libc::read(told, (&raw mut word).cast(), 1) {
                    1 if word == TERMINATE => {
                        libc::kill(-program, libc::SIGTERM);
                    }
                    _ => is_over = true,
                }
            }
            if is_over {
                libc::kill(-program, libc::SIGKILL);
                libc::kill(program, libc::SIGKILL);
                loop {
                    let pid = libc::waitpid(program, &raw mut status, 0);
                    if pid == program || (pid < 0 && errno() != libc::EINTR) {
                        return status;
                    }
                }
            }
        }
    }
}

/// Ends everything that is left of a program: its group, and what had left that, adopted by now.
unsafe fn end_all(program: pid_t) {
    /// A thousandth of a second each: nothing that can be ended takes so long.
    const MOST_ROUNDS: u32 = 10_000;
    // SAFETY: the group is that of the program, which was ours; the others are our children by the kernel's own list.
    unsafe {
        libc::kill(-program, libc::SIGKILL);
        for _ in 0..MOST_ROUNDS {
            loop {
                match libc::waitpid(-1, null_mut(), libc::WNOHANG) {
                    0 => break,
                    pid if pid > 0 => {}
                    _ if errno() == libc::EINTR => {}
                    // No child is left.
                    _ => return,
                }
            }
            kill_children();
            let moment = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
            libc::nanosleep(&raw const moment, null_mut());
        }
    }
}

/// Kills every child of this process.
unsafe fn kill_children() {
    // SAFETY: the file is the kernel's list of our own children; the memory lives through the calls.
    unsafe {
        let list = libc::open(c"/proc/thread-self/children".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if list < 0 {
            return;
        }
        let mut space = [0_u8; 4096];
        let mut pid: pid_t = 0;
        loop {
            let count = libc::read(list, space.as_mut_ptr().cast(), space.len());
            let Ok(count @ 1..) = usize::try_from(count) else { break };
            for byte in space.iter().take(count) {
                match byte {
                    b'0'..=b'9' => pid = pid.wrapping_mul(10).wrapping_add(pid_t::from(*byte - b'0')),
                    _ => {
                        if pid > 1 {
                            libc::kill(pid, libc::SIGKILL);
                        }
                        pid = 0;
                    }
                }
            }
        }
        libc::close(list);
    }
}

/// Contains this process and becomes the program.
unsafe fn become_program(prepared: &Prepared<'_>, says: RawFd, supervisor: pid_t) -> ! {
    // SAFETY: system calls on plain numbers and on memory that was made before the fork.
    unsafe {
        let says = lift(says, 3);
        let Err(step) = contain(prepared, supervisor);
        say(says, FAILED, step as i32, errno());
        end();
    }
}

/// Of an administrator's rights those that concern the files of others stay, which the file sandbox bounds; above all nobody
/// reads the memory of other programs. Who has no such rights loses none.
unsafe fn drop_capabilities() {
    /// `CAP_CHOWN`, `CAP_DAC_OVERRIDE`, `CAP_DAC_READ_SEARCH`, `CAP_FOWNER`, `CAP_FSETID`.
    const KEPT: u32 = 0b1_1111;
    const VERSION_3: u32 = 0x2008_0522;
    // SAFETY: plain numbers, and memory of this stack in the kernel's layout: effective, permitted and inheritable, twice.
    unsafe {
        for capability in (0..64_u64).filter(|capability| KEPT >> capability.min(&31) & 1 == 0) {
            // Those that the kernel does not know are none.
            libc::prctl(libc::PR_CAPBSET_DROP, capability, 0_u64, 0_u64, 0_u64);
        }
        let clear_all = libc::PR_CAP_AMBIENT_CLEAR_ALL as u64;
        libc::prctl(libc::PR_CAP_AMBIENT, clear_all, 0_u64, 0_u64, 0_u64);
        let (header, mut sets) = ([VERSION_3, 0], [0_u32; 6]);
        if libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) == 0 {
            let [effective, permitted, ..] = sets;
            let kept = [effective & KEPT, permitted & KEPT, 0, 0, 0, 0];
            libc::syscall(libc::SYS_capset, header.as_ptr(), kept.as_ptr());
        }
    }
}

/// Returns only what could not be done.
unsafe fn contain(prepared: &Prepared<'_>, supervisor: pid_t) -> Result<std::convert::Infallible, Step> {
    let done = |result: c_long, step: Step| if result < 0 { Err(step) } else { Ok(()) };
    // SAFETY: as above; the filter and the pointers live until exec.
    unsafe {
        done(libc::setpgid(0, 0).into(), Step::Group)?;
        done(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0_u64, 0_u64, 0_u64).into(), Step::Group)?;
        // It may have ended before that.
        if libc::getppid() != supervisor {
            end();
        }
        let folder = lift(prepared.folder, 3);
        let landlock = if prepared.landlock < 0 { -1 } else { lift(prepared.landlock, 3) };
        let [input, output, errors] = prepared.streams.map(|stream| lift(stream, 3));
        for (stream, number) in [(input, 0), (output, 1), (errors, 2)] {
            done(libc::dup2(stream, number).into(), Step::Streams)?;
        }
        done(libc::fchdir(folder).into(), Step::Folder)?;
        for Limit { resource, most } in prepared.limits {
            let mut before = std::mem::zeroed::<libc::rlimit>();
            libc::getrlimit(*resource, &raw mut before);
            // Never more than there was.
            let most = (*most).min(before.rlim_max);
            let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
            if libc::setrlimit(*resource, &raw const limit) < 0 {
                // Where a tool that watches memory keeps the upper bound to itself, the lower one holds.
                let limit = libc::rlimit { rlim_cur: most, rlim_max: before.rlim_max };
                done(libc::setrlimit(*resource, &raw const limit).into(), Step::Limits)?;
            }
        }
        drop_capabilities();
        done(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1_u64, 0_u64, 0_u64, 0_u64).into(), Step::Privileges)?;
        if prepared.landlock >= 0 {
            done(libc::syscall(libc::SYS_landlock_restrict_self, landlock, 0_u32), Step::Files)?;
        }
        close_from(3, true);
        let mut none = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, null_mut());
        if !prepared.filter.is_empty() {
            let filter =
                libc::sock_fprog { len: prepared.filter.len() as u16, filter: prepared.filter.as_ptr().cast_mut() };
            let set =
                libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER as u64, &raw const filter, 0_u64, 0_u64);
            done(set.into(), Step::Filter)?;
        }
        libc::execve(
            prepared.program.as_ptr(),
            prepared.argv.pointers.as_ptr(),
            prepared.environment.pointers.as_ptr(),
        );
        Err(Step::Exec)
    }
}
