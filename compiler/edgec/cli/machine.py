"""`edgec profiles measure`: what this machine does with two models of known size, as a device profile.

A decoder and a convolutional network, lowered and run like any other, with weights that mean nothing. So what is
measured is what the planner predicts with: bytes of weights per second in an answer, operations per second in a
prompt, and what single kernels of the network reach.
"""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgec.errors import RunError, UsageError

if TYPE_CHECKING:
    from edgec.bundle import Bundle
    from edgec.ir.store import Store
    from edgec.ir.work import KernelWork
    from edgec.plan.speed import Rates
    from edgec.run import Model
    from edgec.run.timing import TimedEngine

# Wide enough that weights come from memory and linear layers take nearly all of the time.
_CONFIG = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 2,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32768,  # a third of the bytes are the head's, as in most models
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}
_PROMPT = 128  # tokens
_DECODED = 8  # tokens in a round
_ROUNDS = 6
_RUNS = 20  # of the network in a round
_USABLE_SHARE = 0.5  # of the memory: the system and other programs need the rest


# A narrow convolutional network, in which float layers stand beside those of 7 bits.
_PIXELS = 32
_CHANNELS = 192
_NARROW = 8  # outputs of a layer in floats; from 16 on its inputs would become codes


@dataclass(frozen=True)
class Speeds:
    """What one variant and number of threads reaches: bytes from memory and operations by 4-bit codes, per second."""

    memory: float
    narrow: float


@dataclass(frozen=True)
class Measured:
    """`decoder` by variant and threads. Of one thread, per second: operations by codes of 7 bits and on floats, bytes
    moved; and the seconds that a call costs."""

    decoder: Mapping[tuple[str, int], Speeds]
    wide: float
    floats: float
    moved: float
    call: float


class _Weights:
    """Vectors of ones; matrices are never read."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._shapes = shapes

    def read(self, name: str) -> npt.NDArray[np.float32]:
        return np.ones(self._shapes[name], np.float32)

    def grid_bits(self, name: str) -> int | None:
        return None


def make_decoder(folder: Path, threads: int, store: Store | None) -> tuple[Bundle, Mapping[str, Sequence[KernelWork]]]:
    """The decoder that is measured, in `folder`, and what its steps do."""
    import dataclasses

    from edgec import bundle, profiles
    from edgec.compress import hollow
    from edgec.frontend.decoder import build_decoder
    from edgec.frontend.hf_config import decoder_config
    from edgec.frontend.tensors import parameter_count, tensor_shapes
    from edgec.ir import ModelFacts, ModelIR
    from edgec.lower.wasm import lower, outline
    from edgec.passes import simplify
    from edgec.plan import make_plan

    spec = decoder_config(_CONFIG).spec
    facts = ModelFacts("measured", "llama", "hf", "0" * 64, parameter_count(spec))
    source = build_decoder(spec, _Weights(dict(tensor_shapes(spec))), name="measured")
    model = simplify(ModelIR(source, "decoder", facts, spec.facts))
    plan = make_plan(model, profiles.load("node-server"), quantizer="rtn")
    plan = dataclasses.replace(plan, max_threads=max(plan.max_threads, threads), variants=_variants(threads))
    compressed = hollow(model, plan)
    last = {"row": _PROMPT - 1}
    steps = {"prefill": {"n": _PROMPT, "position": 0}, "head": last, "decode": {"position": _PROMPT}}
    works = outline(compressed, steps).steps
    return bundle.write(
        lower(compressed, store=store), model=model, plan=plan, accuracy={}, out=folder / "decoder.edgec"
    ), works


def make_graph(folder: Path, store: Store | None) -> tuple[Bundle, Sequence[KernelWork]]:
    """The network that is measured, in `folder`, with marks after its kernels; and what those do."""
    import dataclasses

    from edgec import bundle, profiles
    from edgec.compress import hollow
    from edgec.frontend import load
    from edgec.lower.wasm import lower, outline
    from edgec.passes import simplify
    from edgec.plan import make_plan

    file = folder / "graph.onnx"
    _save_network(file)
    model = simplify(load(file))
    plan = make_plan(model, profiles.load("node-server"), quantizer="rtn")
    plan = dataclasses.replace(plan, variants=_variants(1))
    compressed = hollow(model, plan)
    works = outline(compressed, {"run": {}}).steps["run"]
    lowered = lower(compressed, profile_kernels=True, store=store)
    return bundle.write(lowered, model=model, plan=plan, accuracy={}, out=folder / "graph.edgec"), works


def _variants(threads: int) -> tuple[str, ...]:
    """Those that are measured: the fastest here, and plain SIMD."""
    from edgec.ir.plan import VARIANTS
    from edgec.run.engine import preferred_bases

    bases = {preferred_bases()[0], "simd128"}
    return tuple(name for name in VARIANTS if name.removesuffix("-threads") in bases and (name in bases or threads > 1))


def _save_network(file: Path) -> None:
    import onnx
    from onnx import helper

    shapes = {"a": (_CHANNELS, _CHANNELS), "b": (_CHANNELS, _CHANNELS), "c": (_NARROW, _CHANNELS)}
    random = np.random.default_rng(0)
    weights = [
        onnx.numpy_helper.from_array(random.normal(0, 0.1, (*shape, 1, 1)).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes, source = [], "x"
    for name in shapes:
        nodes.append(helper.make_node("Conv", [source, name], [f"{name}.sum"]))
        nodes.append(helper.make_node("Relu", [f"{name}.sum"], [f"{name}.out"]))
        source = f"{name}.out"
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, channels, _PIXELS, _PIXELS])
        for name, channels in (("x", _CHANNELS), (source, _NARROW))
    ]
    graph = helper.make_graph(nodes, "measured", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), file)


class Meter:
    """Both models, opened. Everybody takes a turn in a round, and the fastest counts; `result()` after some rounds."""

    def __init__(self, folder: Path, threads: int, store: Store | None = None) -> None:
        """`folder` is where the models are written; object code that `store` has is taken from there."""
        from edgec.run import load
        from edgec.run.engine import choose_variant, runnable_variants
        from edgec.run.timing import TimedEngine

        decoder, self._steps = make_decoder(folder, threads, store)
        graph, self._works = make_graph(folder, store)
        wanted = [(choose_variant(decoder, None, 1)[0], 1), ("simd128", 1)]
        if threads > 1 and "simd128-threads" in runnable_variants(decoder):
            wanted.append((choose_variant(decoder, None, threads)[0], threads))
        self._models = {pair: load(decoder, variant=pair[0], threads=pair[1]) for pair in dict.fromkeys(wanted)}
        self._best = dict.fromkeys(self._models, (np.inf, np.inf))
        self._timed = TimedEngine(graph)
        self._kernels = np.full(len(self._works) + 1, np.inf)

    def round(self) -> None:
        self._kernels = np.minimum(self._kernels, _graph_round(self._timed))
        for pair, model in self._models.items():
            decode, prefill = _decoder_round(model)
            best = self._best[pair]
            self._best[pair] = (min(best[0], decode), min(best[1], prefill))

    def result(self) -> Measured:
        rates = _rates(self._works, self._kernels)
        speeds = {
            (variant.removesuffix("-threads"), count): _speeds(self._steps, *seconds, rates)
            for (variant, count), seconds in self._best.items()
        }
        return Measured(speeds, rates.wide, rates.floats, rates.moved, rates.call)

    def close(self) -> None:
        self._timed.close()
        for model in self._models.values():
            model.close()


def measure(threads: int, store: Store | None = None) -> Measured:
    """The fastest of some rounds."""
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Meter(Path(folder), threads, store)) as meter:
        for _ in range(_ROUNDS):
            meter.round()
        return meter.result()


def _rates(works: Sequence[KernelWork], seconds: npt.NDArray[np.float64]) -> Rates:
    """Of one thread, by the seconds of each kernel and, last, of what is around them."""
    from edgec.plan.speed import RESULT, START, Rates, operations

    def of(kind: Callable[[KernelWork], bool]) -> tuple[float, float, float, float]:
        """Operations by products, those of floats that are around them, bytes moved, seconds."""
        chosen = [(work, taken) for work, taken in zip(works, seconds[:-1], strict=True) if kind(work)]
        around = sum(START + RESULT * work.results for work, _ in chosen)
        moved = sum(work.moved for work, _ in chosen)
        return sum(operations(work) for work, _ in chosen), around, moved, sum(taken for _, taken in chosen)

    products, around, _, taken = of(lambda work: work.arithmetic == "float32")
    floats = (products + around) / taken
    products, around, _, taken = of(lambda work: work.arithmetic == "codes")
    wide = products / (taken - around / floats)
    _, around, bytes_moved, taken = of(lambda work: work.moved > 0)
    return Rates(np.inf, np.inf, wide, floats, bytes_moved / (taken - around / floats), float(seconds[-1]))


def _speeds(steps: Mapping[str, Sequence[KernelWork]], decode: float, prefill: float, rates: Rates) -> Speeds:
    """What a profile would have to say to predict these seconds, of a token and of a prompt."""
    from edgec.plan.speed import REACHED, with_limits

    found = with_limits(rates, steps, prefill, decode)
    return Speeds(found.memory / REACHED, found.narrow / REACHED)


def _graph_round(engine: TimedEngine) -> npt.NDArray[np.float64]:
    """Seconds of each kernel and of what is around them, the fastest of some runs."""
    import itertools

    best = np.array([])
    for _ in range(_RUNS):
        engine.steps = []
        engine.call("run")
        step = engine.steps[-1]
        kernels = [after - before for before, after in itertools.pairwise(step.times)]
        taken = np.array([*kernels, max(step.seconds - sum(kernels), 0.0)])
        best = np.minimum(best, taken) if best.size else taken
    return best


def _decoder_round(model: Model) -> tuple[float, float]:
    """Seconds for a decoded token, and for the prompt."""
    from edgec.run.decoder import DecoderState

    state = DecoderState(model.engine)
    random = np.random.default_rng(0)
    ids = [int(token) for token in random.integers(0, state.vocabulary, _PROMPT + _DECODED)]
    started = time.perf_counter()
    state.prompt(ids[:_PROMPT])
    prefill = time.perf_counter() - started
    decode = np.inf
    for token in ids[_PROMPT:]:
        started = time.perf_counter()
        state.decode(token)
        decode = min(decode, time.perf_counter() - started)
    return float(decode), prefill


def profile_text(name: str, measured: Measured, threads: int, version: str) -> str:
    """The profile as TOML, each number with its source."""
    speeds = measured.decoder
    relaxed = next((variant for variant, _ in speeds if variant != "simd128"), None)
    one = speeds[relaxed or "simd128", 1]
    together = next((s for (_, count), s in speeds.items() if count > 1), one)
    plain = speeds["simd128", 1]
    how = (
        f"a decoder of 2 layers, 2,048 wide, in wasmtime {version}, the fastest of {_ROUNDS} rounds; "
        "divided by the share of a limit that the planner takes kernels to reach"
    )
    of_graph = f"a network of 1 x 1 convolutions, {_CHANNELS} wide, in wasmtime {version}, one thread, the fastest runs"
    cores = os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    facts = {
        "memory.usable": (
            f'"{int(memory * _USABLE_SHARE) >> 20} MiB"',
            "estimate",
            f"half of the {memory >> 20} MiB that this machine has",
        ),
        "memory.wasm_maximum": ('"4 GiB"', "published", "wasm32 addresses 4 GiB"),
        "cpu.cores": (str(cores), "measured", "what the system says"),
        "cpu.threads": (str(threads), "measured", "processors that this process may use"),
        "cpu.bandwidth": (
            _rate(max(together.memory, one.memory), "GB/s"),
            "measured",
            f"weights read by {threads} threads: {how}",
        ),
        "cpu.thread_bandwidth": (_rate(one.memory, "GB/s"), "measured", f"weights read by one thread: {how}"),
        "cpu.int8_relaxed": (
            _rate(one.narrow, "GOP/s"),
            "measured",
            f"prompt of {_PROMPT} tokens, `{relaxed or 'simd128'}`, one thread: {how}",
        ),
        "cpu.int8_simd128": (_rate(plain.narrow, "GOP/s"), "measured", f"the same with `simd128`: {how}"),
        "cpu.int8_wide": (_rate(measured.wide, "GOP/s"), "measured", f"layers of 7 bits: {of_graph}"),
        "cpu.float32": (_rate(measured.floats, "GOP/s"), "measured", f"a layer of {_NARROW} outputs: {of_graph}"),
        "cpu.moved": (_rate(measured.moved, "GB/s"), "measured", f"codes of activations: {of_graph}"),
        "cpu.call": (f'"{max(measured.call * 1e6, 0.1):.1f} us"', "measured", f"around the kernels: {of_graph}"),
        "features.simd128": ("true", "measured", "it ran"),
        "features.relaxed_simd": ("true" if relaxed else "false", "measured", "known answers of both dot products"),
        "features.threads": ("true" if threads > 1 else "false", "measured", f"{threads} processors"),
        "budget.download": ('"10 GB"', "estimate", "a machine that compiles has a good line"),
        "budget.storage": ('"50 GiB"', "estimate", "a machine that compiles has a disk"),
    }
    system = f"{platform.system()} {platform.machine()}"
    head = [
        f"# Written by `edgec profiles measure` on {system}.",
        f'name = "{name}"',
        f'title = "This machine, {system}, {cores} cores, in wasmtime"',
        'tier = "supported"',
        'missing = "measured in wasmtime alone; other engines are within 1.5 times"',
        'platform = "node"',
    ]
    tables = [
        f'[{key}]\nvalue = {value}\nbasis = "{basis}"\nsource = "{source}"'
        for key, (value, basis, source) in facts.items()
    ]
    return "\n".join(head) + "\n\n" + "\n\n".join(tables) + "\n"


def _rate(value: float, unit: str) -> str:
    return f'"{value / 1e9:.1f} {unit}"'


def check_name(file: Path) -> str:
    """The profile's name, which is that of its file."""
    import re

    if file.suffix != ".toml" or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", file.stem):
        hint = "for example `--output my-machine.toml`"
        raise UsageError(f"`{file}` is no name for a profile: lower-case words, hyphens, `.toml`", hint=hint)
    return file.stem


def check_system() -> None:
    if not hasattr(os, "sysconf"):
        raise RunError("this system does not tell how much memory it has", hint="copy a profile and edit it")
