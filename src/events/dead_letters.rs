//! Events that nobody took: stored, counted, and bounded in number.

use crate::config::EventBusConfig;
use crate::store::{DeadLetter, Page, Store};
use crate::types::Result;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// Dead letters removed at once.
const MOST_AT_ONCE: u64 = 1_000;

/// See the module's head.
pub struct DeadLetters {
    store: Arc<Store>,
    most: u64,
    kept: AtomicU64,
    not_kept: AtomicU64,
    trimmed: AtomicU64,
    known: Mutex<Known>,
    /// Whose turn it is to remove the oldest.
    turn: Semaphore,
}

/// How many are stored, as far as this runtime knows. Others that share the database add to them, so that is asked again
/// every now and then.
#[derive(Default)]
struct Known {
    stored: Option<u64>,
    since: u64,
}

impl DeadLetters {
    /// Those of this store.
    pub fn new(store: Arc<Store>, config: &EventBusConfig) -> Self {
        Self {
            store,
            most: config.max_dead_letters,
            kept: AtomicU64::new(0),
            not_kept: AtomicU64::new(0),
            trimmed: AtomicU64::new(0),
            known: Mutex::default(),
            turn: Semaphore::new(1),
        }
    }

    /// Keeps one if it can be done at once. False: it is lost, and counted.
    pub fn keep_now(&self, letter: DeadLetter) -> bool {
        let is_kept = self.store.keep_dead_letter(letter);
        let counter = if is_kept { &self.kept } else { &self.not_kept };
        counter.fetch_add(1, Ordering::Relaxed);
        if is_kept {
            let mut known = self.known.lock();
            known.since += 1;
            known.stored = known.stored.map(|stored| stored + 1);
        }
        is_kept
    }

    /// Keeps one, waiting for room until then. False: it is lost, and counted.
    pub async fn keep(&self, letter: DeadLetter, until: Instant) -> bool {
        let _ = timeout_at(until, self.store.room()).await;
        self.keep_now(letter)
    }

    /// So many were lost on the way.
    pub fn count_lost(&self, count: u64) {
        self.not_kept.fetch_add(count, Ordering::Relaxed);
    }

    /// Removes those that were delivered after all.
    pub async fn remove(&self, ids: Vec<i64>) -> Result<u64> {
        let removed = self.store.remove_dead_letters(ids).await?;
        self.known.lock().stored = None;
        Ok(removed)
    }

    /// Whether there may be more than there should be, and nobody removes them.
    pub fn wants_trim(&self) -> bool {
        let known = self.known.lock();
        known.since > 0
            && (known.stored.is_none_or(|stored| stored > self.most) || known.since >= self.recount())
            && self.turn.available_permits() > 0
    }

    /// Removes the oldest of too many.
    pub async fn trim(&self) {
        while self.wants_trim() {
            let Ok(_turn) = self.turn.try_acquire() else { return };
            if let Err(error) = self.remove_oldest().await {
                self.known.lock().since = 0;
                return tracing::warn!("dead letters could not be removed: {error}");
            }
        }
    }

    /// After how many letters of its own a runtime asks how many there are.
    fn recount(&self) -> u64 {
        (self.most / 10).max(1)
    }

    async fn remove_oldest(&self) -> Result<()> {
        let (is_stale, since) = {
            let known = self.known.lock();
            (known.stored.is_none() || known.since >= self.recount(), known.since)
        };
        if is_stale {
            let stored = self.store.size().await?.dead_letters;
            let mut known = self.known.lock();
            known.stored = Some(stored);
            // Those that came meanwhile may be counted, or not.
            known.since = known.since.saturating_sub(since);
        }
        loop {
            let excess = self.known.lock().stored.unwrap_or(0).saturating_sub(self.most);
            if excess == 0 {
                return Ok(());
            }
            let limit = usize::try_from(excess.min(MOST_AT_ONCE)).unwrap_or(usize::MAX);
            let oldest = self.store.dead_letters(Page { after: None, limit }).await?.items;
            let removed = self.store.remove_dead_letters(oldest.iter().map(|letter| letter.id).collect()).await?;
            self.trimmed.fetch_add(removed, Ordering::Relaxed);
            let mut known = self.known.lock();
            // Somebody else has removed some: asked again when the next one comes.
            known.stored = if removed == 0 { None } else { known.stored.map(|stored| stored.saturating_sub(removed)) };
        }
    }

    /// Their counts; part of `par_runtime_info`.
    pub fn info(&self) -> Value {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        json!({"kept": count(&self.kept), "not_kept": count(&self.not_kept), "trimmed": count(&self.trimmed)})
    }
}
