//! `get_time`: what time it is.

use super::{Builtin, Kit, Reach};
use crate::tools::{Invocation, ToolFailure};
use crate::types::{now_ms, rfc3339};
use schemars::JsonSchema;
use serde::Deserialize;

/// See the module's head.
pub struct GetTime;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {}

impl Builtin for GetTime {
    const NAME: &'static str = "get_time";
    const DESCRIPTION: &'static str = "The current date and time in UTC, as ISO 8601: 2026-11-21T08:30:00Z.";
    const REACH: Reach = Reach::Nothing;
    const TIMEOUT: f64 = 2.0;
    type Input = Input;
    type Output = String;

    fn new(_: &Kit) -> Self {
        Self
    }

    async fn run<'a>(&'a self, _: Input, _: Invocation<'a>) -> Result<String, ToolFailure> {
        Ok(rfc3339(now_ms() / 1_000))
    }
}
