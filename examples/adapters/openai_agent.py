"""An agent in a loop of its own, by function calling as OpenAI has it: the vp_* tools and nothing else.

    pip install 'vp-queue[openai]'
    vp up --detach
    OPENAI_MODEL=… python examples/adapters/openai_agent.py "Have the generalist write a poem about tea."

OPENAI_API_KEY is its key; OPENAI_BASE_URL another server that speaks the same.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from openai import OpenAI

from vp_queue.adapters.openai_tools import chat_tools, dispatch
from vp_queue.prompt_rule import PROMPT_RULE

TURNS_MAX = 100


def main(prompt: str) -> int:
    """Let the agent work; returns 0 if it came to an end by itself."""
    client, model = OpenAI(), os.environ["OPENAI_MODEL"]
    messages: list[Any] = [{"role": "system", "content": PROMPT_RULE}, {"role": "user", "content": prompt}]
    for _ in range(TURNS_MAX):
        completion = client.chat.completions.create(model=model, messages=messages, tools=chat_tools())
        message = completion.choices[0].message
        if not message.tool_calls:
            print(message.content)
            return 0
        messages.append(message)
        for call in message.tool_calls:
            print(f"[{call.function.name}]", file=sys.stderr)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": dispatch(call)})
    print(f"No answer after {TURNS_MAX} turns.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit('usage: openai_agent.py "what is to be done"')
    sys.exit(main(sys.argv[1]))
