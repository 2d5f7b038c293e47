"""mcp: the MCP server, over stdio or HTTP."""

from __future__ import annotations

import sys

import click

from vp_queue.cli import output


@click.command("mcp")
@click.option("--http", "over_http", is_flag=True, help="Serve Streamable HTTP at /mcp instead of stdio.")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Listen on this address.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=8786, show_default=True, help="Listen on this port; 0: any."
)
@click.option("--allow-host", multiple=True, metavar="NAME", help="Also answer requests for this host name.")
@click.option("--no-auth", is_flag=True, help="Ask for no token; on a loopback address only.")
@output.json_option
def mcp_command(
    over_http: bool, host: str, port: int, allow_host: tuple[str, ...], no_auth: bool, as_json: bool
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
        from vp_queue.mcp import stdio

        stdio.run()
        return
    _serve_http(host, port, allow_host, no_auth, as_json)


def _serve_http(host: str, port: int, allow_host: tuple[str, ...], no_auth: bool, as_json: bool) -> None:
    from vp_queue import config
    from vp_queue.mcp import access, http

    if no_auth and host not in access.LOOPBACK:
        raise click.UsageError(f"--no-auth would let anybody in: it is for {', '.join(access.LOOPBACK)} only.")
    token = None
    if not no_auth:
        settings = config.load()
        config.ensure_home(settings)
        token = access.token_of(settings)
    opened = http.listen(host, port)
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
