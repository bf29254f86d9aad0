//! Floor 7: the runtime. It assembles everything below, owns the threads, and ends.
//!
//! Create, register, run, close. A [`Runtime`] is a handle: clones share one runtime, which closes when told so or when
//! the last handle is gone. Runs live under it ([`Scope`]) and never outlive its closing.

mod agents;
mod callbacks;
mod close;
mod core;
mod driver;
mod embed;
mod methods;
mod parallel;
mod providers;
mod resume;
mod run;
mod runs;
mod scope;
mod stored;
mod stored_events;
mod stream;
mod subscriptions;
mod threads;
mod workers;

pub use callbacks::{Callback, CallbackSlot};
pub use close::CloseReport;
pub use core::Runtime;
pub use scope::Scope;
pub use stream::{Answer, Stream};
pub use threads::is_own_thread;
