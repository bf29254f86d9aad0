//! The registered agents, made ready to run when they are first needed and again when anything they depend on changes.

use super::core::Core;
use crate::agent::{Agents, Fallback, Quota, Setup, Template, ToolPermits, offers, specs, specs_hash};
use crate::config::{AgentConfig, ContextStrategy, ModelConfig, ModelProfile, strict};
use crate::llm::{Profiles, Provider, RetryPolicy};
use crate::middleware::Chain;
use crate::types::{AgentId, Error, Result, Status};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// See the module's head.
#[derive(Default)]
pub(super) struct AgentTable {
    agents: RwLock<BTreeMap<AgentId, Arc<Entry>>>,
    /// Counts the changes of tools, providers and agents.
    generation: AtomicU64,
}

/// A registered agent: what lives as long as it is registered.
struct Entry {
    config: Arc<AgentConfig>,
    chain: Chain,
    retry: Option<Arc<RetryPolicy>>,
    template: Option<Arc<Template>>,
    quota: Option<Arc<Quota>>,
    permits: Arc<ToolPermits>,
    /// As of a generation.
    ready: Mutex<Option<(u64, Arc<Setup>)>>,
}

impl AgentTable {
    /// Something changed that setups are made of.
    pub fn changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    pub fn len(&self) -> usize {
        self.agents.read().len()
    }

    pub fn list(&self) -> Vec<Arc<AgentConfig>> {
        self.agents.read().values().map(|entry| Arc::clone(&entry.config)).collect()
    }

    pub fn get(&self, id: &AgentId) -> Option<Arc<AgentConfig>> {
        self.find(id).map(|entry| Arc::clone(&entry.config))
    }

    /// Adds an agent. A name that is taken is an error.
    pub fn add(&self, core: &Core, config: AgentConfig) -> Result<()> {
        let chain = core.chain.around(&Chain::build(&config.middleware, "agent.middleware")?);
        let template = config.system_prompt_template.as_ref().map(Template::compile).transpose()?;
        let entry = Entry {
            chain,
            retry: config.retry_policy.as_ref().map(|policy| Arc::new(RetryPolicy::new(policy))),
            template: template.map(Arc::new),
            quota: match (config.resource_quota, core.config.default_quota) {
                (Some(own), _) => Some(Arc::new(Quota::new(own, true))),
                (None, Some(default)) => Some(Arc::new(Quota::new(default, false))),
                (None, None) => None,
            },
            permits: Arc::default(),
            ready: Mutex::default(),
            config: Arc::new(config),
        };
        // What cannot run must not be registered.
        entry.make(core)?;
        let id = entry.config.id.clone();
        let mut agents = self.agents.write();
        if agents.contains_key(&id) {
            return Err(Error::new(Status::Exists, format!("an agent {id:?} is already registered"))
                .with_path("agent.id")
                .with_hint("unregister it first to replace it"));
        }
        check_sub_agents(&agents, &entry.config)?;
        agents.insert(id, Arc::new(entry));
        Ok(())
    }

    /// Changes the tools of an agent. What its runs share (rate limits, quotas) stays. `change` may run more than once: again when
    /// the agent was replaced meanwhile.
    pub fn set_tools(
        &self,
        core: &Core,
        id: &AgentId,
        change: impl Fn(&AgentConfig) -> Result<Vec<String>>,
    ) -> Result<Arc<AgentConfig>> {
        loop {
            let old = self.entry(id, "params.agent")?;
            let tools = change(&old.config)?;
            let entry = Entry {
                config: Arc::new(AgentConfig { tools, ..(*old.config).clone() }),
                chain: old.chain.clone(),
                retry: old.retry.clone(),
                template: old.template.clone(),
                quota: old.quota.clone(),
                permits: Arc::clone(&old.permits),
                ready: Mutex::default(),
            };
            entry.make(core)?;
            let config = Arc::clone(&entry.config);
            let mut agents = self.agents.write();
            if let Some(current) = agents.get_mut(id)
                && Arc::ptr_eq(current, &old)
            {
                *current = Arc::new(entry);
                return Ok(config);
            }
        }
    }

    pub fn remove(&self, id: &AgentId) -> bool {
        self.agents.write().remove(id).is_some()
    }

    /// The agent, ready to run.
    pub fn setup(&self, core: &Core, id: &AgentId, path: &str) -> Result<Arc<Setup>> {
        let entry = self.entry(id, path)?;
        let generation = self.generation.load(Ordering::Acquire);
        let ready = entry.ready.lock().clone();
        if let Some((of, setup)) = ready
            && of == generation
        {
            return Ok(setup);
        }
        // Without the lock: this reads tools and providers, and asks providers that the host wrote.
        let setup = Arc::new(entry.make(core)?);
        let mut ready = entry.ready.lock();
        if ready.as_ref().is_none_or(|(of, _)| *of < generation) {
            *ready = Some((generation, Arc::clone(&setup)));
        }
        Ok(setup)
    }

    fn find(&self, id: &AgentId) -> Option<Arc<Entry>> {
        self.agents.read().get(id).cloned()
    }

    fn entry(&self, id: &AgentId, path: &str) -> Result<Arc<Entry>> {
        self.find(id).ok_or_else(|| self.missing(id, path))
    }

    pub fn missing(&self, id: &AgentId, path: &str) -> Error {
        let error = Error::new(Status::NotFound, format!("no agent {id:?} is registered")).with_path(path);
        let agents = self.agents.read();
        let nearest = strict::nearest(id.as_str(), agents.keys().map(AgentId::as_str)).map(str::to_owned);
        drop(agents);
        match nearest {
            Some(near) => error.with_hint(format!("did you mean {near:?}?")),
            None => error.with_hint("register it first by par_register_agent"),
        }
    }
}

impl Entry {
    fn make(&self, core: &Core) -> Result<Setup> {
        let config = &self.config;
        let provider = core.provider(&config.model.provider, "agent.model.provider")?;
        let offers = offers(config, core.tools.resolve(&config.tools, "agent.tools")?)?;
        let specs = specs(&offers)?;
        if let ContextStrategy::Summarize { summary_model: Some(model), .. } = &config.context_strategy {
            core.provider(&model.provider, "agent.context_strategy.summary_model.provider")?;
        }
        let mut fallback = Vec::with_capacity(config.fallback.len());
        for (index, model) in config.fallback.iter().enumerate() {
            let provider = core.provider(&model.provider, &format!("agent.fallback[{index}].provider"))?;
            fallback.push(Fallback { profile: core.profile(model, &*provider), model: model.clone(), provider });
        }
        let profile = core.profile(&config.model, &*provider);
        check_sampling(&config.model, &profile, "agent.model")?;
        for (index, other) in fallback.iter().enumerate() {
            check_sampling(&other.model, &other.profile, &format!("agent.fallback[{index}]"))?;
        }
        Ok(Setup {
            fallback,
            profile,
            provider,
            specs_hash: specs_hash(&specs),
            offers,
            specs,
            chain: self.chain.clone(),
            retry: self.retry.clone(),
            template: self.template.clone(),
            parallel: config.parallel_tool_execution.unwrap_or(core.config.parallel_tool_execution),
            quota: self.quota.clone(),
            permits: Arc::clone(&self.permits),
            config: Arc::clone(config),
        })
    }
}

/// Refuses sub-agents that are not registered, and an agent that would use itself, directly or through others.
fn check_sub_agents(agents: &BTreeMap<AgentId, Arc<Entry>>, config: &AgentConfig) -> Result<()> {
    for (index, sub_agent) in config.sub_agents.iter().enumerate() {
        let at = || format!("agent.sub_agents[{index}]");
        if sub_agent.agent != config.id && !agents.contains_key(&sub_agent.agent) {
            let message = format!("no agent {:?} is registered", sub_agent.agent);
            let error = Error::new(Status::NotFound, message).with_path(at());
            return Err(match strict::nearest(sub_agent.agent.as_str(), agents.keys().map(AgentId::as_str)) {
                Some(near) => error.with_hint(format!("did you mean {near:?}?")),
                None => error.with_hint("register the sub-agent first"),
            });
        }
        let (mut seen, mut waiting) = (BTreeSet::new(), vec![&sub_agent.agent]);
        while let Some(id) = waiting.pop() {
            if *id == config.id {
                let message = match sub_agent.agent == config.id {
                    true => "an agent cannot be its own sub-agent".to_owned(),
                    false => format!("the sub-agent {:?} leads back to the agent itself", sub_agent.agent),
                };
                return Err(Error::schema(at(), message).with_hint("a handoff may go back and forth; a call may not"));
            }
            if seen.insert(id)
                && let Some(entry) = agents.get(id)
            {
                waiting.extend(entry.config.sub_agents.iter().map(|below| &below.agent));
            }
        }
    }
    Ok(())
}

/// What a provider would refuse at the first request.
fn check_sampling(model: &ModelConfig, profile: &ModelProfile, path: &str) -> Result<()> {
    let given =
        [("temperature", model.temperature), ("top_p", model.top_p)].into_iter().find(|(_, value)| value.is_some());
    match given {
        Some((key, _)) if profile.sampling == Some(false) => {
            let message = format!("the model {:?} always reasons and takes no {key}", model.model_name);
            Err(Error::schema(format!("{path}.{key}"), message).with_hint(
                "leave it out; if the table of models is wrong, set \"sampling\": true in the runtime's \"models\"",
            ))
        }
        Some(_) | None => Ok(()),
    }
}

impl Core {
    pub fn provider(&self, name: &str, path: &str) -> Result<Arc<dyn Provider>> {
        if name.is_empty() {
            return self.provider_by_default(path);
        }
        let found = self.providers.read().get(name).cloned();
        found.ok_or_else(|| {
            let names: Vec<_> = self.providers.read().keys().cloned().collect();
            let error = Error::new(Status::NotFound, format!("no provider {name:?} is configured")).with_path(path);
            match strict::nearest(name, names.iter().map(String::as_str)) {
                Some(near) => error.with_hint(format!("did you mean {near:?}?")),
                None => error.with_hint(format!(
                    "add it to llm_providers, or set its key in the environment (OPENAI_API_KEY); configured: {}",
                    names.join(", ")
                )),
            }
        })
    }

    /// The default provider: the one that was named so, else the only one there is.
    fn provider_by_default(&self, path: &str) -> Result<Arc<dyn Provider>> {
        let default = self.default_provider.read().clone();
        if let Some(name) = default.filter(|name| !name.is_empty()) {
            return self.provider(&name, path);
        }
        // Copied: `kind` is code of the host where the host wrote the provider.
        let providers: Vec<_> = self.providers.read().values().cloned().collect();
        let mut real = providers.iter().filter(|provider| provider.kind() != "mock");
        match (real.next(), real.next()) {
            (Some(only), None) => Ok(Arc::clone(only)),
            (None, _) | (Some(_), Some(_)) => {
                let names = providers.iter().map(|provider| provider.name()).collect::<Vec<_>>().join(", ");
                Err(Error::new(Status::NotFound, "the model names no provider, and there is no default one")
                    .with_path(path)
                    .with_hint(format!("write \"provider/model\", or set default_provider; configured: {names}")))
            }
        }
    }

    /// What a model can do: as the host says, else as the provider says, else as the built-in table says.
    pub fn profile(&self, model: &ModelConfig, provider: &dyn Provider) -> ModelProfile {
        let full = format!("{}/{}", provider.name(), model.model_name);
        let matches = |pattern: &str, name: &str| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => pattern == name,
        };
        let own = self
            .config
            .models
            .iter()
            .filter(|(pattern, _)| matches(pattern, &full) || matches(pattern, &model.model_name))
            // The longest says most; a whole name says more than a beginning.
            .max_by_key(|(pattern, _)| (pattern.len(), !pattern.ends_with('*')))
            .map(|(_, profile)| profile.clone())
            .unwrap_or_default();
        own.or(provider.profile(&model.model_name)).or(Profiles::builtin().lookup(&model.model_name))
    }
}

/// The agents of a runtime, for runs that hand over or use others. Does not keep the runtime alive.
pub(super) struct Directory(pub Weak<Core>);

impl Agents for Directory {
    fn setup(&self, id: &AgentId) -> Result<Arc<Setup>> {
        let core = self.0.upgrade().ok_or_else(super::close::closed)?;
        core.agents.setup(&core, id, "agent")
    }

    fn model(&self, model: &ModelConfig) -> Result<(Arc<dyn Provider>, ModelProfile)> {
        let core = self.0.upgrade().ok_or_else(super::close::closed)?;
        let provider = core.provider(&model.provider, "agent.context_strategy.summary_model.provider")?;
        let profile = core.profile(model, &*provider);
        Ok((provider, profile))
    }
}
