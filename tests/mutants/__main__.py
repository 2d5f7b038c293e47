"""``python -m tests.mutants NAME[,NAME] vp|huey_consumer ARGUMENT…``: the real program, less some guards."""

from __future__ import annotations

import sys

from tests import mutants

if __name__ == "__main__":
    names, program, *arguments = sys.argv[1:]
    sys.argv = [program, *arguments]
    mutants.apply(names)
    if program == "vp":
        from vp_queue.cli.main import main
    else:
        from huey.bin.huey_consumer import consumer_main as main
    main()
