"""The operators of simplified graphs in torch, differentiable: `OPERATORS[op_type](node, inputs)`.

Inputs are tensors, or None where an optional one is absent; the result is one tensor, or a list of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir
import torch
from torch.nn import functional

from edgec.heal.images import IMAGE_OPERATORS, half_convolution

Tensor = Any  # torch.Tensor: torch is not installed where types are checked
Inputs = Sequence[Tensor]
Operator = Callable[[onnx_ir.Node, Inputs], Tensor]


def dtype_of(onnx_type: onnx_ir.DataType) -> Any:
    """The torch type of an ONNX element type."""
    return torch.from_numpy(np.zeros(0, onnx_type.numpy())).dtype


def _plain(function: Callable[..., Tensor]) -> Operator:
    return lambda node, inputs: function(*inputs)


def _integers(tensor: Tensor) -> list[int]:
    return [int(value) for value in tensor.reshape(-1).tolist()]


def _cast(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    return inputs[0].to(dtype_of(onnx_ir.DataType(node.attributes["to"].as_int())))


def _concat(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    return torch.cat(list(inputs), node.attributes["axis"].as_int())


def _div(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    floating = inputs[0].dtype.is_floating_point
    return inputs[0] / inputs[1] if floating else torch.div(inputs[0], inputs[1], rounding_mode="trunc")


def _expand(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    shape = torch.broadcast_shapes(tuple(inputs[0].shape), tuple(_integers(inputs[1])))
    return inputs[0].expand(shape)


def _gather(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    axis, (data, indices) = node.attributes.get_int("axis", 0), inputs
    assert axis is not None
    if axis == 0 and data.dim() == 2 and data.dtype.is_floating_point:
        return functional.embedding(indices, data)
    axis %= data.dim()
    picked = torch.index_select(data, axis, torch.where(indices < 0, indices + data.shape[axis], indices).reshape(-1))
    return picked.reshape((*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]))


def _gelu(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    return functional.gelu(inputs[0], approximate=node.attributes.get_string("approximate", "none") or "none")


def _gemm(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    a = inputs[0].transpose(0, 1) if node.attributes.get_int("transA", 0) else inputs[0]
    b = inputs[1].transpose(0, 1) if node.attributes.get_int("transB", 0) else inputs[1]
    product = node.attributes.get_float("alpha", 1.0) * (a @ b)
    if len(inputs) > 2 and inputs[2] is not None:
        product = product + node.attributes.get_float("beta", 1.0) * inputs[2]
    return product


def _layer_norm(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    bias = inputs[2] if len(inputs) > 2 else None
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    return functional.layer_norm(inputs[0], inputs[1].shape, inputs[1], bias, epsilon)


def _rms_norm(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    return functional.rms_norm(inputs[0], inputs[1].shape, inputs[1], epsilon)


def _range(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    start, stop, step = (value.item() for value in inputs)
    return torch.arange(start, stop, step, dtype=inputs[0].dtype)


def _reduce(function: Callable[..., Tensor]) -> Operator:
    def run(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
        axes = _integers(inputs[1]) if len(inputs) > 1 and inputs[1] is not None else list(range(inputs[0].dim()))
        return function(inputs[0], tuple(axes), keepdim=bool(node.attributes.get_int("keepdims", 1)))

    return run


def _reshape(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    sizes = _integers(inputs[1])
    if not node.attributes.get_int("allowzero", 0):
        sizes = [inputs[0].shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    return inputs[0].reshape(sizes)


def _rotary(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    """Of `[batch, tokens, heads * width]` or `[batch, heads, tokens, width]`; halves, not interleaved."""
    value, cos, sin = inputs[:3]
    heads = node.attributes.get_int("num_heads", 0)
    flat = value.dim() == 3
    split = value.reshape(*value.shape[:2], heads, -1) if flat else value.transpose(1, 2)
    rotated = node.attributes.get_int("rotary_embedding_dim", 0) or split.shape[-1]
    first, second = split[..., : rotated // 2], split[..., rotated // 2 : rotated]
    cos, sin = cos[:, :, None], sin[:, :, None]
    parts = [first * cos - second * sin, first * sin + second * cos, split[..., rotated:]]
    result = torch.cat(parts, -1)
    return result.reshape(value.shape) if flat else result.transpose(1, 2)


def _shape(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    dims = list(inputs[0].shape)
    return torch.tensor(dims[node.attributes.get_int("start", 0) : node.attributes.get_int("end", len(dims))])


def _slice(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    starts, ends = _integers(inputs[1]), _integers(inputs[2])
    axes = _integers(inputs[3]) if len(inputs) > 3 and inputs[3] is not None else list(range(len(starts)))
    steps = _integers(inputs[4]) if len(inputs) > 4 and inputs[4] is not None else [1] * len(starts)
    value = inputs[0]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        indices = range(value.shape[axis])[slice(start, None if step < 0 and end < -value.shape[axis] else end, step)]
        value = torch.index_select(value, axis, torch.tensor(list(indices), dtype=torch.int64))
    return value


def _softmax(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    return torch.softmax(inputs[0], node.attributes.get_int("axis", -1))


def _split(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    axis = node.attributes.get_int("axis", 0)
    if len(inputs) > 1 and inputs[1] is not None:
        return list(torch.split(inputs[0], _integers(inputs[1]), axis))
    return list(torch.tensor_split(inputs[0], len(node.outputs), axis))


def _squeeze(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    return inputs[0].squeeze() if len(inputs) < 2 else inputs[0].squeeze(tuple(_integers(inputs[1])))


def _transpose(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    order = node.attributes.get("perm")
    return inputs[0].permute(list(order.as_ints()) if order else list(range(inputs[0].dim()))[::-1])


def _unsqueeze(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    axes = _integers(inputs[1])
    value, rank = inputs[0], inputs[0].dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        value = value.unsqueeze(axis)
    return value


def _attention(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    """From an empty cache: past keys and values are not looked at."""
    padded = [*inputs, *[None] * (4 - len(inputs))]
    queries, keys, values, mask = padded[:4]
    flat = queries.dim() == 3
    if flat:
        heads, shared = node.attributes["q_num_heads"].as_int(), node.attributes["kv_num_heads"].as_int()
        queries, keys, values = (
            value.reshape(*value.shape[:2], count, -1).transpose(1, 2)
            for value, count in ((queries, heads), (keys, shared), (values, shared))
        )
    repeats = queries.shape[1] // keys.shape[1]
    if repeats > 1:
        keys, values = keys.repeat_interleave(repeats, 1), values.repeat_interleave(repeats, 1)
    scale = node.attributes.get_float("scale", 1 / math.sqrt(queries.shape[-1]))
    causal, softcap = bool(node.attributes.get_int("is_causal", 0)), node.attributes.get_float("softcap", 0.0)
    if not softcap and (mask is None or not causal):
        attended = functional.scaled_dot_product_attention(queries, keys, values, mask, is_causal=causal, scale=scale)
    else:
        scores = (queries @ keys.transpose(-1, -2)) * scale
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        if causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        attended = torch.softmax(scores, -1) @ values
    return attended.transpose(1, 2).reshape(*attended.shape[:1], attended.shape[2], -1) if flat else attended


def half_product(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    """A matrix product of bfloat16, its sums in float32, forwards and backwards."""
    return torch.matmul(inputs[0].bfloat16(), inputs[1].bfloat16()).float()


def multiplies_bfloat16() -> bool:
    """Whether this processor does so faster than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


HALF_OPERATORS: Mapping[str, Operator] = {"Conv": half_convolution, "MatMul": half_product}

OPERATORS: Mapping[str, Operator] = {
    **IMAGE_OPERATORS,
    "Add": _plain(torch.add),
    "Attention": _attention,
    "Cast": _cast,
    "Concat": _concat,
    "Cos": _plain(torch.cos),
    "Div": _div,
    "Equal": _plain(torch.eq),
    "Erf": _plain(torch.erf),
    "Expand": _expand,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "Greater": _plain(torch.gt),
    "Identity": lambda node, inputs: inputs[0],
    "LayerNormalization": _layer_norm,
    "MatMul": _plain(torch.matmul),
    "Mul": _plain(torch.mul),
    "Neg": _plain(torch.neg),
    "Not": _plain(torch.logical_not),
    "Pow": _plain(torch.pow),
    "RMSNormalization": _rms_norm,
    "Range": _range,
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "Relu": _plain(torch.relu),
    "Reshape": _reshape,
    "RotaryEmbedding": _rotary,
    "Shape": _shape,
    "Sigmoid": _plain(torch.sigmoid),
    "Sin": _plain(torch.sin),
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Sqrt": _plain(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _plain(torch.sub),
    "Tanh": _plain(torch.tanh),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _plain(torch.where),
}

__all__ = ["HALF_OPERATORS", "OPERATORS", "Operator", "Tensor", "dtype_of", "multiplies_bfloat16"]
