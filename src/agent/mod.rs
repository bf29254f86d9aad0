//! Floor 5: one run of an agent.
//!
//! The loop is: ask the model, run the tools it calls, tell it the results, until it is done. Every way to run an agent
//! is [`execute`] with another [`RunSpec`]; whether somebody streams its events or waits for its result is not its
//! concern. A run ends in exactly one terminal event, whatever happens: an answer, an error, a deadline, a cancellation
//! or a panic.
//!
//! | file | says |
//! | --- | --- |
//! | `run` | how a run begins and ends |
//! | `drive` | the loop |
//! | `turn`, `sink` | one model request |
//! | `calls`, `permission`, `output` | the tool calls of one answer |
//! | `subagent` | an agent inside a call |
//! | `context` | what of the conversation the model sees |
//! | `structured`, `partial_json`, `seam` | answers with a schema, answers in pieces |
//! | `setup`, `template` | an agent, made ready |
//! | `budget`, `control`, `work` | what a run may use, who may interfere, what it has at hand |

mod budget;
mod calls;
mod context;
mod control;
mod credentials;
mod drive;
mod meter;
mod output;
pub(crate) mod partial_json;
mod permission;
mod run;
mod seam;
mod setup;
mod sink;
mod structured;
mod subagent;
mod template;
mod turn;
mod work;

pub use budget::{Account, Ledger, Spent};
pub use control::{Control, SUSPENDED, Suspension};
pub use credentials::HostCredentials;
pub use meter::{Counted, Meter};
pub use output::check_result;
pub(crate) use run::panic_error;
pub use run::{Outcome, RunFailure, RunSpec, execute, execute_below};
pub use setup::{Agents, Fallback, Offer, Quota, Setup, ToolPermits, offers, specs, specs_hash};
pub use structured::{ANSWER_TOOL, Means, Structured};
pub use subagent::Begun;
pub use template::{Prompt, Template};
