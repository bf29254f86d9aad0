//! The folder that file tools work in, held as a directory capability: every path is resolved beneath it by the kernel
//! (`openat2` with `RESOLVE_BENEATH`, or step by step where that is missing), so that no `..`, link or swapped folder leads
//! out of it.
//!
//! Each refusal says which rule it is, by a stable code, and what would be right.

mod protected;
mod walk;
mod write;

pub use walk::{Found, Kind, Walk};

use super::ToolFailure;
use crate::config::{HardLinks, WorkspaceConfig};
use crate::types::{Error, Result, Status};
use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt};
use parking_lot::Mutex;
use protected::Protected;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// A folder and nothing else.
pub struct Workspace {
    /// Its real path.
    root: PathBuf,
    /// Its path as it was given.
    given: PathBuf,
    dir: Dir,
    allows_hard_links: bool,
    protected: Protected,
    /// Held while a file is changed: two edits of the same file must not lose one.
    changing: Mutex<()>,
}

/// What a path is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read it.
    Read,
    /// To change it.
    Write,
}

/// The rules; their codes are stable.
fn parent_traversal(path: &str) -> ToolFailure {
    ToolFailure::new(format!(
        "[workspace] {path:?} has a \"..\": paths go down from the workspace only. Give the path from the workspace's root, such as \"src/main.c\""
    ))
    .with_code("workspace_parent_traversal")
}

fn outside(path: &str, root: &Path) -> ToolFailure {
    ToolFailure::new(format!(
        "[workspace] {path:?} is outside of the workspace {root:?}. Only what is in it can be used; give a path relative to it"
    ))
    .with_code("workspace_absolute_outside")
}

fn leads_out(path: &str) -> ToolFailure {
    ToolFailure::new(format!(
        "[workspace] {path:?} goes through a symbolic link that leads out of the workspace, or is absolute. Use the real path of a file in the workspace"
    ))
    .with_code("workspace_symlink")
}

fn protected(path: &str, why: &str) -> ToolFailure {
    ToolFailure::new(format!(
        "[workspace] {path:?} is protected: {why}. Leave it alone, and ask the user if it matters"
    ))
    .with_code("workspace_protected_location")
}

fn hard_link(path: &str, names: u64) -> ToolFailure {
    ToolFailure::new(format!(
        "[workspace] {path:?} has {names} names (hard links), and another one may be outside of the workspace. Use a copy of it"
    ))
    .with_code("workspace_hard_link")
}

impl Workspace {
    /// Opens a folder. `path` is where the configuration was given; `own` are the runtime's own files, which no tool touches.
    pub fn open(config: &WorkspaceConfig, path: &str, own: &[PathBuf]) -> Result<Self> {
        let failed = |error: &io::Error| {
            Error::new(Status::Io, format!("the workspace {:?} cannot be opened: {error}", config.root))
                .with_path(path.to_owned())
                .with_hint("it must be a folder that exists and can be read")
        };
        let root = config.root.canonicalize().map_err(|error| failed(&error))?;
        let dir = Dir::open_ambient_dir(&root, ambient_authority()).map_err(|error| failed(&error))?;
        let protected = Protected::new(&root, own);
        if let Some(place) = protected.contains_root(&root) {
            return Err(Error::schema(
                path.to_owned(),
                format!("the workspace {root:?} is in {place:?}, which no tool may touch"),
            )
            .with_hint("choose a folder made for it"));
        }
        let given = std::path::absolute(&config.root).unwrap_or_else(|_| root.clone());
        Ok(Self {
            root,
            given,
            dir,
            allows_hard_links: config.hard_links == HardLinks::Allow,
            protected,
            changing: Mutex::default(),
        })
    }

    /// Its real path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The protected places that lie in it.
    pub fn protected_places(&self) -> impl Iterator<Item = &Path> {
        self.protected.below()
    }

    /// A path as a model gives it, relative to the root: only names, none of them `..`. The root itself is `.`.
    pub fn admit(&self, path: &str, access: Access) -> Result<PathBuf, ToolFailure> {
        if path.is_empty() {
            return Err(ToolFailure::new("[workspace] the path is empty; \".\" is the workspace itself")
                .with_code("workspace_unknown"));
        }
        if path.contains('\0') {
            return Err(ToolFailure::new("[workspace] the path has a NUL character, which no file name can have")
                .with_code("workspace_unknown"));
        }
        let asked = Path::new(path);
        if asked.components().any(|part| matches!(part, Component::ParentDir)) {
            return Err(parent_traversal(path));
        }
        let relative = match asked.is_absolute() {
            false => asked,
            true => asked
                .strip_prefix(&self.root)
                .or_else(|_| asked.strip_prefix(&self.given))
                .map_err(|_| outside(path, &self.root))?,
        };
        let names: PathBuf = relative.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        let names = if names.as_os_str().is_empty() { PathBuf::from(".") } else { names };
        self.check_protected(path, &names, access)?;
        Ok(names)
    }

    /// Refuses a protected place, by its path relative to the root.
    fn check_protected(&self, path: &str, relative: &Path, access: Access) -> Result<(), ToolFailure> {
        match self.protected.reason(relative, access) {
            Some(why) => Err(protected(path, why)),
            None => Ok(()),
        }
    }

    /// Refuses what a link inside of the workspace led to, where that makes a difference.
    fn check_resolved(&self, path: &str, file: &impl std::os::fd::AsRawFd, access: Access) -> Result<(), ToolFailure> {
        if access == Access::Read && self.protected.is_empty() {
            return Ok(());
        }
        let real = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
            .map_err(|error| ToolFailure::new(format!("[workspace] where {path:?} leads cannot be seen: {error}")))?;
        match real.strip_prefix(&self.root) {
            Ok(relative) => self.check_protected(path, relative, access),
            // The root was renamed meanwhile, or the file was deleted: what was opened is beneath it all the same.
            Err(_) => Ok(()),
        }
    }

    /// Opens a regular file to read it.
    pub fn open_file(&self, path: &str) -> Result<(File, Metadata), ToolFailure> {
        let relative = self.admit(path, Access::Read)?;
        let mut options = OpenOptions::new();
        // Not to wait for the other end of a pipe, and not to get a terminal.
        options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        let file = self.dir.open_with(&relative, &options).map_err(|error| self.explain(path, &error))?.into_std();
        let metadata = file.metadata().map_err(|error| self.explain(path, &error))?;
        if metadata.is_dir() {
            return Err(ToolFailure::new(format!("{path:?} is a folder; ls lists it")).with_code("is_a_folder"));
        }
        if !metadata.is_file() {
            return Err(ToolFailure::new(format!("{path:?} is no regular file but a device, pipe or socket"))
                .with_code("not_a_file"));
        }
        self.check_resolved(path, &file, Access::Read)?;
        self.check_links(path, &metadata)?;
        Ok((file, metadata))
    }

    fn check_links(&self, path: &str, metadata: &Metadata) -> Result<(), ToolFailure> {
        match metadata.nlink() {
            names if names > 1 && !self.allows_hard_links => Err(hard_link(path, names)),
            _ => Ok(()),
        }
    }

    /// Opens a folder.
    pub fn open_folder(&self, path: &str, access: Access) -> Result<(Dir, PathBuf), ToolFailure> {
        let relative = self.admit(path, access)?;
        let dir = self.dir.open_dir(&relative).map_err(|error| self.explain(path, &error))?;
        self.check_resolved(path, &dir, access)?;
        Ok((dir, relative))
    }

    /// Whether a path leads to a folder.
    pub fn is_folder(&self, path: &str) -> Result<bool, ToolFailure> {
        let relative = self.admit(path, Access::Read)?;
        self.dir.metadata(&relative).map(|metadata| metadata.is_dir()).map_err(|error| self.explain(path, &error))
    }

    /// Bytes that the paths of everything below a folder begin with: its own path and a slash.
    pub fn below_prefix(&self, path: &str) -> Result<usize, ToolFailure> {
        let relative = self.admit(path, Access::Read)?;
        Ok(if relative == Path::new(".") { 0 } else { relative.as_os_str().len() + 1 })
    }

    /// What a failure of the system means for the one who gave the path.
    fn explain(&self, path: &str, error: &io::Error) -> ToolFailure {
        use io::ErrorKind;
        match error.kind() {
            ErrorKind::NotFound => {
                ToolFailure::new(format!("there is no {path:?} in the workspace; ls and find tell what there is"))
                    .with_code("not_found")
            }
            // The kernel's own refusals have a number, those of the capability have none.
            ErrorKind::PermissionDenied if error.raw_os_error().is_none() => leads_out(path),
            ErrorKind::PermissionDenied => {
                ToolFailure::new(format!("the system does not permit {path:?}: {error}")).with_code("not_permitted")
            }
            ErrorKind::NotADirectory => {
                ToolFailure::new(format!("a part of {path:?} is no folder")).with_code("not_a_folder")
            }
            ErrorKind::IsADirectory => ToolFailure::new(format!("{path:?} is a folder")).with_code("is_a_folder"),
            _ => ToolFailure::new(format!("{path:?}: {error}")),
        }
    }
}

/// The folder of a runtime, opened when it is first needed.
pub struct WorkspaceSlot {
    config: WorkspaceConfig,
    /// The runtime's own files.
    own: Vec<PathBuf>,
    opened: OnceLock<Arc<Workspace>>,
}

impl WorkspaceSlot {
    /// The configured folder, opened at once, so that a wrong one is known at once; without one the current folder, when
    /// it is first needed.
    pub fn new(config: Option<&WorkspaceConfig>, own: Vec<PathBuf>) -> Result<Self> {
        match config {
            Some(config) => {
                let workspace = Workspace::open(config, "config.workspace", &own)?;
                Ok(Self { config: config.clone(), own, opened: OnceLock::from(Arc::new(workspace)) })
            }
            None => {
                let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
                Ok(Self { config: WorkspaceConfig::at(here), own, opened: OnceLock::new() })
            }
        }
    }

    /// The folder of the run, else that of the runtime.
    pub fn of(&self, run: Option<&Arc<Workspace>>) -> Result<Arc<Workspace>, ToolFailure> {
        if let Some(workspace) = run.or_else(|| self.opened.get()) {
            return Ok(Arc::clone(workspace));
        }
        let opened = Workspace::open(&self.config, "config.workspace", &self.own)
            .map_err(|error| ToolFailure::new(error.message()).with_code("workspace_unknown"))?;
        Ok(Arc::clone(self.opened.get_or_init(|| Arc::new(opened))))
    }
}
