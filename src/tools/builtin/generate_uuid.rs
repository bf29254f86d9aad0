//! `generate_uuid`: a random UUID.

use super::{Builtin, Kit, Reach};
use crate::tools::{Invocation, ToolFailure};
use schemars::JsonSchema;
use serde::Deserialize;
use uuid::Uuid;

/// See the module's head.
pub struct GenerateUuid;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {}

impl Builtin for GenerateUuid {
    const NAME: &'static str = "generate_uuid";
    const DESCRIPTION: &'static str = "A new random UUID (version 4).";
    const REACH: Reach = Reach::Nothing;
    const TIMEOUT: f64 = 1.0;
    type Input = Input;
    type Output = String;

    fn new(_: &Kit) -> Self {
        Self
    }

    async fn run<'a>(&'a self, _: Input, _: Invocation<'a>) -> Result<String, ToolFailure> {
        Ok(Uuid::new_v4().to_string())
    }
}
