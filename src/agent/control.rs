//! The host's hand on a run: cancelling it, and saying something to it.

use crate::config::When;
use crate::types::{Cancel, Error, Part, Result, Status};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// See the module's head. Shared by the run and by who started it.
pub struct Control {
    /// Ends the run at once.
    pub cancel: Cancel,
    /// Whether its stream was let go of while it went on.
    detached: AtomicBool,
    /// Ends it when its turn is over; the reason.
    after_turn: OnceLock<String>,
    /// What waits to be said; none once the run takes nothing more.
    waiting: Mutex<Option<Waiting>>,
    max_waiting: usize,
}

#[derive(Default)]
struct Waiting {
    now: VecDeque<Vec<Part>>,
    follow_up: VecDeque<Vec<Part>>,
}

impl Control {
    /// The control of one run.
    pub fn new(cancel: Cancel, max_waiting: usize) -> Self {
        Self {
            cancel,
            detached: AtomicBool::new(false),
            after_turn: OnceLock::new(),
            waiting: Mutex::new(Some(Waiting::default())),
            max_waiting,
        }
    }

    /// Lets the run go on although nobody reads its stream any more.
    pub fn detach(&self) {
        self.detached.store(true, Ordering::Release);
    }

    /// Whether the run goes on without a reader.
    pub fn is_detached(&self) -> bool {
        self.detached.load(Ordering::Acquire)
    }

    /// Lets the run end when the model has answered and its tools have run.
    pub fn cancel_after_turn(&self, reason: &str) {
        let _ = self.after_turn.set(reason.to_owned());
    }

    /// Why the run shall end after its turn, if it shall.
    pub fn ends_after_turn(&self) -> Option<&str> {
        self.after_turn.get().map(String::as_str)
    }

    /// Why the run was cancelled.
    pub fn reason(&self) -> String {
        match self.ends_after_turn() {
            Some(reason) if !self.cancel.is_cancelled() => reason.to_owned(),
            Some(_) | None => self.cancel.reason(),
        }
    }

    /// Says something to the run.
    pub fn say(&self, parts: Vec<Part>, when: When) -> Result<()> {
        let mut waiting = self.waiting.lock();
        let Some(waiting) = waiting.as_mut() else {
            return Err(Error::new(Status::NotFound, "the run takes nothing more: it is ending")
                .with_hint("begin another run in the same session"));
        };
        if waiting.now.len() + waiting.follow_up.len() >= self.max_waiting {
            return Err(Error::new(
                Status::Limit,
                format!(
                    "{} messages already wait in this run, as many as limits.max_steering_messages allows",
                    self.max_waiting
                ),
            )
            .with_retryable(true));
        }
        match when {
            When::Now => waiting.now.push_back(parts),
            When::FollowUp => waiting.follow_up.push_back(parts),
        }
        Ok(())
    }

    /// What is to be said at a safe point.
    pub fn take_now(&self) -> VecDeque<Vec<Part>> {
        self.waiting.lock().as_mut().map(|waiting| std::mem::take(&mut waiting.now)).unwrap_or_default()
    }

    /// What is to be said after an answer: first what came while it was made, then one message that was to follow it. None:
    /// the run takes nothing more from here on.
    pub fn take_after_answer(&self) -> Option<(VecDeque<Vec<Part>>, When)> {
        let mut state = self.waiting.lock();
        let waiting = state.as_mut()?;
        if !waiting.now.is_empty() {
            return Some((std::mem::take(&mut waiting.now), When::Now));
        }
        match waiting.follow_up.pop_front() {
            Some(message) => Some((VecDeque::from([message]), When::FollowUp)),
            None => {
                *state = None;
                None
            }
        }
    }

    /// The run takes nothing more. Answers how many messages nobody will be told.
    pub fn close(&self) -> usize {
        let waiting = self.waiting.lock().take();
        waiting.map_or(0, |waiting| waiting.now.len() + waiting.follow_up.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;

    #[test]
    fn what_is_said_is_told_in_order_or_refused_never_lost() {
        let control = Control::new(Cancel::new(), 2);
        let said = |text: &str| vec![Part::text(text)];
        control.say(said("later"), When::FollowUp).unwrap();
        control.say(said("soon"), When::Now).unwrap();
        assert_eq!(control.say(said("too much"), When::Now).unwrap_err().status(), Status::Limit);
        assert_eq!(control.take_after_answer().unwrap(), (VecDeque::from([said("soon")]), When::Now));
        assert_eq!(control.take_after_answer().unwrap(), (VecDeque::from([said("later")]), When::FollowUp));
        assert!(control.take_after_answer().is_none());
        assert_eq!(control.say(said("late"), When::Now).unwrap_err().status(), Status::NotFound);
    }
}
