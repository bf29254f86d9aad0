//! The loop, and how it ends.

use super::calls::{OpenCalls, run_calls};
use super::turn::ask_model;
use crate::config::AgentConfig;
use crate::events::Emitter;
use crate::llm::{HttpPool, ModelAnswer, Provider};
use crate::store::{SessionLease, Store};
use crate::tools::{HostDesk, Registered};
use crate::types::{
    Cancel, Error, EventBody, Mark, Part, Result, RunId, RunResult, SessionId, Status, ToolCallId, ToolCallRecord,
    ToolResult, ToolSpec, Transcript, Usage, View,
};
use futures_util::FutureExt;
use std::any::Any;
use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;
use tokio::time::Instant;

/// Everything one run needs, assembled beforehand: a run never looks anything up.
pub struct RunSpec {
    /// Which run.
    pub run_id: RunId,
    /// Which agent.
    pub agent: Arc<AgentConfig>,
    /// Its model.
    pub provider: Arc<dyn Provider>,
    /// Its tools, sorted by name.
    pub tools: Vec<Arc<Registered>>,
    /// What the user says.
    pub input: Vec<Part>,
    /// The conversation it continues.
    pub session: Option<SessionId>,
    /// Where conversations are kept.
    pub store: Arc<dyn Store>,
    /// The way to the host.
    pub desk: Arc<HostDesk>,
    /// Whether the calls of one answer run at the same time.
    pub parallel: bool,
    /// The most bytes of a tool result.
    pub max_tool_result_bytes: usize,
    /// When it must be done.
    pub deadline: Option<Instant>,
    /// Ends it early.
    pub cancel: Cancel,
}

/// What became of a run.
pub type Outcome = std::result::Result<RunResult, RunFailure>;

/// Why a run has no result, and what it consumed all the same.
#[derive(Clone, Debug)]
pub struct RunFailure {
    /// Why. Status [`Status::Cancelled`] if it was cancelled.
    pub error: Error,
    /// What it had consumed.
    pub usage: Usage,
}

/// What must survive the loop being dropped in the middle.
struct Progress {
    conversation: Conversation,
    usage: Usage,
    iterations: u32,
    open_calls: OpenCalls,
}

enum Conversation {
    /// Not yet begun.
    None,
    /// Of this run alone.
    Own(Transcript),
    /// A session's, held for the run.
    Session(Box<dyn SessionLease>, Mark),
}

impl Conversation {
    fn transcript(&mut self) -> Option<&mut Transcript> {
        match self {
            Self::None => None,
            Self::Own(transcript) => Some(transcript),
            Self::Session(lease, _) => Some(lease.transcript()),
        }
    }
}

/// Runs the agent to its end and emits its events, the terminal one included.
///
/// `conclude` sees the outcome before the terminal event goes out: who reads the event finds the result in place.
pub async fn execute<T>(
    spec: RunSpec,
    mut emitter: Emitter,
    http: &HttpPool,
    conclude: impl FnOnce(&Outcome) -> T,
) -> T {
    let mut progress = Progress {
        conversation: Conversation::None,
        usage: Usage::default(),
        iterations: 0,
        open_calls: OpenCalls::default(),
    };
    emitter.emit(&EventBody::RunStarted {
        agent: spec.agent.id.as_str(),
        session: spec.session.as_ref().map(SessionId::as_str),
    });
    tracing::debug!(run_id = spec.run_id.as_str(), agent = spec.agent.id.as_str(), "run started");
    let ended = {
        let body = AssertUnwindSafe(drive(&spec, &mut emitter, &mut progress, http)).catch_unwind();
        tokio::select! {
            biased;
            () = spec.cancel.cancelled() => Err(Error::new(Status::Cancelled, format!("the run was cancelled: {}", spec.cancel.reason()))),
            () = until(spec.deadline) => Err(deadline_error()),
            ended = body => ended.unwrap_or_else(|panic| Err(panic_error(&*panic))),
        }
    };
    progress.open_calls.cancel(&spec.desk, &mut emitter, ended.as_ref().err().map_or("the run ended", Error::message));
    let kept = keep(&mut progress, ended.is_ok()).await;
    let outcome = ended
        .and_then(|result| kept.map(|()| result))
        .map_err(|error| RunFailure { error: error.with_run_id(spec.run_id.as_str()), usage: progress.usage });
    tracing::debug!(run_id = spec.run_id.as_str(), iterations = progress.iterations, "run ended");
    let concluded = conclude(&outcome);
    match &outcome {
        Ok(result) => emitter.finish(&EventBody::Completed(result)),
        Err(failure) if failure.error.status() == Status::Cancelled => {
            emitter.finish(&EventBody::Cancelled { reason: &spec.cancel.reason(), usage: failure.usage });
        }
        Err(failure) => {
            tracing::info!(run_id = spec.run_id.as_str(), "run failed: {}", failure.error);
            emitter.finish(&EventBody::Failed { error: &failure.error, usage: failure.usage });
        }
    }
    concluded
}

async fn drive(spec: &RunSpec, emitter: &mut Emitter, progress: &mut Progress, http: &HttpPool) -> Result<RunResult> {
    progress.conversation = match &spec.session {
        None => Conversation::Own(Transcript::new()),
        Some(id) => {
            let mut lease = spec.store.lease(id).await?;
            let mark = lease.transcript().mark();
            Conversation::Session(lease, mark)
        }
    };
    let transcript =
        progress.conversation.transcript().ok_or_else(|| Error::internal("a run without a conversation"))?;
    let first_call = transcript.view().filter(|view| matches!(view, View::Tool(..))).count();
    transcript.push_user(spec.input.clone()).map_err(|error| Error::internal(error.to_string()))?;
    let specs: Vec<ToolSpec> = spec.tools.iter().map(|tool| tool.spec().clone()).collect();
    let requests_made = AtomicU32::new(0);
    loop {
        if progress.iterations == spec.agent.max_iterations {
            return Err(max_iterations_error(spec.agent.max_iterations));
        }
        progress.iterations += 1;
        emitter.emit(&EventBody::TurnStarted { turn: progress.iterations });
        let answer = ask_model(spec, transcript, &specs, http, &requests_made, emitter).await?;
        progress.usage += answer.usage;
        emitter.emit(&EventBody::UsageUpdate { usage: answer.usage, total: progress.usage });
        let ModelAnswer { parts, finish_reason, model, usage: _ } = answer;
        let calls_tools = parts.iter().any(|part| matches!(part, Part::ToolCall(_)));
        if !parts.is_empty() {
            transcript.push_assistant(parts.clone()).map_err(|error| Error::internal(error.to_string()))?;
        }
        if !calls_tools {
            let text = text_of(&parts);
            return Ok(RunResult {
                text,
                parts,
                tool_calls: records(transcript, first_call),
                finish_reason,
                usage: progress.usage,
                model,
                iterations: progress.iterations,
                session: spec.session.clone(),
            });
        }
        run_calls(spec, transcript, emitter, &progress.open_calls).await?;
    }
}

/// Keeps what is worth keeping. A run that failed before the model said anything leaves its session as it was, so that
/// the same request can simply be made again; one that failed later keeps its rounds, every call answered honestly.
async fn keep(progress: &mut Progress, succeeded: bool) -> Result<()> {
    let conversation = std::mem::replace(&mut progress.conversation, Conversation::None);
    let Conversation::Session(mut lease, mark) = conversation else { return Ok(()) };
    let transcript = lease.transcript();
    let answered = transcript.len_since(mark) > 1;
    if !succeeded && !answered {
        return Ok(());
    }
    let running: HashSet<ToolCallId> = progress.open_calls.started();
    transcript.close_open_calls(|call| {
        if running.contains(&call.id) {
            ToolResult::error("The run was interrupted while this call was running; it may have taken effect.")
        } else {
            ToolResult::error("The run was interrupted; this call was not executed.")
        }
    });
    lease.commit().await
}

fn records(transcript: &Transcript, skip: usize) -> Vec<ToolCallRecord> {
    transcript
        .view()
        .filter_map(|view| match view {
            View::Tool(call, result) => Some(ToolCallRecord { call: call.clone(), is_error: result.is_error }),
            View::User(_) | View::Assistant(_) => None,
        })
        .skip(skip)
        .collect()
}

fn text_of(parts: &[Part]) -> String {
    parts
        .iter()
        .filter_map(|part| match part {
            Part::Text { text } => Some(text.as_str()),
            Part::Reasoning { .. } | Part::ToolCall(_) | Part::Opaque { .. } => None,
        })
        .collect()
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn deadline_error() -> Error {
    Error::new(Status::Deadline, "the run did not end within its time")
        .with_code("deadline")
        .with_retryable(true)
        .with_hint("raise timeout_ms, or look at its events for what took so long")
}

fn max_iterations_error(most: u32) -> Error {
    Error::new(Status::Limit, format!("the agent made {most} model requests without coming to an end"))
        .with_code("max_iterations")
        .with_hint("raise the agent's max_iterations, or see in the events why it goes on calling tools")
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

/// A duration as whole milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
