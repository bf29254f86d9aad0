//! A [`ModelRequest`] → the body of a request. Pure: no I/O, no clock, no ids, so equal requests are equal bytes. What
//! stays the same from turn to turn stands in front.
//!
//! Source: Ollama API reference, "Generate a chat completion"; "Thinking"; "Structured outputs". Keys that were not
//! asked for are left out, never `null`.

use crate::llm::outgoing::{ObjectArguments, to_body, unsupported};
use crate::llm::{ModelRequest, ToolChoice};
use crate::types::{Media, MediaSource, Part, Result, ToolCall, ToolResult, ToolSpec, View};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// What differs between settings.
#[derive(Clone, Debug, Default)]
pub struct Dialect {
    /// Whether to ask for a stream.
    pub stream: bool,
    /// The context length. Without it the server's own applies, which is small, and what is longer is cut silently.
    pub num_ctx: Option<u32>,
    /// How long the model stays loaded: a duration such as `10m`, or a number of seconds, -1 for ever.
    pub keep_alive: Option<String>,
    /// Whether the model thinks.
    pub think: Option<Think>,
}

/// Whether and how much a model thinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Think {
    /// Not at all.
    Off,
    /// As it does.
    On,
    /// A little; only some models know degrees.
    Low,
    /// Some.
    Medium,
    /// Much.
    High,
}

/// The body of a request, as JSON.
pub fn encode(request: &ModelRequest<'_>, dialect: &Dialect) -> Result<Vec<u8>> {
    let model = request.model;
    let tools = match request.tool_choice {
        ToolChoice::Auto => request.tools,
        // There is no such word, but a model that knows no tools calls none.
        ToolChoice::None => &[],
        ToolChoice::Required | ToolChoice::Tool(_) => {
            return Err(unsupported(
                "Ollama has no way to force a tool call",
                "leave the tool choice to the model, or ask for a response schema",
            ));
        }
    };
    let options = Options {
        num_ctx: dialect.num_ctx,
        num_predict: request.output_limit(),
        temperature: model.temperature,
        top_p: model.top_p,
        stop: &model.stop_sequences,
    };
    let body = Body {
        model: &model.model_name,
        stream: dialect.stream,
        keep_alive: dialect.keep_alive.as_deref().map(KeepAlive),
        think: dialect.think,
        format: request.output.map(|output| &*output.schema),
        options: (!options.is_empty()).then_some(options),
        tools: Tools(tools),
        messages: messages(request)?,
    };
    to_body(&body)
}

fn messages<'a>(request: &ModelRequest<'a>) -> Result<Vec<Message<'a>>> {
    let mut messages = Vec::new();
    if let Some(system) = request.system.filter(|system| !system.is_empty()) {
        messages.push(Message { content: system.to_owned(), ..Message::of("system") });
    }
    for view in request.transcript.view() {
        messages.push(match view {
            View::User(parts) => user(parts)?,
            View::Assistant(parts) => assistant(parts),
            View::Tool(call, result) => answer(call, result)?,
        });
    }
    Ok(messages)
}

fn user(parts: &[Part]) -> Result<Message<'_>> {
    let mut message = Message::of("user");
    show(parts, &mut message)?;
    Ok(message)
}

fn answer<'a>(call: &'a ToolCall, result: &'a ToolResult) -> Result<Message<'a>> {
    let mut message = Message {
        content: result.content.clone(),
        tool_name: Some(&call.name),
        tool_call_id: Some(call.id.as_str()),
        ..Message::of("tool")
    };
    show(&result.parts, &mut message)?;
    Ok(message)
}

/// What a user or a tool shows: texts as paragraphs, and images beside them.
fn show<'a>(parts: &'a [Part], message: &mut Message<'a>) -> Result<()> {
    for part in parts {
        match part {
            Part::Text { text, .. } => {
                if !message.content.is_empty() && !text.is_empty() {
                    message.content.push_str("\n\n");
                }
                message.content.push_str(text);
            }
            Part::Image(Media { source: MediaSource::Data { data, .. }, .. }) => message.images.push(data),
            Part::Image(Media { source: MediaSource::Url { .. }, .. }) => {
                return Err(unsupported(
                    "Ollama takes no image by its URL",
                    "give the image inline: {\"data\": \"<base64>\", \"media_type\": \"image/png\"}",
                ));
            }
            Part::Document(_) => {
                return Err(unsupported("Ollama takes no document", "give its content as text"));
            }
            Part::Audio(_) => {
                return Err(unsupported("Ollama takes no audio", "give a transcript as text"));
            }
            Part::Reasoning { .. } | Part::ToolCall(_) | Part::Opaque(_) | Part::CachePoint(_) => {}
        }
    }
    Ok(())
}

fn assistant(parts: &[Part]) -> Message<'_> {
    let mut message = Message::of("assistant");
    for part in parts {
        match part {
            Part::Text { text, .. } => message.content.push_str(text),
            Part::Reasoning { text, .. } => message.thinking.push_str(text),
            Part::ToolCall(ToolCall { id, name, arguments, .. }) => message
                .tool_calls
                .push(Call { id: id.as_str(), function: Function { name, arguments: ObjectArguments(arguments) } }),
            // The API takes none of these from the model; what another model made is told in words.
            Part::Image(_) => message.content.push_str("(an image that cannot be shown here)"),
            Part::Document(_) => message.content.push_str("(a document that cannot be shown here)"),
            Part::Audio(_) => message.content.push_str("(a recording that cannot be played here)"),
            // This family makes none.
            Part::Opaque(_) | Part::CachePoint(_) => {}
        }
    }
    message
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_alive: Option<KeepAlive<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    think: Option<Think>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    options: Option<Options<'a>>,
    #[serde(skip_serializing_if = "Tools::is_empty")]
    tools: Tools<'a>,
    messages: Vec<Message<'a>>,
}

/// A duration is text and a number of seconds a number: the server refuses the one as the other.
struct KeepAlive<'a>(&'a str);

impl Serialize for KeepAlive<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.parse::<i64>() {
            Ok(seconds) => serializer.serialize_i64(seconds),
            Err(_) => serializer.serialize_str(self.0),
        }
    }
}

impl Serialize for Think {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_bool(false),
            Self::On => serializer.serialize_bool(true),
            Self::Low => serializer.serialize_str("low"),
            Self::Medium => serializer.serialize_str("medium"),
            Self::High => serializer.serialize_str("high"),
        }
    }
}

#[derive(Serialize)]
struct Options<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    num_ctx: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    num_predict: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop: &'a [String],
}

impl Options<'_> {
    fn is_empty(&self) -> bool {
        self.num_ctx.is_none()
            && self.num_predict.is_none()
            && self.temperature.is_none()
            && self.top_p.is_none()
            && self.stop.is_empty()
    }
}

struct Tools<'a>(&'a [ToolSpec]);

impl Tools<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
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
        serializer.collect_seq(self.0.iter().map(|tool| Tool {
            r#type: "function",
            function: Function { name: &tool.name, description: &tool.description, parameters: &tool.input_schema },
        }))
    }
}

#[derive(Default, Serialize)]
struct Message<'a> {
    role: &'static str,
    content: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    thinking: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    images: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<&'a str>,
}

impl Message<'_> {
    fn of(role: &'static str) -> Self {
        Self { role, ..Self::default() }
    }
}

#[derive(Serialize)]
struct Call<'a> {
    id: &'a str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    arguments: ObjectArguments<'a>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::OutputSchema;
    use crate::llm::testing::{Asked, call, data, raw, tool, url};
    use crate::types::{Opaque, Status};
    use pretty_assertions::assert_eq;
    use serde_json::{Value, json};

    fn text(asked: &Asked, dialect: &Dialect) -> String {
        String::from_utf8(encode(&asked.request(), dialect).unwrap()).unwrap()
    }

    #[test]
    fn a_conversation_becomes_messages() {
        let mut asked = Asked::of("qwen");
        asked.system = Some("S");
        let transcript = &mut asked.transcript;
        transcript.push_user(vec![Part::text("look"), Part::Image(data("image/png")), Part::text("here")]).unwrap();
        let foreign = Opaque { family: "anthropic".into(), data: r#"{"signature":"s"}"#.into() };
        transcript
            .push_assistant(vec![
                Part::Reasoning { text: "hm".into(), opaque: Some(Box::new(foreign.clone())) },
                Part::Opaque(foreign),
                Part::text("I "),
                Part::text("add."),
                call("a", "add", r#"{"x": 1.0}"#),
                call("b", "add", "not json"),
            ])
            .unwrap();
        transcript.answer(&"a".into(), ToolResult::ok("3")).unwrap();
        let mut seen = ToolResult::error("bad");
        seen.parts = vec![Part::Image(data("image/png"))];
        transcript.answer(&"b".into(), seen).unwrap();
        let body: Value = serde_json::from_str(&text(&asked, &Dialect::default())).unwrap();
        assert_eq!(
            body["messages"],
            json!([
                {"role": "system", "content": "S"},
                {"role": "user", "content": "look\n\nhere", "images": ["aGk="]},
                {"role": "assistant", "content": "I add.", "thinking": "hm", "tool_calls": [
                    {"id": "a", "function": {"name": "add", "arguments": {"x": 1.0}}},
                    {"id": "b", "function": {"name": "add", "arguments": {"INVALID_JSON": "not json"}}}]},
                {"role": "tool", "content": "3", "tool_name": "add", "tool_call_id": "a"},
                {"role": "tool", "content": "bad", "images": ["aGk="], "tool_name": "add", "tool_call_id": "b"}])
        );
    }

    #[test]
    fn the_body_has_what_was_asked_for_and_nothing_else() {
        let mut asked = Asked::of("qwen");
        asked.transcript.push_user(vec![Part::text("hi")]).unwrap();
        assert_eq!(
            text(&asked, &Dialect::default()),
            r#"{"model":"qwen","stream":false,"messages":[{"role":"user","content":"hi"}]}"#
        );
        asked.model.temperature = Some(0.5);
        asked.model.top_p = Some(0.9);
        asked.model.stop_sequences = vec!["END".into()];
        asked.max_tokens = Some(10);
        asked.tools = vec![tool("add")];
        asked.output = Some(OutputSchema { name: "o".into(), schema: raw(r#"{"type":"object"}"#) });
        let mut dialect =
            Dialect { stream: true, num_ctx: Some(32_768), keep_alive: Some("10m".into()), think: Some(Think::Off) };
        assert_eq!(
            text(&asked, &dialect),
            concat!(
                r#"{"model":"qwen","stream":true,"keep_alive":"10m","think":false,"format":{"type":"object"},"#,
                r#""options":{"num_ctx":32768,"num_predict":10,"temperature":0.5,"top_p":0.9,"stop":["END"]},"#,
                r#""tools":[{"type":"function","function":{"name":"add","description":"Does add.","#,
                r#""parameters":{"type":"object"}}}],"messages":[{"role":"user","content":"hi"}]}"#
            )
        );
        dialect.keep_alive = Some("-1".into());
        dialect.think = Some(Think::High);
        assert!(text(&asked, &dialect).contains(r#""keep_alive":-1,"think":"high""#));
        asked.tool_choice = ToolChoice::None;
        assert!(!text(&asked, &dialect).contains("tools"));
    }

    #[test]
    fn what_the_api_cannot_take_is_told() {
        for (part, names) in [
            (Part::Image(url("https://h/i.png")), "URL"),
            (Part::Document(data("application/pdf")), "document"),
            (Part::Audio(data("audio/wav")), "audio"),
        ] {
            let mut asked = Asked::of("qwen");
            asked.transcript.push_user(vec![part]).unwrap();
            let error = encode(&asked.request(), &Dialect::default()).unwrap_err();
            assert_eq!(error.status(), Status::UnsupportedByProvider);
            assert!(error.message().contains(names) && error.hint().is_some(), "{error}");
        }
        let mut asked = Asked::of("qwen");
        asked.transcript.push_user(vec![Part::text("hi")]).unwrap();
        asked.tool_choice = ToolChoice::Required;
        assert!(encode(&asked.request(), &Dialect::default()).unwrap_err().message().contains("force"));
    }
}
