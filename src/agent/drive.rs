//! The loop: ask the model, run the tools it calls, tell it the results, until it is done.

use super::calls::{Called, run_calls};
use super::run::{RunSpec, cancelled, take_no_more};
use super::setup::Offer;
use super::sink::Joint;
use super::structured::{ANSWER_TOOL, Means, Structured};
use super::template::Prompt;
use super::turn::{Answered, Ask, ask};
use super::work::{Progress, Work};
use crate::config::{EarlyStopping, HandoffConfig, OnMaxTokens, When};
use crate::events::Emitter;
use crate::llm::{HttpPool, ModelAnswer};
use crate::store::Unfinished;
use crate::types::{
    AgentId, Error, EventBody, FinishReason, Mark, Message, Part, Result, RunResult, Status, ToolCallId,
    ToolCallRecord, ToolResult, TranscriptError, millis, text_of,
};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What the model is told when its answer was cut off and it shall go on.
const CONTINUE: &str = "Your answer was cut off at its length limit. Continue exactly where it stopped, in the middle of the \
                        sentence or word if need be. Do not repeat anything and do not comment on it.";

/// What the model is told when it may not call tools any more.
const FINISH: &str = "You have used up your turns and can call no more tools. Give your final answer now, from what you know, and \
                      say what is missing.";

pub async fn drive(spec: &RunSpec, emitter: &Emitter, progress: &mut Progress, http: &HttpPool) -> Result<RunResult> {
    if let Some(key) = spec.session_key() {
        let lease = spec.store.lease(&key, spec.waits_for_session).await?;
        progress.hold(spec, lease);
    }
    let mut work = Work {
        spec,
        emitter,
        http,
        progress,
        setup: Arc::clone(&spec.setup),
        system: spec.prompt.system.clone(),
        requests_made: Mutex::default(),
    };
    mask_history(&mut work);
    let goes_on = match &spec.resumed {
        Some(resumed) => restore(&mut work, resumed)?,
        None => false,
    };
    let mut looped =
        Loop { work, max_iterations: spec.setup.config.max_iterations, repairs: 0, retries: 0, max_tokens: None };
    match goes_on {
        true => looped.follow_handoffs()?,
        false => {
            let mut input = spec.input.clone();
            looped.work.setup.chain.mask_parts(&mut input);
            input.extend(spec.prompt.context.clone().map(Part::text));
            looped.work.transcript_mut().push_user(input).map_err(bug)?;
        }
    }
    looped.run().await
}

/// Puts what was said before the process ended in its place. False if nothing was.
fn restore(work: &mut Work<'_>, resumed: &Unfinished) -> Result<bool> {
    let Some(from) = resumed.from else { return Ok(false) };
    let here = work.progress.mark.index();
    if from != here {
        return Err(Error::new(
            Status::Busy,
            format!("another run has gone on with the session since: it has {here} entries, and had {from}"),
        )
        .with_code("session_moved_on")
        .with_hint("say the same again in a new run; runs.abandon ends this one"));
    }
    let damaged = |what| Error::new(Status::Persistence, what).with_code("store_corrupt");
    work.transcript_mut().extend(resumed.entries.iter().map(String::as_str)).map_err(damaged)?;
    let said = work.transcript().since(work.progress.mark);
    let answers = said.iter().filter(|message| matches!(message, Message::Assistant { .. })).count();
    work.progress.iterations = u32::try_from(answers).unwrap_or(u32::MAX);
    work.requests_to(work.setup.provider.name()).store(work.progress.iterations, Ordering::Relaxed);
    Ok(true)
}

struct Loop<'a> {
    work: Work<'a>,
    /// The most of any agent that had the word.
    max_iterations: u32,
    repairs: u32,
    retries: u32,
    /// A larger bound than the agent's, after an answer that was cut off.
    max_tokens: Option<u32>,
}

/// What comes after an answer.
enum Next {
    Again,
    Done(Box<RunResult>),
}

impl Loop<'_> {
    async fn run(mut self) -> Result<RunResult> {
        if self.work.transcript().open_calls().next().is_some()
            && let Some(result) = self.finish_calls().await?
        {
            return Ok(result);
        }
        loop {
            let control = &self.work.spec.control;
            if control.ends_after_turn().is_some() {
                return Err(cancelled(control));
            }
            self.say(control.take_now(), When::Now)?;
            let is_last = self.work.progress.iterations >= self.max_iterations;
            // What the model is told then is not part of the conversation.
            let mark = is_last.then(|| self.work.transcript().mark());
            if is_last {
                match self.work.setup.config.early_stopping_method {
                    EarlyStopping::Force => return Err(max_iterations_error(self.max_iterations)),
                    EarlyStopping::Generate => {
                        take_no_more(control, self.work.emitter);
                        self.work.transcript_mut().push_user(vec![Part::text(FINISH)]).map_err(bug)?;
                    }
                }
            }
            if let Next::Done(result) = self.turn(mark).await? {
                return Ok(*result);
            }
        }
    }

    /// `last`: where the conversation ends, if this is the last turn.
    async fn turn(&mut self, last: Option<Mark>) -> Result<Next> {
        let is_last = last.is_some();
        self.work.progress.iterations += 1;
        self.work.emitter.emit(&EventBody::TurnStarted { turn: self.work.progress.iterations });
        let spec = self.work.spec;
        let structured = spec.structured.as_ref().map(|wanted| (wanted, wanted.means(&self.work.setup.profile)));
        let structured_means = structured.map(|(_, means)| means);
        let request = Ask { structured, joint: None, without_tools: is_last, max_tokens: self.max_tokens };
        let answered = ask(&mut self.work, request).await;
        if let (Err(_), Some(mark)) = (&answered, last) {
            self.work.transcript_mut().rewind(mark);
        }
        let Answered { answer, first_seq } = answered?;
        let calls_tools = answer.parts.iter().any(|part| part.as_tool_call().is_some());
        let answer = match (answer.finish_reason, self.on_max_tokens()) {
            (FinishReason::MaxTokens, OnMaxTokens::Retry) if self.may_retry() => {
                self.retry(&answer, first_seq);
                return Ok(Next::Again);
            }
            (FinishReason::MaxTokens, OnMaxTokens::Continue) if !calls_tools => {
                // Rare, and large.
                Box::pin(self.continued(answer)).await?
            }
            (
                FinishReason::MaxTokens
                | FinishReason::Stop
                | FinishReason::ToolCalls
                | FinishReason::ContentFilter
                | FinishReason::Refusal,
                _,
            ) => answer,
        };
        self.max_tokens = None;
        let ModelAnswer { parts, finish_reason, model, usage: _ } = answer;
        let calls_tools = parts.iter().any(|part| part.as_tool_call().is_some());
        if let Some(mark) = last {
            self.work.transcript_mut().rewind(mark);
        }
        if !parts.is_empty() {
            self.work.transcript_mut().push_assistant(parts.clone()).map_err(bug)?;
        }
        let mut ended = Ended { parts, finish_reason, model, output: None };
        if calls_tools && is_last {
            ended.output = self.refuse_calls(structured_means == Some(Means::Tool)).await?;
            let has_text = ended.parts.iter().any(|part| part.as_text().is_some_and(|text| !text.trim().is_empty()));
            if !has_text && ended.output.is_none() {
                return Err(max_iterations_error(self.max_iterations));
            }
        } else if calls_tools {
            match self.call_tools(structured_means).await? {
                None => return Ok(Next::Again),
                Some(value) => ended.output = Some(value),
            }
        } else if let Some(structured) = &spec.structured {
            let answered =
                matches!(ended.finish_reason, FinishReason::Stop | FinishReason::MaxTokens | FinishReason::ToolCalls);
            match self.work.value_of(structured, &text_of(&ended.parts)).await {
                Ok(value) => ended.output = Some(value),
                // The provider or the model has declined, and will again.
                Err(_) if !answered => return Err(declined(ended.finish_reason)),
                Err(problem) => {
                    self.count_repair(structured, &problem)?;
                    self.work
                        .transcript_mut()
                        .push_user(vec![Part::text(Structured::feedback(&problem))])
                        .map_err(bug)?;
                    return Ok(Next::Again);
                }
            }
        }
        let control = &spec.control;
        if !is_last && let Some((messages, when)) = control.take_after_answer() {
            if control.ends_after_turn().is_some() {
                return Err(cancelled(control));
            }
            self.say(messages, when)?;
            return Ok(Next::Again);
        }
        Ok(Next::Done(Box::new(self.result(ended))))
    }

    /// Runs the calls of the last answer. The answer's value, if one of them was it.
    async fn call_tools(&mut self, means: Option<Means>) -> Result<Option<Value>> {
        self.work.save();
        let called = run_calls(&mut self.work, means == Some(Means::Tool)).await?;
        let value = self.after_calls(called).await?;
        self.work.save();
        if let Some(log) = &self.work.spec.log {
            log.step().await?;
            self.work.emitter.kept();
        }
        Ok(value)
    }

    /// Runs the calls that the process did not live to run. The result, if one of them was it.
    async fn finish_calls(&mut self) -> Result<Option<RunResult>> {
        let structured = self.work.spec.structured.as_ref();
        let means = structured.map(|wanted| wanted.means(&self.work.setup.profile));
        let value = self.call_tools(means).await?;
        let model = self.work.setup.config.model.model_name.clone();
        Ok(value.map(|value| {
            self.result(Ended { parts: Vec::new(), finish_reason: FinishReason::ToolCalls, model, output: Some(value) })
        }))
    }

    /// The agent that had the word when the process ended has it again.
    fn follow_handoffs(&mut self) -> Result<()> {
        let mut handoffs: Vec<Arc<HandoffConfig>> = Vec::new();
        let mut setup = Arc::clone(&self.work.setup);
        for (call, result) in self.work.transcript().calls_since(self.work.progress.mark) {
            if let Some(Offer::Handoff(handoff)) = setup.offers.get(&call.name).filter(|_| !result.is_error) {
                handoffs.push(Arc::clone(handoff));
                setup = self.work.spec.agents.setup(&handoff.agent)?;
            }
        }
        for handoff in handoffs {
            self.take_over(&handoff.agent)?;
        }
        mask_history(&mut self.work);
        Ok(())
    }

    fn on_max_tokens(&self) -> OnMaxTokens {
        if self.work.spec.generates { OnMaxTokens::Continue } else { self.work.setup.config.on_max_tokens }
    }

    /// Asking again is of use only with more room, and within bounds.
    fn may_retry(&self) -> bool {
        self.retries < self.work.setup.config.max_continuations && self.work.progress.iterations < self.max_iterations
    }

    fn retry(&mut self, answer: &ModelAnswer, first_seq: u64) {
        self.retries += 1;
        let most =
            self.work.setup.profile.max_output_tokens.and_then(|most| u32::try_from(most).ok()).unwrap_or(u32::MAX);
        let now = self.max_tokens.or(self.work.setup.config.model.max_tokens);
        self.max_tokens = now.map(|now| now.saturating_mul(2).min(most).max(now));
        let error = Error::new(Status::Provider, "the answer was cut off at its token limit")
            .with_code("max_tokens")
            .with_retryable(true);
        tracing::info!(model = answer.model, "an answer was cut off and is asked for again");
        let (attempt, delay_ms) = (self.retries + 1, 0);
        self.work.emitter.emit(&EventBody::TurnRetried {
            attempt,
            delay_ms,
            discard_from_seq: first_seq,
            error: &error,
        });
    }

    /// Continues an answer that was cut off until it is whole. In the conversation it stands as one answer.
    async fn continued(&mut self, first: ModelAnswer) -> Result<ModelAnswer> {
        let mark = self.work.transcript().mark();
        let mut text = text_of(&first.parts);
        let mut kept: Vec<Part> = first.parts;
        let (mut finish_reason, mut model) = (first.finish_reason, first.model);
        for number in 1..=self.work.setup.config.max_continuations {
            if text.is_empty() || finish_reason != FinishReason::MaxTokens {
                break;
            }
            self.work.transcript_mut().rewind(mark);
            self.work.transcript_mut().push_assistant(vec![Part::text(text.clone())]).map_err(bug)?;
            self.work.transcript_mut().push_user(vec![Part::text(CONTINUE)]).map_err(bug)?;
            self.work.progress.iterations += 1;
            self.work.emitter.emit(&EventBody::Continuation { number });
            let mut joint = Joint::new(&text);
            let request = Ask { joint: Some(&mut joint), max_tokens: self.max_tokens, ..Ask::default() };
            let Answered { answer, .. } = match ask(&mut self.work, request).await {
                Ok(answered) => answered,
                Err(error) => {
                    self.work.transcript_mut().rewind(mark);
                    return Err(error);
                }
            };
            let added = joint.added.len();
            text.push_str(&joint.added);
            finish_reason = answer.finish_reason;
            model = answer.model;
            // What comes besides text comes after it.
            kept.retain(|part| part.as_text().is_none());
            kept.push(Part::text(text.clone()));
            kept.extend(answer.parts.into_iter().filter(|part| part.as_tool_call().is_some()));
            if added == 0 {
                // It has nothing more to say, whatever it calls the reason.
                break;
            }
        }
        self.work.transcript_mut().rewind(mark);
        Ok(ModelAnswer { parts: kept, finish_reason, usage: first.usage, model })
    }

    /// What comes after tool calls: the answer, if one of them was it.
    async fn after_calls(&mut self, called: Called) -> Result<Option<Value>> {
        if let Some((id, arguments)) = called.answer
            && let Some(structured) = &self.work.spec.structured
        {
            match self.work.value_of(structured, &arguments).await {
                Ok(value) => {
                    self.answer(&id, ToolResult::ok("The answer was taken."))?;
                    return Ok(Some(value));
                }
                Err(problem) => {
                    self.answer(&id, ToolResult::error(Structured::feedback(&problem)))?;
                    self.count_repair(structured, &problem)?;
                }
            }
        }
        if let Some((handoff, task)) = called.handoff {
            self.hand_over(&handoff, task)?;
        }
        Ok(None)
    }

    fn count_repair(&mut self, structured: &Structured, problem: &str) -> Result<()> {
        if self.repairs >= structured.max_repairs {
            return Err(Structured::failure(problem, self.repairs + 1));
        }
        self.repairs += 1;
        self.work.emitter.emit(&EventBody::OutputRepair { attempt: self.repairs + 1, problem });
        Ok(())
    }

    fn hand_over(&mut self, handoff: &HandoffConfig, task: String) -> Result<()> {
        let carry_context = handoff.carry_context;
        let (from, to) = (&self.work.setup.config.id, &handoff.agent);
        self.work.emitter.emit(&EventBody::Handoff { from, to, carry_context });
        let context = self.take_over(&handoff.agent)?;
        let mut told: Vec<Part> = Vec::new();
        if !carry_context {
            // The next agent sees the task and nothing of what was before.
            told.push(Part::text(task));
        }
        told.extend(context.map(Part::text));
        if !carry_context {
            let end = self.work.transcript().end();
            self.work.transcript_mut().compact(end, Vec::new()).map_err(bug)?;
            self.work.progress.history += 1;
        }
        if !told.is_empty() {
            self.work.transcript_mut().push_user(told).map_err(bug)?;
        }
        mask_history(&mut self.work);
        Ok(())
    }

    /// Another agent has the word. What is told with the user's message of its prompt.
    fn take_over(&mut self, agent: &AgentId) -> Result<Option<String>> {
        let spec = self.work.spec;
        let setup = spec.agents.setup(agent)?;
        let prompt = Prompt::of_call(&setup, &spec.runtime_id, &spec.variables)?;
        self.max_iterations = self.max_iterations.max(setup.config.max_iterations);
        self.work.setup = setup;
        self.work.system = prompt.system;
        Ok(prompt.context)
    }

    /// Calls in the answer that was to be the last: none of them is executed, but one may be the answer itself.
    async fn refuse_calls(&mut self, takes_answer: bool) -> Result<Option<Value>> {
        let given = {
            let mut calls = self.work.transcript().open_calls();
            let given = calls.find(|call| takes_answer && call.name == ANSWER_TOOL);
            given.map(|call| (call.id.clone(), call.arguments.clone()))
        };
        let mut output = None;
        if let (Some((id, arguments)), Some(structured)) = (given, &self.work.spec.structured) {
            match self.work.value_of(structured, &arguments).await {
                Ok(value) => {
                    output = Some(value);
                    self.answer(&id, ToolResult::ok("The answer was taken."))?;
                }
                Err(problem) => return Err(Structured::failure(&problem, self.repairs + 1)),
            }
        }
        self.work
            .transcript_mut()
            .close_open_calls(|_| ToolResult::error("This call was not executed: the run has used up its turns."));
        Ok(output)
    }

    fn answer(&mut self, id: &ToolCallId, result: ToolResult) -> Result<()> {
        self.work.transcript_mut().answer(id, result).map_err(bug)
    }

    fn say(&mut self, messages: VecDeque<Vec<Part>>, when: When) -> Result<()> {
        if messages.is_empty() {
            return Ok(());
        }
        self.work.emitter.emit(&EventBody::Steered { messages: messages.len(), when: when.name() });
        for mut parts in messages {
            self.work.setup.chain.mask_parts(&mut parts);
            self.work.transcript_mut().push_user(parts).map_err(bug)?;
        }
        Ok(())
    }

    fn result(&self, ended: Ended) -> RunResult {
        let work = &self.work;
        let counted = work.progress.meter.read();
        let tool_calls = work
            .transcript()
            .calls_since(work.progress.mark)
            .map(|(call, result)| ToolCallRecord { call: call.clone(), is_error: result.is_error })
            .collect();
        RunResult {
            text: text_of(&ended.parts),
            parts: ended.parts,
            tool_calls,
            output: ended.output,
            finish_reason: ended.finish_reason,
            usage: counted.usage,
            cost_usd: counted.known_cost(),
            agent: work.setup.config.id.clone(),
            model: ended.model,
            iterations: work.progress.iterations,
            duration_ms: millis(work.progress.began.elapsed()),
            session: work.spec.session.clone(),
        }
    }
}

struct Ended {
    parts: Vec<Part>,
    finish_reason: FinishReason,
    model: String,
    output: Option<Value>,
}

/// What was said before, perhaps under rules that let more pass.
fn mask_history(work: &mut Work<'_>) {
    if !work.setup.chain.masks() || work.transcript().is_empty() {
        return;
    }
    let chain = work.setup.chain.clone();
    let changed = work.transcript_mut().rewrite(&mut |text| match chain.mask(text) {
        std::borrow::Cow::Borrowed(_) => None,
        std::borrow::Cow::Owned(masked) => Some(masked),
    });
    if changed {
        work.progress.history += 1;
    }
}

fn bug(error: TranscriptError) -> Error {
    Error::internal(error.to_string())
}

fn declined(reason: FinishReason) -> Error {
    let what = match reason {
        FinishReason::ContentFilter => "the provider filtered the answer",
        FinishReason::Refusal => "the model declined to answer",
        FinishReason::Stop | FinishReason::MaxTokens | FinishReason::ToolCalls => "there is no answer",
    };
    Error::new(Status::ContentFilter, format!("{what}, so there is no value that fits the schema"))
        .with_code("declined")
}

fn max_iterations_error(most: u32) -> Error {
    Error::new(Status::Limit, format!("the agent made {most} model requests without coming to an end"))
        .with_code("max_iterations")
        .with_hint("raise the agent's max_iterations, set early_stopping_method to \"generate\", or see in the events why it goes on")
}
