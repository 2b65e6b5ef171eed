"""Manifest bytes -> `Manifest`, with every rule of docs/bundle-format.md. Standard library only."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, TypeVar, cast

from edgec.bundle import dims as dimensions
from edgec.bundle.adapters import parse_adapter_space
from edgec.bundle.golden import Golden, parse_decoder_golden, parse_graph_golden
from edgec.bundle.json_input import Node, invalid, parse
from edgec.bundle.manifest import (
    COARSEST,
    EXPANSION,
    FINEST,
    FORMAT,
    ITEM_BYTES,
    KV,
    MANIFEST_FILE,
    MAX_FILE_BYTES,
    MAX_MANIFEST_BYTES,
    MAX_WEIGHT_FILE_BYTES,
    REGIONS,
    REPORT_FILE,
    SHIFTS,
    TOKENIZER_FILE,
    VARIANTS,
    VERSION,
    AdapterSpace,
    Computed,
    Depth,
    Exit,
    FileInfo,
    GraphInfo,
    Manifest,
    Memory,
    ModelInfo,
    Region,
    Segment,
    SegmentOp,
    Slot,
    TokenizerInfo,
    WeightFile,
    default_graphs,
)
from edgec.bundle.speech import check_speech_detection, check_transcription
from edgec.bundle.task import check_task
from edgec.errors import BundleError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILE_NAME = re.compile(r"[a-z0-9._/-]+")
_WEIGHT_FILE = re.compile(r"weights/([0-9a-f]{64})\.bin")
_EXPORT = re.compile(r"[a-z][a-z0-9_]*")
_DIMENSION = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_MAX_SIZE = 1 << 32
_MAX_INT32 = 2**31 - 1
_DECODER_ENTRIES = {"prefill": ("n", "position"), "head": ("row",), "decode": ("position",)}
_OPTIONAL = ["adapters", "computed", "depths", "exits", "graphs"]
_FIELDS = [field.name for field in dataclasses.fields(Manifest) if field.name not in _OPTIONAL] + ["format", "version"]
_T = TypeVar("_T")


def parse_manifest(data: bytes) -> Manifest:
    """Raises `BundleError` with finding `manifest-invalid` or `version-unsupported`."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise invalid(MANIFEST_FILE, f"has {len(data)} bytes, more than {MAX_MANIFEST_BYTES}")
    root = parse(data)
    root["format"].choice([FORMAT])
    version = root["version"].integer(-_MAX_INT32, _MAX_INT32)
    if version != VERSION:
        raise BundleError(
            f"the bundle has format version {version}, this edgec reads {VERSION}",
            hint="compile the model again, or use the edgec that wrote it",
            finding="version-unsupported",
        )
    root.fields(_FIELDS, _OPTIONAL)
    model = _model(root["model"])
    decoder = model.kind == "decoder"
    memory = _memory(root["memory"])
    dims = _dims(root["dims"])
    context_length = root["context_length"].integer(1 if decoder else 0, _MAX_INT32 if decoder else 0)
    prefill_chunk = root["prefill_chunk"].integer(1 if decoder else 0, _MAX_INT32 if decoder else 0)
    inputs = _slots(root["inputs"], memory.workspace, dims)
    computed = _computed(root, decoder, memory.workspace, dims)
    outputs = _slots(root["outputs"], memory.workspace, {**dims, **{number.name: number.bound for number in computed}})
    if decoder:
        _check_decoder_slots(root, inputs, outputs, prefill_chunk)
    entry_points = _entry_points(root["entry_points"], decoder)
    graphs = _graphs(root, decoder, entry_points, inputs, outputs, dims, computed)
    modules = _modules(root["modules"])
    files = _files(root["files"])
    depths = _depths(root)
    weights = _weights(root["weights"], memory.weights, files, tuple(depths))
    tokenizer = _tokenizer(root["tokenizer"])
    _check_file_set(root["files"], files, modules, weights, tokenizer)
    _check_generation(root["generation"])
    check_task(root["task"])
    kind = None if root["task"].is_null() else root["task"]["type"].string()
    if kind == "transcription":
        check_transcription(root, graphs, entry_points, inputs, outputs, dims)
    elif kind == "speech-detection":
        check_speech_detection(root, graphs, inputs, outputs)

    def golden(node: Node) -> Golden | None:
        return _or_null(node, lambda node: _golden(node, graphs, dims, outputs, context_length))

    return Manifest(
        edgec=root["edgec"].string(),
        model=model,
        profile=root["profile"].string(),
        plan=root["plan"].free_object(),
        memory=memory,
        modules=modules,
        entry_points=entry_points,
        dims=dims,
        inputs=inputs,
        outputs=outputs,
        graphs=graphs,
        kv=_kv(root["kv"], decoder, memory, context_length),
        context_length=context_length,
        prefill_chunk=prefill_chunk,
        weights=weights,
        files=files,
        tokenizer=tokenizer,
        generation=root["generation"].free_object(),
        task=None if root["task"].is_null() else root["task"].free_object(),
        accuracy=root["accuracy"].free_object(),
        golden=golden(root["golden"]),
        computed=computed,
        adapters=_adapters(root, decoder, memory.weights, weights),
        exits=_exits(root, entry_points),
        depths=tuple(Depth(bits, golden(node)) for bits, node in depths.items()),
    )


def _depths(root: Node) -> dict[int, Node]:
    """Bits of each coarser depth, and its golden outputs."""
    node = root.get("depths")
    if node is None:
        return {}
    depths: dict[int, Node] = {}
    for element in node.elements():
        element.fields(["bits", "golden"])
        bits = element["bits"].integer(COARSEST, min(depths, default=FINEST) - 1)
        depths[bits] = element["golden"]
    if not depths:
        raise node.fail("is empty")
    return depths


def _exits(root: Node, entry_points: Mapping[str, tuple[str, ...]]) -> tuple[Exit, ...]:
    node = root.get("exits")
    if node is None:
        return ()
    if root["model"]["kind"].string() != "decoder":
        raise node.fail("is for decoders alone")
    exits: list[Exit] = []
    for element in node.elements():
        element.fields(["layer", "threshold", "agreement", "share", "tokens"])
        layer = element["layer"].integer(exits[-1].layer + 1 if exits else 1, _MAX_INT32)
        threshold = _or_null(element["threshold"], _share)
        agreement, share = _share(element["agreement"]), _share(element["share"])
        exits.append(Exit(layer, threshold, agreement, share, element["tokens"].integer(1, _MAX_INT32)))
        wanted = {f"exit_{layer}": ("row",), f"fill_{layer}": ("n", "position"), f"layers_{layer}": ("n", "position")}
        for name, parameters in {"layers_0": ("n", "position"), **wanted}.items():
            if entry_points.get(name) != parameters:
                raise root["entry_points"].fail(f"lacks `{name}` with the parameters {list(parameters)}")
    if not exits:
        raise node.fail("is empty")
    return tuple(exits)


def _share(node: Node) -> float:
    value = node.number()
    if not 0 <= value <= 1:
        raise node.fail(f"is {value}, allowed are 0 to 1")
    return value


def _adapters(root: Node, decoder: bool, region: Region, weights: tuple[WeightFile, ...]) -> AdapterSpace | None:
    node = root.get("adapters")
    if node is not None and not decoder:
        raise node.fail("is for decoders alone")
    return None if node is None else parse_adapter_space(node, region, weights)


def _model(node: Node) -> ModelInfo:
    node.fields(["name", "architecture", "kind", "source_format", "source_sha256", "parameters", "license"])
    if not node["name"].string():
        raise node["name"].fail("is empty")
    return ModelInfo(
        name=node["name"].string(),
        architecture=node["architecture"].string(),
        kind=cast(Literal["decoder", "graph"], node["kind"].choice(["decoder", "graph"])),
        source_format=node["source_format"].string(),
        source_sha256=node["source_sha256"].string(_SHA256),
        parameters=node["parameters"].integer(0),
        license=_or_null(node["license"], Node.string),
    )


def _or_null(node: Node, read: Callable[[Node], _T]) -> _T | None:
    return None if node.is_null() else read(node)


def _memory(node: Node) -> Memory:
    node.fields([*REGIONS, "stack_bytes", "max_threads", "maximum_bytes"])
    regions: dict[str, Region] = {}
    end = 0
    for name in REGIONS:
        part = node[name]
        part.fields(["offset", "bytes"])
        region = Region(part["offset"].integer(0, _MAX_SIZE, multiple=64), part["bytes"].integer(0, _MAX_SIZE))
        if region.offset < end:
            raise part.fail(f"starts at {region.offset}, before the end of the region before it at {end}")
        regions[name] = region
        end = region.end
    memory = Memory(
        **regions,
        stack_bytes=node["stack_bytes"].integer(1024, _MAX_SIZE, multiple=16),
        max_threads=node["max_threads"].integer(1, 64),
        maximum_bytes=node["maximum_bytes"].integer(65536, _MAX_SIZE, multiple=65536),
    )
    if memory.control.bytes < 1024:
        raise node["control"].fail("has less than 1024 bytes")
    if memory.workspace.bytes < 1 << 20:
        raise node["workspace"].fail("has less than 1 MiB")
    if memory.stacks.bytes < memory.stack_bytes * memory.max_threads:
        raise node["stacks"].fail("is too small for `max_threads` stacks")
    if end > memory.maximum_bytes:
        raise node["maximum_bytes"].fail(f"is {memory.maximum_bytes}, before the end of the last region at {end}")
    return memory


def _modules(node: Node) -> dict[str, str]:
    node.fields(["simd128"], VARIANTS)
    return {variant: name.choice([f"module.{variant}.wasm"]) for variant, name in node.items()}


def _entry_points(node: Node, decoder: bool) -> dict[str, tuple[str, ...]]:
    entries: dict[str, tuple[str, ...]] = {}
    for name, parameters in node.items():
        if not _EXPORT.fullmatch(name):
            raise node.fail("has a name that does not match `[a-z][a-z0-9_]*`")
        entries[name] = parameters.strings()
    if decoder:
        for name, expected in _DECODER_ENTRIES.items():
            if entries.get(name) != expected:
                raise node.fail(f"lacks `{name}` with the parameters {list(expected)}")
    return entries


def _graphs(
    root: Node,
    decoder: bool,
    entry_points: Mapping[str, tuple[str, ...]],
    inputs: tuple[Slot, ...],
    outputs: tuple[Slot, ...],
    dims: Mapping[str, int],
    computed: tuple[Computed, ...],
) -> dict[str, GraphInfo]:
    node = root.get("graphs")
    if decoder:
        if node is not None:
            raise node.fail("is there, but only graphs have it")
        return {}
    graphs = default_graphs("graph", inputs, outputs)
    if node is not None:
        graphs = {name: _graph(graph, inputs, outputs) for name, graph in node.items()}
        if not graphs:
            raise node.fail("is empty")
        for side, slots in (("inputs", inputs), ("outputs", outputs)):
            used = {name for graph in graphs.values() for name in getattr(graph, side)}
            for slot in slots:
                if slot.name not in used:
                    raise node.fail(f"leaves out `{slot.name}` of `{side}`")
    for name, graph in graphs.items():
        parameters = root["entry_points"][name]
        names = entry_points[name]
        if len(set(names)) < len(names) or not set(names) <= dims.keys():
            raise parameters.fail("has parameters that are not `dims`")
        bound = {dim: dims[dim] for dim in names}
        made = bound | {number.name: number.bound for number in computed}
        sides = ((_named(inputs, graph.inputs), bound), (_named(outputs, graph.outputs), made))
        for slot, known in ((slot, known) for slots, known in sides for slot in slots):
            try:
                for dimension in slot.shape:
                    dimensions.evaluate(dimension, known)
            except ValueError:
                raise parameters.fail(f"lacks a dimension of `{slot.name}`") from None
    return graphs


def _graph(node: Node, inputs: tuple[Slot, ...], outputs: tuple[Slot, ...]) -> GraphInfo:
    node.fields(["inputs", "outputs"])
    graph = GraphInfo(node["inputs"].strings(), node["outputs"].strings())
    for side, names, slots in (("inputs", graph.inputs, inputs), ("outputs", graph.outputs, outputs)):
        if len(set(names)) < len(names) or not set(names) <= {slot.name for slot in slots}:
            raise node[side].fail(f"has names that are not in `{side}`, or one twice")
    if not graph.outputs:
        raise node["outputs"].fail("is empty")
    return graph


def _named(slots: tuple[Slot, ...], names: tuple[str, ...]) -> list[Slot]:
    return [slot for slot in slots if slot.name in names]


def _dims(node: Node) -> dict[str, int]:
    dims = {name: bound.integer(1, _MAX_INT32) for name, bound in node.items()}
    for name in dims:
        if not _DIMENSION.fullmatch(name):
            raise node.fail(f"has a name that does not match `{_DIMENSION.pattern}`")
    return dims


def _computed(root: Node, decoder: bool, workspace: Region, dims: Mapping[str, int]) -> tuple[Computed, ...]:
    node = root.get("computed")
    if node is None:
        return ()
    if decoder:
        raise node.fail("is for graphs alone")
    numbers: list[Computed] = []
    for element in node.elements():
        element.fields(["name", "bound", "offset"])
        number = Computed(
            name=element["name"].string(_DIMENSION),
            bound=element["bound"].integer(0, _MAX_INT32),
            offset=element["offset"].integer(0, _MAX_SIZE, multiple=4),
        )
        if number.name in dims or any(other.name == number.name for other in numbers):
            raise element["name"].fail("is used twice")
        if number.offset < workspace.offset or number.offset + 4 > workspace.end:
            raise element.fail("lies outside the workspace")
        numbers.append(number)
    if not numbers:
        raise node.fail("is empty")
    return tuple(numbers)


def _slots(node: Node, workspace: Region, dims: Mapping[str, int]) -> tuple[Slot, ...]:
    slots: list[Slot] = []
    for element in node.elements():
        element.fields(["name", "dtype", "shape", "offset", "bytes"])
        slot = Slot(
            name=element["name"].string(),
            dtype=element["dtype"].choice(ITEM_BYTES),
            shape=tuple(_dimension(dimension) for dimension in element["shape"].elements()),
            offset=element["offset"].integer(0, _MAX_SIZE, multiple=16),
            bytes=element["bytes"].integer(0, _MAX_SIZE),
        )
        if any(other.name == slot.name for other in slots):
            raise element["name"].fail("is used twice")
        if slot.offset < workspace.offset or slot.offset + slot.bytes > workspace.end:
            raise element.fail("lies outside the workspace")
        _check_shape(element, slot, dims)
        slots.append(slot)
    return tuple(slots)


def _dimension(node: Node) -> int | str:
    return node.string() if isinstance(node.value, str) else node.integer(0, _MAX_INT32)


def _check_shape(node: Node, slot: Slot, dims: Mapping[str, int]) -> None:
    if len(slot.shape) > 16:
        raise node["shape"].fail("has more than 16 dimensions")
    size = ITEM_BYTES[slot.dtype]
    for dimension in slot.shape:
        try:
            bound = dimensions.evaluate(dimension, dims)
        except ValueError as error:
            raise node["shape"].fail(f"has a dimension that {error}") from None
        if not 0 <= bound <= _MAX_INT32:
            raise node["shape"].fail(f"has a dimension of {bound}")
        size *= bound
    if size > slot.bytes:
        raise node["bytes"].fail(f"is {slot.bytes}, less than the {size} that the shape needs")


def _check_decoder_slots(root: Node, inputs: tuple[Slot, ...], outputs: tuple[Slot, ...], chunk: int) -> None:
    tokens = next((slot for slot in inputs if slot.name == "tokens"), None)
    if tokens is None or tokens.dtype != "int32" or tokens.bytes < 4 * chunk:
        raise root["inputs"].fail("lacks `tokens`, int32 for at least `prefill_chunk` ids")
    logits = next((slot for slot in outputs if slot.name == "logits"), None)
    if logits is None or logits.dtype != "float32" or len(logits.shape) != 1:
        raise root["outputs"].fail("lacks `logits`, float32 with one dimension")


def _kv(node: Node, decoder: bool, memory: Memory, context_length: int) -> KV | None:
    if node.is_null() == decoder:
        raise node.fail("is null exactly for graphs")
    if not decoder:
        return None
    node.fields(["bits", "page_tokens", "page_bytes", "pages", "table_offset"])
    kv = KV(
        bits=node["bits"].integer(16, 32),
        page_tokens=node["page_tokens"].integer(1, _MAX_INT32),
        page_bytes=node["page_bytes"].integer(1, _MAX_SIZE),
        pages=node["pages"].integer(1, _MAX_INT32),
        table_offset=node["table_offset"].integer(0, _MAX_SIZE),
    )
    if kv.bits not in (16, 32):
        raise node["bits"].fail("is neither 16 nor 32")
    if kv.table_offset != memory.control.offset + 1024 or kv.table_offset + 4 * kv.pages > memory.control.end:
        raise node["table_offset"].fail("does not give a page table inside the control region")
    if kv.pages * kv.page_bytes > memory.kv.bytes:
        raise node["pages"].fail("do not fit the `kv` region")
    if kv.pages * kv.page_tokens < context_length:
        raise node["pages"].fail("do not hold `context_length` tokens")
    return kv


def _files(node: Node) -> dict[str, FileInfo]:
    files: dict[str, FileInfo] = {}
    for name, info in node.items():
        if not _FILE_NAME.fullmatch(name) or name.startswith("/") or ".." in name:
            raise node.fail("has a name that is not allowed")
        info.fields(["bytes", "sha256"])
        limit = MAX_WEIGHT_FILE_BYTES if name.startswith("weights/") else MAX_FILE_BYTES
        files[name] = FileInfo(info["bytes"].integer(1, limit), info["sha256"].string(_SHA256))
    return files


def _weights(
    node: Node, region: Region, files: Mapping[str, FileInfo], coarser: tuple[int, ...]
) -> tuple[WeightFile, ...]:
    """`coarser` has the bits of the depths below the finest."""
    weights: list[WeightFile] = []
    for element in node.elements():
        element.fields(["file", "segments"], ["depths"])
        name = element["file"].string(_WEIGHT_FILE)
        if name not in files:
            raise element["file"].fail("is not in `files`")
        segments = tuple(_segment(part, region) for part in element["segments"].elements())
        if not segments or sum(segment.length for segment in segments) != files[name].bytes:
            raise element["segments"].fail(f"do not cover the {files[name].bytes} bytes of the file")
        weights.append(WeightFile(name, segments, _depths_of_file(element, (FINEST, *coarser))))
    for bits in (FINEST, *coarser):
        if _overlap(weight for weight in weights if weight.needed_at(bits)):
            raise node.fail("has segments with overlapping targets")
    return tuple(weights)


def _depths_of_file(node: Node, known: tuple[int, ...]) -> tuple[int, ...]:
    """Some of the depths, not all of them; empty where the file is needed at each."""
    listed = node.get("depths")
    if listed is None:
        return ()
    found = tuple(element.integer(COARSEST, FINEST) for element in listed.elements())
    if found != tuple(bits for bits in known if bits in found) or len(found) in (0, len(known)):
        raise listed.fail(f"is {list(found)}, allowed are some of {list(known)} in this order")
    return found


def _overlap(weights: Iterable[WeightFile]) -> bool:
    """Whether two segments write to the same bits."""
    ranges: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
    for segment in (segment for weight in weights for segment in weight.segments):
        ranges[segment.op, segment.shift].append((segment.target, segment.target + segment.target_bytes))
    copies = ranges.pop(("copy", 0), []) + ranges.pop(("scaled8", 0), [])
    for planes in [[], *ranges.values()]:
        ordered = sorted(copies + planes)
        if any(start < end for (_, end), (start, _) in itertools.pairwise(ordered)):
            return True
    return False


def _segment(node: Node, region: Region) -> Segment:
    op = cast(SegmentOp, node["op"].choice(list(EXPANSION)))
    node.fields(
        ["op", "length", "target", *(["shift"] if op in SHIFTS else []), *(["columns"] if op == "scaled8" else [])]
    )
    vectors = op not in ("copy", "scaled8")
    segment = Segment(
        op=op,
        length=node["length"].integer(1, MAX_WEIGHT_FILE_BYTES, multiple=16 if vectors else 1),
        target=node["target"].integer(0, _MAX_SIZE, multiple=1 if op == "copy" else 64),
        shift=node["shift"].integer(0, SHIFTS[op]) if op in SHIFTS else 0,
        columns=node["columns"].integer(1, MAX_WEIGHT_FILE_BYTES) if op == "scaled8" else 0,
    )
    if segment.columns and (segment.length <= 2 * segment.columns or segment.length % segment.columns):
        raise node.fail("has a length that is no scales and whole rows")
    if segment.target < region.offset or segment.target + segment.target_bytes > region.end:
        raise node.fail("has a target outside the weights region")
    return segment


def _tokenizer(node: Node) -> TokenizerInfo | None:
    if node.is_null():
        return None
    node.fields(["file", "bos_token_id", "eos_token_ids", "pad_token_id", "chat_template", "special_tokens"])
    return TokenizerInfo(
        file=node["file"].choice([TOKENIZER_FILE]),
        bos_token_id=_or_null(node["bos_token_id"], _token_id),
        eos_token_ids=tuple(_token_id(element) for element in node["eos_token_ids"].elements()),
        pad_token_id=_or_null(node["pad_token_id"], _token_id),
        chat_template=_or_null(node["chat_template"], Node.string),
        special_tokens={name: token.string() for name, token in node["special_tokens"].items()},
    )


def _token_id(node: Node) -> int:
    return node.integer(0)


def _golden(
    node: Node,
    graphs: Mapping[str, GraphInfo],
    dims: Mapping[str, int],
    outputs: tuple[Slot, ...],
    context_length: int,
) -> Golden:
    if graphs:
        return parse_graph_golden(node, dims, sum(len(graph.outputs) for graph in graphs.values()))
    vocabulary = next(slot.bytes for slot in outputs if slot.name == "logits") // ITEM_BYTES["float32"]
    return parse_decoder_golden(node, vocabulary, context_length)


def _check_file_set(
    node: Node,
    files: Mapping[str, FileInfo],
    modules: Mapping[str, str],
    weights: tuple[WeightFile, ...],
    tokenizer: TokenizerInfo | None,
) -> None:
    expected = {*modules.values(), *(weight.file for weight in weights)} | ({tokenizer.file} if tokenizer else set())
    for name in sorted(expected - files.keys()):
        raise node.fail(f"lacks `{name}`")
    for name in sorted(files.keys() - expected - {REPORT_FILE}):
        raise node.fail(f"has `{name}`, which no part of the manifest uses")
    for weight in weights:
        if weight.file != f"weights/{files[weight.file].sha256}.bin":
            raise node[weight.file].fail("is not named after its hash")


def _check_generation(node: Node) -> None:
    numbers: dict[str, Callable[[float], bool]] = {
        "temperature": lambda value: value >= 0,
        "top_p": lambda value: 0 < value <= 1,
        "min_p": lambda value: 0 <= value <= 1,
        "repetition_penalty": lambda value: value > 0,
    }
    for name, allowed in numbers.items():
        value = node.get(name)
        if value is not None and not allowed(value.number()):
            raise value.fail("is out of range")
    integers = {"top_k": (0, 2**53 - 1), "max_tokens": (1, 2**53 - 1), "seed": (0, 2**32 - 1)}
    for name, (low, high) in integers.items():
        value = node.get(name)
        if value is not None:
            value.integer(low, high)


__all__ = ["parse_manifest"]
