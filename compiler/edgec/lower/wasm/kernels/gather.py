"""Reading at computed places: rows by index, and element by element."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.graph_dims import symbols, to_tir
from edgec.lower.wasm.kernels.builder import Expr, KernelBuilder, PrimFunc, bind, load, store
from edgec.lower.wasm.kernels.elementwise import buffer_dtype, dot, product, unravel
from edgec.passes.dims import Dim


def gather(*, outer: Dim, axis: Dim, inner: Dim, count: Dim, dtype: str, index_dtype: str) -> PrimFunc:
    """`output[o, i, :] = data[o, indices[i], :]` of dense tensors; negative indices count from the end.

    Parameters: data, indices, output, symbols of the four sizes.
    """
    with KernelBuilder() as k:
        data = k.buffer("data", buffer_dtype(dtype))
        indices = k.buffer("indices", index_dtype)
        output = k.buffer("output", buffer_dtype(dtype))
        variables = {name: k.scalar(name) for name in symbols([outer, axis, inner, count])}
        outers, length, width, rows = (to_tir(dim, variables) for dim in (outer, axis, inner, count))
        with T.parallel(0, outers * rows) as unit:
            place = bind(_wrapped(T.Cast("int32", indices[tirx.truncmod(unit, rows)]), length))
            source = bind((tirx.truncdiv(unit, rows) * length + place) * width)
            target = bind(unit * width)
            vectors = bind(tirx.truncdiv(width, 4)) if dtype in ("float32", "int32") else T.int32(0)
            if dtype in ("float32", "int32"):
                with T.serial(0, vectors) as i:
                    store(output, target + i * 4, load(data, source + i * 4))
            with T.serial(0, width - vectors * 4) as i:
                store(output, target + vectors * 4 + i, data[source + vectors * 4 + i], 1)
    return k.func


def gather_elements(
    *, shape: Sequence[Dim], data_shape: Sequence[Dim], axis: int, dtype: str, index_dtype: str
) -> PrimFunc:
    """`output[..., i, ...] = data[..., indices[..., i, ...], ...]` of dense tensors.

    Parameters: data, indices, output, symbols of both shapes.
    """
    with KernelBuilder() as k:
        data = k.buffer("data", buffer_dtype(dtype))
        indices = k.buffer("indices", index_dtype)
        output = k.buffer("output", buffer_dtype(dtype))
        variables = {name: k.scalar(name) for name in symbols([*shape, *data_shape])}
        extents = [to_tir(dim, variables) for dim in shape]
        sizes = [to_tir(dim, variables) for dim in data_shape]
        with T.parallel(0, product(extents)) as unit:
            place = unravel(unit, extents)
            place[axis] = bind(_wrapped(T.Cast("int32", indices[unit]), sizes[axis]))
            store(output, unit, data[flat_index(place, sizes)], 1)
    return k.func


def flat_index(indices: Sequence[Expr], sizes: Sequence[Expr]) -> Expr:
    """Row-major position of `indices` in a dense tensor."""
    steps: list[Expr] = [T.int32(1)]
    for size in reversed(sizes[1:]):
        steps.insert(0, steps[0] * size)
    return dot(indices, steps)


def _wrapped(index: Expr, length: Expr) -> Expr:
    return tirx.Select(index < 0, index + length, index)
