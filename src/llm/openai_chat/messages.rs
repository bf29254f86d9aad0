//! The conversation as messages of the API.

use super::FAMILY;
use super::cache::Mark;
use super::encode::Dialect;
use crate::config::{CallContent, ReasoningField, ToolCallIds};
use crate::llm::ModelRequest;
use crate::llm::cache::CacheMarks;
use crate::llm::outgoing::own_fields;
use crate::types::{Media, MediaSource, Part, ToolCall, View};
use serde::ser::{Error as _, SerializeSeq, SerializeStruct};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Written out while the body is encoded.
pub struct Messages<'a> {
    pub request: &'a ModelRequest<'a>,
    pub dialect: &'a Dialect,
    pub marks: Option<CacheMarks>,
}

/// What stands for the model's word where a server wants one: nothing else fits behind a result.
const FILLER: &str = "OK.";

impl Serialize for Messages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { request, dialect, .. } = *self;
        let quirks = &dialect.quirks;
        let mut marks = self.marks;
        let mut seq = serializer.serialize_seq(None)?;
        if let Some(text) = request.system.filter(|system| !system.is_empty()) {
            match marks.and_then(|marks| Mark::of(dialect.cache_form()?, marks.system?)) {
                None => seq.serialize_element(&Message { role: "system", content: text })?,
                mark => seq.serialize_element(&Message { role: "system", content: [Content::Text { text, mark }] })?,
            }
        }
        let mut follows_result = false;
        // What tools show cannot stand in their messages: it follows the last one, as the user's.
        let mut shown: Vec<Part> = Vec::new();
        for view in request.transcript.view() {
            let is_result = matches!(view, View::Tool(..));
            let is_user = matches!(view, View::User(_)) || (!shown.is_empty() && !is_result);
            if is_user && follows_result && quirks.answer_before_user == Some(true) {
                seq.serialize_element(&Message { role: "assistant", content: FILLER })?;
            }
            if !shown.is_empty() && !is_result {
                seq.serialize_element(&user(&std::mem::take(&mut shown), dialect, &mut None))?;
            }
            follows_result = is_result;
            match view {
                View::User(parts) => seq.serialize_element(&user(parts, dialect, &mut marks))?,
                View::Assistant(parts) => seq.serialize_element(&Assistant { parts, dialect })?,
                View::Tool(call, result) => {
                    let tool_call_id = wire_id(call.id.as_str(), dialect);
                    seq.serialize_element(&Answer { role: "tool", tool_call_id, content: &result.content })?;
                    if !result.parts.is_empty() {
                        shown.push(Part::text(format!("What {} ({}) shows:", call.name, call.id)));
                        shown.extend(result.parts.iter().cloned());
                    }
                }
            }
        }
        if !shown.is_empty() {
            if quirks.answer_before_user == Some(true) {
                seq.serialize_element(&Message { role: "assistant", content: FILLER })?;
            }
            seq.serialize_element(&user(&shown, dialect, &mut None))?;
        }
        seq.end()
    }
}

#[derive(Serialize)]
struct Message<C> {
    role: &'static str,
    content: C,
}

#[derive(Serialize)]
struct Answer<'a> {
    role: &'static str,
    tool_call_id: Cow<'a, str>,
    content: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Contents<'a> {
    Text(&'a str),
    Pieces(Vec<Content<'a>>),
}

fn user<'a>(parts: &'a [Part], dialect: &Dialect, marks: &mut Option<CacheMarks>) -> Message<Contents<'a>> {
    if let [Part::Text { text, .. }] = parts {
        return Message { role: "user", content: Contents::Text(text) };
    }
    let mut pieces: Vec<Content<'a>> = Vec::with_capacity(parts.len());
    for part in parts {
        if let Part::CachePoint(point) = part {
            let ttl = marks.as_mut().and_then(|marks| marks.next(point));
            let told = ttl.and_then(|ttl| Mark::of(dialect.cache_form()?, ttl));
            if let (Some(told), Some(mark)) = (told, pieces.iter_mut().rev().find_map(Content::mark)) {
                *mark = Some(told);
            }
        }
        pieces.extend(Content::of(part));
    }
    Message { role: "user", content: Contents::Pieces(pieces) }
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Content<'a> {
    Text {
        text: &'a str,
        #[serde(flatten)]
        mark: Option<Mark>,
    },
    ImageUrl {
        image_url: ImageUrl<'a>,
        #[serde(flatten)]
        mark: Option<Mark>,
    },
    File {
        file: File<'a>,
        #[serde(flatten)]
        mark: Option<Mark>,
    },
    InputAudio {
        input_audio: Audio<'a>,
    },
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
            Part::Text { text, .. } => Some(Self::Text { text, mark: None }),
            Part::Image(media) => {
                let url = match &media.source {
                    MediaSource::Url { url, .. } => Cow::Borrowed(url.as_str()),
                    MediaSource::Data { media_type, data } => Cow::Owned(format!("data:{media_type};base64,{data}")),
                };
                Some(Self::ImageUrl { image_url: ImageUrl { url }, mark: None })
            }
            Part::Document(Media { source: MediaSource::Data { media_type, data }, name }) => {
                let filename = name.as_deref().unwrap_or("document");
                let file_data = format!("data:{media_type};base64,{data}");
                Some(Self::File { file: File { filename, file_data }, mark: None })
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
            Part::Reasoning { .. } | Part::ToolCall(_) | Part::Opaque(_) | Part::CachePoint(_) => None,
        }
    }

    /// Where a cache point can be set.
    fn mark(&mut self) -> Option<&mut Option<Mark>> {
        match self {
            Self::Text { mark, .. } | Self::ImageUrl { mark, .. } | Self::File { mark, .. } => Some(mark),
            Self::InputAudio { .. } => None,
        }
    }
}

struct Assistant<'a> {
    parts: &'a [Part],
    dialect: &'a Dialect,
}

impl Assistant<'_> {
    fn reasoning<M: SerializeStruct>(&self, message: &mut M) -> Result<(), M::Error> {
        let name = match self.dialect.quirks.send_back_reasoning {
            None | Some(ReasoningField::Never) => return Ok(()),
            Some(ReasoningField::ReasoningDetails) => {
                for part in self.parts {
                    if let Part::Reasoning { opaque, .. } = part
                        && let Some(fields) = own_fields(opaque.as_deref(), FAMILY).map_err(M::Error::custom)?
                        && let Some(details) = fields.get("reasoning_details")
                    {
                        message.serialize_field("reasoning_details", details)?;
                    }
                }
                return Ok(());
            }
            Some(ReasoningField::ReasoningContent) => "reasoning_content",
            Some(ReasoningField::Reasoning) => "reasoning",
        };
        let reasoning: String = self.parts.iter().filter_map(reasoning_of).collect();
        match reasoning.is_empty() {
            true => Ok(()),
            false => message.serialize_field(name, &reasoning),
        }
    }
}

impl Serialize for Assistant<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let calls = self.parts.iter().filter_map(Part::as_tool_call).map(|call| Call::of(call, self.dialect));
        let calls = calls.collect::<crate::types::Result<Vec<_>>>().map_err(S::Error::custom)?;
        let mut message = serializer.serialize_struct("Assistant", 3)?;
        message.serialize_field("role", "assistant")?;
        let mut texts = self.parts.iter().filter_map(Part::as_text);
        match (texts.next(), texts.next()) {
            (None, _) if !calls.is_empty() => match self.dialect.quirks.call_content {
                None | Some(CallContent::Null) => message.serialize_field("content", &None::<&str>)?,
                Some(CallContent::Empty) => message.serialize_field("content", "")?,
                Some(CallContent::Absent) => {}
            },
            (first, None) => message.serialize_field("content", first.unwrap_or_default())?,
            (first, second) => {
                let whole: String = first.into_iter().chain(second).chain(texts).collect();
                message.serialize_field("content", &whole)?;
            }
        }
        self.reasoning(&mut message)?;
        if !calls.is_empty() {
            message.serialize_field("tool_calls", &calls)?;
        }
        message.end()
    }
}

#[derive(Serialize)]
struct Call<'a> {
    id: Cow<'a, str>,
    r#type: &'static str,
    function: Function<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra_content: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    arguments: &'a str,
}

impl<'a> Call<'a> {
    fn of(call: &'a ToolCall, dialect: &Dialect) -> crate::types::Result<Self> {
        let ToolCall { id, name, arguments, opaque } = call;
        // OpenAI refuses what it has not sent.
        let fields = own_fields(opaque.as_deref().filter(|_| !dialect.is_openai), FAMILY)?;
        Ok(Self {
            id: wire_id(id.as_str(), dialect),
            r#type: "function",
            function: Function { name, arguments },
            extra_content: fields.and_then(|fields| fields.get("extra_content")),
        })
    }
}

/// Reasoning that no other family has signed.
fn reasoning_of(part: &Part) -> Option<&str> {
    match part {
        Part::Reasoning { text, opaque } => {
            opaque.as_ref().is_none_or(|opaque| opaque.family == FAMILY).then_some(text.as_str())
        }
        Part::Text { .. }
        | Part::Image(_)
        | Part::Document(_)
        | Part::Audio(_)
        | Part::ToolCall(_)
        | Part::Opaque(_)
        | Part::CachePoint(_) => None,
    }
}

/// The id of a call as the server takes it.
fn wire_id<'a>(id: &'a str, dialect: &Dialect) -> Cow<'a, str> {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let is_legal = id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    match dialect.quirks.tool_call_ids {
        Some(ToolCallIds::NineAlphanumerics) if !is_legal => {
            let mut left = crate::llm::outgoing::fingerprint(id);
            let digit = |_| {
                let digit = DIGITS.get(usize::try_from(left % 62).unwrap_or_default()).copied().unwrap_or(b'0');
                left /= 62;
                char::from(digit)
            };
            Cow::Owned((0..9).map(digit).collect())
        }
        Some(ToolCallIds::Any | ToolCallIds::NineAlphanumerics) | None => Cow::Borrowed(id),
    }
}
