//! What each fuzz target does with its input: the promises that must hold for any bytes. A broken one panics.
//!
//! The first byte of a stream's input says how large the pieces are in which it arrives. `tests/fuzz_stable.rs` runs the
//! same bodies on the stable toolchain.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use par::config::{
    AgentConfig, Built, CachePointForm, CacheStrategy, CommandPolicy, Decision, EvalLimits, Expression, ModelConfig,
    ModelProfile, PiiConfig, Quirks, Ruling, RunRequest, RuntimeConfig, SanitizeAction, SanitizeConfig, Steering,
    ThinkConfig, ToolCallIds, ToolConfig, strict,
};
use par::fuzzing::{
    ChainCheck, Piece, PiiMask, Sanitized, Sanitizer, ThinkStrip, extract, json_start, lines, plain, prefix_value,
    readable,
};
use par::llm::{
    Assembler, DeltaSink, Frame, HttpPool, ModelAnswer, ModelRequest, NoCredentials, SseReader, ToolChoice, anthropic,
    gemini, ollama, openai_chat, openai_responses,
};
use par::store::{BlockHead, EventBlock};
use par::tools::Schema;
use par::types::{CacheTtl, Cancel, Error, Part, ToolCallId, ToolResult, Transcript, text_of};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

/// What is done with an input.
pub type Body = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: &[(&str, Body)] = &[
    ("sse", sse),
    ("openai_chat_decode", openai_chat_decode),
    ("anthropic_decode", anthropic_decode),
    ("gemini_decode", gemini_decode),
    ("responses_decode", responses_decode),
    ("ollama_decode", ollama_decode),
    ("strict_json", strict_json),
    ("transcript_load", transcript_load),
    ("encode", encode),
    ("config_request", config_request),
    ("shell_policy", shell_policy),
    ("readable", readable_text),
    ("text_filters", text_filters),
    ("partial_json", partial_json),
    ("stored_block", stored_block),
];

/// The pieces do not matter: the same bytes are the same events.
pub fn sse(data: &[u8]) {
    let (size, bytes) = pieces(data);
    for reader in [SseReader::new, SseReader::lines] {
        let whole = events(reader(), bytes, bytes.len().max(1));
        assert_eq!(events(reader(), bytes, size), whole);
    }
}

/// OpenAI Chat Completions.
pub fn openai_chat_decode(data: &[u8]) {
    decode(data, SseReader::new, |events, told| {
        let transcript = Transcript::new();
        told.is_final = true;
        let mut assembler = Assembler::new(&transcript);
        for (_, data) in events {
            if ends(&openai_chat::decode(data, "p", &mut assembler, told)) {
                break;
            }
        }
        assembler.into_answer(told)
    });
}

macro_rules! decoders {
    ($($(#[$doc:meta])* $name:ident: $family:ident, $reader:path;)*) => {
        $($(#[$doc])*
        pub fn $name(data: &[u8]) {
            decode(data, $reader, |events, told| {
                let transcript = Transcript::new();
                // An item of Responses is given whole at its end, and that counts, whatever was said of it before.
                told.is_final = stringify!($family) != "openai_responses";
                let mut decoder = $family::Decoder::new("p", &transcript);
                for (name, data) in events {
                    if ends(&decoder.event(name, data, told)) {
                        break;
                    }
                }
                decoder.finish(told)
            });
        })*
    };
}

decoders! {
    /// Anthropic Messages.
    anthropic_decode: anthropic, SseReader::new;
    /// Gemini.
    gemini_decode: gemini, SseReader::new;
    /// OpenAI Responses.
    responses_decode: openai_responses, SseReader::new;
    /// Ollama.
    ollama_decode: ollama, SseReader::lines;
}

/// What a user writes is read or refused with a message, and what is read is JSON.
pub fn strict_json(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match strict::parse(text, "config") {
        Ok(value) => assert_eq!(serde_json::from_str::<Value>(&value.to_string()).unwrap(), value),
        Err(error) => assert!(!error.message().is_empty() && serde_json::from_str::<Value>(&error.to_json()).is_ok()),
    }
    let _ = RuntimeConfig::from_json(text);
    let _ = AgentConfig::from_json(text);
    let _ = RunRequest::from_json(text);
    let _ = ToolConfig::from_json(text);
}

/// What is loaded is a conversation, and is stored as it was loaded.
pub fn transcript_load(data: &[u8]) {
    let Ok(transcript) = serde_json::from_slice::<Transcript>(data) else { return };
    let stored = serde_json::to_string(&transcript).unwrap();
    let again: Transcript = serde_json::from_str(&stored).unwrap();
    assert_eq!(serde_json::to_string(&again).unwrap(), stored);
    assert_eq!(again.view().count(), transcript.view().count());
}

/// Any conversation is a body of JSON in every family, or an error that says what to do; and the same one twice.
pub fn encode(data: &[u8]) {
    let Ok(transcript) = serde_json::from_slice::<Transcript>(data) else { return };
    let model = ModelConfig::from_short("p/m", "model").unwrap();
    let (profile, http, requests_made) = (ModelProfile::default(), HttpPool::default(), AtomicU32::new(0));
    for cache in [
        CacheStrategy::None,
        CacheStrategy::Automatic { ttl: CacheTtl::OneHour },
        CacheStrategy::Explicit { ttl: None, tools: true, system: true },
    ] {
        let request = ModelRequest {
            model: &model,
            system: Some("Be brief."),
            transcript: &transcript,
            tools: &[],
            tool_choice: ToolChoice::Auto,
            output: None,
            cache,
            profile: &profile,
            max_tokens: None,
            cache_key: None,
            credentials: &NoCredentials,
            http: &http,
            requests_made: &requests_made,
        };
        let quirks = Quirks {
            tool_call_ids: Some(ToolCallIds::NineAlphanumerics),
            answer_before_user: Some(true),
            cache_points: Some(CachePointForm::CacheControl),
            ..Quirks::default()
        };
        let chat = openai_chat::Dialect { stream: true, is_openai: false, quirks };
        let responses = openai_responses::Dialect { cache_points: Some(4), ..Default::default() };
        let claude = anthropic::Dialect { stream: true, max_tokens: 9, thinking: None, cache_points: 4 };
        let families: [&dyn Fn() -> par::types::Result<Vec<u8>>; 5] = [
            &|| openai_chat::encode(&request, &chat),
            &|| openai_responses::encode(&request, &responses),
            &|| anthropic::encode(&request, &claude),
            &|| gemini::encode(&request, &gemini::Dialect::default()),
            &|| ollama::encode(&request, &ollama::Dialect::default()),
        ];
        for family in families {
            match family() {
                Ok(body) => {
                    serde_json::from_slice::<Value>(&body).unwrap();
                    assert_eq!(family().unwrap(), body);
                    let marks = String::from_utf8(body).unwrap().matches("\"cache_control\":{").count();
                    assert!(marks <= 4 || data.windows(13).any(|bytes| bytes == b"cache_control"), "{marks} marks");
                }
                Err(error) => assert!(error.hint().is_some(), "{error:?}"),
            }
        }
    }
}

/// A config and a request, each on a line: what is accepted passes its checks again, and an error says where and what.
pub fn config_request(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let told = |error: Error| {
        assert!(!error.message().is_empty() && error.message().len() < 16 * 1024, "{} bytes", error.message().len());
        serde_json::from_str::<Value>(&error.to_json()).unwrap();
    };
    for line in text.lines() {
        match RuntimeConfig::from_json(line) {
            Ok(config) => config.check().unwrap(),
            Err(error) => told(error),
        }
        match AgentConfig::from_json(line) {
            Ok(agent) => agent.check().unwrap(),
            Err(error) => told(error),
        }
        match ToolConfig::from_json(line) {
            Ok(tool) => {
                tool.check(EvalLimits::default(), "tool").unwrap();
                // Its schemas are compiled within bounds, or refused.
                for schema in std::iter::once(&tool.input_schema).chain(&tool.output_schema) {
                    if let Ok(compiled) = Schema::compile(schema, "tool.input_schema", 10_000) {
                        let wrong = compiled.check(schema).err().unwrap_or_default();
                        assert!(wrong.len() < 16 * 1024, "{} bytes", wrong.len());
                    }
                }
            }
            Err(error) => told(error),
        }
        if let Err(error) = Steering::from_json(line) {
            told(error);
        }
        if let Err(error) = Decision::from_json(line) {
            told(error);
        }
        match RunRequest::from_json(line) {
            Ok(request) => {
                // The fast reader and the other one read the same.
                let value = strict::parse(line, "request").unwrap();
                let again = RunRequest::from_value(&value, "request").unwrap();
                assert_eq!(format!("{again:?}"), format!("{request:?}"));
            }
            Err(error) => told(error),
        }
    }
}

/// A policy of the shell or a condition, then lines of commands or variables: judged twice the same, within bounds.
pub fn shell_policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let limits = EvalLimits::default();
    if let Ok(condition) = strict::from_str::<Expression>(first, "condition") {
        let is_sound = condition.check("condition", limits).is_ok();
        for line in rest.lines() {
            let variables = serde_json::from_str(line).unwrap_or(Value::Null);
            let once = condition.evaluate(&variables, limits).map_err(|error| error.to_json());
            assert_eq!(condition.evaluate(&variables, limits).map_err(|error| error.to_json()), once);
            // What was refused where it was given would not end here either.
            assert!(is_sound || once.is_err() || !first.contains("operand"), "{first}");
        }
    }
    let own = strict::from_str::<CommandPolicy>(first, "policy").ok().filter(|policy| policy.check("policy").is_ok());
    let policies =
        [Built::Coder, Built::ReadOnly, Built::ReadOnlyNoNet].map(|built| CommandPolicy::built(built).unwrap());
    for policy in own.iter().filter_map(|own| own.whole().ok()).chain(policies) {
        for line in rest.lines() {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let (program, args) = words.split_first().unwrap();
            let judged = policy.judge(&[program], args).unwrap();
            assert_eq!(policy.judge(&[program], args).unwrap(), judged);
            // Another name of the same program makes nothing allowed that is denied.
            if judged.ruling == Ruling::Deny && policy.default == Ruling::Deny {
                let both = policy.judge(&[program, "another-name"], args).unwrap();
                assert_eq!(both.ruling, Ruling::Deny, "{line}");
            }
        }
    }
}

/// A page is read to the bound of its text, and holds no tag that it had not as text.
pub fn readable_text(data: &[u8]) {
    let html = String::from_utf8_lossy(data);
    for most in [0, 1, 100, 100_000] {
        let page = readable(&html, most, &Cancel::new()).unwrap();
        assert!(page.text.chars().count() <= most);
        assert!(!page.is_cut || page.text.chars().count() == most);
        assert!(page.title.len() <= 300 && page.text.len() <= 4 * html.len().max(1), "{} bytes", page.text.len());
    }
    assert!(plain(&html).chars().count() <= 2_000);
}

/// A filter of streamed text gives what the whole text gives, however it is cut; and what was masked has nothing to mask.
pub fn text_filters(data: &[u8]) {
    let (size, bytes) = pieces(data);
    let text = String::from_utf8_lossy(bytes);
    let chunks = || {
        let mut rest = &*text;
        std::iter::from_fn(move || {
            let (piece, after) = rest.split_at(rest.ceil_char_boundary(size.min(rest.len())));
            rest = after;
            (!piece.is_empty()).then_some(piece)
        })
    };
    let mask = Arc::new(PiiMask::new(&PiiConfig::default()));
    let (mut stream, mut masked) = (mask.stream(), String::new());
    chunks().for_each(|piece| stream.push(piece, &mut masked));
    stream.finish(&mut masked);
    assert_eq!(masked, mask.mask(&text));

    let think = ThinkStrip::new(&ThinkConfig::default());
    let split = |pieces: &mut dyn Iterator<Item = &str>| {
        let (mut answer, mut reasoning) = (String::new(), String::new());
        let mut take = |piece: Piece<'_>| match piece {
            Piece::Text(text) => answer.push_str(text),
            Piece::Reasoning(text) => reasoning.push_str(text),
        };
        let mut stream = think.stream();
        pieces.for_each(|piece| stream.push(piece, &mut take));
        stream.finish(&mut take);
        (answer, reasoning)
    };
    let whole = split(&mut std::iter::once(&*text));
    assert_eq!(split(&mut chunks()), whole);
    assert!(whole.0.len() + whole.1.len() <= text.len());

    for action in [SanitizeAction::Tag, SanitizeAction::Replace, SanitizeAction::Block] {
        let sanitizer = Sanitizer::new(&SanitizeConfig { action, ..SanitizeConfig::default() }).unwrap();
        match sanitizer.apply(&text) {
            Sanitized::Clean => {}
            Sanitized::Changed(changed) if action == SanitizeAction::Replace => {
                assert!(changed.len() <= (text.len() + 1) * 16);
            }
            Sanitized::Changed(_) => assert_eq!(action, SanitizeAction::Tag),
            Sanitized::Blocked { phrase } => assert!(!phrase.is_empty() && action == SanitizeAction::Block),
        }
    }
}

/// What the beginning of an answer determines only grows, and is the value in the end.
pub fn partial_json(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let text = text.get(..text.floor_char_boundary(600)).unwrap();
    let mut before = None;
    for (end, _) in text.char_indices() {
        let value = prefix_value(&text[..end]);
        if let (Some(before), Some(value)) = (&before, &value) {
            assert!(has_grown(before, value), "{before} became {value} in {:?}", &text[..end]);
        }
        // A scalar can turn out to be the beginning of prose, in which a document follows.
        before = value.filter(|value| value.is_array() || value.is_object());
    }
    if let Some(document) = extract(text) {
        assert!(text.contains(document));
    }
    if let Ok(value) = serde_json::from_str::<Value>(text)
        && (value.is_array() || value.is_object())
        && strict::parse_free(text, "answer").is_ok()
    {
        assert_eq!(prefix_value(text), Some(value));
        assert_eq!(extract(text), Some(text.trim()));
        assert!(json_start(text).is_some());
    }
}

fn has_grown(before: &Value, after: &Value) -> bool {
    match (before, after) {
        (Value::String(before), Value::String(after)) => after.starts_with(before.as_str()),
        (Value::Array(before), Value::Array(after)) => {
            before.len() <= after.len() && before.iter().zip(after).all(|(before, after)| has_grown(before, after))
        }
        (Value::Object(before), Value::Object(after)) => {
            // A key that is given twice is what it is the second time.
            before.keys().all(|key| after.contains_key(key))
        }
        _ => before == after,
    }
}

/// A stored block that is damaged is told as damaged, and takes no more memory than a whole one could.
pub fn stored_block(data: &[u8]) {
    match lines(data) {
        Ok(lines) => assert!(lines.len() <= data.len().saturating_mul(255)),
        Err(error) => assert_eq!(error.code(), Some("store_corrupt")),
    }
    let head = BlockHead { first_seq: 1, last_seq: 2, first_at_ms: 3, last_at_ms: 4, types: 5 };
    let block = EventBlock::new(head, data, &[0; 32]);
    assert_eq!(lines(&block.body).unwrap(), data);
    let mut chain = ChainCheck::default();
    chain.next(&block).unwrap();
    let mut changed = EventBlock { head, body: block.body.clone(), hash: block.hash };
    if let Some(byte) = changed.body.last_mut() {
        *byte ^= 1;
        assert!(ChainCheck::default().next(&changed).is_err());
    }
    let other = BlockHead { last_seq: 9, ..head };
    assert!(
        ChainCheck::default().next(&EventBlock { head: other, body: block.body.clone(), hash: block.hash }).is_err()
    );
    let transcript = std::str::from_utf8(data).map(|text| Transcript::from_entries(text.lines()));
    if let Ok(Ok(transcript)) = transcript {
        let _ = transcript.view().count();
    }
}

fn pieces(data: &[u8]) -> (usize, &[u8]) {
    data.split_first().map_or((1, data), |(size, bytes)| (usize::from(*size) + 1, bytes))
}

type Event = (String, String);

fn events(mut reader: SseReader, bytes: &[u8], size: usize) -> Vec<Event> {
    let mut found = Vec::new();
    for piece in bytes.chunks(size) {
        reader.push(piece);
        while let Ok(Some(event)) = reader.next_event() {
            found.push((event.name.into_owned(), event.data.into_owned()));
        }
    }
    if let Ok(Some(event)) = reader.finish() {
        found.push((event.name.into_owned(), event.data.into_owned()));
    }
    found
}

fn ends(frame: &Frame) -> bool {
    matches!(frame, Frame::Done | Frame::Failed(_))
}

fn decode(data: &[u8], reader: fn() -> SseReader, read: impl FnOnce(&[Event], &mut Told) -> ModelAnswer) {
    let (size, bytes) = pieces(data);
    let mut told = Told::default();
    let answer = read(&events(reader(), bytes, size), &mut told);
    if told.is_final && !told.differs {
        assert_eq!(told.text, text_of(&answer.parts), "what was told is what was said");
    }
    let calls: Vec<&str> = answer.parts.iter().filter_map(Part::as_tool_call).map(|call| call.id.as_str()).collect();
    assert_eq!(calls.iter().collect::<HashSet<_>>().len(), calls.len(), "each call has an id of its own");
    for id in &told.calls {
        assert!(calls.contains(&id.as_str()), "a call that was told is there: {id}");
    }
    // A conversation that goes on with it can be stored and loaded.
    let mut transcript = Transcript::new();
    transcript.push_user(vec![Part::text("x")]).unwrap();
    if transcript.push_assistant(answer.parts).is_ok() {
        let open: Vec<ToolCallId> = transcript.open_calls().map(|call| call.id.clone()).collect();
        for id in open {
            transcript.answer(&id, ToolResult::ok("y")).unwrap();
        }
        let stored = serde_json::to_string(&transcript).unwrap();
        serde_json::from_str::<Transcript>(&stored).unwrap();
        transcript_load(stored.as_bytes());
    }
}

/// What a decoder told.
#[derive(Default)]
struct Told {
    text: String,
    /// Whether what was told can only be added to.
    is_final: bool,
    /// Whether the host was warned that the whole is something else.
    differs: bool,
    calls: HashSet<String>,
}

impl DeltaSink for Told {
    fn text(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn reasoning(&mut self, _: &str) {}

    fn tool_call_start(&mut self, id: &ToolCallId, _: &str) {
        assert!(self.calls.insert(id.to_string()), "a call begins once");
    }

    fn tool_call_delta(&mut self, id: &ToolCallId, _: &str) {
        assert!(self.calls.contains(id.as_str()), "a call begins before it goes on");
    }

    fn warning(&mut self, code: &str, _: &str) {
        self.differs |= code == "stream_differs";
        if code == "answer_restarted" {
            // What was told before is void.
            (self.text, self.calls) = Default::default();
        }
    }

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
