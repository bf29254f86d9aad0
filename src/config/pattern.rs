//! Regular expressions a user writes: compiled where they are read, so that a bad one is an error with its path and a
//! good one is never compiled again. The engine is linear in the text, whatever the pattern.

use regex::{Regex, RegexBuilder};
use schemars::JsonSchema;
use serde::Deserialize;
use std::borrow::Cow;

/// The most memory one compiled pattern may take: `\w{1000}` is an accident.
const MAX_COMPILED_BYTES: usize = 1 << 20;

/// A regular expression, compiled.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles an expression; the error is one line.
    pub fn new(source: &str) -> Result<Self, String> {
        RegexBuilder::new(source).size_limit(MAX_COMPILED_BYTES).build().map(Self).map_err(|error| {
            // The engine draws the place over several lines and ends with what is wrong.
            let said = error.to_string();
            let reason = said.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!("{source:?} is not a regular expression: {reason}")
        })
    }

    /// The compiled expression.
    pub fn regex(&self) -> &Regex {
        &self.0
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(source: String) -> Result<Self, String> {
        Self::new(&source)
    }
}

impl JsonSchema for Pattern {
    fn schema_name() -> Cow<'static, str> {
        "Pattern".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "format": "regex"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;

    #[test]
    fn a_bad_pattern_is_told_in_one_line() {
        assert_eq!(Pattern::new("(a").unwrap_err(), "\"(a\" is not a regular expression: unclosed group");
        assert!(Pattern::new("(?:\\w{1000}){1000}").unwrap_err().contains("size limit"));
        assert!(Pattern::new("^a+$").unwrap().regex().is_match("aa"));
    }
}
