"""The interface of an executor: what it is given, what it may ask for, what it answers.

A plugin is a class with the two methods of :class:`Executor`, registered under the entry point group
``vp_queue.executors``. It is made once per consumer, without arguments, and used from several threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vp_queue.contracts import FailureCode


@dataclass(frozen=True)
class Brief:
    """What an executor knows of the attempt it is to run. Paths are on this host."""

    mission_id: str
    vp_id: str
    attempt: int
    mission_type: str
    objective: str
    constraints: Mapping[str, Any]
    budget: Mapping[str, Any]
    workspace: Path
    work_products: Path
    mission_file: Path
    target_path: Path | None
    options: Mapping[str, Any]
    metadata: Mapping[str, str] = field(default_factory=dict)
    guidance: str | None = None


@dataclass(frozen=True)
class ReportedFailure:
    """Why a program says it failed; it counts only if the program then exits with another status than 0."""

    code: FailureCode
    message: str


@dataclass(frozen=True)
class ProgramExit:
    """How a program ended; everything it left running is dead by then, proved."""

    code: int | None
    signal: int | None
    error: str | None  # why it never started
    failure: ReportedFailure | None = None

    def check(self, name: str) -> None:
        """Return if the program succeeded: exit status 0.

        Args:
            name: what to call the program in a message.

        Raises:
            ExecutorFailure: it did not; with its own reason if it reported one.
        """
        if self.error is not None:
            raise ExecutorFailure(FailureCode.EXECUTOR_ERROR, f"The program could not be started: {self.error}")
        if self.code == 0:
            return
        if self.failure is not None:
            raise ExecutorFailure(self.failure.code, self.failure.message, self.code)
        if self.signal is not None:
            raise ExecutorFailure(FailureCode.EXIT_NONZERO, f"{name} was ended by signal {self.signal}.")
        raise ExecutorFailure(FailureCode.EXIT_NONZERO, f"{name} exited with status {self.code}.", self.code)


class Control(Protocol):
    """What an executor may do while its attempt runs."""

    def run_program(
        self, argv: Sequence[str], environment: Mapping[str, str] | None = None, stdin: bytes | None = None
    ) -> ProgramExit:
        """Run a program in the workspace (or target path) and wait for its end.

        It starts only once the ledger knows its pid, gets the profile's allow-listed environment plus
        ``environment``, prints to run.log, and is ended when the mission is cancelled, out of time, or
        no longer this worker's.

        Args:
            argv: readable by every user of the machine, so nothing of the mission or the options belongs there.
            environment: readable by the program's user only.
            stdin: what the program reads from its standard input, otherwise empty; readable by its user only.

        Raises:
            Stopped: the attempt is being ended; let it pass through.
        """

    def report(
        self, *, fraction: float | None = None, message: str | None = None, usage: Mapping[str, Any] | None = None
    ) -> None:
        """Tell progress (fraction 0 to 1, a short message) or usage so far."""


class Stopped(Exception):
    """The attempt is being ended: cancelled, out of time, interrupted, or its lease is lost."""


class ExecutorFailure(Exception):
    """The attempt failed for a reason the executor knows."""

    def __init__(self, code: FailureCode, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.exit_code = code, message, exit_code


@dataclass(frozen=True)
class Availability:
    """Whether an executor can run here; ``reason`` says what to do if not."""

    ok: bool
    reason: str | None = None


class UnfitMission(Exception):
    """A mission that an executor could never carry out, as its request already shows.

    Attributes:
        field: of the request, such as ``metadata.output``.
        message: what is wrong with it.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field, self.message = field, message


class Executor(Protocol):
    """Runs attempts of one kind.

    It may have a third method, ``check(metadata, constraints)``, which raises :class:`UnfitMission`. It is asked at
    dispatch: what cannot work is refused there, before anything is spent on it.
    """

    def availability(self, options: Mapping[str, Any]) -> Availability:
        """Whether a profile with these options can run here now. Quick; no network."""

    def run(self, brief: Brief, control: Control) -> str | None:
        """Do the work; return a short result for the orchestrator, or None if reports told it.

        Raises:
            ExecutorFailure: it failed, with the failure code to record.
            Stopped: passed through from ``control``.
        """
