//! Floor 4: what stands around model requests and tool calls.
//!
//! A [`Chain`] is the runtime's middleware and then the agent's. Before a request or a call it acts in that order,
//! afterwards in reverse, so that the first is the outermost:
//!
//! | moment | order | may |
//! | --- | --- | --- |
//! | `before_llm` | outside in | change the system prompt, add text, answer instead of the model, block the run |
//! | rate limits | outside in, before each attempt | wait |
//! | retry, timeout | the innermost of each kind counts | |
//! | `after_llm` | inside out | change or block the answer |
//! | `before_tool` | outside in | change the input, answer instead of the tool, block the call |
//! | `after_tool` | inside out | change or block the result |
//! | `on_error` | inside out | ask again, answer instead of failing |
//!
//! What is masked or stripped in whole answers is masked and stripped in streamed text too ([`Chain::text_pipeline`]).

mod chain;
mod host;
mod logging;
pub(crate) mod pii;
mod pii_match;
mod pipeline;
pub(crate) mod sanitize;
pub(crate) mod stream_filter;
mod text;
pub(crate) mod think;
mod validation;

pub use chain::Chain;
pub use pipeline::TextPipeline;

use crate::events::Emitter;
use crate::llm::ModelAnswer;
use crate::tools::{HostDesk, Registered};
use crate::types::{AgentId, Error, Result, RunId, ToolCall, ToolResult, ToolSpec, Transcript};
use futures_util::future::{BoxFuture, ready};
use serde_json::Value;
use std::sync::Arc;

/// The run that a hook is called in.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    /// Which run.
    pub run_id: &'a RunId,
    /// Which agent.
    pub agent: &'a AgentId,
    /// Key of `llm_providers`.
    pub provider: &'a str,
    /// The model's name.
    pub model: &'a str,
    /// Its events.
    pub emitter: &'a Emitter,
    /// The way to the host.
    pub desk: &'a Arc<HostDesk>,
}

/// A model request that is about to be made.
pub struct LlmCall<'a> {
    /// The conversation.
    pub transcript: &'a Transcript,
    /// The tools.
    pub tools: &'a [ToolSpec],
    /// What the conversation starts with, for this request.
    pub system: Option<String>,
    /// What the user is to have said besides; kept in the conversation.
    pub added: Vec<String>,
}

/// What becomes of a model request.
#[derive(Clone, Debug, PartialEq)]
pub enum BeforeLlm {
    /// It is made.
    Go,
    /// This is the answer.
    Answer(String),
    /// It must not be made, and the run fails.
    Block(String),
}

/// A tool call that is about to be made.
pub struct PendingCall<'a> {
    /// As the model made it.
    pub call: &'a ToolCall,
    /// The tool.
    pub tool: Option<&'a Registered>,
    /// The arguments, as they stand.
    pub input: Value,
}

/// What becomes of a tool call.
#[derive(Clone, Debug, PartialEq)]
pub enum BeforeTool {
    /// It is made.
    Go,
    /// This is the result.
    Answer(ToolResult),
    /// It must not be made; the model is told why.
    Block(String),
}

/// What becomes of a run whose model request has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnError {
    /// It fails.
    Fail,
    /// The request is made once more.
    Retry,
    /// This is the answer.
    Answer(String),
}

/// One layer. Every hook has a default that does nothing.
pub trait Middleware: Send + Sync {
    /// Its name, for errors and the log.
    fn name(&self) -> &str;

    /// Whether the run fails without the host's word.
    fn needs_host(&self) -> bool {
        false
    }

    /// Before a model request.
    fn before_llm<'a>(&'a self, scene: Scene<'a>, call: &'a mut LlmCall<'_>) -> BoxFuture<'a, Result<BeforeLlm>> {
        let _ = (scene, call);
        Box::pin(ready(Ok(BeforeLlm::Go)))
    }

    /// After a model's answer.
    fn after_llm<'a>(&'a self, scene: Scene<'a>, answer: &'a mut ModelAnswer) -> BoxFuture<'a, Result<()>> {
        let _ = (scene, answer);
        Box::pin(ready(Ok(())))
    }

    /// Before a tool call.
    fn before_tool<'a>(&'a self, scene: Scene<'a>, call: &'a mut PendingCall<'_>) -> BoxFuture<'a, Result<BeforeTool>> {
        let _ = (scene, call);
        Box::pin(ready(Ok(BeforeTool::Go)))
    }

    /// After a tool call.
    fn after_tool<'a>(
        &'a self,
        scene: Scene<'a>,
        call: &'a ToolCall,
        result: &'a mut ToolResult,
    ) -> BoxFuture<'a, Result<()>> {
        let _ = (scene, call, result);
        Box::pin(ready(Ok(())))
    }

    /// After a model request has failed for good.
    fn on_error<'a>(&'a self, scene: Scene<'a>, error: &'a Error) -> BoxFuture<'a, Result<OnError>> {
        let _ = (scene, error);
        Box::pin(ready(Ok(OnError::Fail)))
    }
}
