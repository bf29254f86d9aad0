//! Whoever listens to the runtime as a whole: the inbox and the event callback.
//!
//! Listening costs nothing while nobody does: a run asks [`Hub::is_active`] before it encodes an event.

use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Takes encoded events. Must not block and must not call back into the hub.
pub type Subscriber = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// The set of listeners, by a name that makes each replaceable.
#[derive(Default)]
pub struct Hub {
    active: AtomicBool,
    subscribers: RwLock<Vec<(&'static str, Subscriber)>>,
}

impl Hub {
    /// Adds a listener, or replaces the one of that name, or removes it.
    pub fn set(&self, name: &'static str, subscriber: Option<Subscriber>) {
        let mut subscribers = self.subscribers.write();
        subscribers.retain(|(other, _)| *other != name);
        subscribers.extend(subscriber.map(|subscriber| (name, subscriber)));
        self.active.store(!subscribers.is_empty(), Ordering::Release);
    }

    /// Removes every listener.
    pub fn clear(&self) {
        self.subscribers.write().clear();
        self.active.store(false, Ordering::Release);
    }

    /// Whether anyone listens.
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    /// Hands an event to every listener.
    pub fn publish(&self, event: &[u8]) {
        for (_, subscriber) in self.subscribers.read().iter() {
            subscriber(event);
        }
    }
}
