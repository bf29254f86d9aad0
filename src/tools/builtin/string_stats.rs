//! `string_stats`: how long a text is.

use super::{Builtin, Kit, Reach};
use crate::tools::{Invocation, ToolFailure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// See the module's head.
pub struct StringStats;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The text to count.
    text: String,
}

#[derive(Serialize, JsonSchema)]
pub struct Output {
    /// Unicode characters (code points).
    characters: usize,
    /// Bytes in UTF-8.
    bytes: usize,
    /// Runs of characters that are no white space.
    words: usize,
    /// Lines; a line feed at the end begins none.
    lines: usize,
}

impl Builtin for StringStats {
    const NAME: &'static str = "string_stats";
    const DESCRIPTION: &'static str = "Counts the characters, bytes, words and lines of a text.";
    const REACH: Reach = Reach::Nothing;
    const TIMEOUT: f64 = 1.0;
    type Input = Input;
    type Output = Output;

    fn new(_: &Kit) -> Self {
        Self
    }

    async fn run<'a>(&'a self, Input { text }: Input, _: Invocation<'a>) -> Result<Output, ToolFailure> {
        Ok(Output {
            characters: text.chars().count(),
            bytes: text.len(),
            words: text.split_whitespace().count(),
            lines: text.lines().count(),
        })
    }
}
