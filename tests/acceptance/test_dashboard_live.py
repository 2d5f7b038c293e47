"""A page in a real browser stays true: while hidden, while the server is away, and without asking for much."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser import Dashboard, Watched, looking
from tests.harness import GENERAL, Home, ended, shell, status, until
from tests.web_server import Server, serving

HIDE = """(hidden) => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
  Object.defineProperty(document, "visibilityState", { configurable: true, get: () => hidden ? "hidden" : "visible" });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def hide(page: Page, hidden: bool) -> None:
    """Have a page believe that its tab is (not) looked at; a browser without a window always is."""
    page.evaluate(HIDE, hidden)


def test_a_hidden_tab_asks_for_nothing_and_tells_the_state_when_it_is_looked_at_again(
    dashboard: Dashboard, watched: Watched
) -> None:
    mission_id = shell('until [ -e "$VP_WORKSPACE/end" ]; do sleep 0.05; done')["mission_id"]
    page = watched.live(f"/missions/{mission_id}")
    badge = page.locator("#live > .row .badge").first
    expect(badge).to_have_text("running")
    assert len(watched.streams) == 1
    hide(page, True)
    until(lambda: page.evaluate("1") and not watched.streams, "its stream is closed")
    expect(page.locator(".live-state")).to_have_text("Paused")
    page.wait_for_load_state("networkidle")
    asked = len(watched.requests)
    (dashboard.home.workspace(mission_id) / "end").touch()
    ended(mission_id)
    page.wait_for_timeout(2_500)  # longer than it waits between two looks at a log
    assert len(watched.requests) == asked, [each.url for each in watched.requests[asked:]]
    assert badge.text_content() == "running", "nothing told it"
    hide(page, False)
    expect(badge).to_have_text("completed")
    expect(page.locator(".live-state")).to_have_text("Live")
    assert (len(watched.streams), watched.opened) == (1, 2)


def test_an_idle_page_asks_for_nothing_but_its_stream(browser: Browser, dashboard: Dashboard) -> None:
    mission_id = shell("echo done")["mission_id"]
    ended(mission_id)
    with contextlib.ExitStack() as stack:
        tabs = []
        for path in ("/", "/missions", "/vps", f"/vps/{GENERAL}", "/actions", f"/missions/{mission_id}"):
            tabs.append(stack.enter_context(looking(browser, dashboard.server)))
            tabs[-1].live(path)
        for tab in tabs:
            tab.page.wait_for_load_state("networkidle")
        tabs[0].page.wait_for_timeout(2_000)  # a log is asked for once more after its mission's end
        asked = [len(tab.requests) for tab in tabs]
        tabs[0].page.wait_for_timeout(3_000)
        for tab, before in zip(tabs, asked, strict=True):
            assert [each.url for each in tab.requests[before:]] == []
            assert tab.opened == len(tab.streams) == 1


@pytest.fixture
def own(home: Home) -> Iterator[tuple[Home, contextlib.ExitStack]]:
    """A home of this test's own, with a consumer, and what will end its servers."""
    home.consumer()
    with contextlib.ExitStack() as stack:
        yield home, stack


def test_a_page_says_that_it_is_not_live_while_its_server_is_away_and_misses_nothing(
    browser: Browser, own: tuple[Home, contextlib.ExitStack]
) -> None:
    home, stack = own
    first: Server = stack.enter_context(serving(home))
    with looking(browser, first) as watched:
        watched.expected.append("ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE")
        page = watched.live("/missions")
        page.evaluate("globalThis.notReloaded = true")
        assert first.stop() == 0
        expect(page.locator('.live-state[data-state="lost"]')).to_contain_text("Not live")
        mission_id = shell("exit 3", source_session_id="while-it-was-away")["mission_id"]
        ended(mission_id)
        stack.enter_context(serving(home, port=first.port))
        expect(page.locator('.live-state[data-state="live"]')).to_have_text("Live")
        row = page.locator("[data-row]", has_text=mission_id)
        expect(row.locator(".badge")).to_have_text("failed")
        later = shell("true")["mission_id"]
        expect(page.locator("[data-row]", has_text=later).locator(".badge")).to_have_text("completed")
        assert page.evaluate("globalThis.notReloaded")


def test_a_server_that_only_shows_has_no_forms_and_refuses_one_that_is_forged(
    browser: Browser, own: tuple[Home, contextlib.ExitStack], tmp_path: Path
) -> None:
    home, stack = own
    shown: Server = stack.enter_context(serving(home, "--read-only"))
    done, failed = shell("true")["mission_id"], shell("exit 3")["mission_id"]
    for each in (done, failed):
        ended(each)
    with looking(browser, shown) as watched:
        watched.expected.append("403")
        for path in ("/", "/missions", "/missions?status=failed", f"/missions/{done}", f"/missions/{failed}",
                     "/vps", f"/vps/{GENERAL}", "/actions", "/missions/new"):  # fmt: skip
            page = watched.open(path)
            expect(page.locator(".top").get_by_text("read-only")).to_be_visible()
            changing = page.locator('form[method="post"]:not([action="/logout"])')
            assert changing.count() == 0, (path, changing.first.get_attribute("action"))
        token = page.locator('[action="/logout"] [name="csrf_token"]').get_attribute("value")
        page.evaluate(
            """([path, token]) => {
              const form = document.createElement("form");
              form.method = "post"; form.action = path;
              const field = document.createElement("input");
              field.name = "csrf_token"; field.value = token;
              form.append(field); document.body.append(form); form.submit();
            }""",
            [f"/vps/{GENERAL}/pause", token],
        )
        expect(page.get_by_text("only shows")).to_be_visible()
        page.goto(f"{watched.url}/vps/{GENERAL}")
        expect(page.locator("#live .badge", has_text="paused")).to_have_count(0)


def test_the_row_that_was_chosen_stays_chosen_when_others_come_before_it(watched: Watched) -> None:
    first = shell("true", source_session_id="rows")["mission_id"]
    ended(first)
    page = watched.live("/missions?session=rows")
    page.keyboard.press("j")
    expect(page.locator("[data-chosen]")).to_have_id(f"row-{first}")
    second = shell("true", source_session_id="rows")["mission_id"]
    expect(page.locator(f"#row-{second}")).to_be_visible()
    expect(page.locator("[data-chosen]")).to_have_id(f"row-{first}")
    expect(page.locator(f"#row-{first} a").first).to_be_focused()
    page.keyboard.press("k")
    expect(page.locator("[data-chosen]")).to_have_id(f"row-{second}")


def test_what_happens_before_the_stream_is_open_is_not_missed(dashboard: Dashboard, watched: Watched) -> None:
    mission_id = shell('until [ -e "$VP_WORKSPACE/end" ]; do sleep 0.05; done')["mission_id"]
    held: list[Route] = []
    watched.page.route("**/api/v1/events*", lambda route: held.append(route))
    until(lambda: status(mission_id) == "running", "it runs")
    page = watched.open(f"/missions/{mission_id}")
    badge = page.locator("#live > .row .badge").first
    expect(badge).to_have_text("running")
    until(lambda: page.evaluate("1") and held, "the stream is asked for")
    (dashboard.home.workspace(mission_id) / "end").touch()
    ended(mission_id)
    held[0].continue_()
    expect(badge).to_have_text("completed")
