//! `cargo bench --bench decode`: how fast the wire families read a stream, in memory, on one core: megabytes per second of
//! splitting it into events, text deltas per second of decoding it, and allocations per delta.
#![allow(unsafe_code, reason = "an allocator that counts")]

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use par::llm::{
    Assembler, DeltaSink, Frame, ModelAnswer, SseReader, anthropic, gemini, ollama, openai_chat, openai_responses,
};
use par::types::{Error, ToolCallId, Transcript};
use serde_json::{Map, Value, json};
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Text deltas of one stream.
const DELTAS: usize = 20_000;
/// As much as one read of a socket brings.
const PIECE: usize = 16 << 10;
/// How often each is measured; the best counts, since all else is the machine's noise.
const ROUNDS: usize = 7;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: everything is the system allocator's, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer is of `alloc` above, so of the system's.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the pointer is of `alloc` above, so of the system's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Counts the text it is told.
#[derive(Default)]
struct Told(usize);

impl DeltaSink for Told {
    fn text(&mut self, text: &str) {
        self.0 += black_box(text).len();
    }
    fn reasoning(&mut self, _: &str) {}
    fn tool_call_start(&mut self, _: &ToolCallId, _: &str) {}
    fn tool_call_delta(&mut self, _: &ToolCallId, _: &str) {}
    fn warning(&mut self, code: &str, message: &str) {
        panic!("{code}: {message}");
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

struct Family {
    name: &'static str,
    reader: fn() -> SseReader,
    stream: Vec<u8>,
    decode: fn(&Family, &mut Told) -> ModelAnswer,
}

impl Family {
    /// Splits the stream into events, and gives them to `each` until it has enough.
    fn read(&self, mut each: impl FnMut(&str, &str) -> bool) {
        let mut reader = (self.reader)();
        for piece in self.stream.chunks(PIECE) {
            reader.push(piece);
            while let Ok(Some(event)) = reader.next_event() {
                if each(&event.name, &event.data) {
                    return;
                }
            }
        }
    }
}

fn ends(frame: &Frame) -> bool {
    match frame {
        Frame::Taken => false,
        Frame::Done => true,
        Frame::Alive | Frame::Foreign | Frame::Malformed | Frame::Failed(_) => {
            panic!("the stream of the benchmark is wrong: {frame:?}")
        }
    }
}

macro_rules! decoder {
    ($family:ident) => {
        |family, told| {
            let transcript = Transcript::new();
            let mut decoder = $family::Decoder::new("p", &transcript);
            family.read(|name, data| ends(&decoder.event(name, data, told)));
            decoder.finish(told)
        }
    };
}

fn families() -> Vec<Family> {
    let plain = |payloads: Vec<Value>| payloads.iter().map(|p| format!("data: {p}\n\n")).collect::<String>();
    let named = |payloads: Vec<Value>| {
        let one = |p: &Value| format!("event: {}\ndata: {p}\n\n", p["type"].as_str().unwrap_or_default());
        payloads.iter().map(one).collect::<String>()
    };
    let stream = |head: Vec<Value>, delta: Value, tail: Vec<Value>| {
        head.into_iter().chain(std::iter::repeat_n(delta, DELTAS)).chain(tail).collect::<Vec<Value>>()
    };
    let chat = |delta: Value, reason: Value| {
        json!({"id": "chatcmpl-9xK2", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "gpt-x",
               "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})
    };
    let item = json!({"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
                      "content": [{"type": "output_text", "text": " token".repeat(DELTAS), "annotations": []}]});
    let gemini_chunk = |text: &str, reason: Value| {
        json!({"candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": reason, "index": 0}],
               "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2}, "modelVersion": "gemini-x"})
    };
    let chat_stream =
        stream(vec![], chat(json!({"content": " token"}), Value::Null), vec![chat(json!({}), json!("stop"))]);
    vec![
        Family {
            name: "openai_chat",
            reader: SseReader::new,
            stream: (plain(chat_stream) + "data: [DONE]\n\n").into_bytes(),
            decode: |family, told| {
                let transcript = Transcript::new();
                let mut assembler = Assembler::new(&transcript);
                family.read(|_, data| ends(&openai_chat::decode(data, "p", &mut assembler, told)));
                assembler.into_answer(told)
            },
        },
        Family {
            name: "openai_responses",
            reader: SseReader::new,
            stream: named(stream(
                vec![
                    json!({"type": "response.created", "response": {"id": "r", "model": "gpt-x", "status": "in_progress", "output": []}}),
                    json!({"type": "response.output_item.added", "output_index": 0, "item": {"type": "message", "id": "msg_1", "role": "assistant", "content": []}}),
                ],
                json!({"type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0, "content_index": 0, "delta": " token", "sequence_number": 7}),
                vec![
                    json!({"type": "response.output_item.done", "output_index": 0, "item": item}),
                    json!({"type": "response.completed", "response": {"id": "r", "model": "gpt-x", "status": "completed", "output": [],
                           "usage": {"input_tokens": 3, "output_tokens": 2}}}),
                ],
            ))
            .into_bytes(),
            decode: decoder!(openai_responses),
        },
        Family {
            name: "anthropic",
            reader: SseReader::new,
            stream: named(stream(
                vec![
                    json!({"type": "message_start", "message": {"id": "m", "model": "claude-x", "role": "assistant", "content": [],
                           "usage": {"input_tokens": 3, "output_tokens": 1}}}),
                    json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
                ],
                json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " token"}}),
                vec![
                    json!({"type": "content_block_stop", "index": 0}),
                    json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}}),
                    json!({"type": "message_stop"}),
                ],
            ))
            .into_bytes(),
            decode: decoder!(anthropic),
        },
        Family {
            name: "gemini",
            reader: SseReader::new,
            stream: plain(stream(vec![], gemini_chunk(" token", Value::Null), vec![gemini_chunk("", json!("STOP"))])).into_bytes(),
            decode: decoder!(gemini),
        },
        Family {
            name: "ollama",
            reader: SseReader::lines,
            stream: stream(
                vec![],
                json!({"model": "m", "created_at": "2026-01-01T00:00:00Z", "message": {"role": "assistant", "content": " token"}, "done": false}),
                vec![json!({"model": "m", "message": {"role": "assistant", "content": ""}, "done": true, "done_reason": "stop", "eval_count": 2})],
            )
            .iter()
            .map(|line| format!("{line}\n"))
            .collect::<String>()
            .into_bytes(),
            decode: decoder!(ollama),
        },
    ]
}

/// The best of some rounds.
fn best(mut work: impl FnMut()) -> Duration {
    work();
    let round = |_| {
        let began = Instant::now();
        work();
        began.elapsed()
    };
    (0..ROUNDS).map(round).min().unwrap_or_default()
}

fn main() {
    println!(
        "{:<18}{:>8}{:>14}{:>18}{:>16}{:>14}",
        "family", "MB", "split MB/s", "decode MB/s", "M deltas/s", "allocs/delta"
    );
    for family in families() {
        let megabytes = family.stream.len() as f64 / 1e6;
        let split = best(|| {
            let mut events = 0_usize;
            family.read(|_, data| {
                events += usize::from(!black_box(data).is_empty());
                false
            });
            assert!(events >= DELTAS);
        });
        let decoded = best(|| {
            let mut told = Told::default();
            black_box((family.decode)(&family, &mut told));
            assert_eq!(told.0, DELTAS * " token".len(), "{}", family.name);
        });
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        black_box((family.decode)(&family, &mut Told::default()));
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        println!(
            "{:<18}{megabytes:>8.1}{:>14.0}{:>18.0}{:>16.2}{:>14.3}",
            family.name,
            megabytes / split.as_secs_f64(),
            megabytes / decoded.as_secs_f64(),
            DELTAS as f64 / decoded.as_secs_f64() / 1e6,
            allocations as f64 / DELTAS as f64,
        );
    }
}
