//! Running programs: typed, judged, contained.
//!
//! There is no shell. A command is a program and its arguments, or several in a pipeline, as types that cannot hold a line
//! to be parsed ([`Command`]). Each program is found in trusted folders and judged by a policy before anything runs
//! ([`Shell::plan`]); what runs is contained by the kernel ([`sandbox`]), its output is bounded while it comes, and nothing of
//! it is left when it is done, cancelled or out of time ([`Plan::run`]).
//!
//! Types stop a text from becoming a command. They do not stop a harmful argument: that is the policy's work, and what the
//! policy misses the containment holds.

mod capture;
mod command;
mod run;
pub(crate) mod sandbox;

pub use command::{Command, Exec};
pub use run::{Ended, Progress};

use super::{ToolFailure, Workspace};
use crate::config::{BashConfirm, CommandPolicy, Confirm, Judgement, Risk, Ruling, SandboxNeed, ShellConfig, line};
use once_cell::sync::OnceCell;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The shell of a runtime.
pub struct Shell {
    config: ShellConfig,
    confirm: BashConfirm,
    /// Put together when it is first needed.
    policy: OnceCell<CommandPolicy>,
}

/// A command that may run: every program found and judged.
pub struct Plan {
    /// The programs, each with its arguments; several are a pipeline.
    pub stages: Vec<Stage>,
    /// The folder, from the workspace's root.
    pub cwd: PathBuf,
    /// What the policy thinks of it.
    pub risk: Risk,
    /// The policy's name.
    pub policy: String,
    /// Why somebody must be asked first.
    pub ask: Option<String>,
    writes: bool,
    network: bool,
    workspace: Arc<Workspace>,
}

/// One program that runs.
pub struct Stage {
    /// Where it is.
    pub program: PathBuf,
    /// As it was called.
    pub name: String,
    /// Its arguments.
    pub args: Vec<String>,
}

impl Stage {
    /// The name and the arguments.
    pub fn argv(&self) -> Vec<&str> {
        std::iter::once(self.name.as_str()).chain(self.args.iter().map(String::as_str)).collect()
    }
}

fn invalid(message: impl Into<String>) -> ToolFailure {
    ToolFailure::new(format!("[bash-policy] {}", message.into())).with_code("bash_argv_invalid")
}

fn rejected(message: impl Into<String>) -> ToolFailure {
    ToolFailure::new(format!("[bash-policy] {}", message.into())).with_code("bash_policy_rejected")
}

impl Shell {
    /// The shell with this configuration, checked before.
    pub fn new(config: ShellConfig, confirm: BashConfirm) -> Self {
        Self { config: config.with_path(), confirm, policy: OnceCell::new() }
    }

    /// Its configuration.
    pub fn config(&self) -> &ShellConfig {
        &self.config
    }

    fn policy(&self) -> Result<&CommandPolicy, ToolFailure> {
        self.policy
            .get_or_try_init(|| self.config.command_policy())
            .map_err(|error| ToolFailure::new(error.message().to_owned()))
    }

    /// Whether commands are asked for. A rule of the policy that asks for some is not counted: where nobody can be asked,
    /// such a command is refused, and the others run.
    pub fn may_ask(&self) -> bool {
        self.confirm.may_ask()
    }

    /// Finds and judges what a command is made of. Nothing runs.
    pub fn plan(&self, command: &Command, cwd: &str, workspace: &Arc<Workspace>) -> Result<Plan, ToolFailure> {
        command.check()?;
        let policy = self.policy()?;
        let (_, cwd) = workspace.open_folder(cwd, super::workspace::Access::Read)?;
        if let Some(place) = workspace.protected_places().find(|place| workspace.root().join(place).exists()) {
            return Err(ToolFailure::new(format!(
                "[bash-policy] the workspace {:?} has {place:?} in it, which no program may reach. Programs run only in a narrower workspace: ask the user for one",
                workspace.root()
            ))
            .with_code("bash_workspace_too_wide"));
        }
        let mut stages = Vec::new();
        let mut reasons = Vec::new();
        let mut risk = if command.stages().len() > 1 { Risk::Medium } else { Risk::Low };
        for exec in command.stages() {
            let stage = self.find(exec, workspace)?;
            let real = stage.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let name = base(&stage.name);
            let Judgement { ruling, risk: own, justification } = policy
                .judge(&[name, &real], &stage.args)
                .map_err(|error| ToolFailure::new(error.message().to_owned()))?;
            risk = risk.max(own);
            let line = line(name, &stage.args);
            match ruling {
                Ruling::Deny => {
                    return Err(rejected(format!(
                        "{name:?} may not be run so (policy {:?}): {justification}",
                        policy.name
                    )));
                }
                Ruling::Ask => reasons.push(format!("{line:?}: {justification}")),
                Ruling::Allow => {}
            }
            let asks = match self.confirm.of(&line) {
                Confirm::Always => true,
                Confirm::Never => false,
                Confirm::Pattern => own >= Risk::High,
            };
            if asks && ruling == Ruling::Allow {
                reasons.push(format!("{line:?} ({} risk)", own.name()));
            }
            stages.push(stage);
        }
        let ask = (!reasons.is_empty()).then(|| format!("a program is to be run: {}", reasons.join("; ")));
        Ok(Plan {
            stages,
            cwd,
            risk,
            policy: policy.name.clone(),
            ask,
            writes: policy.writes,
            network: policy.network,
            workspace: Arc::clone(workspace),
        })
    }

    /// Where a program is. Only trusted folders count, and nothing that a program could have written.
    fn find(&self, exec: &Exec, workspace: &Workspace) -> Result<Stage, ToolFailure> {
        let Exec { program, args } = exec;
        let asked = Path::new(program);
        let found = match (asked.is_absolute(), program.contains('/')) {
            (true, _) => executable(asked),
            (false, true) => {
                return Err(invalid(format!(
                    "{program:?} is a path into the workspace, and programs in it are not run as such: give the name of an installed program (a script is an argument of its interpreter), or an absolute path"
                )));
            }
            (false, false) => self.config.path.iter().find_map(|folder| executable(&folder.join(asked))),
        };
        let Some(real) = found else {
            return Err(ToolFailure::new(format!(
                "there is no program {program:?} in {}",
                self.config.path.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(":")
            ))
            .with_code("bash_program_not_found"));
        };
        let temporary = std::env::temp_dir();
        let writable = [workspace.root(), &temporary, Path::new("/tmp"), Path::new("/var/tmp"), Path::new("/dev/shm")];
        let further = self.config.write.iter().map(PathBuf::as_path);
        if let Some(place) = writable.into_iter().chain(further).find(|place| real.starts_with(place)) {
            return Err(rejected(format!(
                "{program:?} is in {place:?}, where programs can be put by anybody: only installed programs are run"
            )));
        }
        Ok(Stage { program: real, name: program.clone(), args: args.clone() })
    }

    /// Whether what runs may do so without the kernel's file sandbox.
    fn requires_sandbox(&self) -> bool {
        self.config.sandbox == SandboxNeed::Required
    }
}

/// The last part of a program's path.
fn base(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

/// The real path of an executable file.
fn executable(path: &Path) -> Option<PathBuf> {
    let real = path.canonicalize().ok()?;
    let metadata = real.metadata().ok()?;
    (metadata.is_file() && metadata.permissions().mode() & 0o111 != 0).then_some(real)
}
