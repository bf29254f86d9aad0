//! The methods of `par_call` about what is stored: sessions, runs, events, and the store itself.

use super::core::Core;
use super::methods::list;
use super::runs::RunInfo;
use crate::config::Archive;
use crate::store::{Cutoffs, EventFilter, Listed, Page, RunFilter, RunStatus, SessionKey, StoredRun};
use crate::types::{AgentId, Error, EventKind, Result, RunId, Scope, SessionId, Status, now_ms};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// Items of a page that asks for no number.
const USUAL_PAGE: usize = 100;
/// The most items of a page.
pub(super) const MOST_PER_PAGE: usize = 1_000;

/// A run of a scope.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RunKey {
    /// Whose.
    #[serde(default)]
    pub scope: Scope,
    /// The run.
    pub run_id: RunId,
}

/// A session of a scope.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionParams {
    /// Whose.
    #[serde(default)]
    scope: Scope,
    /// The session.
    session: SessionId,
}

impl SessionParams {
    fn key(self) -> SessionKey {
        SessionKey { scope: self.scope, id: self.session }
    }
}

/// Parameters of `sessions.fork`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ForkParams {
    /// Whose.
    #[serde(default)]
    scope: Scope,
    /// What is copied.
    session: SessionId,
    /// The new session.
    to: SessionId,
    /// How many of its entries are copied: an entry is what the user said, or what the model said with the results of its
    /// calls. Default: all.
    #[serde(default)]
    at: Option<usize>,
}

/// Part of a list.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PageParams {
    /// `next_cursor` of the part before.
    #[serde(default)]
    pub cursor: Option<String>,
    /// The most items, 1 to 1000. Default 100.
    #[serde(default)]
    pub limit: Option<usize>,
}

/// Part of a scope's list.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ScopePageParams {
    /// Whose.
    #[serde(default)]
    scope: Scope,
    /// `next_cursor` of the part before.
    #[serde(default)]
    cursor: Option<String>,
    /// The most items, 1 to 1000. Default 100.
    #[serde(default)]
    limit: Option<usize>,
}

/// Parameters of `runs.list`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RunsParams {
    /// Whose.
    #[serde(default)]
    scope: Scope,
    /// Of this session alone.
    #[serde(default)]
    session: Option<SessionId>,
    /// Of this agent alone.
    #[serde(default)]
    agent: Option<AgentId>,
    /// With this status alone.
    #[serde(default)]
    status: Option<ListedStatus>,
    /// `next_cursor` of the part before.
    #[serde(default)]
    cursor: Option<String>,
    /// The most items, 1 to 1000. Default 100.
    #[serde(default)]
    limit: Option<usize>,
}

/// How a run is doing, as it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ListedStatus {
    /// It goes on.
    Running,
    /// It has not ended, and its process lives no more: `runs.resume` goes on with it.
    Interrupted,
    /// It has a result.
    Completed,
    /// It has an error.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl ListedStatus {
    fn stored(self) -> RunStatus {
        match self {
            Self::Running | Self::Interrupted => RunStatus::Running,
            Self::Completed => RunStatus::Completed,
            Self::Failed => RunStatus::Failed,
            Self::Cancelled => RunStatus::Cancelled,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Interrupted => "interrupted",
            other => other.stored().name(),
        }
    }
}

/// Parameters of `store.backup`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BackupParams {
    /// A file that is not there yet.
    path: PathBuf,
}

/// Parameters of `store.forward`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ForwardParams {
    /// How long it is waited for, 0 to 86400. Default 60.
    #[serde(default)]
    timeout_seconds: Option<f64>,
}

/// Parameters of `store.restore`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RestoreParams {
    /// Where it was forwarded to, as in `persistence.forward.to`.
    from: Archive,
    /// What the database is named by there, if several were forwarded to it.
    #[serde(default)]
    source: Option<String>,
}

/// Parameters of `store.prune`: what is older goes. Default: as the runtime's config says.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PruneParams {
    /// Seconds that events are kept.
    #[serde(default)]
    events_seconds: Option<f64>,
    /// Seconds that runs are kept after their end.
    #[serde(default)]
    runs_seconds: Option<f64>,
    /// Seconds that sessions are kept after their last run.
    #[serde(default)]
    sessions_seconds: Option<f64>,
    /// Seconds that large results are kept.
    #[serde(default)]
    blobs_seconds: Option<f64>,
    /// Seconds that events which could not be delivered are kept.
    #[serde(default)]
    dead_letters_seconds: Option<f64>,
}

impl Core {
    // ---- sessions

    pub(super) async fn create_session(&self, params: SessionParams) -> Result<Value> {
        let key = params.key();
        match self.store.create(&key).await? {
            true => Ok(json!({"id": key.id})),
            false => Err(Error::new(Status::Exists, format!("there is a session {:?} already", key.id))
                .with_path("params.session")
                .with_hint("sessions.delete forgets it")),
        }
    }

    pub(super) async fn delete_session(&self, params: SessionParams) -> Result<Value> {
        let key = params.key();
        match self.store.delete(&key).await? {
            true => Ok(json!({"deleted": true})),
            false => Err(no_session(&key)),
        }
    }

    pub(super) async fn session_json(&self, params: SessionParams) -> Result<Value> {
        let key = params.key();
        match self.store.get(&key).await? {
            Some(transcript) => Ok(json!({"id": key.id, "messages": transcript})),
            None => Err(no_session(&key)),
        }
    }

    pub(super) async fn list_sessions(&self, params: ScopePageParams) -> Result<Value> {
        let page = page(params.cursor.as_deref(), params.limit)?;
        Ok(listed(self.store.sessions(params.scope.as_str(), page).await?))
    }

    pub(super) async fn fork_session(&self, params: ForkParams) -> Result<Value> {
        let ForkParams { scope, session, to, at } = params;
        let from = SessionKey { scope, id: session };
        match self.store.fork(&from, &to, at).await? {
            Some(entries) => Ok(json!({"id": to, "entries": entries})),
            None => Err(no_session(&from)),
        }
    }

    pub(super) async fn export_session(&self, params: SessionParams) -> Result<Value> {
        let key = params.key();
        let messages = self.store.get(&key).await?.ok_or_else(|| no_session(&key))?;
        let mut export = json!({"v": 1, "id": key.id, "scope": key.scope, "messages": messages});
        if self.store.info().backend != "noop" {
            let filter = RunFilter { scope: key.scope.clone(), session: Some(key.id.clone()), ..RunFilter::default() };
            let (mut runs, mut after) = (Vec::new(), None);
            while let Some(part) = self.store.runs(&filter, Page { after, limit: MOST_PER_PAGE }).await? {
                runs.extend(part.items);
                after = part.next;
                if after.is_none() {
                    break;
                }
            }
            let filter =
                EventFilter { scope: key.scope.clone(), session: Some(key.id.clone()), ..EventFilter::default() };
            let (mut events, mut after): (Vec<Box<RawValue>>, _) = (Vec::new(), None);
            loop {
                let (part, next) = self.store.events(&filter, after, MOST_PER_PAGE).await?;
                events.extend(part);
                after = next;
                if after.is_none() {
                    break;
                }
            }
            if let Some(fields) = export.as_object_mut() {
                fields.insert("runs".into(), json!(runs));
                fields.insert("events".into(), json!(events));
            }
        }
        Ok(export)
    }

    // ---- runs

    pub(super) async fn run_json(&self, params: &RunKey) -> Result<Value> {
        let RunKey { scope, run_id } = params;
        let lately = self.runs.get(run_id.as_str()).filter(|run| run.scope == *scope);
        if let Some(run) = &lately
            && (run.status == "running" || run.result.is_some())
        {
            return Ok(json!(run));
        }
        match self.store.run(scope.as_str(), run_id).await? {
            Some(run) => self.stored_run(&run, scope).await,
            None => lately.map(|run| json!(run)).ok_or_else(|| {
                Error::new(Status::NotFound, format!("there is no run {run_id:?}")).with_hint(
                    "runs.list tells which are known; those that ended longer ago than the retention are not",
                )
            }),
        }
    }

    /// A stored run with what it came to.
    async fn stored_run(&self, run: &StoredRun, scope: &Scope) -> Result<Value> {
        let mut told = self.told(run).await?;
        if run.status == RunStatus::Completed {
            let filter = EventFilter {
                scope: scope.clone(),
                run_id: Some(run.run_id.clone()),
                types: EventKind::Completed.bit(),
                ..EventFilter::default()
            };
            let (events, _) = self.store.events(&filter, None, 1).await?;
            if let (Some(event), Some(fields)) = (events.first(), told.as_object_mut()) {
                fields.insert("result".into(), result_of(event)?);
            }
        }
        Ok(told)
    }

    async fn told(&self, run: &StoredRun) -> Result<Value> {
        let mut told = json!(run);
        if run.status == RunStatus::Running
            && !self.store.is_alive(&run.owner).await?
            && let Some(fields) = told.as_object_mut()
        {
            fields.insert("status".into(), json!(ListedStatus::Interrupted.name()));
        }
        Ok(told)
    }

    pub(super) async fn list_runs(&self, params: RunsParams) -> Result<Value> {
        let RunsParams { scope, session, agent, status, cursor, limit } = params;
        let page = page(cursor.as_deref(), limit)?;
        let stored = status.map(ListedStatus::stored);
        let filter = RunFilter { scope, session, agent, status: stored };
        let Some(Listed { items, next }) = self.store.runs(&filter, page).await? else {
            let fits = |run: &RunInfo| {
                run.scope == filter.scope
                    && filter.session.as_ref().is_none_or(|session| run.session.as_ref() == Some(session))
                    && filter.agent.as_ref().is_none_or(|agent| run.agent == *agent)
                    && status.is_none_or(|status| run.status == status.name())
            };
            return Ok(list(self.runs.list().iter().filter(|run| fits(run)).map(|run| json!(run)).collect()));
        };
        let mut told = Vec::with_capacity(items.len());
        for run in &items {
            let run = self.told(run).await?;
            // Which of those that have not ended are interrupted is known only now.
            if status.is_none_or(|status| run.get("status").is_some_and(|told| told == status.name())) {
                told.push(run);
            }
        }
        Ok(listed(Listed { items: told, next }))
    }

    pub(super) async fn abandon_run(&self, params: RunKey) -> Result<Value> {
        let RunKey { scope, run_id } = params;
        let known = self.store.run(scope.as_str(), &run_id).await?;
        let error = Error::new(Status::Cancelled, "its process ended, and the run was abandoned")
            .with_code("abandoned")
            .with_run_id(run_id.as_str());
        match known {
            None => Err(Error::new(Status::NotFound, format!("there is no run {run_id:?}"))
                .with_hint("runs.list tells which there are")),
            Some(_) if self.store.abandon(&run_id, &error).await? => Ok(json!({"abandoned": true})),
            Some(_) => Err(Error::new(Status::Busy, format!("the run {run_id:?} has ended, or lives"))
                .with_hint("runs.cancel ends a living one")),
        }
    }

    // ---- the store

    pub(super) async fn back_up(&self, params: BackupParams) -> Result<Value> {
        self.store.backup(params.path.clone()).await?;
        let bytes = std::fs::metadata(&params.path).map_or(0, |file| file.len());
        Ok(json!({"path": params.path, "bytes": bytes}))
    }

    pub(super) async fn forward(&self, params: ForwardParams) -> Result<Value> {
        let seconds = params.timeout_seconds.unwrap_or(60.0);
        if !(0.0..=86_400.0).contains(&seconds) {
            return Err(Error::schema("params.timeout_seconds", "a number of seconds, 0 to 86400, is needed"));
        }
        Ok(json!(self.store.forward(Duration::from_secs_f64(seconds)).await?))
    }

    pub(super) async fn restore(&self, params: RestoreParams) -> Result<Value> {
        let RestoreParams { from, source } = params;
        from.check("params.from")?;
        #[cfg(feature = "object-store")]
        return Ok(json!(self.store.restore(&from, source.as_deref()).await?));
        #[cfg(not(feature = "object-store"))]
        Err(Error::internal(format!("{source:?} cannot be restored from {}", from.name())))
    }

    pub(super) async fn store_json(&self) -> Result<Value> {
        let mut told = json!(self.store.info());
        if self.store.info().backend != "noop"
            && let Some(fields) = told.as_object_mut()
        {
            fields.insert("size".into(), json!(self.store.size().await?));
        }
        Ok(told)
    }

    pub(super) async fn prune(&self, params: PruneParams) -> Result<Value> {
        let before = |key: &str, seconds: Option<f64>, usual: Option<u64>| match seconds {
            Some(seconds) if !(0.0..=1e11).contains(&seconds) => {
                Err(Error::schema(format!("params.{key}"), "a number of seconds, 0 or more, is needed"))
            }
            // In the same moment, too.
            Some(seconds) => Ok(Some((now_ms() + 1).saturating_sub((seconds * 1000.0) as u64))),
            None => Ok(usual),
        };
        let usual = self.store.cutoffs()?;
        let cutoffs = Cutoffs {
            events_ms: before("events_seconds", params.events_seconds, usual.events_ms)?,
            runs_ms: before("runs_seconds", params.runs_seconds, usual.runs_ms)?,
            sessions_ms: before("sessions_seconds", params.sessions_seconds, usual.sessions_ms)?,
            blobs_ms: before("blobs_seconds", params.blobs_seconds, usual.blobs_ms)?,
            dead_letters_ms: before("dead_letters_seconds", params.dead_letters_seconds, usual.dead_letters_ms)?,
            max_bytes: usual.max_bytes,
        };
        Ok(json!(self.store.prune(cutoffs).await?))
    }
}

/// The result in a run's last event: what is not the event's head.
fn result_of(event: &RawValue) -> Result<Value> {
    let mut value: Value = serde_json::from_str(event.get()).map_err(|error| Error::internal(error.to_string()))?;
    if let Some(fields) = value.as_object_mut() {
        for key in ["v", "seq", "first_seq", "at_ms", "run_id", "parent_run_id", "path", "tag", "type"] {
            fields.remove(key);
        }
    }
    Ok(value)
}

pub(super) fn page(cursor: Option<&str>, limit: Option<usize>) -> Result<Page> {
    let after = cursor.map(|cursor| cursor.parse().map_err(|_| wrong_cursor(cursor))).transpose()?;
    Ok(Page { after, limit: page_size(limit)? })
}

pub(super) fn page_size(limit: Option<usize>) -> Result<usize> {
    match limit.unwrap_or(USUAL_PAGE) {
        limit @ 1..=MOST_PER_PAGE => Ok(limit),
        _ => Err(Error::schema("params.limit", format!("1 to {MOST_PER_PAGE} items are possible"))),
    }
}

pub(super) fn wrong_cursor(cursor: &str) -> Error {
    Error::schema("params.cursor", format!("{cursor:?} is no cursor of this list"))
        .with_hint("give next_cursor of the part before, as it is")
}

pub(super) fn listed<T: Serialize>(part: Listed<T>) -> Value {
    let mut told = json!({"items": part.items});
    if let (Some(next), Some(fields)) = (part.next, told.as_object_mut()) {
        fields.insert("next_cursor".into(), json!(next.to_string()));
    }
    told
}

fn no_session(key: &SessionKey) -> Error {
    Error::new(Status::NotFound, format!("there is no session {:?}", key.id))
        .with_hint("sessions.list tells which there are")
}
