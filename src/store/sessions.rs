//! Sessions in memory: whose turn it is, and how they were left.
//!
//! Without a database this is all there is. With one it saves reading what was written a moment ago; another process may
//! have gone on with the session since, so it is always asked whether there is something newer.

use super::backend::{Backend, Load, SessionLock};
use super::record::{SessionCommit, SessionInfo, SessionKey};
use super::session::Session;
use crate::types::{Error, Result, Status, Transcript, now_ms};
use parking_lot::Mutex;
use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use tokio::sync::OwnedMutexGuard;

/// See the module's head.
pub(super) struct Sessions {
    slots: Mutex<HashMap<SessionKey, Arc<Slot>>>,
    backend: Option<Arc<dyn Backend>>,
    /// Without a database, how many there may be; with one, how many are kept in memory.
    most: usize,
}

#[derive(Default)]
struct Slot {
    /// Fair, so runs on one session take turns in the order they came.
    turn: Arc<tokio::sync::Mutex<()>>,
    left: Mutex<Left>,
}

/// How the last commit left a session. `Default`: not known, so the database is asked.
#[derive(Default)]
struct Left {
    session: Option<Arc<Session>>,
    version: u64,
    updated_at_ms: u64,
    /// What keeps other processes away, as long as something of ours is not written.
    lock: Option<Weak<dyn Any + Send + Sync>>,
}

/// The right to work on one session. Dropping it changes nothing.
pub struct SessionLease {
    key: SessionKey,
    slot: Arc<Slot>,
    working: Session,
    version: u64,
    /// The first entry that was told to the run's log, and so not to the session's changes.
    told_from: Option<usize>,
    lock: Option<SessionLock>,
    turn: OwnedMutexGuard<()>,
}

/// A new state of a session, with the right to be its next commit.
///
/// Commits of one session are written in the order of their versions because of who holds what: the next run gets the session
/// when `turn` is dropped, and that is after this commit has entered the writer's queue.
pub struct PendingCommit {
    pub(super) commit: SessionCommit,
    pub(super) lock: Option<SessionLock>,
    pub(super) turn: OwnedMutexGuard<()>,
}

/// The state of a session in memory, which a commit that is refused makes wrong.
#[derive(Clone, Debug)]
pub struct CachedSession(Weak<Slot>);

impl CachedSession {
    /// Forgets the state in memory: the next run reads the database.
    pub(super) fn forget(&self) {
        if let Some(slot) = self.0.upgrade() {
            *slot.left.lock() = Left::default();
        }
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slot")
    }
}

impl Sessions {
    pub fn new(backend: Option<Arc<dyn Backend>>, most: usize) -> Self {
        Self { slots: Mutex::default(), backend, most }
    }

    /// Waits until nobody else works on the session, creating it if it is new. `waits`: or else fails if somebody does.
    pub async fn lease(&self, key: &SessionKey, waits: bool) -> Result<SessionLease> {
        if [key.scope.as_str(), key.id.as_str()].iter().any(|name| name.contains('\0')) {
            return Err(Error::new(Status::InvalidArg, "the name of a session has no zero character"));
        }
        let slot = self.slot(key)?;
        let turn = match waits {
            true => Arc::clone(&slot.turn).lock_owned().await,
            false => Arc::clone(&slot.turn).try_lock_owned().map_err(|_| busy(key))?,
        };
        // Read after the turn came: whoever had it may have committed.
        let (mut known, mut version, held) = {
            let left = slot.left.lock();
            (left.session.clone(), left.version, left.lock.as_ref().and_then(Weak::upgrade))
        };
        let mut lock = held;
        if let Some(backend) = &self.backend {
            // As long as we hold it nobody else can have gone on.
            if lock.is_none() {
                lock = Some(match waits {
                    true => backend.lock_session(key).await?,
                    false => {
                        let free = backend.try_lock_session(key).await?;
                        free.ok_or_else(|| busy(key))?
                    }
                });
                let loaded = backend.load_session(key, known.is_some().then_some(version)).await?;
                match loaded {
                    Load::Unchanged => {}
                    Load::Absent => (known, version) = (None, 0),
                    Load::Session(stored) => {
                        let session = Session::restore(key, &stored.head, &stored.entries)?;
                        (known, version) = (Some(Arc::new(session)), stored.version);
                        let mut left = slot.left.lock();
                        *left =
                            Left { session: known.clone(), version, updated_at_ms: stored.updated_at_ms, lock: None };
                    }
                }
                slot.left.lock().lock = lock.as_ref().map(Arc::downgrade);
            }
        }
        let mut working = known.map(|session| (*session).clone()).unwrap_or_default();
        working.transcript.forget_changes();
        Ok(SessionLease { key: key.clone(), slot, working, version, told_from: None, lock, turn })
    }

    /// Every session of a scope that is in memory, by id.
    pub fn list(&self, scope: &str) -> Vec<SessionInfo> {
        let slots = self.slots.lock();
        let mut list: Vec<_> = slots
            .iter()
            .filter(|(key, _)| key.scope.as_str() == scope)
            .filter_map(|(key, slot)| {
                let left = slot.left.lock();
                let messages = left.session.as_ref()?.transcript.len();
                Some(SessionInfo { id: key.id.clone(), messages, updated_at_ms: left.updated_at_ms })
            })
            .collect();
        list.sort_by(|a, b| a.id.cmp(&b.id));
        list
    }

    /// What was committed to a session, as far as it is in memory.
    pub fn get(&self, key: &SessionKey) -> Option<Transcript> {
        let slots = self.slots.lock();
        let left = slots.get(key)?.left.lock();
        left.session.as_ref().map(|session| session.transcript.clone())
    }

    /// Puts a new session in its place; false if there is one.
    pub fn insert(&self, key: SessionKey, session: Session) -> Result<bool> {
        let slot = self.slot(&key)?;
        let mut left = slot.left.lock();
        if left.session.is_some() {
            return Ok(false);
        }
        *left = Left { session: Some(Arc::new(session)), version: 1, updated_at_ms: now_ms(), lock: None };
        Ok(true)
    }

    fn slot(&self, key: &SessionKey) -> Result<Arc<Slot>> {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(key) {
            return Ok(Arc::clone(slot));
        }
        if slots.len() >= self.most {
            // Without a database only what holds no session may go.
            forget_oldest(&mut slots, self.backend.is_none());
            if self.backend.is_none() && slots.len() >= self.most {
                return Err(Error::new(
                    Status::Limit,
                    format!("there are {} sessions, as many as limits.max_sessions allows", slots.len()),
                )
                .with_hint("delete sessions by sessions.delete, raise the limit, or persist them: \"sqlite:par.db\""));
            }
        }
        let slot = Arc::<Slot>::default();
        slots.insert(key.clone(), Arc::clone(&slot));
        Ok(slot)
    }
}

/// Makes room: an eighth of those that nobody works on go, the oldest first. `empty`: only those without a session.
fn forget_oldest(slots: &mut HashMap<SessionKey, Arc<Slot>>, empty: bool) {
    let is_idle = |slot: &Arc<Slot>| {
        let left = slot.left.lock();
        let is_locked = left.lock.as_ref().and_then(Weak::upgrade).is_some();
        Arc::strong_count(slot) == 1 && !is_locked && !(empty && left.session.is_some())
    };
    let mut idle: Vec<_> = slots
        .iter()
        .filter(|(_, slot)| is_idle(slot))
        .map(|(key, slot)| (slot.left.lock().updated_at_ms, key.clone()))
        .collect();
    idle.sort_unstable_by_key(|(at_ms, _)| *at_ms);
    for (_, key) in idle.into_iter().take(slots.len() / 8 + 1) {
        slots.remove(&key);
    }
}

fn busy(key: &SessionKey) -> Error {
    Error::new(Status::Busy, format!("another run has the session {:?}", key.id))
        .with_retryable(true)
        .with_hint("wait for it to end, or say \"session_busy\": \"wait\"")
}

impl SessionLease {
    /// The session so far.
    pub fn session(&self) -> &Session {
        &self.working
    }

    /// The same, to be worked on.
    pub fn session_mut(&mut self) -> &mut Session {
        &mut self.working
    }

    /// Whether nobody has committed to it yet.
    pub fn is_new(&self) -> bool {
        self.version == 0
    }

    /// Forgets how the session was left. False if it was new.
    pub fn forget(&self) -> bool {
        let mut left = self.slot.left.lock();
        let lock = left.lock.take();
        *left = Left { lock, ..Left::default() };
        self.version != 0
    }

    /// Entries from here on were told to the run's log.
    pub fn told(&mut self, from: usize) {
        self.told_from = Some(self.told_from.map_or(from, |before| before.min(from)));
    }

    /// Makes the session as it now is its next state. The session is free when the answer is given to the writer, or dropped.
    pub fn commit(mut self) -> PendingCommit {
        let at_ms = now_ms();
        // Not only the next number: a session that was deleted and begun anew must not look like the old one.
        let version = (self.version + 1).max(at_ms);
        if let Some(from) = self.told_from {
            self.working.transcript.tell_again(from);
        }
        let has_backend = self.lock.is_some();
        let commit = SessionCommit {
            key: self.key,
            after: self.version,
            version,
            head: if has_backend { serde_json::to_string(&self.working).unwrap_or_default() } else { String::new() },
            changes: if has_backend { self.working.transcript.take_changes() } else { None },
            messages: self.working.transcript.len(),
            at_ms,
            cached: CachedSession(Arc::downgrade(&self.slot)),
        };
        let mut left = self.slot.left.lock();
        left.session = Some(Arc::new(self.working));
        left.version = version;
        left.updated_at_ms = at_ms;
        drop(left);
        PendingCommit { commit, lock: self.lock, turn: self.turn }
    }
}
