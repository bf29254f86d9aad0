//! Whoever listens to the runtime as a whole: the inbox, the event callback, and subscriptions.
//!
//! Listening costs nothing while nobody does: a run asks [`Hub::wants`] before it encodes an event.

use super::Subscription;
use crate::config::WhenFull;
use crate::store::EventFilter;
use crate::types::{AgentId, EventKind, RunId, Scope, SessionId};
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Takes encoded events with their type. Must not block.
pub type Subscriber = Arc<dyn Fn(EventKind, &[u8]) + Send + Sync>;

/// The run that an event is of, with those below it.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Whose it is.
    pub scope: Scope,
    /// Which.
    pub run_id: RunId,
    /// The conversation it continues.
    pub session: Option<SessionId>,
    /// The agent it began with.
    pub agent: AgentId,
}

impl Origin {
    /// Whether a filter wants events of this run.
    pub fn is_wanted(&self, filter: &EventFilter) -> bool {
        self.scope == filter.scope
            && filter.run_id.as_ref().is_none_or(|run_id| self.run_id == *run_id)
            && filter.session.as_ref().is_none_or(|session| self.session.as_ref() == Some(session))
            && filter.agent.as_ref().is_none_or(|agent| self.agent == *agent)
    }
}

/// See the module's head.
#[derive(Default)]
pub struct Hub {
    /// The set of types that anyone wants.
    types: AtomicU64,
    /// Whether runs may have to wait for a subscription.
    blocks: AtomicBool,
    /// Replaced as a whole, so that no lock is held while a listener runs.
    listeners: RwLock<Arc<Listeners>>,
}

#[derive(Clone, Default)]
struct Listeners {
    /// By a name that makes each replaceable.
    of_all: Vec<(&'static str, Subscriber)>,
    subscriptions: Vec<Arc<Subscription>>,
}

impl Hub {
    /// Adds a listener to every event, or replaces the one of that name, or removes it.
    pub fn set(&self, name: &'static str, subscriber: Option<Subscriber>) {
        self.change(|listeners| {
            listeners.of_all.retain(|(other, _)| *other != name);
            listeners.of_all.extend(subscriber.map(|subscriber| (name, subscriber)));
        });
    }

    /// Adds a subscription.
    pub fn join(&self, subscription: Arc<Subscription>) {
        self.change(|listeners| listeners.subscriptions.push(subscription));
    }

    /// Removes a subscription.
    pub fn leave(&self, subscription: &Arc<Subscription>) {
        self.change(|listeners| listeners.subscriptions.retain(|other| !Arc::ptr_eq(other, subscription)));
    }

    /// Removes every listener.
    pub fn clear(&self) {
        self.change(|listeners| *listeners = Listeners::default());
    }

    fn change(&self, change: impl FnOnce(&mut Listeners)) {
        let mut current = self.listeners.write();
        let mut listeners = Listeners::clone(&current);
        change(&mut listeners);
        let any = |filter: &EventFilter| if filter.types == 0 { u64::MAX } else { filter.types };
        let types = match listeners.of_all.is_empty() {
            true => listeners.subscriptions.iter().fold(0, |types, listener| types | any(&listener.rules().filter)),
            false => u64::MAX,
        };
        let blocks = listeners.subscriptions.iter().any(|listener| listener.rules().overflow == WhenFull::Block);
        self.types.store(types, Ordering::Release);
        self.blocks.store(blocks, Ordering::Release);
        *current = Arc::new(listeners);
    }

    /// Whether anyone wants an event of this type; without a run, only those who listen to all do.
    pub fn wants(&self, origin: Option<&Origin>, kind: EventKind) -> bool {
        if self.types.load(Ordering::Acquire) & kind.bit() == 0 {
            return false;
        }
        let listeners = self.listeners();
        !listeners.of_all.is_empty() || listeners.wanting(origin, kind).next().is_some()
    }

    /// Hands an event to everyone who wants it.
    pub fn publish(&self, origin: Option<&Origin>, kind: EventKind, event: &[u8]) {
        let listeners = self.listeners();
        for (_, subscriber) in &listeners.of_all {
            subscriber(kind, event);
        }
        for subscription in listeners.wanting(origin, kind) {
            subscription.take(event);
        }
    }

    /// Whether no subscription keeps this run waiting.
    pub fn is_ready(&self, origin: Option<&Origin>) -> bool {
        !self.blocks.load(Ordering::Acquire) || self.full(origin).is_none()
    }

    /// Completes when no subscription keeps this run waiting. Cancel safe.
    pub async fn ready(&self, origin: Option<&Origin>) {
        while let Some(full) = self.full(origin) {
            full.room().await;
        }
    }

    fn listeners(&self) -> Arc<Listeners> {
        Arc::clone(&self.listeners.read())
    }

    fn full(&self, origin: Option<&Origin>) -> Option<Arc<Subscription>> {
        if !self.blocks.load(Ordering::Acquire) {
            return None;
        }
        let (listeners, origin) = (self.listeners(), origin?);
        let mut blocking = listeners.subscriptions.iter().filter(|subscription| {
            subscription.rules().overflow == WhenFull::Block && origin.is_wanted(&subscription.rules().filter)
        });
        blocking.find(|subscription| !subscription.has_room()).map(Arc::clone)
    }
}

impl Listeners {
    fn wanting(&self, origin: Option<&Origin>, kind: EventKind) -> impl Iterator<Item = &Arc<Subscription>> {
        self.subscriptions.iter().filter(move |subscription| {
            let filter = &subscription.rules().filter;
            (filter.types == 0 || filter.types & kind.bit() != 0)
                && origin.is_some_and(|origin| origin.is_wanted(filter))
        })
    }
}
