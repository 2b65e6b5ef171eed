"""How a family stores what `tensors.py` names: other names, joined linears, other orders, folded factors.

A transformation happens when a tensor is read. What a network multiplies by a constant on a linear path
(Granite's residual multiplier, Cohere's logit scale) is folded into the weights before it, which computes
the same and costs nothing when the model runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgec.errors import ModelError, UnsupportedError
from edgec.frontend.spec import DecoderSpec
from edgec.frontend.tensors import EMBEDDING, LM_HEAD, POSITIONS, linear_shapes, tensor_shapes
from edgec.frontend.weights import WeightSource
from edgec.ir.plan import Bits
from edgec.ir.weight_use import joined_grid

_Array = npt.NDArray[np.float32]
_Take = Callable[[_Array], _Array]
_QKV = ("q_proj", "k_proj", "v_proj")
_GATE_UP = ("gate_proj", "up_proj")
_DERIVED = ("rotary_emb.inv_freq",)  # old checkpoints store what follows from the configuration


@dataclass(frozen=True)
class Layout:
    """Names and orders of a checkpoint. `parts` maps our names (`self_attn.o_proj`, `norm`) to its names; those of
    experts have `{expert}` in them where a checkpoint holds them one by one."""

    model: str = "model."
    layers: str = "layers."
    parts: Mapping[str, str] = field(default_factory=dict)
    qkv: str | None = None  # one linear of queries, keys and values
    qkv_order: Literal["blocks", "groups"] = "blocks"  # whole parts; or per KV head: its queries, key, value
    gate_up: str | None = None  # one linear, gate first
    norm_offset: float = 0.0  # added to norm weights
    transposed: bool = False  # linears are [in, out]
    interleaved: bool = False  # rotation pairs neighbours instead of halves
    skipped_positions: int = 0  # rows before the first position
    ignored: tuple[str, ...] = ()  # ends of names of tensors that follow from the configuration
    factors: Mapping[str, float] = field(default_factory=dict)  # by part: o_proj, down_proj, norm

    def stored(self, name: str) -> str:
        """The checkpoint's name of a tensor of its own (joined linears have none)."""
        stem, _, kind = name.rpartition(".")
        if stem == "lm_head":
            return f"{self.parts.get(stem, stem)}.{kind}"
        _, _, rest = stem.partition(".")
        if not rest.startswith("layers."):
            return f"{self.model}{self.parts.get(rest, rest)}.{kind}"
        _, layer, part = rest.split(".", 2)
        return f"{self.model}{self.layers}{layer}.{self.parts.get(part, part)}.{kind}"


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies: `take` makes it from the checkpoint's tensors `names` of shape `shape` each, which are
    joined along `axis` and brought into the shape `joined` if there is one."""

    names: tuple[str, ...]
    shape: tuple[int, ...]
    take: tuple[_Take, ...]
    axis: int = 0
    joined: tuple[int, ...] | None = None


def stored_tensors(spec: DecoderSpec, layout: Layout) -> dict[str, Stored]:
    """For each tensor of `tensor_shapes` where it lies."""
    return {name: _stored(spec, layout, name, shape) for name, shape in tensor_shapes(spec)}


def needed_tensors(spec: DecoderSpec, layout: Layout) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a checkpoint has to have."""
    return {name: stored.shape for stored in stored_tensors(spec, layout).values() for name in stored.names}


def _stored(spec: DecoderSpec, layout: Layout, name: str, shape: tuple[int, ...]) -> Stored:
    stem, _, kind = name.rpartition(".")
    part = stem.rpartition(".")[2]
    if ".experts." in name:
        return _stored_experts(spec, layout, name, shape, part)
    is_linear = part in linear_shapes(spec) and kind == "weight"
    take: list[_Take] = []
    rows: tuple[int, npt.NDArray[np.int64]] | None = None
    stored = layout.stored(name)
    if part in _QKV and layout.qkv is not None:
        rows = qkv_rows(spec, layout.qkv_order, part)
        stored = stored.replace(layout.parts.get(f"self_attn.{part}", f"self_attn.{part}"), layout.qkv)
    elif part in _GATE_UP and layout.gate_up is not None:
        width = spec.facts.intermediate
        rows = 2 * width, np.arange(width) + width * _GATE_UP.index(part)
        stored = stored.replace(layout.parts.get(f"mlp.{part}", f"mlp.{part}"), layout.gate_up)
    if rows is not None:
        shape = (rows[0], *shape[1:])
    if is_linear and layout.transposed:
        shape = shape[::-1]
        take.append(lambda array: array.T)
    if rows is not None:
        index = rows[1]
        take.append(lambda array: array[index])
    if layout.interleaved and part in ("q_proj", "k_proj", "q_norm", "k_norm"):
        take.append(_halves(spec))
    if name == POSITIONS and layout.skipped_positions:
        skipped = layout.skipped_positions
        shape = (shape[0] + skipped, *shape[1:])
        take.append(lambda array: array[skipped:])
    if part.endswith("norm") and kind == "weight" and layout.norm_offset:
        offset = np.float32(layout.norm_offset)
        take.append(lambda array: array + offset)
    return Stored((stored,), shape, (*take, *_scaled(layout, part)))


def _scaled(layout: Layout, part: str) -> list[_Take]:
    if part not in layout.factors:
        return []
    factor = np.float32(layout.factors[part])
    return [lambda array: array * factor]


def _stored_experts(spec: DecoderSpec, layout: Layout, name: str, shape: tuple[int, ...], part: str) -> Stored:
    """All experts of a layer, which a checkpoint may hold one by one, or as gates and ups."""
    take = tuple(_scaled(layout, part))
    if part == "gate_up_proj" and f"mlp.experts.{part}" not in layout.parts:
        names = [layout.stored(name.replace(part, single)) for single in _GATE_UP]
        rows = spec.facts.expert_intermediate
    else:
        names = [layout.stored(name)]
        rows = shape[1]
    if "{expert}" not in names[0]:
        return Stored(tuple(names), (shape[0], rows, shape[2]), take, axis=1)
    each = tuple(single.format(expert=expert) for expert in range(spec.facts.experts) for single in names)
    return Stored(each, (rows, shape[2]), take, joined=shape)


def qkv_rows(spec: DecoderSpec, order: str, part: str) -> tuple[int, npt.NDArray[np.int64]]:
    """Rows of the joined linear, and which of them belong to `part`."""
    facts = spec.facts
    shared, dim = facts.heads // facts.kv_heads, facts.head_dim
    total = (facts.heads + 2 * facts.kv_heads) * dim
    rows = np.arange(total)
    if order == "blocks":
        ends = np.cumsum([facts.heads * dim, facts.kv_heads * dim])
        return total, np.split(rows, ends)[_QKV.index(part)]
    grouped = rows.reshape(facts.kv_heads, shared + 2, dim)
    chosen = {"q_proj": grouped[:, :shared], "k_proj": grouped[:, shared], "v_proj": grouped[:, shared + 1]}[part]
    return total, chosen.reshape(-1)


def _halves(spec: DecoderSpec) -> _Take:
    """Rows of each head from (0, h, 1, h + 1, ...) to (0, 1, ..., h, h + 1, ...), h half of the rotated ones."""
    dim = spec.facts.head_dim
    rotated = next(2 * len(layer.rope.inv_freq) for layer in spec.layers if layer.rope is not None)
    order = np.concatenate([np.arange(0, rotated, 2), np.arange(1, rotated, 2), np.arange(rotated, dim)])

    def take(array: _Array) -> _Array:
        heads = array.reshape(-1, dim, *array.shape[1:])
        return heads[:, order].reshape(array.shape)

    return take


class CheckpointWeights:
    """The tensors of `tensor_shapes(spec)`, read from a checkpoint of some `layout`."""

    def __init__(self, spec: DecoderSpec, layout: Layout, source: WeightSource) -> None:
        self._source = source
        self._stored = stored_tensors(spec, layout)

    def read(self, name: str) -> _Array:
        stored = self._stored[name]
        arrays = [self._source.read(part) for part in stored.names]
        array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, stored.axis)
        if stored.joined is not None:
            array = array.reshape(stored.joined)
        for take in stored.take:
            array = take(array)
        return np.ascontiguousarray(array, np.float32)

    def grid_bits(self, name: str) -> Bits | None:
        return joined_grid([self._source.grid_bits(part) for part in self._stored[name].names])


def check_tensors(spec: DecoderSpec, layout: Layout, found: Mapping[str, tuple[int, ...]]) -> None:
    """Compares the tensors of a checkpoint (`found`: name to shape) with what the model needs.

    Raises `ModelError` for missing or wrongly shaped tensors and `UnsupportedError` for tensors
    that the builder would not use, since leaving one out would compile another model.
    """
    needed = needed_tensors(spec, layout)
    missing = [name for name in needed if name not in found]
    if missing:
        raise ModelError(
            f"the checkpoint lacks {_some(missing)}",
            hint="download the model again, or check that all its shards are there",
        )
    wrong = [
        f"`{name}` has shape {list(found[name])} instead of {list(shape)}"
        for name, shape in needed.items()
        if found[name] != shape
    ]
    if wrong:
        raise ModelError(
            "; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""),
            hint="the configuration and the weights are of different models",
        )
    tied = {layout.stored(LM_HEAD)} if spec.facts.tied_embedding else set()
    unused = [
        name
        for name in found
        if name not in needed and name not in tied and not name.endswith((*_DERIVED, *layout.ignored))
    ]
    if unused:
        raise UnsupportedError(
            f"the checkpoint has tensors that no supported decoder uses: {_some(unused)}",
            hint="the model has parts that its configuration does not tell of, or that edgec does not know",
        )


def fitted(layout: Layout, found: Mapping[str, object]) -> Layout:
    """`layout`, or the same without its first prefix where the checkpoint is of the bare model."""
    bare = dataclasses.replace(layout, model=layout.model.partition(".")[2])
    embedding, other = layout.stored(EMBEDDING), bare.stored(EMBEDDING)
    return bare if embedding not in found and other in found else layout


def _some(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"


__all__ = [
    "CheckpointWeights",
    "Layout",
    "Stored",
    "check_tensors",
    "fitted",
    "needed_tensors",
    "qkv_rows",
    "stored_tensors",
]
