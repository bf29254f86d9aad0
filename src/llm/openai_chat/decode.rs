//! Bytes of an answer → deltas and an [`Assembler`]. Pure: no I/O, no clock.
//!
//! Source: OpenAI API reference, "Chat Completions", streaming; and what compatible servers make of it. A chunk is read
//! into borrowed fields, so that an ordinary text delta allocates nothing. A whole (not streamed) answer has the same
//! shape with `message` where a chunk has `delta`, and is read by the same code.

use crate::llm::assemble::CallPiece;
use crate::llm::frame::object;
use crate::llm::lenient::{Count, Few, Text, or_default};
use crate::llm::{Assembler, DeltaSink, Frame};
use crate::types::{Error, FinishReason, ProviderDetail, Status, Usage};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// Decodes the `data` of one server-sent event, or a whole JSON answer.
pub fn decode(payload: &str, provider: &str, assembler: &mut Assembler<'_>, sink: &mut dyn DeltaSink) -> Frame {
    if payload.starts_with("[DONE]") {
        return Frame::Done;
    }
    let Some(chunk) = object::<Chunk<'_>>(payload) else {
        return Frame::not_an_object(payload, provider);
    };
    if chunk.error.is_some_and(|error| error.get() != "null") {
        return Frame::failed(payload, provider);
    }
    if chunk.choices.0.is_none() && chunk.usage.is_none() && chunk.model.is_empty() {
        return Frame::Foreign;
    }
    assembler.model(&chunk.model.0);
    let failed = chunk.choices.0.and_then(|choice| take(choice, provider, assembler, sink));
    if let Some(usage) = chunk.usage {
        assembler.usage(usage.into());
    }
    failed.map_or(Frame::Taken, Frame::Failed)
}

/// Takes a choice in, unless its reason to stop is a failure.
fn take(choice: Choice<'_>, provider: &str, assembler: &mut Assembler<'_>, sink: &mut dyn DeltaSink) -> Option<Error> {
    let refused = !choice.delta.refusal.0.is_empty();
    {
        let delta = &choice.delta;
        for reasoning in [&delta.reasoning_content.0, &delta.reasoning.0] {
            assembler.reasoning(reasoning, sink);
        }
        match &delta.content {
            Content::Text(text) => assembler.text(text, sink),
            Content::Parts(parts) => {
                for (is_reasoning, text) in parts {
                    if *is_reasoning { assembler.reasoning(text, sink) } else { assembler.text(text, sink) }
                }
            }
        }
        assembler.text(&delta.refusal.0, sink);
        if let Some(details) = delta.reasoning_details {
            assembler.reasoning_details(details);
        }
    }
    for call in choice.delta.tool_calls.iter() {
        let arguments = call.function.arguments.map(arguments_text).unwrap_or_default();
        // Gemini behind this API: the signature of a thought.
        let extra = call.extra_content.filter(|extra| extra.get() != "null");
        let extra = extra.map(|extra| format!("{{\"extra_content\":{extra}}}"));
        let piece = CallPiece {
            index: call.index.0.and_then(|index| u32::try_from(index).ok()),
            id: Some(&call.id.0).filter(|id| !id.is_empty()).map(|id| &**id),
            name: Some(&call.function.name.0).filter(|name| !name.is_empty()).map(|name| &**name),
            arguments: Some(&*arguments),
            extra: extra.as_deref(),
        };
        assembler.call(piece, sink);
    }
    let reason = match &*choice.finish_reason.0 {
        "" => None,
        "length" | "max_tokens" | "model_length" => Some(FinishReason::MaxTokens),
        "tool_calls" | "function_call" => Some(FinishReason::ToolCalls),
        "content_filter" => Some(FinishReason::ContentFilter),
        // OpenRouter and Mistral; DeepSeek.
        reason @ ("error" | "insufficient_system_resource") => return Some(stopped(provider, reason)),
        // "stop", "eos" and whatever else a server calls the end.
        _ => Some(FinishReason::Stop),
    };
    if let Some(reason) = reason {
        assembler.finish(reason);
    }
    if refused {
        assembler.finish(FinishReason::Refusal);
    }
    None
}

/// The failure of a server that broke off and says no more than that.
fn stopped(provider: &str, reason: &str) -> Error {
    let message = format!("the provider {provider:?} failed inside the stream: it stopped because of {reason:?}");
    Error::new(Status::Provider, message).with_code("provider_error").with_retryable(true).with_provider(
        ProviderDetail { provider: provider.to_owned(), code: Some(reason.to_owned()), ..ProviderDetail::default() },
    )
}

/// Arguments are a string of JSON; some servers send the object itself.
fn arguments_text(raw: &RawValue) -> Cow<'_, str> {
    match raw.get() {
        "null" => Cow::Borrowed(""),
        text if text.starts_with('"') => serde_json::from_str::<Text<'_>>(text).map(|text| text.0).unwrap_or_default(),
        object => Cow::Borrowed(object),
    }
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    model: Text<'a>,
    #[serde(borrow, default)]
    choices: First<Choice<'a>>,
    #[serde(default)]
    usage: Option<WireUsage>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default, alias = "message", deserialize_with = "or_default")]
    delta: Delta<'a>,
    #[serde(borrow, default)]
    finish_reason: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Content<'a>,
    #[serde(borrow)]
    reasoning_content: Text<'a>,
    #[serde(borrow)]
    reasoning: Text<'a>,
    #[serde(borrow)]
    reasoning_details: Option<&'a RawValue>,
    #[serde(borrow)]
    refusal: Text<'a>,
    #[serde(borrow)]
    tool_calls: Few<CallDelta<'a>>,
}

#[derive(Deserialize)]
struct CallDelta<'a> {
    #[serde(default)]
    index: Count,
    #[serde(borrow, default)]
    id: Text<'a>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    function: FunctionDelta<'a>,
    #[serde(borrow, default)]
    extra_content: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct FunctionDelta<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireUsage {
    prompt_tokens: Count,
    completion_tokens: Count,
    #[serde(deserialize_with = "or_default")]
    prompt_tokens_details: PromptDetails,
    #[serde(deserialize_with = "or_default")]
    completion_tokens_details: CompletionDetails,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PromptDetails {
    cached_tokens: Count,
    cache_write_tokens: Count,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CompletionDetails {
    reasoning_tokens: Count,
}

impl From<WireUsage> for Usage {
    /// `prompt_tokens` includes what the cache covered; `completion_tokens` includes reasoning.
    fn from(wire: WireUsage) -> Self {
        let prompt = wire.prompt_tokens_details;
        let (read, write) = (prompt.cached_tokens.get(), prompt.cache_write_tokens.get());
        Self {
            input_tokens: wire.prompt_tokens.get().saturating_sub(read).saturating_sub(write),
            output_tokens: wire.completion_tokens.get(),
            cache_read_tokens: read,
            cache_write_tokens: write,
            reasoning_tokens: wire.completion_tokens_details.reasoning_tokens.get(),
        }
    }
}

/// `content` is a string, `null`, or an array of parts (Mistral: text and thinking).
enum Content<'a> {
    Text(Cow<'a, str>),
    /// Whether it is reasoning, and the text.
    Parts(Vec<(bool, Cow<'a, str>)>),
}

impl Default for Content<'_> {
    fn default() -> Self {
        Self::Text(Cow::Borrowed(""))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ContentVisitor;
        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or parts")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Content::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Content::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Content::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = seq.next_element::<ContentPart<'de>>()? {
                    if !part.text.0.is_empty() {
                        parts.push((false, part.text.0));
                    }
                    for thought in part.thinking.iter() {
                        parts.push((true, thought.text.0.clone()));
                    }
                }
                Ok(Content::Parts(parts))
            }
        }
        deserializer.deserialize_any(ContentVisitor)
    }
}

#[derive(Deserialize)]
struct ContentPart<'a> {
    #[serde(borrow, default)]
    text: Text<'a>,
    #[serde(borrow, default)]
    thinking: Few<Thought<'a>>,
}

#[derive(Deserialize)]
struct Thought<'a> {
    #[serde(borrow, default)]
    text: Text<'a>,
}

/// The first element of an array, without a vector for the rest: one choice is all that is ever asked for.
struct First<T>(Option<T>);

impl<T> Default for First<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for First<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FirstVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for FirstVisitor<T> {
            type Value = First<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(First(None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let first = seq.next_element()?;
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(First(first))
            }
        }
        deserializer.deserialize_any(FirstVisitor(PhantomData))
    }
}
