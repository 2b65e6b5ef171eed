"""Models of a Hugging Face hub, through `huggingface_hub` (extra `hub`): only the files that are needed.

Downloads continue where they were cut off and lie in the cache that other tools use too; the
usual environment variables (`HF_ENDPOINT`, `HF_HOME`, `HF_HUB_OFFLINE`, `HF_TOKEN`) count.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgec.errors import EdgecError, MissingDependencyError, ModelError, UnsupportedError

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(/[\w./-]+)?", re.ASCII)
_SETTINGS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.bin",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "preprocessor_config.json",
    "README.md",  # names the licence
)
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json")
_AGAIN = "check the network and try again; the download continues where it was"
_GRAPHS = ("model.onnx", "onnx/model.onnx")


@dataclass(frozen=True)
class HubSource:
    """`org/name`, or one file of it: `org/name/path/in/it.gguf`."""

    repository: str
    file: str | None


def parse(source: str) -> HubSource | None:
    """None when the text cannot be a hub id."""
    if not _ID.fullmatch(source) or ".." in source:
        return None
    organization, name, *rest = source.split("/", 2)
    return HubSource(f"{organization}/{name}", rest[0] if rest else None)


def download(source: HubSource) -> Path:
    """The model's local path: a directory, or the one file that it consists of.

    Raises `MissingDependencyError` without the extra, `UnsupportedError` when the repository has no
    file that edgec reads, and `ModelError` when the hub does not answer or does not have it.
    """
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    except ImportError as error:
        raise MissingDependencyError(
            f"`{source.repository}` is no local path, and the hub client is not installed",
            hint="pip install 'edgec[hub]'",
        ) from error
    try:
        info = huggingface_hub.HfApi().model_info(source.repository)
    except OfflineModeIsEnabled as error:
        return _cached(source, error, "unset `HF_HUB_OFFLINE` to download it")
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403, 404):
            raise ModelError(
                f"`{source.repository}` is no local path, and the hub has none that you may read (status {status})",
                hint="check the name; for a private or gated model, accept its terms and set `HF_TOKEN`",
            ) from error
        return _cached(source, error, _AGAIN)
    except Exception as error:  # noqa: BLE001 - connections break with errors of the client's HTTP library
        return _cached(source, error, _AGAIN)
    wanted = _wanted(source, [sibling.rfilename for sibling in info.siblings or []])
    try:
        folder = huggingface_hub.snapshot_download(source.repository, allow_patterns=wanted)
    except Exception as error:
        raise _failed(source, error, _AGAIN) from error
    return _model_path(Path(folder), wanted, source)


def _cached(source: HubSource, error: Exception, hint: str) -> Path:
    """The model as an earlier download left it. Raises `ModelError` because of `error` when there is none."""
    import huggingface_hub

    try:
        # With patterns that match nothing the client does not ask whether all of the repository is there.
        folder = Path(huggingface_hub.snapshot_download(source.repository, allow_patterns=[], local_files_only=True))
        files = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        return _model_path(folder, _wanted(source, files), source)
    except (FileNotFoundError, EdgecError):
        raise _failed(source, error, hint) from error


def _failed(source: HubSource, error: Exception, hint: str) -> ModelError:
    reason = _first_line(error)
    return ModelError(f"`{source.repository}` is no local path and cannot be downloaded: {reason}", hint=hint)


def _model_path(folder: Path, wanted: Sequence[str], source: HubSource) -> Path:
    if source.file is not None:
        return folder / source.file
    single = [name for name in wanted if name.endswith(".gguf")]
    return folder / single[0] if single else folder


def _wanted(source: HubSource, files: Sequence[str]) -> list[str]:
    """The files to download out of those that the repository has."""
    settings = [name for name in files if name in _SETTINGS]
    if source.file is not None:
        if source.file not in files:
            raise ModelError(f"`{source.repository}` has no file `{source.file}`")
        if not source.file.endswith(".onnx"):
            return [source.file]
        # What the model is stands in its settings, and large weights in files beside it.
        return [*settings, *(name for name in files if name.startswith(source.file))]
    weights = [name for name in files if _WEIGHTS.fullmatch(name)]
    if "config.json" in files and weights:
        return settings + weights
    graphs = [name for name in _GRAPHS if name in files]
    if graphs:
        return [*settings, *(name for name in files if name.startswith(graphs[0]))]  # with its external data
    quantized = [name for name in files if name.endswith(".gguf")]
    if len(quantized) == 1:
        return quantized
    if quantized:
        shown = ", ".join(f"`{source.repository}/{name}`" for name in quantized[:6])
        raise ModelError(f"`{source.repository}` has {len(quantized)} GGUF files", hint=f"name one, such as {shown}")
    raise UnsupportedError(
        f"`{source.repository}` has no weights that edgec reads",
        hint="supported are config.json with safetensors, `*.gguf` and `model.onnx`; pickled weights are not read",
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
