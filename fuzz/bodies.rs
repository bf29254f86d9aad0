//! What each fuzz target does with its input: the promises that must hold for any bytes. A broken one panics.
//!
//! The first byte of a stream's input says how large the pieces are in which it arrives. `tests/fuzz_stable.rs` runs the
//! same bodies on the stable toolchain.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use par::config::{
    AgentConfig, CachePointForm, CacheStrategy, ModelConfig, ModelProfile, Quirks, RunRequest, RuntimeConfig,
    ToolCallIds, ToolConfig, strict,
};
use par::llm::{
    Assembler, DeltaSink, Frame, HttpPool, ModelAnswer, ModelRequest, NoCredentials, SseReader, ToolChoice, anthropic,
    gemini, ollama, openai_chat, openai_responses,
};
use par::types::{CacheTtl, Error, Part, ToolCallId, ToolResult, Transcript, text_of};
use serde_json::{Map, Value};
use std::collections::HashSet;
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
