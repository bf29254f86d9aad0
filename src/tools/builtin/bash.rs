//! `bash`: runs installed programs in the workspace, judged, contained and bounded. It is called so by custom; there is no
//! shell in it.

use super::{Builtin, Kit, Reach};
use crate::config::Effect;
use crate::tools::shell::{Command, Ended, Plan, Progress, Shell};
use crate::tools::{Helpers, Invocation, Review, ToolFailure, WorkspaceSlot};
use crate::types::{Containment, EventBody};
use rustix::pipe::{PipeFlags, pipe_with};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// See the module's head.
pub struct Bash {
    workspace: Arc<WorkspaceSlot>,
    helpers: Helpers,
    shell: Arc<Shell>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// One program and its arguments, such as ["git", "log", "-5"]. Nothing in them is expanded, split or quoted. Give this or
    /// "command".
    argv: Option<Vec<String>>,
    /// One program: {"type":"exec","program":"ls","args":["-l"]}; several, the output of each the input of the next:
    /// {"type":"pipeline","stages":[{"program":"sort","args":["f"]},{"program":"uniq"}]}; or {"type":"no_op"}.
    command: Option<Command>,
    /// The folder it starts in, from the root of the workspace. Default: the root.
    cwd: Option<String>,
    /// Seconds it may take. Default 30.
    #[schemars(range(min = 0.1, max = 86400))]
    timeout: Option<f64>,
}

#[derive(Serialize, JsonSchema)]
pub struct Output {
    stdout: String,
    stderr: String,
    /// Of the last program; 124 if the time was over, 128 and the signal if one ended it.
    exit_code: i32,
    /// Of every program of a pipeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_codes: Option<Vec<i32>>,
    /// Seconds.
    duration: f64,
    /// Whether a part of the output was left out.
    truncated: bool,
    /// Whether it was ended because its time was over.
    timed_out: bool,
    /// What contained it.
    sandbox: Option<Containment>,
}

impl Bash {
    fn plan(&self, input: Input, call: &Invocation<'_>) -> Result<(Option<Plan>, Duration), ToolFailure> {
        let command = match (input.argv, input.command) {
            (Some(argv), None) => Command::from_argv(argv)?,
            (None, Some(command)) => command,
            (Some(_), Some(_)) | (None, None) => {
                return Err(ToolFailure::new("[bash-policy] give \"argv\" or \"command\", one of them")
                    .with_code("bash_argv_invalid"));
            }
        };
        let most = self.shell.config().max_timeout;
        let seconds = input.timeout.unwrap_or(30.0);
        if seconds > most {
            return Err(ToolFailure::new(format!("[bash-policy] a command may take {most} s here, not {seconds}"))
                .with_code("bash_argv_invalid"));
        }
        let limit = Duration::from_secs_f64(seconds);
        if command.stages().is_empty() {
            command.check()?;
            return Ok((None, limit));
        }
        let workspace = self.workspace.of(call.workspace)?;
        let plan = self.shell.plan(&command, input.cwd.as_deref().unwrap_or("."), &workspace)?;
        Ok((Some(plan), limit))
    }
}

impl Builtin for Bash {
    const NAME: &'static str = "bash";
    const DESCRIPTION: &'static str = "Runs installed programs in the workspace. There is no shell: no quoting, no variables, no redirection, no globs; a pipeline is given as such. The output is bounded.";
    const REACH: Reach = Reach::Programs;
    const EFFECT: Effect = Effect::Once;
    // Each call has its own limit; this one is for what is configured at most.
    const TIMEOUT: f64 = 86_400.0;
    const CONCURRENCY_LIMIT: Option<u32> = Some(4);
    type Input = Input;
    type Output = Output;

    fn new(kit: &Kit) -> Self {
        Self { workspace: Arc::clone(&kit.workspace), helpers: kit.helpers.clone(), shell: Arc::clone(&kit.shell) }
    }

    fn may_ask(&self) -> bool {
        self.shell.may_ask()
    }

    fn review(&self, input: Input, call: &Invocation<'_>) -> Result<Review, ToolFailure> {
        let (plan, _) = self.plan(input, call)?;
        Ok(plan.and_then(|plan| plan.ask).map_or(Review::Go, Review::Ask))
    }

    async fn run<'a>(&'a self, input: Input, call: Invocation<'a>) -> Result<Output, ToolFailure> {
        let (Some(plan), limit) = self.plan(input, &call)? else {
            return Ok(Output::nothing());
        };
        let (argv, programs): (Vec<_>, Vec<_>) = plan
            .stages
            .iter()
            .map(|stage| {
                let argv: Vec<String> = stage.argv().into_iter().map(str::to_owned).collect();
                (argv, stage.program.display().to_string())
            })
            .unzip();
        let (cwd, risk, policy) = (plan.cwd.display().to_string(), plan.risk.name(), plan.policy.clone());
        let shell = Arc::clone(&self.shell);
        let ready = self.helpers.run(&call.cancel, move |_| plan.prepare(&shell, limit)).await?;
        let sandbox = ready.contained().clone();
        let argv: Vec<Vec<&str>> = argv.iter().map(|argv| argv.iter().map(String::as_str).collect()).collect();
        (call.emit)(&EventBody::BashInvoked {
            tool_call_id: call.id,
            argv: &argv,
            programs: &programs,
            cwd: &cwd,
            risk,
            policy: &policy,
            sandbox: &sandbox,
        });
        let mut completed = Completed { call: &call, sandbox: &sandbox, began: Instant::now(), ended: None };
        // Held until the result is here: dropped before, it ends the command.
        let (abandoned, _held) = pipe_with(PipeFlags::CLOEXEC)
            .map_err(|error| ToolFailure::new(format!("the command cannot be started: {error}")))?;
        let (notes, mut noted) = mpsc::channel::<Progress>(4);
        let mut work = std::pin::pin!(self.helpers.run(&call.cancel, move |_| {
            ready.run(&abandoned, |note| {
                // Who does not read them does without.
                let _ = notes.try_send(note);
            })
        }));
        let ended = loop {
            tokio::select! {
                ended = &mut work => break ended,
                Some(note) = noted.recv() => call.progress(&note),
            }
        };
        completed.ended = Some(ended.as_ref().ok().map(Summary::of));
        drop(completed);
        ended.map(|ended| Output::of(ended, sandbox))
    }
}

impl Output {
    fn nothing() -> Self {
        Self {
            stdout: String::new(),
            stderr: String::new(),
            exit_code: 0,
            exit_codes: None,
            duration: 0.0,
            truncated: false,
            timed_out: false,
            sandbox: None,
        }
    }

    fn of(ended: Ended, sandbox: Containment) -> Self {
        let exit_code = match (ended.timed_out, ended.exit_code, ended.signal) {
            (true, _, _) => 124,
            (false, Some(code), _) => code,
            (false, None, signal) => 128 + signal.unwrap_or_default(),
        };
        Self {
            stdout: ended.stdout,
            stderr: ended.stderr,
            exit_code,
            exit_codes: (ended.exit_codes.len() > 1).then_some(ended.exit_codes),
            duration: (ended.took.as_secs_f64() * 1e3).round() / 1e3,
            truncated: ended.truncated,
            timed_out: ended.timed_out,
            sandbox: Some(sandbox),
        }
    }
}

/// What the event says of an end.
#[derive(Clone, Copy)]
struct Summary {
    status: &'static str,
    exit_code: Option<i32>,
    signal: Option<i32>,
    stdout_bytes: u64,
    stderr_bytes: u64,
    truncated: bool,
}

impl Summary {
    fn of(ended: &Ended) -> Self {
        let status = match (ended.timed_out, ended.signal) {
            (true, _) => "timed_out",
            (false, Some(_)) => "killed",
            (false, None) => "exited",
        };
        Self {
            status,
            exit_code: ended.exit_code,
            signal: ended.signal,
            stdout_bytes: ended.stdout_bytes,
            stderr_bytes: ended.stderr_bytes,
            truncated: ended.truncated,
        }
    }

    fn without_output(status: &'static str) -> Self {
        Self { status, exit_code: None, signal: None, stdout_bytes: 0, stderr_bytes: 0, truncated: false }
    }
}

/// Says how the command ended, also when the call is dropped.
struct Completed<'c, 'a> {
    call: &'c Invocation<'a>,
    sandbox: &'c Containment,
    began: Instant,
    /// `None`: the call was dropped; `Some(None)`: the command could not be run.
    ended: Option<Option<Summary>>,
}

impl Drop for Completed<'_, '_> {
    fn drop(&mut self) {
        let Summary { status, exit_code, signal, stdout_bytes, stderr_bytes, truncated } = match self.ended {
            Some(Some(summary)) => summary,
            Some(None) => Summary::without_output("failed"),
            None => Summary::without_output("cancelled"),
        };
        (self.call.emit)(&EventBody::BashCompleted {
            tool_call_id: self.call.id,
            status,
            exit_code,
            signal,
            stdout_bytes,
            stderr_bytes,
            truncated,
            duration_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            sandbox: self.sandbox,
        });
    }
}
