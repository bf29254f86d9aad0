"""Not run: mypy --strict reads it, as it would read a user's code."""

from par_runtime import Done, Event, ParError, Result, Runtime, TextDelta


def blocking(rt: Runtime) -> str:
    result: Result = rt.invoke("agent", "Hi", timeout=5.0, session="s")
    return result.text


def streaming(rt: Runtime) -> str:
    text = ""
    for event in rt.invoke_stream("agent", "Hi"):
        if isinstance(event, TextDelta):
            text += event.text
        elif isinstance(event, Done):
            return event.finish_reason
    return text


async def asynchronous(rt: Runtime) -> list[Event]:
    try:
        return [event async for event in rt.ainvoke_stream("agent", "Hi")]
    except ParError as error:
        raise SystemExit(error.message)
