//! Sessions and blobs in memory: the backend `"noop"`.

use super::{BlobId, Session, SessionInfo, SessionLease, Store};
use crate::types::{Error, Result, SessionId, Status, Transcript, now_ms};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// See the module's head.
pub struct Memory {
    sessions: Arc<Mutex<HashMap<SessionId, Kept>>>,
    max_sessions: usize,
    blobs: Mutex<Blobs>,
    max_blob_bytes: usize,
}

#[derive(Default)]
struct Blobs {
    kept: HashMap<BlobId, Arc<[u8]>>,
    /// Oldest first.
    order: VecDeque<BlobId>,
    bytes: usize,
}

#[derive(Clone, Default)]
struct Kept {
    committed: Arc<Session>,
    updated_at_ms: u64,
    /// Fair, so runs on one session take turns in the order they came.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Memory {
    /// An empty store for at most `max_sessions` and so many bytes of blobs.
    pub fn new(max_sessions: usize, max_blob_bytes: usize) -> Self {
        Self { sessions: Arc::default(), max_sessions, blobs: Mutex::default(), max_blob_bytes }
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
                messages: session.committed.transcript.len(),
                updated_at_ms: session.updated_at_ms,
            })
            .collect();
        list.sort_by(|a, b| a.id.cmp(&b.id));
        Box::pin(std::future::ready(Ok(list)))
    }

    fn get<'a>(&'a self, id: &'a SessionId) -> BoxFuture<'a, Result<Option<Transcript>>> {
        let found = self.sessions.lock().get(id).map(|session| session.committed.transcript.clone());
        Box::pin(std::future::ready(Ok(found)))
    }

    fn delete<'a>(&'a self, id: &'a SessionId) -> BoxFuture<'a, Result<bool>> {
        let existed = self.sessions.lock().remove(id).is_some();
        Box::pin(std::future::ready(Ok(existed)))
    }

    fn put_blob(&self, content: Vec<u8>) -> BoxFuture<'_, Result<BlobId>> {
        let id = BlobId::of(&content);
        let mut blobs = self.blobs.lock();
        if !blobs.kept.contains_key(&id) {
            blobs.bytes += content.len();
            blobs.order.push_back(id.clone());
            blobs.kept.insert(id.clone(), content.into());
            while blobs.bytes > self.max_blob_bytes
                && let Some(oldest) = blobs.order.pop_front()
            {
                let freed = blobs.kept.remove(&oldest).map_or(0, |blob| blob.len());
                blobs.bytes -= freed;
            }
        }
        drop(blobs);
        Box::pin(std::future::ready(Ok(id)))
    }

    fn blob<'a>(&'a self, id: &'a BlobId) -> BoxFuture<'a, Result<Option<Arc<[u8]>>>> {
        let found = self.blobs.lock().kept.get(id).cloned();
        Box::pin(std::future::ready(Ok(found)))
    }
}

struct Lease {
    id: SessionId,
    working: Session,
    sessions: Arc<Mutex<HashMap<SessionId, Kept>>>,
    _turn: tokio::sync::OwnedMutexGuard<()>,
}

impl SessionLease for Lease {
    fn session(&self) -> &Session {
        &self.working
    }

    fn session_mut(&mut self) -> &mut Session {
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
    use futures_util::FutureExt;
    use pretty_assertions::assert_eq;

    fn said(text: &str) -> Vec<Part> {
        vec![Part::text(text)]
    }

    #[tokio::test]
    async fn only_a_commit_is_kept() {
        let store = Memory::new(10, 100);
        let id = SessionId::from("s");
        store.lease(&id).await.unwrap().session_mut().transcript.push_user(said("lost")).unwrap();
        let mut lease = store.lease(&id).await.unwrap();
        assert_eq!(lease.session().transcript.len(), 0);
        lease.session_mut().transcript.push_user(said("kept")).unwrap();
        lease.commit().await.unwrap();
        assert_eq!(store.get(&id).await.unwrap().unwrap().len(), 1);
        assert_eq!(store.list().await.unwrap().first().unwrap().messages, 1);
    }

    #[tokio::test]
    async fn a_session_has_one_worker_and_a_bound() {
        let store = Memory::new(1, 100);
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

    #[tokio::test]
    async fn blobs_are_kept_once_and_the_oldest_go_first() {
        let store = Memory::new(1, 10);
        let [a, b, again] = [vec![1; 6], vec![2; 4], vec![1; 6]].map(|blob| store.put_blob(blob).now_or_never());
        assert_eq!(a, again);
        let (a, b) = (a.unwrap().unwrap(), b.unwrap().unwrap());
        assert!(store.blob(&a).await.unwrap().is_some() && store.blob(&b).await.unwrap().is_some());
        store.put_blob(vec![3; 5]).await.unwrap();
        assert_eq!((store.blob(&a).await.unwrap().is_some(), store.blob(&b).await.unwrap().is_some()), (false, true));
    }
}
