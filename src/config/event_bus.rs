//! How events reach whoever subscribes to them.

use crate::types::{AgentId, Error, Result, RunId, Scope, SessionId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How events wait for delivery, how often that is tried, and what becomes of those that nobody takes.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(default)]
pub struct EventBusConfig {
    /// Events that may wait in each subscription, those that wait for their acknowledgement included. 1 to 1000000.
    pub buffer_capacity: usize,
    /// Bytes of them, as JSON, past which no more wait. 1024 to 1073741824.
    pub buffer_bytes: usize,
    /// How often an event is offered before it becomes a dead letter, unless its subscription says. 1 to 1000.
    pub max_delivery_attempts: u32,
    /// Seconds before the second attempt; doubled with each further one. 0.001 to 86400.
    pub initial_retry_delay: f64,
    /// The most seconds between two attempts. Not less than `initial_retry_delay`.
    pub max_retry_delay: f64,
    /// Seconds that a host has for its acknowledgement, unless its subscription says. 0.001 to 86400.
    pub delivery_timeout: f64,
    /// Dead letters that are stored; past that the oldest go, and are counted. 1 to 10000000.
    pub max_dead_letters: u64,
}

impl Default for EventBusConfig {
    fn default() -> Self {
        Self {
            buffer_capacity: 10_000,
            buffer_bytes: 64 << 20,
            max_delivery_attempts: 5,
            initial_retry_delay: 1.0,
            max_retry_delay: 30.0,
            delivery_timeout: 30.0,
            max_dead_letters: 10_000,
        }
    }
}

impl EventBusConfig {
    /// Refuses what makes no sense.
    pub fn check(&self, path: &str) -> Result<()> {
        let at = |key: &str| format!("{path}.{key}");
        if !(1..=1_000_000).contains(&self.buffer_capacity) {
            return Err(Error::schema(at("buffer_capacity"), "1 to 1000000 events may wait"));
        }
        if !(1_024..=1 << 30).contains(&self.buffer_bytes) {
            return Err(Error::schema(at("buffer_bytes"), "1024 to 1073741824 bytes of events may wait"));
        }
        check_attempts(self.max_delivery_attempts, &at("max_delivery_attempts"))?;
        check_delay(self.initial_retry_delay, &at("initial_retry_delay"))?;
        check_delay(self.max_retry_delay, &at("max_retry_delay"))?;
        if self.max_retry_delay < self.initial_retry_delay {
            return Err(Error::schema(at("max_retry_delay"), "it is less than initial_retry_delay"));
        }
        check_delay(self.delivery_timeout, &at("delivery_timeout"))?;
        if !(1..=10_000_000).contains(&self.max_dead_letters) {
            return Err(Error::schema(at("max_dead_letters"), "1 to 10000000 dead letters may be stored"));
        }
        Ok(())
    }
}

fn check_attempts(attempts: u32, path: &str) -> Result<()> {
    match attempts {
        1..=1_000 => Ok(()),
        _ => Err(Error::schema(path, "1 to 1000 attempts are possible")),
    }
}

fn check_delay(seconds: f64, path: &str) -> Result<()> {
    match (0.001..=86_400.0).contains(&seconds) {
        true => Ok(()),
        false => Err(Error::schema(path, "a number of seconds, 0.001 to 86400, is needed")),
    }
}

/// Parameters of `events.subscribe`: which events, and how they are delivered.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SubscribeParams {
    /// Names the subscription, also in its dead letters. Default: a new name, which the answer tells.
    #[serde(default)]
    pub name: Option<String>,
    /// Whose events.
    #[serde(default)]
    pub scope: Scope,
    /// Of this run alone, with those below it.
    #[serde(default)]
    pub run_id: Option<RunId>,
    /// Of this session alone.
    #[serde(default)]
    pub session: Option<SessionId>,
    /// Of this agent's runs alone.
    #[serde(default)]
    pub agent: Option<AgentId>,
    /// Of these types alone. Default: all.
    #[serde(default)]
    pub types: Vec<String>,
    /// Where the events go: the inbox, unless the method was started as a stream, which then has them.
    #[serde(default)]
    pub deliver: Option<DeliverTo>,
    /// Where the events come from.
    #[serde(default)]
    pub reach: Reach,
    /// Begins behind this event, with `"reach": "store"`: the `cursor` of a message, or of an `events.query`; `0.0` is the
    /// beginning. Default: with what is said from now on.
    #[serde(default)]
    pub cursor: Option<String>,
    /// Whether each event must be acknowledged by `events.ack`. Without, it is delivered when it is in the queue.
    #[serde(default)]
    pub ack: bool,
    /// What a full queue means.
    #[serde(default)]
    pub overflow: WhenFull,
    /// How often an event is offered. Default: `event_bus.max_delivery_attempts`.
    #[serde(default)]
    pub max_attempts: Option<u32>,
    /// Seconds that the host has to acknowledge. Default: `event_bus.delivery_timeout`.
    #[serde(default)]
    pub delivery_timeout: Option<f64>,
}

impl SubscribeParams {
    /// Refuses what makes no sense.
    pub fn check(&self, path: &str) -> Result<()> {
        let at = |key: &str| format!("{path}.{key}");
        if let Some(name) = &self.name {
            super::check_name(name, &at("name"), "a subscription")?;
        }
        if let Some(attempts) = self.max_attempts {
            check_attempts(attempts, &at("max_attempts"))?;
        }
        if let Some(seconds) = self.delivery_timeout {
            check_delay(seconds, &at("delivery_timeout"))?;
            if !self.ack {
                return Err(Error::schema(at("delivery_timeout"), "nothing is waited for without \"ack\": true"));
            }
        }
        if self.cursor.is_some() && self.reach == Reach::Runtime {
            return Err(
                Error::schema(at("cursor"), "only stored events have cursors").with_hint("add \"reach\": \"store\"")
            );
        }
        Ok(())
    }

    /// How long the host has to acknowledge.
    pub fn timeout(&self, bus: &EventBusConfig) -> Duration {
        Duration::from_secs_f64(self.delivery_timeout.unwrap_or(bus.delivery_timeout))
    }
}

/// Where the events of a subscription go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliverTo {
    /// Into the inbox.
    Inbox,
    /// To the callback of `par_on_event`.
    Callback,
}

/// Where the events of a subscription come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// From the runs of this runtime, as they happen.
    #[default]
    Runtime,
    /// From the database, once they are committed: also those of other runtimes that share it. At least once, in the order of
    /// their commits, each with a cursor.
    Store,
}

/// What a full queue means for the events of a subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// The event waits and is offered again, after a delay that grows, until it has had its attempts. Then it is a dead letter.
    #[default]
    Wait,
    /// The event is a dead letter at once.
    DeadLetter,
    /// The event waits as long as it takes. When the buffer is full, too, runs stop reading from their provider; with
    /// `"reach": "store"` nothing more is read.
    Block,
}
