//! Floor 3: how events reach whoever reads them.
//!
//! A run writes each event once, through an [`Emitter`]: into the run's own bounded [`Queue`] (a stream's consumer) and
//! to the [`Hub`] (the inbox, callbacks); a log keeps it, if anything is kept. A queue holds encoded JSON, never values, and its reader can wait, poll, or
//! watch a file descriptor. Nothing here ever drops an event silently.

mod batched;
mod emitter;
mod hub;
mod log;
mod queue;
mod signal;

pub use batched::{Batched, flush_deferred, flush_soon, promise_to_flush};
pub use emitter::{Deliver, Emitter, Sealed, Wishes};
pub use hub::{Hub, Subscriber};
pub use log::{LogFilter, LogSubscriber};
pub use queue::{Bounds, Polled, Queue, Waited};
