//! Floor 5: one run of an agent.
//!
//! The loop is: ask the model, run the tools it calls, tell it the results, until it is done. Every way to run an agent
//! is [`execute`] with another [`RunSpec`]; whether somebody streams its events or waits for its result is not its
//! concern. A run ends in exactly one terminal event, whatever happens: an answer, an error, a deadline, a cancellation
//! or a panic.

mod calls;
mod run;
mod turn;

pub(crate) use run::panic_error;
pub use run::{Outcome, RunFailure, RunSpec, execute};
