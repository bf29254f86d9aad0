//! A PostgreSQL database as the place that a local one is forwarded to: the same tables, in a schema of its own.
//!
//! What is there can be read by any runtime that is configured with that schema. It is nobody's to go on with as long as the
//! local database is: its runs and sessions belong to `forward:<source>`, a runtime that always lives. A batch is written
//! once: how far the changes have come is written with it.

use super::address::{Address, TrustedTls};
use super::link::{connect, failed};
use super::schema;
use crate::config::PostgresConfig;
use crate::store::forward::record::{
    BlobRecord, EntryRecord, EventsRecord, LetterName, LetterRecord, RunRecord, SessionName, SessionRecord,
};
use crate::store::forward::{Batch, Destination, Record};
use crate::types::{Error, Result, Status};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use deadpool_postgres::ClientWrapper;
use futures_util::future::BoxFuture;
use std::time::Duration;
use tokio_postgres::types::ToSql;

/// How long a batch may take, before the connection is given up.
const TIME: Duration = Duration::from_secs(120);

/// See the module's head.
pub struct Archive {
    address: Address,
    schema: String,
    client: tokio::sync::Mutex<Option<ClientWrapper>>,
}

impl Archive {
    /// The archive at this address. Opens no connection yet.
    pub fn open(config: &PostgresConfig, trusted: TrustedTls) -> Result<Self> {
        let address = Address::read(config, trusted)?;
        Ok(Self { address, schema: config.schema.clone(), client: tokio::sync::Mutex::default() })
    }

    async fn connect(&self, source: &str) -> Result<ClientWrapper> {
        let mut client = connect(&self.address).await?;
        schema::prepare(&mut client, &self.schema).await?;
        self.claim(&client, source).await?;
        Ok(client)
    }

    /// Makes sure that the schema is this database's alone.
    async fn claim(&self, client: &ClientWrapper, source: &str) -> Result<()> {
        let owner = owner(source);
        let claim = async {
            client
                .execute(
                    "INSERT INTO runtimes (owner, seen_at, listens) VALUES ($1, 'infinity', false) ON CONFLICT DO NOTHING",
                    &[&owner],
                )
                .await?;
            let others = "SELECT EXISTS (SELECT FROM runtimes WHERE owner LIKE 'forward:%' AND owner <> $1) \
                          OR EXISTS (SELECT FROM runs WHERE owner <> $1) \
                          OR EXISTS (SELECT FROM sessions WHERE NOT EXISTS \
                            (SELECT FROM leases WHERE leases.scope = sessions.scope AND leases.name = sessions.name AND owner = $1))";
            let is_taken: bool = client.query_one(others, &[&owner]).await?.get(0);
            if is_taken {
                client
                    .execute(
                        "DELETE FROM runtimes WHERE owner = $1 AND NOT EXISTS (SELECT FROM facts WHERE name = 'forwarded')",
                        &[&owner],
                    )
                    .await?;
            }
            Ok(is_taken)
        };
        match claim.await.map_err(|error| failed(&error))? {
            false => Ok(()),
            true => Err(Error::new(
                Status::Persistence,
                format!("the schema {:?} is in use by another database, or by runtimes of its own", self.schema),
            )
            .with_code("archive_taken")
            .with_path("config.persistence.forward.to.schema")
            .with_hint("give each database that is forwarded a schema of its own")),
        }
    }
}

impl Destination for Archive {
    fn ship<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let mut kept = self.client.lock().await;
            let client = match kept.take().filter(|client| !client.is_closed()) {
                Some(client) => client,
                None => self.connect(&batch.source).await?,
            };
            let written = tokio::time::timeout(TIME, write(&client, batch)).await;
            written.map_err(|_| super::link::unavailable("it did not answer for a long time"))??;
            // A connection on which anything failed is given up, with its transaction.
            *kept = Some(client);
            Ok(batch.records.iter().map(|record| record.size() as u64).sum())
        })
    }
}

fn owner(source: &str) -> String {
    format!("forward:{source}")
}

/// Writes a batch, unless it was before.
async fn write(client: &ClientWrapper, batch: &Batch) -> Result<()> {
    let begin = async {
        client.batch_execute("BEGIN").await?;
        client.query_opt("SELECT value FROM facts WHERE name = 'forwarded' FOR UPDATE", &[]).await
    };
    let until: Option<i64> = begin.await.map_err(|error| failed(&error))?.map(|row| row.get(0));
    if until.is_some_and(|until| batch.last <= until) {
        return client.batch_execute("ROLLBACK").await.map_err(|error| failed(&error));
    }
    let kinds = Kinds::of(batch)?;
    let owner = owner(&batch.source);
    let write = async {
        kinds.write(client, &owner).await?;
        let fact =
            "INSERT INTO facts (name, value) VALUES ('forwarded', $1) ON CONFLICT (name) DO UPDATE SET value = $1";
        client.execute(fact, &[&batch.last]).await?;
        client.batch_execute("COMMIT").await
    };
    write.await.map_err(|error| failed(&error))
}

/// The records of a batch, by kind.
#[derive(Default)]
struct Kinds<'a> {
    deleted: Vec<&'a SessionName>,
    delivered: Vec<i64>,
    runs: Vec<(&'a RunRecord, Vec<u8>)>,
    events: Vec<(&'a EventsRecord, Vec<u8>, Vec<u8>)>,
    sessions: Vec<&'a SessionRecord>,
    entries: Vec<&'a EntryRecord>,
    blobs: Vec<(Vec<u8>, Vec<u8>, i64)>,
    letters: Vec<&'a LetterRecord>,
}

impl<'a> Kinds<'a> {
    fn of(batch: &'a Batch) -> Result<Self> {
        let mut kinds = Self::default();
        for record in &batch.records {
            match record {
                Record::SessionDeleted(name) => kinds.deleted.push(name),
                Record::DeadLetterRemoved(LetterName { id }) => kinds.delivered.push(*id),
                Record::Run(run) => kinds.runs.push((run, unhex(&run.chain)?)),
                Record::Events(block) => kinds.events.push((block, unbase64(&block.body)?, unhex(&block.hash)?)),
                Record::Session(session) => kinds.sessions.push(session),
                Record::Entry(entry) => kinds.entries.push(entry),
                Record::Blob(BlobRecord { hash, at_ms, text, base64 }) => {
                    let content = match (text, base64) {
                        (Some(text), _) => text.clone().into_bytes(),
                        (None, Some(base64)) => unbase64(base64)?,
                        (None, None) => Vec::new(),
                    };
                    kinds.blobs.push((unhex(hash)?, content, *at_ms));
                }
                Record::DeadLetter(letter) => kinds.letters.push(letter),
            }
        }
        Ok(kinds)
    }

    async fn write(&self, client: &ClientWrapper, owner: &str) -> Result<(), tokio_postgres::Error> {
        let run = async |query: &str, parameters: &[&(dyn ToSql + Sync)]| -> Result<(), tokio_postgres::Error> {
            let statement = client.prepare_cached(query).await?;
            client.execute(&statement, parameters).await.map(drop)
        };
        if !self.deleted.is_empty() {
            let scopes: Vec<&str> = self.deleted.iter().map(|name| &*name.scope).collect();
            let names: Vec<&str> = self.deleted.iter().map(|name| &*name.session).collect();
            let gone = "WITH gone AS (DELETE FROM sessions USING unnest($1::text[], $2::text[]) AS old (scope, name) \
                          WHERE sessions.scope = old.scope AND sessions.name = old.name RETURNING id) \
                        DELETE FROM entries USING gone WHERE session = gone.id";
            run(gone, &[&scopes, &names]).await?;
        }
        if !self.delivered.is_empty() {
            run("DELETE FROM dead_letters WHERE id = ANY ($1)", &[&self.delivered]).await?;
        }
        self.write_runs(client, owner).await?;
        self.write_sessions(client, owner).await?;
        for (hash, content, at_ms) in &self.blobs {
            let blob = "INSERT INTO blobs (hash, content, at_ms) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
            run(blob, &[hash, content, at_ms]).await?;
        }
        for letter in &self.letters {
            let insert = "INSERT INTO dead_letters (id, subscription, reason, attempts, at_ms, event) \
                          OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
            let LetterRecord { id, subscription, reason, attempts, at_ms, event } = letter;
            run(insert, &[id, subscription, reason, attempts, at_ms, &event.get()]).await?;
        }
        Ok(())
    }

    async fn write_runs(&self, client: &ClientWrapper, owner: &str) -> Result<(), tokio_postgres::Error> {
        if !self.runs.is_empty() {
            let text = |read: fn(&RunRecord) -> &str| self.runs.iter().map(|(run, _)| read(run)).collect::<Vec<_>>();
            let some = |read: fn(&RunRecord) -> Option<&str>| {
                self.runs.iter().map(|(run, _)| read(run)).collect::<Vec<Option<&str>>>()
            };
            let number =
                |read: fn(&RunRecord) -> Option<i64>| self.runs.iter().map(|(run, _)| read(run)).collect::<Vec<_>>();
            let chains: Vec<&[u8]> = self.runs.iter().map(|(_, chain)| &chain[..]).collect();
            let statement = client
                .prepare_cached(
                    "INSERT INTO runs (run_id, scope, session, agent, owner, status, started_at_ms, ended_at_ms, error, last_seq, chain) \
                     SELECT run_id, scope, session, agent, $11, status, started_at_ms, ended_at_ms, error, last_seq, chain \
                     FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::text[], \
                     $9::bigint[], $10::bytea[]) AS new (run_id, scope, session, agent, status, started_at_ms, ended_at_ms, error, \
                     last_seq, chain) \
                     ON CONFLICT (run_id) DO UPDATE SET status = excluded.status, ended_at_ms = excluded.ended_at_ms, \
                     error = excluded.error, last_seq = excluded.last_seq, chain = excluded.chain",
                )
                .await?;
            let parameters: [&(dyn ToSql + Sync); 11] = [
                &text(|run| &run.run_id),
                &text(|run| &run.scope),
                &some(|run| run.session.as_deref()),
                &text(|run| &run.agent),
                &text(|run| &run.status),
                &number(|run| Some(run.started_at_ms)),
                &number(|run| run.ended_at_ms),
                &some(|run| run.error.as_deref().map(serde_json::value::RawValue::get)),
                &number(|run| Some(run.last_seq)),
                &chains,
                &owner,
            ];
            client.execute(&statement, &parameters).await?;
        }
        if self.events.is_empty() {
            return Ok(());
        }
        let ids: Vec<&str> = self.events.iter().map(|(block, ..)| &*block.run_id).collect();
        let number =
            |read: fn(&EventsRecord) -> i64| self.events.iter().map(|(block, ..)| read(block)).collect::<Vec<_>>();
        let bodies: Vec<&[u8]> = self.events.iter().map(|(_, body, _)| &body[..]).collect();
        let hashes: Vec<&[u8]> = self.events.iter().map(|(.., hash)| &hash[..]).collect();
        // A block never changes, unless it is blanked.
        let statement = client
            .prepare_cached(
                "INSERT INTO events (run, first_seq, last_seq, first_at_ms, last_at_ms, types, body, hash) \
                 SELECT runs.id, first_seq, new.last_seq, first_at_ms, last_at_ms, types, body, hash FROM unnest($1::text[], \
                 $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bytea[], $8::bytea[]) WITH ORDINALITY \
                 AS new (run_id, first_seq, last_seq, first_at_ms, last_at_ms, types, body, hash, place) JOIN runs USING (run_id) \
                 ORDER BY place ON CONFLICT (run, first_seq) DO UPDATE SET body = excluded.body WHERE length(excluded.body) = 0",
            )
            .await?;
        let parameters: [&(dyn ToSql + Sync); 8] = [
            &ids,
            &number(|block| block.first_seq),
            &number(|block| block.last_seq),
            &number(|block| block.first_at_ms),
            &number(|block| block.last_at_ms),
            &number(|block| block.types),
            &bodies,
            &hashes,
        ];
        client.execute(&statement, &parameters).await.map(drop)
    }

    async fn write_sessions(&self, client: &ClientWrapper, owner: &str) -> Result<(), tokio_postgres::Error> {
        for session in &self.sessions {
            let statement = client
                .prepare_cached(
                    "WITH kept AS (INSERT INTO sessions (scope, name, version, head, entries, messages, created_at_ms, updated_at_ms) \
                       VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (scope, name) DO UPDATE SET version = $3, head = $4, \
                       entries = $5, messages = $6, updated_at_ms = $8 RETURNING id), \
                     leased AS (INSERT INTO leases (scope, name, owner, token) VALUES ($1, $2, $9, gen_random_uuid()) \
                       ON CONFLICT (scope, name) DO UPDATE SET owner = $9) \
                     DELETE FROM entries USING kept WHERE session = kept.id AND position >= $5",
                )
                .await?;
            let SessionRecord { scope, session, version, head, entries, messages, created_at_ms, updated_at_ms } =
                session;
            let parameters: [&(dyn ToSql + Sync); 9] =
                [scope, session, version, &head.get(), entries, messages, created_at_ms, updated_at_ms, &owner];
            client.execute(&statement, &parameters).await?;
        }
        if self.entries.is_empty() {
            return Ok(());
        }
        let text = |read: fn(&EntryRecord) -> &str| self.entries.iter().map(|entry| read(entry)).collect::<Vec<_>>();
        let positions: Vec<i64> = self.entries.iter().map(|entry| entry.position).collect();
        let statement = client
            .prepare_cached(
                "INSERT INTO entries (session, position, body) SELECT sessions.id, position, body \
                 FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[]) AS new (scope, name, position, body) \
                 JOIN sessions USING (scope, name) ON CONFLICT (session, position) DO UPDATE SET body = excluded.body",
            )
            .await?;
        let parameters: [&(dyn ToSql + Sync); 4] = [
            &text(|entry| &entry.scope),
            &text(|entry| &entry.session),
            &positions,
            &text(|entry| entry.messages.get()),
        ];
        client.execute(&statement, &parameters).await.map(drop)
    }
}

fn unbase64(text: &str) -> Result<Vec<u8>> {
    BASE64.decode(text).map_err(|error| Error::internal(format!("a record's base64 cannot be read: {error}")))
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let digits = |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(digits).collect();
    bytes.ok_or_else(|| Error::internal("a record's hash cannot be read"))
}
