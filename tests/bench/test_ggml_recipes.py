"""llama.cpp's rules, on shapes for which `llama-quantize` prints what it takes."""

from __future__ import annotations

import pytest
from ggml_recipes import RECIPES, stored_bytes, tensor_type
from gguf import GGMLQuantizationType as Type


def kinds(recipe: str, columns: int, layer: int = 0, imatrix: bool = False) -> dict[str, Type]:
    return {
        kind: tensor_type(recipe, kind, layer, 32, columns, gqa=4, imatrix=imatrix)
        for kind in ("output", "embedding", "q", "v", "o", "down")
    }


def test_rows_of_whole_superblocks() -> None:
    assert kinds("Q4_K_M", 2048) == {
        "output": Type.Q6_K,
        "embedding": Type.Q4_K,
        "q": Type.Q4_K,
        "v": Type.Q6_K,
        "o": Type.Q4_K,
        "down": Type.Q6_K,
    }
    assert kinds("Q4_K_M", 2048, layer=4)["v"] == Type.Q4_K
    assert kinds("Q3_K_M", 2048, layer=5)["v"] == Type.Q4_K
    assert kinds("Q2_K", 2048)["v"] == Type.Q4_K
    assert kinds("Q4_0", 2048, imatrix=True)["down"] == Type.Q4_1


@pytest.mark.parametrize(
    ("recipe", "wanted"),
    [("Q8_0", Type.Q8_0), ("Q5_K_M", Type.Q5_1), ("Q4_K_M", Type.Q5_0), ("Q4_0", Type.Q4_0), ("Q2_K", Type.Q4_0)],
)
def test_other_rows_fall_back(recipe: str, wanted: Type) -> None:
    assert kinds(recipe, 576)["q"] == wanted
    assert kinds(recipe, 576)["output"] == Type.Q8_0


def test_rows_of_no_whole_blocks_are_float16() -> None:
    assert {kinds(recipe, 172)["down"] for recipe in RECIPES} == {Type.F16}
    assert stored_bytes(Type.F16, 64, 172) == 2 * 64 * 172
    assert stored_bytes(Type.Q4_K, 10, 512) == 10 * 2 * 144
