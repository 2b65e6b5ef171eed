"""Chains of elementwise operators as one loop over strided operands.

An expression is a tree of tuples, so that it can be a cache key:

    ("leaf", index)                           an operand's element
    ("number", value, dtype)                  a constant
    (operator, attributes, dtype, children)   an ONNX operator of `OPERATORS`; attributes are sorted pairs
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.graph_dims import symbols, to_tir
from edgec.lower.wasm.kernels import math
from edgec.lower.wasm.kernels.builder import (
    Buffer,
    Expr,
    Floats,
    Integers,
    KernelBuilder,
    PrimFunc,
    Registers,
    bind,
    load,
    store,
)
from edgec.lower.wasm.kernels.elementwise_operators import OPERATORS, SMOOTH_OPERATORS, VECTOR_OPERATORS
from edgec.passes import dims as d
from edgec.passes.dims import Dim

Tree = tuple[Any, ...]
_VECTOR_DTYPES = ("float32", "int32")
_LANES = 4


@dataclass(frozen=True)
class Operand:
    """How a leaf is read: element `offset + sum(index[i] * strides[i])` of its buffer."""

    dtype: str
    strides: tuple[Dim, ...]
    offset: Dim = 0


def elementwise(tree: Tree, operands: Sequence[Operand], output: Operand, shape: Sequence[Dim]) -> PrimFunc:
    """Parameters: one buffer per operand, the output's, then `dimensions(...)` of all this."""
    names = dimensions([*operands, output], shape)
    shape, strides = collapse(shape, [operand.strides for operand in (output, *operands)])
    with KernelBuilder() as k:
        buffers = [k.buffer(f"operand{i}", buffer_dtype(operand.dtype)) for i, operand in enumerate(operands)]
        target = k.buffer("output", buffer_dtype(output.dtype))
        variables = {name: k.scalar(name) for name in names}
        extents = [to_tir(dim, variables) for dim in shape]
        steps = [[to_tir(stride, variables) for stride in per] for per in strides]
        offsets = [to_tir(operand.offset, variables) for operand in (output, *operands)]
        wide = (
            strides[0][-1] == 1
            and is_vector_tree(tree, output.dtype)
            and all(operand.dtype in _VECTOR_DTYPES for operand in operands)
            and not (isinstance(shape[-1], int) and shape[-1] < _LANES)
        )

        def compute(bases: Sequence[Expr], index: Expr, width: int) -> None:
            def leaf(i: int) -> Expr:
                step = strides[i + 1][-1]
                position = bases[i + 1] + index * steps[i + 1][-1]
                return read(buffers[i], operands[i].dtype, position, step, steps[i + 1][-1], width)

            write(target, output.dtype, bases[0] + index * steps[0][-1], evaluate(tree, leaf, width), width)

        def row(bases: Sequence[Expr], parallel: bool) -> None:
            loop = T.parallel if parallel else T.serial
            vectors = bind(tirx.truncdiv(extents[-1], _LANES)) if wide else None
            if vectors is not None:
                with loop(0, vectors) as i:
                    compute(bases, i * _LANES, _LANES)
            if vectors is None or not isinstance(shape[-1], int) or shape[-1] % _LANES:
                done = vectors * _LANES if vectors is not None else T.int32(0)
                with loop(0, extents[-1] - done) as i:
                    compute(bases, done + i, 1)

        if len(shape) == 1:
            row(offsets, parallel=True)
        else:
            with T.parallel(0, product(extents[:-1])) as outer:
                indices = unravel(outer, extents[:-1])
                row([bind(o + dot(indices, per[:-1])) for o, per in zip(offsets, steps, strict=True)], parallel=False)
    return k.func


def dimensions(operands: Sequence[Operand], shape: Sequence[Dim]) -> list[str]:
    """The symbolic dimensions that a kernel over these takes, in the order of its parameters."""
    return symbols([*shape, *(s for operand in operands for s in (*operand.strides, operand.offset))])


def dimension(dim: Dim, dtype: str, index: int) -> PrimFunc:
    """Parameters: output, `dimensions([], [dim])`. Writes the value of one dimension to `output[index]`."""
    with KernelBuilder() as k:
        output = k.buffer("output", dtype)
        variables = {name: k.scalar(name) for name in dimensions([], [dim])}
        store(output, T.int32(index), T.Cast(dtype, to_tir(dim, variables)), 1)
    return k.func


def buffer_dtype(dtype: str) -> str:
    return "uint8" if dtype == "bool" else dtype


def collapse(shape: Sequence[Dim], strides: Sequence[Sequence[Dim]]) -> tuple[list[Dim], list[list[Dim]]]:
    """Drop axes of extent 1 and merge neighbours that all operands read contiguously; at least one axis."""
    kept = [i for i, dim in enumerate(shape) if dim != 1]
    dims: list[Dim] = []
    steps: list[list[Dim]] = [[] for _ in strides]
    for i in kept:
        if dims and all(
            d.same(per[-1], d.multiply(shape[i], full[i])) for per, full in zip(steps, strides, strict=True)
        ):
            dims[-1] = d.multiply(dims[-1], shape[i])
            for per, full in zip(steps, strides, strict=True):
                per[-1] = full[i]
        else:
            dims.append(shape[i])
            for per, full in zip(steps, strides, strict=True):
                per.append(full[i])
    if not dims:
        return [1], [[0] for _ in strides]
    return dims, steps


def unravel(index: Expr, extents: Sequence[Expr]) -> list[Expr]:
    """Indices along each axis of a flat row-major index."""
    result: list[Expr] = []
    for extent in reversed(extents[1:]):
        result.append(bind(tirx.truncmod(index, extent)))
        index = bind(tirx.truncdiv(index, extent))
    return [index, *reversed(result)]


def read(buffer: Buffer, dtype: str, index: Expr, step: Dim, step_value: Expr, width: int) -> Expr:
    """One element, or `width` elements `step` apart (`step_value` is the same as an expression)."""
    if width == 1:
        value = buffer[index]
        return value != T.uint8(0) if dtype == "bool" else value
    if step == 0:
        return T.Broadcast(buffer[index], width)
    if step == 1:
        return load(buffer, index, width)
    if step == 2 and width == _LANES:  # the second vector ends with the last element, behind which memory may end
        parts = [bind(load(buffer, index + start, width)) for start in (0, 3)]
        return tirx.Shuffle(parts, [tirx.const(lane, "int32") for lane in (0, 2, 5, 7)])
    lanes = Floats(width) if dtype == "float32" else Integers(width)
    for lane in range(width):
        lanes[lane] = buffer[index + lane * step_value]
    return lanes.vector(0, width)


def write(buffer: Buffer, dtype: str, index: Expr, value: Expr, width: int) -> None:
    if dtype == "bool":
        value = T.Cast(math.vector_type("uint8", value), value)
    store(buffer, index, value, width)


def evaluate(tree: Tree, leaf: Callable[[int], Expr], width: int) -> Expr:
    """The value of `tree`, every operator's result in a variable of its own."""
    if tree[0] == "leaf":
        return bind(leaf(tree[1]))
    if tree[0] == "number":
        return number(tree[1], tree[2], width)
    operator, attributes, dtype, children = tree
    arguments = [evaluate(child, leaf, width) for child in children]
    if operator in _POLYNOMIALS:
        arguments = [a if child[0] == "leaf" else _opaque(a) for child, a in zip(children, arguments, strict=True)]
    value = OPERATORS[operator](dict(attributes), dtype, arguments)
    return bind(value) if width > 1 or dtype == "bool" else _opaque(value)


# Operators of many steps that use their argument several times.
_POLYNOMIALS = frozenset(
    "Acos Acosh Asin Asinh Atan Atanh Celu Cos Cosh Elu Erf Exp Gelu Log Mish Pow Selu Sigmoid Sin Sinh Softplus Swish "
    "Tan Tanh".split()
)


def _opaque(value: Expr) -> Expr:
    """The same value by way of memory (which LLVM removes), so that TVM does not reason about it: its passes take
    exponential time over chains of variables, each of which appears several times in the next, and fail on some, such
    as a choice between integers that becomes a float, or a polynomial of what is known to be a number (`x - x`).
    """
    kept = Registers(1, str(value.ty.dtype))
    kept[0] = value
    return bind(kept[0])


def number(value: float | int, dtype: str, width: int) -> Expr:
    scalar = tirx.const(bool(value), "bool") if dtype == "bool" else tirx.const(value, dtype)
    return scalar if width == 1 else T.Broadcast(scalar, width)


def is_vector_tree(tree: Tree, dtype: str) -> bool:
    if dtype not in _VECTOR_DTYPES:
        return False
    if tree[0] in ("leaf", "number"):
        return tree[0] == "leaf" or tree[2] in _VECTOR_DTYPES
    operator, _, own, children = tree
    if operator not in VECTOR_OPERATORS:
        return False
    return all(is_vector_tree(child, _dtype_of(child, own)) for child in children)


def smooth_operators(tree: Tree) -> int:
    """How many of its operators are in `SMOOTH_OPERATORS`."""
    if tree[0] in ("leaf", "number"):
        return 0
    return (tree[0] in SMOOTH_OPERATORS) + sum(smooth_operators(child) for child in tree[3])


def _dtype_of(tree: Tree, default: str) -> str:
    return default if tree[0] == "leaf" else str(tree[2])


def product(extents: Sequence[Expr]) -> Expr:
    result = extents[0]
    for extent in extents[1:]:
        result = result * extent
    return result


def dot(indices: Sequence[Expr], steps: Sequence[Expr]) -> Expr:
    result: Expr = T.int32(0)
    for index, step in zip(indices, steps, strict=True):
        result = result + index * step
    return result
