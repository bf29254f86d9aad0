//! The second tier: what a local database keeps is shipped elsewhere, a moment later.
//!
//! What changes is marked in the transaction that changes it (`sqlite/changes.rs`). One thread of one runtime takes the
//! oldest marks, loads what they are about as it is now, ships that as a [`Batch`], and only then removes the marks: so each
//! change is shipped at least once, also after a crash, and twice only under the same key. Retention keeps what is marked.
//! Trouble at the other end is told and tried again without end; runs never notice.

#[cfg(feature = "object-store")]
pub mod object;
pub mod record;
#[cfg(feature = "object-store")]
pub mod restore;

pub use record::{Batch, Record};

use super::backend::SessionLock;
use super::sqlite::{Forwarding, Pending, Sqlite};
use super::{StoreConfig, ThreadStart, Tls};
use crate::config::{Archive, Forward, ForwardConfig};
use crate::types::{Error, Result, Status, now_ms};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How long it waits before it tries again what failed; doubled each time, from the first of these up to the second.
const RETRY: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(60)];
/// How long closing waits for the last attempt.
const LAST_ATTEMPT: Duration = Duration::from_secs(5);
/// How often somebody who waits looks whether another process has shipped.
const LOOK: Duration = Duration::from_millis(50);

/// Where batches go. A batch may come again, whole or as part of another one: its keys say what it replaces.
pub trait Destination: Send + Sync {
    /// Keeps a batch, and answers how many bytes that took. When this returns it is as safe there as it can be.
    fn ship<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<u64>>;
}

/// Reaches a destination. Opens no connection yet.
fn reach(archive: &Archive, tls: Tls) -> Result<Box<dyn Destination>> {
    match archive {
        #[cfg(feature = "object-store")]
        Archive::Folder { .. } | Archive::S3(_) => Ok(Box::new(object::Objects::open(archive, tls)?)),
        #[cfg(feature = "postgres")]
        Archive::Postgres(database) => Ok(Box::new(super::postgres::Archive::open(database, tls)?)),
        #[cfg(not(all(feature = "object-store", feature = "postgres")))]
        other => {
            let _ = tls;
            other.check("config.persistence.forward.to").and_then(|()| Err(Error::internal("it is not built in")))
        }
    }
}

/// What is forwarded, and what came of it; `store.forward` in `par_runtime_info`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ForwardInfo {
    /// How it goes.
    pub state: ForwardState,
    /// Where to.
    pub destination: String,
    /// What the database is named by there.
    pub source: String,
    /// Changes that are not shipped yet.
    pub pending: u64,
    /// Seconds since the oldest of them was made; 0 if there are none.
    pub lag_seconds: f64,
    /// Whether the database is larger than `retention.max_bytes`, since what is not shipped yet stays.
    pub over_max_bytes: bool,
    /// What this runtime has shipped.
    #[serde(flatten)]
    pub counts: ForwardCounts,
    /// Why the last attempt failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
}

/// How forwarding goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ForwardState {
    /// This runtime ships.
    On,
    /// This runtime ships, and its last attempt failed: it is tried again.
    Failing,
    /// Another runtime ships; if that ends, this one does.
    Elsewhere,
    /// The database marks what changes, but this runtime is not configured to ship it.
    Paused,
}

/// What a runtime has shipped.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct ForwardCounts {
    /// Batches.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes that took.
    pub bytes: u64,
    /// Attempts that failed; each was repeated.
    pub failures: u64,
    /// When something was last shipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_shipped_at_ms: Option<u64>,
}

/// See the module's head.
pub struct Forwarder {
    database: Arc<Sqlite>,
    /// None: the database marks what changes, and nobody ships it here.
    config: Option<ForwardConfig>,
    tls: Tls,
    state: Mutex<State>,
    /// Somebody wants it now.
    wanted: Notify,
    /// An attempt was made.
    tried: Notify,
    closing: CancellationToken,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct State {
    /// None before that was asked for.
    has_lock: Option<bool>,
    counts: ForwardCounts,
    error: Option<Error>,
}

/// What the thread has at hand.
#[derive(Default)]
struct Hand {
    lock: Option<(SessionLock, Forwarding)>,
    destination: Option<Box<dyn Destination>>,
    /// What is being shipped. If that fails it may have arrived all the same, so it goes again as it is.
    batch: Option<Batch>,
}

impl Forwarder {
    /// Does with the database as is configured; none if it is not forwarded.
    pub fn open(
        database: &Arc<Sqlite>,
        forward: Option<&Forward>,
        store: &StoreConfig<'_>,
    ) -> Result<Option<Arc<Self>>> {
        let named = database.forwarding()?;
        match (forward, named) {
            (None, None) => Ok(None),
            (Some(Forward::Off), _) => database.stop_forwarding().map(|()| None),
            (None, Some(named)) => {
                tracing::warn!(
                    "the database was forwarded to {}, and this runtime is not configured to go on: what changes is marked, \
                     and stays until it is shipped",
                    named.destination
                );
                Ok(Some(Arc::new(Self::new(database, None, store.process.trusted_tls))))
            }
            (Some(Forward::On(config)), _) => {
                // Before the first thing is written. Where it went elsewhere, whoever has the lock decides.
                database.begin_forwarding(&config.to.name())?;
                let forwarder = Arc::new(Self::new(database, Some((**config).clone()), store.process.trusted_tls));
                forwarder.start(&store.process.begin_thread)?;
                Ok(Some(forwarder))
            }
        }
    }

    fn new(database: &Arc<Sqlite>, config: Option<ForwardConfig>, tls: Tls) -> Self {
        Self {
            database: Arc::clone(database),
            config,
            tls,
            state: Mutex::default(),
            wanted: Notify::new(),
            tried: Notify::new(),
            closing: CancellationToken::new(),
            thread: Mutex::default(),
        }
    }

    fn start(self: &Arc<Self>, on_thread: &ThreadStart) -> Result<()> {
        let (worker, on_thread) = (Arc::clone(self), Arc::clone(on_thread));
        let spawned = std::thread::Builder::new().name("par-forward".into()).spawn(move || worker.run(&on_thread));
        let thread = spawned.map_err(|error| {
            Error::new(Status::Io, format!("the thread that forwards cannot be started: {error}"))
                .with_hint("raise RLIMIT_NPROC")
        })?;
        *self.thread.lock() = Some(thread);
        Ok(())
    }

    /// How it goes. `max_bytes`: the most that the database may have.
    pub fn info(&self, max_bytes: Option<u64>) -> Result<ForwardInfo> {
        let pending = self.database.pending()?;
        let named = self.database.forwarding()?;
        let is_over = match max_bytes.filter(|_| pending.changes > 0) {
            Some(most) => self.database.used_bytes()? > most,
            None => false,
        };
        let state = self.state.lock();
        let lag_ms = pending.oldest_at_ms.map_or(0, |oldest| now_ms().saturating_sub(oldest));
        Ok(ForwardInfo {
            state: match (&self.config, &state.error, state.has_lock) {
                (None, _, _) => ForwardState::Paused,
                (Some(_), Some(_), _) => ForwardState::Failing,
                (Some(_), None, Some(false)) => ForwardState::Elsewhere,
                (Some(_), None, Some(true) | None) => ForwardState::On,
            },
            destination: named.as_ref().map(|named| named.destination.clone()).unwrap_or_default(),
            source: named.map(|named| named.source.to_string()).unwrap_or_default(),
            pending: pending.changes,
            lag_seconds: lag_ms as f64 / 1000.0,
            over_max_bytes: is_over,
            counts: state.counts.clone(),
            error: state.error.clone(),
        })
    }

    /// Changes that are not shipped yet.
    pub fn pending(&self) -> Result<u64> {
        self.database.pending().map(|pending| pending.changes)
    }

    /// Ships all that was kept until now, and waits until that is done.
    pub async fn ship_now(&self, time: Duration) -> Result<()> {
        if self.config.is_none() {
            return Err(not_configured());
        }
        let until = Instant::now() + time;
        let Pending { last, .. } = self.database.pending()?;
        let mut asked: Option<Instant> = None;
        loop {
            let tried = self.tried.notified();
            let pending = self.database.pending()?;
            if pending.changes == 0 || pending.first > last {
                return Ok(());
            }
            if self.closing.is_cancelled() {
                return Err(Error::new(Status::Closed, "the runtime was closed before all was shipped"));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let why = self.state.lock().error.clone();
                let why = why.map_or_else(|| "it takes longer".to_owned(), |error| error.message().to_owned());
                let message = format!("{} changes are not shipped yet: {why}", pending.changes);
                return Err(Error::new(Status::Deadline, message)
                    .with_code("forward_incomplete")
                    .with_retryable(true)
                    .with_hint(
                        "nothing is lost: it is tried again until it is shipped; store.info tells how it goes",
                    ));
            }
            if asked.is_none_or(|asked| asked.elapsed() > RETRY[0]) {
                self.wanted.notify_one();
                asked = Some(Instant::now());
            }
            tokio::select! {
                () = tried => {}
                () = tokio::time::sleep(LOOK.min(left)) => {}
            }
        }
    }

    /// Makes a last attempt, which may take a moment, and ends. What is left goes on at the next start.
    pub fn close(&self) {
        self.closing.cancel();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // It only fails if the thread panicked, which says so itself.
            let _ = thread.join();
        }
    }

    // ---- the thread

    fn run(&self, on_thread: &ThreadStart) {
        on_thread();
        let start = Arc::clone(on_thread);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name("par-forward")
            .max_blocking_threads(4)
            .on_thread_start(move || start())
            .build();
        match runtime {
            Ok(runtime) => {
                runtime.block_on(self.work());
                // A look-up of a name may hang; nobody waits for it.
                runtime.shutdown_timeout(Duration::from_millis(500));
            }
            Err(error) => {
                let error = Error::new(Status::Io, format!("what forwards the database cannot be started: {error}"));
                self.failed(error.with_hint("raise RLIMIT_NOFILE"));
            }
        }
    }

    async fn work(&self) {
        let Some(config) = &self.config else { return };
        let mut hand = Hand::default();
        let mut delay: Option<Duration> = None;
        loop {
            let is_last = self.closing.is_cancelled();
            let too_late = async {
                self.closing.cancelled().await;
                tokio::time::sleep(LAST_ATTEMPT).await;
            };
            let done = tokio::select! {
                biased;
                done = self.ship_all(config, &mut hand) => done,
                () = too_late => return,
            };
            delay = match done {
                Ok(()) => None,
                Err(error) => {
                    self.failed(error);
                    Some(delay.map_or(RETRY[0], |delay| (delay * 2).min(RETRY[1])))
                }
            };
            self.tried.notify_waiters();
            if is_last {
                return;
            }
            let pause = match delay {
                // Not all at once, where many runtimes ship to one place.
                Some(delay) => delay.mul_f64(jitter()),
                None => Duration::from_secs_f64(config.interval_seconds),
            };
            tokio::select! {
                () = self.closing.cancelled() => {}
                () = self.wanted.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Ships until nothing is left that is worth a batch of its own.
    async fn ship_all(&self, config: &ForwardConfig, hand: &mut Hand) -> Result<()> {
        let named = match &hand.lock {
            Some((_, named)) => named.clone(),
            None => {
                let lock = self.database.lock_forwarding()?;
                self.state.lock().has_lock = Some(lock.is_some());
                let Some(lock) = lock else { return Ok(()) };
                let named = self.database.move_forwarding(&config.to.name())?;
                hand.lock = Some((lock, named.clone()));
                named
            }
        };
        let Hand { destination, batch, .. } = hand;
        loop {
            // One that failed before says nothing about what has come since.
            let is_new = batch.is_none();
            if is_new {
                *batch = self.database.next_batch(&named, config.max_batch_bytes)?;
            }
            let Some(next) = &*batch else {
                self.succeeded();
                return Ok(());
            };
            let reached = match destination.take() {
                Some(reached) => reached,
                None => reach(&config.to, self.tls)?,
            };
            let bytes = reached.ship(next).await?;
            // Only what works is used again: keys that have changed are read anew.
            *destination = Some(reached);
            self.database.shipped(next)?;
            let (records, is_full) = (next.records.len(), next.is_full);
            *batch = None;
            {
                let counts = &mut self.state.lock().counts;
                counts.batches += 1;
                counts.records += records as u64;
                counts.bytes += bytes;
                counts.last_shipped_at_ms = Some(now_ms());
            }
            self.succeeded();
            if is_new && !is_full {
                return Ok(());
            }
        }
    }

    fn succeeded(&self) {
        if self.state.lock().error.take().is_some() {
            tracing::info!("what the store keeps is forwarded again");
        }
    }

    fn failed(&self, error: Error) {
        let mut state = self.state.lock();
        state.counts.failures += 1;
        if state.error.replace(error.clone()).is_none() {
            tracing::warn!("what the store keeps cannot be forwarded, and is tried again: {error}");
        }
    }
}

/// The error of a runtime that ships nothing.
pub fn not_configured() -> Error {
    Error::new(Status::Unsupported, "this runtime is not configured to forward its database")
        .with_code("not_forwarded")
        .with_hint("configure persistence.forward")
}

/// Half to all of a delay.
fn jitter() -> f64 {
    let mut byte = [0];
    // Without randomness it is as good as any other.
    let _ = getrandom::fill(&mut byte);
    0.5 + f64::from(byte[0]) / 512.0
}
