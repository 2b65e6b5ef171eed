"""The operators of convolutional networks in torch: see `edgec/heal/ops.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir
import torch
from torch.nn import functional

from edgec.errors import UnsupportedError

Tensor = Any  # torch.Tensor: torch is not installed where types are checked
Inputs = Sequence[Tensor]
Operator = Callable[[onnx_ir.Node, Inputs], Tensor]

_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_MAXIMA = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


def _window(node: onnx_ir.Node, value: Tensor, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """(strides, dilations, pads) of a window that moves over `[batch, channels, *size]`; pads as torch has them, the
    last axis first.
    """
    ones = [1] * len(kernel)
    strides = list(node.attributes.get_ints("strides", ones) or ones)
    dilations = list(node.attributes.get_ints("dilations", ones) or ones)
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    if node.attributes.get_int("ceil_mode", 0):
        raise UnsupportedError(f"`{node.name}` rounds its size up (`ceil_mode`), through which healing cannot train")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = []
        for size, width, stride, dilation in zip(value.shape[2:], kernel, strides, dilations, strict=True):
            whole = max(0, (-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size)
            small, large = whole // 2, whole - whole // 2
            pads.append((small, large) if auto == "SAME_UPPER" else (large, small))
    else:
        flat = list(node.attributes.get_ints("pads", [0] * 2 * len(kernel)) or [0] * 2 * len(kernel))
        if auto == "VALID":
            flat = [0] * 2 * len(kernel)
        pads = list(zip(flat[: len(kernel)], flat[len(kernel) :], strict=True))
    return strides, dilations, [side for pair in reversed(pads) for side in pair]


def _symmetric(pads: Sequence[int]) -> list[int] | None:
    """Padding of each axis where both of its sides are alike."""
    return list(pads[::2][::-1]) if pads[::2] == pads[1::2] else None


class _Depthwise(torch.autograd.Function):  # type: ignore[misc]
    """A depthwise convolution of a filter that is not trained. Backwards it is one, too: torch's own takes four times
    as long.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, weight: Tensor, padding: Sequence[int]) -> Tensor:
        return functional.conv2d(value, weight, None, 1, padding, 1, weight.shape[0])

    @staticmethod
    def setup_context(context: Any, inputs: Inputs, output: Tensor) -> None:
        context.save_for_backward(inputs[1])
        context.padding = inputs[2]

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = context.saved_tensors
        padding = [size - 1 - before for size, before in zip(weight.shape[2:], context.padding, strict=True)]
        turned = weight.flip(2, 3)
        return functional.conv2d(gradients[0], turned, None, 1, padding, 1, weight.shape[0]), None, None


def _conv(node: onnx_ir.Node, inputs: Inputs, multiply: Callable[..., Tensor] = functional.linear) -> Tensor:
    value, weight, bias = (*inputs, None)[:3]
    kernel, groups = list(weight.shape[2:]), node.attributes.get_int("group", 1)
    strides, dilations, pads = _window(node, value, kernel)
    plain = max(strides) == max(dilations) == 1
    if plain and groups == max(kernel) == 1 and not any(pads):
        return multiply(value.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)
    padding = _symmetric(pads)
    if padding is None:
        value, padding = functional.pad(value, pads), [0] * len(strides)
    narrow = all(before < size for before, size in zip(padding, kernel, strict=True))
    depthwise = groups == weight.shape[0] == value.shape[1] > 1
    if plain and narrow and depthwise and len(kernel) == 2 and not weight.requires_grad:
        sums = _Depthwise.apply(value, weight, padding)
        return sums if bias is None else sums + bias[:, None, None]
    return _CONVOLUTIONS[len(strides)](value, weight, bias, strides, padding, dilations, groups)


def half_convolution(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    """A convolution that is a matrix product is one of bfloat16, its sums in float32, forwards and backwards."""
    return _conv(node, inputs, _half_linear)


def _half_linear(value: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product = functional.linear(value.bfloat16(), weight.bfloat16()).float()
    return product if bias is None else product + bias


def _max_pool(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    kernel = list(node.attributes["kernel_shape"].as_ints())
    strides, dilations, pads = _window(node, inputs[0], kernel)
    value = functional.pad(inputs[0], pads, value=float("-inf")) if any(pads) else inputs[0]
    return _MAXIMA[len(kernel)](value, kernel, strides, 0, dilations)


def _average_pool(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    kernel = list(node.attributes["kernel_shape"].as_ints())
    value = inputs[0]
    strides, dilations, pads = _window(node, value, kernel)
    ones = torch.ones((1, 1, *value.shape[2:]))
    weights = torch.ones((1, 1, *kernel))
    if node.attributes.get_int("count_include_pad", 0):
        ones = torch.ones((1, 1, *functional.pad(ones, pads).shape[2:]))
    else:
        ones = functional.pad(ones, pads)
    convolution = _CONVOLUTIONS[len(kernel)]
    padded = functional.pad(value, pads).reshape(-1, 1, *ones.shape[2:])
    sums = convolution(padded, weights, None, strides, 0, dilations)
    counts = convolution(ones, weights, None, strides, 0, dilations)
    return (sums / counts).reshape(*value.shape[:2], *sums.shape[2:])


def _global(function: Callable[..., Tensor]) -> Operator:
    return lambda node, inputs: function(inputs[0], tuple(range(2, inputs[0].dim())), keepdim=True)


def _clip(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    value, low, high = (*inputs, None, None)[:3]
    if low is None and high is None:
        return value
    return torch.clamp(value, low if low is None else low.item(), high if high is None else high.item())


def _flatten(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    axis = node.attributes.get_int("axis", 1) or 0
    axis += inputs[0].dim() if axis < 0 else 0
    rows = 1
    for size in inputs[0].shape[:axis]:
        rows *= size
    return inputs[0].reshape(rows, -1)


def _batch_norm(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    value, scale, bias, mean, variance = inputs
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    return functional.batch_norm(value, mean, variance, scale, bias, training=False, eps=epsilon)


def _hard_sigmoid(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    alpha, beta = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
    return torch.clamp(alpha * inputs[0] + beta, 0, 1)


def _leaky(node: onnx_ir.Node, inputs: Inputs) -> Tensor:
    return functional.leaky_relu(inputs[0], node.attributes.get_float("alpha", 0.01))


IMAGE_OPERATORS: Mapping[str, Operator] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Conv": _conv,
    "Flatten": _flatten,
    "GlobalAveragePool": _global(torch.mean),
    "GlobalMaxPool": _global(torch.amax),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda node, inputs: functional.hardswish(inputs[0]),
    "LeakyRelu": _leaky,
    "MaxPool": _max_pool,
}

__all__ = ["IMAGE_OPERATORS", "half_convolution"]
