//! What a tool is to the loop: something that turns arguments into an output, or into a failure the model can act on.

use super::Workspace;
use crate::types::{Cancel, EventBody, Scope, ToolCallId};
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::to_raw_value;
use std::sync::Arc;

/// A tool that runs inside the library, or in a Rust host.
///
/// # Cancel safety
/// The future is dropped on timeout, cancellation and close; `invocation.cancel` fires at the same time for work that
/// the tool handed elsewhere.
pub trait Tool: Send + Sync {
    /// Runs the tool once. The input has been checked against its schema.
    fn call<'a>(&'a self, invocation: Invocation<'a>) -> BoxFuture<'a, ToolOutput>;

    /// Whether this call must be asked for first, besides what the tool's permission says. A failure is told to the model
    /// instead of running the call. An approval may change the input afterwards: what must never run is refused in
    /// [`Tool::call`], too.
    fn review(&self, _invocation: &Invocation<'_>) -> Result<Review, ToolFailure> {
        Ok(Review::Go)
    }

    /// Whether [`Tool::review`] may ever ask.
    fn may_ask(&self) -> bool {
        false
    }
}

/// What a tool thinks of a call before it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Review {
    /// It may be made.
    Go,
    /// Somebody must be asked; why.
    Ask(String),
}

/// One call of a [`Tool`].
#[derive(Clone)]
pub struct Invocation<'a> {
    /// Which call it is.
    pub id: &'a ToolCallId,
    /// The same whenever this call is run again after a crash, and that of no other call.
    pub idempotency_key: String,
    /// The tenant that the run belongs to: it sees nothing of another one.
    pub scope: &'a Scope,
    /// The arguments.
    pub input: &'a Value,
    /// Fires when the result is not wanted any more.
    pub cancel: Cancel,
    /// The folder of the run, if it has another one than the runtime.
    pub workspace: Option<&'a Arc<Workspace>>,
    /// Takes events of the run.
    pub emit: &'a (dyn Fn(&EventBody<'_>) + Send + Sync),
}

impl Invocation<'_> {
    /// Says how far the call is: a `tool_progress` event with this note.
    pub fn progress(&self, note: &impl Serialize) {
        // What cannot be said in JSON is not worth failing for.
        if let Ok(note) = to_raw_value(note) {
            (self.emit)(&EventBody::ToolProgress { tool_call_id: self.id, note: &note });
        }
    }
}

/// What a tool gives back: any JSON, or a failure.
pub type ToolOutput = Result<Value, ToolFailure>;

/// Why a tool failed, in words for the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolFailure {
    /// What went wrong and what would be right.
    pub message: String,
    /// A stable word for programs.
    pub code: Option<String>,
    /// Whether the model may try the same again.
    pub retryable: bool,
}

impl ToolFailure {
    /// A failure that trying again will not mend.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: None, retryable: false }
    }

    /// The same with a stable word for programs.
    pub fn with_code(self, code: impl Into<String>) -> Self {
        Self { code: Some(code.into()), ..self }
    }

    /// The same, and the model may try again.
    pub fn retryable(self) -> Self {
        Self { retryable: true, ..self }
    }

    /// What the model reads.
    pub fn for_model(&self) -> String {
        let code = self.code.as_ref().map(|code| format!(" [{code}]")).unwrap_or_default();
        let again = if self.retryable { " You may try again." } else { "" };
        format!("The tool failed{code}: {}{again}", self.message)
    }
}
