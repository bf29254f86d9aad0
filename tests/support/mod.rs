//! What the integration tests share (`mod support;`): an HTTP server that misbehaves on demand, and the bodies an
//! OpenAI-compatible server would send.
//!
//! ```ignore
//! let server = FakeServer::start([
//!     Reply::status(429).retry_after_seconds(1).body("slow down"),
//!     Reply::sse(openai::text_chunks(["Hel", "lo"], openai::usage(3, 2))).split_every(1),
//! ]);
//! let config = json!({"type": "openai", "base_url": server.base_url(), "api_key": "k"});
//! // … run the agent …
//! assert_eq!(server.requests()[1].body["messages"][0]["role"], "system");
//! ```
#![allow(dead_code, unused_imports, reason = "each test uses its part")]

pub mod client;
pub mod openai;
pub mod postgres;
mod reply;
mod server;
pub mod small_disk;
pub mod told;
pub mod wire;

/// A runtime that keeps nothing, unless its config says otherwise: so that no test finds what another one left.
pub fn create(config: &str) -> par::types::Result<par::runtime::Runtime> {
    let mut config: serde_json::Value = serde_json::from_str(config).unwrap();
    let keys = config.as_object_mut().unwrap();
    keys.entry("persistence").or_insert_with(|| "noop".into());
    par::runtime::Runtime::create(&config.to_string())
}

/// Says that a test was skipped, past the capture of the test runner.
pub fn skipped(why: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

pub use reply::Reply;
pub use server::{FakeServer, Request};
