"""serve: the web face."""

from __future__ import annotations

import sys

import click

from vp_queue.cli import output


@click.command("serve")
@click.option("--host", metavar="ADDRESS", help="Listen on this address (127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65_535), help="Listen on this port (8787); 0: any.")
@click.option("--read-only", is_flag=True, help="Show, and refuse every change.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="Also answer requests for this host name.")
@click.option(
    "--allow-remote",
    is_flag=True,
    help="Let it listen on an address that other machines reach. Put TLS in front: the token passes in the clear.",
)
@output.json_option
def serve_command(
    host: str | None,
    port: int | None,
    read_only: bool,
    allow_host: tuple[str, ...],
    allow_remote: bool,
    as_json: bool,
) -> None:
    """Serve the HTTP API and the dashboard.

    Each request carries the bearer token that stands in VP_HOME's file `token` (or VP_TOKEN); a browser logs in
    with it. What is not given here stands in vp_queue.toml under [web]. `vp up` serves it too.

    \b
    Example:
      vp serve
      vp serve --port 0 --read-only
    """
    from vp_queue import config
    from vp_queue.errors import ConfigurationError
    from vp_queue.mcp import sockets

    settings = config.load()
    given = {"host": host, "port": port, "read_only": read_only or None, "allow_remote": allow_remote or None}
    web = settings.web.model_copy(update={name: value for name, value in given.items() if value is not None})
    if web.is_remote and not web.allow_remote:
        raise ConfigurationError(
            f"{web.host} can be reached from other machines, to which the token would pass in the clear. If that is "
            "meant, with TLS in front: vp serve --allow-remote, or allow_remote = true under [web]."
        )
    config.ensure_home(settings)
    opened = sockets.listen(web.host, web.port)
    from vp_queue.mcp import access

    token = access.token_of(settings)
    address, bound = opened.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    url = f"http://{shown}:{bound}/"
    click.echo(f"Dashboard and API on {url}" + (" (read-only)" if web.read_only else ""), err=True)
    click.echo(f"Log in with the token: cat {settings.token_path}", err=True)
    if as_json:
        output.print_json({"ok": True, "url": url, "read_only": web.read_only, "token": str(settings.token_path)})
        sys.stdout.flush()
    from vp_queue.web import app  # after the address: what takes long to import has nobody wait for an answer to it

    hosts = (*access.LOOPBACK, web.host, *web.allowed_hosts, *allow_host)
    app.serve(opened, token=token, hosts=hosts, read_only=web.read_only)
