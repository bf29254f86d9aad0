//! Reading.

use super::super::backend::Load;
use super::super::record::{
    CallRecord, DeadLetter, EventFilter, Head, HeadFilter, HeadKey, HeadKind, Listed, Page, RunBegin, RunFilter,
    RunStatus, SessionInfo, SessionKey, StoredRun, StoredSession, Unfinished,
};
use super::super::{BlobId, BlockHead, EventBlock};
use super::failed;
use crate::store::record::number;
use crate::types::{AgentId, Result, RunId, Scope, SessionId};
use rusqlite::types::{FromSql, ToSql};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::sync::Arc;

pub fn session(connection: &Connection, key: &SessionKey, known: Option<u64>) -> Result<Load> {
    let read = || -> rusqlite::Result<Load> {
        // One snapshot: a session that is committed to meanwhile is read as it was, or as it is.
        let snapshot = connection.unchecked_transaction()?;
        let found = snapshot
            .prepare_cached("SELECT id, version, head, updated_at_ms FROM sessions WHERE scope = ? AND name = ?")?
            .query_row(params![key.scope.as_str(), key.id.as_str()], |row| {
                Ok((row.get::<_, i64>(0)?, unsigned(row, 1)?, row.get::<_, String>(2)?, unsigned(row, 3)?))
            })
            .optional()?;
        let Some((id, version, head, updated_at_ms)) = found else { return Ok(Load::Absent) };
        if known == Some(version) {
            return Ok(Load::Unchanged);
        }
        let entries = texts(&snapshot, "SELECT body FROM entries WHERE session = ? ORDER BY position", id)?;
        Ok(Load::Session(Box::new(StoredSession { version, head, entries, updated_at_ms })))
    };
    read().map_err(failed)
}

pub fn sessions(connection: &Connection, scope: &str, page: Page) -> Result<Listed<SessionInfo>> {
    // Those used last first; the cursor counts those that were listed.
    let skipped = page.after.unwrap_or(0).max(0);
    let items = collect(
        connection,
        "SELECT name, messages, updated_at_ms FROM sessions WHERE scope = ? ORDER BY updated_at_ms DESC, name LIMIT ? OFFSET ?",
        params![scope, page.and_one(), skipped],
        |row| {
            Ok(SessionInfo {
                id: SessionId::from(row.get::<_, String>(0)?),
                messages: usize::try_from(row.get::<_, i64>(1)?).unwrap_or(0),
                updated_at_ms: unsigned(row, 2)?,
            })
        },
    )?;
    Ok(Listed::of(items, page, |_, count| skipped + count))
}

const RUN: &str =
    "SELECT id, run_id, agent, session, status, owner, started_at_ms, ended_at_ms, error, last_seq FROM runs";

fn stored_run(row: &Row<'_>) -> rusqlite::Result<(i64, StoredRun)> {
    let status: String = row.get(4)?;
    let error: Option<String> = row.get(8)?;
    Ok((
        row.get(0)?,
        StoredRun {
            run_id: RunId::from(row.get::<_, String>(1)?),
            agent: AgentId::from(row.get::<_, String>(2)?),
            session: row.get::<_, Option<String>>(3)?.map(SessionId::from),
            status: RunStatus::from_name(&status).unwrap_or(RunStatus::Failed),
            owner: row.get(5)?,
            started_at_ms: unsigned(row, 6)?,
            ended_at_ms: row.get::<_, Option<i64>>(7)?.and_then(|at| u64::try_from(at).ok()),
            error: error.and_then(|error| serde_json::from_str(&error).ok()),
            last_seq: unsigned(row, 9)?,
        },
    ))
}

pub fn runs(connection: &Connection, filter: &RunFilter, page: Page) -> Result<Listed<StoredRun>> {
    let mut wanted = Wanted::new();
    wanted.add("scope = ?", filter.scope.as_str().to_owned());
    wanted.add_some("session = ?", filter.session.as_ref().map(|session| session.as_str().to_owned()));
    wanted.add_some("agent = ?", filter.agent.as_ref().map(|agent| agent.as_str().to_owned()));
    wanted.add_some("status = ?", filter.status.map(|status| status.name().to_owned()));
    wanted.add_some("id < ?", page.after);
    let query = format!("{RUN} WHERE {} ORDER BY id DESC LIMIT {}", wanted.conditions(), page.and_one());
    let items = collect(connection, &query, wanted.values().as_slice(), stored_run)?;
    let Listed { items, next } = Listed::of(items, page, |(id, _), _| *id);
    Ok(Listed { items: items.into_iter().map(|(_, run)| run).collect(), next })
}

pub fn run(connection: &Connection, scope: &str, run_id: &RunId) -> Result<Option<StoredRun>> {
    let query = format!("{RUN} WHERE scope = ? AND run_id = ?");
    Ok(collect(connection, &query, params![scope, run_id.as_str()], stored_run)?.pop().map(|(_, run)| run))
}

pub fn has_run(connection: &Connection, run_id: &RunId) -> Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM runs WHERE run_id = ?")
        .and_then(|mut query| query.exists([run_id.as_str()]))
        .map_err(failed)
}

pub fn running(connection: &Connection, agent: Option<&AgentId>) -> Result<Vec<StoredRun>> {
    let mut wanted = Wanted::new();
    wanted.add("status = ?", "running".to_owned());
    wanted.add_some("agent = ?", agent.map(|agent| agent.as_str().to_owned()));
    let query = format!("{RUN} WHERE {} ORDER BY id", wanted.conditions());
    Ok(collect(connection, &query, wanted.values().as_slice(), stored_run)?.into_iter().map(|(_, run)| run).collect())
}

pub fn unfinished(connection: &Connection, run_id: &RunId) -> Result<Option<Unfinished>> {
    let read = || -> rusqlite::Result<Option<Unfinished>> {
        let snapshot = connection.unchecked_transaction()?;
        let found = snapshot
            .prepare_cached(
                "SELECT id, scope, session, agent, started_at_ms, request, owner, last_seq, chain FROM runs \
                 WHERE run_id = ? AND status = 'running'",
            )?
            .query_row([run_id.as_str()], |row| {
                let begin = RunBegin {
                    run_id: run_id.clone(),
                    scope: Scope::from(row.get::<_, String>(1)?),
                    session: row.get::<_, Option<String>>(2)?.map(SessionId::from),
                    agent: AgentId::from(row.get::<_, String>(3)?),
                    started_at_ms: unsigned(row, 4)?,
                    request: row.get::<_, Option<String>>(5)?.unwrap_or_default().into(),
                    owner: row.get::<_, String>(6)?.into(),
                };
                Ok((row.get::<_, i64>(0)?, begin, unsigned(row, 7)?, row.get::<_, [u8; 32]>(8)?))
            })
            .optional()?;
        let Some((row, begin, last_seq, chain)) = found else { return Ok(None) };
        let from: Option<i64> =
            snapshot.query_row("SELECT min(position) FROM run_entries WHERE run = ?", [row], |row| row.get(0))?;
        let entries = texts(&snapshot, "SELECT body FROM run_entries WHERE run = ? ORDER BY position", row)?;
        let mut calls = snapshot.prepare_cached("SELECT call_id, name, effect, result FROM calls WHERE run = ?")?;
        let calls = calls
            .query_map([row], |row| {
                let result: Option<String> = row.get(3)?;
                Ok(CallRecord {
                    id: row.get::<_, String>(0)?.into(),
                    name: row.get(1)?,
                    effect: row.get(2)?,
                    result: result.and_then(|result| serde_json::from_str(&result).ok()),
                })
            })?
            .collect::<rusqlite::Result<_>>()?;
        let from = from.map(|from| usize::try_from(from).unwrap_or(0));
        Ok(Some(Unfinished { begin, last_seq, chain, from, entries, calls }))
    };
    read().map_err(failed)
}

const HEAD: &str = "SELECT name, scope, run_id, version, body, updated_at_ms FROM heads";

fn stored_head(row: &Row<'_>, kind: HeadKind) -> rusqlite::Result<Head> {
    Ok(Head {
        key: HeadKey { kind, scope: Scope::from(row.get::<_, String>(1)?), name: row.get(0)? },
        run_id: row.get::<_, Option<String>>(2)?.map(RunId::from),
        version: unsigned(row, 3)?,
        body: row.get(4)?,
        updated_at_ms: unsigned(row, 5)?,
    })
}

pub fn head(connection: &Connection, key: &HeadKey) -> Result<Option<Head>> {
    let query = format!("{HEAD} WHERE kind = ? AND scope = ? AND name = ?");
    let names = params![key.kind.name(), key.scope.as_str(), key.name];
    Ok(collect(connection, &query, names, |row| stored_head(row, key.kind))?.pop())
}

pub fn heads(connection: &Connection, filter: &HeadFilter, most: usize) -> Result<Vec<Head>> {
    let mut wanted = Wanted::new();
    wanted.add("kind = ?", filter.kind.name());
    wanted.add_some("scope = ?", filter.scope.as_ref().map(|scope| scope.as_str().to_owned()));
    wanted.add_some("run_id = ?", filter.run_id.as_ref().map(|run| run.as_str().to_owned()));
    wanted.add_some("name = ?", filter.name.clone());
    let query = format!("{HEAD} WHERE {} ORDER BY name LIMIT {most}", wanted.conditions());
    collect(connection, &query, wanted.values().as_slice(), |row| stored_head(row, filter.kind))
}

pub fn events(connection: &Connection, filter: &EventFilter, page: Page) -> Result<Vec<(i64, EventBlock)>> {
    let mut wanted = Wanted::new();
    wanted.add("runs.scope = ?", filter.scope.as_str().to_owned());
    wanted.add_some("runs.run_id = ?", filter.run_id.as_ref().map(|run| run.as_str().to_owned()));
    wanted.add_some("runs.session = ?", filter.session.as_ref().map(|session| session.as_str().to_owned()));
    wanted.add_some("runs.agent = ?", filter.agent.as_ref().map(|agent| agent.as_str().to_owned()));
    wanted.add_some("events.types & ? <> 0", (filter.types != 0).then(|| number(filter.types)));
    wanted.add_some("events.last_at_ms >= ?", filter.from_ms.map(number));
    wanted.add_some("events.first_at_ms < ?", filter.to_ms.map(number));
    wanted.add_some("events.id > ?", page.after);
    let query = format!(
        "SELECT events.id, first_seq, events.last_seq, first_at_ms, last_at_ms, types, body, hash \
         FROM events JOIN runs ON runs.id = events.run WHERE {} AND length(body) > 0 ORDER BY events.id LIMIT {}",
        wanted.conditions(),
        page.limit
    );
    collect(connection, &query, wanted.values().as_slice(), |row| Ok((row.get(0)?, block(row, 1)?)))
}

/// The number of the newest block there ever was. Blocks are numbered as they are committed, since one transaction at a time
/// writes, and no number is used twice.
pub fn newest_events(connection: &Connection) -> Result<i64> {
    connection
        .prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'events'")
        .and_then(|mut query| query.query_row([], |row| row.get(0)).optional())
        .map(Option::unwrap_or_default)
        .map_err(failed)
}

/// A block whose columns begin at `at`.
pub fn block(row: &Row<'_>, at: usize) -> rusqlite::Result<EventBlock> {
    let head = BlockHead {
        first_seq: unsigned(row, at)?,
        last_seq: unsigned(row, at + 1)?,
        first_at_ms: unsigned(row, at + 2)?,
        last_at_ms: unsigned(row, at + 3)?,
        types: unsigned(row, at + 4)?,
    };
    Ok(EventBlock { head, body: row.get(at + 5)?, hash: row.get(at + 6)? })
}

pub fn blob(connection: &Connection, id: &BlobId) -> Result<Option<Arc<[u8]>>> {
    connection
        .prepare_cached("SELECT content FROM blobs WHERE hash = ?")
        .and_then(|mut query| query.query_row([id.bytes()], |row| row.get::<_, Vec<u8>>(0)).optional())
        .map(|found| found.map(Arc::from))
        .map_err(failed)
}

pub fn dead_letters(connection: &Connection, page: Page) -> Result<Listed<DeadLetter>> {
    let items = collect(
        connection,
        "SELECT id, subscription, reason, attempts, at_ms, event FROM dead_letters WHERE id > ? ORDER BY id LIMIT ?",
        params![page.after.unwrap_or(0), page.and_one()],
        |row| {
            let event: String = row.get(5)?;
            Ok(DeadLetter {
                id: row.get(0)?,
                subscription: row.get(1)?,
                reason: row.get(2)?,
                attempts: row.get(3)?,
                at_ms: unsigned(row, 4)?,
                event: serde_json::from_str(&event).unwrap_or_default(),
            })
        },
    )?;
    Ok(Listed::of(items, page, |letter, _| letter.id))
}

// ---- what reading is made of

/// Conditions and their values.
struct Wanted {
    conditions: Vec<&'static str>,
    values: Vec<Box<dyn ToSql>>,
}

impl Wanted {
    fn new() -> Self {
        Self { conditions: Vec::new(), values: Vec::new() }
    }

    fn add(&mut self, condition: &'static str, value: impl ToSql + 'static) {
        self.conditions.push(condition);
        self.values.push(Box::new(value));
    }

    fn add_some(&mut self, condition: &'static str, value: Option<impl ToSql + 'static>) {
        if let Some(value) = value {
            self.add(condition, value);
        }
    }

    fn conditions(&self) -> String {
        self.conditions.join(" AND ")
    }

    fn values(&self) -> Vec<&dyn ToSql> {
        self.values.iter().map(|value| &**value).collect()
    }
}

pub fn collect<T>(
    connection: &Connection,
    query: &str,
    values: impl rusqlite::Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    connection
        .prepare_cached(query)
        .and_then(|mut query| query.query_map(values, read)?.collect::<rusqlite::Result<Vec<T>>>())
        .map_err(failed)
}

fn texts<T: FromSql>(connection: &Connection, query: &str, id: i64) -> rusqlite::Result<Vec<T>> {
    connection.prepare_cached(query)?.query_map([id], |row| row.get(0))?.collect()
}

/// A number that was stored as one that cannot be negative; one that is was damaged.
fn unsigned(row: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(at)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(at, value))
}
