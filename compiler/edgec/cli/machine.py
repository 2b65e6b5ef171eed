"""`edgec profiles measure`: what this machine does with a decoder of known size, as a device profile.

The decoder is a real one, lowered and run like any other, with weights that mean nothing. So what is measured is what
the planner predicts: bytes of weights per second in an answer, operations per second in a prompt.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgec.errors import RunError, UsageError

if TYPE_CHECKING:
    from edgec.bundle import Bundle
    from edgec.run import Model

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
_USABLE_SHARE = 0.5  # of the memory: the system and other programs need the rest


@dataclass(frozen=True)
class Speeds:
    """Of one variant and number of threads: bytes of weights, and 8-bit operations, per second."""

    decode_bytes: float
    prefill_operations: float


class _Weights:
    """Vectors of ones; matrices are never read."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._shapes = shapes

    def read(self, name: str) -> npt.NDArray[np.float32]:
        return np.ones(self._shapes[name], np.float32)

    def grid_bits(self, name: str) -> int | None:
        return None


def make_bundle(folder: Path, threads: int) -> Bundle:
    """The decoder that is measured, in `folder`."""
    import dataclasses

    from edgec import bundle, profiles
    from edgec.compress import hollow
    from edgec.frontend.decoder import build_decoder
    from edgec.frontend.hf_config import decoder_config
    from edgec.frontend.tensors import parameter_count, tensor_shapes
    from edgec.ir import ModelFacts, ModelIR
    from edgec.lower.wasm import lower
    from edgec.passes import simplify
    from edgec.plan import make_plan

    spec = decoder_config(_CONFIG).spec
    facts = ModelFacts("measured", "llama", "hf", "0" * 64, parameter_count(spec))
    source = build_decoder(spec, _Weights(dict(tensor_shapes(spec))), name="measured")
    model = simplify(ModelIR(source, "decoder", facts, spec.facts))
    plan = make_plan(model, profiles.load("node-server"), quantizer="rtn")
    plan = dataclasses.replace(plan, max_threads=max(plan.max_threads, threads))
    return bundle.write(lower(hollow(model, plan)), model=model, plan=plan, accuracy={}, out=folder / "measured.edgec")


def measure(threads: int, progress: Callable[[int, int], None] | None = None) -> dict[tuple[str, int], Speeds]:
    """Speeds by variant and threads; the fastest of some rounds, in which everybody takes a turn."""
    from edgec.run import load
    from edgec.run.engine import choose_variant, runnable_variants

    with tempfile.TemporaryDirectory() as folder:
        written = make_bundle(Path(folder), threads)
        wanted = [(choose_variant(written, None, 1)[0], 1), ("simd128", 1)]
        if threads > 1 and "simd128-threads" in runnable_variants(written):
            wanted.append((choose_variant(written, None, threads)[0], threads))
        models = {pair: load(written, variant=pair[0], threads=pair[1]) for pair in dict.fromkeys(wanted)}
        best = dict.fromkeys(models, (np.inf, np.inf))
        for number in range(_ROUNDS):
            if progress is not None:
                progress(number, _ROUNDS)
            for pair, model in models.items():
                decode, prefill = _round(model)
                best[pair] = (min(best[pair][0], decode), min(best[pair][1], prefill))
        for model in models.values():
            model.close()
        weights = written.manifest.memory.weights.bytes
    return {
        (variant.removesuffix("-threads"), count): _speeds(decode, prefill, weights)
        for (variant, count), (decode, prefill) in best.items()
    }


def _speeds(decode: float, prefill: float, weight_bytes: int) -> Speeds:
    """What the planner would have to know to predict these seconds per token."""
    from edgec.frontend.hf_config import decoder_config
    from edgec.plan import roofline
    from edgec.plan.planner import values_per_layer

    d = decoder_config(_CONFIG).spec.facts
    linears = d.layers * d.hidden * (d.head_dim * (2 * d.heads + 2 * d.kv_heads) + 3 * d.intermediate)
    attention = 2.0 * 2 * d.heads * d.head_dim * d.layers * _PROMPT / 2
    work = roofline.Work(weight_bytes, 2.0 * linears)
    found = roofline.limits(work, roofline.rest(d.layers, values_per_layer(d)), attention, _PROMPT, prefill, decode)
    return Speeds(*found)


def _round(model: Model) -> tuple[float, float]:
    """Seconds for a decoded token, and for a token of a prompt."""
    from edgec.run.decoder import DecoderState

    state = DecoderState(model.engine)
    random = np.random.default_rng(0)
    ids = [int(token) for token in random.integers(0, state.vocabulary, _PROMPT + _DECODED)]
    started = time.perf_counter()
    state.prompt(ids[:_PROMPT])
    prefill = (time.perf_counter() - started) / _PROMPT
    decode = np.inf
    for token in ids[_PROMPT:]:
        started = time.perf_counter()
        state.decode(token)
        decode = min(decode, time.perf_counter() - started)
    return float(decode), prefill


def profile_text(name: str, speeds: dict[tuple[str, int], Speeds], threads: int, version: str) -> str:
    """The profile as TOML, each number with its source."""
    relaxed = next((variant for variant, _ in speeds if variant != "simd128"), None)
    one = speeds[relaxed or "simd128", 1]
    together = next((s for (_, count), s in speeds.items() if count > 1), one)
    plain = speeds["simd128", 1]
    how = (
        f"a decoder of 2 layers, 2,048 wide, in wasmtime {version}, the fastest of {_ROUNDS} rounds; "
        "divided by the share of a limit that the planner takes kernels to reach"
    )
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
            _rate(max(together.decode_bytes, one.decode_bytes), "GB/s"),
            "measured",
            f"weights read by {threads} threads: {how}",
        ),
        "cpu.thread_bandwidth": (_rate(one.decode_bytes, "GB/s"), "measured", f"weights read by one thread: {how}"),
        "cpu.int8_relaxed": (
            _rate(one.prefill_operations, "GOP/s"),
            "measured",
            f"prompt of {_PROMPT} tokens, `{relaxed or 'simd128'}`, one thread: {how}",
        ),
        "cpu.int8_simd128": (_rate(plain.prefill_operations, "GOP/s"), "measured", f"the same with `simd128`: {how}"),
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
