"""``[notify]``: what a table states and inherits, and which mistakes are told with their line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.harness import CODER, GENERAL
from vp_queue import config
from vp_queue.config import Settings
from vp_queue.config_notify import Notify
from vp_queue.errors import ConfigurationError

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "notifications.md"
HOOK = 'secret_env = "HOOK"\nurl = "https://hooks.example:8443/secret-path?secret=query"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    return folder / "vp_queue.toml"


def load(file: Path, text: str) -> Settings:
    file.write_text(text)
    return config.load({"VP_HOME": str(file.parent)})


def test_nobody_is_told_by_default(file: Path) -> None:
    assert load(file, "").vps[CODER].notify.sinks == ()


def test_a_vp_inherits_key_by_key_and_may_be_silent(file: Path) -> None:
    settings = load(file, f'[notify]\n{HOOK}max_attempts = 3\n[vp."{CODER}".notify]\nurl = ""\ncommand = ["tell"]\n')
    assert [sink.kind for sink in settings.vps[GENERAL].notify.sinks] == ["webhook"]
    assert [sink.kind for sink in settings.vps[CODER].notify.sinks] == ["command"]
    assert settings.vps[CODER].notify.max_attempts == 3


def test_what_stands_in_the_ledger_holds_no_path_and_no_arguments(file: Path) -> None:
    notify = load(file, f'[notify]\n{HOOK}command = ["tell", "--token=secret"]\n').notify
    shown = [text for sink in notify.sinks for text in (sink.key, sink.label)]
    assert not any("secret" in text for text in shown)
    assert "https://hooks.example:8443" in shown


def test_one_address_is_one_receiver_whoever_names_it(file: Path) -> None:
    settings = load(file, f'[notify]\n{HOOK}[vp."{CODER}".notify]\nevents = ["mission.failed"]\n')
    assert settings.vps[CODER].notify.sinks == settings.vps[GENERAL].notify.sinks


def test_it_is_no_part_of_what_a_consumer_must_be_restarted_for(file: Path) -> None:
    before = load(file, "").vps[CODER].digest
    assert load(file, f"[notify]\n{HOOK}").vps[CODER].digest == before


REFUSED = {
    "an unknown key": ("commnd = []", "commnd", "did you mean command?"),
    "an unknown event": ('events = ["mission.complete"]', "events[0]", "did you mean mission.completed?"),
    "a command for a shell": ('command = "notify-send x"', "command", "give a list"),
    "an empty program": ('command = [""]', "command", "the program"),
    "NUL in an argument": ('command = ["x", "\\u0000"]', "command[1]", "NUL"),
    "a variable of ours": ('env_allow = ["VP_TOKEN"]', "env_allow[0]", "never passed on"),
    "a key in place of its name": ('secret_env = "whsec_abc="', "secret_env", "no name of an environment variable"),
    "no url": ('secret_env = "HOOK"\nurl = "hooks.example"', "url", "http or https"),
    "another scheme": ('secret_env = "HOOK"\nurl = "file:///etc/passwd"', "url", "http or https"),
    "a port that is none": ('secret_env = "HOOK"\nurl = "http://127.0.0.1:99999/"', "url", "http or https"),
    "a control character": ('secret_env = "HOOK"\nurl = "https://a.example/\\u001b"', "url", "ASCII"),
    "a password": ('secret_env = "HOOK"\nurl = "https://u:p@a.example/"', "url", "leave user"),
    "plain http over a network": ('secret_env = "HOOK"\nurl = "http://a.example/"', "url", "use https"),
    "an unsigned webhook": ('url = "https://a.example/"', "url", "secret_env"),
    "too patient": ("timeout_seconds = 121", "timeout_seconds", "less than or equal to 120"),
    "no attempt": ("max_attempts = 0", "max_attempts", "greater than or equal to 1"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("table", ["notify", f'vp."{CODER}".notify'])
def test_a_mistake_is_told_with_file_key_and_line(file: Path, what: str, table: str) -> None:
    text, key, problem = REFUSED[what]
    with pytest.raises(ConfigurationError, match=re.escape(problem)) as refused:
        load(file, f"[{table}]\n{text}\n")
    assert refused.value.details["key"] == f"{table}.{key}"
    assert refused.value.details["line"] == 2 + text.count("\n")


def test_a_table_that_is_none_is_refused(file: Path) -> None:
    with pytest.raises(ConfigurationError, match="give a table"):
        load(file, "notify = 1")


def test_the_document_names_every_key_and_no_other() -> None:
    table = DOCUMENT.read_text().partition("<!-- check: notify-keys -->\n")[2].partition("\n\n")[0]
    named = re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE)
    assert set(named) == set(Notify.model_fields)
