//! One suite for every wire family: what a model says must arrive the same, whichever API said it, however its bytes are
//! cut, and however oddly its server behaves.
//!
//! Each fixture goes two ways: over HTTP through a whole run, and through the family's decoder at every position at which
//! its bytes can be divided.

mod support;

use par::llm::{DeltaSink, Frame, ModelAnswer, SseReader};
use par::runtime::Runtime;
use par::types::{Category, Error, FinishReason, Part, Status, Transcript, Usage, text_of};
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::client::of_type;
use support::told::Told;
use support::wire::anthropic::Anthropic;
use support::wire::gemini::Gemini;
use support::wire::ollama::Ollama;
use support::wire::openai_chat::OpenAiChat;
use support::wire::openai_responses::OpenAiResponses;
use support::wire::{
    Amounts, End, Family, STYLES, Say, Script, Style, Trouble, bytes_of, call, reply, reply_to, say, think,
};
use support::{FakeServer, Reply};

const MIXED: &str = "Grüße, 世界! 👩‍👩‍👧‍👦 🇩🇪 e\u{301}\u{2028}\u{85} \"q\" \\ \n\r\n\t\u{0}\u{7f} data: x\n\n</think>";

/// What every family can be asked to say; those whose API has no such thing leave it out.
fn fixtures() -> Vec<(&'static str, Script)> {
    let add = |id: &str, a: u8| call(id, "add", &format!("{{\"a\":{a},\"b\":\"é😀\"}}"));
    let usage = Usage {
        input_tokens: 100,
        output_tokens: 50,
        cache_read_tokens: 30,
        cache_write_tokens: 20,
        reasoning_tokens: 40,
    };
    let script = |said: Vec<Say>, end: End| Script::new(said, end);
    vec![
        ("text", Script::text("Hello, world.")),
        ("text beyond ASCII", Script::text(MIXED)),
        ("text in many pieces", Script::text(MIXED).in_pieces(1)),
        ("text in one piece", Script::text(MIXED).in_pieces(1_000)),
        ("white space alone", Script::text(" \n").in_pieces(1)),
        ("a call, its arguments in pieces", script(vec![add("c1", 1)], End::Calls)),
        ("a call, its arguments byte by byte", script(vec![add("c1", 1)], End::Calls).in_pieces(1)),
        ("a call, its arguments whole", script(vec![add("c1", 1)], End::Calls).in_pieces(1_000)),
        ("parallel calls", script(vec![add("c1", 1), call("c2", "now", "{}"), add("c3", 3)], End::Calls)),
        (
            "text and calls by turns",
            script(vec![say("First."), add("c1", 1), say(" Then."), add("c2", 2), say(" Done.")], End::Calls),
        ),
        ("a call without arguments", script(vec![call("c1", "now", "")], End::Calls)),
        ("arguments that are no JSON", script(vec![call("c1", "add", "{\"a\": 1,")], End::Calls)),
        ("thinking, then text", script(vec![think("Hm, 世界?"), say("Yes.")], End::Stop)),
        ("thinking, then a call", script(vec![think("Add!"), add("c1", 1)], End::Calls)),
        ("a refusal", script(vec![Say::Refusal("I cannot help with that.".into())], End::Refused)),
        ("filtered after some text", script(vec![say("How to")], End::Filtered)),
        ("filtered at once", script(vec![], End::Filtered)),
        ("cut at the token limit", script(vec![say("Once upon a")], End::Length)),
        ("cut at the token limit while thinking", script(vec![think("Let me see")], End::Length)),
        ("nothing said", script(vec![], End::Stop)),
        ("all figures", Script { usage: Some(usage), ..Script::text("Counted.") }),
        ("no figures", Script { usage: None, ..Script::text("Not counted.") }),
    ]
}

/// What a script amounts to.
#[derive(Debug, PartialEq)]
struct Expected {
    text: String,
    reasoning: String,
    /// Id, name and arguments.
    calls: Vec<(String, String, String)>,
    finish_reason: FinishReason,
    usage: Usage,
    order: Vec<&'static str>,
}

impl Expected {
    fn of(family: &dyn Family, script: &Script) -> Self {
        let finish_reason = match script.end {
            End::Stop => FinishReason::Stop,
            End::Calls => FinishReason::ToolCalls,
            End::Length => FinishReason::MaxTokens,
            End::Filtered => FinishReason::ContentFilter,
            End::Refused => FinishReason::Refusal,
        };
        let mut expected = Self {
            text: String::new(),
            reasoning: String::new(),
            calls: Vec::new(),
            finish_reason,
            usage: script.usage.map(|usage| family.told(usage)).unwrap_or_default(),
            order: Vec::new(),
        };
        for said in &script.said {
            let kind = match said {
                Say::Text(text) | Say::Refusal(text) => {
                    expected.text.push_str(text);
                    "text"
                }
                Say::Thought(text) => {
                    expected.reasoning.push_str(text);
                    "reasoning"
                }
                Say::Call(id, name, arguments) => {
                    let arguments = if arguments.is_empty() { "{}" } else { arguments };
                    expected.calls.push((id.clone(), name.clone(), arguments.to_owned()));
                    "call"
                }
            };
            expected.order.push(kind);
        }
        expected
    }

    /// What the decoder made of it, with its ids as far as the script knows them.
    fn found(family: &dyn Family, answer: &ModelAnswer, like: &Self) -> Self {
        let calls: Vec<_> = answer.parts.iter().filter_map(Part::as_tool_call).collect();
        let ids: HashSet<_> = calls.iter().map(|call| call.id.as_str()).collect();
        assert_eq!(ids.len(), calls.len(), "each call has an id of its own");
        assert!(!ids.contains(""), "and none is empty");
        let wanted = like.calls.iter().map(|(id, _, arguments)| (id.as_str(), arguments.as_str()));
        let calls = calls.iter().zip(wanted.chain(std::iter::repeat(("", "")))).map(|(call, (id, arguments))| {
            let id = if id.is_empty() || !family.has_ids() { id } else { call.id.as_str() };
            // Arguments keep the white space that they came with.
            let read = |json: &str| serde_json::from_str::<Value>(json).ok();
            let is_same = read(arguments).is_some_and(|wanted| read(&call.arguments) == Some(wanted));
            let arguments = if is_same { arguments } else { &call.arguments };
            (id.to_owned(), call.name.clone(), arguments.to_owned())
        });
        let order = answer.parts.iter().filter_map(|part| match part {
            Part::Text { text, .. } if text.is_empty() => None,
            Part::Text { .. } => Some("text"),
            Part::Reasoning { .. } => Some("reasoning"),
            Part::ToolCall(_) => Some("call"),
            other => panic!("{other:?}"),
        });
        let order: Vec<_> = order.collect();
        let mut merged = order.clone();
        merged.dedup_by(|a, b| a == b && *a != "call");
        Self {
            text: text_of(&answer.parts),
            reasoning: answer
                .parts
                .iter()
                .filter_map(|part| match part {
                    Part::Reasoning { text, .. } => Some(text.as_str()),
                    _ => None,
                })
                .collect(),
            calls: calls.collect(),
            finish_reason: answer.finish_reason,
            usage: answer.usage,
            order: if family.keeps_order() { merged } else { like.order.clone() },
        }
    }
}

/// What became of a stream.
#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    Answer(ModelAnswer, Told),
    Failed(Error, Told),
    /// It ended before the model did.
    Truncated(Told),
}

/// Reads a stream from its pieces, as the transport does.
fn read<'p>(family: &dyn Family, pieces: impl IntoIterator<Item = &'p [u8]>) -> Outcome {
    let mut transcript = Transcript::new();
    transcript.push_user(vec![Part::text("Go.")]).unwrap();
    let mut decoder = family.decoder(&transcript);
    let mut reader = if family.is_lines() { SseReader::lines() } else { SseReader::new() };
    let mut told = Told::default();
    let mut take = |name: &str, data: &str, told: &mut Told| match decoder.event(name, data, told) {
        Frame::Taken | Frame::Alive | Frame::Foreign => None,
        Frame::Done => Some(Ok(())),
        Frame::Malformed => {
            told.warnings.push("malformed_frame".into());
            None
        }
        Frame::Failed(error) => Some(Err(error)),
    };
    let mut ended = None;
    'all: for piece in pieces {
        reader.push(piece);
        while let Some(event) = reader.next_event().unwrap() {
            ended = take(&event.name, &event.data, &mut told);
            if ended.is_some() {
                break 'all;
            }
        }
    }
    if ended.is_none()
        && let Some(event) = reader.finish().unwrap()
    {
        ended = take(&event.name, &event.data, &mut told);
    }
    match ended {
        Some(Err(error)) => Outcome::Failed(error, told),
        None if !decoder.is_finished() => Outcome::Truncated(told),
        Some(Ok(())) | None => {
            let answer = decoder.finish(&mut told);
            Outcome::Answer(answer, told)
        }
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

/// The outcome of a stream, which is the same however it is cut.
fn outcome(family: &dyn Family, name: &str, bytes: &[u8]) -> Outcome {
    let name = format!("{}: {name}", family.name());
    let whole = read(family, [bytes]);
    assert_eq!(read(family, bytes.chunks(1)), whole, "{name}, byte by byte");
    if bytes.len() <= 2_000 {
        for at in 1..bytes.len() {
            let (head, tail) = bytes.split_at(at);
            assert_eq!(read(family, [head, tail]), whole, "{name}, cut at {at}");
        }
        return whole;
    }
    let mut random = Random(bytes.len() as u64);
    for _ in 0..200 {
        let mut cuts: Vec<usize> = (0..6).map(|_| random.below(bytes.len() + 1)).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]);
        assert_eq!(read(family, pieces), whole, "{name}, cut at {cuts:?}");
    }
    whole
}

/// A server of the family, and a runtime that asks it.
struct Stage {
    server: FakeServer,
    runtime: Runtime,
    next: Arc<Mutex<Option<Reply>>>,
}

impl Stage {
    fn new(family: &dyn Family, extra: Value) -> Self {
        let next = Arc::new(Mutex::new(None::<Reply>));
        let done = reply_to(family, &Script::text("Done."));
        let server = FakeServer::with({
            let next = Arc::clone(&next);
            move |_, _| next.lock().unwrap().take().unwrap_or_else(|| done.clone())
        });
        let runtime = runtime(family, &server.url(), extra);
        Self { server, runtime, next }
    }

    /// Runs an agent whose model answers so at first, and with a word once its calls are answered.
    fn play(&self, reply: Reply) -> (Vec<Value>, Result<Value, Error>) {
        *self.next.lock().unwrap() = Some(reply);
        ask(&self.runtime)
    }

    fn fail(&self, reply: Reply) -> Error {
        let (events, result) = self.play(reply);
        assert_eq!(events.last().unwrap()["type"], "failed");
        result.unwrap_err()
    }
}

fn runtime(family: &dyn Family, address: &str, extra: Value) -> Runtime {
    let mut provider = family.provider(address);
    provider["api_key"] = json!("k");
    provider["retry"] = json!({"max_attempts": 1});
    for (key, value) in extra.as_object().unwrap() {
        provider[key] = value.clone();
    }
    let runtime = support::create(&json!({"llm_providers": {"p": provider}}).to_string()).unwrap();
    for tool in ["add", "now"] {
        runtime.register_tool(&json!({"name": tool, "input_schema": {"type": "object"}}).to_string()).unwrap();
    }
    runtime.register_agent(r#"{"id": "a", "model": "p/m", "tools": ["add", "now"]}"#).unwrap();
    runtime.register_agent(r#"{"id": "talker", "model": "p/m"}"#).unwrap();
    runtime
}

fn ask(runtime: &Runtime) -> (Vec<Value>, Result<Value, Error>) {
    let stream = runtime.stream(r#"{"agent": "a", "input": "Go."}"#).unwrap();
    let mut seen = Vec::new();
    while let Some(event) = support::client::next(&stream) {
        if event["type"] == "tool_call" {
            runtime.tool_complete(event["token"].as_u64().unwrap(), "3").unwrap();
        }
        seen.push(event);
    }
    let answer = stream.answer().unwrap().clone();
    (seen, answer.map(|json| serde_json::from_str(&json).unwrap()))
}

/// What a run told of its first turn.
fn told_by(events: &[Value]) -> Told {
    let second = events.iter().position(|event| event["type"] == "turn_started" && event["turn"] == 2);
    let events = &events[..second.unwrap_or(events.len())];
    let field = |event: &Value, name: &str| event[name].as_str().unwrap().to_owned();
    let mut told = Told::default();
    for event in events {
        match event["type"].as_str().unwrap() {
            "text_delta" => told.text(&field(event, "text")),
            "reasoning_delta" => told.reasoning(&field(event, "text")),
            "tool_call_start" => {
                told.tool_call_start(&field(event, "tool_call_id").as_str().into(), &field(event, "name"))
            }
            "tool_call_delta" => {
                told.tool_call_delta(&field(event, "tool_call_id").as_str().into(), &field(event, "args_json"));
            }
            "warning" => told.warnings.push(field(event, "code")),
            _ => {}
        }
    }
    told
}

/// What a host decides by.
fn gist(error: &Error) -> (Status, Category, Option<&str>, bool, &str) {
    (error.status(), error.category(), error.code(), error.is_retryable(), error.message())
}

/// A stream goes through a run, with the outcome that its decoder has.
fn plays(stage: &Stage, family: &dyn Family, name: &str, bytes: &[u8], outcome: &Outcome) {
    let name = format!("{}: {name}", family.name());
    comes_out(stage.play(reply(family, bytes)), &name, outcome);
    comes_out(stage.play(reply(family, bytes).split_every(7)), &name, outcome);
}

fn comes_out((events, result): (Vec<Value>, Result<Value, Error>), name: &str, outcome: &Outcome) {
    let told = told_by(&events);
    match outcome {
        Outcome::Answer(answer, expected) => {
            assert_eq!(&told, expected, "{name}");
            let result = result.unwrap_or_else(|error| panic!("{name}: {error:?}"));
            assert_eq!(of_type(&events, "usage_update")[0]["usage"], json!(answer.usage), "{name}");
            let has_calls = answer.parts.iter().any(|part| part.as_tool_call().is_some());
            match has_calls {
                true => assert_eq!(result["text"], "Done.", "{name}"),
                false => {
                    assert_eq!(result["text"], text_of(&answer.parts), "{name}");
                    assert_eq!(result["finish_reason"], json!(answer.finish_reason), "{name}");
                }
            }
        }
        Outcome::Failed(failure, expected) => {
            assert_eq!(&told, expected, "{name}");
            let error = result.unwrap_err();
            assert_eq!(gist(&error), gist(failure), "{name}");
            assert_eq!(error.provider().unwrap().provider, "p", "{name}");
        }
        Outcome::Truncated(expected) => {
            assert_eq!(&told, expected, "{name}");
            let error = result.unwrap_err();
            assert_eq!((error.status(), error.category()), (Status::Network, Category::Truncated), "{name}: {error:?}");
            assert_eq!((error.code(), error.hint().is_some()), (Some("truncated"), true), "{name}");
        }
    }
}

/// An outcome is what a script says, and was told as it is.
fn is_answer(family: &dyn Family, name: &str, outcome: &Outcome, script: &Script, warnings: &[&str]) {
    let name = format!("{}: {name}", family.name());
    let Outcome::Answer(answer, told) = outcome else { panic!("{name}: {outcome:?}") };
    let expected = Expected::of(family, script);
    assert_eq!(Expected::found(family, answer, &expected), expected, "{name}");
    assert_eq!(told.warnings, warnings, "{name}");
    if warnings.is_empty() {
        assert_eq!((&told.text, &told.reasoning), (&expected.text, &expected.reasoning), "{name}");
    }
    let calls: Vec<_> = answer.parts.iter().filter_map(Part::as_tool_call).collect();
    assert_eq!(calls.len(), told.calls.len(), "{name}");
    for (call, (id, tool, arguments)) in calls.into_iter().zip(sorted_like(told, answer)) {
        let arguments = if arguments.is_empty() { "{}" } else { &arguments };
        assert_eq!(
            (call.id.as_str(), call.name.as_str(), call.arguments.as_str()),
            (&*id, &*tool, arguments),
            "{name}"
        );
    }
}

/// The calls that were told, in the order of the answer.
fn sorted_like(told: &Told, answer: &ModelAnswer) -> Vec<(String, String, String)> {
    let ids = answer.parts.iter().filter_map(Part::as_tool_call).map(|call| &call.id);
    ids.map(|id| told.calls.iter().find(|(other, _, _)| other == id.as_str()).expect("a told call").clone()).collect()
}

fn scripts(family: &dyn Family) {
    let stage = Stage::new(family, json!({}));
    let mut played = 0;
    for (name, script) in fixtures() {
        let Some(events) = family.events(&script) else { continue };
        let bytes = bytes_of(family, &events, Style::Plain).unwrap();
        let outcome = outcome(family, name, &bytes);
        match script.said.is_empty() && script.end == End::Stop && family.fails_when_empty() {
            true => assert!(matches!(&outcome, Outcome::Failed(error, _) if error.is_retryable()), "{outcome:?}"),
            false => is_answer(family, name, &outcome, &script, &[]),
        }
        plays(&stage, family, name, &bytes, &outcome);
        played += 1;
    }
    assert!(played >= 18, "{played}");
    let unread = usize::from(family.fails_when_empty());
    assert!(stage.server.abandoned() <= unread, "every answer was read to its end");
}

fn styles(family: &dyn Family) {
    let stage = Stage::new(family, json!({}));
    let script = Script::new([think("Hm."), say("Grüß 😀\n"), call("c1", "add", "{\"a\":\"ü\"}")], End::Calls);
    let events = family.events(&script).unwrap();
    let plain = read(family, [&*bytes_of(family, &events, Style::Plain).unwrap()]);
    is_answer(family, "plain", &plain, &script, &[]);
    for style in STYLES {
        let Some(bytes) = bytes_of(family, &events, *style) else { continue };
        let name = format!("{style:?}");
        let outcome = outcome(family, &name, &bytes);
        is_answer(family, &name, &outcome, &script, &[]);
        plays(&stage, family, &name, &bytes, &outcome);
    }
}

fn odd_servers(family: &dyn Family) {
    let stage = Stage::new(family, json!({}));
    for odd in family.odd() {
        let bytes = bytes_of(family, &odd.events, Style::Plain).unwrap();
        let outcome = outcome(family, odd.name, &bytes);
        match (&odd.outcome, &outcome) {
            (Amounts::To(script, warnings), _) => is_answer(family, odd.name, &outcome, script, warnings),
            (Amounts::Failure(code, retryable), Outcome::Failed(error, _)) => {
                assert_eq!((error.code(), error.is_retryable()), (Some(*code), *retryable), "{}: {error:?}", odd.name);
            }
            (Amounts::Truncated, Outcome::Truncated(_)) => {}
            _ => panic!("{}: {}: {outcome:?}", family.name(), odd.name),
        }
        plays(&stage, family, odd.name, &bytes, &outcome);
    }
}

fn failures_inside_streams(family: &dyn Family) {
    let stage = Stage::new(family, json!({}));
    let before = family.events(&Script::text("Half an ans")).unwrap();
    let begun = &before[..before.len() / 2];
    let troubles = [
        (Trouble::RateLimit, Status::RateLimited, Category::RateLimited, true, "rate_limited"),
        (Trouble::Overloaded, Status::Provider, Category::Unavailable, true, "provider_error"),
        (Trouble::ContextLength, Status::ContextLength, Category::InvalidInput, false, "context_length"),
        (Trouble::Quota, Status::RateLimited, Category::BudgetExceeded, false, "quota_exhausted"),
        (Trouble::Unknown, Status::Provider, Category::ExternalFailure, false, "provider_error"),
    ];
    let mut failures = Vec::new();
    for (trouble, status, category, retryable, code) in troubles {
        if let Some(event) = family.trouble(trouble) {
            failures.push((format!("{trouble:?}"), event, (status, category, Some(code), retryable)));
        }
    }
    // What gateways report, whatever API they stand before.
    let gateway = |payload: Value| (String::new(), payload.to_string());
    let error = json!({"message": "upstream is gone", "type": "server_error", "code": null});
    for (name, payload) in
        [("an error without a type", json!({"error": error})), ("an error in an array", json!([{"error": error}]))]
    {
        let gist = (Status::Provider, Category::Unavailable, Some("provider_error"), true);
        failures.push((name.to_owned(), gateway(payload), gist));
    }
    let plain = (Status::Provider, Category::ExternalFailure, Some("provider_error"), false);
    failures.push(("an error in words".to_owned(), gateway(json!({"error": "upstream is gone"})), plain));
    for (name, event, expected) in failures {
        for begun in [&[][..], begun] {
            let events = [begun, std::slice::from_ref(&event)].concat();
            let bytes = bytes_of(family, &events, Style::Plain).unwrap();
            let outcome = outcome(family, &name, &bytes);
            let Outcome::Failed(error, _) = &outcome else { panic!("{}: {name}: {outcome:?}", family.name()) };
            let (status, category, code, retryable, message) = gist(error);
            assert_eq!((status, category, code, retryable), expected, "{}: {name}: {error:?}", family.name());
            assert!(message.contains("failed inside the stream: "), "{message}");
            plays(&stage, family, &name, &bytes, &outcome);
        }
    }
}

/// However much of a stream arrives: it is the whole answer, or it is no answer.
fn beginnings_are_no_answers(family: &dyn Family) {
    let script = Script::new([say("Grüß."), call("c1", "add", "{\"a\":1}")], End::Calls);
    let events = family.events(&script).unwrap();
    let bytes = bytes_of(family, &events, Style::Plain).unwrap();
    let Outcome::Answer(whole, _) = read(family, [&*bytes]) else { panic!("{}", family.name()) };
    for at in 0..bytes.len() {
        match read(family, [&bytes[..at]]) {
            Outcome::Truncated(_) => {}
            Outcome::Answer(answer, _) => {
                assert_eq!((answer.parts, answer.finish_reason), (whole.parts.clone(), whole.finish_reason), "{at}");
            }
            failed => panic!("{} up to {at}: {failed:?}", family.name()),
        }
    }
    let stage = Stage::new(family, json!({}));
    let half = family.events(&Script::text("Half an answer")).unwrap();
    let bytes = bytes_of(family, &half, Style::Plain).unwrap();
    let half = &bytes[..bytes.len() / 2];
    let outcome = read(family, [half]);
    assert!(matches!(outcome, Outcome::Truncated(_)), "{outcome:?}");
    plays(&stage, family, "half", half, &Outcome::Truncated(told_by(&stage.play(reply(family, half)).0)));
    for reply in [reply(family, half).cut(), reply(family, half).reset(), reply(family, b"").cut(), reply(family, b"")]
    {
        let error = stage.fail(reply);
        assert_eq!((error.category(), error.code()), (Category::Truncated, Some("truncated")), "{error:?}");
        assert!(error.hint().is_some(), "{error:?}");
    }
}

fn huge(family: &dyn Family) {
    let text = "Grüße, 世界! 😀 ".repeat(100_000);
    assert!(text.len() > 2 << 20);
    let start = Instant::now();
    for piece in [2_000, 5_000_000] {
        let script = Script::text(&text).in_pieces(piece);
        let bytes = bytes_of(family, &family.events(&script).unwrap(), Style::Plain).unwrap();
        for size in [usize::MAX, 1_000] {
            let outcome = read(family, bytes.chunks(size));
            let Outcome::Answer(answer, told) = outcome else { panic!("{}", family.name()) };
            assert!(text_of(&answer.parts) == text && told.text == text, "{}", family.name());
        }
        let stage = Stage::new(family, json!({}));
        let (events, result) = stage.play(reply(family, &bytes));
        assert!(told_by(&events).text == text && result.unwrap()["text"] == text, "{}", family.name());
    }
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

/// An answer that is not streamed, though a stream was asked for, and what only looks like one.
fn whole_answers(family: &dyn Family) {
    let stage = Stage::new(family, json!({}));
    let whole = family.whole("Hi. 世界");
    let pretty = serde_json::to_string_pretty(&whole).unwrap();
    let mut replies = vec![
        ("whole", Reply::json(&whole)),
        ("with a charset", Reply::status(200).content_type("application/json; charset=utf-8").body(whole.to_string())),
        ("in capitals", Reply::status(200).content_type("Application/JSON").body(whole.to_string())),
    ];
    if !family.is_lines() {
        replies.push(("pretty-printed", Reply::status(200).content_type("application/json").body(pretty.clone())));
        replies.push(("in pieces", Reply::status(200).content_type("application/json").body(pretty).split_every(5)));
    }
    for (name, reply) in replies {
        let (events, result) = stage.play(reply);
        let result = result.unwrap_or_else(|error| panic!("{}: {name}: {error:?}", family.name()));
        assert_eq!((&result["text"], told_by(&events).text.as_str()), (&json!("Hi. 世界"), "Hi. 世界"), "{name}");
        assert_eq!(result["usage"], json!({"input_tokens": 12, "output_tokens": 7}), "{name}");
    }
    // A stream under the wrong name is still one.
    let events = family.events(&Script::text("Hi.")).unwrap();
    let bytes = bytes_of(family, &events, Style::Plain).unwrap();
    for kind in ["text/plain", "application/octet-stream", "application/json"] {
        let (_, result) = stage.play(Reply::status(200).content_type(kind).body(bytes.clone()));
        let result = result.unwrap_or_else(|error| panic!("{}: {kind}: {error:?}", family.name()));
        assert_eq!(result["text"], "Hi.", "{kind}");
    }
}

fn refusals(family: &dyn Family) {
    use Category as C;
    use Status as S;
    let stage = Stage::new(family, json!({}));
    let (status, wrong_key) = family.wrong_key();
    let error = json!({"error": {"message": "Upstream said no.", "type": "odd_error", "code": null}});
    let pretty = serde_json::to_string_pretty(&error).unwrap();
    let text = |status: u16, text: &'static str| Reply::status(status).content_type("text/plain").body(text);
    let streamed = |body: &str| reply(family, body.as_bytes());
    let another = bytes_of(family, &[(String::new(), json!({"hello": "world"}).to_string())], Style::Plain).unwrap();
    let words = "upstream connect error or disconnect";
    let html = "<!DOCTYPE html>\n<html><h1>Sign in</h1></html>";
    let cases: Vec<(&str, Reply, S, C, &str, &str, &str)> = vec![
        // Name, reply, status, category, code, what the hint says, what the message says.
        (
            "wrong key",
            Reply::status(status).json_body(&wrong_key),
            S::Auth,
            C::PermissionDenied,
            "auth",
            "api_key",
            "p",
        ),
        ("no key", text(401, ""), S::Auth, C::PermissionDenied, "auth", "api_key", "401"),
        ("forbidden", text(403, "no"), S::Auth, C::PermissionDenied, "auth", "api_key", "no"),
        (
            "wrong URL",
            text(404, "404 page not found"),
            S::Provider,
            C::NotFound,
            "provider_error",
            "http://127.0.0.1",
            "page not found",
        ),
        ("wrong method", text(405, "no POST"), S::Provider, C::InvalidInput, "provider_error", "base_url", "no POST"),
        (
            "redirect",
            text(307, "").header("location", "/x"),
            S::Provider,
            C::InvalidInput,
            "provider_error",
            "redirects",
            "307",
        ),
        ("no money", text(402, "pay"), S::RateLimited, C::BudgetExceeded, "quota_exhausted", "billing", "pay"),
        ("too large", text(413, ""), S::ContextLength, C::InvalidInput, "context_length", "shorten", "413"),
        ("too fast", text(429, "slow"), S::RateLimited, C::RateLimited, "rate_limited", "", "slow"),
        ("failed", text(500, "oh"), S::Provider, C::ExternalFailure, "provider_error", "", "oh"),
        ("unavailable", text(503, "busy"), S::Provider, C::Unavailable, "provider_error", "", "busy"),
        ("overloaded", text(529, "busy"), S::Provider, C::Unavailable, "provider_error", "", "busy"),
        (
            "HTML with 200",
            Reply::html(200, "Welcome"),
            S::Provider,
            C::ExternalFailure,
            "provider_error",
            "HTML",
            "Welcome",
        ),
        ("HTML with 404", Reply::html(404, "Lost"), S::Provider, C::NotFound, "provider_error", "HTML", "Lost"),
        (
            "HTML with 502",
            Reply::html(502, "Bad Gateway"),
            S::Provider,
            C::ExternalFailure,
            "provider_error",
            "HTML",
            "Bad Gateway",
        ),
        ("HTML called a stream", streamed(html), S::Provider, C::ExternalFailure, "provider_error", "HTML", "Sign in"),
        (
            "HTML called JSON",
            Reply::status(200).content_type("application/json").body(html),
            S::Provider,
            C::ExternalFailure,
            "provider_error",
            "HTML",
            "Sign in",
        ),
        ("words called a stream", streamed(words), S::Provider, C::ExternalFailure, "bad_answer", "base_url", words),
        ("words", text(200, words), S::Provider, C::ExternalFailure, "bad_answer", "base_url", words),
        (
            "another API",
            Reply::json(&json!({"hello": "world"})),
            S::Provider,
            C::ExternalFailure,
            "bad_answer",
            "base_url",
            "hello",
        ),
        (
            "a stream of another API",
            streamed(&format!("{0}{0}", String::from_utf8(another).unwrap())),
            S::Provider,
            C::ExternalFailure,
            "bad_answer",
            "base_url",
            "hello",
        ),
        (
            "an error with 200",
            Reply::json(&error),
            S::Provider,
            C::ExternalFailure,
            "provider_error",
            "",
            "Upstream said no.",
        ),
        (
            "an error called a stream",
            streamed(&error.to_string()),
            S::Provider,
            C::ExternalFailure,
            "provider_error",
            "",
            "Upstream said no.",
        ),
        (
            "a pretty error with 200",
            Reply::status(200).content_type("application/json").body(pretty.clone()),
            S::Provider,
            C::ExternalFailure,
            "provider_error",
            "",
            "Upstream said no.",
        ),
        (
            "a pretty error called a stream",
            streamed(&pretty),
            S::Provider,
            C::ExternalFailure,
            "provider_error",
            "",
            "Upstream said no.",
        ),
        (
            "a pretty error called text",
            Reply::status(200).content_type("text/plain").body(pretty.clone()),
            S::Provider,
            C::ExternalFailure,
            "provider_error",
            "",
            "Upstream said no.",
        ),
        (
            "nothing called JSON",
            Reply::status(200).content_type("application/json").body(""),
            S::Provider,
            C::ExternalFailure,
            "bad_answer",
            "base_url",
            "p",
        ),
    ];
    for (name, reply, status, category, code, hint, message) in cases {
        if family.is_lines() && name == "nothing called JSON" {
            // Lines are called JSON, too: then it is a stream that was cut off.
            continue;
        }
        let error = stage.fail(reply);
        let name = format!("{}: {name}: {error:?}", family.name());
        assert_eq!((error.status(), error.category(), error.code()), (status, category, Some(code)), "{name}");
        assert!(error.hint().unwrap_or_default().contains(hint), "{name}");
        assert!(error.message().contains(message), "{name}");
        assert_eq!(error.provider().unwrap().provider, "p", "{name}");
    }
    let error = stage.fail(Reply::status(429).header("request-id", "req_7").retry_after_seconds(2).body("slow"));
    assert_eq!(error.provider().unwrap().request_id.as_deref(), Some("req_7"));
    assert_eq!(error.retry_after_ms(), Some(2_000));
}

/// Servers that never end, each in its own way.
fn floods(family: &dyn Family) {
    let big = "x".repeat(1 << 20);
    let delta = family.events(&Script::text(&big).in_pieces(2 << 20)).unwrap();
    let delta = delta.into_iter().find(|(_, payload)| payload.len() > 1 << 20).unwrap();
    let delta = bytes_of(family, &[delta], Style::Plain).unwrap();
    let nothing = match family.is_lines() {
        true => format!("{{\"status\": \"{}\"}}\n", "x".repeat(1 << 16)),
        false => format!(": {}\n\n", "x".repeat(1 << 16)),
    };
    let malformed = format!("{}{}\n\n", if family.is_lines() { "" } else { "data: " }, "x".repeat(1 << 16));
    let line = if family.is_lines() { "{\"message\":\"" } else { "data: " };
    let cases = [
        ("an endless line", reply(family, line.as_bytes()).endless("x".repeat(1 << 16)), "oversized_answer"),
        ("endless text", reply(family, b"").endless(delta), "oversized_answer"),
        ("endless nothing", reply(family, b"").endless(nothing), "oversized_answer"),
        ("endless nonsense", reply(family, b"").endless(malformed), "oversized_answer"),
        ("an endless page", Reply::html(200, "x").chunked().endless("x".repeat(1 << 16)), "provider_error"),
        ("an endless error", Reply::status(500).chunked().endless("x".repeat(1 << 16)), "provider_error"),
        (
            "an endless object",
            Reply::status(200)
                .content_type("application/json")
                .chunked()
                .chunk("{\"a\":\"")
                .endless("x".repeat(1 << 16)),
            "oversized_answer",
        ),
    ];
    for (name, reply, code) in cases {
        let stage = Stage::new(family, json!({}));
        *stage.next.lock().unwrap() = Some(reply);
        // Without a stream of events: the host keeps nothing either.
        let error = stage.runtime.invoke(r#"{"agent": "talker", "input": "Go."}"#, None).unwrap_err();
        assert_eq!(error.code(), Some(code), "{}: {name}: {error:?}", family.name());
        assert_eq!(error.status(), Status::Provider, "{}: {name}", family.name());
        assert!(error.hint().is_some() || name == "an endless error", "{}: {name}: {error:?}", family.name());
        assert!(error.to_json().len() < 10_000, "{name}: the message is bounded");
        stage.server.wait_until(name, |server| server.abandoned() == 1);
    }
}

/// Servers that keep one waiting.
fn dawdlers(family: &dyn Family) {
    let half = family.events(&Script::text("Half an answer")).unwrap();
    let half = bytes_of(family, &half, Style::Plain).unwrap();
    let half = half[..half.len() / 2].to_vec();
    let patience = json!({"timeouts": {"first_byte_ms": 250, "idle_ms": 250, "stall_ms": 900, "total_ms": 2_500}});
    let dripping = |reply: Reply, drop: &str| {
        let drops = |reply: Reply, _| reply.chunk(drop.to_owned()).pause(Duration::from_millis(20));
        (0..500).fold(reply.chunked(), drops)
    };
    let ping = match family.name() {
        "anthropic" => "event: ping\ndata: {\"type\":\"ping\"}\n\n",
        _ if family.is_lines() => "\n",
        _ => ": OPENROUTER PROCESSING\n\n",
    };
    let foreign = bytes_of(family, &[(String::new(), "{\"a\":1}".into())], Style::Plain).unwrap();
    let said = family.events(&Script::text("Hi.")).unwrap();
    let said = String::from_utf8(bytes_of(family, &said[..1], Style::Plain).unwrap()).unwrap();
    let cases = [
        ("no head", reply(family, &half).pause_before_head(Duration::from_secs(20)), "first_byte_ms"),
        ("a slow head", reply(family, &half).slow_head(Duration::from_millis(400)), "first_byte_ms"),
        ("no body", reply(family, b"").stall(), "idle_ms"),
        ("half a body", reply(family, &half).stall(), "idle_ms"),
        ("half an object", Reply::status(200).content_type("application/json").chunk("{").stall(), "idle_ms"),
        ("byte by byte", dripping(reply(family, &half), " "), "stall_ms"),
        ("nothing but signs of life", dripping(reply(family, &half), ping), "stall_ms"),
        ("another API's events", dripping(reply(family, b""), std::str::from_utf8(&foreign).unwrap()), "stall_ms"),
        ("an object byte by byte", dripping(Reply::json(&json!({})), " "), "stall_ms"),
        ("the same again and again", dripping(reply(family, b""), &said), "total_ms"),
    ];
    for (name, reply, key) in cases {
        let stage = Stage::new(family, patience.clone());
        let start = Instant::now();
        let error = stage.fail(reply);
        let name = format!("{}: {name}: {error:?}", family.name());
        assert_eq!(
            (error.status(), error.category(), error.code()),
            (Status::Network, Category::Timeout, Some("timeout")),
            "{name}"
        );
        assert!(error.hint().unwrap().contains(key), "{name}");
        assert!(start.elapsed() < Duration::from_secs(15), "{name}");
        stage.server.wait_until(&name, |server| server.abandoned() == 1);
    }
    // An error page that stops half-way, or never does, is still an error page.
    let page = || Reply::status(401).chunk("no such key");
    for reply in [page().stall(), dripping(page(), " ")] {
        let stage = Stage::new(family, patience.clone());
        let error = stage.fail(reply);
        assert_eq!((error.status(), error.message().contains("no such key")), (Status::Auth, true), "{error:?}");
        stage.server.wait_until("the page is dropped", |server| server.abandoned() == 1);
    }
}

/// Servers that cannot be reached.
fn unreachable(family: &dyn Family) {
    let timeouts = json!({"timeouts": {"connect_ms": 2_000}});
    let unbound = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let plain_address = plain.local_addr().unwrap();
    std::thread::spawn(move || {
        use std::io::Write;
        plain.accept().unwrap().0.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    });
    let cases = [
        ("nobody", format!("http://{unbound}"), ["no connection"; 2], "that the server runs"),
        // A resolver that does not answer is as good as one that says no.
        ("no such name", "http://name.invalid".to_owned(), ["cannot be resolved", "took too long"], "base_url"),
        ("no TLS", format!("https://{plain_address}"), ["no trusted TLS connection"; 2], "certificate"),
    ];
    for (name, url, messages, hint) in cases {
        let error = ask(&runtime(family, &url, timeouts.clone())).1.unwrap_err();
        let name = format!("{}: {name}: {error:?}", family.name());
        assert_eq!(
            (error.status(), error.code(), error.is_retryable()),
            (Status::Network, Some("network"), true),
            "{name}"
        );
        assert!(messages.iter().any(|message| error.message().contains(message)), "{name}");
        assert!(error.hint().unwrap().contains(hint), "{name}");
        assert_eq!(error.provider().unwrap().provider, "p", "{name}");
    }
    let server = FakeServer::start([Reply::refuse(), Reply::raw("SSH-2.0-OpenSSH\r\n").cut()]);
    let runtime = runtime(family, &server.url(), timeouts);
    for _ in 0..2 {
        let error = ask(&runtime).1.unwrap_err();
        assert_eq!(
            (error.status(), error.code(), error.hint().is_some()),
            (Status::Network, Some("network"), true),
            "{error:?}"
        );
    }
}

macro_rules! suite {
    ($($module:ident: $family:expr;)*) => {
        $(mod $module {
            use super::*;

            suite!(@ $family; scripts styles odd_servers failures_inside_streams beginnings_are_no_answers huge
                whole_answers refusals floods dawdlers unreachable);
        })*
    };
    (@ $family:expr; $($part:ident)*) => {
        $(#[test]
        fn $part() {
            super::$part(&$family);
        })*
    };
}

suite! {
    anthropic: Anthropic;
    gemini: Gemini;
    ollama: Ollama;
    openai_chat: OpenAiChat;
    openai_responses: OpenAiResponses;
}
