//! Requests: `par_invoke` and `par_stream_start`.

use super::{Budget, Durability, WorkspaceConfig, strict};
use crate::types::{CachePoint, Error, Media, MediaSource, Part, Result, RunId, Scope, SessionId};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::{Map, Value};
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
    /// Whose it is, such as a tenant: nothing of one scope is seen from another. Default: none, a scope of its own.
    #[serde(default)]
    pub scope: Scope,
    /// What happens while another run has the session.
    #[serde(default)]
    pub session_busy: SessionBusy,
    /// When what the run does is written down. Default: as the runtime's config says.
    #[serde(default)]
    pub durability: Option<Durability>,
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
    /// How deep the sub-agents are whose events a stream has: 0 none, 1 those the agent itself calls. Default: all.
    #[serde(default)]
    pub max_event_depth: Option<u32>,
    /// Values of the agent's `system_prompt_template`.
    #[serde(default, deserialize_with = "strict::value")]
    #[schemars(with = "Map<String, Value>")]
    pub variables: Option<Value>,
    /// Whom the run acts for; tools with `role_based` permission ask.
    #[serde(default)]
    pub roles: Vec<String>,
    /// The answer shall be a value that fits this JSON Schema; it is the result's `output`.
    #[serde(default, deserialize_with = "strict::value")]
    pub response_schema: Option<Value>,
    /// How the model is held to the schema. Default: what its profile says it does best.
    #[serde(default)]
    pub output_mode: OutputMode,
    /// How often the model may mend an answer that does not fit. Default 3.
    #[serde(default = "default_repairs")]
    pub max_repair_attempts: u32,
    /// What kind of answer is wanted.
    #[serde(default)]
    pub mode: Mode,
    /// The most that the run may consume.
    #[serde(default)]
    pub budget: Option<Budget>,
    /// The folder that its file tools and its shell work in, instead of the runtime's.
    #[serde(default)]
    pub workspace: Option<WorkspaceConfig>,
}

fn default_repairs() -> u32 {
    3
}

/// What happens while another run has the session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionBusy {
    /// The run waits for its turn, first come, first served.
    #[default]
    Wait,
    /// The run fails with `PAR_ERR_BUSY`.
    Fail,
}

/// What kind of answer is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// An answer.
    #[default]
    Chat,
    /// A long text: an answer that was cut off at its token limit is continued until it is whole.
    Generate,
}

/// How a model is held to a `response_schema`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputMode {
    /// As the model's profile says; `prompted` for a model without one.
    #[default]
    Auto,
    /// By the provider.
    Native,
    /// By a tool whose arguments are the answer.
    Tool,
    /// By words.
    Prompted,
}

impl RunRequest {
    /// Parses and checks a request.
    pub fn from_json(text: &str) -> Result<Self> {
        let request: Self = strict::from_str_fast(text, "request").map_err(|error| super::to_come(error, "request"))?;
        request.check("request")?;
        Ok(request)
    }

    /// Reads and checks a request that is part of something larger.
    pub fn from_value(value: &Value, path: &str) -> Result<Self> {
        let request: Self = strict::read(value, path).map_err(|error| super::to_come(error, path))?;
        request.check(path)?;
        Ok(request)
    }

    /// Refuses what only concerns streams, where there is none.
    pub fn refuse_stream_keys(&self, path: &str, why: &str, hint: &str) -> Result<()> {
        for (key, given) in [
            ("notify", self.notify != Notify::None),
            ("events", self.events != Events::All),
            ("overflow", self.overflow != Overflow::Backpressure),
            ("max_event_depth", self.max_event_depth.is_some()),
        ] {
            if given {
                return Err(
                    Error::schema(format!("{path}.{key}"), format!("this concerns streams, and {why}")).with_hint(hint)
                );
            }
        }
        Ok(())
    }

    fn check(&self, path: &str) -> Result<()> {
        let at = |key: &str| format!("{path}.{key}");
        if self.input.0.is_empty() {
            return Err(Error::schema(at("input"), "the input has no parts").with_hint("say something"));
        }
        if let Some(workspace) = &self.workspace {
            workspace.check(&at("workspace"))?;
        }
        if self.variables.as_ref().is_some_and(|variables| !variables.is_object()) {
            return Err(Error::schema(at("variables"), "an object is needed: {\"name\": value}"));
        }
        if self.response_schema.is_none() && self.output_mode != OutputMode::Auto {
            return Err(Error::schema(at("output_mode"), "there is no response_schema that it could concern"));
        }
        if self.response_schema.is_some() && self.mode == Mode::Generate {
            return Err(
                Error::schema(at("mode"), "a long text has no schema").with_hint("leave out response_schema, or mode")
            );
        }
        for (index, part) in self.input.0.iter().enumerate() {
            if part.as_text().is_some() {
                continue;
            }
            if matches!(part, Part::CachePoint(_)) {
                let before = index.checked_sub(1).and_then(|before| self.input.0.get(before));
                if !matches!(before, Some(before) if !matches!(before, Part::CachePoint(_))) {
                    return Err(Error::schema(at(&format!("input[{index}]")), "a cache point with nothing before it")
                        .with_hint("it stands behind what it covers"));
                }
                continue;
            }
            check_media(part, &at(&format!("input[{index}]")))?;
        }
        for (key, id) in [
            ("run_id", self.run_id.as_ref().map(RunId::as_str)),
            ("session", self.session.as_ref().map(SessionId::as_str)),
        ] {
            if id.is_some_and(|id| id.is_empty() || id.len() > 256) {
                return Err(Error::schema(at(key), "an id has 1 to 256 bytes"));
            }
            if id.is_some_and(|id| id.contains('\0')) {
                return Err(Error::schema(at(key), "an id has no zero character"));
            }
        }
        if self.scope.as_str().len() > 256 || self.scope.as_str().contains('\0') {
            return Err(Error::schema(at("scope"), "a scope has 256 bytes at most, and no zero character"));
        }
        Ok(())
    }
}

/// Several runs at once: `par_call("invoke_parallel")`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParallelRequest {
    /// The requests, each as for `par_invoke`.
    #[schemars(with = "Vec<RunRequest>")]
    pub specs: Vec<Value>,
    /// How many run at the same time. Default 4.
    #[serde(default = "four")]
    pub parallel_limit: usize,
    /// What the failure of one means for the others.
    #[serde(default)]
    pub failure_policy: FailurePolicy,
    /// What becomes of the answers.
    #[serde(default)]
    pub merge: Merge,
}

fn four() -> usize {
    4
}

impl ParallelRequest {
    /// Checks the values, and the requests.
    pub fn check(&self, path: &str) -> Result<Vec<RunRequest>> {
        if self.specs.is_empty() || self.specs.len() > 1_000 {
            return Err(Error::schema(format!("{path}.specs"), "1 to 1000 requests are possible"));
        }
        if self.parallel_limit == 0 {
            return Err(Error::schema(format!("{path}.parallel_limit"), "at least 1 run at a time is needed"));
        }
        let specs = self.specs.iter().enumerate();
        specs.map(|(index, spec)| RunRequest::from_value(spec, &format!("{path}.specs[{index}]"))).collect()
    }
}

/// What the failure of one run means for the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailurePolicy {
    /// Nothing.
    #[default]
    ContinueOnFailure,
    /// They are cancelled.
    FailFast,
}

/// What becomes of the answers of several runs.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[schemars(tag = "type")]
pub enum Merge {
    /// They stay apart.
    #[default]
    None,
    /// The first one, in the order of the requests, that succeeded.
    FirstSuccess,
    /// The answer that most gave; of several, the first.
    Majority,
    /// All texts, joined.
    Concat {
        /// What stands between them. Default: an empty line.
        #[serde(default = "empty_line")]
        separator: String,
    },
    /// What an agent makes of them.
    Agent {
        /// The agent.
        agent: String,
        /// What it is told before the answers.
        #[serde(default = "merge_prompt")]
        prompt: String,
    },
}

fn empty_line() -> String {
    "\n\n".into()
}

fn merge_prompt() -> String {
    "Merge the following answers into one.".into()
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
    /// An image.
    Image(Media),
    /// A document, such as a PDF.
    Document(Media),
    /// A recording.
    Audio(Media),
    /// Everything before it shall be cached by the provider: `{"type": "cache_point"}`. For agents whose `cache_strategy` is
    /// `explicit`; only in a request's input.
    CachePoint(CachePoint),
}

impl From<InputPart> for Part {
    fn from(part: InputPart) -> Self {
        match part {
            InputPart::Text { text } => Self::text(text),
            InputPart::Image(media) => Self::Image(media),
            InputPart::Document(media) => Self::Document(media),
            InputPart::Audio(media) => Self::Audio(media),
            InputPart::CachePoint(point) => Self::CachePoint(point),
        }
    }
}

/// What a provider would refuse with less clear words.
pub(crate) fn check_media(part: &Part, path: &str) -> Result<()> {
    let media = match part {
        Part::Image(media) | Part::Document(media) | Part::Audio(media) => media,
        Part::CachePoint(_) => {
            return Err(Error::schema(path, "a cache point has no place here")
                .with_hint("it stands in the input of a request, behind what it covers"));
        }
        Part::Text { .. } | Part::Reasoning { .. } | Part::ToolCall(_) | Part::Opaque(_) => return Ok(()),
    };
    match &media.source {
        MediaSource::Url { url, .. } if url.starts_with("https://") || url.starts_with("http://") => Ok(()),
        MediaSource::Url { .. } => Err(Error::schema(format!("{path}.url"), "not an http or https URL")
            .with_hint("inline content goes into \"data\", in base64, with its \"media_type\"")),
        MediaSource::Data { media_type, data } => {
            if !media_type.contains('/') {
                return Err(Error::schema(format!("{path}.media_type"), "not a media type")
                    .with_hint("write it like \"image/png\""));
            }
            let digits = data.trim_end_matches('=');
            let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
            if digits.is_empty() || data.len() % 4 != 0 || data.len() - digits.len() > 2 || !digits.bytes().all(legal) {
                return Err(Error::schema(format!("{path}.data"), "not base64")
                    .with_hint("standard alphabet, padded with '=', without line breaks"));
            }
            Ok(())
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
                Ok(Input(vec![Part::text(text)]))
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
