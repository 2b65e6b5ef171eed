"""`edgec adapter`: an adapter of the peft library as a file that a bundle's runtimes add to its linears and take away.

Both matrices become float16, each row of A and each column of B divided by a power of two, so that the numbers are in
float16's range whatever the adapter's are; the powers, and the adapter's own scale, are float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgec import bundle as bundles
from edgec.bundle.adapters import RANK_STEP, Part, write_adapter_file
from edgec.bundle.manifest import AdapterLinear, AdapterSpace
from edgec.errors import ModelError, OutputError, UsageError
from edgec.ir.adapter import LowRank
from edgec.whole_file import whole_file

_BLOCK = 8  # rows side by side, `edgec/lower/wasm/kernels/adapter.py`


def make_adapter(folder: Path, base: Path, *, source: Path | None = None, name: str | None = None) -> bytes:
    """The content of a `*.lora` file for the bundle `base`.

    `folder` is what the peft library saved, `source` the Hugging Face folder of the model, which is needed where the
    model's family names or orders linears in a way of its own. Raises `UsageError` for a bundle without room,
    `UnsupportedError` for adapters that are no plain LoRA, `ModelError` for adapters of another model.
    """
    from edgec.frontend.lora import Adapter, linears

    manifest = bundles.read(base).manifest
    space = manifest.adapters
    if space is None:
        hint = "compile the model with `--adapters RANK`, or merge the adapter with `--lora`"
        raise UsageError(f"`{base}` has no room for adapters", hint=hint)
    adapter = Adapter(folder)
    shapes = {linear.name: (linear.rows, linear.columns) for linear in space.linears}
    pairs = linears(adapter, shapes, manifest.model.architecture, source)
    rank = -(-max(pair.rank for pair in pairs.values()) // RANK_STEP) * RANK_STEP
    if rank > space.rank:
        raise UsageError(
            f"the adapter `{adapter.name}` has the rank {rank}, `{base}` has room for {space.rank}",
            hint=f"compile the model with `--adapters {rank}`",
        )
    return pack_adapter(space, pairs, rank, name or adapter.name)


def pack_adapter(space: AdapterSpace, pairs: Mapping[str, LowRank], rank: int, name: str) -> bytes:
    """A `*.lora` file with these pairs, filled up to `rank`. Raises `ModelError` for values that are too large."""
    parts: dict[tuple[str, Part], bytes] = {}
    for linear in space.linears:
        if linear.name in pairs:
            for part, content in _packed(linear, pairs[linear.name], rank).items():
                parts[linear.name, part] = content
    return write_adapter_file(space, name, rank, parts)


def write(content: bytes, file: Path) -> None:
    """Replaces `file`, whole or not at all. Raises `OutputError`."""
    try:
        with whole_file(file) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise OutputError(f"`{file}` cannot be written ({error.strerror})") from error


def _packed(linear: AdapterLinear, pair: LowRank, rank: int) -> dict[Part, bytes]:
    down, up = (np.zeros(shape, np.float64) for shape in ((rank, linear.columns), (linear.rows, rank)))
    down[: pair.rank], up[:, : pair.rank] = pair.down, pair.up
    powers_of_down, powers_of_up = _exponents(down, axis=1), _exponents(up, axis=0)
    scales = np.ldexp(pair.scale, powers_of_down + powers_of_up).astype(np.float32)
    if not np.isfinite(scales).all():
        raise ModelError(f"the adapter's values for `{linear.name}` are too large")
    halves = {"down": np.ldexp(down, -powers_of_down[:, None]), "up": np.ldexp(up, -powers_of_up)}
    return {"scales": scales.astype("<f4").tobytes()} | {
        part: _in_blocks(matrix).tobytes() for part, matrix in halves.items()
    }  # type: ignore[return-value]


def _exponents(matrix: npt.NDArray[np.float64], *, axis: int) -> npt.NDArray[np.int64]:
    """Powers of two just above the largest magnitudes."""
    exponents: npt.NDArray[np.int64] = np.frexp(np.abs(matrix).max(axis))[1].astype(np.int64)
    return exponents


def _in_blocks(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float16]:
    """`[rows, columns]` -> `[ceil(rows / 8), columns, 8]`."""
    rows, columns = matrix.shape
    whole = np.zeros((-(-rows // _BLOCK) * _BLOCK, columns), "<f2")
    whole[:rows] = matrix
    return np.ascontiguousarray(whole.reshape(-1, _BLOCK, columns).transpose(0, 2, 1))


__all__ = ["make_adapter", "pack_adapter", "write"]
