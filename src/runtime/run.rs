//! Starting runs: blocking on the caller's thread, or streaming on the workers. Both are the same run.

use super::close::closed;
use super::core::{Core, Runtime};
use super::runs::LiveRun;
use super::stream::{Answer, Ended, Outcome, Stream, lost_answer, result_json};
use crate::agent::{self, RunSpec, execute};
use crate::config::{AgentConfig, Events, Notify, Overflow, RunRequest};
use crate::events::{Batched, Bounds, Emitter, Queue, Wishes, flush_soon};
use crate::llm::Provider;
use crate::runtime::CallbackSlot;
use crate::tools::{Registered, Runner};
use crate::types::{Cancel, Envelope, Error, EventBody, Result, RunId, Status, Usage};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::Instant;

/// A request whose names are resolved: nothing that can be known to be wrong is left.
struct Prepared {
    request: RunRequest,
    run_id: RunId,
    tag: Option<Box<RawValue>>,
    agent: Arc<AgentConfig>,
    provider: Arc<dyn Provider>,
    tools: Vec<Arc<Registered>>,
    cancel: Cancel,
    live: LiveRun,
}

impl Runtime {
    /// Runs an agent on the calling thread and answers its result as JSON.
    ///
    /// Must not be called from async code: it blocks.
    pub fn invoke(&self, request: &str, timeout: Option<Duration>) -> Answer {
        let core = self.core();
        let prepared = self.prepare(request, false)?;
        let run_id = prepared.run_id.clone();
        core.drivers.block_on(&core.log, |http| async move {
            let (spec, emitter, live) = prepared.into_spec(core, None, timeout);
            let conclude = |outcome: &agent::Outcome| {
                core.conclude(outcome, live);
                match outcome {
                    Ok(result) => result_json(&run_id, result),
                    Err(failure) => Err(failure.error.clone()),
                }
            };
            execute(spec, emitter, &http, conclude).await
        })?
    }

    /// Starts an agent and hands out the reader's end of its events.
    pub fn stream(&self, request: &str) -> Result<Stream> {
        let core = self.core();
        let handle = core.handle()?;
        let prepared = self.prepare(request, true)?;
        let limits = core.limits();
        let queue =
            Arc::new(Queue::new(Bounds { events: limits.stream_queue_events, bytes: limits.stream_queue_bytes }));
        core.announce(&queue, &prepared);
        let stream = Stream {
            run_id: prepared.run_id.clone(),
            queue: Arc::clone(&queue),
            ended: Arc::new(OnceLock::new()),
            cancel: prepared.cancel.clone(),
        };
        let ending = Ending::of(&stream);
        let batched = Arc::clone(&queue);
        let core = Arc::clone(core);
        let run = async move {
            let (spec, emitter, live) = prepared.into_spec(&core, Some(queue), None);
            let conclude = |outcome: &agent::Outcome| {
                core.conclude(outcome, live);
                let ended = outcome.as_ref().map(|result| Outcome::Run(Box::new(result.clone())));
                let _ = ending.ended.set(ended.map_err(|failure| failure.error.clone()));
            };
            execute(spec, emitter, &core.http, conclude).await;
            drop(ending);
        };
        self.core().scope.spawn(&handle, Batched::new(batched, run));
        Ok(stream)
    }

    /// Cancels a living run.
    pub fn cancel_run(&self, run_id: &str, reason: &str) -> Result<()> {
        self.core().runs.cancel(run_id, reason)
    }

    fn prepare(&self, request: &str, is_stream: bool) -> Result<Prepared> {
        let core = self.core();
        core.closing.check_open()?;
        core.limits().check_input(request.len())?;
        let mut request = RunRequest::from_json(request)?;
        let agent = self.agent(&request.agent)?;
        let provider = self.provider(&agent.model.provider, "agent.model.provider")?;
        let tools = core.tools.resolve(&agent.tools, "agent.tools")?;
        if !is_stream {
            for (path, given) in [
                ("request.notify", request.notify != Notify::None),
                ("request.events", request.events != Events::All),
                ("request.overflow", request.overflow != Overflow::Backpressure),
            ] {
                if given {
                    return Err(Error::schema(path, "this concerns streams, and a blocking call has none")
                        .with_hint("leave it out, or use par_stream_start"));
                }
            }
            self.check_handler(&tools)?;
        }
        let run_id = request.run_id.take().unwrap_or_else(RunId::generate);
        let tag = request
            .tag
            .take()
            .map(|tag| to_raw_value(&tag))
            .transpose()
            .map_err(|error| Error::internal(error.to_string()))?;
        let cancel = core.scope.cancel().child();
        let live = core.runs.begin(&run_id, &agent.id, request.session.as_ref(), &cancel)?;
        // Closing may have begun meanwhile; then it either sees this run living, or this sees it closing.
        if !core.closing.is_open() {
            return Err(closed());
        }
        Ok(Prepared { request, run_id, tag, agent, provider, tools, cancel, live })
    }

    /// A blocking run that may call the host needs a way to it; better said now than in the middle.
    fn check_handler(&self, tools: &[Arc<Registered>]) -> Result<()> {
        let desk = &self.core().desk;
        let host_tool = tools.iter().find(|tool| matches!(tool.runner, Runner::Host));
        match host_tool {
            Some(tool) if desk.callback().is_none() && desk.inbox().is_none() => Err(Error::new(
                Status::NoHandler,
                format!("the tool {:?} is run by the host, and a blocking call has no way to it", tool.config.name),
            )
            .with_hint(
                "use par_stream_start, or par_on_tool, or serve the inbox (par_inbox_wait) from another thread",
            )),
            Some(_) | None => Ok(()),
        }
    }
}

impl Prepared {
    fn into_spec(
        self,
        core: &Arc<Core>,
        queue: Option<Arc<Queue>>,
        timeout: Option<Duration>,
    ) -> (RunSpec, Emitter, LiveRun) {
        let now = Instant::now();
        let asked = self.request.timeout_ms.map(Duration::from_millis);
        let limit = match (asked, timeout) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let envelope = Envelope::new(&self.run_id, self.tag.as_deref());
        let wishes = Wishes {
            overflow: self.request.overflow,
            events: self.request.events,
            max_held: core.limits().stream_queue_bytes,
        };
        let emitter = Emitter::new(envelope, queue, Arc::clone(&core.hub), wishes);
        let spec = RunSpec {
            run_id: self.run_id,
            parallel: self.agent.parallel_tool_execution.unwrap_or(core.config.parallel_tool_execution),
            agent: self.agent,
            provider: self.provider,
            tools: self.tools,
            input: self.request.input.0,
            session: self.request.session,
            store: Arc::clone(&core.store),
            desk: Arc::clone(&core.desk),
            max_tool_result_bytes: core.limits().max_tool_result_bytes,
            // A limit too long for the clock is none.
            deadline: limit.and_then(|limit| now.checked_add(limit)),
            cancel: self.cancel,
        };
        (spec, emitter, self.live)
    }
}

impl Core {
    /// Books how a run ended; it lives no more.
    fn conclude(&self, outcome: &agent::Outcome, mut live: LiveRun) {
        let (counter, usage) = match outcome {
            Ok(result) => (&self.metrics.runs_completed, result.usage),
            Err(failure) if failure.error.status() == Status::Cancelled => {
                (&self.metrics.runs_cancelled, failure.usage)
            }
            Err(failure) => (&self.metrics.runs_failed, failure.usage),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.metrics.input_tokens.fetch_add(usage.input_tokens, Ordering::Relaxed);
        self.metrics.output_tokens.fetch_add(usage.output_tokens, Ordering::Relaxed);
        live.ended(outcome.as_ref().err().map(|failure| &failure.error));
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

    /// Starts a method of `par_call` as a stream of one terminal event.
    pub(super) fn start_task(self: &Arc<Self>, work: impl Future<Output = Answer> + Send + 'static) -> Result<Stream> {
        let handle = self.handle()?;
        let run_id = RunId::generate();
        let limits = self.limits();
        let queue =
            Arc::new(Queue::new(Bounds { events: limits.stream_queue_events, bytes: limits.stream_queue_bytes }));
        let cancel = self.scope.cancel().child();
        let stream = Stream {
            run_id: run_id.clone(),
            queue: Arc::clone(&queue),
            ended: Arc::new(OnceLock::new()),
            cancel: cancel.clone(),
        };
        let ending = Ending::of(&stream);
        let hub = Arc::clone(&self.hub);
        let batched = Arc::clone(&queue);
        let task = async move {
            let mut emitter = Emitter::new(Envelope::new(&run_id, None), Some(queue), hub, Wishes::default());
            let answer = tokio::select! {
                biased;
                () = cancel.cancelled() => Err(Error::new(Status::Cancelled, format!("the call was cancelled: {}", cancel.reason()))),
                answer = work => answer,
            };
            let _ = ending.ended.set(answer.clone().map(Outcome::Method));
            finish(&mut emitter, &answer, &cancel);
            drop(ending);
        };
        self.scope.spawn(&handle, Batched::new(batched, task));
        Ok(stream)
    }
}

fn finish(emitter: &mut Emitter, answer: &Answer, cancel: &Cancel) {
    let raw = match answer {
        Ok(json) => RawValue::from_string(json.clone()).map_err(|error| Error::internal(error.to_string())),
        Err(error) => Err(error.clone()),
    };
    let usage = Usage::default();
    match &raw {
        Ok(result) => emitter.finish(&EventBody::Answered { result }),
        Err(error) if error.status() == Status::Cancelled => {
            emitter.finish(&EventBody::Cancelled { reason: &cancel.reason(), usage })
        }
        Err(error) => emitter.finish(&EventBody::Failed { error, usage }),
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
            let failed = EventBody::Failed { error: &error, usage: Usage::default() };
            Envelope::new(&self.run_id, None).write(&failed, &mut event);
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
        let stream = Stream { run_id: "r".into(), queue, ended, cancel: Cancel::new() };
        drop(Ending::of(&stream));
        assert_eq!(stream.answer().unwrap().unwrap_err().status(), Status::Closed);
        let parse = |event: &[u8]| serde_json::from_slice::<serde_json::Value>(event).unwrap();
        let Polled::Event(event) = stream.queue().poll(parse).unwrap() else { panic!("no terminal event") };
        assert_eq!((&event["type"], &event["error"]["name"]), (&"failed".into(), &"PAR_ERR_CLOSED".into()));
        assert_eq!(stream.queue().poll(parse).unwrap(), Polled::End);
    }
}
