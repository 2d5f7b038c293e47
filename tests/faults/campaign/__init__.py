"""The fault campaign: a real installation under random faults, and the promise judged at the end.

    python -m tests.faults.campaign --seconds 90 --seed 7

``plan`` draws from the seed what is dispatched and what is broken, and when. ``fleet`` runs supervisord with keeper
and consumers, and the ``clients``: separate processes that dispatch, cancel, retry, wait and read events, each
noting with fsync what it was answered. ``faults`` kills, stops and locks. ``watch`` looks meanwhile for programs
that live without a running attempt. ``program`` is what each mission runs; it holds a lock for its life, so that
two of one mission at once give themselves away without any of the code under test. Then injecting stops, everything
is given time to settle, and ``verdict`` compares what clients and programs noted with the ledger.

The seed replays the same missions and the same faults at the same moments. What cannot be replayed is what the
operating system decides: which instruction a process had reached, and so which of several candidates a fault meets.
The journal (``journal.jsonl``) says what it met.
"""
