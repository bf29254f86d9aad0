//! A [`ModelRequest`] → the body of a request. Pure: no I/O, no clock, no ids, so equal requests are equal bytes and a
//! provider's prompt cache sees an unchanged prefix.
//!
//! Source: OpenAI API reference, "Create chat completion". Keys that were not asked for are left out, never `null`:
//! compatible servers reject what they do not know.

use crate::llm::ModelRequest;
use crate::types::{Part, ToolCall, Transcript, View};
use serde::ser::{SerializeSeq, SerializeStruct};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// What differs between servers.
#[derive(Clone, Copy, Debug)]
pub struct Dialect {
    /// Whether to ask for a stream.
    pub stream: bool,
    /// OpenAI's own server: it deprecates `max_tokens`, and pads its chunks unless told not to.
    pub is_openai: bool,
}

/// The body of a request, as JSON.
pub fn encode(request: &ModelRequest<'_>, dialect: Dialect) -> serde_json::Result<Vec<u8>> {
    let model = request.model;
    let max_tokens = model.max_tokens;
    serde_json::to_vec(&Body {
        model: &model.model_name,
        messages: Messages { system: request.system, transcript: request.transcript },
        tools: Tools(request),
        temperature: model.temperature,
        top_p: model.top_p,
        max_tokens: max_tokens.filter(|_| !dialect.is_openai),
        max_completion_tokens: max_tokens.filter(|_| dialect.is_openai),
        stop: &model.stop_sequences,
        stream: dialect.stream,
        stream_options: dialect
            .stream
            .then_some(StreamOptions { include_usage: true, include_obfuscation: dialect.is_openai.then_some(false) }),
    })
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
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
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
}

impl Serialize for Messages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(None)?;
        if let Some(system) = self.system.filter(|system| !system.is_empty()) {
            seq.serialize_element(&Plain { role: "system", content: system })?;
        }
        for view in self.transcript.view() {
            match view {
                View::User(parts) => seq.serialize_element(&User(parts))?,
                View::Assistant(parts) => seq.serialize_element(&Assistant(parts))?,
                View::Tool(call, result) => {
                    seq.serialize_element(&Answer {
                        role: "tool",
                        tool_call_id: call.id.as_str(),
                        content: &result.content,
                    })?;
                }
            }
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
    parts.iter().filter_map(|part| match part {
        Part::Text { text } => Some(text.as_str()),
        Part::Reasoning { .. } | Part::ToolCall(_) | Part::Opaque { .. } => None,
    })
}

struct User<'a>(&'a [Part]);

impl Serialize for User<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct TextPart<'a> {
            r#type: &'static str,
            text: &'a str,
        }
        let mut message = serializer.serialize_struct("User", 2)?;
        message.serialize_field("role", "user")?;
        match self.0 {
            [Part::Text { text }] => message.serialize_field("content", text)?,
            parts => {
                let parts: Vec<_> = texts(parts).map(|text| TextPart { r#type: "text", text }).collect();
                message.serialize_field("content", &parts)?;
            }
        }
        message.end()
    }
}

struct Assistant<'a>(&'a [Part]);

impl Serialize for Assistant<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
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
            .filter_map(|part| match part {
                Part::ToolCall(ToolCall { id, name, arguments }) => {
                    Some(Call { id: id.as_str(), r#type: "function", function: Function { name, arguments } })
                }
                Part::Text { .. } | Part::Reasoning { .. } | Part::Opaque { .. } => None,
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
        if !calls.is_empty() {
            message.serialize_field("tool_calls", &calls)?;
        }
        message.end()
    }
}
