"""libpar for Python: LLM agents with tools and streaming, from one shared library.

    from par_runtime import Runtime, TextDelta

    with Runtime() as rt:
        @rt.tool
        def add(a: int, b: int) -> int:
            "Adds two numbers."
            return a + b

        rt.register_agent("assistant", model="openai/gpt-4o-mini", tools=[add])
        for event in rt.invoke_stream("assistant", "What is 17 + 25?"):
            if isinstance(event, TextDelta):
                print(event.text, end="", flush=True)

Create a runtime after fork (gunicorn: post_fork; multiprocessing: spawn).
"""

from ._lib import lib as _library
from ._runtime import AsyncStream, Runtime, Stream, Subscription
from ._tools import Tool
from .errors import (
    AuthError, BugError, CancelledError, DeadlineError, InputError, NotFoundError, ParError, ProviderError,
    RateLimitedError, RunError, StateError,
)
from .events import (
    ApprovalRequest, Done, Event, OutputDelta, ReasoningDelta, Result, SubAgentEvent, TextDelta, ToolCallDelta,
    ToolCallStart, ToolResult, UsageUpdate,
)

__version__ = _library.par_version().decode()

__all__ = [
    "ApprovalRequest", "AsyncStream", "AuthError", "BugError", "CancelledError", "DeadlineError", "Done", "Event", "InputError",
    "NotFoundError", "OutputDelta", "ParError", "ProviderError", "RateLimitedError", "ReasoningDelta", "Result",
    "RunError", "Runtime", "StateError", "Stream", "SubAgentEvent", "Subscription", "TextDelta", "Tool", "ToolCallDelta", "ToolCallStart", "ToolResult", "UsageUpdate",
]
