//! System prompts with `{{variables}}`.
//!
//! A template is compiled when its agent is registered, so that a name it cannot know is an error there and not in the
//! middle of a run. Rendering gives two texts: what stays the same from run to run, which is the system prompt, and the
//! lines with the time in them, which are told with the user's message.

use super::setup::Setup;
use crate::config::{TemplateConfig, strict};
use crate::types::{AgentId, Error, Result, Status, now_ms, rfc3339};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

const BUILTIN: [&str; 5] = ["agent_id", "runtime_id", "available_tools", "user_variables", "current_time"];

/// A compiled template.
pub struct Template {
    lines: Vec<Line>,
    declared: BTreeSet<String>,
    required: Vec<String>,
}

struct Line {
    pieces: Vec<Piece>,
    is_volatile: bool,
}

enum Piece {
    Text(String),
    Variable(String),
}

/// What a template is rendered with.
pub struct Values<'a> {
    /// The agent.
    pub agent_id: &'a AgentId,
    /// The runtime.
    pub runtime_id: &'a str,
    /// Names of the agent's tools.
    pub available_tools: Vec<&'a str>,
    /// What the request gives.
    pub variables: &'a Map<String, Value>,
}

/// A rendered template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// The system prompt.
    pub system: Option<String>,
    /// What is told with the user's message.
    pub context: Option<String>,
}

impl Prompt {
    /// What the agent of a request is told: every variable must be known to it.
    pub fn of_request(setup: &Setup, runtime_id: &str, variables: &Map<String, Value>, path: &str) -> Result<Self> {
        match &setup.template {
            Some(template) => template.render(&Values::of(setup, runtime_id, variables), path),
            None => Ok(Self::plain(setup)),
        }
    }

    /// What an agent is told that another one called: it takes the variables that it knows.
    pub fn of_call(setup: &Setup, runtime_id: &str, variables: &Map<String, Value>) -> Result<Self> {
        match &setup.template {
            Some(template) => template.render_known(&Values::of(setup, runtime_id, variables), "request.variables"),
            None => Ok(Self::plain(setup)),
        }
    }

    fn plain(setup: &Setup) -> Self {
        Self { system: setup.config.system_prompt.clone(), context: None }
    }
}

impl<'a> Values<'a> {
    fn of(setup: &'a Setup, runtime_id: &'a str, variables: &'a Map<String, Value>) -> Self {
        let available_tools = setup.specs.iter().map(|spec| spec.name.as_str()).collect();
        Self { agent_id: &setup.config.id, runtime_id, available_tools, variables }
    }
}

impl Template {
    /// Compiles a template.
    pub fn compile(config: &TemplateConfig) -> Result<Self> {
        let at = "agent.system_prompt_template";
        let declared: BTreeSet<String> = config.variables.iter().cloned().collect();
        for (index, name) in config.required.iter().enumerate() {
            if !declared.contains(name) && !BUILTIN.contains(&name.as_str()) {
                return Err(Error::schema(
                    format!("{at}.required[{index}]"),
                    format!("{name:?} is not among the variables"),
                )
                .with_hint("list it in \"variables\" too"));
            }
        }
        let mut lines = Vec::new();
        for line in config.template.split_inclusive('\n') {
            let pieces = pieces(line, at)?;
            let mut is_volatile = false;
            for piece in &pieces {
                if let Piece::Variable(name) = piece {
                    is_volatile |= name == "current_time";
                    check_name(name, &declared, at)?;
                }
            }
            lines.push(Line { pieces, is_volatile });
        }
        let required = config.required.iter().filter(|name| !BUILTIN.contains(&name.as_str())).cloned().collect();
        Ok(Self { lines, declared, required })
    }

    /// Renders it. A required variable that is missing, or one that the template does not know, is an error; `path` is
    /// where the variables were given.
    pub fn render(&self, values: &Values<'_>, path: &str) -> Result<Prompt> {
        for name in values.variables.keys() {
            if !self.declared.contains(name) {
                let error = Error::schema(format!("{path}.{name}"), "the agent's template has no such variable");
                return Err(match strict::nearest(name, self.declared.iter().map(String::as_str)) {
                    Some(near) => error.with_hint(format!("did you mean {near:?}?")),
                    None => error.with_hint("declare it in the template's \"variables\""),
                });
            }
        }
        self.render_known(values, path)
    }

    /// As [`Template::render`], but variables that the template does not know are left aside: they were given for another
    /// agent.
    pub fn render_known(&self, values: &Values<'_>, path: &str) -> Result<Prompt> {
        if let Some(missing) = self.required.iter().find(|name| !values.variables.contains_key(*name)) {
            return Err(Error::new(Status::Schema, format!("the agent's template requires the variable {missing:?}"))
                .with_path(format!("{path}.{missing}"))
                .with_code("missing_variable")
                .with_hint("give it in the request's \"variables\""));
        }
        let (mut system, mut context) = (String::new(), String::new());
        for line in &self.lines {
            let out = if line.is_volatile { &mut context } else { &mut system };
            for piece in &line.pieces {
                match piece {
                    Piece::Text(text) => out.push_str(text),
                    Piece::Variable(name) => out.push_str(&value_of(name, values)),
                }
            }
        }
        let some = |text: String| (!text.trim().is_empty()).then_some(text);
        Ok(Prompt { system: some(system), context: some(context) })
    }
}

fn pieces(line: &str, at: &str) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((name, after)) = after.split_once("}}") else {
            return Err(Error::schema(
                format!("{at}.template"),
                format!("a \"{{{{\" without its \"}}}}\" in the line {:?}", line.trim_end()),
            )
            .with_hint("a variable stands in one line: {{name}}"));
        };
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_owned()));
        }
        pieces.push(Piece::Variable(name.trim().to_owned()));
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

fn check_name(name: &str, declared: &BTreeSet<String>, at: &str) -> Result<()> {
    if BUILTIN.contains(&name) || declared.contains(name) {
        return Ok(());
    }
    let error = Error::schema(
        format!("{at}.template"),
        format!("the template uses the variable {name:?}, which is not declared"),
    );
    Err(match strict::nearest(name, BUILTIN.into_iter().chain(declared.iter().map(String::as_str))) {
        Some(near) => error.with_hint(format!("did you mean {near:?}?")),
        None => error.with_hint(format!("add it to \"variables\"; built in are {}", BUILTIN.join(", "))),
    })
}

fn value_of(name: &str, values: &Values<'_>) -> String {
    match values.variables.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) => String::new(),
        Some(value) => value.to_string(),
        None => match name {
            "agent_id" => values.agent_id.to_string(),
            "runtime_id" => values.runtime_id.to_owned(),
            "available_tools" => Value::from(values.available_tools.clone()).to_string(),
            "user_variables" => Value::Object(values.variables.clone()).to_string(),
            "current_time" => rfc3339(now_ms() / 1_000),
            // Declared, not required, and not given.
            _ => String::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use serde_json::json;

    fn template(json: Value) -> Result<Template> {
        Template::compile(&strict::read(&json, "agent.system_prompt_template").unwrap())
    }

    fn render(template: &Template, variables: Value) -> Result<Prompt> {
        template.render(
            &Values {
                agent_id: &"support".into(),
                runtime_id: "r1",
                available_tools: vec!["add"],
                variables: variables.as_object().unwrap(),
            },
            "request.variables",
        )
    }

    #[test]
    fn variables_are_filled_in_and_the_time_is_told_apart() {
        let template = template(json!({
            "template": "You are {{role}}, {{ agent_id }} on {{runtime_id}}.\nIt is {{current_time}}.\nTools: {{available_tools}} {{note}}{{user_variables}}",
            "variables": ["role", "note"], "required": ["role"]}))
        .unwrap();
        let prompt = render(&template, json!({"role": "a clerk"})).unwrap();
        let system = "You are a clerk, support on r1.\nTools: [\"add\"] {\"role\":\"a clerk\"}";
        assert_eq!(prompt.system.as_deref(), Some(system));
        assert!(prompt.context.unwrap().starts_with("It is 20"));
    }

    #[test]
    fn what_is_missing_or_unknown_is_said_with_its_place() {
        let told = |error: Error| format!("{error}");
        let unknown = template(json!({"template": "{{rolle}}", "variables": ["role"]})).err().unwrap();
        assert!(told(unknown).contains("did you mean \"role\"?"));
        assert!(told(template(json!({"template": "a {{b"})).err().unwrap()).contains("without its"));
        let template = template(json!({"template": "{{role}}", "variables": ["role"], "required": ["role"]})).unwrap();
        assert_eq!(render(&template, json!({})).unwrap_err().path(), Some("request.variables.role"));
        assert_eq!(render(&template, json!({"role": 1, "x": 2})).unwrap_err().path(), Some("request.variables.x"));
    }

    #[test]
    fn times_are_written_as_the_standard_says() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_249_805), "2026-11-21T08:30:05Z");
    }
}
