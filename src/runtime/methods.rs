//! The methods of `par_call`: the long tail that needs no handle and no token.

use super::core::{Core, Runtime};
use super::parallel::Dispatch;
use super::stream::{Answer, Stream};
use super::subscriptions;
use super::{stored, stored_events};
use crate::approval;
use crate::config::{self, Decision, EmbedCall, ParallelRequest, RunRequest, ToolConfig, strict};
use crate::events::{Emitter, Wishes};
use crate::llm::HttpPool;
use crate::tools::builtin::Builtins;
use crate::types::{self, AgentId, Cancel, Envelope, Error, Result, RunId, Status};
use schemars::{JsonSchema, Schema, schema_for};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

macro_rules! methods {
    ($($name:literal $variant:ident($params:ty): $about:literal;)*) => {
        /// What a method is asked, read.
        enum Call {
            $($variant($params),)*
        }

        const NAMES: &[&str] = &[$($name,)*];

        impl Call {
            fn read(method: &str, params: &Value) -> Result<Option<Self>> {
                Ok(Some(match method {
                    $($name => Self::$variant(strict::read(params, "params")?),)*
                    _ => return Ok(None),
                }))
            }
        }

        fn described() -> Vec<(&'static str, &'static str, Schema)> {
            vec![$(($name, $about, schema_for!($params)),)*]
        }
    };
}

methods! {
    "agents.get" AgentsGet(AgentParams): "a registered agent";
    "agents.list" AgentsList(NoParams): "the registered agents";
    "agents.update" AgentsUpdate(AgentUpdate): "adds tools to an agent, or takes them away; runs under way keep theirs";
    "approvals.list" ApprovalsList(NoParams): "the tool calls that wait for approval, oldest first";
    "approvals.resolve" ApprovalsResolve(ApprovalParams): "answers an approval request";
    "describe" Describe(NoParams): "every method, and the JSON Schema of every shape";
    "embed" Embed(EmbedCall): "the vectors of one text or several";
    "invoke_parallel" InvokeParallel(ParallelRequest): "runs several requests at once and answers what came of each";
    "metrics.snapshot" MetricsSnapshot(NoParams): "what was done since the runtime was created";
    "models.get" ModelsGet(ModelParams): "what is known of a model: its window, abilities and price";
    "providers.list" ProvidersList(NoParams): "the configured model providers";
    "providers.remove" ProvidersRemove(ProviderParams): "removes a model provider; runs under way keep it";
    "providers.set_default" ProvidersSetDefault(ProviderParams): "makes a provider that of models that name none";
    "events.ack" EventsAck(subscriptions::AckParams): "says that a delivery was received";
    "events.dead_letters" EventsDeadLetters(stored::PageParams): "events that could not be delivered, oldest first";
    "events.export" EventsExport(stored_events::ExportParams): "writes stored events to a file, one JSON object a line";
    "events.nack" EventsNack(subscriptions::NackParams): "says that a delivery was of no use: it is tried again, or becomes a dead letter";
    "events.query" EventsQuery(stored_events::QueryParams): "stored events, oldest first";
    "events.replay" EventsReplay(stored_events::ReplayParams): "delivers dead letters once more, and forgets those that were taken";
    "events.subscribe" EventsSubscribe(config::SubscribeParams): "delivers events to the inbox or the callback, or as a stream of its own";
    "events.subscriptions" EventsSubscriptions(NoParams): "the subscriptions to events, and what was delivered";
    "events.unsubscribe" EventsUnsubscribe(subscriptions::SubscriptionName): "ends a subscription; what waits in it becomes dead letters";
    "runs.abandon" RunsAbandon(stored::RunKey): "ends a run that its process did not live to end, and that nobody will resume";
    "runs.cancel" RunsCancel(CancelParams): "cancels a living run, at once or after its turn";
    "runs.detach" RunsDetach(RunParams): "lets a run go on when its stream is freed; runs.get then has its result";
    "runs.get" RunsGet(stored::RunKey): "one run, and what came of it";
    "runs.list" RunsList(stored::RunsParams): "runs, newest first";
    "runs.resume" RunsResume(stored::RunKey): "goes on with a run that its process did not live to end, and answers its result";
    "sessions.create" SessionsCreate(stored::SessionParams): "makes an empty session";
    "sessions.delete" SessionsDelete(stored::SessionParams): "forgets a session, and blanks the events of its runs";
    "sessions.export" SessionsExport(stored::SessionParams): "a session with its messages, runs and events";
    "sessions.fork" SessionsFork(stored::ForkParams): "copies a session, or its beginning, to a new one";
    "sessions.get" SessionsGet(stored::SessionParams): "a session with its messages";
    "sessions.list" SessionsList(stored::ScopePageParams): "the sessions of a scope, those used last first";
    "store.backup" StoreBackup(stored::BackupParams): "copies the whole database into a new file while it is in use";
    "store.forward" StoreForward(stored::ForwardParams): "ships all that is kept to where the database is forwarded, and waits for it";
    "store.info" StoreInfo(NoParams): "how the store is doing, and how much is in it";
    "store.prune" StorePrune(stored::PruneParams): "removes what is too old, now";
    "store.restore" StoreRestore(stored::RestoreParams): "puts what was forwarded of a database into this one, which is empty";
    "store.verify" StoreVerify(NoParams): "looks for whatever is wrong with what is stored";
    "tools.list" ToolsList(NoParams): "the registered tools";
    "tools.replace" ToolsReplace(ReplaceParams): "puts a host tool in the place of the one of that name; runs under way keep theirs";
}

/// Parameters of a method that takes none.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NoParams {}

/// Parameters of a method about one run.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RunParams {
    /// The run.
    run_id: String,
}

/// Parameters of `runs.cancel`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CancelParams {
    /// The run.
    run_id: String,
    /// Why.
    #[serde(default = "no_reason")]
    reason: String,
    /// When.
    #[serde(default)]
    when: CancelWhen,
}

fn no_reason() -> String {
    "cancelled by the host".into()
}

/// When a run is to end.
#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum CancelWhen {
    /// At once.
    #[default]
    Now,
    /// When the model has answered and its tools have run.
    AfterTurn,
}

/// Parameters of a method about one agent.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AgentParams {
    /// The agent.
    agent: AgentId,
}

/// Parameters of `agents.update`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AgentUpdate {
    /// The agent.
    agent: AgentId,
    /// Tools to add.
    #[serde(default)]
    add_tools: Vec<String>,
    /// Tools to take away.
    #[serde(default)]
    remove_tools: Vec<String>,
}

/// Parameters of `tools.replace`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReplaceParams {
    /// The tool, as for `par_register_tool`.
    #[schemars(with = "ToolConfig")]
    tool: Value,
}

/// Parameters of `approvals.resolve`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ApprovalParams {
    /// The approval.
    approval_id: String,
    /// The decision, as for `par_approval_resolve`.
    #[schemars(with = "Decision")]
    decision: Value,
}

/// Parameters of `models.get`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ModelParams {
    /// `provider/model`.
    model: String,
}

/// Parameters of a method about one provider.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ProviderParams {
    /// Key of `llm_providers`.
    provider: String,
}

/// Where a method is called from.
struct Caller<'a> {
    run_id: &'a RunId,
    emitter: &'a Emitter,
    http: &'a HttpPool,
    cancel: &'a Cancel,
}

impl Runtime {
    /// Calls a method and answers its JSON. Must not be called from async code: it blocks.
    pub fn call(&self, method: &str, params: &str, timeout: Option<Duration>) -> Answer {
        let call = self.check_call(method, params)?;
        let core = self.core();
        core.drivers.block_on(&core.log, |http| async move {
            let (run_id, cancel) = (RunId::generate(), core.scope.cancel().child());
            let emitter = Emitter::new(Envelope::new(&run_id, None), None, Arc::clone(&core.hub), Wishes::default());
            let caller = Caller { run_id: &run_id, emitter: &emitter, http: &http, cancel: &cancel };
            let mut work = std::pin::pin!(answer(core, call, &caller));
            let Some(limit) = timeout else { return work.await };
            match tokio::time::timeout(limit, &mut work).await {
                Ok(answer) => answer,
                Err(_) => {
                    // What it has begun ends in order.
                    cancel.cancel("the method did not end within its time");
                    let _ = work.await;
                    Err(Error::new(Status::Deadline, "the method did not end within its time").with_retryable(true))
                }
            }
        })
    }

    /// Starts a method: a stream that ends with its answer.
    pub fn call_start(&self, method: &str, params: &str) -> Result<Stream> {
        let call = self.check_call(method, params)?;
        if let Call::RunsResume(stored::RunKey { scope, run_id }) = &call {
            // Its events are those of the run itself.
            return self.resume_stream(scope, run_id);
        }
        if let Call::EventsSubscribe(params) = call {
            return self.subscribe_stream(params);
        }
        // The task must not keep the runtime open: it holds the core, not a handle.
        let core = Arc::clone(self.core());
        self.core().start_task(move |run_id, emitter, cancel| async move {
            let http = Arc::clone(&core.http);
            let caller = Caller { run_id: &run_id, emitter: &emitter, http: &http, cancel: &cancel };
            answer(&core, call, &caller).await
        })
    }

    /// Lists `agents`, `tools`, `providers`, `sessions`, `runs` or `subscriptions`.
    pub fn list(&self, kind: &str) -> Answer {
        let method = match kind {
            "agents" => "agents.list",
            "tools" => "tools.list",
            "providers" => "providers.list",
            "sessions" => "sessions.list",
            "runs" => "runs.list",
            "subscriptions" => "events.subscriptions",
            other => {
                let kinds = ["agents", "tools", "providers", "sessions", "runs", "subscriptions"];
                let error = Error::new(Status::NotFound, format!("there is no list of {other:?}"));
                return Err(match strict::nearest(other, kinds) {
                    Some(near) => error.with_hint(format!("did you mean {near:?}?")),
                    None => error.with_hint(format!("lists: {}", kinds.join(", "))),
                });
            }
        };
        self.call(method, "{}", None)
    }

    /// A living or lately ended run, as JSON.
    pub fn run_status(&self, run_id: &str) -> Answer {
        // Without asking the store, where that is not needed.
        match self.core().runs.get(run_id) {
            Some(run) => serde_json::to_string(&run).map_err(|error| Error::internal(error.to_string())),
            None => self.call("runs.get", &json!({"run_id": run_id}).to_string(), None),
        }
    }

    fn check_call(&self, method: &str, params: &str) -> Result<Call> {
        self.core().closing.check_open()?;
        self.core().limits().check_input(params.len())?;
        let params = strict::parse(if params.is_empty() { "{}" } else { params }, "params")?;
        Call::read(method, &params)?.ok_or_else(|| {
            let error = Error::new(Status::NotFound, format!("there is no method {method:?}"));
            match strict::nearest(method, NAMES.iter().copied()) {
                Some(near) => error.with_hint(format!("did you mean {near:?}?")),
                None => error.with_hint("par_call(\"describe\") lists every method"),
            }
        })
    }
}

async fn answer(core: &Arc<Core>, call: Call, caller: &Caller<'_>) -> Answer {
    let value = match call {
        Call::AgentsGet(AgentParams { agent }) => match core.agents.get(&agent) {
            Some(agent) => agent_json(&agent),
            None => return Err(core.agents.missing(&agent, "params.agent")),
        },
        Call::AgentsList(NoParams {}) => list(core.agents.list().iter().map(|agent| agent_json(agent)).collect()),
        Call::AgentsUpdate(update) => core.update_agent(update)?,
        Call::ApprovalsList(NoParams {}) => {
            let mut waiting = core.approvals.list();
            waiting.extend(approval::waiting(&core.store).await?);
            waiting.sort_by(|a, b| a.approval_id.cmp(&b.approval_id));
            list(waiting.iter().map(|approval| json!(approval)).collect())
        }
        Call::ApprovalsResolve(ApprovalParams { approval_id, decision }) => {
            core.resolve_approval(&approval_id, &decision).await?;
            json!({"resolved": true})
        }
        Call::Describe(NoParams {}) => describe()?,
        Call::Embed(call) => return core.embed(call, caller.emitter, caller.http, caller.cancel).await,
        Call::InvokeParallel(request) => {
            let requests = request.check("params")?;
            let Caller { run_id, emitter, http, cancel } = *caller;
            return Dispatch { core, run_id, emitter, http, cancel }.run(request, requests).await;
        }
        Call::MetricsSnapshot(NoParams {}) => core.metrics_snapshot(),
        Call::ModelsGet(ModelParams { model }) => core.model_json(&model)?,
        Call::ProvidersList(NoParams {}) => {
            let providers: Vec<_> = core.providers.read().values().cloned().collect();
            let default = core.default_provider.read().clone();
            let item = |provider: &Arc<dyn crate::llm::Provider>| {
                let name = provider.name();
                json!({"name": name, "type": provider.kind(), "default": default.as_deref() == Some(name)})
            };
            list(providers.iter().map(item).collect())
        }
        Call::ProvidersRemove(ProviderParams { provider }) => {
            core.provider(&provider, "params.provider")?;
            core.providers.write().remove(&provider);
            core.agents.changed();
            json!({"removed": true})
        }
        Call::ProvidersSetDefault(ProviderParams { provider }) => {
            core.provider(&provider, "params.provider")?;
            *core.default_provider.write() = Some(provider);
            core.agents.changed();
            json!({"default": true})
        }
        Call::RunsCancel(CancelParams { run_id, reason, when }) => {
            let control = core.runs.control(&run_id)?;
            match when {
                CancelWhen::Now => control.cancel.cancel(&reason),
                CancelWhen::AfterTurn => control.cancel_after_turn(&reason),
            }
            json!({"cancelled": true})
        }
        Call::RunsDetach(RunParams { run_id }) => {
            core.runs.control(&run_id)?.detach();
            json!({"detached": true})
        }
        Call::EventsAck(params) => core.acknowledge(params)?,
        Call::EventsNack(params) => core.refuse(params)?,
        Call::EventsSubscribe(params) => core.subscribe(params).await?,
        Call::EventsSubscriptions(NoParams {}) => core.list_subscriptions(),
        Call::EventsUnsubscribe(params) => core.unsubscribe(params).await?,
        Call::EventsDeadLetters(params) => core.dead_letters(params).await?,
        Call::EventsExport(params) => core.export_events(params).await?,
        Call::EventsQuery(params) => return core.query_events(params).await,
        Call::EventsReplay(params) => core.replay(params).await?,
        Call::RunsAbandon(params) => core.abandon_run(params).await?,
        Call::RunsGet(params) => core.run_json(&params).await?,
        Call::RunsList(params) => core.list_runs(params).await?,
        Call::RunsResume(stored::RunKey { scope, run_id }) => {
            let has_stream = caller.emitter.queue().is_some();
            return core.resume(&scope, &run_id, has_stream, caller.http, caller.cancel).await;
        }
        Call::SessionsCreate(params) => core.create_session(params).await?,
        Call::SessionsExport(params) => core.export_session(params).await?,
        Call::SessionsFork(params) => core.fork_session(params).await?,
        Call::StoreBackup(params) => core.back_up(params).await?,
        Call::StoreForward(params) => core.forward(params).await?,
        Call::StoreInfo(NoParams {}) => core.store_json().await?,
        Call::StorePrune(params) => core.prune(params).await?,
        Call::StoreRestore(params) => core.restore(params).await?,
        Call::StoreVerify(NoParams {}) => {
            let problems = core.store.verify().await?;
            json!({"ok": problems.is_empty(), "problems": problems})
        }
        Call::SessionsDelete(params) => core.delete_session(params).await?,
        Call::SessionsGet(params) => core.session_json(params).await?,
        Call::SessionsList(params) => core.list_sessions(params).await?,
        Call::ToolsList(NoParams {}) => list(core.tools.list().iter().map(|tool| json!(tool.config)).collect()),
        Call::ToolsReplace(ReplaceParams { tool }) => {
            core.replace_tool(ToolConfig::from_value(&tool, core.config.eval_limits, "params.tool")?)?;
            json!({"replaced": true})
        }
    };
    Ok(value.to_string())
}

impl Core {
    fn update_agent(&self, update: AgentUpdate) -> Result<Value> {
        let AgentUpdate { agent: id, add_tools, remove_tools } = update;
        let change = |agent: &config::AgentConfig| {
            let mut tools = agent.tools.clone();
            for (index, name) in remove_tools.iter().enumerate() {
                let at = tools.iter().position(|tool| tool == name).ok_or_else(|| {
                    Error::new(Status::NotFound, format!("the agent {id:?} has no tool {name:?}"))
                        .with_path(format!("params.remove_tools[{index}]"))
                })?;
                tools.remove(at);
            }
            self.tools.resolve(&add_tools, "params.add_tools")?;
            for (index, name) in add_tools.iter().enumerate() {
                if tools.contains(name) {
                    return Err(Error::new(Status::Exists, format!("the agent {id:?} has the tool {name:?} already"))
                        .with_path(format!("params.add_tools[{index}]")));
                }
                tools.push(name.clone());
            }
            Ok(tools)
        };
        Ok(agent_json(&*self.agents.set_tools(self, &id, change)?))
    }

    fn model_json(&self, model: &str) -> Result<Value> {
        let model = config::ModelConfig::from_short(model, "params.model")?;
        let provider = self.provider(&model.provider, "params.model")?;
        Ok(
            json!({"provider": model.provider, "model_name": model.model_name, "profile": self.profile(&model, &*provider),
                  "table_as_of": crate::llm::Profiles::builtin().as_of()}),
        )
    }

    fn metrics_snapshot(&self) -> Value {
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        json!({
            "runs_live": self.runs.live(),
            "runs_completed": count(&self.metrics.runs_completed),
            "runs_failed": count(&self.metrics.runs_failed),
            "runs_cancelled": count(&self.metrics.runs_cancelled),
            "runs_suspended": count(&self.metrics.runs_suspended),
            "input_tokens": count(&self.metrics.input_tokens),
            "output_tokens": count(&self.metrics.output_tokens),
        })
    }
}

pub(super) fn list(items: Vec<Value>) -> Value {
    json!({"items": items})
}

fn agent_json(agent: &config::AgentConfig) -> Value {
    json!({"id": agent.id, "model": {"provider": agent.model.provider, "model_name": agent.model.model_name},
           "tools": agent.tools, "handoffs": agent.handoffs.iter().map(|handoff| &handoff.agent).collect::<Vec<_>>(),
           "sub_agents": agent.sub_agents.iter().map(|sub_agent| &sub_agent.agent).collect::<Vec<_>>(),
           "max_iterations": agent.max_iterations})
}

fn describe() -> Result<Value> {
    let methods: Map<String, Value> = described()
        .into_iter()
        .map(|(name, about, params)| (name.to_owned(), json!({"description": about, "params": params})))
        .collect();
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "methods": methods,
        "builtin_tools": Builtins::describe()?,
        "schemas": {
            "runtime_config": schema_for!(config::RuntimeConfig),
            "agent": schema_for!(config::AgentConfig),
            "tool": schema_for!(ToolConfig),
            "request": schema_for!(RunRequest),
            "decision": schema_for!(Decision),
            "steering": schema_for!(config::Steering),
            "event": schema_for!(types::EventBody<'static>),
            "result": schema_for!(types::RunResult),
            "transcript": schema_for!(types::Transcript),
            "error": schema_for!(types::Error),
        },
    }))
}
