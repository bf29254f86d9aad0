//! Sessions in memory: the backend `"noop"`.

use super::{SessionInfo, SessionLease, Store};
use crate::types::{Error, Result, SessionId, Status, Transcript, now_ms};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// See the module's head.
pub struct Memory {
    sessions: Arc<Mutex<HashMap<SessionId, Session>>>,
    max_sessions: usize,
}

#[derive(Clone, Default)]
struct Session {
    committed: Arc<Transcript>,
    updated_at_ms: u64,
    /// Fair, so runs on one session take turns in the order they came.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Memory {
    /// An empty store for at most `max_sessions`.
    pub fn new(max_sessions: usize) -> Self {
        Self { sessions: Arc::default(), max_sessions }
    }
}

impl Store for Memory {
    fn lease<'a>(&'a self, id: &'a SessionId) -> BoxFuture<'a, Result<Box<dyn SessionLease>>> {
        Box::pin(async move {
            let turn = {
                let mut sessions = self.sessions.lock();
                if !sessions.contains_key(id) && sessions.len() >= self.max_sessions {
                    return Err(Error::new(
                        Status::Limit,
                        format!("there are {} sessions, as many as limits.max_sessions allows", sessions.len()),
                    )
                    .with_hint("delete sessions by sessions.delete, or raise the limit"));
                }
                Arc::clone(&sessions.entry(id.clone()).or_default().turn)
            };
            let turn = turn.lock_owned().await;
            // Read after the turn came: whoever held it may have committed.
            let working = self.sessions.lock().get(id).map(|session| (*session.committed).clone()).unwrap_or_default();
            Ok(Box::new(Lease { id: id.clone(), working, sessions: Arc::clone(&self.sessions), _turn: turn })
                as Box<dyn SessionLease>)
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<SessionInfo>>> {
        let mut list: Vec<_> = self
            .sessions
            .lock()
            .iter()
            .map(|(id, session)| SessionInfo {
                id: id.clone(),
                messages: session.committed.len(),
                updated_at_ms: session.updated_at_ms,
            })
            .collect();
        list.sort_by(|a, b| a.id.cmp(&b.id));
        Box::pin(std::future::ready(Ok(list)))
    }

    fn get<'a>(&'a self, id: &'a SessionId) -> BoxFuture<'a, Result<Option<Transcript>>> {
        let found = self.sessions.lock().get(id).map(|session| (*session.committed).clone());
        Box::pin(std::future::ready(Ok(found)))
    }

    fn delete<'a>(&'a self, id: &'a SessionId) -> BoxFuture<'a, Result<bool>> {
        let existed = self.sessions.lock().remove(id).is_some();
        Box::pin(std::future::ready(Ok(existed)))
    }
}

struct Lease {
    id: SessionId,
    working: Transcript,
    sessions: Arc<Mutex<HashMap<SessionId, Session>>>,
    _turn: tokio::sync::OwnedMutexGuard<()>,
}

impl SessionLease for Lease {
    fn transcript(&mut self) -> &mut Transcript {
        &mut self.working
    }

    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        let mut sessions = self.sessions.lock();
        let session = sessions.entry(self.id.clone()).or_default();
        session.committed = Arc::new(self.working);
        session.updated_at_ms = now_ms();
        drop(sessions);
        Box::pin(std::future::ready(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Part;
    use pretty_assertions::assert_eq;

    fn said(text: &str) -> Vec<Part> {
        vec![Part::Text { text: text.into() }]
    }

    #[tokio::test]
    async fn only_a_commit_is_kept() {
        let store = Memory::new(10);
        let id = SessionId::from("s");
        store.lease(&id).await.unwrap().transcript().push_user(said("lost")).unwrap();
        let mut lease = store.lease(&id).await.unwrap();
        assert_eq!(lease.transcript().len(), 0);
        lease.transcript().push_user(said("kept")).unwrap();
        lease.commit().await.unwrap();
        assert_eq!(store.get(&id).await.unwrap().unwrap().len(), 1);
        assert_eq!(store.list().await.unwrap().first().unwrap().messages, 1);
    }

    #[tokio::test]
    async fn a_session_has_one_worker_and_a_bound() {
        let store = Memory::new(1);
        let id = SessionId::from("s");
        let first = store.lease(&id).await.unwrap();
        let mut second = Box::pin(store.lease(&id));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        drop(second.await.unwrap());
        let other = SessionId::from("other");
        assert_eq!(store.lease(&other).await.err().unwrap().status(), Status::Limit);
        assert!(store.delete(&id).await.unwrap());
        assert!(store.lease(&other).await.is_ok());
    }
}
