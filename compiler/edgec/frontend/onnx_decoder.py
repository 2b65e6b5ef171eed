"""Decoder language models as ONNX graphs, as transformers.js and onnxruntime-genai have them.

`config.json` says what the model is, the graph has its weights (`decoder_graph.py`), and the decoder that is built of
both is compared with the graph (`decoder_check.py`). Codes of `MatMulNBits` and `GatherBlockQuantized` are kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir

from edgec.errors import ModelError
from edgec.frontend.checkpoint import CheckpointWeights, Layout, check_tensors
from edgec.frontend.decoder import build_decoder
from edgec.frontend.decoder_check import check_attributes, check_logits, check_rotations
from edgec.frontend.decoder_graph import DecoderGraph, GraphTensor, GraphWeights, is_decoder
from edgec.frontend.files import hashing, model_card_license, read_json, source_sha256
from edgec.frontend.hf import end_ids, generation_config, sampling_defaults
from edgec.frontend.hf_config import DecoderConfig, config_problems, decoder_config, family_problems
from edgec.frontend.hf_tokenizer import read_tokenizer, tokenizer_files
from edgec.frontend.onnx import read_proto
from edgec.frontend.onnx_external import check_external_data
from edgec.frontend.onnx_nbits import nbits_problems
from edgec.frontend.problems import Problem, refuse
from edgec.frontend.spec import DecoderSpec
from edgec.frontend.tensors import EMBEDDING, LM_HEAD, parameter_count
from edgec.ir.model import ModelFacts, ModelIR

# Files of a folder in the order in which one is taken: exact weights first, then the codes that edgec keeps.
_VARIANTS = ("model", "decoder_model_merged", "decoder_with_past_model", "model_fp16", "model_q4", "model_q4f16")
_FOLDERS = ("", "onnx")
_WITHOUT_WEIGHTS = frozenset({"QMoE", "MoE", "MatMulBnb4", "PagedAttention", "LinearAttention", "SparseAttention"})
_KNOWN_INPUTS = frozenset({"input_ids", "attention_mask", "position_ids", "num_logits_to_keep", "use_cache_branch"})
_SWITCHES = ("smooth_softmax", "k_quant_type", "v_quant_type", "qk_output")  # of GroupQueryAttention
_HEAD_SINK = 11  # its input


def candidates(folder: Path) -> list[Path]:
    """ONNX files of a model folder, the one that is taken first."""
    files = [path for part in _FOLDERS for path in sorted((folder / part).glob("*.onnx")) if (folder / part).is_dir()]

    def rank(path: Path) -> tuple[int, str]:
        return (_VARIANTS.index(path.stem) if path.stem in _VARIANTS else len(_VARIANTS), path.name)

    return sorted(files, key=rank)


def settings_folder(path: Path) -> Path | None:
    """The folder with the `config.json` of an ONNX file: the one above `onnx/`, or its own."""
    own = path.absolute().parent
    places = [own.parent, own] if own.name == "onnx" else [own]
    return next((place for place in places if (place / "config.json").is_file()), None)


def shown(folder: Path, path: Path) -> str:
    """The file as a message names it."""
    return path.absolute().relative_to(folder.absolute()).as_posix()


def recognizes(path: Path) -> bool:
    """Whether the file is a decoder with a cache, of a family that its `config.json` names."""
    folder = settings_folder(path)
    if folder is None or family_problems(read_json(folder / "config.json")):
        return False
    graph = read_proto(path).graph
    return is_decoder([value.name for value in graph.input], [value.name for value in graph.output])


def check(path: Path) -> list[Problem]:
    """What stands against the configuration or operators of the graph; reads no weight."""
    config = _config(path)
    return [*config_problems(config), *_graph_problems(read_proto(path))]


def load(path: Path, *, name: str | None = None) -> ModelIR:
    """Reads a file and the `config.json` of its folder. Raises `UnsupportedError`, `ModelError` or `CorruptFileError`;
    unless hashes are left out, also for a graph that computes something else than its configuration says."""
    refuse(path.name, check(path))
    folder, config = settings_folder(path), _config(path)
    assert folder is not None
    proto = read_proto(path)
    external = check_external_data(proto, path.parent)
    graph = onnx_ir.from_proto(proto)
    onnx_ir.external_data.set_base_dir(graph.graph, path.parent)
    _take_cached_branch(graph.graph)
    decoder = decoder_config(config)
    spec = decoder.spec
    tensors = DecoderGraph(graph, spec, decoder.layout.qkv_order).tensors
    spec = _tied(spec, tensors)
    source = GraphWeights(tensors)
    layout = _layout(decoder)
    check_tensors(spec, layout, source.shapes())
    check_rotations(graph, spec)
    check_attributes(graph, spec)
    model_name = name or folder.resolve().name
    built = build_decoder(spec, CheckpointWeights(spec, layout, source), name=model_name)
    if hashing():
        check_logits(path, built, spec)
    generation = generation_config(folder)
    settings = [folder / file for file in ("config.json", "generation_config.json") if (folder / file).is_file()]
    model = ModelIR(
        model=built,
        kind="decoder",
        facts=ModelFacts(
            name=model_name,
            architecture=decoder.family.name,
            source_format="onnx",
            source_sha256=source_sha256([path, *external, *settings, *tokenizer_files(folder)]),
            parameters=parameter_count(spec),
            license=model_card_license(folder),
        ),
        decoder=spec.facts,
        tokenizer=read_tokenizer(
            folder, config, eos_token_ids=end_ids(generation, config), vocabulary=spec.facts.vocabulary
        ),
        generation=sampling_defaults(generation),
    )
    model.verify()
    return model


def _config(path: Path) -> dict[str, Any]:
    folder = settings_folder(path)
    if folder is None:
        raise ModelError(f"`{path.name}` has no `config.json` beside it", hint="download the model's `config.json` too")
    config = read_json(folder / "config.json")
    return {field: value for field, value in config.items() if field != "quantization_config"}


def _graph_problems(proto: onnx.ModelProto) -> list[Problem]:
    problems = list(nbits_problems(proto))
    constants = {tensor.name for tensor in proto.graph.initializer}
    for value in proto.graph.input:
        known = value.name in _KNOWN_INPUTS | constants or value.name.startswith("past_key_values.")
        if not known:
            problems.append(Problem(value.name, "an input of no known decoder", ", ".join(sorted(_KNOWN_INPUTS))))
    refused: dict[str, list[str]] = {}
    for node in proto.graph.node:
        if node.op_type in _WITHOUT_WEIGHTS:
            refused.setdefault(node.op_type, []).append(node.name)
        if node.op_type != "GroupQueryAttention":
            continue
        where = f"GroupQueryAttention ({node.name})"
        for attribute in node.attribute:
            text = attribute.s.decode(errors="replace")
            if attribute.name in _SWITCHES and (attribute.i > 0 or text not in ("", "NONE")):
                problems.append(Problem(f"{where}.{attribute.name}", text or str(attribute.i), "switched off"))
        if len(node.input) > _HEAD_SINK and node.input[_HEAD_SINK]:
            problems.append(Problem(f"{where}.head_sink", "given", "attention without sinks"))
    found = "an operator of a decoder that edgec cannot take apart"
    return problems + [
        Problem(op, found, "dense matrices, and those of MatMulNBits", tuple(nodes)) for op, nodes in refused.items()
    ]


def _take_cached_branch(graph: onnx_ir.Graph) -> None:
    """Of an export that has one branch for the first tokens and one behind a cache (`use_cache_branch`)."""
    merged = [node for node in graph if node.op_type == "If"]
    if all(value.name != "use_cache_branch" for value in graph.inputs) or len(merged) != 1:
        return
    (node,) = merged
    branch = node.attributes["then_branch"].as_graph()
    outputs, inner = list(branch.outputs), list(branch)
    branch.outputs.clear()
    branch.remove(inner)
    for value in list(branch.initializers.values()):
        del branch.initializers[str(value.name)]
        graph.register_initializer(value)
    graph.insert_before(node, inner)
    for old, new in zip(node.outputs, outputs, strict=True):
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        new.name, old.name = old.name, None
    graph.remove(node, safe=True)


def _layout(decoder: DecoderConfig) -> Layout:
    """The graph has effective norm weights and whole parts, in the order of the checkpoint's features."""
    layout = decoder.layout
    return Layout(interleaved=layout.interleaved, skipped_positions=layout.skipped_positions, factors=layout.factors)


def _tied(spec: DecoderSpec, tensors: Mapping[str, GraphTensor]) -> DecoderSpec:
    """`spec` with one matrix for both ends if the graph has one, or one in two orders. A quantized head beside a
    float embedding is another matrix, whatever the configuration says."""
    embedding, head = tensors.get(EMBEDDING), tensors.get(LM_HEAD)
    if embedding is None or head is None:
        raise ModelError("the graph has no embedding that `input_ids` choose rows of")
    same = embedding.constant is head.constant and head.constant is not None and embedding.shape == head.shape
    if spec.facts.tied_embedding and not same and embedding.shape == head.shape and _float(embedding) and _float(head):
        same = not hashing() or bool(np.array_equal(embedding.read(), head.read()))
    return dataclasses.replace(spec, facts=dataclasses.replace(spec.facts, tied_embedding=same))


def _float(tensor: GraphTensor) -> bool:
    value = tensor.constant
    return value is not None and value.dtype is not None and value.dtype.is_floating_point()


__all__ = ["candidates", "check", "load", "recognizes", "settings_folder"]
