//! Tools that come with the library: enabled by their names in an agent's `tools`, or by a set of them.
//!
//! One file a tool. A tool is a type that is [`Builtin`]: its input and output are Rust types, whose JSON Schemas the model
//! and the checks get; what it needs it takes from the [`Kit`], and what blocks it hands to [`Helpers`].
//! A new tool is its file and a line in [`TOOLS`].

mod bash;
mod calculator;
mod convert_temperature;
mod echo;
mod edit;
mod fetch_url;
mod find;
mod generate_password;
mod generate_uuid;
mod get_time;
mod grep;
mod hash_text;
mod json_format;
mod ls;
mod read;
mod read_blob;
mod read_webpage;
mod string_stats;
mod url_encode;
mod web_search;
mod write;

use super::shell::Shell;
use super::web::Web;
use super::{Helpers, Invocation, Registered, Review, Runner, Tool, ToolFailure, ToolOutput, WorkspaceSlot};
use crate::config::{Effect, Limits, Permission, ToolConfig};
use crate::store::Store;
use crate::types::{Error, Result};
use futures_util::future::BoxFuture;
use globset::{GlobBuilder, GlobMatcher};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, OnceLock};

/// What built-in tools work with.
#[derive(Clone)]
pub struct Kit {
    /// Where large results are.
    pub store: Arc<Store>,
    /// The folder of the runtime.
    pub workspace: Arc<WorkspaceSlot>,
    /// Threads for what blocks.
    pub helpers: Helpers,
    /// What runs programs.
    pub shell: Arc<Shell>,
    /// What fetches pages.
    pub web: Arc<Web>,
}

/// What a tool can reach: the sets of tools are made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Only its arguments and what the run has produced.
    Nothing,
    /// It reads files of the workspace.
    ReadsFiles,
    /// It writes files of the workspace.
    WritesFiles,
    /// It talks to the network.
    Network,
    /// It runs programs.
    Programs,
}

/// A tool that comes with the library.
pub trait Builtin: Send + Sync + Sized + 'static {
    /// Its name.
    const NAME: &'static str;
    /// What the model is told of it.
    const DESCRIPTION: &'static str;
    /// What it can reach.
    const REACH: Reach;
    /// What running it twice would do.
    const EFFECT: Effect = Effect::Pure;
    /// Seconds it may take.
    const TIMEOUT: f64 = 5.0;
    /// Calls at the same time, over all runs.
    const CONCURRENCY_LIMIT: Option<u32> = None;

    /// Its arguments: a struct that refuses unknown fields.
    type Input: DeserializeOwned + JsonSchema + Send;
    /// Its result.
    type Output: serde::Serialize + JsonSchema;

    /// The tool with what it needs.
    fn new(kit: &Kit) -> Self;

    /// Runs it once. Dropped when the result is not wanted any more.
    fn run<'a>(
        &'a self,
        input: Self::Input,
        call: Invocation<'a>,
    ) -> impl Future<Output = Result<Self::Output, ToolFailure>> + Send + 'a;

    /// See [`Tool::review`].
    fn review(&self, _input: Self::Input, _call: &Invocation<'_>) -> Result<Review, ToolFailure> {
        Ok(Review::Go)
    }

    /// See [`Tool::may_ask`].
    fn may_ask(&self) -> bool {
        false
    }
}

/// Every built-in tool, by name.
const TOOLS: &[Entry] = &[
    entry::<bash::Bash>(),
    entry::<calculator::Calculator>(),
    entry::<convert_temperature::ConvertTemperature>(),
    entry::<echo::Echo>(),
    entry::<edit::Edit>(),
    entry::<fetch_url::FetchUrl>(),
    entry::<find::Find>(),
    entry::<generate_password::GeneratePassword>(),
    entry::<generate_uuid::GenerateUuid>(),
    entry::<get_time::GetTime>(),
    entry::<grep::Grep>(),
    entry::<hash_text::HashText>(),
    entry::<json_format::JsonFormat>(),
    entry::<ls::Ls>(),
    entry::<read::Read>(),
    entry::<read_blob::ReadBlob>(),
    entry::<read_webpage::ReadWebpage>(),
    entry::<string_stats::StringStats>(),
    entry::<url_encode::UrlEncode>(),
    entry::<web_search::WebSearch>(),
    entry::<write::Write>(),
];

/// A named set of built-in tools.
type Set = (&'static str, fn(Reach) -> bool);

/// The sets: names of several tools at once.
const SETS: &[Set] =
    &[("builtin:all", |_| true), ("builtin:readonly", |reach| matches!(reach, Reach::Nothing | Reach::ReadsFiles))];

struct Entry {
    name: &'static str,
    reach: Reach,
    config: fn() -> Result<ToolConfig>,
    make: fn(&Kit) -> Result<Registered>,
}

const fn entry<B: Builtin>() -> Entry {
    Entry { name: B::NAME, reach: B::REACH, config: config::<B>, make: make::<B> }
}

/// The built-in tools of a runtime, each compiled when it is first used.
pub struct Builtins {
    kit: Kit,
    made: BTreeMap<&'static str, OnceLock<Arc<Registered>>>,
}

impl Builtins {
    /// The tools, with what they need.
    pub fn new(kit: Kit) -> Self {
        Self { kit, made: TOOLS.iter().map(|entry| (entry.name, OnceLock::new())).collect() }
    }

    /// The tool of this name.
    pub fn get(&self, name: &str) -> Result<Option<Arc<Registered>>> {
        let Some((entry, place)) = TOOLS.iter().find(|entry| entry.name == name).zip(self.made.get(name)) else {
            return Ok(None);
        };
        if let Some(made) = place.get() {
            return Ok(Some(Arc::clone(made)));
        }
        let made = Arc::new((entry.make)(&self.kit)?);
        Ok(Some(Arc::clone(place.get_or_init(|| made))))
    }

    /// The names of the tools in a set, if there is such a set.
    pub fn set(name: &str) -> Option<impl Iterator<Item = &'static str>> {
        let (_, has) = SETS.iter().find(|(set, _)| *set == name)?;
        Some(TOOLS.iter().filter(|entry| has(entry.reach)).map(|entry| entry.name))
    }

    /// Every tool as a host would register it, with the sets it is in.
    pub fn describe() -> Result<Vec<Value>> {
        let described = TOOLS.iter().map(|entry| {
            let sets: Vec<_> = SETS.iter().filter(|(_, has)| has(entry.reach)).map(|(name, _)| *name).collect();
            let mut tool =
                serde_json::to_value((entry.config)()?).map_err(|error| Error::internal(error.to_string()))?;
            if let Value::Object(fields) = &mut tool {
                fields.insert("sets".into(), sets.into());
            }
            Ok(tool)
        });
        described.collect()
    }

    /// The names of all tools and sets.
    pub fn names<'n>() -> impl Iterator<Item = &'n str> {
        TOOLS.iter().map(|entry| entry.name).chain(SETS.iter().map(|(name, _)| *name))
    }
}

/// A [`Builtin`] as the loop calls it.
struct Adapter<B>(B);

impl<B: Builtin> Adapter<B> {
    fn input(call: &Invocation<'_>) -> Result<B::Input, ToolFailure> {
        B::Input::deserialize(call.input)
            .map_err(|error| ToolFailure::new(format!("the arguments do not fit: {error}")))
    }
}

impl<B: Builtin> Tool for Adapter<B> {
    fn call<'a>(&'a self, invocation: Invocation<'a>) -> BoxFuture<'a, ToolOutput> {
        Box::pin(async move {
            let input = Self::input(&invocation)?;
            let output = self.0.run(input, invocation).await?;
            serde_json::to_value(output).map_err(|error| ToolFailure::new(format!("its result is not JSON: {error}")))
        })
    }

    fn review(&self, invocation: &Invocation<'_>) -> Result<Review, ToolFailure> {
        self.0.review(Self::input(invocation)?, invocation)
    }

    fn may_ask(&self) -> bool {
        self.0.may_ask()
    }
}

fn config<B: Builtin>() -> Result<ToolConfig> {
    Ok(ToolConfig {
        name: B::NAME.into(),
        description: B::DESCRIPTION.into(),
        input_schema: schema_of::<B::Input>()?,
        output_schema: Some(schema_of::<B::Output>()?),
        permission: Permission::Allow,
        timeout: B::TIMEOUT,
        concurrency_limit: B::CONCURRENCY_LIMIT,
        max_output_bytes: None,
        effect: B::EFFECT,
    })
}

fn make<B: Builtin>(kit: &Kit) -> Result<Registered> {
    Registered::new(config::<B>()?, Runner::Native(Arc::new(Adapter(B::new(kit)))), &Limits::default())
}

/// How far a search is.
#[derive(serde::Serialize)]
struct Progress {
    entries_seen: usize,
}

/// A glob of file names or paths; `*` does not go over a `/`.
fn glob(pattern: &str) -> Result<GlobMatcher, ToolFailure> {
    let glob = GlobBuilder::new(pattern).literal_separator(true).build().map_err(|error| {
        ToolFailure::new(format!("this is no glob: {error}; write it like \"*.rs\" or \"src/**/*.rs\""))
            .with_code("invalid_pattern")
    })?;
    Ok(glob.compile_matcher())
}

/// The JSON Schema of a type, whole and without what says nothing to a model.
fn schema_of<T: JsonSchema>() -> Result<Value> {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let mut value = serde_json::to_value(schema).map_err(|error| Error::internal(error.to_string()))?;
    if let Value::Object(fields) = &mut value {
        fields.shift_remove("title");
        // Of the Rust type, for its reader.
        fields.shift_remove("description");
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::tools::web::System;
    use pretty_assertions::assert_eq;

    #[test]
    fn every_tool_can_be_made_and_its_schema_says_what_each_argument_is() {
        let kit = Kit {
            store: Arc::new(Store::in_memory(&Limits::default())),
            workspace: Arc::new(WorkspaceSlot::new(None, Vec::new()).unwrap()),
            helpers: Helpers::default(),
            shell: Arc::new(Shell::new(Default::default(), Default::default())),
            web: Arc::new(Web::new(
                Default::default(),
                || Err(Error::internal("no page is fetched here")),
                Arc::new(System),
            )),
        };
        let tools = Builtins::new(kit);
        let mut names: Vec<_> = TOOLS.iter().map(|entry| entry.name).collect();
        names.sort_unstable();
        assert_eq!(names, TOOLS.iter().map(|entry| entry.name).collect::<Vec<_>>(), "sorted by name");
        for name in names {
            let tool = tools.get(name).unwrap().unwrap();
            assert!(!tool.config.description.is_empty(), "{name}");
            let schema = &tool.config.input_schema;
            assert_eq!(schema["additionalProperties"], false, "{name}: unknown arguments are refused");
            for (argument, of) in schema["properties"].as_object().into_iter().flatten() {
                assert!(of["description"].is_string(), "{name}.{argument} says nothing");
            }
        }
    }
}
