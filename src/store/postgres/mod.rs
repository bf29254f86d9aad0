//! PostgreSQL: one database, which runtimes of several processes and machines may share.
//!
//! What SQLite does by locks of the file system is done by rows here: who lives and who works on which session (`lease.rs`).
//! They outlive a connection that breaks and a server that restarts. While the server is away what is to be written waits
//! in memory, as much as the writer's capacity allows, and then runs wait; whatever is read fails with `store_unavailable`.
//!
//! Every commit waits for the server's disk, as the server is configured: the writer waits, not those who run. So a server
//! that fails loses nothing that this process has written. Leases do not wait: those that are lost are taken anew.

mod address;
mod archive;
mod batch;
mod care;
mod lease;
mod link;
mod listen;
mod read;
mod schema;
mod write;

use super::backend::{Backend, Item, Load, SessionLock};
use super::record::{
    Cutoffs, DeadLetter, EventFilter, Head, HeadFilter, HeadKey, Listed, Page, Problem, Pruned, RunFilter, SessionInfo,
    SessionKey, StoreSize, StoredRun, Unfinished,
};
use super::{BlobId, EventBlock, Process};
use crate::config::PostgresConfig;
use crate::types::{AgentId, Error, Result, RunId, SessionId, Status};
use address::Address;
pub use archive::Archive;
use futures_util::future::BoxFuture;
use lease::Leases;
use link::Link;
use listen::Notices;
use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use write::WriteConnection;

/// How long a look whether a session is free waits for the next one.
const LOCK_DELAYS: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(100)];
/// How long a transaction may take, before the connection is given up and it is tried on another.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// See the module's head.
pub struct Postgres {
    link: Arc<Link>,
    leases: Leases,
    writer: Mutex<WriteConnection>,
    notices: Notices,
    owner: String,
}

impl Postgres {
    /// Connects, and makes the tables or brings them to this version. `owner`: this runtime's name, which nothing else ever had.
    pub fn open(config: &PostgresConfig, owner: &str, process: &Process) -> Result<Self> {
        let address = Address::read(config, process.trusted_tls)?;
        let link = Arc::new(Link::start(address, config.pool_size, Arc::clone(&process.begin_thread))?);
        let opened = {
            let (opener, schema, owner) = (Arc::clone(&link), config.schema.clone(), owner.to_owned());
            let seconds = config.lease_seconds;
            link.wait(async move {
                let mut client = opener.own_client().await?;
                schema::prepare(&mut client, &schema).await?;
                Leases::begin(opener, client, &owner, seconds).await
            })
        };
        let leases = opened.map_err(|error| match error.path() {
            None => error.with_path("config.persistence"),
            Some(_) => error,
        })?;
        let notices = Notices::default();
        let writer = Mutex::new(WriteConnection::new(Arc::clone(&link), notices.clone()));
        Ok(Self { link, leases, writer, notices, owner: owner.to_owned() })
    }

    /// Writes; on the writer's own thread, which may block.
    fn write<T>(&self, work: impl AsyncFnOnce(&mut WriteConnection) -> Result<T>) -> Result<T> {
        let mut writer = self.writer.lock();
        self.link.block_on(async {
            match tokio::time::timeout(WRITE_TIMEOUT, work(&mut writer)).await {
                Ok(done) => done,
                Err(_) => Err(link::unavailable("it did not answer for a long time")),
            }
        })
    }
}

impl Backend for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn writes_in_place(&self) -> bool {
        // It waits for its own runtime, which it cannot from within another.
        false
    }

    fn write(&self, items: &[Item], _durable: bool) -> Result<()> {
        // Every commit is; so there is nothing to wait for where there is nothing to write.
        if items.is_empty() {
            return Ok(());
        }
        let seconds = self.leases.seconds();
        self.write(async |writer| writer.write(&self.owner, seconds, items).await)
    }

    fn delete_session(&self, key: &SessionKey) -> Result<bool> {
        self.write(async |writer| writer.delete_session(key).await)
    }

    fn fork_session(&self, from: &SessionKey, to: &SessionId, entries: Option<usize>) -> Result<Option<usize>> {
        self.write(async |writer| writer.fork_session(from, to, entries).await)
    }

    fn prune(&self, cutoffs: &Cutoffs) -> Result<Pruned> {
        self.write(async |writer| care::prune(writer, cutoffs).await)
    }

    fn backup(&self, _: &Path) -> Result<()> {
        Err(Error::new(Status::Unsupported, "a PostgreSQL database is not copied from here")
            .with_code("backup_failed")
            .with_hint("pg_dump and pg_basebackup copy it while it is in use"))
    }

    fn adopt(&self, run_id: &RunId, from_owner: &str, owner: &str) -> Result<bool> {
        let seconds = self.leases.seconds();
        self.write(async |writer| writer.adopt(run_id, from_owner, owner, seconds).await)
    }

    fn abandon(&self, run_id: &RunId, error: &str, at_ms: u64) -> Result<bool> {
        let seconds = self.leases.seconds();
        self.write(async |writer| writer.abandon(run_id, error, at_ms, seconds).await)
    }

    fn replace_head(&self, head: &Head) -> Result<bool> {
        self.write(async |writer| writer.replace_head(head).await)
    }

    fn remove_dead_letters(&self, ids: &[i64]) -> Result<u64> {
        self.write(async |writer| writer.remove_dead_letters(ids).await)
    }

    fn close(&self) -> Result<()> {
        if let Err(error) = self.leases.end() {
            tracing::warn!("this runtime's leases end by themselves: {error}");
        }
        self.link.stop();
        // A connection keeps the descriptors of its runtime open.
        self.writer.lock().disconnect();
        Ok(())
    }

    fn lock_session<'a>(&'a self, key: &'a SessionKey) -> BoxFuture<'a, Result<SessionLock>> {
        Box::pin(async move {
            let mut delay = LOCK_DELAYS[0];
            loop {
                if let Some(lock) = self.leases.try_lock(key).await? {
                    return Ok(lock);
                }
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(LOCK_DELAYS[1]);
            }
        })
    }

    fn try_lock_session<'a>(&'a self, key: &'a SessionKey) -> BoxFuture<'a, Result<Option<SessionLock>>> {
        Box::pin(self.leases.try_lock(key))
    }

    fn load_session<'a>(&'a self, key: &'a SessionKey, known: Option<u64>) -> BoxFuture<'a, Result<Load>> {
        Box::pin(async move { read::session(&self.link.client().await?, key, known).await })
    }

    fn sessions<'a>(&'a self, scope: &'a str, page: Page) -> BoxFuture<'a, Result<Listed<SessionInfo>>> {
        Box::pin(async move { read::sessions(&self.link.client().await?, scope, page).await })
    }

    fn runs<'a>(&'a self, filter: &'a RunFilter, page: Page) -> BoxFuture<'a, Result<Listed<StoredRun>>> {
        Box::pin(async move { read::runs(&self.link.client().await?, filter, page).await })
    }

    fn run<'a>(&'a self, scope: &'a str, run_id: &'a RunId) -> BoxFuture<'a, Result<Option<StoredRun>>> {
        Box::pin(async move { read::run(&self.link.client().await?, scope, run_id).await })
    }

    fn has_run<'a>(&'a self, run_id: &'a RunId) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move { read::has_run(&self.link.client().await?, run_id).await })
    }

    fn unfinished<'a>(&'a self, run_id: &'a RunId) -> BoxFuture<'a, Result<Option<Unfinished>>> {
        Box::pin(async move { read::unfinished(&mut self.link.client().await?, run_id).await })
    }

    fn orphans<'a>(&'a self, agent: Option<&'a AgentId>) -> BoxFuture<'a, Result<Vec<StoredRun>>> {
        Box::pin(async move { read::orphans(&self.link.client().await?, agent, self.leases.seconds()).await })
    }

    fn is_alive<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<bool>> {
        Box::pin(self.leases.lives(owner))
    }

    fn head<'a>(&'a self, key: &'a HeadKey) -> BoxFuture<'a, Result<Option<Head>>> {
        Box::pin(async move { read::head(&self.link.client().await?, key).await })
    }

    fn heads<'a>(&'a self, filter: &'a HeadFilter, most: usize) -> BoxFuture<'a, Result<Vec<Head>>> {
        Box::pin(async move { read::heads(&self.link.client().await?, filter, most).await })
    }

    fn events<'a>(&'a self, filter: &'a EventFilter, page: Page) -> BoxFuture<'a, Result<Vec<(i64, EventBlock)>>> {
        Box::pin(async move { read::events(&self.link.client().await?, filter, page).await })
    }

    fn tail(&self, after: Option<i64>) -> BoxFuture<'_, Result<i64>> {
        Box::pin(async move {
            if after.is_some() {
                self.leases.listen().await?;
            }
            self.notices.tail(&self.link, after).await
        })
    }

    fn blob<'a>(&'a self, id: &'a BlobId) -> BoxFuture<'a, Result<Option<Arc<[u8]>>>> {
        Box::pin(async move { read::blob(&self.link.client().await?, id).await })
    }

    fn dead_letters(&self, page: Page) -> BoxFuture<'_, Result<Listed<DeadLetter>>> {
        Box::pin(async move { read::dead_letters(&self.link.client().await?, page).await })
    }

    fn verify(&self) -> BoxFuture<'_, Result<Vec<Problem>>> {
        Box::pin(async move { care::verify(&mut self.link.client().await?).await })
    }

    fn size(&self) -> BoxFuture<'_, Result<StoreSize>> {
        Box::pin(async move { care::size(&self.link.client().await?).await })
    }
}
