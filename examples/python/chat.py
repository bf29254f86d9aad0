"""A chat with a tool, streamed.

    python chat.py                       asks for lines; offline it talks to the scripted mock provider
    python chat.py "What is 17 + 25?"    one question

With OPENAI_API_KEY (and optionally OPENAI_BASE_URL and OPENAI_MODEL) it talks to that server instead.
"""

import os
import sys

from par_runtime import ParError, Runtime, TextDelta, ToolResult

# Played from the start for each question: a tool call, then the answer to it.
SCRIPT = {"persistence": "noop", "llm_providers": {"mock": {"type": "mock", "turns": [
    {"text": "Let me add that. ", "delay_ms": 20, "tool_calls": [{"id": "c1", "name": "add", "input": {"a": 17, "b": 25}}]},
    {"expect": {"last_message_contains": "42"}, "text": "17 and 25 make 42.", "delay_ms": 20},
]}}}


def main():
    online = bool(os.environ.get("OPENAI_API_KEY"))
    model = f"openai/{os.environ.get('OPENAI_MODEL', 'gpt-4o-mini')}" if online else "mock/script"
    with Runtime({"persistence": "noop"} if online else SCRIPT) as rt:

        @rt.tool
        def add(a: float, b: float) -> float:
            "Adds two numbers."
            return a + b

        rt.register_agent("assistant", model=model, system_prompt="You are brief. Add with your tool.", tools=[add])
        for question in sys.argv[1:] or iter(lambda: input("> "), ""):
            try:
                for event in rt.invoke_stream("assistant", question, session="chat"):
                    if isinstance(event, TextDelta):
                        print(event.text, end="", flush=True)
                    elif isinstance(event, ToolResult):
                        print(f"[{event.name}: {event.content}] ", end="", flush=True)
                print()
            except ParError as error:
                print(f"\n{error}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except (EOFError, KeyboardInterrupt):
        print()
