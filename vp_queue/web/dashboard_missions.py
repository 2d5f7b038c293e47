"""The dashboard's pages of many missions: the list by filters, and what is done to all that match.

The filters stand in the address, so that a list can be kept and shared, and so that the pages that act on all of them
say by their address what they act on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from vp_queue import clock, missions, missions_bulk, missions_lists, tools
from vp_queue.contracts import Status
from vp_queue.contracts.overview import BulkAnswer
from vp_queue.contracts.requests import ListMissions
from vp_queue.contracts.selections import CancelMatching, RetryMatching
from vp_queue.errors import ValidationError
from vp_queue.web import dispatching, forms, pages
from vp_queue.web.forms import Form, change

SHOWN: Final = 50
CHANGED_AT_ONCE: Final = 200
# As the address has them, and as the contract does.
FILTERS: Final = {
    "vp": "vp_id",
    "status": "status",
    "text": "text",
    "session": "source_session_id",
    "since": "created_after",
    "until": "created_before",
}
CANCELLABLE: Final = (Status.QUEUED, Status.RUNNING, Status.NEEDS_INPUT)
RETRYABLE: Final = (Status.FAILED, Status.CANCELLED, Status.EXPIRED)


def routes() -> list[BaseRoute]:
    """These pages, before those of one mission."""
    return [
        Route("/missions", listed),
        *dispatching.routes(),
        Route("/missions/cancel-matching", cancel_asked),
        Route("/missions/cancel-matching", change(cancel_done), methods=["POST"]),
        Route("/missions/retry-matching", retry_asked),
        Route("/missions/retry-matching", change(retry_done), methods=["POST"]),
    ]


@dataclass(frozen=True)
class Chosen:
    """The filters of an address.

    Attributes:
        typed: as they stand there, to be shown again; without those that are empty.
        statuses: those among them.
        wanted: by the contract's names.
        problems: what is wrong with them, by their names in the address; other names are of the paging.
    """

    typed: dict[str, str]
    statuses: list[str]
    wanted: dict[str, Any]
    problems: dict[str, str]

    @property
    def any(self) -> bool:
        """Whether anything is filtered by."""
        return bool(self.wanted) or bool(self.problems)

    def query(self, **other: str | None) -> str:
        """The filters as an address has them, beside other parameters, or with a ``status`` instead of its own."""
        kept = [(name, value) for name, value in self.typed.items() if name not in other]
        if "status" not in other:
            kept += [("status", status) for status in self.statuses]
        return urlencode([*kept, *((name, value) for name, value in other.items() if value)])


def chosen(given: QueryParams) -> Chosen:
    """The filters of an address, judged by the contract."""
    typed = {name: given[name].strip() for name in FILTERS if name != "status" and given.get(name, "").strip()}
    statuses = list(dict.fromkeys(each for each in given.getlist("status") if each))
    wanted: dict[str, Any] = {FILTERS[name]: value for name, value in typed.items()}
    problems: dict[str, str] = {}
    for name in ("since", "until"):
        if name in typed:
            try:
                wanted[FILTERS[name]] = forms.instant(typed[name], end_of_day=name == "until")
            except ValueError as error:
                problems[name] = str(error)
                del wanted[FILTERS[name]]
    if statuses:
        wanted["status"] = statuses
    try:
        tools.parsed(ListMissions, wanted)
    except ValidationError as error:
        names = {contract: name for name, contract in FILTERS.items()}
        for found in error.details.get("errors", []):
            name = names.get(found["field"].partition(".")[0], "")
            problems.setdefault(name, "there is no such status" if name == "status" else found["message"])
    return Chosen(typed, statuses, wanted, problems)


def listed(request: Request) -> Response:
    """Missions by filters, newest first."""
    filters = chosen(request.query_params)
    before, after = request.query_params.get("before"), request.query_params.get("after")
    turned = None
    if not filters.problems:
        try:
            asked = tools.parsed(ListMissions, {**filters.wanted, "limit": SHOWN, "cursor": after or before or None})
            turned = missions_lists.page(asked, newer_than=after or None)
        except ValidationError as error:
            filters.problems[""] = f"This page's address is not whole; begin at the newest. ({error.message})"
    return pages.render(
        request,
        "missions.html",
        status=200 if turned else ValidationError.http_status,
        section="/missions",
        # A page in the middle stands still: what is new comes before it.
        live=turned is not None and not before and not after,
        filters=filters,
        turned=turned,
        total=sum(turned.counts.values()) if turned else 0,
        matching=_matching(turned.counts, filters, tuple(Status)) if turned else 0,
        statuses=list(Status),
        vps=missions.vps().vps,
        cancellable=_matching(turned.counts, filters, CANCELLABLE) if turned else 0,
        retryable=_matching(turned.counts, filters, RETRYABLE) if turned else 0,
    )


def _matching(counts: dict[str, int], filters: Chosen, possible: tuple[Status, ...]) -> int:
    return sum(counts[each] for each in possible if not filters.statuses or each in filters.statuses)


def cancel_asked(request: Request) -> Response:
    """How many missions a cancel of all that match would end."""
    return _asked(request, "cancel", CANCELLABLE)


def retry_asked(request: Request) -> Response:
    """How many missions a retry of all that match would dispatch again."""
    return _asked(request, "retry", RETRYABLE)


def _asked(request: Request, action: str, possible: tuple[Status, ...]) -> Response:
    filters = _some(request)
    counts = missions_lists.page(tools.parsed(ListMissions, {**filters.wanted, "limit": 1})).counts
    return _confirm(
        request,
        action,
        filters,
        count=_matching(counts, filters, possible),
        through=missions_bulk.newest_mission_id(),
        token=clock.new_token(),
    )


def cancel_done(request: Request, form: Form) -> Response:
    """Cancel all that match, or go on with it."""
    filters = _some(request)
    arguments = {**_selection(filters, form), "reason": form.get("reason", "")}
    answer = missions_bulk.cancel_matching(tools.parsed(CancelMatching, arguments))
    return _done(request, "cancel", filters, form, answer)


def retry_done(request: Request, form: Form) -> Response:
    """Dispatch all that match again, or go on with it."""
    filters = _some(request)
    guidance = form.get("guidance", "").strip() or None
    arguments = {**_selection(filters, form), "guidance": guidance, "token": form.get("token", "")}
    answer = missions_bulk.retry_matching(tools.parsed(RetryMatching, arguments))
    return _done(request, "retry", filters, form, answer)


def _some(request: Request) -> Chosen:
    """The filters, of which there must be one: what concerns everything is not done by a missing word."""
    filters = chosen(request.query_params)
    if filters.problems:
        name, problem = next(iter(filters.problems.items()))
        raise ValidationError(f"{name}: {problem}", field=name)
    if not filters.any:
        raise ValidationError("Filter the list first, such as by VP or status; then act on all that match.")
    return filters


def _selection(filters: Chosen, form: Form) -> dict[str, Any]:
    return {
        **filters.wanted,
        "through_mission_id": form.get("through", ""),
        "after_mission_id": form.get("continue_after") or None,
        "limit": CHANGED_AT_ONCE,
    }


def _done(request: Request, action: str, filters: Chosen, form: Form, answer: BulkAnswer) -> Response:
    so_far = form.get("changed", "")
    changed = answer.changed + (int(so_far) if so_far.isascii() and so_far.isdigit() and len(so_far) < 10 else 0)
    return _confirm(
        request,
        action,
        filters,
        answer=answer,
        changed=changed,
        through=form["through"],
        token=form.get("token", ""),
        reason=form.get("reason", ""),
        guidance=form.get("guidance", ""),
    )


def _confirm(request: Request, action: str, filters: Chosen, **shown: Any) -> Response:
    page = {"answer": None, "changed": 0, "count": 0, "reason": "", "guidance": "", **shown}
    return pages.render(
        request, "confirm.html", section="/missions", live=False, action=action, filters=filters, **page
    )
