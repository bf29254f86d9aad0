//! Requests: `par_invoke` and `par_stream_start`.

use super::strict;
use crate::types::{Error, Part, Result, RunId, SessionId};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::Value;
use std::fmt;

/// What to run.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// A registered agent.
    pub agent: String,
    /// What the user says.
    pub input: Input,
    /// The conversation to continue, or to begin under this name.
    #[serde(default)]
    pub session: Option<SessionId>,
    /// The most time the run may take.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// An id of the host's choice, unique among living runs; with it another thread can cancel a blocked call.
    #[serde(default)]
    pub run_id: Option<RunId>,
    /// Any JSON, echoed in every event.
    #[serde(default, deserialize_with = "strict::value")]
    pub tag: Option<Value>,
    /// What a full stream does.
    #[serde(default)]
    pub overflow: Overflow,
    /// Where a stream announces that it has events.
    #[serde(default)]
    pub notify: Notify,
    /// Which events a stream has.
    #[serde(default)]
    pub events: Events,
}

impl RunRequest {
    /// Parses and checks a request.
    pub fn from_json(text: &str) -> Result<Self> {
        let request: Self = strict::from_str_fast(text, "request")?;
        if request.input.0.is_empty() {
            return Err(Error::schema("request.input", "the input has no parts").with_hint("say something"));
        }
        for (path, id) in [
            ("request.run_id", request.run_id.as_ref().map(RunId::as_str)),
            ("request.session", request.session.as_ref().map(SessionId::as_str)),
        ] {
            if id.is_some_and(|id| id.is_empty() || id.len() > 256) {
                return Err(Error::schema(path, "an id has 1 to 256 bytes"));
            }
        }
        Ok(request)
    }
}

/// What the user says: a text, or content parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Input(pub Vec<Part>);

/// One content part of an input.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[schemars(tag = "type")]
#[non_exhaustive]
pub enum InputPart {
    /// Plain text.
    Text {
        /// The text.
        text: String,
    },
}

impl From<InputPart> for Part {
    fn from(part: InputPart) -> Self {
        match part {
            InputPart::Text { text } => Self::Text { text },
        }
    }
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InputVisitor;
        impl<'de> Visitor<'de> for InputVisitor {
            type Value = Input;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of content parts")
            }

            fn visit_str<E>(self, text: &str) -> Result<Input, E> {
                Ok(Input(vec![Part::Text { text: text.to_owned() }]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Input, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = seq.next_element::<InputPart>()? {
                    parts.push(part.into());
                }
                Ok(Input(parts))
            }
        }
        deserializer.deserialize_any(InputVisitor)
    }
}

impl JsonSchema for Input {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Input".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let part = generator.subschema_for::<InputPart>();
        schemars::json_schema!({"oneOf": [{"type": "string"}, {"type": "array", "items": part, "minItems": 1}]})
    }
}

/// What a stream does when its queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// Stop reading from the provider until the host has read.
    #[default]
    Backpressure,
    /// Merge text deltas that wait into one; nothing is lost, and order is kept. Past the byte bound: backpressure.
    Coalesce,
}

/// Where a stream announces that it went from empty to not empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Notify {
    /// Nowhere: the host waits on the stream or on its fd.
    #[default]
    None,
    /// A `{"type":"ready","run_id":…}` in the inbox: one fd for any number of streams.
    Inbox,
}

/// Which events a stream has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Events {
    /// All of them.
    #[default]
    All,
    /// Host work and the terminal event: what a host needs that only waits for the result, and no wake-up besides. They
    /// keep the numbers they have among all events.
    Result,
}
