"""The residual blocks of a graph: spans that can be left out, because they give what they take.

A value is a cut when everything computed after it depends on the weights before it through this value
alone. Between two cuts of the same shape lies a block. Where norms follow the sums (post-norm models such as BERT),
a block ends with its norm. The blocks of a decoder are its layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir

from edgec.ir.model import ModelIR
from edgec.ir.weight_use import weight_uses

_MATRIX = 1024  # weights; smaller initializers are norms and constants


@dataclass(frozen=True)
class Block:
    """What lies between `start` and `end`; `weights` are the matrices that nothing else uses."""

    start: onnx_ir.Value
    end: onnx_ir.Value
    weights: tuple[str, ...]
    layer: int | None = None  # of a decoder

    @property
    def name(self) -> str:
        return f"layer {self.layer}" if self.layer is not None else f"`{self.weights[0]}` to `{self.weights[-1]}`"


@dataclass
class _Span:
    start: onnx_ir.Value
    end: onnx_ir.Value
    nodes: list[onnx_ir.Node]
    weights: list[str]


def blocks(model: ModelIR) -> list[Block]:
    """In the graph's order; empty for graphs without such structure."""
    spans = _joined_norms(_spans(model))
    alike = [span for span in spans if span.weights and _same_shape(span.start, span.end)]
    if model.decoder is None:
        return [Block(span.start, span.end, tuple(span.weights)) for span in alike]
    layers: list[list[_Span]] = []
    for span in alike:
        if any(node.op_type == "Attention" for node in span.nodes):
            layers.append([])
        if layers:
            layers[-1].append(span)
    if len(layers) != model.decoder.layers:
        return []
    return [
        Block(parts[0].start, parts[-1].end, tuple(name for part in parts for name in part.weights), number)
        for number, parts in enumerate(layers)
    ]


def _spans(model: ModelIR) -> list[_Span]:
    """Between all neighbouring cuts."""
    uses = {name: use for name, use in weight_uses(model.model).items() if use.elements > _MATRIX}
    multiplied = {name for name, use in uses.items() if use.uses_per_run}  # a table alone makes no block
    stream: set[onnx_ir.Value] = set()  # what depends on a matrix
    left: dict[onnx_ir.Value, int] = {}  # uses of live values of the stream that are still to come
    spans: list[_Span] = []
    cut: onnx_ir.Value | None = None
    nodes: list[onnx_ir.Node] = []
    for node in model.model.graph:
        nodes.append(node)
        for value in node.inputs:
            if value in left:
                left[value] -= 1
                if left[value] == 0:
                    del left[value]
        inputs = [value for value in node.inputs if value is not None]
        if not any(value in stream or value.name in uses for value in inputs):
            continue
        for output in node.outputs:
            # A cache is handed out, nothing in the graph goes on from it.
            readers = len(output.uses()) + (output.is_graph_output() and not (output.name or "").startswith("present."))
            stream.add(output)
            if readers:
                left[output] = readers
        if len(left) == 1:
            end = next(iter(left))
            if cut is not None and end is not cut:
                names = [str(v.name) for n in nodes for v in n.inputs if v is not None and v.name in multiplied]
                spans.append(_Span(cut, end, nodes, names))
            if end is not cut:
                cut, nodes = end, []
    return spans


def _joined_norms(spans: Sequence[_Span]) -> list[_Span]:
    """Spans without matrices join the one before, if the very first block is followed by such a span."""
    first = next((i for i, span in enumerate(spans) if span.weights and _same_shape(span.start, span.end)), None)
    if first is None or first + 1 >= len(spans) or spans[first + 1].weights:
        return list(spans)
    joined: list[_Span] = []
    for span in spans:
        if joined and not span.weights and joined[-1].weights and _same_shape(span.start, span.end):
            before = joined.pop()
            span = _Span(before.start, span.end, before.nodes + span.nodes, before.weights)
        joined.append(span)
    return joined


def _same_shape(a: onnx_ir.Value, b: onnx_ir.Value) -> bool:
    return a.shape is not None and b.shape is not None and a.shape.dims == b.shape.dims and a.dtype == b.dtype


__all__ = ["Block", "blocks"]
