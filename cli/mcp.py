"""mcp: the MCP server, over stdio or HTTP."""

from __future__ import annotations

import sys
from typing import Final

import click

from vp_queue.cli import output
from vp_queue.cli.main import without_collecting

LOOPBACK: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8786


@click.command("mcp")
@click.option("--http", "over_http", is_flag=True, help="Serve Streamable HTTP at /mcp instead of stdio.")
@click.option("--host", metavar="ADDRESS", show_default=LOOPBACK, help="Listen on this address.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), show_default=str(DEFAULT_PORT), help="Listen on this port; 0: any."
)
@click.option("--allow-host", multiple=True, metavar="NAME", help="Also answer requests for this host name.")
@click.option("--no-auth", is_flag=True, help="Ask for no token; on a loopback address only.")
@output.json_option
def mcp_command(
    over_http: bool, host: str | None, port: int | None, allow_host: tuple[str, ...], no_auth: bool, as_json: bool
) -> None:
    """Serve the tools to an agent host over MCP.

    Over stdio, an agent host starts this itself; docs/mcp.md has the configuration for each. Over HTTP, each
    request carries the bearer token that stands in VP_HOME's file `token` (or VP_TOKEN).

    \b
    Example:
      vp mcp
      vp mcp --http --port 8786
    """
    if not over_http:
        if allow_host or no_auth or host is not None or port is not None:
            raise click.UsageError("--host, --port, --allow-host and --no-auth go with --http.")
        without_collecting("vp_queue.mcp.stdio").run()
        return
    _serve_http(host or LOOPBACK, DEFAULT_PORT if port is None else port, allow_host, no_auth, as_json)


def _serve_http(host: str, port: int, allow_host: tuple[str, ...], no_auth: bool, as_json: bool) -> None:
    from vp_queue import config
    from vp_queue.mcp import access, http, sockets

    if no_auth and host not in access.LOOPBACK:
        raise click.UsageError(f"--no-auth would let anybody in: it is for {', '.join(access.LOOPBACK)} only.")
    if no_auth and allow_host:
        raise click.UsageError("--no-auth with --allow-host would let in those hosts' pages.")
    token = None
    if not no_auth:
        settings = config.load()
        config.ensure_home(settings)
        token = access.token_of(settings)
    opened = sockets.listen(host, port)
    address, bound = opened.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    if no_auth:
        click.echo("Warning: without a token, every program on this machine may delegate to your VPs.", err=True)
    url = f"http://{shown}:{bound}{http.PATH}"
    click.echo(f"MCP server on {url}", err=True)
    if as_json:
        output.print_json({"ok": True, "url": url, "auth": not no_auth})
        sys.stdout.flush()
    http.serve(opened, token=token, hosts=(*access.LOOPBACK, host, *allow_host))
