//! Writing: the writer's one connection, and what is done on it one at a time.

use super::batch::Batch;
use super::lease::LIVES;
use super::link::{Link, failed};
use super::listen::Notices;
use crate::store::backend::Item;
use crate::store::record::number;
use crate::store::{Head, HeadKey, SessionKey, no_such_entry, session_exists};
use crate::types::{Result, RunId, SessionId, now_ms};
use deadpool_postgres::ClientWrapper;
use std::sync::Arc;
use tokio_postgres::types::ToSql;

/// See the module's head.
pub struct WriteConnection {
    link: Arc<Link>,
    client: Option<ClientWrapper>,
    notices: Notices,
}

impl WriteConnection {
    pub fn new(link: Arc<Link>, notices: Notices) -> Self {
        Self { link, client: None, notices }
    }

    /// Gives the connection up.
    pub fn disconnect(&mut self) {
        self.client = None;
    }

    /// Does something on the connection. One on which anything failed is given up, with its transaction.
    pub async fn with<T>(&mut self, work: impl AsyncFnOnce(&ClientWrapper) -> Result<T>) -> Result<T> {
        let client = match self.client.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => self.link.own_client().await?,
        };
        let done = work(&client).await?;
        self.client = Some(client);
        Ok(done)
    }

    /// The same, in one transaction that is on the disk when this returns.
    async fn transaction<T>(&mut self, work: impl AsyncFnOnce(&ClientWrapper) -> Result<T>) -> Result<T> {
        self.with(async |client| {
            client.batch_execute("BEGIN").await.map_err(|error| failed(&error))?;
            match work(client).await {
                Ok(done) => {
                    client.batch_execute("COMMIT").await.map_err(|error| failed(&error))?;
                    Ok(done)
                }
                Err(error) => {
                    // What was asked for cannot be; the connection is as good as before.
                    client.batch_execute("ROLLBACK").await.map_err(|error| failed(&error))?;
                    Err(error)
                }
            }
        })
        .await
    }

    pub async fn write(&mut self, owner: &str, lease_seconds: f64, items: &[Item]) -> Result<()> {
        let batch = Batch::new(items);
        let has_events = batch.has_events();
        self.with(async |client| batch.write(client, owner, lease_seconds).await.map_err(|error| failed(&error)))
            .await?;
        if has_events {
            self.notices.came();
        }
        Ok(())
    }
}

impl WriteConnection {
    pub async fn delete_session(&mut self, key: &SessionKey) -> Result<bool> {
        self.transaction(async |client| {
            let names: [&(dyn ToSql + Sync); 2] = [&key.scope.as_str(), &key.id.as_str()];
            let delete = async {
                let ended = "SELECT id FROM runs WHERE scope = $1 AND session = $2 AND status <> 'running'";
                // The rows stay: without them nothing would tell a deleted event from a lost one.
                client.execute(&format!("UPDATE events SET body = '' WHERE run IN ({ended})"), &names).await?;
                client.execute(&format!("UPDATE runs SET error = NULL WHERE id IN ({ended})"), &names).await?;
                let found = client
                    .query_opt("DELETE FROM sessions WHERE scope = $1 AND name = $2 RETURNING id", &names)
                    .await?;
                let Some(row) = found else { return Ok(false) };
                client.execute("DELETE FROM entries WHERE session = $1", &[&row.get::<_, i64>(0)]).await?;
                Ok(true)
            };
            delete.await.map_err(|error| failed(&error))
        })
        .await
    }

    pub async fn fork_session(
        &mut self,
        from: &SessionKey,
        to: &SessionId,
        entries: Option<usize>,
    ) -> Result<Option<usize>> {
        self.transaction(async |client| {
            let find = async |name: &str| {
                client
                    .query_opt(
                        "SELECT id, entries FROM sessions WHERE scope = $1 AND name = $2",
                        &[&from.scope.as_str(), &name],
                    )
                    .await
                    .map_err(|error| failed(&error))
            };
            let Some(found) = find(from.id.as_str()).await? else { return Ok(None) };
            let (id, has): (i64, i64) = (found.get(0), found.get(1));
            if find(to.as_str()).await?.is_some() {
                return Err(session_exists(to));
            }
            let wanted = entries.map_or(has, |entries| i64::try_from(entries).unwrap_or(i64::MAX));
            if wanted > has {
                return Err(no_such_entry(entries));
            }
            let copy = async {
                let now = number(now_ms());
                // What was said may have a zero character, which only `json` bears; `jsonb` does not.
                client
                    .execute(
                        "WITH made AS ( \
                           INSERT INTO sessions (scope, name, version, head, entries, messages, created_at_ms, updated_at_ms) \
                           VALUES ($1, $2, $3, '{}', $4, \
                             (SELECT count(*) FROM entries, json_array_elements(body::json) AS message \
                              WHERE session = $5 AND position < $4 AND message ->> 'role' <> 'compaction'), \
                             $3, $3) RETURNING id) \
                         INSERT INTO entries (session, position, body) \
                         SELECT made.id, position, body FROM made, entries WHERE session = $5 AND position < $4",
                        &[&from.scope.as_str(), &to.as_str(), &now, &wanted, &id],
                    )
                    .await
            };
            copy.await.map_err(|error| failed(&error))?;
            Ok(Some(usize::try_from(wanted).unwrap_or(0)))
        })
        .await
    }

    pub async fn adopt(&mut self, run_id: &RunId, from: &str, owner: &str, lease_seconds: f64) -> Result<bool> {
        self.transaction(async |client| {
            let query = format!(
                "UPDATE runs SET owner = $2 WHERE run_id = $3 AND owner = $4 AND status = 'running' \
                 AND ($2 = $4 OR NOT EXISTS (SELECT FROM runtimes WHERE runtimes.owner = $4 AND {LIVES}))"
            );
            let changed = client.execute(&query, &[&lease_seconds, &owner, &run_id.as_str(), &from]).await;
            changed.map(|rows| rows == 1).map_err(|error| failed(&error))
        })
        .await
    }

    pub async fn abandon(&mut self, run_id: &RunId, error: &str, at_ms: u64, lease_seconds: f64) -> Result<bool> {
        self.transaction(async |client| {
            let end = async {
                let query = format!(
                    "UPDATE runs SET status = 'failed', ended_at_ms = $2, error = $3, request = NULL \
                     WHERE run_id = $4 AND status = 'running' \
                     AND NOT EXISTS (SELECT FROM runtimes WHERE runtimes.owner = runs.owner AND {LIVES}) RETURNING id"
                );
                let parameters: [&(dyn ToSql + Sync); 4] = [&lease_seconds, &number(at_ms), &error, &run_id.as_str()];
                let Some(row) = client.query_opt(&query, &parameters).await? else { return Ok(false) };
                let id: i64 = row.get(0);
                client.execute("DELETE FROM run_entries WHERE run = $1", &[&id]).await?;
                client.execute("DELETE FROM calls WHERE run = $1", &[&id]).await?;
                client.execute("DELETE FROM heads WHERE run_id = $1", &[&run_id.as_str()]).await?;
                Ok(true)
            };
            end.await.map_err(|error| failed(&error))
        })
        .await
    }

    pub async fn replace_head(&mut self, head: &Head) -> Result<bool> {
        self.transaction(async |client| {
            let row = HeadRow::of(head);
            let replace = async {
                // Of several that want to be the first, one is.
                let query = format!("{HEAD} WHERE heads.version = $5 - 1");
                let is_first = head.version == 1;
                let query = if is_first {
                    "INSERT INTO heads (kind, scope, name, run_id, version, body, updated_at_ms) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING"
                } else {
                    &query
                };
                let exists = "SELECT FROM heads WHERE kind = $1 AND scope = $2 AND name = $3";
                let [kind, scope, name] = &row.names;
                if !is_first && client.query_opt(exists, &[kind, scope, name]).await?.is_none() {
                    return Ok(false);
                }
                client.execute(query, &row.parameters()).await.map(|rows| rows == 1)
            };
            replace.await.map_err(|error| failed(&error))
        })
        .await
    }

    pub async fn remove_dead_letters(&mut self, ids: &[i64]) -> Result<u64> {
        self.transaction(async |client| {
            let delete = "DELETE FROM dead_letters WHERE id = ANY ($1)";
            client.execute(delete, &[&ids]).await.map_err(|error| failed(&error))
        })
        .await
    }
}

pub fn names(key: &HeadKey) -> [&str; 3] {
    [key.kind.name(), key.scope.as_str(), &key.name]
}

/// A head as it is written.
pub struct HeadRow<'a> {
    pub names: [&'a str; 3],
    run_id: Option<&'a str>,
    version: i64,
    body: &'a str,
    at_ms: i64,
}

impl<'a> HeadRow<'a> {
    pub fn of(head: &'a Head) -> Self {
        Self {
            names: names(&head.key),
            run_id: head.run_id.as_ref().map(RunId::as_str),
            version: number(head.version),
            body: &head.body,
            at_ms: number(head.updated_at_ms),
        }
    }

    pub fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        let [kind, scope, name] = &self.names;
        vec![kind, scope, name, &self.run_id, &self.version, &self.body, &self.at_ms]
    }
}

pub const HEAD: &str = "INSERT INTO heads (kind, scope, name, run_id, version, body, updated_at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7) \
                    ON CONFLICT (kind, scope, name) DO UPDATE SET run_id = $4, version = $5, body = $6, updated_at_ms = $7";
