"""vp-queue: durable, observable delegation of missions to agents.

This package's root imports nothing, so that the launcher (a small process per attempt) and
``vp --help`` start fast. Callers import from ``vp_queue.tools``.
"""

__version__ = "0.1.0"
