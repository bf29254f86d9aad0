//! `ls`: what is in a folder of the workspace.

use super::{Builtin, Kit, Reach, glob};
use crate::tools::workspace::Access;
use crate::tools::{Helpers, Invocation, ToolFailure, Workspace, WorkspaceSlot};
use crate::types::{Cancel, rfc3339};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// See the module's head.
pub struct Ls {
    workspace: Arc<WorkspaceSlot>,
    helpers: Helpers,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The folder, from the root of the workspace. Default: the root.
    path: Option<String>,
    /// Only names that fit this glob, such as `*.md`.
    pattern: Option<String>,
}

#[derive(Serialize, JsonSchema)]
pub struct Output {
    path: String,
    entries: Vec<Entry>,
    /// Entries that are left out: too many.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(default)]
    left_out: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

#[derive(Serialize, JsonSchema)]
pub struct Entry {
    name: String,
    /// `file`, `folder`, `link` or `other`.
    r#type: &'static str,
    /// Bytes of a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    /// When it was last changed, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    modified: Option<String>,
    /// Why it cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'static str>,
}

/// The most entries of one answer.
const MAX_ENTRIES: usize = 2_000;

impl Builtin for Ls {
    const NAME: &'static str = "ls";
    const DESCRIPTION: &'static str = "Lists a folder of the workspace.";
    const REACH: Reach = Reach::ReadsFiles;
    const TIMEOUT: f64 = 10.0;
    type Input = Input;
    type Output = Output;

    fn new(kit: &Kit) -> Self {
        Self { workspace: Arc::clone(&kit.workspace), helpers: kit.helpers.clone() }
    }

    async fn run<'a>(&'a self, input: Input, call: Invocation<'a>) -> Result<Output, ToolFailure> {
        let workspace = self.workspace.of(call.workspace)?;
        self.helpers.run(&call.cancel, move |cancel| list(&workspace, input, cancel)).await
    }
}

fn list(workspace: &Workspace, input: Input, cancel: &Cancel) -> Result<Output, ToolFailure> {
    let path = input.path.unwrap_or_else(|| ".".into());
    let pattern = input.pattern.as_deref().map(glob).transpose()?;
    let (folder, _) = workspace.open_folder(&path, Access::Read)?;
    let failed = |error: std::io::Error| ToolFailure::new(format!("{path:?} cannot be listed: {error}"));
    let mut names = Vec::new();
    for entry in folder.entries().map_err(failed)? {
        if cancel.is_cancelled() {
            return Err(ToolFailure::new("it was cancelled").with_code("cancelled"));
        }
        let entry = entry.map_err(failed)?;
        if pattern.as_ref().is_none_or(|pattern| pattern.is_match(entry.file_name())) {
            names.push(entry.file_name());
        }
    }
    names.sort();
    let left_out = names.len().saturating_sub(MAX_ENTRIES);
    names.truncate(MAX_ENTRIES);
    let mut entries = Vec::with_capacity(names.len());
    for name in names {
        // It may be gone by now.
        let Ok(metadata) = folder.symlink_metadata(&name) else { continue };
        let kind = match metadata.file_type() {
            kind if kind.is_file() => "file",
            kind if kind.is_dir() => "folder",
            kind if kind.is_symlink() => "link",
            _ => "other",
        };
        let modified = metadata.modified().ok().and_then(|time| time.into_std().duration_since(UNIX_EPOCH).ok());
        entries.push(Entry {
            name: name.to_string_lossy().into_owned(),
            r#type: kind,
            size: metadata.is_file().then(|| metadata.len()),
            modified: modified.map(|since| rfc3339(since.as_secs())),
            note: name.to_str().is_none().then_some("its name is not UTF-8, so that no tool can be given it"),
        });
    }
    Ok(Output { path, entries, left_out })
}
