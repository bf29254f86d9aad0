//! An agent used as a tool: a run of its own inside the call, with its own conversation, in the same stream, on the same
//! account.

use super::budget::{Ledger, Spent};
use super::control::Control;
use super::meter::Meter;
use super::run::{Outcome, RunSpec, execute_below};
use super::template::Prompt;
use super::work::Work;
use crate::config::SubAgentConfig;
use crate::events::Emitter;
use crate::types::{Envelope, Error, EventBody, Part, RunId, Status, ToolCall, ToolResult};
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;

/// Runs the agent to its end; its answer is the call's result. Boxed, since a run contains its calls and a call may
/// contain a run.
pub fn run<'w>(
    work: &'w Work<'_>,
    call: &'w ToolCall,
    sub_agent: &'w SubAgentConfig,
    task: &'w str,
) -> BoxFuture<'w, std::result::Result<ToolResult, String>> {
    Box::pin(async move {
        let spec = match below(work, sub_agent, task) {
            Ok(spec) => spec,
            Err(error) => return Err(format!("The agent {:?} cannot run: {}", sub_agent.agent, error.message())),
        };
        let envelope = Envelope::below(&spec.run_id, &work.spec.run_id, &spec.path, spec.tag.as_deref());
        let emitter = work.emitter.child(envelope);
        work.progress.started_calls.start(&call.id);
        let mut begun = Begun::new(work.emitter, &spec, Some(call));
        let outcome = execute_below(&spec, &emitter, work.http).await;
        begun.ended(&outcome);
        match outcome {
            Ok(result) => Ok(ToolResult::ok(result.text)),
            Err(failure) => Err(format!("The agent {:?} failed: {}", sub_agent.agent, failure.error.message())),
        }
    })
}

/// A run below another one that has begun: it says so, and says what became of it, also when it is cut off.
pub struct Begun<'s> {
    emitter: &'s Emitter,
    spec: &'s RunSpec,
    status: &'static str,
    error: Option<Error>,
}

impl<'s> Begun<'s> {
    /// It begins; its end is told on the stream of the run above.
    pub fn new(emitter: &'s Emitter, spec: &'s RunSpec, call: Option<&ToolCall>) -> Self {
        let (subrun_id, agent) = (&spec.run_id, &spec.setup.config.id);
        emitter.emit(&EventBody::SubrunStarted { subrun_id, agent, tool_call_id: call.map(|call| &call.id) });
        Self { emitter, spec, status: "cancelled", error: None }
    }

    /// What it came to.
    pub fn ended(&mut self, outcome: &Outcome) {
        match outcome {
            Ok(_) => self.status = "completed",
            Err(failure) if failure.error.status() == Status::Cancelled => self.status = "cancelled",
            Err(failure) => (self.status, self.error) = ("failed", Some(failure.error.clone())),
        }
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.emitter.emit(&EventBody::SubrunFinished {
            subrun_id: &self.spec.run_id,
            agent: &self.spec.setup.config.id,
            status: self.status,
            usage: self.spec.meter.read().usage,
            error: self.error.as_ref(),
        });
    }
}

/// What the sub-agent runs with: what its caller has, but for its own conversation.
fn below(work: &Work<'_>, sub_agent: &SubAgentConfig, task: &str) -> crate::types::Result<RunSpec> {
    let spec = work.spec;
    let depth = spec.path.len() + 1;
    if depth > spec.limits.max_sub_agent_depth {
        return Err(Error::new(
            Status::Limit,
            format!("agents call each other {depth} deep, more than limits.max_sub_agent_depth allows"),
        ));
    }
    let setup = spec.agents.setup(&sub_agent.agent)?;
    let mut path = spec.path.clone();
    path.push(sub_agent.agent.to_string());
    let budgets = [sub_agent.budget, setup.config.budget];
    let account = budgets.into_iter().flatten().filter(|budget| !budget.is_unlimited()).fold(
        work.progress.account.clone(),
        |account, budget| {
            account.with(Arc::new(Ledger::new("sub-agent", budget, None, Spent::default(), Duration::ZERO)))
        },
    );
    let cancel = spec.control.cancel.child();
    Ok(RunSpec {
        run_id: RunId::generate(),
        tag: spec.tag.clone(),
        path,
        prompt: Prompt::of_call(&setup, &spec.runtime_id, &spec.variables)?,
        setup,
        input: vec![Part::text(task)],
        scope: spec.scope.clone(),
        session: None,
        waits_for_session: true,
        log: None,
        resumed: None,
        refused: None,
        structured: None,
        generates: false,
        account,
        meter: Meter::new(Some(Arc::clone(&spec.meter))),
        session_budget: None,
        deadline: None,
        control: Arc::new(Control::new(cancel, 0)),
        agents: Arc::clone(&spec.agents),
        helpers: spec.helpers.clone(),
        variables: spec.variables.clone(),
        roles: spec.roles.clone(),
        runtime_id: Arc::clone(&spec.runtime_id),
        store: Arc::clone(&spec.store),
        workspace: spec.workspace.clone(),
        desk: Arc::clone(&spec.desk),
        approvals: Arc::clone(&spec.approvals),
        limits: Arc::clone(&spec.limits),
        unknown_price: spec.unknown_price,
        eval_limits: spec.eval_limits,
        max_tokens_per_turn: spec.max_tokens_per_turn,
        places: None,
        holds: spec.holds_with_own(),
    })
}
