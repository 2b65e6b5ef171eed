"""edgec against llama.cpp's quantizer: KL divergence and perplexity at equal bytes.

    python bench/accuracy.py --ggml libggml-base.so MODEL [--text FILE] [--calibration FILE] [--kept DIR]
    python bench/accuracy.py --kept DIR --report docs/accuracy.md

MODEL is a decoder in floats. For each of llama.cpp's recipes, edgec gets as many bytes for its weights as the recipe
takes (its `--target-size`), and both sets of weights run in the same float graph in onnxruntime. That leaves out what
edgec's int8 activations add (docs/decisions/0006), and what llama.cpp's own 8-bit activations would. Importance matrix
and calibration are from the same samples. Without `--text`, the models' own text is what is predicted. With `--kept`
every finished row is written to DIR, so that a run can be interrupted and pages made of several runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir
from ggml_recipes import RECIPES, Ggml, stored_bytes, tensor_type
from threadpoolctl import threadpool_limits

from edgec import profiles
from edgec.compress import (
    compress,
    dequantized_model,
    generated_samples,
    read_samples,
    rounding_errors,
    sensitivities,
)
from edgec.compress.calibration.sites import schedule
from edgec.compress.calibration.walk import Walk
from edgec.eval import Comparison, ReferenceDecoder, compare
from edgec.frontend import load
from edgec.ir.model import ModelIR
from edgec.ir.weight_use import weight_uses
from edgec.passes import simplify
from edgec.plan import NARROW, Target, make_plan, quantizable, to_measure
from edgec.plan.memory import MODULE_BYTES, weight_bytes
from edgec.run.tokenizer import Tokenizer
from edgec.whole_file import whole_file

PROFILE = "laptop-8gb"
_KEPT_GRID = " The file was quantized before: edgec keeps its codes where bits suffice, llama.cpp does not."
_NAME = re.compile(r"model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)_proj\.weight")


@dataclasses.dataclass(frozen=True)
class Score:
    """Quantized weights against the float model, window by window; all windows have the same length."""

    bytes: int
    kls: list[float]  # mean KL divergence, nats per token
    rises: list[float]  # of the mean negative log likelihood, nats per token

    @property
    def kl(self) -> float:
        return float(np.mean(self.kls))

    @property
    def loss(self) -> float:
        """Of perplexity, relative."""
        return math.expm1(float(np.mean(self.rises)))


@dataclasses.dataclass(frozen=True)
class Row:
    """One recipe, and edgec at no more bytes."""

    recipe: str
    imatrix: bool
    theirs: Score
    ours: Score
    bits: str  # what edgec took, "4: 12, 6: 3"
    seconds: float  # edgec's

    @property
    def difference(self) -> tuple[float, float]:
        """edgec's mean negative log likelihood less llama.cpp's, and its standard error over windows."""
        pairs = np.subtract(self.ours.rises, self.theirs.rises)
        return float(pairs.mean()), float(pairs.std(ddof=1) / math.sqrt(pairs.size))


class Judge:
    """The float model's predictions, computed once."""

    def __init__(self, model: ModelIR, windows: Sequence[Sequence[int]]) -> None:
        self.windows = windows
        with ReferenceDecoder(model) as reference:
            self._logits = [list(reference.logits(window[:-1])) for window in windows]

    def __call__(self, model: ModelIR, size: int) -> Score:
        """`size`: the bytes of `model`'s weights."""
        with ReferenceDecoder(model) as other:
            found = [self._window(other, number) for number in range(len(self.windows))]
        return Score(size, [one.kl_mean for one in found], [one.model.nll - one.reference.nll for one in found])

    def _window(self, other: ReferenceDecoder, number: int) -> Comparison:
        window = self.windows[number]
        return compare(other.logits, lambda _: self._logits[number], window, len(window))


def sampled_windows(model: ModelIR, count: int, length: int, *, seed: int) -> list[list[int]]:
    """Windows of text that the model writes from an empty context, one token after the other.

    On such text the expected rise of the negative log likelihood is the KL divergence.
    """
    random, windows = np.random.default_rng(seed), []
    begin = model.tokenizer.bos_token_id or 0 if model.tokenizer else 0
    with ReferenceDecoder(model) as reference:
        for _ in range(count):
            reference.reset()
            ids = [begin]
            while len(ids) < length:
                logits = reference.step(ids[-1:])[-1].astype(np.float64)
                share = np.cumsum(np.exp(logits - logits.max()))
                ids.append(int((share < random.random() * share[-1]).sum()))
            windows.append(ids)
    return windows


def judged_windows(model: ModelIR, context: int, arguments: argparse.Namespace) -> list[list[int]]:
    """Windows of `context` ids of what is predicted, see `add_data_options`."""
    if not arguments.text:
        return sampled_windows(model, -(-arguments.tokens // context), context, seed=7)
    assert model.tokenizer is not None
    ids = Tokenizer(model.tokenizer.tokenizer_json).encode_plain(arguments.text.read_text())[: arguments.tokens]
    return [ids[start : start + context] for start in range(0, len(ids) - context + 1, context)]


def calibration(model: ModelIR, arguments: argparse.Namespace) -> list[dict[str, np.ndarray]]:
    """What quantizers are calibrated on, see `add_data_options`."""
    return read_samples(model, arguments.calibration) if arguments.calibration else generated_samples(model)


def add_data_options(parser: argparse.ArgumentParser, *, tokens: int) -> None:
    """What is predicted and calibrated on; `tokens` is how many by default."""
    parser.add_argument("--text", type=Path, help="what is predicted")
    parser.add_argument("--calibration", type=Path, help="what quantizers are calibrated on")
    parser.add_argument("--tokens", type=int, default=tokens)
    parser.add_argument("--context", type=int, default=512)


def importance_matrix(model: ModelIR, samples: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The mean square of each input feature of each projection, as llama-imatrix collects it."""
    uses = weight_uses(model.model)
    names = [name for name in uses if _NAME.fullmatch(name)]
    walk = Walk(model, schedule(model.model.graph, uses, names), samples)
    with threadpool_limits(1, "blas"):
        return {name: found[name].power for _, found in walk for name in found}


def ggml_model(model: ModelIR, recipe: str, ggml: Ggml, imatrix: dict[str, np.ndarray] | None) -> tuple[ModelIR, int]:
    """`model` with the values of `recipe`, and the bytes that its weights take."""
    assert model.decoder is not None
    facts, uses, total = model.decoder, weight_uses(model.model), 0
    copy = model.model.clone()
    for name, value in copy.graph.initializers.items():
        if value.const_value is None or not name.startswith(("model.", "lm_head.")):
            continue
        if name not in uses:
            total += value.const_value.nbytes
            continue
        use = uses[name]
        matrix = np.ascontiguousarray(use.to_matrix(value.const_value.numpy()), np.float32)
        found = _NAME.fullmatch(name)
        layer, kind = (int(found[1]), found[2]) if found else (0, "output" if "linear" in use.roles else "embedding")
        type_ = tensor_type(
            recipe,
            kind,
            layer,
            facts.layers,
            use.columns,
            gqa=facts.heads // facts.kv_heads,
            imatrix=imatrix is not None,
        )
        total += stored_bytes(type_, use.rows, use.columns)
        values = ggml.values(matrix, type_, imatrix.get(name) if imatrix else None)
        value.const_value = onnx_ir.Tensor(use.from_matrix(values), name=name)
    return dataclasses.replace(model, model=copy), total


@dataclasses.dataclass(frozen=True)
class Table:
    """All rows of one model."""

    model: str
    text: str  # what was predicted
    calibration: str
    tokens: int
    context: int
    rows: list[Row]


def measure(source: str, arguments: argparse.Namespace) -> Table:
    """The rows of one model; those that `--kept` has are taken from there."""
    loaded = load(source)
    model = simplify(loaded)
    assert model.decoder is not None
    context = min(arguments.context, model.decoder.context_length)
    judge = Judge(model, judged_windows(model, context, arguments))
    samples = calibration(model, arguments)
    losses = sensitivities(model, quantizable(model), samples)
    errors = rounding_errors(model, list(losses), to_measure(model, None), narrow=NARROW)
    imatrix = importance_matrix(loaded, samples)
    ggml = Ggml(arguments.ggml)
    found = Table(
        model=Path(source).name,
        text=arguments.text.name if arguments.text else "its own text",
        calibration=arguments.calibration.name if arguments.calibration else "its own text",
        tokens=sum(len(window) - 1 for window in judge.windows),
        context=context,
        rows=[],
    )
    kept = arguments.kept / f"{found.model}.json" if arguments.kept else None
    if kept is not None and kept.is_file():
        before = read_table(kept)
        if dataclasses.replace(before, rows=[]) == found:
            found = before
    for recipe in arguments.recipes.split(","):
        for used in (None, imatrix) if recipe != "Q8_0" else (None,):  # Q8_0 has no use for it
            if any((row.recipe, row.imatrix) == (recipe, used is not None) for row in found.rows):
                continue
            model_of_theirs, size = ggml_model(loaded, recipe, ggml, used)
            theirs = judge(model_of_theirs, size)
            same = next((row for row in found.rows if row.theirs.bytes == size), None)
            if same is not None:  # what edgec makes of as many bytes does not depend on the recipe
                add(found, dataclasses.replace(same, recipe=recipe, imatrix=used is not None, theirs=theirs), kept)
                continue
            begin = time.perf_counter()
            tokenizer = len(model.tokenizer.tokenizer_json) if model.tokenizer else 0
            target = Target(bytes=size + tokenizer + MODULE_BYTES)
            given = "given" if arguments.calibration else "own"
            plan = make_plan(
                model, profiles.load(PROFILE), calibration=given, target=target, losses=losses, errors=errors
            )
            compressed = compress(model, plan, samples=samples)
            seconds = time.perf_counter() - begin
            counts = sorted({t.bits: 0 for t in plan.tensors if t.bits != 32})
            bits = ", ".join(f"{b}: {sum(t.bits == b for t in plan.tensors)}" for b in counts)
            ours = judge(dequantized_model(compressed), weight_bytes(model, plan.tensors, stored=True))
            add(found, Row(recipe, used is not None, theirs, ours, bits, seconds), kept)
    return found


def add(found: Table, row: Row, kept: Path | None) -> None:
    """Append a row, and keep the table if there is a file for it."""
    found.rows.append(row)
    print(row, file=sys.stderr)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(kept) as partial:
            partial.write_text(json.dumps(dataclasses.asdict(found), indent=1) + "\n")


def read_table(file: Path) -> Table:
    data = json.loads(file.read_text())
    scores = [{name: Score(**row[name]) for name in ("theirs", "ours")} for row in data["rows"]]
    rows = [Row(**row | found) for row, found in zip(data["rows"], scores, strict=True)]
    return Table(**data | {"rows": rows})


def page(tables: Sequence[Table]) -> str:
    """The Markdown page of all tables."""
    rows = [row for one in tables for row in one.rows]
    better = sum(row.ours.kl < row.theirs.kl for row in rows)
    lower = sum(row.difference[0] < 0 for row in rows)
    unsure = sum(row.difference[0] >= 0 and row.difference[0] <= 2 * row.difference[1] for row in rows)
    bound = "no more" if all(row.ours.bytes <= row.theirs.bytes for row in rows) else "about as many"
    head = f"""\
# Accuracy at equal bytes

This page is written by `bench/accuracy.py`; [bench/README.md](../bench/README.md) says how it measures.

Every row is one of llama.cpp's recipes and edgec with `--target-size` at {bound} bytes of
weights, both in the same float graph. KL is that of the float model's predictions (nats per token), *perplexity* its
change against the float model. *Difference* is edgec's perplexity against llama.cpp's, with its standard error over the
windows of the text, paired: one that is smaller than twice its error says nothing about which is better.

edgec's KL is lower in {better} of {len(rows)} rows, its perplexity in {lower}. Of the other {len(rows) - lower},
{unsure} are below two standard errors.
"""
    return "\n".join([head, *(table(one) for one in tables)])


def table(of: Table) -> str:
    lines = [
        f"## {of.model}",
        f"{of.tokens:,} tokens of {of.text} in windows of {of.context}, calibrated on {of.calibration}."
        + (_KEPT_GRID if of.model.endswith(".gguf") else ""),
        "",
        "| llama.cpp | MB | KL | perplexity | edgec MB | KL | perplexity | KL, edgec / llama.cpp | difference | "
        "matrices by bits |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in of.rows:
        name, theirs, ours = row.recipe + (" + imatrix" if row.imatrix else ""), row.theirs, row.ours
        difference, error = row.difference
        lines.append(
            f"| {name} | {theirs.bytes / 1e6:.3f} | {theirs.kl:.5f} | {theirs.loss:+.2%} | {ours.bytes / 1e6:.3f} | "
            f"{ours.kl:.5f} | {ours.loss:+.2%} | {ours.kl / theirs.kl:.2f} | "
            f"{100 * difference:+.3f} ± {100 * error:.3f}% | {row.bits} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--ggml", type=Path, help="libggml-base, see ggml_recipes.py")
    add_data_options(parser, tokens=2048)
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--kept", type=Path, metavar="DIR", help="finished rows, of this run and of others")
    parser.add_argument("--report", type=Path, help="write the page there, of all that is in --kept")
    parser.add_argument("--json", action="store_true", help="print numbers as JSON")
    arguments = parser.parse_args()
    if arguments.models and arguments.ggml is None:
        parser.error("--ggml is needed to measure")
    if not arguments.models and arguments.kept is None:
        parser.error("there is neither a model to measure nor --kept to read")
    tables = [measure(source, arguments) for source in arguments.models]
    if arguments.kept is not None:
        tables = [read_table(file) for file in sorted(arguments.kept.glob("*.json"))]
    if arguments.report:
        with whole_file(arguments.report) as partial:
            Path(partial).write_text(page(tables))
    if arguments.json:
        print(json.dumps([dataclasses.asdict(one) for one in tables]))
    else:
        print(page(tables))


if __name__ == "__main__":
    main()
