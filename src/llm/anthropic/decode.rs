//! Events of an answer → deltas and [`Parts`]. Pure: no I/O, no clock.
//!
//! Source: Anthropic API reference, "Streaming Messages". Blocks belong together by `index`; unknown events and unknown
//! deltas are ignored, unknown blocks are kept as their JSON. Usage is cumulative, and a field that is absent or `null`
//! keeps its earlier value. A whole (not streamed) message is read by the same code, and so is one that stands whole in
//! its `message_start`.

use super::FAMILY;
use super::incoming::{Event, Message, Piece, RawDelta, StopDetails, WireUsage};
use super::open::{Open, Shape, quoted};
use crate::llm::frame::object;
use crate::llm::lenient::Fields;
use crate::llm::{DeltaSink, Frame, ModelAnswer, Parts};
use crate::types::{FinishReason, Transcript};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Reads one answer.
pub struct Decoder<'a> {
    provider: &'a str,
    parts: Parts<'a>,
    /// The blocks that may still grow, by their index.
    open: BTreeMap<u64, Open>,
    message_id: Option<String>,
    usage: WireUsage,
    is_finished: bool,
}

impl<'a> Decoder<'a> {
    /// A decoder for one answer, which will be appended to `transcript`.
    pub fn new(provider: &'a str, transcript: &'a Transcript) -> Self {
        Self {
            provider,
            parts: Parts::new(FAMILY, transcript),
            open: BTreeMap::new(),
            message_id: None,
            usage: WireUsage::default(),
            is_finished: false,
        }
    }

    /// Takes one event. Its type is what its JSON says; `name` counts where that says nothing.
    pub fn event(&mut self, name: &str, data: &str, sink: &mut dyn DeltaSink) -> Frame {
        if self.is_finished {
            return Frame::Done;
        }
        let Some(event) = object::<Event<'_>>(data) else {
            return Frame::not_an_object(data, self.provider);
        };
        let kind = if event.r#type.is_empty() { name } else { &event.r#type };
        match kind {
            "content_block_delta" => self.delta(&event, data, sink),
            "content_block_start" => {
                if let Some(block) = event.content_block {
                    self.start(event.index.get(), block, sink);
                }
            }
            "content_block_stop" => self.stop(event.index.get(), sink),
            "message_start" => {
                if let Some(message) = event.message.and_then(|message| serde_json::from_str(message.get()).ok()) {
                    self.message(&message, sink);
                }
            }
            "message_delta" => {
                self.usage.merge(&event.usage);
                self.stop_reason(&event.delta.stop_reason, &event.delta.stop_details, sink);
            }
            "message_stop" => {
                self.is_finished = true;
                return Frame::Done;
            }
            "message" => {
                if let Ok(message) = serde_json::from_str(data) {
                    self.message(&message, sink);
                    self.is_finished = self.parts.has_finish_reason();
                }
            }
            "error" => return Frame::failed(data, self.provider),
            "ping" => return Frame::Alive,
            // Gateways report their failures without a type.
            _ if event.error.is_some() => return Frame::failed(data, self.provider),
            "" => return Frame::Foreign,
            // Whatever may come to be.
            _ => {}
        }
        Frame::Taken
    }

    /// Whether the message came to its end.
    pub fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// The whole answer.
    pub fn finish(mut self, sink: &mut dyn DeltaSink) -> ModelAnswer {
        self.close_all(sink);
        self.parts.usage(self.usage.total());
        self.parts.into_answer(sink)
    }

    fn message(&mut self, message: &Message<'_>, sink: &mut dyn DeltaSink) {
        match &self.message_id {
            // Some gateways say the beginning twice.
            Some(id) if *id == *message.id => return,
            Some(_) => {
                // Others begin another answer when the first was cut off. Half a block cannot be sent back.
                if !self.parts.is_empty() {
                    sink.warning("answer_restarted", "the provider began its answer anew; what it said before is void");
                }
                self.parts.restart();
                self.open.clear();
                self.usage = WireUsage::default();
            }
            None => {}
        }
        self.message_id = Some(message.id.0.to_string());
        self.parts.model(&message.model);
        self.usage.merge(&message.usage);
        for (index, block) in (0..).zip(message.content.iter()) {
            self.start(index, block, sink);
            self.stop(index, sink);
        }
        self.stop_reason(&message.stop_reason, &message.stop_details, sink);
    }

    fn start(&mut self, index: u64, block: &RawValue, sink: &mut dyn DeltaSink) {
        self.stop(index, sink);
        let known: Piece<'_> = serde_json::from_str(block.get()).unwrap_or_default();
        let (shape, block_id) = match &*known.r#type {
            "text" => (Shape::Text, self.parts.open_text()),
            "thinking" => (Shape::Thinking, self.parts.open_reasoning()),
            "tool_use" => (Shape::ToolUse, self.parts.open_call(&known.id, &known.name, sink)),
            _ => (Shape::Unknown, self.parts.push_opaque(block.get())),
        };
        match shape {
            Shape::Text => self.parts.append(block_id, &known.text, sink),
            Shape::Thinking => self.parts.append(block_id, &known.thinking, sink),
            Shape::ToolUse | Shape::Unknown => {}
        }
        self.open.insert(index, Open::new(block_id, shape, block.get()));
    }

    fn delta(&mut self, event: &Event<'_>, data: &str, sink: &mut dyn DeltaSink) {
        let (index, delta) = (event.index.get(), &event.delta);
        let Some(open) = self.open.get_mut(&index) else {
            // The block's start was lost on the way.
            let block = match &*delta.r#type {
                "text_delta" => r#"{"type":"text"}"#,
                "thinking_delta" => r#"{"type":"thinking"}"#,
                _ => return,
            };
            if let Ok(block) = serde_json::from_str(block) {
                self.start(index, block, sink);
                self.delta(event, data, sink);
            }
            return;
        };
        match (open.shape, &*delta.r#type) {
            (Shape::Text, "text_delta") => self.parts.append(open.block, &delta.text, sink),
            (Shape::Thinking, "thinking_delta") => self.parts.append(open.block, &delta.thinking, sink),
            (Shape::ToolUse, "input_json_delta") => self.parts.append(open.block, &delta.partial_json, sink),
            (_, "signature_delta") => {
                if let Some(signature) = &delta.signature.0 {
                    open.set("signature", quoted(signature));
                }
            }
            (_, "citations_delta") => {
                if let Some(citation) = delta.citation {
                    open.push("citations", citation.get());
                }
            }
            (Shape::Unknown, "input_json_delta") => open.json("input", &delta.partial_json),
            (Shape::Unknown, "text_delta") => open.append("text", &delta.text),
            (Shape::Unknown, "thinking_delta") => open.append("thinking", &delta.thinking),
            (Shape::Unknown, _) => {
                // What such a delta brings is a field of its block (`compaction_delta`: `content`).
                let Ok(event) = serde_json::from_str::<RawDelta<'_>>(data) else { return };
                for (key, value) in event.delta.0.iter().filter(|(key, _)| key != "type") {
                    open.set(key, value.get().to_owned());
                }
            }
            (Shape::Text | Shape::Thinking | Shape::ToolUse, _) => {}
        }
    }

    fn stop(&mut self, index: u64, sink: &mut dyn DeltaSink) {
        if let Some(open) = self.open.remove(&index) {
            self.close(&open, sink);
        }
    }

    fn close_all(&mut self, sink: &mut dyn DeltaSink) {
        for open in std::mem::take(&mut self.open).into_values() {
            self.close(&open, sink);
        }
    }

    /// What is left of a block besides its main text goes with it.
    fn close(&mut self, open: &Open, sink: &mut dyn DeltaSink) {
        let folded = open.folded();
        let rest = |main: &[&str]| Fields::read(&folded)?.without(main).to_json();
        match open.shape {
            Shape::Text => self.parts.attach(open.block, rest(&["type", "text"])),
            Shape::Thinking => self.parts.attach(open.block, rest(&["type", "thinking"])),
            Shape::ToolUse => {
                // The input in the block's start is a placeholder, unless nothing followed it.
                if self.parts.is_blank(open.block)
                    && let Some(input) = Fields::read(&folded).and_then(|fields| fields.get("input"))
                    && !matches!(input.get(), "{}" | "null")
                {
                    self.parts.append(open.block, input.get(), sink);
                }
                self.parts.attach(open.block, rest(&["type", "id", "name", "input"]));
            }
            Shape::Unknown => self.parts.complete(open.block, &folded, sink),
        }
    }

    fn stop_reason(&mut self, reason: &str, details: &StopDetails<'_>, sink: &mut dyn DeltaSink) {
        let reason = match reason {
            "" => return,
            "max_tokens" => FinishReason::MaxTokens,
            "model_context_window_exceeded" => {
                sink.warning("context_window_exceeded", "the answer was cut off at the end of the model's window");
                FinishReason::MaxTokens
            }
            "tool_use" => FinishReason::ToolCalls,
            "refusal" => {
                if !details.explanation.is_empty() {
                    sink.warning("refusal", &details.explanation);
                }
                FinishReason::Refusal
            }
            "pause_turn" => {
                sink.warning("pause_turn", "the provider paused a long turn; send the conversation again to go on");
                FinishReason::Stop
            }
            // "end_turn", "stop_sequence", and what may come to be.
            _ => FinishReason::Stop,
        };
        self.parts.finish(reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::testing::Told;
    use crate::types::{Category, Opaque, Part, Status, ToolCall, Usage};
    use pretty_assertions::assert_eq;

    fn read(events: &[&str]) -> (ModelAnswer, Told) {
        let transcript = Transcript::new();
        let (mut decoder, mut told) = (Decoder::new("p", &transcript), Told::default());
        for event in events {
            let frame = decoder.event("", event, &mut told);
            assert!(matches!(frame, Frame::Taken | Frame::Alive | Frame::Done), "{frame:?}: {event}");
        }
        assert!(decoder.is_finished());
        (decoder.finish(&mut told), told)
    }

    fn opaque(data: &str) -> Option<Box<Opaque>> {
        Some(Box::new(Opaque { family: "anthropic".into(), data: data.into() }))
    }

    const START: &str = r#"{"type":"message_start","message":{"id":"m","model":"claude","content":[],"usage":{"input_tokens":10,"cache_read_input_tokens":3,"cache_creation_input_tokens":2,"output_tokens":1}}}"#;
    const END: &str = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":7}}"#;
    const STOP: &str = r#"{"type":"message_stop"}"#;

    #[test]
    fn pings_unknown_events_and_unknown_deltas_say_nothing() {
        let (answer, told) = read(&[
            r#"{"type":"ping"}"#,
            START,
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":"A"}}"#,
            r#"{"type":"ping"}"#,
            r#"{"type":"something_new","index":0,"delta":"odd"}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"new_delta","text":"not this"}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"B\n"}}"#,
            r#"{"type":"content_block_stop","index":0}"#,
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":null,"output_tokens":7,"output_tokens_details":{"thinking_tokens":4}}}"#,
            r#"{"type":"message_delta","delta":{},"usage":null}"#,
            STOP,
        ]);
        assert_eq!(answer.parts, [Part::text("AB\n")]);
        assert_eq!((told.text.as_str(), told.warnings.len()), ("AB\n", 0));
        assert_eq!((answer.model.as_str(), answer.finish_reason), ("claude", FinishReason::Stop));
        assert_eq!(
            answer.usage,
            Usage {
                input_tokens: 10,
                output_tokens: 7,
                cache_read_tokens: 3,
                cache_write_tokens: 2,
                reasoning_tokens: 4
            }
        );
    }

    #[test]
    fn a_signature_is_assigned_and_reasoning_may_be_empty_beside_it() {
        let (answer, told) = read(&[
            START,
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"first"}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"a/b+\"c"}}"#,
            r#"{"type":"content_block_stop","index":0}"#,
            r#"{"type":"content_block_start","index":1,"content_block":{"type":"redacted_thinking","data":"x=="}}"#,
            r#"{"type":"content_block_stop","index":1}"#,
            r#"{"type":"content_block_start","index":2,"content_block":{"type":"thinking","thinking":"cut"}}"#,
            END,
            STOP,
        ]);
        assert_eq!(
            answer.parts,
            [
                Part::Reasoning { text: String::new(), opaque: opaque(r#"{"signature":"a/b+\"c"}"#) },
                Part::Opaque(Opaque {
                    family: "anthropic".into(),
                    data: r#"{"type":"redacted_thinking","data":"x=="}"#.into()
                }),
                Part::reasoning("cut"),
            ]
        );
        assert_eq!(told.reasoning, "cut");
    }

    #[test]
    fn input_is_what_the_pieces_make_or_else_what_the_start_said() {
        let (answer, told) = read(&[
            START,
            r#"{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"a","name":"add","input":{}}}"#,
            r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":""}}"#,
            r#"{"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"b","name":"add","input":{"x": 1},"caller":{"type":"code"}}}"#,
            r#"{"type":"content_block_stop","index":2}"#,
            r#"{"type":"content_block_start","index":3,"content_block":{"type":"tool_use","id":"a","name":"add","input":{}}}"#,
            r#"{"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":"{\"x\":"}}"#,
            r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":""}}"#,
            r#"{"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":" 2.0}"}}"#,
            END,
            STOP,
        ]);
        let calls: Vec<_> = answer.parts.iter().filter_map(Part::as_tool_call).collect();
        let made = |call: &ToolCall| (call.id.to_string(), call.arguments.clone());
        assert_eq!(made(calls[0]), ("a".into(), "{}".into()));
        assert_eq!(made(calls[1]), ("b".into(), r#"{"x": 1}"#.into()));
        assert_eq!(calls[1].opaque, opaque(r#"{"caller":{"type":"code"}}"#));
        assert_eq!(made(calls[2]), ("a_3".into(), r#"{"x": 2.0}"#.into()));
        assert_eq!(told.calls[1].2, r#"{"x": 1}"#);
        assert_eq!(answer.finish_reason, FinishReason::ToolCalls);
    }

    #[test]
    fn unknown_blocks_are_kept_as_they_came_with_what_deltas_made_of_them() {
        let (answer, _) = read(&[
            START,
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"server_tool_use","id":"s","name":"web","input":{},"caller":{"type":"direct"}}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{\"q\":"}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":" \"é\"}"}}"#,
            r#"{"type":"content_block_stop","index":0}"#,
            r#"{"type":"content_block_start","index":1,"content_block":{"type":"web_result" , "content": [1.0, "\u00e9"]}}"#,
            r#"{"type":"content_block_stop","index":1}"#,
            r#"{"type":"content_block_start","index":2,"content_block":{"type":"compaction","content":null}}"#,
            r#"{"type":"content_block_delta","index":2,"delta":{"type":"compaction_delta","content":"short"}}"#,
            r#"{"type":"content_block_start","index":3,"content_block":{"type":"text","text":"","citations":[]}}"#,
            r#"{"type":"content_block_delta","index":3,"delta":{"type":"citations_delta","citation":{"url":"u"}}}"#,
            r#"{"type":"content_block_delta","index":3,"delta":{"type":"text_delta","text":"cited"}}"#,
            END,
            STOP,
        ]);
        let data: Vec<_> = answer
            .parts
            .iter()
            .map(|part| match part {
                Part::Opaque(opaque) => opaque.data.as_str(),
                Part::Text { opaque, .. } => &opaque.as_ref().unwrap().data,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            data,
            [
                r#"{"type":"server_tool_use","id":"s","name":"web","input":{"q": "é"},"caller":{"type":"direct"}}"#,
                r#"{"type":"web_result" , "content": [1.0, "\u00e9"]}"#,
                r#"{"type":"compaction","content":"short"}"#,
                r#"{"citations":[{"url":"u"}]}"#,
            ]
        );
    }

    #[test]
    fn only_message_stop_is_the_end() {
        let transcript = Transcript::new();
        let (mut decoder, mut told) = (Decoder::new("p", &transcript), Told::default());
        for event in [START, END] {
            assert!(matches!(decoder.event("", event, &mut told), Frame::Taken));
        }
        assert!(!decoder.is_finished());
        assert!(matches!(decoder.event("message_stop", "{}", &mut told), Frame::Done));
        assert!(decoder.is_finished());
    }

    #[test]
    fn errors_inside_the_stream_are_errors() {
        let told = |payload: &str| {
            let transcript = Transcript::new();
            match Decoder::new("p", &transcript).event("error", payload, &mut Told::default()) {
                Frame::Failed(error) => (error.status(), error.category(), error.is_retryable()),
                other => panic!("{other:?}"),
            }
        };
        let error = |kind: &str, message: &str| {
            told(&format!(r#"{{"type":"error","error":{{"type":"{kind}","message":"{message}"}}}}"#))
        };
        assert_eq!(error("overloaded_error", "Overloaded"), (Status::Provider, Category::Unavailable, true));
        assert_eq!(error("rate_limit_error", ""), (Status::RateLimited, Category::RateLimited, true));
        assert_eq!(error("api_error", ""), (Status::Provider, Category::ExternalFailure, true));
        assert_eq!(error("timeout_error", ""), (Status::Provider, Category::Unavailable, true));
        assert_eq!(error("billing_error", ""), (Status::RateLimited, Category::BudgetExceeded, false));
        assert_eq!(error("request_too_large", ""), (Status::ContextLength, Category::InvalidInput, false));
        assert_eq!(error("authentication_error", ""), (Status::Auth, Category::PermissionDenied, false));
        assert_eq!(error("permission_error", ""), (Status::Auth, Category::PermissionDenied, false));
        assert_eq!(error("not_found_error", ""), (Status::Provider, Category::NotFound, false));
        assert_eq!(
            error("invalid_request_error", "prompt is too long: 200001 tokens > 200000 maximum"),
            (Status::ContextLength, Category::InvalidInput, false)
        );
        assert_eq!(error("invalid_request_error", "max"), (Status::Provider, Category::InvalidInput, false));
        assert_eq!(
            told(r#"[{"error":{"code":503,"message":"gateway"}}]"#),
            (Status::Provider, Category::Unavailable, true)
        );
        assert_eq!(told(r#"{"error":"plain"}"#), (Status::Provider, Category::ExternalFailure, false));
    }

    #[test]
    fn what_is_no_json_object_is_malformed() {
        let transcript = Transcript::new();
        let mut decoder = Decoder::new("p", &transcript);
        for payload in ["", "nonsense", "{\"type\":", "[1]", "[]", "7"] {
            assert!(matches!(decoder.event("", payload, &mut Told::default()), Frame::Malformed), "{payload}");
        }
    }

    #[test]
    fn an_answer_begun_anew_replaces_the_first_and_one_said_twice_does_not() {
        let text = r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":"one"}}"#;
        let second = START.replace("\"m\"", "\"n\"");
        let other = text.replace("one", "two");
        let (answer, told) = read(&[START, START, text, &second, &other, END, STOP]);
        assert_eq!(answer.parts, [Part::text("two")]);
        assert_eq!(told.warnings, ["answer_restarted"]);
        assert_eq!(read(&[START, START, text, END, STOP]).1.warnings.len(), 0);
    }

    #[test]
    fn stop_reasons_are_mapped_and_the_odd_ones_told() {
        for (reason, finish, warning) in [
            ("end_turn", FinishReason::Stop, None),
            ("stop_sequence", FinishReason::Stop, None),
            ("max_tokens", FinishReason::MaxTokens, None),
            ("pause_turn", FinishReason::Stop, Some("pause_turn")),
            ("refusal", FinishReason::Refusal, Some("refusal")),
            ("model_context_window_exceeded", FinishReason::MaxTokens, Some("context_window_exceeded")),
            ("tool_use", FinishReason::Stop, None),
        ] {
            let end = format!(
                r#"{{"type":"message_delta","delta":{{"stop_reason":"{reason}","stop_details":{{"explanation":"no"}}}}}}"#
            );
            let (answer, told) = read(&[START, &end, STOP]);
            assert_eq!((answer.finish_reason, told.warnings.first().map(String::as_str)), (finish, warning));
        }
    }

    #[test]
    fn a_whole_message_is_read_too() {
        let (answer, told) = read(&[r#"{"id":"m","type":"message","role":"assistant","model":"claude","content":[
                {"type":"thinking","thinking":"hm","signature":"s"},{"type":"text","text":"hi","citations":null},
                {"type":"tool_use","id":"a","name":"add","input":{"x":1}}],
                "stop_reason":"tool_use","stop_sequence":null,"usage":{"input_tokens":5,"output_tokens":6}}"#]);
        assert_eq!(answer.parts.len(), 3);
        assert_eq!(answer.parts[1], Part::text("hi"));
        assert_eq!((told.text.as_str(), told.reasoning.as_str(), told.calls[0].2.as_str()), ("hi", "hm", r#"{"x":1}"#));
        assert_eq!((answer.finish_reason, answer.usage.output_tokens), (FinishReason::ToolCalls, 6));
    }
}
