//! Looking after a database: what is wrong with it, and what is too old.

use super::link::failed;
use super::read;
use super::write::WriteConnection;
use crate::store::block::ChainCheck;
use crate::store::record::number;
use crate::store::session::Session;
use crate::store::{Cutoffs, Load, Problem, Pruned, SessionKey, StoreSize};
use crate::types::{Result, Scope, SessionId};
use deadpool_postgres::{ClientWrapper, Object};

/// Rows removed at once, so that others wait for a moment only.
const BATCH: i64 = 500;
/// Problems told; more would say nothing new.
const MOST_PROBLEMS: usize = 100;
/// Runs and sessions looked at at once.
const PAGE: i64 = 500;
/// Seconds after which a runtime that was not heard of is forgotten.
const FORGOTTEN: f64 = 86_400.0;

/// Removes a little of what is too old. Of several runtimes one does at a time, and the others find nothing to do.
pub async fn prune(writer: &mut WriteConnection, cutoffs: &Cutoffs) -> Result<Pruned> {
    writer
        .with(async |client| {
            client.batch_execute("BEGIN; SET LOCAL synchronous_commit = off").await.map_err(|error| failed(&error))?;
            let pruned = remove(client, cutoffs).await.map_err(|error| failed(&error))?;
            client.batch_execute("COMMIT").await.map_err(|error| failed(&error))?;
            Ok(pruned)
        })
        .await
}

async fn remove(client: &ClientWrapper, cutoffs: &Cutoffs) -> Result<Pruned, tokio_postgres::Error> {
    let lock = "SELECT pg_try_advisory_xact_lock(hashtextextended('par prune ' || current_schema(), 0))";
    if !client.query_one(lock, &[]).await?.get::<_, bool>(0) {
        return Ok(Pruned::default());
    }
    let remove = async |query: &str, before: Option<u64>| -> Result<u64, tokio_postgres::Error> {
        let Some(before) = before else { return Ok(0) };
        let statement = client.prepare_cached(query).await?;
        client.execute(&statement, &[&number(before), &BATCH]).await
    };
    let is_full = match cutoffs.max_bytes {
        Some(most) => kept_bytes(client).await? > number(most),
        None => false,
    };
    // Younger ones stay as long as an older one does: what is left of a run is its end. What is removed is remembered, so that
    // a block that is missing is not taken for one that was too old.
    let events = "WITH old AS (SELECT id FROM (SELECT id, last_at_ms, \
                    bool_and(last_at_ms < $1) OVER (ORDER BY id) AS is_old FROM (SELECT id, last_at_ms FROM events ORDER BY id LIMIT $2) \
                    AS front) AS front WHERE is_old), \
                  gone AS (DELETE FROM events USING old WHERE events.id = old.id RETURNING last_at_ms), \
                  fact AS (INSERT INTO facts (name, value) SELECT 'events_removed_until_ms', max(last_at_ms) FROM gone \
                    HAVING max(last_at_ms) IS NOT NULL \
                    ON CONFLICT (name) DO UPDATE SET value = greatest(facts.value, excluded.value)) \
                  SELECT count(*) FROM gone";
    let statement = client.prepare_cached(events).await?;
    let event_blocks = match if is_full { Some(i64::MAX) } else { cutoffs.events_ms.map(number) } {
        Some(before) => client.query_one(&statement, &[&before, &BATCH]).await?.get::<_, i64>(0).unsigned_abs(),
        None => 0,
    };
    let sessions = "WITH old AS (SELECT id FROM sessions WHERE updated_at_ms < $1 AND NOT EXISTS (SELECT FROM runs \
                      WHERE runs.scope = sessions.scope AND runs.session = sessions.name AND status = 'running') \
                      ORDER BY updated_at_ms LIMIT $2), \
                    gone AS (DELETE FROM entries USING old WHERE session = old.id) \
                    DELETE FROM sessions USING old WHERE sessions.id = old.id";
    let runs = "DELETE FROM runs WHERE id IN (SELECT id FROM runs WHERE ended_at_ms < $1 \
                AND NOT EXISTS (SELECT FROM events WHERE run = runs.id) LIMIT $2)";
    let blobs = "DELETE FROM blobs WHERE hash IN (SELECT hash FROM blobs WHERE at_ms < $1 LIMIT $2)";
    let letters = "DELETE FROM dead_letters WHERE id IN (SELECT id FROM dead_letters WHERE at_ms < $1 LIMIT $2)";
    let pruned = Pruned {
        event_blocks,
        sessions: remove(sessions, cutoffs.sessions_ms).await?,
        runs: remove(runs, cutoffs.runs_ms).await?,
        blobs: remove(blobs, cutoffs.blobs_ms).await?,
        dead_letters: remove(letters, cutoffs.dead_letters_ms).await?,
    };
    let forget = "WITH gone AS (DELETE FROM runtimes WHERE seen_at < clock_timestamp() - make_interval(secs => $1) RETURNING owner) \
                  DELETE FROM leases WHERE owner NOT IN (SELECT owner FROM runtimes EXCEPT SELECT owner FROM gone)";
    client.execute(forget, &[&FORGOTTEN]).await?;
    Ok(pruned)
}

/// Bytes of what is kept. What the server takes for them, and gives back in its own time, is its matter.
async fn kept_bytes(client: &ClientWrapper) -> Result<i64, tokio_postgres::Error> {
    let query = "SELECT ((SELECT coalesce(sum(octet_length(body) + 200), 0) FROM events) \
                 + (SELECT coalesce(sum(octet_length(body) + 60), 0) FROM entries) \
                 + (SELECT coalesce(sum(octet_length(content) + 80), 0) FROM blobs))::bigint";
    Ok(client.query_one(query, &[]).await?.get(0))
}

/// Looks for whatever is wrong.
pub async fn verify(client: &mut Object) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    verify_events(client, &mut problems).await?;
    verify_sessions(client, &mut problems).await?;
    problems.truncate(MOST_PROBLEMS);
    Ok(problems)
}

/// Every run's events are there, one after the other, as they were written.
async fn verify_events(client: &mut Object, problems: &mut Vec<Problem>) -> Result<()> {
    let fact = client
        .query_opt("SELECT value FROM facts WHERE name = 'events_removed_until_ms'", &[])
        .await
        .map_err(|error| failed(&error))?;
    let removed_until: i64 = fact.map_or(i64::MIN, |row| row.get(0));
    let mut after = 0_i64;
    loop {
        let look = async {
            // Runs and their events as of one moment.
            let snapshot = client
                .build_transaction()
                .read_only(true)
                .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
                .start()
                .await?;
            let runs = snapshot
                .query(
                    "SELECT id, run_id, last_seq, chain, started_at_ms FROM runs WHERE id > $1 ORDER BY id LIMIT $2",
                    &[&after, &PAGE],
                )
                .await?;
            let mut found = Vec::with_capacity(runs.len());
            for run in runs {
                let blocks = snapshot
                    .query(
                        "SELECT first_seq, last_seq, first_at_ms, last_at_ms, types, body, hash FROM events WHERE run = $1 \
                         ORDER BY first_seq",
                        &[&run.get::<_, i64>(0)],
                    )
                    .await?;
                found.push((run, blocks));
            }
            Ok(found)
        };
        let found = look.await.map_err(|error| failed(&error))?;
        let Some((last, _)) = found.last() else { break };
        after = last.get(0);
        for (run, blocks) in &found {
            let (run_id, last_seq, started): (String, i64, i64) = (run.get(1), run.get(2), run.get(4));
            let chain = read::hash(run, 3)?;
            let mut check = ChainCheck::default();
            let mut wrong = None;
            let mut first = None;
            for row in blocks {
                let block = read::block(row, 0)?;
                first.get_or_insert(block.head.first_seq);
                if let Err(problem) = check.next(&block) {
                    wrong.get_or_insert(problem);
                }
            }
            // All of it happened after the last that was removed for its age.
            if started > removed_until && first.unwrap_or(u64::MAX) != 1 && last_seq > 0 {
                wrong.get_or_insert_with(|| "its first events are missing".to_owned());
            }
            let wrong = wrong.or_else(|| check.end(last_seq.unsigned_abs(), &chain));
            problems.extend(wrong.map(|message| Problem { part: "events", id: Some(run_id), message }));
        }
        if problems.len() >= MOST_PROBLEMS {
            return Ok(());
        }
    }
    let lost: i64 = client
        .query_one("SELECT count(*) FROM events WHERE NOT EXISTS (SELECT FROM runs WHERE runs.id = run)", &[])
        .await
        .map_err(|error| failed(&error))?
        .get(0);
    if lost > 0 {
        let message = format!("{lost} blocks of events are of runs that are missing");
        problems.push(Problem { part: "runs", id: None, message });
    }
    Ok(())
}

/// Every session can be read, and has as many entries as it says.
async fn verify_sessions(client: &mut Object, problems: &mut Vec<Problem>) -> Result<()> {
    let mut after = 0_i64;
    loop {
        let page = client
            .query("SELECT id, scope, name FROM sessions WHERE id > $1 ORDER BY id LIMIT $2", &[&after, &PAGE])
            .await
            .map_err(|error| failed(&error))?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.get(0);
        for row in &page {
            let name: String = row.get(2);
            let key = SessionKey { scope: Scope::from(row.get::<_, String>(1)), id: SessionId::from(name.as_str()) };
            let counted = client
                .query_opt(
                    "SELECT entries, (SELECT count(*) FROM entries WHERE session = sessions.id) FROM sessions WHERE id = $1",
                    &[&row.get::<_, i64>(0)],
                )
                .await
                .map_err(|error| failed(&error))?
                .map(|row| (row.get::<_, i64>(0), row.get::<_, i64>(1)));
            let wrong = match (counted, read::session(client, &key, None).await?) {
                (Some((says, has)), _) if says != has => Some(format!("it has {has} entries and should have {says}")),
                (_, Load::Session(stored)) => {
                    Session::restore(&key, &stored.head, &stored.entries).err().map(|error| error.message().to_owned())
                }
                // Deleted meanwhile.
                (_, Load::Absent | Load::Unchanged) => None,
            };
            problems.extend(wrong.map(|message| Problem { part: "sessions", id: Some(name), message }));
        }
        if problems.len() >= MOST_PROBLEMS {
            return Ok(());
        }
    }
}

/// How much is stored.
pub async fn size(client: &Object) -> Result<StoreSize> {
    let query = "SELECT (SELECT coalesce(sum(pg_total_relation_size(format('%I.%I', schemaname, tablename)::regclass)), 0)::bigint \
                   FROM pg_tables WHERE schemaname = current_schema()), \
                 (SELECT count(*) FROM sessions), (SELECT count(*) FROM runs), (SELECT count(*) FROM events), \
                 (SELECT count(*) FROM blobs), (SELECT count(*) FROM dead_letters)";
    let row = client.query_one(query, &[]).await.map_err(|error| failed(&error))?;
    Ok(StoreSize {
        bytes: read::unsigned(&row, 0)?,
        sessions: read::unsigned(&row, 1)?,
        runs: read::unsigned(&row, 2)?,
        event_blocks: read::unsigned(&row, 3)?,
        blobs: read::unsigned(&row, 4)?,
        dead_letters: read::unsigned(&row, 5)?,
    })
}
