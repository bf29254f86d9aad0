//! What a model says, apart from how it is said: a [`Script`] that each wire [`Family`] turns into its own events, and the
//! styles in which servers send them.

pub mod anthropic;
pub mod gemini;
pub mod ollama;
pub mod openai_chat;
pub mod openai_responses;

use super::Reply;
use par::llm::{DeltaSink, Frame, ModelAnswer};
use par::types::{Transcript, Usage};
use serde_json::{Value, json};

/// One thing a model says, whatever its API calls that.
#[derive(Clone, Debug)]
pub enum Say {
    Text(String),
    Thought(String),
    /// Id, name, and arguments as text.
    Call(String, String, String),
    Refusal(String),
}

/// Why it stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Stop,
    Calls,
    Length,
    Filtered,
    Refused,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Script {
    pub said: Vec<Say>,
    pub end: End,
    /// None where the server never tells.
    pub usage: Option<Usage>,
    /// How many characters a delta has.
    pub piece: usize,
}

impl Script {
    pub fn new(said: impl IntoIterator<Item = Say>, end: End) -> Self {
        let usage = Usage { input_tokens: 12, output_tokens: 7, ..Usage::default() };
        Self { said: said.into_iter().collect(), end, usage: Some(usage), piece: 4 }
    }

    pub fn text(text: &str) -> Self {
        Self::new([say(text)], End::Stop)
    }

    /// In deltas of so many characters.
    pub fn in_pieces(self, piece: usize) -> Self {
        Self { piece, ..self }
    }

    pub fn pieces<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let mut starts: Vec<usize> = text.char_indices().map(|(at, _)| at).step_by(self.piece.max(1)).collect();
        starts.push(text.len());
        starts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
    }
}

pub fn say(text: &str) -> Say {
    Say::Text(text.into())
}

pub fn think(text: &str) -> Say {
    Say::Thought(text.into())
}

pub fn call(id: &str, name: &str, arguments: &str) -> Say {
    Say::Call(id.into(), name.into(), arguments.into())
}

/// A failure that a server reports inside a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    RateLimit,
    Overloaded,
    ContextLength,
    Quota,
    Unknown,
}

/// An event: its name, and its payload.
pub type Event = (String, String);

pub fn event(name: &str, payload: &Value) -> Event {
    (name.to_owned(), payload.to_string())
}

/// Reads an answer: the decoder of a family.
pub trait Decode {
    fn event(&mut self, name: &str, data: &str, sink: &mut dyn DeltaSink) -> Frame;
    fn is_finished(&self) -> bool;
    fn finish(self: Box<Self>, sink: &mut dyn DeltaSink) -> ModelAnswer;
}

macro_rules! decode {
    ($decoder:ty) => {
        impl crate::support::wire::Decode for $decoder {
            fn event(&mut self, name: &str, data: &str, sink: &mut dyn par::llm::DeltaSink) -> par::llm::Frame {
                Self::event(self, name, data, sink)
            }

            fn is_finished(&self) -> bool {
                Self::is_finished(self)
            }

            fn finish(self: Box<Self>, sink: &mut dyn par::llm::DeltaSink) -> par::llm::ModelAnswer {
                Self::finish(*self, sink)
            }
        }
    };
}
pub(crate) use decode;

/// How one wire family says things.
pub trait Family: Sync {
    fn name(&self) -> &'static str;

    /// The provider's configuration, for a server at this address (`http://host:port`).
    fn provider(&self, address: &str) -> Value;

    fn decoder<'a>(&self, transcript: &'a Transcript) -> Box<dyn Decode + 'a>;

    /// Whether events are lines of JSON.
    fn is_lines(&self) -> bool {
        false
    }

    /// Whether the order of text and calls survives.
    fn keeps_order(&self) -> bool {
        true
    }

    /// Whether calls have ids on the wire.
    fn has_ids(&self) -> bool {
        true
    }

    /// Whether an answer without a word is a failure.
    fn fails_when_empty(&self) -> bool {
        false
    }

    /// What the API can tell of these figures.
    fn told(&self, usage: Usage) -> Usage {
        usage
    }

    /// The events of an answer; none where the API has no such thing.
    fn events(&self, script: &Script) -> Option<Vec<Event>>;

    /// A failure inside a stream; none where the API has no such thing.
    fn trouble(&self, trouble: Trouble) -> Option<Event>;

    /// Events that say nothing.
    fn noise(&self) -> Vec<Event>;

    /// The status and the body with which a wrong key is refused.
    fn wrong_key(&self) -> (u16, Value);

    /// A whole answer, not streamed.
    fn whole(&self, text: &str) -> Value;

    /// What only this family's servers do: a name, the events, and what they amount to.
    fn odd(&self) -> Vec<Odd>;
}

/// A fixture of one family.
pub struct Odd {
    pub name: &'static str,
    pub events: Vec<Event>,
    pub outcome: Amounts,
}

/// What an odd stream amounts to.
pub enum Amounts {
    /// The answer of this script, with these warnings.
    To(Script, &'static [&'static str]),
    /// A failure with this code, which may be retried or not.
    Failure(&'static str, bool),
    Truncated,
}

pub fn odd(name: &'static str, events: Vec<Event>, script: Script) -> Odd {
    Odd { name, events, outcome: Amounts::To(script, &[]) }
}

/// Payloads without names.
pub fn unnamed(payloads: impl IntoIterator<Item = Value>) -> Vec<Event> {
    payloads.into_iter().map(|payload| event("", &payload)).collect()
}

/// How the events go over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Plain,
    CrLf,
    Cr,
    Bom,
    NoSpace,
    /// Comments between events and inside them.
    Comments,
    /// `id:`, `retry:` and unknown fields.
    Fields,
    NoNames,
    NoLastBlankLine,
    NoLastLineEnd,
    /// The JSON of a payload over several `data:` lines.
    ManyDataLines,
    BlankLines,
    /// Fields that nobody knows in each payload.
    UnknownFields,
    /// White space between the tokens of JSON.
    Spaced,
    /// Everything beyond ASCII as `\u` escapes.
    Escaped,
    /// Events that say nothing, between the others.
    Noise,
    /// Bytes after the end.
    AfterTheEnd,
}

pub const STYLES: &[Style] = &[
    Style::CrLf,
    Style::Cr,
    Style::Bom,
    Style::NoSpace,
    Style::Comments,
    Style::Fields,
    Style::NoNames,
    Style::NoLastBlankLine,
    Style::NoLastLineEnd,
    Style::ManyDataLines,
    Style::BlankLines,
    Style::UnknownFields,
    Style::Spaced,
    Style::Escaped,
    Style::Noise,
    Style::AfterTheEnd,
];

/// The bytes of events in a style; none where lines know no such style.
pub fn bytes_of(family: &dyn Family, events: &[Event], style: Style) -> Option<Vec<u8>> {
    let of_events = matches!(
        style,
        Style::NoSpace
            | Style::Comments
            | Style::Fields
            | Style::NoNames
            | Style::NoLastBlankLine
            | Style::ManyDataLines
    );
    if family.is_lines() && of_events {
        return None;
    }
    let mut events = events.to_vec();
    match style {
        Style::Noise => {
            let noise = family.noise();
            events = events.into_iter().flat_map(|event| noise.clone().into_iter().chain([event])).collect();
        }
        Style::AfterTheEnd => {
            if !family.is_lines() {
                events.push((String::new(), "[DONE]".into()));
            }
            events.push((String::new(), json!({"error": {"message": "too late", "type": "server_error"}}).to_string()));
            events.push((String::new(), "nonsense".into()));
        }
        _ => {}
    }
    let space = if style == Style::NoSpace { "" } else { " " };
    let mut body = String::new();
    for (name, payload) in &events {
        let payload = styled(payload, style);
        match style {
            Style::Comments => body.push_str(": PROCESSING\n\n:\n"),
            Style::Fields => body.push_str("id: 7\nretry: 3000\nx-new: 1\nnothing\n"),
            Style::BlankLines => body.push_str("\n\n"),
            _ => {}
        }
        if family.is_lines() {
            body.push_str(&payload);
            body.push('\n');
            continue;
        }
        if !name.is_empty() && style != Style::NoNames {
            body.push_str(&format!("event:{space}{name}\n"));
        }
        if style == Style::Comments {
            body.push_str(": keep-alive\n");
        }
        for line in payload.split('\n') {
            body.push_str(&format!("data:{space}{line}\n"));
        }
        body.push('\n');
    }
    match style {
        Style::CrLf => body = body.replace('\n', "\r\n"),
        Style::Cr => body = body.replace('\n', "\r"),
        Style::Bom => body.insert(0, '\u{feff}'),
        Style::NoLastBlankLine => body.truncate(body.len() - 1),
        Style::NoLastLineEnd => body.truncate(body.trim_end().len()),
        _ => {}
    }
    Some(body.into_bytes())
}

fn styled(payload: &str, style: Style) -> String {
    let Ok(mut value) = serde_json::from_str::<Value>(payload) else { return payload.to_owned() };
    match style {
        Style::UnknownFields => {
            value["obfuscation"] = json!("x9");
            value["x_new"] = json!({"deep": [1, [2.5, {"a": null}], "é"]});
            value.to_string()
        }
        Style::ManyDataLines => serde_json::to_string_pretty(&value).unwrap(),
        Style::Spaced => serde_json::to_string_pretty(&value).unwrap().replace('\n', " \t"),
        Style::Escaped => {
            let mut escaped = String::new();
            for c in payload.chars() {
                match c.is_ascii() {
                    true => escaped.push(c),
                    false => c.encode_utf16(&mut [0; 2]).iter().for_each(|u| escaped.push_str(&format!("\\u{u:04x}"))),
                }
            }
            escaped
        }
        _ => payload.to_owned(),
    }
}

/// A 200 with a stream of these bytes.
pub fn reply(family: &dyn Family, bytes: &[u8]) -> Reply {
    let kind = if family.is_lines() { "application/x-ndjson" } else { "text/event-stream" };
    Reply::status(200).content_type(kind).chunk(bytes.to_vec()).chunked()
}

/// A reply to a request of this family.
pub fn reply_to(family: &dyn Family, script: &Script) -> Reply {
    let events = family.events(script).expect("a script of this family");
    reply(family, &bytes_of(family, &events, Style::Plain).expect("every family is plain"))
}
