//! An agent with everything it needs to run, looked up and compiled once.

use super::template::Template;
use crate::config::{AgentConfig, HandoffConfig, Limits, ModelConfig, ModelProfile, QuotaConfig, SubAgentConfig};
use crate::llm::{Provider, RetryPolicy};
use crate::middleware::Chain;
use crate::tools::{Registered, Runner};
use crate::types::{AgentId, Error, Result, Status, ToolSpec};
use parking_lot::Mutex;
use serde_json::json;
use serde_json::value::to_raw_value;
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// See the module's head.
pub struct Setup {
    /// As it was registered.
    pub config: Arc<AgentConfig>,
    /// Its model.
    pub provider: Arc<dyn Provider>,
    /// What its model can do.
    pub profile: ModelProfile,
    /// The models that are asked when its own cannot be reached.
    pub fallback: Vec<Fallback>,
    /// What its model may call, by name.
    pub offers: BTreeMap<String, Offer>,
    /// The same as the model is told, sorted by name.
    pub specs: Vec<ToolSpec>,
    /// A fingerprint of `specs`.
    pub specs_hash: u64,
    /// What stands around its requests and calls.
    pub chain: Chain,
    /// Its own rules of trying again.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Its system prompt, if it has variables.
    pub template: Option<Arc<Template>>,
    /// Whether the calls of one answer run at the same time.
    pub parallel: bool,
    /// How much of it may run at the same time.
    pub quota: Option<Arc<Quota>>,
    /// How many calls of each tool.
    pub permits: Arc<ToolPermits>,
}

/// The calls of each tool that one agent may have at the same time. It lasts as long as the agent, whatever tools come and
/// go.
#[derive(Default)]
pub struct ToolPermits(Mutex<HashMap<String, (usize, Arc<Semaphore>)>>);

impl ToolPermits {
    /// The permits of a tool; none if nothing bounds it.
    pub fn of(&self, tool: &Registered, limits: &Limits) -> Option<Arc<Semaphore>> {
        let limit = match (tool.config.concurrency_limit, &tool.runner) {
            (Some(limit), _) => limit as usize,
            (None, Runner::Host) => limits.max_host_tool_calls,
            (None, Runner::Native(_)) => return None,
        };
        let new = || (limit, Arc::new(Semaphore::new(limit)));
        let mut permits = self.0.lock();
        let known = permits.entry(tool.config.name.clone()).or_insert_with(new);
        if known.0 != limit {
            // Registered anew with another limit: calls under way keep their old permits.
            *known = new();
        }
        Some(Arc::clone(&known.1))
    }
}

/// A model that is asked when another one cannot be reached.
pub struct Fallback {
    /// Which.
    pub model: ModelConfig,
    /// Where.
    pub provider: Arc<dyn Provider>,
    /// What it can do.
    pub profile: ModelProfile,
}

/// What a model may call.
#[derive(Clone)]
pub enum Offer {
    /// A tool.
    Tool(Arc<Registered>),
    /// Another agent, which takes over.
    Handoff(Arc<HandoffConfig>),
    /// Another agent, which answers.
    SubAgent(Arc<SubAgentConfig>),
}

/// Finds agents by name, when one hands over to another or uses it.
pub trait Agents: Send + Sync {
    /// The agent, ready to run.
    fn setup(&self, id: &AgentId) -> Result<Arc<Setup>>;

    /// The provider and the abilities of a model.
    fn model(&self, model: &ModelConfig) -> Result<(Arc<dyn Provider>, ModelProfile)>;
}

/// How much may run at the same time.
pub struct Quota {
    /// As configured.
    pub config: QuotaConfig,
    /// Runs; none if only the runtime bounds them.
    pub runs: Option<Semaphore>,
    /// Tool calls.
    pub tools: Semaphore,
}

impl Quota {
    /// A quota of which nothing is used: an agent's own, or what the runtime's means for each agent.
    pub fn new(config: QuotaConfig, is_own: bool) -> Self {
        Self {
            runs: is_own.then(|| Semaphore::new(config.max_concurrent_tasks as usize)),
            tools: Semaphore::new(config.max_concurrent_tools_per_agent as usize),
            config,
        }
    }
}

/// What an agent may call, by name: its tools, and its other agents under names of their own.
pub fn offers(config: &AgentConfig, tools: Vec<Arc<Registered>>) -> Result<BTreeMap<String, Offer>> {
    let mut offers = BTreeMap::new();
    let mut offer = |name: String, path: String, offer: Offer| match offers.insert(name.clone(), offer) {
        None => Ok(()),
        Some(_) => Err(Error::new(Status::Exists, format!("the agent has two tools of the name {name:?}"))
            .with_path(path)
            .with_hint("each tool, handoff and sub-agent needs a name of its own")),
    };
    for (index, tool) in tools.into_iter().enumerate() {
        offer(tool.config.name.clone(), format!("agent.tools[{index}]"), Offer::Tool(tool))?;
    }
    for (index, handoff) in config.handoffs.iter().enumerate() {
        let name = format!("handoff_to_{}", tool_name(handoff.agent.as_str()));
        offer(name, format!("agent.handoffs[{index}]"), Offer::Handoff(Arc::new(handoff.clone())))?;
    }
    for (index, sub_agent) in config.sub_agents.iter().enumerate() {
        let name = sub_agent.name.clone().unwrap_or_else(|| tool_name(sub_agent.agent.as_str()));
        offer(name, format!("agent.sub_agents[{index}]"), Offer::SubAgent(Arc::new(sub_agent.clone())))?;
    }
    Ok(offers)
}

/// Agents may have a `.` in their names, tools may not.
fn tool_name(agent: &str) -> String {
    agent.replace('.', "_").chars().take(50).collect()
}

/// What a model is told of its offers.
pub fn specs(offers: &BTreeMap<String, Offer>) -> Result<Vec<ToolSpec>> {
    offers
        .iter()
        .map(|(name, offer)| {
            let (description, schema) = match offer {
                Offer::Tool(tool) => return Ok(tool.spec().clone()),
                Offer::Handoff(handoff) => (
                    handoff.description.clone().unwrap_or_else(|| {
                        format!("Hands the conversation over to the agent {:?}, which answers from then on.", handoff.agent)
                    }),
                    match handoff.carry_context {
                        true => json!({"type": "object", "properties": {
                            "reason": {"type": "string", "description": "Why it is handed over."}}}),
                        false => json!({"type": "object", "required": ["task"], "properties": {
                            "task": {"type": "string", "description": "Everything the other agent must know: it sees nothing else."}}}),
                    },
                ),
                Offer::SubAgent(sub_agent) => (
                    sub_agent.description.clone().unwrap_or_else(|| {
                        format!("Gives a task to the agent {:?} and answers what it found.", sub_agent.agent)
                    }),
                    json!({"type": "object", "required": ["task"], "properties": {
                        "task": {"type": "string", "description": "The whole task: the agent sees nothing else."}}}),
                ),
            };
            let encoded = to_raw_value(&schema).map_err(|error| Error::internal(error.to_string()))?;
            Ok(ToolSpec { name: name.clone(), description, input_schema: Arc::from(encoded) })
        })
        .collect()
}

/// A fingerprint of what a model is told of its tools.
pub fn specs_hash(specs: &[ToolSpec]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for spec in specs {
        (&spec.name, &spec.description, spec.input_schema.get()).hash(&mut hasher);
    }
    hasher.finish()
}
