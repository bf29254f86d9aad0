//! `read_blob`: a large tool result, piece by piece. The model gets its handle when the result was too large to be shown.

use super::{Builtin, Kit, Reach};
use crate::store::{BlobId, Store};
use crate::tools::{Invocation, ToolFailure};
use regex::RegexBuilder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The most bytes of one answer.
const MAX_ANSWER: usize = 32 << 10;

/// See the module's head.
pub struct ReadBlob {
    store: Arc<Store>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// par://blob/..., as given with the shortened result.
    handle: String,
    /// First byte of the range. Default 0.
    #[serde(default)]
    offset: usize,
    /// Bytes of the range. Default 8192.
    #[schemars(range(min = 1, max = 32768))]
    length: Option<usize>,
    /// A regular expression: answers the lines that match, with their numbers, instead of a range.
    pattern: Option<String>,
    /// Lines around each match. Default 0.
    #[serde(default)]
    #[schemars(range(max = 20))]
    context: usize,
    /// Whether the pattern matches letters of either case. Default false.
    #[serde(default)]
    ignore_case: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Output {
    /// A range.
    Range { offset: usize, length: usize, total_bytes: usize, content: String },
    /// Matching lines.
    Lines { matches: usize, shown: usize, total_lines: usize, content: String },
}

impl Builtin for ReadBlob {
    const NAME: &'static str = "read_blob";
    const DESCRIPTION: &'static str =
        "Reads a part of a large tool result by its handle: a range of bytes, or the lines that match a pattern.";
    const REACH: Reach = Reach::Nothing;
    const TIMEOUT: f64 = 60.0;
    type Input = Input;
    type Output = Output;

    fn new(kit: &Kit) -> Self {
        Self { store: Arc::clone(&kit.store) }
    }

    async fn run<'a>(&'a self, input: Input, invocation: Invocation<'a>) -> Result<Output, ToolFailure> {
        let unknown = || {
            ToolFailure::new(format!(
                "there is nothing under {:?}: it was never given, or was let go of since; call the tool again that made it",
                input.handle
            ))
        };
        let id = BlobId::from_handle(&input.handle).ok_or_else(unknown)?;
        let blob = self
            .store
            .blob(invocation.scope, &id)
            .await
            .map_err(|error| ToolFailure::new(error.message()))?
            .ok_or_else(unknown)?;
        let text = String::from_utf8_lossy(&blob);
        match &input.pattern {
            Some(pattern) => grep(&text, pattern, &input),
            None => Ok(range(&text, input.offset, input.length.unwrap_or(8192).min(MAX_ANSWER))),
        }
    }
}

fn range(text: &str, offset: usize, length: usize) -> Output {
    let start = text.floor_char_boundary(offset.min(text.len()));
    let end = text.floor_char_boundary(start.saturating_add(length).min(text.len()));
    let content = text.get(start..end).unwrap_or_default();
    Output::Range { offset: start, length: end - start, total_bytes: text.len(), content: content.to_owned() }
}

fn grep(text: &str, pattern: &str, input: &Input) -> Result<Output, ToolFailure> {
    let pattern = RegexBuilder::new(pattern)
        .case_insensitive(input.ignore_case)
        .size_limit(1 << 20)
        .build()
        .map_err(|error| ToolFailure::new(format!("the pattern is not a regular expression: {error}")))?;
    let lines: Vec<&str> = text.lines().collect();
    let hits: Vec<usize> =
        lines.iter().enumerate().filter(|(_, line)| pattern.is_match(line)).map(|(index, _)| index).collect();
    let mut content = String::new();
    let (mut shown_to, mut told) = (0, 0);
    for hit in &hits {
        let (first, last) = (hit.saturating_sub(input.context).max(shown_to), hit + input.context);
        let mut block = String::new();
        if first > shown_to && input.context > 0 && shown_to > 0 {
            block.push_str("--\n");
        }
        for (index, line) in lines.iter().enumerate().take(last + 1).skip(first) {
            let mark = if hits.binary_search(&index).is_ok() { ':' } else { '-' };
            // A line may be the whole blob.
            let line = line.get(..line.floor_char_boundary(1_000)).unwrap_or(line);
            block.push_str(&format!("{}{mark}{line}\n", index + 1));
        }
        if content.len() + block.len() > MAX_ANSWER {
            break;
        }
        content.push_str(&block);
        shown_to = (last + 1).max(shown_to);
        told += 1;
    }
    Ok(Output::Lines { matches: hits.len(), shown: told, total_lines: lines.len(), content })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;

    fn input(context: usize) -> Input {
        Input { handle: String::new(), offset: 0, length: None, pattern: None, context, ignore_case: false }
    }

    fn json(output: Output) -> serde_json::Value {
        serde_json::to_value(output).unwrap()
    }

    #[test]
    fn ranges_never_cut_a_character() {
        let text = "aé€x";
        for offset in 0..10 {
            for length in 1..10 {
                assert_eq!(json(range(text, offset, length))["total_bytes"], text.len());
            }
        }
        assert_eq!(json(range(text, 1, 2))["content"], "é");
    }

    #[test]
    fn matching_lines_come_with_their_numbers_and_surroundings() {
        let text = "one\ntwo\nthree\nfour\nfive\ntwo again\n";
        assert_eq!(json(grep(text, "^two", &input(0)).unwrap())["content"], "2:two\n6:two again\n");
        assert_eq!(json(grep(text, "two$", &input(1)).unwrap())["content"], "1-one\n2:two\n3-three\n");
        assert_eq!(
            json(grep(text, "two", &input(1)).unwrap())["content"],
            "1-one\n2:two\n3-three\n--\n5-five\n6:two again\n"
        );
        assert!(grep(text, "(", &input(0)).unwrap_err().message.contains("regular expression"));
    }
}
