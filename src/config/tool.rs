//! Tools: `par_register_tool`.

use super::{EvalLimits, Expression, strict};
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
    #[serde(default = "any_object", deserialize_with = "strict::free")]
    pub input_schema: Value,
    /// JSON Schema that its results must fit.
    #[serde(default, deserialize_with = "strict::value", skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<Value>,
    /// Whether it may run.
    #[serde(default)]
    pub permission: Permission,
    /// Seconds it may take. Default 60.
    #[serde(default = "default_timeout")]
    pub timeout: f64,
    /// Calls that each agent may have at the same time, over all its runs; more wait. Default: `limits.max_host_tool_calls`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_limit: Option<u32>,
    /// Bytes of its output that the model is shown; the whole is kept for `read_blob`. Default:
    /// `limits.max_tool_output_bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_bytes: Option<usize>,
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

/// Whether a tool may run. Denied calls are told to the model.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[schemars(tag = "type")]
pub enum Permission {
    /// It may.
    #[default]
    Allow,
    /// Each call is asked for (`approval_request`) and waits for the answer.
    Confirm,
    /// It may not.
    Deny,
    /// It may in runs whose request has one of these `roles`.
    RoleBased {
        /// The roles.
        roles: Vec<String>,
        /// What holds for other runs.
        #[serde(default)]
        otherwise: Otherwise,
    },
    /// It may where a condition holds. The condition sees `input` (the arguments), `agent`, `session`, `roles` and
    /// `variables` (of the request).
    ConditionBased {
        /// The condition.
        condition: Box<Expression>,
        /// What holds for other calls.
        #[serde(default)]
        otherwise: Otherwise,
    },
}

/// What holds for calls that a rule does not allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Otherwise {
    /// They may not run.
    #[default]
    Deny,
    /// They are asked for.
    Confirm,
}

impl Permission {
    /// Whether a call may have to be asked for.
    pub fn may_ask(&self) -> bool {
        match self {
            Self::Confirm => true,
            Self::RoleBased { otherwise, .. } | Self::ConditionBased { otherwise, .. } => {
                *otherwise == Otherwise::Confirm
            }
            Self::Allow | Self::Deny => false,
        }
    }
}

impl Serialize for Permission {
    /// The dialect's form: a bare name, or an object with `type`.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = match self {
            Self::Allow => json!("allow"),
            Self::Confirm => json!("confirm"),
            Self::Deny => json!("deny"),
            Self::RoleBased { roles, otherwise } => {
                json!({"type": "role_based", "roles": roles, "otherwise": otherwise})
            }
            Self::ConditionBased { otherwise, .. } => json!({"type": "condition_based", "otherwise": otherwise}),
        };
        value.serialize(serializer)
    }
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

impl Effect {
    /// As it is written and stored.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pure => "pure",
            Self::Idempotent => "idempotent",
            Self::Once => "once",
        }
    }
}

impl ToolConfig {
    /// Parses and checks a tool. That the schemas are schemas is checked where they are compiled.
    pub fn from_json(text: &str) -> Result<Self> {
        Self::from_json_within(text, EvalLimits::default())
    }

    /// The same with other bounds of its conditions.
    pub fn from_json_within(text: &str, limits: EvalLimits) -> Result<Self> {
        Self::from_value(&strict::parse(text, "tool")?, limits, "tool")
    }

    /// Reads and checks a tool that is part of something larger, at `path`.
    pub fn from_value(value: &Value, limits: EvalLimits, path: &str) -> Result<Self> {
        let mut tool: Self = strict::read(value, path).map_err(|error| explained(error, value, path))?;
        normalize_input_schema(&mut tool.input_schema, &format!("{path}.input_schema"))?;
        tool.check(limits, path)?;
        Ok(tool)
    }

    /// Refuses what makes no sense. `path` is where the tool was given.
    pub fn check(&self, limits: EvalLimits, path: &str) -> Result<()> {
        let tool = self;
        let at = |key: &str| format!("{path}.{key}");
        check_tool_name(&tool.name, &at("name"))?;
        if !(tool.timeout > 0.0 && tool.timeout <= 86_400.0) {
            return Err(Error::schema(at("timeout"), "a number of seconds above 0, at most 86400, is needed"));
        }
        if tool.concurrency_limit == Some(0) {
            return Err(Error::schema(at("concurrency_limit"), "at least 1 call at a time is needed"));
        }
        if tool.max_output_bytes.is_some_and(|bytes| bytes < 256) {
            return Err(Error::schema(at("max_output_bytes"), "at least 256 bytes are needed to show anything"));
        }
        match &tool.permission {
            Permission::RoleBased { roles, .. } if roles.is_empty() => {
                return Err(Error::schema(at("permission.roles"), "a rule without roles allows nobody")
                    .with_hint("name a role, or use \"deny\""));
            }
            Permission::ConditionBased { condition, .. } => {
                condition.check(&at("permission.condition"), limits)?;
            }
            Permission::RoleBased { .. } | Permission::Allow | Permission::Confirm | Permission::Deny => {}
        }
        Ok(())
    }
}

/// Helps who writes a tool as another API has it.
fn explained(error: Error, value: &Value, path: &str) -> Error {
    if value.get("function").is_some_and(Value::is_object) {
        return Error::schema(format!("{path}.function"), "this is OpenAI's format of a tool").with_hint(
            "register what is under \"function\": {\"name\", \"description\", \"input_schema\"}, with its \"parameters\" as \
             \"input_schema\"",
        );
    }
    if error.path() == Some(&format!("{path}.parameters")) {
        return error.with_hint("the schema of the arguments is called \"input_schema\"");
    }
    error
}

/// What every provider accepts as the name of a tool.
pub(super) fn check_tool_name(name: &str, path: &str) -> Result<()> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name.is_empty() || name.len() > 64 || !name.chars().all(legal) {
        return Err(Error::schema(path, format!("{name:?} cannot be the name of a tool"))
            .with_hint("use 1 to 64 letters, digits, '_' or '-': what every provider accepts"));
    }
    Ok(())
}

/// Providers want an object schema that says so.
fn normalize_input_schema(schema: &mut Value, path: &str) -> Result<()> {
    let wrong = |message: &str| {
        Err(Error::schema(path, message)
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
