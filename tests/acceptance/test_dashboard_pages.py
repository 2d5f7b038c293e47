"""Each page of the dashboard as a browser shows it: for every eye and hand, light, and with nothing but HTML.

The pages are those of a scene (``tests/scene.py``) in which every one of them has something to show. Their pictures, in
light, dark and on a phone, are kept in ``VP_TEST_ARTIFACTS``, or else in pytest's folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser import DESKTOP, PHONE, Watched, Weighed, faults_of_access, looking, pictures
from tests.harness import Home
from tests.scene import CODER, GENERAL, RESEARCH, played
from tests.web_server import Server, serving

TRANSFERRED_BYTES = 200_000
# None: all that axe has. The same elements are judged again by what colours and room make of them.
RULES: dict[str, list[str] | None] = {
    "light": None,
    "phone": ["color-contrast", "scrollable-region-focusable", "target-size"],
    "dark": ["color-contrast"],
}
PAGES = {
    "overview": "/",
    "missions": "/missions",
    "missions-none": "/missions?text=nothing+has+these+words",
    "dispatch": f"/missions/new?vp={CODER}",
    "cancel-matching": f"/missions/cancel-matching?vp={RESEARCH}",
    "mission-running": "/missions/{running}",
    "mission-completed": "/missions/{patch}",
    "mission-failed": "/missions/{failed}",
    "mission-queued": "/missions/{queued}",
    "artifact-markdown": "/missions/{minutes}/artifacts/minutes.md",
    "artifact-patch": "/missions/{patch}/artifacts/changes.patch",
    "artifact-json": "/missions/{patch}/artifacts/tests.json",
    "vps": "/vps",
    "vp": f"/vps/{RESEARCH}",
    "actions": "/actions",
    "not-found": "/missions/m-0000000000-00000000000",
    "login": "/login",
}


@dataclass
class Scene:
    """The scene, served."""

    server: Server
    ids: dict[str, str]

    def address(self, name: str) -> str:
        """Of a page, by its name."""
        return PAGES[name].format(**self.ids)


@pytest.fixture(scope="module")
def scene(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("scene")
    with played(folder / "home") as (path, ids), serving(Home(path, folder)) as server:
        yield Scene(server, ids)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = pictures() or tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def shown(browser: Browser, scene: Scene) -> Iterator[Watched]:
    with looking(browser, scene.server) as watched:
        yield watched


@pytest.mark.parametrize("name", PAGES)
def test_a_page_weighs_little_and_can_be_read_by_everybody_in_light_dark_and_on_a_phone(
    browser: Browser, scene: Scene, kept: Path, name: str
) -> None:
    with looking(browser, scene.server, logged_in=name != "login") as watched:
        watched.expected.append("404" if name == "not-found" else "^$")
        page = watched.page
        weighed = Weighed(page)
        watched.open(scene.address(name))
        if page.locator(".live-state").count():
            page.locator('.live-state[data-state="live"]').wait_for(state="attached")
        page.wait_for_load_state("networkidle")
        assert any("app.css" in address for address in weighed.bytes), weighed.bytes
        assert sum(weighed.bytes.values()) < TRANSFERRED_BYTES, weighed.bytes

        found: list[str] = []
        for mode, size, scheme in (("light", DESKTOP, "light"), ("phone", PHONE, "light"), ("dark", DESKTOP, "dark")):
            page.set_viewport_size(size)
            page.emulate_media(color_scheme=scheme)
            page.wait_for_function("document.documentElement.scrollWidth <= innerWidth")
            found += [f"{mode}: {each}" for each in faults_of_access(page, RULES[mode])]
            page.screenshot(path=kept / f"{name}-{mode}.png", full_page=True)
        assert not found, "\n".join(found)


def test_control_what_cannot_be_read_or_named_is_found(shown: Watched) -> None:
    page = shown.open("/vps")
    assert faults_of_access(page) == []
    page.evaluate("""() => {
      const faint = document.createElement("p");
      faint.textContent = "can you read this"; faint.style.color = "#ccc"; faint.style.background = "#fff";
      const nameless = document.createElement("input");
      document.querySelector("main").append(faint, nameless);
    }""")
    found = "\n".join(faults_of_access(page))
    assert "color-contrast" in found
    assert "label" in found


def test_keys_lead_everywhere(shown: Watched, scene: Scene) -> None:
    page = shown.live("/")
    press = page.keyboard.press
    press("g")
    press("m")
    expect(page.get_by_role("heading", name="Missions", exact=True)).to_be_visible()
    page.locator('.live-state[data-state="live"]').wait_for(state="attached")
    press("j")
    press("j")
    press("j")
    press("k")
    chosen = page.locator("[data-row][data-chosen]")
    expect(chosen).to_have_count(1)
    expect(chosen).to_have_id(f"row-{scene.ids['coding']}")
    press("Enter")
    expect(page.get_by_role("heading", name="Add --json to the report command")).to_be_visible()
    page.go_back()
    press("/")
    page.keyboard.type("parser")
    press("Enter")
    page.wait_for_url(re.compile("text=parser"))
    expect(page.locator("[data-row]")).to_have_count(2)
    press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    press("Escape")
    expect(page.get_by_role("dialog", name="Keys")).to_be_hidden()
    for keys, heading in (("gv", "VPs"), ("ga", "Action log"), ("go", "Overview"), ("n", "New mission")):
        for key in keys:
            press(key)
        expect(page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
    page.get_by_label("Objective", exact=True).fill("")
    page.get_by_label("Objective", exact=True).press_sequentially("gm?jn/")
    expect(page.get_by_label("Objective", exact=True)).to_have_value("gm?jn/")
    expect(page.get_by_role("dialog", name="Keys")).to_be_hidden()


def test_a_page_begins_with_a_link_to_its_content(shown: Watched) -> None:
    page = shown.open("/missions")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()


def test_the_theme_that_was_chosen_stays(shown: Watched) -> None:
    page = shown.live("/")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_role("button", name="Switch between light and dark").click()
    dark = page.evaluate(ground)
    assert dark != light
    shown.open("/vps")
    assert page.evaluate(ground) == dark
    page.emulate_media(color_scheme="dark")
    page.get_by_role("button", name="Switch between light and dark").click()
    page.reload()
    assert page.evaluate(ground) == light, "whatever the system says"


@pytest.mark.parametrize("name", ["overview", "missions", "mission-running", "vp"])
def test_without_javascript_a_page_says_the_same(browser: Browser, scene: Scene, shown: Watched, name: str) -> None:
    def words(watched: Watched) -> set[str]:
        watched.page.wait_for_load_state("load")
        text = watched.page.locator("main").inner_text()
        # Times run and are told in the reader's own zone; the chart, whose legend has dashes, is a picture.
        return {line for line in map(str.strip, text.splitlines()) if line and not re.search(r"\d|--$", line)}

    with looking(browser, scene.server, java_script_enabled=False) as plain:
        plain.open(scene.address(name))
        shown.open(scene.address(name))
        assert words(shown) <= words(plain)
        assert len(words(plain)) > 10


def test_without_javascript_its_forms_work(browser: Browser, scene: Scene) -> None:
    with looking(browser, scene.server, java_script_enabled=False, logged_in=False) as watched:
        page = watched.open("/missions/new")
        page.get_by_label("Token").fill(scene.server.token)
        page.get_by_role("button", name="Log in").click()
        page.get_by_label("VP", exact=True).select_option(RESEARCH)
        page.get_by_label("Objective", exact=True).fill("Summarize nothing.")
        page.get_by_role("button", name="Dispatch").click()
        expect(page.get_by_role("heading", name="Summarize nothing.")).to_be_visible()
        page.get_by_role("button", name="Cancel the mission").click()
        expect(page.locator("#live .badge").first).to_have_text("cancelled")
        watched.open(f"/vps/{GENERAL}")
        page.get_by_placeholder("Reason").fill("without a script")
        page.get_by_role("button", name="Pause").click()
        expect(page.locator("#live .badge").first).to_have_text("paused: without a script")
        page.get_by_role("button", name="Resume").click()
        expect(page.locator("#live .badge").first).to_have_text("running")
