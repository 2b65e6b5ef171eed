"""Reductions of an elementwise expression over some axes, in a fixed order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.graph_dims import to_tir
from edgec.lower.wasm.kernels.builder import Expr, Floats, KernelBuilder, PrimFunc, Registers, bind, splat, store
from edgec.lower.wasm.kernels.elementwise import (
    Operand,
    Tree,
    buffer_dtype,
    collapse,
    dimensions,
    dot,
    evaluate,
    is_vector_tree,
    product,
    read,
    unravel,
)
from edgec.passes.dims import Dim


@dataclass(frozen=True)
class Reduction:
    """`initial`, then `combine` with each element; a mean is a sum divided by the count."""

    initial: Callable[[str], float]
    combine: Callable[[Expr, Expr], Expr]
    mean: bool = False


def _lowest(dtype: str) -> float:
    return float("-inf") if dtype.startswith("float") else int(np.iinfo(dtype).min)


def _highest(dtype: str) -> float:
    return float("inf") if dtype.startswith("float") else int(np.iinfo(dtype).max)


REDUCTIONS = {
    "sum": Reduction(lambda dtype: 0, lambda a, b: a + b),
    "mean": Reduction(lambda dtype: 0, lambda a, b: a + b, mean=True),
    "max": Reduction(_lowest, tirx.max),
    "min": Reduction(_highest, tirx.min),
    "prod": Reduction(lambda dtype: 1, lambda a, b: a * b),
}


def reduction(
    kind: str, tree: Tree, operands: Sequence[Operand], dtype: str, kept: Sequence[Dim], reduced: Sequence[Dim]
) -> PrimFunc:
    """Parameters: one buffer per operand, a dense output of shape `kept`, `dimensions(operands, kept + reduced)`.

    Strides of the operands are those of the kept axes, then those of the reduced axes.
    """
    rule = REDUCTIONS[kind]
    names = dimensions(operands, [*kept, *reduced])
    split = len(kept)
    kept_dims, kept_strides = collapse(kept, [o.strides[:split] for o in operands])
    reduced_dims, reduced_strides = collapse(reduced, [o.strides[split:] for o in operands])
    vector_tree = dtype == "float32" and is_vector_tree(tree, dtype) and all(o.dtype == "float32" for o in operands)
    along_reduced = vector_tree and all(per[-1] in (0, 1) for per in reduced_strides) and _at_least(reduced_dims[-1], 8)
    along_kept = vector_tree and not along_reduced and all(per[-1] in (0, 1) for per in kept_strides)
    along_kept = along_kept and isinstance(kept_dims[-1], int) and kept_dims[-1] % 4 == 0
    with KernelBuilder() as k:
        buffers = [k.buffer(f"operand{i}", buffer_dtype(operand.dtype)) for i, operand in enumerate(operands)]
        output = k.buffer("output", buffer_dtype(dtype))
        variables = {name: k.scalar(name) for name in names}

        def tir(dims: Sequence[Dim]) -> list[Expr]:
            return [to_tir(dim, variables) for dim in dims]

        kept_extents, reduced_extents = tir(kept_dims), tir(reduced_dims)
        kept_steps = [tir(per) for per in kept_strides]
        reduced_steps = [tir(per) for per in reduced_strides]
        offsets = [to_tir(operand.offset, variables) for operand in operands]
        width = 4 if along_kept else 1
        outer_extents = [*kept_extents[:-1], tirx.truncdiv(kept_extents[-1], width)]
        with T.parallel(0, product(outer_extents)) as position:
            indices = unravel(position, outer_extents)
            indices[-1] = indices[-1] * width
            bases = [bind(o + dot(indices, per)) for o, per in zip(offsets, kept_steps, strict=True)]

            def element(starts: Sequence[Expr], index: Expr, lanes: int, strides: list[list[Dim]]) -> Expr:
                def leaf(i: int) -> Expr:
                    at = starts[i] + index * reduced_steps[i][-1]
                    step = strides[i][-1]
                    value = T.int32(step) if isinstance(step, int) else T.int32(1)
                    return read(buffers[i], operands[i].dtype, at, step, value, lanes)

                return evaluate(tree, leaf, lanes)

            total = Registers(1, dtype if width == 1 else f"{dtype}x{width}")
            total.fill(1, rule.initial(dtype))
            partial = Floats(4) if along_reduced else None
            if partial is not None:
                partial.set_vector(0, splat(rule.initial(dtype), "float32x4"))
            rows = product(reduced_extents[:-1]) if len(reduced_extents) > 1 else T.int32(1)
            with T.serial(0, rows) as outer:
                inner_indices = unravel(outer, reduced_extents[:-1]) if len(reduced_extents) > 1 else []
                starts = [bind(b + dot(inner_indices, per[:-1])) for b, per in zip(bases, reduced_steps, strict=True)]
                done: Expr = T.int32(0)
                if partial is not None:
                    vectors = bind(tirx.truncdiv(reduced_extents[-1], 4))
                    done = vectors * 4
                    with T.serial(0, vectors) as i:
                        value = element(starts, i * 4, 4, reduced_strides)
                        partial.set_vector(0, rule.combine(partial.vector(0), value))
                with T.serial(0, reduced_extents[-1] - done) as i:
                    total[0] = rule.combine(total[0], element(starts, done + i, width, kept_strides))
            result = total[0]
            if partial is not None:
                for lane in range(4):
                    result = rule.combine(result, partial[lane])
            if rule.mean:
                count = T.Cast(dtype, product(reduced_extents))
                result = result / (count if width == 1 else T.Broadcast(count, width))
            store(output, position * width, result, width)
    return k.func


def _at_least(dim: Dim, number: int) -> bool:
    return not isinstance(dim, int) or dim >= number


def arg_extreme(largest: bool, last: bool, operand: Operand, kept: Sequence[Dim], length: Dim) -> PrimFunc:
    """Position (int64) of the largest or smallest element along an axis, the first or last of equal ones.

    Parameters: operand, a dense output of shape `kept`, `dimensions([operand], [*kept, length])`. The
    operand's strides are those of the kept axes, then the reduced one.
    """
    names = dimensions([operand], [*kept, length])
    dims, (strides,) = collapse(kept, [operand.strides[:-1]])
    with KernelBuilder() as k:
        source = k.buffer("operand", buffer_dtype(operand.dtype))
        output = k.buffer("output", "int64")
        variables = {name: k.scalar(name) for name in names}
        extents = [to_tir(dim, variables) for dim in dims]
        steps = [to_tir(stride, variables) for stride in strides]
        step, count = to_tir(operand.strides[-1], variables), to_tir(length, variables)
        with T.parallel(0, product(extents)) as position:
            base = bind(to_tir(operand.offset, variables) + dot(unravel(position, extents), steps))
            best, where = Registers(1, operand.dtype), Registers(1, "int32")
            best[0] = source[base]
            where[0] = T.int32(0)
            with T.serial(0, count) as i:
                value = bind(source[base + i * step])
                if largest:
                    better = value >= best[0] if last else value > best[0]
                else:
                    better = value <= best[0] if last else value < best[0]
                better = bind(better)
                where[0] = tirx.Select(better, i, where[0])
                best[0] = tirx.Select(better, value, best[0])
            store(output, position, T.Cast("int64", where[0]), 1)
    return k.func
