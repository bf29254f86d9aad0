//! Floor 8: the C boundary, one file per chapter of the header.
//!
//! The machinery is apart from the chapters: [`guard`] (every entry: fork check, panic catch, error object), [`handle`]
//! (pointers that survive misuse), [`text`] (strings in and out), [`fork`] and [`signals`]. An exported function is
//! written out by hand, since the header generator does not see what macros make, and has the same rhythm everywhere:
//! clear the outputs, guard, cast, call, store.
//!
//! This room and the process sandbox are the only places with `unsafe`; each use says what it relies on, and what it
//! relies on is what the header demands of a caller.

#![allow(unsafe_code, reason = "this is the boundary")]
#![allow(non_camel_case_types, reason = "C names")]
#![allow(clippy::missing_safety_doc, reason = "the header's first page states the contract of every function once")]

mod fork;
mod guard;
mod handle;
mod signals;
mod text;

mod version;

mod error;

mod runtime;

mod registry;

mod request;

mod stream;

mod host_work;

mod inbox;

mod callbacks;

mod echo;

mod status;

pub use callbacks::*;
pub use echo::*;
pub use error::*;
pub use host_work::*;
pub use inbox::*;
pub use registry::*;
pub use request::*;
pub use runtime::*;
pub use status::*;
pub use stream::*;
pub use version::*;
