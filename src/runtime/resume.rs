//! Going on with runs that their process did not live to end.

use super::core::{Core, Runtime};
use super::run::{Prepared, Resumed};
use super::stream::{Answer, Stream};
use crate::approval;
use crate::config::{Decision, RunRequest};
use crate::llm::HttpPool;
use crate::store::{EventFilter, Unfinished};
use crate::types::{AgentId, Cancel, Error, EventKind, Result, RunId, Scope, Status, Usage};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

impl Runtime {
    /// Goes on with a run as a stream of its events.
    pub(super) fn resume_stream(&self, scope: &Scope, run_id: &RunId) -> Result<Stream> {
        let core = self.core();
        core.handle()?;
        let prepared = core.drivers.block_on(&core.log, |_| core.prepare_to_resume(scope, run_id, true))?;
        self.launch(prepared)
    }
}

impl Core {
    /// Goes on with a run to its end.
    pub(super) async fn resume(
        self: &Arc<Self>,
        scope: &Scope,
        run_id: &RunId,
        has_stream: bool,
        http: &HttpPool,
        cancel: &Cancel,
    ) -> Answer {
        let prepared = self.prepare_to_resume(scope, run_id, has_stream).await?;
        let control = Arc::clone(&prepared.control);
        let mut work = std::pin::pin!(self.run(prepared, None, http));
        tokio::select! {
            biased;
            answer = &mut work => answer,
            () = cancel.cancelled() => {
                control.cancel.cancel(&cancel.reason());
                work.await
            }
        }
    }

    /// Goes on with all runs of an agent that their process did not live to end, one after the other, in the background.
    pub(super) fn resume_all(self: &Arc<Self>, agent: AgentId) -> Result<()> {
        let handle = self.handle()?;
        let core = Arc::clone(self);
        self.scope.spawn(&handle, async move {
            let orphans = match core.store.orphans(Some(&agent)).await {
                Ok(orphans) => orphans,
                Err(error) => return tracing::error!("runs that did not end cannot be listed: {error}"),
            };
            for run in orphans {
                if core.scope.cancel().is_cancelled() {
                    return;
                }
                let begun = core.store.unfinished(&run.run_id).await.ok().flatten();
                let Some(begun) = begun else { continue };
                let (http, cancel) = (Arc::clone(&core.http), core.scope.cancel().child());
                match core.resume(&begun.begin.scope, &run.run_id, false, &http, &cancel).await {
                    Ok(_) => tracing::info!(run_id = run.run_id.as_str(), "a run that did not end was resumed"),
                    Err(error) => tracing::warn!(run_id = run.run_id.as_str(), "a resumed run failed: {error}"),
                }
            }
        });
        Ok(())
    }

    /// Answers an approval request, also one of a run that is to be resumed.
    pub(super) async fn resolve_approval(&self, approval_id: &str, decision: &Value) -> Result<()> {
        match self.approvals.resolve(approval_id, Decision::from_value(decision)?) {
            Err(error) if error.status() == Status::NotFound => {
                match approval::decide(&self.store, approval_id, decision).await? {
                    true => Ok(()),
                    false => Err(error),
                }
            }
            answered => answered,
        }
    }

    async fn prepare_to_resume(self: &Arc<Self>, scope: &Scope, run_id: &RunId, has_stream: bool) -> Result<Prepared> {
        let run = self.unfinished(scope, run_id).await?;
        let mut request = RunRequest::from_json(&run.begin.request)?;
        request.run_id = Some(run_id.clone());
        let durability = request.durability;
        let text = Arc::clone(&run.begin.request);
        let mut prepared = self.prepare(request, text, "request", has_stream)?;
        let (usage, requests) = self.consumed(&run).await?;
        // The last step, so that a run which cannot be resumed stays as it is.
        let log = self.store.adopt(&run, &self.shared_id, durability).await?.ok_or_else(|| lives(run_id))?;
        prepared.resumed = Some(Resumed { run: Box::new(run), log, usage, requests });
        Ok(prepared)
    }

    async fn unfinished(&self, scope: &Scope, run_id: &RunId) -> Result<Unfinished> {
        if self.runs.get(run_id.as_str()).is_some_and(|run| run.status == "running") {
            return Err(lives(run_id));
        }
        match self.store.unfinished(run_id).await? {
            // Ours already, when the answer to its adoption was lost.
            Some(run) if run.begin.scope == *scope && *run.begin.owner == *self.shared_id => Ok(run),
            Some(run) if run.begin.scope == *scope => match self.store.is_alive(&run.begin.owner).await? {
                true => Err(lives(run_id)),
                false => Ok(run),
            },
            Some(_) | None => match self.store.run(scope.as_str(), run_id).await? {
                Some(run) => {
                    Err(Error::new(Status::Busy, format!("the run {run_id:?} has ended: it {}", run.status.name()))
                        .with_code("run_ended")
                        .with_hint("runs.get tells what came of it"))
                }
                None => Err(Error::new(Status::NotFound, format!("there is no run {run_id:?}"))
                    .with_hint("runs.list with \"status\": \"interrupted\" tells which can be resumed")),
            },
        }
    }

    /// What a run had consumed when its process ended.
    async fn consumed(&self, run: &Unfinished) -> Result<(Usage, u64)> {
        #[derive(Deserialize)]
        struct Update {
            total: Usage,
        }
        let filter = EventFilter {
            scope: run.begin.scope.clone(),
            run_id: Some(run.begin.run_id.clone()),
            types: EventKind::UsageUpdate.bit(),
            ..EventFilter::default()
        };
        let (mut total, mut requests, mut after) = (Usage::default(), 0, None);
        loop {
            let (events, next) = self.store.events(&filter, after, 1_000).await?;
            for event in &events {
                let update: Update =
                    serde_json::from_str(event.get()).map_err(|error| Error::internal(error.to_string()))?;
                total = update.total;
                requests += 1;
            }
            after = next;
            if after.is_none() {
                return Ok((total, requests));
            }
        }
    }
}

fn lives(run_id: &RunId) -> Error {
    Error::new(Status::Busy, format!("the run {run_id:?} lives, in this process or another"))
        .with_code("run_lives")
        .with_hint("only a run whose process has ended can be resumed")
}
