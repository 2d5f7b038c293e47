"""The MCP server: the ``vp_*`` tools for an agent host, over stdio or HTTP.

A host lists the tools (``definitions``, made from ``tools.DEFINITIONS``) and calls them (``calls``): the raw
arguments go to ``tools.call`` in a thread, so that the contract alone judges them and every error is its error
object. ``server`` puts this together for the SDK's low-level server; ``stdio`` and ``http`` are its two transports.
Nothing is kept here between calls: whatever an answer says stands in the ledger, so several servers on one ledger,
and one that is restarted, are normal.
"""
