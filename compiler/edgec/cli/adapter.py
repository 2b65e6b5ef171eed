"""`edgec adapter`."""

from __future__ import annotations

from pathlib import Path

import click

from edgec.errors import OutputError

EPILOG = """\
Examples:

\b
  edgec compile ./my-model --profile phone-6gb --adapters 16 -o my-model.edgec
  edgec adapter ./my-adapter --base my-model.edgec
  edgec chat my-model.edgec --adapter my-adapter.lora
"""


@click.command(epilog=EPILOG)
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option("--base", type=click.Path(path_type=Path), required=True, metavar="BUNDLE", help="A bundle of its model.")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The model's Hugging Face folder, where its family names or orders its linears in a way of its own.",
)
@click.option("--name", help="Its name  [default: that of the folder].")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Where the file goes  [default: NAME.lora].")
@click.option("--force", is_flag=True, help="Replace what is at the output, whatever it is.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors.")
def command(
    adapter: Path,
    base: Path,
    model: Path | None,
    name: str | None,
    output: Path | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make a small file of ADAPTER that is put into a loaded model, and taken out, at run time.

    ADAPTER is a LoRA adapter as the peft library saves it. The bundle was compiled with `--adapters RANK`; every such
    bundle of the model takes the file, whatever its device and bits. `edgec compile --lora` merges an adapter instead.
    """
    from edgec.adapters import make_adapter, write
    from edgec.bundle.adapters import SUFFIX
    from edgec.cli import console
    from edgec.report.units import mebibytes

    output = output or Path((name or adapter.resolve().name).replace("/", "-") + SUFFIX)
    if output.exists() and not force and (output.is_dir() or output.suffix != SUFFIX):
        raise OutputError(f"`{output}` exists", hint="choose another place, or pass `--force` to replace it")
    content = make_adapter(adapter, base, source=model, name=name)
    write(content, output)
    if as_json:
        console.print_json({"adapter": str(output), "base": str(base), "bytes": len(content)})
    elif not quiet:
        out = console.stdout()
        out.print(f"\n  [bold green]{console.plain(output)}[/]  {mebibytes(len(content))}\n")
        out.print(f"  [dim]edgec chat {console.plain(base)} --adapter {console.plain(output)}   use it here[/]\n")
