//! The queue under shuttle (<https://docs.rs/shuttle>): its locks with a schedule that the tests choose, and the tests.
//!
//! A schedule that leaves a thread waiting for ever is a deadlock, which shuttle reports with the schedule that leads to it.

use std::ops::{Deref, DerefMut};
use std::time::Instant;

pub(super) use shuttle::sync::atomic::AtomicBool;

/// A lock with the interface of `parking_lot`.
#[derive(Default)]
pub(super) struct Mutex<T>(shuttle::sync::Mutex<T>);

/// See [`Mutex`]. `None` only while a wait has the lock.
pub(super) struct MutexGuard<'a, T>(Option<shuttle::sync::MutexGuard<'a, T>>);

impl<T> Mutex<T> {
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)))
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[allow(clippy::expect_used, reason = "the lock is only away within `Condvar::wait`")]
    fn deref(&self) -> &T {
        self.0.as_ref().expect("the lock is held")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[allow(clippy::expect_used, reason = "the lock is only away within `Condvar::wait`")]
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("the lock is held")
    }
}

/// See [`Mutex`].
#[derive(Default)]
pub(super) struct Condvar(shuttle::sync::Condvar);

/// A wait with a timeout: there is no time here, so it never runs out.
pub(super) struct Ended;

impl Ended {
    pub fn timed_out(&self) -> bool {
        false
    }
}

impl Condvar {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        if let Some(held) = guard.0.take() {
            guard.0 = Some(self.0.wait(held).unwrap_or_else(std::sync::PoisonError::into_inner));
        }
    }

    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, _: Instant) -> Ended {
        self.wait(guard);
        Ended
    }

    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Bounds, Class, Polled, Queue, Waited};
    use crate::types::Status;
    use pretty_assertions::assert_eq;
    use shuttle::future::block_on;
    use shuttle::thread;
    use std::sync::Arc;

    /// Schedules that each test is tried with.
    const SCHEDULES: usize = 20_000;

    fn try_schedules(test: impl Fn() + Send + Sync + Copy + 'static) {
        shuttle::check_random(test, SCHEDULES);
        shuttle::check_pct(test, SCHEDULES / 2, 3);
    }

    fn queue(events: usize) -> Arc<Queue> {
        Arc::new(Queue::new(Bounds { events, bytes: 1 << 20 }))
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    fn spawn(queue: &Arc<Queue>, work: impl FnOnce(&Queue) + Send + 'static) -> thread::JoinHandle<()> {
        let queue = Arc::clone(queue);
        thread::spawn(move || work(&queue))
    }

    /// Stages events one by one, waiting for room before each, and ends.
    fn produce(queue: &Queue) {
        for event in ["a", "b", "c"] {
            block_on(queue.room());
            queue.stage(event.as_bytes());
        }
        queue.flush();
        queue.push_terminal(b"t");
    }

    /// The descriptor says what a poll would.
    fn agrees(queue: &Queue) {
        let inner = queue.inner.lock();
        let raised = inner.signal.as_ref().is_none_or(|signal| signal.is_raised() == inner.state.is_readable());
        assert!(raised, "the descriptor and the queue disagree");
    }

    #[test]
    fn a_waiting_reader_gets_everything_in_order() {
        try_schedules(|| {
            let queue = queue(1);
            let producer = spawn(&queue, produce);
            let other = spawn(&queue, |queue| {
                queue.wake();
                agrees(queue);
            });
            let (mut seen, mut woken) = (Vec::new(), 0);
            loop {
                match queue.wait(None, text).unwrap() {
                    Waited::Event(event) => seen.push(event),
                    Waited::Woken => woken += 1,
                    Waited::End => break,
                    Waited::Timeout => unreachable!("nothing times out"),
                }
                agrees(&queue);
            }
            producer.join().unwrap();
            other.join().unwrap();
            assert_eq!(seen, ["a", "b", "c", "t"]);
            assert!(woken <= 1);
        });
    }

    #[test]
    fn a_reader_by_the_descriptor_gets_everything_in_order() {
        try_schedules(|| {
            let queue = queue(2);
            queue.fd().unwrap();
            let producer = spawn(&queue, produce);
            let mut seen = Vec::new();
            loop {
                agrees(&queue);
                match queue.drain(2, text).unwrap() {
                    Polled::Event(events) => seen.extend(events.split(',').map(str::to_owned)),
                    Polled::Pending => thread::yield_now(),
                    Polled::End => break,
                }
            }
            producer.join().unwrap();
            agrees(&queue);
            assert_eq!(seen, ["a", "b", "c", "t"]);
        });
    }

    #[test]
    fn no_thread_waits_for_a_reader_that_has_gone() {
        try_schedules(|| {
            let queue = queue(1);
            let producers = [spawn(&queue, produce), spawn(&queue, produce)];
            let reader = spawn(&queue, |queue| {
                // It has gone, or it has an event; it never hangs.
                if let Err(error) = queue.wait(None, text) {
                    assert_eq!(error.status(), Status::BadHandle);
                }
            });
            let gone = spawn(&queue, Queue::abandon);
            for thread in producers.into_iter().chain([reader, gone]) {
                thread.join().unwrap();
            }
            assert_eq!(queue.poll(text).unwrap_err().status(), Status::BadHandle);
            assert_eq!(queue.counts().0, 0);
        });
    }

    #[test]
    fn what_may_be_lost_is_read_or_counted() {
        try_schedules(|| {
            let queue = queue(2);
            let loses = |queue: &Queue| {
                for event in ["x", "y", "z"] {
                    let _ = queue.push_lossy(event.as_bytes(), Class::Log);
                }
            };
            let producers = [spawn(&queue, loses), spawn(&queue, loses)];
            let mut seen = 0;
            let mut read = || {
                while let Polled::Event(()) = queue.poll(|_| ()).unwrap() {
                    seen += 1;
                }
            };
            read();
            for producer in producers {
                producer.join().unwrap();
            }
            queue.end();
            read();
            assert_eq!(queue.poll(text).unwrap(), Polled::End);
            assert_eq!(seen + queue.counts().1, 6);
        });
    }
}
