"""Codes that are given are packed as they are, whatever slab their rows are in."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.compress import compress, dequantize
from edgec.compress.matrix import pack_matrix
from edgec.compress.quantize import Grid, Healed, QuantizedRows
from edgec.errors import ModelError
from tests.compress.graphs import plan_for, tied_text_model


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_given_codes_are_packed_as_they_are(bits: int) -> None:
    rng = np.random.default_rng(bits)
    rows, columns = 8 * 1700 + 3, 70
    codes = rng.integers(0, int(Grid(bits).levels) + 1, (rows, columns)).astype(np.uint8)
    scales = rng.uniform(0.01, 1, (rows, 3)).astype(np.float16)
    found = QuantizedRows(Grid(bits), codes, scales, rng.integers(0, 256, (rows, 3)).astype(np.uint8))
    packed = pack_matrix("m", found.values(), Healed(bits, None, found))
    np.testing.assert_array_equal(dequantize(packed), found.values())
    assert packed.error["max_abs"] == 0


def test_a_plan_without_its_codes_is_refused() -> None:
    model = tied_text_model()
    plan = plan_for({"linear": 4})
    tensor = plan.tensors[0]
    object.__setattr__(tensor, "quantizer", "healed")
    with pytest.raises(ModelError, match=r"`linear` from healing, and nothing was healed"):
        compress(model, plan)
