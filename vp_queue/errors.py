"""One exception per error code the outside can see.

A docstring is the default message; the class carries the code, whether trying again can help, the
HTTP status and the CLI's exit code, so that every face answers alike. ``tools`` turns them into
``{"ok": false, "error": {...}}``.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar


class VpError(Exception):
    """Something went wrong inside vp-queue."""

    code: ClassVar[str]  # each concrete class has its own
    retryable: ClassVar[bool] = False
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 70

    def __init__(self, message: str | None = None, *, retry_after_seconds: float | None = None, **details: Any) -> None:
        """
        Args:
            message: what happened and what to do next; the class's docstring if omitted.
            retry_after_seconds: for retryable errors, when trying again makes sense.
            details: JSON-able facts; ``field`` names the argument at fault.
        """
        self.message = message or inspect.cleandoc(self.__doc__ or "")
        self.retry_after_seconds = retry_after_seconds
        self.details = details
        super().__init__(self.message)

    def as_dict(self) -> dict[str, Any]:
        """The error object of the contract."""
        body: dict[str, Any] = {"code": self.code, "message": self.message, "retryable": self.retryable}
        if self.retry_after_seconds is not None:
            body["retry_after_seconds"] = self.retry_after_seconds
        body["details"] = self.details
        return body


class InternalError(VpError):
    """Something went wrong inside vp-queue; the log has the details under the error id."""

    code = "internal_error"


class ValidationError(VpError):
    """An argument is not acceptable; see details.field."""

    code, http_status, exit_code = "validation_error", 422, 2


class NotFound(VpError):
    """There is no such thing."""

    http_status, exit_code = 404, 3


class UnknownVp(NotFound):
    """No VP has this id; vp_list_vps shows those there are."""

    code = "unknown_vp"


class MissionNotFound(NotFound):
    """No mission has this id; vp_list_missions shows those there are."""

    code = "mission_not_found"


class ArtifactNotFound(NotFound):
    """The mission has no artifact of this path; call without paths to list them."""

    code = "artifact_not_found"


class QuestionNotFound(NotFound):
    """The mission has no such open question; vp_get_mission shows the open one."""

    code = "question_not_found"


class Refused(VpError):
    """This request is not allowed."""

    http_status, exit_code = 403, 4


class VpDisabled(Refused):
    """This VP is disabled in vp_queue.toml (enabled = false)."""

    code = "vp_disabled"


class TargetPathDenied(Refused):
    """The target path lies outside the profile's allowed_target_roots."""

    code = "target_path_denied"


class ExecutorUnavailable(Refused):
    """This VP's executor cannot run here; `vp doctor` says why."""

    code = "executor_unavailable"


class LimitExceeded(Refused):
    """A limit would be exceeded."""

    code = "limit_exceeded"


class Conflict(VpError):
    """The request conflicts with what is recorded."""

    http_status, exit_code = 409, 4


class IdempotencyConflict(Conflict):
    """This idempotency key was used for a different request; use a new key."""

    code = "idempotency_conflict"


class NotRetryableState(Conflict):
    """Only a failed, cancelled or expired mission can be retried."""

    code = "not_retryable_state"


class Unauthorized(VpError):
    """A valid token is needed."""

    code, http_status, exit_code = "unauthorized", 401, 4


class ConfigurationError(VpError):
    """The configuration is not acceptable."""

    code, http_status, exit_code = "configuration_error", 500, 2


class LedgerBusy(VpError):
    """Another process holds the ledger's write lock; nothing was written. Try again shortly."""

    code, retryable, http_status, exit_code = "ledger_busy", True, 503, 75


class LedgerUnavailable(VpError):
    """The ledger cannot be used; nothing was written."""

    code, http_status, exit_code = "ledger_unavailable", 503, 75


def by_code(code: str) -> type[VpError]:
    """The class of an error code, for its exit code and HTTP status; InternalError for an unknown one."""
    waiting: list[type[VpError]] = [VpError]
    while waiting:
        kind = waiting.pop()
        if kind.__dict__.get("code") == code:
            return kind
        waiting += kind.__subclasses__()
    return InternalError
