"""`edgec serve`: bundles and the demo page on this machine."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import click

from edgec.errors import UsageError


@click.command(epilog="Example:\n\n\b\n  edgec serve smollm2.edgec minilm.edgec --open")
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...", type=click.Path(path_type=Path))
@click.option("--port", default=8080, show_default=True, help="0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; others can then connect.")
@click.option(
    "--no-isolation", is_flag=True, help="Leave out COOP/COEP, as most web hosts do: one thread, no shared memory."
)
@click.option("--open", "open_browser", is_flag=True, help="Open the page in the default browser.")
@click.option("--quiet", "-q", is_flag=True, help="Print the address alone.")
def command(
    bundles: tuple[Path, ...], port: int, host: str, no_isolation: bool, open_browser: bool, quiet: bool
) -> None:
    """Serve compiled bundles together with the demo page.

    Files get the right types, range requests work, and the page is cross-origin isolated so that threads are
    available. Nothing leaves this machine.
    """
    from edgec import resources
    from edgec.cli import console
    from edgec.cli.server import Server, site

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
    with Server(content, host, port) as server:
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


def _check(bundle: Path) -> None:
    if not (bundle / "manifest.json").is_file():
        raise UsageError(
            f"`{bundle}` is not a bundle", hint="`edgec compile MODEL --profile PROFILE -o OUT.edgec` makes one"
        )
