//! Real providers, for whoever has keys: `make live`. Each provider whose key is in the environment is asked to call a tool
//! and to answer with what it gave. Costs a fraction of a cent.

mod support;

use serde_json::{Value, json};
use support::client::next;
use support::skipped;

/// The provider, the variable with its key, and the model unless `PAR_LIVE_<PROVIDER>_MODEL` names another.
const PROVIDERS: &[(&str, &str, &str)] = &[
    ("openai", "OPENAI_API_KEY", "gpt-4o-mini"),
    ("anthropic", "ANTHROPIC_API_KEY", "claude-haiku-4-5"),
    ("gemini", "GEMINI_API_KEY", "gemini-2.5-flash"),
    ("ollama", "OLLAMA_HOST", "llama3.2"),
];

#[test]
fn every_provider_with_a_key_calls_a_tool_and_answers() {
    if std::env::var("PAR_TEST_LIVE").is_err() {
        return;
    }
    let runtime = support::create("{}").unwrap();
    runtime
        .register_tool(
            r#"{"name": "add", "description": "Adds two integers.", "input_schema": {"type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]}}"#,
        )
        .unwrap();
    for (provider, key, model) in PROVIDERS {
        if std::env::var(key).is_err() {
            skipped(&format!("{provider}: {key} is not set"));
            continue;
        }
        let model =
            std::env::var(format!("PAR_LIVE_{}_MODEL", provider.to_uppercase())).unwrap_or_else(|_| (*model).into());
        let agent = json!({"id": provider, "model": format!("{provider}/{model}"), "tools": ["add"],
                           "system_prompt": "Use the tool for every sum. Answer with the number alone."});
        runtime.register_agent(&agent.to_string()).unwrap();
        let request =
            json!({"agent": provider, "input": "What is 1234 + 4321?", "session": provider, "timeout_ms": 120_000});
        let stream = runtime.stream(&request.to_string()).unwrap();
        let mut calls = 0;
        while let Some(event) = next(&stream) {
            if event["type"] == "tool_call" {
                calls += 1;
                let (a, b) = (event["input"]["a"].as_i64().unwrap(), event["input"]["b"].as_i64().unwrap());
                runtime.tool_complete(event["token"].as_u64().unwrap(), &(a + b).to_string()).unwrap();
            }
        }
        let result: Value = serde_json::from_str(&stream.answer().unwrap().unwrap()).unwrap();
        assert!(calls > 0 && result["text"].as_str().unwrap().contains("5555"), "{provider}: {result}");
        println!("{provider}/{model}: {}", result["usage"]);
    }
}
