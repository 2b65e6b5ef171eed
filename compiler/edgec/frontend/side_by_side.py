"""Several ONNX models as one graph: each keeps its nodes and weights, under a prefix."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir

from edgec.frontend.onnx_opset import MIN_IR_VERSION


def side_by_side(models: Mapping[str, onnx_ir.Model]) -> onnx_ir.Model:
    """The models `name -> model` in one, every name `x` of theirs as `name.x`; the models are used up."""
    merged = onnx_ir.Graph([], [], nodes=[], name="+".join(models), opset_imports={})
    for prefix, model in models.items():
        graph = model.graph
        for domain, version in model.opset_imports.items():
            merged.opset_imports[domain] = max(version, merged.opset_imports.get(domain, 0))
        _rename(graph, prefix)
        inputs, outputs, initializers = list(graph.inputs), list(graph.outputs), list(graph.initializers.values())
        nodes = list(graph)
        graph.inputs.clear()
        graph.outputs.clear()
        graph.initializers.clear()
        graph.remove(nodes)
        merged.inputs.extend(inputs)
        for value in initializers:
            merged.register_initializer(value)
        merged.extend(nodes)
        merged.outputs.extend(outputs)
    return onnx_ir.Model(merged, ir_version=MIN_IR_VERSION)


def _rename(graph: onnx_ir.Graph, prefix: str) -> None:
    values = {*graph.inputs, *graph.initializers.values()}
    for node in graph.all_nodes():
        node.name = f"{prefix}.{node.name}" if node.name else None
        values |= {value for value in node.outputs if value.name}
    for inner in graph.subgraphs():
        values |= {*inner.inputs, *inner.initializers.values()}
    for value in values:
        value.name = f"{prefix}.{value.name}"


__all__ = ["side_by_side"]
