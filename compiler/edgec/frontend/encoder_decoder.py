"""Encoder-decoder exports of Optimum (an encoder file and a decoder with a cache) as one graph.

The graph computes the encoder once and one decoder step, and is an ordinary ONNX graph, so that every pass,
the quantizer and onnxruntime take it as it is:

    inputs   audio               what the encoder reads, batch 1
             tokens              int64 [1, 1]                       the id before the one to be predicted
             past.{i}.key        float [1, heads, past, head size]  (and .value) of the decoder's own tokens
    outputs  logits              float [1, 1, vocabulary]
             present.{i}.key     float [1, heads, past + 1, head size] (and .value)

Keys and values that the decoder makes of the encoder's output stay inside. `StepFacts` says which part runs once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgec.errors import UnsupportedError
from edgec.frontend import onnx
from edgec.frontend.onnx_opset import MIN_IR_VERSION
from edgec.frontend.problems import Problem

ENCODER = "encoder_model.onnx"
MERGED = "decoder_model_merged.onnx"
FIRST, LATER = "decoder_model.onnx", "decoder_with_past_model.onnx"
_FOLDERS = (".", "onnx")
_PAST = re.compile(r"past_key_values\.(\d+)\.(decoder|encoder)\.(key|value)")
_PRESENT = re.compile(r"present\.(\d+)\.(decoder|encoder)\.(key|value)")
_KNOWN = (
    "`audio`, `attention_mask`; `input_ids`, `encoder_hidden_states`, `encoder_attention_mask`, `past_key_values.*`"
)


@dataclass(frozen=True)
class Files:
    encoder: Path
    first: Path  # the decoder without a cache
    later: Path  # with one; the same file when both are branches of an `If`

    @property
    def all(self) -> list[Path]:
        return sorted({self.encoder, self.first, self.later})


def find(folder: Path) -> Files | None:
    """The files of an export in `folder` or in its `onnx/`, if they are all there."""
    for place in (folder / name for name in _FOLDERS):
        if not (place / ENCODER).is_file():
            continue
        if (place / MERGED).is_file():
            return Files(place / ENCODER, place / MERGED, place / MERGED)
        if (place / FIRST).is_file() and (place / LATER).is_file():
            return Files(place / ENCODER, place / FIRST, place / LATER)
    return None


def check(files: Files, *, supported_ops: Collection[str] | None) -> list[Problem]:
    """What stands against the files, without reading weights of external data."""
    return [problem for path in files.all for problem in onnx.check(path, supported_ops=supported_ops)]


@dataclass(frozen=True)
class Composed:
    model: ir.Model
    carried: Mapping[str, str]  # output -> the input that it is in the next step
    vocabulary: int


@dataclass(frozen=True)
class Front:
    """What the encoder's input is made of: `audio` of this shape itself, or what `features` computes of it."""

    audio_shape: tuple[int | str, ...]
    features: Callable[[Merging, ir.Value], ir.Value] | None = None


def compose(files: Files, front: Callable[[str], Front], *, supported_ops: Collection[str] | None) -> Composed:
    """Encoder, cross attention's keys and values, and one step with a cache.

    `front` gets the name of the encoder's input. Raises `UnsupportedError` for inputs that it does not know.
    """
    graph = ir.Graph([], [], nodes=[], name="encoder-decoder", opset_imports={})
    merging = Merging(graph)
    encoder = onnx.load(files.encoder, supported_ops=supported_ops).model
    first = onnx.load(files.first, supported_ops=supported_ops).model
    later = first.clone() if files.later == files.first else onnx.load(files.later, supported_ops=supported_ops).model
    for model in (encoder, first, later):
        for domain, version in model.opset_imports.items():
            graph.opset_imports[domain] = max(version, graph.opset_imports.get(domain, 0))

    source = _audio_input(encoder.graph, files.encoder.name)
    name = source.name or ""
    heard = front(name)
    audio = merging.input("audio", source, heard.audio_shape)
    shared: dict[str, ir.Value] = {name: audio if heard.features is None else heard.features(merging, audio)}
    if any(value.name == "attention_mask" for value in encoder.graph.inputs):
        shared["attention_mask"] = merging.ones_like(audio)
    (states,) = merging.take(encoder.graph, "encoder", "encoder", shared, [encoder.graph.outputs[0].name or ""])

    context = {"encoder_hidden_states": states}
    context["encoder_attention_mask"] = shared.get("attention_mask") or merging.ones_like(states)
    # The same name is the same weight within a file, but not across files.
    cross = _cross_attention(merging, first.graph, context, "decoder" if files.later == files.first else "cross")
    step = dict(context)
    carried: dict[str, str] = {}
    for value in later.graph.inputs:
        found = _PAST.fullmatch(value.name or "")
        if found is None:
            continue
        layer, side, part = found.groups()
        if side == "encoder":
            step[value.name or ""] = cross[f"present.{layer}.encoder.{part}"]
        else:
            own = f"past.{layer}.{part}"
            step[value.name or ""] = merging.input(own, value, [1, _axis(value, 1), "past", _axis(value, 3)])
            carried[f"present.{layer}.{part}"] = own
    if not carried:
        raise UnsupportedError(f"`{files.later.name}` has no inputs `past_key_values.*`, a decoder needs its cache")
    ids = next((value for value in later.graph.inputs if value.name == "input_ids"), None)
    if ids is None:
        raise UnsupportedError(f"`{files.later.name}` has no input `input_ids`", hint=f"known inputs are {_KNOWN}")
    step["input_ids"] = merging.input("tokens", ids, [1, 1])
    step |= merging.branch(later.graph, cached=True)
    sources = ["logits", *(re.sub(r"^present\.(\d+)\.", r"present.\1.decoder.", output) for output in carried)]
    results = merging.take(later.graph, "step", "decoder", step, sources)
    merging.finish(zip(["states", "logits", *carried], [states, *results], strict=True))
    width = results[0].shape[-1] if results[0].shape is not None else None
    if not isinstance(width, int):
        raise UnsupportedError(f"`{files.later.name}` does not say how many ids its `logits` are for")
    return Composed(ir.Model(graph, ir_version=MIN_IR_VERSION), carried, width)


def _audio_input(graph: ir.Graph, file: str) -> ir.Value:
    found = [value for value in graph.inputs if value.name != "attention_mask"]
    if len(found) != 1 or found[0].dtype != ir.DataType.FLOAT:
        names = ", ".join(f"`{value.name}`" for value in graph.inputs)
        raise UnsupportedError(
            f"`{file}` has the inputs {names}", hint="an encoder has one of floats, and maybe a mask"
        )
    return found[0]


def _cross_attention(
    merging: Merging, graph: ir.Graph, context: Mapping[str, ir.Value], weights: str
) -> dict[str, ir.Value]:
    """Keys and values of the encoder's output, as the decoder without a cache makes them."""
    names = [v.name or "" for v in graph.outputs if (m := _PRESENT.fullmatch(v.name or "")) and m[2] == "encoder"]
    given = dict(context) | merging.branch(graph, cached=False)
    for value in graph.inputs:
        if value.name == "input_ids":
            given["input_ids"] = merging.constant("cross/input_ids", np.zeros((1, 1), np.int64))
        elif _PAST.fullmatch(value.name or ""):  # not read by this branch
            empty = np.zeros((1, _axis(value, 1), 1, _axis(value, 3)), np.float32)
            given[value.name or ""] = merging.constant(f"cross/{value.name}", empty)
    return dict(zip(names, merging.take(graph, "cross", weights, given, names), strict=True))


def _axis(value: ir.Value, axis: int) -> int:
    size = value.shape[axis] if value.shape is not None and len(value.shape) == 4 else None
    if not isinstance(size, int):
        raise UnsupportedError(
            f"the input `{value.name}` has the shape {value.shape}, expected [batch, heads, past, head size]"
        )
    return size


class Merging:
    """Graphs moved into one, their values named after where they come from."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph

    def input(self, name: str, like: ir.Value, shape: Sequence[int | str]) -> ir.Value:
        dims = [dim if isinstance(dim, int) else ir.SymbolicDim(dim) for dim in shape]
        value = ir.Value(name=name, shape=ir.Shape(dims), type=like.type)
        self.graph.inputs.append(value)
        return value

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def add(self, op_type: str, inputs: Sequence[ir.Value], name: str, **attributes: ir.Attr) -> ir.Value:
        node = ir.Node("", op_type, inputs, attributes.values(), name=name)
        node.outputs[0].name = name
        self.graph.append(node)
        return node.outputs[0]

    def ones_like(self, value: ir.Value) -> ir.Value:
        """int64, the first two dimensions of `value`: nothing is masked."""
        start, end = ir.AttrInt64("start", 0), ir.AttrInt64("end", 2)
        shape = self.add("Shape", [value], f"{value.name}/rows", start=start, end=end)
        one = ir.AttrTensor("value", ir.tensor(np.ones(1, np.int64)))
        return self.add("ConstantOfShape", [shape], f"{value.name}/unmasked", value=one)

    def branch(self, graph: ir.Graph, *, cached: bool) -> dict[str, ir.Value]:
        """The value of `use_cache_branch`, in decoders that have both branches."""
        if all(value.name != "use_cache_branch" for value in graph.inputs):
            return {}
        name = "step" if cached else "cross"
        return {"use_cache_branch": self.constant(f"{name}/use_cache_branch", np.array([cached]))}

    def take(
        self, graph: ir.Graph, prefix: str, weights: str, given: Mapping[str, ir.Value], outputs: Sequence[str]
    ) -> list[ir.Value]:
        """The nodes of `graph` moved here, reading `given` as inputs; the values called `outputs`."""
        named = {value.name: value for value in graph.outputs}
        missing = [name for name in outputs if name not in named]
        if missing:
            raise UnsupportedError(f"the {weights} has no output `{missing[0]}`")
        unknown = [value.name for value in graph.inputs if value.name not in given]
        if unknown:
            raise UnsupportedError(f"the {weights} has the input `{unknown[0]}`", hint=f"known inputs are {_KNOWN}")
        for value in list(graph.inputs):
            value.replace_all_uses_with(given[value.name or ""], replace_graph_outputs=True)
        for name, value in list(graph.initializers.items()):
            known = self.graph.initializers.get(f"{weights}/{name}")
            if known is None:
                assert value.const_value is not None
                known = ir.Value(
                    name=f"{weights}/{name}", shape=value.shape, type=value.type, const_value=value.const_value
                )
                self.graph.register_initializer(known)
            value.replace_all_uses_with(known, replace_graph_outputs=True)
        results = [named[name] for name in outputs]
        graph.outputs.clear()
        _prefix(graph, prefix)
        nodes = list(graph)
        graph.remove(nodes)
        self.graph.extend(nodes)
        return results

    def finish(self, outputs: Iterable[tuple[str, ir.Value]]) -> None:
        for name, value in outputs:
            result = self.add("Identity", [value], name)
            result.type, result.shape = value.type, value.shape
            self.graph.outputs.append(result)


def _prefix(graph: ir.Graph, prefix: str) -> None:
    for node in graph:
        node.name = f"{prefix}/{node.name}"
        for value in node.outputs:
            if value.name:
                value.name = f"{prefix}/{value.name}"
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                _prefix(attribute.as_graph(), prefix)


__all__ = ["Composed", "Files", "check", "compose", "find"]
