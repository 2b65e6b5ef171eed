"""Files and folders of other tools that users try: what they are, and what to do with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from edgec.errors import CorruptFileError, UnsupportedError

_EXPORT = "export the model to ONNX where it comes from, and compile that file"
_PICKLE = "pickled weights can run any code, so they are not read; convert them to safetensors"

# suffix -> (what such a file is, what to do)
_FILES: Mapping[str, tuple[str, str]] = {
    ".bin": ("PyTorch weights, as a rule", _PICKLE),
    ".ckpt": ("a PyTorch checkpoint", _PICKLE),
    ".engine": ("a TensorRT engine", _EXPORT),
    ".ggml": ("the predecessor of GGUF", "download the model as GGUF"),
    ".h5": ("a Keras model", _EXPORT),
    ".keras": ("a Keras model", _EXPORT),
    ".mlmodel": ("a Core ML model", _EXPORT),
    ".mlpackage": ("a Core ML model", _EXPORT),
    ".msgpack": ("Flax weights", "convert them to safetensors, or export the model to ONNX"),
    ".ort": ("an ONNX Runtime model", "compile the `*.onnx` file that it was made from"),
    ".pb": ("a TensorFlow graph", _EXPORT),
    ".pt": ("a PyTorch file", f"{_EXPORT} (`torch.onnx.export`), or convert its weights to safetensors"),
    ".pt2": ("a PyTorch program", f"{_EXPORT} (`torch.onnx.export`)"),
    ".pte": ("an ExecuTorch program", _EXPORT),
    ".pth": ("a PyTorch file", f"{_EXPORT} (`torch.onnx.export`), or convert its weights to safetensors"),
    ".safetensors": ("weights alone", "keep it in a folder with the `config.json` of its model, and name the folder"),
    ".tflite": ("a TensorFlow Lite model", f"{_EXPORT} (`tf2onnx --tflite`)"),
    ".xml": ("an OpenVINO model, perhaps", _EXPORT),
}
_LFS = b"version https://git-lfs.github.com/"


def refuse_file(path: Path) -> None:
    """Raises `UnsupportedError` for a file of a known other kind."""
    known = _FILES.get(path.suffix.lower())
    if known is not None:
        raise UnsupportedError(f"`{path.name}` is {known[0]}, which edgec does not compile", hint=known[1])


def refuse_folder(path: Path) -> None:
    """Raises `UnsupportedError` for a folder without `config.json` of a known other kind."""
    if (path / "adapter_config.json").is_file():
        base = _field(path / "adapter_config.json", "base_model_name_or_path") or "its base model"
        raise UnsupportedError(
            f"`{path.name}` is an adapter of `{base}`, not a model: its `adapter_config.json` says so",
            hint=f"compile `{base}` with `--lora {path.name}`, which merges it",
        )
    if (path / "model_index.json").is_file():
        pipeline = _field(path / "model_index.json", "_class_name") or "diffusers"
        parts = sorted(part.name for part in path.iterdir() if part.is_dir())
        raise UnsupportedError(
            f"`{path.name}` is a pipeline of several models, `{pipeline}` in its `model_index.json`",
            hint=f"export one of its parts to ONNX, and compile that; it has {', '.join(parts) or 'none'}",
        )
    if (path / "saved_model.pb").is_file():
        raise UnsupportedError(f"`{path.name}` is a TensorFlow model (`saved_model.pb`)", hint=f"{_EXPORT} (`tf2onnx`)")


def check_whole(path: Path) -> None:
    """Raises `CorruptFileError` for an empty file and for what Git leaves in a large file's place."""
    with path.open("rb") as file:
        start = file.read(len(_LFS))
    if not start:
        raise CorruptFileError(f"`{path.name}` is empty", hint="download the file again")
    if start == _LFS:
        raise CorruptFileError(
            f"`{path.name}` is a pointer of Git LFS, not the file itself", hint="run `git lfs pull` in its folder"
        )


def pickled_weights(path: Path) -> str | None:
    """The first file of a model folder that holds pickled weights."""
    found = sorted(file.name for file in path.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    return found[0] if found else None


def _field(path: Path, name: str) -> str | None:
    try:
        value = json.loads(path.read_bytes()).get(name)
    except (ValueError, AttributeError):
        return None
    return value if isinstance(value, str) else None
