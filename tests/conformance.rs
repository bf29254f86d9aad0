//! One suite for every wire family: the same story, told in each family's own words, comes to the same events and the same
//! result, however the network cuts it.

mod support;

use par::runtime::Runtime;
use par::types::Category;
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use support::client::{events, of_type, text};
use support::{FakeServer, Reply};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Family {
    Chat,
    Responses,
    Anthropic,
    Gemini,
    Ollama,
}

const FAMILIES: [Family; 5] = [Family::Chat, Family::Responses, Family::Anthropic, Family::Gemini, Family::Ollama];

/// How an answer goes.
#[derive(Clone, Debug)]
enum Story {
    /// These pieces of text.
    Text(Vec<&'static str>),
    /// Reasoning, then text.
    Thinking(&'static str, &'static str),
    /// Text, then these calls.
    Calls(&'static str, Vec<(&'static str, Value)>),
    /// Text, cut off at the token limit.
    CutOff(&'static str),
    /// Text, withheld by the provider from here on.
    Filtered(&'static str),
    /// Text, if there is any, then an error.
    Breaks(&'static str),
    /// Text, and then the bytes end without a word.
    Vanishes(&'static str),
}

const PIECES: [&str; 4] = ["Grüße, ", "wörld 🎉", "\n\"quoted\" \\ ", "end."];

fn sse(events: &[Value], named: bool) -> String {
    let name = |event: &Value| match named {
        true => format!("event: {}\n", event["type"].as_str().unwrap()),
        false => String::new(),
    };
    events.iter().map(|event| format!("{}data: {event}\n\n", name(event))).collect()
}

impl Story {
    fn texts(&self) -> Vec<&'static str> {
        match self {
            Self::Text(pieces) => pieces.clone(),
            Self::Thinking(_, text)
            | Self::Calls(text, _)
            | Self::CutOff(text)
            | Self::Filtered(text)
            | Self::Breaks(text)
            | Self::Vanishes(text) => [*text].into_iter().filter(|text| !text.is_empty()).collect(),
        }
    }

    fn calls(&self) -> Vec<(&'static str, Value)> {
        match self {
            Self::Calls(_, calls) => calls.clone(),
            _ => Vec::new(),
        }
    }

    fn reasoning(&self) -> Option<&'static str> {
        match self {
            Self::Thinking(reasoning, _) => Some(reasoning),
            _ => None,
        }
    }

    fn ends(&self) -> bool {
        !matches!(self, Self::Breaks(_) | Self::Vanishes(_))
    }

    /// The finish reason in a family's words: ordinary, with calls, cut off, filtered.
    fn reason<'w>(&self, words: [&'w str; 4]) -> &'w str {
        match self {
            Self::Calls(..) => words[1],
            Self::CutOff(_) => words[2],
            Self::Filtered(_) => words[3],
            _ => words[0],
        }
    }

    /// The bytes of the answer.
    fn told_by(&self, family: Family) -> String {
        match family {
            Family::Chat => self.chat(),
            Family::Responses => self.responses(),
            Family::Anthropic => self.anthropic(),
            Family::Gemini => self.gemini(),
            Family::Ollama => self.ollama(),
        }
    }

    fn chat(&self) -> String {
        let chunk = |delta: Value, reason: Value| json!({"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]});
        let mut events = vec![chunk(json!({"role": "assistant", "content": ""}), Value::Null)];
        events.extend(self.reasoning().map(|text| chunk(json!({"reasoning_content": text}), Value::Null)));
        events.extend(self.texts().iter().map(|text| chunk(json!({"content": text}), Value::Null)));
        for (index, (name, input)) in self.calls().iter().enumerate() {
            let arguments = input.to_string();
            let (first, second) = arguments.split_at(arguments.len() / 2);
            let head = json!({"index": index, "id": format!("c{index}"), "type": "function", "function": {"name": name, "arguments": first}});
            events.push(chunk(json!({"tool_calls": [head]}), Value::Null));
            events
                .push(chunk(json!({"tool_calls": [{"index": index, "function": {"arguments": second}}]}), Value::Null));
        }
        if let Self::Breaks(_) = self {
            events.push(json!({"error": {"message": "slow down", "type": "rate_limit_exceeded", "code": "rate_limit_exceeded"}}));
        }
        if self.ends() {
            events.push(chunk(json!({}), json!(self.reason(["stop", "tool_calls", "length", "content_filter"]))));
            events.push(json!({"model": "m", "choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 5,
                               "prompt_tokens_details": {"cached_tokens": 2}}}));
        }
        sse(&events, false) + if self.ends() { "data: [DONE]\n\n" } else { "" }
    }

    fn responses(&self) -> String {
        let mut events = vec![json!({"type": "response.created", "response": {"model": "m", "output": []}})];
        let mut output = Vec::new();
        let mut item = |events: &mut Vec<Value>, begun: Value, deltas: Vec<Value>, done: Value| {
            let index = output.len();
            events.push(json!({"type": "response.output_item.added", "output_index": index, "item": begun}));
            for mut delta in deltas {
                delta["output_index"] = json!(index);
                delta["item_id"] = begun["id"].clone();
                delta["content_index"] = json!(0);
                events.push(delta);
            }
            output.push(done.clone());
            if self.ends() {
                events.push(json!({"type": "response.output_item.done", "output_index": index, "item": done}));
            }
        };
        if let Some(text) = self.reasoning() {
            let whole = json!({"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": text}], "encrypted_content": "eA=="});
            let delta = json!({"type": "response.reasoning_summary_text.delta", "summary_index": 0, "delta": text});
            item(&mut events, json!({"type": "reasoning", "id": "rs", "summary": []}), vec![delta], whole);
        }
        let texts = self.texts();
        if !texts.is_empty() {
            let begun =
                json!({"type": "message", "id": "msg", "role": "assistant", "status": "in_progress", "content": []});
            let deltas =
                texts.iter().map(|text| json!({"type": "response.output_text.delta", "delta": text})).collect();
            let content = json!([{"type": "output_text", "text": texts.concat(), "annotations": []}]);
            item(
                &mut events,
                begun,
                deltas,
                json!({"type": "message", "id": "msg", "role": "assistant", "status": "completed", "content": content}),
            );
        }
        for (index, (name, input)) in self.calls().iter().enumerate() {
            let call = |arguments: &str| json!({"type": "function_call", "id": format!("fc{index}"), "call_id": format!("c{index}"), "name": name, "arguments": arguments});
            let delta = json!({"type": "response.function_call_arguments.delta", "delta": input.to_string()});
            item(&mut events, call(""), vec![delta], call(&input.to_string()));
        }
        if let Self::Breaks(_) = self {
            events.push(json!({"type": "error", "code": "rate_limit_exceeded", "message": "slow down"}));
        }
        if self.ends() {
            let incomplete = match self {
                Self::CutOff(_) => Some("max_output_tokens"),
                Self::Filtered(_) => Some("content_filter"),
                _ => None,
            };
            let kind = if incomplete.is_some() { "incomplete" } else { "completed" };
            events.push(
                json!({"type": format!("response.{kind}"), "response": {"model": "m", "status": kind, "output": output,
                "incomplete_details": incomplete.map(|reason| json!({"reason": reason})),
                "usage": {"input_tokens": 12, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 2}}}}),
            );
        }
        sse(&events, true)
    }

    fn anthropic(&self) -> String {
        let mut events = vec![
            json!({"type": "message_start", "message": {"id": "m", "model": "m", "role": "assistant", "content": [],
            "usage": {"input_tokens": 10, "cache_read_input_tokens": 2, "output_tokens": 1}}}),
            json!({"type": "ping"}),
        ];
        let mut index = 0;
        let mut block = |events: &mut Vec<Value>, begun: Value, deltas: Vec<Value>| {
            events.push(json!({"type": "content_block_start", "index": index, "content_block": begun}));
            events.extend(
                deltas.into_iter().map(|delta| json!({"type": "content_block_delta", "index": index, "delta": delta})),
            );
            if self.ends() {
                events.push(json!({"type": "content_block_stop", "index": index}));
            }
            index += 1;
        };
        if let Some(text) = self.reasoning() {
            let deltas = vec![
                json!({"type": "thinking_delta", "thinking": text}),
                json!({"type": "signature_delta", "signature": "eA=="}),
            ];
            block(&mut events, json!({"type": "thinking", "thinking": "", "signature": ""}), deltas);
        }
        let texts = self.texts();
        if !texts.is_empty() {
            let deltas = texts.iter().map(|text| json!({"type": "text_delta", "text": text})).collect();
            block(&mut events, json!({"type": "text", "text": ""}), deltas);
        }
        for (number, (name, input)) in self.calls().iter().enumerate() {
            let arguments = input.to_string();
            let (first, second) = arguments.split_at(arguments.len() / 2);
            let deltas = ["", first, second]
                .iter()
                .map(|piece| json!({"type": "input_json_delta", "partial_json": piece}))
                .collect();
            block(
                &mut events,
                json!({"type": "tool_use", "id": format!("c{number}"), "name": name, "input": {}}),
                deltas,
            );
        }
        if let Self::Breaks(_) = self {
            events.push(json!({"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}}));
        }
        if self.ends() {
            let reason = self.reason(["end_turn", "tool_use", "max_tokens", "refusal"]);
            events.push(
                json!({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 5}}),
            );
            events.push(json!({"type": "message_stop"}));
        }
        sse(&events, true)
    }

    fn gemini(&self) -> String {
        let chunk =
            |part: Value| json!({"candidates": [{"content": {"role": "model", "parts": [part]}}], "modelVersion": "m"});
        let mut events: Vec<Value> = Vec::new();
        events.extend(self.reasoning().map(|text| chunk(json!({"text": text, "thought": true}))));
        events.extend(self.texts().iter().map(|text| chunk(json!({"text": text}))));
        events.extend(
            self.calls().iter().map(|(name, input)| chunk(json!({"functionCall": {"name": name, "args": input}}))),
        );
        if let Self::Breaks(_) = self {
            events.push(json!({"error": {"code": 429, "message": "slow down", "status": "RESOURCE_EXHAUSTED"}}));
        }
        if self.ends() {
            let reason = self.reason(["STOP", "STOP", "MAX_TOKENS", "SAFETY"]);
            events.push(json!({"candidates": [{"content": {"role": "model", "parts": []}, "finishReason": reason}], "modelVersion": "m",
                "usageMetadata": {"promptTokenCount": 12, "candidatesTokenCount": 5, "cachedContentTokenCount": 2}}));
        }
        sse(&events, false)
    }

    fn ollama(&self) -> String {
        let line = |message: Value| json!({"model": "m", "message": message, "done": false});
        let mut lines: Vec<Value> = Vec::new();
        lines.extend(self.reasoning().map(|text| line(json!({"role": "assistant", "content": "", "thinking": text}))));
        lines.extend(self.texts().iter().map(|text| line(json!({"role": "assistant", "content": text}))));
        let calls: Vec<Value> =
            self.calls().iter().map(|(name, input)| json!({"function": {"name": name, "arguments": input}})).collect();
        if !calls.is_empty() {
            lines.push(line(json!({"role": "assistant", "content": "", "tool_calls": calls})));
        }
        if let Self::Breaks(_) = self {
            lines.push(json!({"error": "something broke"}));
        }
        if self.ends() {
            let reason = self.reason(["stop", "stop", "length", "stop"]);
            lines.push(json!({"model": "m", "message": {"role": "assistant", "content": ""}, "done": true, "done_reason": reason,
                              "prompt_eval_count": 12, "eval_count": 5}));
        }
        lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

/// Where a body is cut into pieces.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Nowhere,
    Everywhere,
    At(usize),
}

fn reply(family: Family, body: &str, cut: Cut) -> Reply {
    let kind = if family == Family::Ollama { "application/x-ndjson" } else { "text/event-stream" };
    let reply = Reply::status(200).content_type(kind).body(body.to_owned());
    match cut {
        Cut::Nowhere => reply,
        Cut::Everywhere => reply.split_every(1),
        Cut::At(offset) => reply.split_at(&[offset]),
    }
}

fn runtime(family: Family, server: &FakeServer) -> Runtime {
    let mut provider = match family {
        Family::Chat => json!({"type": "openai", "base_url": server.base_url()}),
        Family::Responses => json!({"type": "openai", "api": "responses", "base_url": server.base_url()}),
        Family::Anthropic => json!({"type": "anthropic", "base_url": server.url()}),
        Family::Gemini => json!({"type": "gemini", "base_url": server.url()}),
        Family::Ollama => json!({"type": "ollama", "base_url": server.url()}),
    };
    provider["retry"] = json!({"max_attempts": 1});
    let runtime = Runtime::create(&json!({"threads": 1, "llm_providers": {"p": provider}}).to_string()).unwrap();
    // One turn: calls are not answered, they are counted.
    runtime.register_agent(r#"{"id": "a", "model": "p/m", "max_iterations": 1}"#).unwrap();
    runtime
}

/// What a story comes to: everything but times and ids.
#[derive(Debug, PartialEq)]
struct Told {
    text: String,
    reasoning: String,
    calls: Vec<(String, Value)>,
    end: Value,
}

fn play(family: Family, story: &Story, cut: Cut) -> Told {
    let server = FakeServer::start([reply(family, &story.told_by(family), cut)]);
    let runtime = runtime(family, &server);
    let stream = runtime.stream(r#"{"agent": "a", "input": "Hi"}"#).unwrap();
    let seen = events(&stream);
    let last = seen.last().unwrap();
    let calls = of_type(&seen, "tool_call_start").into_iter().map(|start| {
        let of_call = |event: &&&Value| event["tool_call_id"] == start["tool_call_id"];
        let deltas = of_type(&seen, "tool_call_delta");
        let arguments: String =
            deltas.iter().filter(of_call).map(|delta| delta["args_json"].as_str().unwrap()).collect();
        (start["name"].as_str().unwrap().to_owned(), serde_json::from_str(&arguments).unwrap())
    });
    let usage = of_type(&seen, "usage_update").first().map(|event| event["usage"].clone());
    Told {
        text: text(&seen),
        reasoning: of_type(&seen, "reasoning_delta").iter().map(|event| event["text"].as_str().unwrap()).collect(),
        calls: calls.collect(),
        end: json!({"type": last["type"], "finish_reason": last["finish_reason"], "category": last["error"]["category"],
                    "code": last["error"]["code"], "usage": usage}),
    }
}

fn expected(family: Family, story: &Story) -> Told {
    let cached = family != Family::Ollama;
    let usage = match cached {
        true => json!({"input_tokens": 10, "output_tokens": 5, "cache_read_tokens": 2}),
        false => json!({"input_tokens": 12, "output_tokens": 5}),
    };
    let done = |reason: &str| json!({"type": "completed", "finish_reason": reason, "category": null, "code": null, "usage": usage});
    let failed = |category: &str, code: &str| json!({"type": "failed", "finish_reason": null, "category": category, "code": code, "usage": null});
    let end = match story {
        Story::Text(_) | Story::Thinking(..) => done("stop"),
        Story::CutOff(_) => done("max_tokens"),
        Story::Filtered(_) if family == Family::Anthropic => done("refusal"),
        Story::Filtered(_) if family == Family::Ollama => done("stop"),
        Story::Filtered(_) => done("content_filter"),
        // The calls cannot be followed by another turn here.
        Story::Calls(..) => {
            json!({"type": "failed", "finish_reason": null, "category": "budget_exceeded", "code": "max_iterations", "usage": usage})
        }
        // Ollama says what is wrong in words alone.
        Story::Breaks(_) if family == Family::Ollama => failed("external_failure", "provider_error"),
        Story::Breaks(_) => failed("rate_limited", "rate_limited"),
        Story::Vanishes(_) => failed("truncated", "truncated"),
    };
    let calls = story.calls().into_iter().map(|(name, input)| (name.to_owned(), input)).collect();
    Told { text: story.texts().concat(), reasoning: story.reasoning().unwrap_or_default().to_owned(), calls, end }
}

fn stories() -> Vec<Story> {
    vec![
        Story::Text(PIECES.to_vec()),
        Story::Thinking("I should think. 🤔", "Thought."),
        Story::Calls("", vec![("add", json!({"a": 1, "b": {"c": "ü\"\\"}}))]),
        Story::Calls("Both: ", vec![("add", json!({"a": 1})), ("mul", json!({"b": [1, 2]})), ("none", json!({}))]),
        Story::CutOff("An answer that goes"),
        Story::Filtered("An answer that may not"),
        Story::Breaks(""),
        Story::Breaks("Half an ans"),
        Story::Vanishes("Half an ans"),
        Story::Vanishes(""),
    ]
}

#[test]
fn every_family_tells_the_same_story_whole_and_byte_by_byte() {
    for family in FAMILIES {
        for story in stories() {
            for cut in [Cut::Nowhere, Cut::Everywhere] {
                assert_eq!(play(family, &story, cut), expected(family, &story), "{family:?} {story:?} {cut:?}");
            }
        }
    }
}

#[test]
fn every_family_tells_the_same_story_cut_anywhere() {
    for family in FAMILIES {
        for story in [
            Story::Text(PIECES.to_vec()),
            Story::Calls("Both: ", vec![("add", json!({"a": "🎉"})), ("mul", json!({"b": 2}))]),
        ] {
            let length = story.told_by(family).len();
            for offset in (1..length).step_by(length.div_ceil(60).max(1)) {
                assert_eq!(
                    play(family, &story, Cut::At(offset)),
                    expected(family, &story),
                    "{family:?} {story:?} at {offset}"
                );
            }
        }
    }
}

#[test]
fn a_huge_answer_is_read_in_one_go() {
    let piece: &'static str = Box::leak("0123456789abcdef".repeat(4_096).into_boxed_str());
    for family in FAMILIES {
        let told = play(family, &Story::Text(vec![piece; 32]), Cut::Nowhere);
        assert_eq!((told.text.len(), &told.end["type"]), (2 << 20, &json!("completed")), "{family:?}");
    }
}

#[test]
fn every_family_says_clearly_what_is_wrong_with_a_server() {
    let gives = |family: Family, reply: Reply| {
        let server = FakeServer::start([reply]);
        let runtime = runtime(family, &server);
        let stream = runtime.stream(r#"{"agent": "a", "input": "Hi"}"#).unwrap();
        events(&stream);
        stream.answer().unwrap().unwrap_err()
    };
    let page = "<html><body>Welcome</body></html>";
    for family in FAMILIES {
        for (what, reply, category) in [
            ("a wrong key", Reply::status(401).body("{\"error\": {\"message\": \"no\"}}"), Category::PermissionDenied),
            ("a wrong address", Reply::status(404).body("not found"), Category::NotFound),
            ("a page", Reply::status(200).content_type("text/html").body(page), Category::ExternalFailure),
            ("a page of a gateway", Reply::html(502, "Bad Gateway"), Category::ExternalFailure),
            ("overload", Reply::status(529).body("{}"), Category::Unavailable),
            ("no patience", Reply::status(429).body("{}"), Category::RateLimited),
            (
                "an endless line",
                Reply::event_stream().endless("data: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx".repeat(4_096)),
                Category::ExternalFailure,
            ),
        ] {
            let error = gives(family, reply);
            assert_eq!(error.category(), category, "{family:?}: {what}: {error}");
            assert!(error.message().contains("\"p\""), "{family:?}: {what}: {error}");
        }
    }
}
