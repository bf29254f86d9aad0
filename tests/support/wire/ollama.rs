//! Ollama's own API, and gateways in front of it.

use super::{
    Amounts, Decode, End, Event, Family, Odd, Say, Script, Trouble, call, decode, event, odd, say, think, unnamed,
};
use par::llm::ollama::Decoder;
use par::types::{Transcript, Usage};
use serde_json::{Value, json};

pub struct Ollama;

decode!(Decoder<'_>);

fn line(message: Value) -> Value {
    json!({"model": "m", "created_at": "2026-01-01T00:00:00Z", "message": message, "done": false})
}

fn text_line(text: &str) -> Value {
    line(json!({"role": "assistant", "content": text}))
}

fn call_line(call: Value) -> Value {
    line(json!({"role": "assistant", "content": "", "tool_calls": [call]}))
}

fn done(reason: Value) -> Value {
    json!({"model": "m", "message": {"role": "assistant", "content": ""}, "done": true, "done_reason": reason})
}

impl Family for Ollama {
    fn name(&self) -> &'static str {
        "ollama"
    }

    fn provider(&self, address: &str) -> Value {
        json!({"type": "ollama", "base_url": address})
    }

    fn decoder<'a>(&self, transcript: &'a Transcript) -> Box<dyn Decode + 'a> {
        Box::new(Decoder::new("p", transcript))
    }

    fn is_lines(&self) -> bool {
        true
    }

    fn has_ids(&self) -> bool {
        false
    }

    fn told(&self, usage: Usage) -> Usage {
        Usage { cache_read_tokens: 0, cache_write_tokens: 0, reasoning_tokens: 0, ..usage }
    }

    fn events(&self, script: &Script) -> Option<Vec<Event>> {
        let mut payloads = Vec::new();
        for said in &script.said {
            match said {
                Say::Text(text) => payloads.extend(script.pieces(text).into_iter().map(text_line)),
                Say::Thought(text) => payloads.extend(
                    script
                        .pieces(text)
                        .iter()
                        .map(|piece| line(json!({"role": "assistant", "content": "", "thinking": piece}))),
                ),
                Say::Call(_, name, arguments) => {
                    // What is no JSON can come as text only.
                    let arguments: Value = match arguments.as_str() {
                        "" => json!({}),
                        arguments => serde_json::from_str(arguments).unwrap_or_else(|_| json!(arguments)),
                    };
                    payloads.push(call_line(json!({"function": {"index": 0, "name": name, "arguments": arguments}})));
                }
                Say::Refusal(_) => return None,
            }
        }
        let mut end = match script.end {
            End::Stop | End::Calls => done(json!("stop")),
            End::Length => done(json!("length")),
            End::Filtered | End::Refused => return None,
        };
        if let Some(usage) = script.usage {
            end["prompt_eval_count"] = json!(usage.input_tokens);
            end["eval_count"] = json!(usage.output_tokens);
            end["total_duration"] = json!(123_456_789);
        }
        payloads.push(end);
        Some(unnamed(payloads))
    }

    fn trouble(&self, trouble: Trouble) -> Option<Event> {
        let message = match trouble {
            Trouble::ContextLength => "prompt is too long: it exceeds the available context size",
            Trouble::Unknown => "an error was encountered while running the model",
            Trouble::RateLimit | Trouble::Overloaded | Trouble::Quota => return None,
        };
        Some(event("", &json!({"error": message})))
    }

    fn noise(&self) -> Vec<Event> {
        unnamed([
            json!({"model": null, "message": null, "done": null, "error": null}),
            json!({"status": "loading model"}),
            json!({"message": {"role": "assistant", "content": null, "thinking": null, "tool_calls": null}, "done": false}),
        ])
    }

    fn wrong_key(&self) -> (u16, Value) {
        (401, json!({"error": "unauthorized"}))
    }

    fn whole(&self, text: &str) -> Value {
        let mut whole = done(json!("stop"));
        whole["message"]["content"] = json!(text);
        whole["prompt_eval_count"] = json!(12);
        whole["eval_count"] = json!(7);
        whole
    }

    fn odd(&self) -> Vec<Odd> {
        let untold = |said: Vec<Say>, end: End| Script { usage: None, ..Script::new(said, end) };
        let said = || untold(vec![say("Hi.")], End::Stop);
        let one = || untold(vec![call("", "add", "{\"a\":1}")], End::Calls);
        let called = |call: Value| unnamed([call_line(call), done(json!("stop"))]);
        vec![
            odd("no done_reason", unnamed([text_line("Hi."), json!({"done": true})]), said()),
            odd("a reason nobody knows", unnamed([text_line("Hi."), done(json!("eos"))]), said()),
            odd("arguments as text", called(json!({"function": {"name": "add", "arguments": "{\"a\":1}"}})), one()),
            odd(
                "arguments null",
                called(json!({"function": {"name": "add", "arguments": null}})),
                untold(vec![call("", "add", "{}")], End::Calls),
            ),
            odd("an empty id", called(json!({"id": "", "function": {"name": "add", "arguments": {"a": 1}}})), one()),
            odd(
                "calls in one line, all of index 0",
                unnamed([
                    line(
                        json!({"content": "", "tool_calls": [{"function": {"index": 0, "name": "add", "arguments": {"a": 1}}},
                                                          {"function": {"index": 0, "name": "add", "arguments": {"a": 2}}}]}),
                    ),
                    done(json!("stop")),
                ]),
                untold(vec![call("", "add", "{\"a\":1}"), call("", "add", "{\"a\":2}")], End::Calls),
            ),
            odd(
                "everything in the last line",
                {
                    let mut end = done(json!("stop"));
                    end["message"] = json!({"role": "assistant", "content": "Hi.", "thinking": "hm"});
                    unnamed([end])
                },
                untold(vec![think("hm"), say("Hi.")], End::Stop),
            ),
            odd(
                "figures as floats and text",
                {
                    let mut end = done(json!("stop"));
                    end["prompt_eval_count"] = json!(12.0);
                    end["eval_count"] = json!("7");
                    unnamed([text_line("Hi."), end])
                },
                Script::text("Hi."),
            ),
            Odd {
                name: "an error in an object",
                events: unnamed([json!({"error": {"message": "odd", "code": 500}})]),
                outcome: Amounts::Failure("provider_error", true),
            },
            Odd { name: "no last line", events: unnamed([text_line("Hi.")]), outcome: Amounts::Truncated },
        ]
    }
}
