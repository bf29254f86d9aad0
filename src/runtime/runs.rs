//! Which runs live, and how the last ones ended.

use crate::agent::{Control, Outcome, Suspension};
use crate::types::{AgentId, Error, Result, RunId, RunResult, Scope, SessionId, Status, now_ms};
use parking_lot::{Condvar, Mutex};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often closing looks at the runs that it waits for.
const LOOK: Duration = Duration::from_millis(20);

/// One run in a list.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RunInfo {
    /// Its id.
    pub run_id: RunId,
    /// Whose it is.
    #[serde(skip)]
    pub scope: Scope,
    /// Its agent.
    pub agent: AgentId,
    /// Its conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// `running`, `completed`, `failed`, `cancelled`, or `interrupted`: `runs.resume` continues it.
    pub status: &'static str,
    /// When it began.
    pub started_at_ms: u64,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at_ms: Option<u64>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
    /// What it came to, if its stream was detached: nobody else was told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Arc<RunResult>>,
}

#[derive(Default)]
struct State {
    live: HashMap<RunId, (RunInfo, Arc<Control>)>,
    finished: VecDeque<RunInfo>,
}

/// See the module's head.
pub(super) struct Runs {
    state: Mutex<State>,
    ended: Condvar,
    max_live: usize,
    max_finished: usize,
}

impl Runs {
    pub fn new(max_live: usize, max_finished: usize) -> Self {
        Self { state: Mutex::default(), ended: Condvar::new(), max_live, max_finished }
    }

    /// Lists a run as living until the returned value is dropped. `path` is where its id was given.
    pub fn begin(
        self: &Arc<Self>,
        run_id: &RunId,
        scope: &Scope,
        agent: &AgentId,
        session: Option<&SessionId>,
        control: &Arc<Control>,
        path: &str,
    ) -> Result<LiveRun> {
        let mut state = self.state.lock();
        if state.live.len() >= self.max_live {
            return Err(Error::new(
                Status::Limit,
                format!("{} runs live, as many as limits.max_runs allows", state.live.len()),
            )
            .with_retryable(true)
            .with_hint("wait for one to end, or raise the limit"));
        }
        let Entry::Vacant(place) = state.live.entry(run_id.clone()) else {
            return Err(Error::new(Status::Exists, format!("a run with the id {run_id:?} lives"))
                .with_path(path)
                .with_hint("a run_id is unique among living runs"));
        };
        let info = RunInfo {
            run_id: run_id.clone(),
            scope: scope.clone(),
            agent: agent.clone(),
            session: session.cloned(),
            status: "running",
            started_at_ms: now_ms(),
            ended_at_ms: None,
            error: None,
            result: None,
        };
        place.insert((info, Arc::clone(control)));
        Ok(LiveRun { runs: Arc::clone(self), run_id: run_id.clone(), status: "cancelled", error: None, result: None })
    }

    /// The host's hand on a living run.
    pub fn control(&self, run_id: &str) -> Result<Arc<Control>> {
        let state = self.state.lock();
        let found = state.live.get(&RunId::from(run_id)).map(|(_, control)| Arc::clone(control));
        found.ok_or_else(|| {
            Error::new(Status::NotFound, format!("no run {run_id:?} lives"))
                .with_hint("it has ended, or the id is another's; runs.list tells which live")
        })
    }

    /// Cancels a living run at once.
    pub fn cancel(&self, run_id: &str, reason: &str) -> Result<()> {
        self.control(run_id)?.cancel.cancel(reason);
        Ok(())
    }

    /// A living run, or one that ended lately.
    pub fn get(&self, run_id: &str) -> Option<RunInfo> {
        let state = self.state.lock();
        let live = state.live.get(&RunId::from(run_id)).map(|(info, _)| info.clone());
        live.or_else(|| state.finished.iter().rev().find(|info| info.run_id.as_str() == run_id).cloned())
    }

    /// Living runs, then those that ended lately, newest first.
    pub fn list(&self) -> Vec<RunInfo> {
        let state = self.state.lock();
        let mut live: Vec<_> = state.live.values().map(|(info, _)| info.clone()).collect();
        live.sort_by(|a, b| b.started_at_ms.cmp(&a.started_at_ms).then_with(|| b.run_id.cmp(&a.run_id)));
        live.extend(state.finished.iter().rev().cloned());
        live
    }

    /// How many live.
    pub fn live(&self) -> usize {
        self.state.lock().live.len()
    }

    /// Waits until no run is live.
    pub fn wait_for_none(&self) {
        let mut state = self.state.lock();
        while !state.live.is_empty() {
            self.ended.wait(&mut state);
        }
    }

    /// Waits until no live run can end by itself: each has ended, or waits for an approval and can be suspended. No longer than
    /// `deadline` says at the time.
    pub fn drain(&self, deadline: impl Fn() -> Option<Instant>) {
        let mut state = self.state.lock();
        while !state.live.values().all(|(_, control)| control.is_parked()) {
            // A run that begins to wait for an approval, and a new deadline, wake no one: they are looked for.
            let look = Instant::now() + LOOK;
            let until = deadline().map_or(look, |deadline| deadline.min(look));
            if until <= Instant::now() {
                return;
            }
            self.ended.wait_until(&mut state, until);
        }
    }

    /// Suspends every live run whose steps are stored, and cancels the others.
    pub fn suspend_all(&self, why: Suspension) {
        let controls: Vec<_> = self.state.lock().live.values().map(|(_, control)| Arc::clone(control)).collect();
        controls.iter().for_each(|control| control.suspend(why));
    }
}

/// A run that lives. Dropped, it has ended, however that came.
pub(super) struct LiveRun {
    runs: Arc<Runs>,
    run_id: RunId,
    status: &'static str,
    error: Option<Error>,
    result: Option<Arc<RunResult>>,
}

impl LiveRun {
    /// How it ended. The result is kept only if nobody reads the stream any more.
    pub fn ended(&mut self, outcome: &Outcome, is_detached: bool) {
        match outcome {
            Ok(result) => {
                self.status = "completed";
                self.result = is_detached.then(|| Arc::new(result.clone()));
            }
            Err(failure) if failure.suspension.is_some() => self.status = "interrupted",
            Err(failure) => {
                self.status = if failure.error.status() == Status::Cancelled { "cancelled" } else { "failed" };
                self.error = Some(failure.error.clone());
            }
        }
    }
}

impl Drop for LiveRun {
    fn drop(&mut self) {
        let mut state = self.runs.state.lock();
        if let Some((mut info, _)) = state.live.remove(&self.run_id)
            && self.runs.max_finished > 0
        {
            info.status = self.status;
            info.error = self.error.take();
            info.result = self.result.take();
            info.ended_at_ms = Some(now_ms());
            if state.finished.len() >= self.runs.max_finished {
                state.finished.pop_front();
            }
            state.finished.push_back(info);
        }
        if state.live.is_empty() {
            self.runs.ended.notify_all();
        }
    }
}
