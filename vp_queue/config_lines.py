"""Where each key of a TOML text stands, so that an error can name its line.

``tomllib`` says the line of a syntax error but not of a value. This scanner walks the same grammar
only as far as finding keys needs: it neither checks nor converts values, and where the text is not
TOML it stops and leaves the complaint to ``tomllib``. It runs *before* ``tomllib`` because it also
refuses what is TOML but hostile: nesting that would exhaust the interpreter's stack, keys of
thousands of parts (quadratic in ``tomllib``), and numbers too long to convert.
"""

from __future__ import annotations

import bisect
import contextlib
import re
import tomllib
from typing import Final

DEPTH_LIMIT: Final = 32  # parts of a key path, array positions counted
BARE_VALUE_CHARS: Final = 200  # a number or a date; strings may be longer
ELEMENTS_RECORDED: Final = 1_000  # of one array; the others answer with the array's own line

KeyPath = tuple[str | int, ...]

# Possessive quantifiers (`*+`): what was read is never given back, so no text makes a match slow.
_BLANK = re.compile(r"(?:[ \t\n]++|#[^\n]*+)*+")
_SPACE = re.compile(r"[ \t]*+")
_REST_OF_LINE = re.compile(r"[^\n]*+")
_KEY_PART = re.compile(r'"(?:[^"\\\n]|\\.)*+"|' r"'[^'\n]*+'|[A-Za-z0-9_-]++")
_STRING = re.compile(
    r'"""(?:[^"\\]|\\[\s\S]|"(?!""))*+""""{0,2}'
    r"|'''(?:[^']|'(?!''))*+''''{0,2}"
    r'|"(?:[^"\\\n]|\\.)*+"'
    r"|'[^'\n]*+'"
)
_BARE_VALUE = re.compile(r"""[^,\[\]{}#\n"']++""")


class HostileToml(ValueError):
    """The text is beyond a limit; ``line`` says where."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


class _NotToml(Exception):
    """The text leaves the grammar here; ``tomllib`` will say so better."""


class KeyLines:
    """The line (from 1) of every key path in a TOML text.

    A path is a tuple of keys and array positions: ``("vp", "vp.coder.primary", "env_allow", 1)``.
    """

    def __init__(self, text: str) -> None:
        """
        Args:
            text: TOML, or what claims to be; newlines as ``\\n``.

        Raises:
            HostileToml: nesting, a key or a number is beyond the limits.
        """
        self._text = text
        self._at = 0
        self._newlines = [match.start() for match in re.finditer("\n", text)]
        self._lines: dict[KeyPath, int] = {}
        self._table_arrays: dict[KeyPath, int] = {}
        with contextlib.suppress(_NotToml):
            self._scan()

    def line_of(self, path: KeyPath) -> int | None:
        """The line of a path, or of the nearest table around it, or None if the text names neither."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._lines:
                return self._lines[path[:length]]
        return None

    def _scan(self) -> None:
        table: KeyPath = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BLANK)

    def _header(self) -> KeyPath:
        start = self._at
        is_array = self._text.startswith("[[", start)
        self._at += 2 if is_array else 1
        path = self._inside_table_arrays(self._key())
        if is_array:
            self._table_arrays[path] = self._table_arrays.get(path, -1) + 1
            path = (*path, self._table_arrays[path])
        for length in range(1, len(path) + 1):
            self._record(path[:length], start)
        self._skip(_REST_OF_LINE)
        return path

    def _inside_table_arrays(self, key: tuple[str, ...]) -> KeyPath:
        """``[a.b]`` after ``[[a]]`` means the last element of ``a``."""
        path: KeyPath = ()
        for part in key[:-1]:
            path = (*path, part)
            if path in self._table_arrays:
                path = (*path, self._table_arrays[path])
        return (*path, key[-1])

    def _pair(self, table: KeyPath) -> None:
        start = self._at
        key = self._key()
        for length in range(1, len(key) + 1):
            self._record((*table, *key[:length]), start)
        self._expect("=")
        self._value((*table, *key))

    def _key(self) -> tuple[str, ...]:
        start = self._at
        parts: list[str] = []
        while True:
            self._skip(_SPACE)
            parts.append(_unquoted(self._take(_KEY_PART)))
            self._skip(_SPACE)
            if len(parts) > DEPTH_LIMIT:
                raise HostileToml(f"a key has more than {DEPTH_LIMIT} parts", self._line_at(start))
            if not self._text.startswith(".", self._at):
                return tuple(parts)
            self._at += 1

    def _value(self, path: KeyPath) -> None:
        if len(path) > DEPTH_LIMIT:
            raise HostileToml(f"tables and arrays are nested deeper than {DEPTH_LIMIT}", self._line_at(self._at))
        self._skip(_SPACE)
        first = self._text[self._at : self._at + 1]
        if first == "[":
            self._array(path)
        elif first == "{":
            self._inline_table(path)
        elif first in ('"', "'"):
            self._take(_STRING)
        else:
            start = self._at
            if len(self._take(_BARE_VALUE).rstrip()) > BARE_VALUE_CHARS:
                raise HostileToml(f"a number has more than {BARE_VALUE_CHARS} digits", self._line_at(start))

    def _array(self, path: KeyPath) -> None:
        self._at += 1
        position = 0
        while not self._closed("]"):
            if position < ELEMENTS_RECORDED:
                self._record((*path, position), self._at)
            self._value((*path, position))
            position += 1
            if self._closed("]"):
                return
            self._expect(",")

    def _inline_table(self, path: KeyPath) -> None:
        self._at += 1
        while not self._closed("}"):
            self._pair(path)
            if self._closed("}"):
                return
            self._expect(",")

    def _closed(self, bracket: str) -> bool:
        self._skip(_BLANK)
        if not self._text.startswith(bracket, self._at):
            return False
        self._at += 1
        return True

    def _expect(self, char: str) -> None:
        if not self._text.startswith(char, self._at):
            raise _NotToml
        self._at += 1

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise _NotToml
        self._at = match.end()
        return match.group()

    def _record(self, path: KeyPath, start: int) -> None:
        # The first line that speaks of a path wins: `[a.b]` may stand before `[a]`.
        self._lines.setdefault(path, self._line_at(start))

    def _line_at(self, position: int) -> int:
        return bisect.bisect_left(self._newlines, position) + 1


def _unquoted(part: str) -> str:
    if part[0] not in "\"'":
        return part
    try:
        return str(tomllib.loads(f"key = {part}")["key"])
    except tomllib.TOMLDecodeError:
        raise _NotToml from None
