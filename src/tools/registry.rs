//! Which tools there are, each compiled once.

use super::builtin::Builtins;
use super::{Schema, Tool};
use crate::config::{Limits, ToolConfig};
use crate::types::{Error, Result, Status, ToolSpec};
use parking_lot::RwLock;
use serde_json::Value;
use serde_json::value::to_raw_value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A tool, ready to be offered to a model and to be called.
pub struct Registered {
    /// As it was registered.
    pub config: ToolConfig,
    /// What its arguments must fit.
    pub input: Schema,
    /// What its results must fit.
    pub output: Option<Schema>,
    /// Who runs it.
    pub runner: Runner,
    spec: ToolSpec,
}

/// Who runs a tool.
pub enum Runner {
    /// The host, asked by token.
    Host,
    /// The library, or a Rust host.
    Native(Arc<dyn Tool>),
}

impl Registered {
    /// Compiles a tool.
    pub fn new(config: ToolConfig, runner: Runner, limits: &Limits) -> Result<Self> {
        let compile = |schema: &Value, path: &str| Schema::compile(schema, path, limits.max_schema_steps);
        let input = compile(&config.input_schema, "tool.input_schema")?;
        let output = config.output_schema.as_ref().map(|schema| compile(schema, "tool.output_schema")).transpose()?;
        let encoded = to_raw_value(&config.input_schema).map_err(|error| Error::internal(error.to_string()))?;
        let spec = ToolSpec {
            name: config.name.clone(),
            description: config.description.clone(),
            input_schema: Arc::from(encoded),
        };
        Ok(Self { config, input, output, runner, spec })
    }

    /// Whether a call may have to be asked for.
    pub fn may_ask(&self) -> bool {
        let reviews = match &self.runner {
            Runner::Host => false,
            Runner::Native(tool) => tool.may_ask(),
        };
        reviews || self.config.permission.may_ask()
    }

    /// What a model is told.
    pub fn spec(&self) -> &ToolSpec {
        &self.spec
    }
}

/// The tools of a runtime, by name.
#[derive(Default)]
pub struct Registry {
    tools: RwLock<BTreeMap<String, Arc<Registered>>>,
    /// Those of the library; a registered tool of the same name goes before.
    builtin: Option<Builtins>,
}

impl Registry {
    /// Only the library's own tools.
    pub fn with_builtin(builtin: Builtins) -> Self {
        Self { tools: RwLock::default(), builtin: Some(builtin) }
    }

    /// Adds a tool. A name that is taken is an error: nothing is replaced by accident.
    pub fn add(&self, tool: Registered) -> Result<()> {
        let name = tool.config.name.clone();
        let mut tools = self.tools.write();
        if tools.contains_key(&name) {
            return Err(Error::new(Status::Exists, format!("a tool {name:?} is already registered"))
                .with_path("tool.name")
                .with_hint("unregister it first to replace it"));
        }
        tools.insert(name, Arc::new(tool));
        Ok(())
    }

    /// Puts a tool in the place of the one of that name.
    pub fn replace(&self, tool: Registered) -> Result<()> {
        let name = tool.config.name.clone();
        let tool = Arc::new(tool);
        // The guard is a temporary of this statement: it is dropped before `not_found` reads the tools.
        let replaced = self.tools.write().get_mut(&name).map(|place| *place = tool).is_some();
        if replaced { Ok(()) } else { Err(self.not_found(&name, Some("tool.name".into()))) }
    }

    /// Removes a tool. Runs that have it go on with it.
    pub fn remove(&self, name: &str) -> Result<()> {
        // Bound first: a guard inside the match would live through it, and the error reads the tools again.
        let removed = self.tools.write().remove(name);
        match removed {
            Some(_) => Ok(()),
            None => Err(self.not_found(name, None)),
        }
    }

    /// The tools of these names and sets of names, each once, sorted by name. `path` is where the names were given.
    pub fn resolve(&self, names: &[String], path: &str) -> Result<Vec<Arc<Registered>>> {
        let mut found = BTreeMap::new();
        for (index, name) in names.iter().enumerate() {
            let at = || Some(format!("{path}[{index}]"));
            let set = self.builtin.as_ref().and_then(|_| Builtins::set(name));
            match set {
                Some(names) => {
                    for name in names {
                        found.insert(name.to_owned(), self.find(name)?.ok_or_else(|| self.not_found(name, at()))?);
                    }
                }
                None => {
                    found.insert(name.clone(), self.find(name)?.ok_or_else(|| self.not_found(name, at()))?);
                }
            }
        }
        Ok(found.into_values().collect())
    }

    fn find(&self, name: &str) -> Result<Option<Arc<Registered>>> {
        let registered = self.tools.read().get(name).cloned();
        match (registered, &self.builtin) {
            (Some(tool), _) => Ok(Some(tool)),
            (None, Some(builtin)) => builtin.get(name),
            (None, None) => Ok(None),
        }
    }

    /// Every tool, by name.
    pub fn list(&self) -> Vec<Arc<Registered>> {
        self.tools.read().values().cloned().collect()
    }

    fn not_found(&self, name: &str, path: Option<String>) -> Error {
        let error = Error::new(Status::NotFound, format!("no tool {name:?} is registered"));
        let tools = self.tools.read();
        let builtin = self.builtin.iter().flat_map(|_| Builtins::names());
        let error = match crate::config::strict::nearest(name, tools.keys().map(String::as_str).chain(builtin)) {
            Some(near) => error.with_hint(format!("did you mean {near:?}?")),
            None => error.with_hint("register it first by par_register_tool"),
        };
        match path {
            Some(path) => error.with_path(path),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;

    #[test]
    fn what_is_not_there_is_told_and_not_waited_for() {
        let registry = Registry::default();
        let config = ToolConfig::from_json(r#"{"name": "weather"}"#).unwrap();
        registry.add(Registered::new(config, Runner::Host, &Limits::default()).unwrap()).unwrap();
        let error = registry.remove("wether").unwrap_err();
        assert_eq!((error.status(), error.hint()), (Status::NotFound, Some("did you mean \"weather\"?")));
        assert_eq!(registry.remove("weather"), Ok(()));
    }
}
