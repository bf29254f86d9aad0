//! Whether the database is still the file that was opened.
//!
//! A file that is deleted, replaced or truncated while it is open is not noticed by SQLite: it goes on with what it has open,
//! and all of it is gone when the file is closed (<https://sqlite.org/howtocorrupt.html>, chapter 1). So each commit is
//! followed by a look at the path, before the commit is acknowledged.

use crate::types::{Error, Result, Status};
use parking_lot::Mutex;
use rusqlite::Connection;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The files of an open database, as they were when it was opened.
pub struct OpenFile {
    path: PathBuf,
    wal: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    database: Option<Identity>,
    /// The file of what is not in the database file yet. SQLite makes it with the first write and removes it with the last
    /// connection.
    wal: Option<Identity>,
    /// The size that the file had.
    bytes: u64,
    /// What was found. It stays: nothing that is written from then on can be trusted to be kept.
    replaced: Option<Error>,
}

/// A file, whatever its name.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(file: &Metadata) -> Self {
        Self { device: file.dev(), inode: file.ino() }
    }
}

impl OpenFile {
    /// The files of the database at `path`, which is open.
    pub fn new(path: &Path) -> Self {
        let mut wal = path.as_os_str().to_owned();
        wal.push("-wal");
        let file = Self { path: path.to_owned(), wal: PathBuf::from(wal), state: Mutex::default() };
        {
            let mut state = file.state.lock();
            state.database = std::fs::metadata(path).ok().as_ref().map(Identity::of);
            state.wal = std::fs::metadata(&file.wal).ok().as_ref().map(Identity::of);
        }
        file
    }

    /// What was found before, without another look.
    pub fn known(&self) -> Result<()> {
        self.state.lock().replaced.clone().map_or(Ok(()), Err)
    }

    /// Looks at the files. An error: they are not the ones that were opened, or lack a part.
    pub fn check(&self, connection: &Connection) -> Result<()> {
        let mut state = self.state.lock();
        if let Some(error) = &state.replaced {
            return Err(error.clone());
        }
        let found = self.look(&mut state, connection);
        if let Err(what) = found {
            let error = Error::new(Status::Persistence, format!("the database {:?} {what}", self.path))
                .with_code("store_replaced")
                .with_hint(
                    "what was written since then is lost: close this runtime and create another one. Never delete, move, \
                     replace or truncate a database that is open; store.backup copies it",
                );
            tracing::error!("{error}");
            state.replaced = Some(error.clone());
            return Err(error);
        }
        Ok(())
    }

    fn look(&self, state: &mut State, connection: &Connection) -> std::result::Result<(), String> {
        let database = metadata(&self.path)?.ok_or("was deleted while it was open")?;
        let identity = Identity::of(&database);
        if *state.database.get_or_insert(identity) != identity {
            return Err("was replaced by another file while it was open".into());
        }
        match (state.wal, metadata(&self.wal)?.as_ref().map(Identity::of)) {
            (Some(before), Some(now)) if before != now => return Err("has another \"-wal\" file than it had".into()),
            (Some(_), None) => return Err("has lost its \"-wal\" file while it was open".into()),
            (_, now) => state.wal = now,
        }
        let bytes = database.len();
        if bytes < state.bytes && bytes < expected_bytes(connection)? {
            return Err(format!("was truncated while it was open: it has {bytes} bytes and had {}", state.bytes));
        }
        state.bytes = bytes;
        Ok(())
    }
}

/// None: there is no such file.
fn metadata(path: &Path) -> std::result::Result<Option<Metadata>, String> {
    match std::fs::metadata(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot be looked at: {error}")),
    }
}

/// The size of the database once all of it is in its file. Smaller than before only when free pages were given back.
fn expected_bytes(connection: &Connection) -> std::result::Result<u64, String> {
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let bytes = number("page_count").and_then(|pages| Ok(pages.saturating_mul(number("page_size")?)));
    bytes.map(i64::unsigned_abs).map_err(|error| format!("cannot be read: {error}"))
}
