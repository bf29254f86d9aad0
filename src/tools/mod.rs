//! Floor 3: tools. What one is ([`Tool`]), which there are ([`Registry`]), how their arguments are checked
//! ([`Schema`]), how the host runs its own ([`HostDesk`]), and those that come with the library ([`builtin`]).

pub(crate) mod builtin;
mod contract;
mod host;
mod registry;
mod schema;

pub use contract::{Invocation, Review, Tool, ToolFailure, ToolOutput};
pub use host::{Deliver, HostAnswer, HostCall, HostDesk, HostSays};
pub use registry::{Registered, Registry, Runner};
pub use schema::Schema;
