"""How many bits each initializer gets, and why.

The numbers behind the rules are in docs/decisions/0004-bits-per-tensor.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import onnx_ir

from edgec.ir.compressed import GROUP
from edgec.ir.model import TURN, TURN_BACK, ModelIR
from edgec.ir.plan import CALIBRATED_QUANTIZERS, NESTED_BITS, TERNARY, Bits, QuantizerName, TensorPlan
from edgec.ir.weight_use import FLOAT_TYPES, WeightUse, is_depthwise_filter, weight_uses
from edgec.plan.allocate import NARROW, SPANS, Choice

TINY = 1024  # weights; at 4 bytes each they weigh less than a quantized matrix is worth
SMALL_CONVOLUTION = 8192  # weights; a detector's narrow layers move boxes at 7 bits and weigh next to nothing
SMALL_TABLE = 1 << 18  # weights; 8 bits of such a table cost at most 128 KiB more than 4
WIDEST_GPTQ = 4096  # columns; of more, factors of the second moment take minutes and more than 2 GB
SMALL_RECURRENT = 1 << 20  # weights; 4 MiB of floats
SMALL_MODEL = 8 << 20  # weights; 8 bits of such a model cost at most 4 MiB more than 4

TURNS = (TURN, TURN_BACK)
_RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
_ROUTER = ".mlp.router.weight"  # see `ir/model.py`
_GRID = "quantized before: the codes are kept, nothing is lost again"
_TURN = "rotation: its weights have one size in 32 columns, which codes hold without loss"
_HEAD = "lm_head: 4 bits cost 5% perplexity, 6 bits 0.5%"


def tensor_plans(
    model: ModelIR,
    bits: Bits | None = None,
    quantizer: QuantizerName | None = None,
    calibrated: bool = False,
    allocated: Mapping[str, Choice] | None = None,
    compact: bool = False,
    group_size: int | None = None,
    roomy: bool = False,
    nested: tuple[int, ...] = (),
) -> tuple[TensorPlan, ...]:
    """A plan for every float initializer, in the graph's order; `bits`, `quantizer` and `group_size` override the rules
    for matrices.

    `calibrated` says whether there will be calibration data; `allocated` has the bits that a target allows, `compact`
    saves bits of scales, zero points and convolutions' floats as well, `roomy` gives a graph 7 bits where 4 would do.
    `nested` has the bits of coarser codes that those of GPTQ are to hold; matrices that were quantized before are
    quantized again for that.
    """
    uses = weight_uses(model.model)
    rules = _Rules(model, uses, roomy)
    packed = _Packer(rules, quantizer, calibrated, group_size, nested)
    plans = []
    for name, value in model.model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.dtype not in FLOAT_TYPES:
            continue
        use = uses.get(name)
        if use is None and compact and is_depthwise_filter(value):
            plans.append(TensorPlan(name, 8, 0, "channels", f"{_why_float(value)}: 8 bits and a scale per channel"))
        elif use is None and compact and _of_convolutions(value):
            plans.append(TensorPlan(name, 16, 0, "float", f"{_why_float(value)}, in 16 bits to save bytes", "none"))
        elif use is None:
            plans.append(_float(name, _why_float(value)))
        elif use.name.endswith(_ROUTER):
            plans.append(_float(name, "router: which experts compute depends on it"))
        elif use.elements <= TINY:
            plans.append(_float(name, f"tiny ({use.elements} weights)"))
        elif name in TURNS and bits != 32:
            plans.append(turn_plan(use))
        elif allocated is not None:
            choice = allocated[name]
            narrow = choice.bits == TERNARY or choice.bits <= NARROW
            plans.append(packed(use, choice.bits, choice.reason, choice.group_size, compact or narrow))
        elif bits == 32:
            plans.append(_float(name, "asked for"))
        elif bits is not None:
            plans.append(packed(use, bits, "asked for"))
        elif use.grid_bits == TERNARY and quantizer is None:
            plans.append(TensorPlan(name, 2, GROUP, TERNARY, _GRID, "grid"))
        elif nested and use.grid_bits == NESTED_BITS and _quantizer(use, quantizer, calibrated) == "gptq":
            plans.append(packed(use, NESTED_BITS, "quantized before: codes are kept, coarser ones fitted to them"))
        elif isinstance(use.grid_bits, int) and quantizer is None:
            plans.append(TensorPlan(name, use.grid_bits, GROUP, "asymmetric", _GRID, "grid"))
        elif rules.recurrent:
            plans.append(
                _float(name, "small recurrent network: what it remembers adds up errors, and it weighs little")
            )
        elif "conv" in use.roles and use.elements <= SMALL_CONVOLUTION:
            plans.append(_float(name, f"narrow convolution ({use.elements} weights)"))
        else:
            plans.append(packed(use, *rules.choose(use)))
    return tuple(plans)


def quantizable(model: ModelIR) -> tuple[str, ...]:
    """The matrices that may have any number of bits, in the graph's order."""
    uses = weight_uses(model.model).items()
    return tuple(name for name, use in uses if use.elements > TINY and name not in TURNS)


def turn_plan(use: WeightUse) -> TensorPlan:
    """Of a matrix that rotates the stream of a decoder: exact, so that no target has to choose."""
    return TensorPlan(use.name, 4 if use.columns % GROUP == 0 else 8, GROUP, "asymmetric", _TURN, "rtn")


def group_sizes(uses: Mapping[str, WeightUse], asked: int | None) -> tuple[int, ...]:
    """Among which a target may choose. Activations have those of the matrix that they meet, which convolutional
    networks cannot afford (docs/decisions/0023-spans.md)."""
    if asked is not None:
        return (asked,)
    return (GROUP,) if _is_convolutional(uses) else SPANS


class _Rules:
    """Bits of a matrix by what it is used for, in this model."""

    def __init__(self, model: ModelIR, uses: Mapping[str, WeightUse], roomy: bool) -> None:
        self.graph, self.roomy = model.decoder is None, roomy
        self.vocabulary = model.decoder.vocabulary if model.decoder else None
        self.convolutional = _is_convolutional(uses)
        self.writes = any(part.follows is not None for part in model.parts.values())
        recurrent = any(node.op_type in _RECURRENT and node.domain == "" for node in model.model.graph)
        self.recurrent = recurrent and sum(use.elements for use in uses.values()) <= SMALL_RECURRENT
        self.small = sum(use.elements for use in uses.values()) <= SMALL_MODEL

    def choose(self, use: WeightUse) -> tuple[int, str]:
        if "conv" in use.roles:
            return 7, "convolution: its activations have no norm that keeps them even"
        if self.convolutional:
            return 7, "classifier of a convolutional network"
        if self.small:
            return 8, "small model: 8 bits cost little download, and it has no redundancy to lose"
        if self.writes:
            return 8, "encoder and decoder: at 4 bits transcripts of Moonshine tiny get other words and punctuation"
        if self.vocabulary is not None and use.rows == self.vocabulary and "linear" in use.roles:
            return 6, _HEAD
        if self.vocabulary is not None and use.rows != self.vocabulary and "embedding" in use.roles:
            return 8, "learned positions: a small table, added to every token"
        if "embedding" not in use.roles:
            if self.roomy:
                return 7, "linear layer: 7 bits multiply as fast as 4, and the download has room for them"
            return 4, "linear layer: groups of 32 with their own scale and zero point keep 4 bits accurate"
        if use.elements <= SMALL_TABLE:
            return 8, "small embedding table: 8 bits cost next to nothing"
        if self.roomy:
            return 7, "embedding: all layers build on it, and the download has room for 7 bits"
        return 4, "embedding: read one row at a time, 4 bits cost little"

    def group_size(self, use: WeightUse, bits: int) -> int:
        """Columns that share a scale. Its activations do, too, which costs more than it costs the weights: too much for
        convolutional networks, and coarse weights need groups of 32 themselves (docs/decisions/0023-spans.md).
        """
        wide = self.graph and bits == 7 and use.uses_per_run and "conv" not in use.roles and not self.convolutional
        return 512 if wide else GROUP


def _is_convolutional(uses: Mapping[str, WeightUse]) -> bool:
    """Most of the multiplied weights are convolutions'; a patch embedding alone does not count."""
    convolutions = sum(use.elements for use in uses.values() if "conv" in use.roles)
    linears = sum(use.elements for use in uses.values() if "linear" in use.roles)
    return convolutions > linears


def _float(name: str, reason: str) -> TensorPlan:
    return TensorPlan(name, 32, 0, "float", reason, "none")


@dataclass(frozen=True)
class _Packer:
    """The plan of a quantized matrix."""

    rules: _Rules
    quantizer: QuantizerName | None  # asked for
    calibrated: bool
    group_size: int | None  # asked for
    nested: tuple[int, ...]

    def __call__(
        self, use: WeightUse, bits: Bits, reason: str, chosen: int | None = None, compact: bool = False
    ) -> TensorPlan:
        scheme: Literal["asymmetric", "compact", "ternary"] = "compact" if compact else "asymmetric"
        if bits == TERNARY:
            bits, scheme = 2, TERNARY
        size = min(chosen or self.group_size or self.rules.group_size(use, bits), whole_row(use))
        quantizer = _quantizer(use, self.quantizer, self.calibrated)
        if self.nested and bits == NESTED_BITS and quantizer == "gptq":
            return TensorPlan(use.name, bits, size, scheme, reason, "nested", self.nested)
        return TensorPlan(use.name, bits, size, scheme, reason, quantizer)


def whole_row(use: WeightUse) -> int:
    """The size of a group that is a whole row."""
    return -(-use.columns // GROUP) * GROUP


def _quantizer(use: WeightUse, asked: QuantizerName | None, calibrated: bool) -> QuantizerName:
    """What was asked for, else the best one; tables that nothing is multiplied with have no inputs to look at."""
    if asked in CALIBRATED_QUANTIZERS or (asked is None and calibrated):
        if not use.uses_per_run:
            return "rtn"
        # What GPTQ moves from one column to another helps an lm_head, but spoils the embedding that it also is.
        return asked or ("irtn" if "embedding" in use.roles or use.columns > WIDEST_GPTQ else "gptq")
    return asked or "rtn"


def _of_convolutions(value: onnx_ir.Value) -> bool:
    """Filters of grouped convolutions, and biases, in float32."""
    if value.const_value is None or value.const_value.dtype != onnx_ir.DataType.FLOAT:
        return False
    return all(node.op_type == "Conv" and index in (1, 2) for node, index in value.uses()) and bool(value.uses())


def _why_float(value: onnx_ir.Value) -> str:
    assert value.const_value is not None
    if sum(int(size) > 1 for size in value.const_value.shape.numpy()) <= 1:
        return "vector: norm, bias or constant"
    consumers = sorted({_consumer(node) for node, _ in value.uses()})
    return f"used by {', '.join(consumers)}, not as a plain weight matrix" if consumers else "not used"


def _consumer(node: onnx_ir.Node) -> str:
    group = node.attributes.get("group")
    grouped = node.op_type == "Conv" and group is not None and group.as_int() > 1
    return "a depthwise or grouped convolution" if grouped else f"`{node.op_type}`"


__all__ = ["TINY", "TURNS", "group_sizes", "quantizable", "tensor_plans", "turn_plan"]
