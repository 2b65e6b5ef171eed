"""`compress`: the plan's decisions applied to the weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir
from threadpoolctl import threadpool_limits

from edgec.compress.calibration.samples import Sample
from edgec.compress.calibration.sites import Schedule, schedule
from edgec.compress.calibration.walk import MoreSamples, Walk, joining_wave
from edgec.compress.dequantize import dequantize
from edgec.compress.finite import check_finite
from edgec.compress.matrix import pack_matrix
from edgec.compress.quantize import QUANTIZERS, Healed, InputStatistics, Nested, QuantizedRows, Quantizer
from edgec.compress.quantize.awq import Awq
from edgec.compress.quantize.channels import round_channels
from edgec.compress.reuse import TensorStore
from edgec.compress.scaling import scaled
from edgec.errors import ModelError
from edgec.ir.compressed import GROUP, CompressedModel, PackedTensor
from edgec.ir.model import ModelIR
from edgec.ir.plan import GROUP_SIZES, TERNARY, WEIGHT_BITS, Plan, TensorPlan, group_size_allowed
from edgec.ir.store import Store, key_of
from edgec.ir.weight_use import FLOAT_TYPES, WeightUse, is_depthwise_filter, weight_uses

Progress = Callable[[str, int, int], None]  # tensor, weights done before it, weights in all
Rounding = Callable[[np.ndarray[Any, np.dtype[Any]]], np.ndarray[Any, np.dtype[Any]]]
_FLUSHING = 2.0**-8  # root mean square of a matrix of whose weights errors up to 2^-15 do not count
_QUANTIZER_NAMES = ", ".join(f"`{name}`" for name in QUANTIZERS)


def compress(
    model: ModelIR,
    plan: Plan,
    *,
    samples: Sequence[Sample] | None = None,
    more: MoreSamples | None = None,
    healed: Mapping[str, QuantizedRows] | None = None,
    store: Store | None = None,
    source_key: str = "",
    progress: Progress | None = None,
) -> CompressedModel:
    """Quantize every initializer as `plan` says, round floats of fewer bits, and check that all are finite.

    `samples` is what quantizers that look at inputs are calibrated on, see `needs_samples`, and from where values are
    small enough `more` as well; `healed` has the codes of the tensors whose quantizer is "healed". Other tensors that
    `store` has are taken from there, or kept there as soon
    as they are done; `source_key` tells the weights and the graph of `model` from all others. One initializer is
    held as float at a time, and while calibrating also those of one wave. `report` has `tensors`
    (per name: bits, quantizer, rows, columns, bytes, relative_rmse, max_abs and, where calibrated,
    relative_output_error) and totals. Raises
    `ModelError` for a plan that does not match the model and for values that are NaN, infinite or too large.
    """
    uses = weight_uses(model.model)
    initializers = model.model.graph.initializers
    for planned in plan.tensors:
        if planned.name not in initializers:
            raise ModelError(
                f"the plan names the tensor `{planned.name}`, which `{model.facts.name}` does not have",
                hint="make the plan again from this model",
            )
        if planned.quantized:
            _check_plan(planned, uses.get(planned.name))
        if planned.scheme == "channels" and not is_depthwise_filter(initializers[planned.name]):
            raise ModelError(
                f"the plan gives `{planned.name}` the scheme `channels`, it is no filter of a depthwise convolution",
                hint="set its `scheme` to `float` and its `bits` to 32",
            )
    if any(tensor.quantizer == Awq.name for tensor in plan.tensors):
        model, source_key = _scaled(model, plan, samples, source_key)
        initializers = model.model.graph.initializers
    names = [n for n, v in initializers.items() if v.const_value is not None and v.const_value.dtype in FLOAT_TYPES]
    sizes = {name: _size(model, name) for name in names}
    total, done = sum(sizes.values()), 0
    packed: dict[str, PackedTensor] = {}
    rounded: dict[str, np.ndarray[Any, np.dtype[Any]]] = {}

    def begin(name: str) -> None:
        if progress is not None:
            progress(name, done, total)

    def finished(name: str) -> None:
        nonlocal done
        done += sizes[name]

    calibrated = [tensor for tensor in plan.tensors if _needs_inputs(tensor)]
    plain = [tensor for tensor in plan.tensors if not _needs_inputs(tensor)]
    reuse = TensorStore(None if healed else store, source_key, uses)  # codes from healing are in no key
    reuse.plain(plain)
    for name in names:
        tensor_plan = plan.tensor(name)
        if tensor_plan is not None and _needs_inputs(tensor_plan):
            check_finite(model, name)  # before it spoils the inputs of others
            continue
        begin(name)
        if tensor_plan is None or not tensor_plan.quantized:
            check_finite(model, name)
            rounding = float_rounding(tensor_plan)
            if rounding is not None:
                rounded[name] = rounding(_array(model, name))
        else:
            packed[name] = _packed(model, tensor_plan, uses[name], None, reuse, (healed or {}).get(name))
        finished(name)
    if calibrated:
        samples = _given(samples, calibrated[0])
        # Sums of a matrix product depend on how many threads share it; a bundle's bytes must not.
        with threadpool_limits(1, "blas"):
            waves = schedule(model.model.graph, uses, {tensor.name for tensor in calibrated})
            plans = {tensor.name: tensor for tensor in calibrated}
            reuse.calibrated(waves.waves, plans, plain, samples, "" if more is None else more.key)
            _calibrate(_with_floats(model, rounded), plans, waves, samples, more, packed, reuse, begin, finished)
    if progress is not None:
        progress("", total, total)
    packed = {name: packed[name] for name in names if name in packed}
    return CompressedModel(_with_floats(model, rounded), plan, packed, _report(packed, sizes, plan))


def _scaled(model: ModelIR, plan: Plan, samples: Sequence[Sample] | None, source_key: str) -> tuple[ModelIR, str]:
    """The model with the scales of AWQ, and what tells its weights from all others."""
    chosen = [tensor for tensor in plan.tensors if tensor.quantizer == Awq.name]
    samples = _given(samples, chosen[0])
    choices = [[tensor.name, tensor.bits, tensor.group_size, tensor.scheme] for tensor in chosen]
    key = key_of("scaled", source_key, choices, [dict(sample) for sample in samples])
    with threadpool_limits(1, "blas"):
        return scaled(model, chosen, samples), key


def _given(samples: Sequence[Sample] | None, planned: TensorPlan) -> Sequence[Sample]:
    if not samples:
        raise ModelError(
            f"the plan gives `{planned.name}` the quantizer `{planned.quantizer}`, which needs calibration data",
            hint="give a text, pictures or arrays with `--calibration`, or take the quantizer `rtn`",
        )
    return samples


def _calibrate(
    model: ModelIR,
    plans: Mapping[str, TensorPlan],
    waves: Schedule,
    samples: Sequence[Sample],
    more: MoreSamples | None,
    packed: dict[str, PackedTensor],
    reuse: TensorStore,
    begin: Callable[[str], None],
    finished: Callable[[str], None],
) -> None:
    """Quantize the tensors of `plans` one after the other into `packed`, each on what those before it give."""
    uses = weight_uses(model.model)
    whole = {name for name, tensor in plans.items() if QUANTIZERS[tensor.quantizer].needs == "second moment"}
    known = {name: tensor for name in plans if (tensor := reuse.load(name)) is not None}
    for name in known:
        finished(name)
    end = max((number for number, wave in enumerate(waves.waves, 1) if not known.keys() >= {*wave.weights}), default=0)
    joining = 0 if more is None else joining_wave(model, waves, len(samples) + len(more))
    walk = Walk(model, Schedule(waves.waves[:end], waves.sites), samples, whole, known, more, joining)
    for name, tensor in packed.items():
        walk.replace(name, _restored(model, uses[name], tensor))
    packed |= known
    for wave, statistics in walk:
        for name in wave.weights:
            if name not in known:
                begin(name)
                packed[name] = _packed(model, plans[name], uses[name], statistics[name], reuse)
                finished(name)
            walk.replace(name, _restored(model, uses[name], packed[name]))


def float_rounding(planned: TensorPlan | None) -> Rounding | None:
    """What rounds a float initializer to the values that are stored; None where all are."""
    if planned is not None and planned.scheme == "channels":
        return round_channels
    return _to_bfloat16 if planned is not None and planned.bits == 16 else None


def _to_bfloat16(array: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
    return array.astype(ml_dtypes.bfloat16).astype(np.float32)


def needs_samples(plan: Plan) -> bool:
    """Whether some tensor's quantizer looks at what the tensor is multiplied with."""
    return any(_needs_inputs(tensor) for tensor in plan.tensors)


def _needs_inputs(tensor: TensorPlan) -> bool:
    return tensor.quantized and tensor.quantizer != Healed.name and QUANTIZERS[tensor.quantizer].needs != "nothing"


def _with_floats(model: ModelIR, floats: Mapping[str, np.ndarray[Any, np.dtype[Any]]]) -> ModelIR:
    """A copy of the model with other values of some initializers; the model itself where there are none."""
    if not floats:
        return model
    copy = model.model.clone()
    for name, array in floats.items():
        copy.graph.initializers[name].const_value = onnx_ir.Tensor(array, name=name)
    return dataclasses.replace(model, model=copy)


def _size(model: ModelIR, name: str) -> int:
    tensor = model.model.graph.initializers[name].const_value
    assert tensor is not None
    return int(tensor.size)


def _array(model: ModelIR, name: str) -> np.ndarray[Any, np.dtype[Any]]:
    tensor = model.model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def _restored(model: ModelIR, use: WeightUse, packed: PackedTensor) -> np.ndarray[Any, np.dtype[Any]]:
    """The initializer's array with the values that the codes mean."""
    dtype = model.model.graph.initializers[packed.name].const_value.dtype  # type: ignore[union-attr]
    return use.from_matrix(dequantize(packed)).astype(dtype.numpy(), copy=False)


def _check_plan(planned: TensorPlan, use: WeightUse | None) -> None:
    name, bits = planned.name, planned.bits
    if use is None:
        raise ModelError(
            f"the plan gives `{name}` {bits} bits, but it is not used as a weight matrix",
            hint="set its `bits` to 32 and its `group_size` to 0",
        )
    if (
        bits not in WEIGHT_BITS
        or not group_size_allowed(planned.group_size)
        or planned.scheme not in ("asymmetric", "compact", *((TERNARY,) if bits == 2 else ()))
    ):
        raise ModelError(
            f"the plan gives `{name}` {bits} bits, groups of {planned.group_size} and the scheme "
            f"`{planned.scheme}`, expected 2 to 8 bits, groups of {GROUP_SIZES} and `asymmetric` or `compact`, "
            "with 2 bits also `ternary`"
        )
    if planned.quantizer == Healed.name:
        return
    if planned.quantizer not in QUANTIZERS:
        raise ModelError(f"the plan gives `{name}` the quantizer `{planned.quantizer}`, expected {_QUANTIZER_NAMES}")
    if QUANTIZERS[planned.quantizer].needs != "nothing" and not use.uses_per_run:
        raise ModelError(
            f"the plan gives `{name}` the quantizer `{planned.quantizer}`, but nothing is multiplied with it",
            hint="set its `quantizer` to `rtn`",
        )


def _packed(
    model: ModelIR,
    planned: TensorPlan,
    use: WeightUse,
    inputs: InputStatistics | None,
    reuse: TensorStore,
    healed: QuantizedRows | None = None,
) -> PackedTensor:
    kept = reuse.load(planned.name) if inputs is None else None  # calibrated ones were looked for before
    if kept is not None:
        return kept
    matrix = use.to_matrix(_array(model, planned.name))
    if planned.quantizer == Healed.name:
        if healed is None:
            raise ModelError(
                f"the plan takes the codes of `{planned.name}` from healing, and nothing was healed",
                hint="heal with `--heal-steps`, or take another `quantizer`",
            )
        quantizer: Quantizer = Healed(planned.bits, None, healed)
    else:
        compact = planned.compact
        # Groups that next to nothing is in would cost all others of the matrix their compact scales.
        flush = compact and float(np.sqrt(np.square(matrix, dtype=np.float64).mean())) >= _FLUSHING
        group_size = min(planned.group_size, _whole_row(use))
        if planned.quantizer == Nested.name:
            quantizer = Nested(
                planned.bits, inputs, coarser=planned.coarser, compact=compact, group_size=group_size, flush=flush
            )
        else:
            kind = QUANTIZERS[planned.quantizer]
            quantizer = kind(
                planned.bits, inputs, compact=compact, group_size=group_size, flush=flush, ternary=planned.ternary
            )
    packed = pack_matrix(planned.name, matrix, quantizer, lambda row, column: _array_index(use, row, column))
    reuse.save(packed)
    return packed


def _whole_row(use: WeightUse) -> int:
    """The group size of a row that has one scale."""
    return -(-use.columns // GROUP) * GROUP


def _array_index(use: WeightUse, row: int, column: int) -> tuple[int, ...]:
    """Where the element `[row, column]` of the matrix is in the initializer's array."""
    if use.layout == "kn":
        return column, row
    if use.layout == "nk":
        return row, column
    if use.layout == "ekn":
        return row // use.shape[2], column, row % use.shape[2]
    *kernel, channel = np.unravel_index(column, (*use.shape[2:], use.shape[1]))
    return (row, int(channel), *(int(k) for k in kernel))


def _stored_bytes(tensor: PackedTensor, planned: TensorPlan) -> int:
    """Bytes in the bundle."""
    scales, zeros = tensor.scales.nbytes, tensor.zeros.nbytes
    if planned.compact:
        scales = scales // 2
    if planned.ternary or (planned.compact and planned.bits <= 3):
        zeros = zeros // 2
    codes = 2 * tensor.high.size // 5 if planned.ternary else tensor.high.size * planned.bits // 4
    return codes + scales + zeros


def _depth_report(
    packed: Mapping[str, PackedTensor], sizes: Mapping[str, int], plan: Plan, bits: int
) -> dict[str, Any]:
    """Bytes and error of all matrices with the upper `bits` bits of nested codes."""
    stored, squares = 0, 0.0
    for name, tensor in packed.items():
        planned = plan.tensor(name)
        assert planned is not None
        if planned.coarser:
            planned = dataclasses.replace(planned, bits=bits)
        stored += _stored_bytes(tensor, planned)
        squares += sizes[name] * (tensor.depth(bits) or tensor).error["relative_rmse"] ** 2
    quantized = sum(sizes[name] for name in packed)
    return {"bits": bits, "packed_bytes": stored, "relative_rmse": math.sqrt(squares / quantized)}


def _report(packed: Mapping[str, PackedTensor], sizes: Mapping[str, int], plan: Plan) -> dict[str, Any]:
    tensors: dict[str, dict[str, Any]] = {}
    for name, tensor in packed.items():
        planned = plan.tensor(name)
        assert planned is not None
        tensors[name] = {
            "bits": planned.bits,
            "quantizer": planned.quantizer,
            "rows": tensor.rows,
            "columns": tensor.columns,
            "bytes": _stored_bytes(tensor, planned),
            **tensor.error,
        }
    quantized = sum(sizes[name] for name in packed)
    squares = sum(sizes[name] * t["relative_rmse"] ** 2 for name, t in tensors.items())
    depths = [_depth_report(packed, sizes, plan, bits) for bits in plan.depths]
    return {
        **({"depths": depths} if depths else {}),
        "tensors": tensors,
        "quantized_parameters": quantized,
        "float_parameters": sum(sizes.values()) - quantized,
        "packed_bytes": sum(t["bytes"] for t in tensors.values()),
        # Weighted by size: a large error in a small tensor shows in `worst_tensor` only.
        "relative_rmse": math.sqrt(squares / quantized) if quantized else 0.0,
        "max_abs": max((t["max_abs"] for t in tensors.values()), default=0.0),
        "worst_tensor": max(tensors, key=lambda n: tensors[n]["relative_rmse"], default=None),
    }


__all__ = ["Progress", "Rounding", "compress", "float_rounding", "needs_samples"]
