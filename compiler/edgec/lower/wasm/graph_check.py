"""What stands in the way of lowering a simplified graph, all of it, without a look at any weight."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from edgec.errors import UnsupportedError
from edgec.lower.wasm.graph import COMPUTING, SUPPORTED_OPS, check_shapes
from edgec.lower.wasm.graph_context import label
from edgec.lower.wasm.graph_operands import check_operands
from edgec.lower.wasm.graph_values import dtype_of
from edgec.passes.base import is_read
from edgec.passes.infer_shapes import infer


def graph_problems(graph: ir.Graph) -> list[UnsupportedError]:
    """Refusals of `lower_graph` that show in operators, operands, shapes and element types."""
    infer(graph)
    checks: list[Callable[[], object]] = [
        lambda: check_operands(graph, COMPUTING.keys()),
        lambda: check_shapes(graph),
    ]
    for node in graph:
        if node.op_type not in SUPPORTED_OPS or node.domain != "":
            checks.append(lambda node=node: _refuse(node))  # type: ignore[misc]
        checks += [lambda value=value: dtype_of(value) for value in node.outputs if is_read(value)]  # type: ignore[misc]
    found: dict[str, UnsupportedError] = {}
    for check in checks:
        try:
            check()
        except UnsupportedError as error:
            found.setdefault(error.message, error)
    return list(found.values())


def _refuse(node: ir.Node) -> None:
    raise UnsupportedError(f"no kernels for {label(node)}", hint="export the model without it")
