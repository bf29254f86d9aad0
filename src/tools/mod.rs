//! Floor 3: tools. What one is ([`Tool`]), which there are ([`Registry`]), how their arguments are checked
//! ([`Schema`]), and how the host runs its own ([`HostDesk`]).

pub(crate) mod builtin;
mod contract;
mod host;
mod registry;
mod schema;

pub use contract::{Invocation, Tool, ToolFailure, ToolOutput};
pub use host::{Deliver, HostAnswer, HostCall, HostDesk, HostSays};
pub use registry::{Registered, Registry, Runner};
pub use schema::Schema;
