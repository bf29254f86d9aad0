//! A stream: the reader's end of a run, or of a method that was started.

use crate::agent::{Control, SUSPENDED, Suspension};
use crate::events::Queue;
use crate::types::{Error, Result, RunId, RunResult, Status};
use serde::Serialize;
use std::sync::{Arc, OnceLock};

/// The result as JSON text, or why there is none.
pub type Answer = Result<String>;

/// What a stream came to. A run's result becomes text when it is asked for: who read the terminal event has it already.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Run(Box<RunResult>),
    Method(String),
}

pub(super) type Ended = Arc<OnceLock<Result<Outcome>>>;

/// A run's result as the host gets it.
pub(super) fn result_json(run_id: &RunId, result: &RunResult) -> Answer {
    #[derive(Serialize)]
    struct Completed<'a> {
        run_id: &'a RunId,
        status: &'static str,
        #[serde(flatten)]
        result: &'a RunResult,
    }
    let whole = Completed { run_id, status: "completed", result };
    serde_json::to_string(&whole).map_err(|error| Error::internal(error.to_string()))
}

/// A running or finished run. Dropping it cancels the run and lets go of its events; a stored run that waits for an approval is
/// suspended instead.
pub struct Stream {
    pub(super) run_id: RunId,
    pub(super) queue: Arc<Queue>,
    pub(super) ended: Ended,
    pub(super) control: Arc<Control>,
}

impl Stream {
    /// Which run.
    pub fn run_id(&self) -> &RunId {
        &self.run_id
    }

    /// Its events.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Its result, as often as asked. None until the terminal event can be read: when there is a result, every event is readable, and
    /// so is the descriptor.
    pub fn answer(&self) -> Option<Answer> {
        Some(match self.end()? {
            Ok(Outcome::Run(result)) => result_json(&self.run_id, result),
            Ok(Outcome::Method(json)) => Ok(json.clone()),
            Err(error) => Err(error.clone()),
        })
    }

    /// The end, if the terminal event can be read.
    fn end(&self) -> Option<&Result<Outcome>> {
        // The outcome is set before the terminal event is staged.
        if self.queue.show_end() { self.ended.get() } else { None }
    }

    /// Ends the run early. Idempotent; a finished run stays as it ended.
    pub fn cancel(&self, reason: &str) {
        self.control.cancel.cancel(reason);
    }

    /// The reader is gone: what [`Drop`] does, for a reader that is still waiting somewhere.
    pub fn abandon(&self) {
        if !self.control.is_detached() {
            match self.control.is_parked() {
                // What waits for a person is not lost because a reader goes.
                true => self.control.suspend(Suspension::StreamFreed),
                false => self.control.cancel.cancel("the stream was freed"),
            }
        }
        self.queue.abandon();
    }

    /// `{run_id, state, queued, dropped}`.
    pub fn info(&self) -> String {
        let state = match self.end() {
            None => "running",
            Some(Ok(_)) => "completed",
            Some(Err(error)) if error.status() == Status::Cancelled => "cancelled",
            Some(Err(error)) if error.code() == Some(SUSPENDED) => "suspended",
            Some(Err(_)) => "failed",
        };
        let (queued, dropped) = self.queue.counts();
        serde_json::json!({"run_id": self.run_id, "state": state, "queued": queued, "dropped": dropped}).to_string()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// The answer to a question that was cut off by a bug.
pub(super) fn lost_answer() -> Error {
    Error::internal("the task ended without an answer")
}
