//! The one writer of a runtime: group commit on a thread of its own.
//!
//! Whoever has something to write says so and goes on. The writer waits a moment for more ([`LINGER`]), unless somebody
//! waits for it, and writes all there is in one transaction; so what many runs do costs one commit. Who waits for it on a thread
//! that has nothing else to do ([`may_wait_here`]) does not wait for the writer's thread: it writes itself, if nobody else is
//! writing. When a write fails
//! nothing is lost: it is tried again until it succeeds, whoever waits for it is told, and [`Writer::check`] refuses new
//! runs meanwhile.

mod close;
mod counts;

pub use counts::{Counts, Retention};

use super::ThreadStart;
use super::backend::{Backend, Item};
use super::record::{Cutoffs, Pruned, RunEnd};
use super::run_log::RunLog;
use crate::config::WriterConfig;
use crate::types::{Error, Result, Status, now_ms};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, OwnedMutexGuard, oneshot};

/// How long the writer waits for more before it writes what nobody waits for.
const LINGER: Duration = Duration::from_millis(2);
/// How long it waits before it tries again what failed; doubled each time, from the first of these up to the second.
const RETRY: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(2)];
/// How long closing tries to write what could not be written.
const LAST_TRIES: Duration = Duration::from_secs(5);

/// How soon something is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// With what follows, but not later than the configured interval.
    Later,
    /// With what comes in the next moment.
    Soon,
}

thread_local! {
    /// Whether this thread has nothing else to do than what it runs now.
    static MAY_WAIT: Cell<bool> = const { Cell::new(false) };
}

/// Runs something on a thread that has nothing else to do: a commit that is waited for may keep it from everything else.
pub fn may_wait_here<T>(work: impl FnOnce() -> T) -> T {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            MAY_WAIT.set(self.0);
        }
    }
    let _before = Before(MAY_WAIT.replace(true));
    work()
}

type Job = Box<dyn FnOnce(&dyn Backend) + Send>;

/// What must be written in the order in which it was queued, since it may change a session.
pub(super) enum Ordered {
    /// The end of a run, with all that its log still has.
    End(Arc<RunLog>, Box<RunEnd>),
    /// A run that stops without an end.
    Release(Arc<RunLog>),
    /// A session that no run has changed.
    Session(Item),
}

/// The right to commit to a session. It passes on when it is dropped.
pub(super) type SessionTurn = OwnedMutexGuard<()>;

#[derive(Default)]
struct Queue {
    /// Written after everything else that is taken with it. One lock guards the order: a run's end enters while the run still
    /// has the session, so the end of the next run can only come behind it.
    ordered: Vec<Ordered>,
    soon: Vec<Arc<RunLog>>,
    later: VecDeque<(Instant, Arc<RunLog>)>,
    items: Vec<Item>,
    jobs: VecDeque<Job>,
    waiters: Vec<oneshot::Sender<Result<()>>>,
    /// Whether one of the waiters wants it on the disk.
    durable: bool,
    /// What could not be written on another thread is to be tried again.
    retries: bool,
    closing: bool,
    closed: bool,
}

impl Queue {
    /// Takes all that is due.
    fn take(&mut self) -> Found {
        let now = Instant::now();
        let closing = self.closing;
        let mut logs = std::mem::take(&mut self.soon);
        while self.later.front().is_some_and(|(due, _)| *due <= now || closing) {
            logs.extend(self.later.pop_front().map(|(_, log)| log));
        }
        self.retries = false;
        Found {
            ordered: std::mem::take(&mut self.ordered),
            logs,
            items: std::mem::take(&mut self.items),
            jobs: std::mem::take(&mut self.jobs),
            waiters: std::mem::take(&mut self.waiters),
            durable: std::mem::take(&mut self.durable) || closing,
            closing,
        }
    }

    /// Makes due what could wait.
    fn hurry(&mut self) {
        let later: Vec<_> = self.later.drain(..).map(|(_, log)| log).collect();
        self.soon.extend(later);
    }

    fn is_idle(&self) -> bool {
        let has_work = !(self.soon.is_empty()
            && self.items.is_empty()
            && self.ordered.is_empty()
            && self.jobs.is_empty()
            && self.waiters.is_empty());
        !has_work && !self.retries
    }
}

/// See the module's head.
pub struct Writer {
    backend: Arc<dyn Backend>,
    config: WriterConfig,
    retention: Retention,
    queue: Mutex<Queue>,
    /// Held by whoever writes: what could not be written. As long as there is any, nothing else is fetched: it waits where it
    /// is, and bounds what the runs may add.
    turn: Mutex<Vec<Item>>,
    /// Something to write, or the end.
    work: Condvar,
    ended: Condvar,
    started: AtomicBool,
    begin_thread: ThreadStart,
    /// Events that wait.
    waiting: AtomicUsize,
    room: Notify,
    health: Mutex<Option<Error>>,
    counts: Mutex<Counts>,
}

impl Writer {
    /// The writer of this database. It begins with the first thing to write.
    pub fn new(
        backend: Arc<dyn Backend>,
        config: WriterConfig,
        retention: Retention,
        begin_thread: ThreadStart,
    ) -> Arc<Self> {
        Arc::new(Self {
            backend,
            config,
            retention,
            queue: Mutex::default(),
            turn: Mutex::default(),
            work: Condvar::new(),
            ended: Condvar::new(),
            started: AtomicBool::new(false),
            begin_thread,
            waiting: AtomicUsize::new(0),
            room: Notify::new(),
            health: Mutex::default(),
            counts: Mutex::default(),
        })
    }

    /// What it has done.
    pub fn counts(&self) -> Counts {
        self.counts.lock().clone()
    }

    /// Events that wait.
    pub fn backlog(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Why the last write failed, if it did.
    pub fn failure(&self) -> Option<Error> {
        self.health.lock().clone()
    }

    /// What is too old now.
    pub fn cutoffs(&self) -> Cutoffs {
        self.retention.cutoffs()
    }

    /// Refuses new work while writing fails: nothing is done that cannot be kept. A thread that could not be started is tried
    /// again.
    pub fn check(self: &Arc<Self>) -> Result<()> {
        if self.failure().is_some() && !self.started.load(Ordering::Acquire) {
            self.begin(self.queue.lock(), false);
        }
        self.failure().map_or(Ok(()), Err)
    }

    /// So many events more wait.
    pub(super) fn waits(&self, events: usize) {
        self.waiting.fetch_add(events, Ordering::Relaxed);
    }

    /// So many were fetched.
    pub(super) fn waits_no_more(&self, events: usize) {
        self.waiting.fetch_sub(events, Ordering::Relaxed);
    }

    /// Whether more events may wait.
    pub fn has_room(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) < self.config.capacity
    }

    /// Completes when more events may wait.
    pub async fn room(&self) {
        while !self.has_room() {
            let notified = self.room.notified();
            if self.has_room() {
                return;
            }
            notified.await;
        }
    }

    /// A run has something to write.
    pub(super) fn enqueue(self: &Arc<Self>, log: &Arc<RunLog>, urgency: Urgency) {
        let mut queue = self.queue.lock();
        let was_idle = queue.is_idle();
        match urgency {
            Urgency::Soon => queue.soon.push(Arc::clone(log)),
            Urgency::Later => {
                let due = Instant::now() + Duration::from_millis(self.config.flush_interval_ms);
                queue.later.push_back((due, Arc::clone(log)));
            }
        }
        // A writer that waits for more already needs no word of it.
        let wakes = was_idle && (urgency == Urgency::Soon || queue.later.len() == 1);
        self.begin(queue, wakes);
    }

    /// Writes an item with the next ones.
    pub fn push(self: &Arc<Self>, item: Item) {
        let mut queue = self.queue.lock();
        let was_idle = queue.is_idle();
        queue.items.push(item);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.begin(queue, was_idle);
    }

    /// Queues something that may change a session, and passes the session on.
    pub(super) fn push_ordered(self: &Arc<Self>, ordered: Ordered, turn: Option<SessionTurn>) {
        let mut queue = self.queue.lock();
        let was_idle = queue.is_idle();
        queue.ordered.push(ordered);
        self.begin(queue, was_idle);
        drop(turn);
    }

    /// The same, and waits until it is on the disk.
    pub(super) async fn commit_ordered(self: &Arc<Self>, ordered: Ordered, turn: Option<SessionTurn>) -> Result<()> {
        self.commit_what(|queue| queue.ordered.push(ordered), turn, true).await
    }

    /// Waits until everything that the run has reported is written; on the disk, if `durable`.
    pub(super) async fn commit(self: &Arc<Self>, log: &Arc<RunLog>, durable: bool) -> Result<()> {
        let log = Arc::clone(log);
        self.commit_what(|queue| queue.soon.push(log), None, durable).await
    }

    /// Waits until everything that was reported before is written; on the disk, if `durable`.
    pub async fn flush(self: &Arc<Self>, durable: bool) -> Result<()> {
        self.commit_what(Queue::hurry, None, durable).await
    }

    /// Queues something, passes the session on, and waits until all is written: by this thread where that is allowed, else by
    /// the writer's.
    async fn commit_what(
        self: &Arc<Self>,
        queue_it: impl FnOnce(&mut Queue),
        turn: Option<SessionTurn>,
        durable: bool,
    ) -> Result<()> {
        let (queue_it, turn) = match self.write_here(queue_it, turn, durable) {
            Ok(written) => return written,
            Err(unqueued) => unqueued,
        };
        let written = {
            let mut queue = self.queue.lock();
            queue_it(&mut queue);
            self.waiter(queue, durable)
        };
        drop(turn);
        written.await.unwrap_or_else(|_| Err(self.failure().unwrap_or_else(ended)))
    }

    /// Does something with the database in the writer's place, between two transactions. Who needs what was said before to be
    /// written says [`Writer::flush`] first.
    pub async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce(&dyn Backend) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (told, answer) = oneshot::channel();
        {
            let mut queue = self.queue.lock();
            queue.jobs.push_back(Box::new(move |backend| {
                // Whoever asked may have gone.
                let _ = told.send(job(backend));
            }));
            self.begin(queue, true);
        }
        answer.await.unwrap_or_else(|_| Err(self.failure().unwrap_or_else(ended)))
    }

    /// Queues something and writes all there is on this thread. `Err`: this thread must not, or another one is writing; nothing
    /// was queued, and it is written together with what others queue.
    fn write_here<Q: FnOnce(&mut Queue)>(
        self: &Arc<Self>,
        queue_it: Q,
        turn: Option<SessionTurn>,
        durable: bool,
    ) -> std::result::Result<Result<()>, (Q, Option<SessionTurn>)> {
        // The first write is the thread's, which looks after what is too old, too.
        if !MAY_WAIT.get() || !self.backend.writes_in_place() || !self.started.load(Ordering::Acquire) {
            return Err((queue_it, turn));
        }
        let Some(mut retained) = self.turn.try_lock().filter(|retained| retained.is_empty()) else {
            return Err((queue_it, turn));
        };
        let found = {
            let mut queue = self.queue.lock();
            if queue.closing || !queue.jobs.is_empty() {
                return Err((queue_it, turn));
            }
            queue_it(&mut queue);
            queue.durable |= durable;
            queue.take()
        };
        drop(turn);
        let written = self.round(&mut retained, found);
        if written.is_err() {
            // The writer's thread goes on trying.
            drop(retained);
            let mut queue = self.queue.lock();
            queue.retries = true;
            self.begin(queue, true);
        }
        Ok(written)
    }

    fn waiter(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue>, durable: bool) -> oneshot::Receiver<Result<()>> {
        let (told, written) = oneshot::channel();
        queue.waiters.push(told);
        queue.durable |= durable;
        self.begin(queue, true);
        written
    }

    fn begin(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue>, wakes: bool) {
        if queue.closed {
            queue.waiters.clear();
            queue.jobs.clear();
            return;
        }
        if !self.started.swap(true, Ordering::AcqRel) {
            let writer = Arc::clone(self);
            let spawned = std::thread::Builder::new().name("par-store".into()).spawn(move || {
                (writer.begin_thread)();
                writer.work();
            });
            // Without the thread nothing has been written that could have failed: this is the only failure there can be.
            *self.health.lock() = spawned.err().map(|error| {
                self.started.store(false, Ordering::Release);
                // Those who wait get the error. What is queued stays queued.
                queue.waiters.clear();
                queue.jobs.clear();
                Error::new(Status::Persistence, format!("the store's thread cannot be started: {error}"))
                    .with_code("store_unavailable")
                    .with_retryable(true)
                    .with_hint("raise the limit of threads: RLIMIT_NPROC, or pids.max of the control group")
            });
            return;
        }
        drop(queue);
        if wakes {
            self.work.notify_one();
        }
    }

    // ---- the writer's thread

    fn work(&self) {
        let mut delay = None;
        let mut next_look = Instant::now();
        let mut last_tries = None;
        loop {
            self.wait(delay, next_look);
            // In this order: what was taken first must be written first.
            let mut retained = self.turn.lock();
            let found = self.queue.lock().take();
            let closing = found.closing;
            let written = self.round(&mut retained, found);
            let is_all = retained.is_empty();
            drop(retained);
            delay = match &written {
                Ok(()) => None,
                Err(_) => Some(delay.map_or(RETRY[0], |delay: Duration| (delay * 2).min(RETRY[1]))),
            };
            let mut queue = self.queue.lock();
            if closing {
                let until = *last_tries.get_or_insert_with(|| Instant::now() + LAST_TRIES);
                let is_done = queue.is_idle() && queue.later.is_empty() && is_all;
                let is_hopeless = written.as_ref().is_err_and(|error| !error.is_retryable());
                if is_done || is_hopeless || Instant::now() > until {
                    queue.closed = true;
                    self.ended.notify_all();
                    return;
                }
            } else if is_all && Instant::now() >= next_look {
                drop(queue);
                next_look = self.remove_old();
            }
        }
    }

    /// Writes what was found, tells those who wait for it, and leaves what could not be written.
    fn round(&self, retained: &mut Vec<Item>, mut found: Found) -> Result<()> {
        found.jobs.drain(..).for_each(|job| job(&*self.backend));
        let mut written = self.write(retained, false);
        if written.is_ok() {
            *retained = self.fetch(&mut found);
            written = self.write(retained, found.durable);
        }
        found.waiters.drain(..).for_each(|waiter| drop(waiter.send(written.clone())));
        if !found.is_empty() {
            let mut queue = self.queue.lock();
            queue.soon.splice(0..0, found.logs);
            queue.items.splice(0..0, found.items);
            queue.ordered.splice(0..0, found.ordered);
        }
        written
    }

    /// Fetches what there is to write.
    fn fetch(&self, found: &mut Found) -> Vec<Item> {
        let mut items = Vec::with_capacity(found.items.len() + found.logs.len() + found.ordered.len());
        self.waits_no_more(found.items.len());
        // A large result is written before whatever names it.
        items.append(&mut found.items);
        items.extend(found.logs.drain(..).filter_map(|log| log.fetch()).map(|write| Item::Run(Box::new(write))));
        items.extend(found.ordered.drain(..).map(|ordered| match ordered {
            Ordered::End(log, end) => Item::Run(Box::new(log.fetch_end(*end))),
            Ordered::Release(log) => Item::Run(Box::new(log.fetch_release())),
            Ordered::Session(item) => item,
        }));
        self.room.notify_waiters();
        items
    }

    /// Waits for something to do: until there is something and, unless somebody waits for it, a moment longer. `retry`: what
    /// failed is tried again after this.
    fn wait(&self, retry: Option<Duration>, next_look: Instant) {
        let mut queue = self.queue.lock();
        let began = Instant::now();
        while queue.is_idle() && !queue.closing {
            let due = [
                queue.later.front().map(|(due, _)| *due),
                retry.map(|delay| began + delay),
                retry.is_none().then_some(next_look),
            ];
            let Some(due) = due.into_iter().flatten().min() else { break };
            if Instant::now() >= due || self.work.wait_until(&mut queue, due).timed_out() {
                break;
            }
        }
        if let (true, Some(delay)) = (queue.closing, retry) {
            self.work.wait_for(&mut queue, delay);
        }
        // Nobody waits: a moment for more, so that many runs share a commit. What fails is not tried without end.
        let linger = retry.unwrap_or_else(|| LINGER.min(Duration::from_millis(self.config.flush_interval_ms)));
        let until = Instant::now() + linger;
        while queue.waiters.is_empty() && queue.jobs.is_empty() && !queue.closing && !queue.is_idle() {
            if self.work.wait_until(&mut queue, until).timed_out() {
                break;
            }
        }
    }

    /// Writes the items and empties the list, or leaves it as it was.
    fn write(&self, items: &mut Vec<Item>, durable: bool) -> Result<()> {
        if items.is_empty() && !durable {
            return Ok(());
        }
        let began = Instant::now();
        let written = match self.backend.write(items, durable) {
            // Not the database's trouble, but one item's: it must not keep all others from being written.
            Err(error) if error.code() == Some("store_refused") => self.write_singly(items, durable),
            other => other,
        };
        let mut counts = self.counts.lock();
        match written {
            Ok(()) => {
                counts.commits += 1;
                counts.durable_commits += u64::from(durable);
                counts.items += items.len() as u64;
                counts.last_commit_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                counts.last_commit_at_ms = now_ms();
                drop(counts);
                items.clear();
                if self.health.lock().take().is_some() {
                    tracing::info!("the store can be written to again");
                }
                Ok(())
            }
            Err(error) => {
                counts.failures += 1;
                drop(counts);
                if self.health.lock().replace(error.clone()).is_none() {
                    tracing::error!("the store cannot be written to: {error}");
                }
                Err(error)
            }
        }
    }

    fn write_singly(&self, items: &mut Vec<Item>, durable: bool) -> Result<()> {
        while let Some(item) = items.first() {
            match self.backend.write(std::slice::from_ref(item), durable) {
                Err(error) if error.code() == Some("store_refused") => {
                    tracing::error!("the store refused an item, which is lost: {error}");
                    self.counts.lock().refused += 1;
                }
                other => other?,
            }
            items.remove(0);
        }
        Ok(())
    }

    /// Removes a little of what is too old, and answers when to look again: soon, if there may be more.
    fn remove_old(&self) -> Instant {
        let pruned = self.backend.prune(&self.retention.cutoffs()).unwrap_or_else(|error| {
            tracing::warn!("what is too old could not be removed: {error}");
            Pruned::default()
        });
        if !pruned.any() {
            return Instant::now() + Duration::from_secs_f64(self.retention.rest.interval_seconds);
        }
        self.counts.lock().pruned += pruned;
        Instant::now() + LINGER
    }
}

struct Found {
    ordered: Vec<Ordered>,
    logs: Vec<Arc<RunLog>>,
    items: Vec<Item>,
    jobs: VecDeque<Job>,
    waiters: Vec<oneshot::Sender<Result<()>>>,
    durable: bool,
    closing: bool,
}

impl Found {
    fn is_empty(&self) -> bool {
        self.ordered.is_empty() && self.logs.is_empty() && self.items.is_empty()
    }
}

fn ended() -> Error {
    Error::new(Status::Persistence, "the runtime was closed before this was written").with_code("store_closed")
}
