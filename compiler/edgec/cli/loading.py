"""Loading a bundle from the command line, and the sampling options that `run` and `chat` share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgec.run import GenerationStats, Model

_OPTIONS = (
    click.option("--max-tokens", type=click.IntRange(min=1), metavar="N", help="Longest answer, in tokens."),
    click.option("--temperature", type=click.FloatRange(min=0), help="0 always takes the likeliest token."),
    click.option("--top-k", type=click.IntRange(min=0), help="Choose among the K likeliest; 0 for all."),
    click.option("--top-p", type=click.FloatRange(min=0, max=1, min_open=True), help="Choose within this probability."),
    click.option("--min-p", type=click.FloatRange(min=0, max=1), help="Leave out what is less likely, relatively."),
    click.option("--repetition-penalty", type=click.FloatRange(min=0, min_open=True), help="1 is none."),
    click.option("--seed", type=click.IntRange(min=0, max=2**32 - 1), help="The same seed gives the same answer."),
)
SAMPLING = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
_THREADS = click.option("--threads", type=click.IntRange(min=1), help="Default: all processors.")
_VARIANT = click.option("--variant", help="The wasm module, for example simd128. Default: the fastest that works.")

_DEPTH = click.option(
    "--depth",
    type=click.Choice(["4", "3", "2"]),
    help="Bits to use of the codes of a bundle that was compiled with `--nested`. Default: all.",
)

_ADAPTER = click.option(
    "--adapter", type=click.Path(path_type=Path), metavar="FILE", help="Answer with this adapter, see `edgec adapter`."
)

Decorated = Callable[..., Any]


def engine_options(command: Decorated) -> Decorated:
    """--threads and --variant."""
    return _THREADS(_VARIANT(command))


def depth_option(command: Decorated) -> Decorated:
    """--depth."""
    return _DEPTH(command)


def adapter_option(command: Decorated) -> Decorated:
    """--adapter."""
    return _ADAPTER(command)


def use_adapter(model: Model, file: Path | None) -> None:
    """Load it and answer with it, if there is one."""
    if file is not None:
        model.use_adapter(model.load_adapter(file))


def sampling_options(command: Decorated) -> Decorated:
    """The options named in `SAMPLING`, None where they are not given."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The sampling options that were given; the bundle's own defaults hold for the rest."""
    return {name: options[name] for name in SAMPLING if options.get(name) is not None}


def load(
    bundle: Path, *, variant: str | None, threads: int | None, depth: str | None = None, quiet: bool = False
) -> Model:
    """`edgec.load` with a progress bar on a terminal."""
    import edgec

    bits = int(depth) if depth else None
    if quiet or not sys.stderr.isatty():
        return edgec.load(bundle, variant=variant, threads=threads, depth=bits)
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    from edgec import bundle as bundles
    from edgec.cli import console

    opened = bundles.read(bundle)
    weights = opened.manifest.at_depth(bits).weights
    total = sum(opened.manifest.files[weight.file].bytes for weight in weights)
    columns = (TextColumn("  loading"), BarColumn(bar_width=24, complete_style="cyan"), DownloadColumn())
    with Progress(*columns, console=console.stderr(), transient=True) as bar:
        task = bar.add_task("", total=total)
        return edgec.load(
            opened, variant=variant, threads=threads, depth=bits, progress=lambda size: bar.advance(task, size)
        )


def speed(stats: GenerationStats) -> str:
    """One line about an answer."""
    computed = stats.prompt_tokens - stats.reused_tokens
    prompt = f"{computed} prompt tokens at {stats.prefill_tokens_per_second:,.0f}/s"
    return f"{prompt}, {stats.new_tokens} tokens at {stats.decode_tokens_per_second:,.1f}/s"
