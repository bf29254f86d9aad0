//! Floor 3: how events reach whoever reads them.
//!
//! A run writes each event once, through an [`Emitter`]: into the run's own bounded [`Queue`] (a stream's consumer) and
//! to the [`Hub`] (the inbox, callbacks, subscriptions); a log keeps it, if anything is kept. A queue holds encoded JSON, never
//! values, and its reader can wait, poll, or watch a file descriptor. The [`Bus`] delivers to subscriptions, as often as it
//! takes, and keeps what nobody took as [`DeadLetters`]. Nothing here ever drops an event silently.

mod batched;
mod bus;
mod dead_letters;
mod emitter;
mod hub;
mod log;
mod outlet;
mod queue;
mod signal;
mod subscription;

pub use batched::{Batched, flush_deferred, flush_soon, promise_to_flush};
pub use bus::{Bus, Member};
pub use dead_letters::DeadLetters;
pub use emitter::{Deliver, Emitter, Sealed, Wishes};
pub use hub::{Hub, Origin, Subscriber};
pub use log::{LogFilter, LogSink, LogSubscriber};
pub use outlet::Outlet;
pub use queue::{Bounds, Class, Polled, Queue, Waited};
pub use subscription::{Answered, Room, Rules, Subscription, Tally};
