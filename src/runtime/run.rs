//! Starting runs: blocking on the caller's thread, or streaming on the workers. Both are the same run.

use super::close::closed;
use super::core::{Core, Runtime};
use super::runs::LiveRun;
use super::scope::Scope;
use super::stream::{Answer, Ended, Outcome, Stream, lost_answer, result_json};
use crate::agent::{
    self, ANSWER_TOOL, Control, Ledger, Means, Meter, Offer, Prompt, RunSpec, Setup, Spent, Structured, execute,
};
use crate::config::{Mode, Notify, RunRequest, SessionBusy};
use crate::events::{Batched, Bounds, Emitter, Origin, Queue, Wishes, flush_soon};
use crate::llm::{HttpPool, check_cache_points};
use crate::runtime::CallbackSlot;
use crate::store::{RunBegin, RunLog, Unfinished};
use crate::tools::{Runner, Workspace};
use crate::types::{AgentId, Cancel, Envelope, Error, EventBody, Result, RunId, Status, Usage, now_ms};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::Instant;

/// A request whose names are resolved: nothing that can be known to be wrong is left.
pub(super) struct Prepared {
    request: RunRequest,
    /// The request as the host wrote it.
    text: Arc<str>,
    /// Whether the host chose the run's id.
    has_chosen_id: bool,
    /// What it goes on from.
    pub resumed: Option<Resumed>,
    pub run_id: RunId,
    tag: Option<Box<RawValue>>,
    setup: Arc<Setup>,
    prompt: Prompt,
    variables: Map<String, Value>,
    structured: Option<Structured>,
    workspace: Option<Arc<Workspace>>,
    pub control: Arc<Control>,
    live: LiveRun,
}

/// What a run goes on from.
pub(super) struct Resumed {
    pub run: Box<Unfinished>,
    pub log: Arc<RunLog>,
    /// What it had consumed.
    pub usage: Usage,
    /// Model requests it had made.
    pub requests: u64,
}

impl Runtime {
    /// Runs an agent on the calling thread and answers its result as JSON.
    ///
    /// Must not be called from async code: it blocks.
    pub fn invoke(&self, request: &str, timeout: Option<Duration>) -> Answer {
        let core = self.core();
        let prepared = self.prepare(request, false)?;
        core.drivers.block_on(&core.log, |http| async move { core.run(prepared, timeout, &http).await })
    }

    /// Starts an agent and hands out the reader's end of its events.
    pub fn stream(&self, request: &str) -> Result<Stream> {
        self.core().handle()?;
        self.launch(self.prepare(request, true)?)
    }

    /// Starts what was prepared.
    pub(super) fn launch(&self, prepared: Prepared) -> Result<Stream> {
        let core = self.core();
        let handle = core.handle()?;
        let limits = core.limits();
        let queue =
            Arc::new(Queue::new(Bounds { events: limits.stream_queue_events, bytes: limits.stream_queue_bytes }));
        core.announce(&queue, &prepared);
        let stream = Stream {
            run_id: prepared.run_id.clone(),
            queue: Arc::clone(&queue),
            ended: Arc::new(OnceLock::new()),
            control: Arc::clone(&prepared.control),
        };
        let ending = Ending::of(&stream);
        let batched = Arc::clone(&queue);
        let core = Arc::clone(core);
        let run = async move {
            let (spec, live, wishes) = prepared.into_spec(&core, None).await;
            let emitter = core.emitter(&spec, Some(queue), wishes);
            let conclude = |outcome: &agent::Outcome| {
                core.conclude(outcome, live, &spec.control);
                let ended = outcome.as_ref().map(|result| Outcome::Run(Box::new(result.clone())));
                let _ = ending.ended.set(ended.map_err(|failure| failure.error.clone()));
            };
            execute(&spec, &emitter, &core.http, conclude).await;
            drop(ending);
        };
        self.core().scope.spawn(&handle, Batched::new(batched, run));
        Ok(stream)
    }

    /// Cancels a living run at once.
    pub fn cancel_run(&self, run_id: &str, reason: &str) -> Result<()> {
        self.core().runs.cancel(run_id, reason)
    }

    fn prepare(&self, request: &str, is_stream: bool) -> Result<Prepared> {
        let core = self.core();
        core.closing.check_open()?;
        core.limits().check_input(request.len())?;
        let text = Arc::from(request);
        let request = RunRequest::from_json(request)?;
        if !is_stream {
            request.refuse_stream_keys(
                "request",
                "a blocking call has none",
                "leave it out, or use par_stream_start",
            )?;
        }
        core.prepare(request, text, "request", is_stream)
    }
}

impl Core {
    /// Resolves a request. `has_stream`: whether host work can go to a stream.
    pub(super) fn prepare(
        &self,
        mut request: RunRequest,
        text: Arc<str>,
        path: &str,
        has_stream: bool,
    ) -> Result<Prepared> {
        // Nothing is begun that could not be kept.
        self.store.check()?;
        // Asked for on the way to every run, so it is not put together for the usual place.
        let at = |key: &'static str| match (path, key) {
            ("request", "agent") => Cow::Borrowed("request.agent"),
            ("request", "input") => Cow::Borrowed("request.input"),
            ("request", "run_id") => Cow::Borrowed("request.run_id"),
            ("request", "variables") => Cow::Borrowed("request.variables"),
            (path, key) => Cow::Owned(format!("{path}.{key}")),
        };
        let setup = self.agents.setup(self, &AgentId::from(request.agent.as_str()), &at("agent"))?;
        if !has_stream {
            self.check_handler(&setup)?;
        }
        let rules = setup.provider.cache_rules(&setup.profile);
        check_cache_points(&request.input.0, setup.config.cache_strategy, rules, &at("input"))?;
        let structured = request
            .response_schema
            .take()
            .map(|schema| {
                Structured::new(
                    &schema,
                    request.output_mode,
                    request.max_repair_attempts,
                    self.limits(),
                    &at("response_schema"),
                )
            })
            .transpose()?;
        if let Some(structured) = &structured
            && structured.means(&setup.profile) == Means::Tool
            && setup.offers.contains_key(ANSWER_TOOL)
        {
            return Err(Error::new(
                Status::Exists,
                format!("the agent has a tool {ANSWER_TOOL:?}, which is the name that the answer itself is given by"),
            )
            .with_path(at("output_mode").into_owned())
            .with_hint("rename the tool, or use another output_mode"));
        }
        if let Some(variables) = &request.variables
            && setup.template.is_none()
            && variables.as_object().is_some_and(|variables| !variables.is_empty())
        {
            return Err(Error::schema(
                at("variables").into_owned(),
                "the agent has no system_prompt_template that could use them",
            ));
        }
        let variables = match request.variables.take() {
            Some(Value::Object(variables)) => variables,
            Some(_) | None => Map::new(),
        };
        let prompt = Prompt::of_request(&setup, &self.id, &variables, &at("variables"))?;
        let has_chosen_id = request.run_id.is_some();
        let workspace = match &request.workspace {
            Some(config) => {
                Some(Arc::new(Workspace::open(config, &at("workspace"), &self.config.persistence.files())?))
            }
            None => None,
        };
        let run_id = request.run_id.take().unwrap_or_else(RunId::generate);
        let tag = request
            .tag
            .take()
            .map(|tag| to_raw_value(&tag))
            .transpose()
            .map_err(|error| Error::internal(error.to_string()))?;
        let control = Arc::new(Control::new(self.scope.cancel().child(), self.limits().max_steering_messages));
        let live = self.runs.begin(
            &run_id,
            &request.scope,
            &setup.config.id,
            request.session.as_ref(),
            &control,
            &at("run_id"),
        )?;
        // Closing may have begun meanwhile; then it either sees this run living, or this sees it closing.
        if !self.closing.is_open() {
            return Err(closed());
        }
        Ok(Prepared {
            request,
            text,
            has_chosen_id,
            resumed: None,
            run_id,
            tag,
            setup,
            prompt,
            variables,
            structured,
            workspace,
            control,
            live,
        })
    }

    /// A run without a stream that may call the host needs a way to it; better said now than in the middle.
    fn check_handler(&self, setup: &Setup) -> Result<()> {
        if self.desk.inbox().is_some() {
            return Ok(());
        }
        if let Some(name) = setup.chain.needs_host().filter(|_| self.desk.callback().is_none()) {
            return Err(Error::new(
                Status::NoHandler,
                format!("the middleware {name:?} asks the host, and a blocking call has no way to it"),
            )
            .with_hint(
                "use par_stream_start, or par_on_tool, or serve the inbox (par_inbox_wait) from another thread",
            ));
        }
        let tools = setup.offers.values().filter_map(|offer| match offer {
            Offer::Tool(tool) => Some(tool),
            Offer::Handoff(_) | Offer::SubAgent(_) => None,
        });
        for tool in tools {
            let name = &tool.config.name;
            if matches!(tool.runner, Runner::Host) && self.desk.callback().is_none() {
                return Err(Error::new(
                    Status::NoHandler,
                    format!("the tool {name:?} is run by the host, and a blocking call has no way to it"),
                )
                .with_hint(
                    "use par_stream_start, or par_on_tool, or serve the inbox (par_inbox_wait) from another thread",
                ));
            }
            if tool.may_ask() && self.approvals.callback().is_none() {
                return Err(Error::new(
                    Status::NoHandler,
                    format!(
                        "calls of the tool {name:?} may need an approval, and a blocking call has no way to ask for it"
                    ),
                )
                .with_hint(
                    "use par_stream_start, or par_on_approval, or serve the inbox (par_inbox_wait) from another thread",
                ));
            }
        }
        Ok(())
    }
}

impl Prepared {
    pub(super) async fn into_spec(
        self,
        core: &Arc<Core>,
        timeout: Option<Duration>,
    ) -> (Box<RunSpec>, LiveRun, Wishes) {
        let (log, refused) = self.log(core).await;
        if log.as_ref().is_some_and(|log| log.keeps_steps()) {
            self.control.set_resumable();
        }
        let Self {
            request, resumed, run_id, tag, setup, prompt, variables, structured, workspace, control, live, ..
        } = self;
        let meter = Meter::new(None);
        if let Some(resumed) = &resumed {
            meter.resume(&resumed.usage, setup.profile.price.as_ref(), resumed.requests);
        }
        let now = Instant::now();
        let asked = request.timeout_ms.map(Duration::from_millis);
        let limit = match (asked, timeout) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let wishes = Wishes {
            overflow: request.overflow,
            events: request.events,
            max_depth: request.max_event_depth.unwrap_or(u32::MAX),
            max_held: core.limits().stream_queue_bytes,
        };
        let quota = setup.config.resource_quota.or(core.config.default_quota);
        let own_budget = request.budget.or(setup.config.budget).or(core.config.run_budget);
        let own_total = quota.and_then(|quota| quota.max_total_tokens);
        let own = match own_budget.filter(|budget| !budget.is_unlimited()) {
            None if own_total.is_none() => None,
            budget => {
                let budget = budget.unwrap_or_default();
                Some(Arc::new(Ledger::new("run", budget, own_total, Spent::default(), Duration::ZERO)))
            }
        };
        let spec = Box::new(RunSpec {
            run_id,
            tag,
            path: Vec::new(),
            setup,
            prompt,
            helpers: core.helpers.clone(),
            agents: Arc::clone(&core.directory),
            input: request.input.0,
            variables: Arc::new(variables),
            roles: request.roles.into(),
            scope: request.scope,
            session: request.session,
            waits_for_session: request.session_busy == SessionBusy::Wait,
            log,
            resumed: resumed.map(|resumed| resumed.run),
            refused,
            structured,
            generates: request.mode == Mode::Generate,
            account: own.map_or_else(|| core.account.clone(), |own| core.account.with(own)),
            meter,
            session_budget: core.config.session_budget.filter(|budget| !budget.is_unlimited()),
            max_tokens_per_turn: quota.and_then(|quota| quota.max_tokens_per_turn),
            unknown_price: core.config.unknown_price,
            eval_limits: core.config.eval_limits,
            limits: Arc::clone(&core.shared_limits),
            runtime_id: Arc::clone(&core.shared_id),
            store: Arc::clone(&core.store),
            workspace,
            desk: Arc::clone(&core.desk),
            approvals: Arc::clone(&core.approvals),
            // A limit too long for the clock is none.
            deadline: limit.and_then(|limit| now.checked_add(limit)),
            control,
            places: core.places.clone(),
            holds: Vec::new(),
        });
        (spec, live, wishes)
    }

    /// Where the run is kept, and why it must not begin: the host chose an id that another run has, or had.
    async fn log(&self, core: &Core) -> (Option<Arc<RunLog>>, Option<Error>) {
        if let Some(resumed) = &self.resumed {
            return (Some(Arc::clone(&resumed.log)), None);
        }
        let is_new = match self.has_chosen_id {
            true => core.store.check_new(&self.run_id).await,
            false => Ok(true),
        };
        match is_new {
            Ok(true) => {
                let begin = RunBegin {
                    run_id: self.run_id.clone(),
                    scope: self.request.scope.clone(),
                    session: self.request.session.clone(),
                    agent: self.setup.config.id.clone(),
                    started_at_ms: now_ms(),
                    request: Arc::clone(&self.text),
                    owner: Arc::clone(&core.shared_id),
                };
                (core.store.log(begin, self.request.durability), None)
            }
            Ok(false) => {
                let error = Error::new(Status::Exists, format!("a run with the id {:?} was made before", self.run_id))
                    .with_path("request.run_id")
                    .with_hint("a run_id names one run for ever; runs.get tells what came of it");
                (None, Some(error))
            }
            Err(error) => (None, Some(error)),
        }
    }
}

impl Core {
    /// Runs what was prepared to its end, and answers its result as JSON.
    pub(super) async fn run(
        self: &Arc<Self>,
        prepared: Prepared,
        timeout: Option<Duration>,
        http: &HttpPool,
    ) -> Answer {
        let run_id = prepared.run_id.clone();
        let (spec, live, wishes) = prepared.into_spec(self, timeout).await;
        let emitter = self.emitter(&spec, None, wishes);
        let conclude = |outcome: &agent::Outcome| {
            self.conclude(outcome, live, &spec.control);
            match outcome {
                Ok(result) => result_json(&run_id, result),
                Err(failure) => Err(failure.error.clone()),
            }
        };
        execute(&spec, &emitter, http, conclude).await
    }

    fn emitter(&self, spec: &RunSpec, queue: Option<Arc<Queue>>, wishes: Wishes) -> Emitter {
        let envelope = Envelope::new(&spec.run_id, spec.tag.as_deref());
        let last_seq = spec.resumed.as_ref().map_or(0, |run| run.last_seq);
        Emitter::with_log(envelope, queue, Arc::clone(&self.hub), wishes, spec.log.clone(), last_seq).of(origin(spec))
    }

    /// Books how a run ended; it lives no more.
    pub(super) fn conclude(&self, outcome: &agent::Outcome, mut live: LiveRun, control: &Control) {
        let (counter, usage) = match outcome {
            Ok(result) => (&self.metrics.runs_completed, result.usage),
            Err(failure) if failure.suspension.is_some() => (&self.metrics.runs_suspended, failure.usage),
            Err(failure) if failure.error.status() == Status::Cancelled => {
                (&self.metrics.runs_cancelled, failure.usage)
            }
            Err(failure) => (&self.metrics.runs_failed, failure.usage),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.metrics.input_tokens.fetch_add(usage.input_tokens, Ordering::Relaxed);
        self.metrics.output_tokens.fetch_add(usage.output_tokens, Ordering::Relaxed);
        live.ended(outcome, control.is_detached());
    }

    /// Tells whoever wants to know when the stream has something to read.
    fn announce(self: &Arc<Self>, queue: &Arc<Queue>, prepared: &Prepared) {
        let callbacks = Arc::clone(&self.callbacks);
        let notify = prepared.request.notify;
        if notify == Notify::None && !callbacks.has(CallbackSlot::Wakeup) {
            return;
        }
        let message = |kind: &'static str| {
            let note = Note { r#type: kind, run_id: &prepared.run_id, tag: prepared.tag.as_deref() };
            serde_json::to_vec(&note).unwrap_or_default()
        };
        let (wakeup, ready) = (message("wakeup"), message("ready"));
        let inbox = (notify == Notify::Inbox).then(|| Arc::clone(&self.inbox));
        queue.announce(move || {
            callbacks.deliver_lossy(CallbackSlot::Wakeup, &wakeup);
            if let Some(inbox) = &inbox {
                inbox.stage(&ready);
                flush_soon(inbox);
            }
        });
    }

    /// Starts a method of `par_call` as a stream that ends with its answer. `work` gets the stream's events and the host's
    /// hand on it.
    pub(super) fn start_task<F>(self: &Arc<Self>, work: impl FnOnce(RunId, Emitter, Cancel) -> F) -> Result<Stream>
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        self.start_task_in(&self.scope, self.scope.cancel().child(), work)
    }

    /// The same, in a scope, and with a cancellation below that scope's.
    pub(super) fn start_task_in<F>(
        &self,
        scope: &Scope,
        cancel: Cancel,
        work: impl FnOnce(RunId, Emitter, Cancel) -> F,
    ) -> Result<Stream>
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let handle = self.handle()?;
        let run_id = RunId::generate();
        let limits = self.limits();
        let queue =
            Arc::new(Queue::new(Bounds { events: limits.stream_queue_events, bytes: limits.stream_queue_bytes }));
        let stream = Stream {
            run_id: run_id.clone(),
            queue: Arc::clone(&queue),
            ended: Arc::new(OnceLock::new()),
            control: Arc::new(Control::new(cancel.clone(), 0)),
        };
        let ending = Ending::of(&stream);
        let batched = Arc::clone(&queue);
        let emitter = Emitter::new(Envelope::new(&run_id, None), Some(queue), Arc::clone(&self.hub), Wishes::default());
        let work = work(run_id, emitter.clone(), cancel.clone());
        let task = async move {
            // Not dropped when it is cancelled: whoever runs longer than a moment watches for that, and ends in order.
            let answer = match work.await {
                _ if cancel.is_cancelled() => {
                    Err(Error::new(Status::Cancelled, format!("the call was cancelled: {}", cancel.reason())))
                }
                answer => answer,
            };
            let _ = ending.ended.set(answer.clone().map(Outcome::Method));
            finish(&emitter, &answer, &cancel);
            drop(ending);
        };
        scope.spawn(&handle, Batched::new(batched, task));
        Ok(stream)
    }
}

/// Which run its events are of, for whoever listens to the runtime.
pub(super) fn origin(spec: &RunSpec) -> Origin {
    Origin {
        scope: spec.scope.clone(),
        run_id: spec.run_id.clone(),
        session: spec.session.clone(),
        agent: spec.setup.config.id.clone(),
    }
}

fn finish(emitter: &Emitter, answer: &Answer, cancel: &Cancel) {
    let raw = match answer {
        Ok(json) => RawValue::from_string(json.clone()).map_err(|error| Error::internal(error.to_string())),
        Err(error) => Err(error.clone()),
    };
    let usage = Usage::default();
    match &raw {
        Ok(result) => emitter.finish(&EventBody::Answered { result }),
        Err(error) if error.status() == Status::Cancelled => {
            emitter.finish(&EventBody::Cancelled { reason: &cancel.reason(), usage, cost_usd: None, messages: &[] })
        }
        Err(error) => emitter.finish(&EventBody::Failed { error, usage, cost_usd: None, messages: &[] }),
    }
}

/// Whatever happens to the task, its stream has an answer and one terminal event: also one that a closing runtime dropped
/// before it ran.
struct Ending {
    run_id: RunId,
    queue: Arc<Queue>,
    ended: Ended,
}

impl Ending {
    fn of(stream: &Stream) -> Self {
        Self { run_id: stream.run_id.clone(), queue: Arc::clone(&stream.queue), ended: Arc::clone(&stream.ended) }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let error = if std::thread::panicking() { lost_answer() } else { closed() };
        if self.ended.set(Err(error.clone())).is_ok() {
            let mut event = Vec::new();
            let failed = EventBody::Failed { error: &error, usage: Usage::default(), cost_usd: None, messages: &[] };
            Envelope::new(&self.run_id, None).write(1, &failed, &mut event);
            self.queue.push_terminal(&event);
        }
        self.queue.end();
    }
}

#[derive(Serialize)]
struct Note<'a> {
    r#type: &'static str,
    run_id: &'a RunId,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<&'a RawValue>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Polled;
    use pretty_assertions::assert_eq;

    #[test]
    fn a_task_that_never_ran_still_ends_its_stream_once() {
        let queue = Arc::new(Queue::new(Bounds { events: 1, bytes: 1024 }));
        let ended = Arc::new(OnceLock::new());
        let stream = Stream { run_id: "r".into(), queue, ended, control: Arc::new(Control::new(Cancel::new(), 0)) };
        drop(Ending::of(&stream));
        assert_eq!(stream.answer().unwrap().unwrap_err().status(), Status::Closed);
        let parse = |event: &[u8]| serde_json::from_slice::<serde_json::Value>(event).unwrap();
        let Polled::Event(event) = stream.queue().poll(parse).unwrap() else { panic!("no terminal event") };
        assert_eq!((&event["type"], &event["error"]["name"]), (&"failed".into(), &"PAR_ERR_CLOSED".into()));
        assert_eq!(stream.queue().poll(parse).unwrap(), Polled::End);
    }
}
