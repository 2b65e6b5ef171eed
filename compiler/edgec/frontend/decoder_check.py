"""Whether the decoder that we build computes what the ONNX graph computes that its weights are from.

`decoder_graph.py` finds matrices and vectors; what stands between them (attention, masks, rotations, activations) is
believed of the configuration, so it is compared here: onnxruntime runs the graph as it is, and our decoder layer by
layer, so that the float weights of one layer at a time are in memory. Once from an empty cache, once behind a long
cache of random numbers, where rotations and windows show. Tables of rotations are compared at every position.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime

from edgec.errors import ModelError, UnsupportedError
from edgec.frontend.decoder_graph import cache_names
from edgec.frontend.spec import DecoderSpec, Rope

_Array = npt.NDArray[Any]
_PAST = 1100  # tokens of the random cache: more than most windows, and enough to tell slow rotations apart
_CACHE_BYTES = 256 << 20  # of it at most
_FLOAT32, _ROUNDED = 2e-3, 0.05  # largest relative error of a graph of floats, and of one with float16 in it
_ANGLE = 0.02  # of cos and sin far from the beginning: float16, and positions as float32
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
_FOLDER = "session.model_external_initializers_file_folder_path"


def check_rotations(model: ir.Model, spec: DecoderSpec) -> None:
    """Compares tables of cos and sin with those of the configuration. Raises `UnsupportedError` where they differ."""
    ropes = {layer.rope for layer in spec.layers if layer.rope is not None}
    for node in model.graph:
        first = {"GroupQueryAttention": 7, "RotaryEmbedding": 2}.get(node.op_type)
        if first is None or node.domain != "com.microsoft" or len(node.inputs) < first + 2:
            continue
        pair = [None if value is None else value.const_value for value in node.inputs[first : first + 2]]
        tables = [tensor.numpy().astype(np.float32) for tensor in pair if tensor is not None]
        if len(tables) != 2:
            continue
        cos, sin = tables
        if not any(_same_table(cos, sin, rope, spec.facts.context_length) for rope in ropes):
            raise UnsupportedError(
                f"`{node.op_type}` ({node.name}) rotates by tables that are not those of the configuration",
                hint="the graph was exported with other rope fields than its `config.json` has",
            )


def _same_table(cos: _Array, sin: _Array, rope: Rope, context: int) -> bool:
    if cos.ndim != 2 or cos.shape[1] != len(rope.inv_freq) or sin.shape != cos.shape:
        return False
    rows = min(len(cos), context)
    angles = np.arange(rows, dtype=np.float32)[:, None] * np.array(rope.inv_freq, np.float32)
    differences = (np.abs(cos[:rows] - rope.scale * np.cos(angles)), np.abs(sin[:rows] - rope.scale * np.sin(angles)))
    return bool(max(difference.max() for difference in differences) < _ANGLE)


def check_attributes(model: ir.Model, spec: DecoderSpec) -> None:
    """Compares attributes of attention and norms with the configuration; short runs show small differences badly."""
    facts = spec.facts
    nodes = [node for node in model.graph if node.op_type == "GroupQueryAttention"]
    for node, layer in zip(nodes, spec.layers, strict=False):
        window = node.attributes.get_int("local_window_size", -1)
        if window != (layer.window or -1) and not (layer.window is None and window >= facts.context_length):
            raise _other(node, f"sees {window} tokens back", f"sliding window {layer.window}")
        cap, scale = (node.attributes.get_float(name, 0.0) for name in ("softcap", "scale"))
        if not _close(cap, spec.attention_softcap or 0.0):
            raise _other(node, f"has the soft cap {cap:.6g}", f"soft cap {spec.attention_softcap}")
        default = facts.head_dim**-0.5
        if not _close(scale or default, spec.attention_scale or default):
            raise _other(node, f"scales by {scale:.6g}", f"scale {spec.attention_scale or default:.6g}")
    for node in model.graph:
        epsilon = node.attributes.get("epsilon") if node.op_type.endswith("Normalization") else None
        if epsilon is not None and not _close(float(epsilon.value), spec.norm_epsilon):
            raise _other(node, f"has the epsilon {epsilon.value:.3g}", f"epsilon {spec.norm_epsilon:.3g}")


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= 1e-3 * max(abs(one), abs(other))


def _other(node: ir.Node, does: str, configured: str) -> UnsupportedError:
    return UnsupportedError(
        f"`{node.op_type}` ({node.name}) {does}, the configuration says: {configured}",
        hint="`config.json` and the graph are of different models",
    )


def check_logits(path: Path, ours: ir.Model, spec: DecoderSpec) -> None:
    """Runs both. Raises `UnsupportedError` where keys, values or logits differ."""
    session, tolerance = _session(path)
    facts = spec.facts
    token = 8 * facts.layers * facts.kv_heads * facts.head_dim  # bytes of its key and value
    long = min(_PAST, _CACHE_BYTES // token, facts.context_length - 3)
    for past, count in ((0, min(6, facts.context_length)), (max(0, long), 3)):
        feeds = _feeds(session, spec, past, count)
        names = [output.name for output in session.get_outputs()]
        try:
            wanted = dict(zip(names, session.run(None, feeds), strict=True))
        except Exception as failure:  # of a type that onnxruntime does not export
            raise _cannot_run(path, failure) from failure
        for name, found in _layerwise(ours, spec, feeds, past, count):
            reference = wanted[name].astype(np.float32)
            if name != "logits":
                reference, found = reference[:, :, past:], found[:, :, past:]
            scale = float(np.sqrt(np.square(reference).mean())) or 1.0
            error = float(np.sqrt(np.square(found[:, -reference.shape[1] :] - reference).mean())) / scale
            if not error <= tolerance:  # nan too
                raise UnsupportedError(
                    f"`{path.name}` computes another `{name}` than a decoder of its configuration (relative error "
                    f"{error:.2g}, {past} tokens before)",
                    hint="`config.json` is of another model, or the graph has parts that edgec does not know",
                )


def _session(path: Path) -> tuple[Any, float]:
    """The graph with products of quantized matrices in float, and the error that its numbers may have."""
    proto = onnx.load(path, load_external_data=False)
    rounded = any(tensor.data_type in _HALVES for tensor in proto.graph.initializer)
    for node in proto.graph.node:
        for attribute in node.attribute:
            if node.op_type == "MatMulNBits" and attribute.name == "accuracy_level":
                attribute.i = 1  # float activations
    options = _options()
    options.add_session_config_entry(_FOLDER, str(path.parent.resolve()))
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _cannot_run(path, error) from error
    return session, _ROUNDED if rounded else _FLOAT32


def _cannot_run(path: Path, error: Exception) -> ModelError:
    reason = str(error).strip().splitlines()[0]
    return ModelError(
        f"onnxruntime cannot run `{path.name}` ({reason}), so it cannot be compared",
        hint="name another file of the model, or compile its safetensors",
    )


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


_HALVES = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def _feeds(session: Any, spec: DecoderSpec, past: int, count: int) -> dict[str, _Array]:
    """Inputs of a run; the cache is of random numbers, and so are the tokens."""
    random = np.random.default_rng(0)
    facts = spec.facts
    ids = random.integers(0, facts.vocabulary, (1, count))
    plain = {
        "input_ids": ids,
        "attention_mask": np.ones((1, past + count), np.int64),
        "position_ids": np.arange(past, past + count)[None],
        "num_logits_to_keep": np.array(count),
        "use_cache_branch": np.array([True]),
    }
    feeds = {}
    types = {entry.name: entry.type for entry in session.get_inputs()}
    for name, kind in types.items():
        if name in plain:
            feeds[name] = plain[name].astype(np.bool_ if kind == "tensor(bool)" else _TYPES.get(kind, np.int64))
    for name in cache_names(facts.layers):
        cache = random.standard_normal((1, facts.kv_heads, past, facts.head_dim), np.float32)
        feeds[name] = cache.astype(_TYPES.get(types.get(name, ""), np.float32))
    return feeds


def _layerwise(
    ours: ir.Model, spec: DecoderSpec, feeds: Mapping[str, _Array], past: int, count: int
) -> Iterator[tuple[str, _Array]]:
    """Our keys, values and logits, in order."""
    names = [f"layers.{layer}.mlp_residual" for layer in range(spec.facts.layers)]
    known: dict[str, _Array] = {"input_ids": feeds["input_ids"].astype(np.int64)}
    known["position_ids"] = np.arange(past, past + count)[None]
    for layer, name in enumerate(names):
        known |= {cache: feeds[cache].astype(np.float32) for cache in cache_names(layer + 1) if f".{layer}." in cache}
        wanted = [f"present.{layer}.key", f"present.{layer}.value"]
        hidden, *made = _run(ours, [name, *wanted], known)
        yield from zip(wanted, made, strict=True)
        known = {"position_ids": known["position_ids"], name: hidden}
    yield "logits", _run(ours, ["logits"], known)[0]


def _run(model: ir.Model, outputs: Sequence[str], known: Mapping[str, _Array]) -> list[_Array]:
    """Values of the graph from those that are `known`; its initializers are given as inputs, not copied."""
    graph = model.graph
    values = {value.name: value for node in graph for value in node.outputs} | {v.name: v for v in graph.inputs}
    feeds: dict[str, _Array] = {}
    inputs: list[ir.Value] = []
    nodes: set[ir.Node] = set()
    wanted = [values[name] for name in outputs]
    while wanted:
        value = wanted.pop()
        name = value.name or ""
        node = value.producer()
        if name in feeds:
            continue
        if name in known or node is None:
            tensor = value.const_value
            feeds[name] = known[name] if name in known else tensor.numpy()  # type: ignore[union-attr]
            inputs.append(value)
        elif node not in nodes:
            nodes.add(node)
            wanted += [source for source in node.inputs if source is not None]
    part = onnx.helper.make_graph(
        [ir.to_proto(node) for node in graph if node in nodes],
        "part",
        [_info(value, feeds[value.name or ""]) for value in inputs],
        [onnx.ValueInfoProto(name=name) for name in outputs],
    )
    opset = [onnx.helper.make_opsetid("", model.opset_imports[""])]
    proto = onnx.helper.make_model(part, opset_imports=opset, ir_version=model.ir_version)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), _options(), providers=["CPUExecutionProvider"])
    results: list[_Array] = session.run(list(outputs), feeds)
    return results


def _info(value: ir.Value, array: _Array) -> onnx.ValueInfoProto:
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return onnx.helper.make_tensor_value_info(value.name or "", kind, array.shape)


__all__ = ["check_attributes", "check_logits", "check_rotations"]
