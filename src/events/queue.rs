//! The bounded queue between a run and its reader.
//!
//! Events lie in one buffer as `a,b,c,`: taking one copies its bytes, taking all copies one slice, and no event is ever
//! allocated by itself. A run stages what it emits, and its worker flushes before it sleeps ([`super::Batched`]), so that a burst
//! wakes its reader once; until then the events are not visible, for a poll as for the descriptor. Producers ask
//! [`Queue::has_room`] and wait for [`Queue::room`]; the terminal event needs no room, so a run can always end. One reader at a
//! time.
//!
//! The data is in [`state`]; this file adds the lock, the wake-ups and the descriptor.

#[cfg(feature = "model")]
mod model;
mod state;

pub use state::Class;

use super::signal::Signal;
use crate::types::{Error, Result, Status};
#[cfg(feature = "model")]
use model::{AtomicBool, Condvar, Mutex, MutexGuard};
#[cfg(not(feature = "model"))]
use parking_lot::{Condvar, Mutex, MutexGuard};
use state::{State, When};
use std::os::fd::RawFd;
use std::sync::OnceLock;
#[cfg(not(feature = "model"))]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// In events.
    pub events: usize,
    /// In bytes.
    pub bytes: usize,
}

/// What a poll found.
#[derive(Debug, PartialEq, Eq)]
pub enum Polled<T> {
    /// An event.
    Event(T),
    /// Nothing yet.
    Pending,
    /// Nothing ever again.
    End,
}

/// How a wait ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Waited<T> {
    /// With an event.
    Event(T),
    /// By its timeout.
    Timeout,
    /// By [`Queue::wake`].
    Woken,
    /// Nothing ever again.
    End,
}

/// See the module's head.
pub struct Queue {
    bounds: Bounds,
    inner: Mutex<Inner>,
    ready: Condvar,
    room: Notify,
    consumer: AtomicBool,
    on_ready: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

#[derive(Default)]
struct Inner {
    state: State,
    /// The announcement was made; reset when every visible event is taken.
    announced: bool,
    woken: bool,
    waiters: usize,
    producers_waiting: bool,
    signal: Option<Signal>,
}

impl Queue {
    /// An empty queue.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            inner: Mutex::default(),
            ready: Condvar::new(),
            room: Notify::new(),
            consumer: AtomicBool::new(false),
            on_ready: OnceLock::new(),
        }
    }

    /// Calls `announce` whenever the queue goes from empty to not empty. Can be set once; never called under a lock.
    pub fn announce(&self, announce: impl Fn() + Send + Sync + 'static) {
        let _ = self.on_ready.set(Box::new(announce));
        let visible = self.inner.lock().state.visible();
        if visible > 0 {
            self.call_announce();
        }
    }

    // ---- producing

    /// Whether one more event fits. The bound is soft by one event: what fits is decided before its size is known.
    pub fn has_room(&self) -> bool {
        self.inner.lock().state.fits(&self.bounds)
    }

    /// Completes when there is room, or the queue takes no more events. Cancel safe.
    pub async fn room(&self) {
        // What is staged must be read before there can be room.
        self.flush();
        loop {
            let notified = self.room.notified();
            {
                let mut inner = self.inner.lock();
                if inner.state.is_open_to_producers(&self.bounds) {
                    return;
                }
                inner.producers_waiting = true;
            }
            notified.await;
        }
    }

    /// Appends an event whatever the bounds say: the producer has asked before, or must not lose it. After the terminal
    /// event, or without a reader, it is dropped.
    pub fn push(&self, event: &[u8]) {
        self.append(self.inner.lock(), event, Class::Kept, When::Now);
    }

    /// Appends an event that becomes visible at [`Queue::flush`].
    pub fn stage(&self, event: &[u8]) {
        self.append(self.inner.lock(), event, Class::Kept, When::Staged);
    }

    /// How many events are staged.
    pub fn staged(&self) -> usize {
        self.inner.lock().state.staged()
    }

    /// Makes every staged event visible.
    pub fn flush(&self) {
        let mut inner = self.inner.lock();
        if inner.state.flush() {
            self.appeared(inner);
        }
    }

    /// Appends the terminal event, which becomes visible at [`Queue::flush`]. Only the first counts.
    pub fn stage_terminal(&self, event: &[u8]) {
        self.append(self.inner.lock(), event, Class::Kept, When::StagedLast);
    }

    /// Appends the terminal event. Only the first counts.
    pub fn push_terminal(&self, event: &[u8]) {
        self.append(self.inner.lock(), event, Class::Kept, When::Last);
    }

    /// Whether the queue has its terminal event. If so, everything up to it is visible when this returns.
    pub fn show_end(&self) -> bool {
        let mut inner = self.inner.lock();
        let has_ended = inner.state.has_ended();
        if has_ended && inner.state.flush() {
            self.appeared(inner);
        }
        has_ended
    }

    /// Appends an event that may be dropped later. A full queue drops the oldest event that may be, and returns it if it is a
    /// [`Class::Event`].
    pub fn push_lossy(&self, event: &[u8], class: Class) -> Option<Vec<u8>> {
        let mut inner = self.inner.lock();
        let lost = if inner.state.is_open_to_producers(&self.bounds) { None } else { inner.state.drop_oldest() };
        self.append(inner, event, class, When::Now);
        lost
    }

    /// Appends an event if that drops no other. False if there is no room, or the queue takes no more events.
    pub fn push_if_room(&self, event: &[u8]) -> bool {
        let inner = self.inner.lock();
        inner.state.fits(&self.bounds) && self.append(inner, event, Class::Kept, When::Now)
    }

    /// Ends the queue without a terminal event. Does nothing after the terminal event.
    pub fn end(&self) {
        let mut inner = self.inner.lock();
        if inner.state.end() {
            self.admit_producers(&mut inner);
            self.appeared(inner);
        }
    }

    // ---- consuming

    /// Takes the next event, never waiting.
    pub fn poll<T>(&self, take: impl FnOnce(&[u8]) -> T) -> Result<Polled<T>> {
        self.drain(1, take)
    }

    /// Takes up to `most` events as one slice `event,event,…,event`.
    pub fn drain<T>(&self, most: usize, take: impl FnOnce(&[u8]) -> T) -> Result<Polled<T>> {
        let _turn = self.claim()?;
        let mut inner = self.inner.lock();
        self.take(&mut inner, most, take)
    }

    /// Takes the next event, waiting for it until `timeout` (`None`: for ever).
    pub fn wait<T>(&self, timeout: Option<Duration>, take: impl FnOnce(&[u8]) -> T) -> Result<Waited<T>> {
        let _turn = self.claim()?;
        // A timeout too long for the clock is no timeout.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut inner = self.inner.lock();
        loop {
            if inner.state.is_abandoned() || inner.state.is_readable() {
                return Ok(match self.take(&mut inner, 1, take)? {
                    Polled::Event(event) => Waited::Event(event),
                    Polled::Pending | Polled::End => Waited::End,
                });
            }
            if std::mem::take(&mut inner.woken) {
                return Ok(Waited::Woken);
            }
            inner.waiters += 1;
            let timed_out = match deadline {
                Some(deadline) => self.ready.wait_until(&mut inner, deadline).timed_out(),
                None => {
                    self.ready.wait(&mut inner);
                    false
                }
            };
            inner.waiters -= 1;
            let has_news = inner.state.is_readable() || inner.woken || inner.state.is_abandoned();
            if timed_out && !has_news {
                return Ok(Waited::Timeout);
            }
        }
    }

    /// Ends a wait, or the next one if nobody waits.
    pub fn wake(&self) {
        self.inner.lock().woken = true;
        self.ready.notify_all();
    }

    /// The descriptor that is readable while [`Queue::poll`] would not say pending. Made on first use.
    pub fn fd(&self) -> Result<RawFd> {
        let mut inner = self.inner.lock();
        if inner.state.is_abandoned() {
            return Err(Error::new(Status::BadHandle, "the handle was freed during the call"));
        }
        if inner.signal.is_none() {
            inner.signal = Some(Signal::new()?);
        }
        self.changed(&mut inner);
        Ok(inner.signal.as_ref().map_or(-1, Signal::fd))
    }

    /// The reader will never come back: producers stop waiting, and nothing is kept.
    pub fn abandon(&self) {
        let mut inner = self.inner.lock();
        inner.state.abandon();
        self.admit_producers(&mut inner);
        // Closes the descriptor, which belongs to the reader.
        inner.signal = None;
        drop(inner);
        self.ready.notify_all();
    }

    /// Whether the reader is gone.
    pub fn is_abandoned(&self) -> bool {
        self.inner.lock().state.is_abandoned()
    }

    /// Events waiting, and events dropped so far.
    pub fn counts(&self) -> (usize, u64) {
        let inner = self.inner.lock();
        (inner.state.visible(), inner.state.dropped())
    }

    // ---- inside

    fn append(&self, mut inner: MutexGuard<'_, Inner>, event: &[u8], class: Class, when: When) -> bool {
        let appended = inner.state.append(event, class, when);
        if matches!(when, When::Last | When::StagedLast) {
            self.admit_producers(&mut inner);
        }
        if appended && matches!(when, When::Now | When::Last) {
            self.appeared(inner);
        }
        appended
    }

    /// Wakes everyone who waits for something to read, and announces it if the queue was empty before.
    fn appeared(&self, mut inner: MutexGuard<'_, Inner>) {
        let was_announced = std::mem::replace(&mut inner.announced, true);
        self.changed(&mut inner);
        drop(inner);
        if !was_announced {
            self.call_announce();
        }
    }

    fn call_announce(&self) {
        if let Some(announce) = self.on_ready.get() {
            announce();
        }
    }

    fn take<T>(&self, inner: &mut Inner, most: usize, take: impl FnOnce(&[u8]) -> T) -> Result<Polled<T>> {
        let taken = inner.state.take(most, take)?;
        if inner.state.visible() == 0 {
            inner.announced = false;
            self.changed(inner);
        }
        self.admit_producers(inner);
        Ok(taken)
    }

    /// Wakes the producers that wait for room, if they need not wait any more.
    fn admit_producers(&self, inner: &mut Inner) {
        if inner.producers_waiting && inner.state.is_open_to_producers(&self.bounds) {
            inner.producers_waiting = false;
            self.room.notify_waiters();
        }
    }

    /// Makes waiters and the descriptor agree with the state.
    fn changed(&self, inner: &mut Inner) {
        let readable = inner.state.is_readable();
        if let Some(signal) = &mut inner.signal {
            signal.set(readable);
        }
        if readable && inner.waiters > 0 {
            self.ready.notify_all();
        }
    }

    fn claim(&self) -> Result<Turn<'_>> {
        if self.consumer.swap(true, Ordering::Acquire) {
            return Err(Error::new(Status::Busy, "another thread is reading this queue")
                .with_hint("one consumer at a time: read from one thread, or take turns"));
        }
        Ok(Turn(&self.consumer))
    }
}

/// The right to read, given back on drop.
struct Turn<'a>(&'a AtomicBool);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(test)]
#[cfg(not(feature = "model"))]
mod tests;
