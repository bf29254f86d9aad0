//! `echo`: gives its text back.

use super::{Builtin, Kit, Reach};
use crate::tools::{Invocation, ToolFailure};
use schemars::JsonSchema;
use serde::Deserialize;

/// See the module's head.
pub struct Echo;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The text to give back.
    text: String,
}

impl Builtin for Echo {
    const NAME: &'static str = "echo";
    const DESCRIPTION: &'static str = "Gives the text back unchanged.";
    const REACH: Reach = Reach::Nothing;
    const TIMEOUT: f64 = 2.0;
    type Input = Input;
    type Output = String;

    fn new(_: &Kit) -> Self {
        Self
    }

    async fn run<'a>(&'a self, input: Input, _: Invocation<'a>) -> Result<String, ToolFailure> {
        Ok(input.text)
    }
}
