"""``--help`` of every command: it fits, and its examples are lines that the command really takes."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import pytest

from tests.unit.cli.driver import commands
from vp_queue.cli.main import vp

ALL = dict(commands())


def examples(command: click.Command) -> list[str]:
    """The lines below ``Example:``."""
    assert command.help is not None
    blocks = [block for block in command.help.split("\n\n") if block.lstrip("\b\n ").startswith("Example")]
    assert len(blocks) == 1, command.help
    return [line.strip() for line in blocks[0].strip("\b\n ").splitlines()[1:]]


def words_after_vp(line: str) -> list[str]:
    """The arguments of the ``vp`` in a line of shell, without variables before it and redirections behind."""
    line = line.removeprefix('eval "$(').removesuffix(')"')
    words = shlex.split(line)
    words = words[words.index("vp") + 1 :]
    return words[: next((at for at, word in enumerate(words) if word in ("<", ">", ">>")), len(words))]


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_the_examples_are_taken_by_the_command(
    path: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("tests.json", "task.md"):
        (tmp_path / name).write_text("{}")
    lines = examples(ALL[path])
    assert lines
    for line in lines:
        words = words_after_vp(line)
        assert tuple(words[: len(path)]) == path
        context, command = click.Context(vp), ALL[path]
        for depth in range(1, len(path)):
            context = click.Context(ALL[path[:depth]], parent=context)
        if isinstance(command, click.Group):
            name, command, _ = command.resolve_command(context, words[len(path) :])
            assert name is not None
        else:
            command.make_context(path[-1], words[len(path) :], parent=context)  # UsageError if not


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_takes_json_and_its_help_fits_80_columns(path: tuple[str, ...]) -> None:
    command = ALL[path]
    if not isinstance(command, click.Group):
        assert "as_json" in {parameter.name for parameter in command.params}
    text = command.get_help(click.Context(command, info_name=" ".join(("vp", *path)), terminal_width=80))
    assert [line for line in text.splitlines() if len(line) > 80] == []
    for parameter in command.params:
        assert isinstance(parameter, click.Argument) or getattr(parameter, "help", None), parameter.name


def test_an_example_that_the_command_does_not_take_is_found() -> None:
    with pytest.raises(click.UsageError):
        ALL["list",].make_context("list", words_after_vp("vp list --stauts queued"))
