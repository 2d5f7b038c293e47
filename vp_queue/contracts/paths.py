"""What a relative path from outside may look like: files of a mission, artifacts of an attempt.

The check is pure text, so that the request is refused at dispatch and the worker, which applies it
again, needs no other rule. It is only the first guard: links are a matter of the file system, and
``worker.confined`` deals with those when it opens a path.
"""

from __future__ import annotations

import fnmatch
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

from vp_queue.contracts import limits

NAME_BYTES: Final = 255  # what Linux file systems take for one name
PATH_BYTES: Final = 4_095  # PATH_MAX without its closing NUL
# What the worker puts into a workspace itself; compared without regard to case.
WORKSPACE_FILES: Final = frozenset({"mission.md", "mission.json", "run.log", "mission_receipt.json"})
WORK_PRODUCTS: Final = "work_products"
# Never artifacts, files and folders alike: version control, and what tools can make again.
EXCLUDED_NAMES: Final = frozenset(
    {
        *(".git", ".hg", ".svn"),
        *("__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache"),
        *("node_modules", ".venv"),
    }
)
EXCLUDED_SUFFIXES: Final = (".pyc",)
SHOWN_CHARS: Final = 200  # of a name that is only named, never opened

# Explicit embeddings, overrides and isolates make a name read as another ("Trojan Source",
# CVE-2021-42574). Joiners and marks are left alone: honest names in many scripts need them.
_BIDI_CONTROLS: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_CONTROL_CATEGORIES: Final = frozenset({"Cc", "Zl", "Zp"})


def has_control_characters(text: str) -> bool:
    """Whether text holds characters that move the cursor, break a line or turn the reading direction."""
    return any(char in _BIDI_CONTROLS or unicodedata.category(char) in _CONTROL_CATEGORIES for char in text)


def check_relative_path(path: str) -> str:
    """Check a POSIX path relative to a workspace or to ``work_products/``.

    A path has one spelling only: what could be normalised (``a//b``, ``./a``, ``a/``) is refused, so
    that two keys never name one file. A backslash is an ordinary character, as it is on Linux.

    Args:
        path: components joined by ``/``; at most ``limits.PATH_CHARS`` characters and
            ``limits.ARTIFACT_DEPTH`` components.

    Returns:
        The same path.

    Raises:
        ValueError: the message names what is wrong with the path.
    """
    if not path:
        raise ValueError("the path is empty")
    if len(path) > limits.PATH_CHARS:
        raise ValueError(f"the path is longer than {limits.PATH_CHARS} characters")
    if "\0" in path:
        raise ValueError("the path holds a NUL character")
    if any("\ud800" <= char <= "\udfff" for char in path):
        raise ValueError("the path holds a lone surrogate: it is not valid Unicode text")
    if has_control_characters(path):
        raise ValueError("the path holds control characters")
    if path.startswith("/"):
        raise ValueError("the path is absolute; give it relative to the folder")
    if len(path.encode()) > PATH_BYTES:
        raise ValueError(f"the path is longer than {PATH_BYTES} bytes of UTF-8")
    _check_components(path.split("/"))
    return path


def check_workspace_files(names: Iterable[str]) -> None:
    """Check the paths of ``constraints.files`` together, each having passed :func:`check_relative_path`.

    Raises:
        ValueError: one is a file of the worker's own (however its case is written), or one would have to
            be a file and a folder at once. The message begins with the path.
    """
    wanted = set(names)
    for name in sorted(wanted):
        first, *rest = name.split("/")
        if first.casefold() in WORKSPACE_FILES or name == WORK_PRODUCTS:
            raise ValueError(f"{name!r} is made by the worker itself; choose another name")
        above = ["/".join([first, *rest[:depth]]) for depth in range(len(rest))]
        clash = next((parent for parent in above if parent in wanted), None)
        if clash is not None:
            raise ValueError(f"{name!r} needs {clash!r} to be a folder, but it is given as a file")


def check_output(output: str, files: Iterable[str]) -> str:
    """Check where below ``work_products/`` a mission wants a file to be made.

    Args:
        output: what :func:`check_relative_path` takes; without hidden parts, and nothing that is never collected.
        files: ``constraints.files``. One of the same path is the mission's own, and is replaced.

    Returns:
        The same path.

    Raises:
        ValueError: the file could not be made, or would not become an artifact.
    """
    check_relative_path(output)
    for part in output.split("/"):
        if part.startswith("."):
            raise ValueError("a part of it begins with a dot")
        if part in EXCLUDED_NAMES or part.endswith(EXCLUDED_SUFFIXES):
            raise ValueError(f"{part!r} is never collected as an artifact")
    check_workspace_files([*files, f"{WORK_PRODUCTS}/{output}"])
    return output


def _check_components(components: list[str]) -> None:
    if len(components) > limits.ARTIFACT_DEPTH:
        raise ValueError(f"the path is too deep: more than {limits.ARTIFACT_DEPTH} components")
    for component in components:
        if not component:
            raise ValueError('the path has an empty component ("//" or a "/" at its end)')
        if component in (".", ".."):
            raise ValueError(f'the path has a "{component}" component')
        if len(component.encode()) > NAME_BYTES:
            raise ValueError(f"a component of the path is longer than {NAME_BYTES} bytes of UTF-8")


def printable(path: bytes) -> str:
    """A file name for people and logs: what is not printable becomes a backslash escape; bounded."""
    # Four bytes are the longest character; a little more shows whether something was cut off.
    shown = "".join(_printable_char(char) for char in path[: 4 * SHOWN_CHARS + 4].decode(errors="surrogateescape"))
    return shown if len(shown) <= SHOWN_CHARS else shown[: SHOWN_CHARS - 1] + "…"


def _printable_char(char: str) -> str:
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    if char == "\\" or not char.isprintable():
        return char.encode("unicode_escape").decode()
    return char


def matches_any(paths: Iterable[str], pattern: str) -> bool:
    """Whether a glob matches one of some relative paths.

    Args:
        paths: components joined by ``/``.
        pattern: ``*``, ``?`` and ``[…]`` stay within one component, a component ``**`` stands for any
            number of folders. Case matters; names with a leading dot count like others.
    """
    wanted = [
        component if component == "**" else re.compile(fnmatch.translate(component)) for component in pattern.split("/")
    ]
    return any(_matches(path.split("/"), wanted) for path in paths)


def _matches(components: Sequence[str], pattern: Sequence[str | re.Pattern[str]]) -> bool:
    """Carry the set of positions the pattern can have reached: no pattern costs more than both lengths multiplied."""
    reached = {0}
    for wanted in pattern:
        if isinstance(wanted, str):
            reached = set(range(min(reached), len(components) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(components) and wanted.match(components[at])}
        if not reached:
            return False
    return len(components) in reached
