//! What a hostile model server may send: work and memory grow with what it sends, and with nothing else.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use par::llm::{
    Assembler, DeltaSink, Frame, ModelAnswer, SseReader, anthropic, gemini, ollama, openai_chat, openai_responses,
};
use par::types::{Error, Part, ToolCall, ToolCallId, ToolResult, Transcript};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Map, Value};

/// How many pieces the smaller answer has.
const SOME: usize = 4_000;
/// How many times that the larger one has.
const TIMES: usize = 8;

/// Runs work for two sizes of an answer. The larger one may take three times as much for each piece, which leaves room for
/// caches and allocators; work that grows with the square takes eight times as much. Other processes do not count: the
/// thread's own time is measured, and the best of some tries counts.
fn is_linear(mut work: impl FnMut(usize)) {
    let mut time = |size: usize| {
        let now = || {
            let now = clock_gettime(ClockId::ThreadCPUTime);
            now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
        };
        let began = now();
        work(size);
        now() - began
    };
    let mut ratios = Vec::new();
    for _ in 0..3 {
        let (small, large) = (time(SOME), time(SOME * TIMES));
        let ratio = large / small / TIMES as f64;
        if ratio < 3.0 {
            return;
        }
        ratios.push(ratio);
    }
    panic!("a piece of a large answer costs {ratios:?} times as much as one of a small answer");
}

macro_rules! decoders {
    ($($name:ident: $family:ident;)*) => {
        $(fn $name(events: impl IntoIterator<Item = String>) -> ModelAnswer {
            let transcript = Transcript::new();
            let mut decoder = $family::Decoder::new("p", &transcript);
            for event in events {
                if let Frame::Failed(error) = decoder.event("", &event, &mut Deaf) {
                    panic!("{error}: {event}");
                }
            }
            decoder.finish(&mut Deaf)
        })*
    };
}

decoders! {
    claude: anthropic;
    google: gemini;
    responses: openai_responses;
    llama: ollama;
}

fn chat(events: impl IntoIterator<Item = String>) -> ModelAnswer {
    let transcript = Transcript::new();
    let mut assembler = Assembler::new(&transcript);
    for event in events {
        openai_chat::decode(&event, "p", &mut assembler, &mut Deaf);
    }
    assembler.into_answer(&mut Deaf)
}

fn calls(answer: &ModelAnswer) -> usize {
    answer.parts.iter().filter(|part| part.as_tool_call().is_some()).count()
}

#[test]
fn unknown_parts_in_one_chunk_of_gemini() {
    is_linear(|many| {
        let part = r#"{"executableCode":{"code":"x"}}"#;
        let parts = vec![part; many].join(",");
        let answer = google([format!(r#"{{"candidates":[{{"content":{{"parts":[{parts}]}}}}]}}"#)]);
        assert_eq!(answer.parts.len(), many);
        assert!(matches!(answer.parts.last(), Some(Part::Opaque(opaque)) if opaque.data == part));
    });
}

#[test]
fn gaps_in_partial_arguments_of_gemini() {
    let call = |pieces: &str| {
        format!(
            r#"{{"candidates":[{{"content":{{"parts":[{{"functionCall":{{"name":"f","willContinue":true,"partialArgs":[{pieces}]}}}}]}}}}]}}"#
        )
    };
    let pieces: Vec<_> = (0..200)
        .map(|number| format!(r#"{{"jsonPath":"$.a{number}{}","numberValue":1}}"#, "[250]".repeat(40)))
        .collect();
    let sent = call(&pieces.join(","));
    let length = sent.len();
    let answer = google([sent]);
    let built = answer.parts[0].as_tool_call().unwrap().arguments.len();
    assert!(built < length, "{length} bytes made {built}");
}

#[test]
fn a_chat_server_that_repeats_the_name_of_a_tool() {
    let piece = |arguments: &str| {
        let arguments = Value::from(arguments);
        format!(
            r#"{{"choices":[{{"delta":{{"tool_calls":[{{"function":{{"name":"f","arguments":{arguments}}}}}]}}}}]}}"#
        )
    };
    is_linear(|many| {
        let long = "x".repeat(20);
        let pieces = (0..many).map(|_| piece(&long));
        let answer = chat([piece("[\"")].into_iter().chain(pieces));
        assert_eq!(calls(&answer), 1);
        // Whole arguments are another call each.
        let answer = chat((0..many).map(|_| piece("{}")));
        assert_eq!(calls(&answer), many);
    });
}

#[test]
fn many_calls_of_a_chat_server() {
    is_linear(|many| {
        let piece = |index: usize, id: &str| {
            format!(
                r#"{{"choices":[{{"delta":{{"tool_calls":[{{"index":{index},"id":"{id}","function":{{"name":"f","arguments":""}}}}]}}}}]}}"#
            )
        };
        // Ids in the way of those that are made up, then calls without an id.
        let given = (0..many).map(|number| piece(number, &format!("call_{}", many + number)));
        let blank = (many..2 * many).map(|number| piece(number, ""));
        assert_eq!(calls(&chat(given.chain(blank))), 2 * many);
        // By the id alone.
        let by_id = |number: usize| {
            format!(r#"{{"choices":[{{"delta":{{"tool_calls":[{{"id":"i{number}","function":{{"name":"f"}}}}]}}}}]}}"#)
        };
        assert_eq!(calls(&chat((0..2 * many).map(|number| by_id(number % many)))), many);
    });
}

#[test]
fn reasoning_details_with_ever_new_fields() {
    is_linear(|many| {
        let details = (0..many).map(|number| {
            format!(
                r#"{{"choices":[{{"delta":{{"reasoning_details":[{{"type":"reasoning.text","text":"","f{number}":1}}]}}}}]}}"#
            )
        });
        assert_eq!(chat(details).parts.len(), 1);
    });
}

#[test]
fn blocks_of_anthropic_that_never_stop() {
    is_linear(|many| {
        let begin = |number: usize| {
            format!(r#"{{"type":"content_block_start","index":{number},"content_block":{{"type":"text","text":"a"}}}}"#)
        };
        let more = |_: usize| {
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"b"}}"#.to_owned()
        };
        let answer = claude((0..many).map(begin).chain((0..many).map(more)));
        assert_eq!(answer.parts.len(), many);
        assert_eq!(answer.parts[0].as_text().map(str::len), Some(many + 1));
    });
}

#[test]
fn calls_of_anthropic_with_one_id() {
    is_linear(|many| {
        let call = |number: usize| {
            format!(
                r#"{{"type":"content_block_start","index":{number},"content_block":{{"type":"tool_use","id":"a","name":"f","input":{{}}}}}}"#
            )
        };
        assert_eq!(calls(&claude((0..many).map(call))), many);
    });
}

#[test]
fn deltas_of_anthropic_with_ever_new_fields() {
    is_linear(|many| {
        let start = r#"{"type":"content_block_start","index":0,"content_block":{"type":"new"}}"#.to_owned();
        let more = |number: usize| {
            format!(r#"{{"type":"content_block_delta","index":0,"delta":{{"type":"new_delta","f{number}":1}}}}"#)
        };
        assert_eq!(claude([start].into_iter().chain((0..many).map(more))).parts.len(), 1);
    });
}

#[test]
fn many_items_of_responses() {
    is_linear(|many| {
        let item = |number: usize| {
            format!(
                r#"{{"type":"response.output_item.done","output_index":{number},"item":{{"type":"function_call","id":"i{number}","call_id":"c","name":"f","arguments":"{{}}"}}}}"#
            )
        };
        let more =
            |_: usize| r#"{"type":"response.function_call_arguments.delta","output_index":0,"delta":" "}"#.to_owned();
        assert_eq!(calls(&responses((0..many).map(item).chain((0..many).map(more)))), many);
        let unindexed = |number: usize| {
            format!(
                r#"{{"type":"response.output_item.added","item":{{"type":"message","id":"i{number}","content":[]}}}}"#
            )
        };
        let words =
            |number: usize| format!(r#"{{"type":"response.output_text.delta","item_id":"i{number}","delta":"a"}}"#);
        assert_eq!(responses((0..many).map(unindexed).chain((0..many).map(words))).parts.len(), many);
    });
}

#[test]
fn signed_thoughts_and_stops_of_gemini() {
    is_linear(|many| {
        let thought = |_: usize| {
            r#"{"candidates":[{"content":{"parts":[{"text":"a","thought":true,"thoughtSignature":"s"}]}}]}"#.to_owned()
        };
        let stop =
            |_: usize| r#"{"candidates":[{"content":{"parts":[{"text":"b"}]},"finishReason":"STOP"}]}"#.to_owned();
        assert_eq!(google((0..many).map(thought).chain((0..many).map(stop))).parts.len(), many + 1);
    });
}

#[test]
fn many_calls_of_ollama() {
    is_linear(|many| {
        let call = |_: usize| r#"{"message":{"tool_calls":[{"function":{"name":"f","arguments":{}}}]}}"#.to_owned();
        assert_eq!(calls(&llama((0..many).map(call))), many);
    });
}

#[test]
fn a_line_that_comes_byte_by_byte() {
    is_linear(|many| {
        let text: String = (0..many).map(|number| format!("data: {number}\n")).collect();
        let mut reader = SseReader::new();
        for byte in text.bytes() {
            reader.push(&[byte]);
            assert_eq!(reader.next_event(), Ok(None));
        }
        assert!(reader.finish().unwrap().is_some());
        let mut reader = SseReader::new();
        for _ in 0..many * 10 {
            reader.push(b"x");
            assert_eq!(reader.next_event(), Ok(None));
        }
    });
}

#[test]
fn many_calls_of_one_answer_in_a_conversation() {
    is_linear(|many| {
        let call = |number: usize| {
            Part::ToolCall(ToolCall {
                id: format!("c{number}").as_str().into(),
                name: "f".into(),
                arguments: "{}".into(),
                opaque: None,
            })
        };
        let mut transcript = Transcript::new();
        transcript.push_user(vec![Part::text("go")]).unwrap();
        transcript.push_assistant((0..many).map(call).collect()).unwrap();
        for number in (0..many).rev() {
            transcript.answer(&format!("c{number}").as_str().into(), ToolResult::ok("x")).unwrap();
        }
        let entries = transcript.take_changes().unwrap().entries;
        let again = Transcript::from_entries(entries.iter().map(String::as_str)).unwrap();
        assert_eq!(again.len(), many + 2);
    });
}

/// Hears nothing.
struct Deaf;

impl DeltaSink for Deaf {
    fn text(&mut self, _: &str) {}

    fn reasoning(&mut self, _: &str) {}

    fn tool_call_start(&mut self, _: &ToolCallId, _: &str) {}

    fn tool_call_delta(&mut self, _: &ToolCallId, _: &str) {}

    fn warning(&mut self, _: &str, _: &str) {}

    fn rate_limit(&mut self, _: &str, _: Map<String, Value>) {}

    fn retrying(&mut self, _: u32, _: u64, _: &Error) {}

    fn has_emitted(&self) -> bool {
        false
    }

    fn is_ready(&self) -> bool {
        true
    }

    fn is_holding(&self) -> bool {
        false
    }

    fn ready(&mut self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}
