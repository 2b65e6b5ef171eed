"""What nested planes lose against matrices that were quantized for one number of bits.

    python bench/nested.py --kept DIR MODEL... [--text FILE] [--calibration FILE] [--depths 3,2]
    python bench/nested.py --kept DIR --report docs/nested.md

MODEL is a decoder in floats. The matrices that GPTQ quantizes are nested, and once for each depth quantized by GPTQ
with its bits alone; all others have 8 bits everywhere. The weights run in the float graph in onnxruntime. Without
`--text`, the model's own text is what is predicted. `--kept` is where rows are written to, and read from for the page.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from accuracy import PROFILE, Judge, Score, add_data_options, calibration, judged_windows

from edgec import profiles
from edgec.compress import compress, dequantized_model
from edgec.frontend import load
from edgec.ir.plan import NESTED_BITS, Plan
from edgec.passes import simplify
from edgec.plan import make_plan
from edgec.whole_file import whole_file


@dataclasses.dataclass(frozen=True)
class Row:
    """One depth of the nested codes, and the same number of bits alone."""

    model: str
    text: str  # what was predicted
    tokens: int
    depths: tuple[int, ...]  # of the nested codes, below 4
    bits: int
    nested: Score
    alone: Score
    seconds: float  # of nesting, all depths together, with calibration
    seconds_alone: float


def measure(source: str, arguments: argparse.Namespace) -> list[Row]:
    model = simplify(load(source))
    assert model.decoder is not None
    context = min(arguments.context, model.decoder.context_length)
    judge = Judge(model, judged_windows(model, context, arguments))
    samples = calibration(model, arguments)
    plan = make_plan(model, profiles.load(PROFILE), bits=NESTED_BITS, calibration="given")
    depths = tuple(int(bits) for bits in arguments.depths.split(","))
    begin = time.perf_counter()
    nested = compress(model, with_quantizer(plan, "nested", NESTED_BITS, depths), samples=samples)
    seconds = time.perf_counter() - begin
    rows = []
    for bits in (NESTED_BITS, *depths):
        begin = time.perf_counter()
        alone = compress(model, with_quantizer(plan, "gptq", bits), samples=samples)
        size = alone.report["packed_bytes"]  # of both: each depth has as many codes, scales and zero points
        row = Row(
            model=Path(source).name,
            text=arguments.text.name if arguments.text else "its own text",
            tokens=sum(len(window) - 1 for window in judge.windows),
            depths=depths,
            bits=bits,
            nested=judge(dequantized_model(nested.at_depth(bits)), size),
            alone=judge(dequantized_model(alone), size),
            seconds=seconds,
            seconds_alone=time.perf_counter() - begin,
        )
        print(f"{row.model} {bits} bits: KL {row.nested.kl:.5f}, alone {row.alone.kl:.5f}", file=sys.stderr)
        rows.append(row)
    return rows


def with_quantizer(plan: Plan, quantizer: str, bits: int, depths: tuple[int, ...] = ()) -> Plan:
    """The plan with another quantizer and number of bits where it has GPTQ."""
    tensors = tuple(
        dataclasses.replace(tensor, quantizer=quantizer, bits=bits, coarser=depths)
        if tensor.quantizer == "gptq"
        else dataclasses.replace(tensor, bits=8)
        if tensor.quantized
        else tensor
        for tensor in plan.tensors
    )
    return dataclasses.replace(plan, tensors=tensors)


def read_rows(file: Path) -> list[Row]:
    return [
        Row(**row | {name: Score(**row[name]) for name in ("nested", "alone")}) for row in json.loads(file.read_text())
    ]


def page(rows: Sequence[Row]) -> str:
    """The Markdown page."""
    lines = [
        "# Nested planes",
        "",
        "This page is written by `bench/nested.py`: one set of 4-bit codes whose upper bits are codes of their own",
        "(`edgec compile --nested`), against GPTQ for each number of bits alone. Both in the same float graph; all",
        "other matrices have 8 bits. KL is that of the float model's predictions (nats per token), *perplexity* its",
        "change against the float model. A GGUF file was quantized before: its codes",
        "of 4 bits are found again, and kept.",
        "",
        "| model | tokens | nested | bits | KL | alone | difference | perplexity | alone |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        lines.append(
            f"| {row.model} | {row.tokens:,} of {row.text} | {', '.join(map(str, (NESTED_BITS, *row.depths)))} | "
            f"{row.bits} | {row.nested.kl:.5f} | {row.alone.kl:.5f} | {row.nested.kl / row.alone.kl - 1:+.1%} | "
            f"{row.nested.loss:+.2%} | {row.alone.loss:+.2%} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="*")
    add_data_options(parser, tokens=4096)
    parser.add_argument("--depths", default="3")
    parser.add_argument("--kept", type=Path, required=True, metavar="DIR", help="finished rows")
    parser.add_argument("--report", type=Path, help="write the page there, of all that is in --kept")
    arguments = parser.parse_args()
    for source in arguments.models:
        rows = measure(source, arguments)
        arguments.kept.mkdir(parents=True, exist_ok=True)
        with whole_file(arguments.kept / f"{Path(source).name}-{arguments.depths}.json") as partial:
            partial.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")
    kept = [row for file in sorted(arguments.kept.glob("*.json")) for row in read_rows(file)]
    if arguments.report:
        with whole_file(arguments.report) as partial:
            partial.write_text(page(kept))
    else:
        print(page(kept))


if __name__ == "__main__":
    main()
