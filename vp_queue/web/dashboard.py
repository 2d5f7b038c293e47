"""The dashboard's pages of the whole: overview, VPs, action log. Missions have files of their own."""

from __future__ import annotations

import functools
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from vp_queue import clock, missions, missions_actions, missions_seen
from vp_queue.web import dashboard_mission, dashboard_missions, pages
from vp_queue.web.forms import Form, back_to, change
from vp_queue.web.shared_overview import SharedOverview

ACTIONS_SHOWN: Final = 50


def routes() -> list[BaseRoute]:
    """All pages."""
    shared = SharedOverview()
    return [
        Route("/", functools.partial(overview, shared)),
        Route("/missions/seen-all", change(functools.partial(all_seen, shared)), methods=["POST"]),
        Route("/missions/{mission_id}/seen", change(functools.partial(seen, shared)), methods=["POST"]),
        Route("/vps", vps),
        Route("/vps/{vp_id}", vp),
        Route("/vps/{vp_id}/pause", change(pause), methods=["POST"]),
        Route("/vps/{vp_id}/drain", change(drain), methods=["POST"]),
        Route("/vps/{vp_id}/resume", change(resume), methods=["POST"]),
        Route("/actions", actions),
        *dashboard_missions.routes(),
        *dashboard_mission.routes(),
    ]


def overview(shared: SharedOverview, request: Request) -> Response:
    """What every VP is doing, and what needs a person."""
    return pages.render(request, "overview.html", section="/", overview=shared.get())


def all_seen(shared: SharedOverview, request: Request, form: Form) -> Response:
    """Nobody need be reminded of what had failed when the overview was made."""
    missions_seen.mark_all_seen(pages.parse_instant(form.get("until", "")) or clock.now())
    shared.forget()
    return back_to("/", "seen")


def seen(shared: SharedOverview, request: Request, form: Form) -> Response:
    """Nobody need be reminded of this failed mission."""
    mission_id = request.path_params["mission_id"]
    missions_seen.mark_seen(mission_id)
    shared.forget()
    return back_to(f"/missions/{mission_id}" if form.get("stay") else "/", "seen")


def vps(request: Request) -> Response:
    """The roster."""
    return pages.render(request, "vps.html", section="/vps", vps=missions.vps().vps)


def vp(request: Request) -> Response:
    """One VP: profile, workers, and the switches."""
    vp_id = request.path_params["vp_id"]
    found = missions.vp(vp_id)
    profile = missions.ready().profile(vp_id)
    return pages.render(request, "vp.html", section="/vps", vp=found, profile=profile)


def pause(request: Request, form: Form) -> Response:
    """Take nothing more from its queue."""
    missions.pause(request.path_params["vp_id"], form.get("reason") or None)
    return _back_to_vp(request, "paused")


def drain(request: Request, form: Form) -> Response:
    """Let it finish what runs."""
    missions.drain(request.path_params["vp_id"], form.get("reason") or None)
    return _back_to_vp(request, "draining")


def resume(request: Request, form: Form) -> Response:
    """Take from its queue again."""
    missions.resume(request.path_params["vp_id"])
    return _back_to_vp(request, "resumed")


def _back_to_vp(request: Request, note: str) -> Response:
    return back_to(f"/vps/{request.path_params['vp_id']}", note)


def actions(request: Request) -> Response:
    """Who did what, when, through which face."""
    given = request.query_params
    before = given.get("before", "")
    answer = missions_actions.actions(
        ACTIONS_SHOWN,
        int(before) if before.isascii() and before.isdigit() and len(before) < 19 else None,
        vp_id=given.get("vp") or None,
        face=given.get("face") or None,
    )
    return pages.render(request, "actions.html", section="/actions", live=not before, answer=answer, given=dict(given))
