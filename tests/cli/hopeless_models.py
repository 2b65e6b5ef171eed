"""Models that cannot be compiled, as a new user would try them. Each function writes one and returns its path.

Weights are sparse files of gigabytes, so that a refusal that reads them is noticed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import onnx
import onnx.helper as oh
from onnx import TensorProto

HUGE = 3 << 30


@dataclass(frozen=True)
class Hopeless:
    name: str
    make: Callable[[Path], Path]
    says: tuple[str, ...]  # parts of the message: the op or field, where it is, what to do


CASES: list[Hopeless] = []


def case(name: str, *says: str) -> Callable[[Callable[[Path], Path]], Callable[[Path], Path]]:
    def register(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
        CASES.append(Hopeless(name, make, says))
        return make

    return register


def safetensors(path: Path, tensors: Mapping[str, tuple[str, list[int]]], bytes_: int = HUGE) -> None:
    """A header and nothing but a hole behind it; the first tensor has all the bytes that the others leave."""
    header, at = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = 2 if dtype in ("BF16", "F16") else 4 if dtype in ("F32", "I32") else 1
        for extent in shape:
            size *= extent
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + min(at, bytes_))


WIDE = {"model.embed_tokens.weight": ("BF16", [1 << 16, 1 << 14])}
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 1 << 14,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "vocab_size": 1 << 16,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "max_position_embeddings": 128,
}


def folder(path: Path, config: Mapping[str, Any], tensors: Mapping[str, tuple[str, list[int]]] | None = None) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    safetensors(path / "model.safetensors", tensors or WIDE)
    return path


# Hugging Face folders


@case("mamba", "`config.json`", "`model_type` is 'mamba'", "supported: ")
def _mamba(at: Path) -> Path:
    return folder(at / "mamba-130m", {"architectures": ["MambaForCausalLM"], "model_type": "mamba", "hidden_size": 768})


@case("t5", "`config.json`", "`t5`", "T5ForConditionalGeneration", "Optimum")
def _t5(at: Path) -> Path:
    return folder(at / "t5", {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "d_model": 512})


@case("vision-language", "`config.json`", "Qwen2VLForConditionalGeneration", "`qwen2_vl`", "Optimum")
def _vision_language(at: Path) -> Path:
    config = {"architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl", "vision_config": {}}
    return folder(at / "qwen2-vl", config)


@case("unknown-quantization", "`config.json`", "quantization_config", "aqlm", "supported: ")
def _unknown_quantization(at: Path) -> Path:
    return folder(
        at / "llama-aqlm", {**LLAMA, "quantization_config": {"quant_method": "aqlm", "nbits_per_codebook": 16}}
    )


@case("unknown-activation", "`config.json`", "`hidden_act`", "quadratic", "supported: ")
def _activation(at: Path) -> Path:
    return folder(at / "llama-quadratic", {**LLAMA, "hidden_act": "quadratic"})


@case("lora", "`adapter_config.json`", "meta/llama", "merge")
def _lora(at: Path) -> Path:
    path = at / "my-adapter"
    path.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": "meta/llama", "r": 8}
    (path / "adapter_config.json").write_text(json.dumps(config))
    safetensors(path / "adapter_model.safetensors", WIDE)
    return path


@case("diffusion", "`model_index.json`", "StableDiffusionPipeline", "one of its parts", "unet")
def _diffusion(at: Path) -> Path:
    path = at / "stable-diffusion"
    (path / "unet").mkdir(parents=True)
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (path / "model_index.json").write_text(json.dumps(index))
    return path


@case("pickle-only", "`pytorch_model.bin`", "pickle", "safetensors")
def _pickle_only(at: Path) -> Path:
    path = folder(at / "old-llama", LLAMA)
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    return path


@case("config-alone", "`no-weights`", "model.safetensors", "download")
def _config_alone(at: Path) -> Path:
    path = folder(at / "no-weights", LLAMA)
    (path / "model.safetensors").unlink()
    return path


@case("no-config", "config.json", "there is no")
def _no_config(at: Path) -> Path:
    path = at / "weights-only"
    path.mkdir()
    safetensors(path / "model.safetensors", WIDE)
    return path


@case("empty-directory", "config.json", "there is no")
def _empty(at: Path) -> Path:
    (at / "empty").mkdir()
    return at / "empty"


@case("truncated-safetensors", "`model.safetensors`", "truncated", "download")
def _truncated(at: Path) -> Path:
    path = folder(at / "half-llama", LLAMA)
    with (path / "model.safetensors").open("r+b") as stream:
        stream.truncate(1 << 20)
    return path


@case("git-lfs-pointer", "`model.safetensors`", "Git LFS", "git lfs pull")
def _pointer(at: Path) -> Path:
    path = folder(at / "cloned-llama", LLAMA)
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 3221225472\n"
    (path / "model.safetensors").write_text(text)
    return path


# Files of other tools


@case("pytorch-pt", "`model.pt`", "PyTorch", "ONNX")
def _pt(at: Path) -> Path:
    (at / "model.pt").write_bytes(b"PK\x03\x04" + b"\0" * 100)
    return at / "model.pt"


@case("tflite", "`model.tflite`", "TensorFlow Lite", "ONNX")
def _tflite(at: Path) -> Path:
    (at / "model.tflite").write_bytes(b"\x1c\0\0\0TFL3" + b"\0" * 100)
    return at / "model.tflite"


@case("lonely-safetensors", "`model.safetensors`", "config.json")
def _lonely(at: Path) -> Path:
    safetensors(at / "model.safetensors", WIDE)
    return at / "model.safetensors"


@case("empty-onnx", "`model.onnx`", "empty", "download")
def _empty_onnx(at: Path) -> Path:
    (at / "model.onnx").touch()
    return at / "model.onnx"


@case("html-as-onnx", "`model.onnx`", "not an ONNX model", "download")
def _html(at: Path) -> Path:
    (at / "model.onnx").write_text("<!doctype html><title>404</title>" * 30)
    return at / "model.onnx"


# GGUF


def gguf_file(path: Path, architecture: str, **keys: int) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in keys.items():
        writer.add_uint16(key.replace("_", ".", 1), value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@case("gguf-architecture", "`general.architecture`", "rwkv7", "supported: ")
def _gguf_architecture(at: Path) -> Path:
    return gguf_file(at / "rwkv.gguf", "rwkv7")


@case("gguf-split", "`split.count`", "3", "gguf-split --merge")
def _gguf_split(at: Path) -> Path:
    return gguf_file(at / "llama-00001-of-00003.gguf", "llama", split_count=3, split_no=0)


@case("empty-gguf", "`model.gguf`", "empty", "download")
def _empty_gguf(at: Path) -> Path:
    (at / "model.gguf").touch()
    return at / "model.gguf"


# ONNX


def graph(at: Path, nodes: list[onnx.NodeProto], kinds: Mapping[str, int], out: int = 1, **domains: int) -> Path:
    made = oh.make_graph(
        nodes,
        "g",
        [oh.make_tensor_value_info(name, kind, [4] if name == "x" else []) for name, kind in kinds.items()],
        [oh.make_tensor_value_info("y", out, [4])],
    )
    sets = [oh.make_opsetid("", 23), *(oh.make_opsetid(name, version) for name, version in domains.items())]
    path = at / "model.onnx"
    path.write_bytes(oh.make_model(made, opset_imports=sets, ir_version=10).SerializeToString())
    return path


@case("custom-operator", "`my.lab.Magic`", "(wand)", "outside the ONNX standard")
def _custom(at: Path) -> Path:
    return graph(at, [oh.make_node("Magic", ["x"], ["y"], "wand", domain="my.lab")], {"x": 1}, **{"my.lab": 1})


@case("two-operators", "`Multinomial`", "(dice)", "`Bernoulli`", "(coin)")
def _two(at: Path) -> Path:
    nodes = [
        oh.make_node("Bernoulli", ["x"], ["b"], "coin"),
        oh.make_node("Multinomial", ["b"], ["m"], "dice", sample_size=4),
        oh.make_node("Cast", ["m"], ["y"], to=1),
    ]
    return graph(at, nodes, {"x": 1})


def _loop_graph(at: Path, hint: str) -> Path:
    value = oh.make_tensor_value_info
    body = oh.make_graph(
        [oh.make_node("Identity", ["c"], ["d"]), oh.make_node("Sqrt", ["s"], ["t"])],
        "body",
        [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), value("s", 1, [4])],
        [value("d", TensorProto.BOOL, []), value("t", 1, [4])],
    )
    return graph(at, [oh.make_node("Loop", ["n", "", "x"], ["y"], hint, body=body)], {"x": 1, "n": TensorProto.INT64})


@case("loop-of-unknown-length", "`M` of `Loop`", "(steps)", "`n`", "--fix-input n=VALUE")
def _loop(at: Path) -> Path:
    return _loop_graph(at, "steps")


@case("texts", "`x`", "a tensor of texts", "tensors of numbers")
def _texts(at: Path) -> Path:
    node = oh.make_node("StringNormalizer", ["x"], ["y"])
    return graph(at, [node], {"x": TensorProto.STRING}, TensorProto.STRING)


@case("sequences", "`SequenceConstruct`", "(pack)", "an operator without a kernel")
def _sequences(at: Path) -> Path:
    nodes = [
        oh.make_node("Erf", ["x"], ["e"]),
        oh.make_node("SequenceConstruct", ["x", "e"], ["s"], "pack"),
        oh.make_node("ConcatFromSequence", ["s"], ["y"], axis=0),
    ]
    return graph(at, nodes, {"x": 1})


@case("data-outside", "`../../secret.bin`", "`w`", "folder")
def _outside(at: Path) -> Path:
    path = graph(at, [oh.make_node("Add", ["x", "w"], ["y"])], {"x": 1})
    model = onnx.load(path, load_external_data=False)
    tensor = model.graph.initializer.add(name="w", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../secret.bin")
    path.write_bytes(model.SerializeToString())
    return path


@case("data-missing", "`weights.bin`", "`w`", "missing", "together in one folder")
def _missing(at: Path) -> Path:
    path = _outside(at)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "weights.bin"
    path.write_bytes(model.SerializeToString())
    return path
