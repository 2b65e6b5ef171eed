"""Where weight matrices meet their inputs, and in which order they can be quantized one after the other.

A matrix is quantized on the inputs that it will see, those that come from quantized matrices
before it. So the graph is cut into waves: a wave holds every node that needs only matrices of
earlier waves, and ends with the inputs of the next wave's matrices.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx_ir

from edgec.ir.weight_use import WeightUse


@dataclass(frozen=True)
class Site:
    """One node that multiplies with a matrix."""

    weight: str
    node: onnx_ir.Node
    value: onnx_ir.Value  # what it is multiplied with


@dataclass(frozen=True)
class Wave:
    nodes: tuple[onnx_ir.Node, ...]  # in the graph's order
    weights: tuple[str, ...]  # whose inputs are all known after these nodes


@dataclass(frozen=True)
class Schedule:
    waves: tuple[Wave, ...]
    sites: Mapping[str, tuple[Site, ...]]  # by weight, in the graph's order


def schedule(graph: onnx_ir.Graph, uses: Mapping[str, WeightUse], targets: Collection[str]) -> Schedule:
    """The waves in which the matrices `targets` can be quantized.

    A matrix with several uses is quantized with the last of them; those before see its floats.
    Nodes that no target depends on are in no wave.
    """
    sites = _sites(graph, uses, targets)
    last = {found[-1].node: name for name, found in sites.items()}
    stage: dict[onnx_ir.Node, int] = {}
    ready: dict[str, int] = {}  # the wave after which a matrix can be quantized
    for node in graph:
        at = max((stage[p] for p in _producers(node)), default=0)
        if node in last:
            name = last[node]
            # Earlier uses of the same matrix may have inputs that come later in another branch.
            ready[name] = max([at, *(_input_stage(site, stage) for site in sites[name])])
            at = ready[name] + 1
        stage[node] = at
    count = max(ready.values(), default=-1) + 1
    needed = _needed(graph, sites)
    waves = tuple(
        Wave(
            tuple(node for node in graph if stage[node] == number and node in needed),
            tuple(name for name in sites if ready[name] == number),
        )
        for number in range(count)
    )
    return Schedule(waves, sites)


def _sites(
    graph: onnx_ir.Graph, uses: Mapping[str, WeightUse], targets: Collection[str]
) -> dict[str, tuple[Site, ...]]:
    found: dict[str, list[Site]] = {}
    for node in graph:
        for name, value in _multiplied(node):
            if name in targets and name in uses:
                found.setdefault(name, []).append(Site(name, node, value))
    return {name: tuple(sites) for name, sites in found.items()}


def _multiplied(node: onnx_ir.Node) -> list[tuple[str, onnx_ir.Value]]:
    """(initializer, what it is multiplied with), also through the Transpose of a tied lm_head."""
    if node.op_type not in ("MatMul", "Gemm", "Conv"):
        return []
    value, weight = node.inputs[0], node.inputs[1]
    if value is None or weight is None:
        return []
    producer = weight.producer()
    if producer is not None and producer.op_type == "Transpose":
        weight = producer.inputs[0]
    if weight is None or not weight.is_initializer() or weight.name is None:
        return []
    return [(weight.name, value)]


def _producers(node: onnx_ir.Node) -> list[onnx_ir.Node]:
    return [p for value in node.inputs if value is not None and (p := value.producer()) is not None]


def _input_stage(site: Site, stage: Mapping[onnx_ir.Node, int]) -> int:
    producer = site.value.producer()
    return 0 if producer is None else stage[producer]


def _needed(graph: onnx_ir.Graph, sites: Mapping[str, tuple[Site, ...]]) -> set[onnx_ir.Node]:
    """Nodes that some site's input depends on."""
    needed: set[onnx_ir.Node] = set()
    wanted = {site.value for found in sites.values() for site in found}
    for node in reversed(list(graph)):
        if any(output in wanted for output in node.outputs):
            needed.add(node)
            wanted.update(value for value in node.inputs if value is not None)
    return needed


__all__ = ["Schedule", "Site", "Wave", "schedule"]
