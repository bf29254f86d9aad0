//! The tool calls of one model answer: admitted, run, answered.
//!
//! Arguments are checked before anything runs, and what is wrong with them is told to the model, which can mend it. Then
//! in this order: middleware, permission, the limits on concurrency, the tool under its deadline, the check of its output,
//! the cut to what the model is shown, middleware. Each call has its own deadline; results are answered in call order
//! whatever order they come in. A tool that fails does not fail the run; a middleware or a budget that forbids it does.

use super::output::{Output, shorten};
use super::permission::{self, Rule};
use super::run::panic_error;
use super::setup::Offer;
use super::structured::ANSWER_TOOL;
use super::subagent;
use super::work::Work;
use crate::config::{Effect, HandoffConfig};
use crate::events::Emitter;
use crate::middleware::{BeforeTool, PendingCall};
use crate::store::CallRecord;
use crate::tools::{HostAnswer, HostDesk, HostSays, Invocation, Registered, Runner, Tool, ToolFailure};
use crate::types::json::{TOO_DEEP, is_too_deep};
use crate::types::{Cancel, Error, EventBody, Result, Status, ToolCall, ToolCallId, ToolResult, millis};
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// What the calls of one answer came to.
#[derive(Default)]
pub struct Called {
    /// The agent that takes over, and what it is told.
    pub handoff: Option<(Arc<HandoffConfig>, String)>,
    /// The arguments of [`ANSWER_TOOL`] and its call.
    pub answer: Option<(ToolCallId, String)>,
}

/// Runs every open call of the transcript and answers it, but for that of [`ANSWER_TOOL`] if `takes_answer`.
pub async fn run_calls(work: &mut Work<'_>, takes_answer: bool) -> Result<Called> {
    let calls: Vec<ToolCall> = work.transcript().open_calls().cloned().collect();
    let mut called = Called::default();
    let most = work.spec.limits.max_tool_calls_per_turn;
    let (mut todo, mut too_many) = (Vec::with_capacity(calls.len().min(most)), 0);
    for call in &calls {
        if takes_answer && call.name == ANSWER_TOOL {
            match called.answer {
                None => called.answer = Some((call.id.clone(), call.arguments.clone())),
                Some(_) => answer(work, &call.id, ToolResult::error("Only one final answer counts."))?,
            }
            continue;
        }
        match (work.setup.offers.get(&call.name), &called.handoff) {
            (Some(Offer::Handoff(_)), Some(_)) => {
                answer(work, &call.id, ToolResult::error("Only one agent can take over; the first call counts."))?;
            }
            (Some(Offer::Handoff(handoff)), None) => {
                let handoff = Arc::clone(handoff);
                let result = take_over(work, call, &handoff);
                if let Ok(task) = &result {
                    called.handoff = Some((Arc::clone(&handoff), task.clone()));
                }
                let told = match result {
                    Ok(_) => ToolResult::ok(format!("The conversation was handed over to {:?}.", handoff.agent)),
                    Err(wrong) => ToolResult::error(wrong),
                };
                answer(work, &call.id, told)?;
            }
            (Some(Offer::Tool(_) | Offer::SubAgent(_)) | None, _) if todo.len() == most => {
                too_many += 1;
                answer(work, &call.id, not_executed(work, call, most))?;
            }
            (Some(Offer::Tool(_) | Offer::SubAgent(_)) | None, _) => {
                let guarded = guard_against_loops(work, call)?;
                todo.push((call, guarded));
            }
        }
    }
    if too_many > 0 {
        let message = format!(
            "the model made {} tool calls in one answer; {too_many} of them, over limits.max_tool_calls_per_turn = {most}, \
             were not executed",
            calls.len()
        );
        work.emitter.emit(&EventBody::Warning { code: "too_many_tool_calls", message: message.into() });
    }
    let parallel = work.setup.parallel;
    // Answered one by one, so that an interruption loses no result that came.
    let mut answers: Vec<(ToolCallId, ToolResult)> = Vec::with_capacity(todo.len());
    {
        let resumed = work.spec.resumed.iter().flat_map(|run| &run.calls);
        let desk = Desk { work: &*work, before: resumed.map(|kept| (&kept.id, kept)).collect() };
        if parallel {
            let mut running: FuturesUnordered<_> =
                todo.into_iter().map(|(call, guarded)| desk.run(call, guarded)).collect();
            while let Some(result) = running.next().await {
                let (id, result) = result?;
                desk.work.progress.started_calls.result(&id, &result);
                answers.push((id, result));
            }
        } else {
            for (call, guarded) in todo {
                let (id, result) = desk.run(call, guarded).await?;
                desk.work.progress.started_calls.result(&id, &result);
                answers.push((id, result));
            }
        }
    }
    for (id, result) in answers {
        answer(work, &id, result)?;
    }
    work.progress.started_calls.forget();
    Ok(called)
}

/// What the model is told of a call over the limit. The host sees it like every other result.
fn not_executed(work: &Work<'_>, call: &ToolCall, most: usize) -> ToolResult {
    let told =
        format!("This call was not executed: one answer may make {most} tool calls. Make it again later if needed.");
    let result = ToolResult::error(told);
    work.emitter.emit(&EventBody::ToolResult {
        tool_call_id: &call.id,
        name: &call.name,
        content: &result.content,
        parts: &result.parts,
        is_error: true,
        duration_ms: 0,
    });
    result
}

fn answer(work: &mut Work<'_>, id: &ToolCallId, result: ToolResult) -> Result<()> {
    work.transcript_mut().answer(id, result).map_err(|error| Error::internal(error.to_string()))
}

/// What the next agent is told of a handoff, or what is wrong with the call.
fn take_over(work: &Work<'_>, call: &ToolCall, handoff: &HandoffConfig) -> std::result::Result<String, String> {
    let input = call.input().map_err(|wrong| format!("The arguments cannot be used: {wrong}."))?;
    work.spec
        .agents
        .setup(&handoff.agent)
        .map_err(|error| format!("The handoff is not possible: {}", error.message()))?;
    let text = |key: &str| input.get(key).and_then(Value::as_str).map(str::to_owned);
    match handoff.carry_context {
        true => Ok(text("reason").unwrap_or_default()),
        false => text("task")
            .filter(|task| !task.trim().is_empty())
            .ok_or_else(|| "The argument \"task\" is needed: the other agent sees nothing else.".to_owned()),
    }
}

/// What the model is told of a call that it makes too often; an error when it goes on all the same.
fn guard_against_loops(work: &mut Work<'_>, call: &ToolCall) -> Result<Option<String>> {
    let most = work.setup.config.loop_guard.max_repeats;
    if most == 0 {
        return Ok(None);
    }
    let mut hasher = DefaultHasher::new();
    call.name.hash(&mut hasher);
    match serde_json::from_str::<Value>(&call.arguments) {
        Ok(input) => hash_sorted(&input, &mut hasher),
        Err(_) => call.arguments.hash(&mut hasher),
    }
    let made = work.progress.repeats.entry(hasher.finish()).or_insert(0);
    *made += 1;
    if *made > most.saturating_mul(2) {
        return Err(Error::new(
            Status::Guard,
            format!("the model called {:?} with the same arguments {made} times and would not be told", call.name),
        )
        .with_code("tool_loop")
        .with_hint("see in the events what the tool answers; loop_guard.max_repeats of the agent sets the bound"));
    }
    Ok((*made > most).then(|| {
        format!(
            "This call was not executed: {:?} was already called {most} times with the same arguments in this run. The result \
             will not change. Do something else, or answer with what you know.",
            call.name
        )
    }))
}

/// Objects with the same entries are the same in any order.
fn hash_sorted(value: &Value, hasher: &mut DefaultHasher) {
    match value {
        Value::Object(fields) => {
            let mut keys: Vec<_> = fields.iter().collect();
            keys.sort_by_key(|(key, _)| *key);
            for (key, value) in keys {
                key.hash(hasher);
                hash_sorted(value, hasher);
            }
            "}".hash(hasher);
        }
        Value::Array(items) => {
            items.iter().for_each(|item| hash_sorted(item, hasher));
            "]".hash(hasher);
        }
        other => other.to_string().hash(hasher),
    }
}

struct Desk<'d, 'a> {
    work: &'d Work<'a>,
    /// The calls that were begun before the process ended.
    before: HashMap<&'d ToolCallId, &'d CallRecord>,
}

/// What a call comes to before middleware sees it: a result, or what the model is told instead.
type Performed = std::result::Result<ToolResult, String>;

impl Desk<'_, '_> {
    /// Runs one call. An error ends the run.
    async fn run(&self, call: &ToolCall, guarded: Option<String>) -> Result<(ToolCallId, ToolResult)> {
        let started = Instant::now();
        let mut result = match guarded {
            Some(told) => ToolResult::error(told),
            None => {
                self.work.progress.account.tool_call()?;
                self.work.progress.meter.tool_call();
                self.attempt(call).await?.unwrap_or_else(ToolResult::error)
            }
        };
        let work = self.work;
        let own = match work.setup.offers.get(&call.name) {
            Some(Offer::Tool(tool)) => tool.config.max_output_bytes,
            Some(Offer::Handoff(_) | Offer::SubAgent(_)) | None => None,
        };
        let most = own.unwrap_or(work.spec.limits.max_tool_output_bytes);
        let can_read = work.setup.offers.contains_key("read_blob");
        shorten(&mut result, most, &work.spec.store, &work.spec.scope, can_read);
        work.setup.chain.after_tool(work.scene(), call, &mut result).await?;
        let event = EventBody::ToolResult {
            tool_call_id: &call.id,
            name: &call.name,
            content: &result.content,
            parts: &result.parts,
            is_error: result.is_error,
            duration_ms: millis(started.elapsed()),
        };
        work.emitter.emit_step(&event).await?;
        Ok((call.id.clone(), result))
    }

    async fn attempt(&self, call: &ToolCall) -> Result<Performed> {
        let work = self.work;
        let (offer, input) = match self.admit(call) {
            Ok(admitted) => admitted,
            Err(told) => return Ok(Err(told)),
        };
        let registered = match offer {
            Offer::Tool(tool) => Some(tool),
            Offer::Handoff(_) | Offer::SubAgent(_) => None,
        };
        let before = self.before.get(&call.id).copied();
        if let Some(CallRecord { result: Some(result), .. }) = before {
            return Ok(Ok(result.clone()));
        }
        let mut pending = PendingCall { call, tool: registered.map(|tool| &**tool), input };
        match work.setup.chain.before_tool(work.scene(), &mut pending).await? {
            BeforeTool::Go => {}
            BeforeTool::Answer(result) => return Ok(Ok(result)),
            BeforeTool::Block(why) => return Ok(Err(why)),
        }
        let mut input = pending.input;
        if let Some(begun) = before.filter(|begun| begun.effect == Effect::Once.name()) {
            tracing::info!(tool = begun.name, "a call that may have taken effect is asked for");
            match Box::pin(permission::ask(work, call, registered, input, permission::INTERRUPTED)).await? {
                Ok(approved) => input = approved,
                Err(told) => return Ok(Err(format!("{} {told}", permission::INTERRUPTED))),
            }
        }
        match (offer, registered) {
            (Offer::SubAgent(sub_agent), _) => {
                let Some(task) = input.get("task").and_then(Value::as_str) else {
                    return Ok(Err("The argument \"task\" is needed, a text.".into()));
                };
                // What it did cannot be told from outside, so it counts as done once.
                self.keep_intent(call, Effect::Once).await?;
                let performed = subagent::run(work, call, sub_agent, task).await;
                self.keep_result(call, Effect::Once, &performed);
                Ok(performed)
            }
            (Offer::Tool(_) | Offer::Handoff(_), Some(tool)) => {
                if let Err(wrong) = work.check(&tool.input, &input).await {
                    return Ok(Err(misfit(call, &wrong)));
                }
                let emit = |event: &EventBody<'_>| work.emitter.emit(event);
                let asked = self.invocation(call, &input, work.spec.control.cancel.clone(), &emit);
                match permission::rule(work, tool, &asked)? {
                    Rule::Allow => {}
                    Rule::Deny(why) => return Ok(Err(why)),
                    Rule::Ask(why) => match Box::pin(permission::ask(work, call, Some(tool), input, &why)).await? {
                        Ok(approved) => input = approved,
                        Err(told) => return Ok(Err(told)),
                    },
                }
                self.perform(tool, call, &input).await
            }
            (Offer::Tool(_) | Offer::Handoff(_), None) => Err(Error::internal("a call of nothing")),
        }
    }

    /// What is called and its parsed input, or what the model must hear.
    fn admit(&self, call: &ToolCall) -> std::result::Result<(&Offer, Value), String> {
        let offers = &self.work.setup.offers;
        let Some(offer) = offers.get(&call.name) else {
            let names: Vec<&str> = offers.keys().map(String::as_str).collect();
            // A name of a tool has 64 bytes at most; what else the model made up is not repeated to it.
            let name = call.name.get(..call.name.floor_char_boundary(64)).unwrap_or_default();
            return Err(match names.as_slice() {
                [] => format!("There is no tool {name:?}, and no other. Answer without tools."),
                names => format!("There is no tool {name:?}. The tools are: {}.", names.join(", ")),
            });
        };
        let input = call.input().map_err(|wrong| {
            format!("The arguments of {:?} cannot be used: {wrong}. Call it again with a JSON object.", call.name)
        })?;
        Ok((offer, input))
    }

    async fn perform(&self, tool: &Arc<Registered>, call: &ToolCall, input: &Value) -> Result<Performed> {
        let work = self.work;
        // Closed only when their owner is dropped, and it is not while we have it.
        let _agent_permit = match &work.setup.quota {
            Some(quota) => quota.tools.acquire().await.ok(),
            None => None,
        };
        let permits = work.setup.permits.of(tool, &work.spec.limits);
        let _tool_permit = match &permits {
            Some(permits) => permits.acquire().await.ok(),
            None => None,
        };
        self.keep_intent(call, tool.config.effect).await?;
        work.emitter.emit(&EventBody::ToolStarted { tool_call_id: &call.id, name: &call.name });
        let performed = self.execute(tool, call, input).await?;
        self.keep_result(call, tool.config.effect, &performed);
        Ok(performed)
    }

    /// Writes down that a call is about to run, before it is.
    async fn keep_intent(&self, call: &ToolCall, effect: Effect) -> Result<()> {
        let Some(log) = &self.work.spec.log else { return Ok(()) };
        let (id, name, effect) = (call.id.clone(), call.name.clone(), effect.name().to_owned());
        log.call_starts(CallRecord { id, name, effect, result: None }).await
    }

    /// Writes down what came of it.
    fn keep_result(&self, call: &ToolCall, effect: Effect, performed: &Performed) {
        let Some(log) = &self.work.spec.log else { return };
        let result = match performed {
            Ok(result) => result.clone(),
            Err(told) => ToolResult::error(told.clone()),
        };
        log.call_ended(&call.id, &call.name, effect.name(), &result);
    }

    /// What no other call of any run is.
    fn idempotency_key(&self, call: &ToolCall) -> String {
        format!("{}:{}", self.work.spec.run_id, call.id)
    }

    async fn execute(&self, tool: &Arc<Registered>, call: &ToolCall, input: &Value) -> Result<Performed> {
        let work = self.work;
        let own = Duration::from_secs_f64(tool.config.timeout);
        let limit = work.setup.chain.tool_timeout().map_or(own, |other| own.min(other));
        let output = match &tool.runner {
            Runner::Host => self.ask_host(call, input, limit).await?,
            Runner::Native(native) => self.run_native(&**native, call, input, limit).await,
        };
        let output = match output {
            Ok(output) => output,
            Err(told) => return Ok(Err(told)),
        };
        if let Some(schema) = &tool.output {
            let checked = match output.value() {
                Ok(value) => work.check(schema, &value).await,
                Err(error) => Err(error.to_string()),
            };
            if let Err(wrong) = checked {
                return Ok(Err(format!("The tool returned what its output schema forbids: {wrong}")));
            }
        }
        let result = match output.into_result() {
            Ok(result) => result,
            Err(told) => return Ok(Err(told)),
        };
        if result.content.len() > work.spec.limits.max_tool_result_bytes {
            return Ok(Err(format!(
                "The tool returned {} bytes, more than the {} that are allowed. Ask for less.",
                result.content.len(),
                work.spec.limits.max_tool_result_bytes
            )));
        }
        Ok(Ok(result))
    }

    fn invocation<'i>(
        &'i self,
        call: &'i ToolCall,
        input: &'i Value,
        cancel: Cancel,
        emit: &'i (dyn Fn(&EventBody<'_>) + Send + Sync),
    ) -> Invocation<'i> {
        Invocation {
            id: &call.id,
            idempotency_key: self.idempotency_key(call),
            scope: &self.work.spec.scope,
            input,
            cancel,
            workspace: self.work.spec.workspace.as_ref(),
            emit,
        }
    }

    async fn run_native(
        &self,
        tool: &dyn Tool,
        call: &ToolCall,
        input: &Value,
        limit: Duration,
    ) -> std::result::Result<Output, String> {
        self.work.progress.started_calls.start(&call.id);
        let cancel = self.work.spec.control.cancel.child();
        let emit = |event: &EventBody<'_>| self.work.emitter.emit(event);
        let invocation = self.invocation(call, input, cancel.clone(), &emit);
        // A tool may panic before it returns its future, too.
        let running = AssertUnwindSafe(async { tool.call(invocation).await }).catch_unwind();
        match timeout(limit, running).await {
            Ok(Ok(Ok(value))) if is_too_deep(&value) => Err(format!("The tool's result is {TOO_DEEP}.")),
            Ok(Ok(Ok(value))) => Ok(Output::Value(value)),
            Ok(Ok(Err(failure))) => Err(failure.for_model()),
            Ok(Err(panic)) => Err(ToolFailure::new(panic_error(&*panic).message()).for_model()),
            Err(_) => {
                cancel.cancel("the tool's time is over");
                Err(overdue(limit))
            }
        }
    }

    async fn ask_host(
        &self,
        call: &ToolCall,
        input: &Value,
        limit: Duration,
    ) -> Result<std::result::Result<Output, String>> {
        let (desk, emitter) = (&self.work.spec.desk, self.work.emitter);
        let mut host = desk.open();
        // The model's own text wherever nobody changed the input.
        let changed;
        let input: &RawValue = match serde_json::from_str::<Value>(&call.arguments) {
            Ok(said) if said == *input => {
                serde_json::from_str(&call.arguments).map_err(|error| Error::internal(error.to_string()))?
            }
            Ok(_) | Err(_) => {
                changed = to_raw_value(input).map_err(|error| Error::internal(error.to_string()))?;
                &changed
            }
        };
        let request = EventBody::ToolCall {
            token: host.token(),
            tool_call_id: &call.id,
            name: &call.name,
            input,
            idempotency_key: &self.idempotency_key(call),
            deadline_ms: millis(limit),
        };
        self.work.progress.started_calls.start(&call.id);
        if !emitter.hand_over(desk.callback(), desk.inbox(), host.token(), &request) {
            return Ok(Err(ToolFailure::new("nobody is there to run it").for_model()));
        }
        let mut unanswered = Unanswered { work: self.work, token: host.token(), call, reason: None };
        loop {
            match timeout(limit, host.next()).await {
                Ok(HostSays::Progress(note)) => {
                    emitter.emit(&EventBody::ToolProgress { tool_call_id: &call.id, note: &note });
                }
                Ok(HostSays::Answer(answer)) => {
                    unanswered.answered();
                    return Ok(match answer {
                        HostAnswer::Complete(result) => Ok(Output::Raw(result)),
                        HostAnswer::Fail(failure) => Err(failure.for_model()),
                    });
                }
                Err(_) => {
                    // The token is stale before the host is told so.
                    drop(host);
                    unanswered.reason = Some("the tool's time is over");
                    return Ok(Err(overdue(limit)));
                }
            }
        }
    }
}

fn overdue(limit: Duration) -> String {
    format!("The tool did not answer within {} s. It may have taken effect.", limit.as_secs_f64())
}

fn misfit(call: &ToolCall, wrong: &str) -> String {
    format!("The arguments of {:?} do not fit its schema: {wrong}. Call it again with corrected arguments.", call.name)
}

/// A call that the host has not answered. Dropped, it tells the host that nobody waits any more.
struct Unanswered<'a> {
    work: &'a Work<'a>,
    token: u64,
    call: &'a ToolCall,
    reason: Option<&'static str>,
}

impl Unanswered<'_> {
    fn answered(self) {
        std::mem::forget(self);
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        let (desk, emitter): (&HostDesk, &Emitter) = (&self.work.spec.desk, self.work.emitter);
        let control = &self.work.spec.control;
        let reason = match self.reason {
            Some(reason) => reason.to_owned(),
            None if control.cancel.is_cancelled() => format!("the run was cancelled: {}", control.cancel.reason()),
            None => "the run ended".to_owned(),
        };
        let Self { token, call, .. } = self;
        let work =
            EventBody::ToolCancelled { token: *token, tool_call_id: &call.id, name: &call.name, reason: &reason };
        // Nobody to tell is no trouble here.
        let _ = emitter.hand_over(desk.callback(), desk.inbox(), *token, &work);
    }
}

/// Which calls were begun and what came of them, known outside of the loop so that they can be closed honestly when it is
/// dropped in the middle.
#[derive(Default)]
pub struct StartedCalls(Mutex<Calls>);

#[derive(Default)]
struct Calls {
    started: HashSet<ToolCallId>,
    results: HashMap<ToolCallId, ToolResult>,
}

impl StartedCalls {
    pub(super) fn start(&self, id: &ToolCallId) {
        self.0.lock().started.insert(id.clone());
    }

    fn result(&self, id: &ToolCallId, result: &ToolResult) {
        self.0.lock().results.insert(id.clone(), result.clone());
    }

    fn forget(&self) {
        *self.0.lock() = Calls::default();
    }

    /// What to say of a call that was not answered.
    pub fn closing(&self, call: &ToolCall) -> ToolResult {
        let calls = self.0.lock();
        if let Some(result) = calls.results.get(&call.id) {
            return result.clone();
        }
        match calls.started.contains(&call.id) {
            true => ToolResult::error("The run was interrupted while this call was running; it may have taken effect."),
            false => ToolResult::error("The run was interrupted; this call was not executed."),
        }
    }
}
