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
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn queue(events: usize) -> Queue {
        Queue::new(Bounds { events, bytes: 1 << 20 })
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn events_come_out_in_order_and_end_once() {
        let queue = queue(10);
        queue.push(b"a");
        queue.push(b"b");
        queue.push_terminal(b"t");
        queue.push(b"late");
        assert_eq!(queue.poll(text).unwrap(), Polled::Event("a".into()));
        assert_eq!(queue.drain(9, text).unwrap(), Polled::Event("b,t".into()));
        assert_eq!(queue.poll(text).unwrap(), Polled::End);
        assert_eq!(queue.wait(None, text).unwrap(), Waited::End);
    }

    #[test]
    fn a_wake_is_kept_for_the_next_wait() {
        let queue = queue(10);
        queue.wake();
        assert_eq!(queue.wait(None, text).unwrap(), Waited::Woken);
        assert_eq!(queue.wait(Some(Duration::ZERO), text).unwrap(), Waited::Timeout);
    }

    #[test]
    fn a_second_reader_is_told() {
        let queue = Arc::new(queue(10));
        let reader = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.wait(None, text)
        });
        while queue.state.lock().waiters == 0 {
            std::thread::yield_now();
        }
        assert_eq!(queue.poll(text).unwrap_err().status(), Status::Busy);
        queue.push(b"x");
        assert_eq!(reader.join().unwrap().unwrap(), Waited::Event("x".into()));
    }

    #[test]
    fn what_must_be_kept_outlives_what_may_be_lost() {
        let queue = queue(2);
        queue.push(b"work");
        for _ in 0..5 {
            queue.push_lossy(b"log", |event| event == b"work");
        }
        assert_eq!(queue.counts(), (2, 4));
        assert_eq!(queue.drain(9, text).unwrap(), Polled::Event("work,log".into()));
    }

    #[tokio::test]
    async fn a_full_queue_waits_for_its_reader() {
        let queue = Arc::new(queue(1));
        queue.push(b"a");
        let producer = {
            let queue = Arc::clone(&queue);
            async move { queue.room().await }
        };
        let reader = async {
            tokio::task::yield_now().await;
            queue.poll(text)
        };
        let ((), polled) = tokio::join!(producer, reader);
        assert_eq!(polled.unwrap(), Polled::Event("a".into()));
    }

    #[test]
    fn what_is_staged_is_not_there_until_it_is_flushed_and_tells_once() {
        let queue = queue(10);
        let told = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = Arc::clone(&told);
        queue.announce(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        queue.stage(b"a");
        queue.stage(b"b");
        assert_eq!(queue.poll(text).unwrap(), Polled::Pending);
        assert_eq!(queue.wait(Some(Duration::ZERO), text).unwrap(), Waited::Timeout);
        queue.flush();
        queue.flush();
        queue.stage(b"c");
        assert_eq!(queue.drain(9, text).unwrap(), Polled::Event("a,b".into()));
        assert_eq!(queue.drain(9, text).unwrap(), Polled::Pending);
        queue.push_terminal(b"t");
        assert_eq!(queue.drain(9, text).unwrap(), Polled::Event("c,t".into()));
        assert_eq!(queue.drain(9, text).unwrap(), Polled::End);
        assert_eq!(told.load(Ordering::SeqCst), 2);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Stage(u8),
        Flush,
        Push(u8),
        Terminal,
        Poll,
        Drain(usize),
    }

    proptest! {
        /// The descriptor is readable exactly when a poll would give something, after any sequence of operations.
        #[test]
        fn the_descriptor_follows_the_queue(ops in proptest::collection::vec(prop_oneof![
            (1u8..30).prop_map(Op::Push), (1u8..30).prop_map(Op::Stage), Just(Op::Flush), Just(Op::Poll), (1usize..5).prop_map(Op::Drain), Just(Op::Terminal),
        ], 0..60), fd_at in 0usize..60) {
            let queue = queue(1000);
            let mut model: VecDeque<String> = VecDeque::new();
            let mut staged: Vec<String> = Vec::new();
            let mut ended = false;
            for (index, op) in ops.into_iter().enumerate() {
                if index == fd_at { queue.fd().unwrap(); }
                match op {
                    Op::Stage(n) => {
                        let event = "s".repeat(n.into());
                        queue.stage(event.as_bytes());
                        if !ended { staged.push(event); }
                    }
                    Op::Flush => {
                        queue.flush();
                        model.extend(staged.drain(..));
                    }
                    Op::Push(n) => {
                        let event = "x".repeat(n.into());
                        queue.push(event.as_bytes());
                        model.extend(staged.drain(..));
                        if !ended { model.push_back(event); }
                    }
                    Op::Terminal => {
                        queue.push_terminal(b"end");
                        model.extend(staged.drain(..));
                        if !ended { model.push_back("end".into()); }
                        ended = true;
                    }
                    Op::Poll => {
                        let expected = match model.pop_front() {
                            Some(event) => Polled::Event(event),
                            None if ended => Polled::End,
                            None => Polled::Pending,
                        };
                        prop_assert_eq!(queue.poll(text).unwrap(), expected);
                    }
                    Op::Drain(most) => {
                        let count = most.min(model.len());
                        let expected = if count > 0 {
                            Polled::Event(model.drain(..count).collect::<Vec<_>>().join(","))
                        } else if ended { Polled::End } else { Polled::Pending };
                        prop_assert_eq!(queue.drain(most, text).unwrap(), expected);
                    }
                }
                if let Some(signal) = &queue.state.lock().signal {
                    let mut poll = [nix::poll::PollFd::new(
                        std::os::fd::AsFd::as_fd(signal.event_for_test()), nix::poll::PollFlags::POLLIN)];
                    let readable = nix::poll::poll(&mut poll, nix::poll::PollTimeout::ZERO).unwrap() == 1;
                    prop_assert_eq!(readable, !model.is_empty() || ended);
                }
            }
        }
    }
}
