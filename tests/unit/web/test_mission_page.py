"""One mission's page: what it shows of a real run, what can be done there, and what it made."""

from __future__ import annotations

import contextlib
import io
import re
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest

from tests import ended as long_ago
from tests.harness import GENERAL, Home, command, ended, ok, shell, status
from tests.web_pages import Page, browser
from vp_queue import missions, missions_artifacts, missions_seen, tools
from vp_queue.contracts import Status
from vp_queue.contracts.requests import ReadResultArtifacts
from vp_queue.web import archive, dashboard_mission, previews

PNG = b"\x89PNG\r\n\x1a\n and so on"
MAKES = r"""
cd "$VP_WORK_PRODUCTS"
printf '# Report\n\nIt is [there](https://example.org/).\n' > report.md
printf '{"a": [1, 2]}' > data.json
printf 'name,size\nroof,2\n' > table.csv
printf -- '--- a\n+++ b\n@@ -1 +1 @@\n-old\n+new\n' > change.diff
printf '<svg xmlns="http://www.w3.org/2000/svg" onload="x()"/>' > drawing.svg
printf '\211PNG\r\n\032\n and so on' > picture.png
printf 'a\000b\001' > raw.bin
printf 'not here' > not.png
mkdir 'a folder'; printf 'one\ntwo\n' > "a folder/it's 100%.txt"
echo a line of the log
echo '{"progress": 0.5, "message": "half way"}' >&$VP_REPORT_FD
echo '{"usage": {"input_tokens": 70, "output_tokens": 15, "cost_usd": 3.0}}' >&$VP_REPORT_FD
echo '{"result": "All is well"}' >&$VP_REPORT_FD
"""


@pytest.fixture
def made(home: Home) -> str:
    """A mission that ran, used most of its tokens, and made files of all kinds."""
    home.consumer()
    mission = shell(MAKES, budget={"max_tokens": 100, "max_duration_seconds": 600}, metadata={"ticket": "42"})
    done = ended(mission["mission_id"])
    assert done["status"] == "completed", done
    return str(mission["mission_id"])


def test_everything_about_a_run_is_on_its_page(home: Home, made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ok(tools.vp_read_events(reader="simone", acknowledge=0))
    last = ok(tools.vp_read_events(reader="simone"))["last_seq"]
    ok(tools.vp_read_events(reader="simone", acknowledge=last))
    with browser() as operator:
        page = operator.get(f"/missions/{made}")
        monkeypatch.setattr(dashboard_mission, "EVENTS_SHOWN", 2)
        newest = operator.get(f"/missions/{made}")
        (older,) = [link for link in newest.links() if "before=" in link]
        past = operator.get(older)
        assert "by somebody (python)" not in newest.words
        assert "by somebody (python)" in past.words, "the beginning stands on a page of its own"
        assert "hx-get" not in past.having(id="live")[0][1], "an old page stands still"
    for words in ("completed", "All is well", "a line of the log", "ticket", "42", "exit code 0", "half way"):
        assert words in page.words, words
    assert "85 of 100 near its limit" in page.words, "the budget against the use"
    assert "acknowledged simone" in page.words
    assert str(home.workspace(made)) in page.words, "where it worked"
    ((_, bar), *_) = page.having(**{"aria-label": "Tokens"})
    assert float(bar["value"]) == pytest.approx(0.85)
    assert page.having(**{"data-events": f"/api/v1/events?mission_id={made}"}), "live by this mission's events only"
    assert not [named for _, named in page.elements if "data-running" in named], "its log grows no more"
    assert f"/missions/{made}/artifacts/a%20folder/it%27s%20100%25.txt" in page.links()
    published = ok(tools.vp_read_result_artifacts(mission_id=made))["artifacts"]
    assert all(each["sha256"] in page.text for each in published), "hashes in full, to be copied"


def test_many_artifacts_are_listed_page_by_page(home: Home, made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard_mission, "ARTIFACTS_SHOWN", 6)
    listed: list[str] = []
    with browser() as operator:
        address: str | None = f"/missions/{made}"
        while address:
            links = operator.get(address).links()
            listed += [link for link in links if link.startswith(f"/missions/{made}/artifacts/")]
            address = next((link for link in links if re.search(r"[?]files=[1-9]", link)), None)
        assert len(listed) == len(set(listed)) == 9
        head = operator.head(f"/missions/{made}/artifacts.zip")
        assert head.status_code == 200
        assert head.content == b""


def test_a_failure_says_why_and_can_be_retried_with_guidance_once(home: Home) -> None:
    home.consumer()
    mission_id = command("sh", "-c", "echo the reason; exit 3")["mission_id"]
    ended(mission_id)
    with browser() as operator:
        page = operator.get(f"/missions/{mission_id}")
        assert "exit_nonzero" in page.words
        assert "the reason" in page.words
        form = page.form(f"/missions/{mission_id}/retry")
        first, again = operator.send(form, guidance="other\r\nwise"), operator.send(form, guidance="other\r\nwise")
        assert first.headers["location"].partition("?")[0] == again.headers["location"].partition("?")[0]
        new = operator.follow(first)
        assert "Dispatched again" in new.words
        assert "other wise" in new.words
        assert f"/missions/{mission_id}" in new.links(), "its lineage"
        assert "nothing was dispatched a second time" in operator.follow(again).words
        new_id = first.headers["location"].partition("?")[0]
        assert new_id in operator.get(f"/missions/{mission_id}").links()


def test_a_mission_is_cancelled_with_a_reason_and_twice_does_nothing(home: Home) -> None:
    mission_id = command("true")["mission_id"]
    with browser() as operator:
        form = operator.get(f"/missions/{mission_id}").form(f"/missions/{mission_id}/cancel")
        assert "Cancel requested" in operator.follow(operator.send(form, reason="not needed")).words
        page = operator.follow(operator.send(form))
        assert "Nothing changed" in page.words
        assert "not needed" in page.words
        assert "by somebody (dashboard)" in page.words
    assert status(mission_id) == "cancelled"


def test_a_mission_that_cannot_be_retried_says_so(home: Home) -> None:
    mission_id = command("true")["mission_id"]
    with browser() as operator:
        form = operator.get(f"/missions/{mission_id}").form(f"/missions/{mission_id}/cancel")
        form.action = f"/missions/{mission_id}/retry"
        answer = operator.send(form)
        assert answer.status_code == 409
        assert "only a failed, cancelled or expired mission can be retried" in Page(answer.text).words


def test_a_failed_mission_is_marked_as_seen_from_its_page(home: Home) -> None:
    missions.ready()
    mission_id = long_ago.mission(timedelta(hours=1), Status.FAILED)
    with browser() as operator:
        form = operator.get(f"/missions/{mission_id}").form(f"/missions/{mission_id}/seen")
        page = operator.follow(operator.send(form))
        assert "Marked as seen" in page.words
        assert f"/missions/{mission_id}/seen" not in [each.action for each in page.forms]
    assert missions_seen.mark_seen(mission_id).changed == 0


def test_a_question_is_shown_with_its_mission(home: Home) -> None:
    missions.ready()
    mission_id = long_ago.mission(timedelta(hours=1), Status.NEEDS_INPUT)
    with browser() as operator:
        page = operator.get(f"/missions/{mission_id}")
        assert "which?" in page.words
        assert [named for _, named in page.elements if "data-running" in named] or "Log" not in page.words


def test_a_mission_that_is_not_there_is_told(home: Home) -> None:
    with browser() as operator:
        page = operator.get("/missions/m-0000000000-000000", 404)
        assert "No mission m-0000000000-000000" in page.words


def test_an_artifact_is_previewed_as_what_it_is(home: Home, made: str) -> None:
    expected = {
        "report.md": ("markdown", "It is there."),
        "data.json": ("json", '"a": ['),
        "table.csv": ("table", "roof"),
        "change.diff": ("diff", "+new"),
        "drawing.svg": ("text", 'onload="x()"'),
        "picture.png": ("image", ""),
        "raw.bin": ("hex", "61 00 62 01"),
        "a folder/it's 100%.txt": ("text", "one"),
    }
    with browser() as operator:
        links = operator.get(f"/missions/{made}").links()
        for path, (kind, says) in expected.items():
            asked = tools.parsed(ReadResultArtifacts, {"mission_id": made, "paths": [path]})
            (view,) = missions_artifacts.read_result(asked).artifacts
            assert previews.preview(view).kind == kind, path
            address = f"/missions/{made}/artifacts/{quote(path)}"
            assert address in links
            page = operator.get(address)
            assert says in page.text
            assert view.sha256 in page.text
            assert "svg" not in [tag for tag, _ in page.elements]
        # A picture comes as itself, and may do nothing but be looked at.
        answer = operator.raw(f"/missions/{made}/image/picture.png")
        assert answer.status_code == 200
        assert answer.content == PNG
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in answer.headers["content-security-policy"]
        assert answer.headers["accept-ranges"] == "bytes"  # sent in pieces like every download, never held whole
        for path in ("not.png", "drawing.svg", "missing.png"):
            operator.get(f"/missions/{made}/image/{path}", 404)


def test_a_changed_and_a_missing_file_are_told_and_not_shown(home: Home, made: str) -> None:
    folder = home.workspace(made) / "work_products"
    (folder / "report.md").write_text("other than what was published")
    (folder / "data.json").unlink()
    with browser() as operator:
        page = operator.get(f"/missions/{made}")
        assert "report.md changed" in page.words
        assert "data.json missing" in page.words
        changed = operator.get(f"/missions/{made}/artifacts/report.md")
        assert "no longer matches the hash" in changed.words
        assert "other than what" not in changed.words
        assert "not there any more" in operator.get(f"/missions/{made}/artifacts/data.json").words


def test_a_long_text_is_shown_to_a_limit_that_is_told(home: Home) -> None:
    home.consumer()
    mission_id = shell('seq 100000 > "$VP_WORK_PRODUCTS/long.txt"')["mission_id"]
    ended(mission_id)
    with browser() as operator:
        answer = operator.raw(f"/missions/{mission_id}/artifacts/long.txt")
        assert "The beginning is shown" in answer.text
        assert len(answer.content) < 200_000


def test_all_artifacts_come_as_a_zip_without_those_that_were_changed(home: Home, made: str) -> None:
    (home.workspace(made) / "work_products" / "report.md").write_text("forged")
    with browser() as operator:
        answer = operator.raw(f"/missions/{made}/artifacts.zip")
        assert answer.status_code == 200
        assert answer.headers["content-disposition"].startswith("attachment")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archived:
        assert archived.testzip() is None
        names = archived.namelist()
        assert f"{made}/work_products/a folder/it's 100%.txt" in names
        assert archived.read(f"{made}/work_products/picture.png") == PNG
        assert f"{made}/work_products/report.md" not in names
        manifest = archived.read(f"{made}/MANIFEST.txt").decode()
    assert "LEFT OUT  report.md" in manifest
    sums = [line.split("  ", 1) for line in manifest.splitlines() if line[:1].isalnum() and len(line) > 66]
    published = ok(tools.vp_read_result_artifacts(mission_id=made))["artifacts"]
    left = {each["path"]: each["sha256"] for each in published if each["path"] != "report.md"}
    assert {path: digest for digest, path in sums if len(digest) == 64} == left
    assert b"forged" not in answer.content


def test_a_file_that_is_changed_while_it_is_read_ends_the_zip_before_its_end(
    home: Home, made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = missions_artifacts.open_artifact

    @contextlib.contextmanager
    def meddled(mission_id: str, path: str) -> Iterator[Any]:
        with honest(mission_id, path) as file:
            if path == "table.csv":
                (home.workspace(made) / "work_products" / path).write_text("name,size\nroof,9\n")
            yield file

    monkeypatch.setattr(archive.missions_artifacts, "open_artifact", meddled)
    with browser() as operator:
        cut = operator.raw(f"/missions/{made}/artifacts.zip").content
    assert not zipfile.is_zipfile(io.BytesIO(cut)), "what arrives is no ZIP file, rather than one with a forged file"


def test_a_mission_without_artifacts_has_no_zip(home: Home) -> None:
    mission_id = command("true", vp_id=GENERAL)["mission_id"]
    with browser() as operator:
        assert "has no artifacts" in operator.get(f"/missions/{mission_id}/artifacts.zip", 404).words
