//! What one payload of a stream was: the same outcomes for every wire family.

use super::classify::Failure;
use crate::types::Error;
use serde::Deserialize;
use serde_json::value::RawValue;

/// What a payload was.
#[derive(Debug)]
pub enum Frame {
    /// A part of the answer, taken in, or something that need not be.
    Taken,
    /// A sign of life, which says nothing of the answer.
    Alive,
    /// An object that is not one of this API.
    Foreign,
    /// The provider's own end: nothing that follows counts.
    Done,
    /// Not JSON, or not an object.
    Malformed,
    /// The server reports a failure.
    Failed(Error),
}

impl Frame {
    /// The failure that a payload reports.
    pub(super) fn failed(payload: &str, provider: &str) -> Self {
        Self::Failed(Failure { provider, status: None, headers: None, body: payload.as_bytes() }.into_error())
    }

    /// What a payload is that is not an object of its family: some proxies answer an error as an array of one.
    pub(super) fn not_an_object(payload: &str, provider: &str) -> Self {
        #[derive(Deserialize)]
        struct Failed<'a> {
            #[serde(borrow)]
            error: Option<&'a RawValue>,
        }
        match serde_json::from_str::<Vec<Failed<'_>>>(payload) {
            Ok(failed) if failed.iter().any(|failed| failed.error.is_some()) => Self::failed(payload, provider),
            Ok(_) | Err(_) => Self::Malformed,
        }
    }
}

/// Reads a payload that is an object. A derived reader would take an array for one.
pub(super) fn object<'a, T: Deserialize<'a>>(payload: &'a str) -> Option<T> {
    payload.trim_start().starts_with('{').then(|| serde_json::from_str(payload).ok()).flatten()
}
