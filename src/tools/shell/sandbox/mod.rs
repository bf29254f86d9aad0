//! What contains a program: prepared here before anything is forked, applied in the child, reported as it was enforced.
//!
//! Landlock bounds the files it may touch, and its signals; a system call filter bounds the network where the policy has
//! none, and the ways around the rest; limits bound what it may use up. A program that cannot be contained as prepared does
//! not run: nothing is skipped silently.

mod child;
mod files;
mod filter;
mod forked;

pub use child::{Child, Report, Step};

use crate::config::ShellConfig;
use crate::types::Containment;
use files::Places;
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What holds for every program of one command.
pub struct Sandbox {
    landlock: Option<OwnedFd>,
    filter: Vec<libc::sock_filter>,
    limits: Vec<Limit>,
    environment: Vec<CString>,
    contained: Containment,
}

#[cfg(target_env = "gnu")]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
type Resource = libc::c_int;

/// A resource and its bound.
#[derive(Clone, Copy)]
struct Limit {
    resource: Resource,
    most: u64,
}

/// Why no sandbox could be made.
#[derive(Debug)]
pub enum Unavailable {
    /// The kernel has no Landlock, and the configuration wants it.
    Files,
    /// The network cannot be closed.
    Network,
    /// The system refused.
    System(String),
}

/// What a command is allowed.
pub struct Allowed<'a> {
    /// The workspace.
    pub root: &'a Path,
    /// Its folder for temporary files.
    pub temporary: &'a Path,
    /// Whether the workspace may be written.
    pub writes: bool,
    /// Whether there is a network.
    pub network: bool,
    /// Whether the file sandbox must be there.
    pub needs_files: bool,
    /// Seconds it may take.
    pub seconds: f64,
}

/// Variables that say nothing secret.
const PASSED: &[&str] = &["HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ"];

impl Sandbox {
    /// Prepares what contains a command.
    pub fn new(config: &ShellConfig, allowed: &Allowed<'_>) -> Result<Self, Unavailable> {
        let abi = child::landlock_abi();
        let places = Places { config, allowed };
        let landlock = match abi {
            0 => None,
            _ => files::ruleset(&places, abi).map_err(Unavailable::System)?,
        };
        if landlock.is_none() && allowed.needs_files {
            return Err(Unavailable::Files);
        }
        let filter = filter::program(allowed.network);
        if filter.is_empty() && !allowed.network {
            return Err(Unavailable::Network);
        }
        let contained = Containment {
            landlock_abi: if landlock.is_some() { abi } else { 0 },
            files: landlock.is_some(),
            signals: landlock.is_some() && abi >= 6,
            network: if allowed.network { "open" } else { "closed" },
            system_calls: !filter.is_empty(),
            no_new_privileges: true,
            limits: true,
            // The kernel holds nobody to it who may raise it.
            processes: !child::is_administrator(),
        };
        let environment = environment(config, allowed);
        Ok(Self { landlock, filter, limits: limits(config, allowed), environment, contained })
    }

    /// What is enforced.
    pub fn contained(&self) -> &Containment {
        &self.contained
    }

    /// Starts one program in it.
    pub fn spawn(&self, start: &Start<'_>) -> io::Result<Child> {
        let text =
            |text: &OsStr| CString::new(text.as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
        let argv = start.argv.iter().map(|arg| text(OsStr::new(arg))).collect::<io::Result<Vec<_>>>()?;
        let mut variables = self.environment.clone();
        let mut folder = OsString::from("PWD=");
        folder.push(start.folder_path);
        variables.push(text(&folder)?);
        let program = text(start.program.as_os_str())?;
        child::spawn(&child::Prepared {
            program: &program,
            argv: &child::pointers(&argv),
            environment: &child::pointers(&variables),
            folder: start.folder.as_raw_fd(),
            streams: [start.input.as_raw_fd(), start.output.as_raw_fd(), start.errors.as_raw_fd()],
            landlock: self.landlock.as_ref().map_or(NONE, |ruleset| ruleset.as_fd().as_raw_fd()),
            filter: &self.filter,
            limits: &self.limits,
        })
    }
}

const NONE: RawFd = -1;

/// One program to start.
pub struct Start<'a> {
    /// Where it is.
    pub program: &'a Path,
    /// Its name, then its arguments.
    pub argv: &'a [&'a str],
    /// The folder it starts in, open.
    pub folder: &'a OwnedFd,
    /// And its path.
    pub folder_path: &'a Path,
    /// What it reads.
    pub input: &'a OwnedFd,
    /// What it writes.
    pub output: &'a OwnedFd,
    /// What it writes about errors.
    pub errors: &'a OwnedFd,
}

fn limits(config: &ShellConfig, allowed: &Allowed<'_>) -> Vec<Limit> {
    let megabytes = |count: u64| count.saturating_mul(1 << 20);
    // Of all who run: the kernel counts the user's processes, and nobody else can have more than there are.
    let running = std::fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| text.split_whitespace().nth(3)?.split('/').nth(1)?.parse::<u64>().ok())
        .unwrap_or(4_096);
    vec![
        Limit { resource: libc::RLIMIT_CORE, most: 0 },
        Limit { resource: libc::RLIMIT_DATA, most: megabytes(config.max_memory_mb) },
        Limit { resource: libc::RLIMIT_FSIZE, most: megabytes(config.max_file_mb) },
        Limit { resource: libc::RLIMIT_NOFILE, most: 4_096 },
        Limit { resource: libc::RLIMIT_NPROC, most: running.saturating_add(config.max_processes) },
        // All cores for the whole time are no more than this for one process.
        Limit { resource: libc::RLIMIT_CPU, most: (allowed.seconds.ceil() as u64).saturating_mul(64).max(1) },
    ]
}

fn environment(config: &ShellConfig, allowed: &Allowed<'_>) -> Vec<CString> {
    let passed = PASSED.iter().copied().chain(config.env.iter().map(String::as_str));
    let mut variables: BTreeMap<&str, OsString> =
        passed.filter_map(|name| std::env::var_os(name).map(|value| (name, value))).collect();
    let path = std::env::join_paths(&config.path).unwrap_or_default();
    variables.insert("PATH", path);
    variables.insert("TMPDIR", allowed.temporary.as_os_str().to_owned());
    variables.insert("TERM", "dumb".into());
    // Programs that would ask somebody are told that there is nobody.
    variables.insert("GIT_TERMINAL_PROMPT", "0".into());
    variables.insert("GIT_PAGER", "cat".into());
    variables.insert("PAGER", "cat".into());
    let text = |(name, value): (&str, OsString)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok();
    variables.into_iter().filter_map(text).collect()
}
