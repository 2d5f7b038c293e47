"""The attempt's own process for work that is Python: imports a callable, runs it, tells how it went.

The worker starts it like any program, through the launcher, so that cancelling, time limits and the proof
that nothing is left hold for it too; and a callable that leaks, crashes or blocks hurts nobody else.

argv: the folder that holds ``vp_queue``. Standard input: JSON, ``{"callable", "path", "arguments"}``; not argv, which
every user of the machine can read.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final, NoReturn

from vp_queue.executors.context import MESSAGE_CHARS, MissionContext, MissionFailed, send_report

GROUP: Final = "vp_queue.callables"
MODEL_KEY_VARIABLE: Final = "VP_MODEL_API_KEY"
RESULT_CHARS: Final = 8_000  # the worker cuts it further; one report line must hold it
_BOOT: Final = "import sys; sys.path.append(sys.argv[1]); from vp_queue.executors.child import main; main()"


def command(callable_name: str, path: Sequence[str], arguments: Mapping[str, Any]) -> tuple[list[str], bytes]:
    """The argv and standard input of a child that runs a callable, for the worker to start.

    Args:
        callable_name: ``module:function``, or the name of an entry point in :data:`GROUP`.
        path: folders to import from.
        arguments: for the callable; JSON-able.
    """
    wanted = json.dumps({"callable": callable_name, "path": list(path), "arguments": dict(arguments)})
    package_parent = str(Path(__file__).resolve().parents[2])
    # Isolated: no PYTHON* variable and no module of the mission's folder changes what is imported.
    return [sys.executable, "-I", "-u", "-X", "utf8", "-c", _BOOT, package_parent], wanted.encode()


def main() -> None:
    """Run what the worker asked for; exits with 0 if it succeeded."""
    wanted = json.loads(sys.stdin.buffer.read())
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), sys.stdin.fileno())  # what the callable starts shall not find our words there
    sys.path[:0] = wanted["path"]
    mission = mission_from_files(wanted["arguments"])
    set_at_sigterm(mission.cancelled)
    try:
        result = _result(load(wanted["callable"])(mission))
    except SystemExit as left:
        # Success is to return: a library that gave up may well exit with 0.
        _fail("executor_error", f"The callable left by sys.exit({left.code!r}). Let it return, or raise MissionFailed.")
    except MissionFailed as failed:
        print(f"failed ({failed.code}): {failed.message}", file=sys.stderr)
        _fail(failed.code, failed.message)
    except Exception as error:
        traceback.print_exc()
        _fail("executor_error", f"{type(error).__name__}: {error}")
    if result is not None:
        send_report({"result": result[:RESULT_CHARS]})


def set_at_sigterm(event: threading.Event) -> None:
    """Set an event at SIGTERM, from a thread.

    A signal handler would run in the main thread between any two steps of it, also while it holds the event's own
    lock (``event.wait``, ``event.is_set`` in a loop), and ``set`` would wait for that lock for ever.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGTERM, lambda *_: None)  # or the number would not come through the pipe
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def wait() -> None:
        while signal.SIGTERM not in os.read(reader, 1):
            pass
        event.set()

    threading.Thread(target=wait, name="sigterm", daemon=True).start()
    _keep_forks_apart()


def _keep_forks_apart() -> None:
    """A forked child has no such thread, and the pipe is its parent's: SIGTERM ends it, from its first moment on."""
    before = threading.local()

    def block() -> None:
        before.mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before.mask)

    def end_at_sigterm() -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        unblock()

    os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=end_at_sigterm)


def _result(returned: object) -> str | None:
    if returned is None or isinstance(returned, str):
        return returned
    raise TypeError(f"the callable returned {type(returned).__name__}; a short text or None is wanted")


def _fail(code: str, message: str) -> NoReturn:
    send_report({"failure": {"code": code, "message": message[:MESSAGE_CHARS]}})
    sys.exit(1)


def mission_from_files(arguments: Mapping[str, Any]) -> MissionContext:
    """The mission, from the environment and ``mission.json``."""
    workspace = Path(os.environ["VP_WORKSPACE"])
    told = json.loads((workspace / "mission.json").read_text(encoding="utf-8"))
    has_target = "target_path" in told["constraints"]
    return MissionContext(
        mission_id=told["mission_id"],
        vp_id=told["vp_id"],
        attempt=told["attempt"],
        objective=told["objective"],
        guidance=told["guidance"],
        constraints=told["constraints"],
        budget=told["budget"],
        metadata=told["metadata"],
        arguments=arguments,
        workspace=workspace,
        work_products=Path(os.environ["VP_WORK_PRODUCTS"]),
        target_path=Path.cwd() if has_target else None,
    )


def load(name: str) -> Callable[[MissionContext], object]:
    """The callable of this name.

    Raises:
        MissionFailed: there is none; ``executor_unavailable``, since another attempt would find none either.
    """
    found: Any
    try:
        if ":" in name:
            module, _, attributes = name.partition(":")
            found = importlib.import_module(module)
            for attribute in attributes.split("."):
                found = getattr(found, attribute)
        else:
            found = _entry_point(name)
    except (ImportError, AttributeError) as error:
        traceback.print_exc()
        message = f"The callable {name!r} cannot be loaded: {error}. Correct options.callable or options.path."
        raise MissionFailed("executor_unavailable", message) from error
    if not callable(found):
        message = f"{name!r} is {type(found).__name__}, which cannot be called. Correct options.callable."
        raise MissionFailed("executor_unavailable", message)
    return found  # type: ignore[no-any-return]


def _entry_point(name: str) -> Any:
    for distribution in distributions():
        for point in distribution.entry_points:
            if (point.group, point.name) == (GROUP, name):
                return point.load()
    raise ImportError(f"no installed package has an entry point {name!r} in the group {GROUP}")
