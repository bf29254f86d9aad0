//! A circuit breaker: an endpoint that fails again and again is left alone for a while.
//!
//! Counted are failures of the endpoint itself: no connection, no answer in time, an answer of 500 and above. What is wrong
//! with a request, and a rate limit, says nothing about the endpoint. After its rest one request may try; if it succeeds the
//! circuit closes.

use crate::config::BreakerConfig;
use crate::types::{Category, Error, Result, Status, millis};
use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// See the module's head.
pub struct Breaker {
    config: BreakerConfig,
    state: Mutex<State>,
}

enum State {
    /// So many failures in a row.
    Closed(u32),
    /// Left alone until then.
    Open(Instant),
    /// One request tries.
    Trying,
}

/// A request that was let through; dropped without a verdict it says nothing.
pub struct Attempt<'b> {
    breaker: &'b Breaker,
    is_trial: bool,
}

impl Breaker {
    /// A closed circuit.
    pub fn new(config: BreakerConfig) -> Self {
        Self { config, state: Mutex::new(State::Closed(0)) }
    }

    /// Lets a request through, or says how long the endpoint is left alone.
    pub fn enter(&self, provider: &str) -> Result<Attempt<'_>> {
        let mut state = self.state.lock();
        let rest = match *state {
            State::Closed(_) => return Ok(Attempt { breaker: self, is_trial: false }),
            State::Open(until) => match until.checked_duration_since(Instant::now()) {
                Some(rest) if !rest.is_zero() => rest,
                Some(_) | None => {
                    *state = State::Trying;
                    return Ok(Attempt { breaker: self, is_trial: true });
                }
            },
            State::Trying => self.rest(),
        };
        let wait = millis(rest).max(1);
        let message =
            format!("the provider {provider:?} has failed {} times in a row and is left alone", self.config.failures);
        Err(Error::new(Status::Provider, message)
            .with_category(Category::Unavailable)
            .with_code("circuit_open")
            .with_retryable(true)
            .with_retry_after_ms(Some(wait))
            .with_hint("try again later, or give the agent a fallback"))
    }

    fn rest(&self) -> Duration {
        Duration::from_secs_f64(self.config.open_seconds)
    }
}

impl Attempt<'_> {
    /// What came of it.
    pub fn ended<T>(self, result: &Result<T>) {
        let failed = result.as_ref().err().is_some_and(is_the_endpoints);
        let mut state = self.breaker.state.lock();
        *state = match (failed, &*state) {
            (false, _) => State::Closed(0),
            (true, State::Closed(failures)) if failures + 1 < self.breaker.config.failures => {
                State::Closed(failures + 1)
            }
            (true, State::Closed(_) | State::Open(_) | State::Trying) => {
                State::Open(Instant::now() + self.breaker.rest())
            }
        };
        std::mem::forget(self);
    }
}

impl Drop for Attempt<'_> {
    /// A trial that was given up leaves the question open: the next request is the trial.
    fn drop(&mut self) {
        if self.is_trial {
            *self.breaker.state.lock() = State::Open(Instant::now());
        }
    }
}

fn is_the_endpoints(error: &Error) -> bool {
    match error.status() {
        Status::Network => true,
        Status::Provider => {
            matches!(error.category(), Category::ExternalFailure | Category::Unavailable) && error.is_retryable()
        }
        _ => error.category() == Category::Timeout,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;

    fn failing() -> Result<()> {
        Err(Error::new(Status::Network, "no"))
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_closes_after_a_trial() {
        let breaker = Breaker::new(BreakerConfig { failures: 2, open_seconds: 10.0 });
        breaker.enter("p").unwrap().ended(&failing());
        breaker.enter("p").unwrap().ended(&Ok(()));
        breaker.enter("p").unwrap().ended(&failing());
        breaker.enter("p").unwrap().ended(&failing());
        let error = breaker.enter("p").err().unwrap();
        assert_eq!((error.code(), error.retry_after_ms()), (Some("circuit_open"), Some(10_000)));
        tokio::time::advance(Duration::from_secs(10)).await;
        let trial = breaker.enter("p").unwrap();
        assert!(breaker.enter("p").is_err(), "one at a time");
        drop(trial);
        breaker.enter("p").unwrap().ended(&failing());
        assert!(breaker.enter("p").is_err(), "a trial that fails opens it again");
        tokio::time::advance(Duration::from_secs(10)).await;
        breaker.enter("p").unwrap().ended(&Ok(()));
        assert!(breaker.enter("p").is_ok());
    }

    #[test]
    fn what_is_not_the_endpoints_fault_does_not_count() {
        let breaker = Breaker::new(BreakerConfig { failures: 1, open_seconds: 10.0 });
        for status in [Status::RateLimited, Status::Auth, Status::ContextLength, Status::ContentFilter] {
            breaker.enter("p").unwrap().ended::<()>(&Err(Error::new(status, "no")));
        }
        assert!(breaker.enter("p").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_is_dropped_says_nothing() {
        let breaker = Breaker::new(BreakerConfig { failures: 1, open_seconds: 10.0 });
        drop(breaker.enter("p").unwrap());
        assert!(breaker.enter("p").is_ok(), "a request that was given up is no failure");
        breaker.enter("p").unwrap().ended(&failing());
        tokio::time::advance(Duration::from_secs(10)).await;
        // Two at once while it was closed, then it opens: the slower one is no trial.
        let breaker = Breaker::new(BreakerConfig { failures: 1, open_seconds: 10.0 });
        let slow = breaker.enter("p").unwrap();
        breaker.enter("p").unwrap().ended(&failing());
        drop(slow);
        assert!(breaker.enter("p").is_err(), "it stays open for its whole rest");
    }
}
