"""Tells an event to a program: the CloudEvent on its standard input, exit status 0 = told.

It is started as a mission's program is (:mod:`vp_queue.worker.process`), so that its whole tree is ended at the time
limit, when it exits, and when the keeper dies in whatever way; nothing that it started outlives it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from vp_queue import clock
from vp_queue.config_notify import Notify
from vp_queue.errors import InternalError
from vp_queue.keeper.notice import Notice
from vp_queue.keeper.outcomes import Again, Given, Outcome, Refused, shown
from vp_queue.worker import log, process
from vp_queue.worker.environment import secrets_of
from vp_queue.worker.process import Exit, LaunchedProgram, Program

GRACE_SECONDS: Final = 1.0
SLICE_SECONDS: Final = 0.2
TAIL_BYTES: Final = 2_000
OUTPUT_KEPT_BYTES: Final = 16 * 1024  # of its beginning, and of its end
OUTPUT_BYTES: Final = 16 * 1024 * 1024  # more ends it


def run(
    notify: Notify, notice: Notice, environ: Mapping[str, str], folder: Path, stopping: Callable[[], bool]
) -> Outcome:
    """Run the command once.

    Args:
        notify: what to run, and for how long.
        notice: what it is told.
        environ: of which it sees what ``env_allow`` names.
        folder: where it starts, with its log; made, and removed with all that is in it.
        stopping: True ends it early.
    """
    try:
        with _folder(folder):
            return _run(notify, notice, environ, folder, stopping)
    except (OSError, ValueError, InternalError) as error:
        return Again(f"not started: {shown(str(error))}")


@contextlib.contextmanager
def _folder(folder: Path) -> Iterator[None]:
    shutil.rmtree(folder, ignore_errors=True)  # a keeper that was killed left it
    folder.mkdir(mode=0o700, parents=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(
    notify: Notify, notice: Notice, environ: Mapping[str, str], folder: Path, stopping: Callable[[], bool]
) -> Outcome:
    marker = f"notify-{clock.new_token()}"
    environment = command_environment(notify, notice, marker, environ)
    cwd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with tempfile.TemporaryFile(dir=folder) as event:
            event.write(notice.body)
            event.seek(0)
            launched = process.launch(
                Program(
                    argv=notify.command,
                    env=environment,
                    cwd_fd=cwd,
                    log_path=folder / log.NAME,
                    marker=f"{marker}.1",
                    stdin_fd=event.fileno(),
                    output_limit_bytes=OUTPUT_BYTES,
                    log_head_bytes=OUTPUT_KEPT_BYTES,
                    log_tail_bytes=OUTPUT_KEPT_BYTES,
                    redact=secrets_of(environment),
                )
            )
    finally:
        os.close(cwd)
    with contextlib.closing(launched):
        launched.release()
        ended, in_time = _wait(launched, notify.command_timeout_seconds, stopping)
    return _judged(ended, in_time, notify, log.tail_text(folder, TAIL_BYTES))


def command_environment(notify: Notify, notice: Notice, marker: str, environ: Mapping[str, str]) -> dict[str, str]:
    """What the command sees.

    ``VP_MISSION_ID`` is not the mission's: by that variable a mission's own programs are known, and ended.
    """
    allowed = {name: environ[name] for name in notify.env_allow if name in environ}
    mission = {} if notice.mission_id is None else {"VP_EVENT_MISSION_ID": notice.mission_id}
    return allowed | {
        "VP_EVENT_ID": notice.id,
        "VP_EVENT_TYPE": notice.type,
        "VP_EVENT_VP_ID": notice.vp_id,
        **mission,
        "VP_MISSION_ID": marker,
        "VP_ATTEMPT": "1",
    }


def _wait(launched: LaunchedProgram, timeout_seconds: float, stopping: Callable[[], bool]) -> tuple[Exit, bool]:
    """How it ended, and whether by itself."""
    deadline = clock.monotonic() + timeout_seconds
    while clock.monotonic() < deadline and not stopping():
        ended = launched.wait(SLICE_SECONDS)
        if ended is not None:
            return ended, True
    launched.stop(GRACE_SECONDS)
    ended = launched.wait(None)  # bounded: stop has set when to give up
    assert ended is not None  # noqa: S101  a wait without a limit has an answer
    return ended, False


def _judged(ended: Exit, in_time: bool, notify: Notify, tail: str) -> Outcome:
    said = f": {shown(tail)}" if tail.strip() else ""
    left = "" if ended.tree_dead else "; something of it cannot be killed"
    if not in_time:
        return Again(f"ended after {notify.command_timeout_seconds:g} s (command_timeout_seconds){left}{said}")
    if ended.error is not None:
        return Again(f"not started: {shown(ended.error)}")
    if ended.output_limit:
        return Refused(f"ended: it printed more than {OUTPUT_BYTES} bytes{left}")
    if ended.signal is not None:
        return Again(f"it was ended by signal {ended.signal}{left}{said}")
    if ended.code != 0:
        return Again(f"exit status {ended.code}{left}{said}")
    return Given()
