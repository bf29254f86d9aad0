//! Walking a tree of the workspace: in parallel, without following links, with the ignore files of the tree.
//!
//! Each folder is opened by its one name in the folder above it, which is held open: nothing that is moved or swapped
//! meanwhile leads out. A visitor sees the entries in no particular order, on several threads.

use super::{Access, Workspace};
use crate::tools::ToolFailure;
use crate::types::Cancel;
use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use parking_lot::{Condvar, Mutex};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir};
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Folders that hardly ever are what is looked for.
const SKIPPED: &[&str] = &[".git", "_build", "_opam", "node_modules"];
/// Files that say what to leave out; the later goes before.
const IGNORE_FILES: &[&str] = &[".gitignore", ".ignore"];
/// The most bytes of such a file.
const MAX_IGNORE_BYTES: u64 = 1 << 20;
/// The most folders that are open or wait to be, one below the other.
const MAX_DEPTH: usize = 200;
/// Threads of one walk.
const MAX_THREADS: usize = 8;

/// What is walked.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// Folders below the first one, at most.
    pub max_depth: usize,
    /// Whether what ignore files name is visited, too.
    pub include_ignored: bool,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A device, pipe or socket.
    Other,
}

impl From<FileType> for Kind {
    fn from(kind: FileType) -> Self {
        match kind {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Folder,
            FileType::Symlink => Self::Link,
            _ => Self::Other,
        }
    }
}

/// An entry of the tree.
pub struct Found<'w> {
    /// Its path from the workspace's root.
    pub path: &'w [u8],
    /// What it is.
    pub kind: Kind,
    folder: &'w OwnedFd,
    name: &'w CStr,
    allows_hard_links: bool,
}

impl Found<'_> {
    /// Opens a regular file to read it. `None`: it is none any more, cannot be read, or has a second name.
    pub fn open(&self) -> Option<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.folder, self.name, flags, Mode::empty()).ok()?;
        let stat = rustix::fs::fstat(&file).ok()?;
        let is_one_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && (self.allows_hard_links || stat.st_nlink == 1);
        is_one_file.then(|| File::from(file))
    }
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// Folders that could not be read.
    pub unreadable: usize,
}

/// The ignore files that hold in a folder: its own, and those above it.
struct Ignores {
    own: Gitignore,
    /// Bytes of a path that lead to the folder, its slash included.
    prefix: usize,
    above: Option<Arc<Ignores>>,
}

impl Ignores {
    fn ignores(mut this: Option<&Self>, path: &[u8], is_folder: bool) -> bool {
        while let Some(ignores) = this {
            let below = Path::new(OsStr::from_bytes(path.get(ignores.prefix..).unwrap_or_default()));
            match ignores.own.matched(below, is_folder) {
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
                Match::None => this = ignores.above.as_deref(),
            }
        }
        false
    }

    /// With the ignore files of this folder, if it has any.
    fn of(
        folder: &OwnedFd,
        names: impl Iterator<Item = &'static str>,
        prefix: usize,
        above: Option<Arc<Self>>,
    ) -> Option<Arc<Self>> {
        let mut builder = GitignoreBuilder::new("");
        let mut has_any = false;
        for name in names {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let Ok(file) = rustix::fs::openat(folder, name, flags, Mode::empty()) else { continue };
            let mut text = Vec::new();
            if File::from(file).take(MAX_IGNORE_BYTES).read_to_end(&mut text).is_err() {
                continue;
            }
            for line in String::from_utf8_lossy(&text).lines() {
                // A line that is no pattern is left out, as git does.
                let _ = builder.add_line(None, line);
            }
            has_any = true;
        }
        match builder.build() {
            Ok(own) if has_any => Some(Arc::new(Self { own, prefix, above })),
            Ok(_) | Err(_) => above,
        }
    }
}

/// A folder that waits to be walked.
struct Job {
    /// The folder above it; `None` for the first.
    above: Option<Arc<OwnedFd>>,
    name: CString,
    /// From the root, without a slash at the end; empty for the root.
    path: Vec<u8>,
    depth: usize,
    ignores: Option<Arc<Ignores>>,
}

/// The folders that wait, and how many threads may still add to them.
struct Queue {
    jobs: Mutex<(Vec<Job>, usize)>,
    changed: Condvar,
    stopped: AtomicBool,
    unreadable: AtomicUsize,
}

impl Queue {
    /// The next folder; `None` when the walk is over. The one before is done.
    fn next(&self, is_first: bool) -> Option<Job> {
        let mut jobs = self.jobs.lock();
        if !is_first {
            jobs.1 -= 1;
        }
        loop {
            if self.stopped.load(Ordering::Relaxed) {
                self.changed.notify_all();
                return None;
            }
            // The last that came: so few folders are open at a time.
            if let Some(job) = jobs.0.pop() {
                jobs.1 += 1;
                return Some(job);
            }
            if jobs.1 == 0 {
                self.changed.notify_all();
                return None;
            }
            self.changed.wait(&mut jobs);
        }
    }

    fn add(&self, more: &mut Vec<Job>) {
        if !more.is_empty() {
            self.jobs.lock().0.append(more);
            self.changed.notify_all();
        }
    }
}

impl Workspace {
    /// Walks the tree below a folder. `visitor` makes one visitor for each thread; a visitor that answers `false` ends the
    /// walk.
    pub fn walk<V: FnMut(&Found<'_>) -> bool>(
        &self,
        path: &str,
        walk: Walk,
        cancel: &Cancel,
        visitor: impl Fn() -> V + Sync,
    ) -> Result<Walked, ToolFailure> {
        let (folder, relative) = self.open_folder(path, Access::Read)?;
        let top = match relative == Path::new(".") {
            true => Vec::new(),
            false => relative.as_os_str().as_bytes().to_vec(),
        };
        let ignores = if walk.include_ignored { None } else { self.ignores_above(&relative) };
        let queue = Queue {
            jobs: Mutex::new((Vec::new(), 0)),
            changed: Condvar::new(),
            stopped: AtomicBool::new(false),
            unreadable: AtomicUsize::new(0),
        };
        // What the capability gives names the folder; reading it needs one that is open.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let first = rustix::fs::openat(&folder, ".", flags, Mode::empty())
            .map_err(|error| self.explain(path, &error.into()))?;
        let worker = Worker { workspace: self, walk, cancel, queue: &queue };
        let mut visit = visitor();
        queue.jobs.lock().1 = 1;
        worker.folder(Arc::new(first), &top, 0, ignores, &mut visit);
        queue.jobs.lock().1 = 0;
        let threads = crate::types::parallelism().min(MAX_THREADS);
        std::thread::scope(|scope| {
            if !queue.jobs.lock().0.is_empty() {
                for _ in 1..threads {
                    // Fewer threads than wished are enough.
                    let _ = std::thread::Builder::new()
                        .name("par-walk".into())
                        .spawn_scoped(scope, || worker.run(&mut visitor()));
                }
            }
            worker.run(&mut visit);
        });
        if cancel.is_cancelled() {
            return Err(ToolFailure::new(format!("it was cancelled: {}", cancel.reason())).with_code("cancelled"));
        }
        Ok(Walked { unreadable: queue.unreadable.load(Ordering::Relaxed) })
    }

    /// The ignore files above a folder, from the root down.
    fn ignores_above(&self, relative: &Path) -> Option<Arc<Ignores>> {
        let mut ignores = None;
        let mut at = PathBuf::from(".");
        let mut prefix = 0;
        for name in relative.iter().filter(|name| *name != OsStr::new(".")) {
            let folder = self.dir.open_dir(&at).ok()?;
            ignores =
                Ignores::of(&OwnedFd::from(folder.into_std_file()), IGNORE_FILES.iter().copied(), prefix, ignores);
            at.push(name);
            prefix += name.len() + 1;
        }
        ignores
    }
}

struct Worker<'w> {
    workspace: &'w Workspace,
    walk: Walk,
    cancel: &'w Cancel,
    queue: &'w Queue,
}

impl Worker<'_> {
    fn run(&self, visit: &mut impl FnMut(&Found<'_>) -> bool) {
        /// Ends the walk of all when one visitor panics.
        struct Stop<'q>(&'q Queue);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.stopped.store(true, Ordering::Relaxed);
                    self.0.changed.notify_all();
                }
            }
        }
        let _stop = Stop(self.queue);
        let mut is_first = true;
        while let Some(Job { above, name, path, depth, ignores }) = self.queue.next(is_first) {
            is_first = false;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = above.map(|above| rustix::fs::openat(&above, &name, flags, Mode::empty()));
            match opened {
                Some(Ok(folder)) => self.folder(Arc::new(folder), &path, depth, ignores, visit),
                Some(Err(_)) | None => {
                    self.queue.unreadable.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    fn folder(
        &self,
        folder: Arc<OwnedFd>,
        path: &[u8],
        depth: usize,
        above: Option<Arc<Ignores>>,
        visit: &mut impl FnMut(&Found<'_>) -> bool,
    ) {
        let Some(entries) = read(folder.as_fd()) else {
            self.queue.unreadable.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let prefix = if path.is_empty() { 0 } else { path.len() + 1 };
        let ignores = match self.walk.include_ignored {
            true => None,
            false => {
                let has = |name: &&str| entries.iter().any(|(entry, _)| entry.as_bytes() == name.as_bytes());
                Ignores::of(&folder, IGNORE_FILES.iter().copied().filter(has), prefix, above)
            }
        };
        let mut at = Vec::with_capacity(prefix + 64);
        if prefix > 0 {
            at.extend_from_slice(path);
            at.push(b'/');
        }
        let mut below = Vec::new();
        for (name, kind) in &entries {
            if self.cancel.is_cancelled() || self.queue.stopped.load(Ordering::Relaxed) {
                self.queue.stopped.store(true, Ordering::Relaxed);
                return;
            }
            at.truncate(prefix);
            at.extend_from_slice(name.as_bytes());
            let kind = match kind {
                FileType::Unknown => match rustix::fs::statat(&*folder, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => Kind::from(FileType::from_raw_mode(stat.st_mode)),
                    Err(_) => continue,
                },
                known => Kind::from(*known),
            };
            let is_folder = kind == Kind::Folder;
            let skips = is_folder && SKIPPED.iter().any(|skipped| skipped.as_bytes() == name.as_bytes());
            if !self.walk.include_ignored && (skips || Ignores::ignores(ignores.as_deref(), &at, is_folder)) {
                continue;
            }
            if self.workspace.protected.reason(Path::new(OsStr::from_bytes(&at)), Access::Read).is_some() {
                continue;
            }
            let found =
                Found { path: &at, kind, folder: &folder, name, allows_hard_links: self.workspace.allows_hard_links };
            if !visit(&found) {
                self.queue.stopped.store(true, Ordering::Relaxed);
                return;
            }
            if is_folder && depth < self.walk.max_depth.min(MAX_DEPTH) {
                below.push(Job {
                    above: Some(Arc::clone(&folder)),
                    name: name.clone(),
                    path: at.clone(),
                    depth: depth + 1,
                    ignores: ignores.clone(),
                });
            }
        }
        self.queue.add(&mut below);
    }
}

/// The entries of a folder, but for itself and the one above. `None`: it cannot be read.
fn read(folder: impl AsFd) -> Option<Vec<(CString, FileType)>> {
    let mut space = vec![MaybeUninit::uninit(); 16 << 10];
    let mut listing = RawDir::new(folder, &mut space);
    let mut entries = Vec::new();
    while let Some(entry) = listing.next() {
        let entry = entry.ok()?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            entries.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    Some(entries)
}
