"""The dashboard in a real browser, before real consumers: what a person does there, and sees without reloading."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser import WITHIN_MS, Dashboard, Watched, fill_dispatch, looking
from tests.harness import CODER, GENERAL, alive_with_environment, command, ended, ok, shell, status, until
from tests.unit.web.test_hostile_pages import HOSTILE, NAMES, WRITES
from vp_queue import tools

expect.set_options(timeout=WITHIN_MS)
AT_ITS_END = """() => {
  const box = document.querySelector("[data-log]");
  return box.scrollHeight > box.clientHeight + 50 && box.scrollTop + box.clientHeight > box.scrollHeight - 5;
}"""
UNTIL_TOLD = 'printf "waiting\\n"; while [ ! -e "$VP_WORKSPACE/go" ]; do sleep 0.05; done; '


def dispatched(page: Page, script: str, **more: Any) -> str:
    """Dispatch a script by the form; the mission's id, on whose page the browser then is."""
    fill_dispatch(page, script, **more)
    page.get_by_role("button", name="Dispatch").click()
    page.wait_for_url(re.compile(r"/missions/m-"))
    return page.url.partition("/missions/")[2].partition("?")[0]


def state(page: Page) -> Locator:
    """A mission page's own status."""
    return page.locator("#live > .row .badge").first


def test_a_wrong_token_is_refused_with_a_message_and_the_right_one_leads_where_it_was_going(
    browser: Browser, dashboard: Dashboard
) -> None:
    with looking(browser, dashboard.server, logged_in=False) as watched:
        watched.expected.append("401")
        page = watched.open("/vps?from=a-link")
        assert page.url == f"{dashboard.url}/login?next=/vps%3Ffrom%3Da-link"
        page.get_by_label("Token").fill("not the token")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_have_text("This is not the token.")
        page.get_by_label("Token").fill(dashboard.server.token)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("heading", name="VPs", exact=True)).to_be_visible()
        assert page.url == f"{dashboard.url}/vps?from=a-link"
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Token")).to_be_visible()
        for path in ("/", "/missions", "/missions/new", "/vps", f"/vps/{GENERAL}", "/actions"):
            assert "/login?next=" in watched.open(path).url, path


def test_a_mission_dispatched_by_the_form_runs_and_ends_before_ones_eyes(
    dashboard: Dashboard, watched: Watched
) -> None:
    page = watched.open(f"/missions/new?vp={GENERAL}")
    script = (
        UNTIL_TOLD + 'printf "# Roses\\n\\n- are **red**\\n" > "$VP_WORK_PRODUCTS/poem.md"; printf "last words\\n"; '
        'echo \'{"progress": 0.5, "message": "half of it"}\' >&3; '
        'while [ ! -e "$VP_WORKSPACE/end" ]; do sleep 0.05; done'
    )
    mission_id = dispatched(page, script, objective="Write a poem of roses.")
    expect(page.get_by_role("status")).to_contain_text("Dispatched.")
    page.evaluate("globalThis.notReloaded = true")
    expect(state(page)).to_have_text("running")
    log = page.locator("[data-log]")
    expect(log).to_contain_text("waiting")
    workspace = dashboard.home.workspace(mission_id)
    (workspace / "go").touch()
    expect(log).to_contain_text("last words")
    expect(page.get_by_text("half of it").first).to_be_visible()
    (workspace / "end").touch()
    expect(state(page)).to_have_text("completed")
    expect(page.get_by_role("link", name="poem.md", exact=True)).to_be_visible()
    assert page.evaluate("globalThis.notReloaded"), "the page was loaded again"

    page.get_by_role("link", name="poem.md", exact=True).click()
    expect(page.locator(".markdown h1")).to_have_text("Roses")
    expect(page.locator(".markdown li strong")).to_have_text("red")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "poem.md"
    assert download.value.path().read_text() == "# Roses\n\n- are **red**\n"


def test_a_log_is_followed_while_it_grows_until_one_looks_back(dashboard: Dashboard, watched: Watched) -> None:
    script = (
        'i=0; while [ ! -e "$VP_WORKSPACE/end" ]; do i=$((i+1)); printf "line %s\\n%.0s" $i '
        '$(seq 60); sleep 0.2; done; printf "the very end\\n"'
    )
    mission_id = shell(script)["mission_id"]
    page = watched.live(f"/missions/{mission_id}")
    log = page.locator("[data-log]")
    expect(log).to_contain_text("line ")
    page.wait_for_function(AT_ITS_END)
    page.get_by_label("Follow its end").uncheck()
    log.evaluate("box => { box.scrollTop = 0; }")
    before = log.evaluate("box => box.textContent.length")
    page.wait_for_function("before => document.querySelector('[data-log]').textContent.length > before", arg=before)
    assert log.evaluate("box => box.scrollTop") == 0
    (dashboard.home.workspace(mission_id) / "end").touch()
    expect(log).to_contain_text("the very end")
    expect(state(page)).to_have_text("completed")
    assert log.evaluate("box => box.scrollTop") == 0, "what was read moved away"
    assert not page.get_by_label("Follow its end").is_checked()


def test_a_running_mission_is_cancelled_and_its_process_is_dead(watched: Watched) -> None:
    mission_id = command("sleep", "300")["mission_id"]
    watched.expected.append("^dialog: Cancel this mission")
    page = watched.live(f"/missions/{mission_id}")
    expect(state(page)).to_have_text("running")
    until(lambda: alive_with_environment("VP_MISSION_ID", mission_id), "its program runs")
    page.get_by_label("Reason").fill("nobody waits for it")
    page.get_by_role("button", name="Cancel the mission").click()
    expect(page.get_by_role("status")).to_contain_text("Cancel requested")
    expect(state(page)).to_have_text("cancelled")
    expect(page.get_by_text("nobody waits for it").first).to_be_visible()
    assert any("dialog: Cancel this mission?" in each for each in watched.troubles), "nobody was asked"
    assert not alive_with_environment("VP_MISSION_ID", mission_id)


def test_a_failed_mission_is_retried_with_guidance_and_both_show_it(watched: Watched) -> None:
    mission_id = shell("echo cannot find the door >&2; exit 3")["mission_id"]
    assert ended(mission_id)["status"] == "failed"
    page = watched.live(f"/missions/{mission_id}")
    expect(page.get_by_text("exit_nonzero").first).to_be_visible()
    expect(page.get_by_text("cannot find the door").first).to_be_visible()
    page.get_by_text("Retry with guidance").click()
    page.get_by_label("Guidance").fill("The door is on the left.")
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("status")).to_contain_text("as a new mission")
    retry_id = page.url.partition("/missions/")[2].partition("?")[0]
    assert retry_id != mission_id
    expect(page.get_by_text("The door is on the left.").first).to_be_visible()
    expect(state(page)).to_have_text("failed")
    lineage = page.get_by_role("region", name="Retries")
    lineage.get_by_role("link", name=mission_id).click()
    expect(page.get_by_role("region", name="Retries").get_by_role("link", name=retry_id)).to_be_visible()


def test_what_was_typed_is_kept_beside_what_is_wrong_with_it(watched: Watched) -> None:
    watched.expected.append("4(00|22)")
    page = watched.open("/missions/new")
    fill_dispatch(page, "true", objective="Something to keep.\nOn two lines.", vp_id=CODER)
    page.get_by_label("Duration").fill("soon")
    page.get_by_label("Priority").fill("1000")
    page.get_by_role("button", name="Dispatch").click()
    expect(page.get_by_role("alert")).to_contain_text("Not dispatched")
    expect(page.get_by_label("Duration")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("Duration")).to_have_value("soon")
    expect(page.locator(".field", has=page.get_by_label("Duration")).locator(".error")).to_contain_text("45m")
    expect(page.get_by_label("Objective", exact=True)).to_have_value("Something to keep.\nOn two lines.")
    expect(page.get_by_label("VP", exact=True)).to_have_value(CODER)
    page.get_by_label("Duration").fill("5m")
    page.get_by_role("button", name="Dispatch").click()
    expect(page.locator(".field", has=page.get_by_label("Priority")).locator(".error")).to_be_visible()
    page.get_by_label("Priority").fill("10")
    page.get_by_role("button", name="Dispatch").click()
    page.wait_for_url(re.compile(r"/missions/m-"))
    expect(state(page)).to_have_text("completed")


def test_a_vp_is_paused_with_a_reason_that_the_overview_tells_and_resumed(watched: Watched) -> None:
    page = watched.open(f"/vps/{CODER}")
    page.get_by_placeholder("Reason").fill("the house is painted")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("status")).to_contain_text("Paused.")
    mission_id = shell("true", vp_id=CODER)["mission_id"]
    watched.live("/")
    card = page.locator("article", has_text=CODER)
    expect(card).to_contain_text("paused: the house is painted")
    expect(card.locator(".figures")).to_contain_text("Queued1")
    assert status(mission_id) == "queued"
    watched.open(f"/vps/{CODER}")
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("status")).to_contain_text("Resumed.")
    assert ended(mission_id)["status"] == "completed"
    watched.open("/actions")
    for what, why in (("resumed", ""), ("paused", "the house is painted")):
        row = page.get_by_role("row").filter(has_text=what).first
        expect(row).to_contain_text("dashboard")
        expect(row).to_contain_text(why)


def test_all_that_match_are_cancelled_after_a_question(watched: Watched) -> None:
    running = [command("sleep", "300", source_session_id="bulk")["mission_id"] for _ in range(3)]
    other = command("sleep", "300", vp_id=CODER)["mission_id"]
    page = watched.live("/missions?session=bulk")
    expect(page.locator("[data-row]")).to_have_count(3)
    page.get_by_role("link", name=re.compile("Cancel all matching")).click()
    expect(page.get_by_text("up to 3 missions")).to_be_visible()
    assert all(status(each) in ("queued", "running") for each in running), "asked is not done"
    page.get_by_label("Reason").fill("the plan has changed")
    page.get_by_role("button", name="Cancel them").click()
    expect(page.get_by_role("status")).to_contain_text("Cancel requested for 3 of them")
    assert {ended(each)["status"] for each in running} == {"cancelled"}
    assert status(other) in ("queued", "running")
    ok(tools.vp_cancel_mission(mission_id=other))
    ended(other)


def test_a_failed_mission_needs_somebody_until_it_is_seen(watched: Watched) -> None:
    page = watched.live("/")
    needs = page.get_by_role("region", name="Needs you")
    mission_id = shell("exit 4", metadata={"name": "fragile"})["mission_id"]
    row = needs.get_by_role("listitem").filter(has=page.locator(f'[href="/missions/{mission_id}"]'))
    expect(row).to_contain_text("failed")
    row.get_by_role("button", name="Seen").click()
    expect(page.get_by_role("status")).to_contain_text("Marked as seen.")
    expect(row).to_have_count(0)


def test_hostile_texts_do_nothing_in_a_browser(watched: Watched) -> None:
    files = {"hostile.json": json.dumps([HOSTILE, NAMES]), "go.py": WRITES}
    asked = {
        "constraints": {"files": files},
        "metadata": {HOSTILE[:500]: HOSTILE[:900]},
        "source_session_id": HOSTILE[:200],
    }
    done, failed = (command("python3", "go.py", code, **asked)["mission_id"] for code in "01")
    assert [ended(each)["status"] for each in (done, failed)] == ["completed", "failed"]
    page = watched.page
    page.context.add_init_script("globalThis.pwned = () => console.error('pwned');")
    paths = [each["path"] for each in ok(tools.vp_read_result_artifacts(mission_id=done))["artifacts"]]
    for path in (
        "/",
        "/missions",
        f"/missions?text={quote(HOSTILE[:150])}",
        f"/missions/{done}",
        f"/missions/{failed}",
    ):
        watched.live(path)
        page.wait_for_function("() => document.title !== ''")
    for path in paths:
        watched.open(f"/missions/{done}/artifacts/{quote(path)}")
    page.wait_for_load_state("networkidle")
    assert "pwned" in page.content()
    assert watched.unexpected() == []


def test_control_what_hostile_texts_would_do_is_noticed(watched: Watched) -> None:
    watched.expected += ["policy violated: script-src", "violates the following Content Security Policy", "404"]
    page = watched.open("/vps")
    page.evaluate(
        """document.querySelector("main").insertAdjacentHTML("beforeend", "<img src=/x onerror='pwned()'>")"""
    )
    until(lambda: page.evaluate("1") and any("policy violated" in each for each in watched.troubles), "it is noticed")


def test_what_cannot_be_had_leaves_the_page_as_it_is_and_is_asked_for_again(watched: Watched) -> None:
    watched.expected += ["503", "401"]
    mission_id = command("true")["mission_id"]
    page = watched.live("/missions")
    listed, told = page.get_by_text(mission_id), page.locator(".live-state")
    expect(listed).to_be_visible()
    refuse = {"status": 503, "content_type": "text/html", "body": '<div id="live">Try again.</div>'}
    page.route("**/missions", lambda route: route.fulfill(**refuse))
    other = command("true")["mission_id"]
    expect(told).to_have_text("Not live, trying again")
    expect(listed).to_be_visible()
    page.unroute("**/missions")
    expect(page.get_by_text(other)).to_be_visible()
    expect(told).to_have_text("Live")

    page.context.clear_cookies()
    command("true")
    expect(told).to_have_text("Logged out: reload this page")
    expect(listed).to_be_visible()
