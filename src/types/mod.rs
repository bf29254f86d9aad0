//! Floor 0: pure data. Messages, transcripts, events, usage, errors and ids, without I/O and without knowledge of any
//! provider, store or host.
//!
//! Everything here serializes to the one JSON dialect of libpar (snake_case, `"type"` for variants, integer
//! milliseconds) and derives a JSON Schema, which `par_call("describe")` hands out.

mod cancel;
mod envelope;
mod error;
mod event;
mod event_kind;
mod ids;
pub(crate) mod json;
mod machine;
mod message;
mod money;
mod time;
mod transcript;
mod usage;

pub use cancel::Cancel;
pub use envelope::Envelope;
pub use error::{Category, Error, ProviderDetail, Result, Status};
pub use event::{Containment, EventBody, Piece, RunResult, ToolCallRecord};
pub use event_kind::EventKind;
pub use ids::{AgentId, RunId, Scope, SessionId, ToolCallId};
pub use machine::{lookup, parallelism};
pub use message::{
    CachePoint, CacheTtl, FinishReason, Media, MediaSource, Message, Opaque, Part, ToolCall, ToolResult, ToolSpec,
    text_of,
};
pub use money::PicoUsd;
pub use time::{millis, now_ms, rfc3339};
pub use transcript::{Changes, Entry, Mark, Transcript, TranscriptError, View};
pub use usage::Usage;
