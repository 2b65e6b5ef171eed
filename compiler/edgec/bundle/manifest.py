"""The manifest as types, and back to canonical JSON. `parse.py` makes one from untrusted bytes."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgec.bundle.golden import Golden
from edgec.errors import UsageError

FORMAT = "edgec-bundle"
VERSION = 1
MANIFEST_FILE = "manifest.json"
TOKENIZER_FILE = "tokenizer.json"
REPORT_FILE = "report.html"
MAX_MANIFEST_BYTES = 16 << 20
MAX_WEIGHT_FILE_BYTES = 16 << 20  # that a reader takes
WEIGHT_FILE_BYTES = 1 << 20  # that the writer makes: a tab holds few whole files while it loads
MAX_FILE_BYTES = 64 << 20
VARIANTS = ("simd128", "relaxed", "relaxed16", "simd128-threads", "relaxed-threads", "relaxed16-threads")
ITEM_BYTES = {
    "float32": 4,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "int8": 1,
    "bool": 1,
    "float16": 2,
    "bfloat16": 2,
    "float64": 8,
    "int16": 2,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    # A code per byte:
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float4_e2m1fn": 1,
    # An integer per byte:
    "int4": 1,
    "uint4": 1,
    "int2": 1,
    "uint2": 1,
}


@dataclass(frozen=True)
class ModelInfo:
    name: str
    architecture: str
    kind: Literal["decoder", "graph"]
    source_format: str
    source_sha256: str
    parameters: int
    license: str | None


@dataclass(frozen=True)
class Region:
    offset: int
    bytes: int

    @property
    def end(self) -> int:
        return self.offset + self.bytes


@dataclass(frozen=True)
class Memory:
    """Absolute byte addresses in the module's one memory."""

    static: Region
    control: Region
    stacks: Region
    stack_bytes: int
    max_threads: int
    workspace: Region
    weights: Region
    kv: Region
    maximum_bytes: int


REGIONS = ("static", "control", "stacks", "workspace", "weights", "kv")


@dataclass(frozen=True)
class Slot:
    """An input or output: `bytes` at `offset` are reserved for it."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    offset: int
    bytes: int


@dataclass(frozen=True)
class GraphInfo:
    """What one entry point of a graph model reads and writes: names of `Manifest.inputs` and `.outputs`."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Computed:
    """A number that the module computes while it runs: an int32 at `offset`, from 0 to `bound`."""

    name: str
    bound: int
    offset: int


@dataclass(frozen=True)
class KV:
    bits: int
    page_tokens: int
    page_bytes: int
    pages: int
    table_offset: int


SegmentOp = Literal["copy", "scaled8", "upper4", "scale8", "upper16", "bits2", "trits", "bit1", "byte1"]
EXPANSION: Mapping[SegmentOp, float] = {  # target bytes per stored byte
    "copy": 1,
    "scaled8": 4,  # of those behind the scales
    "upper4": 2,
    "scale8": 2,
    "upper16": 2,
    "bits2": 2,
    "trits": 2.5,
    "bit1": 4,
    "byte1": 8,
}
SHIFTS: Mapping[SegmentOp, int] = {"bit1": 1, "byte1": 7}  # largest `shift`


def expanded(op: SegmentOp, stored: int) -> int:
    """Target bytes of so many stored ones."""
    return int(stored * EXPANSION[op])


@dataclass(frozen=True)
class Segment:
    """`length` bytes of a file: copied or scaled to `target`, or widened or expanded and OR-ed into what is there."""

    op: SegmentOp
    length: int
    target: int
    shift: int = 0  # bit1 and byte1 only
    columns: int = 0  # scaled8 only

    @property
    def target_bytes(self) -> int:
        return expanded(self.op, self.length - 2 * self.columns)

    def to_json(self) -> dict[str, Any]:
        result: dict[str, Any] = {"op": self.op, "length": self.length, "target": self.target}
        if self.op in SHIFTS:
            result["shift"] = self.shift
        if self.op == "scaled8":
            result["columns"] = self.columns
        return result


@dataclass(frozen=True)
class WeightFile:
    file: str
    segments: tuple[Segment, ...]
    depths: tuple[int, ...] = ()  # at which it is needed, the finest first; empty: at all

    def needed_at(self, bits: int) -> bool:
        return not self.depths or bits in self.depths

    def to_json(self) -> dict[str, Any]:
        result: dict[str, Any] = {"file": self.file, "segments": [segment.to_json() for segment in self.segments]}
        if self.depths:
            result["depths"] = list(self.depths)
        return result


@dataclass(frozen=True)
class FileInfo:
    bytes: int
    sha256: str


@dataclass(frozen=True)
class TokenizerInfo:
    file: str
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None
    chat_template: str | None
    special_tokens: Mapping[str, str]


@dataclass(frozen=True)
class AdapterLinear:
    """A linear to which an adapter may be added, and the addresses of the adapter's parts (`adapters.part_shape`)."""

    name: str
    rows: int
    columns: int
    scales: int
    down: int
    up: int


@dataclass(frozen=True)
class AdapterSpace:
    """Room for an adapter of a rank up to `rank`; the int32 at `switch` is the rank of the one that is there, or 0."""

    base: str  # what adapters have to be made for (`adapters.base_of`)
    rank: int
    switch: int
    linears: tuple[AdapterLinear, ...]


@dataclass(frozen=True)
class Exit:
    """Where a decoder's answer may be taken after `layer` layers (docs/runtime-abi.md, "Early exits")."""

    layer: int
    threshold: float | None
    agreement: float
    share: float
    tokens: int


COARSEST, FINEST = 2, 4  # bits of nested codes: the fewest, and all of them


@dataclass(frozen=True)
class Depth:
    """How a device may take the bundle, too: with the upper `bits` bits of its nested codes."""

    bits: int
    golden: Golden | None


@dataclass(frozen=True)
class Manifest:
    """docs/bundle-format.md, field by field. `files` has every file but the manifest itself."""

    edgec: str
    model: ModelInfo
    profile: str
    plan: Mapping[str, Any]
    memory: Memory
    modules: Mapping[str, str]
    entry_points: Mapping[str, tuple[str, ...]]
    dims: Mapping[str, int]
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    graphs: Mapping[str, GraphInfo]
    kv: KV | None
    context_length: int
    prefill_chunk: int
    weights: tuple[WeightFile, ...]
    files: Mapping[str, FileInfo]
    tokenizer: TokenizerInfo | None
    generation: Mapping[str, Any]
    task: Mapping[str, Any] | None
    accuracy: Mapping[str, Any]
    golden: Golden | None
    computed: tuple[Computed, ...] = ()
    adapters: AdapterSpace | None = None
    exits: tuple[Exit, ...] = ()
    depths: tuple[Depth, ...] = ()  # below `FINEST`, the finest first

    def input(self, name: str) -> Slot:
        return next(slot for slot in self.inputs if slot.name == name)

    def output(self, name: str) -> Slot:
        return next(slot for slot in self.outputs if slot.name == name)

    def total_bytes(self) -> int:
        """Size of all files but the manifest."""
        return sum(info.bytes for info in self.files.values())

    def weight_bytes(self) -> int:
        """Size of the weight files."""
        return sum(self.files[name].bytes for name in {weight.file for weight in self.weights})

    @property
    def depth_bits(self) -> tuple[int, ...]:
        """Bits of all depths, the finest first; empty where codes are not nested."""
        return (FINEST, *(depth.bits for depth in self.depths)) if self.depths else ()

    def at_depth(self, bits: int | None) -> Manifest:
        """What a device has to do with that loads `bits` of the bits of nested codes, all of them for None.

        Raises `UsageError` for a depth that the bundle does not have.
        """
        if bits is not None and bits not in self.depth_bits:
            known = ", ".join(str(depth) for depth in self.depth_bits)
            raise UsageError(
                f"`{self.model.name}` has no depth of {bits} bits",
                hint=f"it has {known}" if known else "compile it with `--nested 3` for that",
            )
        if not self.depths:
            return self
        bits = bits or FINEST
        golden = next((depth.golden for depth in self.depths if depth.bits == bits), self.golden)
        weights = tuple(weight for weight in self.weights if weight.needed_at(bits))
        unused = {weight.file for weight in self.weights} - {weight.file for weight in weights}
        files = {name: info for name, info in self.files.items() if name not in unused}
        return dataclasses.replace(self, weights=weights, files=files, golden=golden, depths=())

    def to_json(self) -> dict[str, Any]:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if not self.computed:
            del fields["computed"]
        if self.adapters is None:
            del fields["adapters"]
        if not self.exits:
            del fields["exits"]
        if not self.depths:
            del fields["depths"]
        fields["weights"] = [weight.to_json() for weight in self.weights]
        if self.graphs == default_graphs(self.model.kind, self.inputs, self.outputs):
            del fields["graphs"]
        return {"format": FORMAT, "version": VERSION, **{name: _plain(value) for name, value in fields.items()}}

    def dump(self) -> bytes:
        """Canonical bytes: the same manifest always gives the same ones."""
        text = json.dumps(self.to_json(), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        return (text + "\n").encode()


def default_graphs(kind: str, inputs: Sequence[Slot], outputs: Sequence[Slot]) -> dict[str, GraphInfo]:
    """What a manifest without `graphs` means: a graph model is one graph, `run`."""
    if kind != "graph":
        return {}
    return {"run": GraphInfo(tuple(slot.name for slot in inputs), tuple(slot.name for slot in outputs))}


def _plain(value: Any) -> Any:
    """Dataclasses, mappings and tuples as JSON types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (str, int, float)) or value is None:
        return value
    if hasattr(value, "item"):  # a numpy scalar
        return _plain(value.item())
    raise TypeError(f"{type(value).__name__} is not a JSON type")
