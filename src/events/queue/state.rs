//! The state of a queue without its locks and wake-ups: a pure state machine that tests can drive step by step.
//!
//! Shown and staged events are two separate lists over one buffer. No count is derived by subtraction, so no order of calls
//! can make one list disagree with the other.

use super::{Bounds, Polled};
use crate::types::{Error, Result, Status};
use std::collections::VecDeque;

/// Keeps a shrunken buffer from being given back and asked for again with every event.
const KEEP_CAPACITY: usize = 4 * 1024;

/// What a full queue may do with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Never drop it.
    Kept,
    /// Drop it, and return it to the producer, which keeps it as a dead letter.
    Event,
    /// Drop it and count it.
    Log,
}

/// When an appended event becomes visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// At the next flush.
    Staged,
    /// At the next flush, and no event follows.
    StagedLast,
    /// At once.
    Now,
    /// At once, and no event follows.
    Last,
}

/// One event in the buffer.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Bytes, without the comma that follows.
    length: usize,
    class: Class,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct State {
    /// `event,event,…,` from `head` on: the shown events, then the staged ones.
    bytes: Vec<u8>,
    head: usize,
    shown: VecDeque<Slot>,
    staged: VecDeque<Slot>,
    ended: bool,
    abandoned: bool,
    dropped: u64,
}

impl State {
    /// Appends an event. False if the queue takes none: after its end, or without a reader.
    pub fn append(&mut self, event: &[u8], class: Class, when: When) -> bool {
        if self.ended {
            return false;
        }
        if self.abandoned {
            // The end is noted all the same, so that the result of the run can be read.
            self.ended = matches!(when, When::Last | When::StagedLast);
            return false;
        }
        if self.bytes.capacity() == 0 {
            // A handful of events: what most runs have waiting.
            self.bytes.reserve(1024);
        }
        self.bytes.extend_from_slice(event);
        self.bytes.push(b',');
        self.staged.push_back(Slot { length: event.len(), class });
        self.ended = matches!(when, When::Last | When::StagedLast);
        if matches!(when, When::Now | When::Last) {
            self.flush();
        }
        true
    }

    /// Shows every staged event. False if there is none.
    pub fn flush(&mut self) -> bool {
        let has_staged = !self.staged.is_empty();
        self.shown.append(&mut self.staged);
        has_staged
    }

    /// Ends the queue without a terminal event. False if it has ended.
    pub fn end(&mut self) -> bool {
        if self.ended {
            return false;
        }
        self.ended = true;
        self.flush();
        true
    }

    /// Drops everything, and everything that follows.
    pub fn abandon(&mut self) {
        self.abandoned = true;
        self.bytes = Vec::new();
        self.head = 0;
        self.shown.clear();
        self.staged.clear();
    }

    /// Whether one more event fits.
    pub fn fits(&self, bounds: &Bounds) -> bool {
        let Bounds { events, bytes } = *bounds;
        self.shown.len() + self.staged.len() < events && self.bytes.len() - self.head < bytes
    }

    /// Whether a producer need not wait for room: there is some, or the next event goes nowhere.
    pub fn is_open_to_producers(&self, bounds: &Bounds) -> bool {
        self.ended || self.abandoned || self.fits(bounds)
    }

    /// How many events a reader can take.
    pub fn visible(&self) -> usize {
        self.shown.len()
    }

    /// How many events wait for a flush.
    pub fn staged(&self) -> usize {
        self.staged.len()
    }

    /// How many events were dropped to make room.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether the reader is gone.
    pub fn is_abandoned(&self) -> bool {
        self.abandoned
    }

    /// Whether the terminal event was appended, or the queue was ended.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether a poll returns an event or the end.
    pub fn is_readable(&self) -> bool {
        !self.shown.is_empty() || self.is_over()
    }

    fn is_over(&self) -> bool {
        self.ended && self.shown.is_empty() && self.staged.is_empty()
    }

    /// Takes up to `most` events as one slice `event,event,…,event`.
    pub fn take<T>(&mut self, most: usize, take: impl FnOnce(&[u8]) -> T) -> Result<Polled<T>> {
        if self.abandoned {
            return Err(Error::new(Status::BadHandle, "the handle was freed during the call"));
        }
        let count = most.min(self.shown.len());
        if count == 0 {
            return Ok(if self.is_over() { Polled::End } else { Polled::Pending });
        }
        let bytes: usize = self.shown.iter().take(count).map(|slot| slot.length + 1).sum();
        let taken = take(self.bytes.get(self.head..self.head + bytes - 1).unwrap_or_default());
        // Removed after `take`, so that an event whose copy panics is not lost.
        self.shown.drain(..count);
        self.consumed(bytes);
        Ok(Polled::Event(taken))
    }

    fn consumed(&mut self, bytes: usize) {
        self.head += bytes;
        if self.head == self.bytes.len() {
            self.bytes.clear();
            self.head = 0;
            if self.bytes.capacity() > KEEP_CAPACITY {
                self.bytes.shrink_to(KEEP_CAPACITY);
            }
        } else if self.head > self.bytes.len() / 2 {
            let head = std::mem::take(&mut self.head);
            self.bytes.drain(..head);
        }
    }

    /// Drops the oldest event that may be dropped. Returns it if it is a [`Class::Event`].
    pub fn drop_oldest(&mut self) -> Option<Vec<u8>> {
        let mut start = self.head;
        for index in 0..self.shown.len() + self.staged.len() {
            let (list, at) = match index.checked_sub(self.shown.len()) {
                None => (&mut self.shown, index),
                Some(at) => (&mut self.staged, at),
            };
            let Slot { length, class } = *list.get(at)?;
            if class != Class::Kept {
                list.remove(at);
                let event: Vec<u8> = self.bytes.drain(start..=start + length).take(length).collect();
                self.dropped += 1;
                return (class == Class::Event).then_some(event);
            }
            start += length + 1;
        }
        None
    }
}
