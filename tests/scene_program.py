"""The program that the VPs of the scene run: by the first word of its objective it prints, reports and delivers.

Before it ends it waits for ``go`` in its workspace, so that the scene can let time pass.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

PRODUCTS = Path(os.environ["VP_WORK_PRODUCTS"])
MINUTES = """# Minutes of the release meeting

Present: Ada, Grace, Linus. **Decided:** 2.4 ships on Thursday.

| item | who | until |
|---|---|---|
| Freeze the branch | Ada | Monday |
| Write the notes | Grace | Wednesday |
| Warn the mirrors | Linus | Wednesday |

> The migration runs twice in the rehearsal, once from 2.2.

```sh
make release VERSION=2.4
```
"""
PATCH = """--- a/pager/window.py
+++ b/pager/window.py
@@ -18,7 +18,8 @@ class Window:
     def last_page(self) -> int:
-        return self.rows // self.size
+        # A page that is begun is a page.
+        return -(-self.rows // self.size)

     def holds(self, row: int) -> bool:
         return 0 <= row < self.rows
"""
TRACEBACK = """Resolving the grammar of version 4 …
Traceback (most recent call last):
  File "tools/port.py", line 88, in port
    rule = grammar[old.name]
KeyError: 'optional_suffix'
"""


def report(**told: Any) -> None:
    """A line to descriptor 3."""
    os.write(3, json.dumps(told).encode() + b"\n")


def minutes() -> None:
    """Completed, with a document."""
    print("Reading notes/2026-release.txt (212 lines)")
    (PRODUCTS / "minutes.md").write_text(MINUTES)
    report(usage={"input_tokens": 18_400, "output_tokens": 950, "turns": 3, "cost_usd": 0.09})
    report(result="Minutes with three decisions are in minutes.md.")


def patch() -> None:
    """Completed, with a patch and its proof."""
    print("Reproduced: 41 rows in pages of 20 show two pages.\n12 tests, 0 failed")
    (PRODUCTS / "changes.patch").write_text(PATCH)
    (PRODUCTS / "tests.json").write_text(json.dumps({"tests": 12, "failed": 0, "seconds": 0.8}, indent=2) + "\n")
    report(usage={"input_tokens": 61_000, "output_tokens": 4_100, "turns": 9, "cost_usd": 0.41})
    report(result="The last page counts now; a test holds it. See changes.patch.")


def broken() -> None:
    """Failed, and says why."""
    print(TRACEBACK, end="", flush=True)
    report(usage={"input_tokens": 22_000, "output_tokens": 1_800, "turns": 4, "cost_usd": 0.17})
    message = "version 4 has no rule optional_suffix; say what stands for it"
    report(failure={"code": "executor_error", "message": message})
    sys.exit(1)


def comparing() -> None:
    """Running, and in the middle of it."""
    print("Asked for: price, restore time, encryption at rest.\nborg: 14 pages read\nrestic: 9 pages read", flush=True)
    report(usage={"input_tokens": 48_200, "output_tokens": 6_300, "turns": 11, "cost_usd": 0.36})
    report(progress=0.62, message="reading the third of three manuals")
    signal.pause()


def adding() -> None:
    """Running, at its beginning."""
    print("Repository on branch mission/report-json, clean.\nsrc/report.py: 3 functions print", flush=True)
    report(usage={"input_tokens": 9_100, "output_tokens": 700, "turns": 2, "cost_usd": 0.06})
    report(progress=0.15, message="writing the tests first")
    signal.pause()


def small() -> None:
    """Completed, with a note."""
    print("done")
    (PRODUCTS / "note.txt").write_text("All links answer.\n")
    report(usage={"input_tokens": 3_000, "output_tokens": 200, "turns": 1, "cost_usd": 0.012})
    report(result="All links answer.")


ACTS = {
    "Check": small,
    "Review": small,
    "Port": broken,
    "Write": minutes,
    "Fix": patch,
    "Upgrade": broken,
    "Compare": comparing,
    "Add": adding,
}

if __name__ == "__main__":
    act = ACTS[json.loads(Path("mission.json").read_text())["objective"].split()[0]]
    Path("ready").touch()
    while not Path("go").exists():
        time.sleep(0.005)
    act()
