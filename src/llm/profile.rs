//! What libpar knows of models by their names: a table, `profiles.json`, that names its date.
//!
//! The facts are the providers' published ones; a user's own profile goes before ([`ModelProfile::or`]). A name that no
//! row matches has an empty profile: nothing is guessed.

use crate::config::ModelProfile;
use serde::Deserialize;
use std::sync::OnceLock;

/// The table of model profiles.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profiles {
    as_of: String,
    models: Vec<Row>,
}

#[derive(Debug, Deserialize)]
struct Row {
    /// Names in lower case; a `*` at the end stands for any end.
    #[serde(rename = "match")]
    names: Vec<String>,
    /// Whose model it is.
    provider: String,
    #[serde(flatten)]
    profile: ModelProfile,
}

impl Profiles {
    /// The table that is part of the library.
    pub fn builtin() -> &'static Self {
        static BUILTIN: OnceLock<Profiles> = OnceLock::new();
        // That it parses is tested; without it every model would be unknown, and nothing worse.
        BUILTIN.get_or_init(|| serde_json::from_str(include_str!("profiles.json")).unwrap_or_default())
    }

    /// The day of the facts in the table, `YYYY-MM-DD`.
    pub fn as_of(&self) -> &str {
        &self.as_of
    }

    /// What is known of a model. Its name may have path segments before it: `openai/gpt-4o`.
    pub fn lookup(&self, model: &str) -> ModelProfile {
        self.row(model).map_or_else(ModelProfile::default, |row| row.profile.clone())
    }

    /// Whose model it is: `openai`, `anthropic`, `gemini`, …
    pub fn provider(&self, model: &str) -> Option<&str> {
        self.row(model).map(|row| row.provider.as_str())
    }

    fn row(&self, model: &str) -> Option<&Row> {
        let model = model.to_ascii_lowercase();
        let mut name = model.as_str();
        loop {
            let best = self.models.iter().filter_map(|row| {
                let length = row.names.iter().filter_map(|pattern| matched(pattern, name)).max()?;
                Some((length, row))
            });
            if let Some((_, row)) = best.max_by_key(|(length, _)| *length) {
                return Some(row);
            }
            (_, name) = name.split_once('/')?;
        }
    }
}

/// How well a pattern matches a name: by how many characters, and a whole name better than any beginning.
fn matched(pattern: &str, name: &str) -> Option<usize> {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start).then_some(start.len()),
        None => (pattern == name).then_some(usize::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Modality, StructuredOutput};
    use crate::types::Usage;
    use pretty_assertions::assert_eq;
    use std::collections::HashSet;

    fn table() -> Profiles {
        serde_json::from_str(include_str!("profiles.json")).unwrap()
    }

    #[test]
    fn the_table_says_only_what_is_read() {
        let json: serde_json::Value = serde_json::from_str(include_str!("profiles.json")).unwrap();
        let known = [
            "match",
            "provider",
            "context_window",
            "max_output_tokens",
            "structured_output",
            "sampling",
            "signed_calls",
            "reasoning",
            "input",
            "cache_points",
            "price",
        ];
        for row in json["models"].as_array().unwrap() {
            let unknown: Vec<&String> =
                row.as_object().unwrap().keys().filter(|key| !known.contains(&key.as_str())).collect();
            assert!(unknown.is_empty(), "{unknown:?} in {row}");
        }
    }

    #[test]
    fn every_name_is_there_once_and_every_row_makes_sense() {
        let table = table();
        assert!(table.as_of.len() == 10 && table.as_of.starts_with("20"), "{}", table.as_of);
        let mut seen = HashSet::new();
        for row in &table.models {
            for name in &row.names {
                assert!(seen.insert(name), "{name} is there twice");
                assert!(!name.trim_end_matches('*').contains(|c: char| c == '*' || c.is_uppercase()), "{name}");
            }
            let profile = &row.profile;
            assert!(
                profile
                    .max_output_tokens
                    .is_none_or(|most| profile.context_window.is_some_and(|window| most <= window)),
                "{row:?}"
            );
            assert!(profile.input.as_ref().is_none_or(|input| input.contains(&Modality::Text)), "{row:?}");
        }
    }

    #[test]
    fn the_longest_match_wins_and_paths_are_skipped() {
        let profiles = Profiles::builtin();
        let mini = profiles.lookup("gpt-4o-mini-2024-07-18");
        assert_eq!(mini, profiles.lookup("openai/GPT-4o-mini"));
        assert_eq!((mini.context_window, mini.max_output_tokens), (Some(128_000), Some(16_384)));
        assert_eq!((mini.structured_output, mini.reasoning), (Some(StructuredOutput::Native), Some(false)));
        let million = Usage { input_tokens: 1_000_000, ..Usage::default() };
        assert_eq!(mini.price.unwrap().cost(&million).to_string(), "0.15");
        assert_eq!(profiles.provider("openrouter/anthropic/claude-3-5-sonnet-latest"), Some("anthropic"));
        assert_eq!(profiles.lookup("meta-llama/Llama-3.1-8B-Instruct").context_window, Some(131_072));
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        assert_eq!(Profiles::builtin().lookup("my-own-model"), ModelProfile::default());
        assert_eq!(Profiles::builtin().lookup("gpt-4o-from-the-future").price, None);
        assert_eq!(Profiles::builtin().provider(""), None);
    }
}
