//! The runtime's parts, and the handle to them.

use super::agents::{AgentTable, Directory};
use super::callbacks::{Callback, CallbackSlot, Callbacks};
use super::close::{self, CloseReport, Closing, Phase};
use super::driver::DriverPool;
use super::providers::build_provider;
use super::runs::Runs;
use super::scope::Scope;
use super::threads;
use super::workers::Workers;
use crate::agent::{Account, Agents, Ledger, Spent, check_result};
use crate::approval::ApprovalDesk;
use crate::config::{
    AgentConfig, Decision, Limits, LogLevel, ProviderConfig, RuntimeConfig, Steering, ToolConfig,
    providers_from_environment, strict,
};
use crate::events::{Bounds, Bus, Class, Hub, LogSink, LogSubscriber, Queue, Subscriber};
use crate::llm::{HttpPool, Provider, Recorder, trusted_tls};
use crate::middleware::Chain;
use crate::store::{DeadLetter, Process, Store, StoreConfig};
use crate::tools::builtin::{Builtins, Kit};
use crate::tools::shell::Shell;
use crate::tools::web::{System, Web};
use crate::tools::{Helpers, HostDesk, Registered, Registry, Runner, Tool, ToolFailure, WorkspaceSlot};
use crate::types::{AgentId, Error, Result, Status, now_ms};
use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// A handle to a runtime. Clones share it; the last one dropped closes it in the background.
#[derive(Clone)]
pub struct Runtime(pub(super) Arc<Handles>);

/// Counts the handles, apart from the runs that keep the core alive while they end.
pub(super) struct Handles(pub(super) Arc<Core>);

impl Drop for Handles {
    fn drop(&mut self) {
        close::begin(&self.0, Duration::ZERO);
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
    pub agents: AgentTable,
    /// The same, for runs.
    pub directory: Arc<dyn Agents>,
    /// What stands around every request and call.
    pub chain: Chain,
    /// How many runs may run at the same time.
    pub places: Option<Arc<Semaphore>>,
    /// What every run draws on.
    pub account: Account,
    pub approvals: Arc<ApprovalDesk>,
    /// The bounds, as runs share them.
    pub shared_limits: Arc<Limits>,
    pub shared_id: Arc<str>,
    pub providers: RwLock<BTreeMap<String, Arc<dyn Provider>>>,
    /// Where exchanges with them are written down.
    pub recorder: Option<Arc<Recorder>>,
    /// The provider of models that name none.
    pub default_provider: RwLock<Option<String>>,
    pub tools: Registry,
    /// The blocking work of tools.
    pub helpers: Helpers,
    pub store: Arc<Store>,
    pub desk: Arc<HostDesk>,
    pub hub: Arc<Hub>,
    pub bus: Arc<Bus>,
    /// The tasks that deliver to subscriptions: they end after all others, whose last events they deliver.
    pub deliveries: Scope,
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
    pub runs_suspended: AtomicU64,
    pub input_tokens: AtomicU64,
    pub output_tokens: AtomicU64,
}

impl Core {
    /// Puts a tool that the host runs in the place of the registered one of that name. Runs that have it go on with it.
    pub fn replace_tool(&self, config: ToolConfig) -> Result<()> {
        self.tools.replace(Registered::new(config, Runner::Host, self.limits())?)?;
        self.agents.changed();
        Ok(())
    }

    pub fn handle(&self) -> Result<Handle> {
        self.closing.check_open()?;
        self.workers.handle(self.config.worker_threads(), &self.log)
    }

    pub fn limits(&self) -> &Limits {
        &self.config.limits
    }
}

impl Runtime {
    /// Creates a runtime from its JSON configuration; `{}` is valid. Opens no connection and starts no thread, but the one that
    /// forwards a database for which that is configured.
    pub fn create(config: &str) -> Result<Self> {
        Self::with_config(RuntimeConfig::from_json(config)?)
    }

    /// Creates a runtime from a parsed configuration.
    pub fn with_config(config: RuntimeConfig) -> Result<Self> {
        config.check()?;
        let chain = Chain::build(&config.middleware, "config.middleware")?;
        let mut configured = providers_from_environment();
        configured.extend(config.llm_providers.clone());
        configured.entry("mock".into()).or_insert_with(|| ProviderConfig::Mock(crate::config::MockConfig::default()));
        let recorder = config.record.as_ref().map(|record| Recorder::open(&record.path)).transpose()?;
        let mut providers = BTreeMap::new();
        for (name, provider) in configured {
            providers.insert(name.clone(), build_provider(name, provider, recorder.as_ref())?);
        }
        if let Some(name) = config.default_provider.as_ref().filter(|name| !providers.contains_key(*name)) {
            return Err(Error::new(Status::NotFound, format!("no provider {name:?} is configured"))
                .with_path("config.default_provider"));
        }
        let limits = config.limits.clone();
        let inbox_bounds = Bounds { events: limits.inbox_queue_events, bytes: usize::MAX };
        let id = crate::types::RunId::generate().to_string();
        let log = Arc::<LogSubscriber>::default();
        let store = Arc::new(Store::open(&StoreConfig {
            persistence: &config.persistence,
            durability: config.durability,
            writer: config.writer,
            event_retention_seconds: config.event_retention_seconds,
            retention: config.retention,
            limits: &limits,
            owner: &id,
            process: Process {
                begin_thread: {
                    let log = Arc::clone(&log);
                    Arc::new(move || threads::adopt(&log))
                },
                trusted_tls,
            },
        })?);
        let workspace = Arc::new(WorkspaceSlot::new(config.workspace.as_ref(), config.persistence.files())?);
        let helpers = Helpers::default();
        let shell = Arc::new(Shell::new(config.shell.clone(), config.bash_confirm.clone()));
        let web = Arc::new(Web::new(config.web.clone(), trusted_tls, Arc::new(System)));
        let kit = Kit { store: Arc::clone(&store), workspace, helpers: helpers.clone(), shell, web };
        let ledgers = config
            .budget
            .filter(|budget| !budget.is_unlimited())
            .map(|budget| Arc::new(Ledger::new("runtime", budget, None, Spent::default(), Duration::ZERO)));
        let hub = Arc::<Hub>::default();
        let bus = Bus::new(config.event_bus, limits.max_subscriptions, Arc::clone(&store), Arc::clone(&hub));
        let core = Arc::new_cyclic(|core| Core {
            shared_id: Arc::from(id.as_str()),
            id,
            chain,
            directory: Arc::new(Directory(core.clone())),
            places: config.default_quota.map(|quota| Arc::new(Semaphore::new(quota.max_concurrent_tasks as usize))),
            account: Account::new(ledgers.into_iter().collect()),
            approvals: Arc::default(),
            shared_limits: Arc::new(limits.clone()),
            workers: Workers::default(),
            drivers: DriverPool::default(),
            http: Arc::default(),
            scope: Scope::new(),
            agents: AgentTable::default(),
            providers: RwLock::new(providers),
            recorder,
            default_provider: RwLock::new(config.default_provider.clone()),
            tools: Registry::with_builtin(Builtins::new(kit)),
            helpers,
            store,
            desk: Arc::default(),
            hub,
            bus: Arc::new(bus),
            deliveries: Scope::new(),
            log,
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
        let id = agent.id.clone();
        core.agents.add(core, agent)?;
        if core.config.resume_unfinished { core.resume_all(id) } else { Ok(()) }
    }

    /// Removes an agent. Its runs go on.
    pub fn unregister_agent(&self, id: &str) -> Result<()> {
        let agents = &self.core().agents;
        match agents.remove(&AgentId::from(id)) {
            true => Ok(()),
            false => Err(agents.missing(&AgentId::from(id), "agent")),
        }
    }

    /// Registers a tool that the host runs, from its JSON definition.
    pub fn register_tool(&self, definition: &str) -> Result<()> {
        self.add_tool(definition, Runner::Host)
    }

    /// Registers a tool written in Rust.
    pub fn register_native_tool(&self, definition: &str, tool: Arc<dyn Tool>) -> Result<()> {
        self.add_tool(definition, Runner::Native(tool))
    }

    fn add_tool(&self, definition: &str, runner: Runner) -> Result<()> {
        let core = self.core();
        core.closing.check_open()?;
        let config = ToolConfig::from_json_within(definition, core.config.eval_limits)?;
        core.tools.add(Registered::new(config, runner, core.limits())?)?;
        core.agents.changed();
        Ok(())
    }

    /// Removes a tool. Runs that have it go on with it.
    pub fn unregister_tool(&self, name: &str) -> Result<()> {
        self.core().tools.remove(name)?;
        self.core().agents.changed();
        Ok(())
    }

    /// Adds a provider from its JSON definition: as in `llm_providers`, with its `name`.
    pub fn register_provider_config(&self, definition: &str) -> Result<()> {
        self.core().closing.check_open()?;
        let (name, config) = ProviderConfig::from_json(definition)?;
        self.register_provider(build_provider(name, config, self.core().recorder.as_ref())?)
    }

    /// Adds a provider written in Rust.
    pub fn register_provider(&self, provider: Arc<dyn Provider>) -> Result<()> {
        let name = provider.name().to_owned();
        let mut providers = self.core().providers.write();
        if providers.contains_key(&name) {
            return Err(Error::new(Status::Exists, format!("a provider {name:?} is already registered"))
                .with_path("provider.name")
                .with_hint("remove it first by providers.remove"));
        }
        providers.insert(name, provider);
        drop(providers);
        self.core().agents.changed();
        Ok(())
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
        check_result(&strict::parse_free(result, "result")?, "result")?;
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
        strict::parse_free(note, "note")?;
        self.core().desk.progress(token, raw(note.trim())?)
    }

    /// Answers an approval request: a decision, as JSON.
    pub fn approval_resolve(&self, approval_id: &str, decision: &str) -> Result<()> {
        let core = self.core();
        let decision = strict::parse(decision, "decision")?;
        match core.approvals.resolve(approval_id, Decision::from_value(&decision)?) {
            // It may be one of a run whose process has ended.
            Err(error) if error.status() == Status::NotFound && !threads::is_own_thread() => {
                core.drivers.block_on(&core.log, |_| core.resolve_approval(approval_id, &decision))
            }
            answered => answered,
        }
    }

    /// Says something to a living run: a text or a message, as JSON.
    pub fn steer(&self, run_id: &str, message: &str) -> Result<()> {
        let Steering { input, when } = Steering::from_json(message)?;
        self.core().runs.control(run_id)?.say(input.0, when)
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
            core.callbacks.check_barrier().map_err(|error| (error, None))?;
            core.connect_callback(slot, level, false);
        }
        core.callbacks.set(slot, callback, &core.log)?;
        if registers {
            core.connect_callback(slot, level, true);
        } else {
            core.keep_uncalled();
        }
        Ok(())
    }

    // ---- the end

    /// Closes the runtime and waits until that is done: `None` for ever. No report: it goes on in the background.
    ///
    /// Runs may end by themselves for `shutdown.drain_timeout`, or for most of `timeout` if that is shorter.
    pub fn close(&self, timeout: Option<Duration>) -> Option<CloseReport> {
        // The rest of the timeout is for what comes after the runs.
        let drain = timeout.map_or(Duration::MAX, |timeout| timeout - (timeout / 5).min(Duration::from_secs(1)));
        close::begin(self.core(), drain);
        close::wait(self.core(), timeout)
    }

    /// Begins closing, lets no run go on, and does not wait.
    pub fn begin_close(&self) {
        close::begin(self.core(), Duration::ZERO);
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
            "agents": core.agents.len(),
            "tools": core.tools.list().len(),
            "providers": core.providers.read().len(),
            "runs": {
                "live": core.runs.live(),
                "completed": count(&core.metrics.runs_completed),
                "failed": count(&core.metrics.runs_failed),
                "cancelled": count(&core.metrics.runs_cancelled),
                "suspended": count(&core.metrics.runs_suspended),
            },
            "tasks": core.scope.len() + core.deliveries.len(),
            "host_calls_open": core.desk.waiting(),
            "approvals_open": core.approvals.list().len(),
            "inbox": {"queued": inbox_queued, "dropped": inbox_dropped},
            "callbacks": {"queued": core.callbacks.queued()},
            "event_bus": core.bus.info(),
            "store": core.store.info(),
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
            let core = Arc::downgrade(self);
            // Host work has one destination each; what the inbox is to do comes to it from the desk.
            let subscriber: Subscriber = Arc::new(move |kind, json| {
                if !kind.is_host_work() {
                    keep_lost(&core, INBOX, inbox.push_lossy(json, Class::Event));
                }
            });
            self.hub.set("inbox", Some(subscriber));
        }
        if self.config.inbox.log_level > LogLevel::Off {
            let inbox = Arc::clone(&self.inbox);
            let core = Arc::downgrade(self);
            let sink: LogSink = Arc::new(move |json| keep_lost(&core, INBOX, inbox.push_lossy(json, Class::Log)));
            self.log.set("inbox", Some((self.config.inbox.log_level, sink)));
        }
        let callbacks = Arc::downgrade(&self.callbacks);
        self.inbox.announce(move || {
            if let Some(callbacks) = callbacks.upgrade() {
                callbacks.deliver_lossy(CallbackSlot::Wakeup, br#"{"type":"wakeup","inbox":true}"#);
            }
        });
    }

    fn connect_callback(self: &Arc<Self>, slot: CallbackSlot, level: LogLevel, connected: bool) {
        let callbacks = Arc::clone(&self.callbacks);
        match slot {
            CallbackSlot::Tool => {
                let deliver: crate::tools::Deliver =
                    Arc::new(move |token, json| callbacks.deliver(CallbackSlot::Tool, token, json));
                self.desk.set_callback(connected.then_some(deliver));
            }
            CallbackSlot::Approval => {
                let deliver: crate::events::Deliver =
                    Arc::new(move |token, json| callbacks.deliver(CallbackSlot::Approval, token, json));
                self.approvals.set_callback(connected.then_some(deliver));
            }
            CallbackSlot::Event => {
                let core = Arc::downgrade(self);
                let subscriber: Subscriber = Arc::new(move |_, json| {
                    keep_lost(&core, CALLBACK, callbacks.deliver_lossy(CallbackSlot::Event, json));
                });
                self.hub.set("callback", connected.then_some(subscriber));
            }
            CallbackSlot::Log => {
                let core = Arc::downgrade(self);
                let sink: LogSink = Arc::new(move |json| {
                    keep_lost(&core, CALLBACK, callbacks.deliver_lossy(CallbackSlot::Log, json));
                });
                self.log.set("callback", connected.then_some((level, sink)));
            }
            CallbackSlot::Wakeup => {}
        }
    }
}

/// The inbox, as a dead letter names it.
pub(super) const INBOX: &str = "inbox";
/// The event callback, as a dead letter names it.
pub(super) const CALLBACK: &str = "callback";

/// Keeps an event that was dropped because its reader was too slow.
fn keep_lost(core: &Weak<Core>, subscription: &str, lost: Option<Vec<u8>>) {
    let Some(event) = lost.and_then(|json| serde_json::from_slice::<Value>(&json).ok()) else { return };
    if let Some(core) = core.upgrade() {
        core.keep_letter(subscription, "its reader was too slow: the queue was full", event);
    }
}

impl Core {
    fn keep_letter(self: &Arc<Self>, subscription: &str, reason: &str, event: Value) {
        let (subscription, reason) = (subscription.to_owned(), reason.to_owned());
        let letters = self.bus.letters();
        letters.keep_now(DeadLetter { id: 0, subscription, reason, attempts: 1, at_ms: now_ms(), event });
        if letters.wants_trim()
            && let Ok(handle) = self.handle()
        {
            let core = Arc::clone(self);
            self.deliveries.spawn(&handle, async move { core.bus.letters().trim().await });
        }
    }

    /// Keeps what waited for a callback that will not be called any more. A delivery that must be acknowledged is tried again by
    /// itself.
    fn keep_uncalled(self: &Arc<Self>) {
        let reason = "the callback was unregistered";
        for message in self.callbacks.take_uncalled() {
            let Ok(mut message) = serde_json::from_slice::<Value>(&message) else { continue };
            let subscription = message.get("subscription").and_then(Value::as_str).map(str::to_owned);
            match (subscription, message.get_mut("event").map(Value::take)) {
                (Some(_), _) if message.get("delivery").is_some() => {}
                (Some(subscription), Some(event)) => self.keep_letter(&subscription, reason, event),
                // A dead letter that was replayed is the event itself.
                (None, _) | (_, None) => self.keep_letter(CALLBACK, reason, message),
            }
        }
    }
}

fn raw(text: &str) -> Result<Box<RawValue>> {
    RawValue::from_string(text.to_owned()).map_err(|error| Error::new(Status::Json, error.to_string()))
}
