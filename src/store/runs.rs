//! Runs as the store knows them: their logs, how they stand, and what becomes of those that did not live to end.

use super::{Durable, Listed, Page, RunBegin, RunFilter, RunLog, Store, StoredRun, Unfinished};
use crate::config::Durability;
use crate::types::{Error, Result, RunId, now_ms};
use std::sync::Arc;

impl Store {
    /// The log of a run that begins; none if nothing is kept.
    pub fn log(&self, begin: RunBegin, durability: Option<Durability>) -> Option<Arc<RunLog>> {
        let Durable { writer, durability: usual, .. } = self.durable.as_ref()?;
        Some(RunLog::new(begin, durability.unwrap_or(*usual), Arc::clone(writer)))
    }

    /// The log of a run that goes on, as `owner`'s. None if another runtime has taken it over.
    pub async fn adopt(
        &self,
        run: &Unfinished,
        owner: &Arc<str>,
        durability: Option<Durability>,
    ) -> Result<Option<Arc<RunLog>>> {
        let Durable { writer, durability: usual, .. } = self.durable()?;
        let (run_id, from) = (run.begin.run_id.clone(), Arc::clone(&run.begin.owner));
        let to = Arc::clone(owner);
        if !writer.run(move |backend| backend.adopt(&run_id, &from, &to)).await? {
            return Ok(None);
        }
        let begin = RunBegin { owner: Arc::clone(owner), ..run.begin.clone() };
        Ok(Some(RunLog::resumed(begin, durability.unwrap_or(*usual), Arc::clone(writer), run.chain)))
    }

    /// Whether no stored run has this id.
    pub async fn check_new(&self, run_id: &RunId) -> Result<bool> {
        match &self.durable {
            None => Ok(true),
            Some(Durable { backend, writer, .. }) => {
                writer.flush(false).await?;
                Ok(!backend.has_run(run_id).await?)
            }
        }
    }

    /// One stored run; none also where nothing is kept.
    pub async fn run(&self, scope: &str, run_id: &RunId) -> Result<Option<StoredRun>> {
        match &self.durable {
            None => Ok(None),
            Some(Durable { backend, writer, .. }) => {
                writer.flush(false).await?;
                backend.run(scope, run_id).await
            }
        }
    }

    /// Stored runs, newest first; none where nothing is kept.
    pub async fn runs(&self, filter: &RunFilter, page: Page) -> Result<Option<Listed<StoredRun>>> {
        match &self.durable {
            None => Ok(None),
            Some(Durable { backend, writer, .. }) => {
                writer.flush(false).await?;
                backend.runs(filter, page).await.map(Some)
            }
        }
    }

    /// Runs that have not ended although their runtime lives no more.
    pub async fn orphans(&self, agent: Option<&crate::types::AgentId>) -> Result<Vec<StoredRun>> {
        match &self.durable {
            None => Ok(Vec::new()),
            Some(durable) => durable.backend.orphans(agent).await,
        }
    }

    /// A run that has not ended.
    pub async fn unfinished(&self, run_id: &RunId) -> Result<Option<Unfinished>> {
        self.durable()?.backend.unfinished(run_id).await
    }

    /// Whether a runtime lives.
    pub async fn is_alive(&self, owner: &str) -> Result<bool> {
        self.durable()?.backend.is_alive(owner).await
    }

    /// Whether a run has not ended although its runtime lives no more.
    pub async fn is_interrupted(&self, run_id: &RunId) -> Result<bool> {
        let backend = &self.durable()?.backend;
        match backend.unfinished(run_id).await? {
            Some(run) => backend.is_alive(&run.begin.owner).await.map(|lives| !lives),
            None => Ok(false),
        }
    }

    /// Ends a run that nobody will resume. False if it has ended, or its runtime lives.
    pub async fn abandon(&self, run_id: &RunId, error: &Error) -> Result<bool> {
        let run_id = run_id.clone();
        let error = serde_json::to_string(error).unwrap_or_default();
        self.durable()?.writer.run(move |backend| backend.abandon(&run_id, &error, now_ms())).await
    }
}
