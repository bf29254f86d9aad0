//! Locks on single bytes of a file, which the system drops with their process.
//!
//! They belong to an open file (`F_OFD_SETLK`, fcntl_locking(2)), not to the process: two runtimes of one process exclude
//! each other like two processes do. One runtime can hold a byte several times: the lock that it takes may overlap with the
//! end of the one before, and the byte is free when the last one is dropped.

use super::super::backend::SessionLock;
use super::super::record::SessionKey;
use crate::types::{Error, Result, Status};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// See the module's head.
pub struct Locks {
    held: Arc<HeldBytes>,
    path: PathBuf,
}

/// The bytes that this runtime has locked.
struct HeldBytes {
    file: File,
    /// How often each is held. Locked while the system is asked, so that unlocking a byte and locking it again cannot pass each
    /// other: to the system both have the same owner.
    counts: Mutex<HashMap<Byte, usize>>,
}

/// A byte that can be locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Byte(libc::off_t);

/// The byte of a session.
pub fn session(key: &SessionKey) -> Byte {
    byte(&[b"session", key.scope.as_str().as_bytes(), key.id.as_str().as_bytes()])
}

/// The byte of a runtime.
pub fn runtime(owner: &str) -> Byte {
    byte(&[b"runtime", owner.as_bytes()])
}

/// The byte of whoever forwards the database.
pub fn forwarder() -> Byte {
    byte(&[b"forwarder"])
}

/// One of 2^62. Two that meet only wait for each other.
fn byte(names: &[&[u8]]) -> Byte {
    let mut hasher = Sha256::new();
    for name in names {
        hasher.update((name.len() as u64).to_be_bytes());
        hasher.update(name);
    }
    let digest = hasher.finalize();
    let number = digest.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes) >> 2);
    Byte(libc::off_t::try_from(number).unwrap_or(0))
}

struct Held {
    bytes: Arc<HeldBytes>,
    byte: Byte,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut counts = self.bytes.counts.lock();
        if let Some(count) = counts.get_mut(&self.byte) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.byte);
                // Cannot fail for a lock that is ours.
                let _ = fcntl(&self.bytes.file, FcntlArg::F_OFD_SETLK(&flock(self.byte, libc::F_UNLCK)));
            }
        }
    }
}

impl Locks {
    /// The locks of the database at `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let mut name = path.as_os_str().to_owned();
        name.push("-locks");
        let path = PathBuf::from(name);
        let held = HeldBytes { file: open(&path)?, counts: Mutex::default() };
        Ok(Self { held: Arc::new(held), path })
    }

    /// Locks a byte until the answer is dropped; none if another runtime has locked it.
    pub fn try_lock(&self, byte: Byte) -> Result<Option<SessionLock>> {
        let mut counts = self.held.counts.lock();
        match fcntl(&self.held.file, FcntlArg::F_OFD_SETLK(&flock(byte, libc::F_WRLCK))) {
            Ok(_) => {
                *counts.entry(byte).or_insert(0) += 1;
                Ok(Some(Arc::new(Held { bytes: Arc::clone(&self.held), byte })))
            }
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Whether anybody has locked a byte, ourselves included.
    pub fn is_locked(&self, byte: Byte) -> Result<bool> {
        // An open file does not see its own locks; a new one does.
        let asking = open(&self.path)?;
        let mut other = flock(byte, libc::F_WRLCK);
        fcntl(&asking, FcntlArg::F_OFD_GETLK(&mut other)).map_err(failed)?;
        Ok(i32::from(other.l_type) != libc::F_UNLCK)
    }
}

fn open(path: &Path) -> Result<File> {
    let file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    file.map_err(|error| {
        Error::new(Status::Persistence, format!("the file {path:?} cannot be opened: {error}"))
            .with_code("store_unavailable")
            .with_path("config.persistence")
            .with_hint("let the process write to the database's directory")
    })
}

fn flock(byte: Byte, kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte.0,
        l_len: 1,
        l_pid: 0,
    }
}

fn failed(error: Errno) -> Error {
    Error::new(Status::Persistence, format!("the database's locks cannot be used: {error}"))
        .with_code("store_unavailable")
        .with_hint("put the database on a local file system")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    #[test]
    fn a_lock_that_ends_does_not_end_the_next_one_of_its_runtime() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("par.db");
        let (ours, theirs) = (Locks::open(&path).unwrap(), Locks::open(&path).unwrap());
        let byte = runtime("x");
        let first = ours.try_lock(byte).unwrap().unwrap();
        let second = ours.try_lock(byte).unwrap().unwrap();
        drop(first);
        assert!(theirs.try_lock(byte).unwrap().is_none());
        drop(second);
        assert!(theirs.try_lock(byte).unwrap().is_some());
    }

    #[test]
    fn threads_of_two_runtimes_exclude_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("par.db");
        let byte = runtime("x");
        // A runtime's own threads take turns before they lock.
        let (inside, turns, wrong) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let (locks, turn) = (Locks::open(&path).unwrap(), Mutex::new(()));
                    std::thread::scope(|scope| {
                        for _ in 0..2 {
                            scope.spawn(|| {
                                while turns.load(Ordering::Relaxed) < 4_000 {
                                    let guard = turn.lock();
                                    let Some(lock) = locks.try_lock(byte).unwrap() else { continue };
                                    wrong.fetch_or(inside.fetch_add(1, Ordering::SeqCst) != 0, Ordering::SeqCst);
                                    turns.fetch_add(1, Ordering::Relaxed);
                                    inside.fetch_sub(1, Ordering::SeqCst);
                                    // The next thread may lock while this one unlocks.
                                    drop(guard);
                                    drop(lock);
                                }
                            });
                        }
                    });
                });
            }
        });
        assert!(!wrong.load(Ordering::SeqCst), "two runtimes had the byte at once");
    }
}
