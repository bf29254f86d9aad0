//! Events: what happens in a run, numbered once, as every consumer reads it.
//!
//! An event is an envelope (`v`, `seq`, `at_ms`, `run_id`, `parent_run_id`?, `path`?, `tag`?) around an [`EventBody`]
//! whose `type` names it. A run has exactly one terminal event: `completed`, `failed`, `cancelled` or `suspended`, and
//! nothing after it. A sub-agent's events stand in its parent's stream, under the parent's numbers, with `path`: the
//! names that lead to it. They have no terminal event of their own but `subrun_finished`.

use super::{AgentId, Error, EventKind, FinishReason, Message, Part, PicoUsd, RunId, SessionId, ToolCallId, Usage};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// What happened. Borrowed, since an event is written out at once and never kept as a value.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventBody<'a> {
    /// The run begins.
    RunStarted {
        /// The agent that runs.
        agent: &'a str,
        /// The conversation it continues.
        #[serde(skip_serializing_if = "Option::is_none")]
        session: Option<&'a str>,
    },
    /// A run that its process did not live to end goes on.
    RunResumed {
        /// The agent that runs.
        agent: &'a str,
        /// The conversation it continues.
        #[serde(skip_serializing_if = "Option::is_none")]
        session: Option<&'a str>,
    },
    /// A model request is about to be made.
    TurnStarted {
        /// Counts from 1.
        turn: u32,
    },
    /// More of the answer's text.
    TextDelta {
        /// The new text.
        text: &'a str,
    },
    /// More of the model's reasoning.
    ReasoningDelta {
        /// The new text.
        text: &'a str,
    },
    /// The model begins a tool call.
    ToolCallStart {
        /// The call.
        tool_call_id: &'a ToolCallId,
        /// The tool.
        name: &'a str,
    },
    /// More of a tool call's arguments.
    ToolCallDelta {
        /// The call.
        tool_call_id: &'a ToolCallId,
        /// A piece of JSON text; the pieces concatenate to the arguments.
        args_json: &'a str,
    },
    /// Host work: the host must answer the token once, by `par_tool_complete` or `par_tool_fail`.
    ToolCall {
        /// The single-use token.
        token: u64,
        /// The call.
        tool_call_id: &'a ToolCallId,
        /// The tool.
        name: &'a str,
        /// The arguments, already checked against the tool's schema.
        #[schemars(with = "serde_json::Value")]
        input: &'a RawValue,
        /// The same whenever this call is run again after a crash, and that of no other call: a service that is told it
        /// can tell a repetition.
        idempotency_key: &'a str,
        /// How long the host has.
        deadline_ms: u64,
    },
    /// A tool begins to run.
    ToolStarted {
        /// The call.
        tool_call_id: &'a ToolCallId,
        /// The tool.
        name: &'a str,
    },
    /// A running tool says how far it is.
    ToolProgress {
        /// The call.
        tool_call_id: &'a ToolCallId,
        /// What the tool says: any JSON.
        #[schemars(with = "serde_json::Value")]
        note: &'a RawValue,
    },
    /// A tool's result, as the model will read it.
    ToolResult {
        /// The call.
        tool_call_id: &'a ToolCallId,
        /// The tool.
        name: &'a str,
        /// The text for the model.
        content: &'a str,
        /// What it sees and hears besides.
        #[serde(skip_serializing_if = "<[Part]>::is_empty")]
        parts: &'a [Part],
        /// Whether it reports a failure.
        is_error: bool,
        /// How long it took.
        duration_ms: u64,
    },
    /// Host work that needs no answer any more.
    ToolCancelled {
        /// The token, now stale.
        token: u64,
        /// The call.
        tool_call_id: &'a ToolCallId,
        /// The tool.
        name: &'a str,
        /// Why.
        reason: &'a str,
    },
    /// The tool `bash` starts a command.
    BashInvoked {
        /// The call.
        tool_call_id: &'a ToolCallId,
        /// The programs, each with its arguments; several are a pipeline.
        argv: &'a [Vec<&'a str>],
        /// Where each program was found.
        programs: &'a [String],
        /// The folder, from the workspace's root.
        cwd: &'a str,
        /// `low`, `medium`, `high` or `critical`.
        risk: &'a str,
        /// The policy that let it pass.
        policy: &'a str,
        /// What contains it.
        sandbox: &'a Containment,
    },
    /// A command of the tool `bash` has ended, and everything it started with it.
    BashCompleted {
        /// The call.
        tool_call_id: &'a ToolCallId,
        /// `exited`, `killed`, `timed_out`, `cancelled` or `failed`.
        status: &'a str,
        /// The code of the last program.
        #[serde(skip_serializing_if = "Option::is_none")]
        exit_code: Option<i32>,
        /// The signal that ended the last program.
        #[serde(skip_serializing_if = "Option::is_none")]
        signal: Option<i32>,
        /// Bytes of its output.
        stdout_bytes: u64,
        /// Bytes of its errors.
        stderr_bytes: u64,
        /// Whether the model sees less than all of that.
        truncated: bool,
        /// How long it took.
        duration_ms: u64,
        /// What contained it.
        sandbox: &'a Containment,
    },
    /// What the last model request consumed, and the run so far.
    UsageUpdate {
        /// Of the last request.
        usage: Usage,
        /// Of the run so far.
        total: Usage,
    },
    /// A larger piece of the answer's value, when a schema was given.
    OutputDelta {
        /// What the text so far already determines.
        value: &'a serde_json::Value,
    },
    /// A tool call waits for somebody's approval, given by `par_approval_resolve`.
    ApprovalRequest {
        /// What to answer.
        approval_id: &'a str,
        /// The call.
        tool_call_id: &'a ToolCallId,
        /// The tool.
        name: &'a str,
        /// The arguments, already checked against the tool's schema.
        #[schemars(with = "serde_json::Value")]
        input: &'a RawValue,
        /// Why it is asked.
        reason: &'a str,
        /// How long it waits; then the call is rejected.
        deadline_ms: u64,
    },
    /// An approval was given or refused.
    ApprovalResolved {
        /// Which.
        approval_id: &'a str,
        /// The call.
        tool_call_id: &'a ToolCallId,
        /// `approve`, `reject`, `edit` or `expired`.
        decision: &'a str,
        /// Who decided, if told.
        #[serde(skip_serializing_if = "Option::is_none")]
        approver: Option<&'a str>,
        /// Why.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
    },
    /// Host work: a hook of the host's middleware, answered by its token like a tool call.
    MiddlewareCall {
        /// The single-use token.
        token: u64,
        /// The middleware's name.
        name: &'a str,
        /// `before_llm`, `after_llm`, `before_tool`, `after_tool` or `on_error`.
        hook: &'a str,
        /// What it is about; its shape depends on the hook.
        payload: &'a serde_json::Value,
        /// How long the host has.
        deadline_ms: u64,
    },
    /// A hook of the host's middleware that needs no answer any more.
    MiddlewareCancelled {
        /// The token, now stale.
        token: u64,
        /// The middleware's name.
        name: &'a str,
        /// Which hook.
        hook: &'a str,
        /// Why.
        reason: &'a str,
    },
    /// Host work: a provider needs a key that the host keeps, answered by its token with the key as a JSON string.
    CredentialRequest {
        /// The single-use token.
        token: u64,
        /// Which key, as configured.
        name: &'a str,
        /// Key of `llm_providers`.
        provider: &'a str,
        /// How long the host has.
        deadline_ms: u64,
    },
    /// The model sees less of what was said before.
    Compaction {
        /// Why: `threshold`, `max_messages`, `max_tokens` or `context_length`.
        trigger: &'a str,
        /// How: `truncate_oldest`, `sliding_window` or `summarize`.
        strategy: &'a str,
        /// Messages the model would have seen.
        messages_before: usize,
        /// Messages it sees now.
        messages_after: usize,
        /// Tokens before, estimated.
        tokens_before: u64,
        /// Tokens now, estimated.
        tokens_after: u64,
    },
    /// What the provider may have cached of the conversation's beginning is of no use any more.
    CacheBust {
        /// `model_changed`, `system_changed`, `tools_changed` or `history_changed`.
        reason: &'a str,
    },
    /// Another agent takes over.
    Handoff {
        /// Who hands over.
        from: &'a AgentId,
        /// Who takes over.
        to: &'a AgentId,
        /// Whether it sees what was said before.
        carry_context: bool,
    },
    /// A sub-agent begins.
    SubrunStarted {
        /// Its run.
        subrun_id: &'a RunId,
        /// The agent.
        agent: &'a AgentId,
        /// The call that began it; none in a parallel dispatch.
        #[serde(skip_serializing_if = "Option::is_none")]
        tool_call_id: Option<&'a ToolCallId>,
    },
    /// A sub-agent has ended.
    SubrunFinished {
        /// Its run.
        subrun_id: &'a RunId,
        /// The agent.
        agent: &'a AgentId,
        /// `completed`, `failed` or `cancelled`.
        status: &'a str,
        /// What it consumed.
        usage: Usage,
        /// Why it failed.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a Error>,
    },
    /// What the host said meanwhile was added to the conversation.
    Steered {
        /// How many messages.
        messages: usize,
        /// `now`, or `follow_up`.
        when: &'a str,
    },
    /// The answer was cut off at its token limit and is being continued.
    Continuation {
        /// Which continuation, from 1.
        number: u32,
    },
    /// The answer did not fit its schema and the model is asked to mend it.
    OutputRepair {
        /// Which attempt follows, from 2.
        attempt: u32,
        /// What was wrong.
        problem: &'a str,
    },
    /// A model request failed before it said anything and is tried again.
    TurnRetried {
        /// Which attempt comes next, from 2.
        attempt: u32,
        /// How long it waits before.
        delay_ms: u64,
        /// Events of this turn from here on are void.
        discard_from_seq: u64,
        /// What failed.
        error: &'a Error,
    },
    /// A model cannot be reached and the next one of the fallback is asked.
    Fallback {
        /// `provider/model`.
        from: &'a str,
        /// `provider/model`.
        to: &'a str,
        /// Why.
        error: &'a Error,
    },
    /// The provider told how much of its rate limit is left.
    RateLimit {
        /// Key of `llm_providers`.
        provider: &'a str,
        /// The provider's figures by name, as it wrote them.
        limits: serde_json::Map<String, serde_json::Value>,
    },
    /// Something is odd but the run goes on.
    Warning {
        /// A stable word.
        code: &'a str,
        /// What is odd.
        message: Cow<'a, str>,
    },
    /// Terminal: the run is done.
    Completed(&'a RunResult),
    /// Terminal of a method started by `par_call_start`.
    #[serde(rename = "completed")]
    Answered {
        /// The method's answer.
        #[schemars(with = "serde_json::Value")]
        result: &'a RawValue,
    },
    /// Terminal: the run failed.
    Failed {
        /// Why.
        error: &'a Error,
        /// What it had consumed.
        usage: Usage,
        /// What that cost in USD; absent when the price of a model is not known.
        #[serde(skip_serializing_if = "Option::is_none")]
        cost_usd: Option<PicoUsd>,
        /// What was said in it, every tool call answered.
        #[serde(skip_serializing_if = "<[Message]>::is_empty")]
        messages: &'a [Message],
    },
    /// Terminal: the run was cancelled.
    Cancelled {
        /// Why.
        reason: &'a str,
        /// What it had consumed.
        usage: Usage,
        /// What that cost in USD; absent when the price of a model is not known.
        #[serde(skip_serializing_if = "Option::is_none")]
        cost_usd: Option<PicoUsd>,
        /// What was said in it, every tool call answered.
        #[serde(skip_serializing_if = "<[Message]>::is_empty")]
        messages: &'a [Message],
    },
    /// Terminal: the run stopped without an end, and `runs.resume` continues it. Never stored: to the store the run goes on.
    Suspended {
        /// `closing`: the runtime was closed. `stream_freed`: its stream was freed while it waited for an approval.
        reason: &'a str,
        /// What it had consumed.
        usage: Usage,
        /// What that cost in USD; absent when the price of a model is not known.
        #[serde(skip_serializing_if = "Option::is_none")]
        cost_usd: Option<PicoUsd>,
    },
}

/// What a piece of text is a piece of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// The answer.
    Text,
    /// The model's reasoning.
    Reasoning,
    /// The arguments of a call.
    Arguments(&'a ToolCallId),
}

impl<'a> Piece<'a> {
    /// The event that says it.
    pub fn says(self, text: &'a str) -> EventBody<'a> {
        match self {
            Self::Text => EventBody::TextDelta { text },
            Self::Reasoning => EventBody::ReasoningDelta { text },
            Self::Arguments(tool_call_id) => EventBody::ToolCallDelta { tool_call_id, args_json: text },
        }
    }
}

impl EventBody<'_> {
    /// The text, if it is a piece of one: such pieces can be joined.
    pub fn as_piece(&self) -> Option<(Piece<'_>, &str)> {
        if let Self::TextDelta { text } = self {
            Some((Piece::Text, text))
        } else if let Self::ReasoningDelta { text } = self {
            Some((Piece::Reasoning, text))
        } else if let Self::ToolCallDelta { tool_call_id, args_json } = self {
            Some((Piece::Arguments(tool_call_id), args_json))
        } else {
            None
        }
    }

    /// Its type.
    pub fn kind(&self) -> EventKind {
        match self {
            Self::RunStarted { .. } => EventKind::RunStarted,
            Self::TurnStarted { .. } => EventKind::TurnStarted,
            Self::TextDelta { .. } => EventKind::TextDelta,
            Self::ReasoningDelta { .. } => EventKind::ReasoningDelta,
            Self::ToolCallStart { .. } => EventKind::ToolCallStart,
            Self::ToolCallDelta { .. } => EventKind::ToolCallDelta,
            Self::ToolCall { .. } => EventKind::ToolCall,
            Self::ToolStarted { .. } => EventKind::ToolStarted,
            Self::ToolProgress { .. } => EventKind::ToolProgress,
            Self::ToolResult { .. } => EventKind::ToolResult,
            Self::ToolCancelled { .. } => EventKind::ToolCancelled,
            Self::BashInvoked { .. } => EventKind::BashInvoked,
            Self::BashCompleted { .. } => EventKind::BashCompleted,
            Self::UsageUpdate { .. } => EventKind::UsageUpdate,
            Self::OutputDelta { .. } => EventKind::OutputDelta,
            Self::ApprovalRequest { .. } => EventKind::ApprovalRequest,
            Self::ApprovalResolved { .. } => EventKind::ApprovalResolved,
            Self::MiddlewareCall { .. } => EventKind::MiddlewareCall,
            Self::MiddlewareCancelled { .. } => EventKind::MiddlewareCancelled,
            Self::CredentialRequest { .. } => EventKind::CredentialRequest,
            Self::Compaction { .. } => EventKind::Compaction,
            Self::CacheBust { .. } => EventKind::CacheBust,
            Self::Handoff { .. } => EventKind::Handoff,
            Self::SubrunStarted { .. } => EventKind::SubrunStarted,
            Self::SubrunFinished { .. } => EventKind::SubrunFinished,
            Self::Steered { .. } => EventKind::Steered,
            Self::Continuation { .. } => EventKind::Continuation,
            Self::OutputRepair { .. } => EventKind::OutputRepair,
            Self::TurnRetried { .. } => EventKind::TurnRetried,
            Self::Fallback { .. } => EventKind::Fallback,
            Self::RateLimit { .. } => EventKind::RateLimit,
            Self::Warning { .. } => EventKind::Warning,
            Self::Completed(_) => EventKind::Completed,
            Self::Failed { .. } => EventKind::Failed,
            Self::Cancelled { .. } => EventKind::Cancelled,
            Self::Suspended { .. } => EventKind::Suspended,
            Self::RunResumed { .. } => EventKind::RunResumed,
            Self::Answered { .. } => EventKind::Completed,
        }
    }

    /// Whether the host must act on it: an answer is wanted, or not wanted any more.
    pub fn is_host_work(&self) -> bool {
        self.kind().is_host_work()
    }
}

/// What of the kernel contains a program, as it was enforced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Containment {
    /// The version of Landlock that is in force; 0: none.
    pub landlock_abi: u32,
    /// Whether only named files and folders can be reached.
    pub files: bool,
    /// Whether no process outside can be signalled.
    pub signals: bool,
    /// `open` or `closed`.
    pub network: &'static str,
    /// Whether system calls are filtered.
    pub system_calls: bool,
    /// Whether no program can get more rights than its starter has.
    pub no_new_privileges: bool,
    /// Whether memory, file sizes, open files and CPU time are limited.
    pub limits: bool,
    /// Whether the number of processes is limited: not that of an administrator.
    pub processes: bool,
}

/// What a run came to. `par_invoke` and `par_stream_result` answer it with `run_id` and `status` in front.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RunResult {
    /// The whole text of the last answer.
    pub text: String,
    /// The last answer, part by part.
    pub parts: Vec<Part>,
    /// Every tool call of the run, in order.
    pub tool_calls: Vec<ToolCallRecord>,
    /// The answer as a value that fits the request's `response_schema`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<serde_json::Value>,
    /// Why the model stopped.
    pub finish_reason: FinishReason,
    /// What all requests of the run consumed, those of its sub-agents included.
    pub usage: Usage,
    /// What that cost in USD, as a decimal string; absent when the price of a model is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<PicoUsd>,
    /// The agent that gave the answer.
    pub agent: AgentId,
    /// The model that answered, as the provider names it.
    pub model: String,
    /// How many model requests were made.
    pub iterations: u32,
    /// How long the run took, in milliseconds; of a run that was resumed, since then.
    pub duration_ms: u64,
    /// The conversation it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
}

/// One tool call in a [`RunResult`].
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ToolCallRecord {
    /// The call, with its input.
    #[serde(flatten)]
    pub call: super::ToolCall,
    /// Whether its result reports a failure.
    pub is_error: bool,
}
