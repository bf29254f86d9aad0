//! OpenAI Responses, used without the server's memory: nothing is stored there, and what the model needs of its own
//! reasoning travels encrypted.
//!
//! [`encode`] and [`Decoder`] are pure. What is particular here: an answer is a list of items. A reasoning item goes back
//! exactly as it came, directly before the item it led to, and so does every item that nobody here knows.

mod decode;
mod encode;

pub use decode::Decoder;
pub use encode::{Dialect, Effort, encode};

/// The family of this wire's opaque data.
pub const FAMILY: &str = "openai_responses";
