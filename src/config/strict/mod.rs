//! Strict JSON: every mistake is told with its path, and nothing a user writes is ignored.
//!
//! Two steps. [`parse`] turns text into a value and refuses what a lenient parser lets pass (duplicate keys). [`read`]
//! turns the value into a typed shape by the rules of json.md: unknown keys are errors that name the nearest known key,
//! `null` means absent, `3.0` is a whole number, and a variant is `{"type": …}` or, without fields, its bare name.

mod parse;
mod problem;
mod read;

pub use parse::{free, parse, parse_free, value};
pub use read::read;

use crate::types::Result;
use serde::de::DeserializeOwned;

/// [`parse`] and [`read`] in one.
pub fn from_str<T: DeserializeOwned>(text: &str, root: &str) -> Result<T> {
    read(&parse(text, root)?, root)
}

/// As [`from_str`], at a quarter of its cost for text without mistakes and in the plainest form: read without a value in
/// between. Whatever that cannot read is read again, which gives the dialect's other forms, and every error its path.
///
/// The shape must refuse unknown and duplicate keys by itself; a free value in it is read by [`value`].
pub fn from_str_fast<T: DeserializeOwned>(text: &str, root: &str) -> Result<T> {
    serde_json::from_str(text).or_else(|_| from_str(text, root))
}

/// A longer word is no slip of the pen, and comparing it would take its length times that of each candidate.
const MAX_WORD: usize = 128;

/// The candidate nearest to `word`, if any is near enough to be what was meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > MAX_WORD {
        return None;
    }
    candidates
        .into_iter()
        // Of two that are as near, one that stands in the word is meant: "fsync" is "sync", not "async".
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), !word.contains(candidate), candidate))
        .min_by_key(|(distance, is_other, _)| (*distance, *is_other))
        .map(|(distance, _, candidate)| (distance, candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count() / 3).max(1))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Status;
    use pretty_assertions::assert_eq;
    use serde::Deserialize;
    use serde_json::Value;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[serde(default)]
        count: u32,
        ratio: Option<f64>,
        #[serde(default)]
        inner: Vec<Inner>,
        choice: Option<Choice>,
        #[serde(default)]
        free: Value,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        temperature: f64,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case", deny_unknown_fields)]
    enum Choice {
        Plain,
        Window { max_messages: u32 },
        Boxed(Inner),
    }

    fn outer(text: &str) -> Result<Outer> {
        from_str(text, "config")
    }

    fn complaint(text: &str) -> String {
        format!("{:?}", outer(text).unwrap_err())
    }

    #[test]
    fn the_dialect_reads() {
        let read = outer(
            r#"{"count": 3.0, "ratio": 1, "inner": [{"temperature": 0}], "free": {"kept": null},
                "choice": {"type": "window", "max_messages": 5}}"#,
        )
        .unwrap();
        assert_eq!(read.count, 3);
        assert_eq!(read.ratio, Some(1.0));
        assert_eq!(read.inner, [Inner { temperature: 0.0 }]);
        assert_eq!(read.choice, Some(Choice::Window { max_messages: 5 }));
        assert_eq!(read.free, serde_json::json!({"kept": null}));
        assert_eq!(outer(r#"{"choice": "plain", "count": null}"#).unwrap().choice, Some(Choice::Plain));
        assert_eq!(outer(r#"{"choice": {"type": "plain"}}"#).unwrap().choice, Some(Choice::Plain));
        let boxed = outer(r#"{"choice": {"type": "boxed", "temperature": 2}}"#).unwrap().choice;
        assert_eq!(boxed, Some(Choice::Boxed(Inner { temperature: 2.0 })));
    }

    #[test]
    fn every_mistake_has_its_path_and_a_way_out() {
        insta::assert_snapshot!(
            [
                r#"{"cuont": 1}"#,
                r#"{"inner": [{"temperature": 1}, {"temprature": 2}]}"#,
                r#"{"inner": [{}]}"#,
                r#"{"inner": [{"temperature": "hot"}]}"#,
                r#"{"inner": {}}"#,
                r#"{"count": -1}"#,
                r#"{"count": 1.5}"#,
                r#"{"count": 99999999999}"#,
                r#"{"choice": "plian"}"#,
                r#"{"choice": {"max_messages": 1}}"#,
                r#"{"choice": {"type": "window", "max_mesages": 1}}"#,
                r#"{"choice": {"type": "window"}}"#,
                r#"{"choice": {"type": "plain", "extra": 1}}"#,
                r#"{"choice": {"type": "boxed", "temp": 2}}"#,
                r#"{"choice": "window"}"#,
                r#"{"choice": 7}"#,
                r#"[]"#,
                r#"{"count": 1, "count": 2}"#,
                r#"{"count": 1"#,
                r#"{"count": NaN}"#,
                r#"{"free": "\ud800"}"#,
                "",
                "{} x",
            ]
            .map(|text| format!("{text}\n    {}", complaint(text)))
            .join("\n")
        );
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(&nested(80), "text").is_ok());
        assert_eq!(parse(&nested(81), "text").unwrap_err().status(), Status::Json);
        assert!(parse_free(&nested(64), "text").is_ok());
        assert_eq!(parse_free(&nested(65), "text").unwrap_err().status(), Status::Json);
    }
}
