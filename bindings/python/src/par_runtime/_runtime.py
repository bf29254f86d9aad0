"""The runtime, and running agents: blocking, streaming, and on asyncio.

Waiting never holds the GIL, and never keeps a signal from being handled: a blocking call waits on the stream's
descriptor, where Ctrl-C interrupts it. On asyncio one reader on the runtime's inbox serves every stream.
"""

import asyncio
import itertools
import os
import re
import select
import threading
import uuid
import weakref

from . import _abi
from ._lib import check, create, decode, decode_last, descriptor, encode, fetch, lib
from ._tools import Tool, encode_failure, encode_result
from .errors import error_of, NotFoundError, ParError, StateError
from .events import ApprovalRequest, Done, Event, Result, typed

#: How long a call waits inside the library before it waits where signals interrupt it. Short answers never leave.
_PATIENCE_MS = 50

#: The events that one who only wants the result has to look at, as the library writes them. The quotes keep texts out: in
#: a string they are escaped. A tool's input or a tag may look like one, which costs a decoding in vain.
_DECISIVE = re.compile(rb'"type":"(tool_call|approval_request|middleware_call|credential_request|completed|failed|cancelled|suspended)"')
_HOST_WORK = frozenset(("tool_call", "approval_request", "middleware_call", "credential_request"))
_TERMINAL = frozenset(("completed", "failed", "cancelled", "suspended"))
_ENVELOPE = ("v", "seq", "at_ms", "tag", "type")


class Runtime:
    """An agent runtime. Use it as a context manager, or call `close`."""

    def __init__(self, config: "dict | None" = None, **keys):
        text = encode({**(config or {}), **keys})
        self._handle = create(lib.par_runtime_create, _abi.ABI_VERSION, text, len(text))
        self._pid = os.getpid()
        self._tools: "dict[str, Tool]" = {}
        self._hooks: "dict[str, object]" = {}
        self._keys: "dict[str, object]" = {}
        self._approver = None
        self._agents_with_tools: "set[str]" = set()  # those whose runs may need this process
        self._run_ids = itertools.count(1)
        self._run_prefix = f"py-{uuid.uuid4().hex}-"
        self._hub = None
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, lib.par_runtime_free, self._handle)
        self._finalizer.atexit = False

    # ---- life

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        if error is not None:
            # The block failed: runs are not given time to end by themselves. The wait is in `close`.
            check(lib.par_runtime_close, self._handle, 0)
        self.close()

    def close(self, timeout: "float | None" = 60.0) -> bool:
        """Closes the runtime; false if that goes on in the background after the timeout (seconds, None for ever).

        Runs may end by themselves for `shutdown.drain_timeout` (30 seconds by default), or for most of the timeout if that is
        shorter. Then those that are stored are suspended, to be resumed later, and the others are cancelled.
        """
        closed = True  # also if it fails: then it has found something to complain about, and closed all the same
        try:
            closed = check(lib.par_runtime_close, self._handle, _milliseconds(timeout)) == _abi.OK
        finally:
            if closed and self._hub is not None:
                self._hub.detach()
        return closed

    def info(self) -> dict:
        """Health, counts and bounds."""
        return decode(fetch(lib.par_runtime_info, self._handle)[1])

    # ---- registry

    def register_agent(self, id: str, *, model, system_prompt: "str | None" = None, tools=(), **keys) -> None:
        """Registers an agent. `tools` are names, or what `@runtime.tool` gave back."""
        names = [tool.name if isinstance(tool, Tool) else tool for tool in tools]
        agent = {"id": id, "model": model, "tools": names, **keys}
        if system_prompt is not None:
            agent["system_prompt"] = system_prompt
        text = encode(agent)
        check(lib.par_register_agent, self._handle, text, len(text))
        if names or "sub_agents" in keys or "handoffs" in keys or "middleware" in keys:
            self._agents_with_tools.add(id)

    def unregister_agent(self, id: str) -> None:
        text = id.encode()
        check(lib.par_unregister_agent, self._handle, text, len(text))
        self._agents_with_tools.discard(id)

    def tool(self, function=None, **options):
        """Registers a function as a tool: `@runtime.tool`, or `@runtime.tool(timeout=5, effect="pure")`.

        Options: name, description, input_schema, output_schema, permission, timeout, concurrency_limit, effect.
        """
        def register(function):
            tool = Tool(function, **options)
            text = encode(tool.definition)
            check(lib.par_register_tool, self._handle, text, len(text))
            self._tools[tool.name] = tool
            return tool

        return register if function is None else register(function)

    def unregister_tool(self, tool: "str | Tool") -> None:
        name = tool.name if isinstance(tool, Tool) else tool
        check(lib.par_unregister_tool, self._handle, name.encode(), len(name.encode()))
        self._tools.pop(name, None)

    def approver(self, function):
        """Registers who decides on calls that need an approval: `@runtime.approver`, called with the `ApprovalRequest`.

        It returns True or "approve", False or "reject", or a decision: `{"type": "reject", "reason": …}`,
        `{"type": "edit", "input": …}`.
        """
        self._approver = function
        return function

    def hook(self, name: str):
        """Registers the function behind a `{"type": "host", "name": name, "hooks": […]}` middleware:
        `@runtime.hook("audit")`, called with the hook's name and its payload; what it returns is the answer."""
        def register(function):
            self._hooks[name] = function
            return function

        return register

    def key(self, name: str):
        """Registers the function that gives a provider's `{"host": name}` key when it is needed: `@runtime.key("openai")`."""
        def register(function):
            self._keys[name] = function
            return function

        return register

    def register_provider(self, name: str, **config) -> None:
        """Registers a model provider: what `llm_providers` takes, with its `type`."""
        text = encode({"name": name, **config})
        check(lib.par_register_provider, self._handle, text, len(text))

    # ---- methods

    def call(self, method: str, timeout: "float | None" = None, **params):
        """Calls a method; `call("describe")` lists them all."""
        name, text = method.encode(), encode(params)
        return decode(fetch(lib.par_call, self._handle, name, len(name), text, len(text), _milliseconds(timeout))[1])

    def list(self, kind: str) -> list:
        """The agents, tools, providers, sessions, runs or subscriptions."""
        return decode(fetch(lib.par_list, self._handle, kind.encode(), len(kind))[1])["items"]

    def subscribe(self, **params) -> "Subscription":
        """Subscribes to events of all runs: what `call("events.subscribe")` takes, delivered as an iterator of messages."""
        name, text = b"events.subscribe", encode(params)
        return Subscription(self, create(lib.par_call_start, self._handle, name, len(name), text, len(text)))

    def run_status(self, run_id: str) -> dict:
        text = run_id.encode()
        return decode(fetch(lib.par_run_status, self._handle, text, len(text))[1])

    def cancel(self, run_id: str, reason: str = "") -> None:
        """Cancels a living run."""
        run_id, reason = run_id.encode(), reason.encode()
        check(lib.par_run_cancel, self._handle, run_id, len(run_id), reason, len(reason))

    def steer(self, run_id: str, input, when: str = "now") -> None:
        """Says something to a living run: at the next safe point ("now"), or when it has answered ("follow_up")."""
        run_id, text = run_id.encode(), encode({"input": input, "when": when})
        check(lib.par_run_steer, self._handle, run_id, len(run_id), text, len(text))

    def resolve_approval(self, approval_id: str, decision) -> None:
        """Answers an `ApprovalRequest`; decisions as for `approver`."""
        approval_id, text = approval_id.encode(), encode(_decision(decision))
        check(lib.par_approval_resolve, self._handle, approval_id, len(approval_id), text, len(text))

    # ---- running

    def invoke(self, agent: str, input, *, timeout: "float | None" = None, **keys) -> Result:
        """Runs an agent and waits for its result. Tools run on this thread, one after the other."""
        if agent not in self._agents_with_tools and not self._hooks and not self._keys and threading.current_thread() is not threading.main_thread():
            # Signals reach the main thread alone, so here nothing has to be interruptible.
            request = _request(agent, input, keys)
            return Result(decode(
                fetch(lib.par_invoke, self._handle, request, len(request), _milliseconds(timeout))[1]))
        if timeout is not None:
            keys["timeout_ms"] = _milliseconds(timeout)
        stream = self.invoke_stream(agent, input, events="result", **keys)
        try:
            return stream.result()
        finally:
            stream.close()

    def invoke_stream(self, agent: str, input, **keys) -> "Stream":
        """Runs an agent and hands out its events as they come."""
        request = _request(agent, input, keys)
        return Stream(self, create(lib.par_stream_start, self._handle, request, len(request)))

    async def ainvoke(self, agent: str, input, *, timeout: "float | None" = None, **keys) -> Result:
        """Runs an agent and awaits its result. Async tools run as tasks, at the same time; others inline."""
        if timeout is not None:
            keys["timeout_ms"] = _milliseconds(timeout)
        stream = self.ainvoke_stream(agent, input, events="result", **keys)
        try:
            return await stream.result()
        finally:
            stream.close()

    def ainvoke_stream(self, agent: str, input, **keys) -> "AsyncStream":
        """Runs an agent and hands out its events as they come: `async for`, best inside `async with`."""
        hub = self._hub_of(asyncio.get_running_loop())
        if hub is None:
            # Another loop reads the inbox; this stream is watched by its own descriptor.
            request = _request(agent, input, keys)
            return AsyncStream(self, create(lib.par_stream_start, self._handle, request, len(request)), None, None)
        run_id = keys.setdefault("run_id", f"{self._run_prefix}{next(self._run_ids)}")
        keys["notify"] = "inbox"
        request = _request(agent, input, keys)
        stream = AsyncStream(self, None, hub, run_id)
        hub.streams[run_id] = stream
        try:
            stream._handle = create(lib.par_stream_start, self._handle, request, len(request))
        except BaseException:
            del hub.streams[run_id]
            raise
        return stream

    def _hub_of(self, loop):
        hub = self._hub
        if hub is not None and hub.loop is loop:
            return hub
        with self._lock:
            if self._hub is None or self._hub.is_free():
                self._hub = _Hub(self, loop)
            return self._hub if self._hub.loop is loop else None

    def _work(self, event: dict) -> bool:
        """Does what the library asks of this process, on this thread. False if the host itself must see the event."""
        kind = event["type"]
        if kind == "tool_call":
            self._answer(event)
        elif kind == "middleware_call":
            self._answer_with(event, self._hooks, "middleware", lambda hook: hook(event["hook"], event["payload"]))
        elif kind == "credential_request":
            self._answer_with(event, self._keys, "key", lambda key: key())
        else:
            return self._answer_approval(event)
        return True

    def _answer_with(self, event: dict, functions: dict, what: str, call) -> None:
        try:
            function = functions.get(event["name"])
            if function is None:
                raise LookupError(f"no function is registered for the {what} {event['name']!r}")
            answer = call(function)
        except Exception as error:
            self._fail(event["token"], error)
        else:
            self._complete(event["token"], answer)

    def _answer_approval(self, event: dict) -> bool:
        if self._approver is None:
            return False
        try:
            decision = self._approver(ApprovalRequest(event))
        except Exception as error:
            decision = {"type": "reject", "reason": f"{type(error).__name__}: {error}"}
        try:
            self.resolve_approval(event["approval_id"], decision)
        except NotFoundError:
            pass  # It has expired, or the run has ended, meanwhile.
        return True

    def _answer(self, event: dict) -> None:
        """Runs a tool on this thread and answers its token."""
        tool = self._tools.get(event["name"])
        try:
            if tool is None:
                raise LookupError(f"the tool {event['name']!r} was not registered by this process")
            value = tool.run(event["input"])
            if tool.is_async:
                value = asyncio.run(value)
        except Exception as error:
            self._fail(event["token"], error)
        else:
            self._complete(event["token"], value)

    async def _answer_async(self, event: dict) -> None:
        try:
            self._complete(event["token"], await self._tools[event["name"]].run(event["input"]))
        except Exception as error:
            self._fail(event["token"], error)

    def _complete(self, token, value):
        try:
            text = encode_result(value)
            check(lib.par_tool_complete, self._handle, token, text, len(text))
        except StateError:
            pass  # Stale: the run was cancelled or the deadline passed while the tool ran.
        except Exception as error:
            self._fail(token, error)

    def _fail(self, token, error):
        try:
            text = encode_failure(error)
            check(lib.par_tool_fail, self._handle, token, text, len(text))
        except StateError:
            pass  # As above.


def _milliseconds(seconds: "float | None") -> int:
    return -1 if seconds is None else max(0, round(seconds * 1000))


def _decision(decision):
    return {True: "approve", False: "reject"}.get(decision) if isinstance(decision, bool) else decision


def _request(agent, input, keys) -> bytes:
    return encode({"agent": agent, "input": input, **keys})


def _raise_terminal(raw):
    kind = raw["type"]
    if kind == "failed":
        raise error_of(raw["error"])
    if kind == "cancelled":
        raise error_of({"status": _abi.ERR_CANCELLED, "name": "PAR_ERR_CANCELLED", "category": "cancelled",
                        "message": f"the run was cancelled: {raw['reason']}", "run_id": raw["run_id"]})


class _StreamBase:
    """What both kinds of streams share."""

    def __init__(self, runtime, handle):
        self._runtime = runtime
        self._handle = handle
        self._events = []  # taken, not yet handed out; reversed, so that pop() is the next
        self._ended = False

    def cancel(self, reason: str = "") -> None:
        """Ends the run early; its last event still comes."""
        text = reason.encode()
        check(lib.par_stream_cancel, self._handle, text, len(text))

    def info(self) -> dict:
        return decode(fetch(lib.par_stream_info, self._handle)[1])

    def steer(self, input, when: str = "now") -> None:
        """Says something to the run: at the next safe point ("now"), or when it has answered ("follow_up")."""
        self._runtime.steer(self.info()["run_id"], input, when)

    def _close(self):
        handle, self._handle = self._handle, None
        self._ended = True
        if handle is not None:
            lib.par_stream_free(handle)

    def __del__(self):
        handle = getattr(self, "_handle", None)
        if handle is not None:
            lib.par_stream_free(handle)

    def _take(self) -> "bytes | None":
        """Everything that waits, as the text of an array; None if nothing does."""
        status, text = fetch(lib.par_stream_drain, self._handle, 0)
        if status == _abi.END:
            self._ended = True
        return text

    def _keep(self, text: bytes) -> None:
        """Makes the events of an array the ones to hand out."""
        events = decode(text)
        self._ended = events[-1]["type"] in _TERMINAL
        events.reverse()
        self._events = events

    def _look(self) -> bool:
        """Takes what is there. False if nothing is, yet."""
        text = self._take()
        if text is not None:
            self._keep(text)
        return text is not None or self._ended

    def _look_for_result(self) -> bool:
        """The same for one who only wants the result: what does not decide anything is not even decoded."""
        return self._keep_decisive(self._take())

    def _keep_decisive(self, text: "bytes | None") -> bool:
        decisive = text and _DECISIVE.search(text)
        if not decisive:
            return self._ended
        if decisive[1].decode() in _TERMINAL and (last := decode_last(text)) and last["type"] in _TERMINAL:
            self._events, self._ended = [last], True  # Whatever came before it is in it, or is void.
        else:
            self._keep(text)
        return True

    def _result(self) -> Result:
        return Result(decode(fetch(lib.par_stream_result, self._handle)[1]))

    def _result_at(self, event: dict) -> Result:
        """The result at the run's last event. The event of a completed run has it whole: no need to ask again."""
        if event["type"] != "completed":
            return self._result()
        for key in _ENVELOPE:
            event.pop(key, None)
        event["status"] = "completed"
        return Result(event)


class Stream(_StreamBase):
    """The events of a run, as an iterator. Host tools are run by whoever iterates. Leaving the `with` frees the run."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Frees the stream; a run that lives is cancelled."""
        self._close()

    def __iter__(self):
        return self

    def __next__(self) -> Event:
        while True:
            while self._events:
                raw = self._events.pop()
                kind = raw["type"]
                if kind in _HOST_WORK and self._runtime._work(raw):
                    continue
                if kind in ("failed", "cancelled"):
                    _raise_terminal(raw)
                return typed(raw)
            if self._ended or self._handle is None:
                raise StopIteration
            if not self._look() and (text := self._wait()):
                self._keep(text)

    def result(self) -> Result:
        """The result; reads the stream to its end, running tools, if that was not done yet."""
        while True:
            while self._events:
                raw = self._events.pop()
                if raw["type"] in _HOST_WORK:
                    self._runtime._work(raw)
                elif raw["type"] in _TERMINAL:
                    return self._result_at(raw)
            if self._ended:
                return self._result()
            # Whoever asks for a result mostly comes before the events do: waits first, and then takes the rest at once.
            if not self._keep_decisive(self._wait()):
                self._look_for_result()

    def _wait(self) -> "bytes | None":
        """Waits for one event, an array as well; None if more waiting is due. Ctrl-C ends long waits: on the descriptor."""
        status, text = fetch(lib.par_stream_wait, self._handle, _PATIENCE_MS)
        if status == 0:
            return b"[%b]" % text
        if status == _abi.END:
            self._ended = True
        elif status == _abi.TIMEOUT:
            poll = select.poll()
            poll.register(descriptor(lib.par_stream_fd, self._handle), select.POLLIN)
            poll.poll()
        return None


class Subscription(Stream):
    """The messages of a subscription, as an iterator of dicts: `event`, `attempt`, and by what was asked for `delivery` and
    `cursor`. It ends when it is cancelled or the runtime closes; leaving the `with` ends it, too."""

    def __next__(self) -> dict:
        while not self._events:
            if self._ended or self._handle is None:
                raise StopIteration
            if not self._look() and (text := self._wait()):
                self._keep(text)
        raw = self._events.pop()
        if raw["type"] == "failed":
            _raise_terminal(raw)
        if raw["type"] in _TERMINAL:
            raise StopIteration
        return raw

    def ack(self, message: dict) -> None:
        """Says that a message was received."""
        self._runtime.call("events.ack", delivery=message["delivery"])

    def nack(self, message: dict, reason: str) -> None:
        """Says that a message was of no use: it comes again, or becomes a dead letter."""
        self._runtime.call("events.nack", delivery=message["delivery"], reason=reason)


class AsyncStream(_StreamBase):
    """The events of a run, as an async iterator."""

    def __init__(self, runtime, handle, hub, run_id):
        super().__init__(runtime, handle)
        self._hub, self._run_id = hub, run_id
        self._loop = asyncio.get_running_loop() if hub is None else hub.loop
        self._waiter = None  # a future, while a coroutine waits
        self._wanted = None  # what that coroutine looks for: `_look` or `_look_for_result`
        self._ready = hub is None  # whether something may be there at which nobody has looked; a hub tells
        self._tasks = set()
        if hub is None:
            self._fd = descriptor(lib.par_stream_fd, handle)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.close()

    def close(self) -> None:
        """Frees the stream; a run that lives is cancelled, and so are its async tools."""
        if self._hub is not None:
            self._hub.streams.pop(self._run_id, None)
        for task in self._tasks:
            task.cancel()
        self._close()

    def __aiter__(self):
        return self

    async def __anext__(self) -> Event:
        while True:
            while self._events:
                raw = self._events.pop()
                kind = raw["type"]
                if kind in _HOST_WORK and self._start_work(raw):
                    continue
                if kind in ("failed", "cancelled"):
                    _raise_terminal(raw)
                return typed(raw)
            if self._ended or self._handle is None:
                raise StopAsyncIteration
            await self._wait(self._look)

    async def result(self) -> Result:
        """The result; reads the stream to its end, running tools, if that was not done yet."""
        while True:
            while self._events:
                raw = self._events.pop()
                if raw["type"] in _HOST_WORK:
                    self._start_work(raw)
                elif raw["type"] in _TERMINAL:
                    return self._result_at(raw)
            if self._ended:
                return self._result()
            await self._wait(self._look_for_result)

    def _start_work(self, event) -> bool:
        """As `Runtime._work`; an async tool becomes a task."""
        tool = self._runtime._tools.get(event["name"]) if event["type"] == "tool_call" else None
        if tool is not None and tool.is_async:
            task = self._loop.create_task(self._runtime._answer_async(event))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return True
        return self._runtime._work(event)

    async def _wait(self, wanted):
        """Waits until `wanted`, which looks at what is there, has found something."""
        if self._ready:
            self._ready = self._hub is None  # A descriptor tells only while somebody waits: look always.
            if wanted():
                return
        self._waiter, self._wanted = self._loop.create_future(), wanted
        if self._hub is None:
            self._loop.add_reader(self._fd, self._announce)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if self._hub is None:
                self._loop.remove_reader(self._fd)

    def _announce(self):
        """There is something to take. Looks at it before it wakes whoever waits: most wake-ups are for nothing else."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            self._ready = True
            return
        try:
            if self._wanted():
                waiter.set_result(None)
        except Exception as error:
            waiter.set_exception(error)


class _Hub:
    """Reads the runtime's inbox on one event loop and wakes the streams that are ready."""

    def __init__(self, runtime, loop):
        self.loop = loop
        self.streams: "dict[str, AsyncStream]" = {}
        self._runtime = weakref.ref(runtime)
        self._handle = runtime._handle
        self._fd = descriptor(lib.par_inbox_fd, self._handle)
        loop.add_reader(self._fd, self._on_inbox)

    def is_free(self) -> bool:
        """Whether another loop may take over."""
        return self.loop.is_closed()

    def detach(self):
        """The runtime is closed: its descriptor goes with it, and whoever still waits is to look a last time."""
        if self.loop is asyncio._get_running_loop():
            self._retire()
        elif not self.loop.is_closed():
            try:
                self.loop.call_soon_threadsafe(self._retire)
            except RuntimeError:
                pass  # The loop was closed meanwhile.

    def _retire(self):
        self.loop.remove_reader(self._fd)
        for stream in list(self.streams.values()):
            stream._announce()

    def _on_inbox(self):
        try:
            status, text = fetch(lib.par_inbox_drain, self._handle, 0)
        except ParError:
            status = _abi.END
        if status == _abi.END:
            self._retire()
        elif status == 0:
            for message in decode(text):
                stream = self.streams.get(message.get("run_id"))
                if stream is not None:
                    stream._announce()
