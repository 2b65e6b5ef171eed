"""Windows of one buffer may overlap."""

from __future__ import annotations

import numpy as np
from tvm.script.ir_builder import tirx as T

from edgec.lower.wasm.kernels.builder import KernelBuilder, bind, window
from edgec.lower.wasm.target import SIMD128
from tests.lower.kernel_runner import KernelRunner


def test_what_a_window_wrote_is_read_by_another() -> None:
    with KernelBuilder() as k:
        values, output = k.buffer("values", "float32"), k.buffer("output", "float32")
        starts = [k.scalar("first"), k.scalar("second")]
        first, second = (window(values, start) for start in starts)
        before = bind(second[0])
        T.buffer_store(first, before + T.float32(1), [0])
        T.buffer_store(output, second[0], [0])
    runner = KernelRunner(k.func, SIMD128)
    for place, expected in ((2, 1.0), (3, 0.0)):
        output = np.full(1, np.nan, np.float32)
        runner.run([np.zeros(4, np.float32), output], [place, 2])
        assert output[0] == expected
