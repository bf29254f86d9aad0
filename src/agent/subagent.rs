//! An agent used as a tool: a run of its own inside the call, with its own conversation, in the same stream, on the same
//! account.

use super::budget::{Ledger, Spent};
use super::control::Control;
use super::run::{Outcome, RunSpec, execute_below};
use super::template::Prompt;
use super::work::Work;
use crate::config::SubAgentConfig;
use crate::types::{Envelope, Error, EventBody, Part, PicoUsd, RunId, Status, ToolCall, ToolResult, Usage};
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;

/// What a sub-agent consumed: usage, cost if known, requests.
pub type Consumed = (Usage, Option<PicoUsd>, u64);

/// Runs the agent to its end; its answer is the call's result. Boxed, since a run contains its calls and a call may
/// contain a run.
pub fn run<'w>(
    work: &'w Work<'_>,
    call: &'w ToolCall,
    sub_agent: &'w SubAgentConfig,
    task: &'w str,
) -> BoxFuture<'w, (std::result::Result<ToolResult, String>, Consumed)> {
    Box::pin(async move {
        let nothing = (Usage::default(), Some(PicoUsd::default()), 0);
        let spec = match below(work, sub_agent, task) {
            Ok(spec) => spec,
            Err(error) => {
                return (Err(format!("The agent {:?} cannot run: {}", sub_agent.agent, error.message())), nothing);
            }
        };
        let envelope = Envelope::below(&spec.run_id, &work.spec.run_id, &spec.path, spec.tag.as_deref());
        let emitter = work.emitter.child(envelope);
        work.progress.started_calls.start(&call.id);
        let (subrun_id, agent) = (&spec.run_id, &sub_agent.agent);
        work.emitter.emit(&EventBody::SubrunStarted { subrun_id, agent, tool_call_id: Some(&call.id) });
        let outcome = execute_below(&spec, &emitter, work.http).await;
        finished(work, &spec, &outcome);
        match outcome {
            Ok(result) => {
                let consumed = (result.usage, result.cost_usd, u64::from(result.iterations));
                (Ok(ToolResult::ok(result.text)), consumed)
            }
            Err(failure) => {
                let consumed = (failure.usage, failure.cost, u64::from(failure.iterations));
                (Err(format!("The agent {:?} failed: {}", sub_agent.agent, failure.error.message())), consumed)
            }
        }
    })
}

fn finished(work: &Work<'_>, spec: &RunSpec, outcome: &Outcome) {
    let (status, usage, error) = match outcome {
        Ok(result) => ("completed", result.usage, None),
        Err(failure) if failure.error.status() == Status::Cancelled => ("cancelled", failure.usage, None),
        Err(failure) => ("failed", failure.usage, Some(&failure.error)),
    };
    let agent = &spec.setup.config.id;
    work.emitter.emit(&EventBody::SubrunFinished { subrun_id: &spec.run_id, agent, status, usage, error });
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
        session: None,
        structured: None,
        generates: false,
        account,
        session_budget: None,
        deadline: None,
        control: Arc::new(Control::new(cancel, 0)),
        agents: Arc::clone(&spec.agents),
        variables: spec.variables.clone(),
        roles: spec.roles.clone(),
        runtime_id: Arc::clone(&spec.runtime_id),
        store: Arc::clone(&spec.store),
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
