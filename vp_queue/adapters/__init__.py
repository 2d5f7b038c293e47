"""The ``vp_*`` tools inside an agent's own process, without an MCP server beside it.

One module for each kind of agent: ``claude_sdk`` (Claude Agent SDK), ``openai_tools`` (function calling as OpenAI
has it, by whatever client), ``pydantic_ai``. None has definitions of its own: names, descriptions and schemas are
those of ``tools.DEFINITIONS``, and an answer is the tool's own, an error too. ``calling`` is what they share.

The agents' libraries are extras (``vp-queue[claude]``, ``[openai]``, ``[pydantic-ai]``), imported by their module only.
"""
