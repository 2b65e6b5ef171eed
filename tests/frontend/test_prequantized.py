"""Checkpoints quantized by other tools: what they mean, that nothing is lost a second time, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from edgec import profiles
from edgec.compress import compress
from edgec.compress.dequantize import dequantize
from edgec.compress.prune.resize import take
from edgec.errors import CorruptFileError, EdgecError, ModelError, UnsupportedError
from edgec.frontend import check, load
from edgec.frontend.prequantized import METHODS, PrequantizedWeights
from edgec.frontend.safetensors_file import SafetensorsWeights
from edgec.ir.weight_use import weight_uses
from edgec.passes import simplify
from edgec.plan import make_plan
from tests.frontend import packers
from tests.frontend.decoders import prefill_and_steps, reference_logits, save_reference

IDS = [5, 77, 3, 120, 64, 9, 31, 2, 100, 44, 81, 12]
SHAPES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "head_dim": 16}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False, "damp_percent": 0.01}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4"}
BITNET = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}


def matrix(rows: int, columns: int, seed: int = 5) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, columns)) * 0.1).astype(np.float32)


def read(
    folder: Path, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any], **options: Any
) -> PrequantizedWeights:
    save_file(dict(tensors), folder / "model.safetensors")
    stored = SafetensorsWeights([folder / "model.safetensors"])
    return PrequantizedWeights(stored, METHODS[config["quant_method"]], config, **options)


class TestMatrices:
    @pytest.mark.parametrize("version", [1, 2])
    @pytest.mark.parametrize("bits", [2, 4, 8])
    @pytest.mark.parametrize(("rows", "columns", "size"), [(32, 64, 32), (64, 160, 128), (32, 96, -1), (16, 48, 16)])
    def test_gptq(self, rows: int, columns: int, size: int, bits: int, version: int, tmp_path: Path) -> None:
        coded = packers.coded(matrix(rows, columns), bits, size)
        # Zero points of 0 and of the highest code are what subtracting one makes hard.
        coded.zeros[::3], coded.zeros[1::3] = 0, 2**bits - 1
        config = {**GPTQ, "bits": bits, "group_size": size, "checkpoint_format": f"gptq{'_v2' if version == 2 else ''}"}
        weights = read(tmp_path, packers.named("a", packers.gptq(coded, version=version)), config)
        assert weights.shapes() == {"a.weight": (rows, columns)}
        np.testing.assert_array_equal(weights.read("a.weight"), coded.values())
        assert weights.grid_bits("a.weight") == (4 if bits < 8 and size != 16 else None)

    def test_gptq_in_the_order_of_activations(self, tmp_path: Path) -> None:
        order = np.random.default_rng(1).permutation(96)
        coded = packers.coded(matrix(32, 96), 4, 32, order=order)
        weights = read(tmp_path, packers.named("a", packers.gptq(coded)), {**GPTQ, "desc_act": True})
        np.testing.assert_array_equal(weights.read("a.weight"), coded.values())
        assert weights.grid_bits("a.weight") is None

    def test_gptq_without_an_index(self, tmp_path: Path) -> None:
        coded = packers.coded(matrix(32, 64), 4, 32)
        weights = read(tmp_path, packers.named("a", packers.gptq(coded, index=False)), GPTQ)
        np.testing.assert_array_equal(weights.read("a.weight"), coded.values())
        assert weights.grid_bits("a.weight") == 4

    def test_inputs_and_outputs_that_fill_no_word(self, tmp_path: Path) -> None:
        coded = packers.coded(matrix(13, 35), 4, 32)
        weights = read(tmp_path, packers.named("a", packers.gptq(coded)), GPTQ)
        np.testing.assert_array_equal(weights.read("a.weight"), coded.values())

    def test_transposed(self, tmp_path: Path) -> None:
        coded = packers.coded(matrix(32, 64), 4, 32)
        weights = read(tmp_path, packers.named("a", packers.gptq(coded)), GPTQ, transposed=True)
        assert weights.shapes() == {"a.weight": (64, 32)}
        np.testing.assert_array_equal(weights.read("a.weight"), coded.values().T)

    @pytest.mark.parametrize(("rows", "columns", "size"), [(32, 64, 32), (8, 256, 128), (40, 96, -1), (16, 48, 16)])
    def test_awq(self, rows: int, columns: int, size: int, tmp_path: Path) -> None:
        coded = packers.coded(matrix(rows, columns), 4, size)
        weights = read(tmp_path, packers.named("a", packers.awq(coded)), {**AWQ, "group_size": size})
        assert weights.shapes() == {"a.weight": (rows, columns)}
        np.testing.assert_array_equal(weights.read("a.weight"), coded.values())
        assert weights.grid_bits("a.weight") == (None if size == 16 else 4)

    @pytest.mark.parametrize("nested", [0, 7])
    @pytest.mark.parametrize(("rows", "columns", "block"), [(16, 32, 64), (9, 35, 64), (32, 48, 128)])
    def test_nf4(self, rows: int, columns: int, block: int, nested: int, tmp_path: Path) -> None:
        tensors, values = packers.bitsandbytes(matrix(rows, columns), block=block, nested_block=nested)
        weights = read(tmp_path, packers.named("a", tensors), NF4)
        assert weights.shapes() == {"a.weight": (rows, columns)}
        np.testing.assert_array_equal(weights.read("a.weight"), values)
        assert weights.grid_bits("a.weight") is None

    def test_nf4_stored_as_floats(self, tmp_path: Path) -> None:
        """`bnb_4bit_quant_storage`, for training on several devices."""
        tensors, values = packers.bitsandbytes(matrix(16, 32))
        tensors["weight"] = tensors["weight"].reshape(-1).view(np.float16).reshape(-1, 1)
        weights = read(tmp_path, packers.named("a", tensors), NF4)
        np.testing.assert_array_equal(weights.read("a.weight"), values)

    @pytest.mark.parametrize("linear_class", ["bitlinear", "autobitlinear", None])
    def test_bitnet(self, linear_class: str | None, tmp_path: Path) -> None:
        ternary = np.random.default_rng(2).integers(-1, 2, (24, 40))
        scale = np.array([1.7], np.float16)
        tensors = {"a.weight": packers.bitnet(ternary), "a.weight_scale": scale}
        weights = read(tmp_path, tensors, {**BITNET, "linear_class": linear_class})
        factor = scale.astype(np.float32) if linear_class == "autobitlinear" else 1 / scale.astype(np.float32)
        np.testing.assert_allclose(weights.read("a.weight"), ternary * factor, rtol=1e-7)
        assert weights.grid_bits("a.weight") == "ternary"

    def test_bitnet_that_is_rounded_when_it_is_used(self, tmp_path: Path) -> None:
        from transformers.integrations.bitnet import WeightQuant

        values = matrix(24, 40)
        tensors = {"a.weight": values, "embed_tokens.weight": values, "lm_head.weight": values, "b.weight": values}
        config = {**BITNET, "quantization_mode": "online", "modules_to_not_convert": ["b"]}
        weights = read(tmp_path, tensors, config)
        wanted = WeightQuant.forward.__wrapped__(None, torch.from_numpy(values)).numpy()
        np.testing.assert_allclose(weights.read("a.weight"), wanted, rtol=1e-6)
        for name in ("embed_tokens.weight", "lm_head.weight", "b.weight"):
            np.testing.assert_array_equal(weights.read(name), values)
            assert weights.grid_bits(name) is None
        assert weights.grid_bits("a.weight") == "ternary"


def gptq_layer(values: np.ndarray, **options: Any) -> tuple[dict[str, np.ndarray], np.ndarray]:
    coded = packers.coded(values, options.get("bits", 4), 32, order=options.get("order"))
    return packers.gptq(coded), coded.values()


def awq_layer(values: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    coded = packers.coded(values, 4, 32)
    return packers.awq(coded), coded.values()


def bitnet_layer(values: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    ternary = np.clip(np.rint(values / np.abs(values).mean()), -1, 1).astype(np.int64)
    scale = np.array([np.abs(values).mean()], np.float16)
    tensors = {"weight": packers.bitnet(ternary), "weight_scale": scale}
    return tensors, (ternary * scale.astype(np.float32)).astype(np.float32)


def nested_layer(values: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    return packers.bitsandbytes(values, nested_block=256)


Layer = Callable[[np.ndarray], tuple[dict[str, np.ndarray], np.ndarray]]
WAYS: Mapping[str, tuple[Layer, dict[str, Any]]] = {
    "gptq": (gptq_layer, GPTQ),
    "gptq-8": (lambda values: gptq_layer(values, bits=8), {**GPTQ, "bits": 8}),
    "gptq-order": (lambda values: gptq_layer(values, order=_order(values.shape[1])), {**GPTQ, "desc_act": True}),
    "awq": (awq_layer, AWQ),
    "nf4": (packers.bitsandbytes, NF4),
    "nf4-nested": (nested_layer, {**NF4, "bnb_4bit_use_double_quant": True}),
    "bitnet": (bitnet_layer, BITNET),
}
KEPT = {"gptq": 4, "awq": 4, "bitnet": 2}


def _order(columns: int) -> np.ndarray:
    return np.random.default_rng(9).permutation(columns)


def save_quantized(folder: Path, way: str, family: str = "llama", **config: Any) -> torch.nn.Module:
    """A decoder whose layers' linears are packed; returns it with what they mean."""
    layer, quantization = WAYS[way]
    model = save_reference(folder, family, **{**SHAPES, **config})
    stored = load_file(folder / "model.safetensors")
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and name != "lm_head":
                tensors, values = layer(stored.pop(f"{name}.weight"))
                stored |= packers.named(name, tensors)
                module.weight.copy_(torch.from_numpy(values))
    save_file(stored, folder / "model.safetensors")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": quantization}))
    return model


class TestModels:
    @pytest.mark.parametrize("way", WAYS)
    def test_logits_of_the_floats(self, way: str, tmp_path: Path) -> None:
        reference = save_quantized(tmp_path, way)
        logits = prefill_and_steps(load(tmp_path), IDS, prefill=7)
        np.testing.assert_allclose(logits, reference_logits(reference, IDS), atol=1e-4)

    @pytest.mark.parametrize("way", KEPT)
    def test_codes_are_kept(self, way: str, tmp_path: Path) -> None:
        """Through joined linears as well: every group's values come back to the last bit."""
        save_quantized(tmp_path, way)
        model = simplify(load(tmp_path))
        plan = make_plan(model, profiles.load("phone-8gb"), context_length=64)
        compressed = compress(model, plan)
        uses = weight_uses(model.model)
        kept = [tensor for tensor in plan.tensors if tensor.quantizer == "grid"]
        assert len(kept) == 4 * 2 and {tensor.bits for tensor in kept} == {KEPT[way]}
        assert {tensor.ternary for tensor in kept} == {way == "bitnet"}
        for tensor in kept:
            assert compressed.report["tensors"][tensor.name]["relative_rmse"] == 0
            array = model.model.graph.initializers[tensor.name].const_value.numpy()
            wanted = uses[tensor.name].to_matrix(array)
            np.testing.assert_array_equal(dequantize(compressed.packed[tensor.name]), wanted)

    @pytest.mark.parametrize("way", sorted(WAYS.keys() - KEPT.keys()))
    def test_what_fits_no_grid_is_quantized_like_floats(self, way: str, tmp_path: Path) -> None:
        save_quantized(tmp_path, way)
        plan = make_plan(simplify(load(tmp_path)), profiles.load("phone-8gb"), context_length=64)
        assert {tensor.quantizer for tensor in plan.tensors} == {"none", "rtn"}

    def test_choices_of_the_user_win(self, tmp_path: Path) -> None:
        save_quantized(tmp_path, "gptq")
        model = simplify(load(tmp_path))
        device = profiles.load("phone-8gb")
        for choice in ({"bits": 8}, {"quantizer": "rtn"}, {"precision": "float32"}):
            plan = make_plan(model, device, context_length=64, **choice)
            assert "grid" not in {tensor.quantizer for tensor in plan.tensors}

    def test_matrices_that_lose_features_are_no_grid_any_more(self, tmp_path: Path) -> None:
        save_quantized(tmp_path, "gptq")
        model = load(tmp_path).model
        name = "model.layers.0.mlp.down_proj.weight"
        assert weight_uses(model)[name].grid_bits == 4
        take(model.graph.initializers[name], 0, range(1, 96))
        assert weight_uses(model)[name].grid_bits is None

    def test_joined_linears_of_the_checkpoint(self, tmp_path: Path) -> None:
        reference = save_quantized(tmp_path, "awq", "phi3", pad_token_id=0)
        model = load(tmp_path)
        logits = prefill_and_steps(model, IDS, prefill=7)
        np.testing.assert_allclose(logits, reference_logits(reference, IDS), atol=1e-4)
        grids = {name: use.grid_bits for name, use in weight_uses(model.model).items()}
        assert [name for name, bits in grids.items() if bits is None] == ["model.embed_tokens.weight", "lm_head.weight"]

    def test_experts_one_by_one(self, tmp_path: Path) -> None:
        shapes = {"num_local_experts": 4, "num_experts_per_tok": 2}
        reference = save_quantized(tmp_path, "nf4", "mixtral", **shapes)
        logits = prefill_and_steps(load(tmp_path), IDS, prefill=7)
        np.testing.assert_allclose(logits, reference_logits(reference, IDS), atol=1e-4)

    def test_biases_of_zeros(self, tmp_path: Path) -> None:
        """AutoGPTQ writes them for linears without any."""
        reference = save_quantized(tmp_path, "gptq")
        tensors = load_file(tmp_path / "model.safetensors")
        bias = "model.layers.1.mlp.up_proj.bias"
        save_file({**tensors, bias: np.zeros(96, np.float16)}, tmp_path / "model.safetensors")
        logits = prefill_and_steps(load(tmp_path), IDS, prefill=7)
        np.testing.assert_allclose(logits, reference_logits(reference, IDS), atol=1e-4)
        save_file({**tensors, bias: np.full(96, 0.5, np.float16)}, tmp_path / "model.safetensors")
        with pytest.raises(ModelError, match=bias):
            load(tmp_path)


class TestRefusals:
    @pytest.mark.parametrize(
        ("way", "fields", "named"),
        [
            ("gptq", {"quant_method": "hqq"}, "quant_method"),
            ("gptq", {"quant_method": None}, "quant_method"),
            ("gptq", {"bits": 3}, "bits"),
            ("gptq", {"bits": None}, "bits"),
            ("gptq", {"checkpoint_format": "marlin"}, "checkpoint_format"),
            ("gptq", {"is_marlin_format": True}, "is_marlin_format"),
            ("gptq", {"pack_dtype": "int16"}, "pack_dtype"),
            ("gptq", {"dynamic": {"lm_head": {"bits": 8}}}, "dynamic"),
            ("gptq", {"rotation": "hadamard"}, "rotation"),
            ("gptq", {"group_size": 0}, "group_size"),
            ("gptq", {"group_size": "128"}, "group_size"),
            ("awq", {"version": "GEMV"}, "version"),
            ("awq", {"bits": 8}, "bits"),
            ("awq", {"zero_point": False}, "zero_point"),
            ("awq", {"backend": "llm-awq"}, "backend"),
            ("nf4", {"load_in_4bit": False, "load_in_8bit": True}, "load_in_4bit"),
            ("nf4", {"bnb_4bit_quant_type": "af4"}, "bnb_4bit_quant_type"),
            ("bitnet", {"use_rms_norm": True}, "use_rms_norm"),
            ("bitnet", {"linear_class": "other"}, "linear_class"),
            ("bitnet", {"modules_to_not_convert": "lm_head"}, "modules_to_not_convert"),
        ],
    )
    def test_fields(self, way: str, fields: dict[str, Any], named: str, tmp_path: Path) -> None:
        save_quantized(tmp_path, way)
        path = tmp_path / "config.json"
        config = json.loads(path.read_text())
        config["quantization_config"] |= fields
        path.write_text(json.dumps(config))
        assert f"quantization_config.{named}" in [problem.subject for problem in check(tmp_path)]
        with pytest.raises(UnsupportedError, match=rf"quantization_config\.{named}"):
            load(tmp_path)

    def test_no_object(self, tmp_path: Path) -> None:
        save_quantized(tmp_path, "gptq")
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": "gptq"}))
        with pytest.raises(ModelError, match="quantization_config"):
            load(tmp_path)

    def test_packed_tensors_without_a_configuration(self, tmp_path: Path) -> None:
        save_quantized(tmp_path, "gptq")
        path = tmp_path / "config.json"
        config = json.loads(path.read_text())
        del config["quantization_config"]
        path.write_text(json.dumps(config))
        assert [(problem.subject, problem.found) for problem in check(tmp_path)] == [("tensor dtype", "I32")]

    DAMAGE: tuple[tuple[str, str, Callable[[np.ndarray], np.ndarray] | None], ...] = (
        ("gptq", "qzeros", None),
        ("gptq", "scales", None),
        ("gptq", "scales", lambda array: array[:-1]),
        ("gptq", "scales", lambda array: array.astype(np.int32)),
        ("gptq", "qzeros", lambda array: array.T.copy()),
        ("gptq", "qweight", lambda array: array.reshape(-1)),
        ("gptq", "qweight", lambda array: array[:, :-1].copy()),
        ("gptq", "qweight", lambda array: array.astype(np.int64)),
        ("gptq", "g_idx", lambda array: array[:-8].copy()),
        ("gptq", "g_idx", lambda array: array + 1),
        ("gptq", "g_idx", lambda array: array - 1),
        ("awq", "qzeros", None),
        ("awq", "qweight", lambda array: array[:, :-1].copy()),
        ("awq", "scales", lambda array: array[:, :-8].copy()),
        ("nf4", "weight.absmax", None),
        ("nf4", "weight.quant_map", None),
        ("nf4", "weight", lambda array: array[:-1].copy()),
        ("nf4", "weight.absmax", lambda array: array[:-1].copy()),
        ("nf4", "weight.absmax", lambda array: array.astype(np.uint8)),
        ("nf4", "weight.quant_map", lambda array: array[:8].copy()),
        ("nf4-nested", "weight.nested_absmax", None),
        ("nf4-nested", "weight.nested_quant_map", lambda array: array[:16].copy()),
        ("nf4", "weight.quant_state.bitsandbytes__nf4", lambda array: array[:-1].copy()),
        ("nf4", "weight.quant_state.bitsandbytes__nf4", lambda array: np.frombuffer(b"[]", np.uint8)),
        ("nf4", "weight.quant_state.bitsandbytes__nf4", lambda array: np.frombuffer(b'{"shape": [4]}', np.uint8)),
        ("bitnet", "weight", None),
        ("bitnet", "weight", lambda array: array[:-1].copy()),
        ("bitnet", "weight", lambda array: array.astype(np.float16)),
        ("bitnet", "weight_scale", lambda array: np.repeat(array, 2)),
    )

    @pytest.mark.parametrize(("way", "part", "change"), DAMAGE)
    def test_tensors(
        self, way: str, part: str, change: Callable[[np.ndarray], np.ndarray] | None, tmp_path: Path
    ) -> None:
        """Each is named before a weight is read, or when the small tensor itself is."""
        save_quantized(tmp_path, way)
        tensors = load_file(tmp_path / "model.safetensors")
        name = f"model.layers.1.mlp.up_proj.{part}"
        array = tensors.pop(name)
        if change is not None:
            tensors[name] = change(array)
        save_file(tensors, tmp_path / "model.safetensors")
        with pytest.raises(EdgecError) as caught:
            load(tmp_path)
        assert isinstance(caught.value, ModelError | CorruptFileError | UnsupportedError)
        assert "model.layers.1.mlp.up_proj" in caught.value.message


def test_a_source_of_floats_has_no_grid(tiny_llama_copy: Path) -> None:
    uses = weight_uses(load(tiny_llama_copy).model)
    assert {use.grid_bits for use in uses.values()} == {None}
    assert dataclasses.is_dataclass(next(iter(uses.values())))
