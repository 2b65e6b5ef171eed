"""The merging kernels against `edgec.ir.planes`."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.ir import planes
from edgec.lower.wasm.kernels.planes import merge_bit1, merge_bits2, merge_byte1
from edgec.lower.wasm.target import ISAS, Isa
from tests.lower.kernel_runner import KernelRunner

EACH = list(ISAS.values())


@pytest.mark.parametrize("isa", EACH, ids=lambda isa: isa.name)
@pytest.mark.parametrize("vectors", [1, 3])
def test_merge(isa: Isa, vectors: int) -> None:
    source = np.random.default_rng(vectors).integers(0, 256, 16 * vectors, dtype=np.uint8)

    def start(ratio: int) -> planes.Bytes:
        return np.full(ratio * source.size, 0x80, np.uint8)

    for shift in (0, 1):
        got, wanted = start(4), start(4)
        KernelRunner(merge_bit1(), isa).run([got, source], [source.size, shift])
        planes.merge_bit1(wanted, source, shift)
        assert np.array_equal(got, wanted)
    for shift in (0, 3, 7):
        got, wanted = start(8), start(8)
        KernelRunner(merge_byte1(), isa).run([got, source], [source.size, shift])
        planes.merge_byte1(wanted, source, shift)
        assert np.array_equal(got, wanted)
    got, wanted = start(2), start(2)
    KernelRunner(merge_bits2(), isa).run([got, source], [source.size])
    planes.merge_bits2(wanted, source)
    assert np.array_equal(got, wanted)
