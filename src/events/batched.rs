//! A run that wakes its reader when its worker has nothing else to do.
//!
//! Waking a thread costs more than an event, and on a busy core it takes the core away from the work at hand. So what a run
//! emits is staged, and a worker shows what its runs have staged just before it goes to sleep ([`flush_deferred`]): a burst
//! of tokens, or the ends of many runs, are one wake-up. A bound on both keeps a worker that never sleeps from starving
//! the readers.

use super::Queue;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Events of one run that may be staged.
const MOST_STAGED: usize = 64;
/// Queues of one worker that may have something staged.
const MOST_DEFERRED: usize = 32;
/// Polls of runs for which a worker may keep something staged.
const MOST_POLLS: u32 = 64;

thread_local! {
    /// Whether this thread calls [`flush_deferred`] before it sleeps.
    static FLUSHES: Cell<bool> = const { Cell::new(false) };
    static DEFERRED: RefCell<Vec<Arc<Queue>>> = const { RefCell::new(Vec::new()) };
    static POLLS: Cell<u32> = const { Cell::new(0) };
}

/// Promises that this thread calls [`flush_deferred`] whenever it is about to sleep.
pub fn promise_to_flush() {
    FLUSHES.set(true);
}

/// Shows what this thread's runs have staged.
pub fn flush_deferred() {
    POLLS.set(0);
    loop {
        // Showing one queue may stage a note in another, the inbox.
        let queues = DEFERRED.take();
        if queues.is_empty() {
            return;
        }
        for queue in &queues {
            queue.flush();
        }
    }
}

/// Shows what is staged in the queue, soon: at once where nobody has promised to do it later.
pub fn flush_soon(queue: &Arc<Queue>) {
    if !FLUSHES.get() {
        queue.flush();
        return;
    }
    let deferred = DEFERRED.with_borrow_mut(|queues| {
        if !queues.iter().any(|other| Arc::ptr_eq(other, queue)) {
            queues.push(Arc::clone(queue));
        }
        queues.len()
    });
    if deferred >= MOST_DEFERRED {
        flush_deferred();
    }
}

/// See the module's head.
pub struct Batched<F> {
    run: Pin<Box<F>>,
    queue: Arc<Queue>,
}

impl<F: Future> Batched<F> {
    /// Shows what `run` stages in `queue`.
    pub fn new(queue: Arc<Queue>, run: F) -> Self {
        Self { run: Box::pin(run), queue }
    }
}

impl<F: Future> Future for Batched<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let polled = self.run.as_mut().poll(context);
        match self.queue.staged() {
            0 => {}
            staged if staged < MOST_STAGED => flush_soon(&self.queue),
            _ => self.queue.flush(),
        }
        let polls = POLLS.get() + 1;
        if polls < MOST_POLLS {
            POLLS.set(polls)
        } else {
            flush_deferred()
        }
        polled
    }
}
