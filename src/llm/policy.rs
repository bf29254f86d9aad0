//! How model requests are let through and tried again: what retry rules, rate limits and timeouts come to.

use crate::config::{Backoff, RetryBudgetConfig, RetryConfig, RetryOn, RetryPolicyConfig};
use crate::types::{Category, Error, Status, millis};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What holds for one model request.
#[derive(Clone, Default)]
pub struct Policy {
    /// When it is tried again; none: as the provider is configured.
    pub retry: Option<Arc<RetryPolicy>>,
    /// What each attempt must pass, outermost first.
    pub gates: Vec<Arc<RateLimiter>>,
    /// How long each attempt may take.
    pub timeout: Option<Duration>,
}

/// When a failed request is tried again, and how long it waits before.
pub struct RetryPolicy {
    max_attempts: u32,
    initial_delay: Duration,
    backoff: Backoff,
    retry_on: Vec<RetryOn>,
    jitter: bool,
    max_retry_after_ms: u64,
    budget: Option<RetryBudget>,
}

impl RetryPolicy {
    /// The policy of a configuration, which has been checked.
    pub fn new(config: &RetryPolicyConfig) -> Self {
        Self {
            max_attempts: config.max_attempts,
            initial_delay: Duration::from_secs_f64(config.initial_delay),
            backoff: config.backoff,
            retry_on: config.retry_on.clone(),
            jitter: config.jitter,
            max_retry_after_ms: millis(Duration::from_secs_f64(config.max_retry_after)),
            budget: config.budget.map(RetryBudget::new),
        }
    }

    /// The wait before attempt `attempt`, from 2; none if there shall be no such attempt.
    pub fn delay(&self, attempt: u32, error: &Error) -> Option<Duration> {
        if attempt > self.max_attempts || !self.covers(error) {
            return None;
        }
        let wait = match error.retry_after_ms() {
            // Waiting longer than the host allows is the host's decision.
            Some(wait) if wait > self.max_retry_after_ms => return None,
            Some(wait) => Duration::from_millis(wait),
            None => self.wait(attempt),
        };
        match &self.budget {
            Some(budget) if !budget.take() => None,
            Some(_) | None => Some(wait),
        }
    }

    fn covers(&self, error: &Error) -> bool {
        error.is_retryable()
            && self.retry_on.iter().any(|kind| match kind {
                RetryOn::AnyRetryable => true,
                RetryOn::Timeout => error.category() == Category::Timeout,
                RetryOn::RateLimited => error.category() == Category::RateLimited,
                RetryOn::ConnectionError => error.status() == Status::Network,
                RetryOn::ExternalFailure => {
                    matches!(error.category(), Category::ExternalFailure | Category::Unavailable | Category::Truncated)
                }
            })
    }

    fn wait(&self, attempt: u32) -> Duration {
        let retry = attempt.saturating_sub(2);
        let seconds = match self.backoff {
            Backoff::Fixed { delay } => delay,
            Backoff::Exponential { base, max_delay } => {
                (self.initial_delay.as_secs_f64() * base.powi(i32::try_from(retry).unwrap_or(i32::MAX))).min(max_delay)
            }
            Backoff::Linear { increment, max_delay } => {
                (self.initial_delay.as_secs_f64() + increment * f64::from(retry)).min(max_delay)
            }
        };
        // Up to a quarter less, so that callers which failed together do not come back together.
        let part = if self.jitter { 1.0 - 0.25 * random_fraction() } else { 1.0 };
        Duration::try_from_secs_f64(seconds * part).unwrap_or(Duration::MAX)
    }
}

impl From<RetryConfig> for RetryPolicy {
    fn from(config: RetryConfig) -> Self {
        let seconds = |ms: u64| Duration::from_millis(ms).as_secs_f64();
        Self {
            max_attempts: config.max_attempts,
            initial_delay: Duration::from_millis(config.initial_delay_ms),
            backoff: Backoff::Exponential { base: 2.0, max_delay: seconds(config.max_delay_ms) },
            retry_on: vec![RetryOn::AnyRetryable],
            jitter: true,
            max_retry_after_ms: config.max_retry_after_ms,
            budget: None,
        }
    }
}

/// A number from 0 up to 1: enough to scatter waits, no more.
fn random_fraction() -> f64 {
    f64::from(uuid::Uuid::new_v4().as_fields().0) / f64::from(u32::MAX)
}

/// The most retries in a sliding window.
struct RetryBudget {
    most: usize,
    window: Duration,
    taken: Mutex<VecDeque<Instant>>,
}

impl RetryBudget {
    fn new(config: RetryBudgetConfig) -> Self {
        Self {
            most: config.max_retries as usize,
            window: Duration::from_secs_f64(config.window_seconds),
            taken: Mutex::default(),
        }
    }

    fn take(&self) -> bool {
        let now = Instant::now();
        let mut taken = self.taken.lock();
        while taken.front().is_some_and(|at| now.duration_since(*at) >= self.window) {
            taken.pop_front();
        }
        if taken.len() >= self.most {
            return false;
        }
        taken.push_back(now);
        true
    }
}

/// A token bucket: so many requests at once, refilled evenly over the window. Whoever finds it empty waits for a token of
/// its own, in the order of coming.
pub struct RateLimiter {
    capacity: f64,
    per_second: f64,
    bucket: Mutex<Bucket>,
}

struct Bucket {
    /// Below 0: so many wait.
    tokens: f64,
    at: Instant,
}

impl RateLimiter {
    /// `max_requests` in `window`.
    pub fn new(max_requests: u32, window: Duration) -> Self {
        let capacity = f64::from(max_requests);
        let bucket = Mutex::new(Bucket { tokens: capacity, at: Instant::now() });
        Self { capacity, per_second: capacity / window.as_secs_f64(), bucket }
    }

    /// Takes a token and says how long to wait until it is there.
    fn reserve(&self) -> Duration {
        let now = Instant::now();
        let mut bucket = self.bucket.lock();
        let refilled = bucket.tokens + now.duration_since(bucket.at).as_secs_f64() * self.per_second;
        bucket.tokens = refilled.min(self.capacity) - 1.0;
        bucket.at = now;
        Duration::try_from_secs_f64((-bucket.tokens / self.per_second).max(0.0)).unwrap_or_default()
    }

    /// Waits for its turn. `waiting` is told how long, if it is at all. Cancel safe: a wait that is given up gives its
    /// token back.
    pub async fn pass(&self, waiting: impl FnOnce(Duration)) {
        struct Reserved<'a>(Option<&'a RateLimiter>);
        impl Drop for Reserved<'_> {
            fn drop(&mut self) {
                if let Some(limiter) = self.0 {
                    limiter.bucket.lock().tokens += 1.0;
                }
            }
        }
        let wait = self.reserve();
        if wait.is_zero() {
            return;
        }
        let mut reserved = Reserved(Some(self));
        waiting(wait);
        sleep(wait).await;
        reserved.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;

    fn policy(json: &str) -> RetryPolicy {
        RetryPolicy::new(&crate::config::strict::from_str(json, "retry").unwrap())
    }

    fn failure(status: Status) -> Error {
        Error::new(status, "x").with_retryable(true)
    }

    #[test]
    fn waits_grow_as_configured() {
        let waits = |json: &str| -> Vec<u64> {
            let policy = policy(json);
            (2..=5).map(|attempt| policy.delay(attempt, &failure(Status::Provider)).map_or(0, millis)).collect()
        };
        assert_eq!(waits(r#"{"max_attempts": 4, "initial_delay": 1, "jitter": false}"#), [1_000, 2_000, 4_000, 0]);
        let linear = r#"{"max_attempts": 9, "initial_delay": 1, "jitter": false,
            "backoff": {"type": "linear", "increment": 2, "max_delay": 6}}"#;
        assert_eq!(waits(linear), [1_000, 3_000, 5_000, 6_000]);
        let fixed = r#"{"max_attempts": 9, "jitter": false, "backoff": {"type": "fixed", "delay": 0.25}}"#;
        assert_eq!(waits(fixed), [250; 4]);
    }

    #[test]
    fn only_the_named_failures_and_only_within_the_budget() {
        let named = policy(r#"{"retry_on": ["rate_limited"]}"#);
        assert_eq!(named.delay(2, &failure(Status::Network)), None);
        assert!(named.delay(2, &failure(Status::RateLimited)).is_some());
        assert_eq!(named.delay(2, &failure(Status::RateLimited).with_retryable(false)), None);
        let budgeted = policy(r#"{"budget": {"max_retries": 2, "window_seconds": 60}}"#);
        let allowed = (0..5).filter(|_| budgeted.delay(2, &failure(Status::Provider)).is_some()).count();
        assert_eq!(allowed, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_lets_a_burst_pass_and_then_makes_wait() {
        let limiter = RateLimiter::new(2, Duration::from_secs(1));
        let start = Instant::now();
        for _ in 0..6 {
            limiter.pass(|_| {}).await;
        }
        let took = start.elapsed();
        assert!((1_990..2_100).contains(&millis(took)), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_given_up_costs_the_next_nothing() {
        let limiter = RateLimiter::new(1, Duration::from_secs(10));
        limiter.pass(|_| {}).await;
        let given_up = tokio::time::timeout(Duration::from_millis(1), limiter.pass(|_| {})).await;
        assert!(given_up.is_err());
        let mut told = Duration::ZERO;
        limiter.pass(|wait| told = wait).await;
        assert!(told <= Duration::from_secs(10), "{told:?}");
    }
}
