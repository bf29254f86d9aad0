//! Cancellation that says why. A thin shell around a [`CancellationToken`]: the first reason given wins and is kept.

use std::sync::{Arc, OnceLock};
use tokio_util::sync::CancellationToken;

/// A node of the cancellation tree: cancelling it cancels every child.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    token: CancellationToken,
    reason: Arc<OnceLock<String>>,
    parent_reason: Option<Arc<OnceLock<String>>>,
}

impl Cancel {
    /// A root that nothing has cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// A node that is cancelled with this one, and can be cancelled alone.
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token(), reason: Arc::default(), parent_reason: Some(Arc::clone(&self.reason)) }
    }

    /// Cancels this node and its children. Idempotent; the first reason stays.
    pub fn cancel(&self, reason: &str) {
        // The reason is set before the token fires, so whoever wakes finds it.
        let _ = self.reason.set(reason.to_owned());
        self.token.cancel();
    }

    /// Whether this node or one above it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Completes on cancellation. Cancel safe.
    pub async fn cancelled(&self) {
        self.token.cancelled().await;
    }

    /// Why: the reason of this node, else of its parent, else a neutral word.
    pub fn reason(&self) -> String {
        let of = |slot: &Arc<OnceLock<String>>| slot.get().cloned();
        of(&self.reason).or_else(|| self.parent_reason.as_ref().and_then(of)).unwrap_or_else(|| "cancelled".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stays() {
        let cancel = Cancel::new();
        cancel.cancel("user pressed stop");
        cancel.cancel("later");
        assert_eq!(cancel.reason(), "user pressed stop");
    }

    #[test]
    fn a_child_tells_its_parents_reason_and_never_cancels_it() {
        let parent = Cancel::new();
        let child = parent.child();
        let other = parent.child();
        other.cancel("alone");
        assert!(!parent.is_cancelled() && !child.is_cancelled());
        parent.cancel("close");
        assert!(child.is_cancelled());
        assert_eq!(child.reason(), "close");
        assert_eq!(other.reason(), "alone");
    }
}
