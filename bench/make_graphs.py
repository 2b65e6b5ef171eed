"""Makes what graphs.mjs measures, from the table in graphs.json.

Usage: make_graphs.py OUTPUT [--sources FOLDER] [--profile PROFILE] [--only WORKLOAD,...]. For each model, in
OUTPUT/models/MODEL: `float32.onnx`, `int8.onnx` (dynamically quantized by onnxruntime) and `bundle.edgec`; for each
workload, in OUTPUT/workloads/WORKLOAD: random inputs, onnxruntime's outputs in float32, and `case.json`, which
describes both. What is there already stays; bundles are made again when the compiler is newer.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic
from tokenizers import Tokenizer

import edgec
from edgec.frontend.optimum import EXPORT_OPSET

TABLE = Path(__file__).with_name("graphs.json")
PROMPT = Path(__file__).with_name("prompt.txt")
EDGEC = [sys.executable, "-c", "from edgec.cli import main; main()"]
SEED = 1


class Skipped(Exception):
    """A model whose source is not at hand."""


def make_float32(target: Path, model: dict[str, Any], sources: Path | None) -> None:
    """The model as an ONNX file: copied, or exported by Optimum."""
    if "file" in model:
        source = sources and sources / model["file"]
        if not source or not source.is_file():
            raise Skipped(f"`{model['file']}` is not there; its folder is given by --sources or EDGEC_GRAPH_SOURCES")
        shutil.copyfile(source, target)
    elif "package" in model:
        _export(_package(model["package"]) / "model", model["task"], target)
    else:
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            _save_random(folder, model["random"])
            _export(Path(folder), model["task"], target)
            _fix_sizes(target, model["fixed"])


def _package(name: str) -> Path:
    """Found without importing it: its own dependencies are not installed."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise Skipped(f"the package `{name}` is not installed")
    return Path(spec.origin).parent


def _save_random(folder: str, random: dict[str, Any]) -> None:
    import torch
    import transformers

    torch.manual_seed(SEED)
    config = getattr(transformers, random["config"])(**random["settings"])
    getattr(transformers, random["class"])(config).eval().save_pretrained(folder)


def _export(source: Path, task: str, target: Path) -> None:
    """As `edgec compile` does it with a folder; here every engine gets the same file."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        command = [sys.executable, "-m", "edgec.frontend.optimum_export", source, folder, task, str(EXPORT_OPSET)]
        offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        subprocess.run(command, env={**os.environ, **offline}, stdout=subprocess.DEVNULL, check=True)
        (Path(folder) / "model.onnx").rename(target)


def _fix_sizes(path: Path, sizes: dict[str, int]) -> None:
    """Gives the symbolic dimensions of the inputs and outputs their only size."""
    model = onnx.load(path)
    for value in [*model.graph.input, *model.graph.output]:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param in sizes:
                dimension.dim_value = sizes[dimension.dim_param]
    onnx.save(model, path)


def make_int8(target: Path, source: Path) -> None:
    """Much like the `q8` files of transformers.js; convolutions stay float, in int8 they are slower."""
    linears = ["MatMul", "Gemm", "Gather"]
    quantize_dynamic(source, target, linears, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)


def make_bundle(target: Path, source: Path, model: dict[str, Any], profile: str) -> None:
    bounds = [f"--max-dim={name}={size}" for name, size in model.get("bounds", {}).items()]
    options = ["--quiet", "--force", "--profile", profile, "--name", model["title"], "--output", target]
    subprocess.run([*EDGEC, "compile", source, *bounds, *options], check=True)


def make_case(target: Path, source: Path, model: dict[str, Any], sizes: dict[str, int]) -> None:
    session = onnxruntime.InferenceSession(source)
    random = np.random.default_rng(SEED)
    inputs = {}
    for slot in session.get_inputs():
        shape = [sizes.get(dimension, dimension) for dimension in slot.shape]
        inputs[slot.name] = _random_input(slot.name, shape, model, random)
    outputs = dict(zip([slot.name for slot in session.get_outputs()], session.run(None, inputs), strict=True))
    target.mkdir()
    slots = {kind: _write(tensors, target, kind) for kind, tensors in (("inputs", inputs), ("outputs", outputs))}
    (target / "case.json").write_text(json.dumps({**slots, "sizes": sizes}, indent=1))


def _random_input(name: str, shape: list[int], model: dict[str, Any], random: np.random.Generator) -> np.ndarray:
    if name == "input_ids":
        return np.stack([_text(model, shape[1], random) for _ in range(shape[0])])
    if name == "attention_mask":
        return np.ones(shape, np.int64)
    if name == "token_type_ids":
        return np.zeros(shape, np.int64)
    return random.uniform(*model["pixels"], shape).astype(np.float32)


def _text(model: dict[str, Any], length: int, random: np.random.Generator) -> np.ndarray:
    """So many tokens of prompt.txt from a random place on; of random tokens an encoder makes nothing to compare."""
    tokenizer = Tokenizer.from_file(str(_package(model["package"]) / "model" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    first, *text, last = tokenizer.encode(PROMPT.read_text()).ids
    return np.array([first, *np.resize(np.roll(text, random.integers(len(text))), length - 2), last])


def _write(tensors: dict[str, np.ndarray], folder: Path, kind: str) -> list[dict[str, Any]]:
    slots = []
    for index, (name, tensor) in enumerate(tensors.items()):
        file = f"{kind}-{index}.bin"
        tensor.tofile(folder / file)
        slots.append({"name": name, "dtype": str(tensor.dtype), "shape": tensor.shape, "file": file})
    return slots


def make(target: Path, action: Callable[..., None], *arguments: Any, newest: float = 0.0) -> None:
    """Calls `action(target, *arguments)` unless the target is there and as new as `newest`; no half of it stays."""
    if target.exists() and target.stat().st_mtime >= newest:
        return
    print(f"making {target.parent.name}/{target.name}", flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"partial-{target.name}")
    _remove(partial)
    action(partial, *arguments)
    _remove(target)
    partial.rename(target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def make_model(name: str, model: dict[str, Any], workloads: list[dict[str, Any]], options: argparse.Namespace) -> None:
    folder = options.output / "models" / name
    float32 = folder / "float32.onnx"
    compiler = max(path.stat().st_mtime for path in Path(edgec.__file__).parent.rglob("*.py"))
    make(float32, make_float32, model, options.sources)
    if model.get("int8"):
        make(folder / "int8.onnx", make_int8, float32)
    for workload in workloads:
        make(options.output / "workloads" / workload["id"], make_case, float32, model, workload.get("sizes", {}))
    make(folder / "bundle.edgec", make_bundle, float32, model, options.profile, newest=compiler)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Makes what graphs.mjs measures.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--sources", type=Path, default=os.environ.get("EDGEC_GRAPH_SOURCES"))
    parser.add_argument("--profile", default="laptop-8gb")
    parser.add_argument("--only", type=lambda text: text.split(","), default=None)
    options = parser.parse_args()
    options.sources = options.sources and Path(options.sources)
    return options


def main() -> int:
    options = parse_arguments()
    table = json.loads(TABLE.read_text())
    code = 0
    for name, model in table["models"].items():
        workloads = [each for each in table["workloads"] if each["model"] == name]
        chosen = [each for each in workloads if options.only is None or each["id"] in options.only]
        if not chosen:
            continue
        try:
            make_model(name, model, chosen, options)
        except Skipped as reason:
            print(f"{name}: skipped: {reason}")
        except subprocess.CalledProcessError as error:
            print(f"{name}: failed: `{error.cmd[2]} ...` ended with code {error.returncode}", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
