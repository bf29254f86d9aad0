//! The runtime's parts, and the handle to them.

use super::callbacks::{Callback, CallbackSlot, Callbacks};
use super::close::{self, CloseReport, Closing, Phase};
use super::driver::DriverPool;
use super::runs::Runs;
use super::scope::Scope;
use super::workers::Workers;
use crate::config::{
    AgentConfig, Limits, LogLevel, ProviderConfig, RuntimeConfig, ToolConfig, providers_from_environment, strict,
};
use crate::events::{Bounds, Hub, LogSubscriber, Queue};
use crate::llm::mock::Mock;
use crate::llm::openai_chat::OpenAiChat;
use crate::llm::{HttpPool, Provider};
use crate::store::{Memory, Store};
use crate::tools::{HostDesk, Registered, Registry, Runner, Tool, ToolFailure};
use crate::types::{AgentId, Error, Result, Status};
use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;

/// A handle to a runtime. Clones share it; the last one dropped closes it in the background.
#[derive(Clone)]
pub struct Runtime(pub(super) Arc<Handles>);

/// Counts the handles, apart from the runs that keep the core alive while they end.
pub(super) struct Handles(pub(super) Arc<Core>);

impl Drop for Handles {
    fn drop(&mut self) {
        close::begin(&self.0);
    }
}

pub(super) struct Core {
    pub id: String,
    pub config: RuntimeConfig,
    pub workers: Workers,
    pub drivers: DriverPool,
    /// Connections of the workers.
    pub http: Arc<HttpPool>,
    pub scope: Scope,
    pub agents: RwLock<BTreeMap<AgentId, Arc<AgentConfig>>>,
    pub providers: RwLock<BTreeMap<String, Arc<dyn Provider>>>,
    pub tools: Registry,
    pub store: Arc<dyn Store>,
    pub desk: Arc<HostDesk>,
    pub hub: Arc<Hub>,
    pub log: Arc<LogSubscriber>,
    pub inbox: Arc<Queue>,
    pub callbacks: Arc<Callbacks>,
    pub runs: Arc<Runs>,
    pub closing: Closing,
    pub metrics: Metrics,
}

/// What was done since the runtime was created.
#[derive(Default)]
pub(super) struct Metrics {
    pub runs_completed: AtomicU64,
    pub runs_failed: AtomicU64,
    pub runs_cancelled: AtomicU64,
    pub input_tokens: AtomicU64,
    pub output_tokens: AtomicU64,
}

impl Core {
    pub fn handle(&self) -> Result<Handle> {
        self.closing.check_open()?;
        self.workers.handle(self.config.worker_threads(), &self.log)
    }

    pub fn limits(&self) -> &Limits {
        &self.config.limits
    }
}

impl Runtime {
    /// Creates a runtime from its JSON configuration; `{}` is valid. Starts no thread and opens no connection.
    pub fn create(config: &str) -> Result<Self> {
        Self::with_config(RuntimeConfig::from_json(config)?)
    }

    /// Creates a runtime from a parsed configuration.
    pub fn with_config(config: RuntimeConfig) -> Result<Self> {
        let mut configured = providers_from_environment();
        configured.extend(config.llm_providers.clone());
        configured.entry("mock".into()).or_insert_with(|| ProviderConfig::Mock(crate::config::MockConfig::default()));
        let mut providers = BTreeMap::new();
        for (name, provider) in configured {
            providers.insert(name.clone(), build_provider(name, provider)?);
        }
        let limits = config.limits.clone();
        let inbox_bounds = Bounds { events: limits.inbox_queue_events, bytes: usize::MAX };
        let core = Arc::new(Core {
            id: crate::types::RunId::generate().to_string(),
            workers: Workers::default(),
            drivers: DriverPool::default(),
            http: Arc::default(),
            scope: Scope::new(),
            agents: RwLock::default(),
            providers: RwLock::new(providers),
            tools: Registry::default(),
            store: Arc::new(Memory::new(limits.max_sessions)),
            desk: Arc::default(),
            hub: Arc::default(),
            log: Arc::default(),
            inbox: Arc::new(Queue::new(inbox_bounds)),
            callbacks: Arc::new(Callbacks::new(limits.callback_queue_events)),
            runs: Arc::new(Runs::new(limits.max_runs, limits.finished_runs)),
            closing: Closing::default(),
            metrics: Metrics::default(),
            config,
        });
        core.connect_inbox();
        Ok(Self(Arc::new(Handles(core))))
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.0.0
    }

    /// The configured bounds.
    pub fn limits(&self) -> &Limits {
        self.core().limits()
    }

    /// Host work of blocking calls, runtime events and logs.
    pub fn inbox(&self) -> &Queue {
        self.core().desk.open_inbox();
        &self.core().inbox
    }

    /// The inbox, to be waited on without keeping the runtime open.
    pub fn shared_inbox(&self) -> Arc<Queue> {
        self.core().desk.open_inbox();
        Arc::clone(&self.core().inbox)
    }

    // ---- registry

    /// Registers an agent from its JSON definition.
    pub fn register_agent(&self, definition: &str) -> Result<()> {
        let core = self.core();
        core.closing.check_open()?;
        let agent = AgentConfig::from_json(definition)?;
        self.provider(&agent.model.provider, "agent.model.provider")?;
        core.tools.resolve(&agent.tools, "agent.tools")?;
        let mut agents = core.agents.write();
        if agents.contains_key(&agent.id) {
            return Err(Error::new(Status::Exists, format!("an agent {:?} is already registered", agent.id))
                .with_path("agent.id")
                .with_hint("unregister it first to replace it"));
        }
        agents.insert(agent.id.clone(), Arc::new(agent));
        Ok(())
    }

    /// Removes an agent. Its runs go on.
    pub fn unregister_agent(&self, id: &str) -> Result<()> {
        // Bound first: a guard inside the match would live through it, and the error reads the agents again.
        let removed = self.core().agents.write().remove(&AgentId::from(id));
        match removed {
            Some(_) => Ok(()),
            None => Err(self.no_agent(id, "agent")),
        }
    }

    /// Registers a tool that the host runs, from its JSON definition.
    pub fn register_tool(&self, definition: &str) -> Result<()> {
        self.core().closing.check_open()?;
        self.core().tools.add(Registered::new(ToolConfig::from_json(definition)?, Runner::Host)?)
    }

    /// Registers a tool written in Rust.
    pub fn register_native_tool(&self, definition: &str, tool: Arc<dyn Tool>) -> Result<()> {
        self.core().closing.check_open()?;
        self.core().tools.add(Registered::new(ToolConfig::from_json(definition)?, Runner::Native(tool))?)
    }

    /// Removes a tool. Runs that have it go on with it.
    pub fn unregister_tool(&self, name: &str) -> Result<()> {
        self.core().tools.remove(name)
    }

    /// Adds a provider written in Rust.
    pub fn register_provider(&self, provider: Arc<dyn Provider>) -> Result<()> {
        let mut providers = self.core().providers.write();
        if providers.contains_key(provider.name()) {
            return Err(Error::new(Status::Exists, format!("a provider {:?} is already registered", provider.name())));
        }
        providers.insert(provider.name().to_owned(), provider);
        Ok(())
    }

    pub(super) fn agent(&self, id: &str) -> Result<Arc<AgentConfig>> {
        let agent = self.core().agents.read().get(&AgentId::from(id)).cloned();
        agent.ok_or_else(|| self.no_agent(id, "request.agent"))
    }

    pub(super) fn provider(&self, name: &str, path: &str) -> Result<Arc<dyn Provider>> {
        let providers = self.core().providers.read();
        providers.get(name).cloned().ok_or_else(|| {
            let error = Error::new(Status::NotFound, format!("no provider {name:?} is configured")).with_path(path);
            match strict::nearest(name, providers.keys().map(String::as_str)) {
                Some(near) => error.with_hint(format!("did you mean {near:?}?")),
                None => error.with_hint(format!(
                    "add it to llm_providers, or set its key in the environment (OPENAI_API_KEY); configured: {}",
                    providers.keys().cloned().collect::<Vec<_>>().join(", ")
                )),
            }
        })
    }

    fn no_agent(&self, id: &str, path: &str) -> Error {
        let error = Error::new(Status::NotFound, format!("no agent {id:?} is registered")).with_path(path);
        match strict::nearest(id, self.core().agents.read().keys().map(AgentId::as_str)) {
            Some(near) => error.with_hint(format!("did you mean {near:?}?")),
            None => error.with_hint("register it first by par_register_agent"),
        }
    }

    // ---- host work

    /// Answers a tool call: any JSON.
    pub fn tool_complete(&self, token: u64, result: &str) -> Result<()> {
        let core = self.core();
        let most = core.limits().max_tool_result_bytes;
        if result.len() > most {
            return Err(Error::new(
                Status::TooLarge,
                format!("the result has {} bytes, more than limits.max_tool_result_bytes = {most}", result.len()),
            )
            .with_hint("the token still waits: answer it with less, or fail it"));
        }
        strict::parse(result, "result")?;
        core.desk.complete(token, raw(result.trim())?)
    }

    /// Answers a tool call with a failure: `{"message", "code"?, "retryable"?}`.
    pub fn tool_fail(&self, token: u64, failure: &str) -> Result<()> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Failure {
            message: String,
            #[serde(default)]
            code: Option<String>,
            #[serde(default)]
            retryable: bool,
        }
        let Failure { message, code, retryable } = strict::from_str(failure, "error")?;
        self.core().desk.fail(token, ToolFailure { message, code, retryable })
    }

    /// Tells how far a tool call is, any JSON, and gives it its whole time anew.
    pub fn tool_progress(&self, token: u64, note: &str) -> Result<()> {
        strict::parse(note, "note")?;
        self.core().desk.progress(token, raw(note.trim())?)
    }

    // ---- callbacks

    /// Registers, replaces or (`None`) unregisters a callback. On failure the callback is handed back undropped.
    pub fn set_callback(
        &self,
        slot: CallbackSlot,
        level: LogLevel,
        callback: Option<Callback>,
    ) -> Result<(), (Error, Option<Callback>)> {
        let core = self.core();
        let registers = callback.is_some();
        if !registers {
            core.connect_callback(slot, level, false);
        }
        core.callbacks.set(slot, callback, &core.log)?;
        if registers {
            core.connect_callback(slot, level, true);
        }
        Ok(())
    }

    // ---- the end

    /// Closes the runtime and waits until that is done: `None` for ever. No report: it goes on in the background.
    pub fn close(&self, timeout: Option<Duration>) -> Option<CloseReport> {
        close::begin(self.core());
        close::wait(self.core(), timeout)
    }

    /// Begins closing and does not wait.
    pub fn begin_close(&self) {
        close::begin(self.core());
    }

    /// Health, counts and bounds, as JSON.
    pub fn info(&self) -> Value {
        let core = self.core();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (inbox_queued, inbox_dropped) = core.inbox.counts();
        let mut info = json!({
            "runtime_id": core.id,
            "version": env!("CARGO_PKG_VERSION"),
            "state": "open",
            "threads": core.config.worker_threads(),
            "agents": core.agents.read().len(),
            "tools": core.tools.list().len(),
            "providers": core.providers.read().len(),
            "runs": {
                "live": core.runs.live(),
                "completed": count(&core.metrics.runs_completed),
                "failed": count(&core.metrics.runs_failed),
                "cancelled": count(&core.metrics.runs_cancelled),
            },
            "tasks": core.scope.len(),
            "host_calls_open": core.desk.waiting(),
            "inbox": {"queued": inbox_queued, "dropped": inbox_dropped},
            "callbacks": {"queued": core.callbacks.queued()},
            "limits": core.limits(),
        });
        let (state, report) = match core.closing.phase() {
            Phase::Open => ("open", None),
            Phase::Closing => ("closing", None),
            Phase::Closed(report) => ("closed", Some(report)),
        };
        if let Value::Object(fields) = &mut info {
            fields.insert("state".into(), state.into());
            if let Some(report) = report {
                fields.insert("close".into(), json!(report));
            }
        }
        info
    }
}

impl Core {
    /// Joins the inbox to what fills it.
    fn connect_inbox(self: &Arc<Self>) {
        let inbox = Arc::clone(&self.inbox);
        self.desk.set_inbox(Arc::new(move |_, json| inbox.push(json)));
        if self.config.inbox.events {
            let inbox = Arc::clone(&self.inbox);
            // Host work has one place each; the inbox gets its own by another way.
            let subscriber: crate::events::Subscriber = Arc::new(move |json| {
                if !is_host_work(json) {
                    inbox.push_lossy(json, is_host_work);
                }
            });
            self.hub.set("inbox", Some(subscriber));
        }
        if self.config.inbox.log_level > LogLevel::Off {
            let inbox = Arc::clone(&self.inbox);
            let sink: crate::events::Subscriber = Arc::new(move |json| inbox.push_lossy(json, is_host_work));
            self.log.set("inbox", Some((self.config.inbox.log_level, sink)));
        }
        let callbacks = Arc::downgrade(&self.callbacks);
        self.inbox.announce(move || {
            if let Some(callbacks) = callbacks.upgrade() {
                callbacks.deliver_lossy(CallbackSlot::Wakeup, br#"{"type":"wakeup","inbox":true}"#);
            }
        });
    }

    fn connect_callback(&self, slot: CallbackSlot, level: LogLevel, connected: bool) {
        let callbacks = Arc::clone(&self.callbacks);
        match slot {
            CallbackSlot::Tool => {
                let deliver: crate::tools::Deliver =
                    Arc::new(move |token, json| callbacks.deliver(CallbackSlot::Tool, token, json));
                self.desk.set_callback(connected.then_some(deliver));
            }
            CallbackSlot::Event => {
                let subscriber: crate::events::Subscriber =
                    Arc::new(move |json| callbacks.deliver_lossy(CallbackSlot::Event, json));
                self.hub.set("callback", connected.then_some(subscriber));
            }
            CallbackSlot::Log => {
                let sink: crate::events::Subscriber =
                    Arc::new(move |json| callbacks.deliver_lossy(CallbackSlot::Log, json));
                self.log.set("callback", connected.then_some((level, sink)));
            }
            CallbackSlot::Wakeup => {}
        }
    }
}

/// What the inbox must never lose: calls that wait for an answer, their cancellation, and streams that are ready.
fn is_host_work(json: &[u8]) -> bool {
    let text = std::str::from_utf8(json).unwrap_or_default();
    [r#""type":"tool_call","#, r#""type":"tool_cancelled","#, r#""type":"ready""#]
        .iter()
        .any(|kind| text.contains(kind))
}

fn build_provider(name: String, config: ProviderConfig) -> Result<Arc<dyn Provider>> {
    Ok(match config {
        ProviderConfig::OpenAi(config) => Arc::new(OpenAiChat::new(name, "openai", config)?),
        ProviderConfig::Custom(config) => Arc::new(OpenAiChat::new(name, "custom", config)?),
        ProviderConfig::Mock(config) => Arc::new(Mock::new(name, config)),
    })
}

fn raw(text: &str) -> Result<Box<RawValue>> {
    RawValue::from_string(text.to_owned()).map_err(|error| Error::new(Status::Json, error.to_string()))
}
