//! Floor 4: tool calls that wait for somebody's word.
//!
//! A call is asked for under an id of its own and answered once: approved, refused, or approved with other arguments. The
//! [`ApprovalDesk`] knows those that wait in this process; how the question reaches the host is the run's concern.

mod stored;

pub use stored::{Question, Questions, decide, waiting};

use crate::config::Decision;
use crate::events::Deliver;
use crate::tools::Registered;
use crate::types::{Error, Result, RunId, Status, ToolCall, ToolCallId, now_ms};
use parking_lot::{Mutex, RwLock};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::oneshot;

/// The calls of one runtime that wait for approval.
#[derive(Default)]
pub struct ApprovalDesk {
    waiting: Mutex<HashMap<String, Waiting>>,
    callback: RwLock<Option<Deliver>>,
}

struct Waiting {
    info: ApprovalInfo,
    /// What checks changed arguments, where there is a tool.
    tool: Option<Arc<Registered>>,
    answer: oneshot::Sender<Decision>,
}

/// One approval in a list.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ApprovalInfo {
    /// What to answer.
    pub approval_id: String,
    /// The run that waits.
    pub run_id: RunId,
    /// The call.
    pub tool_call_id: ToolCallId,
    /// The tool.
    pub name: String,
    /// The arguments.
    pub input: Value,
    /// Why it is asked.
    pub reason: String,
    /// Since when it waits.
    pub asked_at_ms: u64,
}

impl ApprovalInfo {
    /// A question about a call, which nobody has asked before.
    pub fn new(run_id: &RunId, call: &ToolCall, input: Value, reason: &str) -> Self {
        Self {
            approval_id: RunId::generate().to_string(),
            run_id: run_id.clone(),
            tool_call_id: call.id.clone(),
            name: call.name.clone(),
            input,
            reason: reason.to_owned(),
            asked_at_ms: now_ms(),
        }
    }
}

impl ApprovalDesk {
    /// Opens a question. It is withdrawn when the returned value is dropped.
    pub fn open(self: &Arc<Self>, info: ApprovalInfo, tool: Option<Arc<Registered>>) -> Ticket {
        let id = info.approval_id.clone();
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().insert(id.clone(), Waiting { info, tool, answer });
        Ticket { id, answered, desk: Arc::clone(self) }
    }

    /// Answers a question. Arguments that do not fit are refused, and the question still waits.
    pub fn resolve(&self, id: &str, decision: Decision) -> Result<()> {
        let tool = {
            let waiting = self.waiting.lock();
            waiting.get(id).map(|question| question.tool.clone())
        };
        let tool = tool.ok_or_else(|| not_waiting(id))?;
        // Not under the lock: a check may take long.
        if let (Decision::Edit { input, .. }, Some(tool)) = (&decision, &tool) {
            tool.input.check(input).map_err(|wrong| {
                let message = format!("the arguments do not fit the schema of {:?}: {wrong}", tool.config.name);
                Error::schema("decision.input", message).with_hint("the approval still waits")
            })?;
        }
        let question = self.waiting.lock().remove(id);
        let question = question.ok_or_else(|| not_waiting(id))?;
        question.answer.send(decision).map_err(|_| not_waiting(id))
    }

    /// What waits, oldest first.
    pub fn list(&self) -> Vec<ApprovalInfo> {
        let mut list: Vec<_> = self.waiting.lock().values().map(|waiting| waiting.info.clone()).collect();
        list.sort_by(|a, b| a.approval_id.cmp(&b.approval_id));
        list
    }

    /// Sets or removes the callback that takes questions before anything else does.
    pub fn set_callback(&self, callback: Option<Deliver>) {
        *self.callback.write() = callback;
    }

    /// The callback, if one is set.
    pub fn callback(&self) -> Option<Deliver> {
        self.callback.read().clone()
    }
}

fn not_waiting(id: &str) -> Error {
    Error::new(Status::NotFound, format!("no approval {id:?} waits"))
        .with_path("approval_id")
        .with_hint("it was answered before, has expired, or its run has ended; approvals.list tells which wait")
}

/// A question that waits. Dropping it withdraws it.
pub struct Ticket {
    id: String,
    answered: oneshot::Receiver<Decision>,
    desk: Arc<ApprovalDesk>,
}

impl Ticket {
    /// The approval's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Waits for the answer. Cancel safe.
    pub async fn answer(&mut self) -> Option<Decision> {
        (&mut self.answered).await.ok()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.desk.waiting.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Limits, ToolConfig};
    use crate::tools::Runner;
    use pretty_assertions::assert_eq;
    use serde_json::json;

    #[tokio::test]
    async fn a_question_is_answered_once_and_with_arguments_that_fit() {
        let desk = Arc::new(ApprovalDesk::default());
        let config = r#"{"name": "t", "input_schema": {"properties": {"n": {"type": "integer"}}}}"#;
        let tool = Arc::new(
            Registered::new(ToolConfig::from_json(config).unwrap(), Runner::Host, &Limits::default()).unwrap(),
        );
        let call = ToolCall { id: "c".into(), name: "t".into(), arguments: "{}".into(), opaque: None };
        let mut ticket = desk.open(ApprovalInfo::new(&"r".into(), &call, json!({}), "it asks"), Some(tool));
        let id = ticket.id().to_owned();
        assert_eq!(desk.list().len(), 1);
        let wrong = Decision::from_json(r#"{"type": "edit", "input": {"n": "x"}}"#).unwrap();
        assert_eq!(desk.resolve(&id, wrong).unwrap_err().path(), Some("decision.input"));
        desk.resolve(&id, Decision::from_json("\"approve\"").unwrap()).unwrap();
        assert_eq!(ticket.answer().await.map(|decision| decision.name()), Some("approve"));
        let again = Decision::Approve { approver: None };
        assert_eq!(desk.resolve(&id, again).unwrap_err().status(), Status::NotFound);
    }
}
