//! Logs each model request and tool call: never what was said in it.

use super::{BeforeLlm, BeforeTool, LlmCall, Middleware, OnError, PendingCall, Scene};
use crate::config::LogLevel;
use crate::llm::ModelAnswer;
use crate::types::{Error, Result, ToolCall, ToolResult};
use futures_util::future::{BoxFuture, ready};

/// See the module's head.
pub struct Logging {
    level: LogLevel,
}

impl Logging {
    /// Logs as messages of this level.
    pub fn new(level: LogLevel) -> Self {
        Self { level }
    }

    fn log(&self, scene: Scene<'_>, message: std::fmt::Arguments<'_>) {
        let (run_id, agent) = (scene.run_id.as_str(), scene.agent.as_str());
        match self.level {
            LogLevel::Off => {}
            LogLevel::Error => tracing::error!(run_id, agent, "{message}"),
            LogLevel::Warn => tracing::warn!(run_id, agent, "{message}"),
            LogLevel::Info => tracing::info!(run_id, agent, "{message}"),
            LogLevel::Debug => tracing::debug!(run_id, agent, "{message}"),
            LogLevel::Trace => tracing::trace!(run_id, agent, "{message}"),
        }
    }
}

impl Middleware for Logging {
    fn name(&self) -> &str {
        "logging"
    }

    fn before_llm<'a>(&'a self, scene: Scene<'a>, call: &'a mut LlmCall<'_>) -> BoxFuture<'a, Result<BeforeLlm>> {
        let (messages, tools) = (call.transcript.len(), call.tools.len());
        self.log(scene, format_args!("asking {}/{}: {messages} messages, {tools} tools", scene.provider, scene.model));
        Box::pin(ready(Ok(BeforeLlm::Go)))
    }

    fn after_llm<'a>(&'a self, scene: Scene<'a>, answer: &'a mut ModelAnswer) -> BoxFuture<'a, Result<()>> {
        let usage = answer.usage;
        self.log(
            scene,
            format_args!(
                "{} answered: {:?}, {} tokens in, {} out",
                answer.model, answer.finish_reason, usage.input_tokens, usage.output_tokens
            ),
        );
        Box::pin(ready(Ok(())))
    }

    fn before_tool<'a>(&'a self, scene: Scene<'a>, call: &'a mut PendingCall<'_>) -> BoxFuture<'a, Result<BeforeTool>> {
        self.log(scene, format_args!("calling the tool {:?} ({})", call.call.name, call.call.id));
        Box::pin(ready(Ok(BeforeTool::Go)))
    }

    fn after_tool<'a>(
        &'a self,
        scene: Scene<'a>,
        call: &'a ToolCall,
        result: &'a mut ToolResult,
    ) -> BoxFuture<'a, Result<()>> {
        let outcome = if result.is_error { "failed" } else { "answered" };
        self.log(
            scene,
            format_args!("the tool {:?} ({}) {outcome}: {} bytes", call.name, call.id, result.content.len()),
        );
        Box::pin(ready(Ok(())))
    }

    fn on_error<'a>(&'a self, scene: Scene<'a>, error: &'a Error) -> BoxFuture<'a, Result<OnError>> {
        self.log(scene, format_args!("the model request failed: {error}"));
        Box::pin(ready(Ok(OnError::Fail)))
    }
}
