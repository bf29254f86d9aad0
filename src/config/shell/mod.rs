//! The shell tool: which commands may run (`shell.policy`), in what surroundings, and which are asked for (`bash_confirm`).

mod policy;

pub(crate) use policy::line;
pub use policy::{Built, CommandPolicy, CommandRule, Judgement, Operands, Risk, Ruling};

use super::Pattern;
use crate::types::{Error, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::PathBuf;

/// Where programs are on a system that does not say.
const SYSTEM_PATH: &[&str] = &["/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The shell tool. Everything has a default.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(default)]
pub struct ShellConfig {
    /// Which commands may run: `"coder"` (default), `"read_only"`, `"read_only_no_net"`, or a policy of its own.
    pub policy: PolicyChoice,
    /// The folders in which programs are found. Default: those of the host's `PATH` when the runtime is created. What is in the
    /// workspace, or where anybody can write, is never run.
    pub path: Vec<PathBuf>,
    /// Further variables of the environment that programs get, by name. Default: none but `HOME`, `USER`, `LOGNAME`, `LANG`,
    /// `LC_ALL`, `LC_CTYPE`, `TZ`; `PATH`, `TMPDIR`, `PWD` and `TERM` are made.
    pub env: Vec<String>,
    /// Further files and folders that programs may read.
    pub read: Vec<PathBuf>,
    /// Further folders that programs may write, unless the policy forbids to write.
    pub write: Vec<PathBuf>,
    /// Whether the kernel's file sandbox must be there.
    pub sandbox: SandboxNeed,
    /// Seconds a command may take, at most. Default 600.
    pub max_timeout: f64,
    /// Megabytes of memory that each program may write. Default 2048.
    pub max_memory_mb: u64,
    /// Megabytes of one file that a program may write. Default 1024.
    pub max_file_mb: u64,
    /// Processes that may be added to those of the user; the kernel holds no administrator to it. Default 512.
    pub max_processes: u64,
    /// Bytes of each output that are kept: its beginning and its end. Default 51200.
    pub max_output_bytes: usize,
    /// Lines of each output that are kept. Default 2000.
    pub max_output_lines: usize,
}

impl Default for ShellConfig {
    fn default() -> Self {
        Self {
            policy: PolicyChoice::default(),
            path: Vec::new(),
            env: Vec::new(),
            read: Vec::new(),
            write: Vec::new(),
            sandbox: SandboxNeed::default(),
            max_timeout: 600.0,
            max_memory_mb: 2_048,
            max_file_mb: 1_024,
            max_processes: 512,
            max_output_bytes: 51_200,
            max_output_lines: 2_000,
        }
    }
}

/// Whether the kernel's file sandbox must be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SandboxNeed {
    /// It is used as far as the kernel has it; each result says how far that was.
    #[default]
    BestEffort,
    /// Without it no command runs.
    Required,
}

/// A built-in policy, or one of its own.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub enum PolicyChoice {
    /// By its name.
    Built(Built),
    /// As data.
    Own(CommandPolicy),
}

impl Default for PolicyChoice {
    fn default() -> Self {
        Self::Built(Built::Coder)
    }
}

impl<'de> Deserialize<'de> for PolicyChoice {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct NameOrObject;
        impl<'de> serde::de::Visitor<'de> for NameOrObject {
            type Value = PolicyChoice;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the name of a policy or an object with \"default\" and \"rules\"")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> std::result::Result<PolicyChoice, E> {
                Built::deserialize(serde::de::value::StrDeserializer::new(name)).map(PolicyChoice::Built)
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> std::result::Result<PolicyChoice, A::Error> {
                CommandPolicy::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(PolicyChoice::Own)
            }
        }
        deserializer.deserialize_struct("policy", &[], NameOrObject)
    }
}

impl ShellConfig {
    /// Checks the values, and the examples of the policy.
    pub fn check(&self, path: &str) -> Result<()> {
        let at = |key: &str| format!("{path}.{key}");
        if !(self.max_timeout > 0.0 && self.max_timeout <= 86_400.0) {
            return Err(Error::schema(at("max_timeout"), "a number of seconds above 0, at most 86400, is needed"));
        }
        for (key, value) in [
            ("max_memory_mb", self.max_memory_mb),
            ("max_file_mb", self.max_file_mb),
            ("max_processes", self.max_processes),
        ] {
            if !(1..=1_048_576).contains(&value) {
                return Err(Error::schema(at(key), format!("{value} is outside of 1 to 1048576")));
            }
        }
        for (key, value) in [("max_output_bytes", self.max_output_bytes), ("max_output_lines", self.max_output_lines)] {
            if !(16..=16_777_216).contains(&value) {
                return Err(Error::schema(at(key), format!("{value} is outside of 16 to 16777216")));
            }
        }
        for (key, places) in [("path", &self.path), ("read", &self.read), ("write", &self.write)] {
            if let Some(index) = places.iter().position(|place| !place.is_absolute()) {
                return Err(Error::schema(format!("{}[{index}]", at(key)), "an absolute path is needed"));
            }
        }
        if let Some(index) = self.env.iter().position(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return Err(Error::schema(format!("{}[{index}]", at("env")), "this cannot be the name of a variable"));
        }
        match &self.policy {
            PolicyChoice::Built(_) => Ok(()),
            PolicyChoice::Own(policy) => policy.check(&at("policy")),
        }
    }

    /// The same with the folders of the host's `PATH`, if none were given.
    #[must_use]
    pub fn with_path(mut self) -> Self {
        if self.path.is_empty() {
            let given = std::env::var_os("PATH").unwrap_or_default();
            self.path = std::env::split_paths(&given).filter(|folder| folder.is_absolute()).collect();
        }
        if self.path.is_empty() {
            self.path = SYSTEM_PATH.iter().map(PathBuf::from).collect();
        }
        self
    }

    /// The policy, with the rules of the one it is based on.
    pub fn command_policy(&self) -> Result<CommandPolicy> {
        match &self.policy {
            PolicyChoice::Built(built) => CommandPolicy::built(*built),
            PolicyChoice::Own(policy) => policy.whole(),
        }
    }
}

/// Which commands of the shell tool are asked for.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(default)]
pub struct BashConfirm {
    /// What holds for commands that no pattern fits.
    pub default_policy: Confirm,
    /// The last one that fits a command decides.
    pub patterns: Vec<ConfirmPattern>,
}

/// Whether a command is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Confirm {
    /// It is.
    #[default]
    Always,
    /// It is not.
    Never,
    /// It is if its risk is high or critical.
    Pattern,
}

/// What holds for commands that fit a pattern.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfirmPattern {
    /// A regular expression, found in the program's name and its arguments, joined by spaces; of a pipeline in each command
    /// by itself.
    pub pattern: Pattern,
    /// What holds.
    pub policy: Confirm,
}

impl BashConfirm {
    /// What holds for a command.
    pub fn of(&self, line: &str) -> Confirm {
        let fitting = self.patterns.iter().rev().find(|rule| rule.pattern.regex().is_match(line));
        fitting.map_or(self.default_policy, |rule| rule.policy)
    }

    /// Whether any command may be asked for.
    pub fn may_ask(&self) -> bool {
        self.default_policy != Confirm::Never || self.patterns.iter().any(|rule| rule.policy != Confirm::Never)
    }
}
