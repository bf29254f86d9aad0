//! `find`: files of the workspace by their names.

use super::{Builtin, Kit, Progress, Reach, glob};
use crate::tools::workspace::{Found, Kind, Walk};
use crate::tools::{Helpers, Invocation, ToolFailure, Workspace, WorkspaceSlot};
use crate::types::Cancel;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// See the module's head.
pub struct Find {
    workspace: Arc<WorkspaceSlot>,
    helpers: Helpers,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// A glob such as `*.rs`; with a `/` it must fit the path below the folder, such as `src/**/*.rs`.
    pattern: String,
    /// The folder to search, from the root of the workspace. Default: the root.
    path: Option<String>,
    /// Folders below it to go down, at most; 0 stays in it. Default: all.
    max_depth: Option<usize>,
    /// Only these. Default: all.
    r#type: Option<Wanted>,
    /// Also what .gitignore and .ignore name, and .git, node_modules, _build and _opam. Default false.
    #[serde(default)]
    include_ignored: bool,
    /// Paths, at most. Default 1000.
    #[schemars(range(min = 1, max = 100_000))]
    max_results: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    File,
    Folder,
}

#[derive(Serialize, JsonSchema)]
pub struct Output {
    /// From the root of the workspace, sorted.
    paths: Vec<String>,
    /// Whether there are more.
    truncated: bool,
    /// Folders that could not be read.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(default)]
    unreadable: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Builtin for Find {
    const NAME: &'static str = "find";
    const DESCRIPTION: &'static str = "Finds files and folders of the workspace by a glob.";
    const REACH: Reach = Reach::ReadsFiles;
    const TIMEOUT: f64 = 30.0;
    type Input = Input;
    type Output = Output;

    fn new(kit: &Kit) -> Self {
        Self { workspace: Arc::clone(&kit.workspace), helpers: kit.helpers.clone() }
    }

    async fn run<'a>(&'a self, input: Input, call: Invocation<'a>) -> Result<Output, ToolFailure> {
        let workspace = self.workspace.of(call.workspace)?;
        let seen = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&seen);
        let note = || Progress { entries_seen: seen.load(Ordering::Relaxed) };
        self.helpers.run_noted(&call, note, move |cancel| find(&workspace, &input, &counted, cancel)).await
    }
}

fn find(workspace: &Workspace, input: &Input, seen: &AtomicUsize, cancel: &Cancel) -> Result<Output, ToolFailure> {
    let path = input.path.as_deref().unwrap_or(".");
    let pattern = glob(&input.pattern)?;
    let by_path = input.pattern.contains('/');
    // Below the folder: without its own name.
    let above = workspace.below_prefix(path)?;
    let most = input.max_results.unwrap_or(1_000);
    let (paths, count, truncated) = (Mutex::new(Vec::new()), AtomicUsize::new(0), AtomicBool::new(false));
    let walk = Walk { max_depth: input.max_depth.unwrap_or(usize::MAX), include_ignored: input.include_ignored };
    let walked = workspace.walk(path, walk, cancel, || {
        |found: &Found<'_>| {
            seen.fetch_add(1, Ordering::Relaxed);
            let wanted = match input.r#type {
                None => true,
                Some(Wanted::File) => found.kind == Kind::File,
                Some(Wanted::Folder) => found.kind == Kind::Folder,
            };
            let below = found.path.get(above..).unwrap_or_default();
            let name = below.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            let subject = if by_path { below } else { name };
            if !wanted || !pattern.is_match(OsStr::from_bytes(subject)) {
                return true;
            }
            if count.fetch_add(1, Ordering::Relaxed) >= most {
                truncated.store(true, Ordering::Relaxed);
                return false;
            }
            paths.lock().push(String::from_utf8_lossy(found.path).into_owned());
            true
        }
    })?;
    let mut paths = paths.into_inner();
    paths.sort();
    Ok(Output { paths, truncated: truncated.into_inner(), unreadable: walked.unreadable })
}
