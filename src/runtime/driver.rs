//! Blocking calls drive their own I/O.
//!
//! A blocking call that handed its work to a worker would pay two thread hops, each a wake-up. Instead it borrows a
//! driver, a single-threaded tokio runtime with its own connections, and runs its future right there: the thread that
//! waits is the thread that reads the socket. Drivers are kept in a stack, so the one used last, with the warm
//! connection, is used next.

use crate::events::LogSubscriber;
use crate::llm::HttpPool;
use crate::store::may_wait_here;
use crate::types::{Error, Result, Status};
use parking_lot::Mutex;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many drivers wait for the next call; more are closed when their call ends.
const MOST_IDLE: usize = 64;
/// How long a driver waits for the next call.
const IDLE_TIME: Duration = Duration::from_secs(90);

struct Driver {
    /// Present until it is dropped.
    runtime: Option<tokio::runtime::Runtime>,
    http: Arc<HttpPool>,
}

/// What was given up is let go of now: nobody drives the connections of an idle driver, and a server that was not told
/// would go on answering until the next call.
async fn settle() {
    for _ in 0..4 {
        tokio::task::yield_now().await;
    }
}

impl Drop for Driver {
    /// Does not wait for helpers of libraries, such as a name lookup that nobody answers.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// See the module's head.
#[derive(Default)]
pub(super) struct DriverPool {
    idle: Mutex<Vec<(Instant, Driver)>>,
}

impl DriverPool {
    /// Runs a future on the calling thread, with the driver's connections.
    pub fn block_on<T, F: Future<Output = Result<T>>>(
        &self,
        log: &Arc<LogSubscriber>,
        work: impl FnOnce(Arc<HttpPool>) -> F,
    ) -> Result<T> {
        let driver = self.take(log)?;
        let runtime = driver.runtime.as_ref().ok_or_else(|| Error::internal("a driver without its runtime"))?;
        let work = async {
            let output = work(Arc::clone(&driver.http)).await;
            if output.is_err() {
                settle().await;
            }
            output
        };
        let run = || may_wait_here(|| runtime.block_on(work));
        let output = if log.is_active() { tracing::dispatcher::with_default(&log.dispatch(), run) } else { run() };
        self.give_back(driver);
        output
    }

    /// Closes every idle driver.
    pub fn clear(&self) {
        let idle = std::mem::take(&mut *self.idle.lock());
        drop(idle);
    }

    fn take(&self, log: &Arc<LogSubscriber>) -> Result<Driver> {
        let idle = self.idle.lock().pop();
        if let Some((_, driver)) = idle {
            return Ok(driver);
        }
        let log = Arc::clone(log);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name("par-blocking")
            .on_thread_start(move || super::threads::adopt(&log))
            .build()
            .map_err(|error| {
                Error::new(Status::Io, format!("a blocking call cannot get a driver: {error}"))
                    .with_hint("raise RLIMIT_NOFILE: each blocking call at the same time needs a few descriptors")
            })?;
        Ok(Driver { runtime: Some(runtime), http: Arc::default() })
    }

    fn give_back(&self, driver: Driver) {
        let now = Instant::now();
        let mut idle = self.idle.lock();
        // The bottom of the stack was used least recently. Dropping a driver closes its connections: not under the lock.
        let expired = idle.iter().take_while(|(since, _)| now.duration_since(*since) > IDLE_TIME).count();
        let expired: Vec<_> = idle.drain(..expired).collect();
        let surplus = if idle.len() < MOST_IDLE {
            idle.push((now, driver));
            None
        } else {
            Some(driver)
        };
        drop(idle);
        drop((expired, surplus));
    }
}
