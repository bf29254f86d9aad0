//! Whatever happens to a run, what its session holds is a conversation that every provider would take.
//!
//! Runs with random answers, tools and ends (cancelled, out of time, failed, handed over, compacted) follow each other in
//! one session. Before each model request the provider of this test looks at what it is sent, as the strictest of them
//! would.

mod support;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use par::config::Quirks;
use par::llm::{
    DeltaSink, ModelAnswer, ModelRequest, Provider, anthropic, gemini, ollama, openai_chat, openai_responses,
};
use par::runtime::Runtime;
use par::tools::{Invocation, Tool, ToolFailure, ToolOutput};
use par::types::{Error, FinishReason, Part, Status, ToolCall, Usage, View};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What the model does in one turn.
#[derive(Clone, Debug)]
enum Turn {
    Text,
    Nothing,
    Calls(Vec<&'static str>),
    HandOver(&'static str),
    TooLong,
    Fails,
    Stalls,
    Panics,
    CutOff,
}

/// How the host treats one run.
#[derive(Clone, Debug)]
enum Treatment {
    Patient,
    TimeOut(u64),
    CancelAfter(u64),
    AfterTurn,
    Steer,
}

fn turn() -> impl Strategy<Value = Turn> {
    let name = prop_oneof![
        Just("quick"),
        Just("slow"),
        Just("stalls"),
        Just("panics"),
        Just("fails"),
        Just("unknown"),
        Just("broken")
    ];
    prop_oneof![
        2 => Just(Turn::Text),
        1 => Just(Turn::Nothing),
        6 => proptest::collection::vec(name, 1..4).prop_map(Turn::Calls),
        2 => prop_oneof![Just("a"), Just("b"), Just("c")].prop_map(Turn::HandOver),
        1 => Just(Turn::TooLong),
        1 => Just(Turn::Fails),
        1 => Just(Turn::Stalls),
        1 => Just(Turn::Panics),
        1 => Just(Turn::CutOff),
    ]
}

fn treatment() -> impl Strategy<Value = Treatment> {
    prop_oneof![
        3 => Just(Treatment::Patient),
        2 => (0u64..8).prop_map(Treatment::TimeOut),
        2 => (0u64..8).prop_map(Treatment::CancelAfter),
        1 => Just(Treatment::AfterTurn),
        1 => Just(Treatment::Steer),
    ]
}

/// Plays the turns, one after the other, whatever run asks; and looks at each request.
struct Strict {
    turns: Vec<Turn>,
    next: AtomicUsize,
    minted: AtomicUsize,
}

impl Strict {
    async fn answer(&self, request: &ModelRequest<'_>, sink: &mut dyn DeltaSink) -> Result<ModelAnswer, Error> {
        look(request);
        let turn = self.turns.get(self.next.fetch_add(1, Ordering::SeqCst) % self.turns.len()).unwrap();
        let mut answer = ModelAnswer {
            parts: vec![],
            finish_reason: FinishReason::Stop,
            usage: Usage { input_tokens: 100, output_tokens: 5, ..Usage::default() },
            model: "m".into(),
        };
        let call = |name: &str, arguments: &str| {
            let id = format!("call_{}", self.minted.fetch_add(1, Ordering::SeqCst));
            Part::ToolCall(ToolCall {
                id: id.as_str().into(),
                name: name.into(),
                arguments: arguments.into(),
                opaque: None,
            })
        };
        match turn {
            Turn::Text => {
                sink.text("An answer.");
                answer.parts.push(Part::text("An answer."));
            }
            Turn::Nothing => {}
            Turn::Calls(names) => {
                answer.finish_reason = FinishReason::ToolCalls;
                answer.parts = names
                    .iter()
                    .map(|name| if *name == "broken" { call("quick", "{\"a\":") } else { call(name, "{}") })
                    .collect();
            }
            Turn::HandOver(to) => {
                answer.finish_reason = FinishReason::ToolCalls;
                answer.parts = vec![call(&format!("handoff_to_{to}"), "{\"task\": \"Go on.\"}"), call("quick", "{}")];
            }
            Turn::TooLong => return Err(Error::new(Status::ContextLength, "too long")),
            Turn::Fails => return Err(Error::new(Status::Provider, "no")),
            Turn::Stalls => tokio::time::sleep(Duration::from_secs(60)).await,
            Turn::Panics => panic!("on purpose"),
            Turn::CutOff => {
                answer.finish_reason = FinishReason::MaxTokens;
                answer.parts.push(Part::text("An answer that goes"));
            }
        }
        Ok(answer)
    }
}

impl Provider for Strict {
    fn name(&self) -> &str {
        "strict"
    }

    fn kind(&self) -> &'static str {
        "test"
    }

    fn request<'a>(
        &'a self,
        request: &'a ModelRequest<'a>,
        sink: &'a mut dyn DeltaSink,
    ) -> BoxFuture<'a, Result<ModelAnswer, Error>> {
        self.answer(request, sink).boxed()
    }
}

/// What every provider demands of a conversation; kept for the test where it is broken, since a panic here would only
/// fail the run.
fn look(request: &ModelRequest<'_>) {
    if let Err(wrong) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| demand(request))) {
        let wrong = wrong.downcast_ref::<String>().cloned().unwrap_or_default();
        let sent: Vec<String> = request.transcript.view().map(|view| format!("{view:?}")).collect();
        FOUND.lock().unwrap().push(format!("{wrong}\n{}", sent.join("\n")));
    }
}

static FOUND: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());

fn demand(request: &ModelRequest<'_>) {
    let mut open: Vec<String> = Vec::new();
    let mut seen = HashSet::new();
    let mut views = request.transcript.view().peekable();
    assert!(matches!(views.peek(), Some(View::User(_))), "a conversation begins with the user");
    for view in views {
        match view {
            View::User(parts) => {
                assert!(open.is_empty(), "a user before every result");
                assert!(!parts.is_empty(), "a message without content");
            }
            View::Assistant(parts) => {
                assert!(open.is_empty(), "an answer before every result");
                assert!(!parts.is_empty(), "an answer without content");
                open = parts.iter().filter_map(Part::as_tool_call).map(|call| call.id.to_string()).collect();
                assert!(open.iter().all(|id| seen.insert(id.clone())), "an id twice");
                open.reverse();
            }
            View::Tool(call, _) => assert_eq!(open.pop().as_deref(), Some(call.id.as_str()), "a result out of order"),
        }
    }
    assert!(open.is_empty(), "calls without results");
    chat(request);
    messages(request);
    contents(request);
    items(request);
    let dialect = ollama::Dialect { stream: true, ..ollama::Dialect::default() };
    ollama::encode(request, &dialect).unwrap();
}

fn json_of(body: Vec<u8>) -> Value {
    serde_json::from_slice(&body).unwrap()
}

/// Chat Completions: every call is answered directly behind it.
fn chat(request: &ModelRequest<'_>) {
    let dialect = openai_chat::Dialect { stream: true, is_openai: true, quirks: Quirks::default() };
    let body = json_of(openai_chat::encode(request, &dialect).unwrap());
    let mut waiting: Vec<&Value> = Vec::new();
    for message in body["messages"].as_array().unwrap() {
        match message["role"].as_str().unwrap() {
            "tool" => {
                let at =
                    waiting.iter().position(|id| **id == message["tool_call_id"]).expect("a result without its call");
                waiting.remove(at);
            }
            role => {
                assert_eq!(waiting, Vec::<&Value>::new(), "{role} before every result");
                if let Some(calls) = message["tool_calls"].as_array() {
                    waiting = calls.iter().map(|call| &call["id"]).collect();
                }
            }
        }
    }
}

/// Anthropic: roles alternate, the user begins, and all results stand first in the one message behind their calls.
fn messages(request: &ModelRequest<'_>) {
    let dialect = anthropic::Dialect { stream: true, max_tokens: 100, thinking: None, cache_points: 4 };
    let body = json_of(anthropic::encode(request, &dialect).unwrap());
    let mut calls: Vec<&Value> = Vec::new();
    for (index, message) in body["messages"].as_array().unwrap().iter().enumerate() {
        assert_eq!(message["role"], if index % 2 == 0 { "user" } else { "assistant" }, "roles do not alternate");
        let content = message["content"].as_array().unwrap();
        assert!(!content.is_empty(), "a message without content");
        assert!(content.iter().all(|block| block["text"] != ""), "an empty text");
        let results: Vec<&Value> = content
            .iter()
            .take_while(|block| block["type"] == "tool_result")
            .map(|block| &block["tool_use_id"])
            .collect();
        assert_eq!(results, calls, "results are not those of the calls before");
        calls = content.iter().filter(|block| block["type"] == "tool_use").map(|block| &block["id"]).collect();
    }
    assert!(body.to_string().matches("cache_control").count() <= 4, "too many marks");
}

/// Gemini: as many answers as calls, directly behind them.
fn contents(request: &ModelRequest<'_>) {
    let body =
        json_of(gemini::encode(request, &gemini::Dialect { is_gemini_3: true, ..gemini::Dialect::default() }).unwrap());
    let mut calls = 0;
    for content in body["contents"].as_array().unwrap() {
        let count =
            |key: &str| content["parts"].as_array().unwrap().iter().filter(|part| part.get(key).is_some()).count();
        assert_eq!(count("functionResponse"), calls, "answers are not those of the calls before");
        calls = count("functionCall");
    }
}

/// Responses: every call has its output.
fn items(request: &ModelRequest<'_>) {
    let dialect = openai_responses::Dialect { stream: true, is_openai: true, ..openai_responses::Dialect::default() };
    let body = json_of(openai_responses::encode(request, &dialect).unwrap());
    let of = |kind: &str| -> Vec<&Value> {
        let items = body["input"].as_array().unwrap().iter().filter(|item| item["type"] == kind);
        items.map(|item| &item["call_id"]).collect()
    };
    assert_eq!(of("function_call"), of("function_call_output"));
}

struct Play(&'static str);

impl Tool for Play {
    fn call<'a>(&'a self, _: Invocation<'a>) -> BoxFuture<'a, ToolOutput> {
        async move {
            match self.0 {
                "slow" => tokio::time::sleep(Duration::from_millis(3)).await,
                "stalls" => tokio::time::sleep(Duration::from_secs(60)).await,
                "panics" => panic!("on purpose"),
                "fails" => return Err(ToolFailure::new("no")),
                _ => {}
            }
            Ok(json!("done"))
        }
        .boxed()
    }
}

fn runtime(turns: Vec<Turn>) -> Runtime {
    let runtime = support::create(r#"{"threads": 1}"#).unwrap();
    let provider = Strict { turns, next: AtomicUsize::new(0), minted: AtomicUsize::new(0) };
    runtime.register_provider(Arc::new(provider)).unwrap();
    for name in ["quick", "slow", "stalls", "panics", "fails"] {
        let definition = json!({"name": name, "timeout": if name == "stalls" { 0.02 } else { 5.0 }});
        runtime.register_native_tool(&definition.to_string(), Arc::new(Play(name))).unwrap();
    }
    let tools = json!(["quick", "slow", "stalls", "panics", "fails"]);
    let others = |own: &str, carry: bool| -> Vec<Value> {
        let names = ["a", "b", "c"].into_iter().filter(|name| *name != own);
        names.map(|name| json!({"agent": name, "carry_context": carry})).collect()
    };
    for (id, carry, strategy) in [
        ("a", true, json!({"type": "sliding_window", "max_messages": 5})),
        ("b", false, json!({"type": "truncate_oldest", "max_tokens": 200, "min_messages": 1})),
        ("c", true, json!({"type": "summarize"})),
    ] {
        let agent = json!({"id": id, "model": "strict/m", "tools": tools, "handoffs": others(id, carry), "max_iterations": 6,
                           "context_strategy": strategy, "context_window_override": 2_000, "on_max_tokens": "continue",
                           "max_continuations": 2, "early_stopping_method": "generate"});
        runtime.register_agent(&agent.to_string()).unwrap();
    }
    runtime
}

fn play(runtime: &Runtime, agent: &str, treatment: &Treatment) {
    let mut request = json!({"agent": agent, "input": "Go.", "session": "s", "timeout_ms": 100});
    if let Treatment::TimeOut(ms) = treatment {
        request["timeout_ms"] = json!(ms);
    }
    let stream = runtime.stream(&request.to_string()).unwrap();
    let id = stream.run_id().as_str();
    match treatment {
        Treatment::Patient | Treatment::TimeOut(_) => {}
        Treatment::CancelAfter(ms) => {
            std::thread::sleep(Duration::from_millis(*ms));
            stream.cancel("enough");
        }
        Treatment::AfterTurn => {
            // It may have ended already.
            let _ = runtime.call("runs.cancel", &json!({"run_id": id, "when": "after_turn"}).to_string(), None);
        }
        Treatment::Steer => {
            let _ = runtime.steer(id, r#"{"input": "And this.", "when": "follow_up"}"#);
        }
    }
    let events = support::client::events(&stream);
    let terminal = events.last().unwrap();
    if let Some(messages) = terminal["messages"].as_array() {
        let calls = |message: &Value| {
            message["parts"].as_array().into_iter().flatten().filter(|part| part["type"] == "tool_call").count()
        };
        let made: usize = messages.iter().map(calls).sum();
        let answered = messages.iter().filter(|message| message["role"] == "tool").count();
        assert_eq!(made, answered, "{terminal}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_end_of_a_run_leaves_a_conversation_that_a_provider_would_refuse(
        turns in proptest::collection::vec(turn(), 3..12),
        runs in proptest::collection::vec((prop_oneof![Just("a"), Just("b"), Just("c")], treatment()), 2..6),
    ) {
        let runtime = runtime(turns);
        for (agent, treatment) in &runs {
            play(&runtime, agent, treatment);
        }
        let found = std::mem::take(&mut *FOUND.lock().unwrap());
        prop_assert!(found.is_empty(), "{}", found.join("\n\n"));
        runtime.close(None);
    }
}
