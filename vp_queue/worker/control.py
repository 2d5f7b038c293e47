"""What an executor holds while its attempt runs: it starts the program, gated, and stays with it to its end.

The program runs only once its process identity is committed (rule 9). While it runs, one loop listens to
the launcher, to the program's reports, and to whoever tells the attempt to stop; it ends the tree and does
not return before nothing of it is left.
"""

from __future__ import annotations

import logging
import os
import selectors
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Final

from vp_queue import clock
from vp_queue.config import Profile
from vp_queue.contracts import FailureCode, limits
from vp_queue.errors import LedgerBusy, LedgerUnavailable
from vp_queue.executors.base import ExecutorFailure, ProgramExit, ReportedFailure, Stopped
from vp_queue.ledger import database, leases
from vp_queue.worker import process, tree
from vp_queue.worker.account import Account
from vp_queue.worker.attempt import RunningAttempt, StopReason
from vp_queue.worker.budget import overspent
from vp_queue.worker.environment import program_environment, secrets_of
from vp_queue.worker.gate import FIRST_PASSED_FD
from vp_queue.worker.reports import Reported, ReportReader
from vp_queue.worker.workspace import Workspace

logger = logging.getLogger("vp_queue.worker")

OUTPUT_CHECK_SECONDS: Final = 1.0
LONGEST_SELECT_SECONDS: Final = 3600.0  # epoll takes no more than 24 days
LATER_PROGRESS_SECONDS: Final = 10.0  # once an attempt has had its share of progress events
KILL_AGAIN_SECONDS: Final = 1.0
# What no longer matters once the program has ended by itself.
WITHOUT_FORCE: Final = (StopReason.TIMEOUT, StopReason.INTERRUPTED, StopReason.UNREACHABLE)


class ProgramControl:
    """The control handle of one attempt (``executors.base.Control``)."""

    def __init__(
        self,
        running: RunningAttempt,
        profile: Profile,
        workspace: Workspace,
        cwd_fd: int,
        deadline: float,
        budget: Mapping[str, Any],
        used_before: Mapping[str, Any],
        account: Account | None = None,
    ) -> None:
        """
        Args:
            cwd_fd: the workspace or target directory, opened and checked.
            deadline: on :func:`vp_queue.clock.monotonic`; past it the attempt is stopped.
            budget: the mission's; what is reported beyond it stops the attempt.
            used_before: what the mission's earlier attempts used of it.
            account: as whom the program runs, if not as the worker.
        """
        self.reported = Reported()
        self.exit: process.Exit | None = None
        self.ended_by_itself = False
        self._running = running
        self._profile = profile
        self._workspace = workspace
        self._cwd_fd = cwd_fd
        self._deadline = deadline
        self._budget = budget
        self._used_before = used_before
        self._account = account
        self._progress_events = 0
        self._next_progress = 0.0
        self._heard: float | None = None

    def report(
        self, *, fraction: float | None = None, message: str | None = None, usage: Mapping[str, object] | None = None
    ) -> None:
        """Tell progress or usage; written to the ledger at a bounded rate."""
        self.reported.progress(fraction, message)
        self.reported.add_usage(usage)
        self._check_budget()
        self._write_progress()

    def run_program(
        self, argv: Sequence[str], environment: Mapping[str, str] | None = None, stdin: bytes | None = None
    ) -> ProgramExit:
        """Run one program to the proved end of its tree; see ``executors.base.Control``."""
        if self.exit is not None:
            raise RuntimeError("an attempt runs one program; start others from within it")
        self._stop_if_told()
        with _report_pipe() as (read_end, write_end):
            with self._launch(argv, environment or {}, write_end, stdin) as launched:
                self._open_gate(launched)
                self._stay(launched, ReportReader(read_end, self.reported))
                self.exit = self._prove_dead(launched)
        self._check_budget()
        self._write_progress(last=True)
        self._stop_if_told()
        if self.exit.output_limit:
            raise ExecutorFailure(
                FailureCode.OUTPUT_LIMIT, f"The program printed more than {limits.OUTPUT_BYTES} bytes and was ended."
            )
        if self.exit.launcher_lost:
            raise ExecutorFailure(
                FailureCode.EXECUTOR_ERROR, f"The program was ended, because {self.exit.error} while it ran."
            )
        told = self.reported.failure
        failure = ReportedFailure(*told) if told else None
        return ProgramExit(self.exit.code, self.exit.signal, self.exit.error, failure)

    @contextmanager
    def _launch(
        self, argv: Sequence[str], environment: Mapping[str, str], report_fd: int, stdin: bytes | None
    ) -> Iterator[process.LaunchedProgram]:
        claim = self._running.claim
        complete = program_environment(
            os.environ,
            self._profile.env_allow,
            mission_id=claim.mission_id,
            vp_id=claim.vp_id,
            attempt=claim.attempt,
            workspace=self._workspace,
            report_fd=FIRST_PASSED_FD,
            extra=environment,
            account=self._account,
        )
        self.reported.secrets = secrets_of(complete)
        stdin_fd = _in_memory(stdin) if stdin is not None else None
        program = process.Program(
            argv=tuple(argv),
            env=complete,
            cwd_fd=self._cwd_fd,
            log_path=self._workspace.log,
            marker=f"{claim.mission_id}.{claim.attempt}",
            pass_fds=(report_fd,),
            stdin_fd=stdin_fd,
            redact=self.reported.secrets,
            max_processes=self._profile.max_processes,
            account=self._account,
        )
        try:
            launched = process.launch(program)
        finally:
            os.close(report_fd)  # the program has its own; ours would keep the reports from ever ending
            if stdin_fd is not None:
                os.close(stdin_fd)
        try:
            yield launched
        except BaseException:
            launched.stop(0.0)
            self._prove_dead(launched)
            raise
        finally:
            launched.close()

    def _open_gate(self, launched: process.LaunchedProgram) -> None:
        # Not synced: after a power cut no process is left to be found by it.
        with database.write_transaction(synced=False) as tx:
            held = leases.spawned(tx, self._running.claim, asdict(launched.identity))
        if not held:
            self._running.stop(StopReason.LEASE_LOST)
            raise Stopped
        self._stop_if_told()
        launched.release()

    def _stay(self, launched: process.LaunchedProgram, reports: ReportReader) -> None:
        """Until launcher says that program and tree have ended: listen, forward progress, stop it when told."""
        stopping = hurried = False
        with selectors.DefaultSelector() as selector:
            selector.register(launched, selectors.EVENT_READ)
            selector.register(reports.descriptor, selectors.EVENT_READ, "reports")
            selector.register(self._running.wake_fd, selectors.EVENT_READ, "wake")
            while True:
                for key, _ in selector.select(self._patience(stopping)):
                    if key.data == "reports":
                        self._running.printed()
                        if not reports.read():
                            selector.unregister(reports.descriptor)
                    elif key.data == "wake":
                        selector.unregister(self._running.wake_fd)
                ended = launched.wait(0)
                self.ended_by_itself = launched.ended_by_itself
                if ended is not None:
                    reports.read()
                    return
                self._note_output(launched)
                self._check_budget()
                self._write_progress()
                if clock.monotonic() >= self._deadline and not self.ended_by_itself:
                    self._running.stop(StopReason.TIMEOUT)
                if self._running.stop_reason is not None and not stopping:
                    stopping = True
                    launched.stop(self._profile.cancel_grace_seconds)
                if self._running.at_once and not hurried:
                    hurried = True
                    launched.stop(0.0)

    def _patience(self, stopping: bool) -> float:
        if stopping or self.ended_by_itself:  # a deadline that passed means nothing any more
            return OUTPUT_CHECK_SECONDS
        wait = min(LONGEST_SELECT_SECONDS, max(0.0, self._deadline - clock.monotonic()))
        if self.reported.fresh:
            wait = min(wait, max(0.0, self._next_progress - clock.monotonic()))
        return wait

    def _note_output(self, launched: process.LaunchedProgram) -> None:
        heard = launched.last_output_monotonic
        if heard is not None and heard != self._heard:
            self._heard = heard
            self._running.printed()

    def _prove_dead(self, launched: process.LaunchedProgram) -> process.Exit:
        """Nothing may be written about the attempt's end while something of it could still run."""
        ended = launched.wait(None)
        assert ended is not None  # noqa: S101  without a time-out, wait returns an Exit
        while not ended.tree_dead and not tree.end_tree(launched.identity, 0.0):
            if self._running.lost:
                raise Stopped
            logger.error("something of %s cannot be killed; trying again", launched.identity)
            self._running.wait_a_moment(KILL_AGAIN_SECONDS)
        return ended

    def _check_budget(self) -> None:
        if self.overspent() is not None:
            self._running.stop(StopReason.BUDGET)

    def overspent(self) -> str | None:
        """Which limit of the mission's budget all its attempts together have passed, in words."""
        return overspent(self._budget, self._used_before, self.reported.usage)

    def stop_reason(self) -> StopReason | None:
        """Why the attempt ends, if it is we who end it.

        A program that had ended by itself in time is not timed out, interrupted or given up by what came while
        its leftovers were being ended: its work is done, and would be done again.
        """
        reason = self._running.stop_reason
        if self.ended_by_itself and reason in WITHOUT_FORCE:
            return None
        return reason

    def _stop_if_told(self) -> None:
        if self.stop_reason() is not None:
            raise Stopped

    def _write_progress(self, *, last: bool = False) -> None:
        """At most one progress event per interval and a bounded number per attempt; later news without events."""
        if not self.reported.fresh or not (last or clock.monotonic() >= self._next_progress):
            return
        as_event = self._progress_events < limits.PROGRESS_EVENTS_PER_ATTEMPT
        interval = limits.PROGRESS_INTERVAL_SECONDS if as_event else LATER_PROGRESS_SECONDS
        self._next_progress = clock.monotonic() + interval
        try:
            with database.write_transaction() as tx:
                leases.progress(tx, self._running.claim, self.reported.fraction, self.reported.message, event=as_event)
        except (LedgerBusy, LedgerUnavailable) as error:
            logger.warning("progress not written: %s", error)  # the next report tells more anyway
            return
        self.reported.fresh = False
        self._progress_events += 1


def _in_memory(data: bytes) -> int:
    """A descriptor to read this from: a file without a name, so that it may be of any size and nobody waits."""
    descriptor = os.memfd_create("stdin")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


@contextmanager
def _report_pipe() -> Iterator[tuple[int, int]]:
    """A pipe; the reading end is closed here, the writing end by whoever passed it on."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(write_end, True)
    try:
        yield read_end, write_end
    finally:
        os.close(read_end)
