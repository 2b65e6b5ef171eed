"""Decoders as ONNX graphs become decoders of the builder, or are refused with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.compose
import pytest
from onnx import TensorProto, helper

import edgec
import edgec.run
from edgec.errors import EdgecError, ModelError, UnsupportedError
from edgec.frontend import check, load
from edgec.ir.weight_use import grid_bits
from edgec.pipeline import CompileOptions
from tests.families import VOCABULARY
from tests.frontend.decoders import prefill_and_steps, save_reference
from tests.frontend.onnx_decoders import Contrib, graph_logits, write_folder

IDS = np.random.default_rng(5).integers(0, 120, 30).tolist()
HALF: Any = np.float16


def error(model: Any, path: Path, ids: list[int] = IDS) -> float:
    return float(np.abs(prefill_and_steps(model, ids, prefill=14) - graph_logits(path, ids, prefill=14)).max())


@pytest.mark.parametrize(
    ("contrib", "allowed"),
    [
        (Contrib(), 1e-4),
        (Contrib(packed=True), 1e-4),
        (Contrib(bits=4, packed=True), 1e-4),
        (Contrib(bits=8), 1e-4),
        (Contrib(dtype=HALF), 0.05),
        (Contrib(bits=4, dtype=HALF), 0.05),
    ],
    ids=["float", "packed", "q4-packed", "q8", "fp16", "q4f16"],
)
def test_graphs_of_onnxruntime(contrib: Contrib, allowed: float, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "tiny", {"onnx/model.onnx": contrib})
    model = load(folder)
    assert (model.kind, model.facts.architecture, model.facts.source_format) == ("decoder", "llama", "onnx")
    assert model.facts.name == "tiny" and model.decoder is not None and model.decoder.tied_embedding
    assert error(model, folder / "onnx/model.onnx") < allowed
    if contrib.bits == 4:
        marked = {name for name, value in model.model.graph.initializers.items() if grid_bits(value) == 4}
        assert len(marked) == 15  # seven matrices of each layer, and the one of both ends


def test_in_wasm_with_the_codes_of_the_file(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "tiny", {"model_q4.onnx": Contrib(bits=4, packed=True)})
    bundle = edgec.compile(folder, "phone-8gb", tmp_path / "floats.edgec", CompileOptions(precision="float32"))
    assert bundle.manifest.model.kind == "decoder"
    with edgec.run.load(tmp_path / "floats.edgec", variant="simd128") as running:
        found = np.stack(list(running.logits(IDS)))
    assert float(np.abs(found - graph_logits(folder / "model_q4.onnx", IDS, prefill=14)).max()) < 2e-3
    edgec.compile(folder, "phone-8gb", tmp_path / "codes.edgec")
    with edgec.run.load(tmp_path / "codes.edgec") as running:
        tensors = running.manifest.plan["tensors"]
        assert {tensor["bits"] for tensor in tensors if "proj" in tensor["name"]} == {4}
        quantized = np.stack(list(running.logits(IDS)))
    assert float(np.sqrt(np.square(quantized - found).mean()) / found.std()) < 0.05


@pytest.mark.parametrize("family", ["gemma3", "gpt-neox"])
def test_plain_exports_of_optimum(family: str, tmp_path: Path) -> None:
    """Attention, masks and norms in small operators; the graph was made from the safetensors beside it."""
    from optimum.exporters.onnx import main_export

    save_reference(tmp_path / "model", family, plain=False)
    graph = tmp_path / "onnx" / "model.onnx"
    main_export(str(tmp_path / "model"), graph.parent, task="text-generation-with-past", do_validation=False, opset=18)
    ids = np.random.default_rng(5).integers(0, VOCABULARY, 30).tolist()
    assert error(load(graph), graph, ids) < 2e-4


@pytest.mark.parametrize(
    ("contrib", "named"),
    [
        (Contrib(attention={"smooth_softmax": 1}), "smooth_softmax"),
        (Contrib(sink=True), "head_sink"),
    ],
)
def test_refused_by_name(contrib: Contrib, named: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"model.onnx": contrib})
    assert any(problem.subject.endswith(named) for problem in check(folder))
    with pytest.raises(UnsupportedError, match=named):
        load(folder)


@pytest.mark.parametrize(
    ("contrib", "fields", "message"),
    [
        (Contrib(theta=100.0), {}, "rotates by tables that are not those of the configuration"),
        (Contrib(attention={"local_window_size": 8}), {}, "sees 8 tokens back"),
        (Contrib(attention={"softcap": 3.0}), {}, "has the soft cap 3"),
        (Contrib(attention={"scale": 0.2}), {}, "scales by 0.2"),
        (Contrib(attention={"rotary_interleaved": 1}), {}, r"computes another `present\.0\.key`"),
        (Contrib(attention={"num_heads": 3}), {}, r"onnxruntime cannot run `model\.onnx`"),
        (Contrib(), {"hidden_act": "relu"}, r"computes another `present\.1\.key`"),
        (Contrib(), {"rms_norm_eps": 1e-6}, "has the epsilon 1e-05"),
        (Contrib(), {"num_key_value_heads": 4}, "instead of"),
        (Contrib(), {"num_hidden_layers": 3}, r"`present\.2\.key` is not the product of one matrix"),
    ],
)
def test_graphs_that_are_not_what_the_configuration_says(
    contrib: Contrib, fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path, {"model.onnx": contrib}, **fields)
    with pytest.raises(EdgecError, match=message):
        load(folder)


def test_the_branch_behind_a_cache(tmp_path: Path) -> None:
    """Exports of older versions have two branches in one file."""
    folder = write_folder(tmp_path / "m", {"onnx/decoder_model_merged.onnx": Contrib()})
    merged = Contrib().model()

    def branch(prefix: str) -> onnx.GraphProto:
        graph = onnx.compose.add_prefix_graph(
            merged.graph, prefix, rename_inputs=False, rename_initializers=False, rename_value_infos=False
        )
        return helper.make_graph(graph.node, prefix, [], graph.output)

    branches = {"then_branch": branch("cached."), "else_branch": branch("first.")}
    del merged.graph.node[:]
    merged.graph.input.append(helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1]))
    names = [value.name for value in merged.graph.output]
    merged.graph.node.append(helper.make_node("If", ["use_cache_branch"], names, **branches))
    onnx.save(merged, folder / "onnx/decoder_model_merged.onnx")
    model = load(folder)
    write_folder(tmp_path / "plain", {"model.onnx": Contrib()})
    assert error(model, tmp_path / "plain/model.onnx") < 1e-4


def test_which_file_of_a_folder(tmp_path: Path) -> None:
    files = {f"onnx/{name}.onnx": Contrib(bits=bits) for name, bits in (("model_q4", 4), ("model", None), ("abc", 8))}
    folder = write_folder(tmp_path / "m", files)
    chosen = load(folder)
    assert chosen.facts.note == (
        "weights are of `onnx/model.onnx`; the folder has `onnx/model_q4.onnx`, `onnx/abc.onnx` too "
        "(name a file to take its weights)"
    )
    named = load(folder / "onnx/model_q4.onnx")
    assert named.facts.note is not None and named.facts.note.startswith("weights are of `onnx/model_q4.onnx`")
    assert named.kind == "decoder" and named.facts.name == "m"
    save_reference(folder, "llama", plain=False)
    both = load(folder)
    assert both.facts.source_format == "hf" and "onnx/model_q4.onnx" in (both.facts.note or "")


def test_without_a_configuration(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"model.onnx": Contrib()})
    (folder / "config.json").rename(folder / "genai_config.json")
    with pytest.raises(ModelError, match="onnxruntime-genai") as caught:
        load(folder)
    assert "config.json" in (caught.value.hint or "")
