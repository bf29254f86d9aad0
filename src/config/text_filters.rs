//! Filters of text: masking of personal data, sanitizing of tool output, separating of reasoning.

use super::Pattern;
use crate::types::{Error, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Masking of personal data.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(default)]
pub struct PiiConfig {
    /// Which kinds are masked. Default: all of them.
    pub patterns: Option<Vec<PiiPattern>>,
    /// Kinds of your own: name → regular expression.
    pub custom: BTreeMap<String, Pattern>,
    /// What stands in place of a match; `{kind}` in it becomes the kind, as in `[EMAIL]`. Default `[REDACTED]`.
    pub replacement: Option<String>,
}

impl PiiConfig {
    /// Refuses patterns that match nothing at all: they would match everywhere.
    pub fn check(&self, path: &str) -> Result<()> {
        for (name, pattern) in &self.custom {
            let at = || format!("{path}.custom.{name}");
            super::check_name(name, &at(), "a pattern")?;
            if pattern.regex().is_match("") {
                return Err(Error::schema(at(), "this pattern matches the empty text, so everywhere")
                    .with_hint("require at least one character: + in place of *"));
            }
        }
        Ok(())
    }
}

/// A kind of personal data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PiiPattern {
    /// Email addresses.
    Email,
    /// Phone numbers: international, of North America, and those that begin with 0; not without any separator.
    Phone,
    /// Payment cards, by their check digit.
    Card,
    /// Social security numbers of the USA.
    Ssn,
    /// Bank accounts, by their check digits.
    Iban,
}

impl PiiPattern {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Email, Self::Phone, Self::Card, Self::Ssn, Self::Iban];

    /// The name, as in a config.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Phone => "phone",
            Self::Card => "card",
            Self::Ssn => "ssn",
            Self::Iban => "iban",
        }
    }
}

/// Sanitizing of what tools return, before a model reads it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(default)]
pub struct SanitizeConfig {
    /// The phrases that give an attempted prompt injection away, in any case and spacing. Default: well-known ones.
    pub phrases: Option<Vec<String>>,
    /// What happens to an output with such a phrase.
    pub action: SanitizeAction,
    /// What stands in place of a phrase. Default `[SANITIZED]`.
    pub replacement: String,
}

impl Default for SanitizeConfig {
    fn default() -> Self {
        Self { phrases: None, action: SanitizeAction::Replace, replacement: "[SANITIZED]".into() }
    }
}

impl SanitizeConfig {
    /// Refuses phrases without a word, and more than a matcher holds.
    pub fn check(&self, path: &str) -> Result<()> {
        let phrases = self.phrases.as_deref().unwrap_or_default();
        if phrases.len() > 100 {
            return Err(Error::schema(format!("{path}.phrases"), "at most 100 phrases are possible"));
        }
        for (index, phrase) in phrases.iter().enumerate() {
            if phrase.trim().is_empty() || phrase.len() > 200 {
                return Err(Error::schema(format!("{path}.phrases[{index}]"), "a phrase has 1 to 200 bytes"));
            }
        }
        Ok(())
    }
}

/// What happens to a tool output with a suspicious phrase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SanitizeAction {
    /// The phrases are replaced.
    #[default]
    Replace,
    /// The whole output is kept, between `<untrusted_tool_output>` tags.
    Tag,
    /// The output is withheld.
    Block,
}

/// Separating of reasoning that a model writes between tags in its text.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(default)]
pub struct ThinkConfig {
    /// Names of the tags, in any case. Default `think`, `thinking`, `reasoning`.
    pub tags: Vec<String>,
}

impl Default for ThinkConfig {
    fn default() -> Self {
        Self { tags: ["think", "thinking", "reasoning"].map(String::from).to_vec() }
    }
}

impl ThinkConfig {
    /// Refuses what is not the name of a tag.
    pub fn check(&self, path: &str) -> Result<()> {
        self.tags
            .iter()
            .enumerate()
            .try_for_each(|(index, tag)| super::check_name(tag, &format!("{path}.tags[{index}]"), "a tag"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::strict;
    use pretty_assertions::assert_eq;

    #[test]
    fn mistakes_are_told_with_their_path() {
        let pii = |text| strict::from_str::<PiiConfig>(text, "pii").and_then(|config| config.check("pii"));
        let think = |text| strict::from_str::<ThinkConfig>(text, "think").and_then(|config| config.check("think"));
        let sanitize = |text| strict::from_str::<SanitizeConfig>(text, "s").and_then(|config| config.check("s"));
        for (checked, path) in [
            (pii(r#"{"patterns": ["email", "fone"]}"#), "pii.patterns[1]"),
            (pii(r#"{"custom": {"key": "("}}"#), "pii.custom.key"),
            (pii(r#"{"custom": {"key": "a*"}}"#), "pii.custom.key"),
            (pii(r#"{"custom": {"a key": "a"}}"#), "pii.custom.a key"),
            (think(r#"{"tags": ["think", "<think>"]}"#), "think.tags[1]"),
            (sanitize(r#"{"phrases": [" "]}"#), "s.phrases[0]"),
            (sanitize(r#"{"action": "drop"}"#), "s.action"),
        ] {
            assert_eq!(checked.unwrap_err().path(), Some(path));
        }
        for checked in
            [pii("{}"), pii(r#"{"custom": {"key": "sk-\\w+"}}"#), think("{}"), sanitize(r#"{"action": "tag"}"#)]
        {
            assert_eq!(checked, Ok(()));
        }
    }
}
