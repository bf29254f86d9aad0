//! libpar: an agent runtime in one shared library.
//!
//! This crate is the canonical SDK; the C ABI (`ffi`, `include/par_ffi.h`) is a thin door onto it, and each binding a
//! thin door onto the C ABI.
//!
//! ```
//! use par::runtime::Runtime;
//!
//! let runtime = Runtime::create(r#"{"persistence": "noop"}"#)?;
//! runtime.register_agent(r#"{"id": "echo", "model": "mock/echo"}"#)?;
//! let result = runtime.invoke(r#"{"agent": "echo", "input": "Hello"}"#, None)?;
//! assert!(result.contains(r#""text":"Hello""#));
//! # Ok::<(), par::types::Error>(())
//! ```
//!
//! The house has floors, and imports go down only (`docs/architecture.md`; `tests/architecture.rs` holds it):
//! [`types`], [`config`], [`store`], then [`events`], [`tools`] and [`llm`], [`agent`], [`runtime`], and the C boundary.

#![deny(missing_docs, unsafe_op_in_unsafe_fn)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod agent;
pub mod approval;
pub mod config;
pub mod events;
pub mod ffi;
pub mod llm;
pub mod middleware;
pub mod runtime;
pub mod store;
pub mod tools;
pub mod types;

/// What the fuzz targets try. No part of the interface.
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::agent::partial_json::{extract, json_start, prefix_value};
    pub use crate::middleware::pii::PiiMask;
    pub use crate::middleware::sanitize::{Sanitized, Sanitizer};
    pub use crate::middleware::think::{Piece, ThinkStrip};
    pub use crate::store::block::{ChainCheck, lines};
    pub use crate::tools::web::{plain, readable};
}
