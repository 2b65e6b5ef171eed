"""Operands whose values decide what is generated: axes, sizes, counts. They must be known while compiling."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx_ir as ir

from edgec.errors import UnsupportedError
from edgec.lower.wasm.graph_context import label
from edgec.passes.computed_dims import COMPUTED
from edgec.passes.infer_shapes import content_of

_AXES = dict.fromkeys(
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
    "ReduceSumSquare".split(),
    ((1, "axes"),),
)

DECIDING: Mapping[str, tuple[tuple[int, str], ...]] = {
    **_AXES,
    "Col2Im": ((1, "image_shape"), (2, "block_shape")),
    "Compress": ((1, "condition"),),
    "ConstantOfShape": ((0, "shape"),),
    "CumProd": ((1, "axis"),),
    "CumSum": ((1, "axis"),),
    "DFT": ((1, "dft_length"), (2, "axis")),
    "Expand": ((1, "shape"),),
    "If": ((0, "cond"),),
    "Loop": ((0, "M"), (1, "cond")),
    "MaxUnpool": ((2, "output_shape"),),
    "MelWeightMatrix": (
        (0, "num_mel_bins"),
        (1, "dft_length"),
        (2, "sample_rate"),
        (3, "lower_edge_hertz"),
        (4, "upper_edge_hertz"),
    ),
    "NonMaxSuppression": ((2, "max_output_boxes_per_class"),),
    "OneHot": ((1, "depth"),),
    "Pad": ((1, "pads"), (3, "axes")),
    "Range": ((0, "start"), (1, "limit"), (2, "delta")),
    "Reshape": ((1, "shape"),),
    "Resize": ((1, "roi"), (2, "scales"), (3, "sizes")),
    "STFT": ((1, "frame_step"), (3, "frame_length")),
    "Slice": ((1, "starts"), (2, "ends"), (3, "axes"), (4, "steps")),
    "Split": ((1, "split"),),
    "Squeeze": ((1, "axes"),),
    "Tile": ((1, "repeats"),),
    "TopK": ((1, "k"),),
    "Unsqueeze": ((1, "axes"),),
}


def undecided(node: ir.Node) -> list[tuple[int, str]]:
    """The deciding operands that are not known while compiling: index and name."""
    found = []
    for index, name in DECIDING.get(node.op_type, ()) if node.domain == "" else ():
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is not None and value.const_value is None and content_of(value) is None:
            found.append((index, name))
    return found


def computes_shape(node: ir.Node) -> bool:
    """Whether the node's shape or form follows from values that are known while running only."""
    return COMPUTED in node.meta or bool(undecided(node))


def check_operands(graph: ir.Graph, computing: Collection[str]) -> None:
    """Raises `UnsupportedError` for a deciding operand that is computed from an input's values.

    `computing` are the operators that can read theirs while running.
    """
    found: list[tuple[ir.Node, str, list[str]]] = []
    for node in graph:
        for index, name in undecided(node) if node.op_type not in computing else ():
            value = node.inputs[index]
            assert value is not None
            sources = value_sources(value)
            if sources:
                found.append((node, f"`{name}`", sources))
    if found:
        node, what, _ = found[0]
        refuse(node, what, sorted({source for _, _, sources in found for source in sources}))


def refuse(node: ir.Node, what: str, sources: list[str]) -> None:
    """Raises `UnsupportedError`: `what` of `node` follows from the values of the inputs `sources`."""
    listed = " and ".join(f"`{source}`" for source in sources)
    fixes = " ".join(f"--fix-input {source}=VALUE" for source in sources)
    raise UnsupportedError(
        f"{what} of {label(node)} is computed from the values of the input {listed}",
        hint=f"give the value while compiling: `{fixes}`",
        inputs=tuple(sources),
    )


def value_sources(value: ir.Value) -> list[str]:
    """Graph inputs whose values, not only whose shapes, reach `value`."""
    found: dict[str, None] = {}
    seen: set[ir.Value] = set()
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if current in seen or content_of(current) is not None:
            continue
        seen.add(current)
        node = current.producer()
        if node is None:
            if current.is_graph_input():
                found[current.name or ""] = None
        elif node.op_type not in ("Shape", "Size"):
            waiting += [source for source in node.inputs if source is not None]
    return sorted(found)
