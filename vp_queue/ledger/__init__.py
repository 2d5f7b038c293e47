"""The ledger: the tables that are the truth about missions, attempts, events and artifacts.

``database`` opens it and owns every transaction; ``transitions`` makes every status change together
with its event; ``leases``, ``inbox`` and ``fleet`` are the only other writers; ``queries`` only reads.
Everything else (Huey's rows, signals, views) is a hint or a view of what stands here.
"""
