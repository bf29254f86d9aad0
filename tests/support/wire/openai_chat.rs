//! OpenAI Chat Completions, and what compatible servers make of it.

use super::{Amounts, Decode, End, Event, Family, Odd, Say, Script, Trouble, call, event, odd, say, think, unnamed};
use par::llm::{Assembler, DeltaSink, Frame, ModelAnswer, openai_chat};
use par::types::{Transcript, Usage};
use serde_json::{Value, json};

pub struct OpenAiChat;

struct Decoder<'a>(Assembler<'a>);

impl Decode for Decoder<'_> {
    fn event(&mut self, _: &str, data: &str, sink: &mut dyn DeltaSink) -> Frame {
        openai_chat::decode(data, "p", &mut self.0, sink)
    }

    fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    fn finish(self: Box<Self>, sink: &mut dyn DeltaSink) -> ModelAnswer {
        self.0.into_answer(sink)
    }
}

fn chunk(delta: Value, reason: Value) -> Value {
    json!({"id": "c", "object": "chat.completion.chunk", "model": "m", "usage": null,
           "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})
}

fn delta(delta: Value) -> Value {
    chunk(delta, Value::Null)
}

/// A stream of tool call deltas, as they are, and its end.
fn calling(pieces: impl IntoIterator<Item = Value>) -> Vec<Event> {
    let pieces = pieces.into_iter().map(|piece| delta(json!({"tool_calls": [piece]})));
    unnamed(pieces.chain([chunk(json!({}), json!("tool_calls"))]))
}

fn usage_of(usage: Usage) -> Value {
    let prompt = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens;
    json!({"prompt_tokens": prompt, "completion_tokens": usage.output_tokens,
           "total_tokens": prompt + usage.output_tokens,
           "prompt_tokens_details": {"cached_tokens": usage.cache_read_tokens, "cache_write_tokens": usage.cache_write_tokens,
                                     "audio_tokens": 0},
           "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens, "accepted_prediction_tokens": 0}})
}

impl Family for OpenAiChat {
    fn name(&self) -> &'static str {
        "openai_chat"
    }

    fn provider(&self, address: &str) -> Value {
        json!({"type": "openai", "api": "chat", "base_url": format!("{address}/v1")})
    }

    fn decoder<'a>(&self, transcript: &'a Transcript) -> Box<dyn Decode + 'a> {
        Box::new(Decoder(Assembler::new(transcript)))
    }

    fn keeps_order(&self) -> bool {
        false
    }

    fn events(&self, script: &Script) -> Option<Vec<Event>> {
        let mut payloads = vec![delta(json!({"role": "assistant", "content": "", "refusal": null}))];
        let mut index = 0;
        for said in &script.said {
            let (field, text) = match said {
                Say::Text(text) => ("content", text),
                Say::Thought(text) => ("reasoning_content", text),
                Say::Refusal(text) => ("refusal", text),
                Say::Call(id, name, arguments) => {
                    let opening = json!({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}});
                    payloads.push(delta(json!({"tool_calls": [opening]})));
                    for piece in script.pieces(arguments) {
                        let piece = json!({"index": index, "function": {"arguments": piece}});
                        payloads.push(delta(json!({"tool_calls": [piece]})));
                    }
                    index += 1;
                    continue;
                }
            };
            payloads.extend(script.pieces(text).into_iter().map(|piece| delta(json!({field: piece}))));
        }
        let reason = match script.end {
            End::Stop | End::Refused => "stop",
            End::Calls => "tool_calls",
            End::Length => "length",
            End::Filtered => "content_filter",
        };
        payloads.push(chunk(json!({}), json!(reason)));
        if let Some(usage) = script.usage {
            payloads.push(json!({"id": "c", "model": "m", "choices": [], "usage": usage_of(usage)}));
        }
        let mut events = unnamed(payloads);
        events.push((String::new(), "[DONE]".into()));
        Some(events)
    }

    fn trouble(&self, trouble: Trouble) -> Option<Event> {
        let (kind, code, message) = match trouble {
            Trouble::RateLimit => ("requests", json!("rate_limit_exceeded"), "Slow down."),
            Trouble::Overloaded => ("server_error", json!(503), "Overloaded."),
            Trouble::ContextLength => ("invalid_request_error", json!("context_length_exceeded"), "Too long."),
            Trouble::Quota => ("insufficient_quota", json!("insufficient_quota"), "Pay."),
            Trouble::Unknown => ("odd_error", Value::Null, "Something odd."),
        };
        let error = json!({"message": message, "type": kind, "param": null, "code": code});
        Some(event("", &json!({"error": error})))
    }

    fn noise(&self) -> Vec<Event> {
        unnamed([
            json!({"id": null, "model": null, "choices": null, "usage": null, "error": null}),
            json!({"choices": [{"index": 0, "delta": null, "finish_reason": null}]}),
            json!({"choices": [{"index": 0, "delta": {"content": null, "tool_calls": null, "refusal": null}, "finish_reason": ""}]}),
            json!({"choices": []}),
            json!({"object": "chat.completion.chunk", "prompt_filter_results": [{"prompt_index": 0}]}),
        ])
    }

    fn wrong_key(&self) -> (u16, Value) {
        (
            401,
            json!({"error": {"message": "Incorrect API key provided", "type": "invalid_request_error", "param": null,
                               "code": "invalid_api_key"}}),
        )
    }

    fn whole(&self, text: &str) -> Value {
        json!({"id": "c", "object": "chat.completion", "model": "m", "choices": [{"index": 0, "finish_reason": "stop",
               "message": {"role": "assistant", "content": text, "refusal": null}}],
               "usage": {"prompt_tokens": 12, "completion_tokens": 7}})
    }

    fn odd(&self) -> Vec<Odd> {
        let untold = |said: Vec<Say>, end: End| Script { usage: None, ..Script::new(said, end) };
        let add = |id: &str, a: u8| call(id, "add", &format!("{{\"a\":{a}}}"));
        let one = || untold(vec![add("c1", 1)], End::Calls);
        let two = || untold(vec![add("c1", 1), add("c2", 2)], End::Calls);
        let opening = |id: Value, a: u8| json!({"id": id, "type": "function", "function": {"name": "add", "arguments": format!("{{\"a\":{a}}}")}});
        let with_index = |mut call: Value, index: u32| {
            call["index"] = json!(index);
            call
        };
        let text_then = |end: Value| unnamed([delta(json!({"content": "Hi."})), end]);
        let said = || untold(vec![say("Hi.")], End::Stop);
        let ended = |reason: &str| text_then(chunk(json!({}), json!(reason)));
        let mut odds = vec![
            odd("no index", calling([opening(json!("c1"), 1), opening(json!("c2"), 2)]), two()),
            odd(
                "no index, in pieces",
                calling([
                    json!({"id": "c1", "function": {"name": "add", "arguments": ""}}),
                    json!({"function": {"arguments": "{\"a\""}}),
                    json!({"function": {"arguments": ":1}"}}),
                    json!({"id": "c2", "function": {"name": "add", "arguments": "{\"a\":"}}),
                    json!({"function": {"arguments": "2}"}}),
                ]),
                two(),
            ),
            odd(
                "calls that interleave",
                calling([
                    json!({"index": 0, "id": "c1", "function": {"name": "add", "arguments": ""}}),
                    json!({"index": 1, "id": "c2", "function": {"name": "add", "arguments": "{\"a\""}}),
                    json!({"index": 0, "function": {"arguments": "{\"a\":"}}),
                    json!({"index": 1, "function": {"arguments": ":2}"}}),
                    json!({"index": 0, "function": {"arguments": "1}"}}),
                ]),
                two(),
            ),
            odd(
                "calls that interleave by their ids",
                calling([
                    json!({"id": "c1", "function": {"name": "add", "arguments": "{\"a\""}}),
                    json!({"id": "c2", "function": {"name": "add", "arguments": "{\"a\""}}),
                    json!({"id": "c1", "function": {"arguments": ":1}"}}),
                    json!({"id": "c2", "function": {"arguments": ":2}"}}),
                ]),
                two(),
            ),
            odd(
                "index always 0",
                calling([with_index(opening(json!("c1"), 1), 0), with_index(opening(json!("c2"), 2), 0)]),
                two(),
            ),
            odd(
                "sparse indexes",
                calling([with_index(opening(json!("c1"), 1), 3), with_index(opening(json!("c2"), 2), 9)]),
                two(),
            ),
            odd(
                "an empty id and null as text",
                calling([
                    with_index(opening(json!("c1"), 1), 0),
                    json!({"index": 0, "id": "", "function": {"name": "", "arguments": ""}}),
                    json!({"index": 0, "id": "null", "function": {"name": null, "arguments": null}}),
                ]),
                one(),
            ),
            odd(
                "name and id repeated in each piece",
                calling([
                    json!({"index": 0, "id": "c1", "function": {"name": "add", "arguments": "{\"a\""}}),
                    json!({"index": 0, "id": "c1", "function": {"name": "add", "arguments": ":"}}),
                    json!({"index": 0, "id": "c1", "function": {"name": "add", "arguments": "1}"}}),
                ]),
                one(),
            ),
            odd(
                "arguments as an object",
                calling([json!({"index": 0, "id": "c1", "function": {"name": "add", "arguments": {"a": 1}}})]),
                one(),
            ),
            odd(
                "arguments null",
                calling([json!({"index": 0, "id": "c1", "function": {"name": "add", "arguments": null}})]),
                untold(vec![call("c1", "add", "{}")], End::Calls),
            ),
            odd(
                "stop though there are calls",
                {
                    let mut events = calling([with_index(opening(json!("c1"), 1), 0)]);
                    events.pop();
                    events.push(event("", &chunk(json!({}), json!("stop"))));
                    events
                },
                one(),
            ),
            odd("finish reason eos", ended("eos"), said()),
            odd(
                "finish reason empty until the end",
                {
                    unnamed([
                        chunk(json!({"content": "H"}), json!("")),
                        chunk(json!({"content": "i."}), json!("")),
                        chunk(json!({}), json!("stop")),
                    ])
                },
                said(),
            ),
            odd("tool_calls though there are none", ended("tool_calls"), said()),
            odd("Mistral's model_length", ended("model_length"), untold(vec![say("Hi.")], End::Length)),
            odd(
                "usage with the last delta",
                {
                    let mut end = chunk(json!({}), json!("stop"));
                    end["usage"] = json!({"prompt_tokens": 12, "completion_tokens": 7});
                    text_then(end)
                },
                Script::text("Hi."),
            ),
            odd(
                "cumulative usage in every chunk",
                {
                    let with = |mut chunk: Value, tokens: u32| {
                        chunk["usage"] = json!({"prompt_tokens": 12, "completion_tokens": tokens});
                        chunk
                    };
                    unnamed([
                        with(delta(json!({"content": "H"})), 3),
                        with(delta(json!({"content": "i."})), 6),
                        with(chunk(json!({}), json!("stop")), 7),
                    ])
                },
                Script::text("Hi."),
            ),
            odd(
                "usage as floats, as text, and null in it",
                {
                    let mut end = chunk(json!({}), json!("stop"));
                    end["usage"] = json!({"prompt_tokens": 12.0, "completion_tokens": "7", "prompt_tokens_details": null,
                                      "completion_tokens_details": {"reasoning_tokens": null}});
                    text_then(end)
                },
                Script::text("Hi."),
            ),
            odd(
                "done missing",
                {
                    let mut events = OpenAiChat.events(&Script::text("Hi.")).unwrap();
                    events.pop();
                    events
                },
                Script::text("Hi."),
            ),
            odd(
                "reasoning by its other name",
                unnamed([
                    delta(json!({"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]})),
                    delta(json!({"content": "Hi."})),
                    chunk(json!({}), json!("stop")),
                ]),
                untold(vec![think("hm"), say("Hi.")], End::Stop),
            ),
            odd(
                "content in parts",
                unnamed([
                    delta(json!({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]})),
                    delta(json!({"content": [{"type": "text", "text": "Hi."}, {"type": "image_url"}]})),
                    chunk(json!({}), json!("stop")),
                ]),
                untold(vec![think("hm"), say("Hi.")], End::Stop),
            ),
            odd(
                "values of the wrong type",
                {
                    unnamed([
                        json!({"id": 7, "model": "m", "choices": [{"index": "0", "delta": {"role": 1, "content": "Hi.", "tool_calls": {}, "refusal": false}, "finish_reason": false}]}),
                        chunk(json!({}), json!("stop")),
                    ])
                },
                said(),
            ),
            odd(
                "index as text and null",
                {
                    calling([
                        json!({"index": "0", "id": "c1", "function": {"name": "add", "arguments": "{\"a\":1}"}}),
                        json!({"index": null, "id": "c2", "function": {"name": "add", "arguments": "{\"a\":2}"}}),
                    ])
                },
                two(),
            ),
        ];
        for (name, reason) in
            [("finish reason error", "error"), ("DeepSeek out of resources", "insufficient_system_resource")]
        {
            odds.push(Odd { name, events: ended(reason), outcome: Amounts::Failure("provider_error", true) });
        }
        odds.push(Odd {
            name: "OpenRouter's error beside choices",
            events: text_then(json!({"error": {"code": 502, "message": "Provider disconnected"},
                                     "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]})),
            outcome: Amounts::Failure("provider_error", true),
        });
        odds.push(odd(
            "done without a finish reason",
            {
                let mut events = unnamed([delta(json!({"content": "Hi."}))]);
                events.push((String::new(), "[DONE]".into()));
                events
            },
            said(),
        ));
        odds
    }
}
