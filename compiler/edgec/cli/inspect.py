"""`edgec inspect`: a bundle's bytes, or an uncompiled model's facts and chances."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgec.cli.compile import dimensions, numbers
from edgec.errors import DoesNotFitError, UnsupportedError, UsageError
from edgec.whole_file import whole_file

if TYPE_CHECKING:
    from edgec.ir import ModelIR, Plan
    from edgec.report import Report

EPILOG = """\
Examples:

\b
  edgec inspect smollm2.edgec
  edgec inspect smollm2.edgec --html report.html
  edgec inspect ./SmolLM2-135M-Instruct
  edgec inspect model.onnx --profile phone-4gb --json
"""


@click.command(epilog=EPILOG)
@click.argument("path")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a self-contained page with plots.")
@click.option("--tensors", is_flag=True, help="List every tensor, not only layers.")
@click.option("--profile", "-p", help="For a model: look at this device only.")
@click.option("--task", help="For a model: what it is for, when it goes through Optimum.")
@click.option("--max-dim", "max_dims", multiple=True, metavar="NAME=SIZE", help="As for `compile`.")
@click.option("--fix-input", "fixed", multiple=True, metavar="NAME=NUMBERS", help="As for `compile`.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(
    path: str,
    html: Path | None,
    tensors: bool,
    profile: str | None,
    task: str | None,
    max_dims: tuple[str, ...],
    fixed: tuple[str, ...],
    as_json: bool,
) -> int | None:
    """Show what PATH contains.

    For a bundle: sizes and bits per layer, memory, the error of each tensor. For a model that is not compiled yet:
    its facts and operators, and on which devices it would run, how large and how fast. Weights are not read.
    """
    if (Path(path) / "manifest.json").is_file():
        _inspect_bundle(Path(path), html, tensors, as_json)
        return None
    if html is not None:
        raise UsageError("`--html` needs a bundle", hint=f"compile `{path}` first")
    return _inspect_model(path, profile, task, dimensions(max_dims), numbers(fixed), as_json)


def _inspect_bundle(path: Path, html: Path | None, tensors: bool, as_json: bool) -> None:
    from edgec import bundle, report
    from edgec.cli import console

    data = report.from_manifest(bundle.read(path).manifest.to_json())
    if html is not None:
        write_text(html, report.render(data))
    if as_json:
        console.print_json(data.to_json())
    elif html is None:
        _show_report(data, tensors)
    else:
        click.echo(f"wrote {html}")


def write_text(file: Path, text: str) -> None:
    """Write beside the file, then rename. Raises `OSError`."""
    with whole_file(file) as partial:
        partial.write_text(text, encoding="utf-8")


def _show_report(report: Report, tensors: bool) -> None:
    from edgec.cli import console
    from edgec.report.depths import depth_lines
    from edgec.report.exits import exit_lines
    from edgec.report.units import mebibytes, millions

    out = console.stdout()
    prediction = report.plan.prediction
    out.print(
        f"\n[bold]{console.plain(report.model)}[/]  {console.plain(report.architecture)}, "
        f"{millions(report.parameters)} parameters, for [bold]{report.plan.profile}[/]\n"
    )
    layers = console.table(
        "layer", "size", "bits/weight", "bits", "worst error", right=["size", "bits/weight", "worst error"]
    )
    for layer in report.layers:
        bits = " + ".join(f"{width}" for width in layer.bytes_by_bits)
        layers.add_row(
            layer.name, mebibytes(layer.bytes), f"{layer.bits_per_weight:.2f}", bits, f"{100 * layer.worst_rmse:.2f} %"
        )
    if report.float_parameters:
        layers.add_row("float32", mebibytes(4 * report.float_parameters), "32.00", "32", "")
    out.print(layers)
    if tensors:
        rows = console.table(
            "tensor", "bits", "shape", "size", "error", "why", right=["bits", "shape", "size", "error"]
        )
        for row in report.tensors:
            shape, error = f"{row.rows} x {row.columns}", f"{100 * row.relative_rmse:.2f} %"
            rows.add_row(
                console.plain(row.name), str(row.bits), shape, mebibytes(row.bytes), error, console.plain(row.reason)
            )
        out.print(rows)
    sizes = console.table("memory", "size", right=["size"])
    for region, size in report.memory.items():
        sizes.add_row(region, mebibytes(size))
    out.print(sizes)
    modules = ", ".join(f"{variant} {mebibytes(size)}" for variant, size in report.modules.items())
    out.print(f"modules: {modules}")
    out.print(f"download: {mebibytes(prediction.download_bytes)}, memory at most: {mebibytes(prediction.peak_bytes)}")
    for line in depth_lines(report):
        out.print(f"nested {line}")
    for line in exit_lines(report.exits):
        out.print(f"exit {line}")
    if report.plan.adapters is not None:
        room = report.plan.adapters
        out.print(f"room for adapters: rank {room.rank} at most, {mebibytes(room.bytes)} of the weights' memory")
    if report.kind == "decoder":
        out.print(
            f"predicted: {prediction.prefill_tokens_per_second:,.0f} tokens/s prompt, "
            f"{prediction.decode_tokens_per_second:,.0f} tokens/s answer, context {report.plan.context_length:,}"
        )


def _inspect_model(
    source: str,
    profile: str | None,
    task: str | None,
    dims: dict[str, int],
    fixed: dict[str, list[float]],
    as_json: bool,
) -> int:
    from edgec import frontend, passes, profiles
    from edgec.cli import console
    from edgec.pipeline import supported_operators

    operators = supported_operators()
    problems = frontend.check(source, task=task, supported_ops=operators)
    if problems:
        return _refuse([asdict(p) | {"message": f"{p}, supported: {p.supported}"} for p in problems], as_json)
    model = frontend.load(source, task=task, supported_ops=operators, hashed=False)
    names = [profile] if profile else list(profiles.names())
    simplified = passes.simplify(passes.fix_inputs(model, fixed))
    if model.kind == "graph":
        from edgec.lower.wasm.graph_check import graph_problems

        refusals = graph_problems(simplified.model.graph)
        if refusals:
            return _refuse(
                [{"message": str(e).replace("\n  hint:", ":"), "inputs": e.inputs} for e in refusals], as_json
            )
    plans = {name: _plan(simplified, name, dims) for name in names}
    if as_json:
        console.print_json(_model_json(model, plans))
    else:
        _show_model(model, plans)
    fits = any(not isinstance(plan, DoesNotFitError) for plan in plans.values())
    return 0 if fits else DoesNotFitError.exit_code


def _refuse(problems: list[dict[str, Any]], as_json: bool) -> int:
    from edgec.cli import console

    if as_json:
        console.print_json({"compiles": False, "problems": problems})
    else:
        click.echo(click.style("does not compile", fg="red") + ":")
        for problem in problems:
            click.echo(f"  {problem['message']}")
    return UnsupportedError.exit_code


def _plan(model: ModelIR, profile: str, dims: dict[str, int]) -> Plan | DoesNotFitError:
    from edgec import profiles
    from edgec.pipeline.planning import foreseen
    from edgec.plan import make_plan

    loaded = profiles.load(profile)
    try:
        return foreseen(model, make_plan(model, loaded, max_dims=dims or None), loaded)
    except DoesNotFitError as error:
        return error


def _operators(model: ModelIR) -> list[tuple[str, int]]:
    counts = Counter(node.op_type for node in model.model.graph)
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))


def _model_json(model: ModelIR, plans: dict[str, Plan | DoesNotFitError]) -> dict[str, Any]:
    return {
        "compiles": True,
        "kind": model.kind,
        "model": asdict(model.facts),
        "decoder": asdict(model.decoder) if model.decoder else None,
        "operators": dict(_operators(model)),
        "inputs": [str(value) for value in model.model.graph.inputs],
        "outputs": [str(value) for value in model.model.graph.outputs],
        "task": model.task,
        "profiles": {
            name: {"fits": False, "reason": plan.message}
            if isinstance(plan, DoesNotFitError)
            else {"fits": True, "context_length": plan.context_length, "prediction": asdict(plan.prediction)}
            for name, plan in plans.items()
        },
    }


def _show_model(model: ModelIR, plans: dict[str, Plan | DoesNotFitError]) -> None:
    from edgec.cli import console
    from edgec.report.units import mebibytes, millions

    out = console.stdout()
    facts = model.facts
    license_note = f", license {console.plain(facts.license)}" if facts.license else ""
    out.print(
        f"\n[bold]{console.plain(facts.name)}[/]  {console.plain(facts.architecture)} from {facts.source_format}, "
        f"{millions(facts.parameters)} parameters{license_note}\n"
    )
    if facts.note:
        out.print(console.plain(facts.note))
    if model.decoder:
        d = model.decoder
        out.print(
            f"{d.layers} layers, {d.hidden} wide, {d.heads} heads ({d.kv_heads} key-value) of {d.head_dim}, "
            f"{d.vocabulary:,} tokens, context {d.longest_context:,}"
        )
    listed = ", ".join(f"{operator} {count}" for operator, count in _operators(model))
    out.print(f"operators: {listed}\n")
    decoder = model.kind == "decoder"
    columns = ["download", "memory", *(["context", "prompt", "answer"] if decoder else ["run"])]
    table = console.table("device", *columns, right=columns)
    for name, plan in plans.items():
        if isinstance(plan, DoesNotFitError):
            table.add_row(name, "[red]does not fit[/]")
            continue
        p = plan.prediction
        row = [name, mebibytes(p.download_bytes), mebibytes(p.peak_bytes)]
        if decoder:
            row += [
                f"{plan.context_length:,}",
                f"{p.prefill_tokens_per_second:,.0f}/s",
                f"{p.decode_tokens_per_second:,.0f}/s",
            ]
        else:
            row.append(f"{1000 * p.run_seconds:,.1f} ms")
        table.add_row(*row)
    out.print(table)
    for name, plan in plans.items():
        if isinstance(plan, DoesNotFitError):
            click.echo(f"{name}: {plan.message}")
