import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgec import profiles
from edgec.compress import compress
from edgec.errors import CorruptFileError, EdgecError, ModelError, UnsupportedError
from edgec.frontend import check, load
from edgec.frontend.gguf_file import GGUFFile
from edgec.frontend.hf_config import decoder_config
from edgec.ir.weight_use import weight_uses
from edgec.passes import simplify
from edgec.plan import make_plan
from tests.frontend.decoders import prefill_and_steps, reference_logits, save_reference
from tests.frontend.gguf_families import CASES, write_family
from tests.frontend.gguf_files import write_gguf

IDS = np.random.default_rng(5).integers(0, 131, 24).tolist()
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
Kind = gguf.GGMLQuantizationType


def convert(folder: Path, **options: Any) -> Path:
    path = folder / "model.gguf"
    config = json.loads((folder / "config.json").read_text())
    write_gguf(path, folder, decoder_config(config), rope_theta=config["rope_theta"], **options)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A whole file, to be damaged."""
    folder = tmp_path_factory.mktemp("gguf")
    save_reference(folder, "llama", num_hidden_layers=1)
    return convert(folder).read_bytes()


class TestWholeModels:
    @pytest.mark.parametrize(
        ("family", "config"),
        [
            ("llama", {"tie_word_embeddings": True}),
            ("llama", {"tie_word_embeddings": False, "head_dim": 16, "attention_bias": True}),
            ("mistral", {"sliding_window": None, "head_dim": 8}),
            ("qwen2", {"tie_word_embeddings": True}),
        ],
    )
    def test_logits_equal_transformers(self, family: str, config: dict[str, Any], tmp_path: Path) -> None:
        reference = save_reference(tmp_path, family, **config)
        logits = prefill_and_steps(load(convert(tmp_path)), IDS, prefill=8)
        np.testing.assert_allclose(logits, reference_logits(reference, IDS), atol=1e-4)

    @pytest.mark.parametrize("family", CASES)
    def test_families_equal_transformers(self, family: str, tmp_path: Path) -> None:
        # No key says how Gemma scales its queries; llama.cpp takes the head dimension, except for the 27B model.
        fields = {"query_pre_attn_scalar": 8} if family in ("gemma2", "gemma3") else {}
        if family == "gemma3":
            fields = {**fields, "num_hidden_layers": 6, "layer_types": ["sliding_attention"] * 5 + ["full_attention"]}
        if family == "smollm3":
            fields = {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0], "layer_types": ["full_attention"] * 4}
        if family == "qwen3-moe":
            fields = {"mlp_only_layers": [], "norm_topk_prob": True}  # as every file of this architecture
        if family == "olmoe":
            fields = {"norm_topk_prob": False}
        reference = save_reference(tmp_path, family, plain=False, **fields)
        write_family(tmp_path / "model.gguf", tmp_path, family)
        model = load(tmp_path / "model.gguf")
        logits = prefill_and_steps(model, IDS, prefill=8)
        np.testing.assert_allclose(logits, reference_logits(reference, IDS), atol=1e-4)
        assert model.decoder == load(tmp_path).decoder

    def test_same_weights_as_from_the_hugging_face_folder(self, tmp_path: Path) -> None:
        save_reference(tmp_path, "llama", tie_word_embeddings=False)
        one, other = load(tmp_path).model.graph.initializers, load(convert(tmp_path)).model.graph.initializers
        assert set(one) == set(other)
        for name, value in one.items():
            tensor, same = value.const_value, other[name].const_value
            assert tensor is not None and same is not None
            np.testing.assert_array_equal(tensor.numpy(), same.numpy(), err_msg=name)

    def test_llama3_rope_comes_as_divisors(self, tmp_path: Path) -> None:
        reference = save_reference(tmp_path, "llama", rope_scaling=LLAMA3, rope_theta=500.0)
        scaled = load(tmp_path).model.graph.initializers["rope.inv_freq"].const_value.numpy()  # type: ignore[union-attr]
        plain = np.float32(1) / np.float32(500.0) ** (np.arange(0, 8, 2, dtype=np.float32) / 8)
        path = convert(tmp_path, tensors={"rope_freqs.weight": (plain / scaled).astype(np.float32)})
        logits = prefill_and_steps(load(path), IDS, prefill=8)
        np.testing.assert_allclose(logits, reference_logits(reference, IDS), atol=1e-4)

    def test_linear_rope(self, tmp_path: Path) -> None:
        reference = save_reference(tmp_path, "llama", rope_scaling={"rope_type": "linear", "factor": 2.5})
        path = convert(tmp_path, metadata={"rope.scaling.type": "linear", "rope.scaling.factor": 2.5})
        logits = prefill_and_steps(load(path), IDS, prefill=8)
        np.testing.assert_allclose(logits, reference_logits(reference, IDS), atol=1e-4)

    def test_sampling_defaults_and_facts(self, tmp_path: Path) -> None:
        save_reference(tmp_path, "llama")

        def extra(writer: gguf.GGUFWriter) -> None:
            writer.add_float32("general.sampling.temp", 0.2)
            writer.add_int32("general.sampling.top_k", 40)
            writer.add_string("general.license", "mit")

        model = load(convert(tmp_path, tokenizer=extra), name="small")
        assert model.generation == {"temperature": 0.2, "top_k": 40}
        assert (model.facts.name, model.facts.license, model.facts.source_format) == ("small", "mit", "gguf")
        assert model.tokenizer is None


class TestTensorTypes:
    @pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1])
    def test_values(self, kind: gguf.GGMLQuantizationType, tmp_path: Path) -> None:
        rows = np.random.default_rng(1).normal(size=(6, 64)).astype(np.float32)
        writer = gguf.GGUFWriter(tmp_path / "t.gguf", "llama")
        packed = gguf.quants.quantize(rows, kind)
        writer.add_tensor("t", packed, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        values = GGUFFile(tmp_path / "t.gguf").read("t")
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, gguf.quants.dequantize(packed, kind))
        assert np.abs(values - rows).max() < (0.02 if kind in (Kind.F16, Kind.BF16, Kind.Q8_0) else 0.5)

    @pytest.mark.parametrize(("kind", "bits"), [(Kind.Q4_0, 4), (Kind.Q4_1, None), (Kind.F32, None)])
    def test_a_grid_that_ours_holds(self, kind: gguf.GGMLQuantizationType, bits: int | None, tmp_path: Path) -> None:
        """Q4_0's codes are kept as they are; the minimum of a Q4_1 block is no whole number of steps."""
        save_reference(tmp_path, "llama", hidden_size=64, num_attention_heads=4, intermediate_size=96)
        model = simplify(load(convert(tmp_path, tensor_type=kind)))
        assert {use.grid_bits for use in weight_uses(model.model).values()} == {bits}
        compressed = compress(model, make_plan(model, profiles.load("phone-8gb"), context_length=64))
        kept = [tensor for tensor in compressed.plan.tensors if tensor.quantizer == "grid"]
        assert bool(kept) == (bits is not None)
        for tensor in kept:
            assert compressed.report["tensors"][tensor.name]["relative_rmse"] == 0

    @pytest.mark.parametrize("kind", [Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K])
    def test_k_quants(self, kind: gguf.GGMLQuantizationType, tmp_path: Path) -> None:
        """Random blocks: the package can read K-quants, not write them."""
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        packed = np.random.default_rng(2).integers(0, 60, (3, 2 * block_bytes), dtype=np.uint8)
        writer = gguf.GGUFWriter(tmp_path / "t.gguf", "llama")
        writer.add_tensor("t", packed, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        values = GGUFFile(tmp_path / "t.gguf").read("t")
        assert values.shape == (3, 2 * block)
        np.testing.assert_array_equal(values, gguf.quants.dequantize(packed, kind))

    def test_other_types_are_refused(self, tmp_path: Path) -> None:
        save_reference(tmp_path, "llama", hidden_size=256, num_attention_heads=8, intermediate_size=256)
        path = convert(tmp_path)
        data = path.read_bytes()
        marker = b"blk.0.ffn_up.weight" + struct.pack("<IQQ", 2, 256, 256)
        position = data.index(marker) + len(marker)
        path.write_bytes(data[:position] + struct.pack("<I", Kind.IQ4_XS) + data[position + 4 :])
        assert [str(problem.found) for problem in check(path)] == ["IQ4_XS"]
        with pytest.raises(UnsupportedError, match="`tensor type` is IQ4_XS"):
            load(path)


class TestRefusals:
    @pytest.mark.parametrize(
        ("metadata", "named"),
        [
            ({"expert_shared_count": 8}, "llama.expert_shared_count"),
            ({"final_logit_softcapping": 30.0}, "llama.final_logit_softcapping"),
            ({"logit_scale": 0.5}, "llama.logit_scale"),
            ({"rope.scaling.type": "longrope"}, "llama.rope.scaling.type"),
            ({"attention.value_length": 4}, "llama.attention.value_length"),
        ],
    )
    def test_metadata(self, metadata: dict[str, Any], named: str, tmp_path: Path) -> None:
        save_reference(tmp_path, "llama", num_hidden_layers=1)
        path = convert(tmp_path, metadata=metadata)
        assert [problem.subject for problem in check(path)] == [named]
        with pytest.raises(UnsupportedError, match=named):
            load(path)

    def test_architecture(self, small: bytes, tmp_path: Path) -> None:
        path = tmp_path / "m.gguf"
        path.write_bytes(small.replace(b"llama", b"mamba"))
        with pytest.raises(
            UnsupportedError, match=r"`general.architecture` is 'mamba' \(supported: llama, qwen2, .*falcon\)"
        ):
            load(path)

    def test_missing_metadata(self, tmp_path: Path) -> None:
        save_reference(tmp_path, "llama", num_hidden_layers=1)
        with pytest.raises(ModelError, match=r"lacks the metadata key `llama\.block_count`"):
            load(convert(tmp_path, metadata={"block_count": None}))

    def test_rotation_of_more_than_a_head(self, tmp_path: Path) -> None:
        save_reference(tmp_path, "llama", num_hidden_layers=1)
        with pytest.raises(ModelError, match="10 of 8 features of a head rotate"):
            load(convert(tmp_path, metadata={"rope.dimension_count": 10}))

    def test_wrong_layer_count(self, tmp_path: Path) -> None:
        save_reference(tmp_path, "llama", num_hidden_layers=1)
        with pytest.raises(ModelError, match=r"lacks `blk\.1\.attn_norm\.weight`"):
            load(convert(tmp_path, metadata={"block_count": 2}))

    def test_metadata_of_another_type(self, tmp_path: Path) -> None:
        save_reference(tmp_path, "llama", num_hidden_layers=1)
        with pytest.raises(ModelError, match=r"`llama\.context_length` .* expected a non-negative integer"):
            load(convert(tmp_path, metadata={"context_length": "long"}))


class TestDamage:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda data: b"", "is empty"),
            (lambda data: b"GG", "at byte 2"),
            (lambda data: data[:20], "at byte 20: it ends inside the header"),
            (lambda data: b"GGML" + data[4:], "at byte 0: it starts with b'GGML'"),
            (lambda data: data[:8] + struct.pack("<Q", 1 << 50) + data[16:], "at byte 8"),
            (lambda data: data[:16] + struct.pack("<Q", 1 << 50) + data[24:], "at byte 8"),
            (lambda data: data[:24] + struct.pack("<Q", 1 << 60) + data[32:], "the file ends inside a metadata key"),
            (lambda data: data[:450], "at byte 450"),
            (lambda data: data[:-1], "the file is truncated, tensor `.*` is at bytes"),
            (lambda data: data[: len(data) // 2], "the file is truncated"),
            (lambda data: data.replace(b"blk.0.ffn_up", b"blk.0.ffn_\xff\xff"), "is not UTF-8"),
            (lambda data: data.replace(b"blk.0.attn_q.weight", b"blk.0.attn_k.weight"), "is there twice"),
        ],
    )
    def test_place_of_the_fault(self, change: Any, message: str, small: bytes, tmp_path: Path) -> None:
        path = tmp_path / "m.gguf"
        path.write_bytes(change(small))
        with pytest.raises(CorruptFileError, match=message):
            load(path)

    def test_versions(self, small: bytes, tmp_path: Path) -> None:
        path = tmp_path / "m.gguf"
        for raw, message in ((struct.pack("<I", 1), "version 1"), (struct.pack(">I", 3), "big-endian version 3")):
            path.write_bytes(small[:4] + raw + small[8:])
            with pytest.raises(UnsupportedError, match=message):
                load(path)

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_no_damage_to_the_header_makes_a_traceback(self, data: st.DataObject, small: bytes, tmp_path: Path) -> None:
        header = small.index(b"output_norm.weight") + 60
        damaged = bytearray(small)
        for _ in range(data.draw(st.integers(1, 4))):
            damaged[data.draw(st.integers(0, header))] = data.draw(st.integers(0, 255))
        path = tmp_path / "m.gguf"
        path.write_bytes(damaged)
        try:
            load(path)
        except EdgecError as error:
            assert error.message
