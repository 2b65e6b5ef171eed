"""What quantization alone makes of the whole model in as many bytes, or in the fewest that it can reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from edgec.compress import Sample, compress, dequantized_model
from edgec.errors import DoesNotFitError
from edgec.ir.model import ModelIR
from edgec.ir.plan import WEIGHT_BITS, Plan, Prediction, QuantizedAlone
from edgec.ir.store import Store
from edgec.ir.weight_use import weight_uses
from edgec.plan import allocate
from edgec.plan.allocate import SPANS, Choice
from edgec.plan.bits import tensor_plans
from edgec.plan.memory import float_bytes, weight_bytes
from edgec.slim.measure import Judge
from edgec.slim.mix import Slimmed


def quantized_alone(
    model: ModelIR,
    losses: Mapping[str, float],
    budget: int,
    judge: Judge,
    samples: Sequence[Sample],
    *,
    store: Store | None = None,
    source_key: str = "",
    progress: Callable[[str, int, int], None] | None = None,
) -> QuantizedAlone:
    """Bits allocated by `losses` for `budget` bytes, codes by the best quantizers, calibrated on `samples`."""
    uses, left = weight_uses(model.model), budget - float_bytes(model, list(losses))
    try:
        choices = allocate(model.facts.name, uses, losses, left, compact=True, group_sizes=SPANS)
    except DoesNotFitError:
        choices = {name: Choice(WEIGHT_BITS[0], SPANS[-1], "the fewest bits") for name in losses}
    tensors = tensor_plans(model, None, None, True, choices, True)
    nothing = Prediction(0, 0, 0, 0, 0, 0.0, 0.0)
    plan = Plan(model.facts.name, "", tensors, None, 0, 0, {}, 1, ("simd128",), 8, nothing)

    def quantizing(item: str, done: int, total: int) -> None:
        if progress is not None:
            progress(f"quantization alone, {item}" if item else "", done, total)

    packed = compress(model, plan, samples=samples, store=store, source_key=source_key, progress=quantizing)
    loss = judge.loss(Slimmed(dequantized_model(packed)), {})
    return QuantizedAlone(weight_bytes(model, tensors, stored=True), round(loss, 6))


__all__ = ["quantized_alone"]
