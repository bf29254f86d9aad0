//! Hooks that the host answers: a `middleware_call` with a token, like a tool call, answered by `par_tool_complete`.
//!
//! | hook | payload | answer; `null` or `{}` lets it pass |
//! | --- | --- | --- |
//! | `before_llm` | `system`, `messages`, `tools` | `system`, `add`: text, `answer`: text, `block`: why |
//! | `after_llm` | `parts`, `finish_reason` | `text`, `block` |
//! | `before_tool` | `tool_call_id`, `tool`, `input` | `input`, `result`: any JSON, `block` |
//! | `after_tool` | `tool_call_id`, `tool`, `content`, `is_error` | `content`, `is_error`, `block` |
//! | `on_error` | `error` | `retry`: true, `answer` |

use super::{BeforeLlm, BeforeTool, LlmCall, Middleware, OnError, PendingCall, Scene};
use crate::config::{Hook, HostMiddlewareConfig, OnFailure, strict};
use crate::llm::ModelAnswer;
use crate::tools::{HostAnswer, HostSays};
use crate::types::{Error, EventBody, Part, Result, Status, ToolCall, ToolResult, View, millis};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::timeout;

/// See the module's head.
pub struct Host {
    config: HostMiddlewareConfig,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct BeforeLlmAnswer {
    system: Option<String>,
    add: Option<String>,
    answer: Option<String>,
    block: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AfterLlmAnswer {
    text: Option<String>,
    block: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct BeforeToolAnswer {
    #[serde(deserialize_with = "strict::value")]
    input: Option<Value>,
    #[serde(deserialize_with = "strict::value")]
    result: Option<Value>,
    block: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AfterToolAnswer {
    content: Option<String>,
    is_error: Option<bool>,
    block: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct OnErrorAnswer {
    retry: bool,
    answer: Option<String>,
}

impl Host {
    /// The layer of a configuration.
    pub fn new(config: HostMiddlewareConfig) -> Self {
        Self { config }
    }

    fn has(&self, hook: Hook) -> bool {
        self.config.hooks.contains(&hook)
    }

    /// Asks the host. None: it has nothing to say, or could not and the run is to go on.
    async fn ask<T: DeserializeOwned>(&self, scene: Scene<'_>, hook: Hook, payload: Value) -> Result<Option<T>> {
        match self.wait(scene, hook, &payload).await {
            Ok(Value::Null) => Ok(None),
            Ok(answer) => match strict::read(&answer, "answer") {
                Ok(answer) => Ok(Some(answer)),
                Err(error) => self.failed(hook, &format!("answered what the hook does not take: {error}")),
            },
            Err(why) => self.failed(hook, &why),
        }
    }

    async fn wait(&self, scene: Scene<'_>, hook: Hook, payload: &Value) -> std::result::Result<Value, String> {
        let limit = Duration::from_secs_f64(self.config.timeout);
        let mut host = scene.desk.open();
        let token = host.token();
        let (name, hook) = (self.config.name.as_str(), hook.name());
        let deadline_ms = millis(limit);
        let work = EventBody::MiddlewareCall { token, name, hook, payload, deadline_ms };
        let (callback, inbox) = (scene.desk.callback(), scene.desk.inbox());
        if !scene.emitter.hand_over(callback, inbox, token, &work) {
            return Err("cannot be asked: nobody is there".into());
        }
        // Told when the run goes on, or ends, without an answer.
        let cancelled = Unanswered { scene, token, name, hook };
        let answer = loop {
            match timeout(limit, host.next()).await {
                Ok(HostSays::Progress(_)) => {}
                Ok(HostSays::Answer(answer)) => {
                    std::mem::forget(cancelled);
                    break answer;
                }
                Err(_) => {
                    drop(host);
                    return Err(format!("did not answer within {} s", limit.as_secs_f64()));
                }
            }
        };
        match answer {
            HostAnswer::Complete(result) => {
                serde_json::from_str(result.get()).map_err(|error| format!("answered no JSON: {error}"))
            }
            HostAnswer::Fail(failure) => Err(format!("failed: {}", failure.message)),
        }
    }

    fn failed<T>(&self, hook: Hook, why: &str) -> Result<Option<T>> {
        let message = format!("the middleware {:?} ({}) {why}", self.config.name, hook.name());
        match self.config.on_failure {
            OnFailure::Continue => {
                tracing::warn!("{message}; the run goes on without it");
                Ok(None)
            }
            OnFailure::Fail => Err(Error::new(Status::Guard, message)
                .with_code("middleware_failed")
                .with_hint("set \"on_failure\": \"continue\" if the run may go on without it")),
        }
    }

    fn blocked(&self, hook: Hook, why: &str) -> Error {
        Error::new(
            Status::Guard,
            format!("the middleware {:?} blocked the run ({}): {why}", self.config.name, hook.name()),
        )
        .with_code("blocked")
    }
}

/// A question that nobody waits for any more once this is dropped.
struct Unanswered<'a> {
    scene: Scene<'a>,
    token: u64,
    name: &'a str,
    hook: &'a str,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        let Self { scene, token, name, hook } = *self;
        let work = EventBody::MiddlewareCancelled { token, name, hook, reason: "nobody waits for the answer any more" };
        // Nobody to tell is no trouble here.
        let _ = scene.emitter.hand_over(scene.desk.callback(), scene.desk.inbox(), token, &work);
    }
}

impl Middleware for Host {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn needs_host(&self) -> bool {
        self.config.on_failure == OnFailure::Fail
    }

    fn before_llm<'a>(&'a self, scene: Scene<'a>, call: &'a mut LlmCall<'_>) -> BoxFuture<'a, Result<BeforeLlm>> {
        Box::pin(async move {
            if !self.has(Hook::BeforeLlm) {
                return Ok(BeforeLlm::Go);
            }
            let messages: Vec<Value> = call.transcript.view().map(shown).collect();
            let tools: Vec<&str> = call.tools.iter().map(|tool| tool.name.as_str()).collect();
            let payload = json!({"provider": scene.provider, "model": scene.model, "system": call.system,
                                 "messages": messages, "tools": tools});
            let answer: Option<BeforeLlmAnswer> = self.ask(scene, Hook::BeforeLlm, payload).await?;
            let answer = answer.unwrap_or_default();
            if let Some(system) = answer.system {
                call.system = Some(system);
            }
            call.added.extend(answer.add);
            Ok(match (answer.block, answer.answer) {
                (Some(why), _) => BeforeLlm::Block(self.blocked(Hook::BeforeLlm, &why).message().to_owned()),
                (None, Some(text)) => BeforeLlm::Answer(text),
                (None, None) => BeforeLlm::Go,
            })
        })
    }

    fn after_llm<'a>(&'a self, scene: Scene<'a>, answer: &'a mut ModelAnswer) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if !self.has(Hook::AfterLlm) {
                return Ok(());
            }
            let payload = json!({"parts": answer.parts, "finish_reason": answer.finish_reason, "usage": answer.usage});
            let said: Option<AfterLlmAnswer> = self.ask(scene, Hook::AfterLlm, payload).await?;
            let said = said.unwrap_or_default();
            if let Some(why) = said.block {
                return Err(self.blocked(Hook::AfterLlm, &why));
            }
            if let Some(text) = said.text {
                // One text takes the place of all; where there was none, it comes before the calls.
                let was_at = answer.parts.iter().position(|part| part.as_text().is_some());
                let first_call = answer.parts.iter().position(|part| part.as_tool_call().is_some());
                let at = was_at.or(first_call).unwrap_or(answer.parts.len());
                answer.parts.insert(at, Part::text(text));
                let mut index = 0;
                answer.parts.retain(|part| {
                    let keeps = index == at || part.as_text().is_none();
                    index += 1;
                    keeps
                });
            }
            Ok(())
        })
    }

    fn before_tool<'a>(&'a self, scene: Scene<'a>, call: &'a mut PendingCall<'_>) -> BoxFuture<'a, Result<BeforeTool>> {
        Box::pin(async move {
            if !self.has(Hook::BeforeTool) {
                return Ok(BeforeTool::Go);
            }
            let payload = json!({"tool_call_id": call.call.id, "tool": call.call.name, "input": call.input});
            let said: Option<BeforeToolAnswer> = self.ask(scene, Hook::BeforeTool, payload).await?;
            let said = said.unwrap_or_default();
            if let Some(why) = said.block {
                return Ok(BeforeTool::Block(format!("The call was not allowed: {why}")));
            }
            if let Some(input) = said.input {
                call.input = input;
            }
            Ok(match said.result {
                Some(Value::String(text)) => BeforeTool::Answer(ToolResult::ok(text)),
                Some(value) => BeforeTool::Answer(ToolResult::ok(value.to_string())),
                None => BeforeTool::Go,
            })
        })
    }

    fn after_tool<'a>(
        &'a self,
        scene: Scene<'a>,
        call: &'a ToolCall,
        result: &'a mut ToolResult,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if !self.has(Hook::AfterTool) {
                return Ok(());
            }
            let payload = json!({"tool_call_id": call.id, "tool": call.name, "content": result.content,
                                 "is_error": result.is_error});
            let said: Option<AfterToolAnswer> = self.ask(scene, Hook::AfterTool, payload).await?;
            let said = said.unwrap_or_default();
            if let Some(why) = said.block {
                *result = ToolResult::error(format!("The result was withheld: {why}"));
                return Ok(());
            }
            if let Some(content) = said.content {
                result.content = content;
            }
            result.is_error = said.is_error.unwrap_or(result.is_error);
            Ok(())
        })
    }

    fn on_error<'a>(&'a self, scene: Scene<'a>, error: &'a Error) -> BoxFuture<'a, Result<OnError>> {
        Box::pin(async move {
            if !self.has(Hook::OnError) {
                return Ok(OnError::Fail);
            }
            let said: Option<OnErrorAnswer> = self.ask(scene, Hook::OnError, json!({"error": error})).await?;
            Ok(match said.unwrap_or_default() {
                OnErrorAnswer { answer: Some(text), .. } => OnError::Answer(text),
                OnErrorAnswer { retry: true, answer: None } => OnError::Retry,
                OnErrorAnswer { retry: false, answer: None } => OnError::Fail,
            })
        })
    }
}

/// A message as the host is shown it: as it is stored.
fn shown(view: View<'_>) -> Value {
    match view {
        View::User(parts) => json!({"role": "user", "parts": parts}),
        View::Assistant(parts) => json!({"role": "assistant", "parts": parts}),
        View::Tool(call, result) => {
            json!({"role": "tool", "tool_call_id": call.id, "content": result.content, "is_error": result.is_error})
        }
    }
}
