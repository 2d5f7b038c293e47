"""Text for people: what is shown of it, and what never is."""

from __future__ import annotations

import sys
import unicodedata

from vp_queue import wording


def test_of_every_character_only_what_plays_tricks_is_left_out() -> None:
    hidden = {"Cc", "Cs", "Zl", "Zp"}
    for number in range(sys.maxunicode + 1):
        character = chr(number)
        tricky = unicodedata.category(character) in hidden or character in wording._BIDI
        # Alone, and beside a line break, which takes the longer way through.
        expected = character if character in "\n\t" or not tricky else "\n" if character == "\r" else ""
        assert wording.clean(character) == expected, hex(number)
        if character != "\n":
            assert wording.clean(f"a\n{character}") == f"a\n{expected}", hex(number)


def test_escape_sequences_go_whole() -> None:
    assert wording.clean("\x1b[31mred\x1b[0m \x1b]8;;http://x\x07link\x1b]8;;\x07") == "red link"
