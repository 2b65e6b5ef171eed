"""`edgec compile`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgec.errors import UsageError
from edgec.ir.plan import LARGEST_GROUP, TARGET_BPW, parse_bits

if TYPE_CHECKING:
    from edgec.ir import Plan
    from edgec.pipeline import Work

EPILOG = """\
Examples:

\b
  edgec compile ./SmolLM2-135M-Instruct --profile phone-8gb
  edgec compile model.gguf --profile laptop-8gb --context 4096 -o model.edgec
  edgec compile efficientnet.onnx --profile phone-6gb --bits 7
  edgec compile ./minilm --task feature-extraction --profile phone-4gb
  edgec compile model.gguf --profile phone-4gb --dry-run --json > plan.json
  edgec compile model.gguf --plan plan.json
  edgec compile ./my-model --profile phone-6gb --calibration chats.txt
  edgec compile efficientnet.onnx --task task.json --profile phone-6gb --bits 4 --calibration ./pictures
  edgec compile ./my-model --profile phone-6gb --target-size 60MB
  edgec compile ./my-model --profile phone-6gb --min-accuracy 0.99
  edgec compile ./my-model --profile phone-4gb --slim 0.9 --heal-minutes 30 --calibration chats.txt
  edgec compile efficientnet.onnx --task task.json --profile phone-6gb --bits 3 --heal-steps 80 --calibration ./pictures
  edgec compile ./my-model --profile phone-6gb --lora ./my-adapter
  edgec compile ./my-model --profile phone-6gb --nested 3
"""


@click.command(epilog=EPILOG)
@click.argument("model")
@click.option("--profile", "-p", help="The device, see `edgec profiles`.")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Where the bundle goes  [default: NAME.edgec].")
@click.option(
    "--bits",
    type=click.Choice(["ternary", "2", "3", "4", "5", "6", "7", "8", "32"]),
    help="Bits per weight, instead of the planner's choice; `ternary` is -1, 0 and 1 times a scale.",
)
@click.option(
    "--quantizer",
    type=click.Choice(["rtn", "irtn", "hqq", "awq", "gptq"]),
    help="How weights are rounded, instead of the planner's choice; `rtn` is the fastest.",
)
@click.option(
    "--group-size",
    type=click.Choice(["32", "64", "128", "row"]),
    help="Columns of a weight matrix that share a scale, instead of the planner's choice; more is smaller and faster.",
)
@click.option(
    "--nested",
    type=click.Choice(["3", "2", "3,2"]),
    help="Make the upper 3 or 2 of 4 bits good codes by themselves, so that a device may download and use fewer "
    "(`--depth`); each depth loses a little more than codes of its own would.",
)
@click.option(
    "--target-size", metavar="SIZE", help="Largest download, for example 60MB; bits go where they matter most."
)
@click.option("--target-bpw", type=click.FloatRange(*TARGET_BPW), metavar="BITS", help="The same, in bits per weight.")
@click.option(
    "--min-accuracy",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="X",
    help="The smallest weights that keep so much of the float model's answers, for example 0.99, measured on "
    "calibration data: exp(-KL) of language models and classifiers, rank correlation of embeddings, else 1 - "
    "relative squared error.",
)
@click.option(
    "--slim",
    "slim",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Share of the float16 weights' bytes that go: tokens, layers, widths and bits, where they lose least.",
)
@click.option(
    "--keep-vocab",
    metavar="N|FILE",
    help="Keep this many tokens, or those that a text uses; any text can still be encoded.",
)
@click.option(
    "--heal-minutes",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MINUTES",
    help="Train what is left, or what was rounded, to be like the original (needs the extra `heal`).",
)
@click.option(
    "--heal-steps", type=click.IntRange(min=1), metavar="STEPS", help="The same in steps, which give the same bytes."
)
@click.option(
    "--heal-adapter",
    type=click.IntRange(min=1),
    metavar="STEPS",
    help="Train an adapter instead, of the rank of `--adapters`, that makes up for what quantization took. It is "
    "written beside the bundle, which stays as it is, and may be put in and taken out.",
)
@click.option(
    "--heal-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where training is saved and goes on from  [default: beside the bundle until that is written].",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="FILE|DIR",
    help="What the model will see: a text, a folder of pictures, or an .npz file with an array for each input.",
)
@click.option(
    "--lora",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A LoRA adapter of MODEL, as the peft library saves it, to be merged into the weights.",
)
@click.option(
    "--rotate",
    is_flag=True,
    help="Turn what the layers of a language model hand on by an orthogonal matrix, so that no feature stands out: "
    "prompts are read faster, weights of less than 6 bits lose more.",
)
@click.option(
    "--adapters",
    type=click.IntRange(1, 256),
    metavar="RANK",
    help="Make room for LoRA adapters of up to this rank that are swapped at run time, see `edgec adapter`.",
)
@click.option(
    "--exits",
    metavar="LAYERS",
    help="Train heads after these layers, e.g. `8,16`, or `auto`, where tokens may leave early (needs the extra "
    "`heal`). They are kept in the bundle; `run` and the browser do not use them yet.",
)
@click.option(
    "--exit-agreement",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.95,
    show_default=True,
    metavar="SHARE",
    help="How many of the tokens that leave early have to be those of the whole model.",
)
@click.option("--exit-steps", type=click.IntRange(min=1), metavar="STEPS", help="Steps of training  [default: 200].")
@click.option("--context", type=click.IntRange(min=1), metavar="TOKENS", help="Longest conversation.")
@click.option("--kv-bits", type=click.Choice(["16", "32"]), help="Bits of the conversation's memory (KV cache).")
@click.option("--max-dim", "max_dims", multiple=True, metavar="NAME=SIZE", help="Largest size of a dynamic dimension.")
@click.option(
    "--fix-input",
    "fixed_inputs",
    multiple=True,
    metavar="NAME=NUMBERS",
    help="Make an input a constant, e.g. `axes=0,1`.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32"]),
    default="auto",
    show_default=True,
    help="float32 computes everything in float, to compare with.",
)
@click.option("--task", help="What the model is for, when it goes through Optimum.")
@click.option("--name", help="The model's name in the bundle.")
@click.option("--plan", "plan_file", type=click.Path(path_type=Path), help="A plan made by --dry-run --json.")
@click.option(
    "--profile-kernels",
    is_flag=True,
    help="Make a bundle whose kernels can be timed by `edgec bench --roofline`; it runs nowhere else.",
)
@click.option("--dry-run", is_flag=True, help="Show the plan and write nothing.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder for finished stages, so that the next compilation need not repeat them  [default: the user's].",
)
@click.option("--no-cache", is_flag=True, help="Compute everything, keep nothing.")
@click.option("--force", is_flag=True, help="Replace what is at the output, even if it is not a bundle.")
@click.option(
    "--stop-after",
    metavar="STAGE",
    help="frontend, simplify, slim, plan, heal, compress, exits, lower, adapter or bundle.",
)
@click.option("--dump", type=click.Path(path_type=Path), metavar="DIR", help="Write every stage's result there.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors.")
def command(
    model: str,
    profile: str | None,
    output: Path | None,
    bits: str | None,
    quantizer: Any,
    group_size: str | None,
    nested: str | None,
    target_size: str | None,
    target_bpw: float | None,
    min_accuracy: float | None,
    slim: float | None,
    keep_vocab: str | None,
    heal_minutes: float | None,
    heal_steps: int | None,
    heal_adapter: int | None,
    heal_dir: Path | None,
    calibration: Path | None,
    lora: Path | None,
    rotate: bool,
    adapters: int | None,
    exits: str | None,
    exit_agreement: float,
    exit_steps: int | None,
    context: int | None,
    kv_bits: str | None,
    max_dims: tuple[str, ...],
    fixed_inputs: tuple[str, ...],
    precision: str,
    task: str | None,
    name: str | None,
    plan_file: Path | None,
    profile_kernels: bool,
    dry_run: bool,
    cache: Path | None,
    no_cache: bool,
    force: bool,
    stop_after: str | None,
    dump: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compile MODEL for a device into a bundle.

    MODEL is a Hugging Face folder, a GGUF or ONNX file, or a hub id such as `org/name`. The bundle is a folder that
    runs in browsers, in Node and in Python, without a network.
    """
    from edgec.cache import default_folder
    from edgec.cli.progress import StageLines
    from edgec.pipeline import CompileOptions, run_stages

    if cache and no_cache:
        raise UsageError("`--cache` and `--no-cache` exclude each other", hint="leave one of them out")
    plan = _read_plan(plan_file) if plan_file else None
    choices = {"--plan": plan_file, "--target-size": target_size, "--target-bpw": target_bpw, "--bits": bits}
    choices |= {"--min-accuracy": min_accuracy, "--slim": slim}
    choices["--precision float32"] = precision == "float32" and not bits
    taken = [name for name, value in choices.items() if value]
    if len(taken) > 1:
        raise UsageError(
            f"`{taken[0]}` and `{taken[1]}` both say how many bits weights have", hint="leave one of them out"
        )
    if plan_file and quantizer:
        raise UsageError("the plan says how weights are rounded", hint="leave `--quantizer` out, or edit the plan")
    if plan_file and group_size:
        raise UsageError("the plan says how large groups are", hint="leave `--group-size` out, or edit the plan")
    if profile is None:
        if plan is None:
            from edgec import profiles

            raise UsageError("say which device it is for", hint=f"--profile with one of {', '.join(profiles.names())}")
        profile = plan.profile
    if plan is not None and plan.profile != profile:
        raise UsageError(f"the plan is for `{plan.profile}`, not for `{profile}`")
    if dry_run and stop_after not in (None, "plan"):
        raise UsageError("`--dry-run` stops after the stage `plan`")
    options = CompileOptions(
        bits=parse_bits(bits) if bits else None,
        context_length=context,
        kv_bits=int(kv_bits) if kv_bits else None,
        max_dims=dimensions(max_dims) or None,
        fixed_inputs=numbers(fixed_inputs) or None,
        quantizer=quantizer,
        group_size=None if group_size is None else LARGEST_GROUP if group_size == "row" else int(group_size),
        nested=tuple(int(depth) for depth in nested.split(",")) if nested else (),
        target_bytes=_size(target_size) if target_size else None,
        target_bpw=target_bpw,
        min_accuracy=min_accuracy,
        slim=slim,
        keep_vocabulary=_vocabulary(keep_vocab) if keep_vocab else None,
        heal_minutes=heal_minutes,
        heal_steps=heal_steps,
        heal_adapter=heal_adapter,
        heal_folder=heal_dir,
        calibration=calibration,
        lora=lora,
        rotate=rotate,
        adapter_rank=adapters,
        exits=_layers(exits) if exits else None,
        exit_agreement=exit_agreement,
        exit_steps=exit_steps,
        precision="float32" if precision == "float32" else "auto",
        plan=plan,
        task=task,
        name=name,
        profile_kernels=profile_kernels,
        cache=None if no_cache else cache or default_folder(),
        force=force,
        stop_after="plan" if dry_run else stop_after,
        dump=dump,
    )
    with StageLines(quiet=quiet) as lines:
        work = run_stages(model, profile, output or _default_output(model, name), options, lines)
    if quiet and not (as_json or dry_run):
        return
    if dry_run:
        _show_plan(work, as_json)
    else:
        _show_result(work, as_json)


def _default_output(model: str, name: str | None) -> Path:
    stem = name or Path(model.rstrip("/")).name
    for ending in (".gguf", ".onnx"):
        stem = stem.removesuffix(ending)
    return Path(stem.replace("/", "-") + ".edgec")


def _read_plan(file: Path) -> Plan:
    from edgec.ir import Plan

    try:
        document = json.loads(file.read_bytes())
        return Plan.from_json(document)
    except OSError as error:
        raise UsageError(f"`{file}` cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"`{file}` is not a plan", hint="`--dry-run --json` prints one") from error


def _layers(text: str) -> tuple[int, ...]:
    """Of `--exits`; empty for `auto`."""
    parts = [] if text == "auto" else text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"`--exits {text}` is no list of layers", hint="for example `--exits 8,16`, or `--exits auto`")
    return tuple(int(part) for part in parts)


def _vocabulary(text: str) -> int | Path:
    """A number of tokens, or a file."""
    return int(text.replace(",", "")) if text.replace(",", "").isdecimal() else Path(text)


def _size(text: str) -> int:
    from edgec.profiles.units import parse_size

    try:
        return parse_size(text)
    except ValueError:
        raise UsageError(f"`--target-size {text}` is not a size", hint="for example `--target-size 60MB`") from None


def dimensions(entries: tuple[str, ...]) -> dict[str, int]:
    """Of `--max-dim`. Raises `UsageError`."""
    sizes: dict[str, int] = {}
    for entry in entries:
        name, _, size = entry.partition("=")
        if not name or not size.isdecimal() or int(size) < 1:
            raise UsageError(f"`--max-dim {entry}` is not NAME=SIZE", hint="for example `--max-dim sequence=256`")
        sizes[name] = int(size)
    return sizes


def numbers(entries: tuple[str, ...]) -> dict[str, list[float]]:
    """Of `--fix-input`. Raises `UsageError`."""
    values: dict[str, list[float]] = {}
    for entry in entries:
        name, _, numbers = entry.partition("=")
        try:
            values[name] = [float(number) for number in numbers.split(",") if number.strip()]
        except ValueError:
            name = ""
        if not name:
            raise UsageError(f"`--fix-input {entry}` is not NAME=NUMBERS", hint="for example `--fix-input axes=0,1`")
    return values


def _show_plan(work: Work, as_json: bool) -> None:
    from edgec.cli import console
    from edgec.report.reached import accuracy_lines
    from edgec.report.slimming import slimming_lines
    from edgec.report.units import mebibytes

    plan = work.plan
    assert plan is not None
    if as_json:
        console.print_json(plan.to_json())
        return
    out = console.stdout()
    out.print(f"\n[bold]{console.plain(plan.model)}[/] for [bold]{plan.profile}[/]\n")
    counts: dict[tuple[str, str], int] = {}
    for tensor in plan.tensors:
        key = ("ternary" if tensor.ternary else str(tensor.bits), tensor.reason)
        counts[key] = counts.get(key, 0) + 1
    table = console.table("tensors", "bits", "why", right=["tensors", "bits"])
    for (bits, reason), count in sorted(counts.items(), key=lambda entry: -entry[1]):
        table.add_row(f"{count:,}", bits, console.plain(reason))
    out.print(table)
    prediction = plan.prediction
    facts = console.table("predicted", "", right=[""])
    facts.add_row("download", mebibytes(prediction.download_bytes))
    facts.add_row("memory at most", mebibytes(prediction.peak_bytes))
    if plan.context_length:
        facts.add_row("context", f"{plan.context_length:,} tokens")
        facts.add_row("prompt", f"{prediction.prefill_tokens_per_second:,.0f} tokens/s")
        facts.add_row("answer", f"{prediction.decode_tokens_per_second:,.0f} tokens/s")
    out.print(facts)
    for reason in (*slimming_lines(plan), *accuracy_lines(plan), *plan.reasons):
        out.print(f"[dim]·[/] {console.plain(reason)}")


def _show_result(work: Work, as_json: bool) -> None:
    from edgec.bundle.manifest import FINEST
    from edgec.cli import console
    from edgec.report.units import mebibytes

    if as_json:
        console.print_json(_result(work))
        return
    if work.bundle is None:
        click.echo(f"stopped after {work.records[-1].stage}")
        return
    out, path = console.stdout(), console.plain(work.output)
    total = work.bundle.manifest.total_bytes()
    seconds = sum(record.seconds for record in work.records)
    out.print(
        f"\n  [bold green]{path}[/]  {mebibytes(total)}, compiled for [bold]{work.bundle.manifest.profile}[/]"
        f" in {seconds:.0f} s\n"
    )
    if work.model is not None and work.model.facts.note is not None:
        out.print(f"  {console.plain(work.model.facts.note)}\n")
    if work.plan is not None and work.plan.slim is not None:
        from edgec.report.slimming import slimming_lines

        for line in slimming_lines(work.plan):
            out.print(f"  [dim]·[/] {console.plain(line)}")
        out.print()
    for depth in work.bundle.manifest.depths:
        at_depth = work.bundle.manifest.at_depth(depth.bits).weight_bytes()
        out.print(
            f"  [dim]·[/] {mebibytes(at_depth)} of weights with {depth.bits} of {FINEST} bits, "
            f"{mebibytes(work.bundle.manifest.at_depth(None).weight_bytes())} with all: `--depth {depth.bits}`"
        )
    if work.adapter is not None:
        adapter, file = work.adapter, console.plain(work.adapter_file())
        out.print(f"  [bold green]{file}[/]  an adapter: with it {adapter.after:.4g} nats a token are lost, without")
        out.print(f"  it {adapter.before:.4g}\n  [dim]edgec chat {path} --adapter {file}[/]\n")
    if work.options.profile_kernels:
        out.print(f"  [dim]edgec bench --roofline {path}   time its kernels[/]\n")
        return
    if work.bundle.manifest.golden is None:
        out.print("  [yellow]no self-test:[/] what this graph gives for zeros and ones is not defined\n")
    cache = work.cache
    if cache is not None and cache.problem is not None:
        out.print(f"  [yellow]nothing was kept in {console.plain(cache.folder)}:[/] {console.plain(cache.problem)}\n")
    usage = "run" if work.bundle.manifest.model.kind == "graph" else "chat"
    out.print(f"  [dim]edgec {usage} {path}      use it here[/]")
    out.print(f"  [dim]edgec serve {path}     in the browser[/]")
    out.print(f"  [dim]edgec inspect {path}   see where the bytes are[/]\n")


def _result(work: Work) -> dict[str, Any]:
    """The stable form that `--json` prints."""
    result: dict[str, Any] = {
        "stages": [dataclasses.asdict(record) for record in work.records],
        "peak_bytes": max(record.peak_bytes for record in work.records),
    }
    if work.cache is not None:
        result["cache"] = {**dataclasses.asdict(work.cache.counts), "problem": work.cache.problem}
    if work.plan is not None:
        result["prediction"] = dataclasses.asdict(work.plan.prediction)
        if work.plan.slim is not None:
            result["slim"] = dataclasses.asdict(work.plan.slim)
    if work.bundle is not None:
        manifest = work.bundle.manifest
        result |= {
            "bundle": str(work.output),
            "model": manifest.model.name,
            "profile": manifest.profile,
            "bytes": manifest.total_bytes(),
            "context_length": manifest.context_length,
            "depths": {str(bits): manifest.at_depth(bits).weight_bytes() for bits in manifest.depth_bits},
            "golden": manifest.golden is not None,  # whether a device can test itself
        }
    if work.adapter is not None:
        facts = ("steps", "before", "fitted", "after")
        result["adapter"] = {"file": str(work.adapter_file())} | {name: getattr(work.adapter, name) for name in facts}
    return result
