//! Anthropic Messages, and every server that claims to be compatible.
//!
//! [`encode`] and [`Decoder`] are pure. What is particular here: an answer is a list of content blocks whose order and
//! bytes must survive. A thinking block goes back with its signature, and a block that nobody here knows (a server
//! tool's call or result) goes back exactly as it came.

mod decode;
mod encode;

pub use decode::Decoder;
pub use encode::{CacheTtl, Dialect, Thinking, encode};

/// The family of this wire's opaque data.
pub const FAMILY: &str = "anthropic";
