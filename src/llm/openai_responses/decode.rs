//! Events of an answer → deltas and [`Parts`]. Pure: no I/O, no clock.
//!
//! Source: OpenAI API reference, "Responses", streaming events. Items belong together by `output_index`: some gateways
//! give an item another id in every event. Their order is that of the index, too. A finished item counts over its deltas. A whole (not streamed) response is
//! read by the same code.

use super::FAMILY;
use super::items::{Items, Shape};
use crate::llm::frame::object;
use crate::llm::lenient::{Count, Few, Fields, MaybeText, Text, or_default};
use crate::llm::{BlockId, DeltaSink, Frame, ModelAnswer, Parts};
use crate::types::{FinishReason, Transcript, Usage};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Reads one answer.
pub struct Decoder<'a> {
    provider: &'a str,
    parts: Parts<'a>,
    items: Items,
    has_refused: bool,
    is_finished: bool,
}

impl<'a> Decoder<'a> {
    /// A decoder for one answer, which will be appended to `transcript`.
    pub fn new(provider: &'a str, transcript: &'a Transcript) -> Self {
        Self {
            provider,
            parts: Parts::new(FAMILY, transcript),
            items: Items::default(),
            has_refused: false,
            is_finished: false,
        }
    }

    /// Takes one event. Its type is what its JSON says; `name` counts where that says nothing.
    pub fn event(&mut self, name: &str, data: &str, sink: &mut dyn DeltaSink) -> Frame {
        if self.is_finished {
            return Frame::Done;
        }
        if data.starts_with("[DONE]") {
            // A word of another API, which gateways add; the end is what the response says.
            return Frame::Alive;
        }
        let Some(event) = object::<Event<'_>>(data) else {
            // Every item has said its end by now; only the figures are lost.
            self.is_finished = name == "response.completed";
            return Frame::not_an_object(data, self.provider);
        };
        let kind = if event.r#type.is_empty() { name } else { &event.r#type };
        match kind {
            "response.output_text.delta" => self.append(&event, Shape::Message, sink),
            "response.refusal.delta" => {
                self.has_refused = true;
                self.append(&event, Shape::Message, sink);
            }
            "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => self.reason(&event, sink),
            "response.function_call_arguments.delta" => self.append(&event, Shape::Call, sink),
            "response.function_call_arguments.done" => {
                if let (Some(at), Some(whole)) = (self.find(&event, Shape::Call), &event.arguments.0) {
                    self.parts.complete(at, whole, sink);
                }
            }
            "response.output_item.added" => {
                if let Some(item) = event.item {
                    self.open(event.output_index.0, item, sink);
                }
            }
            "response.output_item.done" => {
                if let Some(item) = event.item {
                    self.done(event.output_index.0, item, sink);
                }
            }
            "response.created" | "response.in_progress" | "response.queued" => {
                if let Some(response) = event.response.and_then(|response| object::<Response<'_>>(response.get())) {
                    self.parts.model(&response.model);
                }
            }
            "response.completed" | "response.incomplete" => {
                let response = event.response.and_then(|response| object(response.get())).unwrap_or_default();
                self.end(&response, sink);
                return Frame::Done;
            }
            "response.failed" | "response.cancelled" => {
                let response = event.response.map_or(data, RawValue::get);
                return Frame::failed(response, self.provider);
            }
            "error" => return Frame::failed(data, self.provider),
            // A whole response, or a failure that a gateway reports without a type.
            "" => return self.untyped(&event, data, sink),
            "keepalive" | "ping" => return Frame::Alive,
            // Everything else is progress of items that come whole at their end.
            kind if kind.starts_with("response.") => {}
            _ => return Frame::Foreign,
        }
        Frame::Taken
    }

    /// Whether the response came to its end.
    pub fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// The whole answer.
    pub fn finish(mut self, sink: &mut dyn DeltaSink) -> ModelAnswer {
        if self.has_refused {
            self.parts.finish(FinishReason::Refusal);
        }
        if let Some(order) = self.items.order() {
            self.parts.arrange(order);
        }
        self.parts.into_answer(sink)
    }

    fn untyped(&mut self, event: &Event<'_>, data: &str, sink: &mut dyn DeltaSink) -> Frame {
        if event.error.is_some() {
            return Frame::failed(data, self.provider);
        }
        if let Some(response) = object::<Response<'_>>(data).filter(|response| &*response.object == "response") {
            self.end(&response, sink);
            return Frame::Taken;
        }
        Frame::Foreign
    }

    fn end(&mut self, response: &Response<'_>, sink: &mut dyn DeltaSink) {
        self.parts.model(&response.model);
        // The items have come one by one, unless this is all there is.
        if self.items.is_empty() {
            for (index, item) in (0..).zip(response.output.iter()) {
                self.done(Some(index), item, sink);
            }
        }
        self.parts.usage(response.usage.total());
        let reason = match &*response.incomplete_details.reason {
            "" => FinishReason::Stop,
            "max_output_tokens" => FinishReason::MaxTokens,
            "content_filter" => FinishReason::ContentFilter,
            other => {
                sink.warning("finish_reason", &format!("the response is incomplete because of {other:?}"));
                FinishReason::Stop
            }
        };
        self.parts.finish(reason);
        self.is_finished = true;
    }

    fn append(&mut self, event: &Event<'_>, shape: Shape, sink: &mut dyn DeltaSink) {
        if let Some(block) = self.find(event, shape) {
            self.parts.append(block, &event.delta, sink);
        } else if shape == Shape::Message {
            // The item's start was lost on the way.
            let block = self.parts.open_text();
            self.items.push(event.output_index.0, &event.item_id, block, shape);
            self.parts.append(block, &event.delta, sink);
        }
    }

    /// Paragraphs of a summary are parts of one reasoning.
    fn reason(&mut self, event: &Event<'_>, sink: &mut dyn DeltaSink) {
        let Some(item) = self.items.find_mut(event.output_index.0, &event.item_id, Shape::Reasoning) else { return };
        let paragraph = event.summary_index.0.or(event.content_index.0).unwrap_or(0);
        if paragraph != item.paragraph && !self.parts.is_blank(item.block) {
            self.parts.append(item.block, PARAGRAPH, sink);
        }
        item.paragraph = paragraph;
        self.parts.append(item.block, &event.delta, sink);
    }

    fn open(&mut self, index: Option<u64>, raw: &RawValue, sink: &mut dyn DeltaSink) -> (BlockId, Shape) {
        let item: Item<'_> = object(raw.get()).unwrap_or_default();
        let (block, shape) = match &*item.r#type {
            "message" => (self.parts.open_text(), Shape::Message),
            "reasoning" => (self.parts.open_reasoning(), Shape::Reasoning),
            "function_call" => {
                let id = if item.call_id.is_empty() { &item.id } else { &item.call_id };
                (self.parts.open_call(id, &item.name, sink), Shape::Call)
            }
            _ => (self.parts.push_opaque(raw.get()), Shape::Unknown),
        };
        self.items.push(index, &item.id, block, shape);
        (block, shape)
    }

    /// The item as it ends is what counts.
    fn done(&mut self, index: Option<u64>, raw: &RawValue, sink: &mut dyn DeltaSink) {
        let item: Item<'_> = object(raw.get()).unwrap_or_default();
        let wanted = match &*item.r#type {
            "message" => Shape::Message,
            "reasoning" => Shape::Reasoning,
            "function_call" => Shape::Call,
            _ => Shape::Unknown,
        };
        let block = match self.items.find(index, &item.id, wanted) {
            Some(block) => block,
            None => self.open(index, raw, sink).0,
        };
        match wanted {
            Shape::Message => {
                let pieces = item.content.iter().map(|content| {
                    self.has_refused |= !content.refusal.is_empty();
                    if content.refusal.is_empty() { &*content.text } else { &*content.refusal }
                });
                let whole: String = pieces.collect();
                self.parts.complete(block, &whole, sink);
                // A phase must go back with its message.
                let rest = Fields::read(raw.get()).filter(|fields| fields.get("phase").is_some_and(is_said));
                let keep = |fields: Fields<'_>| fields.only(&["id", "phase"]).to_json();
                self.parts.attach(block, rest.and_then(keep));
            }
            Shape::Reasoning => {
                let paragraphs = |texts: &Few<Content<'_>>| {
                    texts.iter().map(|content| &*content.text).collect::<Vec<_>>().join(PARAGRAPH)
                };
                let summary = paragraphs(&item.summary);
                let whole = if summary.is_empty() { paragraphs(&item.content) } else { summary };
                if !whole.is_empty() {
                    self.parts.complete(block, &whole, sink);
                }
                self.parts.attach(block, Some(raw.get().to_owned()));
            }
            Shape::Call => {
                if let Some(whole) = &item.arguments.0 {
                    self.parts.complete(block, whole, sink);
                }
                let own = ["type", "id", "call_id", "name", "arguments", "status"];
                self.parts.attach(block, Fields::read(raw.get()).and_then(|fields| fields.without(&own).to_json()));
            }
            Shape::Unknown => self.parts.complete(block, raw.get(), sink),
        }
    }

    fn find(&self, event: &Event<'_>, shape: Shape) -> Option<BlockId> {
        self.items.find(event.output_index.0, &event.item_id, shape)
    }
}

/// What stands between two paragraphs of reasoning.
const PARAGRAPH: &str = "\n\n";

fn is_said(value: &RawValue) -> bool {
    !matches!(value.get(), "null" | "\"\"")
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, default)]
    r#type: Text<'a>,
    #[serde(default)]
    output_index: Count,
    #[serde(borrow, default)]
    item_id: Text<'a>,
    #[serde(default)]
    summary_index: Count,
    #[serde(default)]
    content_index: Count,
    #[serde(borrow, default)]
    delta: Text<'a>,
    #[serde(borrow, default)]
    arguments: MaybeText<'a>,
    #[serde(borrow, default)]
    item: Option<&'a RawValue>,
    #[serde(borrow, default)]
    response: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Item<'a> {
    #[serde(borrow)]
    r#type: Text<'a>,
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    call_id: Text<'a>,
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    arguments: MaybeText<'a>,
    #[serde(borrow)]
    content: Few<Content<'a>>,
    #[serde(borrow)]
    summary: Few<Content<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Content<'a> {
    #[serde(borrow)]
    text: Text<'a>,
    #[serde(borrow)]
    refusal: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Response<'a> {
    #[serde(borrow)]
    object: Text<'a>,
    #[serde(borrow)]
    model: Text<'a>,
    #[serde(borrow)]
    output: Few<&'a RawValue>,
    #[serde(borrow, deserialize_with = "or_default")]
    incomplete_details: IncompleteDetails<'a>,
    #[serde(deserialize_with = "or_default")]
    usage: WireUsage,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct IncompleteDetails<'a> {
    #[serde(borrow)]
    reason: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireUsage {
    input_tokens: Count,
    output_tokens: Count,
    #[serde(deserialize_with = "or_default")]
    input_tokens_details: InputDetails,
    #[serde(deserialize_with = "or_default")]
    output_tokens_details: OutputDetails,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct InputDetails {
    cached_tokens: Count,
    cache_write_tokens: Count,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OutputDetails {
    reasoning_tokens: Count,
}

impl WireUsage {
    /// `input_tokens` includes what the cache covered; `output_tokens` includes reasoning.
    fn total(&self) -> Usage {
        let details = &self.input_tokens_details;
        let (read, write) = (details.cached_tokens.get(), details.cache_write_tokens.get());
        Usage {
            input_tokens: self.input_tokens.get().saturating_sub(read).saturating_sub(write),
            output_tokens: self.output_tokens.get(),
            cache_read_tokens: read,
            cache_write_tokens: write,
            reasoning_tokens: self.output_tokens_details.reasoning_tokens.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::testing::Told;
    use crate::types::{Category, Opaque, Part, Status};
    use pretty_assertions::assert_eq;

    fn read(events: &[&str]) -> (ModelAnswer, Told) {
        let transcript = Transcript::new();
        let (mut decoder, mut told) = (Decoder::new("p", &transcript), Told::default());
        for event in events {
            let frame = decoder.event("", event, &mut told);
            assert!(matches!(frame, Frame::Taken | Frame::Done), "{frame:?}: {event}");
        }
        assert!(decoder.is_finished());
        (decoder.finish(&mut told), told)
    }

    fn opaque(data: &str) -> Opaque {
        Opaque { family: "openai_responses".into(), data: data.into() }
    }

    fn added(index: u32, item: &str) -> String {
        format!(r#"{{"type":"response.output_item.added","output_index":{index},"item":{item}}}"#)
    }

    fn done(index: u32, item: &str) -> String {
        format!(r#"{{"type":"response.output_item.done","output_index":{index},"item":{item}}}"#)
    }

    fn delta(of: &str, index: u32, text: &str) -> String {
        format!(r#"{{"type":"response.{of}.delta","item_id":"rotates","output_index":{index},"delta":{text:?}}}"#)
    }

    const CREATED: &str = r#"{"type":"response.created","response":{"model":"gpt","output":[]}}"#;
    const COMPLETED: &str = r#"{"type":"response.completed","response":{"model":"gpt","status":"completed","usage":{"input_tokens":10,"input_tokens_details":{"cached_tokens":4,"cache_write_tokens":1},"output_tokens":7,"output_tokens_details":{"reasoning_tokens":3}}}}"#;

    #[test]
    fn items_are_parts_in_their_order() {
        let reasoning =
            r#"{"id":"rs", "type":"reasoning","summary":[{"text":"one"},{"text":"two"}],"encrypted_content":"gA=="}"#;
        let search = r#"{"id":"ws","type":"web_search_call" , "status":"completed","score":1.0}"#;
        let (answer, told) = read(&[
            CREATED,
            &added(0, r#"{"type":"reasoning","id":"rs","summary":[],"encrypted_content":"part"}"#),
            r#"{"type":"response.reasoning_summary_text.delta","output_index":0,"summary_index":0,"delta":"one"}"#,
            r#"{"type":"response.reasoning_summary_text.delta","output_index":0,"summary_index":1,"delta":"two"}"#,
            &done(0, reasoning),
            &added(1, r#"{"type":"web_search_call","id":"ws"}"#),
            r#"{"type":"response.web_search_call.searching","output_index":1}"#,
            &done(1, search),
            &added(2, r#"{"type":"message","id":"m1","content":[],"phase":"commentary"}"#),
            &delta("output_text", 2, "A"),
            &delta("output_text", 2, "B"),
            &done(
                2,
                r#"{"type":"message","id":"m9","phase":"commentary","content":[{"type":"output_text","text":"ABC"}]}"#,
            ),
            &added(3, r#"{"type":"function_call","id":"fc","call_id":"c1","name":"add","arguments":""}"#),
            &added(4, r#"{"type":"function_call","id":"fd","call_id":"c2","name":"add","arguments":""}"#),
            &delta("function_call_arguments", 4, "{\"x\":"),
            &delta("function_call_arguments", 3, "{}"),
            r#"{"type":"response.function_call_arguments.done","output_index":4,"arguments":"{\"x\":2}"}"#,
            &done(
                4,
                r#"{"type":"function_call","id":"fd","call_id":"c2","name":"add","arguments":"{\"x\":2}","namespace":"n"}"#,
            ),
            &done(6, r#"{"type":"message","id":"m3","content":[{"type":"output_text","text":"F"}]}"#),
            &done(
                5,
                r#"{"type":"message","id":"m2","content":[{"type":"output_text","text":"D"},{"type":"output_text","text":"E"}]}"#,
            ),
            COMPLETED,
        ]);
        let [thought, web, text, first, second, last, late] = answer.parts.as_slice() else {
            panic!("{:?}", answer.parts)
        };
        let thought_data = Some(Box::new(opaque(reasoning)));
        assert_eq!(thought, &Part::Reasoning { text: "one\n\ntwo".into(), opaque: thought_data });
        assert_eq!(web, &Part::Opaque(opaque(search)));
        let phase = Some(Box::new(opaque(r#"{"id":"m9","phase":"commentary"}"#)));
        assert_eq!(text, &Part::Text { text: "ABC".into(), opaque: phase });
        let said = |part: &Part| part.as_tool_call().map(|call| (call.id.to_string(), call.arguments.clone())).unwrap();
        assert_eq!((said(first), said(second)), (("c1".into(), "{}".into()), ("c2".into(), r#"{"x":2}"#.into())));
        assert_eq!(second.as_tool_call().unwrap().opaque, Some(Box::new(opaque(r#"{"namespace":"n"}"#))));
        assert_eq!((last, late), (&Part::text("DE"), &Part::text("F")));
        assert_eq!((told.text.as_str(), told.reasoning.as_str()), ("ABCFDE", "one\n\ntwo"));
        assert_eq!(told.calls[1].2, r#"{"x":2}"#);
        assert_eq!((answer.model.as_str(), answer.finish_reason), ("gpt", FinishReason::ToolCalls));
        let usage = Usage {
            input_tokens: 5,
            output_tokens: 7,
            cache_read_tokens: 4,
            cache_write_tokens: 1,
            reasoning_tokens: 3,
        };
        assert_eq!(answer.usage, usage);
    }

    #[test]
    fn incomplete_responses_say_why() {
        for (reason, finish) in [
            ("max_output_tokens", FinishReason::MaxTokens),
            ("content_filter", FinishReason::ContentFilter),
            ("new", FinishReason::Stop),
        ] {
            let end = format!(
                r#"{{"type":"response.incomplete","response":{{"status":"incomplete","incomplete_details":{{"reason":"{reason}"}}}}}}"#
            );
            assert_eq!(read(&[CREATED, &delta("output_text", 0, "A"), &end]).0.finish_reason, finish);
        }
    }

    #[test]
    fn a_refusal_is_one() {
        let (answer, told) = read(&[CREATED, &delta("refusal", 0, "No."), COMPLETED]);
        assert_eq!((answer.finish_reason, told.text.as_str()), (FinishReason::Refusal, "No."));
        assert_eq!(answer.parts, [Part::text("No.")]);
    }

    #[test]
    fn a_whole_response_is_read_too() {
        let (answer, told) = read(&[r#"{"id":"r","object":"response","status":"completed","error":null,"model":"gpt",
            "incomplete_details":null,"output":[{"type":"reasoning","id":"rs","summary":[]},
            {"type":"message","role":"assistant","content":[{"type":"output_text","text":"hi"}]},
            {"type":"function_call","call_id":"c","name":"add","arguments":"{}"}],
            "usage":{"input_tokens":1,"output_tokens":2}}"#]);
        assert_eq!(answer.parts.len(), 3);
        assert_eq!((told.text.as_str(), answer.usage.output_tokens), ("hi", 2));
        assert_eq!(answer.finish_reason, FinishReason::ToolCalls);
    }

    #[test]
    fn failures_after_http_200_are_failures() {
        let failure = |payload: &str| {
            let transcript = Transcript::new();
            match Decoder::new("p", &transcript).event("", payload, &mut Told::default()) {
                Frame::Failed(error) => (error.status(), error.category(), error.is_retryable()),
                other => panic!("{other:?}"),
            }
        };
        let failed = |code: &str| {
            failure(&format!(
                r#"{{"type":"response.failed","response":{{"status":"failed","error":{{"code":"{code}","message":"m"}}}}}}"#
            ))
        };
        assert_eq!(failed("context_length_exceeded"), (Status::ContextLength, Category::InvalidInput, false));
        assert_eq!(failed("rate_limit_exceeded"), (Status::RateLimited, Category::RateLimited, true));
        assert_eq!(failed("insufficient_quota"), (Status::RateLimited, Category::BudgetExceeded, false));
        assert_eq!(failed("server_is_overloaded"), (Status::Provider, Category::Unavailable, true));
        assert_eq!(failed("server_error"), (Status::Provider, Category::Unavailable, true));
        assert_eq!(failed("invalid_prompt"), (Status::Provider, Category::InvalidInput, false));
        let flat = r#"{"type":"error","code":"rate_limit_exceeded","message":"m","param":null,"sequence_number":3}"#;
        assert_eq!(failure(flat), (Status::RateLimited, Category::RateLimited, true));
        assert_eq!(failure(r#"{"error":{"code":503}}"#).0, Status::Provider);
        assert_eq!(failure(r#"[{"error":{"code":503}}]"#).0, Status::Provider);
        assert_eq!(
            failure(r#"{"object":"response","status":"failed","error":{"code":"server_error"},"output":[]}"#).2,
            true
        );
    }

    #[test]
    fn the_end_is_an_event_not_the_end_of_the_bytes() {
        let transcript = Transcript::new();
        let mut decoder = Decoder::new("p", &transcript);
        let mut told = Told::default();
        for event in [CREATED, &delta("output_text", 0, "A")] {
            assert!(matches!(decoder.event("", event, &mut told), Frame::Taken));
        }
        assert!(matches!(decoder.event("x", "{\"type\":", &mut told), Frame::Malformed));
        assert!(matches!(decoder.event("", "[DONE]", &mut told), Frame::Alive));
        assert!(!decoder.is_finished());
        assert!(matches!(decoder.event("response.completed", "{\"type\":", &mut told), Frame::Malformed));
        assert!(decoder.is_finished());
    }
}
