//! Replies of real providers, as they came over the wire: each must decode to what its payloads say, however it is cut.
//!
//! The recordings are not part of this repository. Where they are not beside the checkout the test says so and is done.

mod support;

use par::llm::openai_chat::decode;
use par::llm::{Assembler, Frame, ModelAnswer, SseReader};
use par::types::{FinishReason, Part, Transcript};
use pretty_assertions::assert_eq;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use support::told::Told;

fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (ModelAnswer, Told) {
    let transcript = Transcript::new();
    let mut assembler = Assembler::new(&transcript);
    let (mut reader, mut told) = (SseReader::new(), Told::default());
    for piece in pieces {
        reader.push(piece);
        while let Some(event) = reader.next_event().unwrap() {
            let frame = decode(&event.data, "recorded", &mut assembler, &mut told);
            assert!(matches!(frame, Frame::Taken | Frame::Foreign | Frame::Done), "{frame:?}: {}", event.data);
        }
    }
    assert!(assembler.is_finished(), "the recording has its end");
    (assembler.into_answer(&mut told), told)
}

/// What the payloads say, put together in the plainest way.
fn expected(payloads: &[Value]) -> (String, String, Vec<String>, Value) {
    let (mut text, mut reasoning, mut arguments, mut usage) = (String::new(), String::new(), Vec::new(), Value::Null);
    for payload in payloads {
        let delta = &payload["choices"][0]["delta"];
        match &delta["content"] {
            Value::String(piece) => text.push_str(piece),
            Value::Array(parts) => {
                for part in parts {
                    text.push_str(part["text"].as_str().unwrap_or_default());
                    for thought in part["thinking"].as_array().into_iter().flatten() {
                        reasoning.push_str(thought["text"].as_str().unwrap());
                    }
                }
            }
            _ => {}
        }
        for key in ["reasoning_content", "reasoning"] {
            reasoning.push_str(delta[key].as_str().unwrap_or_default());
        }
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            if call["id"].as_str().is_some_and(|id| !id.is_empty() && id != "null")
                && call["function"]["name"].is_string()
            {
                arguments.push(String::new());
            }
            arguments.last_mut().unwrap().push_str(call["function"]["arguments"].as_str().unwrap_or_default());
        }
        if payload["usage"].is_object() {
            usage = payload["usage"].clone();
        }
    }
    (text, reasoning, arguments, usage)
}

fn recordings() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures/streams");
    let mut found = Vec::new();
    for dialect in ["alibaba", "deepseek", "groq", "mistral", "openai-compatible", "xai", "openai", "azure"] {
        for entry in fs::read_dir(folder.join(dialect)).into_iter().flatten() {
            let path = entry.unwrap().path();
            let first = fs::read_to_string(&path).unwrap();
            if first.lines().next().is_some_and(|line| line.contains("\"chat.completion.chunk\"")) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn recorded_replies_decode_to_what_their_payloads_say() {
    let recordings = recordings();
    if recordings.is_empty() {
        support::skipped("no recordings of real providers beside the checkout");
        return;
    }
    for path in &recordings {
        let name = path.file_name().unwrap().to_string_lossy();
        let lines = fs::read_to_string(path).unwrap();
        let payloads: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let body: String =
            lines.lines().map(|line| format!("data: {line}\n\n")).chain(["data: [DONE]\n\n".into()]).collect();
        let body = body.as_bytes();
        let whole = read([body]);
        let (answer, told) = &whole;
        let (text, reasoning, arguments, usage) = expected(&payloads);
        assert_eq!((&told.text, &told.reasoning, told.warnings.len()), (&text, &reasoning, 0), "{name}");
        let calls: Vec<_> =
            answer.parts.iter().filter_map(|p| if let Part::ToolCall(call) = p { Some(call) } else { None }).collect();
        assert_eq!(calls.len(), arguments.len(), "{name}");
        for (call, arguments) in calls.iter().zip(&arguments) {
            assert_eq!(&call.input().unwrap(), &serde_json::from_str::<Value>(arguments).unwrap(), "{name}");
        }
        let said = payloads.iter().filter_map(|payload| payload["choices"][0]["finish_reason"].as_str()).next_back();
        let wanted = match said {
            Some("length") => FinishReason::MaxTokens,
            _ if calls.is_empty() => FinishReason::Stop,
            _ => FinishReason::ToolCalls,
        };
        assert_eq!(answer.finish_reason, wanted, "{name}");
        if usage.is_object() {
            let count = |usage: &Value| usage.as_u64().unwrap_or(0);
            let input = answer.usage.input_tokens + answer.usage.cache_read_tokens + answer.usage.cache_write_tokens;
            assert_eq!(input, count(&usage["prompt_tokens"]), "{name}");
            assert_eq!(answer.usage.output_tokens, count(&usage["completion_tokens"]), "{name}");
        }
        assert_eq!(read(body.chunks(1)), whole, "{name} byte by byte");
        for size in [2, 7, 1000] {
            assert_eq!(read(body.chunks(size)), whole, "{name} in pieces of {size}");
        }
        // Byte by byte has cut at every position; these leave everything else whole.
        for split in (0..body.len()).step_by((body.len() / 600).max(1)) {
            let (a, b) = body.split_at(split);
            assert_eq!(read([a, b]), whole, "{name} split at {split}");
        }
    }
}
