"""Errors: one class for each range of statuses, one for each status that programs tell apart.

Every error has `status`, `name` (`PAR_ERR_…`), `category`, `code`, `message`, `hint`, `path`, `retryable` and
`retry_after_ms`; what the model provider said is in `provider`, and everything as it came in `detail`.
"""

import json


class ParError(Exception):
    """An error of libpar."""

    def __init__(self, detail: dict):
        self.detail = detail
        self.status: int = detail.get("status", 0)
        self.name: str = detail.get("name", "PAR_ERR_UNKNOWN")
        self.category: str = detail.get("category", "internal")
        self.code: str = detail.get("code", self.category)
        self.message: str = detail.get("message", "")
        self.hint: "str | None" = detail.get("hint")
        self.path: "str | None" = detail.get("path")
        self.retryable: bool = detail.get("retryable", False)
        self.retry_after_ms: "int | None" = detail.get("retry_after_ms")
        self.provider: "dict | None" = detail.get("provider")
        self.run_id: "str | None" = detail.get("run_id")
        place = f"{self.path}: " if self.path else ""
        advice = f" ({self.hint})" if self.hint else ""
        super().__init__(f"{place}{self.message}{advice}")

    def __reduce__(self):
        return type(self), (self.detail,)


class InputError(ParError, ValueError):
    """What was passed cannot be right; `path` says where."""


class StateError(ParError):
    """It does not fit the present state: closed, busy, forked, stale."""


class NotFoundError(StateError, LookupError):
    """Nothing has that name."""


class RunError(ParError):
    """A run failed."""


class CancelledError(RunError):
    """The run was cancelled."""


class DeadlineError(RunError, TimeoutError):
    """The run took longer than allowed."""


class ProviderError(RunError):
    """The model provider failed, or could not be reached."""


class RateLimitedError(ProviderError):
    """The model provider wants us to slow down."""


class AuthError(ProviderError):
    """The model provider refused the key."""


class BugError(ParError):
    """A fault of libpar, or of the machine."""


_BY_STATUS = {
    -37: NotFoundError, -60: CancelledError, -61: DeadlineError, -62: ProviderError, -63: RateLimitedError,
    -64: AuthError, -65: ProviderError,
}


def error_of(detail: dict) -> ParError:
    """The exception for an error object."""
    status = detail.get("status", 0)
    kind = _BY_STATUS.get(status)
    if kind is None:
        kind = InputError if status > -30 else StateError if status > -60 else RunError if status > -90 else BugError
    return kind(detail)


def error_from_json(status: int, text: "bytes | None") -> ParError:
    """The exception for an error as the library wrote it."""
    detail = json.loads(text) if text else {}
    detail.setdefault("status", status)
    return error_of(detail)
