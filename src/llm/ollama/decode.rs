//! Lines of an answer → deltas and [`Parts`]. Pure: no I/O, no clock.
//!
//! Source: Ollama API reference, "Generate a chat completion". A whole (not streamed) answer is a line like the last one.
//! The end is `done: true`.

use super::FAMILY;
use crate::llm::frame::object;
use crate::llm::lenient::{Count, Few, Flag, Text, or_default};
use crate::llm::{BlockId, DeltaSink, Frame, ModelAnswer, Parts};
use crate::types::{FinishReason, Transcript, Usage};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Reads one answer.
pub struct Decoder<'a> {
    provider: &'a str,
    parts: Parts<'a>,
    /// The text or the reasoning that the next line continues.
    growing: Option<Growing>,
    is_finished: bool,
}

#[derive(Clone, Copy)]
struct Growing {
    block: BlockId,
    is_thinking: bool,
}

impl<'a> Decoder<'a> {
    /// A decoder for one answer, which will be appended to `transcript`.
    pub fn new(provider: &'a str, transcript: &'a Transcript) -> Self {
        Self { provider, parts: Parts::new(FAMILY, transcript), growing: None, is_finished: false }
    }

    /// Takes one line. Lines have no name.
    pub fn event(&mut self, _: &str, data: &str, sink: &mut dyn DeltaSink) -> Frame {
        if self.is_finished {
            return Frame::Done;
        }
        if data.trim().is_empty() {
            return Frame::Alive;
        }
        let Some(line) = object::<Line<'_>>(data) else {
            return Frame::not_an_object(data, self.provider);
        };
        if line.error.is_some_and(|error| error.get() != "\"\"") {
            return Frame::failed(data, self.provider);
        }
        self.parts.model(&line.model);
        self.grow(&line.message.thinking, true, sink);
        self.grow(&line.message.content, false, sink);
        for call in line.message.tool_calls.iter() {
            self.growing = None;
            let block = self.parts.open_call(&call.id, &call.function.name, sink);
            if let Some(arguments) = call.function.arguments {
                self.parts.append(block, &arguments_text(arguments), sink);
            }
        }
        if !line.done.0 {
            return if line.says_nothing() { Frame::Foreign } else { Frame::Taken };
        }
        self.parts.usage(Usage {
            // Absent where the whole prompt was cached: the server does not tell how long it was.
            input_tokens: line.prompt_eval_count.get(),
            output_tokens: line.eval_count.get(),
            ..Usage::default()
        });
        self.parts.finish(match &*line.done_reason {
            "length" => FinishReason::MaxTokens,
            _ => FinishReason::Stop,
        });
        self.is_finished = true;
        Frame::Done
    }

    /// Whether the last line was there.
    pub fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// The whole answer.
    pub fn finish(self, sink: &mut dyn DeltaSink) -> ModelAnswer {
        self.parts.into_answer(sink)
    }

    fn grow(&mut self, piece: &str, is_thinking: bool, sink: &mut dyn DeltaSink) {
        if piece.is_empty() {
            return;
        }
        let block = match self.growing.filter(|growing| growing.is_thinking == is_thinking) {
            Some(growing) => growing.block,
            None if is_thinking => self.parts.open_reasoning(),
            None => self.parts.open_text(),
        };
        self.growing = Some(Growing { block, is_thinking });
        self.parts.append(block, piece, sink);
    }
}

/// Arguments are an object; gateways send a string of JSON.
fn arguments_text(raw: &RawValue) -> Cow<'_, str> {
    match raw.get() {
        "null" => Cow::Borrowed(""),
        text if text.starts_with('"') => serde_json::from_str::<Text<'_>>(text).map(|text| text.0).unwrap_or_default(),
        object => Cow::Borrowed(object),
    }
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, default)]
    model: Text<'a>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    message: Message<'a>,
    #[serde(default)]
    done: Flag,
    #[serde(borrow, default)]
    done_reason: Text<'a>,
    #[serde(default)]
    prompt_eval_count: Count,
    #[serde(default)]
    eval_count: Count,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

impl Line<'_> {
    /// Whether it has nothing that a line of this API has.
    fn says_nothing(&self) -> bool {
        let Message { content, thinking, tool_calls } = &self.message;
        self.model.is_empty() && content.is_empty() && thinking.is_empty() && tool_calls.iter().next().is_none()
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Message<'a> {
    #[serde(borrow)]
    content: Text<'a>,
    #[serde(borrow)]
    thinking: Text<'a>,
    #[serde(borrow)]
    tool_calls: Few<Call<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Call<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow, deserialize_with = "or_default")]
    function: Function<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Function<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::testing::Told;
    use crate::types::{Category, Part, Status};
    use pretty_assertions::assert_eq;

    fn read(lines: &[&str]) -> (ModelAnswer, Told) {
        let transcript = Transcript::new();
        let (mut decoder, mut told) = (Decoder::new("p", &transcript), Told::default());
        for line in lines {
            let frame = decoder.event("", line, &mut told);
            assert!(matches!(frame, Frame::Taken | Frame::Alive | Frame::Done), "{frame:?}: {line}");
        }
        assert!(decoder.is_finished());
        (decoder.finish(&mut told), told)
    }

    const DONE: &str = r#"{"model":"qwen","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","prompt_eval_count":10,"eval_count":7}"#;

    #[test]
    fn lines_make_an_answer() {
        let (answer, told) = read(&[
            r#"{"model":"qwen","created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":"","thinking":"I "},"done":false}"#,
            r#"{"model":"qwen","message":{"role":"assistant","content":"","thinking":"think"},"done":false}"#,
            "",
            r#"{"model":"qwen","message":{"role":"assistant","content":"A"},"done":false}"#,
            r#"{"model":"qwen","message":{"role":"assistant","content":"B\n"},"done":false}"#,
            r#"{"model":"qwen","message":{"role":"assistant","content":"","tool_calls":[{"function":{"index":0,"name":"add","arguments":{"x": 1.0}}},{"id":"c9","function":{"name":"add","arguments":"{\"x\":2}"}}]},"done":false}"#,
            r#"{"message":{"tool_calls":[{"function":{"name":"now"}}]}}"#,
            DONE,
            "{\"after\":\"the end\"}",
        ]);
        let [thought, text, calls @ ..] = answer.parts.as_slice() else { panic!("{:?}", answer.parts) };
        assert_eq!((thought, text), (&Part::reasoning("I think"), &Part::text("AB\n")));
        let calls: Vec<_> = calls
            .iter()
            .map(|part| part.as_tool_call().map(|call| (call.id.as_str(), call.arguments.as_str())).unwrap())
            .collect();
        assert_eq!(calls, [("call_3", r#"{"x": 1.0}"#), ("c9", r#"{"x":2}"#), ("call_5", "{}")]);
        assert_eq!((told.text.as_str(), told.reasoning.as_str()), ("AB\n", "I think"));
        assert_eq!(told.calls[0].2, r#"{"x": 1.0}"#);
        assert_eq!((answer.usage.input_tokens, answer.usage.output_tokens), (10, 7));
        assert_eq!((answer.finish_reason, answer.model.as_str()), (FinishReason::ToolCalls, "qwen"));
    }

    #[test]
    fn the_end_is_told() {
        let cut = DONE.replace("\"stop\"", "\"length\"").replace("\"prompt_eval_count\":10,", "");
        let (answer, _) = read(&[&cut]);
        assert_eq!((answer.finish_reason, answer.usage.input_tokens), (FinishReason::MaxTokens, 0));
        let old = DONE.replace(",\"done_reason\":\"stop\"", "");
        assert_eq!(read(&[&old]).0.finish_reason, FinishReason::Stop);
        let transcript = Transcript::new();
        let mut decoder = Decoder::new("p", &transcript);
        decoder.event("", r#"{"message":{"content":"A"},"done":false}"#, &mut Told::default());
        assert!(!decoder.is_finished());
    }

    #[test]
    fn a_whole_answer_is_read_too() {
        let (answer, _) = read(&[&DONE.replace("\"content\":\"\"", "\"content\":\"hi\",\"thinking\":\"hm\"")]);
        assert_eq!(answer.parts, [Part::reasoning("hm"), Part::text("hi")]);
    }

    #[test]
    fn an_error_line_is_a_failure() {
        let transcript = Transcript::new();
        let mut told = Told::default();
        let mut event = |line: &str| Decoder::new("p", &transcript).event("", line, &mut told);
        let Frame::Failed(error) = event(r#"{"error":"an error was encountered while running the model"}"#) else {
            panic!("no failure")
        };
        assert_eq!((error.status(), error.category()), (Status::Provider, Category::ExternalFailure));
        assert!(error.message().contains("while running the model"));
        assert!(matches!(event("nonsense"), Frame::Malformed));
        assert!(matches!(event(r#"[{"error":"x"}]"#), Frame::Failed(_)));
    }
}
