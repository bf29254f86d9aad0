//! The host's hand on a run: cancelling it, and saying something to it.

use crate::config::When;
use crate::types::{Cancel, Error, Part, Result, Status};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The code of the error that a suspended run has instead of a result.
pub const SUSPENDED: &str = "suspended";

/// Why a run stops without an end. It can be resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspension {
    /// The runtime is closed.
    Closing,
    /// The stream was freed while the run waited for an approval.
    StreamFreed,
}

impl Suspension {
    /// As the event `suspended` gives it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Closing => "closing",
            Self::StreamFreed => "stream_freed",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Closing => "the runtime was closed",
            Self::StreamFreed => "the stream was freed",
        }
    }
}

/// See the module's head. Shared by the run and by who started it.
pub struct Control {
    /// Ends the run at once.
    pub cancel: Cancel,
    /// Whether its stream was let go of while it went on.
    detached: AtomicBool,
    /// Whether its steps are stored, so that it can be resumed.
    resumable: AtomicBool,
    /// Approvals that it waits for.
    approvals: AtomicUsize,
    /// Why it is to stop without an end.
    suspension: OnceLock<Suspension>,
    /// Ends it when its turn is over; the reason.
    after_turn: OnceLock<String>,
    /// What waits to be said; none once the run takes nothing more.
    waiting: Mutex<Option<Waiting>>,
    max_waiting: usize,
}

/// An approval that a run waits for.
pub struct PendingApproval<'c>(&'c AtomicUsize);

impl Drop for PendingApproval<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
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
            resumable: AtomicBool::new(false),
            approvals: AtomicUsize::new(0),
            suspension: OnceLock::new(),
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

    /// The run's steps are stored: it can be suspended.
    pub fn set_resumable(&self) {
        self.resumable.store(true, Ordering::Release);
    }

    /// Counts an approval that the run waits for, until the returned value is dropped.
    pub fn waits_for_approval(&self) -> PendingApproval<'_> {
        self.approvals.fetch_add(1, Ordering::AcqRel);
        PendingApproval(&self.approvals)
    }

    /// Whether the run waits for an approval and can be suspended meanwhile.
    pub fn is_parked(&self) -> bool {
        self.resumable.load(Ordering::Acquire) && self.approvals.load(Ordering::Acquire) > 0
    }

    /// Ends the run at once: suspends it if its steps are stored, else cancels it.
    pub fn suspend(&self, why: Suspension) {
        // The first wins; it counts only if nothing has cancelled the run before.
        let _ = self.suspension.set(why);
        self.cancel.cancel(why.text());
    }

    /// Why the run stops without an end, if it does. A cancellation that came first wins.
    pub fn suspension(&self) -> Option<Suspension> {
        let is_resumable = self.resumable.load(Ordering::Acquire) && self.cancel.is_cancelled();
        self.suspension.get().copied().filter(|why| is_resumable && self.cancel.reason() == why.text())
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
