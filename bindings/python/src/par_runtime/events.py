"""Events of a run, typed. `raw` is the whole event as the library sent it, with `seq`, `at_ms`, `run_id` and `tag`.

Types that are not listed here arrive as plain `Event`: new ones may appear at any time.
"""


class Event:
    """Something that happened; `type` says what."""

    __slots__ = ("raw",)

    def __init__(self, raw: dict):
        self.raw = raw

    @property
    def type(self) -> str:
        return self.raw["type"]

    @property
    def seq(self) -> int:
        return self.raw["seq"]

    @property
    def run_id(self) -> str:
        return self.raw["run_id"]

    def __repr__(self):
        fields = {key: value for key, value in self.raw.items() if key not in ("v", "seq", "at_ms", "run_id", "type")}
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in fields.items())})"


class TextDelta(Event):
    """More of the answer."""

    __slots__ = ("text",)

    def __init__(self, raw):
        self.raw = raw
        self.text: str = raw["text"]


class ReasoningDelta(Event):
    """More of the model's reasoning."""

    __slots__ = ("text",)

    def __init__(self, raw):
        self.raw = raw
        self.text: str = raw["text"]


class ToolCallStart(Event):
    """The model begins a tool call."""

    __slots__ = ("tool_call_id", "name")

    def __init__(self, raw):
        self.raw = raw
        self.tool_call_id: str = raw["tool_call_id"]
        self.name: str = raw["name"]


class ToolCallDelta(Event):
    """More of a tool call's arguments: a piece of JSON text."""

    __slots__ = ("tool_call_id", "args_json")

    def __init__(self, raw):
        self.raw = raw
        self.tool_call_id: str = raw["tool_call_id"]
        self.args_json: str = raw["args_json"]


class ToolResult(Event):
    """A tool's result, as the model reads it."""

    __slots__ = ("tool_call_id", "name", "content", "is_error")

    def __init__(self, raw):
        self.raw = raw
        self.tool_call_id: str = raw["tool_call_id"]
        self.name: str = raw["name"]
        self.content: str = raw["content"]
        self.is_error: bool = raw["is_error"]


class UsageUpdate(Event):
    """What the last model request consumed (`usage`), and the run so far (`total`)."""

    __slots__ = ("usage", "total")

    def __init__(self, raw):
        self.raw = raw
        self.usage: dict = raw["usage"]
        self.total: dict = raw["total"]


class OutputDelta(Event):
    """A larger piece of the value that a `response_schema` asks for."""

    __slots__ = ("value",)

    def __init__(self, raw):
        self.raw = raw
        self.value = raw["value"]


class ApprovalRequest(Event):
    """A tool call waits for `Runtime.resolve_approval`. Seen only without an `@runtime.approver`."""

    __slots__ = ("approval_id", "tool_call_id", "name", "input", "reason")

    def __init__(self, raw):
        self.raw = raw
        self.approval_id: str = raw["approval_id"]
        self.tool_call_id: str = raw["tool_call_id"]
        self.name: str = raw["name"]
        self.input: dict = raw["input"]
        self.reason: str = raw["reason"]


class SubAgentEvent(Event):
    """Something that happened in a sub-agent: `path` leads to it, `event` is what happened there. A type of its own, so
    that a sub-agent's text is never taken for the answer."""

    __slots__ = ("path", "event")

    def __init__(self, raw):
        self.raw = raw
        self.path: list = raw["path"]
        self.event: Event = _TYPES.get(raw["type"], Event)(raw)


class Done(Event):
    """The run is done. Always the last event of a run that did not fail."""

    __slots__ = ("text", "finish_reason", "usage")

    def __init__(self, raw):
        self.raw = raw
        self.text: str = raw.get("text", "")
        self.finish_reason: str = raw.get("finish_reason", "stop")
        self.usage: dict = raw.get("usage", {})


_TYPES = {
    "text_delta": TextDelta, "reasoning_delta": ReasoningDelta, "tool_call_start": ToolCallStart,
    "tool_call_delta": ToolCallDelta, "tool_result": ToolResult, "usage_update": UsageUpdate, "completed": Done,
    "output_delta": OutputDelta, "approval_request": ApprovalRequest,
}


def typed(raw: dict, _types=_TYPES) -> Event:
    """The event of a raw object."""
    if "path" in raw:
        return SubAgentEvent(raw)
    return _types.get(raw["type"], Event)(raw)


class Result:
    """What a run came to."""

    __slots__ = ("raw", "text", "finish_reason", "usage")

    def __init__(self, raw: dict):
        self.raw = raw
        self.text: str = raw["text"]
        self.finish_reason: str = raw["finish_reason"]
        self.usage: dict = raw["usage"]

    @property
    def run_id(self) -> str:
        return self.raw["run_id"]

    @property
    def parts(self) -> list:
        return self.raw["parts"]

    @property
    def tool_calls(self) -> list:
        return self.raw["tool_calls"]

    @property
    def output(self):
        """The answer as a value, when a `response_schema` was given."""
        return self.raw.get("output")

    @property
    def cost_usd(self) -> "str | None":
        """What the run cost, as a decimal string; None when a price is not known."""
        return self.raw.get("cost_usd")

    @property
    def agent(self) -> str:
        """The agent that gave the answer: another one after a handoff."""
        return self.raw["agent"]

    @property
    def model(self) -> str:
        return self.raw["model"]

    @property
    def iterations(self) -> int:
        return self.raw["iterations"]

    @property
    def duration_ms(self) -> int:
        """How long the run took, in milliseconds; of a run that was resumed, since then."""
        return self.raw["duration_ms"]

    @property
    def session(self) -> "str | None":
        return self.raw.get("session")

    def __str__(self):
        return self.text

    def __repr__(self):
        return f"Result(text={self.text!r}, finish_reason={self.finish_reason!r}, run_id={self.run_id!r})"
