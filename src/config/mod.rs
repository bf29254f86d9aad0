//! Floor 1: every shape a user writes, parsed strictly.
//!
//! A key that is accepted here is acted upon somewhere above; a key that is not known is an error that says where it
//! stands and what was probably meant ([`strict`]). Defaults live beside the fields they fill.

mod agent;
mod mock;
mod provider;
mod request;
mod runtime;
mod secret;
pub mod strict;
mod tool;

pub use agent::{AgentConfig, ModelConfig};
pub use mock::{MockConfig, MockError, MockExpect, MockScope, MockToolCall, MockTurn};
pub use provider::{
    ApiKind, OpenAiConfig, ProviderConfig, RequestFormat, RetryConfig, TimeoutConfig, providers_from_environment,
};
pub use request::{Events, Input, InputPart, Notify, Overflow, RunRequest};
pub use runtime::{InboxConfig, Limits, LogLevel, Persistence, RuntimeConfig, ShutdownConfig};
pub use secret::Secret;
pub use tool::{Effect, Permission, ToolConfig};

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
