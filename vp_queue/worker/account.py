"""The Unix user that a program runs as, where the profile names one (``run_as``).

Who that is, and what keeps it from working here: asked at dispatch, by ``vp doctor``, and again at the start of
an attempt. Whether a folder lets the user pass is found out by trying, as that user: modes alone tell nothing of
access control lists, security modules and mounts.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vp_queue.config import Profile, Settings
from vp_queue.errors import TargetPathDenied

TRY_SECONDS: Final = 10.0
# What a worker needs to start, watch and end a program of another user, and to read what it made.
CAPABILITIES: Final = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
}
# Executors whose program is this Python with this package.
IN_PYTHON: Final = ("model", "python")
_ENTER: Final = 'for f; do cd -- "$f" 2>/dev/null || { printf %s "$f"; exit 1; }; done'
_READ: Final = 'for f; do test -r "$f" || { printf %s "$f"; exit 1; }; done'


@dataclass(frozen=True)
class Account:
    """A Unix user, as the system's databases know it.

    Attributes:
        name: as the profile writes it.
        uid, gid: user and primary group.
        groups: all groups, the primary one too.
        home, shell: as in the passwd entry.
    """

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str

    @classmethod
    def named(cls, name: str) -> Account:
        """Look the user up.

        Raises:
            KeyError: there is none of that name.
        """
        entry = pwd.getpwnam(name)
        groups = tuple(os.getgrouplist(name, entry.pw_gid))
        return cls(name, entry.pw_uid, entry.pw_gid, groups, entry.pw_dir, entry.pw_shell)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that a login sets."""
        return {"HOME": self.home, "USER": self.name, "LOGNAME": self.name, "SHELL": self.shell or "/bin/sh"}

    def cannot_enter(self, folders: Iterable[Path]) -> str | None:
        """The first of these folders that the user may not pass through, or None."""
        return self._first_refused(_ENTER, folders)

    def cannot_read(self, files: Iterable[Path]) -> str | None:
        """The first of these files that the user may not read, or None."""
        return self._first_refused(_READ, files)

    def check_target(self, target: Path) -> None:
        """Raises:
        TargetPathDenied: a program of this user could not start in that folder.
        """
        if self.cannot_enter([target]) is not None:
            raise TargetPathDenied(
                f"constraints.target_path {str(target)!a} is denied: user {self.name!r}, as whom the programs of "
                "this VP run (run_as), may not enter it; let that user in, or choose another folder.",
                field="constraints.target_path",
                rule="run_as",
            )

    def _first_refused(self, script: str, paths: Iterable[Path]) -> str | None:
        wanted = [str(path) for path in paths]
        try:
            tried = subprocess.run(
                ["/bin/sh", "-c", script, "sh", *wanted],
                user=self.uid,
                group=self.gid,
                extra_groups=self.groups,
                env={},
                cwd="/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TRY_SECONDS,
                check=False,
            )
        except (OSError, subprocess.SubprocessError):
            return wanted[-1]  # not to be had in time is not to be had
        return (os.fsdecode(tried.stdout) or wanted[-1]) if tried.returncode else None


def obstacle(profile: Profile, settings: Settings) -> str | None:
    """What keeps this profile's programs from running as its ``run_as`` here, with the remedy; None if nothing."""
    name = profile.run_as
    if name is None:
        return None
    try:
        account = Account.named(name)
    except KeyError:
        return f"there is no user {name!r} on this host; make one (useradd --create-home {name}), or correct run_as"
    if account.uid in (0, os.geteuid()):
        whom = "root" if account.uid == 0 else "the user that the worker itself runs as"
        return f"run_as = {name!r} is {whom}, which protects nothing; name another user, or leave run_as out"
    missing = _missing_capabilities()
    if missing:
        return (
            f"this process may not run programs as {name!r} (it lacks {', '.join(missing)}); "
            "run vp up, or vp worker, as root, or leave run_as out"
        )
    return _unreachable(account, settings) or (_unreadable(account) if profile.executor in IN_PYTHON else None)


def _missing_capabilities() -> list[str]:
    held = ~0
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        # Root has its capabilities in the launcher too; of anybody else's, a new program keeps the ambient ones.
        if name == "CapEff" or (name == "CapAmb" and os.geteuid() != 0):
            held &= int(value, 16)
    return [name for name, bit in CAPABILITIES.items() if not held >> bit & 1]


def _unreachable(account: Account, settings: Settings) -> str | None:
    root = settings.workspaces_root
    there = [folder for folder in (*reversed(root.parents), root) if folder.exists()]
    blocked = account.cannot_enter(there)
    if blocked is None:
        return None
    if Path(blocked) == settings.home:
        remedy = (
            "VP_HOME stays private; set workspaces_root in vp_queue.toml to a folder outside it, such as "
            "/srv/vp-workspaces"
        )
    else:
        remedy = f'let it pass: chmod o+x "{blocked}"'
    return f"user {account.name!r} cannot reach the workspaces root {root}: {blocked} keeps it out. {remedy}"


def _unreadable(account: Account) -> str | None:
    package = Path(__file__).resolve().parents[1]
    blocked = account.cannot_read((Path(sys.executable), package / "executors" / "child.py"))
    if blocked is None:
        return None
    return (
        f"user {account.name!r} cannot read vp-queue's own Python, which this executor runs: {blocked}. "
        "Install vp-queue where everybody may read, such as /opt/vp-queue"
    )
