"""Low-rank adapters: the room that a bundle has for one, and the file that holds one. Standard library only.

Twin of `runtime_wasm/src/bundle/adapters.ts`; docs/bundle-format.md is normative.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import edgec
from edgec.bundle.json_input import Node, invalid, parse
from edgec.bundle.manifest import AdapterLinear, AdapterSpace, Region, WeightFile
from edgec.errors import BundleError

Part = Literal["scales", "down", "up"]

FORMAT, VERSION = "edgec-adapter", 1
SUFFIX = ".lora"
RANK_STEP, MAX_RANK = 8, 256
MAX_HEADER_BYTES = 16 << 20
_ROWS = 8  # of a block
_NAME = re.compile(r"[A-Za-z0-9_.]{1,128}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DTYPES: Mapping[Part, str] = {"scales": "F32", "down": "F16", "up": "F16"}
_METADATA = ("format", "version", "edgec", "name", "base", "rank", "sha256")
_MAX_SIZE, _MAX_EXTENT = 1 << 32, 1 << 24


def part_shape(linear: AdapterLinear, part: Part, rank: int) -> tuple[int, ...]:
    """What lies at the linear's address `part`: float32 scales, float16 matrices in blocks of 8 rows."""
    if part == "scales":
        return (rank,)
    if part == "down":
        return (rank // _ROWS, linear.columns, _ROWS)
    return (-(-linear.rows // _ROWS), rank, _ROWS)


def part_bytes(linear: AdapterLinear, part: Part, rank: int) -> int:
    size = 4 if part == "scales" else 2
    for extent in part_shape(linear, part, rank):
        size *= extent
    return size


def base_of(source_sha256: str, linears: Sequence[AdapterLinear]) -> str:
    """What an adapter has to be made for: the model and its linears, not where they lie in memory."""
    lines = [source_sha256, *(f"{linear.name} {linear.rows} {linear.columns}" for linear in linears)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def parse_adapter_space(node: Node, region: Region, weights: Iterable[WeightFile]) -> AdapterSpace:
    """The manifest's `adapters`; `region` is that of the weights."""
    node.fields(["base", "rank", "switch", "linears"])
    rank = node["rank"].integer(RANK_STEP, MAX_RANK, multiple=RANK_STEP)
    switch = node["switch"].integer(0, _MAX_SIZE, multiple=64)
    linears: dict[str, AdapterLinear] = {}
    taken = [(switch, switch + 4)]
    for element in node["linears"].elements():
        element.fields(["name", "rows", "columns", *_DTYPES])
        linear = AdapterLinear(
            name=element["name"].string(_NAME),
            rows=element["rows"].integer(1, _MAX_EXTENT),
            columns=element["columns"].integer(1, _MAX_EXTENT),
            **{part: element[part].integer(0, _MAX_SIZE, multiple=64) for part in _DTYPES},
        )
        if linear.name in linears:
            raise element["name"].fail("is used twice")
        linears[linear.name] = linear
        for part in _DTYPES:
            start = getattr(linear, part)
            taken.append((start, start + part_bytes(linear, part, rank)))
    if not linears:
        raise node["linears"].fail("is empty")
    if any(start < region.offset or end > region.end for start, end in taken):
        raise node.fail("has an address outside the weights region")
    taken.sort()
    targets = ((s.target, s.target + s.target_bytes) for weight in weights for s in weight.segments)
    starts = [start for start, _ in taken]
    overlap = any(taken[i - 1][1] > taken[i][0] for i in range(1, len(taken)))
    if overlap or any(_meets(taken, starts, *target) for target in targets):
        raise node.fail("has addresses that overlap others")
    return AdapterSpace(node["base"].string(_SHA256), rank, switch, tuple(linears.values()))


def _meets(spans: list[tuple[int, int]], starts: list[int], start: int, end: int) -> bool:
    """Whether one of the spans, in order and apart from each other, has something of `start` ... `end`."""
    before = bisect_left(starts, end)
    return before > 0 and spans[before - 1][1] > start


@dataclass(frozen=True)
class AdapterFile:
    """A checked adapter. `parts` are slices of `payload` by linear and part."""

    name: str
    rank: int
    payload: bytes
    parts: Mapping[tuple[str, Part], tuple[int, int]]

    def content(self, linear: str, part: Part) -> bytes | None:
        """None for a linear that the adapter leaves alone."""
        span = self.parts.get((linear, part))
        return None if span is None else self.payload[span[0] : span[1]]


def write_adapter_file(space: AdapterSpace, name: str, rank: int, parts: Mapping[tuple[str, Part], bytes]) -> bytes:
    """The bytes of an adapter: a safetensors file whose metadata say what it is for."""
    header: dict[str, Any] = {}
    payload = bytearray()
    for linear in space.linears:
        for part, dtype in _DTYPES.items():
            content = parts.get((linear.name, part))
            if content is None:
                continue
            assert len(content) == part_bytes(linear, part, rank)
            offsets = [len(payload), len(payload) + len(content)]
            shape = list(part_shape(linear, part, rank))
            header[f"{linear.name}.{part}"] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
            payload += content
    digest = hashlib.sha256(payload).hexdigest()
    header["__metadata__"] = {
        "format": FORMAT, "version": str(VERSION), "edgec": edgec.__version__, "name": name, "base": space.base,
        "rank": str(rank), "sha256": digest,
    }  # fmt: skip
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + bytes(payload)


def read_adapter_file(data: bytes, space: AdapterSpace) -> AdapterFile:
    """Checks everything. Raises `BundleError`, also for an adapter of another model."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > MAX_HEADER_BYTES or 8 + length > len(data):
        raise BundleError("the adapter is invalid: it has no header", finding="manifest-invalid")
    try:
        return _read(parse(data[8 : 8 + length]), data[8 + length :], space)
    except BundleError as error:
        message = error.message.replace("the manifest is invalid", "the adapter is invalid")
        message = message.replace("`manifest.json`", "the header")
        raise BundleError(message, hint=error.hint, finding=error.finding) from None


def _read(root: Node, payload: bytes, space: AdapterSpace) -> AdapterFile:
    facts = root["__metadata__"]
    facts["format"].choice([FORMAT])
    if facts["version"].string() != str(VERSION):
        raise BundleError(
            f"the adapter has format version {facts['version'].string()}, this edgec reads {VERSION}",
            hint="make it again with `edgec adapter`",
            finding="version-unsupported",
        )
    facts.fields(_METADATA)
    name = facts["name"].string()
    if facts["base"].string(_SHA256) != space.base:
        raise BundleError(
            f"the adapter `{name}` was made for another model", hint="make it for this bundle with `edgec adapter`"
        )
    rank = int(facts["rank"].string(re.compile("[0-9]{1,3}")))
    if rank > space.rank:
        raise BundleError(
            f"the adapter `{name}` has the rank {rank}, the bundle has room for {space.rank}",
            hint=f"compile the model with `--adapters {rank}`",
        )
    if rank < RANK_STEP or rank % RANK_STEP:
        raise invalid("rank", f"is {rank}, not a multiple of {RANK_STEP}")
    parts: dict[tuple[str, Part], tuple[int, int]] = {}
    names = {f"{linear.name}.{part}": (linear, part) for linear in space.linears for part in _DTYPES}
    for key, node in root.items():
        if key == "__metadata__":
            continue
        if key not in names:
            raise invalid(key, "is no part of the model")
        linear, part = names[key]
        parts[linear.name, part] = _span(node, linear, part, rank, len(payload))
    for linear_name in {linear_name for linear_name, _ in parts}:
        for part in _DTYPES:
            if (linear_name, part) not in parts:
                raise invalid("manifest.json", f"lacks `{linear_name}.{part}`")
    if hashlib.sha256(payload).hexdigest() != facts["sha256"].string(_SHA256):
        raise BundleError(f"the adapter `{name}` does not have the SHA-256 of its header", finding="hash-mismatch")
    return AdapterFile(name, rank, payload, parts)


def _span(node: Node, linear: AdapterLinear, part: Part, rank: int, size: int) -> tuple[int, int]:
    node.fields(["dtype", "shape", "data_offsets"])
    node["dtype"].choice([_DTYPES[part]])
    shape = tuple(extent.integer(0) for extent in node["shape"].elements())
    if shape != part_shape(linear, part, rank):
        raise node["shape"].fail(f"is {list(shape)}, not {list(part_shape(linear, part, rank))}")
    span = tuple(offset.integer(0, size) for offset in node["data_offsets"].elements())
    if len(span) != 2 or span[1] - span[0] != part_bytes(linear, part, rank):
        raise node["data_offsets"].fail("do not hold the tensor")
    return span[0], span[1]


__all__ = [
    "SUFFIX",
    "AdapterFile",
    "Part",
    "base_of",
    "parse_adapter_space",
    "part_bytes",
    "part_shape",
    "read_adapter_file",
    "write_adapter_file",
]
