//! What is known of a conversation besides what was said.

use crate::types::{PicoUsd, Transcript, Usage};

/// A conversation that spans runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Session {
    /// What was said.
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

/// What a model request begins with, as fingerprints: what a provider may have cached ends where one of them changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
