"""Which type llama.cpp's quantizer gives each tensor of a Llama, and the quantizer itself, out of ggml's library.

The rules are those of `llama_tensor_get_type_impl` and `tensor_type_fallback` in llama.cpp's `src/llama-quant.cpp`, for
dense Llamas. `Ggml` calls `ggml_quantize_chunk` of a `libggml-base`, which is built in a minute:

    pip download --no-deps --no-binary :all: ggml-py && tar xf ggml_py-*.tar.gz
    cmake -S ggml_py-*/vendor/ggml -B build -DCMAKE_BUILD_TYPE=Release && cmake --build build --target ggml-base
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize

RECIPES = {
    "Q8_0": Type.Q8_0,
    "Q5_K_M": Type.Q5_K,
    "Q4_K_M": Type.Q4_K,
    "Q4_0": Type.Q4_0,
    "Q3_K_M": Type.Q3_K,
    "Q2_K": Type.Q2_K,
}
_FALLBACK = {
    Type.Q2_K: Type.Q4_0,
    Type.Q3_K: Type.Q4_0,
    Type.Q4_K: Type.Q5_0,
    Type.Q5_K: Type.Q5_1,
    Type.Q6_K: Type.Q8_0,
}


def tensor_type(recipe: str, kind: str, layer: int, layers: int, columns: int, *, gqa: int, imatrix: bool) -> Type:
    """`kind`: "output" (also a tied embedding), "embedding", "q", "k", "v", "o", "gate", "up" or "down"."""
    base = RECIPES[recipe]
    wanted = base
    more = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
    if kind == "output":
        if columns % GGML_QUANT_SIZES[base][0]:
            wanted = Type.Q8_0
        elif base != Type.Q8_0:
            wanted = Type.Q6_K
    elif kind == "v":
        if recipe == "Q2_K":
            wanted = Type.Q4_K if gqa >= 4 else Type.Q3_K
        elif recipe == "Q3_K_M":
            wanted = Type.Q5_K if layer < 2 else Type.Q4_K
        elif recipe in ("Q4_K_M", "Q5_K_M") and more:
            wanted = Type.Q6_K
    elif kind == "down":
        if recipe == "Q2_K":
            wanted = Type.Q3_K
        elif recipe == "Q3_K_M":
            wanted = Type.Q5_K if layer < layers // 16 else Type.Q4_K
        elif recipe in ("Q4_K_M", "Q5_K_M") and more:
            wanted = Type.Q6_K
        elif recipe == "Q4_0" and imatrix and layer < layers // 8:
            wanted = Type.Q4_1
    elif kind == "o":
        wanted = {"Q2_K": Type.Q3_K, "Q3_K_M": Type.Q4_K}.get(recipe, base)
    if columns % GGML_QUANT_SIZES[wanted][0]:
        wanted = _FALLBACK.get(wanted, Type.F16)
    return wanted if columns % GGML_QUANT_SIZES[wanted][0] == 0 else Type.F16


def stored_bytes(kind: Type, rows: int, columns: int) -> int:
    if kind == Type.F16:
        return 2 * rows * columns
    block, size = GGML_QUANT_SIZES[kind]
    return rows * (columns // block) * size


class Ggml:
    """ggml's quantizers. Raises `OSError` when `library` cannot be loaded."""

    def __init__(self, library: Path) -> None:
        self._chunk = ctypes.CDLL(str(library)).ggml_quantize_chunk
        pointer, integer = ctypes.c_void_p, ctypes.c_int64
        self._chunk.argtypes = [ctypes.c_int, pointer, pointer, integer, integer, integer, pointer]
        self._chunk.restype = ctypes.c_size_t

    def values(self, matrix: np.ndarray, kind: Type, imatrix: np.ndarray | None) -> np.ndarray:
        """What `matrix` (float32 `[rows, columns]`) becomes; `imatrix` `[columns]` weights the columns."""
        rows, columns = matrix.shape
        if kind == Type.F16:
            return matrix.astype(np.float16).astype(np.float32)
        source = np.ascontiguousarray(matrix, np.float32)
        weights = None if imatrix is None else np.ascontiguousarray(imatrix, np.float32)
        block, size = GGML_QUANT_SIZES[kind]
        target = np.zeros((rows, columns // block * size), np.uint8)
        self._chunk(
            int(kind),
            source.ctypes.data,
            target.ctypes.data,
            0,
            rows,
            columns,
            weights.ctypes.data if imatrix is not None else None,
        )
        return dequantize(target, kind)
