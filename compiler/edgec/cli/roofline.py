"""`edgec bench --roofline`: each kernel's time, beside what one core of this machine can do."""

from __future__ import annotations

import base64
import importlib.metadata
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.cli import console, javascript
from edgec.errors import OutputError

if TYPE_CHECKING:
    from edgec.bundle import Bundle
    from edgec.cli.bench import Work
    from edgec.report.roofline import Phase, Roofline

ROWS = 14  # of a table on a terminal; the page and --json have all


def show(
    bundle: Bundle, work: Work, engines: Sequence[str], variant: str | None, *, html: Path | None, as_json: bool
) -> None:
    """Measure in every engine and print; raises the first failure."""
    if html is not None and not html.absolute().parent.is_dir():
        raise OutputError(f"`{html}` cannot be written, the folder does not exist")  # now, not after minutes of work
    found = []
    for engine in engines:
        with console.stderr().status(f"timing kernels in {engine}"):
            measure = _in_wasmtime if engine == "wasmtime" else _in_javascript
            found.append(measure(engine, bundle, work, variant))
    if html is not None:
        _write_page(bundle, found, html)
    if as_json:
        console.print_json({"bundle": str(bundle.path), "results": [roofline.to_json() for roofline in found]})
        return
    for roofline in found:
        _print(bundle, roofline)
    if html is not None:
        console.stdout().print(f"\n  [bold green]{console.plain(html)}[/] has all kernels and the picture\n")


def _in_wasmtime(engine: str, bundle: Bundle, work: Work, variant: str | None) -> Roofline:
    from edgec.report.roofline import Roofline, analyse
    from edgec.run import limits
    from edgec.run.timing import TimedEngine, time_decoder, time_graph

    with TimedEngine(bundle, variant=variant) as timed:
        if work.prompt:
            runs = time_decoder(timed, work.prompt, work.max_tokens, work.repeat)
        else:
            runs = time_graph(timed, work.arrays(), work.repeat, work.graph)
        kernels, chosen = timed.kernels, timed.variant
    rates = limits.measure(bundle.manifest.memory.weights.bytes)
    version = importlib.metadata.version("wasmtime")
    return Roofline(engine, version, chosen, rates, analyse(kernels, runs, rates))


def _in_javascript(engine: str, bundle: Bundle, work: Work, variant: str | None) -> Roofline:
    from edgec.cli.bench import job, script_options
    from edgec.report.roofline import Roofline, analyse
    from edgec.run import limits
    from edgec.run.timing import Step

    weight_bytes = bundle.manifest.memory.weights.bytes
    probes = limits.probes(weight_bytes)
    modules = {name: base64.b64encode(content).decode() for name, content in limits.modules(weight_bytes).items()}
    wanted = {"modules": modules, "probes": [asdict(probe) for probe in probes], "repeats": limits.REPEATS}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "limits.json"
        file.write_text(json.dumps(wanted))
        arguments = [*script_options(work), "--limits", str(file)]
        if variant is not None:
            arguments += ["--variant", variant]
        document = javascript.run_in(engine, bundle.path, [job(work)], arguments)
    rates = limits.limits(probes, document["limits"])
    runs = [[Step(**step) for step in steps] for steps in document["runs"]]
    phases = analyse(document["kernels"], runs, rates)
    return Roofline(engine, document["version"], document["stats"]["variant"], rates, phases)


def _write_page(bundle: Bundle, rooflines: Sequence[Roofline], file: Path) -> None:
    from edgec.cli.inspect import write_text
    from edgec.report.roofline_page import render

    facts = bundle.manifest
    try:
        write_text(file, render(f"{facts.model.name} for {facts.profile}", rooflines))
    except OSError as error:
        raise OutputError(f"`{file}` cannot be written ({error.strerror})") from error


def _print(bundle: Bundle, roofline: Roofline) -> None:
    from edgec.report.roofline import machine

    out = console.stdout()
    facts = bundle.manifest
    out.print(
        f"\n[bold]{console.plain(facts.model.name)}[/] for {console.plain(facts.profile)}, one thread of "
        f"{roofline.engine} {console.plain(roofline.version)}, module {roofline.variant}"
    )
    for line in machine(roofline):
        out.print(f"[dim]· {console.plain(line)}[/]")
    for phase in roofline.phases:
        _print_phase(out, phase)


def _print_phase(out: Any, phase: Phase) -> None:
    from edgec.report.roofline import NUMBERS, numbers, summary

    out.print(f"\n[bold]{phase.name}[/]  {console.plain(summary(phase))}\n")
    table = console.table("kernel", "shape", *NUMBERS, "limit", right=NUMBERS)
    for kernel in phase.kernels[:ROWS]:
        *cells, share = numbers(kernel, phase)
        colour = "green" if kernel.share_of_limit >= 0.6 else "yellow" if kernel.share_of_limit >= 0.3 else "red"
        names = console.plain(kernel.kernel), console.plain(kernel.shape)
        table.add_row(*names, *cells, f"[{colour}]{share}[/]", kernel.limit)
    rest = phase.kernels[ROWS:]
    if rest:
        seconds = sum(kernel.seconds for kernel in rest)
        calls = sum(kernel.calls for kernel in rest)
        cells = [f"{calls:,}", f"{seconds / phase.kernel_seconds:.1%}", f"{1000 * seconds:,.2f}"]
        table.add_row(f"{len(rest)} others", "", *cells, "", "", "", "")
    out.print(table)
