//! What is written down, and what is read again: the same for every backend.

use super::backend::SessionLock;
use super::sessions::CachedSession;
use crate::types::{AgentId, Changes, Error, RunId, Scope, SessionId, Status, ToolCallId, ToolResult};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A session: its name is unique within its scope.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// Whose it is.
    pub scope: Scope,
    /// Its name.
    pub id: SessionId,
}

/// How a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RunStatus {
    /// It has begun and not ended. If its process lives no more, it can be resumed.
    Running,
    /// It has a result.
    Completed,
    /// It has an error.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl RunStatus {
    const ALL: [Self; 4] = [Self::Running, Self::Completed, Self::Failed, Self::Cancelled];

    /// As it is stored and told.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }
}

/// A run that begins.
#[derive(Clone, Debug)]
pub struct RunBegin {
    /// Which.
    pub run_id: RunId,
    /// Whose.
    pub scope: Scope,
    /// The conversation it continues.
    pub session: Option<SessionId>,
    /// Its agent.
    pub agent: AgentId,
    /// When.
    pub started_at_ms: u64,
    /// The request as the host wrote it: what resuming it begins with.
    pub request: Arc<str>,
    /// The runtime that runs it. Whether it lives tells [`super::Backend::is_alive`].
    pub owner: Arc<str>,
}

/// A tool call that is about to run, or has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallRecord {
    /// Which.
    pub id: ToolCallId,
    /// The tool.
    pub name: String,
    /// `pure`, `idempotent` or `once`.
    pub effect: String,
    /// What came of it, if that is known.
    pub result: Option<ToolResult>,
}

/// How a run ended.
pub struct RunEnd {
    /// How.
    pub status: RunStatus,
    /// When.
    pub ended_at_ms: u64,
    /// Why it failed: the error object as JSON.
    pub error: Option<String>,
    /// What it leaves in its session, and what keeps other processes away from that until it is written.
    pub session: Option<(SessionCommit, Option<SessionLock>)>,
}

/// A new state of a session.
#[derive(Clone, Debug)]
pub struct SessionCommit {
    /// Which.
    pub key: SessionKey,
    /// The version that it continues; 0 for a new session.
    pub after: u64,
    /// Larger than that of any state before.
    pub version: u64,
    /// What is known besides what was said, as JSON.
    pub head: String,
    /// What was said since the state before.
    pub changes: Option<Changes>,
    /// Messages in sight.
    pub messages: usize,
    /// When.
    pub at_ms: u64,
    /// The session in memory: forgotten if the commit is refused.
    pub cached: CachedSession,
}

impl SessionCommit {
    /// The commit does not continue what is stored: another run has changed the session, so this one is not written.
    pub(super) fn refuse(&self, hint: &'static str) -> Error {
        self.cached.forget();
        let error = Error::new(
            Status::Persistence,
            format!("the session {:?} was changed by another run; this run's turn is not in it", self.key.id),
        )
        .with_code("session_moved_on")
        .with_hint(hint);
        tracing::error!("{error}");
        error
    }
}

/// What is stored of a session.
#[derive(Clone, Debug)]
pub struct StoredSession {
    /// Larger than that of any state before.
    pub version: u64,
    /// What is known besides what was said, as JSON.
    pub head: String,
    /// What was said, each entry a JSON array of messages.
    pub entries: Vec<String>,
    /// When it was last committed to.
    pub updated_at_ms: u64,
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

/// One run in a list.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct StoredRun {
    /// Its id.
    pub run_id: RunId,
    /// Its agent.
    pub agent: AgentId,
    /// Its conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// How it is doing.
    pub status: RunStatus,
    /// The runtime that runs it, or did.
    #[serde(skip)]
    pub owner: String,
    /// When it began.
    pub started_at_ms: u64,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at_ms: Option<u64>,
    /// Why it failed: the error object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<serde_json::Value>,
    /// Number of its last event.
    pub last_seq: u64,
}

/// A run that has not ended, with all that is needed to go on.
#[derive(Clone, Debug)]
pub struct Unfinished {
    /// As it began.
    pub begin: RunBegin,
    /// Number of its last event that is stored.
    pub last_seq: u64,
    /// The hash that its next events are chained to.
    pub chain: [u8; 32],
    /// Where in its conversation its own entries begin; none if it has none yet.
    pub from: Option<usize>,
    /// What was said in it.
    pub entries: Vec<String>,
    /// Its tool calls.
    pub calls: Vec<CallRecord>,
}

/// Which runs are wanted, newest first.
#[derive(Clone, Debug, Default)]
pub struct RunFilter {
    /// Whose.
    pub scope: Scope,
    /// Of this session alone.
    pub session: Option<SessionId>,
    /// Of this agent alone.
    pub agent: Option<AgentId>,
    /// With this status alone.
    pub status: Option<RunStatus>,
}

/// Which events are wanted, oldest first.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Whose.
    pub scope: Scope,
    /// Of this run alone.
    pub run_id: Option<RunId>,
    /// Of this session alone.
    pub session: Option<SessionId>,
    /// Of this agent's runs alone.
    pub agent: Option<AgentId>,
    /// Of these types alone: a set of [`crate::types::EventKind::bit`]; 0 for all.
    pub types: u64,
    /// Not older.
    pub from_ms: Option<u64>,
    /// Older.
    pub to_ms: Option<u64>,
}

/// A place in a list, and how much of it is wanted. What a cursor means is the backend's business.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Behind this.
    pub after: Option<i64>,
    /// The most.
    pub limit: usize,
}

/// Part of a list.
#[derive(Clone, Debug)]
pub struct Listed<T> {
    /// What was found.
    pub items: Vec<T>,
    /// Where the next part begins; none at the end.
    pub next: Option<i64>,
}

impl Page {
    /// How many to ask for: one more than is wanted tells whether there is more.
    pub fn and_one(self) -> i64 {
        number(self.limit as u64).saturating_add(1)
    }
}

impl<T> Listed<T> {
    /// The part of a list that [`Page::and_one`] found. `cursor`: where the next part begins, by the last item and how many
    /// there are.
    pub fn of(mut items: Vec<T>, page: Page, cursor: impl FnOnce(&T, i64) -> i64) -> Self {
        let has_more = items.len() > page.limit;
        items.truncate(page.limit);
        let count = number(items.len() as u64);
        let next = items.last().filter(|_| has_more).map(|last| cursor(last, count));
        Self { items, next }
    }
}

/// As databases count. Nothing of ours comes near the bound.
pub fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// What a head is the state of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeadKind {
    /// A call that waits for somebody's word.
    Approval,
    /// A workflow between two steps.
    Workflow,
}

impl HeadKind {
    /// As it is stored.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Approval => "approval",
            Self::Workflow => "workflow",
        }
    }
}

/// A small state: its name is unique within its kind and scope.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeadKey {
    /// Of what.
    pub kind: HeadKind,
    /// Whose.
    pub scope: Scope,
    /// Its name.
    pub name: String,
}

/// A small state that is replaced as a whole. It stays until it is removed; one that belongs to a run, as long as that is
/// stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Which.
    pub key: HeadKey,
    /// The run that it belongs to.
    pub run_id: Option<RunId>,
    /// One more with each replacement, from 1 on.
    pub version: u64,
    /// The state, as JSON.
    pub body: String,
    /// When it was last replaced.
    pub updated_at_ms: u64,
}

/// Which heads are wanted.
#[derive(Clone, Debug)]
pub struct HeadFilter {
    /// Of this kind.
    pub kind: HeadKind,
    /// Of this scope alone.
    pub scope: Option<Scope>,
    /// Of this run alone.
    pub run_id: Option<RunId>,
    /// Of this name alone.
    pub name: Option<String>,
}

/// What is wrong with what is stored, as `store.verify` tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Problem {
    /// `file`, `integrity`, `events`, `sessions` or `runs`.
    pub part: &'static str,
    /// The run or session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What is wrong.
    pub message: String,
}

/// How much is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct StoreSize {
    /// Bytes of the database.
    pub bytes: u64,
    /// Sessions.
    pub sessions: u64,
    /// Runs.
    pub runs: u64,
    /// Blocks of events.
    pub event_blocks: u64,
    /// Large results.
    pub blobs: u64,
    /// Events that could not be delivered.
    pub dead_letters: u64,
}

/// What is too old: rows from before these times go.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cutoffs {
    /// Of events.
    pub events_ms: Option<u64>,
    /// Of runs that have ended.
    pub runs_ms: Option<u64>,
    /// Of sessions.
    pub sessions_ms: Option<u64>,
    /// Of large results.
    pub blobs_ms: Option<u64>,
    /// Of events that could not be delivered.
    pub dead_letters_ms: Option<u64>,
    /// The most bytes.
    pub max_bytes: Option<u64>,
}

/// What went, because it was too old.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Pruned {
    /// Blocks of events.
    pub event_blocks: u64,
    /// Runs.
    pub runs: u64,
    /// Sessions.
    pub sessions: u64,
    /// Large results.
    pub blobs: u64,
    /// Events that could not be delivered.
    pub dead_letters: u64,
}

impl Pruned {
    /// Whether anything went.
    pub fn any(&self) -> bool {
        *self != Self::default()
    }
}

impl std::ops::AddAssign for Pruned {
    fn add_assign(&mut self, other: Self) {
        self.event_blocks += other.event_blocks;
        self.runs += other.runs;
        self.sessions += other.sessions;
        self.blobs += other.blobs;
        self.dead_letters += other.dead_letters;
    }
}

/// An event that could not be delivered.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DeadLetter {
    /// Its number.
    pub id: i64,
    /// Whom it was for.
    pub subscription: String,
    /// Why it was not delivered.
    pub reason: String,
    /// How often that was tried.
    pub attempts: u32,
    /// When it was given up.
    pub at_ms: u64,
    /// The event.
    pub event: serde_json::Value,
}
