//! Floor 2: what outlives a run.
//!
//! [`Store`] is the contract that every backend keeps. A run works on a session under a [`SessionLease`]: whoever holds
//! it is alone, and what it does is kept only by [`SessionLease::commit`]. [`Memory`] keeps sessions as long as the
//! process lives.

mod blob;
mod memory;
mod session;

pub use blob::BlobId;
pub use memory::Memory;
pub use session::{Prefix, Session};

use crate::types::{Result, SessionId, Transcript};
use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

/// The persistence contract.
pub trait Store: Send + Sync {
    /// Waits until nobody else works on the session, creating it if it is new. First come, first served.
    fn lease<'a>(&'a self, id: &'a SessionId) -> BoxFuture<'a, Result<Box<dyn SessionLease>>>;

    /// Every session, by id.
    fn list(&self) -> BoxFuture<'_, Result<Vec<SessionInfo>>>;

    /// What was committed to a session.
    fn get<'a>(&'a self, id: &'a SessionId) -> BoxFuture<'a, Result<Option<Transcript>>>;

    /// Forgets a session. False if there was none. A run that holds it goes on, and its commit creates it anew.
    fn delete<'a>(&'a self, id: &'a SessionId) -> BoxFuture<'a, Result<bool>>;

    /// Keeps a large text under its hash.
    fn put_blob(&self, content: Vec<u8>) -> BoxFuture<'_, Result<BlobId>>;

    /// What is kept under a hash.
    fn blob<'a>(&'a self, id: &'a BlobId) -> BoxFuture<'a, Result<Option<Arc<[u8]>>>>;
}

/// The right to work on one session. Dropping it changes nothing.
pub trait SessionLease: Send + Sync {
    /// The session so far.
    fn session(&self) -> &Session;

    /// The same, to be worked on.
    fn session_mut(&mut self) -> &mut Session;

    /// Keeps the session as it now is, and gives the session back.
    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<()>>;
}

/// One session in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SessionInfo {
    /// Its id.
    pub id: SessionId,
    /// Messages in it.
    pub messages: usize,
    /// When it was last committed to.
    pub updated_at_ms: u64,
}
