//! What is to be run, as types that cannot hold a shell line.

use super::invalid;
use crate::tools::ToolFailure;
use schemars::JsonSchema;
use serde::Deserialize;

/// What is to be run.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// One program.
    Exec(Exec),
    /// Several; the output of each is the input of the next.
    Pipeline {
        /// The programs, in order.
        #[schemars(length(min = 1, max = 16))]
        stages: Vec<Exec>,
    },
    /// Nothing.
    NoOp,
}

/// One program with its arguments, which go to it as they are: nothing in them is expanded, split or quoted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The name of an installed program, such as `git`; no path into the workspace.
    pub program: String,
    /// Its arguments, each by itself.
    #[serde(default)]
    pub args: Vec<String>,
}

/// The most programs of a pipeline, arguments of one program, and bytes of all arguments.
const MAX_STAGES: usize = 16;
const MAX_ARGS: usize = 4_096;
const MAX_BYTES: usize = 128 << 10;

impl Command {
    /// A program's name and its arguments in one list.
    pub fn from_argv(argv: Vec<String>) -> Result<Self, ToolFailure> {
        let mut argv = argv.into_iter();
        let program = argv.next().ok_or_else(|| invalid("\"argv\" is empty: give the program, then its arguments"))?;
        Ok(Self::Exec(Exec { program, args: argv.collect() }))
    }

    /// The programs, in order.
    pub fn stages(&self) -> &[Exec] {
        match self {
            Self::Exec(exec) => std::slice::from_ref(exec),
            Self::Pipeline { stages } => stages,
            Self::NoOp => &[],
        }
    }

    /// Refuses what no program could be given, and what was meant for a shell.
    pub fn check(&self) -> Result<(), ToolFailure> {
        let stages = self.stages();
        if matches!(self, Self::Pipeline { .. }) && !(1..=MAX_STAGES).contains(&stages.len()) {
            return Err(invalid(format!("a pipeline has 1 to {MAX_STAGES} programs")));
        }
        for Exec { program, args } in stages {
            if program.is_empty() {
                return Err(invalid("the program's name is empty"));
            }
            if program.chars().any(|c| c.is_whitespace() || "|&;<>()$`\\\"'*?[]{}!".contains(c)) {
                return Err(invalid(format!(
                    "{program:?} is no program's name: there is no shell here. Give the program alone, each argument by itself, and a pipeline as {{\"type\":\"pipeline\",\"stages\":[…]}}"
                )));
            }
            let bytes: usize = args.iter().map(String::len).sum();
            if args.len() > MAX_ARGS || bytes > MAX_BYTES {
                return Err(invalid(format!(
                    "{program:?} gets {} arguments of {bytes} bytes; at most {MAX_ARGS} of {MAX_BYTES} are possible. Put them in a file",
                    args.len()
                )));
            }
            if std::iter::once(program).chain(args).any(|text| text.contains('\0')) {
                return Err(invalid("a NUL character cannot be given to a program"));
            }
            let redirects = |arg: &&String| {
                matches!(arg.as_str(), "|" | "||" | "&&" | ";" | ">" | ">>" | "<" | "2>&1" | "&" | "2>" | "<<<")
            };
            if let Some(operator) = args.iter().find(redirects).filter(|_| !compares(program)) {
                return Err(invalid(format!(
                    "there is no shell here, so that {operator:?} would be an argument of {program:?}. Use a pipeline, several calls, or write for a file"
                )));
            }
        }
        Ok(())
    }
}

/// Programs for which `<` and the like are arguments.
fn compares(program: &str) -> bool {
    matches!(
        super::base(program),
        "expr" | "test" | "[" | "echo" | "printf" | "bc" | "jq" | "grep" | "rg" | "awk" | "sed"
    ) || program.ends_with("find")
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use serde_json::json;

    fn read(value: serde_json::Value) -> Result<Command, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    #[test]
    fn a_line_is_no_command() {
        for value in [
            json!("ls -la"),
            json!({"type": "shell", "line": "ls"}),
            json!({"type": "exec", "program": "ls", "args": "-la"}),
            json!({"type": "exec", "program": ["ls"]}),
            json!({"type": "exec", "program": "ls", "shell": true}),
            json!({"type": "pipeline", "stages": ["ls | wc"]}),
            json!(["ls"]),
        ] {
            assert!(read(value.clone()).is_err(), "{value}");
        }
        assert_eq!(read(json!({"type": "no_op"})).unwrap(), Command::NoOp);
    }

    #[test]
    fn what_was_meant_for_a_shell_is_told_so() {
        let exec = |program: &str, args: &[&str]| {
            Command::Exec(Exec { program: program.into(), args: args.iter().map(|arg| (*arg).into()).collect() })
                .check()
        };
        for (program, args) in [
            ("ls -la", &[][..]),
            ("ls;id", &[]),
            ("$(id)", &[]),
            ("`id`", &[]),
            ("", &[]),
            ("ls", &["|", "wc"]),
            ("make", &["&&", "id"]),
            ("cat", &["a", ">", "b"]),
            ("ls", &["a\0b"]),
        ] {
            assert!(exec(program, args).is_err(), "{program} {args:?}");
        }
        for (program, args) in [("echo", &["$(id)", "; rm -rf /", "`id`", "a > b"][..]), ("test", &["a", "<", "b"])] {
            assert!(exec(program, args).is_ok(), "{program} {args:?}");
        }
    }
}
