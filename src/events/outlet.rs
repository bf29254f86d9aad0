//! Where a subscription's messages go: a bounded queue that somebody reads.

use super::Queue;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

/// See the module's head.
pub trait Outlet: Send + Sync {
    /// Takes a message if that makes no other go. Must not block.
    fn offer(&self, message: &[u8]) -> bool;

    /// Completes when there may be room. Cancel safe.
    fn room(&self) -> BoxFuture<'_, ()>;
}

impl Outlet for Queue {
    fn offer(&self, message: &[u8]) -> bool {
        self.push_if_room(message)
    }

    fn room(&self) -> BoxFuture<'_, ()> {
        Queue::room(self).boxed()
    }
}
