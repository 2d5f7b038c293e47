"""Text from missions reaches a terminal only as text; error codes become exit codes."""

from __future__ import annotations

import json
import time

import pytest

from vp_queue import errors
from vp_queue.cli import output, tables


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bP1$r\x1b\\after", "after"),
        ("\x1b_one\x1b\\ and \x1b^another\x1b\\.", " and ."),
        ("\x1bPtmux;\x1b\x1b]0;title\x07\x1b\\after", "tmux;after"),
        ("\x9b2Jcleared", "cleared"),
        ("a\x08\x08b\x00c\x7f", "abc"),
        ("user\u202egnp.exe\u2066x\u2069", "usergnp.exex"),
        ("50%\r100%\r\n", "50%\n100%\n"),
        ("tab\tand\nline", "tab\tand\nline"),
        ("\ud800lone", "lone"),
        ("half an escape \x1b", "half an escape "),
        ("[bold]not markup[/bold] :smile:", "[bold]not markup[/bold] :smile:"),
        ("naïve 日本語 👩‍💻", "naïve 日本語 👩‍💻"),
    ],
)
def test_clean_leaves_text_only(hostile: str, shown: str) -> None:
    assert output.clean(hostile) == shown


def test_a_log_of_openings_alone_is_cleaned_in_no_time() -> None:
    # Each was looked for its end through all that follows: half a minute for 40 KB, with the interpreter's lock held.
    for opening in ("\x1bP", "\x1b_x", "\x1b]", "\x1b[0", "\x9b"):
        began = time.process_time()
        assert "\x1b" not in output.clean(opening * 100_000)
        assert time.process_time() - began < 5, opening


def test_a_line_is_one_line_and_bounded() -> None:
    assert output.line("a\nb\x1b[2J  c") == "a b c"
    assert output.line("x" * 300, 10) == "x" * 9 + "…"
    assert output.line("日本語の文章", 12) == "日本語の文章"
    assert output.line("日本語の文章", 8) == "日本語…"
    assert output.line("日本語の文章", 9) == "日本語の…"


def test_tables_print_markup_as_text_at_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    tables.table(("id", "status", "objective"), [("m-1", "failed", "[red]x[/red] \x1b[2J" + "y" * 200)])
    printed = capsys.readouterr().out
    assert "[red]x[/red]" in printed
    assert "\x1b" not in printed
    assert all(len(line) <= 80 for line in printed.splitlines())


def test_json_has_no_character_that_could_hide_something(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"text": "\u202e\x1b[2J ü"})
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert "\x1b" not in printed
    assert json.loads(printed)["text"] == "\u202e\x1b[2J ü"


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("validation_error", 2),
        ("unknown_vp", 3),
        ("mission_not_found", 3),
        ("artifact_not_found", 3),
        ("question_not_found", 3),
        ("vp_disabled", 4),
        ("target_path_denied", 4),
        ("executor_unavailable", 4),
        ("limit_exceeded", 4),
        ("idempotency_conflict", 4),
        ("not_retryable_state", 4),
        ("unauthorized", 4),
        ("configuration_error", 2),
        ("ledger_busy", 75),
        ("ledger_unavailable", 75),
        ("internal_error", 70),
        ("a code of the future", 70),
    ],
)
def test_exit_codes_are_those_of_the_contract(code: str, exit_code: int) -> None:
    assert output.exit_code(code) == exit_code


def test_every_error_class_with_a_code_of_its_own_is_found() -> None:
    kinds = [errors.VpError]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if "code" in vars(kind):
            assert output.exit_code(kind.code) == kind.exit_code


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (-1, "0.0s"), (3.21, "3.2s"), (59.9, "59s"), (250, "4m10s"), (7500, "2h05m"), (273_600, "3d04h")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert output.duration(seconds) == text
