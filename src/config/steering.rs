//! What a host says to a run that is under way: `par_run_steer`.

use super::request::{Input, check_media};
use super::strict;
use crate::types::{Error, Part, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

/// A message to a run. May be written as a bare string.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Steering {
    /// What the user says.
    pub input: Input,
    /// When the model is told.
    #[serde(default)]
    pub when: When,
}

/// When a model is told what the host said meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// At the next safe point: after the tool calls that run, before the next model request.
    #[default]
    Now,
    /// When it has answered: it goes on with this instead of ending.
    FollowUp,
}

impl When {
    /// As it is written in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Now => "now",
            Self::FollowUp => "follow_up",
        }
    }
}

impl Steering {
    /// Parses and checks a message.
    pub fn from_json(text: &str) -> Result<Self> {
        let value = match strict::parse(text, "message")? {
            said @ (Value::String(_) | Value::Array(_)) => json!({"input": said}),
            whole => whole,
        };
        let steering: Self = strict::read(&value, "message")?;
        if steering.input.0.is_empty() || steering.input.0 == [Part::text("")] {
            return Err(Error::schema("message.input", "the message has no content"));
        }
        for (index, part) in steering.input.0.iter().enumerate() {
            check_media(part, &format!("message.input[{index}]"))?;
        }
        Ok(steering)
    }
}
