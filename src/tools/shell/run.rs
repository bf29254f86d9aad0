//! A command at work: its programs started and joined, its output taken while it comes, its end seen to.

use super::capture::Capture;
use super::sandbox::{Allowed, Child, Report, Sandbox, Start, Step, Unavailable};
use super::{Plan, Shell};
use crate::tools::ToolFailure;
use crate::tools::workspace::Access;
use crate::types::Containment;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, fcntl_setfl, open};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// What a command came to.
pub struct Ended {
    /// Its output.
    pub stdout: String,
    /// Its errors.
    pub stderr: String,
    /// Whether something of either was left out.
    pub truncated: bool,
    /// Bytes that came.
    pub stdout_bytes: u64,
    /// Bytes that came.
    pub stderr_bytes: u64,
    /// The code of the last program; `None` if a signal ended it.
    pub exit_code: Option<i32>,
    /// The signal that ended the last program.
    pub signal: Option<i32>,
    /// The codes of all programs of a pipeline, 128 and the signal where one ended it.
    pub exit_codes: Vec<i32>,
    /// Whether its time was over.
    pub timed_out: bool,
    /// How long it took.
    pub took: Duration,
}

/// How far a command is.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Progress {
    /// How long it runs.
    pub elapsed_ms: u64,
    /// Bytes of its output.
    pub stdout_bytes: u64,
    /// Bytes of its errors.
    pub stderr_bytes: u64,
}

/// Between two notes on how far a command is.
const NOTE: Duration = Duration::from_secs(1);
/// How long a program whose time is over may take to end by itself.
const GRACE: Duration = Duration::from_millis(300);
/// How long output is waited for when all programs have ended.
const DRAIN: Duration = Duration::from_millis(500);

/// A folder for temporary files, gone with all that is in it.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(format!("par-{}", Uuid::new_v4()));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What cannot be removed is the system's to clean.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A command that is ready to start.
pub struct Ready {
    plan: Plan,
    sandbox: Sandbox,
    temporary: Temporary,
    folder: OwnedFd,
    limit: Duration,
    max_bytes: usize,
    max_lines: usize,
}

impl Plan {
    /// Makes everything that the command needs; it may take so long.
    pub fn prepare(self, shell: &Shell, limit: Duration) -> Result<Ready, ToolFailure> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            ToolFailure::new(format!("the command cannot be started: {what}: {error}")).with_code("bash_not_started")
        };
        let temporary = Temporary::new().map_err(|error| failed("its folder for temporary files", &error))?;
        let allowed = Allowed {
            root: self.workspace.root(),
            temporary: &temporary.0,
            writes: self.writes,
            network: self.network,
            needs_files: shell.requires_sandbox(),
            seconds: limit.as_secs_f64(),
        };
        let sandbox = Sandbox::new(shell.config(), &allowed).map_err(|why| match why {
            Unavailable::Files => failed("it must be sandboxed, and this kernel has no Landlock", &"ask the user"),
            Unavailable::Network => failed("the policy has no network, and it cannot be closed here", &"ask the user"),
            Unavailable::System(error) => failed("its sandbox", &error),
        })?;
        let path = self.cwd.to_string_lossy();
        let (folder, _) = self.workspace.open_folder(&path, Access::Read)?;
        let config = shell.config();
        let (max_bytes, max_lines) = (config.max_output_bytes, config.max_output_lines);
        Ok(Ready {
            plan: self,
            sandbox,
            temporary,
            folder: OwnedFd::from(folder.into_std_file()),
            limit,
            max_bytes,
            max_lines,
        })
    }
}

impl Ready {
    /// What will be enforced.
    pub fn contained(&self) -> &Containment {
        self.sandbox.contained()
    }

    /// Runs it to its end, at the latest when `abandoned` is closed at its other end. Blocks.
    pub fn run(self, abandoned: &OwnedFd, mut note: impl FnMut(Progress)) -> Result<Ended, ToolFailure> {
        let began = Instant::now();
        let failed = |error: io::Error| {
            ToolFailure::new(format!("the command cannot be started: {error}")).with_code("bash_not_started")
        };
        let (mut streams, ends) = Streams::new(self.max_bytes, self.max_lines).map_err(|error| failed(error.into()))?;
        let mut children = self.start(ends).map_err(failed)?;
        let deadline = began + self.limit;
        let (mut timed_out, mut is_abandoned) = (false, false);
        let (mut kill_at, mut note_at) = (None, began + NOTE);
        let mut all_gone_at = None;
        loop {
            let gone = children.iter_mut().fold(true, |all, child| child.listen() & all);
            let now = Instant::now();
            match (gone, all_gone_at) {
                (true, None) => all_gone_at = Some(now),
                (true, Some(since)) if streams.are_closed() || now >= since + DRAIN => break,
                (true, Some(_)) | (false, _) => {}
            }
            if gone && streams.are_closed() {
                break;
            }
            if !timed_out && now >= deadline {
                timed_out = true;
                kill_at = Some(now + GRACE);
                children.iter().for_each(Child::terminate);
            }
            if kill_at.is_some_and(|at| now >= at) {
                kill_at = None;
                children.iter().for_each(Child::kill);
            }
            if now >= note_at {
                note_at = now + NOTE;
                note(streams.progress(began));
            }
            let next = [(!timed_out).then_some(deadline), kill_at, Some(note_at), all_gone_at.map(|at| at + DRAIN)];
            let wait = next.into_iter().flatten().min().map_or(NOTE, |at| at.saturating_duration_since(now));
            let watched = if is_abandoned { None } else { Some(abandoned) };
            if streams.wait(&children, watched, wait).map_err(|error| failed(error.into()))? {
                is_abandoned = true;
                children.iter().for_each(Child::kill);
            }
        }
        let reports: Vec<Option<Report>> = children.iter().map(Child::report).collect();
        // Waits for the supervisors.
        drop(children);
        drop(self.temporary);
        if let Some(Report::Failed(step, errno)) =
            reports.iter().flatten().find(|report| matches!(report, Report::Failed(..)))
        {
            return Err(not_started(*step, *errno));
        }
        let ended = |report: &Option<Report>| match report {
            Some(Report::Exited(code)) => (Some(*code), None),
            Some(Report::Killed(signal)) => (None, Some(*signal)),
            Some(Report::Failed(..)) | None => (None, Some(libc::SIGKILL)),
        };
        let (exit_code, signal) = reports.last().map_or((Some(0), None), ended);
        let exit_codes =
            reports.iter().map(ended).map(|(code, signal)| code.or(signal.map(|signal| 128 + signal)).unwrap_or(0));
        let exit_codes = exit_codes.collect();
        let (stdout_bytes, stderr_bytes) = (streams.output.bytes(), streams.errors.bytes());
        let ((stdout, cut_out), (stderr, cut_err)) = (streams.output.text(), streams.errors.text());
        Ok(Ended {
            stdout,
            stderr,
            truncated: cut_out || cut_err,
            stdout_bytes,
            stderr_bytes,
            exit_code,
            signal,
            exit_codes,
            timed_out,
            took: began.elapsed(),
        })
    }

    /// Starts every program, the output of each joined to the input of the next.
    fn start(&self, [output, errors]: [OwnedFd; 2]) -> io::Result<Vec<Child>> {
        let mut children = Vec::with_capacity(self.plan.stages.len());
        let folder_path = match self.plan.cwd == Path::new(".") {
            true => self.plan.workspace.root().to_owned(),
            false => self.plan.workspace.root().join(&self.plan.cwd),
        };
        let mut input = open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut output = Some(output);
        for (index, stage) in self.plan.stages.iter().enumerate() {
            let is_last = index + 1 == self.plan.stages.len();
            let (next_input, own_output) = match output.take_if(|_| is_last) {
                Some(output) => (None, output),
                None => pipe_with(PipeFlags::CLOEXEC).map(|(reads, writes)| (Some(reads), writes))?,
            };
            let argv = stage.argv();
            children.push(self.sandbox.spawn(&Start {
                program: &stage.program,
                argv: &argv,
                folder: &self.folder,
                folder_path: &folder_path,
                input: &input,
                output: &own_output,
                errors: &errors,
            })?);
            match next_input {
                Some(next) => input = next,
                None => break,
            }
        }
        Ok(children)
    }
}

fn not_started(step: Step, errno: i32) -> ToolFailure {
    let error = io::Error::from_raw_os_error(errno);
    let what = match step {
        Step::Streams => "its streams",
        Step::Folder => "its folder",
        Step::Limits => "its limits",
        Step::Privileges => "its privileges",
        Step::Files => "its file sandbox",
        Step::Filter => "its system call filter",
        Step::Group => "its process group",
        Step::Exec => "the program itself",
        Step::Fork => "a process for it",
    };
    ToolFailure::new(format!("the program was not started: {what}: {error}")).with_code("bash_not_started")
}

/// Both outputs of a command.
struct Streams {
    output: Capture,
    errors: Capture,
    /// Our ends, open as long as something may come.
    readers: [Option<OwnedFd>; 2],
}

impl Streams {
    /// The streams, and the ends that the programs write.
    fn new(max_bytes: usize, max_lines: usize) -> Result<(Self, [OwnedFd; 2]), Errno> {
        let (output, output_end) = pipe_with(PipeFlags::CLOEXEC)?;
        let (errors, errors_end) = pipe_with(PipeFlags::CLOEXEC)?;
        fcntl_setfl(&output, OFlags::NONBLOCK)?;
        fcntl_setfl(&errors, OFlags::NONBLOCK)?;
        let streams = Self {
            output: Capture::new(max_bytes, max_lines),
            errors: Capture::new(max_bytes, max_lines),
            readers: [Some(output), Some(errors)],
        };
        Ok((streams, [output_end, errors_end]))
    }

    fn are_closed(&self) -> bool {
        self.readers.iter().all(Option::is_none)
    }

    fn progress(&self, began: Instant) -> Progress {
        Progress {
            elapsed_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            stdout_bytes: self.output.bytes(),
            stderr_bytes: self.errors.bytes(),
        }
    }

    /// Waits until something comes or the time is over, and takes what came; whether `abandoned` is closed.
    fn wait(&mut self, children: &[Child], abandoned: Option<&OwnedFd>, most: Duration) -> Result<bool, Errno> {
        let mut watched: Vec<PollFd<'_>> = Vec::with_capacity(children.len() + 3);
        watched.extend(abandoned.iter().map(|end| PollFd::new(*end, PollFlags::IN)));
        watched.extend(self.readers.iter().flatten().map(|reader| PollFd::new(reader, PollFlags::IN)));
        watched.extend(
            children.iter().filter(|child| !child.is_gone()).map(|child| PollFd::new(child.status(), PollFlags::IN)),
        );
        let most = Timespec { tv_sec: most.as_secs().min(3_600) as i64, tv_nsec: most.subsec_nanos().into() };
        match poll(&mut watched, Some(&most)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        let is_abandoned = abandoned.is_some() && watched.first().is_some_and(|end| !end.revents().is_empty());
        drop(watched);
        let mut space = vec![0; 64 << 10];
        for (reader, capture) in self.readers.iter_mut().zip([&mut self.output, &mut self.errors]) {
            take(reader, capture, &mut space);
        }
        Ok(is_abandoned)
    }
}

/// Takes what came, but no more than a pipe holds: the deadline is looked at in between.
fn take(reader: &mut Option<OwnedFd>, capture: &mut Capture, space: &mut [u8]) {
    let Some(open) = reader else { return };
    match rustix::io::read(open.as_fd(), &mut *space) {
        Ok(0) => *reader = None,
        Ok(count) => capture.push(space.get(..count).unwrap_or_default()),
        Err(Errno::AGAIN | Errno::INTR) => {}
        Err(_) => *reader = None,
    }
}
