"""Does this engine compute what the compiler's did? The rules are in docs/runtime-abi.md, "Self-test"."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.bundle import Bundle
from edgec.bundle import dims as dimensions
from edgec.bundle.golden import (
    DecoderGolden,
    Golden,
    GoldenLogit,
    GoldenOutput,
    GoldenStep,
    GraphGolden,
)
from edgec.bundle.manifest import Manifest, Slot
from edgec.errors import RunError
from edgec.run.decoder import DecoderState, Logits
from edgec.run.engine import Engine, numpy_dtype
from edgec.run.graph import Graph, open_graph

PROMPT_TOKENS = 9  # a full tile of rows and one more, so that tails are computed too
STEPS = 3  # after the prompt, and two decoded tokens
LARGEST = 4  # logits that are kept of each step
VALUES = 8  # numbers that are kept of each output
GREATEST_DIM = 64  # of a test's input; half a dozen kilobytes tell as much as a whole page

_FLOATS = {"float64": "<u8", "float32": "<u4", "float16": "<u2", "bfloat16": "<u2"}  # and their codes
_QUIET_NAN = {"float64": 0x7FF8 << 48, "float32": 0x7FC0 << 16, "float16": 0x7E00, "bfloat16": 0x7FC0}


@dataclass(frozen=True)
class Difference:
    """`largest_error` is that of the few values that the bundle keeps, None where they are not numbers."""

    what: str  # "logits after 9 tokens", "output `y`"
    expected_sha256: str
    sha256: str
    largest_error: float | None


@dataclass(frozen=True)
class SelfTest:
    """`passed` is None for a bundle that keeps nothing to compare with."""

    passed: bool | None
    variant: str
    threads: int
    compared: int  # logits or outputs
    differences: tuple[Difference, ...]
    seconds: float


def self_test(engine: Engine, state: DecoderState | None) -> SelfTest:
    """Run the input that the manifest's `golden` means. Raises `RunError` if the module traps."""
    golden, started = engine.manifest.golden, time.perf_counter()
    found: list[Difference] = []
    compared = 0
    if isinstance(golden, DecoderGolden):
        assert state is not None
        for step, (count, logits) in zip(golden.steps, _decoded(state, golden), strict=True):
            values = [float(logits[entry.token]) for entry in step.largest]
            kept = [entry.logit for entry in step.largest]
            found += _compare(f"logits after {count} tokens", step.sha256, kept, _sha256("float32", logits), values)
            compared += 1
    elif isinstance(golden, GraphGolden):
        several = len(engine.manifest.graphs) > 1
        for (graph, slot, array), expected in zip(_run_graphs(engine, golden.dims), golden.outputs, strict=True):
            output = _golden_output(slot, array)
            name = f"output `{slot.name}` of `{graph}`" if several else f"output `{slot.name}`"
            found += _compare(name, expected.sha256, expected.values, output.sha256, output.values)
            compared += 1
    passed = None if golden is None else not found
    seconds = time.perf_counter() - started
    return SelfTest(passed, engine.variant, engine.threads, compared, tuple(found), seconds)


def make_golden(bundle: Bundle, depth: int | None = None) -> Golden | None:
    """What the plain module gives on one thread, at a depth of nested codes; None for a graph that cannot be tested
    with these numbers.

    It is computed twice, the second time with other bytes in all memory that the ABI leaves
    undefined. A graph may trap or read outside its tensors where inputs are indices or divisors, for
    which zeros and ones are no good. A decoder has no such excuse: raises `RunError`.
    """
    if bundle.manifest.model.kind == "graph":
        return _try(bundle, depth, GREATEST_DIM) or _try(bundle, depth, None)
    with Engine(bundle, depth=depth, variant="simd128", threads=1) as engine:
        first, again = _twice(engine, None)
    if first != again:
        raise RunError(
            f"the logits of `{bundle.manifest.model.name}` depend on what lay in the memory before",
            hint="this is a mistake of edgec; please report it with the model",
        )
    return first


def _try(bundle: Bundle, depth: int | None, greatest: int | None) -> Golden | None:
    with Engine(bundle, depth=depth, variant="simd128", threads=1) as engine:
        try:
            first, again = _twice(engine, greatest)
        except RunError:
            return None
    return first if first == again else None


def _twice(engine: Engine, greatest: int | None) -> tuple[Golden, Golden]:
    first = _measure(engine, greatest)
    _scribble(engine)
    return first, _measure(engine, greatest)


def _measure(engine: Engine, greatest: int | None) -> Golden:
    """`greatest` bounds the sizes of a graph's dimensions."""
    manifest = engine.manifest
    if manifest.model.kind == "decoder":
        return _measure_decoder(DecoderState(engine))
    dims = {name: min(bound, greatest or bound) for name, bound in manifest.dims.items()}
    return GraphGolden(dims, tuple(_golden_output(slot, array) for _, slot, array in _run_graphs(engine, dims)))


def _run_graphs(engine: Engine, dims: Mapping[str, int]) -> Iterator[tuple[str, Slot, npt.NDArray[Any]]]:
    """(graph, output, its array): every graph in the order of their names."""
    for name in sorted(engine.manifest.graphs):
        graph = open_graph(engine, name)
        arrays = graph.run(_inputs(engine.manifest, graph, dims))
        yield from ((name, slot, arrays[slot.name]) for slot in graph.outputs)


def _measure_decoder(state: DecoderState) -> DecoderGolden:
    length = max(1, min(PROMPT_TOKENS, state.context_length - STEPS + 1))
    prompt = tuple(int(word) % state.vocabulary for word in random_words(0, length))
    steps: list[GoldenStep] = []
    state.prompt(prompt)
    while True:
        logits = state.logits()
        order = np.argsort(-logits, kind="stable")[:LARGEST]
        largest = tuple(GoldenLogit(int(token), _number(float(logits[token]))) for token in order)
        steps.append(GoldenStep(_sha256("float32", logits), largest))
        if len(steps) == min(STEPS, state.context_length - length + 1):
            return DecoderGolden(prompt, tuple(steps))
        state.decode(largest[0].token)


def _decoded(state: DecoderState, golden: DecoderGolden) -> Iterator[tuple[int, Logits]]:
    """(tokens so far, logits) of each step; the cache is empty afterwards."""
    state.reset()
    try:
        state.prompt(golden.prompt)
        yield state.position, state.logits()
        for step in golden.steps[:-1]:
            state.decode(step.largest[0].token)
            yield state.position, state.logits()
    finally:
        state.reset()


def _scribble(engine: Engine) -> None:
    """Overwrite activations with huge but finite numbers (no model leaves others) and the cache with NaN."""
    memory = engine.manifest.memory
    for region, byte in ((memory.workspace, 0x7F), (memory.kv, 0xFF)):
        engine.memory[region.offset : region.end] = byte


def random_words(seed: int, count: int) -> npt.NDArray[np.uint32]:
    """The first `count` outputs of splitmix32."""
    z = (seed + np.arange(1, count + 1, dtype=np.uint64) * 0x9E3779B9).astype(np.uint32)
    z = (z ^ (z >> np.uint32(16))) * np.uint32(0x21F0AAAD)
    z = (z ^ (z >> np.uint32(15))) * np.uint32(0x735A2D97)
    return z ^ (z >> np.uint32(15))


def _inputs(manifest: Manifest, graph: Graph, dims: Mapping[str, int]) -> dict[str, npt.NDArray[Any]]:
    arrays = {}
    for seed, slot in enumerate(manifest.inputs):
        if slot not in graph.inputs:
            continue
        shape = tuple(dimensions.evaluate(dimension, dims) for dimension in slot.shape)
        top = random_words(seed, math.prod(shape)) >> np.uint32(24)
        dtype = numpy_dtype(slot)
        if slot.dtype in _FLOATS:
            values = ((top.astype(np.float32) - 128) / 128).astype(dtype)
        elif slot.dtype.startswith("float"):
            mask = np.uint32(7 if slot.dtype.startswith("float4") else 0x37)
            values = (top & mask).astype(np.uint8).view(dtype)
        else:
            values = (top >> np.uint32(7)).astype(dtype)
        arrays[slot.name] = values.reshape(shape)
    return arrays


def _golden_output(slot: Slot, array: npt.NDArray[Any]) -> GoldenOutput:
    flat = array.reshape(-1)
    kept = min(VALUES, flat.size) if slot.dtype in _FLOATS else 0
    values = tuple(_number(float(flat[index * flat.size // kept])) for index in range(kept))
    return GoldenOutput(_sha256(slot.dtype, flat), values)


def _sha256(dtype: str, array: npt.NDArray[Any]) -> str:
    """Of the little-endian bytes. Engines may give a NaN any sign and payload, so it counts as the quiet one."""
    if dtype in _FLOATS:
        nan = np.isnan(array)
        if nan.any():
            codes = array.view(_FLOATS[dtype]).copy()
            codes[nan] = _QUIET_NAN[dtype]
            array = codes
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _compare(
    what: str, expected: str, kept: tuple[float | None, ...] | list[float | None], got: str, values: Any
) -> list[Difference]:
    if expected == got:
        return []
    errors = [abs(a - b) for a, b in zip(kept, values, strict=True) if a is not None and b is not None]
    finite = len(errors) == len(kept) and errors and all(math.isfinite(error) for error in errors)
    return [Difference(what, expected, got, max(errors) if finite else None)]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


__all__ = ["Difference", "SelfTest", "make_golden", "random_words", "self_test"]
