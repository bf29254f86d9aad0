//! Structured concurrency: the only place where tasks are spawned.
//!
//! Every task of a runtime is spawned in its scope, is cancelled with it, and is waited for before the runtime is gone.

use crate::types::Cancel;
use std::future::Future;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

/// A set of tasks with one cancellation and one end.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    cancel: Cancel,
    tasks: TaskTracker,
}

impl Scope {
    /// An empty scope.
    pub fn new() -> Self {
        Self::default()
    }

    /// The cancellation that all tasks of the scope are below.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Spawns a task. It must end soon after the scope is cancelled.
    #[allow(clippy::disallowed_methods, reason = "this is the one place that spawns")]
    pub fn spawn(&self, handle: &Handle, task: impl Future<Output = ()> + Send + 'static) {
        handle.spawn(self.tasks.track_future(task));
    }

    /// How many tasks run.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether none runs.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Takes no more tasks and waits until none runs.
    pub async fn join(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
