//! Several runs at once: `par_call("invoke_parallel")`.
//!
//! Each is a run like any other, with its own session, budget and place in the quotas. Their events stand in one stream,
//! each under `path: ["<index>"]`.

use super::core::Core;
use super::run::{Prepared, origin};
use super::stream::Answer;
use crate::agent::{Begun, Outcome, execute_below};
use crate::config::{FailurePolicy, Merge, ParallelRequest, RunRequest};
use crate::events::Emitter;
use crate::llm::HttpPool;
use crate::types::{AgentId, Cancel, Envelope, Error, Result, RunId, RunResult, Status, millis};
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

/// Where several runs are dispatched from.
pub(super) struct Dispatch<'a> {
    pub core: &'a Arc<Core>,
    pub run_id: &'a RunId,
    pub emitter: &'a Emitter,
    pub http: &'a HttpPool,
    pub cancel: &'a Cancel,
}

struct Ended {
    index: usize,
    run_id: RunId,
    agent: AgentId,
    outcome: Outcome,
    duration_ms: u64,
}

impl Dispatch<'_> {
    /// Runs them all and answers what came of each, in the order of the requests.
    pub async fn run(&self, dispatch: ParallelRequest, requests: Vec<RunRequest>) -> Answer {
        let has_stream = self.emitter.queue().is_some();
        let mut prepared = Vec::with_capacity(requests.len());
        for (index, request) in requests.into_iter().enumerate() {
            let path = format!("params.specs[{index}]");
            request.refuse_stream_keys(&path, "the runs share one", "leave it out")?;
            let text = dispatch.specs.get(index).map(Value::to_string).unwrap_or_default();
            prepared.push((index, self.core.prepare(request, text.into(), &path, has_stream)?));
        }
        if let Merge::Agent { agent, .. } = &dispatch.merge {
            // Better said now than when everything has run.
            self.core.agents.setup(self.core, &AgentId::from(agent.as_str()), "params.merge.agent")?;
        }
        let total = prepared.len();
        // Cancelled together, when the call is or when the first failure ends them.
        let together = self.cancel.child();
        let mut waiting = prepared.into_iter();
        let mut running = FuturesUnordered::new();
        let mut ended: Vec<Ended> = Vec::with_capacity(total);
        loop {
            while running.len() < dispatch.parallel_limit
                && !together.is_cancelled()
                && let Some((index, prepared)) = waiting.next()
            {
                running.push(self.one(index, prepared, together.clone()));
            }
            let Some(one) = running.next().await else { break };
            if one.outcome.is_err() && dispatch.failure_policy == FailurePolicy::FailFast {
                together.cancel("another run of the dispatch failed");
            }
            ended.push(one);
        }
        drop(running);
        ended.sort_by_key(|one| one.index);
        let mut results: Vec<Value> = ended.iter().map(told).collect();
        results.extend(waiting.map(|(index, prepared)| {
            json!({"index": index, "run_id": prepared.run_id, "status": "cancelled", "duration_ms": 0,
                   "error": Error::new(Status::Cancelled, "it was not begun: another run of the dispatch failed")})
        }));
        let count = |status: &str| results.iter().filter(|result| result["status"] == status).count();
        let answers: Vec<&RunResult> = ended.iter().filter_map(|one| one.outcome.as_ref().ok()).collect();
        let mut whole = json!({"succeeded": count("completed"), "failed": count("failed"),
                               "cancelled": count("cancelled"), "results": results});
        // The answers are worth having also when they could not be merged.
        let (key, value) = match self.merge(&dispatch.merge, &answers).await {
            Ok(merged) => ("merged", merged),
            Err(error) => ("merge_error", json!(error)),
        };
        if let Some(fields) = whole.as_object_mut() {
            fields.insert(key.into(), value);
        }
        Ok(whole.to_string())
    }

    async fn one(&self, index: usize, prepared: Prepared, together: Cancel) -> Ended {
        let control = Arc::clone(&prepared.control);
        let (mut spec, live, _) = prepared.into_spec(self.core, None).await;
        spec.path = vec![index.to_string()];
        let envelope = Envelope::below(&spec.run_id, self.run_id, &spec.path, spec.tag.as_deref());
        let above = self.emitter.clone().of(origin(&spec));
        let emitter = above.child(envelope);
        let (run_id, agent) = (spec.run_id.clone(), spec.setup.config.id.clone());
        let mut begun = Begun::new(&above, &spec, None);
        let began = Instant::now();
        let work = execute_below(&spec, &emitter, self.http);
        let mut work = std::pin::pin!(work);
        let outcome = tokio::select! {
            biased;
            outcome = &mut work => outcome,
            () = together.cancelled() => {
                control.cancel.cancel(&together.reason());
                work.await
            }
        };
        self.core.conclude(&outcome, live, &control);
        begun.ended(&outcome);
        drop(begun);
        let duration_ms = millis(began.elapsed());
        Ended { index, run_id, agent, outcome, duration_ms }
    }

    async fn merge(&self, merge: &Merge, answers: &[&RunResult]) -> Result<Value> {
        let text_of = |result: &&RunResult| result.output.clone().unwrap_or_else(|| json!(result.text));
        Ok(match merge {
            Merge::None => Value::Null,
            Merge::FirstSuccess => answers.first().map(text_of).unwrap_or_default(),
            Merge::Concat { separator } => {
                json!(answers.iter().map(|result| result.text.as_str()).collect::<Vec<_>>().join(separator))
            }
            Merge::Majority => {
                let values: Vec<Value> = answers.iter().map(text_of).collect();
                let votes = |value: &Value| values.iter().filter(|other| *other == value).count();
                // The first of those with the most votes; `max_by_key` would take the last.
                values.iter().rev().max_by_key(|value| votes(value)).cloned().unwrap_or_default()
            }
            Merge::Agent { agent, prompt } if !answers.is_empty() => {
                let mut input = prompt.clone();
                for (index, result) in answers.iter().enumerate() {
                    input.push_str(&format!("\n\nAnswer {}:\n{}", index + 1, result.text));
                }
                let request = json!({"agent": agent, "input": input});
                let text = request.to_string().into();
                let request = RunRequest::from_value(&request, "params.merge")?;
                let has_stream = self.emitter.queue().is_some();
                let prepared = self.core.prepare(request, text, "params.merge", has_stream)?;
                let merged = self.one(answers.len(), prepared, self.cancel.child()).await;
                json!(merged.outcome.map_err(|failure| failure.error)?.text)
            }
            Merge::Agent { .. } => Value::Null,
        })
    }
}

fn status_of(error: &Error) -> &'static str {
    if error.status() == Status::Cancelled { "cancelled" } else { "failed" }
}

fn told(one: &Ended) -> Value {
    let mut told =
        json!({"index": one.index, "run_id": one.run_id, "agent": one.agent, "duration_ms": one.duration_ms});
    let (key, status, value) = match &one.outcome {
        Ok(result) => ("result", "completed", json!(result)),
        Err(failure) => ("error", status_of(&failure.error), json!(failure.error)),
    };
    if let Some(fields) = told.as_object_mut() {
        fields.insert("status".into(), json!(status));
        fields.insert(key.into(), value);
    }
    told
}
