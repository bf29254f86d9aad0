//! Reading back what was forwarded, into a database that has nothing yet.

use super::super::forward::record::{
    BlobRecord, EntryRecord, EventsRecord, LetterName, LetterRecord, Record, RunRecord, SessionName, SessionRecord,
};
use super::super::forward::restore::{from_base64, from_hex};
use super::{Sqlite, failed};
use crate::types::{Error, Result, Status};
use rusqlite::{OptionalExtension, Transaction, params};
use schemars::JsonSchema;
use serde::Serialize;

/// What was read back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Restored {
    /// Sessions.
    pub sessions: u64,
    /// Runs.
    pub runs: u64,
    /// Of these, those whose end was not there: they have failed, since what they did last is not known.
    pub runs_cut_short: u64,
    /// Blocks of events.
    pub event_blocks: u64,
    /// Large results.
    pub blobs: u64,
    /// Events that could not be delivered.
    pub dead_letters: u64,
}

impl Sqlite {
    /// Puts records into the database, in the order in which they come, in one transaction. `next` answers none at their end.
    pub fn restore(&self, next: &mut dyn FnMut() -> Result<Option<Record>>) -> Result<Restored> {
        self.write(|writer| {
            writer.transaction(true, |transaction| {
                check_empty(transaction)?;
                while let Some(record) = next()? {
                    apply(transaction, &record)?;
                }
                finish(transaction).map_err(failed)
            })
        })
    }
}

fn check_empty(transaction: &Transaction<'_>) -> Result<()> {
    let rows: i64 = transaction
        .query_row(
            "SELECT (SELECT count(*) FROM runs) + (SELECT count(*) FROM sessions) + (SELECT count(*) FROM events) \
             + (SELECT count(*) FROM blobs) + (SELECT count(*) FROM dead_letters)",
            [],
            |row| row.get(0),
        )
        .map_err(failed)?;
    if rows == 0 {
        return Ok(());
    }
    Err(Error::new(Status::Exists, "the database is not empty")
        .with_code("store_not_empty")
        .with_hint("restore into a new file, before its first run"))
}

fn apply(transaction: &Transaction<'_>, record: &Record) -> Result<()> {
    match record {
        Record::SessionDeleted(SessionName { scope, session }) => delete_session(transaction, scope, session),
        Record::DeadLetterRemoved(LetterName { id }) => {
            transaction.execute("DELETE FROM dead_letters WHERE id = ?", [id]).map(drop)
        }
        Record::Run(run) => put_run(transaction, run, &from_hex(&run.chain)?),
        Record::Events(events) => {
            put_events(transaction, events, &from_base64(&events.body)?, &from_hex(&events.hash)?)
        }
        Record::Session(session) => put_session(transaction, session),
        Record::Entry(entry) => put_entry(transaction, entry),
        Record::Blob(BlobRecord { hash, at_ms, text, base64 }) => {
            let content = match (text, base64) {
                (Some(text), _) => text.clone().into_bytes(),
                (None, coded) => from_base64(coded.as_deref().unwrap_or_default())?,
            };
            let hash = from_hex(hash)?;
            transaction
                .prepare_cached("INSERT OR REPLACE INTO blobs (hash, content, at_ms) VALUES (?, ?, ?)")
                .and_then(|mut insert| insert.execute(params![hash, content, at_ms]))
                .map(drop)
        }
        Record::DeadLetter(LetterRecord { id, subscription, reason, attempts, at_ms, event }) => transaction
            .execute(
                "INSERT OR REPLACE INTO dead_letters (id, subscription, reason, attempts, at_ms, event) \
                 VALUES (?, ?, ?, ?, ?, ?)",
                params![id, subscription, reason, attempts, at_ms, event.get()],
            )
            .map(drop),
    }
    .map_err(failed)
}

fn put_run(transaction: &Transaction<'_>, run: &RunRecord, chain: &[u8]) -> rusqlite::Result<()> {
    let RunRecord { run_id, scope, session, agent, status, started_at_ms, ended_at_ms, error, last_seq, chain: _ } =
        run;
    transaction
        .prepare_cached(
            "INSERT INTO runs (run_id, scope, session, agent, owner, status, started_at_ms, ended_at_ms, error, \
             last_seq, chain) VALUES (?, ?, ?, ?, 'restored', ?, ?, ?, ?, ?, ?) \
             ON CONFLICT (run_id) DO UPDATE SET status = excluded.status, ended_at_ms = excluded.ended_at_ms, \
             error = excluded.error, last_seq = excluded.last_seq, chain = excluded.chain",
        )?
        .execute(params![
            run_id,
            scope,
            session,
            agent,
            status,
            started_at_ms,
            ended_at_ms,
            error.as_ref().map(|error| error.get()),
            last_seq,
            chain
        ])
        .map(drop)
}

fn put_events(transaction: &Transaction<'_>, block: &EventsRecord, body: &[u8], hash: &[u8]) -> rusqlite::Result<()> {
    let run = transaction
        .prepare_cached("SELECT id FROM runs WHERE run_id = ?")?
        .query_row([&block.run_id], |row| row.get::<_, i64>(0))?;
    // Not an upsert: that would use up a number, and a gap in the numbers is a lost block.
    let replaced = transaction
        .prepare_cached("UPDATE events SET body = ? WHERE run = ? AND first_seq = ?")?
        .execute(params![body, run, block.first_seq])?;
    if replaced == 0 {
        transaction
            .prepare_cached(
                "INSERT INTO events (run, first_seq, last_seq, first_at_ms, last_at_ms, types, body, hash) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                run,
                block.first_seq,
                block.last_seq,
                block.first_at_ms,
                block.last_at_ms,
                block.types,
                body,
                hash
            ])?;
    }
    Ok(())
}

fn put_session(transaction: &Transaction<'_>, session: &SessionRecord) -> rusqlite::Result<()> {
    let SessionRecord { scope, session, version, head, entries, messages, created_at_ms, updated_at_ms } = session;
    let id: i64 = transaction
        .prepare_cached(
            "INSERT INTO sessions (scope, name, version, head, entries, messages, created_at_ms, updated_at_ms) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (scope, name) DO UPDATE SET version = excluded.version, \
             head = excluded.head, entries = excluded.entries, messages = excluded.messages, \
             updated_at_ms = excluded.updated_at_ms RETURNING id",
        )?
        .query_row(
            params![scope, session, version, head.get(), entries, messages, created_at_ms, updated_at_ms],
            |row| row.get(0),
        )?;
    transaction
        .prepare_cached("DELETE FROM entries WHERE session = ? AND position >= ?")?
        .execute(params![id, entries])
        .map(drop)
}

fn put_entry(transaction: &Transaction<'_>, entry: &EntryRecord) -> rusqlite::Result<()> {
    // One of a session that is not there is of a time between two states: it comes again with the later one.
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO entries (session, position, body) \
             SELECT id, ?, ? FROM sessions WHERE scope = ? AND name = ?",
        )?
        .execute(params![entry.position, entry.messages.get(), entry.scope, entry.session])
        .map(drop)
}

fn delete_session(transaction: &Transaction<'_>, scope: &str, name: &str) -> rusqlite::Result<()> {
    let session: Option<i64> = transaction
        .query_row("SELECT id FROM sessions WHERE scope = ? AND name = ?", [scope, name], |row| row.get(0))
        .optional()?;
    let Some(session) = session else { return Ok(()) };
    transaction.execute("DELETE FROM entries WHERE session = ?", [session])?;
    transaction.execute("DELETE FROM sessions WHERE id = ?", [session]).map(drop)
}

/// Ends what was shipped in part alone, because its database was gone before the rest was.
fn finish(transaction: &Transaction<'_>) -> rusqlite::Result<Restored> {
    // The chain ends with the last block that is there. A run that is under way cannot be gone on with: what it did since
    // nobody knows, and a tool that may run once may have run.
    let error = Error::new(Status::Persistence, "the run was restored without its end")
        .with_code("run_cut_short")
        .with_hint("what it said until then is in its events; start it anew");
    let runs_cut_short = transaction.execute(
        "UPDATE runs SET status = 'failed', error = ?, ended_at_ms = coalesce(ended_at_ms, started_at_ms), \
           last_seq = coalesce((SELECT last_seq FROM events WHERE run = runs.id ORDER BY first_seq DESC LIMIT 1), 0), \
           chain = coalesce((SELECT hash FROM events WHERE run = runs.id ORDER BY first_seq DESC LIMIT 1), zeroblob(32)) \
         WHERE status = 'running' \
            OR last_seq <> (SELECT last_seq FROM events WHERE run = runs.id ORDER BY first_seq DESC LIMIT 1)",
        [error.to_json()],
    )?;
    let count = |table: &str| {
        let query = format!("SELECT count(*) FROM {table}");
        transaction.query_row(&query, [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
    };
    Ok(Restored {
        sessions: count("sessions")?,
        runs: count("runs")?,
        runs_cut_short: runs_cut_short as u64,
        event_blocks: count("events")?,
        blobs: count("blobs")?,
        dead_letters: count("dead_letters")?,
    })
}
