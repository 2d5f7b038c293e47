"""What missions say is data on every page: no element, attribute or control character of a page comes from it.

Each test of this has a control: with escaping, cleaning or the Markdown allow-list off, it fails.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from tests.harness import GENERAL, Home, command, ended, ok
from tests.mutants import removed
from tests.web_pages import Browser, Page, browser
from vp_queue import missions, tools
from vp_queue.web import previews

CORPUS = [
    "<script>pwned()</script>",
    "\"><img src=x onerror='pwned()'>",
    "' onmouseover='pwned()' pwned='",
    '" autofocus onfocus="pwned()" pwned="',
    "</textarea></pre></title></select><pwned>",
    "<style>*{display:none}</style><link rel=stylesheet href=//pwned>",
    "<base href=//pwned><meta http-equiv=refresh content=0>",
    "<svg/onload=pwned()><math><pwned>",
    "{{7*7}}{% raw %}{{ config }}${7*7}#{7*7}",
    "javascript:pwned()",
    "[x](javascript:pwned()) ![y](http://pwned/y.png) <http://pwned/>",
    "\x1b[2J\x1b]8;;http://pwned\x07link\x1b]8;;\x07\x9b31m",
    "\u202egnp.exe\u202c\u2066\u2069\u200f\u061c",
    "\x01\x07\x08\x7f\x85\u2028\u2029",
    "&lt;pwned&gt;&#60;pwned&#62;",
    "<!-- --><![CDATA[<pwned>]]><?pwned?>",
    "hx-get=/pwned data-log=/pwned",
    "z" * 3_000,
]
HOSTILE = "\n".join(CORPUS)
# What a program may call its files: the worker publishes no name with a control character or an override.
NAMES = [
    "\"><img src=x onerror='pwned()'>.txt",
    "' onclick='pwned()' x='.json",
    "{{7*7}}.diff",
    "javascript:pwned().csv",
    "<pwned>.svg",
    "\u200f\u061cpwned.bin",
    "a&amp;b?x=1#y.md",
]
WRITES = """
import json, os, sys
hostile, names = json.load(open("hostile.json"))
sys.stdout.write(hostile)
for name in names:
    with open(os.path.join(os.environ["VP_WORK_PRODUCTS"], name), "wb") as file:
        file.write(b"\\0" + hostile.encode() if name.endswith(".bin") else hostile.encode())
reports = os.fdopen(int(os.environ["VP_REPORT_FD"]), "w")
for report in ({"progress": 0.5, "message": hostile[:400]}, {"result": hostile[:3000]}):
    print(json.dumps(report), file=reports, flush=True)
sys.exit(int(sys.argv[1]))
"""
MARKDOWN = """# pwned <pwned> `<pwned>`
<script>pwned()</script>
<img src=x onerror=pwned()>

[a](javascript:pwned()) [b](data:text/html,pwned) [c](vbscript:pwned()) [d](JaVaScRiPt:pwned()) [e](//pwned/x)
[f](/missions/seen-all) [g](https://pwned.example/ "x\\" onclick=pwned()") ![h](http://pwned/x.png) <http://pwned/>
[i]: javascript:pwned()
[i] &#106;avascript:pwned() [j](&#x6a;avascript:pwned()) [k](https://x.example/&#x202e;pwned)

<a href="x" style="color:red" onclick="pwned()">x</a> \u202epwned\u202c \x1b[31m &#x202e;pwned&#x1b;

| a | b |
|---|---|
| <pwned> | `{{7*7}}` |

```html
<pwned>
```
"""


def check(page: Page) -> None:
    """Fails if anything but text on this page came from the corpus."""
    for character in page.source:
        assert character in "\n\t" or unicodedata.category(character) not in {"Cc", "Cs", "Zl", "Zp"}, hex(
            ord(character)
        )
        assert character not in "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    # A character reference would bring in what may not stand there as itself.
    assert not [c for c in page.text if c in "\x1b\x9b\u202e\u2066\u200f"]
    for tag, named in page.elements:
        assert tag not in {"pwned", "style", "base", "svg", "math", "iframe", "object", "embed"}, tag
        assert not [name for name in named if name.startswith("on") or name in ("style", "pwned", "srcdoc")], named
        if tag in ("script", "link", "img"):
            source = named.get("src") or named.get("href") or ""
            assert source.startswith(("/static/", "/missions/m-")), named
        if tag == "meta":
            assert named.get("name") or named.get("charset"), named
        for name in ("href", "action", "formaction", "hx-get", "data-log", "data-events"):
            if name == "href" and named.get("rel", "").endswith(" ugc"):  # a link in Markdown may lead elsewhere
                assert named[name].startswith(("http://", "https://", "mailto:")), named
            elif name in named:
                assert named[name].startswith(("/", "?", "#")), named
                assert not named[name].startswith("//"), named


def skeleton(page: Page) -> set[tuple[str, frozenset[str]]]:
    """The kinds of elements of a page."""
    return {(tag, frozenset(named)) for tag, named in page.elements}


def run(home: Home, text: str, names: list[str], code: int) -> str:
    """A mission all of whose texts are this one."""
    files = {"hostile.json": json.dumps([text, names]), "go.py": WRITES}
    mission = command(
        "python3",
        "go.py",
        str(code),
        constraints={"files": files},
        metadata={text[:500]: text[:1_000]},
        source_session_id=text[:200],
        idempotency_key=text[:180] + str(code),
    )
    done = ended(mission["mission_id"])
    assert done["status"] == ("failed" if code else "completed"), done
    return str(mission["mission_id"])


@pytest.fixture
def hostile(home: Home) -> tuple[str, str]:
    """A mission that completed and one that failed, of hostile texts only; reasons and a reader are hostile too."""
    home.consumer()
    found = run(home, HOSTILE, NAMES, 0), run(home, HOSTILE, NAMES, 1)
    again = tools.vp_retry_mission(mission_id=found[1], guidance=HOSTILE)
    ended(ok(again)["mission"]["mission_id"])
    missions.pause(GENERAL, HOSTILE[:2_000])
    left = ok(tools.vp_dispatch_mission(vp_id=GENERAL, objective=HOSTILE, source_session_id=HOSTILE[:200]))["mission"]
    ok(tools.vp_cancel_mission(mission_id=left["mission_id"], reason=HOSTILE[:2_000]))
    ok(tools.vp_read_events(reader=HOSTILE[:100], acknowledge=1))
    return found


def pages(operator: Browser, mission_ids: tuple[str, str]) -> Iterator[Page]:
    """Every page that shows something of a mission."""
    listed = ok(tools.vp_list_missions())["missions"]
    for address in ("/", "/missions", "/vps", f"/vps/{GENERAL}", "/actions", "/missions/new"):
        yield operator.get(address)
    for mission in listed:
        yield operator.get(f"/missions/{mission['mission_id']}")
    for each in CORPUS[:-1]:
        yield operator.get(f"/missions?text={quote(each[:100])}&session={quote(each[:100])}&vp={quote(each[:90])}")
        yield operator.get(f"/missions?since={quote(each[:100])}&status={quote(each[:100])}", 422)
        yield operator.get(f"/missions/cancel-matching?text={quote(each[:100])}")
        yield operator.get(f"/missions/{quote(each[:50], safe='')}", 404)
        yield operator.get(f"/missions/new?vp={quote(each[:90])}")
    for path in (view["path"] for view in artifacts(mission_ids[0])):
        yield operator.get(f"/missions/{mission_ids[0]}/artifacts/{quote(path)}")
    form = operator.get("/missions/new").form("/missions/new")
    typed = dict.fromkeys(form.fields, HOSTILE[:500])
    typed["csrf_token"] = form.fields["csrf_token"]
    form.fields = typed
    yield Page(operator.send(form).text)


def artifacts(mission_id: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = ok(tools.vp_read_result_artifacts(mission_id=mission_id))["artifacts"]
    return found


def test_hostile_texts_are_text_on_every_page(home: Home, hostile: tuple[str, str]) -> None:
    assert len(artifacts(hostile[0])) == len(NAMES), "every hostile name was published"
    with browser() as operator:
        for page in pages(operator, hostile):
            check(page)
        page = operator.get(f"/missions/{hostile[0]}")
        assert "<script>pwned()</script>" in page.text, "it is shown, as what it is"
        assert "{{7*7}}" in page.text, "and nothing works it out"


@pytest.mark.parametrize("guard", ["pages-that-escape-nothing", "pages-that-clean-nothing"])
def test_control_without_its_guard_the_check_fails(home: Home, guard: str) -> None:
    mission = ok(tools.vp_dispatch_mission(vp_id=GENERAL, objective=HOSTILE))["mission"]
    with browser() as operator:
        check(operator.get(f"/missions/{mission['mission_id']}"))
        with removed(guard), pytest.raises(AssertionError):
            check(operator.get(f"/missions/{mission['mission_id']}"))


def test_a_page_of_hostile_texts_has_the_elements_of_a_plain_one(home: Home, hostile: tuple[str, str]) -> None:
    missions.resume(GENERAL)
    # As long, since a long text is folded away.
    plain = "\n".join("x" * len(each) for each in CORPUS)
    names = [f"{number}.{name.rpartition('.')[2]}" for number, name in enumerate(NAMES)]
    twins = run(home, plain, names, 0), run(home, plain, names, 1)
    with browser() as operator:
        for mission_id, twin in zip(hostile, twins, strict=True):
            known = skeleton(operator.get(f"/missions/{twin}")) | skeleton(operator.get(f"/missions/{hostile[1]}"))
            assert skeleton(operator.get(f"/missions/{mission_id}")) <= known
        hostile_page = skeleton(operator.get(f"/missions/{hostile[0]}"))
        assert hostile_page == skeleton(operator.get(f"/missions/{twins[0]}"))


def check_markdown() -> Page:
    """Markdown of all kinds as HTML, which fails if that may do anything."""
    page = Page(str(previews.markdown(MARKDOWN)))
    for tag, named in page.elements:
        assert tag in previews._TAGS, tag
        assert set(named) <= {"href", "title", "rel", "start"}, named
        if tag == "a" and "href" in named:
            assert named["href"].startswith(("http://", "https://", "mailto:")), named
            assert set(named["rel"].split()) == {"noopener", "noreferrer", "nofollow", "ugc"}
    for text in (page.source, page.text, *(value for _, named in page.elements for value in named.values())):
        assert not [c for c in text if c in "\u202e\u202c\x1b"], "not by a character reference either"
    return page


def test_markdown_becomes_harmless_html_only() -> None:
    page = check_markdown()
    assert {"h1", "table", "code", "a", "pre"} <= {tag for tag, _ in page.elements}
    assert "https://pwned.example/" in [named.get("href") for _, named in page.elements]


def test_control_markdown_as_it_comes_is_not_harmless() -> None:
    with removed("markdown-as-it-comes"), pytest.raises(AssertionError):
        check_markdown()


def test_markdown_that_is_all_depth_is_shown_all_the_same() -> None:
    size = 8_192
    for piece in (">", "[", "*a", "- ", "`", "<", "|"):
        assert previews.markdown(piece * (size // len(piece)))
