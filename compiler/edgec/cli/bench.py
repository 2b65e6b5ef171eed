"""`edgec bench`: the same work in wasmtime, Node, Chromium and Firefox."""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgec.cli import javascript, loading
from edgec.cli.javascript import ENGINES
from edgec.errors import EdgecError, UsageError

if TYPE_CHECKING:
    from edgec.bundle import Bundle

TEXT = "The quick brown fox jumps over the lazy dog while the river runs slowly to the sea. "
EPILOG = """\
Examples:

\b
  edgec bench smollm2.edgec
  edgec bench smollm2.edgec --engine chromium --engine firefox --threads 1 --json
  edgec bench marked.edgec --roofline --engine chromium --html kernels.html
"""


@dataclass(frozen=True)
class Work:
    """What every engine is asked to do: prompt ids and tokens to generate, or a graph's inputs."""

    prompt: list[int]
    max_tokens: int
    inputs: dict[str, tuple[str, tuple[int, ...]]]  # name -> dtype, shape
    repeat: int
    graph: str | None = None  # the one that has these inputs

    def arrays(self) -> dict[str, Any]:
        """The inputs: floats of a normal distribution, the same each time, and ones for ids and masks."""
        import numpy as np

        random = np.random.default_rng(0)
        return {
            name: random.normal(size=shape).astype(dtype) if dtype == "float32" else np.ones(shape, dtype)
            for name, (dtype, shape) in self.inputs.items()
        }


@dataclass(frozen=True)
class Row:
    """What one engine did. Speeds are tokens per second, None for graphs; `run_seconds` is None for decoders."""

    engine: str
    version: str
    variant: str
    threads: int
    load_seconds: float
    memory_bytes: int
    prefill_tokens_per_second: float | None
    decode_tokens_per_second: float | None
    run_seconds: float | None


@click.command(epilog=EPILOG)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--engine", "engines", multiple=True, type=click.Choice(ENGINES), help="Default: all that are here.")
@click.option(
    "--prompt-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Length of the prompt."
)
@click.option("--max-tokens", type=click.IntRange(min=2), default=64, show_default=True, help="Length of the answer.")
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Runs; the last one counts.",
)
@click.option("--graph", metavar="NAME", help="Which one of several graphs.")
@click.option("--roofline", is_flag=True, help="Time each kernel, and compare it with what one core can do.")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="With --roofline: write a page, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@loading.engine_options
def command(
    bundle: Path,
    engines: tuple[str, ...],
    prompt_tokens: int,
    max_tokens: int,
    repeat: int,
    graph: str | None,
    roofline: bool,
    html: Path | None,
    as_json: bool,
    variant: str | None,
    threads: int | None,
) -> None:
    """Measure speed, memory and load time of BUNDLE in every engine of this machine.

    Engines run one after the other. The first run warms the engine up; the numbers are those of the last one.
    --roofline wants a BUNDLE that was compiled with --profile-kernels, and takes wasmtime if no engine is given; its
    times are the lower medians of all runs but the first.
    """
    from edgec import bundle as bundles
    from edgec.cli import console

    if html is not None and not roofline:
        raise UsageError("`--html` writes a roofline", hint="add `--roofline`")
    if roofline and (threads or 1) > 1:
        raise UsageError("a roofline is that of one thread", hint="leave `--threads` out")
    opened = bundles.read(bundle)
    work = _work(opened, prompt_tokens, max_tokens, repeat, graph)
    if roofline:
        from edgec.cli import roofline as rooflines

        rooflines.show(opened, work, engines or ENGINES[:1], variant, html=html, as_json=as_json)
        return
    rows: list[Row] = []
    failures: dict[str, EdgecError] = {}
    for engine in engines or ENGINES:
        measure: Callable[..., Row] = _in_wasmtime if engine == "wasmtime" else _in_javascript
        try:
            with console.stderr().status(f"measuring in {engine}"):
                rows.append(measure(engine, opened, work, variant, threads))
        except EdgecError as error:
            if engines:
                raise
            failures[engine] = error
    if as_json:
        errors = {engine: error.message for engine, error in failures.items()}
        console.print_json({"bundle": str(bundle), "results": [asdict(row) for row in rows], "failures": errors})
    else:
        _show(opened, work, rows, failures)
    if not rows:
        raise next(iter(failures.values()))


def _work(bundle: Bundle, prompt_tokens: int, max_tokens: int, repeat: int, graph: str | None) -> Work:
    manifest = bundle.manifest
    if manifest.model.kind == "graph":
        from edgec.bundle import dims

        known = ", ".join(f"`{name}`" for name in manifest.graphs)
        if graph is None and len(manifest.graphs) > 1:
            raise UsageError("the bundle has several graphs", hint=f"choose one of {known} with `--graph`")
        graph = graph or next(iter(manifest.graphs))
        if graph not in manifest.graphs:
            raise UsageError(f"there is no graph `{graph}`", hint=f"the bundle has {known}")
        shapes = {
            slot.name: (slot.dtype, tuple(dims.evaluate(dimension, manifest.dims) for dimension in slot.shape))
            for slot in manifest.inputs
            if slot.name in manifest.graphs[graph].inputs
        }
        return Work([], 0, shapes, repeat, graph)
    room = manifest.context_length - max_tokens
    count = max(1, min(prompt_tokens, room))
    return Work(_ids(bundle, count), min(max_tokens, manifest.context_length - count), {}, repeat)


def _ids(bundle: Bundle, count: int) -> list[int]:
    content = bundle.tokenizer_json()
    if content is None:
        return [1] * count
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer(content)
    ids: list[int] = tokenizer.encode(TEXT * math.ceil(count / 8), add_special_tokens=False).ids
    return (ids * math.ceil(count / len(ids)))[:count]


def _in_wasmtime(engine: str, bundle: Bundle, work: Work, variant: str | None, threads: int | None) -> Row:
    import importlib.metadata

    import edgec

    with edgec.load(bundle, variant=variant, threads=threads) as model:
        prefill = decode = seconds = None
        for _ in range(work.repeat):
            if work.inputs:
                arrays = work.arrays()
                started = time.perf_counter()
                model.run(arrays, graph=work.graph)
                seconds = time.perf_counter() - started
            else:
                model.reset()
                generation = model.generate(work.prompt, max_tokens=work.max_tokens, temperature=0)
                generation.text()
                stats = generation.stats()
                prefill, decode = stats.prefill_tokens_per_second, stats.decode_tokens_per_second
        facts = model.stats()
    version = importlib.metadata.version("wasmtime")
    return Row(
        engine,
        version,
        facts["variant"],
        facts["threads"],
        facts["load_seconds"],
        facts["memory_bytes"],
        prefill,
        decode,
        seconds,
    )


def _in_javascript(engine: str, bundle: Bundle, work: Work, variant: str | None, threads: int | None) -> Row:
    arguments = ["--no-outputs", *script_options(work)]
    if variant is not None:
        arguments += ["--variant", variant]
    if threads is not None:
        arguments += ["--threads", str(threads)]
    return _row(engine, javascript.run_in(engine, bundle.path, [job(work)], arguments))


def script_options(work: Work) -> list[str]:
    """Options of `run-in.mjs`."""
    return ["--no-hash", "--ignore-eos", "--repeat", str(work.repeat), "--max-tokens", str(max(work.max_tokens, 1))]


def job(work: Work) -> dict[str, Any]:
    """What `run-in.mjs` gets."""
    if not work.inputs:
        return {"prompt": work.prompt}
    inputs = {
        name: {"dtype": work.inputs[name][0], "shape": array.shape, "data": base64.b64encode(array.tobytes()).decode()}
        for name, array in work.arrays().items()
    }
    return {"inputs": inputs, "graph": work.graph}


def _row(engine: str, document: dict[str, Any]) -> Row:
    result, stats = document["results"][0], document["stats"]
    return Row(
        engine=engine,
        version=document["version"],
        variant=stats["variant"],
        threads=stats["threads"],
        load_seconds=document["loadSeconds"],
        memory_bytes=stats["memoryBytes"],
        prefill_tokens_per_second=result.get("prefillTokensPerSecond"),
        decode_tokens_per_second=result.get("decodeTokensPerSecond"),
        run_seconds=result.get("seconds") if "outputs" in result else None,
    )


def _show(bundle: Bundle, work: Work, rows: list[Row], failures: dict[str, EdgecError]) -> None:
    from edgec.cli import console
    from edgec.report.units import mebibytes

    out = console.stdout()
    facts = bundle.manifest
    doing = f"{len(work.prompt)} prompt tokens, {work.max_tokens} answer tokens" if work.prompt else "one run"
    out.print(f"\n[bold]{console.plain(facts.model.name)}[/] for {console.plain(facts.profile)}, {doing}\n")
    speeds = ["prompt", "answer"] if work.prompt else ["run"]
    numbers = ["threads", "load", *speeds, "memory"]
    table = console.table("engine", "version", "module", *numbers, right=numbers)
    for row in rows:
        if work.prompt:
            taken = [f"{row.prefill_tokens_per_second or 0:,.1f}/s", f"{row.decode_tokens_per_second or 0:,.1f}/s"]
        else:
            taken = [f"{1000 * (row.run_seconds or 0):,.1f} ms"]
        table.add_row(
            row.engine,
            console.plain(row.version),
            row.variant,
            str(row.threads),
            f"{row.load_seconds:.2f} s",
            *taken,
            mebibytes(row.memory_bytes),
        )
    out.print(table)
    for engine, error in failures.items():
        out.print(f"[yellow]·[/] {engine}: {console.plain(error.message)}")
