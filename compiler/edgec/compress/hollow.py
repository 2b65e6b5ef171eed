"""A compressed model without a model: weights of the right sizes that mean nothing, for speed and for memory."""

from __future__ import annotations

import numpy as np

from edgec.ir.compressed import ROWS, CompressedModel, PackedTensor
from edgec.ir.model import ModelIR
from edgec.ir.plan import Plan, TensorPlan
from edgec.ir.weight_use import WeightUse, weight_uses

_GAIN = 0.2  # of codes that are spread evenly: outputs are about as large as inputs


def hollow(model: ModelIR, plan: Plan) -> CompressedModel:
    """Random codes for every tensor that `plan` quantizes. No weight of `model` is read."""
    uses, random = weight_uses(model.model), np.random.default_rng(0)
    packed = {t.name: _packed(uses[t.name], t, random) for t in plan.tensors if t.quantized}
    return CompressedModel(model, plan, packed)


def _packed(use: WeightUse, plan: TensorPlan, random: np.random.Generator) -> PackedTensor:
    bits = plan.bits
    memory_bits = 8 if bits == 8 else 7 if bits > 4 else 4
    groups = -(-use.columns // 32)
    shape = (-(-use.rows // ROWS), groups, 128)
    high = np.frombuffer(random.bytes(shape[0] * shape[1] * shape[2]), np.uint8).reshape(shape)
    low = high & np.uint8(0xEE) if bits > 4 else None  # codes of 7 bits are even, those of 8 end at 254
    parameters = (shape[0], -(-use.columns // plan.group_size), ROWS)
    scales = np.full(parameters, _GAIN / np.sqrt(use.columns), np.float16)
    zeros = np.full(parameters, 120, np.uint8)
    return PackedTensor(
        use.name, use.rows, use.columns, memory_bits, high, low, scales, zeros, group_size=plan.group_size
    )


__all__ = ["hollow"]
