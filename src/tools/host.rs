//! Host work: calls that wait for the host, each answered once by its token.
//!
//! A token is unique in the process, never reused, and stale after its first answer, so an answer that is late, double
//! or meant for another runtime has no effect but an error.

use super::ToolFailure;
use crate::types::{Error, Result, Status};
use parking_lot::{Mutex, RwLock};
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::{mpsc, oneshot};

/// Takes a message for the host: the token and the event's JSON.
pub type Deliver = Arc<dyn Fn(u64, &[u8]) + Send + Sync>;

/// What the host said to a call.
#[derive(Debug)]
pub enum HostAnswer {
    /// The result: any JSON.
    Complete(Box<RawValue>),
    /// It failed.
    Fail(ToolFailure),
}

/// The calls of one runtime that wait for the host, and the way to it.
#[derive(Default)]
pub struct HostDesk {
    open: Mutex<HashMap<u64, Open>>,
    callback: RwLock<Option<Deliver>>,
    inbox: RwLock<Option<Deliver>>,
    inbox_opened: AtomicBool,
}

struct Open {
    answer: oneshot::Sender<HostAnswer>,
    progress: mpsc::Sender<Box<RawValue>>,
}

/// Notes that may wait to be emitted; beyond it the host is told to slow down.
const MOST_NOTES: usize = 64;

static NEXT_TOKEN: AtomicU64 = AtomicU64::new(1);

impl HostDesk {
    /// Opens a call. It closes when the returned value is dropped.
    pub fn open(self: &Arc<Self>) -> HostCall {
        let token = NEXT_TOKEN.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        let (progress, notes) = mpsc::channel(MOST_NOTES);
        self.open.lock().insert(token, Open { answer, progress });
        HostCall { token, answered, notes, desk: Arc::clone(self) }
    }

    /// Answers a call with its result.
    pub fn complete(&self, token: u64, result: Box<RawValue>) -> Result<()> {
        self.answer(token, HostAnswer::Complete(result))
    }

    /// Answers a call with a failure.
    pub fn fail(&self, token: u64, failure: ToolFailure) -> Result<()> {
        self.answer(token, HostAnswer::Fail(failure))
    }

    /// Tells how far a call is, and gives it its whole time anew.
    pub fn progress(&self, token: u64, note: Box<RawValue>) -> Result<()> {
        let open = self.open.lock();
        let call = open.get(&token).ok_or_else(|| stale(token))?;
        call.progress.try_send(note).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                Error::new(Status::Limit, format!("{MOST_NOTES} progress notes of token {token} already wait"))
                    .with_retryable(true)
                    .with_hint("report progress less often")
            }
            mpsc::error::TrySendError::Closed(_) => stale(token),
        })
    }

    /// Whether a token still waits for its answer.
    pub fn is_open(&self, token: u64) -> bool {
        self.open.lock().contains_key(&token)
    }

    /// How many calls wait.
    pub fn waiting(&self) -> usize {
        self.open.lock().len()
    }

    /// Sets or removes the callback that takes host work before anything else does.
    pub fn set_callback(&self, callback: Option<Deliver>) {
        *self.callback.write() = callback;
    }

    /// The callback, if one is set.
    pub fn callback(&self) -> Option<Deliver> {
        self.callback.read().clone()
    }

    /// Connects the inbox. It takes host work only once the host has opened it.
    pub fn set_inbox(&self, inbox: Deliver) {
        *self.inbox.write() = Some(inbox);
    }

    /// The host reads its inbox.
    pub fn open_inbox(&self) {
        self.inbox_opened.store(true, Ordering::Release);
    }

    /// The inbox, if the host has ever opened it.
    pub fn inbox(&self) -> Option<Deliver> {
        self.inbox_opened.load(Ordering::Acquire).then(|| self.inbox.read().clone()).flatten()
    }

    fn answer(&self, token: u64, answer: HostAnswer) -> Result<()> {
        let call = self.open.lock().remove(&token);
        let call = call.ok_or_else(|| stale(token))?;
        call.answer.send(answer).map_err(|_| stale(token))
    }
}

fn stale(token: u64) -> Error {
    Error::new(Status::StaleToken, format!("token {token} does not wait for an answer"))
        .with_hint("it was answered before, was cancelled or timed out, or belongs to another runtime")
}

/// A call that waits for the host. Dropping it makes its token stale.
pub struct HostCall {
    token: u64,
    answered: oneshot::Receiver<HostAnswer>,
    notes: mpsc::Receiver<Box<RawValue>>,
    desk: Arc<HostDesk>,
}

/// What came from the host.
#[derive(Debug)]
pub enum HostSays {
    /// The answer; nothing follows.
    Answer(HostAnswer),
    /// A note on the way.
    Progress(Box<RawValue>),
}

impl HostCall {
    /// The token the host answers.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Waits for the next word of the host. Notes sent before the answer come before it. Cancel safe.
    pub async fn next(&mut self) -> HostSays {
        tokio::select! {
            biased;
            Some(note) = self.notes.recv() => HostSays::Progress(note),
            answer = &mut self.answered => HostSays::Answer(answer.unwrap_or_else(|_| {
                HostAnswer::Fail(ToolFailure::new("the host dropped the call"))
            })),
        }
    }
}

impl Drop for HostCall {
    fn drop(&mut self) {
        self.desk.open.lock().remove(&self.token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;

    fn json(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.into()).unwrap()
    }

    #[tokio::test]
    async fn a_token_is_answered_once_and_notes_come_first() {
        let desk = Arc::new(HostDesk::default());
        let mut call = desk.open();
        let token = call.token();
        desk.progress(token, json("1")).unwrap();
        desk.complete(token, json("2")).unwrap();
        assert_eq!(desk.complete(token, json("3")).unwrap_err().status(), Status::StaleToken);
        assert!(matches!(call.next().await, HostSays::Progress(note) if note.get() == "1"));
        assert!(matches!(call.next().await, HostSays::Answer(HostAnswer::Complete(result)) if result.get() == "2"));
    }

    #[test]
    fn a_dropped_call_and_a_foreign_token_are_stale() {
        let (desk, other) = (Arc::new(HostDesk::default()), Arc::new(HostDesk::default()));
        let call = desk.open();
        assert_eq!(other.complete(call.token(), json("1")).unwrap_err().status(), Status::StaleToken);
        let token = call.token();
        drop(call);
        assert_eq!(desk.progress(token, json("1")).unwrap_err().status(), Status::StaleToken);
        assert_eq!(desk.waiting(), 0);
    }

    #[test]
    fn a_flood_of_notes_is_refused_not_lost() {
        let desk = Arc::new(HostDesk::default());
        let call = desk.open();
        let refused = (0..MOST_NOTES + 1).filter_map(|_| desk.progress(call.token(), json("0")).err()).count();
        assert_eq!(refused, 1);
    }
}
