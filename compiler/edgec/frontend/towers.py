"""Two-tower models (CLIP, SigLIP): one ONNX graph of texts and images, split into a part for each.

What compares the towers is left to the runtime, as numbers: `scale * cosine + bias`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir
from onnx.reference import ReferenceEvaluator
from onnx_ir.convenience import extract
from onnx_ir.passes.common import RemoveUnusedNodesPass

from edgec.errors import UnsupportedError
from edgec.ir.model import GraphPart, ModelIR, inputs_of

TASK = "text-image-similarity"
_TOLERANCE = 1e-4  # of logits, relative, between the graph's end and the formula


def split_towers(model: ModelIR) -> ModelIR:
    """The parts `text` and `image` of a model whose task is to compare texts and images; others as they are.

    `scale`, `bias` and `scores` are read off the graph where the task does not give them. Raises `UnsupportedError`
    when the graph is not two towers that meet in a scaled product.
    """
    if model.task is None or model.task.get("type") != TASK:
        return model
    graph = model.model.graph
    towers = _Towers(model.facts.name, graph)
    text, image = towers.ends()
    task = dict(model.task)
    if "scale" not in task:
        scale, bias = towers.comparison(text, image)
        task |= {"scale": scale, "bias": bias, "scores": "sigmoid" if bias else "softmax", "normalize": False}
    if "attention_mask" not in towers.text:
        _fix_length(graph, int(task["text"]["max_length"]))
    graph.outputs[:] = [text, image]
    RemoveUnusedNodesPass()(model.model)
    parts = {
        "text": GraphPart(tuple(towers.text), (text.name or "",)),
        "image": GraphPart(tuple(towers.image), (image.name or "",)),
    }
    return dataclasses.replace(model, task=task, parts=parts)


def _fix_length(graph: onnx_ir.Graph, length: int) -> None:
    """Without a mask, texts are always filled up: that is what the model was trained on."""
    [ids] = [value for value in graph.inputs if value.name == "input_ids"]
    if ids.shape is not None and not isinstance(ids.shape[1], int):
        ids.shape = onnx_ir.Shape([ids.shape.dims[0], length])


class _Towers:
    """`text` and `image` are the names of the inputs of each tower."""

    def __init__(self, name: str, graph: onnx_ir.Graph) -> None:
        self._name, self._graph = name, graph
        images = [value for value in graph.inputs if value.shape is not None and len(value.shape) == 4]
        self.image = [value.name or "" for value in images]
        self.text = [value.name or "" for value in graph.inputs if value not in images]
        if len(self.image) != 1 or "input_ids" not in self.text:
            raise self._refusal(f"the inputs {', '.join(f'`{value.name}`' for value in graph.inputs)}")

    def _refusal(self, problem: str) -> UnsupportedError:
        return UnsupportedError(
            f"`{self._name}` is no pair of a text and an image tower: it has {problem}",
            hint="export it with the inputs `input_ids` and `pixel_values` and the outputs `text_embeds` and "
            "`image_embeds`, or without a task to run its tensors",
        )

    def _side(self, value: onnx_ir.Value) -> str | None:
        """The tower that a value belongs to, None where it depends on both, or on nothing."""
        needs = inputs_of(self._graph, [value])
        if needs and needs <= set(self.text):
            return "text"
        return "image" if needs and needs <= set(self.image) else None

    def ends(self) -> tuple[onnx_ir.Value, onnx_ir.Value]:
        """The vectors of both towers, `[batch, width]`."""
        found: dict[str, list[onnx_ir.Value]] = {"text": [], "image": []}
        for value in self._graph.outputs:
            side = self._side(value)
            if side is not None and value.shape is not None and len(value.shape) == 2:
                found[side].append(value)
        for side, values in found.items():
            embeds = [value for value in values if "embed" in (value.name or "")]
            found[side] = embeds if len(values) > 1 else values
        if not found["text"] and not found["image"]:
            return self._factors()
        for side, values in found.items():
            if len(values) != 1:
                listed = ", ".join(f"`{value.name}`" for value in values) or "none"
                raise self._refusal(f"the outputs {listed} that could be vectors of {side}s")
        return found["text"][0], found["image"][0]

    def _factors(self) -> tuple[onnx_ir.Value, onnx_ir.Value]:
        """What is multiplied where the towers meet."""
        for node in self._graph:
            if node.op_type not in ("MatMul", "Gemm") or len(node.inputs) < 2:
                continue
            factors = [value for value in map(_untransposed, node.inputs[:2]) if value is not None]
            sides = {self._side(value): value for value in factors}
            if {"text", "image"} <= sides.keys():
                return sides["text"], sides["image"]
        raise self._refusal("no product of vectors of texts and images")

    def comparison(self, text: onnx_ir.Value, image: onnx_ir.Value) -> tuple[float, float]:
        """`(scale, bias)` of the logits: the end of the graph, evaluated on unit vectors and tested on others."""
        logits = [
            value for value in self._graph.outputs if inputs_of(self._graph, [value]) >= {"input_ids", *self.image}
        ]
        if not logits:
            raise self._refusal("no output that compares texts with images, and its task no `scale`")
        try:
            tail = extract(self._graph, [text, image], [logits[0]])
        except ValueError:
            raise self._refusal(f"an output `{logits[0].name}` that depends on more than the towers' vectors") from None
        opsets = self._graph.opset_imports
        tail.opset_imports.update(opsets)
        evaluator = ReferenceEvaluator(onnx_ir.to_proto(onnx_ir.Model(tail, ir_version=10)))
        width = self._width(text, image)

        def product(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> Any:
            [result] = evaluator.run(None, {text.name or "": a, image.name or "": b})
            return np.asarray(result, np.float64)

        unit = np.zeros((1, width), np.float32)
        bias = float(product(unit, unit).item())
        unit[0, 0] = 1
        scale = float(product(unit, unit).item()) - bias
        a, b = np.random.default_rng(0).normal(size=(2, 3, width)).astype(np.float32)
        expected, got = scale * (a.astype(np.float64) @ b.T.astype(np.float64)) + bias, product(a, b)
        limit = _TOLERANCE * max(abs(scale) * width, abs(bias))
        if not any(np.abs(expected - result).max() <= limit for result in (got, got.T)):
            raise self._refusal(f"an output `{logits[0].name}` that is no scaled product of the vectors")
        return scale, bias

    def _width(self, *values: onnx_ir.Value) -> int:
        for value in values:
            if value.shape is not None and isinstance(value.shape[-1], int):
                return int(value.shape[-1])
        raise self._refusal("vectors of unknown width")


def _untransposed(value: onnx_ir.Value | None) -> onnx_ir.Value | None:
    """What was transposed, cast or copied on the way into a product."""
    while value is not None:
        node = value.producer()
        if node is None or node.op_type not in ("Transpose", "Cast", "Identity"):
            return value
        value = node.inputs[0]
    return None
