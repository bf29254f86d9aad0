//! Anthropic Messages, and gateways in front of it.

use super::{Amounts, Decode, End, Event, Family, Odd, Say, Script, Trouble, call, decode, event, odd, say, think};
use par::llm::anthropic::Decoder;
use par::types::{Transcript, Usage};
use serde_json::{Value, json};

pub struct Anthropic;

decode!(Decoder<'_>);

fn typed(payloads: impl IntoIterator<Item = Value>) -> Vec<Event> {
    payloads.into_iter().map(|payload| event(payload["type"].as_str().unwrap_or_default(), &payload)).collect()
}

fn message_start(usage: Value) -> Value {
    json!({"type": "message_start", "message": {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [],
           "stop_reason": null, "stop_sequence": null, "usage": usage}})
}

fn start(index: usize, block: Value) -> Value {
    json!({"type": "content_block_start", "index": index, "content_block": block})
}

fn delta(index: usize, kind: &str, field: &str, piece: &str) -> Value {
    json!({"type": "content_block_delta", "index": index, "delta": {"type": kind, field: piece}})
}

fn text_delta(index: usize, piece: &str) -> Value {
    delta(index, "text_delta", "text", piece)
}

fn stop(index: usize) -> Value {
    json!({"type": "content_block_stop", "index": index})
}

fn tool_use(id: &str) -> Value {
    json!({"type": "tool_use", "id": id, "name": "add", "input": {}})
}

/// A stream of these blocks with its beginning and end.
fn message(blocks: impl IntoIterator<Item = Value>, reason: &str) -> Vec<Event> {
    let end = [
        json!({"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": null}, "usage": null}),
        json!({"type": "message_stop"}),
    ];
    typed([message_start(Value::Null)].into_iter().chain(blocks).chain(end))
}

impl Family for Anthropic {
    fn name(&self) -> &'static str {
        "anthropic"
    }

    fn provider(&self, address: &str) -> Value {
        json!({"type": "anthropic", "base_url": address})
    }

    fn decoder<'a>(&self, transcript: &'a Transcript) -> Box<dyn Decode + 'a> {
        Box::new(Decoder::new("p", transcript))
    }

    fn events(&self, script: &Script) -> Option<Vec<Event>> {
        let reason = match script.end {
            End::Stop => "end_turn",
            End::Calls => "tool_use",
            End::Length => "max_tokens",
            End::Refused => "refusal",
            // What is filtered is refused.
            End::Filtered => return None,
        };
        let before = script.usage.map(|usage| {
            json!({"input_tokens": usage.input_tokens, "cache_read_input_tokens": usage.cache_read_tokens,
                   "cache_creation_input_tokens": usage.cache_write_tokens, "output_tokens": 1, "service_tier": "standard",
                   "cache_creation": {"ephemeral_5m_input_tokens": usage.cache_write_tokens, "ephemeral_1h_input_tokens": 0}})
        });
        let after = script.usage.map(|usage| {
            json!({"input_tokens": null, "cache_read_input_tokens": null, "output_tokens": usage.output_tokens,
                   "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens}})
        });
        let mut payloads = vec![message_start(json!(before)), json!({"type": "ping"})];
        for (index, said) in script.said.iter().enumerate() {
            let (block, kind, field, text) = match said {
                Say::Text(text) | Say::Refusal(text) => {
                    (json!({"type": "text", "text": ""}), "text_delta", "text", text)
                }
                Say::Thought(text) => {
                    (json!({"type": "thinking", "thinking": "", "signature": ""}), "thinking_delta", "thinking", text)
                }
                Say::Call(id, name, arguments) => (
                    json!({"type": "tool_use", "id": id, "name": name, "input": {}}),
                    "input_json_delta",
                    "partial_json",
                    arguments,
                ),
            };
            payloads.push(start(index, block));
            if matches!(said, Say::Call(..)) {
                payloads.push(delta(index, kind, field, ""));
            }
            payloads.extend(script.pieces(text).into_iter().map(|piece| delta(index, kind, field, piece)));
            if matches!(said, Say::Thought(_)) {
                payloads.push(delta(index, "signature_delta", "signature", "c2lnbg=="));
            }
            payloads.push(stop(index));
        }
        payloads.push(
            json!({"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": null}, "usage": after}),
        );
        payloads.push(json!({"type": "message_stop"}));
        Some(typed(payloads))
    }

    fn trouble(&self, trouble: Trouble) -> Option<Event> {
        let (kind, message) = match trouble {
            Trouble::RateLimit => ("rate_limit_error", "Slow down."),
            Trouble::Overloaded => ("overloaded_error", "Overloaded"),
            Trouble::ContextLength => ("invalid_request_error", "prompt is too long: 200001 tokens > 200000 maximum"),
            Trouble::Quota => ("billing_error", "Pay."),
            Trouble::Unknown => ("odd_error", "Something odd."),
        };
        let failure = json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"});
        Some(event("error", &failure))
    }

    fn noise(&self) -> Vec<Event> {
        typed([
            json!({"type": "ping"}),
            json!({"type": "something_new", "index": 0, "delta": "odd"}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "new_delta", "text": "not this"}}),
            json!({"amazon-bedrock-guardrailAction": "NONE"}),
        ])
    }

    fn wrong_key(&self) -> (u16, Value) {
        (401, json!({"type": "error", "error": {"type": "authentication_error", "message": "invalid x-api-key"}}))
    }

    fn whole(&self, text: &str) -> Value {
        json!({"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [{"type": "text", "text": text}],
               "stop_reason": "end_turn", "stop_sequence": null, "usage": {"input_tokens": 12, "output_tokens": 7}})
    }

    fn odd(&self) -> Vec<Odd> {
        let untold = |said: Vec<Say>, end: End| Script { usage: None, ..Script::new(said, end) };
        let said = || untold(vec![say("Hi.")], End::Stop);
        let text = |text: &str| json!({"type": "text", "text": text});
        vec![
            odd(
                "text in the block's start",
                message([start(0, text("H")), text_delta(0, "i."), stop(0)], "end_turn"),
                said(),
            ),
            odd(
                "thinking in the block's start",
                message(
                    [
                        start(0, json!({"type": "thinking", "thinking": "hm", "signature": "s"})),
                        stop(0),
                        start(1, text("Hi.")),
                        stop(1),
                    ],
                    "end_turn",
                ),
                untold(vec![think("hm"), say("Hi.")], End::Stop),
            ),
            odd("the start of the block lost", message([text_delta(0, "H"), text_delta(0, "i.")], "end_turn"), said()),
            odd("no block ends", message([start(0, text("")), text_delta(0, "Hi.")], "end_turn"), said()),
            odd(
                "the beginning said twice",
                {
                    let mut events = message([start(0, text("")), text_delta(0, "Hi."), stop(0)], "end_turn");
                    events.insert(1, events[0].clone());
                    events
                },
                said(),
            ),
            odd(
                "indexes that begin anywhere",
                message([start(5, text("")), text_delta(5, "Hi."), stop(5)], "end_turn"),
                said(),
            ),
            odd(
                "blocks that interleave",
                message(
                    [
                        start(0, tool_use("c1")),
                        start(1, tool_use("c2")),
                        delta(1, "input_json_delta", "partial_json", "{\"a\":"),
                        delta(0, "input_json_delta", "partial_json", "{\"a\":1}"),
                        delta(1, "input_json_delta", "partial_json", "2}"),
                        stop(1),
                        stop(0),
                    ],
                    "tool_use",
                ),
                untold(vec![call("c1", "add", "{\"a\":1}"), call("c2", "add", "{\"a\":2}")], End::Calls),
            ),
            odd(
                "input whole in the start",
                message(
                    [start(0, json!({"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}})), stop(0)],
                    "tool_use",
                ),
                untold(vec![call("c1", "add", "{\"a\":1}")], End::Calls),
            ),
            odd(
                "the same id twice",
                message([start(0, tool_use("c1")), stop(0), start(1, tool_use("c1")), stop(1)], "tool_use"),
                untold(vec![call("c1", "add", "{}"), call("", "add", "{}")], End::Calls),
            ),
            odd(
                "end_turn though there are calls",
                message([start(0, tool_use("c1")), stop(0)], "end_turn"),
                untold(vec![call("c1", "add", "{}")], End::Calls),
            ),
            odd("a stop reason nobody knows", message([start(0, text("Hi."))], "something_new"), said()),
            Odd {
                name: "a paused turn",
                events: message([start(0, text("Hi.")), stop(0)], "pause_turn"),
                outcome: Amounts::To(said(), &["pause_turn"]),
            },
            Odd {
                name: "the end of the window",
                events: message([start(0, text("Hi.")), stop(0)], "model_context_window_exceeded"),
                outcome: Amounts::To(untold(vec![say("Hi.")], End::Length), &["context_window_exceeded"]),
            },
            Odd {
                name: "an answer begun anew",
                events: {
                    let mut events = message([start(0, text("Ho")), start(0, text("Hi.")), stop(0)], "end_turn");
                    let mut anew: Value = serde_json::from_str(&events[0].1).unwrap();
                    anew["message"]["id"] = json!("other");
                    events.insert(2, event("message_start", &anew));
                    events
                },
                outcome: Amounts::To(said(), &["answer_restarted"]),
            },
            Odd {
                name: "no message_stop",
                events: {
                    let mut events = message([start(0, text("Hi.")), stop(0)], "end_turn");
                    events.pop();
                    events
                },
                outcome: Amounts::Truncated,
            },
            Odd {
                name: "a message_stop and nothing else",
                events: typed([json!({"type": "message_stop"})]),
                outcome: Amounts::To(untold(vec![], End::Stop), &[]),
            },
        ]
    }
}
