"""Inverse frequencies of rotary position embeddings, scaling applied.

Computed in float32 step by step as the models were trained, because an angle is a position times
a frequency: at position 30000 one unit in the last place of a frequency is visible in the logits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.errors import ModelError

ROPE_TYPES = ("default", "linear", "llama3", "yarn", "longrope")

# Keys of a rope configuration that each type reads; `rope_theta` is read by all.
ROPE_KEYS: Mapping[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}),
    "yarn": frozenset(
        {
            "factor",
            "original_max_position_embeddings",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
        }
    ),
    "longrope": frozenset(
        {"short_factor", "long_factor", "factor", "attention_factor", "original_max_position_embeddings"}
    ),
}

_Frequencies = npt.NDArray[np.float32]


def inverse_frequencies(
    rope: Mapping[str, Any], *, theta: float, head_dim: int, context_length: int, long: bool = False
) -> tuple[tuple[float, ...], float]:
    """`(head_dim / 2 radians per token, factor of cos and sin)` for a rope configuration.

    `head_dim` counts the features of a head that rotate. For longrope these are the frequencies up to the
    length that the model was trained for first, or the `long` ones, of all tokens where there are more.

    `rope` has `rope_type` (one of `ROPE_TYPES`) and its keys. Raises `ModelError` when a key that
    the type needs is missing or not a positive number.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    steps = np.power(np.float32(theta), exponents, dtype=np.float32)
    frequencies = (np.float32(1.0) / steps).astype(np.float32)
    scale = 1.0
    match rope["rope_type"]:
        case "linear":
            frequencies = frequencies / np.float32(_number(rope, "factor"))
        case "llama3":
            frequencies = _llama3(frequencies, rope)
        case "yarn":
            frequencies, scale = _yarn(steps, rope, theta, head_dim, context_length)
        case "longrope":
            frequencies, scale = _longrope(steps, rope, context_length, "long_factor" if long else "short_factor")
    return tuple(float(value) for value in frequencies), scale


def _llama3(frequencies: _Frequencies, rope: Mapping[str, Any]) -> _Frequencies:
    """Long wavelengths are stretched by `factor`, short ones kept, the middle interpolated."""
    factor = np.float32(_number(rope, "factor"))
    low, high = _number(rope, "low_freq_factor"), _number(rope, "high_freq_factor")
    if low == high:
        raise ModelError(f"the rope fields `low_freq_factor` and `high_freq_factor` are both {low}")
    trained = _number(rope, "original_max_position_embeddings")
    wavelengths = np.float32(2 * math.pi) / frequencies
    smooth = (np.float32(trained) / wavelengths - np.float32(low)) / np.float32(high - low)
    blended = (np.float32(1.0) - smooth) * frequencies / factor + smooth * frequencies
    stretched = np.where(wavelengths > np.float32(trained / low), frequencies / factor, frequencies)
    middle = (wavelengths >= np.float32(trained / high)) & (wavelengths <= np.float32(trained / low))
    return np.where(middle, blended, stretched).astype(np.float32)


def _yarn(
    steps: _Frequencies, rope: Mapping[str, Any], theta: float, head_dim: int, context_length: int
) -> tuple[_Frequencies, float]:
    trained = _number(rope, "original_max_position_embeddings")
    factor = _number(rope, "factor") if rope.get("factor") is not None else context_length / trained

    def dimension(rotations: float) -> float:
        return head_dim * math.log(trained / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = dimension(float(rope.get("beta_fast") or 32))
    high = dimension(float(rope.get("beta_slow") or 1))
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001  # as in the reference: a ramp of no width would divide by zero
    ramp = np.clip((np.arange(head_dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
    keep = (np.float32(1.0) - ramp).astype(np.float32)
    interpolated = np.float32(1.0) / (np.float32(factor) * steps)
    extrapolated = np.float32(1.0) / steps
    frequencies = interpolated * (np.float32(1.0) - keep) + extrapolated * keep
    return frequencies.astype(np.float32), _yarn_attention(rope, factor)


def _yarn_attention(rope: Mapping[str, Any], factor: float) -> float:
    if rope.get("attention_factor") is not None:
        return _number(rope, "attention_factor")

    def magnitude(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return magnitude(_number(rope, "mscale")) / magnitude(_number(rope, "mscale_all_dim"))
    return magnitude(1.0)


def _longrope(
    steps: _Frequencies, rope: Mapping[str, Any], context_length: int, key: str
) -> tuple[_Frequencies, float]:
    """LongRoPE (Ding et al. 2024): a divisor per frequency."""
    factors = rope.get(key)
    plain = isinstance(factors, list) and all(type(value) in (int, float) and value > 0 for value in factors)
    if not plain or len(factors or ()) != len(steps):
        raise ModelError(f"the rope field `{key}` is not a list of {len(steps)} positive numbers")
    frequencies = np.float32(1.0) / (np.array(factors, np.float32) * steps)
    if rope.get("attention_factor") is not None:
        return frequencies.astype(np.float32), _number(rope, "attention_factor")
    trained = _number(rope, "original_max_position_embeddings")
    longer = context_length / trained
    if longer == 1 and rope.get("factor") is not None:
        longer = _number(rope, "factor")
    scale = 1.0 if longer <= 1 else math.sqrt(1 + math.log(longer) / math.log(trained))
    return frequencies.astype(np.float32), scale


def _number(rope: Mapping[str, Any], key: str) -> float:
    value = rope.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ModelError(f"the rope field `{key}` is {value!r}, expected a positive number")
    return float(value)
