//! The connections, and the thread that serves them.
//!
//! Reading has a pool, writing and listening have a connection each. Whoever asks waits where it is; the bytes go through
//! one thread, `par-postgres`, which ends with the store.

use super::address::{Address, chain};
use crate::store::ThreadStart;
use crate::types::{Error, Result, Status};
use deadpool_postgres::{
    ClientWrapper, Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime,
};
use parking_lot::Mutex;
use std::error::Error as _;
use std::future::Future;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::WrongType;

/// How long a read waits for a connection.
const POOL_TIMEOUT: Duration = Duration::from_secs(15);

/// What is written beside the writer, leases, may be gone with the server's last moments.
pub const UNWAITED: &str = "SET synchronous_commit = off";

/// See the module's head.
pub struct Link {
    /// None once it has ended: the handle keeps descriptors of its runtime open.
    handle: Mutex<Option<Handle>>,
    pool: Pool,
    address: Arc<Address>,
    thread: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

impl Link {
    /// Starts the thread. Nothing is connected yet.
    pub fn start(address: Address, pool_size: usize, begin: ThreadStart) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::new(Status::Persistence, format!("no thread for the database: {error}")))?;
        let handle = runtime.handle().clone();
        let config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(address.config.clone(), address.tls.clone(), config);
        let pool = Pool::builder(manager)
            .max_size(pool_size)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(POOL_TIMEOUT))
            .post_create(Hook::async_fn(|client: &mut ClientWrapper, _| {
                Box::pin(async move { client.batch_execute(UNWAITED).await.map_err(HookError::Backend) })
            }))
            .build()
            .map_err(|error| Error::internal(error.to_string()))?;
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("par-postgres".into())
            .spawn(move || {
                begin();
                // Also when the other end is gone.
                let _ = runtime.block_on(stopped);
            })
            .map_err(|error| Error::new(Status::Persistence, format!("no thread for the database: {error}")))?;
        let thread = Mutex::new(Some((stop, thread)));
        Ok(Self { handle: Mutex::new(Some(handle)), pool, address: Arc::new(address), thread })
    }

    fn handle(&self) -> Result<Handle> {
        self.handle.lock().clone().ok_or_else(closed)
    }

    /// Runs a future to its end; on a thread that may block.
    pub fn block_on<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        self.handle()?.block_on(future)
    }

    /// Lets a future run on the link's own thread. After the link's end it is dropped.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        if let Ok(handle) = self.handle() {
            drop(spawn_on(&handle, future));
        }
    }

    /// Runs a future on the link's own thread, and waits for it without caring where the caller is.
    pub fn wait<T: Send + 'static>(&self, future: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let (told, answer) = std::sync::mpsc::sync_channel(1);
        self.spawn(async move {
            let _ = told.send(future.await);
        });
        answer.recv().unwrap_or_else(|_| Err(closed()))
    }

    /// A connection of the pool.
    pub async fn client(&self) -> Result<Object> {
        let pool = self.pool.clone();
        // Where the connection is made, its task is spawned.
        let got = spawn_on(&self.handle()?, async move { pool.get().await }).await;
        got.map_err(|_| closed())?.map_err(|error| match error {
            PoolError::Backend(error) => failed(&error),
            PoolError::Timeout(_) => unavailable("no connection was free for a long time"),
            other => unavailable(&other.to_string()),
        })
    }

    /// The pool itself, for tasks of the link's own thread.
    pub fn pool(&self) -> Pool {
        self.pool.clone()
    }

    /// A connection that is nobody else's.
    pub async fn own_client(&self) -> Result<ClientWrapper> {
        let address = Arc::clone(&self.address);
        let connected = spawn_on(&self.handle()?, async move { connect(&address).await });
        connected.await.map_err(|_| closed())?
    }

    /// How connections are made.
    pub fn address(&self) -> Arc<Address> {
        Arc::clone(&self.address)
    }

    /// Ends the thread, and with it every connection.
    pub fn stop(&self) {
        self.pool.close();
        drop(self.handle.lock().take());
        let running = self.thread.lock().take();
        if let Some((stop, thread)) = running {
            drop(stop);
            // It ends by itself; a panic there was told already.
            let _ = thread.join();
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A connection that the runtime serves in which this is called.
pub async fn connect(address: &Address) -> Result<ClientWrapper> {
    let connected = address.config.connect(address.tls.clone()).await;
    let (client, connection) = connected.map_err(|error| failed(&error))?;
    let task = spawn_on(&Handle::current(), async move {
        if let Err(error) = connection.await {
            tracing::warn!("a connection to the database ended: {}", chain(&error));
        }
    });
    Ok(ClientWrapper::new(client, task))
}

#[allow(clippy::disallowed_methods, reason = "a thread that serves connections is a scope: its tasks end with it")]
fn spawn_on<T: Send + 'static>(
    handle: &Handle,
    future: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    handle.spawn(future)
}

/// What went wrong, as a host gets it.
pub fn failed(error: &tokio_postgres::Error) -> Error {
    let (word, retryable, hint) = match error.code() {
        Some(&SqlState::DISK_FULL) => {
            ("store_full", true, "make room on the server's disk; what waits is written then")
        }
        Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => (
            "store_read_only",
            true,
            "the server is a standby, or read-only: name the primary, or wait for the failover",
        ),
        Some(
            &SqlState::T_R_SERIALIZATION_FAILURE
            | &SqlState::T_R_DEADLOCK_DETECTED
            | &SqlState::LOCK_NOT_AVAILABLE
            | &SqlState::TOO_MANY_CONNECTIONS,
        ) => ("store_busy", true, "the server is busy; it is tried again"),
        Some(&SqlState::DATA_CORRUPTED | &SqlState::INDEX_CORRUPTED) => {
            ("store_corrupt", false, "restore a backup; store.verify tells what is damaged")
        }
        Some(
            &SqlState::INVALID_PASSWORD
            | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION
            | &SqlState::INVALID_CATALOG_NAME
            | &SqlState::INSUFFICIENT_PRIVILEGE,
        ) => ("store_unavailable", true, "check user, password, database and their rights"),
        Some(code) => match code.code().get(..2) {
            // Connection, resources, intervention of an operator: the server's trouble.
            Some("08" | "53" | "57" | "58") => {
                ("store_unavailable", true, "check the server; what waits is written then")
            }
            // Data, constraints, syntax: one item's.
            Some("22" | "23" | "42") => ("store_refused", false, "this is a bug: please report it"),
            Some(_) | None => ("store_failed", true, "see the message"),
        },
        // A value that does not fit its column.
        None if error.source().is_some_and(|cause| cause.is::<WrongType>()) => {
            ("store_refused", false, "this is a bug: please report it")
        }
        None => ("store_unavailable", true, "check the address and the server; what waits is written then"),
    };
    Error::new(Status::Persistence, format!("the database failed: {}", chain(error)))
        .with_code(word)
        .with_retryable(retryable)
        .with_hint(hint)
}

pub fn unavailable(why: &str) -> Error {
    Error::new(Status::Persistence, format!("the database failed: {why}"))
        .with_code("store_unavailable")
        .with_retryable(true)
        .with_hint("check the server; what waits is written then")
}

fn closed() -> Error {
    Error::new(Status::Persistence, "the store was closed").with_code("store_closed")
}
