//! The one error of libpar. The same object is the JSON of `par_error_json`, of a `failed` event and of the log.
//!
//! An error teaches: `message` says what was wrong, `path` where, `hint` what to do. `retryable` and `retry_after_ms`
//! are always decided here, so that no host has to read the text.

use schemars::JsonSchema;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::ffi::CStr;
use std::fmt;

/// The result of everything that can fail in libpar.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! statuses {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal, $category:ident;)*) => {
        /// Every status of the C ABI. Numbers are never reused; 0 and above are states, below 0 errors.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(i32)]
        #[non_exhaustive]
        pub enum Status {
            $($(#[$doc])* $variant = $number,)*
        }

        impl Status {
            /// Every status, in the order of the table.
            pub const ALL: &'static [Status] = &[$(Status::$variant,)*];

            /// The number that crosses the ABI.
            pub const fn code(self) -> i32 {
                self as i32
            }

            /// The status of a number, if libpar has one.
            pub const fn from_code(code: i32) -> Option<Self> {
                match code {
                    $($number => Some(Status::$variant),)*
                    _ => None,
                }
            }

            /// The name in the header, such as `PAR_ERR_UTF8`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Status::$variant => $name,)*
                }
            }

            /// [`Status::name`] with its NUL, for C.
            pub const fn c_name(self) -> &'static CStr {
                let bytes = match self {
                    $(Status::$variant => concat!($name, "\0").as_bytes(),)*
                };
                match CStr::from_bytes_with_nul(bytes) {
                    Ok(name) => name,
                    Err(_) => c"PAR_ERR_UNKNOWN",
                }
            }

            const fn category(self) -> Category {
                match self {
                    $(Status::$variant => Category::$category,)*
                }
            }
        }
    };
}

statuses! {
    /// Success.
    Ok = 0, "PAR_OK", Internal;
    /// Nothing is there yet.
    Pending = 1, "PAR_PENDING", Internal;
    /// The wait ran out; try again.
    Timeout = 2, "PAR_TIMEOUT", Timeout;
    /// The terminal event was taken; nothing will ever follow.
    End = 3, "PAR_END", Internal;
    /// A wake call ended the wait.
    Woken = 4, "PAR_WOKEN", Internal;
    /// A required pointer is NULL.
    NullArg = -1, "PAR_ERR_NULL_ARG", InvalidInput;
    /// An argument has a value it cannot have.
    InvalidArg = -2, "PAR_ERR_INVALID_ARG", InvalidInput;
    /// Input is not UTF-8.
    Utf8 = -3, "PAR_ERR_UTF8", InvalidInput;
    /// Input is not JSON.
    Json = -4, "PAR_ERR_JSON", InvalidInput;
    /// JSON of the wrong shape; `path` says where.
    Schema = -5, "PAR_ERR_SCHEMA", InvalidInput;
    /// Input exceeds a limit.
    TooLarge = -6, "PAR_ERR_TOO_LARGE", InvalidInput;
    /// Header and library do not fit together.
    Abi = -7, "PAR_ERR_ABI", InvalidInput;
    /// Not part of this library.
    Unsupported = -8, "PAR_ERR_UNSUPPORTED", InvalidInput;
    /// The handle is not, or no longer, one of ours.
    BadHandle = -30, "PAR_ERR_BAD_HANDLE", InvalidInput;
    /// The runtime is closed.
    Closed = -31, "PAR_ERR_CLOSED", Unavailable;
    /// Someone else is consuming.
    Busy = -32, "PAR_ERR_BUSY", Conflict;
    /// A blocking call from a thread of libpar.
    WouldDeadlock = -33, "PAR_ERR_WOULD_DEADLOCK", InvalidInput;
    /// The process was forked after a runtime was created.
    Forked = -34, "PAR_ERR_FORKED", InvalidInput;
    /// The token was answered, cancelled, or never ours.
    StaleToken = -35, "PAR_ERR_STALE_TOKEN", Conflict;
    /// Host work has nowhere to go.
    NoHandler = -36, "PAR_ERR_NO_HANDLER", InvalidInput;
    /// Nothing has that name.
    NotFound = -37, "PAR_ERR_NOT_FOUND", NotFound;
    /// The name is taken.
    Exists = -38, "PAR_ERR_EXISTS", Conflict;
    /// A configured bound was reached.
    Limit = -39, "PAR_ERR_LIMIT", BudgetExceeded;
    /// The run was cancelled.
    Cancelled = -60, "PAR_ERR_CANCELLED", Cancelled;
    /// The run took longer than allowed.
    Deadline = -61, "PAR_ERR_DEADLINE", Timeout;
    /// The model provider failed.
    Provider = -62, "PAR_ERR_PROVIDER", ExternalFailure;
    /// The model provider wants us to slow down.
    RateLimited = -63, "PAR_ERR_RATE_LIMITED", RateLimited;
    /// The model provider refused the key.
    Auth = -64, "PAR_ERR_AUTH", PermissionDenied;
    /// The model provider could not be reached.
    Network = -65, "PAR_ERR_NETWORK", ExternalFailure;
    /// A tool failed in a way that ended the run.
    Tool = -66, "PAR_ERR_TOOL", ExternalFailure;
    /// A guard stopped the run.
    Guard = -67, "PAR_ERR_GUARD", PermissionDenied;
    /// The provider filtered the content.
    ContentFilter = -68, "PAR_ERR_CONTENT_FILTER", ContentFilter;
    /// The conversation does not fit the model.
    ContextLength = -69, "PAR_ERR_CONTEXT_LENGTH", InvalidInput;
    /// The store failed.
    Persistence = -70, "PAR_ERR_PERSISTENCE", Internal;
    /// An MCP server failed.
    Mcp = -71, "PAR_ERR_MCP", ExternalFailure;
    /// A workflow failed.
    Workflow = -72, "PAR_ERR_WORKFLOW", Internal;
    /// An approval could not be resolved.
    Approval = -73, "PAR_ERR_APPROVAL", Conflict;
    /// The provider cannot do that.
    UnsupportedByProvider = -74, "PAR_ERR_UNSUPPORTED_BY_PROVIDER", InvalidInput;
    /// The model never gave output of the asked shape.
    InvalidOutput = -75, "PAR_ERR_INVALID_OUTPUT", ExternalFailure;
    /// A bug in libpar.
    Internal = -90, "PAR_ERR_INTERNAL", Internal;
    /// A panic in libpar, caught.
    Panic = -91, "PAR_ERR_PANIC", Internal;
    /// Memory ran out.
    OutOfMemory = -92, "PAR_ERR_OUT_OF_MEMORY", Internal;
    /// The operating system refused.
    Io = -93, "PAR_ERR_IO", Internal;
}

/// What kind of trouble it is, coarser than [`Status`]: what a host decides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Category {
    /// It took too long.
    Timeout,
    /// The caller must change the input.
    InvalidInput,
    /// Something outside the process failed.
    ExternalFailure,
    /// Slow down.
    RateLimited,
    /// Not allowed.
    PermissionDenied,
    /// A bug or a local fault.
    Internal,
    /// The provider has no embeddings.
    EmbeddingUnsupported,
    /// Someone cancelled it.
    Cancelled,
    /// An answer ended before its end.
    Truncated,
    /// A budget or bound was reached.
    BudgetExceeded,
    /// Filtered by the provider.
    ContentFilter,
    /// Nothing has that name.
    NotFound,
    /// It clashes with the present state.
    Conflict,
    /// Not possible now.
    Unavailable,
}

/// What a model provider said about its failure, kept as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ProviderDetail {
    /// Key of `llm_providers`.
    pub provider: String,
    /// HTTP status, absent for errors inside a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// The provider's own error code or type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The provider's message, unaltered but bounded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The provider's request id, for its support.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// An error: cheap to move, cheap to clone, never shown without a next step where one exists.
#[derive(Clone, PartialEq)]
pub struct Error(Box<Detail>);

#[derive(Clone, PartialEq)]
struct Detail {
    status: Status,
    category: Category,
    code: Option<Cow<'static, str>>,
    message: String,
    hint: Option<String>,
    path: Option<String>,
    retryable: bool,
    retry_after_ms: Option<u64>,
    provider: Option<ProviderDetail>,
    run_id: Option<String>,
}

impl Error {
    /// An error with the status's own category, not retryable.
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        Self(Box::new(Detail {
            status,
            category: status.category(),
            code: None,
            message: message.into(),
            hint: None,
            path: None,
            retryable: matches!(status, Status::RateLimited | Status::Network),
            retry_after_ms: None,
            provider: None,
            run_id: None,
        }))
    }

    /// The same error with other texts, where `change` gives one.
    #[must_use]
    pub(crate) fn map_texts(mut self, change: impl Fn(&str) -> Option<String>) -> Self {
        let apply = |text: &mut String| {
            if let Some(changed) = change(text) {
                *text = changed;
            }
        };
        let Detail { message, hint, path, code, provider, .. } = &mut *self.0;
        apply(message);
        [hint, path].into_iter().flatten().for_each(&apply);
        if let Some(changed) = code.as_deref().and_then(&change) {
            *code = Some(Cow::Owned(changed));
        }
        if let Some(ProviderDetail { provider: _, http_status: _, code, message, request_id }) = provider {
            [code, message, request_id].into_iter().flatten().for_each(apply);
        }
        self
    }

    /// A violated invariant of libpar itself.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Status::Internal, message).with_hint("this is a bug in libpar: please report it with this message")
    }

    /// JSON of the wrong shape at `path`.
    pub fn schema(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Status::Schema, message).with_path(path)
    }

    /// Says it in other words.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.0.message = message.into();
        self
    }

    /// What to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// The same, said to have happened there: "batch 2 of 3".
    #[must_use]
    pub fn within(mut self, place: &str) -> Self {
        self.0.message = format!("{place}: {}", self.0.message);
        self
    }

    /// Where in the input it is, such as `agents.support.model`.
    #[must_use]
    pub fn with_path(mut self, path: impl Into<String>) -> Self {
        self.0.path = Some(path.into());
        self
    }

    /// A finer, stable word for programs. Without one it is the category.
    #[must_use]
    pub fn with_code(mut self, code: impl Into<Cow<'static, str>>) -> Self {
        self.0.code = Some(code.into());
        self
    }

    /// Another category than the status's own.
    #[must_use]
    pub fn with_category(mut self, category: Category) -> Self {
        self.0.category = category;
        self
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.0.retryable = retryable;
        self
    }

    /// How long to wait before trying again.
    #[must_use]
    pub fn with_retry_after_ms(mut self, wait: Option<u64>) -> Self {
        self.0.retry_after_ms = wait;
        self
    }

    /// What the provider said.
    #[must_use]
    pub fn with_provider(mut self, provider: ProviderDetail) -> Self {
        self.0.provider = Some(provider);
        self
    }

    /// The run it ended.
    #[must_use]
    pub fn with_run_id(mut self, run_id: impl Into<String>) -> Self {
        self.0.run_id = Some(run_id.into());
        self
    }

    /// The status.
    pub fn status(&self) -> Status {
        self.0.status
    }

    /// The category.
    pub fn category(&self) -> Category {
        self.0.category
    }

    /// One English line.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The hint, if there is one.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The path, if there is one.
    pub fn path(&self) -> Option<&str> {
        self.0.path.as_deref()
    }

    /// The finer word, if there is one.
    pub fn code(&self) -> Option<&str> {
        self.0.code.as_deref()
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// How long to wait before trying again.
    pub fn retry_after_ms(&self) -> Option<u64> {
        self.0.retry_after_ms
    }

    /// What the provider said.
    pub fn provider(&self) -> Option<&ProviderDetail> {
        self.0.provider.as_ref()
    }

    /// The error as JSON text.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| String::from("{}"))
    }
}

impl Serialize for Error {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let detail = &*self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("status", &detail.status.code())?;
        map.serialize_entry("name", detail.status.name())?;
        map.serialize_entry("category", &detail.category)?;
        match &detail.code {
            Some(code) => map.serialize_entry("code", code)?,
            None => map.serialize_entry("code", &detail.category)?,
        }
        map.serialize_entry("message", &detail.message)?;
        map.serialize_entry("retryable", &detail.retryable)?;
        map.serialize_entry("retry_after_ms", &detail.retry_after_ms)?;
        for (key, value) in [("hint", &detail.hint), ("path", &detail.path), ("run_id", &detail.run_id)] {
            if let Some(value) = value {
                map.serialize_entry(key, value)?;
            }
        }
        if let Some(provider) = &detail.provider {
            map.serialize_entry("provider", provider)?;
        }
        map.end()
    }
}

impl JsonSchema for Error {
    fn schema_name() -> Cow<'static, str> {
        "Error".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let category = generator.subschema_for::<Category>();
        let provider = generator.subschema_for::<ProviderDetail>();
        schemars::json_schema!({
            "type": "object",
            "properties": {
                "status": {"type": "integer"},
                "name": {"type": "string"},
                "category": category,
                "code": {"type": "string"},
                "message": {"type": "string"},
                "hint": {"type": "string"},
                "path": {"type": "string"},
                "retryable": {"type": "boolean"},
                "retry_after_ms": {"type": ["integer", "null"]},
                "provider": provider,
                "run_id": {"type": "string"}
            },
            "required": ["status", "name", "category", "code", "message", "retryable", "retry_after_ms"]
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.0.path {
            write!(f, "{path}: ")?;
        }
        f.write_str(&self.0.message)?;
        if let Some(hint) = &self.0.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.0.status.name())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use std::collections::HashSet;

    #[test]
    fn the_status_table_is_what_was_published() {
        let table: String = Status::ALL.iter().map(|s| format!("{} {}\n", s.code(), s.name())).collect();
        insta::assert_snapshot!("status_table", table);
    }

    #[test]
    fn numbers_and_names_are_unique_and_map_back() {
        let numbers: HashSet<_> = Status::ALL.iter().map(|s| s.code()).collect();
        let names: HashSet<_> = Status::ALL.iter().map(|s| s.name()).collect();
        assert_eq!((numbers.len(), names.len()), (Status::ALL.len(), Status::ALL.len()));
        for status in Status::ALL {
            assert_eq!(Status::from_code(status.code()), Some(*status));
        }
        assert_eq!(Status::from_code(-1000), None);
    }

    #[test]
    fn json_always_says_whether_to_retry() {
        let error = Error::schema("agent.model.temprature", "unknown key").with_hint("did you mean \"temperature\"?");
        insta::assert_snapshot!(error.to_json());
    }
}
