"""``vp backup`` and ``vp restore``: what they say, and what they refuse. What they do under load is in tests/faults."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Home, close_ledger
from tests.unit.cli.driver import Cli
from vp_queue.ledger import database, locks, restore

OPENS = """
import os, sys
os.open(sys.argv[1], os.O_RDONLY)
if sys.argv[2:]:
    os.unlink(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


def test_what_a_person_reads(cli: Cli, home: Home, tmp_path: Path) -> None:
    cli.dispatched()
    code, out, err = cli("backup", str(tmp_path / "b.db"))
    assert (code, err) == (0, "")
    for told in (str(tmp_path / "b.db").split("/")[-1], "KiB", "missions", "mission.dispatched at 2"):
        assert told in out
    assert stat.S_IMODE((tmp_path / "b.db").stat().st_mode) == 0o600
    close_ledger()
    code, out, err = cli("restore", str(tmp_path / "b.db"))
    assert (code, err) == (0, "")
    for told in ("restored", "kept", "before-restore-", "Next: vp up --detach"):
        assert told in out


def test_a_relative_name_is_of_this_folder(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.dispatched()
    monkeypatch.chdir(tmp_path)
    assert cli.json("backup", "here.db")[1]["file"] == str(tmp_path / "here.db")


def test_a_file_is_replaced_only_if_asked_to(cli: Cli, tmp_path: Path) -> None:
    cli.dispatched()
    copy = tmp_path / "b.db"
    copy.write_text("precious")
    code, _, err = cli("backup", str(copy))
    assert code == 2
    assert "exists already" in err
    assert "Next: --force replaces it" in err
    assert copy.read_text() == "precious"
    assert cli.json("backup", str(copy), "--force")[1]["missions"] == 1
    assert os.listdir(tmp_path).count("b.db") == 1


def test_what_no_force_replaces(cli: Cli, home: Home, tmp_path: Path) -> None:
    cli.dispatched()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(home.database)
    os.link(home.database, tmp_path / "hard")
    for name, why in (
        (f"{home.database}", "the ledger's own"),
        (f"{home.database}-wal", "the ledger's own"),
        (f"{home.database}-shm", "the ledger's own"),
        (f"{home.database}.migrate", "the ledger's own"),
        (f"{tmp_path}/link", "the ledger's own"),
        (f"{tmp_path}/hard", "the ledger's own"),
        (f"{tmp_path}/fifo", "no regular file"),
        (f"{tmp_path}", "no regular file"),
        (f"{tmp_path}/none/b.db", "No such file"),
        (f"{tmp_path}/b.db/b.db", "No such file"),
    ):
        code, answer = cli.json("backup", name, "--force")
        assert (code, answer["error"]["code"]) == (2, "validation_error"), name
        assert why in answer["error"]["message"]
        assert answer["error"]["details"]["field"] == "file"


def test_a_ledger_that_is_not_there_is_not_backed_up(cli: Cli, home: Home, tmp_path: Path) -> None:
    code, answer = cli.json("backup", str(tmp_path / "b.db"))
    assert (code, answer["error"]["code"]) == (75, "ledger_unavailable")
    assert not home.database.exists()


@pytest.mark.parametrize("what", ["missing", "folder", "text", "empty", "another database", "half"])
def test_what_is_no_backup_changes_nothing(cli: Cli, home: Home, tmp_path: Path, what: str) -> None:
    cli.dispatched()
    file = tmp_path / "file"
    if what == "folder":
        file.mkdir()
    elif what == "text":
        file.write_text("no database " * 1000)
    elif what == "empty":
        file.touch()
    elif what == "another database":
        subprocess.run(
            [sys.executable, "-c", f"import cysqlite; cysqlite.connect({str(file)!r}).execute('CREATE TABLE a (b)')"]
        )
    elif what == "half":
        cli("backup", str(file))
        os.truncate(file, file.stat().st_size // 2)
    close_ledger()
    before = {path.name for path in home.path.glob("vp_state.db*")}, home.database.read_bytes()
    code, answer = cli.json("restore", str(file))
    assert (code, answer["error"]["code"]) == (2, "validation_error"), answer
    assert str(file) in answer["error"]["message"]
    assert ({path.name for path in home.path.glob("vp_state.db*")}, home.database.read_bytes()) == before
    assert cli.json("list")[1]["counts"]["queued"] == 1


def test_a_ledgers_own_file_with_its_log_is_a_backup_too(cli: Cli, home: Home, tmp_path: Path) -> None:
    cli.dispatched()
    close_ledger()
    other = tmp_path / "other.db"
    for suffix in ("", "-wal"):
        (tmp_path / f"other.db{suffix}").write_bytes(Path(f"{home.database}{suffix}").read_bytes())
    before = other.read_bytes()
    home.database.unlink()
    assert cli.json("restore", str(other))[1]["missions"] == 1
    assert other.read_bytes() == before
    assert sorted(path.name for path in tmp_path.glob("other.db*")) == ["other.db", "other.db-wal"]


def test_a_backup_copied_into_place_by_hand_works(cli: Cli, home: Home, tmp_path: Path) -> None:
    cli.dispatched()
    cli("backup", str(tmp_path / "b.db"))
    close_ledger()
    for path in home.path.glob("vp_state.db*"):
        path.unlink()
    home.database.write_bytes((tmp_path / "b.db").read_bytes())
    cli.dispatched()
    assert database.current().db.execute_sql("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_a_ledger_elsewhere_behind_a_link_is_replaced_there(cli: Cli, home: Home, tmp_path: Path) -> None:
    cli.dispatched()
    cli("backup", str(tmp_path / "b.db"))
    close_ledger()
    (tmp_path / "disk").mkdir()
    for suffix in ("", "-wal", "-shm"):
        os.rename(f"{home.database}{suffix}", tmp_path / "disk" / f"vp_state.db{suffix}")
    home.database.symlink_to(tmp_path / "disk" / "vp_state.db")
    assert cli("restore", str(tmp_path / "b.db"))[0] == 0
    assert home.database.is_symlink()
    assert cli.json("list")[1]["counts"]["queued"] == 1


def test_a_move_that_fails_puts_the_old_ledger_back(
    cli: Cli, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.dispatched()
    cli("backup", str(tmp_path / "b.db"))
    close_ledger()

    def refuses(source: object, target: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(restore.os, "replace", refuses)
    code, answer = cli.json("restore", str(tmp_path / "b.db"))
    assert (code, answer["error"]["code"]) == (2, "validation_error")
    assert "Input/output error" in answer["error"]["message"]
    monkeypatch.undo()
    monkeypatch.setenv("VP_HOME", str(home.path))
    assert cli.json("list")[1]["counts"]["queued"] == 1


def restored_where_a_call_fails(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, fails: Callable[..., bool]
) -> str:
    """What a restore says when one of its calls of the operating system meets a broken disk."""
    cli.dispatched()
    cli("backup", str(tmp_path / "b.db"))
    cli.dispatched()
    close_ledger()
    real = getattr(os, call)

    def broken(*args: Any) -> Any:
        if fails(*args):
            raise OSError(5, "Input/output error")
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, broken)
        code, answer = cli.json("restore", str(tmp_path / "b.db"))
    assert code != 0
    message: str = answer["error"]["message"]
    assert "Input/output error" in message
    return message


def test_the_second_of_the_ledgers_files_that_cannot_be_moved_puts_the_first_one_back(
    cli: Cli, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def the_log(source: str, target: str) -> bool:
        return str(source) == f"{home.database}-wal"

    message = restored_where_a_call_fails(cli, tmp_path, monkeypatch, "rename", the_log)
    assert "nothing was changed" in message
    assert cli.json("list")[1]["counts"]["queued"] == 2
    assert list(home.path.glob("*before-restore*")) == []


def test_files_that_cannot_be_moved_back_either_are_named(
    cli: Cli, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def the_log_and_back(source: str, target: str) -> bool:
        return str(source) == f"{home.database}-wal" or str(target) == str(home.database)

    message = restored_where_a_call_fails(cli, tmp_path, monkeypatch, "rename", the_log_and_back)
    (kept,) = home.path.glob("*before-restore*")
    assert "nothing was changed" not in message
    assert str(kept) in message
    assert cli("restore", str(tmp_path / "b.db"))[0] == 0
    assert cli.json("list")[1]["counts"]["queued"] == 1


def test_a_restore_that_the_disk_does_not_confirm_says_that_the_ledger_was_replaced(
    cli: Cli, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def the_folder_with_the_new_one(descriptor: int) -> bool:
        return os.readlink(f"/proc/self/fd/{descriptor}") == str(home.path) and bool(kept())

    def kept() -> list[Path]:
        return list(home.path.glob("*before-restore*"))

    message = restored_where_a_call_fails(cli, tmp_path, monkeypatch, "fsync", the_folder_with_the_new_one)
    assert "was replaced, but" in message
    assert str(min(kept())) in message
    assert cli.json("list")[1]["counts"]["queued"] == 1


def test_a_later_attempts_folder_that_cannot_be_moved_is_told_with_what_was_done(
    cli: Cli, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = home.workspace(cli.dispatched())
    folder.mkdir(parents=True)

    def the_attempts(source: object, target: object) -> bool:
        return str(source) == str(folder)

    message = restored_where_a_call_fails(cli, tmp_path, monkeypatch, "rename", the_attempts)
    kept = min(home.path.glob("*before-restore*"))
    assert "nothing was changed" not in message
    for told in ("was replaced by", str(folder), "restore once more before `vp up`", kept.name):
        assert told in message
    assert cli.json("list")[1]["counts"]["queued"] == 2
    assert cli.json("restore", str(tmp_path / "b.db"))[1]["moved"] != []


def test_who_has_the_ledger_open_is_found_also_when_it_was_removed(cli: Cli, home: Home) -> None:
    cli.dispatched()
    assert locks.users(home.database) == {}
    for removes in ([], ["too"]):
        process = subprocess.Popen(
            [sys.executable, "-c", OPENS, str(home.database), *removes], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        users = locks.users(home.database)
        process.communicate()
        assert list(users) == [process.pid]
        assert sys.executable in users[process.pid]


def test_doctor_checks_the_file(cli: Cli, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.dispatched()
    found = {check["name"]: check for check in cli.json("doctor")[1]["checks"]}["integrity"]
    assert (found["ok"], found["detail"]) == (True, "ok")
    monkeypatch.setattr("vp_queue.contracts.limits.CHECKED_BYTES", 0)
    found = {check["name"]: check for check in cli.json("doctor")[1]["checks"]}["integrity"]
    assert found["ok"] is None
    assert "vp backup" in found["fix"]
