//! A batch: what the writer has fetched, written in one transaction.
//!
//! It takes two trips: the rows of runs and sessions, whose fate decides over the rest, and then the rest. It may be written
//! twice, when the answer to a commit is lost: each statement has the same effect a second time. Runs and sessions that
//! another runtime has taken over meanwhile are not written: they are told that they are lost.

use super::lease::LIVES;
use super::write::{HEAD, HeadRow, names};
use crate::store::backend::Item;
use crate::store::record::number;
use crate::store::run_log::RunWrite;
use crate::store::{CallRecord, DeadLetter, EventBlock, Head, HeadKey, RunStatus, SessionCommit, SessionKey};
use crate::types::{Changes, Error, RunId, SessionId, Status};
use deadpool_postgres::ClientWrapper;
use futures_util::future::{join_all, try_join_all};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

/// What the blocks of events are numbered under; taken alone, it tells that all that were numbered before are there.
pub const NUMBERING: &str = "hashtextextended('par events ' || current_schema(), 0)";

type Outcome<T> = std::result::Result<T, tokio_postgres::Error>;

/// What is written together, by kind.
#[derive(Default)]
pub struct Batch<'a> {
    runs: BTreeMap<&'a RunId, RunState<'a>>,
    sessions: Vec<(&'a SessionCommit, Option<&'a RunWrite>)>,
    blobs: Vec<(&'a [u8], &'a [u8], i64)>,
    letters: Vec<&'a DeadLetter>,
    heads: HashMap<&'a HeadKey, Option<&'a Head>>,
}

/// One run's part of the batch.
struct RunState<'a> {
    write: &'a RunWrite,
    is_new: bool,
    blocks: Vec<&'a EventBlock>,
    changes: Vec<&'a Changes>,
    calls: BTreeMap<&'a str, &'a CallRecord>,
    end: Option<End<'a>>,
    releases: bool,
}

/// How a run ended: its status, when, and the error object if it failed.
type End<'a> = (RunStatus, u64, Option<Cow<'a, str>>);

impl<'a> Batch<'a> {
    pub fn new(items: &'a [Item]) -> Self {
        let mut batch = Self::default();
        for item in items {
            match item {
                Item::Run(write) => batch.add_run(write),
                Item::Session(commit, _) => batch.sessions.push((commit, None)),
                Item::Blob { id, content, at_ms } => batch.blobs.push((id.bytes(), content, number(*at_ms))),
                Item::DeadLetter(letter) => batch.letters.push(letter),
                Item::Head(head) => {
                    batch.heads.insert(&head.key, Some(head));
                }
                Item::NoHead(key) => {
                    batch.heads.insert(key, None);
                }
            }
        }
        batch
    }

    /// Whether there is a block of events in it.
    pub fn has_events(&self) -> bool {
        self.runs.values().any(|run| !run.blocks.is_empty())
    }

    fn add_run(&mut self, write: &'a RunWrite) {
        let state = self.runs.entry(&write.begin().run_id).or_insert_with(|| RunState {
            write,
            is_new: write.makes_row,
            blocks: Vec::new(),
            changes: Vec::new(),
            calls: BTreeMap::new(),
            end: None,
            releases: false,
        });
        state.releases |= write.releases;
        state.blocks.extend(&write.block);
        state.changes.extend(&write.changes);
        state.calls.extend(write.calls.iter().map(|call| (call.id.as_str(), call)));
        if let Some(end) = &write.end {
            state.end = Some((end.status, end.ended_at_ms, end.error.as_deref().map(Cow::Borrowed)));
            if let Some((commit, _)) = &end.session {
                self.sessions.push((commit, Some(write)));
            }
        }
    }

    /// Writes it. A commit always waits for the server's disk: a server that fails must lose nothing as long as we live.
    pub async fn write(mut self, client: &ClientWrapper, owner: &str, lease_seconds: f64) -> Outcome<()> {
        let statements = Statements::prepare(client).await?;
        let has_events = self.has_events();
        let versions = self.versions();
        // All of it is sent before the first answer is waited for.
        let begun = client.batch_execute("BEGIN");
        let asked: [&(dyn ToSql + Sync); 2] = [&lease_seconds, &owner];
        let numbering = async {
            match has_events {
                true => client.query(&statements.numbering, &[]).await,
                false => Ok(Vec::new()),
            }
        };
        let (_, _, _, owned, commits, listeners) = futures_util::try_join!(
            begun,
            numbering,
            self.insert_runs(client, &statements),
            self.own_runs(client, &statements, owner),
            try_join_all(self.sessions.iter().map(|(commit, run)| {
                let run_id = run.map(|run| run.begin().run_id.as_str());
                let all = versions.get(&commit.key).map_or(&[][..], Vec::as_slice);
                let behind = all.partition_point(|version| *version <= number(commit.version));
                commit_session(client, &statements, commit, all.get(behind..).unwrap_or_default(), run_id, owner)
            })),
            client.query_one(&statements.listeners, &asked),
        )?;
        let owned: HashMap<String, i64> = owned.into_iter().map(|row| (row.get(0), row.get(1))).collect();
        self.lose(&owned, &commits);
        let mut work: Vec<Sent<'_, '_>> = Vec::new();
        let events = EventColumns::of(&self.runs, &owned);
        if !events.runs.is_empty() {
            work.push(Sent::new(&statements.events, events.parameters()));
        }
        let states = StateColumns::of(&self.runs, &owned);
        if !states.runs.is_empty() {
            work.push(Sent::new(&statements.states, states.parameters()));
        }
        let steps = StepRows::of(&self.runs, &owned);
        steps.send(&statements, &mut work);
        let rest = Rest::of(&self);
        rest.send(&statements, &mut work);
        let sent = join_all(work.iter().map(|sent| client.execute(sent.statement, &sent.parameters)));
        let (sent, committed) = futures_util::join!(sent, client.batch_execute("COMMIT"));
        // A statement that failed has made a rollback of the commit.
        sent.into_iter().collect::<Outcome<Vec<u64>>>()?;
        committed?;
        if has_events && listeners.get::<_, bool>(0) {
            // Outside of the transaction: inside, all commits of the database would wait for each other.
            // Only a hint: what is written must not be written again because it failed.
            if let Err(error) = client.execute(&statements.notify, &[]).await {
                tracing::debug!("other runtimes were not told of events: {error}");
            }
        }
        Ok(())
    }

    /// The versions that each session goes through in this batch, in their order.
    fn versions(&self) -> HashMap<&'a SessionKey, Vec<i64>> {
        let mut versions: HashMap<_, Vec<i64>> = HashMap::new();
        for (commit, _) in &self.sessions {
            versions.entry(&commit.key).or_default().push(number(commit.version));
        }
        versions
    }

    async fn insert_runs(&self, client: &ClientWrapper, statements: &Statements) -> Outcome<u64> {
        let new: Vec<&RunState<'_>> = self.runs.values().filter(|run| run.is_new).collect();
        if new.is_empty() {
            return Ok(0);
        }
        let begin: Vec<_> = new.iter().map(|run| run.write.begin()).collect();
        let ids: Vec<&str> = begin.iter().map(|begin| begin.run_id.as_str()).collect();
        let scopes: Vec<&str> = begin.iter().map(|begin| begin.scope.as_str()).collect();
        let sessions: Vec<Option<&str>> =
            begin.iter().map(|begin| begin.session.as_ref().map(SessionId::as_str)).collect();
        let agents: Vec<&str> = begin.iter().map(|begin| begin.agent.as_str()).collect();
        let owners: Vec<&str> = begin.iter().map(|begin| &*begin.owner).collect();
        let statuses: Vec<&str> = new.iter().map(|run| run.status().name()).collect();
        let started: Vec<i64> = begin.iter().map(|begin| number(begin.started_at_ms)).collect();
        let ended: Vec<Option<i64>> = new.iter().map(|run| run.ended_at_ms()).collect();
        let requests: Vec<Option<&str>> =
            new.iter().map(|run| run.end.is_none().then_some(&*run.write.begin().request)).collect();
        let errors: Vec<Option<&str>> = new.iter().map(|run| run.error()).collect();
        let last: Vec<i64> = new.iter().map(|run| run.last().map_or(0, |(seq, _)| seq)).collect();
        let chains: Vec<&[u8]> = new.iter().map(|run| run.last().map_or(&[0; 32][..], |(_, hash)| hash)).collect();
        client
            .execute(
                &statements.runs,
                &[
                    &ids, &scopes, &sessions, &agents, &owners, &statuses, &started, &ended, &requests, &errors, &last,
                    &chains,
                ],
            )
            .await
    }

    async fn own_runs(&self, client: &ClientWrapper, statements: &Statements, owner: &str) -> Outcome<Vec<Row>> {
        if self.runs.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<&str> = self.runs.keys().map(|id| id.as_str()).collect();
        client.query(&statements.own, &[&ids, &owner]).await
    }

    /// Tells those that others have taken over.
    fn lose(&mut self, owned: &HashMap<String, i64>, commits: &[bool]) {
        for (run_id, run) in &self.runs {
            // A run that was released belongs to no runtime: the batch was written before, and its answer was lost.
            if !owned.contains_key(run_id.as_str()) && !run.releases {
                run.write.lose(
                    Error::new(Status::Persistence, format!("another runtime has taken the run {run_id:?} over"))
                        .with_code("run_taken_over")
                        .with_hint(
                            "this runtime was not heard of for persistence.lease_seconds: its process, or the \
                             connection to the database, had stopped",
                        ),
                );
            }
        }
        for ((commit, run), is_kept) in self.sessions.iter().zip(commits) {
            if *is_kept {
                continue;
            }
            let error = commit.refuse(
                "the database was not reached for persistence.lease_seconds, and another runtime has used the session",
            );
            let Some(run) = run else { continue };
            if let Some(state) = self.runs.get_mut(&run.begin().run_id)
                && let Some((status, _, told)) = &mut state.end
            {
                *status = RunStatus::Failed;
                *told = serde_json::to_string(&error).ok().map(Cow::Owned);
            }
            run.lose(error);
        }
    }
}

impl<'a> RunState<'a> {
    fn status(&self) -> RunStatus {
        self.end.as_ref().map_or(RunStatus::Running, |(status, ..)| *status)
    }

    fn ended_at_ms(&self) -> Option<i64> {
        self.end.as_ref().map(|(_, at_ms, _)| number(*at_ms))
    }

    fn error(&self) -> Option<&str> {
        self.end.as_ref()?.2.as_deref()
    }

    fn last(&self) -> Option<(i64, &'a [u8])> {
        self.blocks.last().map(|block| (number(block.head.last_seq), &block.hash[..]))
    }
}

/// A statement and what it is executed with.
struct Sent<'a, 'b> {
    statement: &'a Statement,
    parameters: Vec<&'b (dyn ToSql + Sync)>,
}

impl<'a, 'b> Sent<'a, 'b> {
    fn new(statement: &'a Statement, parameters: Vec<&'b (dyn ToSql + Sync)>) -> Self {
        Self { statement, parameters }
    }
}

/// Blocks of events, a column each.
#[derive(Default)]
struct EventColumns<'a> {
    runs: Vec<i64>,
    numbers: [Vec<i64>; 5],
    bodies: Vec<&'a [u8]>,
    hashes: Vec<&'a [u8]>,
}

impl<'a> EventColumns<'a> {
    fn of(runs: &BTreeMap<&RunId, RunState<'a>>, owned: &HashMap<String, i64>) -> Self {
        let mut columns = Self::default();
        for (run_id, run) in runs {
            let Some(row) = owned.get(run_id.as_str()) else { continue };
            for block in &run.blocks {
                let head = &block.head;
                columns.runs.push(*row);
                let numbers = [head.first_seq, head.last_seq, head.first_at_ms, head.last_at_ms, head.types];
                columns.numbers.iter_mut().zip(numbers).for_each(|(column, value)| column.push(number(value)));
                columns.bodies.push(&block.body);
                columns.hashes.push(&block.hash);
            }
        }
        columns
    }

    fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&self.runs];
        parameters.extend(self.numbers.iter().map(|column| column as &(dyn ToSql + Sync)));
        parameters.extend([&self.bodies as &(dyn ToSql + Sync), &self.hashes]);
        parameters
    }
}

/// How runs stand, a column each. Those that were made in this batch stand as they were made.
#[derive(Default)]
struct StateColumns<'a> {
    runs: Vec<i64>,
    last: Vec<Option<i64>>,
    chains: Vec<Option<&'a [u8]>>,
    statuses: Vec<Option<&'static str>>,
    ended: Vec<Option<i64>>,
    errors: Vec<Option<&'a str>>,
}

impl<'a> StateColumns<'a> {
    fn of(runs: &'a BTreeMap<&RunId, RunState<'a>>, owned: &HashMap<String, i64>) -> Self {
        let mut columns = Self::default();
        for (run_id, run) in runs {
            let Some(row) = owned.get(run_id.as_str()) else { continue };
            let last = run.last();
            let was_lost = run.write.is_lost();
            if (run.is_new && !was_lost) || (last.is_none() && run.end.is_none()) {
                continue;
            }
            columns.runs.push(*row);
            columns.last.push(last.map(|(seq, _)| seq));
            columns.chains.push(last.map(|(_, hash)| hash));
            columns.statuses.push(run.end.as_ref().map(|(status, ..)| status.name()));
            columns.ended.push(run.ended_at_ms());
            columns.errors.push(run.error());
        }
        columns
    }

    fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        vec![&self.runs, &self.last, &self.chains, &self.statuses, &self.ended, &self.errors]
    }
}

/// What is needed to go on with runs, and whose is needed no more.
#[derive(Default)]
struct StepRows<'a> {
    changes: Vec<(i64, i64, i64, &'a [String])>,
    call_runs: Vec<i64>,
    calls: [Vec<&'a str>; 3],
    results: Vec<Option<String>>,
    ended: Vec<i64>,
    ended_ids: Vec<&'a str>,
    released: Vec<i64>,
}

impl<'a> StepRows<'a> {
    fn of(runs: &BTreeMap<&'a RunId, RunState<'a>>, owned: &HashMap<String, i64>) -> Self {
        let mut rows = Self::default();
        for (run_id, run) in runs {
            let Some(row) = owned.get(run_id.as_str()) else { continue };
            if run.end.is_some() {
                if !run.is_new {
                    rows.ended.push(*row);
                    rows.ended_ids.push(run_id.as_str());
                }
                continue;
            }
            if run.releases {
                rows.released.push(*row);
            }
            for change in &run.changes {
                rows.changes.push((*row, number(change.from as u64), number(change.len() as u64), &change.entries));
            }
            for call in run.calls.values() {
                rows.call_runs.push(*row);
                let texts = [call.id.as_str(), &call.name, &call.effect];
                rows.calls.iter_mut().zip(texts).for_each(|(column, text)| column.push(text));
                let result = call.result.as_ref();
                rows.results.push(result.map(|result| serde_json::to_string(result).unwrap_or_default()));
            }
        }
        rows
    }

    fn send<'s>(&'s self, statements: &'s Statements, work: &mut Vec<Sent<'s, 's>>) {
        for (run, from, end, entries) in &self.changes {
            work.push(Sent::new(&statements.changes, vec![run, from, end, entries]));
        }
        if !self.call_runs.is_empty() {
            let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&self.call_runs];
            parameters.extend(self.calls.iter().map(|column| column as &(dyn ToSql + Sync)));
            parameters.push(&self.results);
            work.push(Sent::new(&statements.calls, parameters));
        }
        if !self.released.is_empty() {
            work.push(Sent::new(&statements.release, vec![&self.released]));
        }
        if !self.ended.is_empty() {
            work.push(Sent::new(&statements.forget_entries, vec![&self.ended]));
            work.push(Sent::new(&statements.forget_calls, vec![&self.ended]));
            work.push(Sent::new(&statements.forget_heads, vec![&self.ended_ids]));
        }
    }
}

/// What belongs to no run.
#[derive(Default)]
struct Rest<'a> {
    hashes: Vec<&'a [u8]>,
    contents: Vec<&'a [u8]>,
    blob_times: Vec<i64>,
    letters: Vec<(&'a str, &'a str, i64, i64, String)>,
    heads: Vec<HeadRow<'a>>,
    no_heads: Vec<[&'a str; 3]>,
}

impl<'a> Rest<'a> {
    fn of(batch: &Batch<'a>) -> Self {
        let mut rest = Self::default();
        for (hash, content, at_ms) in &batch.blobs {
            rest.hashes.push(hash);
            rest.contents.push(content);
            rest.blob_times.push(*at_ms);
        }
        for letter in &batch.letters {
            let (attempts, at_ms) = (i64::from(letter.attempts), number(letter.at_ms));
            rest.letters.push((&letter.subscription, &letter.reason, attempts, at_ms, letter.event.to_string()));
        }
        for (key, head) in &batch.heads {
            match head {
                Some(head) => rest.heads.push(HeadRow::of(head)),
                None => rest.no_heads.push(names(key)),
            }
        }
        rest
    }

    fn send<'s>(&'s self, statements: &'s Statements, work: &mut Vec<Sent<'s, 's>>) {
        if !self.hashes.is_empty() {
            work.push(Sent::new(&statements.blobs, vec![&self.hashes, &self.contents, &self.blob_times]));
        }
        for (subscription, reason, attempts, at_ms, event) in &self.letters {
            work.push(Sent::new(&statements.letters, vec![subscription, reason, attempts, at_ms, event]));
        }
        work.extend(self.heads.iter().map(|head| Sent::new(&statements.heads, head.parameters())));
        for [kind, scope, name] in &self.no_heads {
            work.push(Sent::new(&statements.no_heads, vec![kind, scope, name]));
        }
    }
}

macro_rules! statements {
    ($($name:ident: $query:expr;)*) => {
        /// What a batch is written with, prepared once for a connection.
        struct Statements {
            $($name: Statement,)*
        }

        impl Statements {
            async fn prepare(client: &ClientWrapper) -> Outcome<Self> {
                Ok(Self { $($name: client.prepare_cached($query).await?,)* })
            }
        }
    };
}

statements! {
    numbering: &format!("SELECT pg_advisory_xact_lock_shared({NUMBERING})");
    listeners: &format!("SELECT EXISTS (SELECT FROM runtimes WHERE listens AND owner <> $2 AND {LIVES})");
    notify: "SELECT pg_notify('par_events', current_schema())";
    runs: "INSERT INTO runs (run_id, scope, session, agent, owner, status, started_at_ms, ended_at_ms, request, error, last_seq, \
           chain) SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], \
           $8::bigint[], $9::text[], $10::text[], $11::bigint[], $12::bytea[]) ON CONFLICT (run_id) DO NOTHING";
    own: "SELECT run_id, id FROM runs WHERE run_id = ANY ($1) AND owner = $2 ORDER BY id FOR UPDATE";
    // A session that another runtime has changed since, and what a run says that another has taken over, are left alone: no
    // row is answered. A session that has the version of a later commit of this batch ($13) has this one already: the batch
    // was written before, and its answer was lost.
    session: "WITH kept AS ( \
                INSERT INTO sessions (scope, name, version, head, entries, messages, created_at_ms, updated_at_ms) \
                SELECT $1, $2, $4, $5, coalesce($6::bigint, 0), $7, $8, $8 \
                WHERE ($3::bigint = 0 OR EXISTS (SELECT FROM sessions WHERE scope = $1 AND name = $2)) \
                  AND ($11::text IS NULL OR EXISTS (SELECT FROM runs WHERE run_id = $11 AND owner = $12)) \
                ON CONFLICT (scope, name) DO UPDATE SET version = $4, head = $5, entries = coalesce($6::bigint, sessions.entries), \
                  messages = $7, updated_at_ms = $8 WHERE sessions.version IN ($3, $4) RETURNING id), \
              gone AS (DELETE FROM entries USING kept WHERE session = kept.id AND position >= $6::bigint), \
              put AS (INSERT INTO entries (session, position, body) \
                SELECT kept.id, $9::bigint + row_number() OVER () - 1, body FROM kept, unnest($10::text[]) AS body \
                ON CONFLICT (session, position) DO UPDATE SET body = excluded.body) \
              SELECT id FROM kept UNION ALL \
              SELECT id FROM sessions WHERE scope = $1 AND name = $2 AND version = ANY ($13::bigint[])";
    events: "INSERT INTO events (run, first_seq, last_seq, first_at_ms, last_at_ms, types, body, hash) \
             SELECT run, first_seq, last_seq, first_at_ms, last_at_ms, types, body, hash FROM unnest($1::bigint[], $2::bigint[], \
             $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bytea[], $8::bytea[]) WITH ORDINALITY AS new (run, first_seq, \
             last_seq, first_at_ms, last_at_ms, types, body, hash, place) ORDER BY place ON CONFLICT (run, first_seq) DO NOTHING";
    states: "UPDATE runs SET last_seq = coalesce(new.last_seq, runs.last_seq), chain = coalesce(new.chain, runs.chain), \
             status = coalesce(new.status, runs.status), ended_at_ms = coalesce(new.ended_at_ms, runs.ended_at_ms), \
             error = coalesce(new.error, runs.error), request = CASE WHEN new.status IS NULL THEN runs.request END \
             FROM unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::text[], $5::bigint[], $6::text[]) \
             AS new (id, last_seq, chain, status, ended_at_ms, error) WHERE runs.id = new.id";
    changes: "WITH gone AS (DELETE FROM run_entries WHERE run = $1 AND position >= $3) \
              INSERT INTO run_entries (run, position, body) \
              SELECT $1, $2::bigint + row_number() OVER () - 1, body FROM unnest($4::text[]) AS body \
              ON CONFLICT (run, position) DO UPDATE SET body = excluded.body";
    calls: "INSERT INTO calls (run, call_id, name, effect, result) \
            SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[]) \
            ON CONFLICT (run, call_id) DO UPDATE SET result = excluded.result";
    release: "UPDATE runs SET owner = '' WHERE id = ANY ($1)";
    forget_entries: "DELETE FROM run_entries WHERE run = ANY ($1)";
    forget_calls: "DELETE FROM calls WHERE run = ANY ($1)";
    forget_heads: "DELETE FROM heads WHERE run_id = ANY ($1)";
    blobs: "INSERT INTO blobs (hash, content, at_ms) SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bigint[]) \
            ON CONFLICT (hash) DO NOTHING";
    letters: "INSERT INTO dead_letters (subscription, reason, attempts, at_ms, event) SELECT $1, $2, $3, $4, $5 \
              WHERE NOT EXISTS (SELECT FROM dead_letters WHERE at_ms = $4 AND subscription = $1 AND event = $5)";
    heads: HEAD;
    no_heads: "DELETE FROM heads WHERE kind = $1 AND scope = $2 AND name = $3";
}

/// Whether the session is now as the commit says.
async fn commit_session(
    client: &ClientWrapper,
    statements: &Statements,
    commit: &SessionCommit,
    versions_behind: &[i64],
    run_id: Option<&str>,
    owner: &str,
) -> Outcome<bool> {
    let SessionCommit { key, after, version, head, changes, messages, at_ms, cached: _ } = commit;
    let (from, end) = match changes {
        Some(changes) => (number(changes.from as u64), Some(number(changes.len() as u64))),
        None => (0, None),
    };
    let entries = changes.as_ref().map_or(&[][..], |changes| &changes.entries);
    let (scope, name, messages) = (key.scope.as_str(), key.id.as_str(), number(*messages as u64));
    let (after, version, at_ms) = (number(*after), number(*version), number(*at_ms));
    let parameters: [&(dyn ToSql + Sync); 13] = [
        &scope,
        &name,
        &after,
        &version,
        head,
        &end,
        &messages,
        &at_ms,
        &from,
        &entries,
        &run_id,
        &owner,
        &versions_behind,
    ];
    client.query_opt(&statements.session, &parameters).await.map(|row| row.is_some())
}
