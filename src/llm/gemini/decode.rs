//! Chunks of an answer → deltas and [`Parts`]. Pure: no I/O, no clock.
//!
//! Source: Gemini API reference, `GenerateContentResponse`. A whole (not streamed) answer is a chunk like any other.
//! Text and thoughts grow until a signed part: what is signed stands alone, where it stood. Usage is cumulative but
//! figures vanish in later chunks, so a zero never replaces one. The end is a finish reason.

use super::FAMILY;
use super::partial_args::{PartialArg, PartialArgs};
use crate::llm::frame::object;
use crate::llm::lenient::{Count, Few, Flag, MaybeText, Skipped, Text, or_default};
use crate::llm::{BlockId, DeltaSink, Frame, ModelAnswer, Parts};
use crate::types::{Category, Error, FinishReason, Media, MediaSource, ProviderDetail, Status, Transcript, Usage};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Reads one answer.
pub struct Decoder<'a> {
    provider: &'a str,
    parts: Parts<'a>,
    /// The text or thought that the next one of its kind continues.
    growing: Option<Growing>,
    /// The call whose arguments still arrive, and what they are so far.
    calling: Option<(BlockId, PartialArgs)>,
    usage: WireUsage,
}

#[derive(Clone, Copy)]
struct Growing {
    block: BlockId,
    is_thought: bool,
}

impl<'a> Decoder<'a> {
    /// A decoder for one answer, which will be appended to `transcript`.
    pub fn new(provider: &'a str, transcript: &'a Transcript) -> Self {
        Self {
            provider,
            parts: Parts::new(FAMILY, transcript),
            growing: None,
            calling: None,
            usage: WireUsage::default(),
        }
    }

    /// Takes one chunk. Events of this API have no name.
    pub fn event(&mut self, _: &str, data: &str, sink: &mut dyn DeltaSink) -> Frame {
        let Some(chunk) = object::<Chunk<'_>>(data) else {
            // The API has no such word, but gateways do. Before a finish reason it is no end.
            return match data.starts_with("[DONE]") {
                true if self.is_finished() => Frame::Done,
                true => Frame::Alive,
                false => Frame::not_an_object(data, self.provider),
            };
        };
        if chunk.error.is_some() {
            return Frame::failed(data, self.provider);
        }
        self.parts.model(&chunk.model_version);
        self.usage.merge(&chunk.usage_metadata);
        if let Some(candidate) = chunk.candidates.iter().next() {
            for RawPart { part, raw } in candidate.content.parts.iter() {
                self.part(part, raw, sink);
            }
            if !candidate.finish_reason.is_empty() {
                return self.end(&candidate.finish_reason, &candidate.finish_message, sink);
            }
        } else if !chunk.prompt_feedback.block_reason.is_empty() {
            return Frame::Failed(self.blocked(&chunk.prompt_feedback));
        } else if chunk.model_version.is_empty() && chunk.usage_metadata.prompt_token_count.0.is_none() {
            return Frame::Foreign;
        }
        Frame::Taken
    }

    /// Whether the model said why it stopped.
    pub fn is_finished(&self) -> bool {
        self.parts.has_finish_reason()
    }

    /// The whole answer.
    pub fn finish(mut self, sink: &mut dyn DeltaSink) -> ModelAnswer {
        self.close_call(sink);
        self.parts.usage(self.usage.total());
        self.parts.into_answer(sink)
    }

    fn part(&mut self, part: &Part<'_>, raw: &RawValue, sink: &mut dyn DeltaSink) {
        let signature = part.thought_signature.0.as_deref().filter(|signature| !signature.is_empty());
        if let Some(call) = part.function_call {
            self.growing = None;
            let call: FunctionCall<'_> = object(call.get()).unwrap_or_default();
            self.call(&call, signature, sink);
        } else if let Some(text) = &part.text.0 {
            if !text.is_empty() || signature.is_some() {
                self.close_call(sink);
                self.text(text, part.thought.0, signature, sink);
            }
        } else if part.thought.0 && !part.inline_data.data.is_empty() {
            // A draft of an image, made while thinking.
        } else {
            self.close_call(sink);
            self.growing = None;
            match media(&part.inline_data).filter(|_| signature.is_none()) {
                Some(media) => {
                    self.parts.push(media);
                }
                None => {
                    self.parts.push_opaque(raw.get());
                }
            }
        }
    }

    fn text(&mut self, text: &str, is_thought: bool, signature: Option<&str>, sink: &mut dyn DeltaSink) {
        let growing = self.growing.filter(|growing| growing.is_thought == is_thought && signature.is_none());
        let block = growing.map_or_else(
            || if is_thought { self.parts.open_reasoning() } else { self.parts.open_text() },
            |growing| growing.block,
        );
        self.parts.append(block, text, sink);
        if let Some(signature) = signature {
            self.parts.attach(block, Some(signed(signature, None)));
        }
        self.growing = signature.is_none().then_some(Growing { block, is_thought });
    }

    fn call(&mut self, call: &FunctionCall<'_>, signature: Option<&str>, sink: &mut dyn DeltaSink) {
        if !call.name.is_empty() {
            self.close_call(sink);
            let block = self.parts.open_call(&call.id, &call.name, sink);
            let id = Some(&*call.id).filter(|id| !id.is_empty());
            self.parts
                .attach(block, (signature.is_some() || id.is_some()).then(|| signed(signature.unwrap_or(""), id)));
            if let Some(args) = call.args.filter(|args| args.get() != "null") {
                self.parts.append(block, args.get(), sink);
            }
            if call.will_continue.0 || call.partial_args.iter().next().is_some() {
                self.calling = Some((block, PartialArgs::default()));
            }
        }
        let Some((_, arguments)) = &mut self.calling else { return };
        let mut misplaced = false;
        for piece in call.partial_args.iter() {
            let piece: PartialArg<'_> = object(piece.get()).unwrap_or_default();
            misplaced |= !arguments.put(piece);
        }
        if misplaced {
            sink.warning("misplaced_argument", "a piece of a tool call's arguments has no place in them");
        }
        if !call.will_continue.0 {
            self.close_call(sink);
        }
    }

    /// The arguments that came in pieces are whole.
    fn close_call(&mut self, sink: &mut dyn DeltaSink) {
        if let Some((block, arguments)) = self.calling.take()
            && self.parts.is_blank(block)
        {
            self.parts.append(block, &arguments.to_string(), sink);
        }
    }

    fn end(&mut self, reason: &str, message: &str, sink: &mut dyn DeltaSink) -> Frame {
        let finish = match reason {
            "MAX_TOKENS" => FinishReason::MaxTokens,
            "SAFETY"
            | "RECITATION"
            | "LANGUAGE"
            | "BLOCKLIST"
            | "PROHIBITED_CONTENT"
            | "SPII"
            | "IMAGE_SAFETY"
            | "IMAGE_PROHIBITED_CONTENT"
            | "IMAGE_RECITATION" => FinishReason::ContentFilter,
            "MALFORMED_FUNCTION_CALL" | "UNEXPECTED_TOOL_CALL" => {
                let words = format!("the model's tool call could not be read ({reason}) {message}");
                return Frame::Failed(self.failed("malformed_function_call", words.trim_end(), reason));
            }
            "STOP" => FinishReason::Stop,
            "FINISH_REASON_UNSPECIFIED" => return Frame::Taken,
            other => {
                sink.warning("finish_reason", &format!("the model stopped because of {other:?} {message}"));
                FinishReason::Stop
            }
        };
        if finish == FinishReason::Stop && !self.parts.has_content() {
            return Frame::Failed(self.failed("empty_answer", "the model stopped without an answer", reason));
        }
        self.parts.finish(finish);
        Frame::Taken
    }

    /// Something that another attempt may mend.
    fn failed(&self, code: &'static str, message: &str, reason: &str) -> Error {
        Error::new(Status::Provider, format!("the provider {:?}: {message}", self.provider))
            .with_code(code)
            .with_retryable(true)
            .with_hint("the call may be repeated")
            .with_provider(self.detail(reason, message))
    }

    fn blocked(&self, feedback: &PromptFeedback<'_>) -> Error {
        let (reason, said) = (&*feedback.block_reason, &*feedback.block_reason_message);
        let message = format!("the provider {:?} blocked the prompt ({reason}) {said}", self.provider);
        Error::new(Status::ContentFilter, message.trim_end())
            .with_category(Category::ContentFilter)
            .with_code("blocked_prompt")
            .with_hint("change what is asked; the same prompt will be blocked again")
            .with_provider(self.detail(reason, said))
    }

    fn detail(&self, code: &str, message: &str) -> ProviderDetail {
        ProviderDetail {
            provider: self.provider.to_owned(),
            code: Some(code.to_owned()),
            message: Some(message.to_owned()).filter(|message| !message.is_empty()),
            ..ProviderDetail::default()
        }
    }
}

/// What must stand on a part when it goes back: its signature, and the id of a call where the server gave one.
fn signed(signature: &str, id: Option<&str>) -> String {
    let mut data = Map::new();
    if !signature.is_empty() {
        data.insert("thoughtSignature".into(), signature.into());
    }
    if let Some(id) = id {
        data.insert("id".into(), id.into());
    }
    Value::Object(data).to_string()
}

/// An image or a recording that the model made.
fn media(inline: &InlineData<'_>) -> Option<crate::types::Part> {
    use crate::types::Part;
    let kind = match inline.mime_type.split_once('/')?.0 {
        "image" => Part::Image,
        "audio" => Part::Audio,
        _ => return None,
    };
    let source = MediaSource::Data { media_type: inline.mime_type.to_string(), data: (*inline.data).into() };
    (!inline.data.is_empty()).then(|| kind(Media { source, name: None }))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Chunk<'a> {
    #[serde(borrow, default)]
    candidates: Few<Candidate<'a>>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    prompt_feedback: PromptFeedback<'a>,
    #[serde(default, deserialize_with = "or_default")]
    usage_metadata: WireUsage,
    #[serde(borrow, default)]
    model_version: Text<'a>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PromptFeedback<'a> {
    #[serde(borrow)]
    block_reason: Text<'a>,
    #[serde(borrow)]
    block_reason_message: Text<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Candidate<'a> {
    #[serde(borrow, default, deserialize_with = "or_default")]
    content: Content<'a>,
    #[serde(borrow, default)]
    finish_reason: Text<'a>,
    #[serde(borrow, default)]
    finish_message: Text<'a>,
    // In every chunk, and nested.
    #[serde(default, rename = "safetyRatings")]
    _safety: Skipped,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Content<'a> {
    #[serde(borrow)]
    parts: Few<RawPart<'a>>,
}

/// A part and its JSON, which goes back as it came where nothing here understands it.
struct RawPart<'a> {
    part: Part<'a>,
    raw: &'a RawValue,
}

impl<'de: 'a, 'a> Deserialize<'de> for RawPart<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        let part = object(raw.get()).ok_or_else(|| D::Error::custom("a part is an object"))?;
        Ok(Self { part, raw })
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Part<'a> {
    #[serde(borrow)]
    text: MaybeText<'a>,
    thought: Flag,
    #[serde(borrow)]
    thought_signature: MaybeText<'a>,
    #[serde(borrow)]
    function_call: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "or_default")]
    inline_data: InlineData<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct InlineData<'a> {
    #[serde(borrow)]
    mime_type: Text<'a>,
    #[serde(borrow)]
    data: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct FunctionCall<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    args: Option<&'a RawValue>,
    #[serde(borrow)]
    partial_args: Few<&'a RawValue>,
    will_continue: Flag,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireUsage {
    prompt_token_count: Count,
    cached_content_token_count: Count,
    tool_use_prompt_token_count: Count,
    candidates_token_count: Count,
    thoughts_token_count: Count,
    // In every chunk, and nested.
    #[serde(rename = "promptTokensDetails")]
    _prompt: Skipped,
    #[serde(rename = "candidatesTokensDetails")]
    _candidates: Skipped,
    #[serde(rename = "cacheTokensDetails")]
    _cache: Skipped,
}

impl WireUsage {
    fn merge(&mut self, newer: &Self) {
        let merge = |old: &mut Count, new: Count| {
            if new.get() > 0 {
                *old = new;
            }
        };
        merge(&mut self.prompt_token_count, newer.prompt_token_count);
        merge(&mut self.cached_content_token_count, newer.cached_content_token_count);
        merge(&mut self.tool_use_prompt_token_count, newer.tool_use_prompt_token_count);
        merge(&mut self.candidates_token_count, newer.candidates_token_count);
        merge(&mut self.thoughts_token_count, newer.thoughts_token_count);
    }

    /// What was cached is part of the prompt; thoughts are not part of the candidates, nor what tools of the provider
    /// read part of the prompt.
    fn total(&self) -> Usage {
        let (cached, thoughts) = (self.cached_content_token_count.get(), self.thoughts_token_count.get());
        let prompt = self.prompt_token_count.get().saturating_add(self.tool_use_prompt_token_count.get());
        Usage {
            input_tokens: prompt.saturating_sub(cached),
            output_tokens: self.candidates_token_count.get().saturating_add(thoughts),
            cache_read_tokens: cached,
            cache_write_tokens: 0,
            reasoning_tokens: thoughts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::testing::Told;
    use crate::types::{Opaque, Part};
    use pretty_assertions::assert_eq;

    fn read(events: &[&str]) -> (ModelAnswer, Told) {
        let transcript = Transcript::new();
        let (mut decoder, mut told) = (Decoder::new("p", &transcript), Told::default());
        for event in events {
            let frame = decoder.event("", event, &mut told);
            assert!(matches!(frame, Frame::Taken), "{frame:?}: {event}");
        }
        assert!(decoder.is_finished());
        (decoder.finish(&mut told), told)
    }

    fn failure(events: &[&str]) -> Error {
        let transcript = Transcript::new();
        let (mut decoder, mut told) = (Decoder::new("p", &transcript), Told::default());
        for event in events {
            if let Frame::Failed(error) = decoder.event("", event, &mut told) {
                return error;
            }
        }
        panic!("no failure");
    }

    fn chunk(parts: &str) -> String {
        format!(r#"{{"candidates":[{{"content":{{"role":"model","parts":[{parts}]}}}}],"modelVersion":"gemini"}}"#)
    }

    fn end(reason: &str) -> String {
        format!(r#"{{"candidates":[{{"finishReason":"{reason}"}}]}}"#)
    }

    fn opaque(data: &str) -> Option<Box<Opaque>> {
        Some(Box::new(Opaque { family: "gemini".into(), data: data.into() }))
    }

    #[test]
    fn what_is_signed_stands_alone() {
        let (answer, told) = read(&[
            &chunk(r#"{"text":"I ","thought":true}"#),
            &chunk(r#"{"text":"think","thought":true},{"text":"A"}"#),
            &chunk(r#"{"text":""}"#),
            &chunk(r#"{"text":"B"}"#),
            &chunk(r#"{"text":"C","thoughtSignature":"s/1=="}"#),
            &chunk(r#"{"text":"D"}"#),
            &chunk(r#"{"text":"","thoughtSignature":"s2"}"#),
            &end("STOP"),
        ]);
        assert_eq!(
            answer.parts,
            [
                Part::reasoning("I think"),
                Part::text("AB"),
                Part::Text { text: "C".into(), opaque: opaque(r#"{"thoughtSignature":"s/1=="}"#) },
                Part::text("D"),
                Part::Text { text: String::new(), opaque: opaque(r#"{"thoughtSignature":"s2"}"#) },
            ]
        );
        assert_eq!((told.text.as_str(), told.reasoning.as_str()), ("ABCD", "I think"));
        assert_eq!((answer.model.as_str(), answer.finish_reason), ("gemini", FinishReason::Stop));
    }

    #[test]
    fn calls_are_whole_and_get_an_id() {
        let (answer, told) = read(&[
            &chunk(r#"{"functionCall":{"name":"add","args":{"x": 1.0}},"thoughtSignature":"s"}"#),
            &chunk(r#"{"functionCall":{"name":"add","args":{"x": 2}}},{"functionCall":{"id":"f1","name":"now"}}"#),
            &end("STOP"),
        ]);
        let calls: Vec<_> = answer.parts.iter().filter_map(Part::as_tool_call).collect();
        let said: Vec<_> = calls.iter().map(|call| (call.id.as_str(), call.arguments.as_str())).collect();
        assert_eq!(said, [("call_1", r#"{"x": 1.0}"#), ("call_2", r#"{"x": 2}"#), ("f1", "{}")]);
        assert_eq!(calls[0].opaque, opaque(r#"{"thoughtSignature":"s"}"#));
        assert_eq!((&calls[1].opaque, &calls[2].opaque), (&None, &opaque(r#"{"id":"f1"}"#)));
        assert_eq!(told.calls[0].2, r#"{"x": 1.0}"#);
        assert_eq!(answer.finish_reason, FinishReason::ToolCalls);
    }

    #[test]
    fn arguments_in_pieces_make_one_call() {
        let (answer, _) = read(&[
            &chunk(r#"{"functionCall":{"name":"add","willContinue":true},"thoughtSignature":"s"}"#),
            &chunk(
                r#"{"functionCall":{"partialArgs":[{"jsonPath":"$.a","stringValue":"x","willContinue":true}],"willContinue":true}}"#,
            ),
            &chunk(r#"{"functionCall":{"partialArgs":[{"jsonPath":"$.a","stringValue":"y"}],"willContinue":true}}"#),
            &chunk(r#"{"functionCall":{}}"#),
            &chunk(r#"{"functionCall":{"name":"now","willContinue":true}}"#),
            &chunk(r#"{"text":"and"}"#),
            &end("STOP"),
        ]);
        let calls: Vec<_> =
            answer.parts.iter().filter_map(Part::as_tool_call).map(|call| call.arguments.as_str()).collect();
        assert_eq!(calls, [r#"{"a":"xy"}"#, "{}"]);
    }

    #[test]
    fn unknown_parts_are_kept_and_images_are_seen() {
        let code = r#"{"executableCode" : {"language":"PYTHON","code":"1 \u003c 2"},"thoughtSignature":"s"}"#;
        let (answer, _) = read(&[
            &chunk(r#"{"text":"A"}"#),
            &chunk(&format!(r#"{{"text":"B"}},{code}"#)),
            &chunk(r#"{"inlineData":{"mimeType":"image/png","data":"aGk="},"thought":true}"#),
            &chunk(r#"{"inlineData":{"mimeType":"image/png","data":"aGk="}}"#),
            &end("STOP"),
        ]);
        assert_eq!(answer.parts[0], Part::text("AB"));
        assert_eq!(answer.parts[1], Part::Opaque(Opaque { family: "gemini".into(), data: code.into() }));
        assert!(matches!(&answer.parts[2..], [Part::Image(_)]));
    }

    #[test]
    fn usage_merges_and_never_falls_back_to_nothing() {
        let usage = |figures: &str| format!(r#"{{"usageMetadata":{{{figures}}}}}"#);
        let (answer, _) = read(&[
            &usage(r#""promptTokenCount":10,"cachedContentTokenCount":4,"candidatesTokenCount":1"#),
            &usage(r#""promptTokenCount":"10","thoughtsTokenCount":7,"toolUsePromptTokenCount":2"#),
            &chunk(r#"{"text":"A"}"#),
            &end("STOP"),
            &usage(r#""promptTokenCount":0,"candidatesTokenCount":5,"thoughtsTokenCount":null"#),
        ]);
        let expected = Usage {
            input_tokens: 8,
            output_tokens: 12,
            cache_read_tokens: 4,
            cache_write_tokens: 0,
            reasoning_tokens: 7,
        };
        assert_eq!(answer.usage, expected);
    }

    #[test]
    fn finish_reasons_are_mapped() {
        for (reason, finish) in [
            ("STOP", FinishReason::Stop),
            ("MAX_TOKENS", FinishReason::MaxTokens),
            ("SAFETY", FinishReason::ContentFilter),
            ("RECITATION", FinishReason::ContentFilter),
            ("PROHIBITED_CONTENT", FinishReason::ContentFilter),
            ("SOMETHING_NEW", FinishReason::Stop),
        ] {
            let (answer, told) = read(&[&chunk(r#"{"text":"A"}"#), &end(reason)]);
            assert_eq!((answer.finish_reason, told.warnings.len()), (finish, usize::from(reason == "SOMETHING_NEW")));
        }
        assert_eq!(read(&[&end("SAFETY")]).0.parts, []);
    }

    #[test]
    fn a_blocked_prompt_an_empty_answer_and_a_malformed_call_are_failures() {
        let blocked =
            failure(&[r#"{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":1}}"#]);
        assert_eq!((blocked.status(), blocked.is_retryable()), (Status::ContentFilter, false));
        let empty = failure(&[&chunk(r#"{"text":""}"#), &end("STOP")]);
        assert_eq!((empty.code(), empty.is_retryable()), (Some("empty_answer"), true));
        let malformed = failure(&[&end("MALFORMED_FUNCTION_CALL")]);
        assert_eq!((malformed.code(), malformed.is_retryable()), (Some("malformed_function_call"), true));
    }

    #[test]
    fn errors_come_as_objects_and_as_arrays() {
        let error = r#"{"error":{"code":429,"message":"Quota","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"17s"}]}}"#;
        for payload in [error.to_owned(), format!("[{error}]"), format!("[\n{error}\n]")] {
            let error = failure(&[&payload]);
            assert_eq!((error.status(), error.retry_after_ms()), (Status::RateLimited, Some(17_000)));
        }
        let transcript = Transcript::new();
        let mut decoder = Decoder::new("p", &transcript);
        assert!(matches!(decoder.event("", "nonsense", &mut Told::default()), Frame::Malformed));
        assert!(matches!(decoder.event("", "[DONE]", &mut Told::default()), Frame::Alive));
        assert!(!decoder.is_finished());
        decoder.event("", &chunk(r#"{"text":"A"}"#), &mut Told::default());
        decoder.event("", &end("STOP"), &mut Told::default());
        assert!(matches!(decoder.event("", "[DONE]", &mut Told::default()), Frame::Done));
    }
}
