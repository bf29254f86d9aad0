//! What the server is sent.

use crate::llm::cache::CacheControl;
use crate::llm::lenient::Fields;
use crate::llm::outgoing::ObjectArguments;
use crate::types::ToolSpec;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The body of a request.
#[derive(Serialize)]
pub struct Body<'a> {
    pub model: &'a str,
    pub max_tokens: u32,
    pub stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking: Option<ThinkingConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub stop_sequences: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_config: Option<OutputConfig<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<Choice<'a>>,
    #[serde(skip_serializing_if = "Tools::is_empty")]
    pub tools: Tools<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<System<'a>>,
    pub messages: Vec<Message<'a>>,
}

/// Whether and how the model thinks.
#[derive(Serialize)]
pub struct ThinkingConfig {
    pub r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_tokens: Option<u32>,
}

/// What the answer is held to.
#[derive(Serialize)]
pub struct OutputConfig<'a> {
    pub format: Format<'a>,
}

/// A schema.
#[derive(Serialize)]
pub struct Format<'a> {
    pub r#type: &'static str,
    pub schema: &'a RawValue,
}

/// Whether a tool must be called.
#[derive(Serialize)]
pub struct Choice<'a> {
    pub r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a str>,
}

/// The tools, the last of them marked.
pub struct Tools<'a> {
    pub tools: &'a [ToolSpec],
    pub cache: Option<CacheControl>,
}

impl Tools<'_> {
    pub fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }
}

impl Serialize for Tools<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Tool<'a> {
            name: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            description: &'a str,
            input_schema: &'a RawValue,
            #[serde(skip_serializing_if = "Option::is_none")]
            cache_control: Option<CacheControl>,
        }
        let last = self.tools.len().saturating_sub(1);
        serializer.collect_seq(self.tools.iter().enumerate().map(|(index, tool)| Tool {
            name: &tool.name,
            description: &tool.description,
            input_schema: &tool.input_schema,
            cache_control: self.cache.filter(|_| index == last),
        }))
    }
}

/// The system prompt.
pub struct System<'a> {
    pub text: &'a str,
    pub cache: Option<CacheControl>,
}

impl Serialize for System<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.cache {
            None => serializer.serialize_str(self.text),
            cache_control => {
                let text = Known::Text { text: self.text, extra: Fields::default(), cache_control };
                serializer.collect_seq([text])
            }
        }
    }
}

/// One message.
#[derive(Serialize)]
pub struct Message<'a> {
    pub role: &'static str,
    pub content: Vec<Block<'a>>,
}

/// One content block.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Block<'a> {
    Known(Known<'a>),
    Raw(&'a RawValue),
}

impl<'a> Block<'a> {
    pub fn text(text: &'a str) -> Self {
        Self::Known(Known::Text { text, extra: Fields::default(), cache_control: None })
    }

    /// Where a cache breakpoint can be set.
    pub fn cache_control(&mut self) -> Option<&mut Option<CacheControl>> {
        match self {
            Self::Known(
                Known::Text { cache_control, .. }
                | Known::Image { cache_control, .. }
                | Known::Document { cache_control, .. }
                | Known::ToolUse { cache_control, .. }
                | Known::ToolResult { cache_control, .. },
            ) => Some(cache_control),
            Self::Known(Known::Thinking { .. }) | Self::Raw(_) => None,
        }
    }
}

/// A block that is known here.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Known<'a> {
    Text {
        text: &'a str,
        #[serde(flatten)]
        extra: Fields<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<CacheControl>,
    },
    Thinking {
        thinking: &'a str,
        #[serde(flatten)]
        extra: Fields<'a>,
    },
    Image {
        source: Source<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<CacheControl>,
    },
    Document {
        source: Source<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<CacheControl>,
    },
    ToolUse {
        id: Cow<'a, str>,
        name: &'a str,
        input: ObjectArguments<'a>,
        #[serde(flatten)]
        extra: Fields<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<CacheControl>,
    },
    ToolResult {
        tool_use_id: Cow<'a, str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        content: Option<Content<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        is_error: Option<bool>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<CacheControl>,
    },
}

/// Where a medium is.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Source<'a> {
    Base64 { media_type: &'a str, data: &'a str },
    Url { url: &'a str },
}

/// What a tool answered.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Content<'a> {
    Text(&'a str),
    Blocks(Vec<Block<'a>>),
}
