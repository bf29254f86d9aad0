//! Policies of commands, as data: rules on programs and their arguments, each with examples that are checked when it is read.
//!
//! Every rule that fits a command has its say, and the strictest counts: deny before ask before allow. What no rule fits has
//! the policy's default. The built-in policies are data, too: `policies.json`.

use crate::config::Pattern;
use crate::types::{Error, Result};
use once_cell::sync::OnceCell;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A built-in policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Built {
    /// Anything but what starts other programs unseen, asks for more rights, or harms; the workspace may be written, and
    /// there is a network.
    #[default]
    Coder,
    /// Only programs that are known to read; nothing may be written.
    ReadOnly,
    /// The same without a network.
    ReadOnlyNoNet,
}

/// What may be done with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ruling {
    /// It may run.
    Allow,
    /// Somebody is asked.
    Ask,
    /// It may not run.
    Deny,
}

/// How much harm a command could do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Risk {
    /// It reads.
    Low,
    /// It changes what can be made again.
    Medium,
    /// It removes, or reaches beyond this machine.
    High,
    /// It may ruin the machine.
    Critical,
}

impl Risk {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// A policy.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandPolicy {
    /// Its name in events. Default `custom`.
    #[serde(default = "custom")]
    pub name: String,
    /// A built-in policy whose rules hold besides.
    #[serde(default)]
    pub base: Option<Built>,
    /// What holds for commands that no rule fits.
    pub default: Ruling,
    /// Whether the workspace may be written. Default false.
    #[serde(default)]
    pub writes: bool,
    /// Whether there is a network. Default false.
    #[serde(default)]
    pub network: bool,
    /// The rules.
    #[serde(default)]
    pub rules: Vec<CommandRule>,
}

fn custom() -> String {
    "custom".into()
}

/// A rule: it fits a command whose program is one of `programs` and that meets every other condition given.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandRule {
    /// Names of programs, without folders; `*` stands for anything. Also the name a link leads to counts.
    pub programs: Vec<String>,
    /// One of these regular expressions is found in one of the arguments.
    #[serde(default)]
    pub any_arg: Vec<Pattern>,
    /// None of these is found in any argument.
    #[serde(default)]
    pub unless_arg: Vec<Pattern>,
    /// The first argument that does not begin with `-` is one of these.
    #[serde(default)]
    pub first_arg: Vec<String>,
    /// Whether there are arguments that do not begin with `-`.
    #[serde(default)]
    pub operands: Option<Operands>,
    /// What holds.
    pub decision: Ruling,
    /// How much harm such a command could do.
    #[serde(default)]
    pub risk: Option<Risk>,
    /// Why, and what to do instead: for the model, or for whoever is asked.
    #[serde(default)]
    pub justification: String,
    /// Commands that it fits, each program and arguments.
    #[serde(default, rename = "match")]
    pub matches: Vec<Vec<String>>,
    /// Commands that it does not fit.
    #[serde(default)]
    pub not_match: Vec<Vec<String>>,
}

/// Whether there are arguments that do not begin with `-`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Operands {
    /// There are none.
    None,
    /// There are some.
    Some,
}

/// A pattern of commands that no policy lets pass.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Destructive {
    pattern: Pattern,
    justification: String,
    #[cfg_attr(not(test), allow(dead_code, reason = "the examples are checked by a test"))]
    #[serde(rename = "match")]
    matches: Vec<String>,
    #[cfg_attr(not(test), allow(dead_code, reason = "the examples are checked by a test"))]
    not_match: Vec<String>,
}

/// What a policy says of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What may be done.
    pub ruling: Ruling,
    /// How much harm it could do.
    pub risk: Risk,
    /// Why.
    pub justification: String,
}

/// The built-in rules.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    /// What none may.
    guards: Vec<CommandRule>,
    /// What may, and is dangerous.
    hazards: Vec<CommandRule>,
    /// What only reads.
    readers: Vec<CommandRule>,
    read_only: Vec<CommandRule>,
    no_net: Vec<CommandRule>,
    destructive: Vec<Destructive>,
}

impl Data {
    /// Read once: hundreds of expressions are compiled.
    fn get() -> Result<&'static Self> {
        static DATA: OnceCell<Data> = OnceCell::new();
        DATA.get_or_try_init(|| {
            serde_json::from_str(include_str!("policies.json"))
                .map_err(|error| Error::internal(format!("the built-in policies: {error}")))
        })
    }
}

impl CommandRule {
    /// Whether it fits a command. `names` are those of the program.
    fn fits(&self, names: &[&str], args: &[String]) -> bool {
        let is_program = |pattern: &String| names.iter().any(|name| is_named(pattern, name));
        let found = |pattern: &Pattern| args.iter().any(|arg| pattern.regex().is_match(arg));
        let first = args.iter().find(|arg| !arg.starts_with('-'));
        self.programs.iter().any(is_program)
            && (self.any_arg.is_empty() || self.any_arg.iter().any(found))
            && !self.unless_arg.iter().any(found)
            && (self.first_arg.is_empty() || first.is_some_and(|first| self.first_arg.contains(first)))
            && self.operands.is_none_or(|operands| (operands == Operands::Some) == first.is_some())
    }

    fn fits_example(&self, example: &[String]) -> bool {
        example.split_first().is_some_and(|(program, args)| self.fits(&[program], args))
    }

    fn check(&self, path: &str) -> Result<()> {
        let at = |key: &str| format!("{path}.{key}");
        if self.programs.is_empty() || self.programs.iter().any(|name| name.is_empty() || name.contains('/')) {
            return Err(Error::schema(at("programs"), "names of programs, without folders, are needed"));
        }
        if self.decision != Ruling::Allow && self.justification.is_empty() {
            return Err(Error::schema(at("justification"), "say why, and what to do instead: the model reads it"));
        }
        for (key, examples, wanted) in [("match", &self.matches, true), ("not_match", &self.not_match, false)] {
            if let Some(index) = examples.iter().position(|example| self.fits_example(example) != wanted) {
                let told = if wanted { "the rule does not fit this command" } else { "the rule fits this command" };
                return Err(Error::schema(format!("{}[{index}]", at(key)), told)
                    .with_hint("an example is a list: the program's name, then its arguments"));
            }
        }
        Ok(())
    }
}

/// `*` stands for anything, at the end or the beginning or between. Each part is taken where it comes first, which is right
/// whenever anything is, so that many stars cost no more than one.
fn is_named(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

impl CommandPolicy {
    /// Checks every rule with its examples.
    pub fn check(&self, path: &str) -> Result<()> {
        self.rules.iter().enumerate().try_for_each(|(index, rule)| rule.check(&format!("{path}.rules[{index}]")))
    }

    /// A built-in policy.
    pub fn built(built: Built) -> Result<Self> {
        let data = Data::get()?;
        let rules = |parts: &[&[CommandRule]]| parts.concat();
        Ok(match built {
            Built::Coder => Self {
                name: "coder".into(),
                base: None,
                default: Ruling::Allow,
                writes: true,
                network: true,
                rules: rules(&[&data.guards, &data.hazards, &data.readers]),
            },
            Built::ReadOnly => Self {
                name: "read_only".into(),
                base: None,
                default: Ruling::Deny,
                writes: false,
                network: true,
                rules: rules(&[&data.guards, &data.readers, &data.read_only]),
            },
            Built::ReadOnlyNoNet => Self {
                name: "read_only_no_net".into(),
                base: None,
                default: Ruling::Deny,
                writes: false,
                network: false,
                rules: rules(&[&data.guards, &data.readers, &data.read_only, &data.no_net]),
            },
        })
    }

    /// With the rules of the policy it is based on.
    pub fn whole(&self) -> Result<Self> {
        let mut whole = self.clone();
        if let Some(base) = self.base {
            let mut rules = Self::built(base)?.rules;
            rules.append(&mut whole.rules);
            whole.rules = rules;
        }
        Ok(whole)
    }

    /// What it says of one command. `names` are those of the program: as it was given, and where a link leads.
    pub fn judge(&self, names: &[&str], args: &[String]) -> Result<Judgement> {
        let line = line(names.first().unwrap_or(&""), args);
        for net in &Data::get()?.destructive {
            if net.pattern.regex().is_match(&line) {
                let justification = format!("{}: it is never run", net.justification);
                return Ok(Judgement { ruling: Ruling::Deny, risk: Risk::Critical, justification });
            }
        }
        let fitting = || self.rules.iter().filter(|rule| rule.fits(names, args));
        let risk = fitting().filter_map(|rule| rule.risk).max().unwrap_or(Risk::Medium);
        let strictest = fitting().map(|rule| rule.decision).max();
        let ruling = strictest.unwrap_or(self.default);
        let why = fitting().find(|rule| rule.decision == ruling && !rule.justification.is_empty());
        let justification = match (why, strictest) {
            (Some(rule), _) => rule.justification.clone(),
            (None, Some(_)) => String::new(),
            (None, None) => format!("the policy {:?} does not know this program with these arguments", self.name),
        };
        Ok(Judgement { ruling, risk, justification })
    }
}

/// A command in one line, for patterns and people; nothing parses it again.
pub(crate) fn line(program: &str, args: &[String]) -> String {
    args.iter().fold(program.to_owned(), |mut line, arg| {
        line.push(' ');
        line.push_str(arg);
        line
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;

    #[test]
    fn the_examples_of_the_built_in_rules_hold() {
        let data = Data::get().unwrap();
        for (name, rules) in [
            ("guards", &data.guards),
            ("hazards", &data.hazards),
            ("readers", &data.readers),
            ("read_only", &data.read_only),
            ("no_net", &data.no_net),
        ] {
            for (index, rule) in rules.iter().enumerate() {
                rule.check(&format!("{name}[{index}]")).unwrap();
                assert!(!rule.matches.is_empty() && !rule.not_match.is_empty(), "{name}[{index}] has no examples");
            }
        }
        for net in &data.destructive {
            let fits = |line: &String| net.pattern.regex().is_match(line);
            assert!(net.matches.iter().all(fits), "{net:?}");
            assert!(!net.not_match.iter().any(fits), "{net:?}");
        }
    }

    fn judged(built: Built, command: &[&str]) -> (Ruling, Risk) {
        let args: Vec<String> = command[1..].iter().map(|arg| (*arg).to_owned()).collect();
        let judgement = CommandPolicy::built(built).unwrap().judge(&[command[0]], &args).unwrap();
        (judgement.ruling, judgement.risk)
    }

    #[test]
    fn policies_differ_where_they_should() {
        use Built::{Coder, ReadOnly, ReadOnlyNoNet};
        use Ruling::{Allow, Ask, Deny};
        for (command, coder, read_only, no_net) in [
            (&["ls", "-la"][..], Allow, Allow, Allow),
            (&["make", "test"], Allow, Deny, Deny),
            (&["git", "status"], Allow, Allow, Allow),
            (&["git", "commit", "-m", "x"], Allow, Deny, Deny),
            (&["git", "-c", "core.pager=sh", "status"], Deny, Deny, Deny),
            (&["curl", "https://example.com"], Allow, Allow, Deny),
            (&["find", ".", "-delete"], Ask, Deny, Deny),
            (&["sh", "-c", "ls"], Deny, Deny, Deny),
            (&["sed", "-i", "s/a/b/", "f"], Allow, Deny, Deny),
            (&["rm", "-rf", "build"], Allow, Deny, Deny),
            (&["rm", "-rf", "/"], Deny, Deny, Deny),
            (&["no-such-program"], Allow, Deny, Deny),
        ] {
            let rulings = [Coder, ReadOnly, ReadOnlyNoNet].map(|built| judged(built, command).0);
            assert_eq!(rulings, [coder, read_only, no_net], "{command:?}");
        }
        assert_eq!(judged(Coder, &["ls"]).1, Risk::Low);
        assert_eq!(judged(Coder, &["make"]).1, Risk::Medium);
        assert_eq!(judged(Coder, &["rm", "x"]).1, Risk::High);
        assert_eq!(judged(Coder, &["rm", "-rf", "/"]).1, Risk::Critical);
    }

    #[test]
    fn names_match_with_stars() {
        assert!(
            is_named("python*", "python3.12")
                && is_named("*", "x")
                && is_named("a*c", "abc")
                && is_named("a*b*", "axbx")
        );
        assert!(!is_named("python*", "ipython") && !is_named("a*c", "ab") && !is_named("ls", "lsof"));
        // Backtracking would try more ways than there are seconds.
        let stars = format!("{}b", "*a".repeat(40));
        assert!(!is_named(&stars, &"a".repeat(10_000)));
        assert!(is_named(&stars, &format!("{}b", "a".repeat(10_000))));
    }
}
