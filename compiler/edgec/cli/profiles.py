"""`edgec profiles`: the device classes that models are compiled for."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgec.errors import OutputError, UsageError

if TYPE_CHECKING:
    from edgec.profiles import Profile

# The facts that the overview shows, with the heads of their columns.
OVERVIEW = {
    "memory.usable": "memory",
    "budget.download": "download",
    "cpu.threads": "threads",
    "cpu.bandwidth": "bandwidth",
}


@click.group(
    invoke_without_command=True,
    epilog="Examples:\n\n\b\n  edgec profiles\n  edgec profiles show phone-8gb\n  edgec profiles measure",
)
@click.pass_context
def command(context: click.Context) -> None:
    """Device profiles: what a class of devices can hold and how fast it is, each number with its source."""
    if context.invoked_subcommand is None:
        context.invoke(list_profiles)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print every fact as JSON.")
def list_profiles(as_json: bool = False) -> None:
    """List the profiles that edgec brings along."""
    from edgec import profiles
    from edgec.cli import console

    loaded = [profiles.load(name) for name in profiles.names()]
    if as_json:
        console.print_json({profile.name: _document(profile) for profile in loaded})
        return
    table = console.table("profile", *OVERVIEW.values(), "tier", "what it is", right=list(OVERVIEW.values()))
    for profile in loaded:
        facts = [profiles.query(profile, key).text for key in OVERVIEW]
        table.add_row(f"[bold]{profile.name}[/]", *facts, profile.tier, console.plain(profile.title))
    console.stdout().print(table)


@command.command("show", epilog="Example:\n\n\b\n  edgec profiles show phone-8gb")
@click.argument("profile", metavar="PROFILE")
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
def show_profile(profile: str, as_json: bool) -> None:
    """Show every number of PROFILE (a name, or a .toml file) and where it comes from."""
    from edgec import profiles
    from edgec.cli import console

    loaded = profiles.load(profile)
    if as_json:
        console.print_json(_document(loaded))
        return
    out = console.stdout()
    out.print(f"\n[bold]{loaded.name}[/]  {console.plain(loaded.title)}, tier {loaded.tier}")
    if loaded.missing:
        out.print(f"[dim]for the next tier: {console.plain(loaded.missing)}[/]")
    table = console.table("fact", "value", "basis", "source", right=["value"])
    for key, fact in loaded.facts.items():
        table.add_row(key, fact.text, fact.basis, console.plain(fact.source))
    out.print(table)


@command.command("measure", epilog="Example:\n\n\b\n  edgec profiles measure -o my-machine.toml")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default=Path("this-machine.toml"),
    show_default=True,
    help="Where the profile goes; its name is the file's.",
)
@click.option("--threads", "-t", type=click.IntRange(1, 64), help="Processors to use  [default: all].")
@click.option("--force", is_flag=True, help="Replace the file.")
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
def measure_profile(output: Path, threads: int | None, force: bool, as_json: bool) -> None:
    """Measure this machine and write its profile.

    A decoder and a small network are lowered and run in wasmtime, for about a minute. The machine should have nothing
    else to do.
    Then `edgec compile --profile ./this-machine.toml --dry-run` predicts what `edgec bench` measures here.
    """
    import importlib.metadata

    from edgec import profiles
    from edgec.cache import Cache, default_folder
    from edgec.cli import console, machine
    from edgec.cli.inspect import write_text
    from edgec.run.engine import available_threads

    name = machine.check_name(output)
    if output.exists() and not force:
        raise OutputError(f"`{output}` exists", hint="choose another place, or pass `--force` to replace it")
    count = threads or available_threads()
    if count > (os.cpu_count() or 1):
        raise UsageError(f"this machine has no {count} processors", hint="leave `--threads` out")
    with console.stderr().status("measuring"):
        measured = machine.measure(count, Cache(default_folder()))
    try:
        write_text(output, machine.profile_text(name, measured, count, importlib.metadata.version("wasmtime")))
    except OSError as error:
        raise OutputError(f"`{output}` cannot be written ({error.strerror})") from error
    if as_json:
        console.print_json(_document(profiles.load(output)))
        return
    click.echo(f"{output} written")


def _document(profile: Profile) -> dict[str, object]:
    return {
        "title": profile.title,
        "tier": profile.tier,
        "missing": profile.missing,
        "platform": profile.platform,
        "facts": {key: asdict(fact) for key, fact in profile.facts.items()},
    }
