//! `grep`: lines of the workspace's files that match a regular expression. The engine and the searcher are ripgrep's; every
//! file is opened through the workspace.

use super::{Builtin, Kit, Progress, Reach, glob};
use crate::tools::workspace::{Found, Kind, Walk};
use crate::tools::{Helpers, Invocation, ToolFailure, Workspace, WorkspaceSlot};
use crate::types::Cancel;
use globset::GlobMatcher;
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder, Sink, SinkContext, SinkMatch};
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// See the module's head.
pub struct Grep {
    workspace: Arc<WorkspaceSlot>,
    helpers: Helpers,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// A regular expression (Rust syntax: no look-around, no back-references), found anywhere in a line.
    #[schemars(length(min = 1, max = 4096))]
    pattern: String,
    /// The file or folder to search, from the root of the workspace. Default: the root.
    path: Option<String>,
    /// Only files whose name fits this glob, such as `*.rs`; with a `/` the path below the folder must fit.
    glob: Option<String>,
    /// Lines shown before and after each match. Default 0.
    #[serde(default)]
    #[schemars(range(max = 20))]
    context_lines: usize,
    /// Whether letters match in either case. Default false.
    #[serde(default)]
    ignore_case: bool,
    /// Also what .gitignore and .ignore name, and .git, node_modules, _build and _opam. Default false.
    #[serde(default)]
    include_ignored: bool,
    /// Matching lines, at most. Default 200.
    #[schemars(range(min = 1, max = 10_000))]
    max_results: Option<usize>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct Output {
    /// `path:line:text` of a match, `path-line-text` of a line around it, `--` between parts that do not touch.
    lines: Vec<String>,
    /// Matching lines shown.
    matches: usize,
    /// Whether there are more.
    truncated: bool,
    /// Files that were searched.
    files_searched: usize,
    /// Files that were left out: binary, unreadable, or with a second name (hard link).
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(default)]
    files_skipped: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// The most bytes of one line that is shown, and of all.
const MAX_LINE: usize = 500;
const MAX_BYTES: usize = 256 << 10;

impl Builtin for Grep {
    const NAME: &'static str = "grep";
    const DESCRIPTION: &'static str = "Finds the lines of the workspace's text files that match a regular expression.";
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
        self.helpers.run_noted(&call, note, move |cancel| grep(&workspace, &input, &counted, cancel)).await
    }
}

/// What all threads of one search share.
struct Search<'s> {
    matcher: RegexMatcher,
    context: usize,
    most: usize,
    cancel: &'s Cancel,
    matches: AtomicUsize,
    bytes: AtomicUsize,
    truncated: AtomicBool,
    searched: AtomicUsize,
    skipped: AtomicUsize,
    /// The lines of each file, by its path.
    lines: Mutex<BTreeMap<Vec<u8>, Vec<String>>>,
}

fn grep(workspace: &Workspace, input: &Input, seen: &AtomicUsize, cancel: &Cancel) -> Result<Output, ToolFailure> {
    let matcher = RegexMatcherBuilder::new()
        .case_insensitive(input.ignore_case)
        .line_terminator(Some(b'\n'))
        .size_limit(4 << 20)
        .build(&input.pattern)
        .map_err(|error| {
            ToolFailure::new(format!("the pattern is no regular expression: {error}")).with_code("invalid_pattern")
        })?;
    let search = Search {
        matcher,
        context: input.context_lines,
        most: input.max_results.unwrap_or(200),
        cancel,
        matches: AtomicUsize::new(0),
        bytes: AtomicUsize::new(0),
        truncated: AtomicBool::new(false),
        searched: AtomicUsize::new(0),
        skipped: AtomicUsize::new(0),
        lines: Mutex::default(),
    };
    let path = input.path.as_deref().unwrap_or(".");
    if path != "." && !workspace.is_folder(path)? {
        let (file, _) = workspace.open_file(path)?;
        search.file(path.as_bytes(), &file, &mut search.searcher());
    } else {
        search.tree(workspace, path, input, seen)?;
    }
    if cancel.is_cancelled() {
        return Err(ToolFailure::new("it was cancelled").with_code("cancelled"));
    }
    let matches = search.matches.into_inner().min(search.most);
    let parts = search.lines.into_inner().into_values();
    let lines = match input.context_lines {
        0 => parts.flatten().collect(),
        _ => parts.collect::<Vec<_>>().join(&"--".to_owned()),
    };
    Ok(Output {
        lines,
        matches,
        truncated: search.truncated.into_inner(),
        files_searched: search.searched.into_inner(),
        files_skipped: search.skipped.into_inner(),
    })
}

impl Search<'_> {
    fn tree(&self, workspace: &Workspace, path: &str, input: &Input, seen: &AtomicUsize) -> Result<(), ToolFailure> {
        let by_path = input.glob.as_ref().is_some_and(|glob| glob.contains('/'));
        let wanted: Option<GlobMatcher> = input.glob.as_deref().map(glob).transpose()?;
        let above = workspace.below_prefix(path)?;
        let walk = Walk { max_depth: usize::MAX, include_ignored: input.include_ignored };
        workspace.walk(path, walk, self.cancel, || {
            let mut searcher = self.searcher();
            let wanted = &wanted;
            move |found: &Found<'_>| {
                seen.fetch_add(1, Ordering::Relaxed);
                let below = found.path.get(above..).unwrap_or_default();
                let name = below.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
                let subject = if by_path { below } else { name };
                let fits = wanted.as_ref().is_none_or(|glob| glob.is_match(OsStr::from_bytes(subject)));
                if found.kind == Kind::File && fits {
                    match found.open() {
                        Some(file) => self.file(found.path, &file, &mut searcher),
                        None => {
                            self.skipped.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
                !self.truncated.load(Ordering::Relaxed)
            }
        })?;
        Ok(())
    }

    fn searcher(&self) -> Searcher {
        SearcherBuilder::new()
            .binary_detection(BinaryDetection::quit(0))
            .before_context(self.context)
            .after_context(self.context)
            // A line is held in memory.
            .heap_limit(Some(16 << 20))
            .build()
    }

    fn file(&self, path: &[u8], file: &File, searcher: &mut Searcher) {
        let mut lines = Lines { search: self, path: String::new(), raw: path, lines: Vec::new(), is_binary: false };
        let ended = searcher.search_reader(&self.matcher, Until { file, cancel: self.cancel }, &mut lines);
        let Lines { lines, is_binary, .. } = lines;
        let counter = if ended.is_err() || is_binary { &self.skipped } else { &self.searched };
        counter.fetch_add(1, Ordering::Relaxed);
        if !lines.is_empty() && !is_binary {
            self.lines.lock().insert(path.to_vec(), lines);
        }
    }
}

/// A file that ends in an error when nobody waits for what is found in it.
struct Until<'s> {
    file: &'s File,
    cancel: &'s Cancel,
}

impl io::Read for Until<'_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        self.file.read(space)
    }
}

/// The lines of one file.
struct Lines<'s> {
    search: &'s Search<'s>,
    /// For people; made when it is first needed.
    path: String,
    raw: &'s [u8],
    lines: Vec<String>,
    is_binary: bool,
}

impl Lines<'_> {
    /// Takes a line; whether there is room for more.
    fn take(&mut self, mark: char, number: Option<u64>, bytes: &[u8]) -> bool {
        if self.path.is_empty() {
            self.path = String::from_utf8_lossy(self.raw).into_owned();
        }
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let shown = bytes.get(..MAX_LINE).unwrap_or(bytes);
        let cut = if shown.len() < bytes.len() { "…" } else { "" };
        let (path, number) = (&self.path, number.unwrap_or_default());
        let line = format!("{path}{mark}{number}{mark}{}{cut}", String::from_utf8_lossy(shown));
        let total = self.search.bytes.fetch_add(line.len(), Ordering::Relaxed) + line.len();
        self.lines.push(line);
        if total > MAX_BYTES {
            self.search.truncated.store(true, Ordering::Relaxed);
        }
        total <= MAX_BYTES
    }
}

impl Sink for Lines<'_> {
    type Error = io::Error;

    fn matched(&mut self, _: &Searcher, matched: &SinkMatch<'_>) -> Result<bool, io::Error> {
        if self.search.matches.fetch_add(1, Ordering::Relaxed) >= self.search.most {
            self.search.truncated.store(true, Ordering::Relaxed);
            return Ok(false);
        }
        Ok(self.take(':', matched.line_number(), matched.bytes()) && !self.search.cancel.is_cancelled())
    }

    fn context(&mut self, _: &Searcher, context: &SinkContext<'_>) -> Result<bool, io::Error> {
        Ok(self.take('-', context.line_number(), context.bytes()))
    }

    fn context_break(&mut self, _: &Searcher) -> Result<bool, io::Error> {
        self.lines.push("--".into());
        Ok(true)
    }

    fn binary_data(&mut self, _: &Searcher, _: u64) -> Result<bool, io::Error> {
        self.is_binary = true;
        Ok(false)
    }
}
