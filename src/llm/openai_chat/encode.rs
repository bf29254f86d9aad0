//! A [`ModelRequest`] → the body of a request. Pure: no I/O, no clock, no ids, so equal requests are equal bytes and a
//! provider's prompt cache sees an unchanged prefix.
//!
//! Source: OpenAI API reference, "Create chat completion". Keys that were not asked for are left out, never `null`:
//! compatible servers reject what they do not know.

use super::cache::{self, CacheOptions};
use super::messages::Messages;
use crate::config::{CachePointForm, CacheStrategy, Effort, MaxTokensKey, Quirks, ToolChoiceForm};
use crate::llm::cache::{CacheControl, CacheMarks};
use crate::llm::outgoing::{to_body, unsupported};
use crate::llm::{ModelRequest, OutputSchema, ToolChoice};
use crate::types::{Media, MediaSource, Part, Result, View};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// What differs between servers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Dialect {
    /// Whether to ask for a stream.
    pub stream: bool,
    /// OpenAI's own server: it deprecates `max_tokens`, and pads its chunks unless told not to.
    pub is_openai: bool,
    /// What is particular to the server.
    #[serde(default)]
    pub quirks: Quirks,
}

impl Dialect {
    /// How the server is told what to cache, if it is.
    pub(super) fn cache_form(&self) -> Option<CachePointForm> {
        self.quirks.cache_points.or(self.is_openai.then_some(CachePointForm::PromptCacheBreakpoint))
    }
}

/// The body of a request, as JSON.
pub fn encode(request: &ModelRequest<'_>, dialect: &Dialect) -> Result<Vec<u8>> {
    check(request)?;
    let model = request.model;
    let max_tokens = request.output_limit();
    let has_new_key =
        dialect.quirks.max_tokens_key.map_or(dialect.is_openai, |key| key == MaxTokensKey::MaxCompletionTokens);
    let cache_form = dialect.cache_form();
    let rules = cache_form.and_then(|form| cache::rules(form, request.profile));
    let marks = CacheMarks::plan(request.cache, rules, request.transcript);
    to_body(&Body {
        model: &model.model_name,
        messages: Messages { request, dialect, marks },
        tools: Tools(request),
        temperature: model.temperature,
        top_p: model.top_p,
        max_tokens: max_tokens.filter(|_| !has_new_key),
        max_completion_tokens: max_tokens.filter(|_| has_new_key),
        stop: &model.stop_sequences,
        stream: dialect.stream,
        stream_options: (dialect.stream && dialect.quirks.stream_usage != Some(false))
            .then_some(StreamOptions { include_usage: true, include_obfuscation: dialect.is_openai.then_some(false) }),
        tool_choice: Choice::of(request, dialect.quirks.tool_choice.unwrap_or(ToolChoiceForm::Full)),
        response_format: request.output.map(ResponseFormat),
        prompt_cache_key: request.cache_key.filter(|_| dialect.is_openai),
        prompt_cache_options: marks
            .filter(|_| cache_form == Some(CachePointForm::PromptCacheBreakpoint))
            .map(|_| CacheOptions::EXPLICIT),
        cache_control: match request.cache {
            CacheStrategy::Automatic { ttl } if cache_form == Some(CachePointForm::CacheControl) => Some(ttl.into()),
            CacheStrategy::None | CacheStrategy::Automatic { .. } | CacheStrategy::Explicit { .. } => None,
        },
        reasoning_effort: model.reasoning.and_then(|reasoning| reasoning.effort),
    })
}

/// What the API does not take.
fn check(request: &ModelRequest<'_>) -> Result<()> {
    for view in request.transcript.view() {
        let parts: &[Part] = match view {
            View::User(parts) => parts,
            View::Tool(_, result) => &result.parts,
            View::Assistant(_) => &[],
        };
        for part in parts {
            let wrong = match part {
                Part::Document(Media { source: MediaSource::Url { .. }, .. }) => "a document by URL",
                Part::Audio(Media { source: MediaSource::Url { .. }, .. }) => "a recording by URL",
                Part::Text { .. }
                | Part::Image(_)
                | Part::Document(_)
                | Part::Audio(_)
                | Part::Reasoning { .. }
                | Part::ToolCall(_)
                | Part::Opaque(_)
                | Part::CachePoint(_) => continue,
            };
            return Err(unsupported(
                format!("the chat completions API does not take {wrong}"),
                "give its content: \"data\" in base64, with its \"media_type\"",
            )
            .with_code("unsupported_content"));
        }
    }
    Ok(())
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    messages: Messages<'a>,
    #[serde(skip_serializing_if = "Tools::is_empty")]
    tools: Tools<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop: &'a [String],
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<Choice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<ResponseFormat<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache_options: Option<CacheOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<CacheControl>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<Effort>,
}

/// Left out where it says what holds anyway.
#[derive(Serialize)]
#[serde(untagged)]
enum Choice<'a> {
    Word(&'static str),
    Tool { r#type: &'static str, function: Named<'a> },
}

#[derive(Serialize)]
struct Named<'a> {
    name: &'a str,
}

impl<'a> Choice<'a> {
    fn of(request: &ModelRequest<'a>, form: ToolChoiceForm) -> Option<Self> {
        match (request.tool_choice, form) {
            _ if request.tools.is_empty() => None,
            (ToolChoice::Auto, _) => None,
            (ToolChoice::None, _) => Some(Self::Word("none")),
            (ToolChoice::Required | ToolChoice::Tool(_), ToolChoiceForm::Never) => None,
            (ToolChoice::Required, ToolChoiceForm::Full | ToolChoiceForm::Words)
            | (ToolChoice::Tool(_), ToolChoiceForm::Words) => Some(Self::Word("required")),
            (ToolChoice::Tool(name), ToolChoiceForm::Full) => {
                Some(Self::Tool { r#type: "function", function: Named { name } })
            }
        }
    }
}

/// `strict` is claimed only for schemas that keep the rules of strict mode; for others a server would refuse it.
struct ResponseFormat<'a>(&'a OutputSchema);

impl Serialize for ResponseFormat<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Format<'a> {
            r#type: &'static str,
            json_schema: Inner<'a>,
        }
        #[derive(Serialize)]
        struct Inner<'a> {
            name: &'a str,
            schema: &'a RawValue,
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            strict: bool,
        }
        let OutputSchema { name, schema } = self.0;
        let strict = serde_json::from_str(schema.get()).is_ok_and(|schema| is_strict(&schema));
        Format { r#type: "json_schema", json_schema: Inner { name, schema, strict } }.serialize(serializer)
    }
}

/// Whether every object in a schema names all its properties as required and allows no others.
pub fn is_strict(schema: &Value) -> bool {
    match schema {
        Value::Object(fields) => {
            let properties = fields.get("properties").and_then(Value::as_object);
            let is_object = properties.is_some() || fields.get("type").is_some_and(|kind| kind == "object");
            let required = fields.get("required").and_then(Value::as_array);
            let names_all = properties.is_none_or(|properties| {
                properties.keys().all(|key| required.is_some_and(|required| required.iter().any(|name| name == key)))
            });
            let closed = fields.get("additionalProperties") == Some(&Value::Bool(false));
            (!is_object || (names_all && closed)) && fields.values().all(is_strict)
        }
        Value::Array(items) => items.iter().all(is_strict),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    include_obfuscation: Option<bool>,
}

struct Tools<'a>(&'a ModelRequest<'a>);

impl Tools<'_> {
    fn is_empty(&self) -> bool {
        self.0.tools.is_empty()
    }
}

impl Serialize for Tools<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Tool<'a> {
            r#type: &'static str,
            function: Function<'a>,
        }
        #[derive(Serialize)]
        struct Function<'a> {
            name: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            description: &'a str,
            parameters: &'a RawValue,
        }
        serializer.collect_seq(self.0.tools.iter().map(|tool| Tool {
            r#type: "function",
            function: Function { name: &tool.name, description: &tool.description, parameters: &tool.input_schema },
        }))
    }
}
