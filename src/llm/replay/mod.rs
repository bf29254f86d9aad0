//! Record and replay: every exchange with a provider, written down as the bytes it was, and played again offline.
//!
//! Both stand where the connection is, below the wire families: a replayed answer is decoded by the very code that decoded
//! it then. A request that is not the recorded one is an error that says where it differs. Keys never reach the file.

mod cassette;
mod diff;
mod recorder;
mod tape;

pub use recorder::{Recorder, Subject, Take};
pub use tape::{Played, Tape};
