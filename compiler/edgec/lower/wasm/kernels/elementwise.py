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
from edgec.lower.wasm.kernels.builder import Buffer, Expr, KernelBuilder, PrimFunc, bind, load, store
from edgec.lower.wasm.kernels.elementwise_operators import OPERATORS, VECTOR_OPERATORS
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


def elementwise(tree: Tree, operands: Sequence[Operand], dtype: str, shape: Sequence[Dim]) -> PrimFunc:
    """Parameters: one buffer per operand, a dense output of `shape`, the symbolic dimensions by name."""
    shape, strides = collapse(shape, [operand.strides for operand in operands])
    names = symbols([*shape, *(s for per in strides for s in per), *(operand.offset for operand in operands)])
    with KernelBuilder() as k:
        buffers = [k.buffer(f"operand{i}", buffer_dtype(operand.dtype)) for i, operand in enumerate(operands)]
        output = k.buffer("output", buffer_dtype(dtype))
        variables = {name: k.scalar(name) for name in names}
        extents = [to_tir(dim, variables) for dim in shape]
        steps = [[to_tir(stride, variables) for stride in per] for per in strides]
        offsets = [to_tir(operand.offset, variables) for operand in operands]
        inner_steps = [per[-1] for per in strides]
        wide = (
            _is_vector_tree(tree, dtype)
            and all(operand.dtype in _VECTOR_DTYPES for operand in operands)
            and not (isinstance(shape[-1], int) and shape[-1] < _LANES)
        )

        def compute(bases: Sequence[Expr], at: Expr, index: Expr, width: int) -> None:
            def leaf(i: int) -> Expr:
                position = bases[i] + index * steps[i][-1]
                return read(buffers[i], operands[i].dtype, position, inner_steps[i], width)

            write(output, dtype, at + index, evaluate(tree, leaf, width), width)

        def row(bases: Sequence[Expr], at: Expr, parallel: bool) -> None:
            loop = T.parallel if parallel else T.serial
            vectors = bind(tirx.truncdiv(extents[-1], _LANES)) if wide else None
            if vectors is not None:
                with loop(0, vectors) as i:
                    compute(bases, at, i * _LANES, _LANES)
            done = vectors * _LANES if vectors is not None else T.int32(0)
            if vectors is None or not isinstance(shape[-1], int) or shape[-1] % _LANES:
                with loop(0, extents[-1] - done) as i:
                    compute(bases, at, done + i, 1)

        if len(shape) == 1:
            row(offsets, T.int32(0), parallel=True)
        else:
            with T.parallel(0, _product(extents[:-1])) as outer:
                indices = unravel(outer, extents[:-1])
                bases = [
                    bind(offset + _dot(indices, per[:-1])) for offset, per in zip(offsets, steps, strict=True)
                ]
                row(bases, outer * extents[-1], parallel=False)
    return k.func


def buffer_dtype(dtype: str) -> str:
    return "uint8" if dtype == "bool" else dtype


def collapse(shape: Sequence[Dim], strides: Sequence[Sequence[Dim]]) -> tuple[list[Dim], list[list[Dim]]]:
    """Drop axes of extent 1 and merge neighbours that all operands read contiguously; at least one axis."""
    kept = [i for i, dim in enumerate(shape) if dim != 1]
    dims: list[Dim] = []
    steps: list[list[Dim]] = [[] for _ in strides]
    for i in kept:
        if dims and all(d.same(per[-1], d.multiply(shape[i], full[i])) for per, full in zip(steps, strides, strict=True)):
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


def read(buffer: Buffer, dtype: str, index: Expr, step: Dim, width: int) -> Expr:
    """One element, or `width` elements `step` apart."""
    if width == 1:
        value = buffer[index]
        return value != T.uint8(0) if dtype == "bool" else value
    if step == 0:
        return T.Broadcast(buffer[index], width)
    if step == 1:
        return load(buffer, index, width)
    return buffer[T.Ramp(index, to_tir(step, {}) if isinstance(step, int) else step, width)]


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
    return bind(OPERATORS[operator](dict(attributes), dtype, arguments))


def number(value: float | int, dtype: str, width: int) -> Expr:
    scalar = tirx.const(bool(value), "bool") if dtype == "bool" else tirx.const(value, dtype)
    return scalar if width == 1 else T.Broadcast(scalar, width)


def _is_vector_tree(tree: Tree, dtype: str) -> bool:
    if dtype not in _VECTOR_DTYPES:
        return False
    if tree[0] in ("leaf", "number"):
        return tree[0] == "leaf" or tree[2] in _VECTOR_DTYPES
    operator, _, own, children = tree
    if operator not in VECTOR_OPERATORS:
        return False
    return all(_is_vector_tree(child, _dtype_of(child, own)) for child in children)


def _dtype_of(tree: Tree, default: str) -> str:
    return default if tree[0] == "leaf" else str(tree[2])


def _product(extents: Sequence[Expr]) -> Expr:
    result = extents[0]
    for extent in extents[1:]:
        result = result * extent
    return result


def _dot(indices: Sequence[Expr], steps: Sequence[Expr]) -> Expr:
    result: Expr = T.int32(0)
    for index, step in zip(indices, steps, strict=True):
        result = result + index * step
    return result


