"""One attempt, from wake-up to terminal state, as a pipeline:

    claim → workspace → execute under heartbeat → publish → finish

Every step that writes carries the claim, so a worker that lost its lease writes nothing. ``completed`` is
written only when artifacts and receipt are on disk and synced (rule 5) and the program's whole tree is
proved dead (rule 7).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from vp_queue import clock, tracing
from vp_queue.config import Profile, Settings
from vp_queue.contracts import FailureCode, Status, limits
from vp_queue.errors import LedgerBusy, LedgerUnavailable, TargetPathDenied, VpError
from vp_queue.executors import registry
from vp_queue.executors.base import Brief, ExecutorFailure, Stopped
from vp_queue.ledger import database, fleet, queries, transitions
from vp_queue.ledger.database import Transaction
from vp_queue.ledger.models import Mission
from vp_queue.ledger.records import Ending, Failure, WorkerIdentity
from vp_queue.queue import huey
from vp_queue.worker import artifacts, log
from vp_queue.worker.account import Account, obstacle
from vp_queue.worker.artifacts import Collection
from vp_queue.worker.attempt import RunningAttempt, StopReason, Wake
from vp_queue.worker.briefing import as_json, briefing
from vp_queue.worker.control import ProgramControl
from vp_queue.worker.redaction import redacted
from vp_queue.worker.reports import clean
from vp_queue.worker.target import open_target
from vp_queue.worker.workspace import Workspace, prepare, take_back, write_receipt

logger = logging.getLogger("vp_queue.worker")

FINISH_AGAIN_SECONDS: Final = 1.0
# Stops that are nobody's failure: the mission is queued again, uncharged, with these words in its event.
GIVEN_BACK: Final = {
    StopReason.INTERRUPTED: "the worker was stopped",
    StopReason.UNREACHABLE: "the ledger could not be reached",
}


@dataclass(frozen=True)
class Verdict:
    """How the execution went: a result, or a failure, or neither (it was stopped)."""

    result: str | None = None
    failure: Failure | None = None


class AttemptRunner:
    """Runs one attempt in the thread of a Huey worker."""

    def __init__(self, settings: Settings, profile: Profile, mission: Mission, running: RunningAttempt) -> None:
        self._settings = settings
        self._profile = profile
        self._mission = mission
        self._running = running
        self._claim = running.claim
        self._account: Account | None = None
        self._control: ProgramControl | None = None
        self._workspace: Workspace | None = None

    def run(self) -> None:
        """The pipeline. Returns when the attempt has ended in the ledger, or is no longer ours."""
        try:
            verdict = self._execute()
        except Stopped:
            verdict = Verdict()
            if self._stop_reason() is None:  # a plugin's invention: it must not pass for success
                verdict = self._failed(FailureCode.EXECUTOR_ERROR, "The executor stopped without having been told to.")
        except ExecutorFailure as failure:
            verdict = self._failed(failure.code, failure.message, failure.exit_code)
        except TargetPathDenied as denied:
            verdict = self._failed(FailureCode.TARGET_PATH_DENIED, denied.message)
        except (LedgerBusy, LedgerUnavailable) as trouble:
            # Before the gate opened: nothing ran. Give the attempt back rather than fail the mission.
            logger.error("%s.%s is released: %s", self._claim.mission_id, self._claim.attempt, trouble)
            self._running.stop(StopReason.UNREACHABLE)
            verdict = Verdict()
        except VpError as error:
            verdict = self._failed(FailureCode.EXECUTOR_ERROR, error.message)
        except (Exception, SystemExit) as error:  # a plugin that exits ends its attempt, not this worker's thread
            logger.exception("executor of %s failed", self._claim.mission_id)
            verdict = self._failed(FailureCode.EXECUTOR_ERROR, f"{type(error).__name__}: {error}")
        if self._running.lost:
            return
        try:
            self._finish(verdict)
        except Exception as error:
            # Whatever it is, the work is over: say so, rather than let the lease run out and do it again.
            logger.exception("finishing %s failed", self._claim.mission_id)
            self._write_failure(f"The attempt ended, but finishing it failed: {type(error).__name__}: {error}")

    def _execute(self) -> Verdict:
        self._account = self._whom_to_run_as()
        with tracing.phase("vp.prepare"):
            workspace = self._prepare()
            cwd_fd = self._open_working_directory(workspace)
        try:
            deadline = clock.monotonic() + self._time_limit_seconds()
            self._control = ProgramControl(
                self._running,
                self._profile,
                workspace,
                cwd_fd,
                deadline,
                self._mission.budget,
                self._mission.usage or {},
                self._account,
            )
            # Whatever the VP's executor, a mission's own command is run by the command executor.
            name = "command" if self._mission.mission_type == "command" else self._profile.executor
            with tracing.phase("vp.execute", usual=Stopped):
                result = registry.executor(name).run(self._brief(workspace), self._control)
        finally:
            os.close(cwd_fd)
        if result is None:
            result = self._control.reported.result
        return Verdict(result=clean(self._safe(result), limits.RESULT_CHARS) if result is not None else None)

    def _whom_to_run_as(self) -> Account | None:
        if self._profile.run_as is None:
            return None
        problem = obstacle(self._profile, self._settings)
        if problem is not None:
            raise ExecutorFailure(FailureCode.EXECUTOR_UNAVAILABLE, f"The program cannot be run: {problem}.")
        return Account.named(self._profile.run_as)

    def _prepare(self) -> Workspace:
        claim = self._claim
        self._workspace = prepare(
            self._settings.workspaces_root,
            claim.vp_id,
            claim.mission_id,
            claim.attempt,
            briefing=briefing(self._mission),
            mission=as_json(self._mission),
            files=self._mission.constraints.get("files", {}),
            account=self._account,
        )
        return self._workspace

    def _open_working_directory(self, workspace: Workspace) -> int:
        target = self._mission.constraints.get("target_path")
        if target is None:
            return os.open(workspace.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        return open_target(
            target,
            self._profile.allowed_target_roots,
            (self._settings.home, self._settings.workspaces_root),
            expected=self._mission.target_realpath,
        )

    def _time_limit_seconds(self) -> float:
        asked: float = self._mission.budget.get("max_duration_seconds") or self._profile.default_timeout_seconds
        return min(asked, self._profile.max_timeout_seconds)

    def _brief(self, workspace: Workspace) -> Brief:
        target = self._mission.target_realpath
        return Brief(
            mission_id=self._mission.id,
            vp_id=self._mission.vp_id,
            attempt=self._claim.attempt,
            mission_type=self._mission.mission_type,
            objective=self._mission.objective,
            constraints=self._mission.constraints,
            budget=self._mission.budget,
            workspace=workspace.path,
            work_products=workspace.work_products,
            mission_file=workspace.mission_file,
            target_path=Path(target) if target else None,
            options=self._profile.options,
            metadata=self._mission.metadata,
            guidance=self._mission.guidance,
        )

    def _safe(self, text: str) -> str:
        return redacted(text, self._control.reported.secrets) if self._control else text

    def _failed(self, code: FailureCode, message: str, exit_code: int | None = None) -> Verdict:
        if self._process_limit_reached():
            message += (
                f" It was refused processes: it had max_processes of its profile ({self._profile.max_processes})."
            )
        message = clean(self._safe(message), limits.FAILURE_MESSAGE_CHARS)
        return Verdict(failure=Failure(code, message, exit_code, self._log_tail()))

    def _process_limit_reached(self) -> bool:
        return self._control is not None and self._control.exit is not None and self._control.exit.process_limit

    def _log_tail(self) -> str | None:
        if self._control is None or self._control.exit is None or self._workspace is None:
            return None
        return (
            clean(self._safe(log.tail_text(self._workspace.path, limits.LOG_TAIL_BYTES)), limits.LOG_TAIL_BYTES) or None
        )

    def _finish(self, verdict: Verdict) -> None:
        """Publish what there is and write the end, however long the ledger makes us wait, while the lease holds."""
        # Read once: a stop that comes later must not make evidence, receipt and transition disagree.
        reason = self._stop_reason()
        verdict = self._stopped_for(reason, verdict)
        collection = Collection((), (), 0)
        self._close_workspace()
        if self._workspace is not None and reason not in GIVEN_BACK:
            with tracing.phase("vp.publish"):
                collection, verdict = self._collect(self._workspace, verdict, reason)
        ending = self._ending(verdict, collection)
        problem = self._write_receipt(_outcome(verdict, reason), verdict, ending)
        if problem is not None and verdict.failure is None:
            # Whoever sees "completed" can read the result; without a receipt on disk it is not completed.
            verdict = self._failed(FailureCode.EXECUTOR_ERROR, f"The receipt could not be written: {problem}")
        with tracing.phase("vp.finish"):
            landed = self._write_end(lambda tx: self._transition(tx, verdict, ending, reason))
        if landed is not None and landed.status == Status.CANCELLED and reason != StopReason.CANCELLED:
            self._write_receipt("cancelled", verdict, ending)  # the request came after the receipt was written

    def _close_workspace(self) -> None:
        """From now on it is out of reach of other programs of the user it was shared with."""
        if self._workspace is not None and self._account is not None:
            try:
                take_back(self._workspace.path)
            except OSError as error:
                logger.warning("%s stays open to %s: %s", self._workspace.path, self._account.name, error)

    def _stop_reason(self) -> StopReason | None:
        return self._control.stop_reason() if self._control else self._running.stop_reason

    def _stopped_for(self, reason: StopReason | None, verdict: Verdict) -> Verdict:
        if reason == StopReason.TIMEOUT:
            limit = self._time_limit_seconds()
            return self._failed(FailureCode.TIMEOUT, f"The time limit of {limit:g} s was reached.")
        if reason == StopReason.BUDGET and self._control is not None:
            return self._failed(FailureCode.BUDGET_EXHAUSTED, f"The budget is used up: {self._control.overspent()}.")
        return verdict

    def _collect(self, workspace: Workspace, verdict: Verdict, reason: StopReason | None) -> tuple[Collection, Verdict]:
        try:
            owner_uid = self._account.uid if self._account else None
            collection = artifacts.collect(workspace.work_products, owner_uid=owner_uid)
        except OSError as error:
            message = f"The artifacts could not be read or synced: {error.strerror}"
            return Collection((), (), 0), self._failed(FailureCode.EXECUTOR_ERROR, message)
        if verdict.failure is not None or reason is not None:
            return collection, verdict
        return collection, self._with_evidence(verdict, collection)

    def _with_evidence(self, verdict: Verdict, collection: Collection) -> Verdict:
        missing = artifacts.missing_required(collection, self._mission.constraints.get("require_artifacts", ()))
        if not missing:
            return verdict
        message = f"Required artifacts are missing in work_products/: {', '.join(missing)}"
        return self._failed(FailureCode.EVIDENCE_MISSING, message)

    def _ending(self, verdict: Verdict, collection: Collection) -> Ending:
        ended = self._control.exit if self._control else None
        return Ending(
            exit_code=ended.code if ended else None,
            signal=ended.signal if ended else None,
            max_rss_bytes=ended.max_rss_bytes if ended else None,
            cpu_seconds=ended.cpu_seconds if ended else None,
            result=verdict.result if verdict.result is not None else self._last_words(),
            usage=dict(self._control.reported.usage) or None if self._control else None,
            artifacts=[asdict(artifact) for artifact in collection.artifacts],
            skipped=[asdict(skipped) for skipped in collection.skipped],
            skipped_total=collection.skipped_total,
        )

    def _last_words(self) -> str | None:
        """What a program that then failed or was stopped had reported as its result."""
        return self._control.reported.result if self._control else None

    def _write_receipt(self, outcome: str, verdict: Verdict, ending: Ending) -> str | None:
        """Write mission_receipt.json; returns what kept it from being written, if anything."""
        if self._workspace is None:
            return None
        receipt: dict[str, Any] = {
            "mission_id": self._claim.mission_id,
            "attempt": self._claim.attempt,
            "vp_id": self._claim.vp_id,
            "outcome": outcome,
            "failure": asdict(verdict.failure) if verdict.failure else None,
            "process_limit_reached": self._process_limit_reached(),
            "written_at": clock.as_text(clock.now()),
            **asdict(ending),
        }
        try:
            write_receipt(self._workspace, receipt)
        except (VpError, OSError) as error:
            logger.exception("no receipt for %s", self._claim.mission_id)
            return str(error)
        return None

    def _transition(
        self, tx: Transaction, verdict: Verdict, ending: Ending, reason: StopReason | None
    ) -> Mission | None:
        backoff_seconds = self._profile.retry_backoff_seconds
        if reason == StopReason.CANCELLED:
            return transitions.cancelled(tx, self._claim, ending)
        if reason in GIVEN_BACK:
            released = transitions.release(
                tx,
                self._claim,
                ending,
                max_releases=self._profile.max_releases,
                backoff_seconds=backoff_seconds,
                reason=GIVEN_BACK[reason],
            )
            if released is not None and released.status == Status.QUEUED and released.due_at <= tx.now:
                huey.enqueue(tx, released)
            return released
        if verdict.failure is not None:
            return transitions.fail(tx, self._claim, verdict.failure, ending, backoff_seconds=backoff_seconds)
        return transitions.complete(tx, self._claim, ending)

    def _write_failure(self, message: str) -> None:
        failure = self._failed(FailureCode.EXECUTOR_ERROR, message).failure
        assert failure is not None  # noqa: S101  _failed makes one
        backoff_seconds = self._profile.retry_backoff_seconds
        self._write_end(
            lambda tx: transitions.fail(tx, self._claim, failure, Ending(), backoff_seconds=backoff_seconds)
        )

    def _write_end(self, transition: Callable[[Transaction], Mission | None]) -> Mission | None:
        while not self._running.lost:
            try:
                with database.write_transaction() as tx:
                    landed = transition(tx)
            except (LedgerBusy, LedgerUnavailable) as error:
                logger.warning("end of %s not written yet: %s", self._claim.mission_id, error)
                self._running.wait_a_moment(FINISH_AGAIN_SECONDS)
                continue
            if landed is None:
                logger.error("%s.%s ended, but is no longer ours", self._claim.mission_id, self._claim.attempt)
            else:
                logger.info("%s.%s ended: %s", self._claim.mission_id, self._claim.attempt, landed.status)
            return landed
        return None


def _outcome(verdict: Verdict, reason: StopReason | None) -> str:
    """The receipt's word for how the attempt ended."""
    if verdict.failure is not None:
        return "failed"
    if reason == StopReason.CANCELLED:
        return "cancelled"
    return "released" if reason in GIVEN_BACK else "completed"


def claim(
    mission_id: str, attempt: int, worker: WorkerIdentity, lease_seconds: float, workspace: Path | None = None
) -> tuple[Mission, RunningAttempt] | None:
    """Claim the attempt a wake-up named, or None if that wake-up is stale, a duplicate or cancelled.

    None as well if its VP was paused after the wake-up was taken: then it is put back.

    Args:
        workspace: where the attempt will work, for the ledger to know before anything is there.
    """
    wake = Wake()  # first: once the claim is committed nothing may fail, or the mission would run under nobody
    try:
        with database.write_transaction() as tx:
            claimed = transitions.claim(
                tx, mission_id, attempt, worker, lease_seconds, str(workspace) if workspace else None
            )
            if claimed is None and transitions.expected_attempt(mission_id) == attempt:
                mission = queries.mission_row(mission_id)
                if fleet.on_hold(mission.vp_id):
                    huey.enqueue(tx, mission)
    except BaseException:
        wake.close()
        raise
    if claimed is None:
        wake.close()
        logger.info("wake-up %s.%s is stale; nothing to do", mission_id, attempt)
        return None
    mission, right = claimed
    return mission, RunningAttempt(right, wake)
