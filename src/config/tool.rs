//! Tools: `par_register_tool`.

use super::strict;
use crate::types::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// A tool that the host runs.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolConfig {
    /// `[a-zA-Z0-9_-]{1,64}`: what every provider accepts.
    pub name: String,
    /// Tells the model what it is for.
    #[serde(default)]
    pub description: String,
    /// JSON Schema of its arguments, an object. Default: any object.
    #[serde(default = "any_object")]
    pub input_schema: Value,
    /// JSON Schema that its results must fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<Value>,
    /// Whether it may run.
    #[serde(default)]
    pub permission: Permission,
    /// Seconds it may take. Default 60.
    #[serde(default = "default_timeout")]
    pub timeout: f64,
    /// Calls at the same time, over all runs. Default: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_limit: Option<u32>,
    /// What running it twice would do.
    #[serde(default)]
    pub effect: Effect,
}

fn any_object() -> Value {
    json!({"type": "object", "properties": {}})
}

fn default_timeout() -> f64 {
    60.0
}

/// Whether a tool may run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// It may.
    #[default]
    Allow,
    /// It may not; the model is told.
    Deny,
}

/// What running a tool twice would do. Told to the host with each call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Nothing: it only reads.
    Pure,
    /// The same as once.
    Idempotent,
    /// Something else: never run it twice.
    #[default]
    Once,
}

impl ToolConfig {
    /// Parses and checks a tool. That the schemas are schemas is checked where they are compiled.
    pub fn from_json(text: &str) -> Result<Self> {
        let mut tool: Self = strict::from_str(text, "tool")?;
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if tool.name.is_empty() || tool.name.len() > 64 || !tool.name.chars().all(legal) {
            return Err(Error::schema("tool.name", format!("{:?} cannot be the name of a tool", tool.name))
                .with_hint("use 1 to 64 letters, digits, '_' or '-': what every provider accepts"));
        }
        if !(tool.timeout > 0.0 && tool.timeout <= 86_400.0) {
            return Err(Error::schema("tool.timeout", "a number of seconds above 0, at most 86400, is needed"));
        }
        if tool.concurrency_limit == Some(0) {
            return Err(Error::schema("tool.concurrency_limit", "at least 1 call at a time is needed"));
        }
        normalize_input_schema(&mut tool.input_schema)?;
        Ok(tool)
    }
}

/// Providers want an object schema that says so.
fn normalize_input_schema(schema: &mut Value) -> Result<()> {
    let wrong = |message: &str| {
        Err(Error::schema("tool.input_schema", message)
            .with_hint(r#"arguments are named: {"type":"object","properties":{…},"required":[…]}"#))
    };
    let Value::Object(object) = schema else {
        return wrong("a JSON Schema object is needed");
    };
    match object.get("type") {
        None => {
            let mut typed = Map::from_iter([("type".to_owned(), json!("object"))]);
            typed.append(object);
            *object = typed;
            Ok(())
        }
        Some(Value::String(kind)) if kind == "object" => Ok(()),
        Some(_) => wrong("the schema's type must be \"object\""),
    }
}
