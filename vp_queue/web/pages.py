"""Makes the dashboard's pages: templates, with every text cleaned and escaped on its way into them.

A page is whole without JavaScript. With it, htmx asks for the same address again whenever something happened, and
morphs the part that is ``#live``; it then says so in a header, and gets that part only.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import jinja2
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from vp_queue import __version__, clock, wording
from vp_queue.contracts import EventType
from vp_queue.web import shown

HERE: Final = Path(__file__).parent
STATIC: Final = HERE / "static"
NAVIGATION: Final = (
    ("g o", "/", "Overview"),
    ("g m", "/missions", "Missions"),
    ("g v", "/vps", "VPs"),
    ("g a", "/actions", "Action log"),
)
THEMES: Final = ("light", "dark")
EVENTS_URL: Final = "/api/v1/events"

# What a change says on the page it leads back to; the address carries the word only, so nobody can make it say more.
NOTES: Final = {
    "dispatched": ("ok", "Dispatched. It starts as soon as its VP is free."),
    "replayed": ("ok", "This form was sent before; nothing was dispatched a second time."),
    "cancelled": ("ok", "Cancel requested. A running mission ends when its program is proved dead."),
    "unchanged": ("warn", "Nothing changed: that had been done already."),
    "retried": ("ok", "Dispatched again, as a new mission."),
    "seen": ("ok", "Marked as seen."),
    "paused": ("ok", "Paused. What runs goes on; nothing more starts."),
    "draining": ("ok", "Draining. What runs goes on; nothing more starts until it is resumed."),
    "resumed": ("ok", "Resumed."),
}


def render(
    request: Request,
    template: str,
    *,
    status: int = 200,
    section: str = "",
    events_url: str = EVENTS_URL,
    live: bool = True,
    **context: Any,
) -> Response:
    """A page.

    Args:
        template: its file's name.
        status: of the answer.
        section: the address in the navigation it belongs to.
        events_url: the stream of events that make it out of date.
        live: whether it changes by itself.
        context: what the template shows; texts need no cleaning.
    """
    csrf_token = getattr(request.state, "csrf_token", None)
    kind, text = NOTES.get(request.query_params.get("note", ""), ("", ""))
    theme = request.cookies.get("vp_theme")
    body = _environment().get_template(template)
    html = body.render(
        layout="bare.html" if live and request.headers.get("HX-Request") else "layout.html",
        navigation=NAVIGATION,
        section=section,
        events_url=events_url,
        event_types=" ".join(EventType),
        live_url=_address(request) if live else None,
        theme=theme if theme in THEMES else None,
        note={"kind": kind, "text": text} if text else None,
        read_only=getattr(request.state, "read_only", False),
        logged_in=csrf_token is not None,
        csrf=functools.partial(_csrf_field, csrf_token),
        now=clock.as_text(clock.now()),
        version=__version__,
        **context,
    )
    return HTMLResponse(html, status, headers={"Vary": "HX-Request, Cookie"})


def refused(request: Request, error: Mapping[str, Any], status: int, *, back: str = "/") -> Response:
    """A page that says what went wrong, as the tools say it.

    Args:
        error: the error object.
        back: where its reader came from.
    """
    titles = {404: "Not found", 403: "Refused", 503: "Try again"}
    return render(
        request,
        "refused.html",
        status=status,
        live=False,
        title=titles.get(status, "That did not work"),
        error=error,
        back=back,
    )


def _address(request: Request) -> str:
    """Where the page stands, without the note of what led to it."""
    query = str(request.url.remove_query_params("note").query)
    return request.url.path + (f"?{query}" if query else "")


def _csrf_field(token: str | None) -> Markup:
    return Markup('<input type="hidden" name="csrf_token" value="{}">').format(token) if token else Markup()


def _cleaned(value: Any) -> Any:
    """What every expression of a template goes through before it is escaped."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, str):
        return wording.clean(value)
    if isinstance(value, datetime):
        return clock.as_text(value)
    return "" if value is None else value


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        finalize=_cleaned,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["static"] = static_url
    environment.filters.update(shown.FILTERS)
    return environment


@functools.cache
def static_url(name: str) -> str:
    """The address of a file in ``static``, which changes with its content so that browsers may keep it for good."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/static/{name}?v={digest}"


def parse_instant(text: str) -> datetime | None:
    """An instant as the pages write it; None if it is none."""
    try:
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo else None
    except (ValueError, OverflowError):
        return None
