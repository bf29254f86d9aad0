//! Chapter 0: status codes, the same as `types::Status`; a test holds the two together.

/// The type of every status: never a C enum, so width and unknown values stay defined. 0 and above are states, below 0
/// errors.
pub type par_status_t = i32;

/// Success.
pub const PAR_OK: i32 = 0;
/// Nothing is there yet.
pub const PAR_PENDING: i32 = 1;
/// The wait ran out; try again.
pub const PAR_TIMEOUT: i32 = 2;
/// The terminal event was taken; nothing will ever follow.
pub const PAR_END: i32 = 3;
/// A wake call ended the wait.
pub const PAR_WOKEN: i32 = 4;
/// A required pointer is NULL.
pub const PAR_ERR_NULL_ARG: i32 = -1;
/// An argument has a value it cannot have.
pub const PAR_ERR_INVALID_ARG: i32 = -2;
/// Input is not UTF-8.
pub const PAR_ERR_UTF8: i32 = -3;
/// Input is not JSON.
pub const PAR_ERR_JSON: i32 = -4;
/// JSON of the wrong shape; `path` says where.
pub const PAR_ERR_SCHEMA: i32 = -5;
/// Input exceeds a limit.
pub const PAR_ERR_TOO_LARGE: i32 = -6;
/// Header and library do not fit together.
pub const PAR_ERR_ABI: i32 = -7;
/// Not part of this library.
pub const PAR_ERR_UNSUPPORTED: i32 = -8;
/// The handle is not, or no longer, one of ours.
pub const PAR_ERR_BAD_HANDLE: i32 = -30;
/// The runtime is closed.
pub const PAR_ERR_CLOSED: i32 = -31;
/// Someone else is consuming.
pub const PAR_ERR_BUSY: i32 = -32;
/// A blocking call from a thread of libpar.
pub const PAR_ERR_WOULD_DEADLOCK: i32 = -33;
/// The process was forked after a runtime was created.
pub const PAR_ERR_FORKED: i32 = -34;
/// The token was answered, cancelled, or never ours.
pub const PAR_ERR_STALE_TOKEN: i32 = -35;
/// Host work has nowhere to go.
pub const PAR_ERR_NO_HANDLER: i32 = -36;
/// Nothing has that name.
pub const PAR_ERR_NOT_FOUND: i32 = -37;
/// The name is taken.
pub const PAR_ERR_EXISTS: i32 = -38;
/// A configured bound was reached.
pub const PAR_ERR_LIMIT: i32 = -39;
/// The run was cancelled.
pub const PAR_ERR_CANCELLED: i32 = -60;
/// The run took longer than allowed.
pub const PAR_ERR_DEADLINE: i32 = -61;
/// The model provider failed.
pub const PAR_ERR_PROVIDER: i32 = -62;
/// The model provider wants us to slow down.
pub const PAR_ERR_RATE_LIMITED: i32 = -63;
/// The model provider refused the key.
pub const PAR_ERR_AUTH: i32 = -64;
/// The model provider could not be reached.
pub const PAR_ERR_NETWORK: i32 = -65;
/// A tool failed in a way that ended the run.
pub const PAR_ERR_TOOL: i32 = -66;
/// A guard stopped the run.
pub const PAR_ERR_GUARD: i32 = -67;
/// The provider filtered the content.
pub const PAR_ERR_CONTENT_FILTER: i32 = -68;
/// The conversation does not fit the model.
pub const PAR_ERR_CONTEXT_LENGTH: i32 = -69;
/// The store failed.
pub const PAR_ERR_PERSISTENCE: i32 = -70;
/// An MCP server failed.
pub const PAR_ERR_MCP: i32 = -71;
/// A workflow failed.
pub const PAR_ERR_WORKFLOW: i32 = -72;
/// An approval could not be resolved.
pub const PAR_ERR_APPROVAL: i32 = -73;
/// The provider cannot do that.
pub const PAR_ERR_UNSUPPORTED_BY_PROVIDER: i32 = -74;
/// The model never gave output of the asked shape.
pub const PAR_ERR_INVALID_OUTPUT: i32 = -75;
/// A bug in libpar.
pub const PAR_ERR_INTERNAL: i32 = -90;
/// A panic in libpar, caught.
pub const PAR_ERR_PANIC: i32 = -91;
/// Memory ran out.
pub const PAR_ERR_OUT_OF_MEMORY: i32 = -92;
/// The operating system refused.
pub const PAR_ERR_IO: i32 = -93;

#[cfg(test)]
mod tests {
    use crate::types::Status;

    #[test]
    fn the_constants_are_the_statuses() {
        let source = include_str!("status.rs");
        for status in Status::ALL {
            let line = format!("pub const {}: i32 = {};", status.name(), status.code());
            assert!(source.contains(&line), "missing: {line}");
        }
        assert_eq!(source.matches("\npub const ").count(), Status::ALL.len());
    }
}
