//! Gemini's own API, and gateways in front of it.

use super::{
    Amounts, Decode, End, Event, Family, Odd, Say, Script, Trouble, call, decode, event, odd, say, think, unnamed,
};
use par::llm::gemini::Decoder;
use par::types::{Transcript, Usage};
use serde_json::{Value, json};

pub struct Gemini;

decode!(Decoder<'_>);

fn chunk(parts: Value) -> Value {
    json!({"candidates": [{"content": {"role": "model", "parts": parts}, "index": 0, "safetyRatings": [{"category": "X"}]}],
           "modelVersion": "m", "responseId": "r"})
}

fn last(parts: Value, reason: &str) -> Value {
    let mut chunk = chunk(parts);
    chunk["candidates"][0]["finishReason"] = json!(reason);
    chunk
}

fn usage_of(usage: Usage) -> Value {
    let prompt = usage.input_tokens + usage.cache_read_tokens;
    json!({"promptTokenCount": prompt, "cachedContentTokenCount": usage.cache_read_tokens,
           "candidatesTokenCount": usage.output_tokens - usage.reasoning_tokens, "thoughtsTokenCount": usage.reasoning_tokens,
           "totalTokenCount": prompt + usage.output_tokens, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt}]})
}

fn function_call(a: u8) -> Value {
    json!({"functionCall": {"name": "add", "args": {"a": a}}})
}

impl Family for Gemini {
    fn name(&self) -> &'static str {
        "gemini"
    }

    fn provider(&self, address: &str) -> Value {
        json!({"type": "gemini", "base_url": address})
    }

    fn decoder<'a>(&self, transcript: &'a Transcript) -> Box<dyn Decode + 'a> {
        Box::new(Decoder::new("p", transcript))
    }

    fn has_ids(&self) -> bool {
        false
    }

    fn fails_when_empty(&self) -> bool {
        true
    }

    fn told(&self, usage: Usage) -> Usage {
        Usage { cache_write_tokens: 0, ..usage }
    }

    fn events(&self, script: &Script) -> Option<Vec<Event>> {
        let mut payloads = Vec::new();
        for said in &script.said {
            match said {
                Say::Text(text) => {
                    payloads.extend(script.pieces(text).iter().map(|piece| chunk(json!([{"text": piece}]))))
                }
                Say::Thought(text) => payloads
                    .extend(script.pieces(text).iter().map(|piece| chunk(json!([{"text": piece, "thought": true}])))),
                Say::Call(_, name, arguments) => {
                    // Arguments are JSON here, or the API says that they are none.
                    let args: Value = serde_json::from_str(if arguments.is_empty() { "{}" } else { arguments }).ok()?;
                    payloads.push(chunk(json!([{"functionCall": {"name": name, "args": args}}])));
                }
                Say::Refusal(_) => return None,
            }
        }
        let reason = match script.end {
            End::Stop | End::Calls => "STOP",
            End::Length => "MAX_TOKENS",
            End::Filtered => "SAFETY",
            End::Refused => return None,
        };
        payloads.push(last(json!([{"text": ""}]), reason));
        if let Some(usage) = script.usage {
            let figures = usage_of(usage);
            payloads[0]["usageMetadata"] =
                json!({"promptTokenCount": figures["promptTokenCount"], "candidatesTokenCount": 1});
            payloads.last_mut().unwrap()["usageMetadata"] = figures;
        }
        Some(unnamed(payloads))
    }

    fn trouble(&self, trouble: Trouble) -> Option<Event> {
        let (code, status, message) = match trouble {
            Trouble::RateLimit => (429, "RESOURCE_EXHAUSTED", "Slow down."),
            Trouble::Overloaded => (503, "UNAVAILABLE", "The model is overloaded."),
            Trouble::ContextLength => (
                400,
                "INVALID_ARGUMENT",
                "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
            ),
            Trouble::Quota => {
                let error = json!({"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "You exceeded your current quota.",
                    "details": [{"@type": "type.googleapis.com/google.rpc.QuotaFailure",
                                 "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}]});
                return Some(event("", &json!({"error": error})));
            }
            Trouble::Unknown => (0, "ODD", "Something odd."),
        };
        Some(event("", &json!({"error": {"code": code, "status": status, "message": message}})))
    }

    fn noise(&self) -> Vec<Event> {
        unnamed([
            json!({"candidates": [], "usageMetadata": null}),
            json!({"candidates": [{"content": null, "index": 0}]}),
            json!({"candidates": [{"content": {"role": "model", "parts": null}, "finishReason": null}]}),
            json!({"candidates": [{"content": {"role": "model"}, "groundingMetadata": {"x": [1]}}]}),
            json!({"promptFeedback": {"safetyRatings": []}}),
            json!({"usageMetadata": {"trafficType": "ON_DEMAND"}}),
        ])
    }

    fn wrong_key(&self) -> (u16, Value) {
        (
            400,
            json!({"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT",
            "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}]}}),
        )
    }

    fn whole(&self, text: &str) -> Value {
        let mut whole = last(json!([{"text": text}]), "STOP");
        whole["usageMetadata"] = json!({"promptTokenCount": 12, "candidatesTokenCount": 7});
        whole
    }

    fn odd(&self) -> Vec<Odd> {
        let untold = |said: Vec<Say>, end: End| Script { usage: None, ..Script::new(said, end) };
        let said = || untold(vec![say("Hi.")], End::Stop);
        let two = || untold(vec![call("", "add", "{\"a\":1}"), call("", "add", "{\"a\":2}")], End::Calls);
        let ended = |reason: &str| unnamed([chunk(json!([{"text": "Hi."}])), last(json!([]), reason)]);
        let mut odds = vec![
            odd("the reason with the last text", unnamed([last(json!([{"text": "Hi."}]), "STOP")]), said()),
            odd("calls in one chunk", unnamed([last(json!([function_call(1), function_call(2)]), "STOP")]), two()),
            odd(
                "the reason without content",
                unnamed([chunk(json!([{"text": "Hi."}])), json!({"candidates": [{"finishReason": "STOP"}]})]),
                said(),
            ),
            odd(
                "arguments null and absent",
                unnamed([
                    chunk(json!([{"functionCall": {"name": "add", "args": null}}])),
                    last(json!([{"functionCall": {"name": "add"}}]), "STOP"),
                ]),
                untold(vec![call("", "add", "{}"), call("", "add", "{}")], End::Calls),
            ),
            odd(
                "a signed empty text between",
                unnamed([
                    chunk(json!([{"text": "H"}])),
                    chunk(json!([{"text": "", "thoughtSignature": "c2ln"}])),
                    last(json!([{"text": "i."}]), "STOP"),
                ]),
                said(),
            ),
            odd(
                "thoughts in the same chunk",
                unnamed([last(json!([{"text": "hm", "thought": true}, {"text": "Hi."}]), "STOP")]),
                untold(vec![think("hm"), say("Hi.")], End::Stop),
            ),
            odd(
                "a draft image while thinking",
                unnamed([
                    chunk(json!([{"thought": true, "inlineData": {"mimeType": "image/png", "data": "aGk="}}])),
                    last(json!([{"text": "Hi."}]), "STOP"),
                ]),
                said(),
            ),
            odd(
                "figures as text that vanish",
                {
                    let mut first = chunk(json!([{"text": "Hi."}]));
                    first["usageMetadata"] = json!({"promptTokenCount": "12", "candidatesTokenCount": "7"});
                    let mut end = last(json!([]), "STOP");
                    end["usageMetadata"] = json!({"promptTokenCount": 0, "totalTokenCount": 19});
                    unnamed([first, end])
                },
                Script::text("Hi."),
            ),
            odd(
                "done, as gateways say",
                {
                    let mut events = ended("STOP");
                    events.push((String::new(), "[DONE]".into()));
                    events
                },
                said(),
            ),
            odd(
                "parts that stream",
                unnamed([
                    chunk(json!([{"functionCall": {"name": "add", "willContinue": true}}])),
                    chunk(
                        json!([{"functionCall": {"partialArgs": [{"jsonPath": "$.a", "numberValue": 1.0}], "willContinue": true}}]),
                    ),
                    chunk(json!([{"functionCall": {}}])),
                    last(json!([]), "STOP"),
                ]),
                untold(vec![call("", "add", "{\"a\":1.0}")], End::Calls),
            ),
            Odd {
                name: "a reason nobody knows",
                events: ended("NEW_REASON"),
                outcome: Amounts::To(said(), &["finish_reason"]),
            },
            Odd {
                name: "a blocked prompt",
                events: unnamed([json!({"promptFeedback": {"blockReason": "SAFETY"}})]),
                outcome: Amounts::Failure("blocked_prompt", false),
            },
            Odd {
                name: "nothing at all",
                events: unnamed([last(json!([{"text": ""}]), "STOP")]),
                outcome: Amounts::Failure("empty_answer", true),
            },
            Odd {
                name: "a call it could not read",
                events: ended("MALFORMED_FUNCTION_CALL"),
                outcome: Amounts::Failure("malformed_function_call", true),
            },
            Odd {
                name: "done without a reason",
                events: {
                    let mut events = unnamed([chunk(json!([{"text": "Hi."}]))]);
                    events.push((String::new(), "[DONE]".into()));
                    events
                },
                outcome: Amounts::Truncated,
            },
        ];
        for reason in ["RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"] {
            odds.push(odd("a filter of another name", ended(reason), untold(vec![say("Hi.")], End::Filtered)));
        }
        odds
    }
}
