//! A [`ModelRequest`] → the body of a request. Pure: no I/O, no clock, no ids, so equal requests are equal bytes. What
//! stays the same from turn to turn stands in front.
//!
//! Source: Anthropic API reference, "Create a Message", "Prompt caching", "Extended thinking", "Structured outputs".
//! The rules of the API that are kept here: roles alternate and the first message is the user's; the results of a
//! turn's calls stand first in the one message after it; no text is blank; reasoning goes back only with its signature;
//! at most four cache breakpoints.

use super::FAMILY;
use super::outgoing::{
    Block, Body, Choice, Content, Format, Known, Message, OutputConfig, Source, System, ThinkingConfig, Tools,
};
use crate::config::CacheStrategy;
use crate::llm::cache::{CacheControl, CacheMarks};
use crate::llm::outgoing::{ObjectArguments, own, own_fields, to_body, unsupported};
use crate::llm::{ModelRequest, ToolChoice};
use crate::types::{Error, Media, MediaSource, Part, Result, ToolCall, ToolResult, View};
use std::borrow::Cow;
use std::fmt::Write;

/// What differs between servers and settings.
#[derive(Clone, Copy, Debug)]
pub struct Dialect {
    /// Whether to ask for a stream.
    pub stream: bool,
    /// The most tokens of an answer where neither the agent nor the run says: the API demands a figure.
    pub max_tokens: u32,
    /// Whether and how the model thinks.
    pub thinking: Option<Thinking>,
    /// The most cache points of a request.
    pub cache_points: u32,
}

/// How the model thinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thinking {
    /// With so many tokens at most: 1024 or more, less than the answer's limit.
    Budget(u32),
    /// As much as it finds needful; newer models only.
    Adaptive,
}

/// The body of a request, as JSON.
pub fn encode(request: &ModelRequest<'_>, dialect: &Dialect) -> Result<Vec<u8>> {
    let model = request.model;
    let (max_tokens, thinking) = limits(request, dialect)?;
    let rules = super::cache_rules(dialect.cache_points);
    let mut marks = CacheMarks::plan(request.cache, Some(rules), request.transcript);
    let (tools, system) = marks.as_ref().map_or((None, None), |marks| (marks.tools, marks.system));
    let (mut tools, mut system) = (tools.map(CacheControl::from), system.map(CacheControl::from));
    let mut messages = messages(request, &mut marks)?;
    if let CacheStrategy::Automatic { ttl } = request.cache {
        if !rules.ttls.contains(&ttl) {
            let message = format!("Anthropic cannot be told to keep its cache for {}", ttl.as_str());
            return Err(unsupported(message, "the ttl of the cache_strategy is 5m or 1h"));
        }
        (tools, system) = (Some(ttl.into()), Some(ttl.into()));
        mark_cached(&mut messages, Some(ttl.into()));
    }
    let output =
        request.output.map(|output| OutputConfig { format: Format { r#type: "json_schema", schema: &output.schema } });
    let body = Body {
        model: &model.model_name,
        max_tokens,
        stream: dialect.stream,
        thinking,
        temperature: model.temperature,
        top_p: model.top_p,
        stop_sequences: &model.stop_sequences,
        output_config: output,
        tool_choice: (!request.tools.is_empty()).then(|| tool_choice(request.tool_choice)).flatten(),
        tools: Tools { tools: request.tools, cache: tools },
        system: request.system.filter(|text| !text.trim().is_empty()).map(|text| System { text, cache: system }),
        messages,
    };
    to_body(&body)
}

/// The output limit, and the thinking that fits into it.
fn limits(request: &ModelRequest<'_>, dialect: &Dialect) -> Result<(u32, Option<ThinkingConfig>)> {
    let Some(thinking) = dialect.thinking else {
        return Ok((request.output_limit().unwrap_or(dialect.max_tokens), None));
    };
    if matches!(request.tool_choice, ToolChoice::Required | ToolChoice::Tool(_)) {
        return Err(unsupported(
            "Anthropic does not let a tool be forced while the model thinks",
            "leave the tool choice to the model, or switch thinking off",
        ));
    }
    if request.model.temperature.is_some_and(|temperature| temperature != 1.0) {
        return Err(unsupported(
            "Anthropic takes no temperature but 1 while the model thinks",
            "remove temperature, or switch thinking off",
        ));
    }
    match thinking {
        Thinking::Adaptive => {
            let max_tokens = request.output_limit().unwrap_or(dialect.max_tokens);
            Ok((max_tokens, Some(ThinkingConfig { r#type: "adaptive", budget_tokens: None })))
        }
        Thinking::Budget(budget) => {
            let max_tokens = request.output_limit().unwrap_or_else(|| dialect.max_tokens.saturating_add(budget));
            if budget < 1024 || budget >= max_tokens {
                return Err(unsupported(
                    format!("a thinking budget of {budget} tokens does not fit an answer of {max_tokens}"),
                    "the budget is 1024 or more and less than max_tokens",
                ));
            }
            Ok((max_tokens, Some(ThinkingConfig { r#type: "enabled", budget_tokens: Some(budget) })))
        }
    }
}

fn tool_choice(choice: ToolChoice<'_>) -> Option<Choice<'_>> {
    match choice {
        ToolChoice::Auto => None,
        ToolChoice::None => Some(Choice { r#type: "none", name: None }),
        ToolChoice::Required => Some(Choice { r#type: "any", name: None }),
        ToolChoice::Tool(name) => Some(Choice { r#type: "tool", name: Some(name) }),
    }
}

fn messages<'a>(request: &ModelRequest<'a>, marks: &mut Option<CacheMarks>) -> Result<Vec<Message<'a>>> {
    let mut messages: Vec<Message<'a>> = Vec::new();
    for view in request.transcript.view() {
        let (role, content) = match view {
            View::User(parts) => ("user", user(parts, marks)?),
            View::Assistant(parts) => ("assistant", assistant(parts)?),
            View::Tool(call, result) => ("user", vec![tool_result(call, result)?]),
        };
        if content.is_empty() {
            continue;
        }
        if messages.is_empty() && role == "assistant" {
            // What came before is not in sight any more, and the API wants the user to begin.
            messages.push(Message { role: "user", content: vec![Block::text("(continued)")] });
        }
        match messages.last_mut().filter(|last| last.role == role) {
            Some(last) => last.content.extend(content),
            None => messages.push(Message { role, content }),
        }
    }
    // An answer that is to be continued must not end in white space.
    if let Some(Message { role: "assistant", content }) = messages.last_mut()
        && let Some(Block::Known(Known::Text { text, .. })) = content.last_mut()
    {
        *text = text.trim_end();
    }
    Ok(messages)
}

fn user<'a>(parts: &'a [Part], marks: &mut Option<CacheMarks>) -> Result<Vec<Block<'a>>> {
    let mut blocks = Vec::with_capacity(parts.len());
    for part in parts {
        match part {
            Part::Text { text, .. } if text.trim().is_empty() => {}
            Part::Text { text, .. } => blocks.push(Block::text(text)),
            Part::Image(media) => blocks.push(image(media)?),
            Part::Document(media) => blocks.push(document(media)?),
            Part::Audio(_) => return Err(no_audio()),
            Part::Opaque(opaque) => blocks.extend(own(Some(opaque), FAMILY)?.map(Block::Raw)),
            Part::CachePoint(point) => {
                let ttl = marks.as_mut().and_then(|marks| marks.next(point));
                let last = blocks.iter_mut().rev().find_map(Block::cache_control);
                if let (Some(ttl), Some(mark)) = (ttl, last) {
                    *mark = Some(ttl.into());
                }
            }
            // A user neither reasons nor calls.
            Part::Reasoning { .. } | Part::ToolCall(_) => {}
        }
    }
    Ok(blocks)
}

fn assistant(parts: &[Part]) -> Result<Vec<Block<'_>>> {
    let mut blocks = Vec::with_capacity(parts.len());
    for part in parts {
        match part {
            Part::Text { text, .. } if text.trim().is_empty() => {}
            Part::Text { text, opaque } => {
                let extra = own_fields(opaque.as_deref(), FAMILY)?.unwrap_or_default();
                blocks.push(Block::Known(Known::Text { text, extra, cache_control: None }));
            }
            Part::Reasoning { text, opaque } => {
                // Reasoning without a signature is not accepted, least of all another model's.
                if let Some(extra) = own_fields(opaque.as_deref(), FAMILY)? {
                    blocks.push(Block::Known(Known::Thinking { thinking: text, extra }));
                }
            }
            Part::ToolCall(ToolCall { id, name, arguments, opaque }) => {
                blocks.push(Block::Known(Known::ToolUse {
                    id: legal_id(id.as_str()),
                    name,
                    input: ObjectArguments(arguments),
                    extra: own_fields(opaque.as_deref(), FAMILY)?.unwrap_or_default(),
                    cache_control: None,
                }));
            }
            Part::Opaque(opaque) => blocks.extend(own(Some(opaque), FAMILY)?.map(Block::Raw)),
            // The API takes none of these from the model; what another model made is told in words.
            Part::Image(_) => blocks.push(Block::text("(an image that cannot be shown here)")),
            Part::Document(_) => blocks.push(Block::text("(a document that cannot be shown here)")),
            Part::Audio(_) => blocks.push(Block::text("(a recording that cannot be played here)")),
            Part::CachePoint(_) => {}
        }
    }
    Ok(blocks)
}

fn tool_result<'a>(call: &'a ToolCall, result: &'a ToolResult) -> Result<Block<'a>> {
    let mut content = Vec::with_capacity(1 + result.parts.len());
    // An error must say something.
    let text = if result.is_error && result.content.trim().is_empty() { "error" } else { &result.content };
    if !text.trim().is_empty() {
        content.push(Block::text(text));
    }
    for part in &result.parts {
        match part {
            Part::Text { text, .. } if text.trim().is_empty() => {}
            Part::Text { text, .. } => content.push(Block::text(text)),
            Part::Image(media) => content.push(image(media)?),
            Part::Document(media) => content.push(document(media)?),
            Part::Audio(_) => return Err(no_audio()),
            Part::Opaque(opaque) => content.extend(own(Some(opaque), FAMILY)?.map(Block::Raw)),
            Part::Reasoning { .. } | Part::ToolCall(_) | Part::CachePoint(_) => {}
        }
    }
    let content = match content.as_slice() {
        [] => None,
        [Block::Known(Known::Text { .. })] => Some(Content::Text(text)),
        _ => Some(Content::Blocks(content)),
    };
    let is_error = result.is_error.then_some(true);
    Ok(Block::Known(Known::ToolResult {
        tool_use_id: legal_id(call.id.as_str()),
        content,
        is_error,
        cache_control: None,
    }))
}

fn image(media: &Media) -> Result<Block<'_>> {
    let source = match &media.source {
        MediaSource::Url { url, .. } => Source::Url { url },
        MediaSource::Data { media_type, data } => match media_type.as_str() {
            "image/jpeg" | "image/png" | "image/gif" | "image/webp" => Source::Base64 { media_type, data },
            other => {
                return Err(unsupported(
                    format!("Anthropic takes no image of type {other:?}"),
                    "give it as image/jpeg, image/png, image/gif or image/webp",
                ));
            }
        },
    };
    Ok(Block::Known(Known::Image { source, cache_control: None }))
}

fn document(media: &Media) -> Result<Block<'_>> {
    let source = match &media.source {
        MediaSource::Url { url, .. } => Source::Url { url },
        MediaSource::Data { media_type, data } => match media_type.as_str() {
            "application/pdf" => Source::Base64 { media_type, data },
            other => {
                return Err(unsupported(
                    format!("Anthropic takes no document of type {other:?}"),
                    "give it as application/pdf, or its content as text",
                ));
            }
        },
    };
    Ok(Block::Known(Known::Document { source, title: media.name.as_deref(), cache_control: None }))
}

fn no_audio() -> Error {
    unsupported("Anthropic takes no audio", "give a transcript as text, or use a model that hears")
}

/// Ids of other servers may have characters that this one refuses. What is legal stays as it is.
fn legal_id(id: &str) -> Cow<'_, str> {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if id.chars().all(is_legal) {
        return Cow::Borrowed(id);
    }
    let mut legal = String::with_capacity(id.len() + 8);
    for c in id.chars() {
        if is_legal(c) {
            legal.push(c);
        } else {
            // Writing to a string cannot fail.
            let _ = write!(legal, "_x{:x}_", u32::from(c));
        }
    }
    Cow::Owned(legal)
}

/// Marks the end of the last two messages of the user: what the next request repeats, and what this one does. Tools and
/// system have marks of their own, which makes four.
fn mark_cached(messages: &mut [Message<'_>], cache: Option<CacheControl>) {
    for message in messages.iter_mut().rev().filter(|message| message.role == "user").take(2) {
        if let Some(mark) = message.content.iter_mut().rev().find_map(Block::cache_control) {
            *mark = cache;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::OutputSchema;
    use crate::llm::testing::{Asked, call, data, raw, tool, url};
    use crate::types::{CachePoint, CacheTtl, Opaque, Status};
    use pretty_assertions::assert_eq;
    use serde_json::{Value, json};

    const PLAIN: Dialect = Dialect { stream: true, max_tokens: 4096, thinking: None, cache_points: 4 };

    fn body(asked: &Asked, dialect: &Dialect) -> Value {
        serde_json::from_slice(&encode(&asked.request(), dialect).unwrap()).unwrap()
    }

    fn messages(asked: &Asked) -> Value {
        body(asked, &PLAIN)["messages"].take()
    }

    fn opaque(family: &str, data: &str) -> Opaque {
        Opaque { family: family.into(), data: data.into() }
    }

    /// A conversation with everything in it.
    fn conversation() -> Asked {
        let mut asked = Asked::of("claude");
        asked.system = Some("Be brief.");
        asked.tools = vec![tool("add"), tool("sub")];
        let transcript = &mut asked.transcript;
        transcript.push_user(vec![Part::text("look"), Part::text(" "), Part::Image(data("image/png"))]).unwrap();
        transcript
            .push_assistant(vec![
                Part::Reasoning {
                    text: "hm".into(),
                    opaque: Some(Box::new(opaque("anthropic", r#"{"signature":"s=="}"#))),
                },
                Part::Reasoning { text: "not ours".into(), opaque: Some(Box::new(opaque("gemini", "{}"))) },
                Part::text("I add."),
                call("a", "add", r#"{"x": 1.0}"#),
                call("call.b:1", "add", "not json"),
            ])
            .unwrap();
        transcript.answer(&"a".into(), ToolResult::ok("3")).unwrap();
        let mut seen = ToolResult::error("");
        seen.parts = vec![Part::Image(url("https://h/i.png"))];
        transcript.answer(&"call.b:1".into(), seen).unwrap();
        transcript.push_user(vec![Part::Document(data("application/pdf")), Part::text("and?")]).unwrap();
        asked
    }

    #[test]
    fn a_conversation_becomes_alternating_messages() {
        assert_eq!(
            messages(&conversation()),
            json!([
                {"role": "user", "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}]},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s=="},
                    {"type": "text", "text": "I add."},
                    {"type": "tool_use", "id": "a", "name": "add", "input": {"x": 1.0}},
                    {"type": "tool_use", "id": "call_x2e_b_x3a_1", "name": "add", "input": {"INVALID_JSON": "not json"}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "a", "content": "3"},
                    {"type": "tool_result", "tool_use_id": "call_x2e_b_x3a_1", "content": [
                        {"type": "text", "text": "error"},
                        {"type": "image", "source": {"type": "url", "url": "https://h/i.png"}}], "is_error": true},
                    {"type": "document",
                     "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="}},
                    {"type": "text", "text": "and?"}]}])
        );
    }

    #[test]
    fn the_body_has_what_was_asked_for_and_nothing_else() {
        let mut asked = Asked::of("claude");
        asked.transcript.push_user(vec![Part::text("hi")]).unwrap();
        let bytes = encode(&asked.request(), &PLAIN).unwrap();
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            r#"{"model":"claude","max_tokens":4096,"stream":true,"messages":[{"role":"user","content":[{"type":"text","text":"hi"}]}]}"#
        );
        asked.model.temperature = Some(0.5);
        asked.model.top_p = Some(0.9);
        asked.model.stop_sequences = vec!["END".into()];
        asked.max_tokens = Some(10);
        asked.system = Some("S");
        asked.tools = vec![tool("add")];
        asked.tool_choice = ToolChoice::Tool("add");
        asked.output = Some(OutputSchema { name: "o".into(), schema: raw(r#"{"type":"object"}"#) });
        let bytes = encode(&asked.request(), &PLAIN).unwrap();
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            concat!(
                r#"{"model":"claude","max_tokens":10,"stream":true,"temperature":0.5,"top_p":0.9,"stop_sequences":["END"],"#,
                r#""output_config":{"format":{"type":"json_schema","schema":{"type":"object"}}},"#,
                r#""tool_choice":{"type":"tool","name":"add"},"#,
                r#""tools":[{"name":"add","description":"Does add.","input_schema":{"type":"object"}}],"system":"S","#,
                r#""messages":[{"role":"user","content":[{"type":"text","text":"hi"}]}]}"#
            )
        );
    }

    #[test]
    fn four_places_are_cached() {
        let mut asked = conversation();
        asked.cache = CacheStrategy::Automatic { ttl: CacheTtl::OneHour };
        let body = body(&asked, &PLAIN);
        let mark = json!({"type": "ephemeral", "ttl": "1h"});
        assert_eq!(body["tools"][0].get("cache_control"), None);
        assert_eq!(body["tools"][1]["cache_control"], mark);
        assert_eq!(body["system"], json!([{"type": "text", "text": "Be brief.", "cache_control": mark}]));
        assert_eq!(body["messages"][0]["content"][1]["cache_control"], mark);
        assert_eq!(body["messages"][2]["content"][3]["cache_control"], mark);
        assert_eq!(body.to_string().matches("cache_control").count(), 4);
        asked.cache = CacheStrategy::Automatic { ttl: CacheTtl::FiveMinutes };
        assert_eq!(super::tests::body(&asked, &PLAIN)["tools"][1]["cache_control"], json!({"type": "ephemeral"}));
        asked.cache = CacheStrategy::Automatic { ttl: CacheTtl::ThirtyMinutes };
        let refused = encode(&asked.request(), &PLAIN).unwrap_err();
        assert_eq!((refused.status(), refused.hint().is_some()), (Status::UnsupportedByProvider, true));
    }

    #[test]
    fn what_the_host_marks_is_cached_and_nothing_else() {
        let mut asked = Asked::of("claude");
        asked.system = Some("Be brief.");
        asked.tools = vec![tool("add")];
        let point = |ttl| Part::CachePoint(CachePoint { ttl });
        let book = Part::Document(data("application/pdf"));
        asked
            .transcript
            .push_user(vec![book, point(Some(CacheTtl::OneHour)), Part::text("and"), Part::text("?")])
            .unwrap();
        asked.transcript.push_assistant(vec![Part::text("ok")]).unwrap();
        asked.transcript.push_user(vec![Part::text("more"), point(None), Part::text("so?")]).unwrap();
        let marked = |asked: &Asked| {
            let body = body(asked, &PLAIN);
            let mark =
                |path: &str| body.pointer(path).map(|mark| mark.get("ttl").cloned().unwrap_or_else(|| json!("5m")));
            let marks = ["/tools/0", "/system/0", "/messages/0/content/0", "/messages/2/content/0"]
                .map(|path| mark(&format!("{path}/cache_control")));
            (marks, body.to_string().matches("cache_control").count())
        };
        let (hour, five) = (Some(json!("1h")), Some(json!("5m")));
        asked.cache = CacheStrategy::Explicit { ttl: None, tools: false, system: false };
        assert_eq!(marked(&asked), ([None, None, hour.clone(), five], 2));
        asked.cache = CacheStrategy::Explicit { ttl: Some(CacheTtl::OneHour), tools: true, system: true };
        assert_eq!(marked(&asked), ([hour.clone(), hour.clone(), hour.clone(), hour], 4));
        asked.cache = CacheStrategy::None;
        assert_eq!(marked(&asked), ([None, None, None, None], 0));
    }

    #[test]
    fn a_conversation_that_the_model_began_gets_a_beginning() {
        let mut asked = Asked::of("claude");
        asked.transcript.push_assistant(vec![Part::text("I was saying \n")]).unwrap();
        asked.transcript.push_assistant(vec![Part::text(" and so on \n")]).unwrap();
        assert_eq!(
            messages(&asked),
            json!([
                {"role": "user", "content": [{"type": "text", "text": "(continued)"}]},
                {"role": "assistant", "content": [
                    {"type": "text", "text": "I was saying \n"}, {"type": "text", "text": " and so on"}]}])
        );
    }

    #[test]
    fn a_message_of_foreign_reasoning_alone_is_left_out() {
        let mut asked = Asked::of("claude");
        asked.transcript.push_user(vec![Part::text("a")]).unwrap();
        asked.transcript.push_assistant(vec![Part::reasoning("mine")]).unwrap();
        asked.transcript.push_user(vec![Part::text("b")]).unwrap();
        let content = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        assert_eq!(messages(&asked), json!([{"role": "user", "content": content}]));
    }

    #[test]
    fn opaque_blocks_go_back_byte_for_byte_and_only_home() {
        let block = r#"{"type":"web_result" , "content": [1.0, "\u00e9"]}"#;
        let mut asked = Asked::of("claude");
        asked.transcript.push_user(vec![Part::text("a")]).unwrap();
        let text =
            Part::Text { text: "b".into(), opaque: Some(Box::new(opaque("anthropic", r#"{"citations":[1.0]}"#))) };
        let parts = vec![Part::Opaque(opaque("anthropic", block)), Part::Opaque(opaque("gemini", "{\"g\":1}")), text];
        asked.transcript.push_assistant(parts).unwrap();
        let body = String::from_utf8(encode(&asked.request(), &PLAIN).unwrap()).unwrap();
        assert!(body.contains(&format!(r#"[{block},{{"type":"text","text":"b","citations":[1.0]}}]"#)), "{body}");
        let mut broken = Asked::of("claude");
        broken.transcript.push_user(vec![Part::Opaque(opaque("anthropic", "{"))]).unwrap();
        assert_eq!(encode(&broken.request(), &PLAIN).unwrap_err().status(), Status::InvalidArg);
    }

    #[test]
    fn thinking_has_its_rules() {
        let mut asked = Asked::of("claude");
        asked.transcript.push_user(vec![Part::text("a")]).unwrap();
        let with = |budget| Dialect { thinking: Some(Thinking::Budget(budget)), ..PLAIN };
        let thinking = body(&asked, &with(2048));
        assert_eq!(thinking["thinking"], json!({"type": "enabled", "budget_tokens": 2048}));
        assert_eq!(thinking["max_tokens"], 4096 + 2048);
        let adaptive = Dialect { thinking: Some(Thinking::Adaptive), ..PLAIN };
        assert_eq!(body(&asked, &adaptive)["thinking"], json!({"type": "adaptive"}));
        let refused = |asked: &Asked, dialect: &Dialect| encode(&asked.request(), dialect).unwrap_err();
        assert_eq!(refused(&asked, &with(1000)).status(), Status::UnsupportedByProvider);
        asked.max_tokens = Some(2048);
        assert!(refused(&asked, &with(2048)).hint().is_some());
        asked.max_tokens = None;
        asked.tool_choice = ToolChoice::Required;
        assert!(refused(&asked, &with(2048)).message().contains("forced"));
        asked.tool_choice = ToolChoice::Auto;
        asked.model.temperature = Some(0.0);
        assert!(refused(&asked, &with(2048)).message().contains("temperature"));
    }

    #[test]
    fn what_the_api_cannot_take_is_told() {
        for (part, names) in [
            (Part::Audio(data("audio/wav")), "audio"),
            (Part::Image(data("image/tiff")), "image/tiff"),
            (Part::Document(data("text/csv")), "text/csv"),
        ] {
            let mut asked = Asked::of("claude");
            asked.transcript.push_user(vec![part]).unwrap();
            let error = encode(&asked.request(), &PLAIN).unwrap_err();
            assert_eq!(error.status(), Status::UnsupportedByProvider);
            assert!(error.message().contains(names) && error.hint().is_some(), "{error}");
        }
    }
}
