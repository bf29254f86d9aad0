//! What the writer has done, and how long what it writes is kept.

use crate::config::RetentionConfig;
use crate::store::record::{Cutoffs, Pruned};
use crate::types::now_ms;
use schemars::JsonSchema;
use serde::Serialize;

/// How long what is kept is kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Seconds that events are kept.
    pub events_seconds: f64,
    /// The rest.
    pub rest: RetentionConfig,
}

impl Retention {
    pub(super) fn cutoffs(&self) -> Cutoffs {
        let now = now_ms();
        let before = |seconds: f64| now.saturating_sub((seconds * 1000.0) as u64);
        Cutoffs {
            events_ms: Some(before(self.events_seconds)),
            runs_ms: self.rest.runs_seconds.map(before),
            sessions_ms: self.rest.sessions_seconds.map(before),
            blobs_ms: self.rest.blobs_seconds.map(before),
            dead_letters_ms: self.rest.dead_letters_seconds.map(before),
            max_bytes: self.rest.max_bytes,
        }
    }
}

/// What the writer has done; part of `par_runtime_info`.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Counts {
    /// Transactions.
    pub commits: u64,
    /// Of these, those that waited for the disk.
    pub durable_commits: u64,
    /// Items written.
    pub items: u64,
    /// Writes that failed; each was tried again.
    pub failures: u64,
    /// Items that the database refused for good. Always 0, unless there is a bug.
    pub refused: u64,
    /// How long the last write took, in microseconds.
    pub last_commit_us: u64,
    /// When something was last written.
    pub last_commit_at_ms: u64,
    /// What went because it was too old.
    pub pruned: Pruned,
}
