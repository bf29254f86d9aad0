"""The Python door: everything runs on the scripted provider inside the library."""

import asyncio
import dataclasses
import enum
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import typing

import pytest

import par_runtime as par
from par_runtime import _lib
from par_runtime._lib import fetch, lib


def scripted(*turns, **config):
    return par.Runtime({"llm_providers": {"mock": {"type": "mock", "turns": list(turns)}}, **config})


def echoing():
    rt = par.Runtime()
    rt.register_agent("echo", model="mock/echo")
    return rt


ADDING = [
    {"reasoning": "I should add.", "tool_calls": [{"id": "c1", "name": "add", "input": {"a": 1, "b": 2}}]},
    {"expect": {"last_message_contains": "3"}, "text": "The sum is 3.", "usage": {"input_tokens": 5, "output_tokens": 4}},
]


def adding():
    rt = scripted(*ADDING)

    @rt.tool
    def add(a: int, b: int) -> int:
        "Adds two numbers."
        return a + b

    rt.register_agent("adder", model="mock/m", tools=[add])
    return rt


def test_invoke_gives_a_result():
    with echoing() as rt:
        result = rt.invoke("echo", "Grüße 🎉")
    assert (result.text, str(result), result.finish_reason, result.iterations) == ("Grüße 🎉", "Grüße 🎉", "stop", 1)


def test_a_stream_yields_typed_events_and_runs_tools():
    with adding() as rt:
        events = list(rt.invoke_stream("adder", "1 + 2?"))
    kinds = [type(event) for event in events if type(event) is not par.Event]
    assert kinds == [par.ReasoningDelta] * 3 + [par.ToolCallStart] + [par.ToolCallDelta] * 2 + [par.UsageUpdate, par.ToolResult] + [
        par.TextDelta] * 4 + [par.UsageUpdate, par.Done]
    assert "".join(event.text for event in events if isinstance(event, par.TextDelta)) == "The sum is 3."
    assert events[-1].text == "The sum is 3." and events[-1].finish_reason == "stop"
    seqs = [event.seq for event in events]
    assert seqs == sorted(set(seqs)) and len(set(range(1, seqs[-1] + 1)) - set(seqs)) == 1  # the tool_call is answered for us


def test_a_tool_call_that_comes_alone_is_not_lost():
    slow = [{**turn, "delay_ms": 2} for turn in ADDING]  # each event arrives by itself
    with scripted(*slow) as rt:
        @rt.tool(timeout=5)
        def add(a: int, b: int) -> int:
            return a + b

        rt.register_agent("adder", model="mock/m", tools=[add])
        for _ in range(20):
            assert rt.invoke("adder", "go").text == "The sum is 3."


def test_invoke_runs_tools_on_the_calling_thread():
    seen = []
    rt = scripted(*ADDING)

    @rt.tool(effect="pure", timeout=5)
    def add(a: int, b: int):
        seen.append(threading.current_thread())
        return a + b

    rt.register_agent("adder", model="mock/m", tools=["add"])
    for run in (rt.invoke, lambda *a: in_thread(rt.invoke, *a)):
        assert run("adder", "go").text == "The sum is 3."
    assert seen[0] is threading.main_thread() and seen[1] is not threading.main_thread()
    rt.close()


def in_thread(function, *arguments):
    box = []
    thread = threading.Thread(target=lambda: box.append(function(*arguments)))
    thread.start()
    thread.join(20)
    return box[0]


def test_a_tools_exception_is_told_to_the_model():
    with scripted(
        {"tool_calls": [{"name": "weather", "input": {"city": "Nowhere"}}]},
        {"expect": {"last_message_contains": "[LookupError]: no such city"}, "text": "Sorry."},
    ) as rt:
        @rt.tool
        def weather(city: str) -> str:
            raise LookupError("no such city")

        rt.register_agent("a", model="mock/m", tools=[weather])
        assert rt.invoke("a", "?").text == "Sorry."


class Unit(enum.Enum):
    METER = "m"
    FOOT = "ft"


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0


def test_the_schema_comes_from_the_hints():
    with par.Runtime() as rt:
        @rt.tool
        def measure(
            name: typing.Annotated[str, "what to measure"], unit: Unit, at: Point, tags: list[str], depth: int | None = None,
            mode: typing.Literal["fast", "exact"] = "fast",
        ) -> dict:
            "Measures."

        schema = measure.definition["input_schema"]
        assert schema["required"] == ["name", "unit", "at", "tags"]
        assert schema["properties"]["name"] == {"type": "string", "description": "what to measure"}
        assert schema["properties"]["unit"] == {"enum": ["m", "ft"]}
        assert schema["properties"]["at"]["required"] == ["x"]
        assert schema["properties"]["tags"] == {"type": "array", "items": {"type": "string"}}
        assert schema["properties"]["mode"] == {"enum": ["fast", "exact"], "default": "fast"}
        assert measure.run({"name": "n", "unit": "m", "at": {"x": 1}, "tags": []}) is None
        with pytest.raises(TypeError, match="cannot be called by name"):
            rt.tool(lambda *args: None, name="bad")
        assert [tool["name"] for tool in rt.list("tools")] == ["measure"]


def test_a_session_remembers():
    with echoing() as rt:
        rt.invoke("echo", "one", session="s1")
        rt.invoke("echo", "two", session="s1")
        assert len(rt.call("sessions.get", session="s1")["messages"]) == 4


@pytest.mark.parametrize("config, kind, path", [
    ({"thread": 2}, par.InputError, "config.thread"),
    ({"llm_providers": {"x": {"type": "opnai"}}}, par.InputError, "config.llm_providers.x.type"),
])
def test_a_wrong_config_says_where(config, kind, path):
    with pytest.raises(kind) as caught:
        par.Runtime(config)
    assert caught.value.path == path and caught.value.hint
    assert isinstance(caught.value, ValueError)


def test_errors_are_classes_and_survive_pickling():
    import pickle

    with scripted({"error": {"http_status": 401, "message": "bad key"}}) as rt:
        rt.register_agent("a", model="mock/m")
        with pytest.raises(par.AuthError, match="bad key") as caught:
            rt.invoke("a", "x")
        assert pickle.loads(pickle.dumps(caught.value)).detail == caught.value.detail
        with pytest.raises(par.NotFoundError, match="did you mean"):
            rt.invoke("b", "x")
        with pytest.raises(par.AuthError):
            list(rt.invoke_stream("a", "x"))
    with pytest.raises(par.StateError):
        rt.invoke("a", "x")


def test_timeouts_and_cancellation():
    with scripted({"text": "a b c", "delay_ms": 10_000}) as rt:
        rt.register_agent("slow", model="mock/m")
        start = time.monotonic()
        with pytest.raises(par.DeadlineError):
            rt.invoke("slow", "x", timeout=0.05)
        with pytest.raises(par.DeadlineError):
            in_thread_raising(rt.invoke, "slow", "x", timeout=0.05)
        stream = rt.invoke_stream("slow", "x")
        stream.cancel("enough")
        with pytest.raises(par.CancelledError, match="enough"):
            list(stream)
        with rt.invoke_stream("slow", "x", run_id="r1"):
            assert rt.run_status("r1")["status"] == "running"
        wait_for(lambda: rt.run_status("r1")["status"] == "cancelled")
        assert time.monotonic() - start < 5


def in_thread_raising(function, *arguments, **keywords):
    box = []

    def run():
        try:
            function(*arguments, **keywords)
        except BaseException as error:
            box.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    raise box[0]


def wait_for(condition):
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("wait", ["invoke", "stream"])
def test_ctrl_c_ends_a_wait_at_once(wait):
    with scripted({"text": "a b c", "delay_ms": 60_000}) as rt:
        rt.register_agent("slow", model="mock/m")
        for delay in (0.01, 0.3):  # inside the library's wait, and on the descriptor
            sent = []

            def interrupt():
                time.sleep(delay)
                sent.append(time.monotonic())
                os.kill(os.getpid(), signal.SIGINT)

            thread = threading.Thread(target=interrupt)
            with pytest.raises(KeyboardInterrupt):
                thread.start()
                rt.invoke("slow", "x") if wait == "invoke" else list(rt.invoke_stream("slow", "x"))
                time.sleep(1)
            assert time.monotonic() - sent[0] < 0.2
            thread.join()


def test_async_twins():
    async def main():
        with adding() as rt:
            events = [event async for event in rt.ainvoke_stream("adder", "go")]
            assert isinstance(events[-1], par.Done)
            results = await asyncio.gather(*(rt.ainvoke("adder", "go") for _ in range(50)))
            assert {result.text for result in results} == {"The sum is 3."}
            with pytest.raises(par.NotFoundError):
                await rt.ainvoke("nobody", "go")

    asyncio.run(main())


def test_async_tools_run_at_the_same_time_and_can_be_cancelled():
    calls = [{"name": "nap", "input": {"seconds": 0.2}} for _ in range(5)]
    finished = []

    async def main():
        with scripted({"tool_calls": calls}, {"text": "rested"}) as rt:
            @rt.tool
            async def nap(seconds: float) -> str:
                await asyncio.sleep(seconds)
                finished.append(seconds)
                return "ok"

            rt.register_agent("a", model="mock/m", tools=[nap])
            start = time.monotonic()
            assert (await rt.ainvoke("a", "go")).text == "rested"
            assert time.monotonic() - start < 0.8 and len(finished) == 5
            task = asyncio.create_task(rt.ainvoke("a", "go"))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            wait_for(lambda: rt.info()["runs"]["live"] == 0)
        assert len(finished) == 5

    asyncio.run(main())


def test_a_second_event_loop_is_served_by_descriptors():
    async def one(rt, ready, go):
        ready.set()
        result = await rt.ainvoke("echo", "hi")
        while not go.is_set():
            await asyncio.sleep(0.005)
        return (await rt.ainvoke("echo", "again")).text + result.text

    with echoing() as rt:
        ready, go, box = threading.Event(), threading.Event(), []
        first = threading.Thread(target=lambda: box.append(asyncio.run(one(rt, ready, go))))
        first.start()
        ready.wait(5)
        go_now = threading.Event()
        go_now.set()
        assert asyncio.run(one(rt, threading.Event(), go_now)) == "againhi"
        go.set()
        first.join(10)
        assert box == ["againhi"]


def test_a_thousand_streams_on_one_loop():
    async def main():
        with scripted({"text": "one two three", "delay_ms": 20}, threads=2) as rt:
            rt.register_agent("a", model="mock/m")

            async def read(n):
                return "".join([event.text async for event in rt.ainvoke_stream("a", "x") if isinstance(event, par.TextDelta)])

            texts = await asyncio.gather(*(read(n) for n in range(1000)))
            assert set(texts) == {"one two three"}

    asyncio.run(main())


def test_every_way_to_a_result_gives_the_same():
    def without_ids(result):
        return {key: value for key, value in result.raw.items() if key not in ("run_id", "duration_ms")}

    def iterated(rt):
        with rt.invoke_stream("adder", "go", tag={"type": "completed"}) as stream:
            for _ in stream:
                pass
            return stream.result()

    with adding() as rt:
        tagged = {"tag": {"type": "tool_call", "inside": [{"v": 1, "seq": 1, "type": "completed"}]}}
        results = [
            iterated(rt), rt.invoke("adder", "go"), rt.invoke("adder", "go", **tagged), in_thread(rt.invoke, "adder", "go"),
            asyncio.run(rt.ainvoke("adder", "go")), asyncio.run(rt.ainvoke("adder", "go", **tagged)),
        ]
    assert len({result.run_id for result in results}) == len(results)
    assert all(0 <= result.duration_ms < 60_000 for result in results)
    for result in results:
        assert without_ids(result) == without_ids(results[0]) and result.raw["status"] == "completed"


@pytest.mark.parametrize("text", [
    '{"type":"completed","text":"no"}', '[{"v":1,"seq":9,"type":"failed"}]', '\\"type":"tool_call"', '"type":"cancelled"',
])
def test_a_text_about_events_is_only_a_text(text):
    with echoing() as rt:
        assert rt.invoke("echo", text).text == text
        assert asyncio.run(rt.ainvoke("echo", text)).text == text


def test_a_tool_input_that_looks_like_an_event_is_only_an_input():
    event = {"v": 1, "seq": 7, "type": "completed", "text": "no"}
    with scripted({"tool_calls": [{"name": "log", "input": {"event": event}}]}, {"text": "logged"}) as rt:
        seen = []

        @rt.tool
        def log(event: dict) -> str:
            seen.append(event)
            return "ok"

        rt.register_agent("a", model="mock/m", tools=[log])
        for result in (rt.invoke("a", "x"), asyncio.run(rt.ainvoke("a", "x"))):
            assert result.text == "logged" and result.tool_calls[0]["input"] == {"event": event}
        assert seen == [event, event]


@pytest.mark.parametrize("by", ["hub", "descriptor"])
def test_a_slow_reader_gets_every_event_in_order(by):
    words = [f"w{n}" for n in range(3000)]

    async def main():
        with scripted({"text": " ".join(words), "delay_ms": 0}) as rt:
            rt.register_agent("a", model="mock/m")
            if by == "descriptor":
                async def elsewhere():
                    await rt.ainvoke("a", "x")
                    await asyncio.sleep(30)

                other = asyncio.new_event_loop()
                task = other.create_task(elsewhere())
                threading.Thread(target=lambda: other.run_until_complete(asyncio.wait([task])), daemon=True).start()
                while rt._hub is None:
                    await asyncio.sleep(0.001)
            events = []
            async for event in rt.ainvoke_stream("a", "x"):
                events.append(event)
                if len(events) % 500 == 0:
                    await asyncio.sleep(0.002)
            if by == "descriptor":
                other.call_soon_threadsafe(task.cancel)
            assert [event.seq for event in events] == list(range(1, len(events) + 1))
            assert "".join(event.text for event in events if isinstance(event, par.TextDelta)).split() == words
            assert isinstance(events[-1], par.Done)

    asyncio.run(main())


def test_closing_the_runtime_tells_who_waits():
    async def main():
        rt = scripted({"text": "a b c", "delay_ms": 60_000}, shutdown={"drain_timeout": 0})
        rt.register_agent("slow", model="mock/m")
        waiting = [asyncio.create_task(rt.ainvoke("slow", "x")) for _ in range(3)]
        await asyncio.sleep(0.05)
        rt.close()
        for outcome in await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5):
            # What is stored can be resumed.
            assert (type(outcome), outcome.code) == (par.StateError, "suspended")

    asyncio.run(main())


def test_a_block_that_fails_gives_runs_no_time():
    began = time.monotonic()
    with pytest.raises(ValueError):
        with scripted({"text": "a b c", "delay_ms": 60_000}) as rt:
            rt.register_agent("slow", model="mock/m")
            stream = rt.invoke_stream("slow", "x")
            next(stream)
            raise ValueError
    assert time.monotonic() - began < 20
    assert [event.type for event in stream][-1] == "suspended"


def test_a_signal_handler_may_invoke_in_the_middle_of_an_invoke():
    answers, numbers = [], iter(range(10_000))
    with echoing() as rt:
        before = signal.signal(signal.SIGALRM, lambda *_: answers.append(rt.invoke("echo", f"inner {next(numbers)}").text))
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        try:
            for n in range(500):
                assert rt.invoke("echo", f"outer {n}").text == f"outer {n}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    assert answers and {answer.split()[0] for answer in answers} == {"inner"}


def test_nothing_is_left_behind():
    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    with echoing() as rt:
        for _ in range(20):
            rt.invoke("echo", "x")
        before = descriptors()
        for _ in range(200):
            rt.invoke("echo", "x")
            next(iter(rt.invoke_stream("echo", "x")))
        gc.collect()
        wait_for(lambda: descriptors() <= before + 2)


@pytest.mark.parametrize("end", ["", "import sys; sys.exit(0)", "del rt", "rt.close()"])
def test_the_interpreter_ends_cleanly_with_a_live_stream(end):
    program = (
        "import par_runtime as par\n"
        "rt = par.Runtime({'persistence': 'noop', 'shutdown': {'drain_timeout': 0}, 'llm_providers': {'mock':"
        " {'type': 'mock', 'turns': [{'text': 'a b', 'delay_ms': 60000}]}}})\n"
        "rt.register_agent('a', model='mock/m')\n"
        f"stream = rt.invoke_stream('a', 'x'); next(stream)\n{end}\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_forked_child_is_told():
    with echoing() as rt:
        rt.invoke("echo", "x")
        pid = os.fork()
        if pid == 0:
            try:
                rt.invoke("echo", "x")
            except par.ParError as error:
                os._exit(0 if "after fork" in str(error) else 2)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert rt.invoke("echo", "parent").text == "parent"


@pytest.mark.parametrize("text", [
    "{}", "[]", "null", '"\\u0000"', '"ÀÉ中文🎉"', "9007199254740991", "-9007199254740993", "1.5e300", '{"b":1,"a":[{}]}',
])
def test_echo_gives_back_what_it_got(text):
    status, echoed = fetch(lib.par_echo, text.encode(), len(text.encode()))
    assert status == 0 and json.loads(echoed) == json.loads(text)


def test_info_and_describe():
    with par.Runtime() as rt:
        assert rt.info()["state"] == "open"
        assert "sessions.get" in rt.call("describe")["methods"]
    assert rt.info()["state"] == "closed"
    assert par.__version__ == _lib.lib.par_version().decode()


# ---- approvals, hooks, sub-agents, structured output


def deleting(**keys):
    rt = scripted({"tool_calls": [{"name": "delete", "input": {"path": "/tmp/x"}}]}, {"text": "ok"}, **keys)
    deleted = []

    @rt.tool(permission="confirm", timeout=5)
    def delete(path: str):
        deleted.append(path)

    rt.register_agent("janitor", model="mock/m", tools=[delete])
    return rt, deleted


@pytest.mark.parametrize("decision, expected", [
    (True, ["/tmp/x"]), (False, []), ({"type": "edit", "input": {"path": "/tmp/y"}}, ["/tmp/y"]),
])
def test_an_approver_decides(decision, expected):
    rt, deleted = deleting()
    asked = []

    @rt.approver
    def decide(request: par.ApprovalRequest):
        asked.append((request.name, request.input))
        return decision

    with rt:
        assert rt.invoke("janitor", "clean up").text == "ok"
    assert (asked, deleted) == ([("delete", {"path": "/tmp/x"})], expected)


def test_without_an_approver_the_stream_shows_the_request():
    rt, deleted = deleting()
    with rt, rt.invoke_stream("janitor", "clean up") as stream:
        for event in stream:
            if isinstance(event, par.ApprovalRequest):
                rt.resolve_approval(event.approval_id, "approve")
    assert deleted == ["/tmp/x"]


def test_a_failing_approver_rejects():
    rt, deleted = deleting()

    @rt.approver
    def decide(_):
        raise ValueError("broken")

    with rt:
        results = [event.content for event in rt.invoke_stream("janitor", "go") if isinstance(event, par.ToolResult)]
    assert deleted == [] and "ValueError: broken" in results[0]


def test_a_hook_changes_what_passes():
    turns = [{"expect": {"system_contains": "Be brief."}, "text": "first"}]
    rt = scripted(*turns, middleware=[{"type": "host", "name": "audit", "hooks": ["before_llm", "after_llm"]}])
    seen = []

    @rt.hook("audit")
    def audit(hook, payload):
        seen.append(hook)
        return {"system": "Be brief."} if hook == "before_llm" else {"text": payload["parts"][0]["text"].upper()}

    with rt:
        rt.register_agent("a", model="mock/m")
        assert rt.invoke("a", "hi").text == "FIRST"
        assert asyncio.run(rt.ainvoke("a", "hi")).text == "FIRST"
    assert seen == ["before_llm", "after_llm"] * 2


def test_a_sub_agents_text_is_not_the_answer():
    providers = {
        "outer": {"type": "mock", "turns": [{"tool_calls": [{"name": "helper", "input": {"task": "find it"}}]}, {"text": "Done."}]},
        "inner": {"type": "mock", "turns": [{"text": "found"}]},
    }
    with par.Runtime({"llm_providers": providers}) as rt:
        rt.register_agent("helper", model="inner/m")
        rt.register_agent("boss", model="outer/m", sub_agents=["helper"])
        events = list(rt.invoke_stream("boss", "go"))
    assert "".join(event.text for event in events if isinstance(event, par.TextDelta)) == "Done."
    inner = [event for event in events if isinstance(event, par.SubAgentEvent)]
    assert any(isinstance(event.event, par.TextDelta) and event.event.text == "found" for event in inner)
    assert {tuple(event.path) for event in inner} == {("helper",)}


def test_structured_output_and_steering():
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    with scripted({"text": "{\"n\": 3}", "delay_ms": 50}, {"expect": {"last_message_contains": "again"}, "text": "{\"n\": 4}"}) as rt:
        rt.register_agent("a", model="mock/m")
        result = rt.invoke("a", "a number", response_schema=schema)
        assert (result.output, result.agent) == ({"n": 3}, "a")
        with rt.invoke_stream("a", "a number", response_schema=schema) as stream:
            stream.steer("again", when="follow_up")
            values = [event.value for event in stream if isinstance(event, par.OutputDelta)]
            assert values[-1] == {"n": 4} and stream.result().output == {"n": 4}


def test_a_provider_is_registered_and_its_key_is_the_hosts():
    with par.Runtime() as rt:
        rt.register_provider("local", type="openai", base_url="http://127.0.0.1:9/v1", api_key={"host": "local"},
                             retry={"max_attempts": 1})
        asked = []

        @rt.key("local")
        def key():
            asked.append(True)
            return "secret"

        rt.register_agent("a", model="local/m")
        with pytest.raises(par.ParError) as failure:
            rt.invoke("a", "hi")
        assert failure.value.code == "network" and asked == [True]
        assert {"name": "local", "type": "openai", "default": False} in rt.call("providers.list")["items"]


def test_a_subscription_yields_messages_that_are_acknowledged_or_refused(tmp_path):
    bus = {"initial_retry_delay": 0.001, "max_retry_delay": 0.002}
    with par.Runtime({"persistence": f"sqlite:{tmp_path}/par.db", "event_bus": bus}) as rt:
        rt.register_agent("echo", model="mock/echo")
        with rt.subscribe(name="ends", types=["completed"], ack=True, max_attempts=2) as ends:
            rt.invoke("echo", "hi", run_id="r1")
            first = next(ends)
            assert (first["event"]["run_id"], first["attempt"]) == ("r1", 1)
            ends.nack(first, "busy")
            again = next(ends)
            assert (again["delivery"], again["attempt"]) == (first["delivery"], 2)
            ends.ack(again)
            assert rt.list("subscriptions")[0]["counts"]["acknowledged"] == 1
            ends.cancel("enough")
            assert list(ends) == []
        with pytest.raises(par.ParError):
            rt.subscribe(types=["no_such_type"])
