//! What a run and the runs below it have consumed, counted as it happens: a run that is cut off in the middle has a true
//! account all the same.

use crate::config::Price;
use crate::types::{PicoUsd, Usage};
use parking_lot::Mutex;
use std::sync::Arc;

/// See the module's head. What is counted here is counted above, too.
pub struct Meter {
    counted: Mutex<Counted>,
    above: Option<Arc<Meter>>,
}

/// What was consumed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counted {
    /// Tokens.
    pub usage: Usage,
    /// What they cost, as far as prices were known.
    pub cost: PicoUsd,
    /// Whether all were.
    pub cost_is_known: bool,
    /// Model requests.
    pub requests: u64,
    /// Tool calls.
    pub tool_calls: u64,
}

impl Counted {
    /// The cost, if it is known.
    pub fn known_cost(&self) -> Option<PicoUsd> {
        self.cost_is_known.then_some(self.cost)
    }
}

impl Meter {
    /// A meter of nothing.
    pub fn new(above: Option<Arc<Meter>>) -> Arc<Self> {
        let counted = Counted {
            usage: Usage::default(),
            cost: PicoUsd::default(),
            cost_is_known: true,
            requests: 0,
            tool_calls: 0,
        };
        Arc::new(Self { counted: Mutex::new(counted), above })
    }

    /// What was counted so far.
    pub fn read(&self) -> Counted {
        *self.counted.lock()
    }

    /// Counts a model request.
    pub fn request(&self, usage: &Usage, cost: Option<PicoUsd>) {
        self.count(&|counted| {
            counted.usage += *usage;
            counted.cost = counted.cost.saturating_add(cost.unwrap_or_default());
            counted.cost_is_known &= cost.is_some();
            counted.requests += 1;
        });
    }

    /// Counts what a run had consumed before it went on. What that cost is estimated by the agent's own price.
    pub fn resume(&self, usage: &Usage, price: Option<&Price>, requests: u64) {
        self.count(&|counted| {
            counted.usage += *usage;
            counted.cost = counted.cost.saturating_add(price.map(|price| price.cost(usage)).unwrap_or_default());
            counted.cost_is_known &= price.is_some() || requests == 0;
            counted.requests += requests;
        });
    }

    /// Counts a tool call.
    pub fn tool_call(&self) {
        self.count(&|counted| counted.tool_calls += 1);
    }

    fn count(&self, count: &dyn Fn(&mut Counted)) {
        count(&mut self.counted.lock());
        if let Some(above) = &self.above {
            above.count(count);
        }
    }
}
