//! A run at work: the agent that has the word, the conversation, and what was consumed.

use super::budget::{Account, Ledger, Planned, Reservation, Spent};
use super::calls::StartedCalls;
use super::context;
use super::meter::Meter;
use super::run::RunSpec;
use super::setup::Setup;
use super::structured::Structured;
use crate::config::{ModelConfig, ModelProfile};
use crate::events::Emitter;
use crate::llm::HttpPool;
use crate::middleware::Scene;
use crate::store::{Prefix, Session, SessionLease};
use crate::tools::Schema;
use crate::types::{Changes, EventBody, Mark, Result, Transcript, Usage, now_ms};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;
use tokio::time::Instant;

/// What must survive the loop being dropped in the middle.
pub struct Progress {
    pub conversation: Conversation,
    /// Where the run's own messages begin.
    pub mark: Mark,
    /// What the run and those below it have consumed.
    pub meter: Arc<Meter>,
    pub iterations: u32,
    /// When the run began to wait for its place.
    pub began: Instant,
    pub started_calls: StartedCalls,
    pub account: Account,
    /// How often what was said before was compacted or rewritten.
    pub history: u64,
    pub has_warned_of_price: bool,
    /// How often each call was made, by the fingerprint of its name and arguments.
    pub repeats: HashMap<u64, u32>,
}

/// The conversation a run works on.
pub enum Conversation {
    /// Of this run alone.
    Own(Box<Session>),
    /// Of a session, held for the run.
    Held(Box<SessionLease>),
}

impl Conversation {
    pub fn session(&self) -> &Session {
        match self {
            Self::Own(session) => session,
            Self::Held(lease) => lease.session(),
        }
    }

    pub fn session_mut(&mut self) -> &mut Session {
        match self {
            Self::Own(session) => session,
            Self::Held(lease) => lease.session_mut(),
        }
    }
}

impl Progress {
    /// Nothing has happened yet.
    pub fn new(account: Account, meter: Arc<Meter>) -> Self {
        let session = Box::<Session>::default();
        Self {
            mark: session.transcript.mark(),
            conversation: Conversation::Own(session),
            meter,
            iterations: 0,
            began: Instant::now(),
            started_calls: StartedCalls::default(),
            account,
            history: 0,
            has_warned_of_price: false,
            repeats: HashMap::new(),
        }
    }

    /// Takes over a session.
    pub fn hold(&mut self, spec: &RunSpec, mut lease: SessionLease) {
        let session = lease.session_mut();
        if session.began_at_ms == 0 {
            session.began_at_ms = now_ms();
        }
        self.mark = session.transcript.mark();
        self.history = session.prefix.map_or(0, |prefix| prefix.history);
        if let Some(budget) = spec.session_budget {
            let spent = Spent {
                usd: session.cost,
                input_tokens: session.usage.input_tokens
                    + session.usage.cache_read_tokens
                    + session.usage.cache_write_tokens,
                output_tokens: session.usage.output_tokens,
                requests: session.requests,
                tool_calls: session.tool_calls,
            };
            let age = Duration::from_millis(now_ms().saturating_sub(session.began_at_ms));
            self.account = self.account.with(Arc::new(Ledger::new("session", budget, None, spent, age)));
        }
        self.conversation = Conversation::Held(Box::new(lease));
    }
}

/// See the module's head.
pub struct Work<'a> {
    pub spec: &'a RunSpec,
    pub emitter: &'a Emitter,
    pub http: &'a HttpPool,
    pub progress: &'a mut Progress,
    /// The agent that has the word.
    pub setup: Arc<Setup>,
    /// Its system prompt.
    pub system: Option<String>,
    /// Requests made so far, by provider.
    pub requests_made: Mutex<Vec<(String, Arc<AtomicU32>)>>,
}

impl Work<'_> {
    /// Counts the run's requests to a provider.
    pub fn requests_to(&self, provider: &str) -> Arc<AtomicU32> {
        let mut counters = self.requests_made.lock();
        if let Some((_, counter)) = counters.iter().find(|(name, _)| name == provider) {
            return Arc::clone(counter);
        }
        let counter = Arc::<AtomicU32>::default();
        counters.push((provider.to_owned(), Arc::clone(&counter)));
        counter
    }

    pub fn scene(&self) -> Scene<'_> {
        Scene {
            run_id: &self.spec.run_id,
            agent: &self.setup.config.id,
            provider: self.setup.provider.name(),
            model: &self.setup.config.model.model_name,
            emitter: self.emitter,
            desk: &self.spec.desk,
        }
    }

    pub fn transcript(&self) -> &Transcript {
        &self.progress.conversation.session().transcript
    }

    pub fn transcript_mut(&mut self) -> &mut Transcript {
        &mut self.progress.conversation.session_mut().transcript
    }

    /// The value in an answer, or what is wrong with it.
    pub async fn value_of(&self, structured: &Structured, answer: &str) -> std::result::Result<Value, String> {
        structured.read(answer, &self.spec.helpers, &self.spec.control.cancel).await
    }

    /// Checks a value against a tool's schema.
    pub async fn check(&self, schema: &Schema, value: &Value) -> std::result::Result<(), String> {
        schema.check_within(value, &self.spec.helpers, &self.spec.control.cancel).await
    }

    /// Tells the log what was said since the last time, so that the run can go on from here.
    pub fn save(&mut self) {
        let Some(log) = &self.spec.log else { return };
        let progress = &mut *self.progress;
        let Some(changes) = progress.conversation.session_mut().transcript.take_changes() else { return };
        if let Conversation::Held(lease) = &mut progress.conversation {
            lease.told(changes.from);
        }
        // What was said before the run is the session's, and changes with it alone.
        let own = progress.mark.index();
        let skipped = own.saturating_sub(changes.from);
        let entries = changes.entries.into_iter().skip(skipped).collect();
        log.said(Some(Changes { from: changes.from.max(own), entries }));
    }

    /// Characters of a request besides the conversation.
    pub fn overhead(&self, system: Option<&str>) -> usize {
        let tools: usize = self
            .setup
            .specs
            .iter()
            .map(|spec| spec.name.len() + spec.description.len() + spec.input_schema.get().len())
            .sum();
        tools + system.map_or(0, str::len)
    }

    /// 0 before the provider has told.
    pub fn characters_per_token(&self) -> f64 {
        self.progress.conversation.session().characters_per_token
    }

    pub fn messages_at_compaction(&self) -> Option<usize> {
        self.progress.conversation.session().messages_at_compaction
    }

    pub fn compacted(&mut self, messages: usize) {
        self.progress.history += 1;
        self.progress.conversation.session_mut().messages_at_compaction = Some(messages);
    }

    /// Reserves what a request could consume.
    pub fn reserve(
        &mut self,
        model: &ModelConfig,
        profile: &ModelProfile,
        input_tokens: u64,
        output_limit: Option<u32>,
    ) -> Result<Reservation> {
        let reservation = self.progress.account.reserve(&Planned {
            model: &model.model_name,
            input_tokens,
            output_limit,
            model_limit: profile.max_output_tokens,
            price: profile.price.as_ref(),
            unknown_price: self.spec.unknown_price,
        })?;
        if reservation.price_is_unknown() && !self.progress.has_warned_of_price {
            self.progress.has_warned_of_price = true;
            let model = &model.model_name;
            let message = format!(
                "the price of the model {model:?} is not known: its requests do not count in the budget in USD"
            );
            self.emitter.emit(&EventBody::Warning { code: "unknown_price", message: message.into() });
        }
        Ok(reservation)
    }

    /// Books what a request has consumed.
    pub fn book(&mut self, reservation: Reservation, usage: &Usage, profile: &ModelProfile) {
        let cost = profile.price.as_ref().map(|price| price.cost(usage));
        reservation.settle(usage, cost.unwrap_or_default());
        self.progress.meter.request(usage, cost);
        let total = self.progress.meter.read().usage;
        self.emitter.emit(&EventBody::UsageUpdate { usage: *usage, total });
    }

    /// Learns how many characters a token has from what the provider counted.
    pub fn calibrate(&mut self, characters: usize, usage: &Usage) {
        let tokens = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens;
        if tokens >= 16 {
            let ratio = (characters as f64 / tokens as f64).clamp(1.0, 12.0);
            self.progress.conversation.session_mut().characters_per_token = ratio;
        }
    }

    /// Characters of the next request.
    pub fn characters(&self, system: Option<&str>) -> usize {
        self.overhead(system) + context::characters(self.transcript())
    }

    /// Tells if what the provider may have cached of the request's beginning is of no use.
    pub fn watch_prefix(&mut self, system: Option<&str>) {
        let hash = |value: &dyn Fn(&mut DefaultHasher)| {
            let mut hasher = DefaultHasher::new();
            value(&mut hasher);
            // As a whole number that any JSON reader can read.
            hasher.finish() >> 12
        };
        let prefix = Prefix {
            model: hash(&|hasher| (self.setup.provider.name(), &self.setup.config.model.model_name).hash(hasher)),
            system: hash(&|hasher| system.hash(hasher)),
            tools: self.setup.specs_hash >> 12,
            history: self.progress.history,
        };
        let before = self.progress.conversation.session_mut().prefix.replace(prefix);
        let reason = match before {
            Some(before) if before.model != prefix.model => "model_changed",
            Some(before) if before.system != prefix.system => "system_changed",
            Some(before) if before.tools != prefix.tools => "tools_changed",
            Some(before) if before.history != prefix.history => "history_changed",
            Some(_) | None => return,
        };
        self.emitter.emit(&EventBody::CacheBust { reason });
    }
}
