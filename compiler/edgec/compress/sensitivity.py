"""How much the model's output suffers when one matrix alone is quantized.

The measure is the KL divergence of the next token's or the class's distribution for language models
and classifiers (nats), and the squared error relative to the outputs' power for other graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir

from edgec.compress.calibration.feeds import decoder_feeds
from edgec.compress.calibration.samples import Sample
from edgec.compress.calibration.session import Session
from edgec.compress.dequantize import dequantize
from edgec.compress.finite import check_all_finite
from edgec.compress.prune.blocks import blocks
from edgec.compress.quantize import QUANTIZERS
from edgec.errors import ModelError
from edgec.ir.compressed import CompressedModel, PackedTensor
from edgec.ir.model import ModelIR
from edgec.ir.plan import PROBE_BITS
from edgec.ir.store import Store, key_of
from edgec.ir.weight_use import WeightUse, weight_uses

_SAMPLES = 2
_PICTURES = 16  # for a classifier, which predicts only once in each
OPERATIONS = 4e12  # of all runs together: about half a minute on two cores, as half of each run is not repeated
_FEWEST_TOKENS = 32  # of a sample
Outputs = list[npt.NDArray[Any]]


def sensitivities(
    model: ModelIR,
    names: Sequence[str],
    samples: Sequence[Sample],
    *,
    coded: CompressedModel | None = None,
    pictures: int = _PICTURES,
    operations: float = OPERATIONS,
    store: Store | None = None,
    source_key: str = "",
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, float]:
    """The loss of each matrix in `names` at `PROBE_BITS`, or with the codes of `coded`, on the first samples (of a
    classifier, the first `pictures`).

    A matrix is changed in the block where it lies, and only what follows is computed again. For language models all
    runs together take about `operations` multiplications and additions. Losses that `store` has are not measured
    again; `source_key` tells the model from all others.
    The whole model is held as float. Raises `ModelError` where the output is not finite.
    """
    uses = weight_uses(model.model)
    few = _few(model, len(names), samples, operations, pictures)
    base = key_of("loss", source_key, PROBE_BITS, few)
    keys = {name: _key(base, name, None if coded is None else coded.packed[name]) for name in names}
    losses = {name: loss for name in names if (loss := _kept(store, keys[name])) is not None}
    if len(losses) == len(names):
        return losses
    kept = ["logits"] if model.kind == "decoder" else [str(value.name) for value in model.model.graph.outputs]
    # Small matrices are constants of the session otherwise.
    graph = model.model.graph
    cuts = _cuts(graph, kept, [block.start for block in blocks(model)], names)
    watched = {name for name in cuts.values() if name is not None}
    session = Session(model, list(graph), [*kept, *watched], few[0], {}, fed=names)
    runs = [session(sample) for sample in few]
    references = [[found[name] for name in kept] for found in runs]
    known = [{**sample, **{name: found[name] for name in watched}} for sample, found in zip(few, runs, strict=True)]
    reached: str | None = None
    if not all(np.isfinite(array).all() for outputs in references for array in outputs):
        check_all_finite(model)
        raise ModelError(f"`{model.facts.name}` computes values that are not finite on the calibration data")
    starts = {name: number for number, name in enumerate(dict.fromkeys(cuts.values()))}
    for number, name in enumerate(sorted(names, key=lambda name: starts[cuts[name]])):
        if name in losses:
            continue
        if progress is not None:
            progress(name, number, len(names))
        changed = {name: _quantized(model, uses[name], None if coded is None else coded.packed[name])}
        if cuts[name] != reached:
            reached = cuts[name]
            session = Session(model, _after(graph, kept, reached), kept, known[0], {}, fed=names)
        outputs = [[found[label] for label in kept] for found in (session(sample, changed) for sample in known)]
        measure = divergence if model.kind == "decoder" or classifies(model) else relative_error
        losses[name] = float(np.mean([measure(a, b) for a, b in zip(references, outputs, strict=True)]))
        if not np.isfinite(losses[name]):
            raise ModelError(f"`{name}` in few bits makes outputs that are not finite on the calibration data")
        if store is not None:
            store.save(keys[name], {"loss": np.asarray([losses[name]], np.float64)})
    if progress is not None:
        progress("", len(names), len(names))
    return {name: losses[name] for name in names}


def _key(base: str, name: str, coded: PackedTensor | None) -> str:
    """Of what a matrix loses at `PROBE_BITS`, or with the codes that are given."""
    if coded is None:
        return key_of(base, name)
    return key_of(base, name, coded.bits, coded.group_size, coded.high, coded.low, coded.scales, coded.zeros)


def _kept(store: Store | None, key: str) -> float | None:
    arrays = store.load(key) if store is not None else None
    if store is None or arrays is None:
        return None
    if arrays.keys() != {"loss"} or arrays["loss"].shape != (1,) or not np.isfinite(arrays["loss"]).all():
        store.refuse(key)
        return None
    return float(arrays["loss"][0])


def _cuts(
    graph: onnx_ir.Graph, kept: Sequence[str], starts: Sequence[onnx_ir.Value], names: Sequence[str]
) -> dict[str, str | None]:
    """For each matrix the last of `starts` after which alone it is used, None where that is the whole graph."""
    found: dict[str, str | None] = dict.fromkeys(names)
    for start in starts:
        after = set(_after(graph, kept, start.name))
        for name in names:
            if all(node in after for node, _ in graph.initializers[name].uses()):
                found[name] = start.name
    return found


def _after(graph: onnx_ir.Graph, kept: Sequence[str], start: str | None) -> list[onnx_ir.Node]:
    """The nodes that give `kept` from the value `start`, and from inputs of the graph, in order."""
    wanted, nodes = set(kept), []
    for node in reversed(list(graph)):
        if any(output.name in wanted and output.name != start for output in node.outputs):
            nodes.append(node)
            wanted.update(value.name for value in node.inputs if value is not None and value.name is not None)
    return nodes[::-1]


def _few(model: ModelIR, runs: int, samples: Sequence[Sample], operations: float, pictures: int) -> list[Sample]:
    """The first samples, those of large language models cut so that `runs` runs take so many operations."""
    few = list(samples[: pictures if classifies(model) else _SAMPLES])
    if model.kind != "decoder":
        return few
    tokens = int(operations / (2 * model.facts.parameters * max(runs, 1) * len(few)))
    return [decoder_feeds(model, sample["input_ids"][0, : max(tokens, _FEWEST_TOKENS)].tolist()) for sample in few]


def classifies(model: ModelIR) -> bool:
    task = model.task or {}
    return task.get("type") == "image-classification" and task.get("scores") == "logits"


def _quantized(model: ModelIR, use: WeightUse, packed: PackedTensor | None) -> npt.NDArray[Any]:
    tensor = model.model.graph.initializers[use.name].const_value
    assert tensor is not None
    array = tensor.numpy()
    if packed is not None:
        values = dequantize(packed)
    else:
        matrix = np.ascontiguousarray(use.to_matrix(array), np.float32)
        values = QUANTIZERS["rtn"](PROBE_BITS, None).quantize(matrix).values()
    return use.from_matrix(values).astype(array.dtype, copy=False)


def divergence(expected: Outputs, got: Outputs) -> float:
    """Mean KL over positions."""
    p, q = (_log_softmax(outputs[0].reshape(-1, outputs[0].shape[-1])) for outputs in (expected, got))
    return max(0.0, float((np.exp(p) * (p - q)).sum(axis=1).mean()))


def _log_softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    shifted: npt.NDArray[np.float64] = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def relative_error(expected: Outputs, got: Outputs) -> float:
    pairs = [(a, b) for a, b in zip(expected, got, strict=True) if a.dtype.kind == "f"]
    power = sum(float(np.square(a, dtype=np.float64).sum()) for a, _ in pairs)
    error = sum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in pairs)
    return error / power if power else 0.0


__all__ = ["OPERATIONS", "classifies", "divergence", "relative_error", "sensitivities"]
