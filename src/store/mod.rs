//! Floor 2: what outlives a run.
//!
//! A [`Store`] keeps sessions, runs with their events and tool calls, and large results: in memory, or in a database that
//! keeps the contract [`Backend`]. A run works on a session under a [`SessionLease`]: whoever holds it is alone, and what it
//! does is kept only when it is committed. What a run has to say it tells its [`RunLog`], which the one [`Writer`] empties.
//!
//! What is kept is append-only with small heads: entries of conversations, and events in blocks chained by hash. A run that
//! ends is one transaction: its last events, its end, and what it leaves in its session.

mod backend;
mod blob;
pub(crate) mod block;
mod care;
mod events;
mod forward;
mod memory;
#[cfg(feature = "postgres")]
mod postgres;
mod record;
mod run_log;
mod runs;
mod session;
mod sessions;
mod sqlite;
mod writer;

pub use backend::{Backend, Item, Load, SessionLock};
pub use blob::BlobId;
pub use block::{BlockHead, EventBlock};
pub use events::{EventCursor, Followed};
pub use forward::{ForwardInfo, ForwardState};
#[cfg(feature = "postgres")]
pub use postgres::Postgres;
pub use record::{
    CallRecord, Cutoffs, DeadLetter, EventFilter, Head, HeadFilter, HeadKey, HeadKind, Listed, Page, Problem, Pruned,
    RunBegin, RunEnd, RunFilter, RunStatus, SessionCommit, SessionInfo, SessionKey, StoreSize, StoredRun,
    StoredSession, Unfinished,
};
pub use run_log::{RunLog, RunWrite};
pub use session::{Prefix, Session};
pub use sessions::{CachedSession, PendingCommit, SessionLease};
#[cfg(feature = "object-store")]
pub use sqlite::Restored;
pub use sqlite::{SCHEMA as SQLITE_SCHEMA, Sqlite};
pub use writer::{Counts, Retention, Writer, may_wait_here};

use crate::config::{Durability, Limits, Persistence, RetentionConfig, WriterConfig};
use crate::types::{Error, Result, Scope, SessionId, Status, Transcript, now_ms};
use forward::Forwarder;
use memory::Blobs;
use schemars::JsonSchema;
use serde::Serialize;
use sessions::Sessions;
use std::sync::Arc;
use writer::Ordered;

/// See the module's head.
pub struct Store {
    sessions: Sessions,
    blobs: Blobs,
    durable: Option<Durable>,
}

struct Durable {
    backend: Arc<dyn Backend>,
    writer: Arc<Writer>,
    durability: Durability,
    forwarder: Option<Arc<Forwarder>>,
    /// The backend, if it is one that an archive can be read into.
    #[cfg(feature = "object-store")]
    local: Option<Arc<Sqlite>>,
    #[cfg(feature = "object-store")]
    tls: Tls,
}

/// What a store is made of.
#[derive(Clone)]
pub struct StoreConfig<'a> {
    /// Where.
    pub persistence: &'a Persistence,
    /// When, where a run does not say.
    pub durability: Durability,
    /// How what is to be written waits.
    pub writer: WriterConfig,
    /// Seconds that events are kept.
    pub event_retention_seconds: f64,
    /// How long the rest is.
    pub retention: RetentionConfig,
    /// The bounds.
    pub limits: &'a Limits,
    /// The runtime's name, which nothing else ever had.
    pub owner: &'a str,
    /// What the store needs of the process it is in.
    pub process: Process,
}

/// What a store needs of the process it is in.
#[derive(Clone)]
pub struct Process {
    /// To be called first on every thread.
    pub begin_thread: ThreadStart,
    /// Makes a TLS configuration that trusts whom the machine trusts.
    pub trusted_tls: Tls,
}

/// See [`Process::trusted_tls`].
pub type Tls = fn() -> Result<rustls::ClientConfig>;

/// See [`Process::begin_thread`].
pub type ThreadStart = Arc<dyn Fn() + Send + Sync>;

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Process")
    }
}

impl Process {
    /// Threads that begin with nothing, and no TLS: for what is in memory.
    fn none() -> Self {
        Self { begin_thread: Arc::new(|| ()), trusted_tls: || Err(Error::internal("there is no TLS here")) }
    }
}

/// How the store is doing; part of `par_runtime_info`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct StoreInfo {
    /// `noop`, `sqlite` or `postgres`.
    pub backend: &'static str,
    /// Whether it can be written to.
    pub ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
    /// Events that wait to be written.
    pub backlog: usize,
    /// What was written.
    #[serde(flatten)]
    pub counts: Counts,
    /// Where the database is forwarded to, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward: Option<ForwardInfo>,
}

/// What closing a store left.
#[derive(Debug, Default)]
pub struct Closed {
    /// Why something could not be written, if it could not.
    pub unwritten: Option<Error>,
    /// Changes that are not forwarded yet; none if nothing is forwarded.
    pub unforwarded: Option<u64>,
}

impl Drop for Store {
    /// A runtime that could not be created closes nothing.
    fn drop(&mut self) {
        if let Some(forwarder) = self.durable.as_ref().and_then(|durable| durable.forwarder.as_ref()) {
            forwarder.close();
        }
    }
}

impl Store {
    /// Opens what is configured; a database is made, or brought to this version.
    pub fn open(config: &StoreConfig<'_>) -> Result<Self> {
        match config.persistence {
            Persistence::Noop => Ok(Self::with_backend(None, config)),
            Persistence::Sqlite { path, forward } => {
                let database = Arc::new(Sqlite::open(path, config.owner)?);
                let forwarder = Forwarder::open(&database, forward.as_ref(), config)?;
                let mut store = Self::with_backend(Some(Arc::clone(&database) as Arc<dyn Backend>), config);
                if let Some(durable) = &mut store.durable {
                    durable.forwarder = forwarder;
                    #[cfg(feature = "object-store")]
                    durable.local.replace(database);
                }
                Ok(store)
            }
            #[cfg(feature = "postgres")]
            Persistence::Postgres(database) => {
                let backend = Arc::new(Postgres::open(database, config.owner, &config.process)?);
                Ok(Self::with_backend(Some(backend), config))
            }
            #[cfg(not(feature = "postgres"))]
            Persistence::Postgres(_) => {
                Err(Error::new(Status::Unsupported, "this library was built without PostgreSQL")
                    .with_path("config.persistence")
                    .with_hint("build it with the feature \"postgres\""))
            }
        }
    }

    /// A store on this backend; without one, in memory.
    pub fn with_backend(backend: Option<Arc<dyn Backend>>, config: &StoreConfig<'_>) -> Self {
        let limits = config.limits;
        let most = if backend.is_some() { limits.cached_sessions } else { limits.max_sessions };
        let retention = Retention { events_seconds: config.event_retention_seconds, rest: config.retention };
        let durable = backend.clone().map(|backend| Durable {
            writer: Writer::new(
                Arc::clone(&backend),
                config.writer,
                retention,
                Arc::clone(&config.process.begin_thread),
            ),
            backend,
            durability: config.durability,
            forwarder: None,
            #[cfg(feature = "object-store")]
            local: None,
            #[cfg(feature = "object-store")]
            tls: config.process.trusted_tls,
        });
        Self { sessions: Sessions::new(backend, most), blobs: Blobs::new(limits.max_blob_bytes), durable }
    }

    /// A store in memory.
    pub fn in_memory(limits: &Limits) -> Self {
        let persistence = Persistence::Noop;
        Self::with_backend(
            None,
            &StoreConfig {
                persistence: &persistence,
                durability: Durability::default(),
                writer: WriterConfig::default(),
                event_retention_seconds: 0.0,
                retention: RetentionConfig::default(),
                limits,
                owner: "",
                process: Process::none(),
            },
        )
    }

    /// How it is doing.
    pub fn info(&self) -> StoreInfo {
        match &self.durable {
            None => {
                let counts = Counts::default();
                StoreInfo { backend: "noop", ok: true, error: None, backlog: 0, counts, forward: None }
            }
            Some(Durable { backend, writer, forwarder, .. }) => {
                let error = writer.failure();
                let backlog = writer.backlog();
                let most = writer.cutoffs().max_bytes;
                // A database that cannot be read says so itself.
                let forward = forwarder.as_ref().and_then(|forwarder| forwarder.info(most).ok());
                let (backend, counts) = (backend.name(), writer.counts());
                StoreInfo { backend, ok: error.is_none(), error, backlog, counts, forward }
            }
        }
    }

    /// Refuses new work while nothing can be written.
    pub fn check(&self) -> Result<()> {
        self.durable.as_ref().map_or(Ok(()), |durable| durable.writer.check())
    }

    /// Writes what waits, ships it if it is forwarded and that is soon done, and closes every file and connection.
    pub fn close(&self) -> Closed {
        let Some(durable) = &self.durable else { return Closed::default() };
        let written = durable.writer.close();
        let unforwarded = durable.forwarder.as_ref().and_then(|forwarder| {
            forwarder.close();
            forwarder.pending().ok()
        });
        let closed = durable.backend.close();
        Closed { unwritten: written.and(closed).err(), unforwarded }
    }

    // ---- sessions

    /// Waits until nobody else works on the session, creating it if it is new. `waits`: or else fails if somebody does.
    pub async fn lease(&self, key: &SessionKey, waits: bool) -> Result<SessionLease> {
        self.sessions.lease(key, waits).await
    }

    /// A scope's sessions.
    pub async fn sessions(&self, scope: &str, page: Page) -> Result<Listed<SessionInfo>> {
        match &self.durable {
            None => {
                let skipped = page.after.and_then(|after| usize::try_from(after).ok()).unwrap_or(0);
                let mut items: Vec<_> =
                    self.sessions.list(scope).into_iter().skip(skipped).take(page.limit.saturating_add(1)).collect();
                let more = items.len() > page.limit;
                items.truncate(page.limit);
                let next = more.then(|| i64::try_from(skipped + page.limit).unwrap_or(i64::MAX));
                Ok(Listed { items, next })
            }
            Some(Durable { backend, writer, .. }) => {
                writer.flush(false).await?;
                backend.sessions(scope, page).await
            }
        }
    }

    /// What was committed to a session.
    pub async fn get(&self, key: &SessionKey) -> Result<Option<Transcript>> {
        match &self.durable {
            None => Ok(self.sessions.get(key)),
            Some(Durable { backend, writer, .. }) => {
                writer.flush(false).await?;
                match backend.load_session(key, None).await? {
                    Load::Session(stored) => {
                        Session::restore(key, &stored.head, &stored.entries).map(|session| Some(session.transcript))
                    }
                    Load::Absent | Load::Unchanged => Ok(None),
                }
            }
        }
    }

    /// Makes an empty session; false if there is one of that name.
    pub async fn create(&self, key: &SessionKey) -> Result<bool> {
        let lease = self.lease(key, true).await?;
        match &self.durable {
            None if lease.is_new() => {
                drop(lease.commit());
                Ok(true)
            }
            Some(Durable { writer, .. }) if lease.is_new() => {
                let PendingCommit { commit, lock, turn } = lease.commit();
                let ordered = Ordered::Session(Item::Session(Box::new(commit), lock));
                writer.commit_ordered(ordered, Some(turn)).await.map(|()| true)
            }
            None | Some(_) => Ok(false),
        }
    }

    /// Forgets a session, and what its runs said. False if there was none; an error while a run has it.
    pub async fn delete(&self, key: &SessionKey) -> Result<bool> {
        // Held until it is gone: a run that had it meanwhile would leave half a session.
        let lease = self.sessions.lease(key, false).await?;
        let existed = lease.forget();
        match &self.durable {
            None => Ok(existed),
            Some(durable) => {
                durable.writer.flush(false).await?;
                let key = key.clone();
                durable.writer.run(move |backend| backend.delete_session(&key)).await
            }
        }
    }

    /// Copies a session's first entries, or all, to a new one, and answers how many. None if there is no such session.
    pub async fn fork(&self, from: &SessionKey, to: &SessionId, entries: Option<usize>) -> Result<Option<usize>> {
        match &self.durable {
            None => {
                let Some(transcript) = self.sessions.get(from) else { return Ok(None) };
                let Some(transcript) = transcript.first(entries) else { return Err(no_such_entry(entries)) };
                let end = transcript.end();
                let key = SessionKey { scope: from.scope.clone(), id: to.clone() };
                match self.sessions.insert(key, Session { transcript, ..Session::default() })? {
                    true => Ok(Some(end)),
                    false => Err(session_exists(to)),
                }
            }
            Some(durable) => {
                // Held until the copy is there: a run that began the session meanwhile would be overwritten.
                let key = SessionKey { scope: from.scope.clone(), id: to.clone() };
                let lease = self.sessions.lease(&key, false).await?;
                if !lease.is_new() {
                    return Err(session_exists(to));
                }
                durable.writer.flush(false).await?;
                let (from, to) = (from.clone(), to.clone());
                durable.writer.run(move |backend| backend.fork_session(&from, &to, entries)).await
            }
        }
    }

    // ---- small states

    /// Keeps a small state, with what is written next; nothing, where nothing is kept.
    pub fn keep_head(&self, head: Head) {
        if let Some(durable) = &self.durable {
            durable.writer.push(Item::Head(Box::new(head)));
        }
    }

    /// Forgets a small state.
    pub fn forget_head(&self, key: HeadKey) {
        if let Some(durable) = &self.durable {
            durable.writer.push(Item::NoHead(key));
        }
    }

    /// Replaces a small state by the next version, which is on the disk when this returns. False if somebody else was first.
    pub async fn replace_head(&self, head: Head) -> Result<bool> {
        let writer = &self.durable()?.writer;
        writer.flush(false).await?;
        writer.run(move |backend| backend.replace_head(&head)).await
    }

    /// Small states, by their names; at most `most`. None where nothing is kept.
    pub async fn heads(&self, filter: &HeadFilter, most: usize) -> Result<Vec<Head>> {
        match &self.durable {
            None => Ok(Vec::new()),
            Some(Durable { backend, writer, .. }) => {
                writer.flush(false).await?;
                backend.heads(filter, most).await
            }
        }
    }

    // ---- large results

    /// Keeps a large text of a scope.
    pub fn put_blob(&self, scope: &Scope, content: Vec<u8>) -> BlobId {
        let id = BlobId::of(scope, &content);
        match &self.durable {
            None => self.blobs.put(id, content.into()),
            Some(durable) => {
                let content: Arc<[u8]> = content.into();
                // Also here: whoever asks for it next would have to wait until it is written.
                self.blobs.put(id, Arc::clone(&content));
                durable.writer.push(Item::Blob { id, content, at_ms: now_ms() });
            }
        }
        id
    }

    /// A large text of a scope. What has this name in another scope is not found.
    pub async fn blob(&self, scope: &Scope, id: &BlobId) -> Result<Option<Arc<[u8]>>> {
        let found = match (self.blobs.get(id), &self.durable) {
            (None, Some(durable)) => durable.backend.blob(id).await?,
            (found, _) => found,
        };
        Ok(found.filter(|content| BlobId::of(scope, content) == *id))
    }

    fn durable(&self) -> Result<&Durable> {
        self.durable.as_ref().ok_or_else(|| {
            Error::new(Status::Unsupported, "nothing is kept: the persistence of this runtime is \"noop\"")
                .with_code("not_persistent")
                .with_hint("configure persistence, such as \"sqlite:par.db\"")
        })
    }
}

/// The error of a fork to a name that is taken.
fn session_exists(id: &SessionId) -> Error {
    Error::new(Status::Exists, format!("there is a session {id:?} already"))
        .with_path("params.to")
        .with_hint("choose another name, or delete it first")
}

/// The error of a fork behind the end.
fn no_such_entry(entries: Option<usize>) -> Error {
    Error::new(Status::InvalidArg, format!("the session has fewer than {} entries", entries.unwrap_or(0)))
        .with_path("params.at")
        .with_hint("an entry is what the user said, or what the model said with the results of its calls")
}
