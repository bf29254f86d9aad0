//! What a new user gets wrong, and what libpar says to it: each error names the place and the way out.

mod support;

use par::config::{
    AgentConfig, ContextStrategy, EvalLimits, Limits, Persistence, RunRequest, RuntimeConfig, ToolConfig,
};
use par::runtime::Runtime;
use par::types::{Error, Status};
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use support::client::{next, scripted};

/// Whether an error has this path and this hint.
#[track_caller]
fn says<T>(refused: Result<T, Error>, path: &str, hint: &str) {
    let Err(error) = refused else { panic!("it was accepted") };
    assert_eq!(error.path(), Some(path), "{error}");
    assert!(error.hint().is_some_and(|told| told.contains(hint)), "{error}");
}

#[test]
fn a_sub_agent_is_registered_before_and_leads_nowhere_back() {
    let runtime = scripted(json!([{"text": "done"}]));
    let register = |id: &str, sub_agents: Value| {
        runtime.register_agent(&json!({"id": id, "model": "mock/m", "sub_agents": sub_agents}).to_string())
    };
    says(register("a", json!(["b"])), "agent.sub_agents[0]", "register the sub-agent first");
    says(register("a", json!(["a"])), "agent.sub_agents[0]", "a handoff may");
    register("researcher", json!([])).unwrap();
    says(register("a", json!(["resercher"])), "agent.sub_agents[0]", "\"researcher\"");
    register("middle", json!(["researcher"])).unwrap();
    register("top", json!(["middle"])).unwrap();
    // Round a ring, by way of an agent that is registered anew.
    runtime.unregister_agent("researcher").unwrap();
    says(register("researcher", json!(["top"])), "agent.sub_agents[0]", "a handoff may");
    register("researcher", json!([])).unwrap();
}

#[test]
fn an_agent_has_one_system_prompt() {
    let both = json!({"id": "a", "model": "mock/m", "system_prompt": "Be kind.", "system_prompt_template": {"template": "Hi."}});
    says(AgentConfig::from_json(&both.to_string()), "agent.system_prompt", "leave out one");
}

#[test]
fn content_parts_that_no_model_could_see_are_refused_and_the_token_still_waits() {
    let runtime = scripted(json!([{"tool_calls": [{"name": "t", "input": {}}]}, {"text": "done"}]));
    runtime.register_tool(r#"{"name": "t"}"#).unwrap();
    runtime.register_agent(r#"{"id": "a", "model": "mock/m", "tools": ["t"]}"#).unwrap();
    let stream = runtime.stream(r#"{"agent": "a", "input": "go"}"#).unwrap();
    while let Some(event) = next(&stream) {
        let Some(token) = event["token"].as_u64() else { continue };
        let refused = |parts: Value, path: &str| {
            let error = runtime.tool_complete(token, &parts.to_string()).unwrap_err();
            assert_eq!((error.status(), error.path()), (Status::Schema, Some(path)), "{error}");
        };
        refused(json!({"content_parts": 1}), "result.content_parts");
        refused(json!({"content_parts": [{"type": "image"}]}), "result.content_parts[0]");
        refused(json!({"content_parts": [{"type": "text", "text": "x"}], "more": 1}), "result.content_parts");
        let unpadded = json!({"content_parts": [{"type": "image", "media_type": "image/png", "data": "A"}]});
        refused(unpadded, "result.content_parts[0].data");
        runtime.tool_complete(token, &json!({"content_parts": [{"type": "text", "text": "x"}]}).to_string()).unwrap();
    }
    assert!(stream.answer().unwrap().is_ok());
}

#[test]
fn a_config_is_checked_however_it_came_to_be() {
    let refused = |config: RuntimeConfig, path: &str| {
        let error = Runtime::with_config(config).err().unwrap_or_else(|| panic!("{path} was accepted"));
        assert_eq!(error.path(), Some(path));
    };
    let plain = || RuntimeConfig { persistence: Persistence::Noop, ..RuntimeConfig::default() };
    refused(RuntimeConfig { threads: Some(0), ..plain() }, "config.threads");
    let limits = Limits { max_runs: 0, ..Limits::default() };
    refused(RuntimeConfig { limits, ..plain() }, "config.limits.max_runs");
    refused(RuntimeConfig { event_retention_seconds: f64::NAN, ..plain() }, "config.event_retention_seconds");
    let nameless = Persistence::Sqlite { path: String::new(), forward: None };
    refused(RuntimeConfig { persistence: nameless, ..plain() }, "config.persistence.path");
}

#[test]
fn the_bounds_of_conditions_hold_where_a_tool_is_registered() {
    let nested = |levels: usize| {
        let condition = (1..levels)
            .fold(json!({"type": "literal", "value": true}), |inner, _| json!({"type": "not", "operand": inner}));
        json!({"name": "t", "permission": {"type": "condition_based", "condition": condition}}).to_string()
    };
    let create =
        |max_depth: usize| support::create(&json!({"eval_limits": {"max_depth": max_depth}}).to_string()).unwrap();
    let shallow = create(3);
    shallow.register_tool(&nested(3)).unwrap();
    let error = shallow.call("tools.replace", &json!({"tool": nested(4)}).to_string(), None);
    assert!(error.is_err());
    shallow.unregister_tool("t").unwrap();
    let error = shallow.register_tool(&nested(4)).unwrap_err();
    assert!(error.path().unwrap().starts_with("tool.permission.condition"), "{error}");
    create(20).register_tool(&nested(20)).unwrap();
    assert!(ToolConfig::from_json(&nested(20)).is_err(), "the default is {}", EvalLimits::default().max_depth);
}

#[test]
fn hints_lead_to_what_was_meant() {
    let config = |text: &str| RuntimeConfig::from_json(text);
    let agent = |extra: &str| AgentConfig::from_json(&format!(r#"{{"id": "a", "model": "mock/m", {extra}}}"#));
    says(config(r#"{"durability": "fsync"}"#), "config.durability", "\"sync\"");
    says(agent(r#""temperature": 0.5"#), "agent.temperature", r#""model": {"#);
    says(agent(r#""max_tokens": 5"#), "agent.max_tokens", r#""model": {"#);
    let function = r#"{"type": "function", "function": {"name": "t", "parameters": {}}}"#;
    says(ToolConfig::from_json(function), "tool.function", "\"input_schema\"");
    let parameters = r#"{"name": "t", "parameters": {"type": "object"}}"#;
    says(ToolConfig::from_json(parameters), "tool.parameters", "\"input_schema\"");
    for key in ["skills", "mcp_servers", "memory", "workflows", "rag"] {
        let error = config(&format!("{{\"{key}\": []}}")).err().unwrap();
        assert!(error.message().contains("not in this version"), "{error}");
        assert_eq!(error.path(), Some(format!("config.{key}").as_str()));
    }
    for error in [
        agent(r#""skills": ["x"]"#).err().unwrap(),
        RunRequest::from_json(r#"{"agent": "a", "input": "x", "rag": {"k": 3}}"#).err().unwrap(),
    ] {
        assert!(error.message().contains("not in this version"), "{error}");
    }
}

#[test]
fn a_file_that_is_no_database_is_said_to_be_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("passwd");
    std::fs::write(&path, "root:x:0:0:root:/root:/bin/bash\n".repeat(200)).unwrap();
    let config = json!({"persistence": {"type": "sqlite", "path": path}});
    let error = Runtime::create(&config.to_string()).err().unwrap();
    assert_eq!(error.code(), Some("store_not_a_database"), "{error}");
    assert!(error.hint().unwrap().contains("path of a new file"), "{error}");
}

#[test]
fn broken_json_has_its_line_its_column_and_what_stands_there() {
    let error = RuntimeConfig::from_json("{\n  \"threads\": 4,\n  \"durability\": sync\n}").err().unwrap();
    assert_eq!(error.status(), Status::Json);
    let message = error.message();
    assert!(message.contains("line 3, column ") && message.contains("(byte "), "{message}");
    assert!(message.contains(r#"\"durability\": sync"#), "{message}");
    for broken in [
        "{",
        "\"é",
        "{\"é\u{1F600}\": nope, \"ééééééééééééééééééééééééé\": 1}",
        "[1,\n\n]",
        "{\"a\": 1, \"a\": 2}",
        "\u{1F600}",
    ] {
        let error = RuntimeConfig::from_json(broken).err().unwrap();
        assert!(error.message().contains("line ") || error.status() != Status::Json, "{error}");
    }
}

#[test]
fn what_an_error_repeats_is_short() {
    let long = "x".repeat(1_000_000);
    for text in [
        format!("{{\"{long}\": 1}}"),
        format!("{{\"durability\": \"{long}\"}}"),
        format!("{{\"threads\": \"{long}\"}}"),
    ] {
        let error = RuntimeConfig::from_json(&text).err().unwrap();
        assert!(error.message().len() < 1_000, "{} bytes", error.message().len());
    }
}

#[test]
fn the_spellings_of_the_first_documents_are_read() {
    for persistence in [json!("postgresql://u@h/d"), json!({"type": "postgresql", "url": "postgres://u@h/d"})] {
        let config = RuntimeConfig::from_json(&json!({"persistence": persistence}).to_string()).unwrap();
        assert!(matches!(config.persistence, Persistence::Postgres(_)));
    }
    let agent = |strategy: Value| {
        AgentConfig::from_json(&json!({"id": "a", "model": "mock/m", "context_strategy": strategy}).to_string())
    };
    let read = agent(json!({"type": "truncate_oldest", "keepSystem": true})).unwrap();
    assert!(matches!(read.context_strategy, ContextStrategy::TruncateOldest { keep_system: true, .. }));
    assert!(agent(json!({"type": "truncate_oldest", "keepSystem": true, "keep_system": true})).is_err());
}
