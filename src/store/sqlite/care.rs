//! Looking after a database: what is wrong with it, what is too old, and a copy of it.

use super::super::block::ChainCheck;
use super::super::record::{Cutoffs, Problem, Pruned, StoreSize};
use super::super::session::Session;
use super::super::{Load, SessionKey};
use super::write::WriteConnection;
use super::{changes, failed, read};
use crate::store::record::number;
use crate::types::{Error, Result, Scope, SessionId, Status};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, TransactionBehavior, params};
use std::path::Path;
use std::time::Duration;

/// Rows removed at once, so that others wait for a moment only.
const BATCH: i64 = 500;
/// Pages given back to the file system at once.
const VACUUM_PAGES: i64 = 500;
/// Pages copied at once.
const BACKUP_PAGES: i32 = 1_000;
/// Problems told; more would say nothing new.
const MOST_PROBLEMS: usize = 100;

/// Removes a little of what is too old.
pub fn prune(writer: &mut WriteConnection, cutoffs: &Cutoffs) -> Result<Pruned> {
    let is_full = match cutoffs.max_bytes {
        Some(most) => used_bytes(&writer.connection)? > most,
        None => false,
    };
    let pruned = writer.transaction(false, |transaction| {
        let remove = |query: &str, before: Option<u64>| -> Result<u64> {
            let Some(before) = before else { return Ok(0) };
            let removed = transaction
                .prepare_cached(query)
                .and_then(|mut query| query.execute(params![number(before), BATCH]))
                .map_err(failed)?;
            Ok(removed as u64)
        };
        // From the front alone: a gap in the numbers is a lost row. Nothing goes that is not forwarded yet.
        let events = "DELETE FROM events WHERE id IN (SELECT id FROM events ORDER BY id LIMIT ?2) AND last_at_ms < ?1 \
                      AND id < coalesce((SELECT min(id) FROM (SELECT id, last_at_ms FROM events ORDER BY id LIMIT ?2) \
                                         WHERE last_at_ms >= ?1), 9223372036854775807) \
                      AND id < coalesce((SELECT min(key) FROM changes WHERE kind = 'events'), 9223372036854775807)";
        let runs = "DELETE FROM runs WHERE id IN (SELECT id FROM runs WHERE ended_at_ms < ?1 \
                    AND NOT EXISTS (SELECT 1 FROM events WHERE run = runs.id) \
                    AND NOT EXISTS (SELECT 1 FROM changes WHERE kind = 'run' AND key = runs.id) LIMIT ?2)";
        let blobs = "DELETE FROM blobs WHERE rowid IN (SELECT rowid FROM blobs WHERE at_ms < ?1 \
                     AND NOT EXISTS (SELECT 1 FROM changes WHERE kind = 'blob' AND key = hash) LIMIT ?2)";
        let letters = "DELETE FROM dead_letters WHERE id IN (SELECT id FROM dead_letters WHERE at_ms < ?1 \
                       AND NOT EXISTS (SELECT 1 FROM changes WHERE kind = 'dead_letter' AND key = dead_letters.id) LIMIT ?2)";
        let in_use = "SELECT 1 FROM runs WHERE runs.scope = sessions.scope AND runs.session = sessions.name AND status = 'running'";
        let waits = "SELECT 1 FROM changes WHERE kind IN ('session', 'entry') AND key = sessions.id";
        let old = format!(
            "SELECT id FROM sessions WHERE updated_at_ms < ?1 AND NOT EXISTS ({in_use}) AND NOT EXISTS ({waits}) \
             ORDER BY updated_at_ms LIMIT ?2"
        );
        remove(&format!("DELETE FROM entries WHERE session IN ({old})"), cutoffs.sessions_ms)?;
        Ok(Pruned {
            sessions: remove(&format!("DELETE FROM sessions WHERE id IN ({old})"), cutoffs.sessions_ms)?,
            event_blocks: remove(events, if is_full { Some(u64::MAX) } else { cutoffs.events_ms })?,
            runs: remove(runs, cutoffs.runs_ms)?,
            blobs: remove(blobs, cutoffs.blobs_ms)?,
            dead_letters: remove(letters, cutoffs.dead_letters_ms)?,
        })
    })?;
    if pruned.any() {
        let mut vacuum =
            writer.connection.prepare(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES})")).map_err(failed)?;
        let mut rows = vacuum.query([]).map_err(failed)?;
        while rows.next().map_err(failed)?.is_some() {}
    }
    Ok(pruned)
}

/// Copies the database while it is in use.
pub fn backup(connection: &Connection, to: &Path) -> Result<()> {
    let refused = |what: String, hint: &str| {
        Err(Error::new(Status::Persistence, what)
            .with_code("backup_failed")
            .with_path("params.path")
            .with_hint(hint.to_owned()))
    };
    if to.exists() {
        return refused(format!("{to:?} is there already"), "give the path of a file that is not there");
    }
    super::make_private(to)?;
    let copied = copy(connection, to);
    if let Err(error) = copied {
        // Half a copy is worse than none.
        let _ = std::fs::remove_file(to);
        return refused(format!("the copy could not be made: {}", error.message()), "check the path and the disk");
    }
    Ok(())
}

fn copy(connection: &Connection, to: &Path) -> Result<()> {
    let mut target = Connection::open(to).map_err(failed)?;
    let backup = Backup::new(connection, &mut target).map_err(failed)?;
    loop {
        match backup.step(BACKUP_PAGES).map_err(failed)? {
            StepResult::Done => break,
            StepResult::More => {}
            StepResult::Busy | StepResult::Locked | _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    drop(backup);
    // Another database from now on: where this one is forwarded to, that one would be mistaken for it.
    let copied = target.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    changes::stop(&copied).and_then(|()| copied.commit()).map_err(failed)
}

/// Looks for whatever is wrong.
pub fn verify(connection: &Connection) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    let found: Vec<String> =
        read::collect(connection, &format!("PRAGMA integrity_check({MOST_PROBLEMS})"), [], |row| row.get(0))?;
    problems.extend(found.into_iter().filter(|line| line != "ok").map(|message| Problem {
        part: "integrity",
        id: None,
        message,
    }));
    if problems.is_empty() {
        verify_events(connection, &mut problems)?;
        verify_sessions(connection, &mut problems)?;
    }
    problems.truncate(MOST_PROBLEMS);
    Ok(problems)
}

/// Every run's events are there, one after the other, as they were written.
fn verify_events(connection: &Connection, problems: &mut Vec<Problem>) -> Result<()> {
    let (first, last, count): (Option<i64>, Option<i64>, i64) = connection
        .query_row("SELECT min(id), max(id), count(*) FROM events", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .map_err(failed)?;
    if let (Some(first), Some(last)) = (first, last)
        && last - first + 1 != count
    {
        let message =
            format!("{} blocks of events are missing between the first and the last", last - first + 1 - count);
        problems.push(Problem { part: "events", id: None, message });
    }
    let mut runs =
        connection.prepare("SELECT id, run_id, last_seq, chain, status FROM runs ORDER BY id").map_err(failed)?;
    let mut blocks = connection
        .prepare(
            "SELECT first_seq, last_seq, first_at_ms, last_at_ms, types, body, hash FROM events WHERE run = ? ORDER BY first_seq",
        )
        .map_err(failed)?;
    let mut rows = runs.query([]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let read = || -> rusqlite::Result<(i64, String, i64, [u8; 32])> {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        };
        let (run, run_id, last_seq, chain) = read().map_err(failed)?;
        let mut check = ChainCheck::default();
        let mut rows = blocks.query([run]).map_err(failed)?;
        let mut wrong = None;
        while let Some(row) = rows.next().map_err(failed)? {
            let block = read::block(row, 0).map_err(failed)?;
            if let Err(problem) = check.next(&block) {
                wrong.get_or_insert(problem);
            }
        }
        let wrong = wrong.or_else(|| check.end(u64::try_from(last_seq).unwrap_or(0), &chain));
        problems.extend(wrong.map(|message| Problem { part: "events", id: Some(run_id), message }));
        if problems.len() >= MOST_PROBLEMS {
            return Ok(());
        }
    }
    let lost: i64 = connection
        .query_row("SELECT count(*) FROM events WHERE run NOT IN (SELECT id FROM runs)", [], |row| row.get(0))
        .map_err(failed)?;
    if lost > 0 {
        problems.push(Problem {
            part: "runs",
            id: None,
            message: format!("{lost} blocks of events are of runs that are missing"),
        });
    }
    Ok(())
}

/// Every session can be read, and has as many entries as it says.
fn verify_sessions(connection: &Connection, problems: &mut Vec<Problem>) -> Result<()> {
    let sessions: Vec<(String, String, i64)> =
        read::collect(connection, "SELECT scope, name, entries FROM sessions", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    for (scope, name, entries) in sessions {
        let key = SessionKey { scope: Scope::from(scope), id: SessionId::from(name.as_str()) };
        let wrong = match read::session(connection, &key, None)? {
            Load::Session(stored) if number(stored.entries.len() as u64) != entries => {
                Some(format!("it has {} entries and should have {entries}", stored.entries.len()))
            }
            Load::Session(stored) => {
                Session::restore(&key, &stored.head, &stored.entries).err().map(|error| error.message().to_owned())
            }
            // Deleted meanwhile.
            Load::Absent | Load::Unchanged => None,
        };
        problems.extend(wrong.map(|message| Problem { part: "sessions", id: Some(name), message }));
        if problems.len() >= MOST_PROBLEMS {
            break;
        }
    }
    Ok(())
}

/// How much is stored.
pub fn size(connection: &Connection) -> Result<StoreSize> {
    let count = |table: &str| -> Result<u64> {
        let query = format!("SELECT count(*) FROM {table}");
        connection.query_row(&query, [], |row| row.get::<_, i64>(0)).map(|count| count.unsigned_abs()).map_err(failed)
    };
    Ok(StoreSize {
        bytes: pragma(connection, "page_count")? * pragma(connection, "page_size")?,
        sessions: count("sessions")?,
        runs: count("runs")?,
        event_blocks: count("events")?,
        blobs: count("blobs")?,
        dead_letters: count("dead_letters")?,
    })
}

/// Bytes of the database that are in use.
pub fn used_bytes(connection: &Connection) -> Result<u64> {
    let pages = pragma(connection, "page_count")?.saturating_sub(pragma(connection, "freelist_count")?);
    Ok(pages * pragma(connection, "page_size")?)
}

fn pragma(connection: &Connection, name: &str) -> Result<u64> {
    connection
        .pragma_query_value(None, name, |row| row.get::<_, i64>(0))
        .map(|value| value.unsigned_abs())
        .map_err(failed)
}
