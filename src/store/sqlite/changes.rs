//! What is not forwarded yet: marks that triggers put beside each change, in its own transaction.

use super::super::backend::SessionLock;
use super::super::block;
use super::super::forward::record::{
    BlobRecord, EntryRecord, EventsRecord, LetterName, LetterRecord, RunRecord, SessionName, SessionRecord, base64,
    hex, raw,
};
use super::super::forward::{Batch, Record};
use super::{Sqlite, failed, locks};
use crate::types::{Error, Result, Status};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// Marks looked at for one batch.
const MOST_MARKS: i64 = 20_000;
/// Marks removed at once, so that others wait for a moment only.
const REMOVED_AT_ONCE: i64 = 5_000;

/// Where a database is forwarded to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// What it is named by there.
    pub source: Arc<str>,
    /// Where.
    pub destination: String,
    /// The first change that was ever marked for it.
    pub begins: i64,
}

/// What is not shipped yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// How many changes.
    pub changes: u64,
    /// The number of the first.
    pub first: i64,
    /// The number of the last.
    pub last: i64,
    /// When the oldest was made.
    pub oldest_at_ms: Option<u64>,
}

impl Sqlite {
    /// Where the database is forwarded to, if it is.
    pub fn forwarding(&self) -> Result<Option<Forwarding>> {
        self.read(|connection| forwarding(connection).map_err(failed))
    }

    /// Marks what changes from now on, to be shipped to `destination`, unless that is done already.
    pub fn begin_forwarding(&self, destination: &str) -> Result<Forwarding> {
        self.forward_to(destination, false)
    }

    /// The same, for whoever has the right to forward: from another place, if it went there before. A place that has nothing
    /// of the database yet gets everything.
    pub fn move_forwarding(&self, destination: &str) -> Result<Forwarding> {
        self.forward_to(destination, true)
    }

    fn forward_to(&self, destination: &str, moves: bool) -> Result<Forwarding> {
        self.write(|writer| {
            writer.transaction(true, |transaction| {
                let start = || -> rusqlite::Result<Forwarding> {
                    let now = forwarding(transaction)?;
                    if let Some(now) = now.clone().filter(|now| !moves || now.destination == destination) {
                        return Ok(now);
                    }
                    if now.is_none() {
                        transaction.execute_batch(include_str!("forward.sql"))?;
                    }
                    transaction.execute_batch(include_str!("forward_all.sql"))?;
                    let begins: i64 = transaction.query_row(
                        "SELECT coalesce((SELECT min(id) FROM changes), \
                         1 + (SELECT seq FROM sqlite_sequence WHERE name = 'changes'), 1)",
                        [],
                        |row| row.get(0),
                    )?;
                    let source = uuid::Uuid::new_v4().to_string();
                    transaction.execute(
                        "INSERT OR REPLACE INTO forwarding (id, source, destination, begins) VALUES (1, ?, ?, ?)",
                        params![source, destination, begins],
                    )?;
                    Ok(Forwarding { source: source.into(), destination: destination.to_owned(), begins })
                };
                start().map_err(failed)
            })
        })
    }

    /// Marks nothing any more, and forgets what was marked. An error while somebody forwards it.
    pub fn stop_forwarding(&self) -> Result<()> {
        if self.forwarding()?.is_none() {
            return Ok(());
        }
        let Some(_lock) = self.lock_forwarding()? else {
            return Err(Error::new(Status::Busy, "another runtime forwards this database")
                .with_path("config.persistence.forward")
                .with_hint("close it first, or leave \"forward\" out"));
        };
        self.write(|writer| writer.transaction(true, |transaction| stop(transaction).map_err(failed)))
    }

    /// The right to forward the database, which one runtime at a time has; none if another one has it.
    pub fn lock_forwarding(&self) -> Result<Option<SessionLock>> {
        match self.locks()? {
            None => Ok(Some(Arc::new(()))),
            Some(locks) => locks.try_lock(locks::forwarder()),
        }
    }

    /// What is not shipped yet.
    pub fn pending(&self) -> Result<Pending> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT id, at_ms, (SELECT max(id) FROM changes) FROM changes ORDER BY id LIMIT 1")
                .and_then(|mut query| {
                    query
                        .query_row([], |row| {
                            let (first, at_ms, last): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
                            // Numbers without gaps, removed from the front alone.
                            Ok(Pending {
                                changes: (last - first + 1).unsigned_abs(),
                                first,
                                last,
                                oldest_at_ms: u64::try_from(at_ms).ok(),
                            })
                        })
                        .optional()
                })
                .map(Option::unwrap_or_default)
                .map_err(failed)
        })
    }

    /// Bytes of the database that are in use.
    pub fn used_bytes(&self) -> Result<u64> {
        self.read(super::care::used_bytes)
    }

    /// The oldest changes, about `most_bytes` of them, as things stand now; none if all are shipped.
    pub fn next_batch(&self, forwarding: &Forwarding, most_bytes: usize) -> Result<Option<Batch>> {
        self.read(|connection| {
            // One snapshot: all records are of the same moment, so what was deleted by then stands first.
            let snapshot = connection.unchecked_transaction().map_err(failed)?;
            batch(&snapshot, forwarding, most_bytes).map_err(failed)
        })
    }

    /// Forgets the marks of a batch: what they are about was shipped.
    pub fn shipped(&self, batch: &Batch) -> Result<()> {
        let (sessions, to) = &batch.whole_sessions;
        let mut sessions = sessions.as_slice();
        loop {
            let removed = self.write(|writer| {
                writer.transaction(false, |transaction| {
                    // Together with the first that are removed: a batch that is made again, because the process died, has the
                    // number of this one and takes its place, so it must have all that this one had. The numbers stay without
                    // gaps.
                    let mut done = transaction
                        .prepare_cached(
                            "UPDATE changes SET kind = 'shipped' \
                             WHERE kind IN ('session', 'entry') AND key = ? AND id > ? AND id <= ?",
                        )
                        .map_err(failed)?;
                    for session in sessions {
                        done.execute(params![session, batch.last, to]).map_err(failed)?;
                    }
                    transaction
                        .prepare_cached(
                            "DELETE FROM changes WHERE id <= ?1 AND id < (SELECT min(id) FROM changes) + ?2",
                        )
                        .and_then(|mut delete| delete.execute(params![batch.last, REMOVED_AT_ONCE]))
                        .map_err(failed)
                })
            })?;
            if removed == 0 {
                return Ok(());
            }
            sessions = &[];
        }
    }
}

fn forwarding(connection: &Connection) -> rusqlite::Result<Option<Forwarding>> {
    connection
        .prepare_cached("SELECT source, destination, begins FROM forwarding")?
        .query_row([], |row| {
            let source: String = row.get(0)?;
            Ok(Forwarding { source: source.into(), destination: row.get(1)?, begins: row.get(2)? })
        })
        .optional()
}

/// Also of a copy, which is another database: what it is about to do is not what the first one will.
pub fn stop(connection: &Connection) -> rusqlite::Result<()> {
    let triggers: Vec<String> = connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'trigger' AND name GLOB 'forward_*'")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for trigger in triggers {
        connection.execute_batch(&format!("DROP TRIGGER {trigger}"))?;
    }
    connection.execute_batch("DELETE FROM changes; DELETE FROM forwarding")
}

/// Marks that a session is deleted. Not a trigger's work: what retention removes here stays where it was shipped to.
pub fn session_deleted(transaction: &Transaction<'_>, scope: &str, name: &str) -> rusqlite::Result<()> {
    deleted(transaction, "json_array(?2, ?3)", params!["session_deleted", scope, name])
}

/// Marks that a dead letter was delivered.
pub fn letter_removed(transaction: &Transaction<'_>, id: i64) -> rusqlite::Result<()> {
    deleted(transaction, "?2", params!["dead_letter_removed", id])
}

fn deleted(transaction: &Transaction<'_>, key: &str, values: &[&dyn rusqlite::ToSql]) -> rusqlite::Result<()> {
    let mark = format!(
        "INSERT INTO changes (kind, key, at_ms) \
         SELECT ?1, {key}, CAST(unixepoch('subsec') * 1000 AS INTEGER) FROM forwarding"
    );
    transaction.prepare_cached(&mark)?.execute(values).map(drop)
}

/// A mark, but for its number.
#[derive(Clone, Debug)]
struct Mark {
    kind: String,
    key: Value,
    position: Option<i64>,
}

/// Collects what marks are about. All is loaded as it is now: once is enough.
struct Collector<'a> {
    snapshot: &'a Connection,
    seen: HashSet<String>,
    /// Sessions of which something was loaded.
    sessions: BTreeSet<i64>,
    records: Vec<Record>,
    bytes: usize,
}

impl Collector<'_> {
    /// False if it has no room for the record.
    fn add(&mut self, mark: &Mark, most_bytes: usize) -> rusqlite::Result<bool> {
        let name = format!("{mark:?}");
        if self.seen.contains(&name) {
            return Ok(true);
        }
        if let Some(record) = load(self.snapshot, mark)? {
            let size = record.size();
            if self.bytes > 0 && self.bytes.saturating_add(size) > most_bytes {
                return Ok(false);
            }
            self.bytes += size;
            self.records.push(record);
        }
        self.seen.insert(name);
        if let ("session" | "entry", Value::Integer(session)) = (mark.kind.as_str(), &mark.key) {
            self.sessions.insert(*session);
        }
        Ok(true)
    }

    /// Adds what else has changed in these sessions, although it is marked behind the batch's end: of a session there is all,
    /// or nothing, should the rest never be shipped.
    fn complete_sessions(&mut self, last: i64) -> rusqlite::Result<Vec<i64>> {
        let mut behind = self
            .snapshot
            .prepare_cached("SELECT DISTINCT position FROM changes WHERE kind = 'entry' AND key = ? AND id > ?")?;
        let sessions: Vec<i64> = std::mem::take(&mut self.sessions).into_iter().collect();
        for &session in &sessions {
            let key = Value::Integer(session);
            self.add(&Mark { kind: "session".into(), key: key.clone(), position: None }, usize::MAX)?;
            let positions: Vec<i64> =
                behind.query_map([session, last], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
            for position in positions {
                self.add(&Mark { kind: "entry".into(), key: key.clone(), position: Some(position) }, usize::MAX)?;
            }
        }
        Ok(sessions)
    }
}

fn batch(snapshot: &Connection, forwarding: &Forwarding, most_bytes: usize) -> rusqlite::Result<Option<Batch>> {
    let mut marks = snapshot.prepare_cached("SELECT id, kind, key, position FROM changes ORDER BY id LIMIT ?")?;
    let mut rows = marks.query([MOST_MARKS])?;
    let mut collector =
        Collector { snapshot, seen: HashSet::new(), sessions: BTreeSet::new(), records: Vec::new(), bytes: 0 };
    let (mut first, mut last, mut count, mut is_full) = (None, 0, 0, false);
    while let Some(row) = rows.next()? {
        let id = row.get(0)?;
        let mark = Mark { kind: row.get(1)?, key: row.get(2)?, position: row.get(3)? };
        if !collector.add(&mark, most_bytes)? {
            is_full = true;
            break;
        }
        first.get_or_insert(id);
        last = id;
        count += 1;
    }
    is_full |= count >= MOST_MARKS;
    let mut whole_sessions = (Vec::new(), last);
    if is_full {
        let sessions = collector.complete_sessions(last)?;
        // Where a session is deleted behind the end, whatever has its name by then goes again, behind that.
        let is_final: bool = !snapshot
            .prepare_cached("SELECT 1 FROM changes WHERE kind = 'session_deleted' AND id > ?")?
            .exists([last])?;
        if is_final {
            let newest = snapshot.query_row("SELECT max(id) FROM changes", [], |row| row.get(0))?;
            whole_sessions = (sessions, newest);
        }
    }
    let mut records = collector.records;
    records.sort_by_key(Record::rank);
    let (source, begins) = (Arc::clone(&forwarding.source), forwarding.begins);
    Ok(first.map(|first| Batch { source, begins, first, last, records, is_full, whole_sessions }))
}

/// What a mark is about, as it is now; none if it is no more.
fn load(snapshot: &Connection, mark: &Mark) -> rusqlite::Result<Option<Record>> {
    let one = |query: &str, read: fn(&Row<'_>) -> rusqlite::Result<Record>| {
        snapshot.prepare_cached(query)?.query_row([&mark.key], read).optional()
    };
    match mark.kind.as_str() {
        "run" => one(
            "SELECT run_id, scope, session, agent, status, started_at_ms, ended_at_ms, error, last_seq, chain \
             FROM runs WHERE id = ?",
            run,
        ),
        "events" => one(
            "SELECT first_seq, events.last_seq, first_at_ms, last_at_ms, types, body, hash, run_id \
             FROM events JOIN runs ON runs.id = run WHERE events.id = ?",
            events,
        ),
        "session" => one(
            "SELECT scope, name, version, head, entries, messages, created_at_ms, updated_at_ms \
             FROM sessions WHERE id = ?",
            session,
        ),
        "entry" => snapshot
            .prepare_cached(
                "SELECT scope, name, position, body FROM entries JOIN sessions ON sessions.id = session \
                 WHERE session = ? AND position = ?",
            )?
            .query_row(params![mark.key, mark.position], entry)
            .optional(),
        "blob" => one("SELECT hash, content, at_ms FROM blobs WHERE hash = ?", blob),
        "dead_letter" => {
            one("SELECT id, subscription, reason, attempts, at_ms, event FROM dead_letters WHERE id = ?", letter)
        }
        "dead_letter_removed" => one("SELECT ?", |row| Ok(Record::DeadLetterRemoved(LetterName { id: row.get(0)? }))),
        "session_deleted" => one("SELECT ?1 ->> 0, ?1 ->> 1", |row| {
            Ok(Record::SessionDeleted(SessionName { scope: row.get(0)?, session: row.get(1)? }))
        }),
        // "shipped", with an earlier batch.
        _ => Ok(None),
    }
}

fn run(row: &Row<'_>) -> rusqlite::Result<Record> {
    Ok(Record::Run(RunRecord {
        run_id: row.get(0)?,
        scope: row.get(1)?,
        session: row.get(2)?,
        agent: row.get(3)?,
        status: row.get(4)?,
        started_at_ms: row.get(5)?,
        ended_at_ms: row.get(6)?,
        error: row.get::<_, Option<String>>(7)?.map(|error| raw(&error)),
        last_seq: row.get(8)?,
        chain: hex(&row.get::<_, Vec<u8>>(9)?),
    }))
}

fn events(row: &Row<'_>) -> rusqlite::Result<Record> {
    let body: Vec<u8> = row.get(5)?;
    // What cannot be read goes as it is stored: whoever reads it back may know better.
    let lines = if body.is_empty() { Vec::new() } else { block::lines(&body).unwrap_or_default() };
    let lines = String::from_utf8(lines).unwrap_or_default();
    Ok(Record::Events(EventsRecord {
        run_id: row.get(7)?,
        first_seq: row.get(0)?,
        last_seq: row.get(1)?,
        first_at_ms: row.get(2)?,
        last_at_ms: row.get(3)?,
        types: row.get(4)?,
        hash: hex(&row.get::<_, Vec<u8>>(6)?),
        body: base64(&body),
        events: lines.lines().map(raw).collect(),
    }))
}

fn session(row: &Row<'_>) -> rusqlite::Result<Record> {
    Ok(Record::Session(SessionRecord {
        scope: row.get(0)?,
        session: row.get(1)?,
        version: row.get(2)?,
        head: raw(&row.get::<_, String>(3)?),
        entries: row.get(4)?,
        messages: row.get(5)?,
        created_at_ms: row.get(6)?,
        updated_at_ms: row.get(7)?,
    }))
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Record> {
    Ok(Record::Entry(EntryRecord {
        scope: row.get(0)?,
        session: row.get(1)?,
        position: row.get(2)?,
        messages: raw(&row.get::<_, String>(3)?),
    }))
}

fn blob(row: &Row<'_>) -> rusqlite::Result<Record> {
    let (text, coded) = match String::from_utf8(row.get(1)?) {
        Ok(text) => (Some(text), None),
        Err(error) => (None, Some(base64(error.as_bytes()))),
    };
    Ok(Record::Blob(BlobRecord { hash: hex(&row.get::<_, Vec<u8>>(0)?), at_ms: row.get(2)?, text, base64: coded }))
}

fn letter(row: &Row<'_>) -> rusqlite::Result<Record> {
    Ok(Record::DeadLetter(LetterRecord {
        id: row.get(0)?,
        subscription: row.get(1)?,
        reason: row.get(2)?,
        attempts: row.get(3)?,
        at_ms: row.get(4)?,
        event: raw(&row.get::<_, String>(5)?),
    }))
}
