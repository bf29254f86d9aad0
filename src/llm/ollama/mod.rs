//! Ollama's native API, `/api/chat`: the only one through which the context length can be set.
//!
//! [`encode`] and [`Decoder`] are pure. What is particular here: an answer is lines of JSON, not events; calls come whole;
//! only inline images are taken; a prompt longer than `num_ctx` is cut by the server without a word.

mod decode;
mod encode;

pub use decode::Decoder;
pub use encode::{Dialect, Think, encode};

/// The family of this wire. It has no data that must go back.
pub const FAMILY: &str = "ollama";
