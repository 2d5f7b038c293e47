"""What `make hosts` installs: where it is, and what a test says that needs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

STAMP = Path(sys.prefix) / ".hosts"
MODULES = Path(sys.prefix) / "hosts" / "node_modules"
BIN = MODULES / ".bin"
# Their Node comes first: the machine's own may be too old for them.
PATH = f"{BIN}{os.pathsep}{os.environ['PATH']}"

needs_hosts = pytest.mark.skipif(not STAMP.exists(), reason="needs agent hosts and MCP suites; run: make hosts")
