"""`MatMul` by a weight (a linear layer) or of two activations."""

from __future__ import annotations

import onnx_ir as ir

from edgec.ir.weight_use import WeightUse
from edgec.lower.wasm.graph_context import GraphContext, activation_bytes, symbolic
from edgec.lower.wasm.graph_dims import to_amount
from edgec.lower.wasm.graph_fusion import Group, weight_of_matmul
from edgec.lower.wasm.graph_values import TensorView, dtype_of
from edgec.lower.wasm.kernels.matmul import Factor, dimensions, matmul
from edgec.lower.wasm.ops.algebra import lower_any_type
from edgec.lower.wasm.ops.linear import Matrix, apply_linear, bias_vector
from edgec.lower.wasm.work import Work
from edgec.passes.base import producer, static_shape


def lower_group(context: GraphContext, group: Group) -> None:
    """A linear layer with its epilogue."""
    node, end = group.anchor, group.end
    weight = weight_of_matmul(node)
    source = node.inputs[0]
    assert weight is not None and source is not None and weight.const_value is not None
    matrix = matrix_of(context, weight, transposed=producer(node.inputs[1], "Transpose") is None)
    view = context.view(source)
    if len(view.shape) == 1:
        widened = view.reshaped([1, *view.shape])
        assert widened is not None
        view = widened
    context.require_same(view.shape[-1], matrix.columns)
    bias = None
    if group.bias is not None and group.bias.const_value is not None:
        bias = bias_vector(context, group.bias.name or "", group.bias.const_value.numpy, matrix.rows)
    residual = context.dense(group.residual) if group.residual is not None else None
    target = context.allocate(end.name or "linear", "float32", context.shape(end), value=end)
    apply_linear(context, matrix, view, group.epilogue(near=context.quantized), bias, residual, target)
    context.define(end, target)


def matrix_of(context: GraphContext, weight: ir.Value, *, transposed: bool) -> Matrix:
    """The weight as `[outputs, inputs]`; `transposed` when the initializer is `[inputs, outputs]`."""
    tensor = weight.const_value
    assert tensor is not None
    shape = static_shape(tensor)
    use = WeightUse(weight.name or "", shape, "kn" if transposed else "nk", frozenset({"linear"}), 1)
    size = (use.rows, use.columns)
    return Matrix(context, use.name, context.packed(weight), lambda: use.to_matrix(tensor.numpy()), size)


def lower(context: GraphContext, node: ir.Node) -> None:
    """The product of two activations."""
    left, right, output = node.inputs[0], node.inputs[1], node.outputs[0]
    assert left is not None and right is not None
    if dtype_of(output) != "float32" or 0 in context.shape(left):
        lower_any_type(context, node)
        return
    a, b = _at_least_2d(context.view(left), 0), _at_least_2d(context.view(right), 1)
    if b.strides[-1] != 1:
        b = context.copied(b)
    shape = context.shape(output)
    target = context.allocate(output.name or "matmul", "float32", shape, value=output)
    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    batch = tuple(shape[: max(len(a.shape), len(b.shape)) - 2])
    context.require_same(k, b.shape[-2])
    wide = [context.broadcast(v, [*batch, *v.shape[-2:]]) for v in (a, b)]
    factors = [Factor(v.strides[:-2], v.strides[-2], v.strides[-1], symbolic(v.offset)) for v in wide]
    context.call(
        ("matmul", *factors, batch, m, n, k),
        lambda isa: matmul(factors[0], factors[1], batch, m, n, k),
        [a, b, target],
        dimensions(factors[0], factors[1], batch, m, n, k),
        work=Work(
            macs=to_amount(*batch, m, n, k),
            arithmetic="float32",
            activations=activation_bytes([a, b, target]),
            results=to_amount(*batch, m, n),
            shape=f"{m}x{n}x{k}",
        ),
    )
    context.define(output, target)


def _at_least_2d(view: TensorView, axis: int) -> TensorView:
    if len(view.shape) > 1:
        return view
    shape, strides = list(view.shape), list(view.strides)
    shape.insert(axis, 1)
    strides.insert(axis, 0 if axis == 0 else 1)
    return TensorView(view.storage, view.dtype, tuple(shape), tuple(strides), view.offset)
