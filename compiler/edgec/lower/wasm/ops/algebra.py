"""Einsum and Det."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.errors import ModelError, UnsupportedError
from edgec.lower.wasm.graph_context import GraphContext, label
from edgec.lower.wasm.graph_values import dtype_of
from edgec.lower.wasm.kernels.builder import Expr, bind
from edgec.lower.wasm.kernels.generic import Body, Sum, Tensor, each
from edgec.passes import dims as d
from edgec.passes.einsum_terms import einsum_terms


def einsum(context: GraphContext, node: ir.Node) -> None:
    output = node.outputs[0]
    operands = [context.view(value) for value in node.inputs if value is not None]
    try:
        terms, result = einsum_terms(node.attributes.get_string("equation", ""), [len(view.shape) for view in operands])
    except ValueError as error:
        raise ModelError(f"{label(node)}: {error}") from error
    target = context.allocate(output.name or "einsum", dtype_of(output), context.shape(output), value=output)
    attributes = (tuple(terms), result)
    context.generic("einsum", attributes, operands, [target], _einsum(*attributes))
    context.define(output, target)


def _einsum(terms: tuple[str, ...], result: str) -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        (target,) = outputs
        sizes: dict[str, Expr] = {}
        for term, tensor in zip(terms, inputs, strict=True):
            for letter, size, dim in zip(term, tensor.shape, tensor.layout.shape, strict=True):
                if letter not in sizes or dim != 1:  # an axis of 1 under an ellipsis is repeated
                    sizes[letter] = size
        summed = [letter for letter in sizes if letter not in result]
        with each(target.shape) as index:
            total = Sum(target.dtype)
            with each([sizes[letter] for letter in summed], parallel=False) as inner:
                place = {**dict(zip(result, index, strict=True)), **dict(zip(summed, inner, strict=True))}
                value: Expr = None
                for term, tensor in zip(terms, inputs, strict=True):
                    at = [
                        T.int32(0) if dim == 1 else place[letter]
                        for letter, dim in zip(term, tensor.layout.shape, strict=True)
                    ]
                    factor = tensor[at]
                    value = factor if value is None else value * factor
                total.add(value)
            target[index] = total.value

    return body


def lower_any_type(context: GraphContext, node: ir.Node) -> None:
    """MatMul of other types than float32."""
    left, right, output = node.inputs[0], node.inputs[1], node.outputs[0]
    assert left is not None and right is not None
    target = context.allocate(output.name or "product", dtype_of(output), context.shape(output), value=output)
    context.generic("matmul_any", None, [context.view(left), context.view(right)], [target], _matmul())
    context.define(output, target)


def _matmul() -> Body:
    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        (a, b), (target,) = inputs, outputs
        batch_rank = max(a.rank, b.rank, 2) - 2
        with each(target.shape) as index:
            batch, rest = index[:batch_rank], list(index[batch_rank:])
            row = [rest.pop(0)] if a.rank > 1 else []
            column = [rest.pop(0)] if b.rank > 1 else []
            total = Sum(target.dtype)
            with T.serial(0, a.shape[-1]) as k:
                x = a[[*batch_index(a, batch), *row, k]]
                total.add(x * b[[*batch_index(b, batch), k, *column]])
            target[index] = total.value

    return body


def batch_index(tensor: Tensor, batch: Sequence[Expr]) -> list[Expr]:
    """The batch indices of a matrix product's operand, broadcast."""
    own = max(0, tensor.rank - 2)
    sizes = tensor.layout.shape[:own]
    places = batch[len(batch) - own :]
    return [T.int32(0) if size == 1 else place for size, place in zip(sizes, places, strict=True)]


def determinant(context: GraphContext, node: ir.Node) -> None:
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    view = context.view(source)
    if not isinstance(view.shape[-1], int):
        raise UnsupportedError(f"{label(node)} works on matrices of variable size")
    work = context.allocate("elimination", view.dtype, [d.product(view.shape[:-2]), *view.shape[-2:]])
    target = context.allocate(output.name or "determinant", view.dtype, context.shape(output), value=output)
    context.generic("determinant", None, [view], [target, work], _determinant())
    context.define(output, target)


def _determinant() -> Body:
    """Gaussian elimination with the largest pivot of each column."""

    def body(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        (source,), (target, work) = inputs, outputs
        size = source.shape[-1]
        with each(target.shape) as index:
            slot: Expr = T.int32(0)
            for place, extent in zip(index, target.shape, strict=True):
                slot = slot * extent + place
            slot = bind(slot)
            with each([size, size], parallel=False) as (i, j):
                work[[slot, i, j]] = source[[*index, i, j]]
            result = Sum(target.dtype, 1)
            with T.serial(0, size) as column:
                pivot = Sum("int32", column)
                with T.serial(0, size - column) as i:
                    row = bind(column + i)
                    larger = tirx.abs(work[[slot, row, column]]) > tirx.abs(work[[slot, pivot.value, column]])
                    pivot.set(tirx.Select(larger, row, pivot.value))
                chosen = bind(pivot.value)
                with T.If(chosen != column), T.Then():
                    result.set(tirx.const(0, target.dtype) - result.value)
                    with T.serial(0, size) as j:
                        upper = bind(work[[slot, column, j]])
                        work[[slot, column, j]] = work[[slot, chosen, j]]
                        work[[slot, chosen, j]] = upper
                head = bind(work[[slot, column, column]])
                result.set(result.value * head)
                with T.If(head != tirx.const(0, target.dtype)), T.Then(), T.serial(0, size - column - 1) as i:
                    row = bind(column + 1 + i)
                    factor = bind(work[[slot, row, column]] / head)
                    with T.serial(0, size - column) as k:
                        at = bind(column + k)
                        work[[slot, row, at]] = work[[slot, row, at]] - factor * work[[slot, column, at]]
            target[index] = result.value

    return body


OPS: dict[str, Callable[[GraphContext, ir.Node], None]] = {"Det": determinant, "Einsum": einsum}
