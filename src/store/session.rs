//! What is known of a conversation besides what was said.

use super::record::SessionKey;
use crate::types::{Error, PicoUsd, Result, Status, Transcript, Usage};
use serde::{Deserialize, Serialize};

/// A conversation that spans runs. Its JSON is what is stored beside what was said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Session {
    /// What was said.
    #[serde(skip)]
    pub transcript: Transcript,
    /// What its runs have consumed.
    pub usage: Usage,
    /// What that cost, as far as prices were known.
    pub cost: PicoUsd,
    /// Model requests made.
    pub requests: u64,
    /// Tool calls made.
    pub tool_calls: u64,
    /// When its first run began, in milliseconds since the epoch; 0 before.
    pub began_at_ms: u64,
    /// What the last model request began with.
    pub prefix: Option<Prefix>,
    /// Characters in a token, as the provider's own counts say; 0 before the first.
    pub characters_per_token: f64,
    /// Messages in sight when it was last compacted.
    pub messages_at_compaction: Option<usize>,
}

impl Session {
    /// The session of what was stored.
    pub fn restore(key: &SessionKey, head: &str, entries: &[String]) -> Result<Self> {
        let damaged = |what: String| {
            Error::new(Status::Persistence, format!("the session {:?} cannot be read: {what}", key.id))
                .with_code("store_corrupt")
                .with_hint("store.verify tells what else is damaged; restore a backup, or delete the session")
        };
        let mut session: Self = serde_json::from_str(head).map_err(|error| damaged(error.to_string()))?;
        session.transcript = Transcript::from_entries(entries.iter().map(String::as_str)).map_err(damaged)?;
        Ok(session)
    }
}

/// What a model request begins with, as fingerprints: what a provider may have cached ends where one of them changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefix {
    /// The provider and model.
    pub model: u64,
    /// The system prompt.
    pub system: u64,
    /// The tools.
    pub tools: u64,
    /// How often what was said before was compacted or rewritten.
    pub history: u64,
}
