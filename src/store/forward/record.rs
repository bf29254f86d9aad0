//! What is shipped: records, each with all that is needed to have it again, and the state it is in now.
//!
//! A record replaces what was shipped under its key before; the key is what says which one it is. As JSON it is one object
//! with `kind`, which docs/persistence.md describes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::sync::Arc;

/// Changes of one database, in the order in which they were made.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The database.
    pub source: Arc<str>,
    /// The first change of it that was ever shipped.
    pub begins: i64,
    /// The first change that is in this batch.
    pub first: i64,
    /// The last.
    pub last: i64,
    /// What came of them.
    pub records: Vec<Record>,
    /// Whether there is more than one batch could take.
    pub is_full: bool,
    /// Sessions of which all changes are in it, up to a change behind the last.
    pub whole_sessions: (Vec<i64>, i64),
}

/// One record. In a batch they stand in the order of these variants: what is named stands before what names it.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// A session was deleted. What is known of it is to be forgotten.
    SessionDeleted(SessionName),
    /// A dead letter was delivered.
    DeadLetterRemoved(LetterName),
    /// A run.
    Run(RunRecord),
    /// A block of a run's events.
    Events(EventsRecord),
    /// A session, apart from what was said.
    Session(SessionRecord),
    /// What was said at one place of a session.
    Entry(EntryRecord),
    /// A large result.
    Blob(BlobRecord),
    /// An event that could not be delivered.
    DeadLetter(LetterRecord),
}

/// A session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionName {
    /// Whose.
    pub scope: String,
    /// Its name.
    pub session: String,
}

/// A dead letter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LetterName {
    /// Its number.
    pub id: i64,
}

/// A run. Key: `run_id`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunRecord {
    /// Which.
    pub run_id: String,
    /// Whose.
    pub scope: String,
    /// Its conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Its agent.
    pub agent: String,
    /// `running`, `completed`, `failed` or `cancelled`.
    pub status: String,
    /// When it began.
    pub started_at_ms: i64,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at_ms: Option<i64>,
    /// Why it failed: the error object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Box<RawValue>>,
    /// Number of its last event.
    pub last_seq: i64,
    /// Hash of its last block, in hex.
    pub chain: String,
}

/// A block of events. Key: `run_id` and `first_seq`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventsRecord {
    /// Whose events.
    pub run_id: String,
    /// Number of the first.
    pub first_seq: i64,
    /// Number of the last.
    pub last_seq: i64,
    /// When the first happened.
    pub first_at_ms: i64,
    /// When the last happened.
    pub last_at_ms: i64,
    /// The set of their types, as it is part of the hash.
    pub types: i64,
    /// Hash of the block, in hex.
    pub hash: String,
    /// The block as it is stored, in base64: what was hashed. Empty if it was blanked with its session.
    pub body: String,
    /// The events, to be read.
    pub events: Vec<Box<RawValue>>,
}

/// A session. Key: `scope` and `session`; of two, that with the larger `version` is newer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Whose.
    pub scope: String,
    /// Its name.
    pub session: String,
    /// Larger than that of any state before.
    pub version: i64,
    /// What is known besides what was said.
    pub head: Box<RawValue>,
    /// How many entries it has: those behind are no more.
    pub entries: i64,
    /// Messages in sight.
    pub messages: i64,
    /// When it was made.
    pub created_at_ms: i64,
    /// When it was last committed to.
    pub updated_at_ms: i64,
}

/// What was said. Key: `scope`, `session` and `position`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EntryRecord {
    /// Whose.
    pub scope: String,
    /// The session.
    pub session: String,
    /// Its place in it, from 0.
    pub position: i64,
    /// What the user said, or what the model said with the results of its calls: an array of messages.
    pub messages: Box<RawValue>,
}

/// A large result. Key: `hash`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BlobRecord {
    /// Its SHA-256, in hex.
    pub hash: String,
    /// When it came.
    pub at_ms: i64,
    /// Itself, if it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Itself in base64, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}

/// A dead letter. Key: `id`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LetterRecord {
    /// Its number.
    pub id: i64,
    /// Whom it was for.
    pub subscription: String,
    /// Why it was not delivered.
    pub reason: String,
    /// How often that was tried.
    pub attempts: i64,
    /// When it was given up.
    pub at_ms: i64,
    /// The event.
    pub event: Box<RawValue>,
}

impl Record {
    /// Its place among the kinds.
    pub fn rank(&self) -> u8 {
        match self {
            Self::SessionDeleted(_) => 0,
            Self::DeadLetterRemoved(_) => 1,
            Self::Run(_) => 2,
            Self::Events(_) => 3,
            Self::Session(_) => 4,
            Self::Entry(_) => 5,
            Self::Blob(_) => 6,
            Self::DeadLetter(_) => 7,
        }
    }

    /// About how many bytes it has.
    pub fn size(&self) -> usize {
        /// Names, numbers and keys.
        const REST: usize = 300;
        REST + match self {
            Self::SessionDeleted(_) | Self::DeadLetterRemoved(_) => 0,
            Self::Run(run) => length(run.error.as_deref()),
            Self::Events(block) => {
                block.body.len() + block.events.iter().map(|event| length(Some(event))).sum::<usize>()
            }
            Self::Session(session) => length(Some(&session.head)),
            Self::Entry(entry) => length(Some(&entry.messages)),
            Self::Blob(blob) => [&blob.text, &blob.base64].into_iter().flatten().map(String::len).sum(),
            Self::DeadLetter(letter) => length(Some(&letter.event)),
        }
    }
}

fn length(raw: Option<&RawValue>) -> usize {
    raw.map_or(0, |raw| raw.get().len())
}

/// JSON as it is. What is none, because it was damaged, goes as text: it must not keep everything else from being shipped.
pub fn raw(text: &str) -> Box<RawValue> {
    serde_json::from_str(text)
        .or_else(|_| serde_json::value::to_raw_value(text))
        .unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// Bytes in base64.
pub fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// Bytes in hex.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
