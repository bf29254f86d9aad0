//! `json_format`: JSON, indented.

use super::{Builtin, Kit, Reach};
use crate::config::strict;
use crate::tools::{Invocation, ToolFailure};
use schemars::JsonSchema;
use serde::Deserialize;

/// See the module's head.
pub struct JsonFormat;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The JSON text.
    json: String,
}

impl Builtin for JsonFormat {
    const NAME: &'static str = "json_format";
    const DESCRIPTION: &'static str = "Checks a JSON text and gives it back indented; says where it is wrong if it is.";
    const REACH: Reach = Reach::Nothing;
    const TIMEOUT: f64 = 2.0;
    type Input = Input;
    type Output = String;

    fn new(_: &Kit) -> Self {
        Self
    }

    async fn run<'a>(&'a self, Input { json }: Input, _: Invocation<'a>) -> Result<String, ToolFailure> {
        let value = strict::parse(&json, "json").map_err(|error| {
            let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
            ToolFailure::new(format!("this is not JSON: {}{hint}", error.message())).with_code("invalid_json")
        })?;
        serde_json::to_string_pretty(&value).map_err(|error| ToolFailure::new(error.to_string()))
    }
}
