//! What the server is sent.

use super::encode::Effort;
use crate::llm::lenient::Fields;
use crate::llm::openai_chat::{CacheMark, CacheOptions};
use crate::types::{Media, MediaSource, ToolSpec};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// The body of a request.
#[derive(Serialize)]
pub struct Body<'a> {
    pub model: &'a str,
    pub store: bool,
    pub stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include: Option<[&'static str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<Reasoning>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_cache_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_cache_options: Option<CacheOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<TextConfig<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<Choice<'a>>,
    #[serde(skip_serializing_if = "Tools::is_empty")]
    pub tools: Tools<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<&'a str>,
    pub input: Vec<Item<'a>>,
}

/// How it is streamed.
#[derive(Serialize)]
pub struct StreamOptions {
    pub include_obfuscation: bool,
}

/// Whether and how the model reasons.
#[derive(Serialize)]
pub struct Reasoning {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effort: Option<Effort>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<&'static str>,
}

/// What the answer is held to.
#[derive(Serialize)]
pub struct TextConfig<'a> {
    pub format: Format<'a>,
}

/// A schema.
#[derive(Serialize)]
pub struct Format<'a> {
    pub r#type: &'static str,
    pub name: &'a str,
    pub schema: &'a RawValue,
    pub strict: bool,
}

/// Whether a tool must be called.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Choice<'a> {
    Word(&'static str),
    Tool { r#type: &'static str, name: &'a str },
}

/// The tools.
pub struct Tools<'a>(pub &'a [ToolSpec]);

impl Tools<'_> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Tools<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Tool<'a> {
            r#type: &'static str,
            name: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            description: &'a str,
            parameters: &'a RawValue,
            /// Said because this API, unlike the other one, would rewrite the schema to be strict.
            strict: bool,
        }
        serializer.collect_seq(self.0.iter().map(|tool| Tool {
            r#type: "function",
            name: &tool.name,
            description: &tool.description,
            parameters: &tool.input_schema,
            strict: false,
        }))
    }
}

/// One item of the conversation.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Item<'a> {
    Message {
        role: &'static str,
        content: Content<'a>,
        #[serde(flatten)]
        extra: Fields<'a>,
    },
    Call {
        r#type: &'static str,
        call_id: Cow<'a, str>,
        name: &'a str,
        arguments: &'a str,
        #[serde(flatten)]
        extra: Fields<'a>,
    },
    Answer {
        r#type: &'static str,
        call_id: Cow<'a, str>,
        output: Content<'a>,
    },
    Raw(&'a RawValue),
}

impl Item<'_> {
    pub fn said(text: &'static str) -> Self {
        let content = Content::Pieces(vec![Piece::OutputText { text }]);
        Self::Message { role: "assistant", content, extra: Fields::default() }
    }
}

/// What an item says.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Content<'a> {
    Text(&'a str),
    Pieces(Vec<Piece<'a>>),
}

/// One piece of it.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Piece<'a> {
    InputText {
        text: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        prompt_cache_breakpoint: Option<CacheMark>,
    },
    OutputText {
        text: &'a str,
    },
    InputImage {
        image_url: Address<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        prompt_cache_breakpoint: Option<CacheMark>,
    },
    InputFile {
        #[serde(skip_serializing_if = "Option::is_none")]
        filename: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        file_data: Option<Address<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        file_url: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        prompt_cache_breakpoint: Option<CacheMark>,
    },
}

impl Piece<'_> {
    /// Where a cache point can be set.
    pub fn cache_mark(&mut self) -> Option<&mut Option<CacheMark>> {
        match self {
            Self::InputText { prompt_cache_breakpoint: mark, .. }
            | Self::InputImage { prompt_cache_breakpoint: mark, .. }
            | Self::InputFile { prompt_cache_breakpoint: mark, .. } => Some(mark),
            Self::OutputText { .. } => None,
        }
    }
}

/// A URL; what is inline becomes a `data:` URL as it is written.
pub struct Address<'a>(pub &'a Media);

impl fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.source {
            MediaSource::Url { url, .. } => f.write_str(url),
            MediaSource::Data { media_type, data } => write!(f, "data:{media_type};base64,{data}"),
        }
    }
}

impl Serialize for Address<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
