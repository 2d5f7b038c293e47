"""The dashboard's pages for tests: a browser without JavaScript, and what stands in a page it got."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from starlette.testclient import TestClient

from vp_queue.web import app

TOKEN = "a token for tests, of sufficient length"
ORIGIN = "http://127.0.0.1"
VOID = {"input", "meta", "link", "img", "br", "hr", "option"}


@dataclass
class Form:
    """A form, with the fields it would send as it stands."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)


class Page(HTMLParser):
    """A page as a browser takes it apart: its elements in order, its text, its forms."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source = source
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.forms: list[Form] = []
        self._area: str | None = None
        self._select: str | None = None
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        self.elements.append((tag, named))
        if tag == "form":
            self.forms.append(Form(named.get("action", ""), named.get("method", "get")))
        if not self.forms:
            return
        fields = self.forms[-1].fields
        if tag == "input" and "name" in named and (named.get("type") != "checkbox" or "checked" in named):
            fields[named["name"]] = named.get("value", "")
        elif tag == "textarea":
            self._area = named["name"]
            fields[named["name"]] = ""
        elif tag == "select":
            self._select = named["name"]
        elif tag == "option" and self._select and ("selected" in named or self._select not in fields):
            fields[self._select] = named.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self._area = None
        elif tag == "select":
            self._select = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._area:
            self.forms[-1].fields[self._area] += data.removeprefix("\n")

    def having(self, **attributes: str) -> list[tuple[str, dict[str, str]]]:
        """The elements with these attributes."""
        return [each for each in self.elements if attributes.items() <= each[1].items()]

    def links(self) -> list[str]:
        """Where its links lead, in order."""
        return [named["href"] for tag, named in self.elements if tag == "a"]

    def form(self, action: str) -> Form:
        """The form whose address begins so."""
        return next(each for each in self.forms if each.action.startswith(action))

    @property
    def words(self) -> str:
        """Its text with single spaces."""
        return " ".join(self.text.split())


class Browser:
    """Somebody who has logged in."""

    def __init__(self, client: TestClient) -> None:
        self._client = client

    def get(self, address: str, status: int = 200, **headers: str) -> Page:
        """A page, which must come with this status."""
        answer = self.raw(address, **headers)
        assert answer.status_code == status, answer.text
        return Page(answer.text)

    def raw(self, address: str, **headers: str) -> Any:
        """The answer as it is."""
        return self._client.get(address, headers=headers)

    def head(self, address: str) -> Any:
        """The headers of an answer."""
        return self._client.head(address)

    def send(self, form: Form, **fields: str) -> Any:
        """Send a form with these fields changed; redirects are not followed."""
        data = {**form.fields, **{name.replace("__", "."): value for name, value in fields.items()}}
        return self._client.post(form.action, data=data, headers={"origin": ORIGIN})

    def follow(self, answer: Any) -> Page:
        """Where a sent form leads."""
        assert answer.status_code == 303, answer.text
        return self.get(answer.headers["location"])


@contextlib.contextmanager
def browser(*, read_only: bool = False) -> Iterator[Browser]:
    """A browser that has logged in at a web face in this process."""
    face = app.face(token=TOKEN, read_only=read_only)
    with TestClient(face.app, base_url=ORIGIN, headers={"accept": "text/html"}, follow_redirects=False) as client:
        entered = client.post("/login", data={"token": TOKEN}, headers={"origin": ORIGIN})
        assert entered.status_code == 303, entered.text
        yield Browser(client)
        face.close()
