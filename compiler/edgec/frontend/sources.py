"""Which frontend reads a source."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgec.errors import ModelError, UnsupportedError
from edgec.frontend import encoder_decoder, foreign, gguf, hf, hub, ocr, onnx, onnx_decoder, speech, task_model
from edgec.frontend.families import FAMILIES
from edgec.frontend.files import read_json, without_hashes
from edgec.frontend.lora import Adapter, merge
from edgec.frontend.problems import Problem
from edgec.frontend.signatures import recognized
from edgec.frontend.tasks import read_task
from edgec.ir.model import ModelIR
from edgec.ir.store import Store

_KNOWN = "a Hugging Face folder, a `*.gguf` or `*.onnx` file, or a hub id such as `org/name`"
_SUFFIXES: dict[str, Literal["gguf", "onnx"]] = {".gguf": "gguf", ".onnx": "onnx"}


@dataclass(frozen=True)
class _Source:
    kind: Literal["decoder", "onnx-decoder", "task", "gguf", "onnx", "ocr", "speech"]
    path: Path
    name: str | None = None  # where the path says nothing


def load(
    source: str | Path,
    *,
    task: str | None = None,
    name: str | None = None,
    supported_ops: Collection[str] | None = None,
    lora: Path | None = None,
    hashed: bool = True,
    store: Store | None = None,
) -> ModelIR:
    """Reads a model.

    `source` is a Hugging Face directory, a GGUF or ONNX file, or a hub id (`org/name`, or
    `org/name/file.gguf`). `task` is what a model that is no decoder is for, as Optimum calls it, or
    the path of a `*.json` file with a task as in `docs/bundle-format.md`. `name` overrides the
    model's name. `supported_ops` are the operators that the target has kernels for (ONNX only). `lora` is the
    folder of an adapter that is added to the weights (`lora.py`). `hashed=False` leaves the hash of the source out,
    for which all weights would be read. `store` keeps exports for the next call.

    Raises `UnsupportedError` when `check` finds problems, and `ModelError` when the source makes no
    sense, both before any weight is read.
    """
    with contextlib.nullcontext() if hashed else without_hashes():
        adapter = Adapter(lora) if lora is not None else None
        description, task = _task(task)
        found = _resolve(source, description["type"] if description else task)
        model = _load(found, description, task, name or found.name, supported_ops, store)
        if adapter is None:
            return model
        return merge(model, adapter, found.path if found.kind == "decoder" else None)


def _load(
    found: _Source,
    description: dict[str, Any] | None,
    task: str | None,
    name: str | None,
    supported_ops: Collection[str] | None,
    store: Store | None,
) -> ModelIR:
    match found.kind:
        case "decoder":
            return _noted(hf.load(found.path, name=name), found.path, hf.SINGLE)
        case "onnx-decoder":
            folder = onnx_decoder.settings_folder(found.path) or found.path.parent
            return _noted(onnx_decoder.load(found.path, name=name), folder, onnx_decoder.shown(folder, found.path))
        case "gguf":
            return gguf.load(found.path, name=name)
        case "onnx":
            model = onnx.load(found.path, name=name, task=description, supported_ops=supported_ops)
            return recognized(model) if model.task is None else model
        case "ocr":
            return ocr.load(found.path, name=name, description=description, supported_ops=supported_ops)
        case "speech":
            files = encoder_decoder.find(found.path)
            assert files is not None
            return speech.load(found.path, files, name=name, description=description, supported_ops=supported_ops)
        case "task":
            return task_model.load(
                found.path,
                name=name,
                task=task,
                description=description,
                supported_ops=supported_ops,
                store=store,
            )


def check(
    source: str | Path, *, task: str | None = None, supported_ops: Collection[str] | None = None
) -> list[Problem]:
    """Every unsupported config field, operator or tensor type of a source; empty when it can be loaded.

    Reads no weight, but downloads a hub id's files.
    """
    description, task = _task(task)
    found = _resolve(source, description["type"] if description else task)
    match found.kind:
        case "decoder":
            return hf.check(found.path)
        case "onnx-decoder":
            return onnx_decoder.check(found.path)
        case "gguf":
            return gguf.check(found.path)
        case "onnx":
            return onnx.check(found.path, supported_ops=supported_ops)
        case "ocr":
            return ocr.check(found.path, supported_ops=supported_ops)
        case "speech":
            files = encoder_decoder.find(found.path)
            assert files is not None
            return speech.check(files, supported_ops=supported_ops)
        case "task":
            return task_model.check(found.path, task=task, supported_ops=supported_ops)


def _noted(model: ModelIR, folder: Path, taken: str) -> ModelIR:
    """The model with a note of what else the folder has."""
    graphs = [onnx_decoder.shown(folder, path) for path in onnx_decoder.candidates(folder)]
    others = [name for name in ([hf.SINGLE] if hf.has_weights(folder) else []) + graphs if name != taken]
    if not others:
        return model
    listed = ", ".join(f"`{name}`" for name in others[:4]) + (f" and {len(others) - 4} more" if len(others) > 4 else "")
    choose = "name a file to take its weights" if any(name.endswith(".onnx") for name in others) else "name the folder"
    note = f"weights are of `{taken}`; the folder has {listed} too ({choose})"
    return dataclasses.replace(model, facts=dataclasses.replace(model.facts, note=note))


def _task(task: str | None) -> tuple[dict[str, Any] | None, str | None]:
    """`(description, name)`, at most one of them."""
    if task is not None and task.endswith(".json"):
        return read_task(Path(task)), None
    return None, task


def _resolve(source: str | Path, task: str | None) -> _Source:
    path = Path(source)
    try:
        exists = path.exists()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise ModelError(f"`{source}` cannot be read: {os.strerror(error.errno or 0)}") from error
        exists = False
    if exists:
        return _Source("ocr", path) if task == ocr.TASK and path.is_dir() else _local(path)
    hub_source = hub.parse(str(source)) if isinstance(source, str) else None
    if hub_source is None:
        raise ModelError(f"`{source}` does not exist", hint=f"a model is {_KNOWN}")
    downloaded = _local(hub.download(hub_source))
    stem = hub_source.repository.split("/")[1] if hub_source.file is None else None
    return _Source(downloaded.kind, downloaded.path, stem)


def _local(path: Path) -> _Source:
    if path.is_dir():
        return _directory(path)
    kind = _SUFFIXES.get(path.suffix.lower())
    if kind is not None:
        foreign.check_whole(path)
        return _Source("onnx-decoder" if kind == "onnx" and onnx_decoder.recognizes(path) else kind, path)
    if (path.parent / "config.json").is_file():
        raise UnsupportedError(f"`{path.name}` is one file of a model", hint=f"name its folder `{path.parent}`")
    foreign.refuse_file(path)
    raise UnsupportedError(f"`{path.name}` is of no kind that edgec reads", hint=f"a model is {_KNOWN}")


def _directory(path: Path) -> _Source:
    if encoder_decoder.find(path) is not None:
        return _Source("speech", path)
    if (path / "config.json").is_file():
        config = read_json(path / "config.json")
        bare_family = not config.get("architectures") and config.get("model_type") in FAMILIES
        if not hf.is_decoder(config) and not bare_family:
            return _Source("task", path)
        if not hf.has_weights(path):
            graph = next(filter(onnx_decoder.recognizes, onnx_decoder.candidates(path)), None)
            if graph is not None:
                return _Source("onnx-decoder", graph)
        return _Source("decoder", path)
    foreign.refuse_folder(path)
    if (path / "genai_config.json").is_file():
        raise ModelError(
            f"`{path.name}` is of onnxruntime-genai, whose `genai_config.json` does not say how layers compute",
            hint="put the `config.json` of the model that it was made from beside it",
        )
    files = [file for file in sorted(path.iterdir()) if file.suffix.lower() in _SUFFIXES]
    if len(files) == 1:
        return _local(files[0])
    if files:
        raise ModelError(
            f"`{path}` holds {len(files)} models: {', '.join(file.name for file in files[:6])}",
            hint=f"name one of them; a detector and a recogniser of text are one model with `--task {ocr.TASK}`",
        )
    raise UnsupportedError(
        f"`{path}` holds no model: there is no `config.json`, `*.gguf` or `*.onnx` in it", hint=f"a model is {_KNOWN}"
    )
