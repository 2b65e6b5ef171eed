from __future__ import annotations

import math

import pytest
import wasmtime

from edgec.run import limits
from edgec.run.probe import make_config


def test_what_the_machine_can_do() -> None:
    rates = limits.measure(1 << 20)
    assert set(rates) == {probe.name for probe in limits.probes(1 << 20)}
    assert all(math.isfinite(rate) and rate > 1e8 for rate in rates.values())
    assert rates["cache"] > rates["memory"]


def test_a_reading_loop_reads_everything_it_is_told_to() -> None:
    """One step past the end of the memory traps, all of the memory does not."""
    engine = wasmtime.Engine(make_config())
    store = wasmtime.Store(engine)
    module = wasmtime.Module(engine, limits.modules(0)["plain"])
    exports = wasmtime.Instance(store, module, []).exports(store)
    read = exports["read"]
    assert isinstance(read, wasmtime.Func)
    read(store, limits.MEMORY_BYTES, 1)
    with pytest.raises(wasmtime.Trap):
        read(store, limits.MEMORY_BYTES + 1, 1)


def test_rates_count_a_multiply_add_as_two_operations() -> None:
    some = [limits.Probe("cache", "plain", "read", (128, 1), 100.0), limits.Probe("float32", "plain", "f", (1,), 100.0)]
    assert limits.limits(some, {"cache": 2.0, "float32": 2.0}) == {"cache": 50.0, "float32": 100.0}
    assert limits.limits(some, {"cache": 2.0}) == {"cache": 50.0}


@pytest.mark.parametrize("weight_bytes", [0, 1000, 300 << 20])
def test_reads_of_weights_stay_in_memory(weight_bytes: int) -> None:
    probe = next(probe for probe in limits.probes(weight_bytes) if probe.name == "weights")
    size, times = probe.arguments
    assert limits.CACHE_BYTES <= size <= max(limits.MEMORY_BYTES, weight_bytes) and size % 128 == 0
    assert probe.work == size * times >= limits.READ_BYTES
