//! A run that wakes its reader when it has nothing more to say.
//!
//! Waking a thread costs more than an event. So what a run emits is staged, and flushed by the first poll of the run that
//! adds nothing. After a poll that added something the run asks to be polled once more: behind the connection's own task,
//! which may have the next piece already. A lone event is later by one poll, about a microsecond; a burst is one wake-up.

use super::Queue;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// How many events are staged at most: a burst without end must not starve its reader.
const MOST_STAGED: usize = 64;

/// See the module's head.
pub struct Batched<F> {
    run: Pin<Box<F>>,
    queue: Arc<Queue>,
    staged: usize,
}

impl<F: Future> Batched<F> {
    /// Batches what `run` stages in `queue`.
    pub fn new(queue: Arc<Queue>, run: F) -> Self {
        Self { run: Box::pin(run), queue, staged: 0 }
    }
}

impl<F: Future> Future for Batched<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let polled = self.run.as_mut().poll(context);
        let staged = self.queue.staged();
        if polled.is_pending() && staged > self.staged && staged < MOST_STAGED {
            self.staged = staged;
            context.waker().wake_by_ref();
        } else if staged > 0 {
            self.staged = 0;
            self.queue.flush();
        }
        polled
    }
}
