//! Writing: the writer's one connection.

use super::super::backend::Item;
use super::super::record::{DeadLetter, Head, HeadKey, RunStatus, SessionCommit, SessionKey};
use super::super::run_log::RunWrite;
use super::super::{EventBlock, no_such_entry, session_exists};
use super::file::OpenFile;
use super::{changes, failed};
use crate::store::record::number;
use crate::types::{Changes, Result, RunId, SessionId, now_ms};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use std::borrow::Cow;
use std::sync::Arc;

/// See the module's head.
pub struct WriteConnection {
    pub connection: Connection,
    /// None for a database in memory.
    file: Option<Arc<OpenFile>>,
    /// Whether commits wait for the disk.
    is_durable: Option<bool>,
}

impl WriteConnection {
    pub fn new(connection: Connection, file: Option<Arc<OpenFile>>) -> Self {
        Self { connection, file, is_durable: None }
    }

    /// Closes the connection. An error: it could not, or the file is not the one that was opened.
    pub fn close(self) -> Result<()> {
        let checked = self.file.as_ref().map_or(Ok(()), |file| file.check(&self.connection));
        self.connection.close().map_err(|(_, error)| failed(error))?;
        checked
    }

    /// Does something in one transaction, or not at all.
    pub fn transaction<T>(&mut self, durable: bool, work: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        if let Some(file) = &self.file {
            file.known()?;
        }
        if self.is_durable != Some(durable) {
            let mode = if durable { "FULL" } else { "NORMAL" };
            self.connection.pragma_update(None, "synchronous", mode).map_err(failed)?;
            self.is_durable = Some(durable);
        }
        // Immediate: a transaction that began by reading could not be upgraded while another process writes.
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let done = work(&transaction)?;
        transaction.commit().map_err(failed)?;
        if let Some(file) = &self.file {
            file.check(&self.connection)?;
        }
        Ok(done)
    }

    pub fn write(&mut self, items: &[Item], durable: bool) -> Result<()> {
        if items.is_empty() {
            // What was committed before without waiting shall be on the disk, too: any write that is waited for takes it along.
            return self.transaction(durable, |transaction| {
                transaction.pragma_update(None, "user_version", super::schema::STEPS.len() as i32).map_err(failed)
            });
        }
        self.transaction(durable, |transaction| {
            for item in items {
                match item {
                    Item::Run(run) => write_run(transaction, run),
                    Item::Session(commit, _) => commit_session(transaction, commit).map(|is_next| {
                        if !is_next {
                            commit.refuse(NOT_NEXT);
                        }
                    }),
                    Item::Blob { id, content, at_ms } => transaction
                        .prepare_cached(
                            "INSERT INTO blobs (hash, content, at_ms) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                        )
                        .and_then(|mut insert| insert.execute(params![id.bytes(), &**content, number(*at_ms)]))
                        .map(drop),
                    Item::DeadLetter(letter) => insert_dead_letter(transaction, letter),
                    Item::Head(head) => put_head(transaction, head),
                    Item::NoHead(key) => remove_head(transaction, key),
                }
                .map_err(failed)?;
            }
            Ok(())
        })
    }

    pub fn delete_session(&mut self, key: &SessionKey) -> Result<bool> {
        self.transaction(true, |transaction| {
            let names = params![key.scope.as_str(), key.id.as_str()];
            let delete = || -> rusqlite::Result<bool> {
                let session: Option<i64> = transaction
                    .query_row("SELECT id FROM sessions WHERE scope = ? AND name = ?", names, |row| row.get(0))
                    .optional()?;
                let ended = "SELECT id FROM runs WHERE scope = ? AND session = ? AND status <> 'running'";
                // The rows stay: without them nothing would tell a deleted event from a lost one.
                transaction.execute(&format!("UPDATE events SET body = x'' WHERE run IN ({ended})"), names)?;
                transaction.execute(
                    "UPDATE runs SET error = NULL WHERE scope = ? AND session = ? AND status <> 'running'",
                    names,
                )?;
                let Some(session) = session else { return Ok(false) };
                changes::session_deleted(transaction, key.scope.as_str(), key.id.as_str())?;
                transaction.execute("DELETE FROM entries WHERE session = ?", [session])?;
                transaction.execute("DELETE FROM sessions WHERE id = ?", [session])?;
                Ok(true)
            };
            delete().map_err(failed)
        })
    }

    pub fn fork_session(&mut self, from: &SessionKey, to: &SessionId, entries: Option<usize>) -> Result<Option<usize>> {
        self.transaction(true, |transaction| {
            let find = |name: &str| {
                transaction
                    .query_row(
                        "SELECT id, entries FROM sessions WHERE scope = ? AND name = ?",
                        params![from.scope.as_str(), name],
                        |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
                    )
                    .optional()
                    .map_err(failed)
            };
            let Some((id, has)) = find(from.id.as_str())? else { return Ok(None) };
            if find(to.as_str())?.is_some() {
                return Err(session_exists(to));
            }
            let wanted = entries.map_or(has, |entries| i64::try_from(entries).unwrap_or(i64::MAX));
            if wanted > has {
                return Err(no_such_entry(entries));
            }
            let copy = || -> rusqlite::Result<()> {
                transaction.execute(
                    "INSERT INTO sessions (scope, name, version, head, entries, messages, created_at_ms, updated_at_ms) \
                     VALUES (?1, ?2, ?3, '{}', ?4, \
                       (SELECT count(*) FROM entries, json_each(entries.body) \
                        WHERE session = ?5 AND position < ?4 AND json_extract(json_each.value, '$.role') <> 'compaction'), \
                       ?3, ?3)",
                    params![from.scope.as_str(), to.as_str(), number(now_ms()), wanted, id],
                )?;
                transaction.execute(
                    "INSERT INTO entries (session, position, body) \
                     SELECT ?, position, body FROM entries WHERE session = ? AND position < ?",
                    params![transaction.last_insert_rowid(), id, wanted],
                )?;
                Ok(())
            };
            copy().map_err(failed)?;
            Ok(Some(usize::try_from(wanted).unwrap_or(0)))
        })
    }

    pub fn adopt(&mut self, run_id: &RunId, from_owner: &str, owner: &str) -> Result<bool> {
        self.transaction(true, |transaction| {
            transaction
                .execute(
                    "UPDATE runs SET owner = ? WHERE run_id = ? AND owner = ? AND status = 'running'",
                    params![owner, run_id.as_str(), from_owner],
                )
                .map(|changed| changed == 1)
                .map_err(failed)
        })
    }

    pub fn abandon(&mut self, run_id: &RunId, error: &str, at_ms: u64) -> Result<bool> {
        self.transaction(true, |transaction| {
            let end = || -> rusqlite::Result<bool> {
                let run: Option<i64> = transaction
                    .query_row(
                        "SELECT id FROM runs WHERE run_id = ? AND status = 'running'",
                        [run_id.as_str()],
                        |row| row.get(0),
                    )
                    .optional()?;
                let Some(run) = run else { return Ok(false) };
                transaction.execute(
                    "UPDATE runs SET status = 'failed', ended_at_ms = ?, error = ?, request = NULL WHERE id = ?",
                    params![number(at_ms), error, run],
                )?;
                forget_steps(transaction, run)?;
                Ok(true)
            };
            end().map_err(failed)
        })
    }

    pub fn replace_head(&mut self, head: &Head) -> Result<bool> {
        self.transaction(true, |transaction| {
            let replace = || -> rusqlite::Result<bool> {
                let version: Option<i64> = transaction
                    .prepare_cached("SELECT version FROM heads WHERE kind = ? AND scope = ? AND name = ?")?
                    .query_row(names(&head.key), |row| row.get(0))
                    .optional()?;
                let is_next = version.unwrap_or(0) + 1 == number(head.version);
                if is_next {
                    put_head(transaction, head)?;
                }
                Ok(is_next)
            };
            replace().map_err(failed)
        })
    }

    pub fn remove_dead_letters(&mut self, ids: &[i64]) -> Result<u64> {
        self.transaction(true, |transaction| {
            let mut removed = 0;
            for id in ids {
                removed += transaction.execute("DELETE FROM dead_letters WHERE id = ?", [id]).map_err(failed)?;
                changes::letter_removed(transaction, *id).map_err(failed)?;
            }
            Ok(removed as u64)
        })
    }
}

/// The hint for a commit that does not continue the session. The locks of sessions exclude it.
const NOT_NEXT: &str = "this is a bug, or another program has written to the database: please report it";

fn write_run(transaction: &Transaction<'_>, run: &RunWrite) -> rusqlite::Result<()> {
    let refused = match run.end.as_ref().and_then(|end| end.session.as_ref()) {
        Some((commit, _)) if !commit_session(transaction, commit)? => Some(commit.refuse(NOT_NEXT)),
        Some(_) | None => None,
    };
    let end = run.end.as_ref().map(|end| match &refused {
        None => (end.status, end.ended_at_ms, end.error.as_deref().map(Cow::Borrowed)),
        Some(error) => (RunStatus::Failed, end.ended_at_ms, serde_json::to_string(error).ok().map(Cow::Owned)),
    });
    if let Some(error) = refused {
        run.lose(error);
    }
    if run.makes_row {
        make_row(transaction, run, end.as_ref())?;
    } else if run.row() == 0 {
        // It goes on with a row that another runtime made.
        let id = run.begin().run_id.as_str();
        run.has_row(transaction.query_row("SELECT id FROM runs WHERE run_id = ?", [id], |row| row.get(0))?);
    }
    let row = run.row();
    if let Some(block) = &run.block {
        insert_block(transaction, row, block)?;
    }
    if let Some(changes) = &run.changes {
        write_changes(transaction, "run_entries", "run", row, changes)?;
    }
    for call in &run.calls {
        let result = call.result.as_ref().map(|result| serde_json::to_string(result).unwrap_or_default());
        transaction
            .prepare_cached(
                "INSERT INTO calls (run, call_id, name, effect, result) VALUES (?, ?, ?, ?, ?) \
                 ON CONFLICT DO UPDATE SET result = excluded.result",
            )?
            .execute(params![row, call.id.as_str(), call.name, call.effect, result])?;
    }
    if run.releases {
        transaction.prepare_cached("UPDATE runs SET owner = '' WHERE id = ?")?.execute([row])?;
    }
    if run.makes_row {
        // The row was made as the run is now.
        return Ok(());
    }
    let last = run.block.as_ref().map(|block| (number(block.head.last_seq), block.hash));
    match &end {
        Some((status, ended_at_ms, error)) => {
            transaction
                .prepare_cached(
                    "UPDATE runs SET status = ?, ended_at_ms = ?, error = ?, request = NULL, \
                     last_seq = coalesce(?, last_seq), chain = coalesce(?, chain) WHERE id = ?",
                )?
                .execute(params![
                    status.name(),
                    number(*ended_at_ms),
                    error,
                    last.map(|(seq, _)| seq),
                    last.map(|(_, hash)| hash),
                    row
                ])?;
            forget_steps(transaction, row)?;
        }
        None => {
            if let Some((seq, hash)) = last {
                transaction
                    .prepare_cached("UPDATE runs SET last_seq = ?, chain = ? WHERE id = ?")?
                    .execute(params![seq, hash, row])?;
            }
        }
    }
    Ok(())
}

/// What was only of use to go on with.
fn forget_steps(transaction: &Transaction<'_>, run: i64) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("DELETE FROM heads WHERE run_id = (SELECT run_id FROM runs WHERE id = ?)")?
        .execute([run])?;
    transaction.prepare_cached("DELETE FROM run_entries WHERE run = ?")?.execute([run])?;
    transaction.prepare_cached("DELETE FROM calls WHERE run = ?")?.execute([run])?;
    Ok(())
}

/// How a run ended: its status, when, and the error object if it failed.
type End<'a> = (RunStatus, u64, Option<Cow<'a, str>>);

fn make_row(transaction: &Transaction<'_>, run: &RunWrite, end: Option<&End<'_>>) -> rusqlite::Result<()> {
    let begin = run.begin();
    let (last_seq, chain) = run.block.as_ref().map_or((0, [0; 32]), |block| (number(block.head.last_seq), block.hash));
    let status = end.map_or(RunStatus::Running, |(status, ..)| *status);
    let request = if end.is_none() { Some(&*begin.request) } else { None };
    transaction
        .prepare_cached(
            "INSERT INTO runs (run_id, scope, session, agent, owner, status, started_at_ms, ended_at_ms, request, error, \
             last_seq, chain) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            begin.run_id.as_str(),
            begin.scope.as_str(),
            begin.session.as_ref().map(SessionId::as_str),
            begin.agent.as_str(),
            &*begin.owner,
            status.name(),
            number(begin.started_at_ms),
            end.map(|(_, ended_at_ms, _)| number(*ended_at_ms)),
            request,
            end.and_then(|(.., error)| error.as_deref()),
            last_seq,
            chain,
        ])?;
    run.has_row(transaction.last_insert_rowid());
    Ok(())
}

fn insert_block(transaction: &Transaction<'_>, run: i64, block: &EventBlock) -> rusqlite::Result<()> {
    let EventBlock { head, body, hash } = block;
    transaction
        .prepare_cached(
            "INSERT INTO events (run, first_seq, last_seq, first_at_ms, last_at_ms, types, body, hash) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            run,
            number(head.first_seq),
            number(head.last_seq),
            number(head.first_at_ms),
            number(head.last_at_ms),
            number(head.types),
            body,
            hash
        ])?;
    Ok(())
}

/// Makes the session what the commit says. False if the commit does not continue what is stored: then nothing is changed.
fn commit_session(transaction: &Transaction<'_>, commit: &SessionCommit) -> rusqlite::Result<bool> {
    let SessionCommit { key, after, version, head, changes, messages, at_ms, cached: _ } = commit;
    let entries = changes.as_ref().map(|changes| number(changes.len() as u64));
    let session: Option<i64> = transaction
        .prepare_cached(
            "INSERT INTO sessions (scope, name, version, head, entries, messages, created_at_ms, updated_at_ms) \
             SELECT ?1, ?2, ?3, ?4, coalesce(?5, 0), ?6, ?7, ?7 \
             WHERE ?8 = 0 OR EXISTS (SELECT 1 FROM sessions WHERE scope = ?1 AND name = ?2) \
             ON CONFLICT (scope, name) DO UPDATE SET version = ?3, head = ?4, entries = coalesce(?5, entries), \
             messages = ?6, updated_at_ms = ?7 WHERE sessions.version = ?8 RETURNING id",
        )?
        .query_row(
            params![
                key.scope.as_str(),
                key.id.as_str(),
                number(*version),
                head,
                entries,
                number(*messages as u64),
                number(*at_ms),
                number(*after)
            ],
            |row| row.get(0),
        )
        .optional()?;
    if let (Some(session), Some(changes)) = (session, changes) {
        write_changes(transaction, "entries", "session", session, changes)?;
    }
    Ok(session.is_some())
}

/// Replaces a conversation's entries from where they changed.
fn write_changes(
    transaction: &Transaction<'_>,
    table: &str,
    owner: &str,
    id: i64,
    changes: &Changes,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(&format!("DELETE FROM {table} WHERE {owner} = ? AND position >= ?"))?
        .execute(params![id, number(changes.from as u64)])?;
    let mut insert =
        transaction.prepare_cached(&format!("INSERT INTO {table} ({owner}, position, body) VALUES (?, ?, ?)"))?;
    for (index, body) in changes.entries.iter().enumerate() {
        insert.execute(params![id, number((changes.from + index) as u64), body])?;
    }
    Ok(())
}

fn insert_dead_letter(transaction: &Transaction<'_>, letter: &DeadLetter) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO dead_letters (subscription, reason, attempts, at_ms, event) VALUES (?, ?, ?, ?, ?)",
        )?
        .execute(params![
            letter.subscription,
            letter.reason,
            letter.attempts,
            number(letter.at_ms),
            letter.event.to_string()
        ])?;
    Ok(())
}

fn names(key: &HeadKey) -> [&str; 3] {
    [key.kind.name(), key.scope.as_str(), &key.name]
}

fn put_head(transaction: &Transaction<'_>, head: &Head) -> rusqlite::Result<()> {
    let Head { key, run_id, version, body, updated_at_ms } = head;
    let [kind, scope, name] = names(key);
    let run_id = run_id.as_ref().map(RunId::as_str);
    transaction
        .prepare_cached(
            "INSERT INTO heads (kind, scope, name, run_id, version, body, updated_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?) \
             ON CONFLICT DO UPDATE SET run_id = excluded.run_id, version = excluded.version, body = excluded.body, \
             updated_at_ms = excluded.updated_at_ms",
        )?
        .execute(params![kind, scope, name, run_id, number(*version), body, number(*updated_at_ms)])?;
    Ok(())
}

fn remove_head(transaction: &Transaction<'_>, key: &HeadKey) -> rusqlite::Result<()> {
    transaction.prepare_cached("DELETE FROM heads WHERE kind = ? AND scope = ? AND name = ?")?.execute(names(key))?;
    Ok(())
}
