//! Gemini's native API: `generateContent` and `streamGenerateContent?alt=sse`.
//!
//! [`encode`] and [`Decoder`] are pure. What is particular here: a thought signature may stand on any part, even an
//! empty text, and goes back on that very part; calls arrive whole and often without an id; there is no word for the
//! end but a finish reason, which is the same with and without calls.

mod decode;
mod encode;
mod partial_args;

pub use decode::Decoder;
pub use encode::{Dialect, Thinking, ThinkingLevel, encode};

/// The family of this wire's opaque data.
pub const FAMILY: &str = "gemini";
