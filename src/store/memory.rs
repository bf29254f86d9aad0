//! Large results in memory, the oldest of which go first.

use super::BlobId;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// See the module's head.
pub(super) struct Blobs {
    state: Mutex<State>,
    max_bytes: usize,
}

#[derive(Default)]
struct State {
    kept: HashMap<BlobId, Arc<[u8]>>,
    /// Oldest first.
    order: VecDeque<BlobId>,
    bytes: usize,
}

impl Blobs {
    /// Room for so many bytes.
    pub fn new(max_bytes: usize) -> Self {
        Self { state: Mutex::default(), max_bytes }
    }

    /// Keeps a text under its hash.
    pub fn put(&self, id: BlobId, content: Arc<[u8]>) {
        let mut state = self.state.lock();
        if state.kept.contains_key(&id) {
            return;
        }
        state.bytes += content.len();
        state.order.push_back(id);
        state.kept.insert(id, content);
        while state.bytes > self.max_bytes
            && let Some(oldest) = state.order.pop_front()
        {
            let freed = state.kept.remove(&oldest).map_or(0, |blob| blob.len());
            state.bytes -= freed;
        }
    }

    /// What is kept under a hash.
    pub fn get(&self, id: &BlobId) -> Option<Arc<[u8]>> {
        self.state.lock().kept.get(id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;

    #[test]
    fn blobs_are_kept_once_and_the_oldest_go_first() {
        let blobs = Blobs::new(10);
        let put = |content: &[u8]| {
            let id = BlobId::of(&crate::types::Scope::default(), content);
            blobs.put(id, content.into());
            id
        };
        let (a, b) = (put(&[1; 6]), put(&[2; 4]));
        assert_eq!(put(&[1; 6]), a);
        assert!(blobs.get(&a).is_some() && blobs.get(&b).is_some());
        put(&[3; 5]);
        assert_eq!((blobs.get(&a).is_some(), blobs.get(&b).is_some()), (false, true));
    }
}
