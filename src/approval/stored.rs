//! Questions that outlive their process.
//!
//! A question of a run that is kept is kept, too, as a head of the store. When the process ends before it is answered it can
//! be answered in another one: the answer is written beside it, and used when the run is resumed.

use super::ApprovalInfo;
use crate::config::Decision;
use crate::store::{Head, HeadFilter, HeadKey, HeadKind, RunLog, Store};
use crate::types::{Error, Result, RunId, Scope, Status, ToolCallId, now_ms};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Questions looked at at once; more than a host would let wait.
const MOST: usize = 10_000;

/// A question as it is stored.
#[derive(Clone, Serialize, Deserialize)]
pub struct Question {
    /// What is asked.
    #[serde(flatten)]
    pub info: ApprovalInfo,
    /// The answer, if it came while nobody ran the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Value>,
}

/// The questions of one run.
pub struct Questions<'a> {
    store: &'a Store,
    scope: &'a Scope,
    run_id: &'a RunId,
}

impl<'a> Questions<'a> {
    /// Those of this run, if its steps are kept.
    pub fn of(store: &'a Store, log: Option<&'a RunLog>, run_id: &RunId) -> Option<Self> {
        let log = log.filter(|log| log.keeps_steps())?;
        let begin = log.begin();
        // A run below it does not go on by itself: it is run anew, and asks anew.
        (begin.run_id == *run_id).then_some(Self { store, scope: &begin.scope, run_id: &begin.run_id })
    }

    /// What was asked about this call before, for the same reason.
    pub async fn before(&self, call: &ToolCallId, why: &str) -> Result<Option<Question>> {
        let filter = HeadFilter {
            kind: HeadKind::Approval,
            scope: Some(self.scope.clone()),
            run_id: Some(self.run_id.clone()),
            name: None,
        };
        let asked = self.store.heads(&filter, MOST).await?;
        let mut asked = asked.iter().filter_map(|head| serde_json::from_str::<Question>(&head.body).ok());
        Ok(asked.find(|question| question.info.tool_call_id == *call && question.info.reason == why))
    }

    /// Keeps a question that waits.
    pub fn keep(&self, info: &ApprovalInfo) {
        let question = Question { info: info.clone(), decision: None };
        self.store.keep_head(Head {
            key: self.key(&info.approval_id),
            run_id: Some(self.run_id.clone()),
            version: 1,
            body: serde_json::to_string(&question).unwrap_or_default(),
            updated_at_ms: now_ms(),
        });
    }

    /// A question waits no more.
    pub fn forget(&self, id: &str) {
        self.store.forget_head(self.key(id));
    }

    fn key(&self, id: &str) -> HeadKey {
        HeadKey { kind: HeadKind::Approval, scope: self.scope.clone(), name: id.to_owned() }
    }
}

/// The questions that wait although nobody runs their runs.
pub async fn waiting(store: &Store) -> Result<Vec<ApprovalInfo>> {
    let filter = HeadFilter { kind: HeadKind::Approval, scope: None, run_id: None, name: None };
    let mut waiting = Vec::new();
    for head in store.heads(&filter, MOST).await? {
        if let Ok(Question { info, decision: None }) = serde_json::from_str(&head.body)
            && store.is_interrupted(&info.run_id).await?
        {
            waiting.push(info);
        }
    }
    Ok(waiting)
}

/// Answers a question whose run nobody runs. False if there is none.
pub async fn decide(store: &Store, id: &str, decision: &Value) -> Result<bool> {
    // Refused now, not when the run goes on.
    Decision::from_value(decision)?;
    let filter = HeadFilter { kind: HeadKind::Approval, scope: None, run_id: None, name: Some(id.to_owned()) };
    let Some(head) = store.heads(&filter, 1).await?.pop() else { return Ok(false) };
    let Ok(Question { info, decision: None }) = serde_json::from_str(&head.body) else { return Ok(false) };
    if !store.is_interrupted(&info.run_id).await? {
        return Err(Error::new(Status::Busy, format!("the run of approval {id:?} lives in another process"))
            .with_path("approval_id")
            .with_hint("answer it there, or when that process has ended"));
    }
    let question = Question { info, decision: Some(decision.clone()) };
    let body = serde_json::to_string(&question).map_err(|error| Error::internal(error.to_string()))?;
    store.replace_head(Head { version: head.version + 1, body, updated_at_ms: now_ms(), ..head }).await
}
