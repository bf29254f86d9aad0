#!/usr/bin/env python3
"""The benchmark's exchanges from Python: `bench.py CLIENT SCENARIO PORT COUNT SIZE` prints one line of JSON.

CLIENT is `libpar`, as a user of `par_runtime` would write it, or `http.client`, which is the floor: the same exchange
with the standard library's client and `json`. Which library and which binding is the environment's business:
`PAR_LIBRARY` and `PYTHONPATH`.
"""
import asyncio
import http.client
import json
import resource
import sys
import threading
import time

IN_FLIGHT = 64
LATE_MS = 500
TICK_MS = 50
QUESTION = "What does the quick brown fox do?"
SYSTEM = "You are a benchmark: answer in one sentence."

# ---- measuring


class Watch:
    """Wall and CPU time, the CPU of all threads."""

    def __init__(self):
        self.started, self.cpu = time.perf_counter(), self.cpu_seconds()

    @staticmethod
    def cpu_seconds():
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    def each(self, count, events=0):
        wall, cpu = time.perf_counter() - self.started, self.cpu_seconds() - self.cpu
        return {"wall_us": wall / count * 1e6, "cpu_us": cpu / count * 1e6, "per_second": count / wall,
                "events_per_second": events / wall}

    def cpu_percent(self):
        return 100 * (self.cpu_seconds() - self.cpu) / (time.perf_counter() - self.started)


def timed(one, count, warm_up):
    """Calls `one` over and over; it returns how many events it saw."""
    for _ in range(warm_up):
        one()
    watch = Watch()
    events = sum(one() for _ in range(count))
    return watch.each(count, events)


def on_a_thread(function, *arguments):
    box = []
    thread = threading.Thread(target=lambda: box.append(function(*arguments)))
    thread.start()
    thread.join()
    return box[0]


def percentile(values, part):
    return sorted(values)[int(len(values) * part)] if values else 0


# ---- libpar


def runtime(port, model, stream):
    from par_runtime import Runtime

    provider = {"type": "openai", "api_key": "k", "base_url": f"http://127.0.0.1:{port}/v1", "stream": stream}
    rt = Runtime(threads=1, persistence="noop", llm_providers={"bench": provider})
    rt.register_agent("bench", model=f"bench/{model}", system_prompt=SYSTEM)
    return rt


def libpar_invoke(port, count, size):
    with runtime(port, "text", stream=False) as rt:
        return timed(lambda: len(rt.invoke("bench", QUESTION).text) > 0, count, warm_up=200)


def libpar_flight(port, count, size):
    """As many coroutines as may be in flight, each with its share of the invokes."""
    async def invoke_some(rt, some):
        for _ in range(some):
            assert (await rt.ainvoke("bench", QUESTION)).text

    async def rush(rt, count):
        await asyncio.gather(*(invoke_some(rt, count // IN_FLIGHT) for _ in range(IN_FLIGHT)))

    async def main():
        with runtime(port, "text", stream=False) as rt:
            await rush(rt, 2000)
            watch = Watch()
            await rush(rt, count)
            return watch.each(count // IN_FLIGHT * IN_FLIGHT)

    return asyncio.run(main())


def libpar_burst(port, count, size):
    from par_runtime import Done, TextDelta

    with runtime(port, f"stream-{size}", stream=True) as rt:
        def one():
            events, chunks, done = 0, 0, False
            for event in rt.invoke_stream("bench", QUESTION):
                events += 1
                if isinstance(event, TextDelta):
                    chunks += 1
                elif isinstance(event, Done):
                    done = True
            assert done and chunks == size, f"{chunks} of {size} chunks"
            return events

        return timed(one, count, warm_up=2)


def libpar_crowd(port, count, size):
    """A thousand streams at twenty tokens a second, as many coroutines."""
    from par_runtime import Done, ParError, TextDelta

    added, late, failed = [], 0, 0
    limit = (TICK_MS * (size + 1) + LATE_MS) / 1000

    async def read(rt):
        nonlocal late, failed
        started, done = time.perf_counter(), False
        try:
            async with rt.ainvoke_stream("bench", QUESTION) as stream:
                async for event in stream:
                    if isinstance(event, TextDelta):
                        added.append((time.monotonic_ns() - int(event.text[1:])) / 1e3)
                    elif isinstance(event, Done):
                        done = True
        except ParError as error:
            print(f"bench: {error}", file=sys.stderr)
        failed += not done
        late += time.perf_counter() - started > limit

    async def main():
        with runtime(port, f"stream-{TICK_MS}ms-{size}", stream=True) as rt:
            watch = Watch()
            await asyncio.gather(*(read(rt) for _ in range(count)))
            percent = watch.cpu_percent()
        lost = count * size - len(added)
        return {"cpu_percent": percent, "late": late, "failed": failed, "lost": lost,
                "added_p50_us": percentile(added, .5), "added_p99_us": percentile(added, .99)}

    return asyncio.run(main())


# ---- http.client


class Bare:
    """One kept connection."""

    def __init__(self, port, model, stream):
        self.connection = http.client.HTTPConnection("127.0.0.1", port)
        self.model, self.stream = model, stream

    def post(self):
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]
        body = json.dumps({"model": self.model, "messages": messages, "stream": self.stream})
        head = {"content-type": "application/json", "authorization": "Bearer k"}
        self.connection.request("POST", "/v1/chat/completions", body, head)
        return self.connection.getresponse()


def bare_invoke(port, count, size):
    bare = Bare(port, "text", stream=False)

    def one():
        reply = json.loads(bare.post().read())
        return len(reply["choices"][0]["message"]["content"]) > 0 and reply["usage"]["total_tokens"] > 0

    return timed(one, count, warm_up=200)


def bare_burst(port, count, size):
    bare = Bare(port, f"stream-{size}", stream=True)

    def one():
        chunks = events = 0
        reply = bare.post()
        for line in reply:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                events += 1
                if event["choices"] and event["choices"][0]["delta"].get("content"):
                    chunks += 1
        reply.close()
        assert chunks == size, f"{chunks} of {size} chunks"
        return events

    return timed(one, count, warm_up=2)


SCENARIOS = {
    ("libpar", "invoke"): libpar_invoke,
    ("libpar", "invoke-thread"): lambda *arguments: on_a_thread(libpar_invoke, *arguments),
    ("libpar", "flight"): libpar_flight,
    ("libpar", "burst"): libpar_burst,
    ("libpar", "crowd"): libpar_crowd,
    ("http.client", "invoke"): bare_invoke,
    ("http.client", "invoke-thread"): lambda *arguments: on_a_thread(bare_invoke, *arguments),
    ("http.client", "burst"): bare_burst,
}


def main():
    client, scenario, *numbers = sys.argv[1:]
    print(json.dumps(SCENARIOS[client, scenario](*map(int, numbers))))


if __name__ == "__main__":
    main()
