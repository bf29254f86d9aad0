//! `edit`: replaces texts in a file of the workspace: all of them or none, each found exactly once.

use super::{Builtin, Kit, Reach};
use crate::config::Effect;
use crate::tools::{Helpers, Invocation, ToolFailure, WorkspaceSlot};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// See the module's head.
pub struct Edit {
    workspace: Arc<WorkspaceSlot>,
    helpers: Helpers,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The file, from the root of the workspace.
    path: String,
    /// What is replaced. All edits are found in the file as it is now, not as the edits before leave it.
    #[schemars(length(min = 1, max = 1000))]
    edits: Vec<Replacement>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Replacement {
    /// The exact text, white space included, without line numbers; it must stand in the file once. Take in neighbouring
    /// lines to make it so.
    old: String,
    /// The text in its place; empty to remove it.
    new: String,
}

#[derive(Serialize, JsonSchema)]
pub struct Output {
    path: String,
    /// Edits that were applied: all.
    applied: usize,
    /// The first line of each edit, in the file as it was, in the order they were given.
    lines: Vec<usize>,
}

/// The most bytes of a file that is edited.
const MAX_FILE: u64 = 10 << 20;

impl Builtin for Edit {
    const NAME: &'static str = "edit";
    const DESCRIPTION: &'static str =
        "Replaces exact texts in a file of the workspace. Either all edits are applied or none.";
    const REACH: Reach = Reach::WritesFiles;
    const EFFECT: Effect = Effect::Once;
    const TIMEOUT: f64 = 30.0;
    type Input = Input;
    type Output = Output;

    fn new(kit: &Kit) -> Self {
        Self { workspace: Arc::clone(&kit.workspace), helpers: kit.helpers.clone() }
    }

    async fn run<'a>(&'a self, input: Input, call: Invocation<'a>) -> Result<Output, ToolFailure> {
        let workspace = self.workspace.of(call.workspace)?;
        self.helpers
            .run(&call.cancel, move |_| {
                let Input { path, edits } = input;
                let lines = workspace.edit(&path, MAX_FILE, |text| {
                    let places = places(text, &edits)?;
                    let lines = places.iter().map(|place| line_of(text, *place)).collect();
                    Ok((apply(text, &edits, &places), lines))
                })?;
                Ok(Output { path, applied: edits.len(), lines })
            })
            .await
    }
}

/// Where each edit's text begins. An error: one is not there, is there twice, or touches another.
fn places(text: &str, edits: &[Replacement]) -> Result<Vec<usize>, ToolFailure> {
    let places = edits
        .iter()
        .enumerate()
        .map(|(index, edit)| place(text, index, edit))
        .collect::<Result<Vec<usize>, ToolFailure>>()?;
    let mut sorted: Vec<_> = places.iter().zip(edits).map(|(start, edit)| (*start, *start + edit.old.len())).collect();
    sorted.sort_unstable();
    let overlap = sorted.windows(2).find_map(|pair| match pair {
        [(_, end), (next, _)] if next < end => Some(*next),
        _ => None,
    });
    match overlap {
        None => Ok(places),
        Some(at) => Err(ToolFailure::new(format!(
            "two edits overlap at line {}; make one edit of them. Nothing was changed",
            line_of(text, at)
        ))
        .with_code("edit_overlap")),
    }
}

fn place(text: &str, index: usize, edit: &Replacement) -> Result<usize, ToolFailure> {
    let refuse = |code: &str, why: String| {
        Err(ToolFailure::new(format!("edits[{index}]: {why}. Nothing was changed")).with_code(code))
    };
    if edit.old.is_empty() {
        return refuse("edit_empty", "\"old\" is empty; give the text to replace, or write the file anew".into());
    }
    if edit.old == edit.new {
        return refuse("edit_changes_nothing", "\"old\" and \"new\" are the same".into());
    }
    let mut found = occurrences(text, &edit.old);
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => {
            refuse("edit_old_text_not_found", format!("\"old\" is not in the file{}", near_miss(text, &edit.old)))
        }
        (Some(first), Some(second)) => {
            let lines: Vec<String> =
                [first, second].into_iter().chain(found.take(8)).map(|at| line_of(text, at).to_string()).collect();
            let why = format!(
                "\"old\" is in the file more than once, at lines {}; take in neighbouring lines to say which one is meant",
                lines.join(", ")
            );
            refuse("edit_ambiguous", why)
        }
    }
}

/// Every place, also such that overlap each other: `aa` is twice in `aaa`.
fn occurrences<'t>(text: &'t str, old: &'t str) -> impl Iterator<Item = usize> + 't {
    let step = old.chars().next().map_or(1, char::len_utf8);
    let mut from = 0;
    std::iter::from_fn(move || {
        let at = from + text.get(from..)?.find(old)?;
        from = at + step;
        Some(at)
    })
}

/// Why a text may not have been found.
fn near_miss(text: &str, old: &str) -> String {
    if text.contains("\r\n") && old.contains('\n') && text.contains(&old.replace('\n', "\r\n")) {
        return ": the file ends its lines with \\r\\n".into();
    }
    let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let first = old.lines().map(str::trim).find(|line| !line.is_empty());
    let like = first.and_then(|first| text.lines().position(|line| squeezed(line) == squeezed(first)));
    match like {
        Some(line) => {
            format!("; line {} is like its first one: compare the white space, and read the file again", line + 1)
        }
        None => "; read it again".into(),
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}

/// The text with every edit in place. The places do not overlap.
fn apply(text: &str, edits: &[Replacement], places: &[usize]) -> String {
    let mut sorted: Vec<_> = places.iter().zip(edits).collect();
    sorted.sort_unstable_by_key(|(start, _)| **start);
    let mut changed = String::with_capacity(text.len());
    let mut rest = 0;
    for (start, edit) in sorted {
        changed.push_str(text.get(rest..*start).unwrap_or_default());
        changed.push_str(&edit.new);
        rest = start + edit.old.len();
    }
    changed.push_str(text.get(rest..).unwrap_or_default());
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    fn edit(old: &str, new: &str) -> Replacement {
        Replacement { old: old.into(), new: new.into() }
    }

    fn edited(text: &str, edits: &[Replacement]) -> Result<String, String> {
        let places = places(text, edits).map_err(|failure| failure.code.unwrap())?;
        Ok(apply(text, edits, &places))
    }

    #[test]
    fn edits_are_found_in_the_text_as_it_was() {
        let swap = [edit("one", "two"), edit("two", "one")];
        assert_eq!(edited("one two", &swap).unwrap(), "two one");
        assert_eq!(edited("a b c", &[edit("c", ""), edit("a", "x")]).unwrap(), "x b ");
    }

    #[test]
    fn what_is_not_clear_is_refused() {
        for (text, edits, code) in [
            ("abc", vec![edit("x", "y")], "edit_old_text_not_found"),
            ("abab", vec![edit("ab", "y")], "edit_ambiguous"),
            ("aaa", vec![edit("aa", "y")], "edit_ambiguous"),
            ("abc", vec![edit("ab", "x"), edit("bc", "y")], "edit_overlap"),
            ("abc", vec![edit("abc", "x"), edit("b", "y")], "edit_overlap"),
            ("abc", vec![edit("ab", "x"), edit("ab", "y")], "edit_overlap"),
            ("abc", vec![edit("", "y")], "edit_empty"),
            ("abc", vec![edit("b", "b")], "edit_changes_nothing"),
            ("abc", vec![edit("a", "x"), edit("q", "y")], "edit_old_text_not_found"),
        ] {
            assert_eq!(edited(text, &edits).unwrap_err(), code, "{text} {edits:?}");
        }
        assert!(near_miss("a\r\nb\r\n", "a\nb").contains("\\r\\n"));
        assert!(near_miss("x\n  if a  {\n", "if a {").contains("line 2"));
    }

    proptest! {
        /// Against splicing one after the other, from the last place to the first.
        #[test]
        fn all_or_none_and_nothing_else_changes(
            text in "[ab\u{e9}\n]{0,40}",
            edits in prop::collection::vec(("[ab\u{e9}\n]{1,4}", "[xy]{0,3}"), 1..4),
        ) {
            let edits: Vec<_> = edits.iter().map(|(old, new)| edit(old, new)).collect();
            let once = |old: &str| (0..text.len()).filter(|at| text[..].is_char_boundary(*at) && text[*at..].starts_with(old)).count() == 1;
            match edited(&text, &edits) {
                Ok(changed) => {
                    prop_assert!(edits.iter().all(|edit| once(&edit.old)));
                    let mut order: Vec<_> = edits.iter().map(|edit| (text.find(&edit.old).unwrap(), edit)).collect();
                    order.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
                    let mut expected = text.clone();
                    for (at, edit) in order {
                        expected.replace_range(at..at + edit.old.len(), &edit.new);
                    }
                    prop_assert_eq!(changed, expected);
                }
                Err(code) => {
                    if edits.iter().all(|edit| once(&edit.old)) {
                        prop_assert_eq!(code, "edit_overlap");
                    }
                }
            }
        }
    }
}
