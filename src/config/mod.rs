//! Floor 1: every shape a user writes, parsed strictly.
//!
//! A key that is accepted here is acted upon somewhere above; a key that is not known is an error that says where it
//! stands and what was probably meant ([`strict`]). Defaults live beside the fields they fill.

mod agent;
mod approval;
mod budget;
mod context;
mod embeddings;
mod event_bus;
mod expression;
mod forward;
mod middleware;
mod mock;
mod models;
mod pattern;
mod persistence;
mod provider;
mod quirks;
mod replay;
mod request;
mod runtime;
mod secret;
mod shell;
mod steering;
pub mod strict;
mod text_filters;
mod tool;
mod web;
mod workspace;

pub use agent::{
    AgentConfig, CacheStrategy, EarlyStopping, Effort, HandoffConfig, LoopGuardConfig, ModelConfig, OnMaxTokens,
    ReasoningConfig, SubAgentConfig,
};
pub use approval::Decision;
pub use budget::{Budget, QuotaConfig};
pub use context::{ContextStrategy, TemplateConfig};
pub use embeddings::{EmbedCall, EmbedInput, EmbedTarget, EmbeddingsConfig, PAIRING};
pub use event_bus::{DeliverTo, EventBusConfig, Reach, SubscribeParams, WhenFull};
pub use expression::{EvalLimits, Expression, is_true};
pub use forward::{Archive, Forward, ForwardConfig, S3Config};
pub use middleware::{
    Backoff, Hook, HostMiddlewareConfig, MiddlewareConfig, OnFailure, OutputRule, RateLimitScope, RetryBudgetConfig,
    RetryOn, RetryPolicyConfig,
};
pub use mock::{MockConfig, MockError, MockExpect, MockScope, MockToolCall, MockTurn};
pub use models::{Modality, ModelProfile, Price, StructuredOutput};
pub use pattern::Pattern;
pub use persistence::{Durability, Persistence, PostgresConfig, RetentionConfig, WriterConfig};
pub use provider::{
    ANTHROPIC_URL, AnthropicConfig, ApiKind, BreakerConfig, CustomConfig, GEMINI_URL, GeminiConfig, OLLAMA_URL,
    OPENAI_URL, OllamaConfig, OpenAiConfig, ProviderConfig, RequestFormat, RetryConfig, ServerConfig, TimeoutConfig,
    providers_from_environment,
};
pub use quirks::{
    CachePointForm, CallContent, MaxTokensKey, Preset, Quirks, QuirksConfig, ReasoningField, ToolCallIds,
    ToolChoiceForm,
};
pub use replay::{RecordConfig, ReplayConfig};
pub(crate) use request::check_media;
pub use request::{
    Events, FailurePolicy, Input, InputPart, Merge, Mode, Notify, OutputMode, Overflow, ParallelRequest, RunRequest,
    SessionBusy,
};
pub use runtime::{InboxConfig, Limits, LogLevel, OnUnfinished, RuntimeConfig, ShutdownConfig, UnknownPrice};
pub use secret::Secret;
pub(crate) use shell::line;
pub use shell::{
    BashConfirm, Built, CommandPolicy, CommandRule, Confirm, ConfirmPattern, Judgement, Operands, PolicyChoice, Risk,
    Ruling, SandboxNeed, ShellConfig,
};
pub use steering::{Steering, When};
pub use text_filters::{PiiConfig, PiiPattern, SanitizeAction, SanitizeConfig, ThinkConfig};
pub use tool::{Effect, Otherwise, Permission, ToolConfig};
pub use web::{Place, SearchConfig, WebConfig};
pub use workspace::{HardLinks, WorkspaceConfig};

/// Keys of what this version does not have yet.
const TO_COME: &[&str] =
    &["skills", "mcp_servers", "mcp", "memory", "rag", "documents", "workflows", "workflow", "telemetry"];

/// Says of a key that is known but not in this version yet that it is so.
fn to_come(error: crate::types::Error, root: &str) -> crate::types::Error {
    let key = error.path().and_then(|path| path.strip_prefix(root)?.strip_prefix('.')).map(str::to_owned);
    match key {
        Some(key) if error.message().starts_with("unknown key") && TO_COME.contains(&key.as_str()) => error
            .with_message(format!("{key:?} is not in this version of libpar yet"))
            .with_hint("leave the key out; the README tells what this version does"),
        Some(_) | None => error,
    }
}

/// Names that become keys, paths or parts of ids: agents, tools, providers.
///
/// Letters, digits, `_`, `-` and `.`; 1 to 128 of them. What every provider accepts as a tool name is narrower and is
/// checked where tools are.
pub(crate) fn check_name(name: &str, path: &str, what: &str) -> crate::types::Result<()> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > 128 || !name.chars().all(legal) {
        return Err(crate::types::Error::schema(path, format!("{name:?} cannot be the name of {what}"))
            .with_hint("use 1 to 128 letters, digits, '_', '-' or '.'"));
    }
    Ok(())
}
