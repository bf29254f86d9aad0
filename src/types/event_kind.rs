//! The types of events, as they are stored and asked for.

macro_rules! kinds {
    ($($variant:ident = $number:literal, $name:literal;)*) => {
        /// The type of an event. Numbers are stored, so they are never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        #[non_exhaustive]
        #[allow(missing_docs, reason = "each is the variant of EventBody that has its name")]
        pub enum EventKind {
            $($variant = $number,)*
        }

        impl EventKind {
            /// Every type.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// As `type` names it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

kinds! {
    RunStarted = 0, "run_started";
    TurnStarted = 1, "turn_started";
    TextDelta = 2, "text_delta";
    ReasoningDelta = 3, "reasoning_delta";
    ToolCallStart = 4, "tool_call_start";
    ToolCallDelta = 5, "tool_call_delta";
    ToolCall = 6, "tool_call";
    ToolStarted = 7, "tool_started";
    ToolProgress = 8, "tool_progress";
    ToolResult = 9, "tool_result";
    ToolCancelled = 10, "tool_cancelled";
    UsageUpdate = 11, "usage_update";
    OutputDelta = 12, "output_delta";
    ApprovalRequest = 13, "approval_request";
    ApprovalResolved = 14, "approval_resolved";
    MiddlewareCall = 15, "middleware_call";
    MiddlewareCancelled = 16, "middleware_cancelled";
    CredentialRequest = 17, "credential_request";
    Compaction = 18, "compaction";
    CacheBust = 19, "cache_bust";
    Handoff = 20, "handoff";
    SubrunStarted = 21, "subrun_started";
    SubrunFinished = 22, "subrun_finished";
    Steered = 23, "steered";
    Continuation = 24, "continuation";
    OutputRepair = 25, "output_repair";
    TurnRetried = 26, "turn_retried";
    Fallback = 27, "fallback";
    RateLimit = 28, "rate_limit";
    Warning = 29, "warning";
    Completed = 30, "completed";
    Failed = 31, "failed";
    Cancelled = 32, "cancelled";
    RunResumed = 33, "run_resumed";
    BashInvoked = 34, "bash_invoked";
    BashCompleted = 35, "bash_completed";
    Suspended = 36, "suspended";
}

impl EventKind {
    /// The type of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// Whether an event of this type is the last one of its run's stream.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled | Self::Suspended)
    }

    /// A set with this type alone: one bit.
    pub const fn bit(self) -> u64 {
        1 << self as u8
    }

    /// Whether the host must act on it: it asks for an answer, or takes a question back.
    pub const fn is_host_work(self) -> bool {
        matches!(
            self,
            Self::ToolCall
                | Self::ToolCancelled
                | Self::ApprovalRequest
                | Self::MiddlewareCall
                | Self::MiddlewareCancelled
                | Self::CredentialRequest
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;

    #[test]
    fn names_and_numbers_lead_back() {
        let mut all = 0;
        for kind in EventKind::ALL {
            assert_eq!(EventKind::from_name(kind.name()), Some(*kind));
            assert_eq!(all & kind.bit(), 0, "{kind:?} has the number of another");
            all |= kind.bit();
        }
        // A database counts to 2^63.
        assert!(all < 1 << 63);
        assert_eq!(EventKind::from_name("no_such_event"), None);
    }
}
