"""Mutants of what holds a hostile program."""

from __future__ import annotations

import json
import os
import types
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tests.mutants import mutant


@mutant
def no_process_limit() -> None:
    """Programs may fork as often as they like."""
    _told_to_launchers(max_processes=0)


@mutant
def environment_passed_through() -> None:
    """A program gets all of the worker's environment, as from any ordinary spawn."""
    from vp_queue.worker import control

    honest = control.program_environment

    def generous(worker_environment: Mapping[str, str], *args: Any, **named: Any) -> dict[str, str]:
        return {**os.environ, **honest(worker_environment, *args, **named)}

    control.program_environment = generous


@mutant
def nothing_redacted() -> None:
    """No value counts as a secret."""
    from vp_queue.worker import control

    control.secrets_of = lambda environment: ()


@mutant
def no_user_switch() -> None:
    """``run_as`` prepares everything, but the program keeps the worker's rights."""
    _told_to_launchers(account=None)


@mutant
def any_owner() -> None:
    """Whatever a program moved into ``work_products/`` is published, whoever owns it."""
    from vp_queue.worker import artifacts

    honest = artifacts.collect
    artifacts.collect = lambda folder, *, owner_uid: honest(folder)  # type: ignore[misc]


@mutant
def workspace_left_open() -> None:
    """An attempt's folder stays shared after its program has ended."""
    from vp_queue.worker import runner

    runner.take_back = lambda path: None


@mutant
def trusting_walk() -> None:
    """What lies in ``work_products/`` is taken for what it seems, links followed, as a plain walk would."""
    from vp_queue.worker import artifacts, confined

    def opened(folder: int, name: bytes) -> tuple[int, os.stat_result]:
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        return descriptor, os.fstat(descriptor)

    confined.open_regular = opened
    artifacts._Walk._file_reason = lambda self, about: None  # type: ignore[method-assign]
    artifacts._Walk._name_reason = lambda self, name, path: None  # type: ignore[method-assign]


@mutant
def unbounded_walk() -> None:
    """As many directory entries are looked at as there are."""
    _without_limit("entries")


@mutant
def unbounded_count() -> None:
    """As many artifacts are published as there are files."""
    _without_limit("count")


@mutant
def unbounded_size() -> None:
    """Files of any size are read."""
    _without_limit("file_bytes")


def _without_limit(name: str) -> None:
    from vp_queue.worker import artifacts

    honest = artifacts.collect
    limits = replace(artifacts.ArtifactLimits(), **{name: 2**62})
    artifacts.collect = lambda folder, *, owner_uid: honest(folder, limits=limits, owner_uid=owner_uid)  # type: ignore[misc]


@mutant
def exchanged_before_open() -> None:
    """No guard less, but a hand that is quicker: each ``bait`` is exchanged for ``../catch`` as it is opened."""
    from vp_queue.worker import confined

    honest_stat, exchanging = os.stat, [False]

    def stat_then_exchange(path: Any, **named: Any) -> os.stat_result:
        about = honest_stat(path, **named)
        if path == b"bait" and exchanging[0]:
            os.rename("../catch", b"bait", src_dir_fd=named["dir_fd"], dst_dir_fd=named["dir_fd"])
        exchanging[0] = path == b"bait" and not exchanging[0]  # the second look is the last before it is opened
        return about

    confined.os = _patched_os(stat=stat_then_exchange)  # type: ignore[attr-defined]
    from vp_queue.worker import artifacts

    artifacts.os = confined.os  # type: ignore[attr-defined]


@mutant
def opened_by_name() -> None:
    """A file is opened by its name, whatever has that name by now."""
    from vp_queue.worker import artifacts, confined

    def opened(folder: int, name: bytes) -> tuple[int, os.stat_result]:
        confined.os.stat(name, dir_fd=folder, follow_symlinks=False)
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        return descriptor, os.fstat(descriptor)

    confined.open_regular = opened
    artifacts._Walk._name_reason = lambda self, name, path: None  # type: ignore[method-assign]


def _patched_os(**functions: Any) -> Any:
    patched = types.ModuleType("os")
    patched.__dict__.update(os.__dict__)
    patched.__dict__.update(functions)
    return patched


@mutant
def unbounded_log() -> None:
    """All that a program prints is kept."""
    _told_to_launchers(log_tail_bytes=2**40)


@mutant
def small_output_limit() -> None:
    """No guard less: a program may print 4 MiB only, so that passing the limit takes no hour."""
    _told_to_launchers(output_limit_bytes=4 * 1024 * 1024)


def _told_to_launchers(**changes: Any) -> None:
    from vp_queue.worker import process

    honest = process._specification

    def changed(program: process.Program) -> tuple[dict[str, Any], list[int]]:
        specification, fds = honest(program)
        return {**specification, **changes}, fds

    process._specification = changed


@mutant
def hoarding_launcher() -> None:
    """A launcher that keeps in memory what it writes to the log."""
    from vp_queue.worker import standby

    hoarding = (
        "from vp_queue.worker.log import BoundedLog; hoard = []; write = BoundedLog.write; "
        "BoundedLog.write = lambda log, data: (hoard.append(bytes(data)), write(log, data)); "
    )
    standby._BOOT = standby._BOOT.replace("main(int", f"{hoarding}main(int")


@mutant
def unbounded_report_line() -> None:
    """A line of a report is collected until it ends."""
    from vp_queue.contracts import limits

    limits.REPORT_LINE_BYTES = 2**40  # type: ignore[misc]


@mutant
def trusting_reports() -> None:
    """A report is taken to be what it should be."""
    from vp_queue.worker import reports

    def line(self: reports.ReportReader, text: bytes) -> None:
        report = json.loads(text)
        self._into.progress(report.get("progress"), report.get("message"))
        self._into.result = report.get("result")

    reports.ReportReader._line = line  # type: ignore[method-assign]
