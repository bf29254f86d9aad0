//! Work that blocks: files, searches, child processes. It runs on helper threads, is told when nobody waits for it any
//! more, and is waited for when the runtime closes.

use super::ToolFailure;
use crate::types::Cancel;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::Instant;

/// The blocking work of one runtime.
#[derive(Clone, Default)]
pub struct Helpers(Arc<State>);

#[derive(Default)]
struct State {
    running: Mutex<usize>,
    none_left: Condvar,
}

/// One piece of work that runs.
struct Running(Arc<State>);

impl Running {
    fn new(state: &Arc<State>) -> Self {
        *state.running.lock() += 1;
        Self(Arc::clone(state))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = self.0.running.lock();
        *running -= 1;
        if *running == 0 {
            self.0.none_left.notify_all();
        }
    }
}

/// Cancels what it holds when it is dropped before it was let go.
struct Abandon(Option<Cancel>);

impl Drop for Abandon {
    fn drop(&mut self) {
        if let Some(cancel) = &self.0 {
            cancel.cancel("nobody waits for it any more");
        }
    }
}

impl Helpers {
    /// Runs `work` on a helper thread. Cancel safe: dropped, `work` sees its `Cancel` fire and should end soon.
    pub async fn run<T: Send + 'static>(
        &self,
        cancel: &Cancel,
        work: impl FnOnce(&Cancel) -> Result<T, ToolFailure> + Send + 'static,
    ) -> Result<T, ToolFailure> {
        let cancel = cancel.child();
        let mut abandon = Abandon(Some(cancel.clone()));
        let running = Running::new(&self.0);
        #[allow(clippy::disallowed_methods, reason = "counted here, and waited for by `wait_for_none`")]
        let task = tokio::task::spawn_blocking(move || {
            let _running = running;
            if cancel.is_cancelled() {
                return Err(ToolFailure::new("it was cancelled before it began"));
            }
            work(&cancel)
        });
        let ended = task.await;
        abandon.0 = None;
        match ended {
            Ok(output) => output,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(ToolFailure::new("the runtime is closing").with_code("closed")),
            },
        }
    }

    /// How much runs.
    pub fn running(&self) -> usize {
        *self.0.running.lock()
    }

    /// Waits until nothing runs, or until then. Whether nothing runs.
    pub fn wait_for_none(&self, until: Instant) -> bool {
        let mut running = self.0.running.lock();
        while *running > 0 {
            if self.0.none_left.wait_until(&mut running, until).timed_out() {
                return *running == 0;
            }
        }
        true
    }
}
