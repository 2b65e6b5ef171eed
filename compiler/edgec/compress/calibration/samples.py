"""What calibration runs the model on: the user's text, pictures or arrays, or the model's own text.

A text is cut into windows of ids; pictures become inputs as the model's task says; arrays are given by
input name, the samples along their first axis. All of it is deterministic.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir
from tokenizers import Tokenizer

from edgec.compress.calibration.feeds import decoder_feeds, encoder_feeds
from edgec.compress.calibration.generate import generated_windows
from edgec.errors import UsageError
from edgec.ir.model import ModelIR
from edgec.ir.store import Store, key_of
from edgec.pictures import fit, list_pictures, read_image, to_tensor

TOKENS = 2048  # of text, the user's or the model's own
WINDOW = 256  # tokens; statistics hardly depend on what lies farther back
MOST_SAMPLES = 128  # of arrays and pictures
_ENCODER_WINDOW = 128

Sample = dict[str, npt.NDArray[Any]]


def generated_samples(
    model: ModelIR,
    *,
    tokens: int = TOKENS,
    store: Store | None = None,
    source_key: str = "",
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Sample]:
    """Text that the decoder `model` writes itself; more of it begins with less of it.

    Windows that `store` has are taken from there; `source_key` tells the model from all others.
    """
    assert model.decoder is not None
    window = min(WINDOW, model.decoder.context_length)
    count, prefix = -(-tokens // window), _prefix(model)
    keys = [key_of("text", source_key, number, window, prefix) for number in range(count)]
    found: dict[int, list[int]] = {}
    for number, key in enumerate(keys):
        ids = _kept_window(store, key, window)
        if ids is not None:
            found[number] = ids
    missing = [number for number in range(count) if number not in found]
    windows = generated_windows(model, missing, window, prefix) if missing else iter(())
    for done, number in enumerate(missing):
        if progress is not None:
            progress("text that the model writes", done, len(missing))
        found[number] = next(windows)
        if store is not None:
            store.save(keys[number], {"ids": np.asarray(found[number], np.int64)})
    return [decoder_feeds(model, found[number]) for number in range(count)]


def _kept_window(store: Store | None, key: str, window: int) -> list[int] | None:
    kept = store.load(key) if store is not None else None
    if store is None or kept is None:
        return None
    if kept.keys() == {"ids"} and kept["ids"].shape == (window,):
        return [int(i) for i in kept["ids"]]
    store.refuse(key)
    return None


def read_samples(model: ModelIR, file: Path) -> list[Sample]:
    """Samples from `file`.

    It is an `.npz` of arrays by input name, a text in UTF-8 for a model with a tokenizer, or a folder of pictures
    for a model whose task has an image. Raises `UsageError`, saying what is wrong with it.
    """
    if file.is_dir():
        return picture_samples(model, file)
    if is_archive(file):
        return _arrays(model, file)
    try:
        text = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(
            f"`{file}` is neither a text in UTF-8 nor an .npz file", hint="calibration needs one of both"
        ) from None
    return text_samples(model, text, str(file))


def is_archive(file: Path) -> bool:
    """Whether it is an .npz file, not a text."""
    try:
        with file.open("rb") as stream:
            return stream.read(4) == b"PK\x03\x04"
    except OSError as error:
        raise UsageError(f"`{file}` cannot be read ({error.strerror})") from error


def text_samples(model: ModelIR, text: str, source: str) -> list[Sample]:
    """The beginning of `text`, in windows."""
    if model.tokenizer is None:
        raise UsageError(
            f"`{model.facts.name}` has no tokenizer, it cannot be calibrated with the text `{source}`",
            hint="give an .npz file with an array for each input",
        )
    tokenizer = Tokenizer.from_buffer(model.tokenizer.tokenizer_json)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if model.decoder is None:
        return _encoder_samples(model, tokenizer, text, source)
    prefix = _prefix(model)
    ids = tokenizer.encode(text[: TOKENS * 32], add_special_tokens=False).ids[:TOKENS]
    step = min(WINDOW, model.decoder.context_length) - len(prefix)
    windows = [ids[start : start + step] for start in range(0, len(ids), step)]
    return [decoder_feeds(model, [*prefix, *window]) for window in _long_enough(windows, source)]


def whole_samples(model: ModelIR, texts: Sequence[str]) -> list[Sample]:
    """One sample per text, a decoder's uncut; those of fewer than two tokens are left out."""
    assert model.tokenizer is not None
    tokenizer = Tokenizer.from_buffer(model.tokenizer.tokenizer_json)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if model.decoder is None:
        tokenizer.enable_truncation(min(int((model.task or {}).get("max_length", _ENCODER_WINDOW)), _ENCODER_WINDOW))
        return [encoder_feeds(model, encoding.ids) for encoding in tokenizer.encode_batch(list(texts))]
    prefix = _prefix(model)
    encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    windows = [[*prefix, *encoding.ids] for encoding in encodings]
    return [decoder_feeds(model, window) for window in windows if len(window) > 1]


def _encoder_samples(model: ModelIR, tokenizer: Any, text: str, source: str) -> list[Sample]:
    """Lines are texts; those that are too long are cut."""
    limit = int((model.task or {}).get("max_length", _ENCODER_WINDOW))
    tokenizer.enable_truncation(min(limit, _ENCODER_WINDOW))
    windows: list[list[int]] = []
    count = 0
    for line in text.splitlines():
        if line.strip() and count < TOKENS:
            windows.append(tokenizer.encode(line, add_special_tokens=True).ids)
            count += len(windows[-1])
    return [encoder_feeds(model, ids) for ids in _long_enough(windows, source)]


def _long_enough(windows: Sequence[list[int]], source: str) -> list[list[int]]:
    found = [window for window in windows if len(window) > 1]
    if not found:
        raise UsageError(f"the text `{source}` is too short to calibrate with", hint="give a page or more")
    return found


def _prefix(model: ModelIR) -> list[int]:
    """What the tokenizer puts before every text."""
    if model.tokenizer is None:
        return []
    tokenizer = Tokenizer.from_buffer(model.tokenizer.tokenizer_json)
    both = list(tokenizer.encode("a", add_special_tokens=True).ids)
    alone = list(tokenizer.encode("a", add_special_tokens=False).ids)
    return both[: len(both) - len(alone)] if both[len(both) - len(alone) :] == alone else both[:1]


def picture_input(model: ModelIR, folder: Path) -> tuple[Mapping[str, Any], onnx_ir.Value]:
    """How a picture becomes the model's input, as its task says, and that input. Raises `UsageError` for others."""
    image = (model.task or {}).get("image")
    inputs = [value for value in model.model.graph.inputs if value.name is not None]
    if image is None or len(inputs) != 1 or inputs[0].dtype is None:
        raise UsageError(
            f"`{model.facts.name}` does not say how a picture becomes its input, so `{folder}` cannot calibrate it",
            hint="describe it with `--task FILE`, or give an .npz file with an array for each input",
        )
    return image, inputs[0]


def picture_samples(model: ModelIR, folder: Path) -> list[Sample]:
    """Pictures of `folder`, evenly spread over all of them where there are more than `MOST_SAMPLES`."""
    image, value = picture_input(model, folder)
    pictures = list_pictures(folder)
    if len(pictures) > MOST_SAMPLES:
        pictures = [pictures[number * len(pictures) // MOST_SAMPLES] for number in range(MOST_SAMPLES)]
    dtype, samples = value.dtype, []
    assert dtype is not None
    for picture in pictures:
        pixels, _ = fit(read_image(picture), image)
        array = to_tensor(pixels, image, raw=dtype == onnx_ir.DataType.UINT8).astype(dtype.numpy(), copy=False)
        _check_array(picture, value, array)
        samples.append({str(value.name): array})
    return samples


def _arrays(model: ModelIR, file: Path) -> list[Sample]:
    inputs = [value for value in model.model.graph.inputs if value.name is not None]
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(f"`{file}` is not a readable .npz file ({error})") from error
    names = {str(value.name) for value in inputs}
    if set(arrays) != names:
        raise UsageError(
            f"`{file}` has the arrays {_list(arrays)}, `{model.facts.name}` has the inputs {_list(names)}",
            hint="give each input an array of its name, with the samples along the first axis",
        )
    batches = {len(array) // _batch(value) if array.ndim else 0 for value, array in _pairs(inputs, arrays)}
    if len(batches) != 1 or 0 in batches:
        raise UsageError(f"the arrays of `{file}` do not hold the same number of samples, or none")
    for value, array in _pairs(inputs, arrays):
        _check_array(file, value, array)
    count = min(batches.pop(), MOST_SAMPLES)
    return [
        {
            str(value.name): np.ascontiguousarray(array[i * _batch(value) : (i + 1) * _batch(value)])
            for value, array in _pairs(inputs, arrays)
        }
        for i in range(count)
    ]


def _pairs(
    inputs: Sequence[onnx_ir.Value], arrays: dict[str, npt.NDArray[Any]]
) -> list[tuple[onnx_ir.Value, npt.NDArray[Any]]]:
    return [(value, arrays[str(value.name)]) for value in inputs]


def _batch(value: onnx_ir.Value) -> int:
    first = value.shape.dims[0] if value.shape is not None and value.shape.dims else 1
    return first if isinstance(first, int) else 1


def _check_array(file: Path, value: onnx_ir.Value, array: npt.NDArray[Any]) -> None:
    wanted = None if value.dtype is None else value.dtype.numpy()
    dims = list(value.shape.dims) if value.shape is not None else [None] * array.ndim
    fixed = [d if isinstance(d, int) and i > 0 else None for i, d in enumerate(dims)]
    fits = len(dims) == array.ndim and all(d in (None, size) for d, size in zip(fixed, array.shape, strict=True))
    if array.dtype != wanted or not fits:
        shape = ", ".join("any" if d is None else str(d) for d in fixed)
        raise UsageError(
            f"the array `{value.name}` of `{file}` is {array.dtype} {list(array.shape)}, expected {wanted} [{shape}]"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UsageError(f"the array `{value.name}` of `{file}` has values that are not finite")


def _list(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names)) or "(none)"


__all__ = [
    "Sample",
    "generated_samples",
    "is_archive",
    "picture_input",
    "picture_samples",
    "read_samples",
    "text_samples",
    "whole_samples",
]
