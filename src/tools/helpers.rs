//! Work that blocks: files, searches, child processes. It runs on helper threads, is told when nobody waits for it any
//! more, and is waited for when the runtime closes.

use super::{Invocation, ToolFailure};
use crate::types::Cancel;
use parking_lot::{Condvar, Mutex};
use serde::Serialize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two notes on how far a search is.
const NOTE: Duration = Duration::from_secs(1);

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

/// The failure of work that the system allows no thread for.
fn no_thread() -> ToolFailure {
    ToolFailure {
        message: "the system allows no more threads, and this tool needs one: raise RLIMIT_NPROC or the pids limit"
            .into(),
        code: Some("thread_limit".into()),
        retryable: true,
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
        // In a place from which it can be taken back: tokio keeps what it has no thread for, and may run it later.
        let place = Arc::new(Mutex::new(Some((running, work))));
        let taken = Arc::clone(&place);
        let job = move || {
            let job = taken.lock().take();
            let Some((_running, work)) = job else { return Err(no_thread()) };
            if cancel.is_cancelled() {
                return Err(ToolFailure::new("it was cancelled before it began"));
            }
            work(&cancel)
        };
        #[allow(clippy::disallowed_methods, reason = "counted here, and waited for by `wait_for_none`")]
        let spawned = catch_unwind(AssertUnwindSafe(|| tokio::task::spawn_blocking(job)));
        let Ok(task) = spawned else {
            // tokio panics when the system refuses it a thread.
            let refused = place.lock().take();
            drop(refused);
            return Err(no_thread());
        };
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

    /// The same for a call, which says each second how far it is.
    pub async fn run_noted<T: Send + 'static, N: Serialize>(
        &self,
        call: &Invocation<'_>,
        note: impl Fn() -> N + Send,
        work: impl FnOnce(&Cancel) -> Result<T, ToolFailure> + Send + 'static,
    ) -> Result<T, ToolFailure> {
        let mut work = pin!(self.run(&call.cancel, work));
        loop {
            tokio::select! {
                ended = &mut work => return ended,
                () = tokio::time::sleep(NOTE) => call.progress(&note()),
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::EventBody;
    use pretty_assertions::assert_eq;
    use serde_json::json;
    use std::sync::mpsc;

    #[tokio::test]
    async fn work_that_nobody_waits_for_is_told_and_is_waited_for() {
        let helpers = Helpers::default();
        let (began, has_begun) = mpsc::channel();
        let work = helpers.clone();
        let cancel = Cancel::new();
        let mut running = Box::pin(work.run(&cancel, move |cancel| {
            began.send(()).unwrap();
            while !cancel.is_cancelled() {
                std::thread::yield_now();
            }
            Ok(())
        }));
        assert!(futures_util::poll!(&mut running).is_pending());
        has_begun.recv().unwrap();
        assert_eq!(helpers.running(), 1);
        drop(running);
        assert!(helpers.wait_for_none(Instant::now() + Duration::from_secs(20)));
        assert!(!cancel.is_cancelled(), "only this work is");
    }

    #[tokio::test]
    async fn long_work_says_how_far_it_is() {
        let (seen, go_on) = mpsc::channel();
        let emit = move |event: &EventBody<'_>| {
            let EventBody::ToolProgress { note, .. } = event else { panic!("another event") };
            let _ = seen.send(note.get().to_owned());
        };
        let call = Invocation {
            id: &"c".into(),
            idempotency_key: String::new(),
            scope: &"".into(),
            input: &json!({}),
            cancel: Cancel::new(),
            workspace: None,
            emit: &emit,
        };
        let note = || json!({"files": 7});
        // It ends when it has been told of.
        let told = Helpers::default().run_noted(&call, note, move |_| Ok(go_on.recv().unwrap())).await;
        assert_eq!(told.unwrap(), r#"{"files":7}"#);
    }
}
