//! A run from its beginning to its end, whatever end that is.

use super::budget::Account;
use super::control::{Control, SUSPENDED, Suspension};
use super::drive::drive;
use super::meter::Meter;
use super::setup::{Agents, Quota, Setup};
use super::structured::Structured;
use super::template::Prompt;
use super::work::{Conversation, Progress};
use crate::approval::ApprovalDesk;
use crate::config::{Budget, EvalLimits, Limits, UnknownPrice};
use crate::events::Emitter;
use crate::llm::HttpPool;
use crate::store::{PendingCommit, RunEnd, RunLog, RunStatus, SessionKey, Store, Unfinished};
use crate::tools::{Helpers, HostDesk, Workspace};
use crate::types::{
    AgentId, Error, EventBody, Message, Part, RunId, RunResult, Scope, SessionId, Status, Usage, now_ms,
};
use futures_util::FutureExt;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Everything one run needs, assembled beforehand.
pub struct RunSpec {
    /// Which run.
    pub run_id: RunId,
    /// Any JSON of the host's, echoed in every event.
    pub tag: Option<Box<RawValue>>,
    /// The names of the agents that lead to it, if it is a sub-agent's.
    pub path: Vec<String>,
    /// Which agent, ready.
    pub setup: Arc<Setup>,
    /// The agents it may hand over to, or use.
    pub agents: Arc<dyn Agents>,
    /// What the agent is told before.
    pub prompt: Prompt,
    /// What the user says.
    pub input: Vec<Part>,
    /// Values of the system prompt's variables.
    pub variables: Arc<Map<String, Value>>,
    /// Whom it acts for.
    pub roles: Arc<[String]>,
    /// Whose it is.
    pub scope: Scope,
    /// The conversation it continues.
    pub session: Option<SessionId>,
    /// Whether it waits while another run has that.
    pub waits_for_session: bool,
    /// What it says of itself to be kept; none if nothing is, and for runs below others: those cannot go on by themselves.
    pub log: Option<Arc<RunLog>>,
    /// What it did before its process ended, if it goes on.
    pub resumed: Option<Box<Unfinished>>,
    /// Why it must not begin at all.
    pub refused: Option<Error>,
    /// What the answer must fit.
    pub structured: Option<Structured>,
    /// Whether a long text is wanted.
    pub generates: bool,
    /// What it may consume.
    pub account: Account,
    /// Counts what it consumes.
    pub meter: Arc<Meter>,
    /// What its session may.
    pub session_budget: Option<Budget>,
    /// The most tokens of one answer.
    pub max_tokens_per_turn: Option<u32>,
    /// What a model without a price means.
    pub unknown_price: UnknownPrice,
    /// Bounds of conditions.
    pub eval_limits: EvalLimits,
    /// Threads for checks that take long.
    pub helpers: Helpers,
    /// Every other bound.
    pub limits: Arc<Limits>,
    /// The runtime, for templates.
    pub runtime_id: Arc<str>,
    /// Where conversations are kept.
    pub store: Arc<Store>,
    /// The folder of its tools, if it has another one than the runtime.
    pub workspace: Option<Arc<Workspace>>,
    /// The way to the host.
    pub desk: Arc<HostDesk>,
    /// Calls that wait for somebody's word.
    pub approvals: Arc<ApprovalDesk>,
    /// When it must be done.
    pub deadline: Option<Instant>,
    /// The host's hand on it.
    pub control: Arc<Control>,
    /// The runtime's places, if it has so many and this run needs one of its own.
    pub places: Option<Arc<Semaphore>>,
    /// Agents whose place in their quota the runs above hold: they need no other.
    pub holds: Vec<AgentId>,
}

impl RunSpec {
    /// The conversation it continues, as it is kept.
    pub fn session_key(&self) -> Option<SessionKey> {
        self.session.clone().map(|id| SessionKey { scope: self.scope.clone(), id })
    }

    /// The agents whose places a run below this one need not wait for.
    pub fn holds_with_own(&self) -> Vec<AgentId> {
        let mut holds = self.holds.clone();
        holds.push(self.setup.config.id.clone());
        holds
    }
}

/// What became of a run.
pub type Outcome = std::result::Result<RunResult, RunFailure>;

/// Why a run has no result, and what it did all the same.
#[derive(Clone, Debug)]
pub struct RunFailure {
    /// Why. Status [`Status::Cancelled`] if it was cancelled.
    pub error: Error,
    /// What it had consumed.
    pub usage: Usage,
    /// Model requests it had made.
    pub iterations: u32,
    /// What was said in it, every tool call answered.
    pub messages: Vec<Message>,
    /// Why it has no end, if it can be resumed.
    pub suspension: Option<Suspension>,
}

/// Runs the agent to its end and emits its events, the terminal one included.
///
/// `conclude` sees the outcome before the terminal event goes out: who reads the event finds the result in place.
pub async fn execute<T>(spec: &RunSpec, emitter: &Emitter, http: &HttpPool, conclude: impl FnOnce(&Outcome) -> T) -> T {
    let (agent, session) = (spec.setup.config.id.as_str(), spec.session.as_ref().map(SessionId::as_str));
    emitter.emit(&match spec.resumed {
        None => EventBody::RunStarted { agent, session },
        Some(_) => EventBody::RunResumed { agent, session },
    });
    let (mut outcome, left) = attempt(spec, emitter, http).await;
    let Some(log) = &spec.log else {
        // The session is free before anyone can see that the run has ended.
        drop(left);
        let concluded = conclude(&outcome);
        with_end(spec, &outcome, |end| emitter.finish(end));
        return concluded;
    };
    emitter.settle().await;
    if let Err(RunFailure { suspension: Some(_), .. }) = &outcome {
        // To the store the run goes on: it gets no terminal event.
        if let Err(error) = log.release().await {
            outcome = Err(not_kept(spec, outcome, &error));
        }
        let concluded = conclude(&outcome);
        with_end(spec, &outcome, |end| emitter.finish_unlogged(end));
        return concluded;
    }
    // Kept before anybody is told: nobody believes in an end that a crash can undo.
    let sealed = with_end(spec, &outcome, |end| emitter.seal(end));
    match log.end(end_of(&outcome), left).await {
        Ok(()) => {
            let concluded = conclude(&outcome);
            emitter.unseal(&sealed);
            concluded
        }
        Err(error) => {
            outcome = Err(not_kept(spec, outcome, &error));
            let concluded = conclude(&outcome);
            with_end(spec, &outcome, |end| emitter.unseal_as(end));
            concluded
        }
    }
}

/// Runs the agent to its end, without the events that begin and end a stream.
pub async fn execute_below(spec: &RunSpec, emitter: &Emitter, http: &HttpPool) -> Outcome {
    let (outcome, left) = attempt(spec, emitter, http).await;
    let Some(log) = &spec.log else { return outcome };
    match log.end(end_of(&outcome), left).await {
        Ok(()) => outcome,
        Err(error) => Err(not_kept(spec, outcome, &error)),
    }
}

fn with_end<T>(spec: &RunSpec, outcome: &Outcome, tell: impl FnOnce(&EventBody<'_>) -> T) -> T {
    let cost_usd = spec.meter.read().known_cost();
    match outcome {
        Ok(result) => tell(&EventBody::Completed(result)),
        Err(RunFailure { suspension: Some(why), usage, .. }) => {
            tell(&EventBody::Suspended { reason: why.reason(), usage: *usage, cost_usd })
        }
        Err(RunFailure { error, usage, messages, .. }) if error.status() == Status::Cancelled => {
            tell(&EventBody::Cancelled { reason: &spec.control.reason(), usage: *usage, cost_usd, messages })
        }
        Err(RunFailure { error, usage, messages, .. }) => {
            tracing::info!(run_id = spec.run_id.as_str(), "run failed: {error}");
            tell(&EventBody::Failed { error, usage: *usage, cost_usd, messages })
        }
    }
}

fn end_of(outcome: &Outcome) -> RunEnd {
    let (status, error) = match outcome {
        Ok(_) => (RunStatus::Completed, None),
        Err(failure) => {
            let cancelled = failure.error.status() == Status::Cancelled;
            let status = if cancelled { RunStatus::Cancelled } else { RunStatus::Failed };
            (status, serde_json::to_string(&failure.error).ok())
        }
    };
    RunEnd { status, ended_at_ms: now_ms(), error, session: None }
}

/// The outcome of a run whose end could not be written, as was asked for.
fn not_kept(spec: &RunSpec, outcome: Outcome, why: &Error) -> RunFailure {
    let ended = match &outcome {
        Ok(_) => "has its result",
        Err(RunFailure { suspension: Some(_), .. }) => "was suspended",
        Err(_) => "has failed",
    };
    let message = format!("the run {ended}, but that could not be written yet: {}", why.message());
    let error = why.clone().with_message(message).with_run_id(spec.run_id.as_str());
    match outcome {
        Ok(result) => RunFailure {
            error,
            usage: result.usage,
            iterations: result.iterations,
            messages: Vec::new(),
            suspension: None,
        },
        Err(failure) => RunFailure { error, suspension: None, ..failure },
    }
}

async fn attempt(spec: &RunSpec, emitter: &Emitter, http: &HttpPool) -> (Outcome, Option<PendingCommit>) {
    let mut progress = Progress::new(spec.account.clone(), Arc::clone(&spec.meter));
    tracing::debug!(run_id = spec.run_id.as_str(), agent = spec.setup.config.id.as_str(), "run started");
    let control = &spec.control;
    let ended = {
        let limits = deadlines(spec);
        // In a place of its own: a future that is moved into others is there once for each of them.
        let body = AssertUnwindSafe(Box::pin(async {
            if let Some(refused) = &spec.refused {
                return Err(refused.clone());
            }
            let _places = (runtime_place(spec, emitter).await, agent_place(spec, emitter).await);
            drive(spec, emitter, &mut progress, http).await
        }))
        .catch_unwind();
        tokio::select! {
            biased;
            () = control.cancel.cancelled() => Err(cancelled(control)),
            overdue = until(limits) => Err(overdue),
            ended = body => ended.unwrap_or_else(|panic| Err(panic_error(&*panic))),
        }
    };
    take_no_more(control, emitter);
    let suspension = control.suspension().filter(|_| ended.is_err() && spec.log.is_some());
    let (ended, messages, left) = match suspension {
        // The session stays as it was before the run; the run's own steps are in its log.
        Some(_) => (Err(suspended()), Vec::new(), None),
        None => {
            let (messages, left) = keep(&mut progress, ended.is_ok());
            (ended, messages, left)
        }
    };
    tracing::debug!(run_id = spec.run_id.as_str(), iterations = progress.iterations, "run ended");
    let outcome = ended.map_err(|error| RunFailure {
        error: error.with_run_id(spec.run_id.as_str()),
        usage: spec.meter.read().usage,
        iterations: progress.iterations,
        messages,
        suspension,
    });
    (outcome, left)
}

/// Nothing can be said to the run from here on; what waits is not lost silently.
pub fn take_no_more(control: &Control, emitter: &Emitter) {
    let lost = control.close();
    if lost > 0 {
        let message = format!("{lost} messages that were said to the run came too late for it");
        emitter.emit(&EventBody::Warning { code: "steering_lost", message: message.into() });
    }
}

/// The error of a run that was cancelled.
pub fn cancelled(control: &Control) -> Error {
    Error::new(Status::Cancelled, format!("the run was cancelled: {}", control.reason()))
}

/// The error of a run that stopped without an end.
fn suspended() -> Error {
    Error::new(Status::Closed, "the run was suspended before its end")
        .with_code(SUSPENDED)
        .with_hint("runs.resume continues it, in this process or another")
}

/// Waits for a place in the runtime's quota.
async fn runtime_place<'s>(spec: &'s RunSpec, emitter: &Emitter) -> Option<SemaphorePermit<'s>> {
    wait_for_place(spec.places.as_deref()?, "as many runs run as default_quota allows; this one waits", emitter).await
}

/// Waits for a place in the agent's quota, unless a run above has one.
async fn agent_place<'s>(spec: &'s RunSpec, emitter: &Emitter) -> Option<SemaphorePermit<'s>> {
    let quota: &Quota = spec.setup.quota.as_deref().filter(|_| !spec.holds.contains(&spec.setup.config.id))?;
    let message = "the agent runs as often as its resource_quota allows; this run waits";
    wait_for_place(quota.runs.as_ref()?, message, emitter).await
}

async fn wait_for_place<'s>(
    places: &'s Semaphore,
    message: &'static str,
    emitter: &Emitter,
) -> Option<SemaphorePermit<'s>> {
    match places.try_acquire() {
        Ok(place) => Some(place),
        Err(_) => {
            emitter.emit(&EventBody::Warning { code: "queued", message: message.into() });
            // Closed only when its owner is dropped, and it is not while we have it.
            places.acquire().await.ok()
        }
    }
}

/// Keeps what is worth keeping, and answers what was said. A run that failed before the model said anything leaves its
/// session's conversation as it was, so that the same request can simply be made again; one that failed later keeps its
/// rounds, every call answered honestly.
fn keep(progress: &mut Progress, succeeded: bool) -> (Vec<Message>, Option<PendingCommit>) {
    let (mark, counted) = (progress.mark, progress.meter.read());
    let started = &progress.started_calls;
    let session = progress.conversation.session_mut();
    session.transcript.close_open_calls(|call| started.closing(call));
    if succeeded && matches!(progress.conversation, Conversation::Own(_)) {
        return (Vec::new(), None);
    }
    let session = progress.conversation.session_mut();
    let messages = if succeeded { Vec::new() } else { session.transcript.since(mark) };
    let answered = messages.iter().any(|message| matches!(message, Message::Assistant { .. }));
    if !succeeded && !answered {
        session.transcript.rewind(mark);
        if counted.requests == 0 {
            return (messages, None);
        }
    }
    session.usage += counted.usage;
    session.cost = session.cost.saturating_add(counted.cost);
    session.requests += counted.requests;
    session.tool_calls += counted.tool_calls;
    let own = Conversation::Own(Box::default());
    let left = match std::mem::replace(&mut progress.conversation, own) {
        Conversation::Held(lease) => Some(lease.commit()),
        Conversation::Own(_) => None,
    };
    (messages, left)
}

/// When the run must be done, and what it means if it is not.
fn deadlines(spec: &RunSpec) -> Option<(Instant, Error)> {
    let now = Instant::now();
    let own = spec.setup.config.max_execution_time.and_then(|limit| now.checked_add(Duration::from_secs_f64(limit)));
    let overdue = |message: &str, code: &'static str, hint: &'static str| {
        Error::new(Status::Deadline, message.to_owned()).with_code(code).with_retryable(true).with_hint(hint)
    };
    let all = [
        spec.deadline.map(|at| {
            let hint = "raise timeout_ms, or look at its events for what took so long";
            (at, overdue("the run did not end within its time", "deadline", hint))
        }),
        own.map(|at| {
            let hint = "raise the agent's max_execution_time, or look at its events for what took so long";
            (at, overdue("the run took longer than the agent's max_execution_time", "max_execution_time", hint))
        }),
        spec.account.deadline().map(|at| {
            let error = Error::new(Status::Limit, "the run's budget of wall_ms is used up")
                .with_code("budget_exceeded")
                .with_path("budget.wall_ms")
                .with_hint("raise the budget");
            (at, error)
        }),
    ];
    all.into_iter().flatten().min_by_key(|(at, _)| *at)
}

async fn until(deadline: Option<(Instant, Error)>) -> Error {
    match deadline {
        Some((at, error)) => {
            tokio::time::sleep_until(at).await;
            error
        }
        None => std::future::pending().await,
    }
}

/// What a panic said, as an error. The run is lost, the runtime is not.
pub(crate) fn panic_error(panic: &(dyn Any + Send)) -> Error {
    let said = panic
        .downcast_ref::<&str>()
        .map(|said| (*said).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    tracing::error!("a panic was caught: {said}");
    Error::new(Status::Panic, format!("libpar panicked: {said}"))
        .with_code("panic")
        .with_hint("this is a bug: please report it with this message; the runtime can still be used")
}
