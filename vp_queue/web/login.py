"""Logging in and out: the token for a session's cookie."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from vp_queue.errors import Unauthorized
from vp_queue.web import answers, pages
from vp_queue.web.sessions import COOKIE, LASTS_SECONDS, Sessions

WRONG = "This is not the token."


def routes(sessions: Sessions) -> list[BaseRoute]:
    """``/login`` and ``/logout``."""

    async def login(request: Request) -> Response:
        if request.method != "POST":
            following = local_path(request.query_params.get("next", "/"))
            return RedirectResponse(following, 303) if request.state.session else _form(request, following)
        form = await request.form()
        following = local_path(_text(form.get("next")) or "/")
        seconds = sessions.refuses_for()
        if not sessions.is_token(_text(form.get("token")).strip()):
            # Only wrong ones wait: whoever lacks the token cannot keep out who has it.
            error = Unauthorized(WRONG)
            if seconds > 0:
                error = Unauthorized("Too many wrong tokens; try again in a minute.", retry_after_seconds=seconds)
            refused = answers.failure(error.as_dict(), 429 if seconds > 0 else None)
            return _form(request, following, error.message, refused) if answers.wants_page(request) else refused
        value, _ = sessions.start()
        entered = RedirectResponse(following, 303)
        # Strict, and for this host alone: no other site's page sends it, in whatever way it asks.
        entered.set_cookie(
            COOKIE, value, max_age=LASTS_SECONDS, secure=_secure(request), httponly=True, samesite="strict"
        )
        return entered

    async def logout(request: Request) -> Response:
        if request.state.session is not None:
            sessions.end(request.state.session)
        left = RedirectResponse("/login", 303)
        left.delete_cookie(COOKIE, secure=_secure(request), httponly=True, samesite="strict")
        return left

    return [Route("/login", login, methods=["GET", "POST"]), Route("/logout", logout, methods=["POST"])]


def local_path(following: str) -> str:
    """Where to go after the login: an address of this server, whatever was asked."""
    # Browsers take a backslash for a slash, and two slashes for the beginning of another server's name.
    local = following.startswith("/") and not following.startswith("//") and "\\" not in following
    return following if local and following.isprintable() else "/"


def _form(request: Request, following: str, problem: str | None = None, refused: Response | None = None) -> Response:
    status = refused.status_code if refused else 200
    shown = pages.render(request, "login.html", status=status, live=False, problem=problem, next=following)
    if refused is not None:
        for name in ("retry-after", "www-authenticate"):
            if name in refused.headers:
                shown.headers[name] = refused.headers[name]
    return shown


def _text(field: object) -> str:
    return field if isinstance(field, str) else ""


def _secure(request: Request) -> bool:
    return request.url.scheme == "https"
