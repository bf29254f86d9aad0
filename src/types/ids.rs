//! Identifiers as distinct types, so that a session id can never stand where a run id is meant.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

macro_rules! string_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(Arc::from(text))
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(Arc::from(text))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

string_id! {
    /// One run of an agent: chosen by the host, or a UUIDv7.
    RunId
}
string_id! {
    /// A conversation that spans runs, named by the host.
    SessionId
}
string_id! {
    /// A registered agent.
    AgentId
}
string_id! {
    /// One tool call inside a transcript; unique there, whatever the provider sent.
    ToolCallId
}

string_id! {
    /// Whose sessions and runs are meant, such as a tenant. Nothing of one scope is seen from another; the empty one is
    /// that of a host without tenants.
    Scope
}

impl Default for Scope {
    fn default() -> Self {
        Self::from("")
    }
}

impl RunId {
    /// A fresh id that sorts by creation time (UUIDv7, RFC 9562 section 5.7).
    pub fn generate() -> Self {
        let mut buffer = uuid::Uuid::encode_buffer();
        Self(Arc::from(&*uuid::Uuid::now_v7().hyphenated().encode_lower(&mut buffer)))
    }
}
