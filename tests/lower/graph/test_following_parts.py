"""A part that follows another reads what that one left in memory, and appends to its state call by call."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import onnx.helper as oh
import pytest
import wasmtime

from edgec.errors import ModelError, UnsupportedError
from edgec.ir import GraphPart, LoweredModule, ModelIR
from edgec.passes import simplify
from tests.lower.graph.harness import EACH, WasmGraph, lowered, make_model
from tests.passes.graphs import run

RNG = np.random.default_rng(11)
HEADS, SIZE, VOCABULARY = 2, 5, 37
WIDTH = HEADS * SIZE
STATE = {"present.key": "past.key", "present.value": "past.value"}
PARTS = {
    "encode": GraphPart(("audio",), ("states",)),
    "decode": GraphPart(("tokens",), ("logits",), follows="encode", state=STATE),
}


def model(*, appended: bool = True) -> ModelIR:
    """Attention of one token to all before it and to the encoder's rows, half as many as samples."""
    weights = {
        "filter": RNG.normal(size=(WIDTH, 1, 4)),
        "cross": RNG.normal(size=(WIDTH, WIDTH)),
        "table": RNG.normal(size=(VOCABULARY, WIDTH)),
        "key": RNG.normal(size=(WIDTH, WIDTH)),
        "value": RNG.normal(size=(WIDTH, WIDTH)),
        "head": RNG.normal(size=(WIDTH, VOCABULARY)),
    }
    shapes = {
        "middle": np.array([1], np.int64),
        "split": np.array([0, 0, HEADS, SIZE], np.int64),
        "joined": np.array([0, 0, WIDTH], np.int64),
    }
    nodes = [
        oh.make_node("Unsqueeze", ["audio", "middle"], ["wide"]),
        oh.make_node("Conv", ["wide", "filter"], ["conv"], strides=[2], pads=[1, 1]),
        oh.make_node("Transpose", ["conv"], ["states"], perm=[0, 2, 1]),
        oh.make_node("MatMul", ["states", "cross"], ["seen"]),
        oh.make_node("Gather", ["table", "tokens"], ["embedded"]),
        *(
            node
            for name in ("key", "value")
            for node in (
                oh.make_node("MatMul", ["embedded", name], [f"{name}.flat"]),
                oh.make_node("Reshape", [f"{name}.flat", "split"], [f"{name}.split"]),
                oh.make_node("Transpose", [f"{name}.split"], [f"{name}.new"], perm=[0, 2, 1, 3]),
                oh.make_node(
                    "Concat",
                    [f"past.{name}", f"{name}.new"] if appended else [f"{name}.new", f"past.{name}"],
                    [f"present.{name}"],
                    axis=2,
                ),
            )
        ),
        oh.make_node("Transpose", ["present.key"], ["turned"], perm=[0, 1, 3, 2]),
        oh.make_node("MatMul", ["key.new", "turned"], ["scores"]),
        oh.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        oh.make_node("MatMul", ["weights", "present.value"], ["found"]),
        oh.make_node("Transpose", ["found"], ["back"], perm=[0, 2, 1, 3]),
        oh.make_node("Reshape", ["back", "joined"], ["own"]),
        oh.make_node("Transpose", ["seen"], ["rows"], perm=[0, 2, 1]),
        oh.make_node("MatMul", ["own", "rows"], ["heard"]),
        oh.make_node("MatMul", ["heard", "seen"], ["mixed"]),
        oh.make_node("Add", ["mixed", "own"], ["sum"]),
        oh.make_node("MatMul", ["sum", "head"], ["logits"]),
    ]
    past = ("f", [1, HEADS, "past", SIZE])
    inputs = {"audio": ("f", [1, "samples"]), "tokens": ("i", [1, 1]), "past.key": past, "past.value": past}
    outputs = dict.fromkeys(["states", "logits", *STATE], "f")
    floats = {name: (array / 3).astype(np.float32) for name, array in weights.items()}
    made = make_model(nodes, inputs, outputs, floats | shapes)
    return dataclasses.replace(made, parts=PARTS)


class Session:
    """Both entry points on one memory."""

    def __init__(self, module: LoweredModule, variant: str) -> None:
        self.graph = WasmGraph(module, variant, "encode")
        self.module = module

    def encode(self, audio: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        self.samples = audio.shape[1]
        [states] = self.graph({"audio": audio})
        return states

    def decode(self, token: int, past: int) -> npt.NDArray[np.float32]:
        [slot] = [slot for slot in self.module.inputs if slot.name == "tokens"]
        self.graph.memory.write(self.graph.store, np.int64(token).tobytes(), slot.offset)
        entry = self.graph.exports["decode"]
        assert isinstance(entry, wasmtime.Func)
        assert entry(self.graph.store, 0, 1, past, self.samples) == 0
        [slot] = [slot for slot in self.module.outputs if slot.name == "logits"]
        content = self.graph.memory.read(self.graph.store, slot.offset, slot.offset + 4 * VOCABULARY)
        return np.frombuffer(bytes(content), np.float32)


def reference(source: ModelIR, audio: npt.NDArray[np.float32], tokens: list[int]) -> list[npt.NDArray[np.float32]]:
    """onnxruntime, which computes everything in each step."""
    state = {before: np.zeros((1, HEADS, 0, SIZE), np.float32) for before in STATE.values()}
    logits = []
    for token in tokens:
        feed = {"audio": audio, "tokens": np.array([[token]], np.int64), **state}
        _, found, *present = run(source.model, feed)
        state = dict(zip(STATE.values(), present, strict=True))
        logits.append(found[0, 0])
    return logits


@pytest.mark.parametrize("variant", EACH)
def test_steps_equal_onnxruntime(variant: str) -> None:
    source = model()
    module = lowered(simplify(source), dims={"samples": 40, "past": 9}, variants=[variant])
    assert [(e.name, e.parameters, e.inputs, e.outputs) for e in module.entry_points] == [
        ("encode", ("samples",), ("audio",), ("states",)),
        ("decode", ("past", "samples"), ("tokens",), ("logits",)),
    ]
    assert [slot.name for slot in module.inputs] == ["audio", "tokens"]
    assert [slot.name for slot in module.outputs] == ["states", "logits"]
    session = Session(module, variant)
    for samples, count in ((40, 10), (7, 4), (2, 1), (33, 10)):  # a new sound starts over, whatever the memory holds
        audio = RNG.normal(size=(1, samples)).astype(np.float32)
        tokens = RNG.integers(0, VOCABULARY, count).tolist()
        assert session.encode(audio).shape == (1, (samples - 2) // 2 + 1, WIDTH)
        for past, (token, expected) in enumerate(zip(tokens, reference(source, audio, tokens), strict=True)):
            found = session.decode(token, past)
            assert np.abs(found - expected).max() <= 2e-5 * max(1, np.abs(expected).max())


def test_the_encoder_is_computed_once() -> None:
    """The decoder's entry point has neither the convolution nor the product with the encoder's rows."""
    source = simplify(model())
    module = lowered(source, dims={"samples": 40, "past": 9}, variants=["simd128"])
    session = Session(module, "simd128")
    audio = RNG.normal(size=(1, 20)).astype(np.float32)
    session.encode(audio)
    before = session.decode(3, 0)
    [slot] = [slot for slot in module.inputs if slot.name == "audio"]
    session.graph.memory.write(session.graph.store, bytes(4 * 40), slot.offset)
    assert np.array_equal(session.decode(3, 0), before)


def test_a_state_grows_at_its_end() -> None:
    with pytest.raises(UnsupportedError, match=r"`present\.key` is not the input `past\.key` with more after it"):
        lowered(simplify(model(appended=False)), dims={"samples": 40, "past": 9})


def test_parts_are_checked() -> None:
    broken = dataclasses.replace(
        model(), parts=PARTS | {"decode": dataclasses.replace(PARTS["decode"], follows="sing")}
    )
    with pytest.raises(ModelError, match="follows `sing`"):
        broken.verify()
    broken = dataclasses.replace(model(), parts=PARTS | {"decode": dataclasses.replace(PARTS["decode"], state={})})
    with pytest.raises(ModelError, match="also needs the input `past"):
        broken.verify()
