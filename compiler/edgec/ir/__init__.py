"""The types in which the stages meet. Stages import these, never each other."""

from edgec.ir.compressed import CompressedModel, PackedTensor
from edgec.ir.lowered import EntryPoint, KVLayout, LoweredModule, MemoryPlan, Region, TensorSlot, WeightPlacement
from edgec.ir.model import DecoderFacts, GraphPart, ModelFacts, ModelIR, TokenizerAssets
from edgec.ir.plan import KVPlan, Plan, Prediction, TensorPlan

__all__ = [
    "CompressedModel",
    "DecoderFacts",
    "EntryPoint",
    "GraphPart",
    "KVLayout",
    "KVPlan",
    "LoweredModule",
    "MemoryPlan",
    "ModelFacts",
    "ModelIR",
    "PackedTensor",
    "Plan",
    "Prediction",
    "Region",
    "TensorPlan",
    "TensorSlot",
    "TokenizerAssets",
    "WeightPlacement",
]
