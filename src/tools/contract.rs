//! What a tool is to the loop: something that turns arguments into an output, or into a failure the model can act on.

use crate::types::{Cancel, ToolCallId};
use futures_util::future::BoxFuture;
use serde_json::Value;

/// A tool that runs inside the library, or in a Rust host.
///
/// # Cancel safety
/// The future is dropped on timeout, cancellation and close; `invocation.cancel` fires at the same time for work that
/// the tool handed elsewhere.
pub trait Tool: Send + Sync {
    /// Runs the tool once. The input has been checked against its schema.
    fn call<'a>(&'a self, invocation: Invocation<'a>) -> BoxFuture<'a, ToolOutput>;
}

/// One call of a [`Tool`].
#[derive(Debug)]
pub struct Invocation<'a> {
    /// Which call it is.
    pub id: &'a ToolCallId,
    /// The same whenever this call is run again after a crash, and that of no other call.
    pub idempotency_key: &'a str,
    /// The arguments.
    pub input: &'a Value,
    /// Fires when the result is not wanted any more.
    pub cancel: Cancel,
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

    /// What the model reads.
    pub fn for_model(&self) -> String {
        let code = self.code.as_ref().map(|code| format!(" [{code}]")).unwrap_or_default();
        let again = if self.retryable { " You may try again." } else { "" };
        format!("The tool failed{code}: {}{again}", self.message)
    }
}
