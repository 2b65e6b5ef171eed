"""`Plan`: what the planner decided, as pure data (JSON), with the reason for each decision.

A plan may be printed, edited and given back: `from_json` checks every field and says which is wrong.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgec.errors import UsageError

PLAN_FORMAT = 1
PAGE_TOKENS = 64  # of the KV cache; memory grows by pages
BLOCK_TOKENS = 16  # that lie side by side in a page; contexts are multiples of it
VARIANTS = ("simd128", "relaxed", "relaxed16", "simd128-threads", "relaxed-threads", "relaxed16-threads")
WEIGHT_BITS = (2, 3, 4, 5, 6, 7, 8)  # of quantized weights
TERNARY: Literal["ternary"] = "ternary"  # in place of a number of bits: weights -1, 0 and 1 times a scale
Bits = int | Literal["ternary"]
TARGET_BPW = (1.7, 8.75)  # least and most bits per weight that a target may ask for, scales and zero points included
LARGEST_GROUP = 1 << 15  # columns that share a scale: sums of so many products of codes fit 32 bits
LARGEST_DECODER_GROUP = 1024  # the same of decoders, which hold a group of activations on a stack
GROUP_SIZES = f"a multiple of 32, up to {LARGEST_GROUP}"
FLOAT_BITS = (16, 32)  # of others: bfloat16 in the bundle and float32 in memory, or float32 in both
QuantizerName = Literal["none", "rtn", "irtn", "hqq", "awq", "gptq", "nested", "grid", "healed"]
PROBE_BITS = 3  # at which the loss of each matrix is measured before bits are allocated
ADAPTER_STEP, LARGEST_ADAPTER = 8, 256  # ranks of adapters
NESTED_BITS = 4  # of codes whose upper bits are codes, too
NESTED_DEPTHS = ((3,), (2,), (3, 2))  # bits that such upper bits may have together
CALIBRATED_QUANTIZERS = ("irtn", "awq", "gptq", "nested")  # those that look at what a matrix is multiplied with


@dataclass(frozen=True)
class TensorPlan:
    """How one initializer is stored. `bits` of 16 and 32 are floats (group_size 0, quantizer "none").

    2 and 3 bits are 4-bit codes whose low bits are zero, 5 and 6 bits such 7-bit codes: the
    kernels and the memory of 4 or 7, the download of as many bits as there are. A `compact` tensor
    has scales and zero points of fewer bits in the bundle (`edgec/ir/narrow.py`). A `ternary` one has the codes 0, 1
    and 2 of 2 bits for -1, 0 and 1, five to a byte in the bundle, and compact scales unless it was ternary before.
    `channels` is for the filter of a depthwise convolution: 8 bits and a scale per channel in the bundle, float32 in
    memory.
    """

    name: str
    bits: int  # of WEIGHT_BITS or FLOAT_BITS
    group_size: int  # columns (along the input dimension) that share a scale; all of a row where it has fewer
    scheme: Literal["asymmetric", "compact", "ternary", "channels", "float"]
    reason: str
    quantizer: QuantizerName = "rtn"  # how codes are found, `edgec/compress/quantize/`
    coarser: tuple[int, ...] = ()  # of "nested": bits of the codes that are its codes' upper bits, the finest first

    @property
    def quantized(self) -> bool:
        """Whether kernels meet codes."""
        return self.bits not in FLOAT_BITS and self.scheme != "channels"

    @property
    def ternary(self) -> bool:
        return self.scheme == "ternary"

    @property
    def compact(self) -> bool:
        """Whether scales have 8 bits in the bundle; those of a grid of before stay as they are."""
        return self.scheme == "compact" or (self.ternary and self.quantizer != "grid")


def parse_bits(text: str) -> Bits:
    """Of a number, or `ternary`. Raises `ValueError`."""
    return TERNARY if text == TERNARY else int(text)


def group_size_allowed(size: int) -> bool:
    """Of quantized tensors: whole groups of the kernels (`edgec/ir/compressed.py`)."""
    return 0 < size <= LARGEST_GROUP and size % 32 == 0


@dataclass(frozen=True)
class KVPlan:
    bits: int  # 16 or 32
    page_tokens: int = PAGE_TOKENS
    reason: str = ""


@dataclass(frozen=True)
class Prediction:
    """Roofline estimates for the profile; zero where they do not apply."""

    download_bytes: int
    weight_bytes: int  # resident weights
    kv_bytes: int
    workspace_bytes: int
    peak_bytes: int  # of the wasm memory
    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    run_seconds: float = 0.0  # of a graph whose dimensions are at their bounds


@dataclass(frozen=True)
class SlimTrial:
    """A mix that was tried, and what it lost before any healing (`edgec.slim.measure`)."""

    vocabulary: int  # tokens, 0 for all
    removed_blocks: int
    mlp_share: float  # of the features of MLPs that stay
    head_groups: int  # groups of attention heads that stay, 0 for all
    mean_bits: float  # of the codes of the matrices that stay
    loss: float


@dataclass(frozen=True)
class QuantizedAlone:
    """The whole model with fewer bits and nothing else, in the bytes that slimming had, or in the fewest it can have.

    What slimming is to be compared with.
    """

    weight_bytes: int  # as stored
    loss: float  # as that of trials


@dataclass(frozen=True)
class SlimPlan:
    """What was taken away before bits were given to what is left."""

    vocabulary: int  # tokens that stay, 0 for all
    vocabulary_sha256: str  # over their ids as text, empty for all: another calibration text would choose others
    removed_blocks: tuple[int, ...]  # residual blocks, counted from 0; the layers of a decoder
    mlp_share: float
    head_groups: int
    weight_bytes: int  # budget of all weights as stored, 0 where there was none
    reason: str
    trials: tuple[SlimTrial, ...] = ()  # the best first
    alone: QuantizedAlone | None = None
    loss: float | None = None  # of the model as packed, healed if it was, on the same data as that of trials


@dataclass(frozen=True)
class HealPlan:
    """How the slimmed model was trained to be like the original again."""

    steps: int
    before: float  # the loss (`edgec.heal.loss`) of the model as planned
    after: float


@dataclass(frozen=True)
class AccuracyTrial:
    bits_per_weight: float  # of the matrices, scales and zero points included
    bytes: int  # of all weights as stored
    reached: float


@dataclass(frozen=True)
class AccuracyPlan:
    """How the smallest plan that is accurate enough was found (`edgec.plan.smallest`)."""

    measure: str  # in words, see `edgec.compress.agreement`
    wanted: float
    reached: float
    samples: int  # that were judged by
    trials: tuple[AccuracyTrial, ...] = ()


@dataclass(frozen=True)
class AdapterPlan:
    """Room in memory for a low-rank adapter of the decoder's linears, which may come and go at run time."""

    rank: int  # at most; a multiple of 8
    bytes: int


@dataclass(frozen=True)
class Plan:
    model: str
    profile: str
    tensors: tuple[TensorPlan, ...]
    kv: KVPlan | None
    context_length: int  # tokens, 0 for graphs
    prefill_chunk: int  # tokens per prefill call, 0 for graphs
    dims: Mapping[str, int]  # upper bound of each symbolic dimension of a graph
    max_threads: int
    variants: tuple[str, ...]  # of VARIANTS
    activation_bits: int  # 8, or 32 when everything stays float
    prediction: Prediction
    reasons: tuple[str, ...] = ()
    slim: SlimPlan | None = None
    heal: HealPlan | None = None
    accuracy: AccuracyPlan | None = None
    adapters: AdapterPlan | None = None
    rotated: bool = False  # the decoder's stream is turned before anything else (`edgec/passes/rotate.py`)
    format: int = PLAN_FORMAT

    def tensor(self, name: str) -> TensorPlan | None:
        return self._index().get(name)

    @property
    def depths(self) -> tuple[int, ...]:
        """Bits of nested codes that a device may take instead of all 4, the finest first."""
        return tuple(sorted({bits for tensor in self.tensors for bits in tensor.coarser}, reverse=True))

    def _index(self) -> dict[str, TensorPlan]:
        cached = self.__dict__.get("_tensor_index")
        if cached is None:
            cached = {t.name: t for t in self.tensors}
            object.__setattr__(self, "_tensor_index", cached)
        return cached

    def verify(self) -> None:
        """Raises `UsageError` when fields contradict each other or hold impossible values."""
        problem = next(self._problems(), None)
        if problem is not None:
            raise UsageError(f"the plan's {problem}", hint="make the plan again, or take the edit back")

    def _problems(self) -> typing.Iterator[str]:
        if self.format != PLAN_FORMAT:
            yield f"`format` is {self.format}, this edgec reads {PLAN_FORMAT}"
        seen: set[str] = set()
        for tensor in self.tensors:
            where = f"tensor `{tensor.name}`"
            if tensor.name in seen:
                yield f"{where} is listed twice"
            seen.add(tensor.name)
            if tensor.bits not in (*WEIGHT_BITS, *FLOAT_BITS):
                yield f"{where} has `bits` {tensor.bits}, expected 2 to 8, 16 or 32"
            nested = tensor.bits == NESTED_BITS and tensor.coarser in NESTED_DEPTHS
            if (tensor.quantizer == "nested") != bool(tensor.coarser) or (tensor.coarser and not nested):
                yield (
                    f"{where} has the `quantizer` `{tensor.quantizer}` with `bits` {tensor.bits} and `coarser` "
                    f"{list(tensor.coarser)}, expected `nested` with {NESTED_BITS} and [3], [2] or [3, 2], or no "
                    "`coarser`"
                )
            if tensor.scheme == "channels":
                if (tensor.bits, tensor.group_size) != (8, 0):
                    yield (
                        f"{where} has the `scheme` `channels` with `bits` {tensor.bits} and `group_size` "
                        f"{tensor.group_size}, expected 8 and 0"
                    )
                continue
            if tensor.coarser and tensor.coarser != self.depths:
                yield f"{where} has `coarser` {list(tensor.coarser)} where others have {list(self.depths)}"
            if tensor.quantized and tensor.quantizer == "none":
                yield f"{where} has `bits` {tensor.bits} and no `quantizer`"
            schemes = ["asymmetric", "compact"] if tensor.quantized else ["float"]
            schemes += ["ternary"] * (tensor.bits == 2)
            fits = group_size_allowed(tensor.group_size) if tensor.quantized else tensor.group_size == 0
            if not fits or tensor.scheme not in schemes:
                yield (
                    f"{where} has `bits` {tensor.bits} with `group_size` {tensor.group_size} and `scheme` "
                    f"`{tensor.scheme}`, expected {GROUP_SIZES if tensor.quantized else 0} and "
                    f"{' or '.join(f'`{scheme}`' for scheme in schemes)}"
                )
            if self.kv is not None and tensor.group_size > LARGEST_DECODER_GROUP:
                yield f"{where} has `group_size` {tensor.group_size}, decoders have at most {LARGEST_DECODER_GROUP}"
        if self.kv is not None and self.kv.bits not in (16, 32):
            yield f"`kv.bits` is {self.kv.bits}, expected 16 or 32"
        if self.kv is not None and self.kv.page_tokens != PAGE_TOKENS:
            yield f"`kv.page_tokens` is {self.kv.page_tokens}, expected {PAGE_TOKENS}"
        if self.kv is not None and (self.context_length < 1 or self.context_length % BLOCK_TOKENS):
            yield f"`context_length` is {self.context_length}, expected a positive multiple of {BLOCK_TOKENS}"
        if self.kv is not None and not 1 <= self.prefill_chunk <= self.context_length:
            yield f"`prefill_chunk` is {self.prefill_chunk}, expected 1 to {self.context_length} tokens"
        if self.kv is None and (self.context_length or self.prefill_chunk):
            yield "`context_length` and `prefill_chunk` are for decoders, which have a `kv`"
        if self.slim is not None:
            yield from _slim_problems(self.slim)
        if self.adapters is not None:
            yield from self._adapter_problems(self.adapters)
        if self.rotated and self.kv is None:
            yield "`rotated` is for decoders, which have a `kv`"
        for name, size in self.dims.items():
            if size < 1:
                yield f"`dims.{name}` is {size}, expected a positive number"
        if not 1 <= self.max_threads <= 64:
            yield f"`max_threads` is {self.max_threads}, expected 1 to 64"
        unknown = [variant for variant in self.variants if variant not in VARIANTS]
        if unknown or "simd128" not in self.variants or len(set(self.variants)) != len(self.variants):
            yield f"`variants` are {list(self.variants)}, expected `simd128` and any of {', '.join(VARIANTS[1:])}"
        if self.activation_bits not in (8, 32):
            yield f"`activation_bits` is {self.activation_bits}, expected 8 or 32"
        if self.activation_bits == 32 and any(tensor.bits != 32 for tensor in self.tensors):
            yield "`activation_bits` is 32, which needs every tensor at 32 bits"

    def _adapter_problems(self, adapters: AdapterPlan) -> typing.Iterator[str]:
        if self.kv is None:
            yield "`adapters` are for decoders, which have a `kv`"
        if self.slim is not None:
            yield "`adapters` are for whole models, and `slim` takes parts away"
        if self.rotated:
            yield "`adapters` do not know of the rotation that `rotated` says"
        if adapters.rank not in range(ADAPTER_STEP, LARGEST_ADAPTER + 1, ADAPTER_STEP):
            yield f"`adapters.rank` is {adapters.rank}, expected a multiple of {ADAPTER_STEP} up to {LARGEST_ADAPTER}"

    def to_json(self) -> dict[str, Any]:
        """Plain data with keys in the order of the fields; tensors in the order of the graph."""
        data = dataclasses.asdict(self)
        for tensor in data["tensors"]:
            if not tensor["coarser"]:
                del tensor["coarser"]
        data["dims"] = dict(sorted(self.dims.items()))
        return {key: list(value) if isinstance(value, tuple) else value for key, value in data.items()}

    @classmethod
    def from_json(cls, data: Any) -> Plan:
        """The inverse of `to_json`. Raises `UsageError` naming the field that is missing, unknown or wrong."""
        plan = _decode(cls, data, "")
        assert isinstance(plan, cls)
        plan.verify()
        return plan


def _slim_problems(slim: SlimPlan) -> typing.Iterator[str]:
    if slim.vocabulary < 0 or slim.head_groups < 0 or slim.weight_bytes < 0 or min(slim.removed_blocks, default=0) < 0:
        yield "`slim` has a negative number"
    if not 0 < slim.mlp_share <= 1:
        yield f"`slim.mlp_share` is {slim.mlp_share}, expected more than 0, up to 1"


def _decode(kind: Any, data: Any, path: str) -> Any:
    """`data` as the annotated type `kind`: dataclasses, tuples, mappings, unions with None, literals, numbers."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, data, path)
    if origin is types.UnionType:
        return None if data is None else _decode(arguments[0], data, path)
    if origin is tuple and isinstance(data, (list, tuple)):
        return tuple(_decode(arguments[0], item, f"{path}[{index}]") for index, item in enumerate(data))
    if origin is Mapping and isinstance(data, Mapping):
        return {str(key): _decode(arguments[1], value, f"{path}.{key}") for key, value in data.items()}
    if origin is Literal and data in arguments:
        return data
    if kind is float and isinstance(data, (int, float)) and not isinstance(data, bool):
        return float(data)
    if kind in (int, str, bool) and isinstance(data, kind) and (kind is bool or not isinstance(data, bool)):
        return data
    expected = ", ".join(f"`{a}`" for a in arguments) if origin is Literal else _NAMES.get(origin or kind, "a value")
    raise UsageError(f"the plan's `{path}` is `{data}`, expected {expected}")


_NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a string",
    bool: "true or false",
    tuple: "a list",
    Mapping: "an object",
}


def _decode_dataclass(kind: Any, data: Any, path: str) -> Any:
    where = f"`{path}`" if path else "document"
    if not isinstance(data, Mapping):
        raise UsageError(f"the plan's {where} is `{data}`, expected an object")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in data:
        if key not in fields:
            raise UsageError(f"the plan's {where} has an unknown field `{key}`", hint=f"fields are {', '.join(fields)}")
    for name, field in fields.items():
        if name not in data and field.default is dataclasses.MISSING:
            raise UsageError(f"the plan's {where} lacks the field `{name}`")
    prefix = f"{path}." if path else ""
    return kind(**{key: _decode(hints[key], value, prefix + key) for key, value in data.items()})


__all__ = [
    "FLOAT_BITS",
    "GROUP_SIZES",
    "LARGEST_DECODER_GROUP",
    "LARGEST_GROUP",
    "NESTED_BITS",
    "NESTED_DEPTHS",
    "PLAN_FORMAT",
    "TARGET_BPW",
    "TERNARY",
    "VARIANTS",
    "WEIGHT_BITS",
    "AccuracyPlan",
    "AccuracyTrial",
    "AdapterPlan",
    "Bits",
    "HealPlan",
    "KVPlan",
    "Plan",
    "Prediction",
    "QuantizedAlone",
    "QuantizerName",
    "SlimPlan",
    "SlimTrial",
    "TensorPlan",
    "group_size_allowed",
    "parse_bits",
]
