//! OpenAI Responses, and gateways in front of it.

use super::{Amounts, Decode, End, Event, Family, Odd, Say, Script, Trouble, call, decode, event, odd, say, think};
use par::llm::openai_responses::Decoder;
use par::types::{Transcript, Usage};
use serde_json::{Value, json};

pub struct OpenAiResponses;

decode!(Decoder<'_>);

fn typed(payloads: impl IntoIterator<Item = Value>) -> Vec<Event> {
    payloads.into_iter().map(|payload| event(payload["type"].as_str().unwrap(), &payload)).collect()
}

fn item_of(at: usize, said: &Say) -> Value {
    match said {
        Say::Text(text) => {
            json!({"type": "message", "id": format!("msg_{at}"), "role": "assistant", "status": "completed",
                                  "content": [{"type": "output_text", "text": text, "annotations": []}]})
        }
        Say::Refusal(text) => {
            json!({"type": "message", "id": format!("msg_{at}"), "role": "assistant", "status": "completed",
                                     "content": [{"type": "refusal", "refusal": text}]})
        }
        Say::Thought(text) => json!({"type": "reasoning", "id": format!("rs_{at}"), "encrypted_content": "ZW5j",
                                     "summary": [{"type": "summary_text", "text": text}]}),
        Say::Call(id, name, arguments) => {
            json!({"type": "function_call", "id": format!("fc_{at}"), "call_id": id, "name": name,
                                                 "arguments": arguments, "status": "completed"})
        }
    }
}

/// The item as it begins.
fn begun(item: &Value) -> Value {
    let mut item = item.clone();
    for field in ["content", "summary"] {
        if item.get(field).is_some() {
            item[field] = json!([]);
        }
    }
    if item.get("arguments").is_some() {
        item["arguments"] = json!("");
    }
    item
}

fn response(status: &str, output: &[Value], usage: Option<Usage>) -> Value {
    let usage = usage.map(|usage| {
        let input = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens;
        json!({"input_tokens": input, "output_tokens": usage.output_tokens, "total_tokens": input + usage.output_tokens,
               "input_tokens_details": {"cached_tokens": usage.cache_read_tokens, "cache_write_tokens": usage.cache_write_tokens},
               "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens}})
    });
    json!({"id": "r", "object": "response", "model": "m", "status": status, "error": null, "incomplete_details": null,
           "output": output, "usage": usage})
}

fn text_delta(text: &str) -> Value {
    json!({"type": "response.output_text.delta", "output_index": 0, "item_id": "msg_0", "content_index": 0, "delta": text})
}

fn added(item: &Value) -> Value {
    json!({"type": "response.output_item.added", "output_index": 0, "item": begun(item)})
}

fn done(item: &Value) -> Value {
    json!({"type": "response.output_item.done", "output_index": 0, "item": item})
}

fn completed(output: &[Value]) -> Value {
    json!({"type": "response.completed", "response": response("completed", output, None)})
}

impl Family for OpenAiResponses {
    fn name(&self) -> &'static str {
        "openai_responses"
    }

    fn provider(&self, address: &str) -> Value {
        json!({"type": "openai", "api": "responses", "base_url": format!("{address}/v1")})
    }

    fn decoder<'a>(&self, transcript: &'a Transcript) -> Box<dyn Decode + 'a> {
        Box::new(Decoder::new("p", transcript))
    }

    fn events(&self, script: &Script) -> Option<Vec<Event>> {
        let items: Vec<Value> = script.said.iter().enumerate().map(|(at, said)| item_of(at, said)).collect();
        let mut payloads = vec![
            json!({"type": "response.created", "response": response("in_progress", &[], None)}),
            json!({"type": "response.in_progress", "response": response("in_progress", &[], None)}),
        ];
        for (at, (said, item)) in script.said.iter().zip(&items).enumerate() {
            let (kind, text) = match said {
                Say::Text(text) => ("response.output_text", text),
                Say::Refusal(text) => ("response.refusal", text),
                Say::Thought(text) => ("response.reasoning_summary_text", text),
                Say::Call(_, _, arguments) => ("response.function_call_arguments", arguments),
            };
            payloads.push(json!({"type": "response.output_item.added", "output_index": at, "item": begun(item)}));
            for piece in script.pieces(text) {
                payloads.push(
                    json!({"type": format!("{kind}.delta"), "output_index": at, "item_id": item["id"], "delta": piece}),
                );
            }
            payloads.push(json!({"type": format!("{kind}.done"), "output_index": at, "item_id": item["id"],
                                 "text": text, "refusal": text, "arguments": text}));
            payloads.push(json!({"type": "response.output_item.done", "output_index": at, "item": item}));
        }
        let mut whole = response("completed", &items, script.usage);
        let reason = match script.end {
            End::Length => Some("max_output_tokens"),
            End::Filtered => Some("content_filter"),
            End::Stop | End::Calls | End::Refused => None,
        };
        if let Some(reason) = reason {
            whole["status"] = json!("incomplete");
            whole["incomplete_details"] = json!({"reason": reason});
        }
        let kind = if reason.is_some() { "response.incomplete" } else { "response.completed" };
        payloads.push(json!({"type": kind, "response": whole}));
        for (number, payload) in payloads.iter_mut().enumerate() {
            payload["sequence_number"] = json!(number);
        }
        Some(typed(payloads))
    }

    fn trouble(&self, trouble: Trouble) -> Option<Event> {
        let (code, message) = match trouble {
            // As an event of its own, and as the end of the response.
            Trouble::RateLimit => {
                let failure =
                    json!({"type": "error", "code": "rate_limit_exceeded", "message": "Slow down.", "param": null});
                return Some(event("error", &failure));
            }
            Trouble::Overloaded => ("server_is_overloaded", "Overloaded."),
            Trouble::ContextLength => ("context_length_exceeded", "Too long."),
            Trouble::Quota => ("insufficient_quota", "Pay."),
            Trouble::Unknown => ("odd_error", "Something odd."),
        };
        let mut failed = response("failed", &[], None);
        failed["error"] = json!({"code": code, "message": message});
        Some(event("response.failed", &json!({"type": "response.failed", "response": failed})))
    }

    fn noise(&self) -> Vec<Event> {
        typed([
            json!({"type": "response.in_progress", "response": null}),
            json!({"type": "response.web_search_call.searching", "output_index": 90, "item_id": "ws"}),
            json!({"type": "response.output_text.annotation.added", "output_index": 0, "annotation": {"type": "url_citation"}}),
            json!({"type": "response.something_new.delta", "output_index": 0, "delta": "not this"}),
            json!({"type": "keepalive"}),
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
        let usage = Usage { input_tokens: 12, output_tokens: 7, ..Usage::default() };
        response("completed", &[item_of(0, &say(text))], Some(usage))
    }

    fn odd(&self) -> Vec<Odd> {
        let untold = |said: Vec<Say>, end: End| Script { usage: None, ..Script::new(said, end) };
        let said = || untold(vec![say("Hi.")], End::Stop);
        let item = item_of(0, &say("Hi."));
        let calls = [item_of(0, &call("c1", "add", "{\"a\":1}")), item_of(1, &call("c2", "add", "{\"a\":2}"))];
        let two = || untold(vec![call("c1", "add", "{\"a\":1}"), call("c2", "add", "{\"a\":2}")], End::Calls);
        vec![
            odd("everything in the last event", typed([completed(std::slice::from_ref(&item))]), said()),
            odd("text only in the item's end", typed([added(&item), done(&item), completed(&[])]), said()),
            odd("the start of the item lost", typed([text_delta("Hi"), text_delta("."), completed(&[])]), said()),
            odd(
                "another id in each event",
                typed([
                    added(&item),
                    json!({"type": "response.output_text.delta", "output_index": 0, "item_id": "x1", "delta": "H"}),
                    json!({"type": "response.output_text.delta", "output_index": 0, "item_id": "x2", "delta": "i."}),
                    done(&item),
                    completed(std::slice::from_ref(&item)),
                ]),
                said(),
            ),
            odd(
                "no output_index",
                typed([
                    json!({"type": "response.output_item.added", "item": begun(&calls[0])}),
                    json!({"type": "response.output_item.added", "item": begun(&calls[1])}),
                    json!({"type": "response.function_call_arguments.delta", "item_id": "fc_0", "delta": "{\"a\":1}"}),
                    json!({"type": "response.function_call_arguments.delta", "item_id": "fc_1", "delta": "{\"a\":2}"}),
                    json!({"type": "response.output_item.done", "item": calls[0]}),
                    json!({"type": "response.output_item.done", "item": calls[1]}),
                    completed(&[]),
                ]),
                two(),
            ),
            odd(
                "items that interleave",
                {
                    let calls =
                        [item_of(1, &call("c1", "add", "{\"a\":1}")), item_of(2, &call("c2", "add", "{\"a\":2}"))];
                    let begins = |at: u32| json!({"type": "response.output_item.added", "output_index": at, "item": begun(&calls[at as usize - 1])});
                    let delta = |at: u32, delta: &str| json!({"type": "response.function_call_arguments.delta", "output_index": at, "delta": delta});
                    let ends = |at: u32| json!({"type": "response.output_item.done", "output_index": at, "item": calls[at as usize - 1]});
                    typed([
                        added(&item),
                        text_delta("H"),
                        begins(1),
                        begins(2),
                        delta(2, "{\"a\""),
                        delta(1, "{\"a\":"),
                        text_delta("i."),
                        delta(2, ":2}"),
                        ends(2),
                        delta(1, "1}"),
                        ends(1),
                        done(&item),
                        completed(&[]),
                    ])
                },
                untold(vec![say("Hi."), call("c1", "add", "{\"a\":1}"), call("c2", "add", "{\"a\":2}")], End::Calls),
            ),
            odd(
                "calls out of order",
                typed([
                    json!({"type": "response.output_item.added", "output_index": 1, "item": begun(&calls[1])}),
                    json!({"type": "response.output_item.added", "output_index": 0, "item": begun(&calls[0])}),
                    json!({"type": "response.function_call_arguments.delta", "output_index": 1, "delta": "{\"a\":2}"}),
                    json!({"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "{\"a\":1}"}),
                    json!({"type": "response.output_item.done", "output_index": 1, "item": calls[1]}),
                    json!({"type": "response.output_item.done", "output_index": 0, "item": calls[0]}),
                    completed(&calls),
                ]),
                two(),
            ),
            odd(
                "a summary in paragraphs",
                typed([
                    json!({"type": "response.output_item.added", "output_index": 0, "item": {"type": "reasoning", "id": "rs", "summary": []}}),
                    json!({"type": "response.reasoning_summary_text.delta", "output_index": 0, "item_id": "rs", "summary_index": 0, "delta": "one"}),
                    json!({"type": "response.reasoning_summary_text.delta", "output_index": 0, "item_id": "rs", "summary_index": 1, "delta": "two"}),
                    json!({"type": "response.output_item.done", "output_index": 0, "item": {"type": "reasoning", "id": "rs", "summary": [
                        {"type": "summary_text", "text": "one"}, {"type": "summary_text", "text": "two"}]}}),
                    completed(&[]),
                ]),
                untold(vec![think("one\n\ntwo")], End::Stop),
            ),
            Odd {
                name: "the end of the item differs from its deltas",
                events: typed([added(&item), text_delta("Ho"), done(&item), completed(&[])]),
                outcome: Amounts::To(said(), &["stream_differs"]),
            },
            odd(
                "done behind the end",
                {
                    let mut events = typed([added(&item), text_delta("Hi."), done(&item), completed(&[])]);
                    events.push((String::new(), "[DONE]".into()));
                    events
                },
                said(),
            ),
            Odd {
                name: "an error in an object of its own",
                events: typed([
                    added(&item),
                    json!({"type": "error", "sequence_number": 3, "error": {"type": "server_error", "code": "server_error",
                           "message": "The server had an error."}}),
                ]),
                outcome: Amounts::Failure("provider_error", true),
            },
            Odd {
                name: "a response that was cancelled",
                events: typed([json!({"type": "response.cancelled", "response": response("cancelled", &[], None)})]),
                outcome: Amounts::Failure("provider_error", false),
            },
            Odd {
                name: "done without an end",
                events: vec![event("response.output_text.delta", &text_delta("Hi.")), (String::new(), "[DONE]".into())],
                outcome: Amounts::Truncated,
            },
        ]
    }
}
