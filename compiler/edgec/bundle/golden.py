"""What a module gives for a fixed input, kept in the manifest so that a device can test itself.

How it is computed is in docs/runtime-abi.md, what may stand here in docs/bundle-format.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edgec.bundle.json_input import Node

MAX_STEPS = 16
MAX_VALUES = 16  # logits of a step, numbers of an output
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class GoldenLogit:
    token: int
    logit: float | None  # None: not finite


@dataclass(frozen=True)
class GoldenStep:
    """Logits after the prompt, or after the first of `largest` of the step before."""

    sha256: str
    largest: tuple[GoldenLogit, ...]  # in descending order


@dataclass(frozen=True)
class DecoderGolden:
    prompt: tuple[int, ...]
    steps: tuple[GoldenStep, ...]


@dataclass(frozen=True)
class GoldenOutput:
    sha256: str
    values: tuple[float | None, ...]  # of floats, spread evenly; None: not finite


@dataclass(frozen=True)
class GraphGolden:
    dims: Mapping[str, int]
    outputs: tuple[GoldenOutput, ...]  # of each graph in the order of their names, in the order of the manifest


Golden = DecoderGolden | GraphGolden


def parse_decoder_golden(node: Node, vocabulary: int, context_length: int) -> DecoderGolden:
    node.fields(["prompt", "steps"])
    prompt = tuple(token.integer(0, vocabulary - 1) for token in node["prompt"].elements())
    steps = tuple(_step(step, vocabulary) for step in node["steps"].elements())
    if not 1 <= len(steps) <= MAX_STEPS:
        raise node["steps"].fail(f"are {len(steps)}, allowed are 1 to {MAX_STEPS}")
    if not prompt or len(prompt) + len(steps) - 1 > context_length:
        raise node["prompt"].fail("is empty, or does not fit the context with its steps")
    return DecoderGolden(prompt, steps)


def _step(node: Node, vocabulary: int) -> GoldenStep:
    node.fields(["sha256", "largest"])
    largest = []
    for element in node["largest"].elements():
        element.fields(["token", "logit"])
        largest.append(GoldenLogit(element["token"].integer(0, vocabulary - 1), _number(element["logit"])))
    if not 1 <= len(largest) <= MAX_VALUES:
        raise node["largest"].fail(f"has {len(largest)} logits, allowed are 1 to {MAX_VALUES}")
    return GoldenStep(node["sha256"].string(_SHA256), tuple(largest))


def parse_graph_golden(node: Node, bounds: Mapping[str, int], outputs: int) -> GraphGolden:
    node.fields(["dims", "outputs"])
    node["dims"].fields(bounds)
    dims = {name: size.integer(1, bounds[name]) for name, size in node["dims"].items()}
    found = tuple(_output(output) for output in node["outputs"].elements())
    if len(found) != outputs:
        raise node["outputs"].fail(f"are {len(found)}, the graph has {outputs}")
    return GraphGolden(dims, found)


def _output(node: Node) -> GoldenOutput:
    node.fields(["sha256", "values"])
    values = tuple(_number(value) for value in node["values"].elements())
    if len(values) > MAX_VALUES:
        raise node["values"].fail(f"are {len(values)}, allowed are {MAX_VALUES}")
    return GoldenOutput(node["sha256"].string(_SHA256), values)


def _number(node: Node) -> float | None:
    return None if node.is_null() else node.number()


__all__ = [
    "DecoderGolden",
    "Golden",
    "GoldenLogit",
    "GoldenOutput",
    "GoldenStep",
    "GraphGolden",
    "parse_decoder_golden",
    "parse_graph_golden",
]
