//! Whether a tool call may run: at once, after somebody's word, or not at all.

use super::work::Work;
use crate::approval::{ApprovalInfo, Question, Questions};
use crate::config::{Decision, Otherwise, Permission, is_true};
use crate::events::Emitter;
use crate::tools::{Invocation, Registered, Review, Runner};
use crate::types::{Error, EventBody, Result, ToolCall, millis};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// What is said of a call that was running when its process ended.
pub const INTERRUPTED: &str = "The process ended while this call was running: it may have taken effect.";

/// What the rules say of a call.
pub enum Rule {
    /// It may run.
    Allow,
    /// Somebody must be asked; why.
    Ask(String),
    /// It may not run; what the model is told.
    Deny(String),
}

/// What the rules say of a call, and then the tool itself. An error: a condition that cannot be evaluated.
pub fn rule(work: &Work<'_>, tool: &Registered, call: &Invocation<'_>) -> Result<Rule> {
    let configured = configured(work, tool, call.input)?;
    let reviewed = match (&configured, &tool.runner) {
        (Rule::Deny(_), _) | (_, Runner::Host) => return Ok(configured),
        (Rule::Allow | Rule::Ask(_), Runner::Native(native)) => native.review(call),
    };
    Ok(match (configured, reviewed) {
        (_, Err(failure)) => Rule::Deny(failure.for_model()),
        (Rule::Allow, Ok(Review::Ask(why))) => Rule::Ask(why),
        (Rule::Ask(first), Ok(Review::Ask(second))) => Rule::Ask(format!("{first}; {second}")),
        (configured, Ok(_)) => configured,
    })
}

fn configured(work: &Work<'_>, tool: &Registered, input: &Value) -> Result<Rule> {
    let name = &tool.config.name;
    let otherwise = |otherwise: Otherwise, why: &str| match otherwise {
        Otherwise::Deny => Rule::Deny(format!("The tool {name:?} is not allowed here: {why}. Do without it.")),
        Otherwise::Confirm => Rule::Ask(why.to_owned()),
    };
    Ok(match &tool.config.permission {
        Permission::Allow => Rule::Allow,
        Permission::Confirm => Rule::Ask("every call of this tool is asked for".into()),
        Permission::Deny => Rule::Deny(format!("The tool {name:?} is not allowed here. Do without it.")),
        Permission::RoleBased { roles, otherwise: other } => {
            match work.spec.roles.iter().any(|role| roles.contains(role)) {
                true => Rule::Allow,
                false => otherwise(*other, "it needs a role that this run does not have"),
            }
        }
        Permission::ConditionBased { condition, otherwise: other } => {
            let variables = json!({"input": input, "agent": work.setup.config.id, "session": work.spec.session,
                                   "roles": work.spec.roles, "variables": work.spec.variables});
            match is_true(&condition.evaluate(&variables, work.spec.eval_limits)?) {
                true => Rule::Allow,
                false => otherwise(*other, "its condition does not hold"),
            }
        }
    })
}

/// Asks for a call and waits for the answer: the input to run it with, or what the model is told.
pub async fn ask(
    work: &Work<'_>,
    call: &ToolCall,
    tool: Option<&Arc<Registered>>,
    input: Value,
    why: &str,
) -> Result<std::result::Result<Value, String>> {
    let questions = Questions::of(&work.spec.store, work.spec.log.as_deref(), &work.spec.run_id);
    let before = match &questions {
        Some(questions) if work.spec.resumed.is_some() => questions.before(&call.id, why).await?,
        Some(_) | None => None,
    };
    if let (Some(questions), Some(Question { info, decision: Some(decision) })) = (&questions, &before) {
        let decision = Decision::from_value(decision)?;
        // Changed arguments could not be checked when nobody knew the tool: those that do not fit are asked for again.
        let fits = match (&decision, tool) {
            (Decision::Edit { input, .. }, Some(tool)) => work.check(&tool.input, input).await.is_ok(),
            (Decision::Edit { .. } | Decision::Approve { .. } | Decision::Reject { .. }, _) => true,
        };
        if fits {
            questions.forget(&info.approval_id);
            tell(work.emitter, &info.approval_id, call, Some(&decision));
            return Ok(decided(decision, input));
        }
    }
    let info = match before {
        // Under the name that the host knows.
        Some(question) => question.info,
        None => ApprovalInfo::new(&work.spec.run_id, call, input.clone(), why),
    };
    let limit = Duration::from_secs_f64(work.setup.config.approval_timeout);
    if let Some(questions) = &questions {
        questions.keep(&info);
    }
    let _waits = work.spec.control.waits_for_approval();
    let mut ticket = work.spec.approvals.open(info, tool.cloned());
    let raw = to_raw_value(&input).map_err(|error| Error::internal(error.to_string()))?;
    let request = EventBody::ApprovalRequest {
        approval_id: ticket.id(),
        tool_call_id: &call.id,
        name: &call.name,
        input: &raw,
        reason: why,
        deadline_ms: millis(limit),
    };
    let (callback, inbox) = (work.spec.approvals.callback(), work.spec.desk.inbox());
    let is_asked = match &questions {
        // Kept before anyone sees it, so that a process that ends at once does not lose it.
        Some(_) => work.emitter.hand_over_kept(callback, inbox, &request).await?,
        None => work.emitter.hand_over(callback, inbox, 0, &request),
    };
    if !is_asked {
        return Ok(Err(format!("The call of {:?} needs an approval, and nobody is there to give it.", call.name)));
    }
    let decision = timeout(limit, ticket.answer()).await.ok().flatten();
    tell(work.emitter, ticket.id(), call, decision.as_ref());
    if let Some(questions) = &questions {
        questions.forget(ticket.id());
    }
    Ok(match decision {
        Some(decision) => decided(decision, input),
        None => Err(format!("Nobody approved the call within {} s. It was not executed.", limit.as_secs_f64())),
    })
}

/// What a decision means: the input to run the call with, or what the model is told.
fn decided(decision: Decision, input: Value) -> std::result::Result<Value, String> {
    match decision {
        Decision::Approve { .. } => Ok(input),
        Decision::Edit { input, .. } => Ok(input),
        Decision::Reject { reason, .. } => {
            let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            Err(format!("The call was rejected{reason}. It was not executed."))
        }
    }
}

fn tell(emitter: &Emitter, approval_id: &str, call: &ToolCall, decision: Option<&Decision>) {
    emitter.emit(&EventBody::ApprovalResolved {
        approval_id,
        tool_call_id: &call.id,
        decision: decision.map_or("expired", Decision::name),
        approver: decision.and_then(Decision::approver),
        reason: decision.and_then(Decision::reason),
    });
}
