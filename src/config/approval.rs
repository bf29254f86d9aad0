//! Answers to approval requests: `par_approval_resolve`.

use super::strict;
use crate::types::Result;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

/// What becomes of a call that was asked for.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[schemars(tag = "type")]
pub enum Decision {
    /// It runs. May be written as the bare string `"approve"`.
    Approve {
        /// Who decided.
        #[serde(default)]
        approver: Option<String>,
    },
    /// It does not run, and the model is told why. May be written as the bare string `"reject"`.
    Reject {
        /// Why, for the model.
        #[serde(default)]
        reason: Option<String>,
        /// Who decided.
        #[serde(default)]
        approver: Option<String>,
    },
    /// It runs with these arguments instead.
    Edit {
        /// The arguments; they must fit the tool's schema.
        #[serde(deserialize_with = "strict::free")]
        input: Value,
        /// Who decided.
        #[serde(default)]
        approver: Option<String>,
    },
}

impl Decision {
    /// Parses a decision.
    pub fn from_json(text: &str) -> Result<Self> {
        Self::from_value(&strict::parse(text, "decision")?)
    }

    /// Reads a parsed decision.
    pub fn from_value(value: &Value) -> Result<Self> {
        match value {
            Value::String(name) => strict::read(&json!({"type": name}), "decision"),
            whole => strict::read(whole, "decision"),
        }
    }

    /// As events name it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Approve { .. } => "approve",
            Self::Reject { .. } => "reject",
            Self::Edit { .. } => "edit",
        }
    }

    /// Who decided.
    pub fn approver(&self) -> Option<&str> {
        match self {
            Self::Approve { approver } | Self::Reject { approver, .. } | Self::Edit { approver, .. } => {
                approver.as_deref()
            }
        }
    }

    /// Why it was refused.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Reject { reason, .. } => reason.as_deref(),
            Self::Approve { .. } | Self::Edit { .. } => None,
        }
    }
}
