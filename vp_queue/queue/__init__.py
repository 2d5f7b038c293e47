"""Huey, made transactional: per-VP queues in the ledger's own database.

A queue row is only a hint that says "look at mission X, attempt N is expected"; the ledger decides.
``storage`` lends Huey the ledger's connection, so that a mission, its event and its wake-up commit
together; ``messages`` is the JSON that travels; ``huey`` makes the SqliteHuey of a VP and defines the one
task; ``signals`` ties Huey's signals to the lifecycle, both ways.
"""
