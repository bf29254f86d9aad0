//! Secrets: given as `{"env":"NAME"}`, `{"file":"path"}`, `{"host":"name"}` or a literal; never logged, stored or echoed.

use crate::types::{Error, Result};
use schemars::JsonSchema;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use std::fmt;

/// Where a secret comes from. Read when it is used, so that a rotated file or variable is seen.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// An environment variable.
    Env(String),
    /// A file; white space around its text is ignored.
    File(String),
    /// Whatever the host says when it is asked for this name: for keys that change.
    Host(String),
    /// The secret itself.
    Literal(String),
}

impl Secret {
    /// The secret. `path` is where it was configured.
    pub fn reveal(&self, path: &str) -> Result<String> {
        let missing = |message: String, hint: &str| Err(Error::schema(path, message).with_hint(hint));
        match self {
            Self::Literal(secret) => Ok(secret.clone()),
            Self::Host(name) => {
                missing(format!("the host cannot be asked for {name:?} here"), "give it by env or file")
            }
            Self::Env(name) => match std::env::var(name) {
                Ok(secret) if !secret.is_empty() => Ok(secret),
                Ok(_) | Err(_) => missing(
                    format!("the environment variable {name:?} is not set"),
                    "set it, or give the secret by file",
                ),
            },
            Self::File(file) => match std::fs::read_to_string(file) {
                Ok(secret) if !secret.trim().is_empty() => Ok(secret.trim().to_owned()),
                Ok(_) => missing(format!("the secret file {file:?} is empty"), "write the secret into it"),
                Err(error) => {
                    missing(format!("the secret file {file:?} cannot be read: {error}"), "check its path and mode")
                }
            },
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "Secret(env {name:?})"),
            Self::File(file) => write!(f, "Secret(file {file:?})"),
            Self::Host(name) => write!(f, "Secret(host {name:?})"),
            Self::Literal(_) => f.write_str("Secret(…)"),
        }
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SecretVisitor;
        impl<'de> Visitor<'de> for SecretVisitor {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(r#"{"env":"NAME"}, {"file":"path"}, {"host":"name"} or a string"#)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Secret, E> {
                if text.is_empty() {
                    return Err(E::custom("the secret is empty"));
                }
                Ok(Secret::Literal(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Secret, A::Error> {
                const KEYS: &[&str] = &["env", "file", "host"];
                let Some(key) = map.next_key::<String>()? else {
                    return Err(A::Error::missing_field("env"));
                };
                let secret = match key.as_str() {
                    "env" => Secret::Env(map.next_value()?),
                    "file" => Secret::File(map.next_value()?),
                    "host" => Secret::Host(map.next_value()?),
                    other => return Err(A::Error::unknown_field(other, KEYS)),
                };
                match map.next_key::<String>()? {
                    Some(_) => Err(A::Error::custom("a secret has one source: \"env\", \"file\" or \"host\"")),
                    None => Ok(secret),
                }
            }
        }
        deserializer.deserialize_struct("Secret", &["env", "file", "host"], SecretVisitor)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "oneOf": [
                {"type": "string", "minLength": 1},
                {"type": "object", "properties": {"env": {"type": "string"}}, "required": ["env"], "additionalProperties": false},
                {"type": "object", "properties": {"file": {"type": "string"}}, "required": ["file"], "additionalProperties": false},
                {"type": "object", "properties": {"host": {"type": "string"}}, "required": ["host"], "additionalProperties": false}
            ]
        })
    }
}
