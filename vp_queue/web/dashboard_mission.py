"""The dashboard's pages of one mission: all that is known of it, what can be done about it, and what it made."""

from __future__ import annotations

import functools
import os
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from vp_queue import clock, errors, missions, missions_artifacts, missions_logs, missions_page, tools, wording
from vp_queue.contracts import Status
from vp_queue.contracts.overview import MissionPage
from vp_queue.contracts.requests import ReadResultArtifacts
from vp_queue.contracts.views import AttemptView
from vp_queue.errors import ArtifactNotFound, ValidationError
from vp_queue.web import archive, files, logs, pages, previews, shown
from vp_queue.web.forms import Form, back_to, change
from vp_queue.worker.published import PublishedFile

EVENTS_SHOWN: Final = 200
ARTIFACTS_SHOWN: Final = 200
CHECKED_BYTES: Final = 32 * 1024 * 1024  # of artifacts, compared with their hashes whenever the page is made
LOG_BYTES: Final = 32 * 1024
LOG_PATH: Final = "/api/v1/missions/{}/log?attempt={}"
NEAR: Final = 0.8  # of a budget
CANCELLABLE: Final = (Status.QUEUED, Status.RUNNING, Status.NEEDS_INPUT)
RETRYABLE: Final = (Status.FAILED, Status.CANCELLED, Status.EXPIRED)


def routes() -> list[BaseRoute]:
    """These pages."""
    return [
        Route("/missions/{mission_id}", mission),
        Route("/missions/{mission_id}/cancel", change(cancel), methods=["POST"]),
        Route("/missions/{mission_id}/retry", change(retry), methods=["POST"]),
        Route("/missions/{mission_id}/artifacts.zip", archive.Archives().response),
        Route("/missions/{mission_id}/image/{path:path}", functools.partial(image, files.Files())),
        Route("/missions/{mission_id}/artifacts/{path:path}", artifact),
    ]


class Bar(NamedTuple):
    """Use against a limit, which is empty where there is none; ``share`` is None there, and where nothing is known."""

    label: str
    used: str
    limit: str
    share: float | None
    kind: str


class Log(NamedTuple):
    """What an attempt has printed last."""

    attempt: int
    text: str
    next_offset: int
    from_beginning: bool
    problem: str


def mission(request: Request) -> Response:
    """One mission."""
    mission_id, given = request.path_params["mission_id"], request.query_params
    page = missions_page.mission_page(mission_id)
    before = _number(given.get("before", ""))
    events = missions_page.events_before(mission_id, before, EVENTS_SHOWN)
    wanted = _number(given.get("attempt", ""))
    files_from = _number(given.get("files", "")) or 0
    artifacts = missions_artifacts.listed(mission_id, CHECKED_BYTES)
    found = page.mission
    return pages.render(
        request,
        "mission.html",
        section="/missions",
        events_url=f"{pages.EVENTS_URL}?{urlencode({'mission_id': mission_id})}",
        live=before is None,
        page=page,
        mission=found,
        events=events[::-1],
        before=before,
        older=events[0].mission_seq if events and (events[0].mission_seq or 1) > 1 else None,
        bars=_bars(page),
        log=_log(page, wanted),
        chosen_attempt=wanted,
        artifacts=artifacts[files_from : files_from + ARTIFACTS_SHOWN],
        artifacts_total=len(artifacts),
        artifacts_size=sum(each.size for each in artifacts),
        files_from=files_from,
        files_next=files_from + ARTIFACTS_SHOWN if files_from + ARTIFACTS_SHOWN < len(artifacts) else None,
        can_cancel=found.status in CANCELLABLE and not found.cancel_requested,
        can_retry=found.status in RETRYABLE,
        retry_key=f"dashboard-{clock.new_token()}",
    )


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _bars(page: MissionPage) -> list[Bar]:
    """Budget against use: time of the attempt that runs or ran last, the rest of all attempts together."""
    found, budget = page.mission, page.mission.budget
    usages = [each.usage for each in page.attempts if each.usage is not None]
    if found.usage is not None:
        usages = [found.usage]

    def used(*names: str) -> float | None:
        known = [value for each in usages for name in names if (value := getattr(each, name)) is not None]
        return sum(known) if known else None

    profile = missions.ready().vps.get(found.vp_id)
    seconds = budget.get("max_duration_seconds") or (profile.default_timeout_seconds if profile else None)
    if profile and seconds:
        seconds = min(seconds, profile.max_timeout_seconds)
    tokens = used("input_tokens", "output_tokens")
    return [
        _bar("Time, this attempt", _seconds(page.attempts), seconds, wording.duration),
        _bar("Tokens", tokens, budget.get("max_tokens"), shown.count),
        _bar("Cost", used("cost_usd"), budget.get("max_cost_usd"), shown.money),
        _bar("Turns", used("turns"), budget.get("max_turns"), shown.count),
    ]


def _bar(label: str, used: float | None, limit: float | None, words: Any) -> Bar:
    share = None if used is None or limit is None else used / limit
    kind = "" if share is None or share < NEAR else "over" if share > 1 else "near"
    return Bar(
        label,
        words(used) if used is not None else "not known",
        words(limit) if limit is not None else "",
        share,
        kind,
    )


def _seconds(attempts: list[AttemptView]) -> float | None:
    if not attempts:
        return None
    return ((attempts[-1].ended_at or clock.now()) - attempts[-1].started_at).total_seconds()


def _log(page: MissionPage, wanted: int | None) -> Log | None:
    """The end of an attempt's log; None: nothing was ever started."""
    if not page.attempts:
        return None
    mission_id = page.mission.mission_id
    number = next((each.number for each in page.attempts if each.number == wanted), page.attempts[-1].number)
    try:
        where = missions_logs.read(mission_id, number, 0, 1, tail_bytes=LOG_BYTES).tail_offset
        piece = missions_logs.read(mission_id, number, where, LOG_BYTES * 2)
    except ArtifactNotFound as error:
        return Log(number, "", 0, False, error.message)
    text, cut = logs.shown(piece)
    # What was cut into begins with the rest of a line, and perhaps of a character.
    if where:
        text = text.partition("\n")[2] or text
    return Log(number, text, piece.next_offset - cut, where == 0, "")


def cancel(request: Request, form: Form) -> Response:
    """End it."""
    mission_id = request.path_params["mission_id"]
    answer = tools.vp_cancel_mission(mission_id=mission_id, reason=form.get("reason", ""))
    if not answer["ok"]:
        return _refused(request, answer["error"])
    return back_to(f"/missions/{mission_id}", "cancelled" if answer["changed"] else "unchanged")


def retry(request: Request, form: Form) -> Response:
    """Dispatch it again, as a new mission; leads to that."""
    arguments = {"mission_id": request.path_params["mission_id"], "guidance": form.get("guidance", "").strip() or None}
    key = form.get("idempotency_key") or None
    answer = tools.vp_retry_mission(**arguments, idempotency_key=key)
    if not answer["ok"]:
        return _refused(request, answer["error"])
    return back_to(f"/missions/{answer['mission']['mission_id']}", "retried" if answer["created"] else "replayed")


def _refused(request: Request, error: dict[str, Any]) -> Response:
    status = errors.by_code(error["code"]).http_status
    return pages.refused(request, error, status, back=f"/missions/{request.path_params['mission_id']}")


def artifact(request: Request) -> Response:
    """A preview of what it made."""
    mission_id, path = request.path_params["mission_id"], request.path_params["path"]
    asked = tools.parsed(
        ReadResultArtifacts, {"mission_id": mission_id, "paths": [path], "max_bytes": previews.PREVIEW_BYTES}
    )
    answer = missions_artifacts.read_result(asked)
    if not answer.artifacts:
        raise ArtifactNotFound(f"Mission {mission_id} is {answer.status} still: it has no artifacts before its end.")
    found = answer.artifacts[0]
    return pages.render(
        request,
        "artifact.html",
        section="/missions",
        live=False,
        mission_id=mission_id,
        artifact=found,
        preview=previews.preview(found) if found.problem is None else None,
        image_bytes=previews.IMAGE_BYTES,
    )


async def image(pictures: files.Files, request: Request) -> Response:
    """A picture as itself, for its preview. Its type is told by its bytes, and it may do nothing but be looked at."""
    wanted = request.path_params
    return await pictures.response(request, wanted["mission_id"], wanted["path"], _type_of_picture)


def _type_of_picture(file: PublishedFile) -> str:
    if file.size > previews.IMAGE_BYTES:
        raise ValidationError(f"The picture is larger than {wording.size(previews.IMAGE_BYTES)}; download it.")
    kind = previews.image_type(os.pread(file.descriptor, previews.IMAGE_HEAD_BYTES, 0))
    if kind is None:
        raise ArtifactNotFound("This artifact is no picture; look at its preview, or download it.")
    return kind
