"""Leave out the blocks that change the stream least.

Block influence, 1 - the mean cosine of what goes into a block and what comes out of it, is from Men et
al. 2024, "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect".
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir
from onnx_ir.passes import common

from edgec.compress.calibration.samples import Sample
from edgec.compress.calibration.session import Session
from edgec.compress.prune.blocks import blocks
from edgec.compress.prune.resize import initializer_elements
from edgec.ir.model import DecoderFacts, ModelIR
from edgec.passes.base import replace

_CACHE = re.compile(r"(past_key_values|present)\.(\d+)\.(key|value)")


def block_influence(model: ModelIR, samples: Sequence[Sample]) -> list[float]:
    """Of each block (`edgec.compress.prune.blocks`), 0 where it does nothing; the mean over all tokens."""
    found = blocks(model)
    names = {str(value.name) for block in found for value in (block.start, block.end)}
    session = Session(model, list(model.model.graph), names, samples[0], {})
    total, count = np.zeros(len(found), np.float64), 0
    for sample in samples:
        values = session(sample)
        for number, block in enumerate(found):
            cosines = _cosines(values[str(block.start.name)], values[str(block.end.name)])
            total[number] += (1 - cosines).sum()
        count += cosines.size if found else 0
    return [float(value) for value in total / max(count, 1)]


def remove_blocks(model: ModelIR, numbers: Sequence[int]) -> ModelIR:
    """The model without the blocks of these numbers; `model` is not changed."""
    result = dataclasses.replace(model, model=model.model.clone())
    graph = result.model.graph
    before = initializer_elements(graph)
    found = blocks(result)
    for number in sorted(numbers, reverse=True):
        replace(found[number].end, found[number].start)
    decoder = result.decoder
    if decoder is not None:
        layers = {found[number].layer for number in numbers}
        decoder = _without_caches(graph, decoder, {layer for layer in layers if layer is not None})
    common.RemoveUnusedNodesPass()(result.model)
    facts = dataclasses.replace(model.facts, parameters=model.facts.parameters - before + initializer_elements(graph))
    return dataclasses.replace(result, decoder=decoder, facts=facts)


def _without_caches(graph: onnx_ir.Graph, decoder: DecoderFacts, layers: set[int]) -> DecoderFacts:
    """Inputs and outputs of the removed layers go, the others are counted anew."""
    new = {old: index for index, old in enumerate(n for n in range(decoder.layers) if n not in layers)}
    for values in (graph.inputs, graph.outputs):
        for value in list(values):
            match = _CACHE.fullmatch(value.name or "")
            if match is None:
                continue
            if int(match[2]) in layers:
                values.remove(value)
            else:
                value.name = f"{match[1]}.{new[int(match[2])]}.{match[3]}"
    windows = tuple(window for number, window in enumerate(decoder.windows) if number not in layers)
    return dataclasses.replace(decoder, layers=len(new), windows=windows)


def _cosines(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Of the vectors along the last axis."""
    x, y = (array.reshape(-1, array.shape[-1]).astype(np.float64) for array in (a, b))
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    cosines: npt.NDArray[np.float64] = (x * y).sum(axis=1) / np.maximum(norms, 1e-30)
    return cosines


__all__ = ["block_influence", "remove_blocks"]
