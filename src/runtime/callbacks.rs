//! Host callbacks: optional, asynchronous, on one thread of their own.
//!
//! A callback never runs inside a call of the host, never on a worker, and never two at a time. Unregistering is a
//! barrier. What a registration owns is dropped exactly once, on the callback thread, after its last call. Host work is
//! never dropped from the queue; events and logs are, oldest first, and the next one delivered says how many.

use super::threads;
use crate::events::LogSubscriber;
use crate::types::{Error, Result, Status};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::ThreadId;
use std::time::Instant;
use tokio::sync::Notify;

type Call = Box<dyn Fn(u64, &[u8]) + Send>;

/// A callback, and what is to be done when it will never be called again: on the callback thread, exactly once.
pub struct Callback {
    call: Call,
    finish: Option<Box<dyn FnOnce() + Send>>,
}

impl Callback {
    /// `call` gets the token (0 if none) and a JSON object; `finish` runs after its last call.
    pub fn new(call: impl Fn(u64, &[u8]) + Send + 'static, finish: impl FnOnce() + Send + 'static) -> Self {
        Self { call: Box::new(call), finish: Some(Box::new(finish)) }
    }

    /// Gives it up without finishing: a registration that failed never began.
    pub fn disarm(mut self) {
        self.finish = None;
    }
}

impl Drop for Callback {
    fn drop(&mut self) {
        if let Some(finish) = self.finish.take() {
            finish();
        }
    }
}

/// What a callback is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallbackSlot {
    /// Host tools.
    Tool = 0,
    /// Events of every run.
    Event = 1,
    /// Log messages.
    Log = 2,
    /// A queue went from empty to not empty.
    Wakeup = 3,
    /// Calls that wait for somebody's word.
    Approval = 4,
}

impl CallbackSlot {
    /// Whether what it takes must not be lost.
    fn is_host_work(self) -> bool {
        match self {
            Self::Tool | Self::Approval => true,
            Self::Event | Self::Log | Self::Wakeup => false,
        }
    }
}

const SLOTS: usize = 5;

struct Item {
    slot: CallbackSlot,
    token: u64,
    json: Vec<u8>,
    /// Whether it makes way for nothing: it was only taken because there was room.
    stays: bool,
}

#[derive(Default)]
struct State {
    slots: [Option<Arc<Mutex<Callback>>>; SLOTS],
    queue: VecDeque<Item>,
    /// What stayed until its callback was unregistered.
    uncalled: Vec<Vec<u8>>,
    /// Registrations to be dropped by the thread.
    retired: Vec<Arc<Mutex<Callback>>>,
    /// How many registrations were retired, and how many of those dropped: what a barrier compares.
    retired_total: u64,
    dropped_total: u64,
    lost: [u64; SLOTS],
    thread: Option<ThreadId>,
    stopping: bool,
    stopped: bool,
}

/// See the module's head.
pub(super) struct Callbacks {
    state: Mutex<State>,
    changed: Condvar,
    /// There is room in the queue again.
    room: Notify,
    /// One bit a slot, to be read without the lock.
    registered: AtomicU8,
    max_queued: usize,
}

impl Callbacks {
    pub fn new(max_queued: usize) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            room: Notify::new(),
            registered: AtomicU8::new(0),
            max_queued,
        }
    }

    /// Whether a slot has a callback.
    pub fn has(&self, slot: CallbackSlot) -> bool {
        self.registered.load(Ordering::Acquire) & (1 << slot as u8) != 0
    }

    /// Refuses to unregister on a thread of the library other than the callback thread. The call would wait for the callback that
    /// runs, and that may wait for this thread: two callbacks of two runtimes that unregister each other's.
    pub fn check_barrier(&self) -> Result<()> {
        let own = self.state.lock().thread;
        if !threads::is_own_thread() || own == Some(std::thread::current().id()) {
            return Ok(());
        }
        Err(Error::new(
            Status::WouldDeadlock,
            "a callback of one runtime was to be unregistered on a thread of another one, or of a worker",
        )
        .with_hint("unregister it on a thread of your own, or in a callback of the same runtime"))
    }

    /// Registers, replaces (`Some`) or unregisters (`None`) a callback. Unregistering waits until the callback neither
    /// runs nor will; from within a callback it takes effect when that returns. On failure the callback is handed back
    /// undropped, so that the caller still owns what it owns.
    pub fn set(
        self: &Arc<Self>,
        slot: CallbackSlot,
        callback: Option<Callback>,
        log: &Arc<LogSubscriber>,
    ) -> Result<(), (Error, Option<Callback>)> {
        let mut state = self.state.lock();
        if state.stopping && callback.is_some() {
            drop(state);
            return Err((Error::new(Status::Closed, "the runtime is closed"), callback));
        }
        if callback.is_some() && state.thread.is_none() {
            match self.start(log) {
                Ok(thread) => state.thread = Some(thread),
                Err(error) => {
                    drop(state);
                    return Err((error, callback));
                }
            }
        }
        let is_barrier = callback.is_none();
        let new = callback.map(|callback| Arc::new(Mutex::new(callback)));
        let bit = 1 << slot as u8;
        match new {
            Some(_) => self.registered.fetch_or(bit, Ordering::AcqRel),
            None => self.registered.fetch_and(!bit, Ordering::AcqRel),
        };
        let old = state.slots.get_mut(slot as usize).and_then(|place| std::mem::replace(place, new));
        if is_barrier {
            let (left, queue) = state.queue.drain(..).partition(|item| item.stays && item.slot == slot);
            state.queue = queue;
            let left: VecDeque<Item> = left;
            state.uncalled.extend(left.into_iter().map(|item| item.json));
        }
        if let Some(old) = old {
            state.retired.push(old);
            state.retired_total += 1;
            self.changed.notify_all();
        }
        // Also when another call has unregistered it: what that one waits for may still run.
        if is_barrier && state.thread != Some(std::thread::current().id()) {
            let last = state.retired_total;
            while state.dropped_total < last && !state.stopped {
                self.changed.wait(&mut state);
            }
        }
        Ok(())
    }

    /// Queues host work: never dropped.
    pub fn deliver(&self, slot: CallbackSlot, token: u64, json: &[u8]) {
        let mut state = self.state.lock();
        if !state.stopped {
            state.queue.push_back(Item { slot, token, json: json.to_vec(), stays: false });
            self.changed.notify_all();
        }
    }

    /// Queues what may be lost when the host is slow; an event that was lost for it is answered.
    pub fn deliver_lossy(&self, slot: CallbackSlot, json: &[u8]) -> Option<Vec<u8>> {
        if !self.has(slot) {
            return None;
        }
        let mut state = self.state.lock();
        let mut lost_event = None;
        if state.queue.len() >= self.max_queued
            && let Some(at) = state.queue.iter().position(|item| !item.slot.is_host_work() && !item.stays)
            && let Some(item) = state.queue.remove(at)
            && let Some(lost) = state.lost.get_mut(item.slot as usize)
        {
            *lost += 1;
            lost_event = (item.slot == CallbackSlot::Event).then_some(item.json);
        }
        if !state.stopped {
            state.queue.push_back(Item { slot, token: 0, json: json.to_vec(), stays: false });
            self.changed.notify_all();
        }
        lost_event
    }

    /// Queues something if that makes nothing else go. False if nobody is there, or there is no room.
    pub fn deliver_if_room(&self, slot: CallbackSlot, json: &[u8]) -> bool {
        let mut state = self.state.lock();
        let fits = self.has(slot) && !state.stopped && state.queue.len() < self.max_queued;
        if fits {
            state.queue.push_back(Item { slot, token: 0, json: json.to_vec(), stays: true });
            self.changed.notify_all();
        }
        fits
    }

    /// Completes when there may be room. Cancel safe.
    pub async fn room(&self) {
        loop {
            let notified = self.room.notified();
            if self.state.lock().queue.len() < self.max_queued {
                return;
            }
            notified.await;
        }
    }

    /// What [`Callbacks::deliver_if_room`] had queued for callbacks that were unregistered before they were called for it.
    pub fn take_uncalled(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.state.lock().uncalled)
    }

    /// Messages waiting.
    pub fn queued(&self) -> usize {
        self.state.lock().queue.len()
    }

    /// Delivers what waits, drops every callback, and ends the thread. False if it has not ended by the deadline: then
    /// it ends when the callback that holds it up returns.
    pub fn stop(&self, deadline: Option<Instant>) -> bool {
        let mut state = self.state.lock();
        state.stopping = true;
        self.registered.store(0, Ordering::Release);
        self.changed.notify_all();
        if state.thread.is_none() {
            state.stopped = true;
            return true;
        }
        if state.thread == Some(std::thread::current().id()) {
            return false;
        }
        while !state.stopped {
            match deadline {
                None => self.changed.wait(&mut state),
                Some(deadline) => {
                    if self.changed.wait_until(&mut state, deadline).timed_out() && !state.stopped {
                        return false;
                    }
                }
            }
        }
        true
    }

    fn start(self: &Arc<Self>, log: &Arc<LogSubscriber>) -> Result<ThreadId> {
        let callbacks = Arc::clone(self);
        threads::spawn("par-callback", log, move || callbacks.work())
            .map(|handle| handle.thread().id())
            .map_err(|error| threads::refused("the thread for callbacks", &error))
    }

    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            state = self.drop_retired(state);
            let Some(item) = state.queue.pop_front() else {
                if state.stopping {
                    let all = std::mem::take(&mut state.slots);
                    let all: Vec<_> = all.into_iter().flatten().collect();
                    state.retired_total += all.len() as u64;
                    state.retired.extend(all);
                    state = self.drop_retired(state);
                    state.stopped = true;
                    self.changed.notify_all();
                    return;
                }
                self.changed.wait(&mut state);
                continue;
            };
            if state.queue.len() < self.max_queued {
                self.room.notify_waiters();
            }
            let Some(callback) = state.slots.get(item.slot as usize).and_then(Clone::clone) else { continue };
            let lost = state.lost.get_mut(item.slot as usize).map(std::mem::take).unwrap_or(0);
            drop(state);
            call(&callback, item, lost);
            // Before the lock: a retired registration must be dropped by `drop_retired`, not here under it.
            state = self.state.lock();
            drop(callback);
        }
    }

    fn drop_retired<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while !state.retired.is_empty() {
            let retired = std::mem::take(&mut state.retired);
            let count = retired.len() as u64;
            // Dropping calls the host's destroy function, which may call us.
            MutexGuard::unlocked(&mut state, || drop(retired));
            state.dropped_total += count;
            self.changed.notify_all();
        }
        state
    }
}

fn call(callback: &Mutex<Callback>, mut item: Item, lost: u64) {
    if lost > 0 && item.json.pop() == Some(b'}') {
        item.json.extend_from_slice(format!(",\"dropped\":{lost}}}").as_bytes());
    }
    let callback = callback.lock();
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (callback.call)(item.token, &item.json))) {
        // Only a Rust host's callback can unwind to here; the thread must live on for the others.
        let _ = crate::agent::panic_error(&*panic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use std::sync::atomic::AtomicUsize;

    fn counting(calls: &Arc<AtomicUsize>, drops: &Arc<AtomicUsize>) -> Option<Callback> {
        let (calls, drops) = (Arc::clone(calls), Arc::clone(drops));
        let count = |counter: &AtomicUsize| {
            counter.fetch_add(1, Ordering::SeqCst);
        };
        Some(Callback::new(move |_, _| count(&calls), move || count(&drops)))
    }

    #[test]
    fn a_registration_is_dropped_once_and_unregistering_is_a_barrier() {
        let (log, callbacks) = (Arc::default(), Arc::new(Callbacks::new(10)));
        let (calls, drops) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        assert!(callbacks.set(CallbackSlot::Event, counting(&calls, &drops), &log).is_ok());
        assert!(callbacks.set(CallbackSlot::Event, counting(&calls, &drops), &log).is_ok());
        callbacks.deliver(CallbackSlot::Event, 0, b"{}");
        assert!(callbacks.set(CallbackSlot::Event, None, &log).is_ok());
        let after = calls.load(Ordering::SeqCst);
        assert_eq!(drops.load(Ordering::SeqCst), 2);
        callbacks.deliver_lossy(CallbackSlot::Event, b"{}");
        assert!(callbacks.stop(None));
        let refused = callbacks.set(CallbackSlot::Event, counting(&calls, &drops), &log);
        refused.err().and_then(|(_, callback)| callback).expect("handed back").disarm();
        assert_eq!((calls.load(Ordering::SeqCst), drops.load(Ordering::SeqCst)), (after, 2));
    }

    #[test]
    fn a_panicking_callback_leaves_the_thread_alive() {
        let (log, callbacks) = (Arc::default(), Arc::new(Callbacks::new(10)));
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let panics_once = move |_: u64, _: &[u8]| {
            if counted.fetch_add(1, Ordering::SeqCst) == 0 {
                std::panic::resume_unwind(Box::new("boom"));
            }
        };
        let callback = Callback::new(panics_once, || {});
        assert!(callbacks.set(CallbackSlot::Event, Some(callback), &log).is_ok());
        callbacks.deliver(CallbackSlot::Event, 0, b"{}");
        callbacks.deliver(CallbackSlot::Event, 0, b"{}");
        assert!(callbacks.stop(None));
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn what_is_lost_is_counted_and_host_work_is_not_lost() {
        let callbacks = Arc::new(Callbacks::new(2));
        callbacks.registered.store(0b11, Ordering::SeqCst);
        callbacks.deliver(CallbackSlot::Tool, 1, b"{}");
        for _ in 0..4 {
            callbacks.deliver_lossy(CallbackSlot::Event, b"{}");
        }
        let state = callbacks.state.lock();
        assert_eq!((state.queue.len(), state.queue[0].slot, state.lost[1]), (2, CallbackSlot::Tool, 3));
    }
}
