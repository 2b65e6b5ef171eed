"""ONNX files that are known by the names of their inputs and outputs, and what they are for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgec.ir.model import ModelIR


@dataclass(frozen=True)
class Signature:
    """`fixed` inputs become constants where the file has them; `shapes` are of the others, in the task's order."""

    shapes: Mapping[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    task: Mapping[str, Any]
    fixed: Mapping[str, int]


SIGNATURES = (
    # Silero VAD 5 and 6: numbers of the package's `get_speech_timestamps` and `OnnxWrapper`.
    Signature(
        shapes={"input": (1, 576), "state": (2, 1, 128)},
        outputs=("output", "stateN"),
        task={
            "type": "speech-detection",
            "sample_rate": 16000,
            "window": 512,
            "context": 64,
            "threshold": 0.5,
            "neg_threshold": 0.35,
            "min_speech_ms": 250,
            "min_silence_ms": 100,
            "speech_pad_ms": 30,
        },
        fixed={"sr": 16000},
    ),
)


def recognized(model: ModelIR) -> ModelIR:
    """The model with its task, if a signature is its own; else as it is."""
    graph = model.model.graph
    inputs = {value.name or "": value for value in graph.inputs}
    outputs = tuple(value.name or "" for value in graph.outputs)
    for signature in SIGNATURES:
        own = inputs.keys() - signature.fixed.keys()
        if own == signature.shapes.keys() and outputs == signature.outputs and _fits(inputs, signature):
            _settle(graph, inputs, signature)
            return dataclasses.replace(model, task=dict(signature.task))
    return model


def _fits(inputs: Mapping[str, ir.Value], signature: Signature) -> bool:
    """Every dimension is free, or the signature's."""
    for name, shape in signature.shapes.items():
        dims = inputs[name].shape
        if dims is not None and (
            len(dims) != len(shape) or any(isinstance(d, int) and d != s for d, s in zip(dims, shape, strict=True))
        ):
            return False
    return True


def _settle(graph: ir.Graph, inputs: Mapping[str, ir.Value], signature: Signature) -> None:
    graph.inputs[:] = [inputs[name] for name in signature.shapes]
    for name, shape in signature.shapes.items():
        inputs[name].shape = ir.Shape(shape)
    for name, number in signature.fixed.items():
        if name in inputs:
            value = inputs[name]
            assert value.dtype is not None
            value.const_value = ir.tensor(np.array(number, value.dtype.numpy()), name=name)
            value.shape = ir.Shape([])
            graph.register_initializer(value)


__all__ = ["SIGNATURES", "Signature", "recognized"]
