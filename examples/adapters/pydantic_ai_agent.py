"""An agent of pydantic-ai that has the vp_* tools and nothing else.

    pip install 'vp-queue[pydantic-ai]' 'pydantic-ai-slim[openai]'
    vp up --detach
    MODEL=openai-chat:… python examples/adapters/pydantic_ai_agent.py "Have the generalist write a poem about tea."

MODEL is any of pydantic-ai's; its key stands where that model wants it (here OPENAI_API_KEY).
"""

from __future__ import annotations

import os
import sys

from pydantic_ai import Agent

from vp_queue.adapters.pydantic_ai import vp_toolset
from vp_queue.prompt_rule import PROMPT_RULE


def main(prompt: str) -> int:
    """Let the agent work; returns 0 if it came to an end by itself."""
    agent = Agent(os.environ["MODEL"], toolsets=[vp_toolset()], instructions=PROMPT_RULE)
    result = agent.run_sync(prompt)
    print(result.output)
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit('usage: pydantic_ai_agent.py "what is to be done"')
    sys.exit(main(sys.argv[1]))
