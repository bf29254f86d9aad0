//! What a database must be able to do. `tests/store.rs` holds every one to the same suite.

use super::record::{
    Cutoffs, DeadLetter, EventFilter, Head, HeadFilter, HeadKey, Listed, Page, Problem, Pruned, RunFilter,
    SessionCommit, SessionInfo, SessionKey, StoreSize, StoredRun, StoredSession, Unfinished,
};
use super::run_log::RunWrite;
use super::{BlobId, EventBlock};
use crate::types::{AgentId, Result, RunId, SessionId};
use futures_util::future::BoxFuture;
use std::any::Any;
use std::path::Path;
use std::sync::Arc;

/// One thing to be written.
pub enum Item {
    /// What a run has come to since its last item.
    Run(Box<RunWrite>),
    /// A session that no run has changed, and what keeps others away from it until it is written.
    Session(Box<SessionCommit>, Option<SessionLock>),
    /// A large result.
    Blob {
        /// Its hash.
        id: BlobId,
        /// Itself.
        content: Arc<[u8]>,
        /// When it came.
        at_ms: u64,
    },
    /// An event that could not be delivered.
    DeadLetter(Box<DeadLetter>),
    /// A small state, whatever was there before.
    Head(Box<Head>),
    /// A small state is needed no more.
    NoHead(HeadKey),
}

/// What keeps others from working on a session, until it is dropped.
pub type SessionLock = Arc<dyn Any + Send + Sync>;

/// What a backend knows of a session.
#[derive(Clone, Debug)]
pub enum Load {
    /// Nothing.
    Absent,
    /// What the caller knows.
    Unchanged,
    /// A newer state.
    Session(Box<StoredSession>),
}

/// A database. Whatever writes is called one at a time, and may block: by the writer's thread or, where
/// [`Backend::writes_in_place`], by one that waits for it.
pub trait Backend: Send + Sync {
    /// `sqlite` or `postgres`.
    fn name(&self) -> &'static str;

    // ---- writing

    /// Whether [`Backend::write`] may be called on a thread that is in the middle of asynchronous work. It blocks there, too.
    fn writes_in_place(&self) -> bool;

    /// Writes all items in one transaction, or none. `durable`: when this returns, they survive a loss of power.
    fn write(&self, items: &[Item], durable: bool) -> Result<()>;

    /// Removes a session with its entries and runs, and blanks its events, whose chain stays whole. False if there is none.
    fn delete_session(&self, key: &SessionKey) -> Result<bool>;

    /// Copies a session's first `entries`, or all, to a new one, and answers how many. None if there is no such session; an
    /// error if the new one is there already.
    fn fork_session(&self, from: &SessionKey, to: &SessionId, entries: Option<usize>) -> Result<Option<usize>>;

    /// Removes a little of what is too old. Called again until nothing was.
    fn prune(&self, cutoffs: &Cutoffs) -> Result<Pruned>;

    /// Copies the whole database into a new file while it is in use.
    fn backup(&self, to: &Path) -> Result<()>;

    /// Takes a run over whose runtime lives no more; false if somebody else did.
    fn adopt(&self, run_id: &RunId, from_owner: &str, owner: &str) -> Result<bool>;

    /// Ends a run that nobody will resume. False if it has ended, or its runtime lives.
    fn abandon(&self, run_id: &RunId, error: &str, at_ms: u64) -> Result<bool>;

    /// Replaces a small state if it still has the version before `head.version` (0: if there is none). False if it has not.
    fn replace_head(&self, head: &Head) -> Result<bool>;

    /// Removes dead letters, once they were delivered.
    fn remove_dead_letters(&self, ids: &[i64]) -> Result<u64>;

    /// Gives back what keeps others from sessions and runs, and closes every file and connection. Nothing is asked of it
    /// afterwards: that gets the error `store_closed`.
    fn close(&self) -> Result<()>;

    // ---- sessions

    /// Waits until no other process works on the session.
    fn lock_session<'a>(&'a self, key: &'a SessionKey) -> BoxFuture<'a, Result<SessionLock>>;

    /// The same without waiting: none if another process works on it.
    fn try_lock_session<'a>(&'a self, key: &'a SessionKey) -> BoxFuture<'a, Result<Option<SessionLock>>>;

    /// Reads a session, unless it is what the caller knows.
    fn load_session<'a>(&'a self, key: &'a SessionKey, known: Option<u64>) -> BoxFuture<'a, Result<Load>>;

    /// Lists a scope's sessions, those used last first.
    fn sessions<'a>(&'a self, scope: &'a str, page: Page) -> BoxFuture<'a, Result<Listed<SessionInfo>>>;

    // ---- runs

    /// Lists runs, newest first.
    fn runs<'a>(&'a self, filter: &'a RunFilter, page: Page) -> BoxFuture<'a, Result<Listed<StoredRun>>>;

    /// One run.
    fn run<'a>(&'a self, scope: &'a str, run_id: &'a RunId) -> BoxFuture<'a, Result<Option<StoredRun>>>;

    /// Whether a run of this id was ever begun, in any scope.
    fn has_run<'a>(&'a self, run_id: &'a RunId) -> BoxFuture<'a, Result<bool>>;

    /// A run that has not ended, with all it needs to go on.
    fn unfinished<'a>(&'a self, run_id: &'a RunId) -> BoxFuture<'a, Result<Option<Unfinished>>>;

    /// The runs of an agent, in all scopes, that have not ended although their runtime lives no more.
    fn orphans<'a>(&'a self, agent: Option<&'a AgentId>) -> BoxFuture<'a, Result<Vec<StoredRun>>>;

    /// Whether the runtime of this name lives, in this process or another.
    fn is_alive<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<bool>>;

    // ---- small states

    /// One small state.
    fn head<'a>(&'a self, key: &'a HeadKey) -> BoxFuture<'a, Result<Option<Head>>>;

    /// Small states, by their names; at most `most`.
    fn heads<'a>(&'a self, filter: &'a HeadFilter, most: usize) -> BoxFuture<'a, Result<Vec<Head>>>;

    // ---- the rest

    /// Finds blocks in which events that are wanted may be, oldest first, each with its number.
    fn events<'a>(&'a self, filter: &'a EventFilter, page: Page) -> BoxFuture<'a, Result<Vec<(i64, EventBlock)>>>;

    /// Waits until there is a block of events behind the number `after`, and answers up to which number every block that will
    /// ever be there is there. `None`: answers that at once. Cancel safe.
    fn tail(&self, after: Option<i64>) -> BoxFuture<'_, Result<i64>>;

    /// What is kept under a hash.
    fn blob<'a>(&'a self, id: &'a BlobId) -> BoxFuture<'a, Result<Option<Arc<[u8]>>>>;

    /// Lists dead letters, oldest first.
    fn dead_letters(&self, page: Page) -> BoxFuture<'_, Result<Listed<DeadLetter>>>;

    /// Looks for whatever is wrong with what is stored.
    fn verify(&self) -> BoxFuture<'_, Result<Vec<Problem>>>;

    /// How much is stored.
    fn size(&self) -> BoxFuture<'_, Result<StoreSize>>;
}
