//! Replies of real providers in their own wire shapes: each must decode to what its payloads say, however it is cut, and
//! what only its provider understands must go back byte for byte.
//!
//! The recordings are not part of this repository. Where they are not beside the checkout the test says so and is done.

mod support;

use par::config::{CacheStrategy, ModelConfig, ModelProfile};
use par::llm::{
    Frame, HttpPool, ModelAnswer, ModelRequest, NoCredentials, SseReader, ToolChoice, anthropic, gemini,
    openai_responses,
};
use par::types::{FinishReason, Part, Result, ToolResult, Transcript, text_of};
use pretty_assertions::assert_eq;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicU32;
use support::told::Told;

/// Reads pieces of a stream.
type Read = fn(&mut dyn Iterator<Item = &[u8]>) -> Result<(ModelAnswer, Told)>;

/// A family's way from bytes to an answer, and back to a body.
struct Family {
    read: Read,
    encode: fn(&ModelRequest<'_>) -> Result<Vec<u8>>,
    expected: fn(&[&str]) -> Expected,
}

macro_rules! family {
    ($family:ident, $dialect:expr, $expected:expr) => {
        Family {
            read: |pieces| {
                let transcript = Transcript::new();
                let mut decoder = par::llm::$family::Decoder::new("recorded", &transcript);
                let (mut reader, mut told) = (SseReader::new(), Told::default());
                'all: for piece in pieces {
                    reader.push(piece);
                    while let Some(event) = reader.next_event().unwrap() {
                        match decoder.event(&event.name, &event.data, &mut told) {
                            Frame::Taken | Frame::Alive | Frame::Foreign => {}
                            Frame::Done => break 'all,
                            Frame::Malformed => told.malformed += 1,
                            Frame::Failed(error) => return Err(error),
                        }
                    }
                }
                assert!(decoder.is_finished(), "the recording has its end");
                Ok((decoder.finish(&mut told), told))
            },
            encode: |request| par::llm::$family::encode(request, &$dialect),
            expected: $expected,
        }
    };
}

/// What the payloads say, put together in the plainest way.
#[derive(Debug, Default)]
struct Expected {
    /// As it was streamed.
    text: String,
    /// As it is in the end, where that can differ.
    whole_text: Option<String>,
    reasoning: String,
    /// Name and arguments.
    calls: Vec<(String, Value)>,
    /// Blocks that only the provider understands, as they must stand in the next request.
    kept: Vec<String>,
    finish_reason: Option<FinishReason>,
    /// All of the prompt, and what was written.
    usage: (u64, u64),
    warnings: Vec<String>,
    malformed: usize,
    fails: bool,
}

/// A recording as lines of JSON.
struct Recording {
    name: String,
    lines: Vec<String>,
}

fn recordings(folders: &[&str], is_one: fn(&str) -> bool) -> Vec<Recording> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures/streams");
    let mut found = Vec::new();
    for folder in folders {
        for entry in fs::read_dir(root.join(folder)).into_iter().flatten() {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            if text.lines().next().is_some_and(is_one) {
                let name = format!("{folder}/{}", path.file_name().unwrap().to_string_lossy());
                found.push(Recording { name, lines: text.lines().map(str::to_owned).collect() });
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    if found.is_empty() {
        support::skipped("no recordings of real providers beside the checkout");
    }
    found
}

/// Reads a stream in every way of cutting it, and sends its answer back.
fn check(family: &Family, name: &str, lines: &[&str]) {
    let body: String = lines
        .iter()
        .map(|line| {
            // Also of a payload that is cut off.
            let event = line.strip_prefix("{\"type\":\"").and_then(|rest| rest.split('"').next());
            match event {
                Some(event) => format!("event: {event}\ndata: {line}\n\n"),
                None => format!("data: {line}\n\n"),
            }
        })
        .collect();
    let body = body.as_bytes();
    let expected = (family.expected)(lines);
    let whole = (family.read)(&mut [body].into_iter());
    if expected.fails {
        whole.expect_err(name);
        return;
    }
    let whole = whole.expect(name);
    let (answer, told) = &whole;
    assert_eq!((&told.text, &told.reasoning), (&expected.text, &expected.reasoning), "{name}");
    assert_eq!((&told.warnings, told.malformed), (&expected.warnings, expected.malformed), "{name}");
    if let Some(whole_text) = expected.whole_text {
        assert_eq!(text_of(&answer.parts), whole_text, "{name}");
    }
    let calls: Vec<_> = answer.parts.iter().filter_map(Part::as_tool_call).collect();
    let inputs: Vec<_> = calls.iter().map(|call| (call.name.clone(), call.input().unwrap())).collect();
    assert_eq!(inputs, expected.calls, "{name}");
    for call in &calls {
        let (_, _, streamed) = told.calls.iter().rfind(|(id, _, _)| id == call.id.as_str()).unwrap();
        let streamed = if streamed.is_empty() { "{}" } else { streamed };
        assert_eq!(streamed, call.arguments, "{name}");
    }
    if let Some(finish_reason) = expected.finish_reason {
        assert_eq!(answer.finish_reason, finish_reason, "{name}");
    }
    let usage = answer.usage;
    let prompt = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens;
    assert_eq!((prompt, usage.output_tokens), expected.usage, "{name}");

    assert_eq!((family.read)(&mut body.chunks(1)).unwrap(), whole, "{name} byte by byte");
    // Byte by byte has cut at every position; these leave everything else whole.
    let mut random = Random(body.len() as u64);
    for _ in 0..(6_000_000 / body.len().max(1)).clamp(40, 300) {
        let mut cuts: Vec<usize> = (0..6).map(|_| random.below(body.len() + 1)).chain([0, body.len()]).collect();
        cuts.sort_unstable();
        let mut pieces = cuts.windows(2).map(|cut| &body[cut[0]..cut[1]]);
        assert_eq!((family.read)(&mut pieces).unwrap(), whole, "{name} cut at {cuts:?}");
    }
    goes_back(family, name, answer, &expected.kept);
}

/// The answer in a transcript, encoded again, has what only the provider understands.
fn goes_back(family: &Family, name: &str, answer: &ModelAnswer, kept: &[String]) {
    if answer.parts.is_empty() {
        assert!(kept.is_empty(), "{name}");
        return;
    }
    let mut transcript = Transcript::new();
    transcript.push_user(vec![Part::text("go")]).unwrap();
    transcript.push_assistant(answer.parts.clone()).unwrap();
    transcript.close_open_calls(|_| ToolResult::ok("done"));
    transcript.push_user(vec![Part::text("on")]).unwrap();
    // As it is stored and read again.
    let stored = serde_json::to_string(&transcript).unwrap();
    let transcript: Transcript = serde_json::from_str(&stored).unwrap();
    let model = ModelConfig {
        provider: "recorded".into(),
        model_name: "m".into(),
        api_base: None,
        temperature: None,
        max_tokens: None,
        top_p: None,
        stop_sequences: Vec::new(),
        reasoning: None,
    };
    let request = ModelRequest {
        model: &model,
        system: None,
        transcript: &transcript,
        tools: &[],
        tool_choice: ToolChoice::Auto,
        output: None,
        max_tokens: None,
        cache: CacheStrategy::None,
        profile: &ModelProfile::default(),
        cache_key: None,
        credentials: &NoCredentials,
        http: &HttpPool::default(),
        requests_made: &AtomicU32::new(0),
    };
    let body = String::from_utf8((family.encode)(&request).expect(name)).unwrap();
    serde_json::from_str::<Value>(&body).expect(name);
    let mut from = 0;
    for block in kept {
        // In this order, too.
        let at = body[from..].find(block.as_str());
        from += at.unwrap_or_else(|| panic!("{name}: {block} does not go back in its place: {body}")) + block.len();
    }
}

/// The same cuts in every run (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The bytes of a field of a payload.
fn raw_field<'a>(line: &'a str, name: &str) -> &'a str {
    let fields: std::collections::HashMap<String, &'a RawValue> = serde_json::from_str(line).unwrap();
    fields[name].get()
}

#[test]
fn anthropic_messages() {
    const DIALECT: anthropic::Dialect =
        anthropic::Dialect { stream: true, max_tokens: 10, thinking: None, cache_points: 4 };
    let family = family!(anthropic, DIALECT, expected_of_anthropic);
    for recording in recordings(&["anthropic"], |line| line.contains("\"message_start\"")) {
        let lines: Vec<&str> = recording.lines.iter().map(String::as_str).collect();
        // Some recordings are several answers, one after the other.
        for (index, message) in lines.split_inclusive(|line| line.contains("\"message_stop\"")).enumerate() {
            check(&family, &format!("{} message {index}", recording.name), message);
        }
    }
}

fn expected_of_anthropic(lines: &[&str]) -> Expected {
    #[derive(Default)]
    struct Block {
        start: Value,
        raw: String,
        text: String,
        json: String,
        fields: Map<String, Value>,
    }
    let payloads: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut expected = Expected::default();
    let mut blocks: Vec<(u64, Block)> = Vec::new();
    let (mut id, mut usage, mut reason) = (Value::Null, Map::new(), String::new());
    for (line, payload) in lines.iter().zip(&payloads) {
        let delta = &payload["delta"];
        let index = payload["index"].as_u64().unwrap_or(0);
        match text(&payload["type"]) {
            "message_start" => {
                let message = &payload["message"];
                if !blocks.is_empty() && message["id"] != id {
                    blocks.clear();
                    expected.warnings.push("answer_restarted".into());
                }
                id = message["id"].clone();
                for (index, start) in (0..).zip(message["content"].as_array().unwrap()) {
                    let raw = raw_field(raw_field(line, "message"), "content");
                    let raw: Vec<&RawValue> = serde_json::from_str(raw).unwrap();
                    let raw = raw[index].get().to_owned();
                    blocks.push((index as u64, Block { start: start.clone(), raw, ..Block::default() }));
                }
                reason = text(&message["stop_reason"]).to_owned();
                usage.extend(message["usage"].as_object().unwrap().clone());
            }
            "content_block_start" => {
                let block = &payload["content_block"];
                match text(&block["type"]) {
                    "text" => expected.text.push_str(text(&block["text"])),
                    "thinking" => expected.reasoning.push_str(text(&block["thinking"])),
                    _ => {}
                }
                let raw = raw_field(line, "content_block").to_owned();
                let text = text(&block["text"]).to_owned() + text(&block["thinking"]);
                blocks.push((index, Block { start: block.clone(), raw, text, ..Block::default() }));
            }
            "content_block_delta" => {
                let (_, block) = blocks.iter_mut().rfind(|(other, _)| *other == index).unwrap();
                match text(&delta["type"]) {
                    "text_delta" => {
                        expected.text.push_str(text(&delta["text"]));
                        block.text.push_str(text(&delta["text"]));
                    }
                    "thinking_delta" => expected.reasoning.push_str(text(&delta["thinking"])),
                    "input_json_delta" => block.json.push_str(text(&delta["partial_json"])),
                    "signature_delta" => {
                        block.fields.insert("signature".into(), delta["signature"].clone());
                    }
                    "citations_delta" => {
                        let citations = block.fields.entry("citations").or_insert_with(|| Value::Array(vec![]));
                        citations.as_array_mut().unwrap().push(delta["citation"].clone());
                    }
                    "compaction_delta" => {
                        block.fields.insert("content".into(), delta["content"].clone());
                    }
                    other => panic!("{other}"),
                }
            }
            "message_delta" => {
                reason = text(&delta["stop_reason"]).to_owned();
                usage.extend(payload["usage"].as_object().unwrap().clone());
            }
            _ => {}
        }
    }
    for (_, block) in blocks {
        let mut start = block.start;
        match text(&start["type"]) {
            "text" => {
                if let (Some(citations), false) = (block.fields.get("citations"), block.text.trim().is_empty()) {
                    expected.kept.push(format!("\"citations\":{citations}"));
                }
            }
            "thinking" => {
                let signature = block.fields.get("signature").unwrap_or(&start["signature"]);
                expected.kept.push(format!("\"signature\":{signature}"));
            }
            "tool_use" => {
                if !block.json.is_empty() {
                    start["input"] = serde_json::from_str(&block.json).unwrap();
                }
                expected.calls.push((text(&start["name"]).to_owned(), start["input"].clone()));
                if start["caller"].is_object() {
                    expected.kept.push(format!("\"caller\":{}", start["caller"]));
                }
            }
            _ if block.json.is_empty() && block.fields.is_empty() => expected.kept.push(block.raw),
            _ => {
                start.as_object_mut().unwrap().extend(block.fields);
                if block.json.is_empty() {
                    expected.kept.push(start.to_string());
                } else {
                    // The input stands as the model wrote it.
                    start["input"] = Value::from("INPUT");
                    expected.kept.push(start.to_string().replace("\"INPUT\"", &block.json));
                }
            }
        }
    }
    if reason == "refusal" {
        expected.warnings.push("refusal".into());
    }
    expected.finish_reason = Some(match reason.as_str() {
        "max_tokens" => FinishReason::MaxTokens,
        "refusal" => FinishReason::Refusal,
        _ if expected.calls.is_empty() => FinishReason::Stop,
        _ => FinishReason::ToolCalls,
    });
    let count = |name: &str| usage.get(name).and_then(Value::as_u64).unwrap_or(0);
    let input = ["input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"];
    expected.usage = (input.into_iter().map(count).sum(), count("output_tokens"));
    expected
}

#[test]
fn gemini_generate_content() {
    const DIALECT: gemini::Dialect = gemini::Dialect { is_gemini_3: true, thinking: None, include_thoughts: true };
    let family = family!(gemini, DIALECT, expected_of_gemini);
    // The other recordings of that folder are of another API.
    for recording in recordings(&["google"], |line| line.contains("\"candidates\"")) {
        let lines: Vec<&str> = recording.lines.iter().map(String::as_str).collect();
        check(&family, &recording.name, &lines);
    }
}

fn expected_of_gemini(lines: &[&str]) -> Expected {
    let mut expected = Expected::default();
    let mut usage = Map::new();
    let mut reason = String::new();
    let mut is_open = false;
    for line in lines {
        let payload: Value = serde_json::from_str(line).unwrap();
        let candidate = &payload["candidates"][0];
        for part in candidate["content"]["parts"].as_array().into_iter().flatten() {
            if let Some(piece) = part["text"].as_str() {
                let to = if part["thought"] == true { &mut expected.reasoning } else { &mut expected.text };
                to.push_str(piece);
            }
            let call = &part["functionCall"];
            if let Some(name) = call["name"].as_str() {
                let arguments = call.get("args").cloned().unwrap_or_else(|| Value::Object(Map::new()));
                expected.calls.push((name.to_owned(), arguments));
                is_open = call["willContinue"] == true;
            }
            for piece in call["partialArgs"].as_array().into_iter().flatten() {
                assert!(is_open);
                // `$.a.b[0].c` as a JSON pointer, grown one step at a time.
                let path = text(&piece["jsonPath"])[1..].replace('[', ".").replace(']', "");
                let mut place = &mut expected.calls.last_mut().unwrap().1;
                for step in path.split('.').skip(1) {
                    place = match step.parse::<usize>() {
                        Ok(index) => {
                            if place.is_null() {
                                *place = Value::Array(vec![]);
                            }
                            let items = place.as_array_mut().unwrap();
                            if items.len() == index {
                                items.push(Value::Null);
                            }
                            &mut items[index]
                        }
                        Err(_) => {
                            if place.is_null() {
                                *place = Value::Object(Map::new());
                            }
                            place.as_object_mut().unwrap().entry(step).or_insert(Value::Null)
                        }
                    };
                }
                match piece.get("stringValue") {
                    Some(more) => *place = format!("{}{}", text(place), text(more)).into(),
                    None => *place = piece["numberValue"].clone(),
                }
            }
            if let Some(signature) = part["thoughtSignature"].as_str() {
                expected.kept.push(format!("\"thoughtSignature\":{}", Value::from(signature)));
            }
        }
        if let Some(said) = candidate["finishReason"].as_str() {
            reason = said.to_owned();
        }
        for (name, count) in payload["usageMetadata"].as_object().into_iter().flatten() {
            usage.insert(name.clone(), count.clone());
        }
    }
    expected.finish_reason = Some(match reason.as_str() {
        "MAX_TOKENS" => FinishReason::MaxTokens,
        _ if expected.calls.is_empty() => FinishReason::Stop,
        _ => FinishReason::ToolCalls,
    });
    let count = |name: &str| usage.get(name).and_then(Value::as_u64).unwrap_or(0);
    let input = count("promptTokenCount") + count("toolUsePromptTokenCount");
    expected.usage = (input, count("candidatesTokenCount") + count("thoughtsTokenCount"));
    expected
}

#[test]
fn openai_responses() {
    const DIALECT: openai_responses::Dialect = openai_responses::Dialect {
        stream: true,
        is_openai: true,
        reasons: true,
        effort: None,
        summary: true,
        strict_output: false,
        cache_points: None,
    };
    let family = family!(openai_responses, DIALECT, expected_of_responses);
    let is_one = |line: &str| line.contains("\"response.created\"");
    for recording in recordings(&["openai", "azure", "xai"], is_one) {
        let lines: Vec<&str> = recording.lines.iter().map(String::as_str).collect();
        let is_end = |line: &&str| line.contains("\"response.completed\"") || line.contains("\"response.failed\"");
        for (index, response) in lines.split_inclusive(is_end).enumerate() {
            check(&family, &format!("{} response {index}", recording.name), response);
        }
    }
}

fn expected_of_responses(lines: &[&str]) -> Expected {
    let mut expected = Expected::default();
    let mut items: Vec<(u64, String, Value)> = Vec::new();
    let mut streamed: BTreeMap<u64, String> = BTreeMap::new();
    for line in lines {
        let Ok(payload) = serde_json::from_str::<Value>(line) else {
            expected.malformed += 1;
            continue;
        };
        match text(&payload["type"]) {
            "response.output_text.delta" => {
                let index = payload["output_index"].as_u64().unwrap();
                streamed.entry(index).or_default().push_str(text(&payload["delta"]));
            }
            "response.reasoning_summary_text.delta" => expected.reasoning.push_str(text(&payload["delta"])),
            "response.output_item.done" => {
                let index = payload["output_index"].as_u64().unwrap();
                items.push((index, raw_field(line, "item").to_owned(), payload["item"].clone()));
                let texts = payload["item"]["content"].as_array().into_iter().flatten();
                let whole: String = texts.map(|content| text(&content["text"])).collect();
                let piece = streamed.remove(&index).unwrap_or_default();
                expected.whole_text.get_or_insert_default().push_str(&whole);
                // Some recordings have lost deltas: the finished item counts.
                if whole.starts_with(&piece) {
                    expected.text.push_str(&whole);
                } else {
                    expected.text.push_str(&piece);
                    expected.warnings.push("stream_differs".into());
                }
            }
            "response.completed" => {
                let count = |name: &str| payload["response"]["usage"][name].as_u64().unwrap();
                expected.usage = (count("input_tokens"), count("output_tokens"));
            }
            "error" | "response.failed" => expected.fails = true,
            _ => {}
        }
    }
    items.sort_by_key(|(index, _, _)| *index);
    let last = items.len().saturating_sub(1);
    for (at, (_, raw, item)) in items.into_iter().enumerate() {
        match text(&item["type"]) {
            "message" => {
                if item["phase"].is_string() {
                    expected.kept.push(format!("\"phase\":{}", item["phase"]));
                }
            }
            "reasoning" => {
                if item["encrypted_content"].is_string() && at < last {
                    expected.kept.push(raw);
                }
            }
            "function_call" => {
                let arguments = serde_json::from_str(text(&item["arguments"])).unwrap();
                expected.calls.push((text(&item["name"]).to_owned(), arguments));
                for name in ["caller", "namespace"] {
                    if !item[name].is_null() {
                        expected.kept.push(format!("\"{name}\":{}", item[name]));
                    }
                }
            }
            _ => expected.kept.push(raw),
        }
    }
    let finish = if expected.calls.is_empty() { FinishReason::Stop } else { FinishReason::ToolCalls };
    expected.finish_reason = Some(finish);
    expected
}
