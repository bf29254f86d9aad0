//! Reading: each on a connection of the pool.

use super::link::failed;
use crate::store::record::number;
use crate::store::{
    BlobId, BlockHead, CallRecord, DeadLetter, EventBlock, EventFilter, Head, HeadFilter, HeadKey, HeadKind, Listed,
    Load, Page, RunBegin, RunFilter, RunStatus, SessionInfo, SessionKey, StoredRun, StoredSession, Unfinished,
};
use crate::types::{AgentId, Error, Result, RunId, Scope, SessionId, Status};
use deadpool_postgres::Object;
use std::sync::Arc;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

type Parameter = Box<dyn ToSql + Sync + Send>;

/// Everything that a query finds.
async fn rows(client: &Object, query: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
    let read = async {
        let statement = client.prepare_cached(query).await?;
        client.query(&statement, parameters).await
    };
    read.await.map_err(|error| failed(&error))
}

pub async fn session(client: &Object, key: &SessionKey, known: Option<u64>) -> Result<Load> {
    let read = async {
        // In one statement, so of one moment: a session that is committed to meanwhile is read as it was, or as it is.
        let query = client
            .prepare_cached(
                "SELECT version, head, updated_at_ms, CASE WHEN version <> $3 THEN \
                   (SELECT coalesce(array_agg(body ORDER BY position), '{}') FROM entries WHERE session = sessions.id) END \
                 FROM sessions WHERE scope = $1 AND name = $2",
            )
            .await?;
        let known = known.map_or(-1, number);
        client.query_opt(&query, &[&key.scope.as_str(), &key.id.as_str(), &known]).await
    };
    let Some(row) = read.await.map_err(|error| failed(&error))? else { return Ok(Load::Absent) };
    Ok(match row.get::<_, Option<Vec<String>>>(3) {
        None => Load::Unchanged,
        Some(entries) => Load::Session(Box::new(StoredSession {
            version: unsigned(&row, 0)?,
            head: row.get(1),
            entries,
            updated_at_ms: unsigned(&row, 2)?,
        })),
    })
}

pub async fn sessions(client: &Object, scope: &str, page: Page) -> Result<Listed<SessionInfo>> {
    // Those used last first; the cursor counts those that were listed.
    let skipped = page.after.unwrap_or(0).max(0);
    let found = rows(
        client,
        "SELECT name, messages, updated_at_ms FROM sessions WHERE scope = $1 ORDER BY updated_at_ms DESC, name LIMIT $2 OFFSET $3",
        &[&scope, &page.and_one(), &skipped],
    )
    .await?;
    let items = found.iter().map(|row| {
        Ok(SessionInfo {
            id: SessionId::from(row.get::<_, String>(0)),
            messages: usize::try_from(row.get::<_, i64>(1)).unwrap_or(0),
            updated_at_ms: unsigned(row, 2)?,
        })
    });
    Ok(Listed::of(items.collect::<Result<_>>()?, page, |_, count| skipped + count))
}

const RUN: &str =
    "SELECT id, run_id, agent, session, status, owner, started_at_ms, ended_at_ms, error, last_seq FROM runs";

fn stored_run(row: &Row) -> Result<(i64, StoredRun)> {
    let (status, error): (String, Option<String>) = (row.get(4), row.get(8));
    let run = StoredRun {
        run_id: RunId::from(row.get::<_, String>(1)),
        agent: AgentId::from(row.get::<_, String>(2)),
        session: row.get::<_, Option<String>>(3).map(SessionId::from),
        status: RunStatus::from_name(&status).unwrap_or(RunStatus::Failed),
        owner: row.get(5),
        started_at_ms: unsigned(row, 6)?,
        ended_at_ms: row.get::<_, Option<i64>>(7).and_then(|at| u64::try_from(at).ok()),
        error: error.and_then(|error| serde_json::from_str(&error).ok()),
        last_seq: unsigned(row, 9)?,
    };
    Ok((row.get(0), run))
}

pub async fn runs(client: &Object, filter: &RunFilter, page: Page) -> Result<Listed<StoredRun>> {
    let mut wanted = Wanted::default();
    wanted.add("scope =", filter.scope.as_str().to_owned());
    wanted.add_some("session =", filter.session.as_ref().map(|session| session.as_str().to_owned()));
    wanted.add_some("agent =", filter.agent.as_ref().map(|agent| agent.as_str().to_owned()));
    wanted.add_some("status =", filter.status.map(|status| status.name().to_owned()));
    wanted.add_some("id <", page.after);
    let query = format!("{RUN} WHERE {} ORDER BY id DESC LIMIT {}", wanted.conditions(), page.and_one());
    let found = rows(client, &query, &wanted.values()).await?;
    let items = found.iter().map(stored_run).collect::<Result<_>>()?;
    let Listed { items, next } = Listed::of(items, page, |(id, _): &(i64, _), _| *id);
    Ok(Listed { items: items.into_iter().map(|(_, run)| run).collect(), next })
}

pub async fn run(client: &Object, scope: &str, run_id: &RunId) -> Result<Option<StoredRun>> {
    let query = format!("{RUN} WHERE scope = $1 AND run_id = $2");
    let found = rows(client, &query, &[&scope, &run_id.as_str()]).await?;
    found.first().map(|row| stored_run(row).map(|(_, run)| run)).transpose()
}

pub async fn has_run(client: &Object, run_id: &RunId) -> Result<bool> {
    Ok(!rows(client, "SELECT FROM runs WHERE run_id = $1", &[&run_id.as_str()]).await?.is_empty())
}

/// The runs that have not ended although their runtime lives no more.
pub async fn orphans(client: &Object, agent: Option<&AgentId>, lease_seconds: f64) -> Result<Vec<StoredRun>> {
    let query = format!(
        "{RUN} WHERE status = 'running' AND ($2::text IS NULL OR agent = $2) \
         AND NOT EXISTS (SELECT FROM runtimes WHERE runtimes.owner = runs.owner AND {}) ORDER BY id",
        super::lease::LIVES
    );
    let agent = agent.map(AgentId::as_str);
    let found = rows(client, &query, &[&lease_seconds, &agent]).await?;
    found.iter().map(|row| stored_run(row).map(|(_, run)| run)).collect()
}

pub async fn unfinished(client: &mut Object, run_id: &RunId) -> Result<Option<Unfinished>> {
    let read = async {
        let snapshot =
            client.build_transaction().read_only(true).isolation_level(tokio_postgres::IsolationLevel::RepeatableRead);
        let snapshot = snapshot.start().await?;
        let query = "SELECT id, scope, session, agent, started_at_ms, request, owner, last_seq, chain FROM runs \
                     WHERE run_id = $1 AND status = 'running'";
        let Some(run) = snapshot.query_opt(query, &[&run_id.as_str()]).await? else { return Ok(None) };
        let row: i64 = run.get(0);
        let entries =
            snapshot.query("SELECT position, body FROM run_entries WHERE run = $1 ORDER BY position", &[&row]).await?;
        let calls = snapshot.query("SELECT call_id, name, effect, result FROM calls WHERE run = $1", &[&row]).await?;
        Ok(Some((run, entries, calls)))
    };
    let Some((run, entries, calls)) = read.await.map_err(|error| failed(&error))? else { return Ok(None) };
    let begin = RunBegin {
        run_id: run_id.clone(),
        scope: Scope::from(run.get::<_, String>(1)),
        session: run.get::<_, Option<String>>(2).map(SessionId::from),
        agent: AgentId::from(run.get::<_, String>(3)),
        started_at_ms: unsigned(&run, 4)?,
        request: run.get::<_, Option<String>>(5).unwrap_or_default().into(),
        owner: run.get::<_, String>(6).into(),
    };
    let calls = calls.iter().map(|row| CallRecord {
        id: row.get::<_, String>(0).into(),
        name: row.get(1),
        effect: row.get(2),
        result: row.get::<_, Option<String>>(3).and_then(|result| serde_json::from_str(&result).ok()),
    });
    Ok(Some(Unfinished {
        begin,
        last_seq: unsigned(&run, 7)?,
        chain: hash(&run, 8)?,
        from: entries.first().map(|row| usize::try_from(row.get::<_, i64>(0)).unwrap_or(0)),
        entries: entries.iter().map(|row| row.get(1)).collect(),
        calls: calls.collect(),
    }))
}

pub async fn head(client: &Object, key: &HeadKey) -> Result<Option<Head>> {
    let query = format!("{HEAD} WHERE kind = $1 AND scope = $2 AND name = $3");
    let [kind, scope, name] = super::write::names(key);
    let found = rows(client, &query, &[&kind, &scope, &name]).await?;
    found.first().map(|row| stored_head(row, key.kind)).transpose()
}

pub async fn heads(client: &Object, filter: &HeadFilter, most: usize) -> Result<Vec<Head>> {
    let mut wanted = Wanted::default();
    wanted.add("kind =", filter.kind.name());
    wanted.add_some("scope =", filter.scope.as_ref().map(|scope| scope.as_str().to_owned()));
    wanted.add_some("run_id =", filter.run_id.as_ref().map(|run| run.as_str().to_owned()));
    wanted.add_some("name =", filter.name.clone());
    let query = format!("{HEAD} WHERE {} ORDER BY name COLLATE \"C\" LIMIT {most}", wanted.conditions());
    let found = rows(client, &query, &wanted.values()).await?;
    found.iter().map(|row| stored_head(row, filter.kind)).collect()
}

const HEAD: &str = "SELECT name, scope, run_id, version, body, updated_at_ms FROM heads";

fn stored_head(row: &Row, kind: HeadKind) -> Result<Head> {
    Ok(Head {
        key: HeadKey { kind, scope: Scope::from(row.get::<_, String>(1)), name: row.get(0) },
        run_id: row.get::<_, Option<String>>(2).map(RunId::from),
        version: unsigned(row, 3)?,
        body: row.get(4),
        updated_at_ms: unsigned(row, 5)?,
    })
}

pub async fn events(client: &Object, filter: &EventFilter, page: Page) -> Result<Vec<(i64, EventBlock)>> {
    let mut wanted = Wanted::default();
    wanted.add("runs.scope =", filter.scope.as_str().to_owned());
    wanted.add_some("runs.run_id =", filter.run_id.as_ref().map(|run| run.as_str().to_owned()));
    wanted.add_some("runs.session =", filter.session.as_ref().map(|session| session.as_str().to_owned()));
    wanted.add_some("runs.agent =", filter.agent.as_ref().map(|agent| agent.as_str().to_owned()));
    wanted.add_some("0 <> events.types &", (filter.types != 0).then(|| number(filter.types)));
    wanted.add_some("events.last_at_ms >=", filter.from_ms.map(number));
    wanted.add_some("events.first_at_ms <", filter.to_ms.map(number));
    wanted.add_some("events.id >", page.after);
    let query = format!(
        "SELECT events.id, first_seq, events.last_seq, first_at_ms, last_at_ms, types, body, hash \
         FROM events JOIN runs ON runs.id = events.run WHERE {} AND length(body) > 0 ORDER BY events.id LIMIT {}",
        wanted.conditions(),
        page.limit
    );
    let found = rows(client, &query, &wanted.values()).await?;
    found.iter().map(|row| Ok((row.get(0), block(row, 1)?))).collect()
}

/// A block whose columns begin at `at`.
pub fn block(row: &Row, at: usize) -> Result<EventBlock> {
    let head = BlockHead {
        first_seq: unsigned(row, at)?,
        last_seq: unsigned(row, at + 1)?,
        first_at_ms: unsigned(row, at + 2)?,
        last_at_ms: unsigned(row, at + 3)?,
        types: unsigned(row, at + 4)?,
    };
    Ok(EventBlock { head, body: row.get(at + 5), hash: hash(row, at + 6)? })
}

pub async fn blob(client: &Object, id: &BlobId) -> Result<Option<Arc<[u8]>>> {
    let found = rows(client, "SELECT content FROM blobs WHERE hash = $1", &[&&id.bytes()[..]]).await?;
    Ok(found.first().map(|row| Arc::from(row.get::<_, Vec<u8>>(0))))
}

pub async fn dead_letters(client: &Object, page: Page) -> Result<Listed<DeadLetter>> {
    let found = rows(
        client,
        "SELECT id, subscription, reason, attempts, at_ms, event FROM dead_letters WHERE id > $1 ORDER BY id LIMIT $2",
        &[&page.after.unwrap_or(0), &page.and_one()],
    )
    .await?;
    let items = found.iter().map(|row| {
        Ok(DeadLetter {
            id: row.get(0),
            subscription: row.get(1),
            reason: row.get(2),
            attempts: u32::try_from(row.get::<_, i64>(3)).unwrap_or(u32::MAX),
            at_ms: unsigned(row, 4)?,
            event: serde_json::from_str(row.get(5)).unwrap_or_default(),
        })
    });
    Ok(Listed::of(items.collect::<Result<_>>()?, page, |letter, _| letter.id))
}

// ---- what reading is made of

/// Conditions, each with the value that stands behind it.
#[derive(Default)]
struct Wanted {
    conditions: Vec<&'static str>,
    values: Vec<Parameter>,
}

impl Wanted {
    fn add(&mut self, condition: &'static str, value: impl ToSql + Sync + Send + 'static) {
        self.conditions.push(condition);
        self.values.push(Box::new(value));
    }

    fn add_some(&mut self, condition: &'static str, value: Option<impl ToSql + Sync + Send + 'static>) {
        if let Some(value) = value {
            self.add(condition, value);
        }
    }

    fn conditions(&self) -> String {
        let numbered = self.conditions.iter().enumerate();
        numbered.map(|(index, condition)| format!("{condition} ${}", index + 1)).collect::<Vec<_>>().join(" AND ")
    }

    fn values(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.values.iter().map(|value| &**value as &(dyn ToSql + Sync)).collect()
    }
}

/// A number that was stored as one that cannot be negative; one that is was damaged.
pub fn unsigned(row: &Row, at: usize) -> Result<u64> {
    let value: i64 = row.get(at);
    u64::try_from(value).map_err(|_| damaged("a number that must not be negative is"))
}

pub fn hash(row: &Row, at: usize) -> Result<[u8; 32]> {
    row.get::<_, Vec<u8>>(at).try_into().map_err(|_| damaged("a hash has not 32 bytes"))
}

fn damaged(what: &str) -> Error {
    Error::new(Status::Persistence, format!("the database is damaged: {what}"))
        .with_code("store_corrupt")
        .with_hint("store.verify tells what else is damaged; restore a backup")
}
