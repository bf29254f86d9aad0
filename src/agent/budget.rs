//! What runs may consume, and what they have.
//!
//! A [`Ledger`] is one budget: of the runtime, of a session, of a run or of a sub-agent's call. An [`Account`] is what one
//! run draws on: all the ledgers above it and its own. Before a model request the most that it could consume is reserved
//! in all of them at once, or in none; afterwards the reservation becomes what was really consumed. So concurrent runs
//! cannot overdraw a budget together.

use crate::config::{Budget, Price, UnknownPrice};
use crate::types::{Error, PicoUsd, Result, Status, Usage, millis};
use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// One budget. See the module's head.
pub struct Ledger {
    /// Whose it is, for messages.
    owner: &'static str,
    budget: Budget,
    /// The most tokens altogether (a quota's `max_total_tokens`).
    total_tokens: Option<u64>,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    spent: Spent,
    reserved: Need,
}

/// What was consumed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// In USD, as far as prices were known.
    pub usd: PicoUsd,
    /// Prompt tokens.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// Model requests.
    pub requests: u64,
    /// Tool calls.
    pub tool_calls: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Need {
    usd: PicoUsd,
    input_tokens: u64,
    output_tokens: u64,
}

/// An answer's length that is reserved when nothing says how long it may become.
const ASSUMED_OUTPUT: u64 = 16_384;

impl Ledger {
    /// A ledger that has `spent` already and runs since `age`.
    pub fn new(owner: &'static str, budget: Budget, total_tokens: Option<u64>, spent: Spent, age: Duration) -> Self {
        let now = Instant::now();
        let state = Mutex::new(State { spent, reserved: Need::default() });
        Self { owner, budget, total_tokens, began: now.checked_sub(age).unwrap_or(now), state }
    }

    /// When its time is over.
    pub fn deadline(&self) -> Option<Instant> {
        self.began.checked_add(Duration::from_millis(self.budget.wall_ms?))
    }

    /// What was consumed so far.
    pub fn spent(&self) -> Spent {
        self.state.lock().spent
    }

    fn used_up(&self, what: &str, most: impl std::fmt::Display, used: impl std::fmt::Display, needs: &str) -> Error {
        let owner = self.owner;
        Error::new(
            Status::Limit,
            format!("the {owner}'s budget of {most} {what} does not allow this: {used} used{needs}"),
        )
        .with_code("budget_exceeded")
        .with_path(format!("budget.{what}"))
        .with_hint(format!("raise the {owner}'s budget"))
    }
}

/// The ledgers that one run draws on, outermost first.
#[derive(Clone, Default)]
pub struct Account {
    ledgers: Vec<Arc<Ledger>>,
}

/// A model request that is about to be made.
pub struct Planned<'a> {
    /// Its model, for messages.
    pub model: &'a str,
    /// Tokens of the prompt, estimated.
    pub input_tokens: u64,
    /// The most tokens of the answer that are wanted.
    pub output_limit: Option<u32>,
    /// The most tokens that the model can answer.
    pub model_limit: Option<u64>,
    /// What it costs.
    pub price: Option<&'a Price>,
    /// What it means if that is not known.
    pub unknown_price: UnknownPrice,
}

impl Account {
    /// An account on these ledgers, outermost first.
    pub fn new(ledgers: Vec<Arc<Ledger>>) -> Self {
        Self { ledgers }
    }

    /// This account and one more ledger below it.
    pub fn with(&self, ledger: Arc<Ledger>) -> Self {
        let mut ledgers = self.ledgers.clone();
        ledgers.push(ledger);
        Self { ledgers }
    }

    /// When the first of the budgets' times is over.
    pub fn deadline(&self) -> Option<Instant> {
        self.ledgers.iter().filter_map(|ledger| ledger.deadline()).min()
    }

    /// Reserves what a request could consume. The reservation says how long the answer may be, if a budget bounds it.
    pub fn reserve(&self, planned: &Planned<'_>) -> Result<Reservation> {
        if self.ledgers.is_empty() {
            return Ok(Reservation {
                account: self.clone(),
                need: Need::default(),
                output_limit: planned.output_limit,
                price_is_unknown: false,
                settled: false,
            });
        }
        let mut states = self.lock();
        let wanted = planned.output_limit.map(u64::from).or(planned.model_limit).unwrap_or(ASSUMED_OUTPUT);
        let mut allowed = wanted;
        let has_usd = self.ledgers.iter().any(|ledger| ledger.budget.usd.is_some());
        for (ledger, state) in self.ledgers.iter().zip(&states) {
            allowed = allowed.min(room(ledger, state, planned)?);
        }
        let worst = Usage { input_tokens: planned.input_tokens, output_tokens: allowed, ..Usage::default() };
        let need = Need {
            usd: planned.price.map(|price| price.cost(&worst)).unwrap_or_default(),
            input_tokens: planned.input_tokens,
            output_tokens: allowed,
        };
        for state in &mut states {
            state.spent.requests += 1;
            state.reserved.usd = state.reserved.usd.saturating_add(need.usd);
            state.reserved.input_tokens += need.input_tokens;
            state.reserved.output_tokens += need.output_tokens;
        }
        drop(states);
        // What no budget bounds is not told to the provider.
        let output_limit =
            if allowed < wanted { Some(u32::try_from(allowed).unwrap_or(u32::MAX)) } else { planned.output_limit };
        let price_is_unknown = has_usd && planned.price.is_none();
        Ok(Reservation { account: self.clone(), need, output_limit, price_is_unknown, settled: false })
    }

    /// Counts a tool call, if it is allowed.
    pub fn tool_call(&self) -> Result<()> {
        let mut states = self.lock();
        for (ledger, state) in self.ledgers.iter().zip(&states) {
            if let Some(most) = ledger.budget.tool_calls.filter(|most| state.spent.tool_calls >= *most) {
                return Err(ledger.used_up("tool_calls", most, state.spent.tool_calls, ""));
            }
        }
        states.iter_mut().for_each(|state| state.spent.tool_calls += 1);
        Ok(())
    }

    /// All of them, always in the same order, so that two accounts with ledgers in common cannot wait for each other.
    fn lock(&self) -> Vec<MutexGuard<'_, State>> {
        self.ledgers.iter().map(|ledger| ledger.state.lock()).collect()
    }
}

/// How long the answer may be as far as this ledger goes; an error if the request must not be made at all.
fn room(ledger: &Ledger, state: &State, planned: &Planned<'_>) -> Result<u64> {
    let (budget, spent, reserved) = (&ledger.budget, &state.spent, &state.reserved);
    if let Some(most) = budget.requests.filter(|most| spent.requests >= *most) {
        return Err(ledger.used_up("requests", most, spent.requests, ""));
    }
    if ledger.deadline().is_some_and(|deadline| deadline <= Instant::now()) {
        let elapsed = millis(ledger.began.elapsed());
        return Err(ledger.used_up("wall_ms", budget.wall_ms.unwrap_or(0), elapsed, ""));
    }
    let input = spent.input_tokens + reserved.input_tokens;
    if let Some(most) = budget.input_tokens.filter(|most| input + planned.input_tokens > *most) {
        let needs = format!(", and this request needs about {}", planned.input_tokens);
        return Err(ledger.used_up("input_tokens", most, input, &needs));
    }
    let output = spent.output_tokens + reserved.output_tokens;
    let mut room = u64::MAX;
    if let Some(most) = budget.output_tokens {
        room = most.saturating_sub(output);
        if room == 0 {
            return Err(ledger.used_up("output_tokens", most, output, ""));
        }
    }
    if let Some(most) = ledger.total_tokens {
        let left = most.saturating_sub(input + output);
        if left <= planned.input_tokens {
            let needs = format!(", and this request needs about {}", planned.input_tokens);
            return Err(ledger.used_up("max_total_tokens", most, input + output, &needs));
        }
        room = room.min(left - planned.input_tokens);
    }
    if let Some(most) = budget.usd {
        match planned.price {
            Some(price) => {
                let used = spent.usd.saturating_add(reserved.usd);
                let prompt = price.cost(&Usage { input_tokens: planned.input_tokens, ..Usage::default() });
                let left = most.pico().saturating_sub(used.pico()).saturating_sub(prompt.pico());
                let affordable = match price.cost(&Usage { output_tokens: 1, ..Usage::default() }).pico() {
                    0 => u64::MAX,
                    each => u64::try_from(left / each).unwrap_or(u64::MAX),
                };
                if affordable == 0 || used >= most {
                    let needs = format!(", and this request's prompt alone costs about {prompt}");
                    return Err(ledger.used_up("usd", most, used, &needs));
                }
                room = room.min(affordable);
            }
            None if planned.unknown_price == UnknownPrice::Fail => {
                return Err(Error::new(
                    Status::Limit,
                    format!("the {}'s budget is in USD, and the price of the model {:?} is not known", ledger.owner, planned.model),
                )
                .with_code("unknown_price")
                .with_path("budget.usd")
                .with_hint("give it in the runtime config: \"models\": {\"<model>\": {\"price\": {\"input\": \"…\", \"output\": \"…\"}}}, in USD per million tokens"));
            }
            None => {}
        }
    }
    Ok(room)
}

/// What a request may consume. Dropped unsettled, as when a request fails, it is given back.
#[must_use]
pub struct Reservation {
    account: Account,
    need: Need,
    output_limit: Option<u32>,
    price_is_unknown: bool,
    settled: bool,
}

impl Reservation {
    /// The most tokens of the answer.
    pub fn output_limit(&self) -> Option<u32> {
        self.output_limit
    }

    /// Whether a budget in USD applies that this request cannot be counted in.
    pub fn price_is_unknown(&self) -> bool {
        self.price_is_unknown
    }

    /// Books what was really consumed.
    pub fn settle(mut self, usage: &Usage, cost: PicoUsd) {
        let input = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens;
        self.release(|spent| {
            spent.usd = spent.usd.saturating_add(cost);
            spent.input_tokens += input;
            spent.output_tokens += usage.output_tokens;
        });
        self.settled = true;
    }

    fn release(&self, mut book: impl FnMut(&mut Spent)) {
        for state in &mut self.account.lock() {
            state.reserved.usd = PicoUsd::new(state.reserved.usd.pico().saturating_sub(self.need.usd.pico()));
            state.reserved.input_tokens = state.reserved.input_tokens.saturating_sub(self.need.input_tokens);
            state.reserved.output_tokens = state.reserved.output_tokens.saturating_sub(self.need.output_tokens);
            book(&mut state.spent);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.settled {
            self.release(|_| {});
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use serde_json::{Value, json};

    fn ledger(budget: Value) -> Arc<Ledger> {
        let budget = crate::config::strict::read(&budget, "budget").unwrap();
        Arc::new(Ledger::new("run", budget, None, Spent::default(), Duration::ZERO))
    }

    fn planned(input_tokens: u64, output_limit: Option<u32>) -> Planned<'static> {
        Planned {
            model: "m",
            input_tokens,
            output_limit,
            model_limit: None,
            price: None,
            unknown_price: UnknownPrice::Fail,
        }
    }

    fn usage(input_tokens: u64, output_tokens: u64) -> Usage {
        Usage { input_tokens, output_tokens, ..Usage::default() }
    }

    #[test]
    fn concurrent_requests_cannot_overdraw_together() {
        let ledger = ledger(json!({"output_tokens": 100}));
        let account = Account::new(vec![Arc::clone(&ledger)]);
        let first = account.reserve(&planned(0, Some(80))).unwrap();
        let second = account.reserve(&planned(0, Some(80))).unwrap();
        assert_eq!((first.output_limit(), second.output_limit()), (Some(80), Some(20)));
        assert_eq!(account.reserve(&planned(0, None)).err().unwrap().path(), Some("budget.output_tokens"));
        first.settle(&usage(5, 10), PicoUsd::default());
        assert_eq!(account.reserve(&planned(0, Some(80))).unwrap().output_limit(), Some(70));
        drop(second);
        assert_eq!(account.reserve(&planned(0, Some(80))).unwrap().output_limit(), Some(80));
    }

    #[test]
    fn a_refusal_reserves_nothing_anywhere() {
        let (outer, inner) = (ledger(json!({"output_tokens": 100})), ledger(json!({"requests": 0})));
        let account = Account::new(vec![Arc::clone(&outer)]).with(inner);
        assert_eq!(account.reserve(&planned(0, None)).err().unwrap().path(), Some("budget.requests"));
        assert_eq!(outer.spent(), Spent::default());
        assert_eq!(Account::new(vec![outer]).reserve(&planned(0, None)).unwrap().output_limit(), Some(100));
    }

    #[test]
    fn money_bounds_the_answer_and_an_unknown_price_is_never_free() {
        let account = Account::new(vec![ledger(json!({"usd": "0.001"}))]);
        assert_eq!(account.reserve(&planned(10, None)).err().unwrap().code(), Some("unknown_price"));
        // 1 USD a million prompt tokens, 10 a million written ones: 100 tokens of prompt leave 90 of answer.
        let price: Price = crate::config::strict::from_str(r#"{"input": "1", "output": "10"}"#, "price").unwrap();
        let priced = Planned { price: Some(&price), ..planned(100, None) };
        assert_eq!(account.reserve(&priced).unwrap().output_limit(), Some(90));
        let dear = Planned { price: Some(&price), ..planned(1_000, None) };
        assert_eq!(account.reserve(&dear).err().unwrap().path(), Some("budget.usd"));
        let ignored = Planned { unknown_price: UnknownPrice::Ignore, ..planned(10, None) };
        assert!(account.reserve(&ignored).is_ok());
    }

    #[test]
    fn tool_calls_are_counted_before_they_are_made() {
        let account = Account::new(vec![ledger(json!({"tool_calls": 2}))]);
        assert!(account.tool_call().is_ok() && account.tool_call().is_ok());
        assert_eq!(account.tool_call().err().unwrap().path(), Some("budget.tool_calls"));
    }

    /// What requests that run at the same time could consume together is never more than the budget.
    #[test]
    fn what_is_reserved_counts_for_those_that_run_at_the_same_time() {
        let price: Price = crate::config::strict::read(&json!({"input": "1", "output": "10"}), "price").unwrap();
        let planned = || Planned {
            model: "m",
            input_tokens: 1_000,
            output_limit: Some(100),
            model_limit: None,
            price: Some(&price),
            unknown_price: UnknownPrice::Fail,
        };
        // A request costs 1,000 · 1 + 100 · 10 millionths.
        let usd = Budget { usd: Some("0.0045".parse().unwrap()), ..Budget::default() };
        let input = Budget { input_tokens: Some(2_500), ..Budget::default() };
        for (budget, path, whole) in
            [(usd, "budget.usd", vec![100, 100]), (input, "budget.input_tokens", vec![100, 100])]
        {
            let ledger = Arc::new(Ledger::new("run", budget, None, Spent::default(), Duration::ZERO));
            let account = Account::new(vec![ledger]);
            let barrier = std::sync::Barrier::new(8);
            let reserved: Vec<Result<Reservation>> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..8)
                    .map(|_| {
                        scope.spawn(|| {
                            barrier.wait();
                            account.reserve(&planned())
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let (granted, refused): (Vec<_>, Vec<_>) = reserved.into_iter().partition(Result::is_ok);
            let limits: Vec<_> = granted.iter().flatten().filter_map(Reservation::output_limit).collect();
            assert_eq!(limits, whole, "{path}");
            assert!(refused.iter().all(|refused| refused.as_ref().err().unwrap().path() == Some(path)));
            // What was not consumed is there for others.
            drop(granted);
            assert!(account.reserve(&planned()).is_ok());
        }
    }
}
