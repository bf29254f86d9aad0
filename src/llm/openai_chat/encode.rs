//! A [`ModelRequest`] → the body of a request. Pure: no I/O, no clock, no ids, so equal requests are equal bytes and a
//! provider's prompt cache sees an unchanged prefix.
//!
//! Source: OpenAI API reference, "Create chat completion". Keys that were not asked for are left out, never `null`:
//! compatible servers reject what they do not know.

use crate::config::{Effort, MaxTokensKey, QuirksConfig, ReasoningField};
use crate::llm::{ModelRequest, OutputSchema, ToolChoice};
use crate::types::{Error, Media, MediaSource, Part, Result, Status, ToolCall, Transcript, View};
use serde::ser::{SerializeSeq, SerializeStruct};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// What differs between servers.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Dialect {
    /// Whether to ask for a stream.
    pub stream: bool,
    /// OpenAI's own server: it deprecates `max_tokens`, and pads its chunks unless told not to.
    pub is_openai: bool,
    /// What is particular to the server.
    pub quirks: QuirksConfig,
}

/// The body of a request, as JSON.
pub fn encode(request: &ModelRequest<'_>, dialect: Dialect) -> Result<Vec<u8>> {
    check(request)?;
    let model = request.model;
    let max_tokens = request.output_limit();
    let has_new_key = dialect.is_openai || dialect.quirks.max_tokens_key == MaxTokensKey::MaxCompletionTokens;
    let body = serde_json::to_vec(&Body {
        model: &model.model_name,
        messages: Messages {
            system: request.system,
            transcript: request.transcript,
            reasoning: dialect.quirks.send_back_reasoning,
        },
        tools: Tools(request),
        temperature: model.temperature,
        top_p: model.top_p,
        max_tokens: max_tokens.filter(|_| !has_new_key),
        max_completion_tokens: max_tokens.filter(|_| has_new_key),
        stop: &model.stop_sequences,
        stream: dialect.stream,
        stream_options: dialect
            .stream
            .then_some(StreamOptions { include_usage: true, include_obfuscation: dialect.is_openai.then_some(false) }),
        tool_choice: Choice::of(request),
        response_format: request.output.map(ResponseFormat),
        prompt_cache_key: request.cache_key.filter(|_| dialect.is_openai),
        reasoning_effort: model.reasoning.and_then(|reasoning| reasoning.effort),
    });
    body.map_err(|error| Error::internal(format!("the request cannot be encoded: {error}")))
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
                | Part::Opaque(_) => continue,
            };
            return Err(Error::new(
                Status::UnsupportedByProvider,
                format!("the chat completions API does not take {wrong}"),
            )
            .with_code("unsupported_content")
            .with_hint("give its content: \"data\" in base64, with its \"media_type\""));
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
    fn of(request: &ModelRequest<'a>) -> Option<Self> {
        match request.tool_choice {
            _ if request.tools.is_empty() => None,
            ToolChoice::Auto => None,
            ToolChoice::None => Some(Self::Word("none")),
            ToolChoice::Required => Some(Self::Word("required")),
            ToolChoice::Tool(name) => Some(Self::Tool { r#type: "function", function: Named { name } }),
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

struct Messages<'a> {
    system: Option<&'a str>,
    transcript: &'a Transcript,
    reasoning: Option<ReasoningField>,
}

impl Serialize for Messages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(None)?;
        if let Some(system) = self.system.filter(|system| !system.is_empty()) {
            seq.serialize_element(&Plain { role: "system", content: system })?;
        }
        // What tools show cannot stand in their messages: it follows the last one, as the user's.
        let mut shown: Vec<Part> = Vec::new();
        for view in self.transcript.view() {
            if !shown.is_empty() && !matches!(view, View::Tool(..)) {
                seq.serialize_element(&User(&std::mem::take(&mut shown)))?;
            }
            match view {
                View::User(parts) => seq.serialize_element(&User(parts))?,
                View::Assistant(parts) => seq.serialize_element(&Assistant(parts, self.reasoning))?,
                View::Tool(call, result) => {
                    seq.serialize_element(&Answer {
                        role: "tool",
                        tool_call_id: call.id.as_str(),
                        content: &result.content,
                    })?;
                    if !result.parts.is_empty() {
                        shown.push(Part::text(format!("What {} ({}) shows:", call.name, call.id)));
                        shown.extend(result.parts.iter().cloned());
                    }
                }
            }
        }
        if !shown.is_empty() {
            seq.serialize_element(&User(&shown))?;
        }
        seq.end()
    }
}

#[derive(Serialize)]
struct Plain<'a> {
    role: &'static str,
    content: &'a str,
}

#[derive(Serialize)]
struct Answer<'a> {
    role: &'static str,
    tool_call_id: &'a str,
    content: &'a str,
}

fn texts(parts: &[Part]) -> impl Iterator<Item = &str> {
    parts.iter().filter_map(Part::as_text)
}

/// Reasoning that no other family has signed.
fn reasoning_of(part: &Part) -> Option<&str> {
    match part {
        Part::Reasoning { text, opaque: None } => Some(text),
        Part::Reasoning { .. }
        | Part::Text { .. }
        | Part::Image(_)
        | Part::Document(_)
        | Part::Audio(_)
        | Part::ToolCall(_)
        | Part::Opaque(_) => None,
    }
}

struct User<'a>(&'a [Part]);

impl Serialize for User<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut message = serializer.serialize_struct("User", 2)?;
        message.serialize_field("role", "user")?;
        match self.0 {
            [Part::Text { text, .. }] => message.serialize_field("content", text)?,
            parts => {
                let parts: Vec<_> = parts.iter().filter_map(Content::of).collect();
                message.serialize_field("content", &parts)?;
            }
        }
        message.end()
    }
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Content<'a> {
    Text { text: &'a str },
    ImageUrl { image_url: ImageUrl<'a> },
    File { file: File<'a> },
    InputAudio { input_audio: Audio<'a> },
}

#[derive(Serialize)]
struct ImageUrl<'a> {
    url: Cow<'a, str>,
}

#[derive(Serialize)]
struct File<'a> {
    filename: &'a str,
    file_data: String,
}

#[derive(Serialize)]
struct Audio<'a> {
    data: &'a str,
    format: &'a str,
}

impl<'a> Content<'a> {
    fn of(part: &'a Part) -> Option<Self> {
        match part {
            Part::Text { text, .. } => Some(Self::Text { text }),
            Part::Image(media) => {
                let url = match &media.source {
                    MediaSource::Url { url, .. } => Cow::Borrowed(url.as_str()),
                    MediaSource::Data { media_type, data } => Cow::Owned(format!("data:{media_type};base64,{data}")),
                };
                Some(Self::ImageUrl { image_url: ImageUrl { url } })
            }
            Part::Document(Media { source: MediaSource::Data { media_type, data }, name }) => {
                let filename = name.as_deref().unwrap_or("document");
                Some(Self::File { file: File { filename, file_data: format!("data:{media_type};base64,{data}") } })
            }
            Part::Audio(Media { source: MediaSource::Data { media_type, data }, .. }) => {
                let format = match media_type.split('/').next_back().unwrap_or_default() {
                    "mpeg" => "mp3",
                    "x-wav" | "wave" => "wav",
                    other => other,
                };
                Some(Self::InputAudio { input_audio: Audio { data, format } })
            }
            // Refused before it comes to this.
            Part::Document(_) | Part::Audio(_) => None,
            Part::Reasoning { .. } | Part::ToolCall(_) | Part::Opaque(_) => None,
        }
    }
}

struct Assistant<'a>(&'a [Part], Option<ReasoningField>);

impl Serialize for Assistant<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Call<'a> {
            id: &'a str,
            r#type: &'static str,
            function: Function<'a>,
        }
        #[derive(Serialize)]
        struct Function<'a> {
            name: &'a str,
            arguments: &'a str,
        }
        let calls: Vec<_> = self
            .0
            .iter()
            .filter_map(Part::as_tool_call)
            .map(|ToolCall { id, name, arguments, .. }| Call {
                id: id.as_str(),
                r#type: "function",
                function: Function { name, arguments },
            })
            .collect();
        let mut message = serializer.serialize_struct("Assistant", 3)?;
        message.serialize_field("role", "assistant")?;
        let mut texts = texts(self.0);
        match (texts.next(), texts.next()) {
            (None, _) if !calls.is_empty() => message.serialize_field("content", &None::<&str>)?,
            (first, None) => message.serialize_field("content", first.unwrap_or_default())?,
            (first, second) => {
                let whole: String = first.into_iter().chain(second).chain(texts).collect();
                message.serialize_field("content", &whole)?;
            }
        }
        if let Some(field) = self.1 {
            let reasoning: String = self.0.iter().filter_map(reasoning_of).collect();
            if !reasoning.is_empty() {
                let name = match field {
                    ReasoningField::ReasoningContent => "reasoning_content",
                    ReasoningField::Reasoning => "reasoning",
                };
                message.serialize_field(name, &reasoning)?;
            }
        }
        if !calls.is_empty() {
            message.serialize_field("tool_calls", &calls)?;
        }
        message.end()
    }
}
