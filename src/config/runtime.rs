//! The runtime's configuration: `par_runtime_create`.

use super::{
    BashConfirm, Budget, Durability, EmbeddingsConfig, EvalLimits, EventBusConfig, MiddlewareConfig, ModelProfile,
    Persistence, ProviderConfig, QuotaConfig, RecordConfig, RetentionConfig, ShellConfig, WebConfig, WorkspaceConfig,
    WriterConfig, check_name,
};
use crate::types::{Error, Result, Status};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

/// What a runtime is made of. `{}` is valid.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(default)]
pub struct RuntimeConfig {
    /// Worker threads, 1 to 256. Default: the number of cores, 4 at most.
    pub threads: Option<u16>,
    /// Model providers by the name that agents use. Those found in the environment are added.
    pub llm_providers: BTreeMap<String, ProviderConfig>,
    /// The provider of models that name none. Default: the only one that is configured, the scripted one not counted.
    pub default_provider: Option<String>,
    /// The model that makes embeddings, apart from those that chat.
    pub embeddings: Option<EmbeddingsConfig>,
    /// Where every exchange with a provider is written down, to be replayed.
    pub record: Option<RecordConfig>,
    /// Where sessions, runs and events are kept. Default: the SQLite file `par.db` in the working directory.
    pub persistence: Persistence,
    /// When what a run does is written down, unless its request says something else.
    pub durability: Durability,
    /// How what is to be written waits.
    pub writer: WriterConfig,
    /// Seconds that events are kept. Default: seven days.
    pub event_retention_seconds: f64,
    /// How long everything else is kept.
    pub retention: RetentionConfig,
    /// How events reach whoever subscribes to them.
    pub event_bus: EventBusConfig,
    /// Whether runs that did not live to end go on by themselves, as soon as their agent is registered.
    pub resume_unfinished: bool,
    /// The folder that file tools and the shell work in. Default: the current one when the runtime is created.
    pub workspace: Option<WorkspaceConfig>,
    /// What the tool `bash` may run, and in what surroundings.
    pub shell: ShellConfig,
    /// Which commands of `bash` are asked for. Default: all.
    pub bash_confirm: BashConfirm,
    /// What the tools `fetch_url`, `read_webpage` and `web_search` may reach.
    pub web: WebConfig,
    /// Whether the tool calls of one model answer run at the same time.
    pub parallel_tool_execution: bool,
    /// Every bound.
    pub limits: Limits,
    /// How `par_runtime_close` behaves.
    pub shutdown: ShutdownConfig,
    /// What the inbox delivers besides host work.
    pub inbox: InboxConfig,
    /// What stands around every model request and tool call, outside of the agents' own.
    pub middleware: Vec<MiddlewareConfig>,
    /// How much may run at the same time. Without it only `limits` bound that.
    pub default_quota: Option<QuotaConfig>,
    /// The most that all runs together may consume.
    pub budget: Option<Budget>,
    /// The most that each session may consume.
    pub session_budget: Option<Budget>,
    /// The most that each run may consume, unless its request or its agent says something else.
    pub run_budget: Option<Budget>,
    /// What models can do and cost, where the built-in table is wrong or does not know them: by `provider/model`, or by
    /// model name; a `*` at the end stands for any rest.
    pub models: BTreeMap<String, ModelProfile>,
    /// What a model without a price means for a budget in USD.
    pub unknown_price: UnknownPrice,
    /// Bounds of conditions.
    pub eval_limits: EvalLimits,
}

/// What a model without a price means for a budget in USD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnknownPrice {
    /// The run fails before its first request.
    #[default]
    Fail,
    /// Its requests are not counted in USD, and the run says so.
    Ignore,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            threads: None,
            llm_providers: BTreeMap::new(),
            default_provider: None,
            embeddings: None,
            record: None,
            persistence: Persistence::default(),
            durability: Durability::default(),
            writer: WriterConfig::default(),
            event_retention_seconds: 604_800.0,
            retention: RetentionConfig::default(),
            event_bus: EventBusConfig::default(),
            resume_unfinished: false,
            workspace: None,
            shell: ShellConfig::default(),
            bash_confirm: BashConfirm::default(),
            web: WebConfig::default(),
            parallel_tool_execution: true,
            limits: Limits::default(),
            shutdown: ShutdownConfig::default(),
            inbox: InboxConfig::default(),
            middleware: Vec::new(),
            default_quota: None,
            budget: None,
            session_budget: None,
            run_budget: None,
            models: BTreeMap::new(),
            unknown_price: UnknownPrice::default(),
            eval_limits: EvalLimits::default(),
        }
    }
}

impl RuntimeConfig {
    /// Parses and checks the configuration.
    pub fn from_json(text: &str) -> Result<Self> {
        let config: Self = super::strict::from_str(text, "config").map_err(|error| super::to_come(error, "config"))?;
        config.check()?;
        Ok(config)
    }

    /// Refuses what makes no sense. A runtime checks its config itself, wherever it comes from.
    pub fn check(&self) -> Result<()> {
        let config = self;
        if config.threads.is_some_and(|threads| !(1..=256).contains(&threads)) {
            return Err(Error::schema("config.threads", "a runtime has 1 to 256 threads"));
        }
        config.limits.check()?;
        config.persistence.check("config.persistence")?;
        config.writer.check("config.writer")?;
        config.retention.check("config.retention")?;
        config.event_bus.check("config.event_bus")?;
        super::persistence::check_seconds(Some(config.event_retention_seconds), "config.event_retention_seconds")?;
        if !(config.shutdown.drain_timeout >= 0.0 && config.shutdown.drain_timeout <= 86_400.0) {
            return Err(Error::schema("config.shutdown.drain_timeout", "a number of seconds, 0 to 86400, is needed"));
        }
        for (index, middleware) in config.middleware.iter().enumerate() {
            middleware.check(&format!("config.middleware[{index}]"))?;
        }
        config.workspace.as_ref().map_or(Ok(()), |workspace| workspace.check("config.workspace"))?;
        config.shell.check("config.shell")?;
        config.web.check("config.web")?;
        config.record.as_ref().map_or(Ok(()), |record| record.check("config.record"))?;
        config.embeddings.as_ref().map_or(Ok(()), |embeddings| embeddings.check("config.embeddings"))?;
        config.default_quota.as_ref().map_or(Ok(()), |quota| quota.check("config.default_quota"))?;
        for (name, provider) in &config.llm_providers {
            let path = format!("config.llm_providers.{name}");
            check_name(name, &path, "a provider")?;
            provider.check(&path)?;
        }
        Ok(())
    }

    /// The number of worker threads.
    pub fn worker_threads(&self) -> usize {
        self.threads.map_or_else(|| crate::types::parallelism().min(4), usize::from)
    }
}

macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident: $default:literal, $least:literal to $most:literal;)*) => {
        /// Every bound of a runtime. Reaching one is an error or an event, never silence.
        #[derive(Clone, Debug, Deserialize, serde::Serialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        #[schemars(default)]
        pub struct Limits {
            $($(#[$doc])* pub $name: usize,)*
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl Limits {
            fn check(&self) -> Result<()> {
                $(if !($least..=$most).contains(&self.$name) {
                    return Err(Error::schema(
                        concat!("config.limits.", stringify!($name)),
                        format!(concat!("{} is outside of ", $least, " to ", $most), self.$name),
                    ));
                })*
                Ok(())
            }
        }
    };
}

limits! {
    /// Bytes of one JSON input of the C ABI. Larger: `PAR_ERR_TOO_LARGE`.
    max_input_bytes: 67_108_864, 1_024 to 1_073_741_824;
    /// Events waiting in one stream; a full stream stops reading from the provider.
    stream_queue_events: 1_024, 1 to 1_000_000;
    /// Bytes waiting in one stream.
    stream_queue_bytes: 1_048_576, 1_024 to 1_073_741_824;
    /// Messages waiting in the inbox. Host work is never dropped; events and logs are, oldest first, and counted.
    inbox_queue_events: 10_000, 1 to 1_000_000;
    /// Messages waiting for the callback thread. Host work is never dropped; events and logs are, and counted.
    callback_queue_events: 10_000, 1 to 1_000_000;
    /// Subscriptions to events at the same time. More: `PAR_ERR_LIMIT`.
    max_subscriptions: 1_000, 1 to 100_000;
    /// Tool calls that one answer of a model may make. Those beyond it are not executed, and the model is told.
    max_tool_calls_per_turn: 128, 1 to 100_000;
    /// Calls of one host tool that each agent may have at the same time, over all its runs, where the tool has no
    /// `concurrency_limit`. More wait.
    max_host_tool_calls: 256, 1 to 1_000_000;
    /// Bytes of one tool result. More: `PAR_ERR_TOO_LARGE` for the host, an error for the model.
    max_tool_result_bytes: 16_777_216, 1_024 to 268_435_456;
    /// Bytes of a tool result that the model is shown; of a larger one it sees head and tail, and the whole is kept.
    max_tool_output_bytes: 65_536, 256 to 268_435_456;
    /// Bytes of all tool results that are kept for `read_blob`; the oldest go first.
    max_blob_bytes: 268_435_456, 0 to 1_099_511_627_776;
    /// Messages that wait in one run to steer it. More: `PAR_ERR_LIMIT`.
    max_steering_messages: 100, 1 to 100_000;
    /// Steps that one check against a JSON Schema may take. More: the schema is refused, or the value that it is for.
    max_schema_steps: 1_000_000, 1_000 to 1_000_000_000;
    /// How deep agents may call each other.
    max_sub_agent_depth: 8, 1 to 64;
    /// Texts of one `embed`. More: `PAR_ERR_TOO_LARGE`.
    max_embed_inputs: 10_000, 1 to 1_000_000;
    /// Runs at the same time. More: `PAR_ERR_LIMIT`.
    max_runs: 10_000, 1 to 1_000_000;
    /// Sessions of the backend `"noop"`, which keeps them in memory. More: `PAR_ERR_LIMIT`.
    max_sessions: 100_000, 1 to 10_000_000;
    /// Sessions that another backend keeps in memory, too, to continue them without reading; those used last.
    cached_sessions: 1_000, 1 to 10_000_000;
    /// Finished runs that `runs.list` remembers.
    finished_runs: 256, 0 to 100_000;
}

impl Limits {
    /// Refuses an input over `max_input_bytes`.
    pub fn check_input(&self, bytes: usize) -> Result<()> {
        if bytes > self.max_input_bytes {
            return Err(Error::new(
                Status::TooLarge,
                format!("the input has {bytes} bytes, more than limits.max_input_bytes = {}", self.max_input_bytes),
            )
            .with_hint("pass less, or raise the limit in the runtime config"));
        }
        Ok(())
    }
}

/// How a runtime ends.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(default)]
pub struct ShutdownConfig {
    /// Seconds that runs may take to end by themselves when the runtime is closed. Default 30. Closing with a shorter timeout
    /// drains no longer than that.
    pub drain_timeout: f64,
    /// What happens to a run that does not end by itself.
    pub on_unfinished: OnUnfinished,
}

/// What closing does with a run that does not end by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnUnfinished {
    /// It stops where it is, and `runs.resume` continues it. A run whose steps are not stored (`noop`, or the durability
    /// `exit`) is cancelled.
    #[default]
    Interrupt,
    /// It is cancelled, and cannot be continued.
    Cancel,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self { drain_timeout: 30.0, on_unfinished: OnUnfinished::default() }
    }
}

/// What the inbox delivers besides host work.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(default)]
pub struct InboxConfig {
    /// The events of every run.
    pub events: bool,
    /// Log messages of this level and worse.
    pub log_level: LogLevel,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Nothing.
    #[default]
    Off,
    /// What failed.
    Error,
    /// What is odd.
    Warn,
    /// What happens.
    Info,
    /// How.
    Debug,
    /// Everything, libraries included.
    Trace,
}
