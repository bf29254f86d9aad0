//! The tool calls of one model answer: admitted, run, answered.
//!
//! Arguments are checked before anything runs, and what is wrong with them is told to the model, which can mend it. Each
//! call has its own deadline and its tool's concurrency limit; results are answered in call order whatever order they
//! come in. A tool that fails does not fail the run.

use super::run::{RunSpec, millis, panic_error};
use crate::config::Permission;
use crate::events::Emitter;
use crate::tools::{HostAnswer, HostDesk, HostSays, Invocation, Registered, Runner, Tool, ToolFailure};
use crate::types::{Error, EventBody, Result, ToolCall, ToolCallId, ToolResult, Transcript};
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Runs every open call of the transcript and answers it.
pub(super) async fn run_calls(
    spec: &RunSpec,
    transcript: &mut Transcript,
    emitter: &mut Emitter,
    open_calls: &OpenCalls,
) -> Result<()> {
    let calls: Vec<ToolCall> = transcript.open_calls().cloned().collect();
    // Locked only to write an event, never across an await.
    let desk = Desk { spec, emitter: Mutex::new(emitter), open_calls };
    // Answered one by one, so that an interruption loses no result that came.
    let mut answer = |(id, result): (ToolCallId, ToolResult)| {
        transcript.answer(&id, result).map_err(|error| Error::internal(error.to_string()))
    };
    if spec.parallel {
        let mut running: FuturesUnordered<_> = calls.iter().map(|call| desk.run(call)).collect();
        while let Some(result) = running.next().await {
            answer(result)?;
        }
    } else {
        for call in &calls {
            answer(desk.run(call).await)?;
        }
    }
    open_calls.forget();
    Ok(())
}

struct Desk<'a> {
    spec: &'a RunSpec,
    emitter: Mutex<&'a mut Emitter>,
    open_calls: &'a OpenCalls,
}

impl Desk<'_> {
    async fn run(&self, call: &ToolCall) -> (ToolCallId, ToolResult) {
        let started = Instant::now();
        let result = match self.admit(call) {
            Ok((tool, input)) => self.perform(&tool, call, input).await,
            Err(told) => Err(told),
        };
        let result = match result {
            Ok(content) if content.len() > self.spec.max_tool_result_bytes => ToolResult::error(format!(
                "The tool returned {} bytes, more than the {} that are allowed. Ask for less.",
                content.len(),
                self.spec.max_tool_result_bytes
            )),
            Ok(content) => ToolResult::ok(content),
            Err(told) => ToolResult::error(told),
        };
        self.emitter.lock().emit(&EventBody::ToolResult {
            tool_call_id: &call.id,
            name: &call.name,
            content: &result.content,
            is_error: result.is_error,
            duration_ms: millis(started.elapsed()),
        });
        (call.id.clone(), result)
    }

    /// The tool and its checked input, or what the model must hear.
    fn admit(&self, call: &ToolCall) -> std::result::Result<(Arc<Registered>, Value), String> {
        let tools = &self.spec.tools;
        let Some(tool) = tools.iter().find(|tool| tool.config.name == call.name) else {
            let names: Vec<&str> = tools.iter().map(|tool| tool.config.name.as_str()).collect();
            return Err(format!("There is no tool {:?}. The tools are: {}.", call.name, names.join(", ")));
        };
        match tool.config.permission {
            Permission::Allow => {}
            Permission::Deny => return Err(format!("The tool {:?} is not allowed here. Do without it.", call.name)),
        }
        let input = call.input().map_err(|error| {
            format!("The arguments of {:?} are not valid JSON ({error}). Call it again with a JSON object.", call.name)
        })?;
        tool.input.check(&input).map_err(|wrong| {
            format!(
                "The arguments of {:?} do not fit its schema: {wrong}. Call it again with corrected arguments.",
                call.name
            )
        })?;
        Ok((Arc::clone(tool), input))
    }

    async fn perform(&self, tool: &Registered, call: &ToolCall, input: Value) -> std::result::Result<String, String> {
        let _permit = match &tool.permits {
            // Closed only when the tool is dropped, and it is not while we have it.
            Some(permits) => permits.acquire().await.ok(),
            None => None,
        };
        self.emitter.lock().emit(&EventBody::ToolStarted { tool_call_id: &call.id, name: &call.name });
        let limit = Duration::from_secs_f64(tool.config.timeout);
        let output = match &tool.runner {
            Runner::Host => self.ask_host(call, limit).await?,
            Runner::Native(native) => self.run_native(&**native, call, &input, limit).await?,
        };
        if let Some(schema) = &tool.output {
            let value = match &output {
                Output::Raw(raw) => serde_json::from_str(raw.get()).map_err(|error| error.to_string())?,
                Output::Value(value) => value.clone(),
            };
            schema
                .check(&value)
                .map_err(|wrong| format!("The tool returned what its output schema forbids: {wrong}"))?;
        }
        Ok(output.for_model())
    }

    async fn run_native(
        &self,
        tool: &dyn Tool,
        call: &ToolCall,
        input: &Value,
        limit: Duration,
    ) -> std::result::Result<Output, String> {
        self.open_calls.start(&call.id);
        let cancel = self.spec.cancel.child();
        let invocation = Invocation { id: &call.id, input, cancel: cancel.clone() };
        // A tool may panic before it returns its future, too.
        let work = AssertUnwindSafe(async { tool.call(invocation).await }).catch_unwind();
        match timeout(limit, work).await {
            Ok(Ok(Ok(value))) => Ok(Output::Value(value)),
            Ok(Ok(Err(failure))) => Err(failure.for_model()),
            Ok(Err(panic)) => Err(ToolFailure::new(panic_error(&*panic).message()).for_model()),
            Err(_) => {
                cancel.cancel("the tool's time is over");
                Err(overdue(limit))
            }
        }
    }

    async fn ask_host(&self, call: &ToolCall, limit: Duration) -> std::result::Result<Output, String> {
        let mut host = self.spec.desk.open();
        let input: &RawValue = serde_json::from_str(&call.arguments).map_err(|error| error.to_string())?;
        let request = EventBody::ToolCall {
            token: host.token(),
            tool_call_id: &call.id,
            name: &call.name,
            input,
            deadline_ms: millis(limit),
        };
        self.open_calls.start(&call.id);
        self.open_calls.asked(host.token(), call);
        if !deliver(&self.spec.desk, &mut self.emitter.lock(), host.token(), &request) {
            self.open_calls.answered(host.token());
            return Err(ToolFailure::new("nobody is there to run it").for_model());
        }
        loop {
            match timeout(limit, host.next()).await {
                Ok(HostSays::Progress(note)) => {
                    self.emitter.lock().emit(&EventBody::ToolProgress { tool_call_id: &call.id, note: &note });
                }
                Ok(HostSays::Answer(answer)) => {
                    self.open_calls.answered(host.token());
                    return match answer {
                        HostAnswer::Complete(result) => Ok(Output::Raw(result)),
                        HostAnswer::Fail(failure) => Err(failure.for_model()),
                    };
                }
                Err(_) => {
                    let token = host.token();
                    // The token is stale before the host is told so.
                    drop(host);
                    self.open_calls.answered(token);
                    let reason = "the tool's time is over";
                    tell_cancelled(&self.spec.desk, &mut self.emitter.lock(), token, &call.id, &call.name, reason);
                    return Err(overdue(limit));
                }
            }
        }
    }
}

fn overdue(limit: Duration) -> String {
    format!("The tool did not answer within {} s. It may have taken effect.", limit.as_secs_f64())
}

enum Output {
    Raw(Box<RawValue>),
    Value(Value),
}

impl Output {
    /// A string is its text; anything else is its JSON.
    fn for_model(self) -> String {
        match self {
            Self::Raw(raw) => serde_json::from_str::<String>(raw.get()).unwrap_or_else(|_| raw.get().to_owned()),
            Self::Value(Value::String(text)) => text,
            Self::Value(value) => value.to_string(),
        }
    }
}

/// Hands host work to whoever takes it: the callback, the run's own stream, the inbox. False if nobody does.
fn deliver(desk: &HostDesk, emitter: &mut Emitter, token: u64, message: &EventBody<'_>) -> bool {
    if let Some(callback) = desk.callback() {
        callback(token, &emitter.encode(message));
    } else if emitter.queue().is_some() {
        emitter.emit(message);
    } else if let Some(inbox) = desk.inbox() {
        inbox(token, &emitter.encode(message));
    } else {
        return false;
    }
    true
}

fn tell_cancelled(desk: &HostDesk, emitter: &mut Emitter, token: u64, id: &ToolCallId, name: &str, reason: &str) {
    let message = EventBody::ToolCancelled { token, tool_call_id: id, name, reason };
    // Nobody to tell is no trouble here.
    let _ = deliver(desk, emitter, token, &message);
}

/// Which calls were begun and which wait for the host, known outside of the loop so that they can be closed when it is
/// dropped in the middle.
#[derive(Default)]
pub(super) struct OpenCalls(Mutex<Calls>);

#[derive(Default)]
struct Calls {
    started: HashSet<ToolCallId>,
    asked: Vec<(u64, ToolCallId, String)>,
}

impl OpenCalls {
    fn start(&self, id: &ToolCallId) {
        self.0.lock().started.insert(id.clone());
    }

    fn asked(&self, token: u64, call: &ToolCall) {
        self.0.lock().asked.push((token, call.id.clone(), call.name.clone()));
    }

    fn answered(&self, token: u64) {
        self.0.lock().asked.retain(|(other, ..)| *other != token);
    }

    fn forget(&self) {
        self.0.lock().started.clear();
    }

    /// The calls that were begun and not answered.
    pub fn started(&self) -> HashSet<ToolCallId> {
        self.0.lock().started.clone()
    }

    /// Tells the host that nobody waits for its answers any more.
    pub fn cancel(&self, desk: &HostDesk, emitter: &mut Emitter, reason: &str) {
        for (token, id, name) in std::mem::take(&mut self.0.lock().asked) {
            tell_cancelled(desk, emitter, token, &id, &name, reason);
        }
    }
}
