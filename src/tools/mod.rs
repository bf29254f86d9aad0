//! Floor 3: tools. What one is ([`Tool`]), which there are ([`Registry`]), how their arguments are checked
//! ([`Schema`]), how the host runs its own ([`HostDesk`]), and those that come with the library ([`builtin`]), which work
//! on files inside of one folder ([`Workspace`]), run programs ([`shell`]) and read the public web ([`web`]).

pub(crate) mod builtin;
mod contract;
mod helpers;
mod host;
mod registry;
mod schema;
mod schema_cost;
pub(crate) mod shell;
pub(crate) mod web;
pub(crate) mod workspace;

pub use contract::{Invocation, Review, Tool, ToolFailure, ToolOutput};
pub use helpers::Helpers;
pub use host::{Deliver, HostAnswer, HostCall, HostDesk, HostSays};
pub use registry::{Registered, Registry, Runner};
pub use schema::Schema;
pub use workspace::{Workspace, WorkspaceSlot};
