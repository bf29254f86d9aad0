//! The methods of `par_call`: the long tail that needs no handle and no token.

use super::core::Runtime;

use super::stream::{Answer, Stream};
use crate::config::{self, strict};
use crate::types::{self, Error, Result, SessionId, Status};
use schemars::{JsonSchema, Schema, schema_for};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::atomic::Ordering;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Describe,
    MetricsSnapshot,
    ProvidersList,
    RunsGet,
    RunsList,
    SessionsDelete,
    SessionsGet,
    SessionsList,
    ToolsList,
}

const METHODS: &[(&str, Method, &str)] = &[
    ("describe", Method::Describe, "every method, and the JSON Schema of every shape"),
    ("metrics.snapshot", Method::MetricsSnapshot, "what was done since the runtime was created"),
    ("providers.list", Method::ProvidersList, "the configured model providers"),
    ("runs.get", Method::RunsGet, "one living or lately ended run"),
    ("runs.list", Method::RunsList, "living runs, then those that ended lately, newest first"),
    ("sessions.delete", Method::SessionsDelete, "forgets a session"),
    ("sessions.get", Method::SessionsGet, "a session with its messages"),
    ("sessions.list", Method::SessionsList, "every session"),
    ("tools.list", Method::ToolsList, "the registered tools"),
];

fn method_names() -> impl Iterator<Item = &'static str> {
    METHODS.iter().map(|(name, ..)| *name)
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

/// Parameters of a method about one session.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SessionParams {
    /// The session.
    session: SessionId,
}

/// What a method is asked, checked.
enum Call {
    Plain(Method),
    Run(String),
    Session(Method, SessionId),
}

impl Runtime {
    /// Calls a method and answers its JSON. Must not be called from async code: it blocks.
    pub fn call(&self, method: &str, params: &str, timeout: Option<Duration>) -> Answer {
        let call = self.check_call(method, params)?;
        let runtime = self.clone();
        self.core().drivers.block_on(&self.core().log, |_| async move {
            let work = runtime.answer(call);
            match timeout {
                None => work.await,
                Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
                    Err(Error::new(Status::Deadline, "the method did not end within its time").with_retryable(true))
                }),
            }
        })?
    }

    /// Starts a method: a stream of one terminal event.
    pub fn call_start(&self, method: &str, params: &str) -> Result<Stream> {
        let call = self.check_call(method, params)?;
        let core = std::sync::Arc::clone(self.core());
        // The task must not keep the runtime open: it holds the core, not a handle.
        let work = async move { answer(&core, call).await };
        self.core().start_task(work)
    }

    /// Lists `agents`, `tools`, `providers`, `sessions` or `runs`.
    pub fn list(&self, kind: &str) -> Answer {
        let items = match kind {
            "agents" => {
                let agents = self.core().agents.read();
                agents
                    .values()
                    .map(|agent| {
                        json!({"id": agent.id, "model": {"provider": agent.model.provider, "model_name": agent.model.model_name},
                               "tools": agent.tools, "max_iterations": agent.max_iterations})
                    })
                    .collect()
            }
            "tools" => return self.call("tools.list", "{}", None),
            "providers" => return self.call("providers.list", "{}", None),
            "sessions" => return self.call("sessions.list", "{}", None),
            "runs" => return self.call("runs.list", "{}", None),
            other => {
                let kinds = ["agents", "tools", "providers", "sessions", "runs"];
                let error = Error::new(Status::NotFound, format!("there is no list of {other:?}"));
                return Err(match strict::nearest(other, kinds) {
                    Some(near) => error.with_hint(format!("did you mean {near:?}?")),
                    None => error.with_hint(format!("lists: {}", kinds.join(", "))),
                });
            }
        };
        Ok(list(items).to_string())
    }

    /// A living or lately ended run, as JSON.
    pub fn run_status(&self, run_id: &str) -> Answer {
        self.core().run_status(run_id)
    }

    fn check_call(&self, method: &str, params: &str) -> Result<Call> {
        self.core().closing.check_open()?;
        self.core().limits().check_input(params.len())?;
        let found = METHODS.iter().find(|(name, ..)| *name == method).map(|(_, method, _)| *method);
        let Some(found) = found else {
            let error = Error::new(Status::NotFound, format!("there is no method {method:?}"));
            return Err(match strict::nearest(method, method_names()) {
                Some(near) => error.with_hint(format!("did you mean {near:?}?")),
                None => error.with_hint("par_call(\"describe\") lists every method"),
            });
        };
        let params = strict::parse(if params.is_empty() { "{}" } else { params }, "params")?;
        Ok(match found {
            Method::Describe
            | Method::MetricsSnapshot
            | Method::ProvidersList
            | Method::RunsList
            | Method::SessionsList
            | Method::ToolsList => {
                let NoParams {} = strict::read(&params, "params")?;
                Call::Plain(found)
            }
            Method::RunsGet => Call::Run(strict::read::<RunParams>(&params, "params")?.run_id),
            Method::SessionsGet | Method::SessionsDelete => {
                Call::Session(found, strict::read::<SessionParams>(&params, "params")?.session)
            }
        })
    }

    async fn answer(&self, call: Call) -> Answer {
        answer(self.core(), call).await
    }
}

async fn answer(core: &super::core::Core, call: Call) -> Answer {
    let value = match call {
        Call::Plain(Method::Describe) => describe(),
        Call::Plain(Method::MetricsSnapshot) => core.metrics_snapshot(),
        Call::Plain(Method::ProvidersList) => {
            let providers = core.providers.read();
            list(providers.values().map(|provider| json!({"name": provider.name(), "type": provider.kind()})).collect())
        }
        Call::Plain(Method::RunsList) => list(core.runs.list().into_iter().map(|run| json!(run)).collect()),
        Call::Plain(Method::SessionsList) => {
            list(core.store.list().await?.into_iter().map(|session| json!(session)).collect())
        }
        Call::Plain(Method::ToolsList) => list(core.tools.list().iter().map(|tool| json!(tool.config)).collect()),
        Call::Run(run_id) => return core.run_status(&run_id),
        Call::Session(Method::SessionsDelete, session) => {
            if !core.store.delete(&session).await? {
                return Err(no_session(&session));
            }
            json!({"deleted": true})
        }
        Call::Session(_, session) => match core.store.get(&session).await? {
            Some(transcript) => json!({"id": session, "messages": transcript}),
            None => return Err(no_session(&session)),
        },
        Call::Plain(method) => return Err(Error::internal(format!("{method:?} takes parameters"))),
    };
    Ok(value.to_string())
}

impl super::core::Core {
    fn run_status(&self, run_id: &str) -> Answer {
        match self.runs.get(run_id) {
            Some(run) => serde_json::to_string(&run).map_err(|error| Error::internal(error.to_string())),
            None => Err(Error::new(Status::NotFound, format!("no run {run_id:?} lives or ended lately"))
                .with_hint("runs.list tells which are known; limits.finished_runs says how many ended ones are kept")),
        }
    }

    fn metrics_snapshot(&self) -> Value {
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        json!({
            "runs_live": self.runs.live(),
            "runs_completed": count(&self.metrics.runs_completed),
            "runs_failed": count(&self.metrics.runs_failed),
            "runs_cancelled": count(&self.metrics.runs_cancelled),
            "input_tokens": count(&self.metrics.input_tokens),
            "output_tokens": count(&self.metrics.output_tokens),
        })
    }
}

fn no_session(session: &SessionId) -> Error {
    Error::new(Status::NotFound, format!("there is no session {session:?}"))
        .with_hint("sessions.list tells which there are")
}

fn list(items: Vec<Value>) -> Value {
    json!({"items": items})
}

fn describe() -> Value {
    let params = |method: Method| -> Schema {
        match method {
            Method::Describe
            | Method::MetricsSnapshot
            | Method::ProvidersList
            | Method::RunsList
            | Method::SessionsList
            | Method::ToolsList => schema_for!(NoParams),
            Method::RunsGet => schema_for!(RunParams),
            Method::SessionsDelete | Method::SessionsGet => schema_for!(SessionParams),
        }
    };
    let methods: Map<String, Value> = METHODS
        .iter()
        .map(|(name, method, about)| ((*name).to_owned(), json!({"description": about, "params": params(*method)})))
        .collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "methods": methods,
        "schemas": {
            "runtime_config": schema_for!(config::RuntimeConfig),
            "agent": schema_for!(config::AgentConfig),
            "tool": schema_for!(config::ToolConfig),
            "request": schema_for!(config::RunRequest),
            "event": schema_for!(types::EventBody<'static>),
            "result": schema_for!(types::RunResult),
            "transcript": schema_for!(types::Transcript),
            "error": schema_for!(types::Error),
        },
    })
}
