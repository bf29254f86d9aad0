//! `read`: a text file of the workspace, with line numbers.

use super::{Builtin, Kit, Reach};
use crate::tools::{Helpers, Invocation, ToolFailure, Workspace, WorkspaceSlot};
use crate::types::Cancel;
use schemars::JsonSchema;
use serde::Deserialize;
use std::fmt::Write;
use std::io::{BufRead, BufReader, Read as _};
use std::sync::Arc;

/// See the module's head.
pub struct Read {
    workspace: Arc<WorkspaceSlot>,
    helpers: Helpers,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The file, from the root of the workspace.
    path: String,
    /// The first line, from 1. Default 1.
    #[schemars(range(min = 1))]
    offset: Option<usize>,
    /// Lines. Default 2000.
    #[schemars(range(min = 1, max = 100_000))]
    limit: Option<usize>,
}

/// The most bytes of one answer, of one line of it, and of a file that is read.
const MAX_ANSWER: usize = 256 << 10;
const MAX_LINE: usize = 4 << 10;
const MAX_FILE: u64 = 10 << 20;
/// Where a NUL makes a file binary.
const SNIFFED: usize = 8 << 10;

impl Builtin for Read {
    const NAME: &'static str = "read";
    const DESCRIPTION: &'static str = "Reads a text file of the workspace. Each line comes with its number and a tab, which are not part of the file.";
    const REACH: Reach = Reach::ReadsFiles;
    const TIMEOUT: f64 = 30.0;
    type Input = Input;
    type Output = String;

    fn new(kit: &Kit) -> Self {
        Self { workspace: Arc::clone(&kit.workspace), helpers: kit.helpers.clone() }
    }

    async fn run<'a>(&'a self, input: Input, call: Invocation<'a>) -> Result<String, ToolFailure> {
        let workspace = self.workspace.of(call.workspace)?;
        self.helpers.run(&call.cancel, move |cancel| read(&workspace, &input, cancel)).await
    }
}

fn read(workspace: &Workspace, input: &Input, cancel: &Cancel) -> Result<String, ToolFailure> {
    let path = &input.path;
    let (file, metadata) = workspace.open_file(path)?;
    if metadata.len() > MAX_FILE {
        return Err(ToolFailure::new(format!(
            "{path:?} has {} bytes, more than the {MAX_FILE} that can be read; grep finds lines in it",
            metadata.len()
        ))
        .with_code("too_large"));
    }
    let failed = |error: std::io::Error| ToolFailure::new(format!("{path:?} cannot be read: {error}"));
    // It may grow meanwhile.
    let mut reader = BufReader::with_capacity(64 << 10, file.take(MAX_FILE));
    let head = reader.fill_buf().map_err(failed)?;
    if head.iter().take(SNIFFED).any(|byte| *byte == 0) {
        return Err(ToolFailure::new(format!("{path:?} is binary ({} bytes), not text", metadata.len()))
            .with_code("binary_file"));
    }
    let (first, limit) = (input.offset.unwrap_or(1).max(1), input.limit.unwrap_or(2000));
    let (mut text, mut bytes) = (String::new(), Vec::new());
    let (mut number, mut shown, mut is_lossy) = (0, 0, false);
    loop {
        if cancel.is_cancelled() {
            return Err(ToolFailure::new("it was cancelled").with_code("cancelled"));
        }
        bytes.clear();
        if reader.read_until(b'\n', &mut bytes).map_err(failed)? == 0 {
            break;
        }
        number += 1;
        if number < first {
            continue;
        }
        if shown == limit || text.len() >= MAX_ANSWER {
            // Writing to a text cannot fail.
            let _ = write!(text, "(more lines follow: go on with \"offset\": {number})");
            break;
        }
        let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let decoded = String::from_utf8_lossy(line);
        is_lossy |= matches!(decoded, std::borrow::Cow::Owned(_));
        let cut = decoded.floor_char_boundary(MAX_LINE);
        let (start, rest) = decoded.split_at(cut);
        let more = if rest.is_empty() { String::new() } else { format!(" (and {} bytes more)", rest.len()) };
        let _ = writeln!(text, "{number:>4}\t{start}{more}");
        shown += 1;
    }
    if shown == 0 && first > 1 {
        return Err(
            ToolFailure::new(format!("{path:?} has {number} lines, none from {first} on")).with_code("past_the_end")
        );
    }
    if is_lossy {
        text.push_str("(the file is not UTF-8; what could not be decoded is shown as \u{fffd})");
    }
    Ok(text)
}
