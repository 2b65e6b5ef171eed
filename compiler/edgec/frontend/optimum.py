"""Export of Hugging Face task models to ONNX by Optimum (extra `optimum`).

The export runs in a process of its own with the same interpreter: torch's memory is given back
when it ends, and what it prints or breaks stays there.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir

from edgec.errors import MissingDependencyError, ModelError, UnsupportedError
from edgec.frontend import onnx
from edgec.frontend.files import hashing, source_sha256
from edgec.frontend.problems import Problem, refuse
from edgec.frontend.safetensors_file import read_header
from edgec.ir.model import ModelIR
from edgec.ir.store import Store, key_of

EXPORT_OPSET = 18  # the newest that all of Optimum's configurations are tested with
_SINGLE_GRAPH = "models that are one graph (encoders, classifiers, detectors)"


def weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def check(folder: Path, config: Mapping[str, Any], task: str) -> list[Problem]:
    """What stands against an export, as far as it shows without torch."""
    problems = []
    if config.get("is_encoder_decoder"):
        problems.append(Problem("is_encoder_decoder", "true", _SINGLE_GRAPH))
    if task.startswith(("text-generation", "text2text")):
        problems.append(Problem("task", f"'{task}'", _SINGLE_GRAPH))
    if config.get("auto_map"):
        problems.append(Problem("auto_map", "code that comes with the model", "architectures of `transformers`"))
    return problems


def load(
    folder: Path,
    config: Mapping[str, Any],
    task: str,
    *,
    supported_ops: Collection[str] | None = None,
    store: Store | None = None,
) -> ModelIR:
    """Exports and reads the graph; an export that `store` has from before is taken from there.

    Raises `MissingDependencyError` without the extra, `UnsupportedError` for what Optimum cannot
    export, and `ModelError` when the export fails.
    """
    refuse(folder.name, check(folder, config, task))
    weights = weight_files(folder)
    if not weights:
        raise ModelError(
            f"`{folder.name}` has no `*.safetensors`",
            hint="convert the weights to safetensors; pickled weights are not read",
        )
    for path in weights:
        read_header(path)  # a damaged file is named before torch is started
    if not _installed():
        raise MissingDependencyError(
            f"`{folder.name}` must be exported by Optimum, which is not installed",
            hint="pip install 'edgec[optimum]', or export it to ONNX elsewhere",
        )
    with tempfile.TemporaryDirectory(prefix="edgec-export-") as temporary:
        _export_once(folder, Path(temporary), task, store)
        graphs = sorted(Path(temporary).glob("*.onnx"))
        if len(graphs) != 1:
            raise UnsupportedError(
                f"`{folder.name}` exports as {len(graphs)} graphs: {', '.join(path.name for path in graphs)}",
                hint=f"supported are {_SINGLE_GRAPH}",
            )
        model = onnx.load(graphs[0], supported_ops=supported_ops)
        _load_external(model.model)
    return model


def _installed() -> bool:
    try:
        return importlib.util.find_spec("optimum.exporters.onnx") is not None
    except ModuleNotFoundError:
        return False


def _export_once(folder: Path, output: Path, task: str, store: Store | None) -> None:
    """`_export`, or the file that it made of the same folder before."""
    if store is None or not hashing():
        _export(folder, output, task)
        return
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    named = [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in files]
    key = key_of("export", source_sha256(files), named, task, EXPORT_OPSET)
    kept = store.load(key)
    if kept is not None:
        (output / "model.onnx").write_bytes(kept["model"].data)
        return
    _export(folder, output, task)
    made = [path for path in output.iterdir() if ".onnx" in path.name]
    if len(made) == 1:  # very large ones are several files
        store.save(key, {"model": np.fromfile(made[0], np.uint8)})


def _export(folder: Path, output: Path, task: str) -> None:
    script = [sys.executable, "-m", "edgec.frontend.optimum_export"]
    command = [*script, str(folder.resolve()), str(output), task, str(EXPORT_OPSET)]
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    finished = subprocess.run(
        command, env={**os.environ, **offline}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if finished.returncode == 0:
        return
    failure = _failure(finished.stdout)
    if failure is None:
        reason = (finished.stderr.strip().splitlines() or [f"it ended with code {finished.returncode}"])[-1]
        raise ModelError(f"Optimum cannot export `{folder.name}`: {reason.rstrip('.')}")
    if failure["kind"] == "import":
        raise MissingDependencyError(
            f"Optimum cannot be imported: {failure['message']}", hint="pip install 'edgec[optimum]'"
        )
    raise UnsupportedError(failure["message"], hint=failure["hint"])


def _failure(output: str) -> dict[str, str] | None:
    """The last line of the export process, if it got as far as writing one."""
    lines = output.strip().splitlines()
    try:
        report = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return report if isinstance(report, dict) and {"kind", "message", "hint"} <= report.keys() else None


def _load_external(model: onnx_ir.Model) -> None:
    """Very large exports keep weights in a second file, which goes away with the temporary folder."""
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, onnx_ir.ExternalTensor):
            value.const_value = onnx_ir.tensor(np.array(value.const_value.numpy()), name=value.name)
