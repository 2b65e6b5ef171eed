"""`edgec serve`: bundles and the demo page on this machine."""

from __future__ import annotations

import errno
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgec.errors import UsageError

if TYPE_CHECKING:
    from edgec.cli.server import Server, Site

DEFAULT_PORT, TRIED_PORTS = 8080, 20


@click.command(epilog="Example:\n\n\b\n  edgec serve smollm2.edgec minilm.edgec --open")
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...", type=click.Path(path_type=Path))
@click.option(
    "--port", type=click.IntRange(0, 65535), help="0 takes any free one.  [default: 8080, or the next free one]"
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; others can then connect.")
@click.option(
    "--no-isolation", is_flag=True, help="Leave out COOP/COEP, as most web hosts do: one thread, no shared memory."
)
@click.option("--open", "open_browser", is_flag=True, help="Open the page in the default browser.")
@click.option("--quiet", "-q", is_flag=True, help="Print the address alone.")
def command(
    bundles: tuple[Path, ...], port: int | None, host: str, no_isolation: bool, open_browser: bool, quiet: bool
) -> None:
    """Serve compiled bundles together with the demo page.

    Files get the right types, range requests work, and the page is cross-origin isolated so that threads are
    available. Nothing leaves this machine.
    """
    from edgec import resources
    from edgec.cli import console
    from edgec.cli.server import site

    named: dict[str, Path] = {}
    for bundle in bundles:
        _check(bundle)
        name = bundle.resolve().name
        if name in named:
            raise UsageError(f"two bundles are called `{name}`", hint="rename one of them")
        named[name] = bundle
    runtime = resources.runtime_directory()
    if not runtime.is_dir():
        raise UsageError("the JavaScript runtime is not built", hint="run `make runtime` in the checkout")
    content = site(
        named,
        demo=resources.demo_directory(),
        runtime=runtime,
        isolated=not no_isolation,
        any_host=host not in ("127.0.0.1", "localhost", "::1"),
    )
    with _listen(content, host, port) as server:
        if quiet:
            click.echo(server.url)
        else:
            out = console.stdout()
            out.print(
                f"\n  [bold]edgec[/bold] serves {console.plural(len(named), 'bundle')} at [bold cyan]{server.url}[/]"
            )
            out.print("  [dim]Ctrl-C stops it[/]\n")
        if open_browser:
            webbrowser.open(server.url)
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            if not quiet:
                click.echo("stopped", err=True)


def _listen(content: Site, host: str, port: int | None) -> Server:
    """On `port`, or on the first free one of a few when none was asked for."""
    from edgec.cli.server import Server

    if port is not None:
        return Server(content, host, port)
    for candidate in range(DEFAULT_PORT, DEFAULT_PORT + TRIED_PORTS):
        try:
            return Server(content, host, candidate)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return Server(content, host, 0)


def _check(bundle: Path) -> None:
    """A page whose model does not load is a worse place to hear of it."""
    from edgec.bundle import read

    if not (bundle / "manifest.json").is_file():
        raise UsageError(
            f"`{bundle}` is not a bundle", hint="`edgec compile MODEL --profile PROFILE -o OUT.edgec` makes one"
        )
    read(bundle)
