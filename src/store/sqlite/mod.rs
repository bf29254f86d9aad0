//! SQLite: one file, one writer, readers beside it (WAL, <https://sqlite.org/wal.html>).
//!
//! Several runtimes, also of several processes, may use one file. A session is worked on by one of them at a time, and a
//! runtime is known to live, by locks on single bytes of a file beside the database (`<path>-locks`): the system drops them
//! with the process that has them, so nothing has to be renewed and nothing is left behind. Like SQLite's own locks they
//! need a local file system.
//!
//! A commit that nobody waits for does not wait for the disk (`synchronous = NORMAL`): it survives the process, and the order
//! of commits survives a loss of power. One that is waited for does (`FULL`).

mod care;
mod changes;
mod file;
mod locks;
mod read;
#[cfg(feature = "object-store")]
mod restore;
mod schema;
mod write;

use super::backend::{Backend, Item, Load, SessionLock};
use super::record::{
    Cutoffs, DeadLetter, EventFilter, Head, HeadFilter, HeadKey, Listed, Page, Problem, Pruned, RunFilter, SessionInfo,
    SessionKey, StoreSize, StoredRun, Unfinished,
};
use super::{BlobId, EventBlock};
use crate::types::{AgentId, Error, Result, RunId, SessionId, Status};
pub use changes::{Forwarding, Pending};
use file::OpenFile;
use futures_util::future::BoxFuture;
use locks::Locks;
use parking_lot::Mutex;
#[cfg(feature = "object-store")]
pub use restore::Restored;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long SQLite waits for another process's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long opening tries while other processes make the database, or hold it.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it sleeps between two tries.
const OPEN_DELAY: Duration = Duration::from_millis(10);
/// How long it sleeps between two looks whether a session is free.
const LOCK_DELAYS: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(50)];
/// How long whoever follows the events sleeps between two looks at what other processes have committed.
const TAIL_DELAY: Duration = Duration::from_millis(50);
/// Connections kept for reading.
const MOST_READERS: usize = 4;

/// The version of the tables that this library makes.
pub const SCHEMA: usize = schema::STEPS.len();

/// See the module's head.
pub struct Sqlite {
    /// None for a database in memory.
    file: Option<Arc<OpenFile>>,
    path: Option<PathBuf>,
    /// None once it is closed.
    writer: Mutex<Option<write::WriteConnection>>,
    /// Connections that are not in use; none once it is closed.
    readers: Mutex<Option<Vec<Connection>>>,
    /// None once it is closed.
    locks: Mutex<Option<Arc<Locks>>>,
    /// Items were committed.
    committed: Notify,
    /// Held until it is closed: other runtimes see by it that this one is open.
    alive: Mutex<Option<SessionLock>>,
}

impl Sqlite {
    /// Opens the database, or makes it. `owner`: this runtime's name, which nothing else ever had.
    pub fn open(path: &str, owner: &str) -> Result<Self> {
        let in_memory = path == ":memory:";
        let file = PathBuf::from(path);
        if !in_memory {
            make_private(&file)?;
        }
        let until = Instant::now() + OPEN_TIMEOUT;
        let connection = loop {
            let mut connection =
                open(if in_memory { None } else { Some(&file) }, true).map_err(|error| at(&file, error))?;
            match schema::prepare(&mut connection, in_memory) {
                Ok(()) => break connection,
                // SQLite does not wait where two that make a database could wait for each other.
                Err(error) if error.code() == Some("store_busy") && Instant::now() < until => {
                    std::thread::sleep(OPEN_DELAY);
                }
                Err(error) => return Err(about(&file, error)),
            }
        };
        let locks = if in_memory { None } else { Some(Locks::open(&file)?) };
        let alive = match &locks {
            None => None,
            Some(locks) => locks.try_lock(locks::runtime(owner))?,
        };
        let open_file = (!in_memory).then(|| Arc::new(OpenFile::new(&file)));
        Ok(Self {
            writer: Mutex::new(Some(write::WriteConnection::new(connection, open_file.clone()))),
            file: open_file,
            path: (!in_memory).then_some(file),
            readers: Mutex::new(Some(Vec::new())),
            locks: Mutex::new(locks.map(Arc::new)),
            committed: Notify::new(),
            alive: Mutex::new(alive),
        })
    }

    /// Reads on a connection of its own; on the writer's, if the database is in memory.
    fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let (Some(path), Some(file)) = (&self.path, &self.file) else {
            return self.write(|writer| read(&writer.connection));
        };
        file.known()?;
        let kept = self.readers.lock().as_mut().ok_or_else(closed)?.pop();
        let connection = match kept {
            Some(connection) => connection,
            None => open(Some(path), false).map_err(failed)?,
        };
        let found = read(&connection);
        // Closed meanwhile: the connection is closed, too.
        if let Some(readers) = self.readers.lock().as_mut()
            && readers.len() < MOST_READERS
        {
            readers.push(connection);
        }
        found
    }

    fn write<T>(&self, write: impl FnOnce(&mut write::WriteConnection) -> Result<T>) -> Result<T> {
        let mut writer = self.writer.lock();
        write(writer.as_mut().ok_or_else(closed)?)
    }

    /// The locks beside the file; none for a database in memory.
    fn locks(&self) -> Result<Option<Arc<Locks>>> {
        let locks = self.locks.lock().clone();
        match (locks, &self.path) {
            (None, Some(_)) => Err(closed()),
            (locks, _) => Ok(locks),
        }
    }
}

fn closed() -> Error {
    Error::new(Status::Persistence, "the store is closed").with_code("store_closed")
}

/// A read, done where it was asked for: they are short.
macro_rules! ready {
    ($read:expr) => {
        Box::pin(std::future::ready($read))
    };
}

impl Backend for Sqlite {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn writes_in_place(&self) -> bool {
        true
    }

    fn write(&self, items: &[Item], durable: bool) -> Result<()> {
        self.write(|writer| writer.write(items, durable))?;
        self.committed.notify_waiters();
        Ok(())
    }

    fn delete_session(&self, key: &SessionKey) -> Result<bool> {
        self.write(|writer| writer.delete_session(key))
    }

    fn fork_session(&self, from: &SessionKey, to: &SessionId, entries: Option<usize>) -> Result<Option<usize>> {
        self.write(|writer| writer.fork_session(from, to, entries))
    }

    fn prune(&self, cutoffs: &Cutoffs) -> Result<Pruned> {
        self.write(|writer| care::prune(writer, cutoffs))
    }

    fn backup(&self, to: &Path) -> Result<()> {
        // From a connection of its own, page by page: others read and write meanwhile.
        self.read(|connection| care::backup(connection, to))
    }

    fn adopt(&self, run_id: &RunId, from_owner: &str, owner: &str) -> Result<bool> {
        if from_owner != owner && self.lives(from_owner)? {
            return Ok(false);
        }
        self.write(|writer| writer.adopt(run_id, from_owner, owner))
    }

    fn abandon(&self, run_id: &RunId, error: &str, at_ms: u64) -> Result<bool> {
        let owner = self.read(|connection| read::unfinished(connection, run_id))?.map(|run| run.begin.owner);
        match owner {
            Some(owner) if !self.lives(&owner)? => self.write(|writer| writer.abandon(run_id, error, at_ms)),
            Some(_) | None => Ok(false),
        }
    }

    fn replace_head(&self, head: &Head) -> Result<bool> {
        self.write(|writer| writer.replace_head(head))
    }

    fn remove_dead_letters(&self, ids: &[i64]) -> Result<u64> {
        self.write(|writer| writer.remove_dead_letters(ids))
    }

    /// The connection that closes last puts all that is in the `-wal` file into the database and removes that file. It must be
    /// one that may write.
    fn close(&self) -> Result<()> {
        drop(self.readers.lock().take());
        let writer = self.writer.lock().take();
        let closed = match writer {
            Some(writer) => writer.close(),
            None => Ok(()),
        };
        drop(self.alive.lock().take());
        drop(self.locks.lock().take());
        closed
    }

    fn lock_session<'a>(&'a self, key: &'a SessionKey) -> BoxFuture<'a, Result<SessionLock>> {
        Box::pin(async move {
            let mut delay = LOCK_DELAYS[0];
            loop {
                if let Some(lock) = self.try_lock_session(key).await? {
                    return Ok(lock);
                }
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(LOCK_DELAYS[1]);
            }
        })
    }

    fn try_lock_session<'a>(&'a self, key: &'a SessionKey) -> BoxFuture<'a, Result<Option<SessionLock>>> {
        ready!(match self.locks() {
            Err(error) => Err(error),
            Ok(None) => Ok(Some(Arc::new(()) as SessionLock)),
            Ok(Some(locks)) => locks.try_lock(locks::session(key)),
        })
    }

    fn load_session<'a>(&'a self, key: &'a SessionKey, known: Option<u64>) -> BoxFuture<'a, Result<Load>> {
        ready!(self.read(|connection| read::session(connection, key, known)))
    }

    fn sessions<'a>(&'a self, scope: &'a str, page: Page) -> BoxFuture<'a, Result<Listed<SessionInfo>>> {
        ready!(self.read(|connection| read::sessions(connection, scope, page)))
    }

    fn runs<'a>(&'a self, filter: &'a RunFilter, page: Page) -> BoxFuture<'a, Result<Listed<StoredRun>>> {
        ready!(self.read(|connection| read::runs(connection, filter, page)))
    }

    fn run<'a>(&'a self, scope: &'a str, run_id: &'a RunId) -> BoxFuture<'a, Result<Option<StoredRun>>> {
        ready!(self.read(|connection| read::run(connection, scope, run_id)))
    }

    fn has_run<'a>(&'a self, run_id: &'a RunId) -> BoxFuture<'a, Result<bool>> {
        ready!(self.read(|connection| read::has_run(connection, run_id)))
    }

    fn unfinished<'a>(&'a self, run_id: &'a RunId) -> BoxFuture<'a, Result<Option<Unfinished>>> {
        ready!(self.read(|connection| read::unfinished(connection, run_id)))
    }

    fn orphans<'a>(&'a self, agent: Option<&'a AgentId>) -> BoxFuture<'a, Result<Vec<StoredRun>>> {
        ready!(self.read(|connection| {
            let mut runs = read::running(connection, agent)?;
            let mut lives = Ok(());
            runs.retain(|run| match self.lives(&run.owner) {
                Ok(lives) => !lives,
                Err(error) => {
                    lives = Err(error);
                    false
                }
            });
            lives.map(|()| runs)
        }))
    }

    fn is_alive<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<bool>> {
        ready!(self.lives(owner))
    }

    fn head<'a>(&'a self, key: &'a HeadKey) -> BoxFuture<'a, Result<Option<Head>>> {
        ready!(self.read(|connection| read::head(connection, key)))
    }

    fn heads<'a>(&'a self, filter: &'a HeadFilter, most: usize) -> BoxFuture<'a, Result<Vec<Head>>> {
        ready!(self.read(|connection| read::heads(connection, filter, most)))
    }

    fn events<'a>(&'a self, filter: &'a EventFilter, page: Page) -> BoxFuture<'a, Result<Vec<(i64, EventBlock)>>> {
        ready!(self.read(|connection| read::events(connection, filter, page)))
    }

    fn tail(&self, after: Option<i64>) -> BoxFuture<'_, Result<i64>> {
        Box::pin(async move {
            loop {
                // Before the look: a commit just after it is not missed.
                let committed = self.committed.notified();
                let newest = self.read(read::newest_events)?;
                if after.is_none_or(|after| newest > after) {
                    return Ok(newest);
                }
                let _ = tokio::time::timeout(TAIL_DELAY, committed).await;
            }
        })
    }

    fn blob<'a>(&'a self, id: &'a BlobId) -> BoxFuture<'a, Result<Option<Arc<[u8]>>>> {
        ready!(self.read(|connection| read::blob(connection, id)))
    }

    fn dead_letters(&self, page: Page) -> BoxFuture<'_, Result<Listed<DeadLetter>>> {
        ready!(self.read(|connection| read::dead_letters(connection, page)))
    }

    fn verify(&self) -> BoxFuture<'_, Result<Vec<Problem>>> {
        ready!(self.verify_file().and_then(|problem| match problem {
            Some(problem) => Ok(vec![problem]),
            None => self.read(care::verify),
        }))
    }

    fn size(&self) -> BoxFuture<'_, Result<StoreSize>> {
        ready!(self.read(care::size))
    }
}

impl Sqlite {
    /// What is wrong with the file itself.
    fn verify_file(&self) -> Result<Option<Problem>> {
        let Some(file) = &self.file else { return Ok(None) };
        let checked = self.write(|writer| Ok(file.check(&writer.connection)))?;
        Ok(checked.err().map(|error| Problem { part: "file", id: None, message: error.message().to_owned() }))
    }

    fn lives(&self, owner: &str) -> Result<bool> {
        if owner.is_empty() {
            // A run that was released: no runtime has this name.
            return Ok(false);
        }
        self.locks()?.map_or(Ok(true), |locks| locks.is_locked(locks::runtime(owner)))
    }
}

/// A connection; `None`: to a database in memory.
fn open(path: Option<&Path>, writes: bool) -> rusqlite::Result<Connection> {
    let connection = match path {
        None => Connection::open_in_memory()?,
        Some(path) => {
            let access = if writes {
                OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE
            } else {
                OpenFlags::SQLITE_OPEN_READ_ONLY
            };
            Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?
        }
    };
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(connection)
}

/// Makes the file, readable for its owner alone; what SQLite puts beside it is as readable as it is.
fn make_private(path: &Path) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(Error::new(Status::Persistence, format!("the database {path:?} cannot be made: {error}"))
            .with_path("config.persistence")
            .with_code("store_unavailable")
            .with_hint("give a path in a directory that exists and can be written to, or \"noop\"")),
    }
}

fn at(path: &Path, error: rusqlite::Error) -> Error {
    about(path, failed(error))
}

fn about(path: &Path, error: Error) -> Error {
    let message = format!("the database {path:?} cannot be used: {}", error.message());
    error.with_message(message).with_path("config.persistence")
}

/// What SQLite says, as an error of ours. Those with `retryable` go away when their cause does.
fn failed(error: rusqlite::Error) -> Error {
    let code = error.sqlite_error_code();
    let (word, retryable, hint) = match code {
        Some(ErrorCode::DiskFull) => ("store_full", true, "make room on the disk; what waits is written then"),
        Some(ErrorCode::ReadOnly) => ("store_read_only", true, "let the process write to the database's directory"),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            ("store_busy", true, "another program holds the database: use it through the runtime alone")
        }
        Some(ErrorCode::NotADatabase) => (
            "store_not_a_database",
            false,
            "this file is something else: give the path of a new file; if it was a database, restore a backup of it",
        ),
        Some(ErrorCode::DatabaseCorrupt) => {
            ("store_corrupt", false, "restore a backup; store.verify tells what is damaged")
        }
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            ("store_unavailable", true, "check the path, the mode and the disk of the database")
        }
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig) => {
            ("store_refused", false, "this is a bug: please report it")
        }
        Some(_) | None => ("store_failed", true, "see the message"),
    };
    Error::new(Status::Persistence, format!("the store failed: {error}"))
        .with_code(word)
        .with_retryable(retryable)
        .with_hint(hint)
}
