from __future__ import annotations

import numpy as np
import pytest

from edgec.compress.dequantize import dequantize
from edgec.compress.matrix import pack_matrix
from edgec.compress.quantize import QUANTIZERS, InputStatistics


@pytest.mark.parametrize(("rows", "columns"), [(24, 96), (200, 33), (600, 64)])
@pytest.mark.parametrize("whole", [True, False])
def test_the_error_of_the_output(rows: int, columns: int, whole: bool) -> None:
    """Against the products themselves; of more than 256 rows some are taken."""
    random = np.random.default_rng(rows)
    matrix = random.standard_normal((rows, columns)).astype(np.float32)
    inputs = random.standard_normal((500, columns)) * random.lognormal(0, 1, columns)
    if whole:
        inputs = inputs @ random.standard_normal((columns, columns))
    power, moment = np.square(inputs).mean(axis=0), inputs.T @ inputs / len(inputs)
    statistics = InputStatistics(power, moment if whole else None, len(inputs))
    packed = pack_matrix("w", matrix, QUANTIZERS["irtn"](4, statistics))
    change = dequantize(packed).astype(np.float64) - matrix
    if whole:
        expected = np.linalg.norm(inputs @ change.T) / np.linalg.norm(inputs @ matrix.T)
    else:
        expected = np.sqrt((np.square(change) @ power).sum() / (np.square(matrix.astype(np.float64)) @ power).sum())
    tolerance = 1e-6 if rows <= 256 else 0.05
    assert packed.error["relative_output_error"] == pytest.approx(expected, rel=tolerance)


def test_nothing_is_known_of_outputs_without_inputs() -> None:
    matrix = np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32)
    assert "relative_output_error" not in pack_matrix("w", matrix, QUANTIZERS["rtn"](4, None)).error
