//! How the writer ends: it writes what there is, reports what could not be written, and lets go of that.

use super::{Ordered, Writer, ended};
use crate::store::backend::Item;
use crate::types::Result;
use std::sync::atomic::Ordering;

impl Writer {
    /// Writes what there is, and ends. An error: why something could not be written, and how much.
    pub fn close(&self) -> Result<()> {
        let mut queue = self.queue.lock();
        queue.closing = true;
        if self.started.load(Ordering::Acquire) {
            self.work.notify_one();
            while !queue.closed {
                self.ended.wait(&mut queue);
            }
        } else if !(queue.closed || queue.is_idle() && queue.later.is_empty()) {
            // Its thread could not be started: this one does the work.
            drop(queue);
            self.work();
            queue = self.queue.lock();
        }
        queue.closed = true;
        drop(queue);
        // Without anything left, what had failed was done later.
        let unwritten = self.unwritten();
        self.forget_unwritten();
        unwritten.map_or(Ok(()), |what| {
            let why = self.failure().unwrap_or_else(ended);
            let message = format!("{} (not written: {what})", why.message());
            Err(why.with_message(message))
        })
    }

    /// What was not written has logs, which have the writer: neither would ever be freed.
    fn forget_unwritten(&self) {
        let items = std::mem::take(&mut *self.turn.lock());
        let mut queue = self.queue.lock();
        let (soon, later) = (std::mem::take(&mut queue.soon), std::mem::take(&mut queue.later));
        let (waiting, ordered) = (std::mem::take(&mut queue.items), std::mem::take(&mut queue.ordered));
        // Dropped after the queue is free: they may give back locks of sessions.
        drop(queue);
        drop((items, soon, later, waiting, ordered));
    }

    /// What was not written, in words; none if everything was.
    fn unwritten(&self) -> Option<String> {
        let mut counts = [0_usize; 4];
        for item in self.turn.lock().iter() {
            match item {
                Item::Run(write) => {
                    counts[0] += 1;
                    counts[1] += write.events();
                }
                Item::Session(..) => counts[2] += 1,
                Item::Blob { .. } | Item::DeadLetter(_) | Item::Head(_) | Item::NoHead(_) => counts[3] += 1,
            }
        }
        let queue = self.queue.lock();
        counts[0] += queue.soon.len() + queue.later.len();
        counts[1] += self.backlog();
        for ordered in &queue.ordered {
            match ordered {
                Ordered::End(..) | Ordered::Release(_) => counts[0] += 1,
                Ordered::Session(_) => counts[2] += 1,
            }
        }
        counts[3] += queue.items.len();
        drop(queue);
        let names = ["changes of runs", "events", "sessions", "other records"];
        let words: Vec<_> = counts
            .iter()
            .zip(names)
            .filter(|(count, _)| **count > 0)
            .map(|(count, name)| format!("{count} {name}"))
            .collect();
        (!words.is_empty()).then(|| words.join(", "))
    }
}
