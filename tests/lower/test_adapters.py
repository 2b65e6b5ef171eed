"""Adapters that come and go at run time, against `transformers` with the same numbers in its weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir
import pytest

import edgec.bundle
import edgec.run
from edgec import profiles
from edgec.adapters import make_adapter
from edgec.bundle.adapters import part_bytes
from edgec.compress import compress, dequantized_model
from edgec.frontend import load
from edgec.frontend.lora import Adapter, linears
from edgec.ir import ModelIR
from edgec.lower.wasm import lower
from edgec.passes import simplify
from edgec.plan import make_plan
from edgec.run import Model
from tests.adapters import ALPHA, RANK, adapt, write_adapter
from tests.frontend.decoders import prefill_and_steps, reference_logits, save_reference

Logits = npt.NDArray[np.float32]
IDS = np.random.default_rng(3).integers(3, 130, 23).tolist()
ALL = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()


def compile_with_room(
    source: Path, out: Path, *, rank: int = 16, variants: tuple[str, ...] = ("simd128",), **choices: object
) -> ModelIR:
    model = simplify(load(source))
    plan = make_plan(model, profiles.load("phone-8gb"), context_length=64, adapter_rank=rank, **choices)  # type: ignore[arg-type]
    compressed = compress(model, dataclasses.replace(plan, prefill_chunk=10, variants=variants))
    edgec.bundle.write(lower(compressed), model=model, plan=compressed.plan, accuracy={}, out=out)
    return model


def write(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


def logits(running: Model) -> Logits:
    """Of a prefill of two chunks and a part, and of decoded tokens; both have to give the same."""
    prefilled = np.stack(list(running.logits(IDS)))
    state = running._require_decoder()
    state.reset()
    decoded = []
    for token in IDS:
        state.decode(token)
        decoded.append(state.logits())
    np.testing.assert_array_equal(prefilled, np.stack(decoded))
    return prefilled


@pytest.mark.parametrize(
    ("family", "ends"),
    [
        ("llama", ALL),  # three inner values of one input, gates and ups in turns
        ("phi3", ["qkv_proj", "gate_up_proj", "down_proj"]),  # joined in the checkpoint
        ("gpt2", ["c_attn", "c_fc", "c_proj"]),  # no gate, biases, transposed
        ("cohere", ["q_proj", "k_proj", "up_proj"]),  # parallel branches of one input, interleaved rotation
        ("olmo2", ["o_proj", "down_proj", "v_proj"]),  # norms after the branches
        ("qwen3-moe", ["q_proj", "o_proj"]),  # layers with experts
    ],
)
def test_float32_equals_transformers(tmp_path: Path, family: str, ends: list[str]) -> None:
    model = save_reference(tmp_path / "model", family, plain=False)
    plain = reference_logits(model, IDS)
    compile_with_room(tmp_path / "model", tmp_path / "base.edgec", precision="float32")
    adapt(model, tmp_path / "adapter", ends, scale=ALPHA / RANK)
    wanted = reference_logits(model, IDS)
    content = make_adapter(tmp_path / "adapter", tmp_path / "base.edgec", source=tmp_path / "model")
    with edgec.run.load(tmp_path / "base.edgec") as running:
        before = logits(running)
        np.testing.assert_allclose(before, plain, rtol=0, atol=1e-4)
        name = running.load_adapter(write(tmp_path / "a.lora", content))
        running.use_adapter(name)
        np.testing.assert_allclose(logits(running), wanted, rtol=0, atol=2e-4)
        assert np.abs(wanted - plain).max() > 0.05
        running.use_adapter(None)
        np.testing.assert_array_equal(logits(running), before)


@pytest.fixture(scope="module")
def quantized(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    variants = ("simd128", "relaxed", "relaxed16", "simd128-threads", "relaxed-threads")
    compile_with_room(tiny_llama, folder / "base.edgec", bits=4, group_size=64, variants=variants)
    shapes = {
        f"model.layers.{layer}.{name}": shape
        for layer in range(2)
        for name, shape in {
            "self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "mlp.gate_proj": (96, 64),
            "mlp.up_proj": (96, 64), "mlp.down_proj": (64, 96),
        }.items()
    }  # fmt: skip
    for name, seed, rank in (("one", 1, 4), ("two", 2, 16)):
        write_adapter(folder / name, shapes, seed=seed, rank=rank)
        write(folder / f"{name}.lora", make_adapter(folder / name, folder / "base.edgec"))
    return folder


def test_variants_and_threads_agree_to_the_bit(quantized: Path) -> None:
    def run(variant: str, threads: int) -> list[Logits]:
        with edgec.run.load(quantized / "base.edgec", variant=variant, threads=threads) as running:
            assert running.self_test().passed is None
            results = []
            for name in ("one", "two", "one", None):
                if name is not None:
                    running.load_adapter(quantized / f"{name}.lora")
                running.use_adapter(name)
                results.append(logits(running))
            return results

    wanted = run("simd128", 1)
    np.testing.assert_array_equal(wanted[0], wanted[2])
    assert np.abs(wanted[0] - wanted[1]).max() > 0.05
    for variant, threads in (("relaxed", 1), ("relaxed16", 1), ("simd128-threads", 3), ("relaxed-threads", 2)):
        for one, other in zip(run(variant, threads), wanted, strict=True):
            np.testing.assert_array_equal(one, other)


def test_without_an_adapter_the_bits_are_those_of_a_bundle_without_room(
    tiny_llama: Path, quantized: Path, tmp_path: Path
) -> None:
    model = simplify(load(tiny_llama))
    plan = make_plan(model, profiles.load("phone-8gb"), context_length=64, bits=4, group_size=64)
    compressed = compress(model, dataclasses.replace(plan, prefill_chunk=10, variants=("simd128",)))
    edgec.bundle.write(lower(compressed), model=model, plan=compressed.plan, accuracy={}, out=tmp_path / "plain.edgec")
    with edgec.run.load(tmp_path / "plain.edgec") as plain, edgec.run.load(quantized / "base.edgec") as base:
        np.testing.assert_array_equal(logits(plain), logits(base))


def test_quantized_is_near_the_merged_model(tiny_llama: Path, quantized: Path) -> None:
    """The adapter reads activations of 8 bits, as the base does, whose weights of 4 bits are the same in both. It adds
    more than the weights have, and so about as much error again."""
    model = simplify(load(tiny_llama))
    plan = make_plan(model, profiles.load("phone-8gb"), context_length=64, bits=4, group_size=64)
    floats = dequantized_model(compress(model, plan))
    space = edgec.bundle.read(quantized / "base.edgec").manifest.adapters
    assert space is not None
    shapes = {linear.name: (linear.rows, linear.columns) for linear in space.linears}
    plain = prefill_and_steps(floats, IDS, prefill=12)
    initializers = floats.model.graph.initializers
    pairs = linears(Adapter(quantized / "two"), shapes, "llama", None)
    for name, value in initializers.items():
        prefix = name.rpartition(".")[0]
        parts = {"q_k_v_proj": ("q", "k", "v"), "gate_up_proj": ("gate", "up"), "down_proj": ("down",)}
        tensor = value.const_value
        names = parts.get(prefix.rpartition(".")[2], ())
        if not names or tensor is None or not name.endswith(".weight"):
            continue
        stem = prefix.rpartition(".")[0]
        deltas = []
        for part in names:
            pair = pairs.get(f"{stem}.{part}_proj")
            rows, columns = shapes[f"{stem}.{part}_proj"]
            deltas.append(np.zeros((columns, rows)) if pair is None else (pair.up @ pair.down).T * pair.scale)
        value.const_value = onnx_ir.tensor((tensor.numpy() + np.concatenate(deltas, 1)).astype(np.float32), name=name)
    wanted = prefill_and_steps(floats, IDS, prefill=12)
    with edgec.run.load(quantized / "base.edgec") as running:
        base_error = np.sqrt(np.square(logits(running) - plain).mean()) / plain.std()
        running.use_adapter(running.load_adapter(quantized / "two.lora"))
        error = np.sqrt(np.square(logits(running) - wanted).mean()) / wanted.std()
    assert base_error < 0.02 and error < 2 * base_error


def test_the_plan_has_the_room(tiny_llama: Path, quantized: Path) -> None:
    manifest = edgec.bundle.read(quantized / "base.edgec").manifest
    space = manifest.adapters
    assert space is not None and len(space.linears) == 14
    taken = sum(
        -(-part_bytes(linear, part, space.rank) // 64) * 64
        for linear in space.linears
        for part in ("scales", "down", "up")
    )
    assert manifest.plan["adapters"]["bytes"] == taken + 64
    prediction = manifest.plan["prediction"]
    assert prediction["peak_bytes"] == pytest.approx(manifest.memory.maximum_bytes, rel=0.15)
