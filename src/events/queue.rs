//! The bounded queue between a run and its reader.
//!
//! Events lie in one buffer as `a,b,c,`: taking one copies its bytes, taking all copies one slice, and no event is ever
//! allocated by itself. A run stages what it emits, and its worker flushes before it sleeps ([`super::Batched`]), so that a burst
//! wakes its reader once; until then the events are not there, for a poll as for the descriptor. Producers ask [`Queue::has_room`] and wait for [`Queue::room`]; the terminal event needs no
//! room, so a run can always end. One reader at a time.

use super::signal::Signal;
use crate::types::{Error, Result, Status};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
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
    state: Mutex<State>,
    ready: Condvar,
    room: Notify,
    consumer: AtomicBool,
    on_ready: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

#[derive(Default)]
struct State {
    /// `event,event,…,` from `head` on.
    bytes: Vec<u8>,
    head: usize,
    /// Bytes of each waiting event, its comma not counted.
    lengths: VecDeque<usize>,
    /// How many of them, at the end, are staged: not there yet.
    staged: usize,
    /// The terminal event was pushed.
    ended: bool,
    /// The reader is gone for good.
    abandoned: bool,
    /// Those who wait were told that there is something; unset when all of it is taken.
    announced: bool,
    woken: bool,
    waiters: usize,
    producers_waiting: bool,
    dropped: u64,
    signal: Option<Signal>,
}

/// Keeps a shrunken buffer from being given back and asked for again with every event.
const KEEP_CAPACITY: usize = 4 * 1024;

impl Queue {
    /// An empty queue.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            state: Mutex::default(),
            ready: Condvar::new(),
            room: Notify::new(),
            consumer: AtomicBool::new(false),
            on_ready: OnceLock::new(),
        }
    }

    /// Calls `announce` whenever the queue goes from empty to not empty. Can be set once; never called under a lock.
    pub fn announce(&self, announce: impl Fn() + Send + Sync + 'static) {
        let _ = self.on_ready.set(Box::new(announce));
        if self.state.lock().visible() > 0 {
            self.call_announce();
        }
    }

    // ---- producing

    /// Whether one more event fits. The bound is soft by one event: what fits is decided before its size is known.
    pub fn has_room(&self) -> bool {
        self.fits(&self.state.lock())
    }

    /// Completes when there is room, or the reader is gone. Cancel safe.
    pub async fn room(&self) {
        // What is staged must be read before there can be room.
        self.flush();
        loop {
            let notified = self.room.notified();
            {
                let mut state = self.state.lock();
                if self.fits(&state) || state.abandoned {
                    return;
                }
                state.producers_waiting = true;
            }
            notified.await;
        }
    }

    /// Appends an event whatever the bounds say: the producer has asked before, or must not lose it. After the terminal
    /// event, or without a reader, it is dropped.
    pub fn push(&self, event: &[u8]) {
        self.append(self.state.lock(), event, When::Now);
    }

    /// Appends an event that is not there before [`Queue::flush`].
    pub fn stage(&self, event: &[u8]) {
        self.append(self.state.lock(), event, When::Staged);
    }

    /// How many events are staged.
    pub fn staged(&self) -> usize {
        self.state.lock().staged
    }

    /// Makes what is staged be there.
    pub fn flush(&self) {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.staged) > 0 {
            self.appeared(state);
        }
    }

    /// Appends the terminal event, which is not there before [`Queue::flush`]. Only the first counts.
    pub fn stage_terminal(&self, event: &[u8]) {
        self.append(self.state.lock(), event, When::StagedLast);
    }

    /// Appends the terminal event. Only the first counts.
    pub fn push_terminal(&self, event: &[u8]) {
        self.append(self.state.lock(), event, When::Last);
    }

    /// Appends an event that may be lost: when full, the oldest that is not `keep` goes, is counted, and is answered.
    pub fn push_lossy(&self, event: &[u8], keep: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let mut state = self.state.lock();
        let lost = if self.fits(&state) { None } else { state.drop_oldest(keep) };
        self.append(state, event, When::Now);
        lost
    }

    /// Appends an event if that makes no other go. False if there is no room, or no reader.
    pub fn push_if_room(&self, event: &[u8]) -> bool {
        let state = self.state.lock();
        let fits = self.fits(&state) && !state.ended && !state.abandoned;
        if fits {
            self.append(state, event, When::Now);
        }
        fits
    }

    /// Ends the queue without a terminal event.
    pub fn end(&self) {
        let mut state = self.state.lock();
        if state.ended {
            // By its terminal event, which its worker will show.
            return;
        }
        state.ended = true;
        state.staged = 0;
        state.producers_waiting = false;
        self.appeared(state);
        self.room.notify_waiters();
    }

    // ---- consuming

    /// Takes the next event, never waiting.
    pub fn poll<T>(&self, take: impl FnOnce(&[u8]) -> T) -> Result<Polled<T>> {
        let _turn = self.claim()?;
        let mut state = self.state.lock();
        Ok(self.take_one(&mut state, take))
    }

    /// Takes up to `most` events as one slice `event,event,…,event`.
    pub fn drain<T>(&self, most: usize, take: impl FnOnce(&[u8]) -> T) -> Result<Polled<T>> {
        let _turn = self.claim()?;
        let mut state = self.state.lock();
        let count = most.min(state.visible());
        if count == 0 {
            return Ok(if state.is_over() { Polled::End } else { Polled::Pending });
        }
        let bytes = state.lengths.drain(..count).map(|length| length + 1).sum::<usize>();
        let taken = take(state.slice(bytes - 1));
        self.consumed(&mut state, bytes);
        Ok(Polled::Event(taken))
    }

    /// Takes the next event, waiting for it until `timeout` (`None`: for ever).
    pub fn wait<T>(&self, timeout: Option<Duration>, take: impl FnOnce(&[u8]) -> T) -> Result<Waited<T>> {
        let _turn = self.claim()?;
        // A timeout too long for the clock is no timeout.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut state = self.state.lock();
        loop {
            if state.abandoned {
                return Err(Error::new(Status::BadHandle, "the handle was freed during the wait"));
            }
            if state.is_readable() {
                return Ok(match self.take_one(&mut state, take) {
                    Polled::Event(event) => Waited::Event(event),
                    Polled::Pending | Polled::End => Waited::End,
                });
            }
            if std::mem::take(&mut state.woken) {
                return Ok(Waited::Woken);
            }
            state.waiters += 1;
            let timed_out = match deadline {
                Some(deadline) => self.ready.wait_until(&mut state, deadline).timed_out(),
                None => {
                    self.ready.wait(&mut state);
                    false
                }
            };
            state.waiters -= 1;
            if timed_out && !state.is_readable() && !state.woken && !state.abandoned {
                return Ok(Waited::Timeout);
            }
        }
    }

    /// Ends a wait, or the next one if nobody waits.
    pub fn wake(&self) {
        self.state.lock().woken = true;
        self.ready.notify_all();
    }

    /// The descriptor that is readable while [`Queue::poll`] would not say pending. Made on first use.
    pub fn fd(&self) -> Result<RawFd> {
        let mut state = self.state.lock();
        if state.signal.is_none() {
            state.signal = Some(Signal::new()?);
        }
        self.changed(&mut state);
        Ok(state.signal.as_ref().map_or(-1, Signal::fd))
    }

    /// The reader will never come back: producers stop waiting, and nothing is kept.
    pub fn abandon(&self) {
        let mut state = self.state.lock();
        state.abandoned = true;
        state.bytes = Vec::new();
        state.head = 0;
        state.lengths.clear();
        // Closes the descriptor: it lives as long as its reader.
        state.signal = None;
        drop(state);
        self.ready.notify_all();
        self.room.notify_waiters();
    }

    /// Whether the reader is gone.
    pub fn is_abandoned(&self) -> bool {
        self.state.lock().abandoned
    }

    /// Events waiting, and events dropped so far.
    pub fn counts(&self) -> (usize, u64) {
        let state = self.state.lock();
        (state.visible(), state.dropped)
    }

    // ---- inside

    fn fits(&self, state: &State) -> bool {
        state.lengths.len() < self.bounds.events && state.bytes.len() - state.head < self.bounds.bytes
    }

    fn append(&self, mut state: MutexGuard<'_, State>, event: &[u8], when: When) {
        if state.ended || state.abandoned {
            return;
        }
        if state.bytes.capacity() == 0 {
            // A handful of events: what most runs have waiting.
            state.bytes.reserve(1024);
        }
        state.bytes.extend_from_slice(event);
        state.bytes.push(b',');
        state.lengths.push_back(event.len());
        match when {
            When::Staged => state.staged += 1,
            When::StagedLast => {
                state.staged += 1;
                state.ended = true;
            }
            When::Now | When::Last => {
                state.ended = matches!(when, When::Last);
                // The last one shown: those staged before it come with it.
                state.staged = 0;
                self.appeared(state);
            }
        }
    }

    /// Tells everyone who waits that there is something, if it was not there before.
    fn appeared(&self, mut state: MutexGuard<'_, State>) {
        let was_announced = std::mem::replace(&mut state.announced, true);
        self.changed(&mut state);
        drop(state);
        if !was_announced {
            self.call_announce();
        }
    }

    fn call_announce(&self) {
        if let Some(announce) = self.on_ready.get() {
            announce();
        }
    }

    fn take_one<T>(&self, state: &mut State, take: impl FnOnce(&[u8]) -> T) -> Polled<T> {
        match (state.visible(), state.lengths.front().copied()) {
            (1.., Some(length)) => {
                let taken = take(state.slice(length));
                state.lengths.pop_front();
                self.consumed(state, length + 1);
                Polled::Event(taken)
            }
            _ if state.is_over() => Polled::End,
            _ => Polled::Pending,
        }
    }

    fn consumed(&self, state: &mut State, bytes: usize) {
        state.head += bytes;
        if state.lengths.is_empty() {
            state.bytes.clear();
            state.head = 0;
            if state.bytes.capacity() > KEEP_CAPACITY {
                state.bytes.shrink_to(KEEP_CAPACITY);
            }
        } else if state.head > state.bytes.len() / 2 {
            let head = std::mem::take(&mut state.head);
            state.bytes.drain(..head);
        }
        if state.visible() == 0 {
            state.announced = false;
            self.changed(state);
        }
        if state.producers_waiting && self.fits(state) {
            state.producers_waiting = false;
            self.room.notify_waiters();
        }
    }

    /// Makes waiters and the descriptor agree with the state.
    fn changed(&self, state: &mut State) {
        let readable = state.is_readable();
        if let Some(signal) = &mut state.signal {
            signal.set(readable);
        }
        if readable && state.waiters > 0 {
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

/// When an event is there.
enum When {
    /// After the next flush.
    Staged,
    /// After the next flush, and nothing after it.
    StagedLast,
    /// At once.
    Now,
    /// At once, and nothing after it.
    Last,
}

impl State {
    fn visible(&self) -> usize {
        self.lengths.len() - self.staged
    }

    fn is_readable(&self) -> bool {
        self.visible() > 0 || self.is_over()
    }

    fn is_over(&self) -> bool {
        self.ended && self.lengths.is_empty()
    }

    fn slice(&self, length: usize) -> &[u8] {
        self.bytes.get(self.head..self.head + length).unwrap_or_default()
    }

    fn drop_oldest(&mut self, keep: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let mut start = self.head;
        for index in 0..self.lengths.len() {
            let &length = self.lengths.get(index)?;
            if let Some(event) = self.bytes.get(start..start + length).filter(|event| !keep(event)) {
                let event = event.to_vec();
                self.bytes.drain(start..=start + length);
                self.lengths.remove(index);
                self.dropped += 1;
                return Some(event);
            }
            start += length + 1;
        }
        None
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
mod tests;
