//! Messages as the model and the host see them: content parts, tool calls and their results.

use super::ToolCallId;
use super::json::{DUPLICATE_KEY, MAX_DEPTH, Strict, is_too_deep};
use schemars::JsonSchema;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;
use std::sync::Arc;

/// One piece of a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Part {
    /// Plain text.
    Text {
        /// The text.
        text: String,
        /// What its provider wants back with it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        opaque: Option<Box<Opaque>>,
    },
    /// An image.
    Image(Media),
    /// A document, such as a PDF.
    Document(Media),
    /// A recording.
    Audio(Media),
    /// Reasoning the model showed.
    Reasoning {
        /// The text, possibly a summary, possibly empty beside `opaque`.
        text: String,
        /// What its provider wants back with it, such as a signature.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        opaque: Option<Box<Opaque>>,
    },
    /// The model asks for a tool.
    ToolCall(ToolCall),
    /// A piece that only its provider understands.
    Opaque(Opaque),
    /// Nothing that is said: everything before it shall be cached by the provider.
    CachePoint(CachePoint),
}

impl Part {
    /// Plain text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into(), opaque: None }
    }

    /// Reasoning in plain words.
    pub fn reasoning(text: impl Into<String>) -> Self {
        Self::Reasoning { text: text.into(), opaque: None }
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text { text, .. } => Some(text),
            Self::Image(_)
            | Self::Document(_)
            | Self::Audio(_)
            | Self::Reasoning { .. }
            | Self::ToolCall(_)
            | Self::Opaque(_)
            | Self::CachePoint(_) => None,
        }
    }

    /// The tool call, if it is one.
    pub fn as_tool_call(&self) -> Option<&ToolCall> {
        match self {
            Self::ToolCall(call) => Some(call),
            Self::Text { .. }
            | Self::Image(_)
            | Self::Document(_)
            | Self::Audio(_)
            | Self::Reasoning { .. }
            | Self::Opaque(_)
            | Self::CachePoint(_) => None,
        }
    }
}

/// The texts of some parts, joined.
pub fn text_of(parts: &[Part]) -> String {
    parts.iter().filter_map(Part::as_text).collect()
}

/// Data of one provider family that must survive byte for byte and goes back only to that family: a signature, an
/// encrypted piece of reasoning, a block nobody else knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Opaque {
    /// The wire family that made it and alone may read it.
    pub family: String,
    /// Its JSON text, untouched.
    pub data: String,
}

/// The end of what a provider shall cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CachePoint {
    /// How long it is kept. Default: as the agent's `cache_strategy` says, else as the provider does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<CacheTtl>,
}

/// How long a provider keeps what it cached. The longer, the dearer the writing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum CacheTtl {
    /// Five minutes.
    #[default]
    #[serde(rename = "5m")]
    FiveMinutes,
    /// Half an hour.
    #[serde(rename = "30m")]
    ThirtyMinutes,
    /// One hour.
    #[serde(rename = "1h")]
    OneHour,
}

impl CacheTtl {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FiveMinutes => "5m",
            Self::ThirtyMinutes => "30m",
            Self::OneHour => "1h",
        }
    }
}

/// What is not text: inline, or at an address that the provider fetches.
///
/// JSON: `{"url", "media_type"?, "name"?}` or `{"data", "media_type", "name"?}`, `data` in base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "MediaShape", into = "MediaShape")]
pub struct Media {
    /// Where it is.
    pub source: MediaSource,
    /// A file name, for providers that show one to the model.
    pub name: Option<String>,
}

/// Where a [`Media`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaSource {
    /// At an address.
    Url {
        /// `https://…`.
        url: String,
        /// Its type, where the provider must be told.
        media_type: Option<String>,
    },
    /// Here.
    Data {
        /// Its type, such as `image/png`.
        media_type: String,
        /// Base64. Shared, since conversations are cloned and images are large.
        data: Arc<str>,
    },
}

/// The JSON form of a [`Media`].
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Media")]
struct MediaShape {
    /// An address that the provider fetches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    /// Its type, such as `image/png`; needed beside `data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    /// The content in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<Arc<str>>,
    /// A file name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

impl From<Media> for MediaShape {
    fn from(media: Media) -> Self {
        let (url, media_type, data) = match media.source {
            MediaSource::Url { url, media_type } => (Some(url), media_type, None),
            MediaSource::Data { media_type, data } => (None, Some(media_type), Some(data)),
        };
        Self { url, media_type, data, name: media.name }
    }
}

impl TryFrom<MediaShape> for Media {
    type Error = &'static str;

    fn try_from(shape: MediaShape) -> Result<Self, &'static str> {
        let source = match (shape.url, shape.data, shape.media_type) {
            (Some(url), None, media_type) => MediaSource::Url { url, media_type },
            (None, Some(data), Some(media_type)) => MediaSource::Data { media_type, data },
            (None, Some(_), None) => return Err("inline data needs its \"media_type\", such as \"image/png\""),
            (Some(_), Some(_), _) => return Err("give either \"url\" or \"data\", not both"),
            (None, None, _) => return Err("a \"url\", or \"data\" in base64 with its \"media_type\", is needed"),
        };
        Ok(Self { source, name: shape.name })
    }
}

impl JsonSchema for Media {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Media".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        MediaShape::json_schema(generator)
    }
}

/// A request of the model to run a tool.
///
/// `arguments` is the text as the model wrote it: what is sent back to the model must be what it said, to the byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// Unique in its transcript.
    pub id: ToolCallId,
    /// The tool's name.
    pub name: String,
    /// The arguments as text; valid JSON unless the model erred.
    pub arguments: String,
    /// What its provider wants back with it, such as a thought signature.
    pub opaque: Option<Box<Opaque>>,
}

impl ToolCall {
    /// The arguments parsed, or what is wrong with them.
    pub fn input(&self) -> Result<Value, String> {
        // What is checked and approved is what runs: a reader that takes the first of two keys must not see another value.
        Strict::within(MAX_DEPTH).parse(&self.arguments).map_err(|error| {
            let message = error.to_string();
            let what = message.split(" at line ").next().unwrap_or_default();
            match what.strip_prefix(DUPLICATE_KEY) {
                Some(key) => format!("they have the key {key:?} twice"),
                None if what.starts_with("nested") => format!("they are {what}"),
                None => format!("they are not valid JSON ({message})"),
            }
        })
    }
}

/// The JSON form of a [`ToolCall`].
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ToolCall")]
struct ToolCallShape {
    tool_call_id: ToolCallId,
    name: String,
    /// The arguments; absent when the model's text was not JSON that can be read.
    #[serde(default)]
    input: Option<Value>,
    /// The model's text, where `input` alone would lose how it was spelled.
    #[serde(default)]
    arguments: Option<String>,
    /// The model's text, when it was not JSON.
    #[serde(default)]
    invalid_arguments: Option<String>,
    /// What its provider wants back with it.
    #[serde(default)]
    opaque: Option<Box<Opaque>>,
}

impl Serialize for ToolCall {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("tool_call_id", &self.id)?;
        map.serialize_entry("name", &self.name)?;
        match readable(&self.arguments) {
            Some((input, is_exact)) => {
                map.serialize_entry("input", input)?;
                if !is_exact {
                    map.serialize_entry("arguments", &self.arguments)?;
                }
            }
            None => map.serialize_entry("invalid_arguments", &self.arguments)?,
        }
        if let Some(opaque) = &self.opaque {
            map.serialize_entry("opaque", opaque)?;
        }
        map.end()
    }
}

/// Arguments that will be read again as what they are: `null` would be taken for none, and not every JSON text is a value
/// (numbers may be too large, brackets too many). And whether they will be the same to the byte: the model is told what it
/// said, not what it meant.
fn readable(arguments: &str) -> Option<(&RawValue, bool)> {
    let value: Value = serde_json::from_str(arguments).ok()?;
    if value.is_null() || is_too_deep(&value) {
        return None;
    }
    let is_exact = value.to_string().as_str() == arguments;
    serde_json::from_str(arguments).ok().map(|raw| (raw, is_exact))
}

impl<'de> Deserialize<'de> for ToolCall {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let shape = ToolCallShape::deserialize(deserializer)?;
        let arguments = match (shape.input, shape.arguments, shape.invalid_arguments) {
            (Some(_), Some(text), None) => text,
            (Some(input), None, None) => input.to_string(),
            (None, None, Some(text)) => text,
            (Some(_), _, Some(_)) | (None, Some(_), _) | (None, None, None) => {
                return Err(serde::de::Error::custom("a tool call has either input or invalid_arguments"));
            }
        };
        Ok(Self { id: shape.tool_call_id, name: shape.name, arguments, opaque: shape.opaque })
    }
}

impl JsonSchema for ToolCall {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ToolCall".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        ToolCallShape::json_schema(generator)
    }
}

/// What came of a tool call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ToolResult {
    /// What the model reads.
    pub content: String,
    /// What it sees and hears besides: images, documents, audio.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
    /// Whether it reports a failure.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_error: bool,
}

impl ToolResult {
    /// A success.
    pub fn ok(content: impl Into<String>) -> Self {
        Self { content: content.into(), parts: Vec::new(), is_error: false }
    }

    /// A failure, told so that the model can act on it.
    pub fn error(content: impl Into<String>) -> Self {
        Self { content: content.into(), parts: Vec::new(), is_error: true }
    }
}

/// A tool as a model is told of it. The schema is encoded once, and its bytes never change, which is what prompt caches
/// live on.
#[derive(Clone, Debug)]
pub struct ToolSpec {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// JSON Schema of the arguments.
    pub input_schema: Arc<RawValue>,
}

/// One message of a [`super::Transcript`], as it is listed and stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "role", rename_all = "snake_case", deny_unknown_fields)]
pub enum Message {
    /// From the host's user.
    User {
        /// What was said.
        parts: Vec<Part>,
    },
    /// From the model.
    Assistant {
        /// What it said, tool calls included.
        parts: Vec<Part>,
    },
    /// The result of one tool call.
    Tool {
        /// The call it answers.
        tool_call_id: ToolCallId,
        /// The answer.
        #[serde(flatten)]
        result: ToolResult,
    },
    /// From here on the model sees less of what was before.
    Compaction {
        /// What the model still sees begins with this entry; results of tools are not counted, this entry would be the
        /// next.
        kept_from: usize,
        /// What stands for the rest.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        summary: Vec<Part>,
    },
}

/// Why a model stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FinishReason {
    /// It was done, or met a stop sequence.
    Stop,
    /// It reached the output limit.
    MaxTokens,
    /// It wants tools.
    ToolCalls,
    /// The provider filtered it.
    ContentFilter,
    /// The model declined.
    Refusal,
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;

    #[test]
    fn arguments_with_a_key_twice_are_refused() {
        let input = |arguments: &str| {
            ToolCall { id: "c".into(), name: "t".into(), arguments: arguments.into(), opaque: None }.input()
        };
        assert_eq!(input(r#"{"amount": 1}"#), Ok(serde_json::json!({"amount": 1})));
        for arguments in [r#"{"amount": 1000, "amount": 1}"#, r#"{"a": [{"amount": 1, "amoun\u0074": 1}]}"#] {
            assert_eq!(input(arguments), Err(r#"they have the key "amount" twice"#.to_owned()));
        }
        assert!(input("{").unwrap_err().starts_with("they are not valid JSON (EOF"));
        assert_eq!(input(&"[".repeat(65)).unwrap_err(), "they are nested deeper than 64 levels");
    }

    #[test]
    fn arguments_come_back_to_the_byte() {
        for arguments in
            [r#"{"a":1}"#, r#"{ "a" : [1.0, 1e2, 0.10] }"#, "{\"a\": \"\\u00e9\"}", "{}", "null", "{oops", ""]
        {
            let call = ToolCall { id: "c".into(), name: "t".into(), arguments: arguments.into(), opaque: None };
            let stored = serde_json::to_string(&Part::ToolCall(call.clone())).unwrap();
            assert_eq!(serde_json::from_str::<Part>(&stored).unwrap(), Part::ToolCall(call), "{stored}");
        }
        let compact = ToolCall { id: "c".into(), name: "t".into(), arguments: r#"{"a":1}"#.into(), opaque: None };
        assert_eq!(serde_json::to_string(&compact).unwrap(), r#"{"tool_call_id":"c","name":"t","input":{"a":1}}"#);
    }
}
