//! `read_blob`: a large tool result, piece by piece. The model gets its handle when the result was too large to be shown.

use crate::store::{BlobId, Store};
use crate::tools::{Invocation, Tool, ToolFailure, ToolOutput};
use futures_util::future::BoxFuture;
use regex::RegexBuilder;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;

/// How it is registered.
pub const DEFINITION: &str = r#"{
    "name": "read_blob",
    "description": "Reads a part of a large tool result by its handle: a range of bytes, or the lines that match a pattern.",
    "effect": "pure",
    "input_schema": {
        "type": "object",
        "properties": {
            "handle": {"type": "string", "description": "par://blob/..., as given with the shortened result"},
            "offset": {"type": "integer", "minimum": 0, "description": "First byte of the range. Default 0."},
            "length": {"type": "integer", "minimum": 1, "maximum": 32768, "description": "Bytes of the range. Default 8192."},
            "pattern": {"type": "string", "description": "A regular expression: answers the lines that match, with their numbers, instead of a range."},
            "context": {"type": "integer", "minimum": 0, "maximum": 20, "description": "Lines around each match. Default 0."},
            "ignore_case": {"type": "boolean"}
        },
        "required": ["handle"],
        "additionalProperties": false
    }
}"#;

/// The most bytes of one answer.
const MAX_ANSWER: usize = 32 << 10;

/// See the module's head.
pub struct ReadBlob {
    store: Arc<Store>,
}

#[derive(Deserialize)]
struct Input {
    handle: String,
    #[serde(default)]
    offset: usize,
    length: Option<usize>,
    pattern: Option<String>,
    #[serde(default)]
    context: usize,
    #[serde(default)]
    ignore_case: bool,
}

impl ReadBlob {
    /// The tool over this store.
    pub fn new(store: Arc<Store>) -> Self {
        Self { store }
    }

    async fn read(&self, invocation: Invocation<'_>) -> ToolOutput {
        let input = Input::deserialize(invocation.input).map_err(|error| ToolFailure::new(error.to_string()))?;
        let unknown = || {
            ToolFailure::new(format!(
                "there is nothing under {:?}: it was never given, or was let go of since; call the tool again that made it",
                input.handle
            ))
        };
        let id = BlobId::from_handle(&input.handle).ok_or_else(unknown)?;
        let blob =
            self.store.blob(&id).await.map_err(|error| ToolFailure::new(error.message()))?.ok_or_else(unknown)?;
        let text = String::from_utf8_lossy(&blob);
        match &input.pattern {
            Some(pattern) => grep(&text, pattern, &input),
            None => Ok(range(&text, input.offset, input.length.unwrap_or(8192).min(MAX_ANSWER))),
        }
    }
}

impl Tool for ReadBlob {
    fn call<'a>(&'a self, invocation: Invocation<'a>) -> BoxFuture<'a, ToolOutput> {
        Box::pin(self.read(invocation))
    }
}

fn range(text: &str, offset: usize, length: usize) -> serde_json::Value {
    let start = text.floor_char_boundary(offset.min(text.len()));
    let end = text.floor_char_boundary(start.saturating_add(length).min(text.len()));
    let content = text.get(start..end).unwrap_or_default();
    json!({"offset": start, "length": end - start, "total_bytes": text.len(), "content": content})
}

fn grep(text: &str, pattern: &str, input: &Input) -> ToolOutput {
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
    Ok(json!({"matches": hits.len(), "shown": told, "total_lines": lines.len(), "content": content}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;

    fn input(context: usize) -> Input {
        Input { handle: String::new(), offset: 0, length: None, pattern: None, context, ignore_case: false }
    }

    #[test]
    fn ranges_never_cut_a_character() {
        let text = "aé€x";
        for offset in 0..10 {
            for length in 1..10 {
                let answer = range(text, offset, length);
                assert_eq!(answer["total_bytes"], text.len());
            }
        }
        assert_eq!(range(text, 1, 2)["content"], "é");
    }

    #[test]
    fn matching_lines_come_with_their_numbers_and_surroundings() {
        let text = "one\ntwo\nthree\nfour\nfive\ntwo again\n";
        assert_eq!(grep(text, "^two", &input(0)).unwrap()["content"], "2:two\n6:two again\n");
        assert_eq!(grep(text, "two$", &input(1)).unwrap()["content"], "1-one\n2:two\n3-three\n");
        assert_eq!(
            grep(text, "two", &input(1)).unwrap()["content"],
            "1-one\n2:two\n3-three\n--\n5-five\n6:two again\n"
        );
        assert!(grep(text, "(", &input(0)).unwrap_err().message.contains("regular expression"));
    }
}
