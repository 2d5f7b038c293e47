"""What ``cancel --all`` and ``retry --all`` do: ask, then go on until every matching mission was looked at."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from vp_queue import clock, missions_bulk, tools
from vp_queue.cli import output
from vp_queue.cli.options import filtered, given
from vp_queue.contracts.overview import BulkAnswer
from vp_queue.contracts.selections import CancelMatching, RetryMatching

Request = TypeVar("Request", CancelMatching, RetryMatching)


def cancel(chosen: dict[str, Any], reason: str | None, as_json: bool) -> None:
    """Cancel all missions that match."""
    request = _request(CancelMatching, chosen, given(reason=reason))
    done = _all(request, missions_bulk.cancel_matching, "Cancel", chosen["yes"])
    _tell(done, f"Asked {done['changed']:,} missions to end. Follow: vp top", as_json)


def retry(chosen: dict[str, Any], guidance: str | None, key: str | None, as_json: bool) -> None:
    """Dispatch all missions again that match."""
    token = key or clock.new_token()
    request = _request(RetryMatching, chosen, {"token": token, **given(guidance=guidance)})
    done = _all(request, missions_bulk.retry_matching, "Dispatch again", chosen["yes"])
    _tell(done, f"Dispatched {done['changed']:,} missions again. Follow: vp top", as_json)


def _request(model: type[Request], chosen: dict[str, Any], more: dict[str, Any]) -> Request | None:
    """The request, up to the newest mission there is; None where there are no missions."""
    newest = missions_bulk.newest_mission_id()
    if newest is None:
        return None
    return tools.parsed(model, {**filtered(**chosen), **more, "through_mission_id": newest})


def _all(request: Request | None, act: Callable[[Request], BulkAnswer], word: str, yes: bool) -> dict[str, Any]:
    """Act until nothing is left; returns the sum of the answers."""
    total: dict[str, Any] = {"ok": True, "matched": 0, "changed": 0, "failed": 0, "errors": [], "retried": []}
    if request is None:
        return total
    total["matched"] = missions_bulk.count_matching(request)
    if not total["matched"]:
        return total
    if not yes:
        _confirm(f"{word} {total['matched']:,} {'mission' if total['matched'] == 1 else 'missions'}?")
    while True:
        answer = act(request)
        told = answer.dump()
        for name in ("changed", "failed", "errors", "retried"):
            total[name] += told[name]
        if answer.left == 0:
            return total
        request = request.model_copy(update={"after_mission_id": answer.continue_after})


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody can be asked here: add --yes.")
    click.confirm(question, abort=True, err=True)


def _tell(done: dict[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        output.print_json(done)
        return
    click.echo(text if done["matched"] else "No mission matches that could be changed.")
    for error in done["errors"]:
        click.echo(f"{error['mission_id']} is left as it is: {output.line(error['message'])}", err=True)
    unnamed = done["failed"] - len(done["errors"])
    if unnamed > 0:
        click.echo(f"… and {unnamed:,} more", err=True)
