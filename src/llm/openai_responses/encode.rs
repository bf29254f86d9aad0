//! A [`ModelRequest`] → the body of a request. Pure: no I/O, no clock, no ids, so equal requests are equal bytes. What
//! stays the same from turn to turn stands in front.
//!
//! Source: OpenAI API reference, "Create a model response"; guides "Conversation state" and "Reasoning models",
//! stateless use. A reasoning item without the item it led to is refused by the API, so one that ends a message stays
//! behind.

use super::FAMILY;
use super::outgoing::{
    Address, Body, Choice, Content, Format, Item, Piece, Reasoning, StreamOptions, TextConfig, Tools,
};
use crate::llm::cache::CacheMarks;
use crate::llm::lenient::Fields;
use crate::llm::openai_chat::{CacheMark, CacheOptions, openai_cache_rules};
use crate::llm::outgoing::{fingerprint, own, own_fields, to_body, unsupported};
use crate::llm::{ModelRequest, ToolChoice};
use crate::types::{MediaSource, Part, Result, ToolCall, ToolResult, View};
use serde::Serialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// What differs between servers, models and settings.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dialect {
    /// Whether to ask for a stream.
    pub stream: bool,
    /// OpenAI's own server: it pads its chunks unless told not to.
    pub is_openai: bool,
    /// Whether the model reasons: others refuse to be asked for encrypted reasoning.
    pub reasons: bool,
    /// How much it reasons.
    pub effort: Option<Effort>,
    /// Whether it shows summaries of its reasoning.
    pub summary: bool,
    /// Whether the response schema is kept to the letter, which not every schema can be.
    pub strict_output: bool,
    /// The most cache points of a request, if it may have any.
    pub cache_points: Option<u32>,
}

/// How much a model reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effort {
    /// Not at all.
    None,
    /// Hardly.
    Minimal,
    /// A little.
    Low,
    /// Some.
    Medium,
    /// Much.
    High,
    /// As much as it can.
    Xhigh,
}

/// The most characters of a call's id.
const MAX_CALL_ID: usize = 64;

/// The body of a request, as JSON.
pub fn encode(request: &ModelRequest<'_>, dialect: &Dialect) -> Result<Vec<u8>> {
    let model = request.model;
    if !model.stop_sequences.is_empty() {
        return Err(unsupported(
            "the Responses API takes no stop_sequences",
            "remove them, or use the Chat Completions API (\"api\": \"chat\")",
        ));
    }
    let rules = dialect.cache_points.map(openai_cache_rules);
    let mut marks = CacheMarks::plan(request.cache, rules, request.transcript);
    let system = request.system.filter(|system| !system.is_empty());
    let is_system_marked = system.is_some() && marks.is_some_and(|marks| marks.system.is_some());
    let reasoning = Reasoning { effort: dialect.effort, summary: dialect.summary.then_some("auto") };
    let body = Body {
        model: &model.model_name,
        store: false,
        stream: dialect.stream,
        stream_options: (dialect.stream && dialect.is_openai).then_some(StreamOptions { include_obfuscation: false }),
        include: dialect.reasons.then_some(["reasoning.encrypted_content"]),
        reasoning: (reasoning.effort.is_some() || reasoning.summary.is_some()).then_some(reasoning),
        temperature: model.temperature,
        top_p: model.top_p,
        max_output_tokens: request.output_limit(),
        prompt_cache_key: request.cache_key,
        text: request.output.map(|output| TextConfig {
            format: Format {
                r#type: "json_schema",
                name: &output.name,
                schema: &output.schema,
                strict: dialect.strict_output,
            },
        }),
        tool_choice: (!request.tools.is_empty()).then(|| tool_choice(request.tool_choice)).flatten(),
        tools: Tools(request.tools),
        prompt_cache_options: marks.map(|_| CacheOptions::EXPLICIT),
        instructions: system.filter(|_| !is_system_marked),
        input: input(request, system.filter(|_| is_system_marked), &mut marks)?,
    };
    to_body(&body)
}

fn tool_choice(choice: ToolChoice<'_>) -> Option<Choice<'_>> {
    match choice {
        ToolChoice::Auto => None,
        ToolChoice::None => Some(Choice::Word("none")),
        ToolChoice::Required => Some(Choice::Word("required")),
        ToolChoice::Tool(name) => Some(Choice::Tool { r#type: "function", name }),
    }
}

/// `system`: what it begins with, marked to be cached, which `instructions` cannot be.
fn input<'a>(
    request: &ModelRequest<'a>,
    system: Option<&'a str>,
    marks: &mut Option<CacheMarks>,
) -> Result<Vec<Item<'a>>> {
    let mut items = Vec::new();
    if let Some(text) = system {
        let content =
            Content::Pieces(vec![Piece::InputText { text, prompt_cache_breakpoint: Some(CacheMark::EXPLICIT) }]);
        items.push(Item::Message { role: "developer", content, extra: Fields::default() });
    }
    for view in request.transcript.view() {
        match view {
            View::User(parts) => user(parts, &mut items, marks)?,
            View::Assistant(parts) => assistant(parts, &mut items)?,
            View::Tool(call, result) => items.push(answer(call, result)?),
        }
    }
    Ok(items)
}

fn user<'a>(parts: &'a [Part], items: &mut Vec<Item<'a>>, marks: &mut Option<CacheMarks>) -> Result<()> {
    if let [Part::Text { text, .. }] = parts {
        items.push(Item::Message { role: "user", content: Content::Text(text), extra: Fields::default() });
        return Ok(());
    }
    let mut pieces: Vec<Piece<'a>> = Vec::with_capacity(parts.len());
    for part in parts {
        match part {
            Part::CachePoint(point) => {
                let is_told = marks.as_mut().and_then(|marks| marks.next(point)).is_some();
                if let Some(mark) = pieces.iter_mut().rev().find_map(Piece::cache_mark).filter(|_| is_told) {
                    *mark = Some(CacheMark::EXPLICIT);
                }
            }
            Part::Opaque(opaque) => items.extend(own(Some(opaque), FAMILY)?.map(Item::Raw)),
            part => pieces.extend(piece(part)?),
        }
    }
    if !pieces.is_empty() {
        items.push(Item::Message { role: "user", content: Content::Pieces(pieces), extra: Fields::default() });
    }
    Ok(())
}

fn assistant<'a>(parts: &'a [Part], items: &mut Vec<Item<'a>>) -> Result<()> {
    // Reasoning waits for the item it led to.
    let mut waiting = Vec::new();
    for part in parts {
        let item = match part {
            Part::Reasoning { opaque, .. } => {
                waiting.extend(own(opaque.as_deref(), FAMILY)?.filter(|item| is_encrypted(item)).map(Item::Raw));
                None
            }
            Part::Text { text, opaque } => {
                let extra = own_fields(opaque.as_deref(), FAMILY)?.unwrap_or_default();
                let content = Content::Pieces(vec![Piece::OutputText { text }]);
                (!text.is_empty()).then_some(Item::Message { role: "assistant", content, extra })
            }
            Part::ToolCall(ToolCall { id, name, arguments, opaque }) => Some(Item::Call {
                r#type: "function_call",
                call_id: short_id(id.as_str()),
                name,
                arguments,
                extra: own_fields(opaque.as_deref(), FAMILY)?.unwrap_or_default(),
            }),
            Part::Opaque(opaque) => own(Some(opaque), FAMILY)?.map(Item::Raw),
            // The API takes none of these from the model; what another model made is told in words.
            Part::Image(_) => Some(Item::said("(an image that cannot be shown here)")),
            Part::Document(_) => Some(Item::said("(a document that cannot be shown here)")),
            Part::Audio(_) => Some(Item::said("(a recording that cannot be played here)")),
            Part::CachePoint(_) => None,
        };
        if let Some(item) = item {
            items.append(&mut waiting);
            items.push(item);
        }
    }
    Ok(())
}

/// Without its encrypted content a reasoning item is only a name of something that the server did not keep.
fn is_encrypted(item: &RawValue) -> bool {
    let content = Fields::read(item.get()).and_then(|fields| fields.get("encrypted_content"));
    content.is_some_and(|content| !matches!(content.get(), "null" | "\"\""))
}

fn answer<'a>(call: &'a ToolCall, result: &'a ToolResult) -> Result<Item<'a>> {
    let output = if result.parts.is_empty() {
        Content::Text(&result.content)
    } else {
        let mut pieces = Vec::with_capacity(1 + result.parts.len());
        if !result.content.is_empty() {
            pieces.push(Piece::InputText { text: &result.content, prompt_cache_breakpoint: None });
        }
        for part in &result.parts {
            pieces.extend(piece(part)?);
        }
        Content::Pieces(pieces)
    };
    Ok(Item::Answer { r#type: "function_call_output", call_id: short_id(call.id.as_str()), output })
}

/// What a user or a tool shows.
fn piece(part: &Part) -> Result<Option<Piece<'_>>> {
    Ok(match part {
        Part::Text { text, .. } => {
            (!text.is_empty()).then_some(Piece::InputText { text, prompt_cache_breakpoint: None })
        }
        Part::Image(media) => Some(Piece::InputImage { image_url: Address(media), prompt_cache_breakpoint: None }),
        Part::Document(media) => Some(match &media.source {
            MediaSource::Url { url, .. } => {
                Piece::InputFile { filename: None, file_data: None, file_url: Some(url), prompt_cache_breakpoint: None }
            }
            MediaSource::Data { .. } => Piece::InputFile {
                filename: Some(media.name.as_deref().unwrap_or("document.pdf")),
                file_data: Some(Address(media)),
                file_url: None,
                prompt_cache_breakpoint: None,
            },
        }),
        Part::Audio(_) => {
            return Err(unsupported(
                "the Responses API takes no audio",
                "give a transcript as text, or use the Chat Completions API with a model that hears",
            ));
        }
        Part::Reasoning { .. } | Part::ToolCall(_) | Part::Opaque(_) | Part::CachePoint(_) => None,
    })
}

/// Ids of other servers may be longer than this one takes. What fits stays as it is.
fn short_id(id: &str) -> Cow<'_, str> {
    if id.chars().count() <= MAX_CALL_ID {
        return Cow::Borrowed(id);
    }
    let hash = fingerprint(id);
    let head: String = id.chars().take(MAX_CALL_ID - 17).collect();
    Cow::Owned(format!("{head}_{hash:016x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::OutputSchema;
    use crate::llm::testing::{Asked, call, data, raw, tool, url};
    use crate::types::{Opaque, Status};
    use pretty_assertions::assert_eq;
    use serde_json::{Value, json};

    fn plain() -> Dialect {
        Dialect { stream: true, ..Dialect::default() }
    }

    fn text(asked: &Asked, dialect: &Dialect) -> String {
        String::from_utf8(encode(&asked.request(), dialect).unwrap()).unwrap()
    }

    fn items(asked: &Asked) -> Value {
        serde_json::from_str::<Value>(&text(asked, &plain())).unwrap()["input"].take()
    }

    fn ours(data: &str) -> Opaque {
        Opaque { family: "openai_responses".into(), data: data.into() }
    }

    #[test]
    fn what_the_host_marks_is_cached_and_nothing_else() {
        use crate::config::CacheStrategy;
        use crate::types::CachePoint;
        let mut asked = Asked::of("gpt-x");
        asked.system = Some("Be brief.");
        let point = || Part::CachePoint(CachePoint::default());
        let shown =
            vec![Part::Image(url("https://h/i.png")), point(), Part::Document(data("application/pdf")), point()];
        asked.transcript.push_user(shown).unwrap();
        asked.transcript.push_user(vec![Part::text("a"), point(), Part::text("b"), point(), Part::text("c")]).unwrap();
        asked.cache = CacheStrategy::Explicit { ttl: None, tools: false, system: true };
        let dialect = Dialect { cache_points: Some(4), ..plain() };
        let body: Value = serde_json::from_str(&text(&asked, &dialect)).unwrap();
        assert_eq!(body["prompt_cache_options"], json!({"mode": "explicit", "ttl": "30m"}));
        assert_eq!(body.get("instructions"), None);
        let mark = json!({"mode": "explicit"});
        assert_eq!(body["input"][0]["role"], "developer");
        let pieces = body["input"].as_array().unwrap().iter().flat_map(|item| item["content"].as_array().unwrap());
        let marks: Vec<_> = pieces.map(|piece| piece.get("prompt_cache_breakpoint") == Some(&mark)).collect();
        // With the system prompt's there is room for the newest three.
        assert_eq!(marks, [true, false, true, true, true, false]);
        let unmarked: Value = serde_json::from_str(&text(&asked, &plain())).unwrap();
        assert!(unmarked["instructions"] == "Be brief." && !unmarked.to_string().contains("cache_"), "{unmarked}");
    }

    #[test]
    fn a_conversation_becomes_items() {
        let mut asked = Asked::of("gpt");
        let transcript = &mut asked.transcript;
        transcript.push_user(vec![Part::text("look"), Part::Image(data("image/png"))]).unwrap();
        let phase = Some(Box::new(ours(r#"{"id":"m1","phase":"commentary"}"#)));
        transcript
            .push_assistant(vec![
                Part::reasoning("another's"),
                Part::Text { text: "I add.".into(), opaque: phase },
                call("a", "add", r#"{"x": 1.0}"#),
                call("b", "add", "not json"),
            ])
            .unwrap();
        transcript.answer(&"a".into(), ToolResult::ok("3")).unwrap();
        let mut seen = ToolResult::error("bad");
        seen.parts = vec![Part::Image(url("https://h/i.png"))];
        transcript.answer(&"b".into(), seen).unwrap();
        let mut named = data("application/pdf");
        named.name = Some("a.pdf".into());
        transcript
            .push_user(vec![Part::Document(named), Part::Document(url("https://h/d.pdf")), Part::text("and?")])
            .unwrap();
        transcript.push_user(vec![Part::text("now")]).unwrap();
        assert_eq!(
            items(&asked),
            json!([
                {"role": "user", "content": [
                    {"type": "input_text", "text": "look"},
                    {"type": "input_image", "image_url": "data:image/png;base64,aGk="}]},
                {"role": "assistant", "content": [{"type": "output_text", "text": "I add."}], "id": "m1",
                 "phase": "commentary"},
                {"type": "function_call", "call_id": "a", "name": "add", "arguments": "{\"x\": 1.0}"},
                {"type": "function_call", "call_id": "b", "name": "add", "arguments": "not json"},
                {"type": "function_call_output", "call_id": "a", "output": "3"},
                {"type": "function_call_output", "call_id": "b", "output": [
                    {"type": "input_text", "text": "bad"},
                    {"type": "input_image", "image_url": "https://h/i.png"}]},
                {"role": "user", "content": [
                    {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,aGk="},
                    {"type": "input_file", "file_url": "https://h/d.pdf"},
                    {"type": "input_text", "text": "and?"}]},
                {"role": "user", "content": "now"}])
        );
    }

    #[test]
    fn the_body_has_what_was_asked_for_and_nothing_else() {
        let mut asked = Asked::of("gpt");
        asked.transcript.push_user(vec![Part::text("hi")]).unwrap();
        assert_eq!(
            text(&asked, &plain()),
            r#"{"model":"gpt","store":false,"stream":true,"input":[{"role":"user","content":"hi"}]}"#
        );
        asked.model.temperature = Some(0.5);
        asked.model.top_p = Some(0.9);
        asked.max_tokens = Some(10);
        asked.cache_key = Some("session");
        asked.system = Some("S");
        asked.tools = vec![tool("add")];
        asked.tool_choice = ToolChoice::Tool("add");
        asked.output = Some(OutputSchema { name: "o".into(), schema: raw(r#"{"type":"object"}"#) });
        let dialect = Dialect {
            stream: true,
            is_openai: true,
            reasons: true,
            effort: Some(Effort::Xhigh),
            summary: true,
            strict_output: true,
            cache_points: None,
        };
        assert_eq!(
            text(&asked, &dialect),
            concat!(
                r#"{"model":"gpt","store":false,"stream":true,"stream_options":{"include_obfuscation":false},"#,
                r#""include":["reasoning.encrypted_content"],"reasoning":{"effort":"xhigh","summary":"auto"},"#,
                r#""temperature":0.5,"top_p":0.9,"max_output_tokens":10,"prompt_cache_key":"session","#,
                r#""text":{"format":{"type":"json_schema","name":"o","schema":{"type":"object"},"strict":true}},"#,
                r#""tool_choice":{"type":"function","name":"add"},"#,
                r#""tools":[{"type":"function","name":"add","description":"Does add.","#,
                r#""parameters":{"type":"object"},"strict":false}],"#,
                r#""instructions":"S","input":[{"role":"user","content":"hi"}]}"#
            )
        );
    }

    #[test]
    fn reasoning_goes_back_whole_before_its_item_or_not_at_all() {
        let sealed = r#"{"id":"rs", "type":"reasoning","summary":[],"encrypted_content":"gA=="}"#;
        let open = r#"{"id":"rt","type":"reasoning","summary":[],"encrypted_content":null}"#;
        let search = r#"{"id":"ws","type":"web_search_call" , "score":1.0}"#;
        let reasoning = |data: &str| Part::Reasoning { text: "hm".into(), opaque: Some(Box::new(ours(data))) };
        let foreign = Part::Opaque(Opaque { family: "gemini".into(), data: "{}".into() });
        let mut asked = Asked::of("gpt");
        let parts = vec![
            reasoning(open),
            reasoning(sealed),
            foreign,
            Part::Opaque(ours(search)),
            Part::text("a"),
            reasoning(sealed),
        ];
        asked.transcript.push_assistant(parts).unwrap();
        let body = text(&asked, &plain());
        let said = r#"{"role":"assistant","content":[{"type":"output_text","text":"a"}]}"#;
        assert!(body.ends_with(&format!(r#""input":[{sealed},{search},{said}]}}"#)), "{body}");
    }

    #[test]
    fn long_ids_are_shortened_alike_on_both_sides() {
        let id = "x".repeat(80);
        let mut asked = Asked::of("gpt");
        asked.transcript.push_assistant(vec![call(&id, "add", "{}"), call(&format!("{id}y"), "add", "{}")]).unwrap();
        asked.transcript.close_open_calls(|_| ToolResult::ok(""));
        let items = items(&asked);
        assert_eq!(items[0]["call_id"].as_str().unwrap().len(), 64);
        assert_eq!((&items[0]["call_id"], &items[1]["call_id"]), (&items[2]["call_id"], &items[3]["call_id"]));
        assert_ne!(items[0]["call_id"], items[1]["call_id"]);
    }

    #[test]
    fn what_the_api_cannot_take_is_told() {
        let mut asked = Asked::of("gpt");
        asked.transcript.push_user(vec![Part::Audio(data("audio/wav"))]).unwrap();
        let refused = |asked: &Asked| encode(&asked.request(), &plain()).unwrap_err();
        assert!(refused(&asked).message().contains("audio") && refused(&asked).hint().is_some());
        asked.model.stop_sequences = vec!["END".into()];
        assert_eq!(refused(&asked).status(), Status::UnsupportedByProvider);
        assert!(refused(&asked).message().contains("stop_sequences"));
    }
}
