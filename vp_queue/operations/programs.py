"""Where supervisord's files stand, and the programs that follow from the configuration.

``supervisord.conf`` is literal and ships with the package. What it cannot know is written to
``run/supervisord.d/``: a program for each further VP, ``autostart=false`` for a disabled one.

supervisord splits and expands paths (a blank, ``%`` or ``[`` in VP_HOME breaks it), and the path of a
Unix socket holds 107 bytes. Where VP_HOME is too long or not plain enough, a short private folder in
/tmp, named by a hash of VP_HOME, holds the run files, a link to VP_HOME, and a copy of the
configuration that names them instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vp_queue.config import Settings
from vp_queue.errors import ConfigurationError

TEMPLATE: Final = Path(__file__).parents[1] / "supervisord.conf"
KEEPER: Final = "keeper"
WEB: Final = "web"

_PATTERN_VP: Final = "vp.general.primary"  # the program that others are copied from
_HOME: Final = "%(ENV_VP_HOME)s"
_PLAIN: Final = re.compile(r"/[A-Za-z0-9/._+@=-]*")
_SOCKET_BYTES: Final = 107
# supervisord binds "<socket>.<pid>" first and links it into place.
_PID_SUFFIX_BYTES: Final = 11
# Not TMPDIR: `vp up` and `vp status` must find the same folder whatever their environments say.
_SHORT_ROOT: Final = Path("/tmp")


@dataclass(frozen=True)
class Place:
    """The files of one installation's supervisord.

    Attributes:
        home: VP_HOME.
        short: the private folder that stands in for it, or None where VP_HOME itself will do.
    """

    home: Path
    short: Path | None

    @property
    def conf(self) -> Path:
        """The configuration to start supervisord with."""
        return self.short / "supervisord.conf" if self.short else TEMPLATE

    @property
    def run(self) -> Path:
        """Holds the socket, the pid file and the generated programs."""
        return (self.short or self.home) / "run"

    @property
    def socket(self) -> Path:
        """Where supervisord listens."""
        return self.run / "supervisor.sock"

    @property
    def generated(self) -> Path:
        """One file for each program that the configuration adds or changes."""
        return self.run / "supervisord.d"

    @property
    def lock(self) -> Path:
        """Held by a running supervisord until it is dead."""
        return self.home / "run" / "supervisord.lock"

    def log(self, program: str) -> Path:
        """Where a program's output goes."""
        return self.home / "logs" / f"{program}.log"

    def filled_in(self, text: str) -> str:
        """A piece of configuration with VP_HOME as this installation writes it."""
        if self.short is None:
            return text
        return text.replace(f"{_HOME}/run", f"{self.short}/run").replace(_HOME, f"{self.short}/home")


def place(home: Path) -> Place:
    """Where the files of this VP_HOME's supervisord are or would be; nothing is made."""
    socket_bytes = len(os.fsencode(home / "run" / "supervisor.sock")) + _PID_SUFFIX_BYTES
    if socket_bytes <= _SOCKET_BYTES and _PLAIN.fullmatch(str(home)):
        return Place(home, None)
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    return Place(home, _SHORT_ROOT / f"{_stand_in_prefix()}{digest}")


def stand_ins() -> list[Place]:
    """The places of this user whose run/ is in a short folder, whatever became of their VP_HOME."""
    found = []
    for folder in _SHORT_ROOT.glob(f"{_stand_in_prefix()}*"):
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid == os.getuid() and not folder.is_symlink():
                found.append(Place(Path(os.readlink(folder / "home")), folder))
    return found


def _stand_in_prefix() -> str:
    return f"vp-queue-{os.getuid()}-"


def write(where: Place, settings: Settings) -> None:
    """Bring the files up to date with the configuration.

    Raises:
        ConfigurationError: the short folder is not ours alone.
    """
    if where.short is not None:
        _make_private(where.short)
        link = where.short / "home"
        if not link.is_symlink():
            link.symlink_to(where.home)
        _write(where.conf, where.filled_in(TEMPLATE.read_text(encoding="utf-8")))
    for folder in (where.run, where.generated):
        folder.mkdir(mode=0o700, exist_ok=True)
    wanted = {f"{name}.conf": where.filled_in(text) for name, text in generated_programs(settings).items()}
    # supervisord complains about an include that matches nothing.
    wanted["0.conf"] = "; Written by `vp up` from vp_queue.toml; changes here are lost.\n"
    for stale in where.generated.glob("*.conf"):
        if stale.name not in wanted:
            stale.unlink()
    for name, text in wanted.items():
        _write(where.generated / name, text)


def generated_programs(settings: Settings) -> dict[str, str]:
    """The configuration's own programs, and its changes to the literal ones, by VP."""
    template = TEMPLATE.read_text(encoding="utf-8")
    literal = re.findall(r"^\[program:(vp\..+)\]$", template, re.MULTILINE)
    pattern = _section(template, _PATTERN_VP)
    programs = {}
    for vp_id, profile in settings.vps.items():
        if vp_id not in literal and profile.enabled:
            programs[vp_id] = pattern.replace(_PATTERN_VP, vp_id)
        elif vp_id in literal and not profile.enabled:
            programs[vp_id] = f"[program:{vp_id}]\nautostart=false\n"
    if not settings.web.enabled:
        programs[WEB] = f"[program:{WEB}]\nautostart=false\n"
    return programs


def wanted_programs(settings: Settings) -> list[str]:
    """The programs without which missions do not run or are not repaired."""
    return [KEEPER, *(vp_id for vp_id, profile in settings.vps.items() if profile.enabled)]


def watched_programs(settings: Settings) -> list[str]:
    """The programs that should be running; the web face may fail to, and nothing else fails for it."""
    return [*wanted_programs(settings), *([WEB] if settings.web.enabled else [])]


def _section(template: str, program: str) -> str:
    # From a line of its own: comments name sections too.
    after = template[template.index(f"\n[program:{program}]\n") + 1 :]
    return after.partition("\n\n")[0].rstrip() + "\n"


def _make_private(folder: Path) -> None:
    """Make a folder in /tmp, where anyone may have put something of that name before us."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) != 0o700:
            raise ConfigurationError(
                f"{folder}, which stands in for a VP_HOME with a long or unusual path, is not a folder of this user "
                "only (0700). Remove it, or choose a short plain VP_HOME.",
                path=str(folder),
            ) from None


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".new")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(text)
    os.replace(temporary, path)
