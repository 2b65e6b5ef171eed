from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgec.lower.wasm.memory import ALIGNMENT, Lifetime, align, plan_offsets

lifetimes = st.builds(
    lambda size, first, length: Lifetime(size, first, first + length),
    st.integers(1, 5000),
    st.integers(0, 20),
    st.integers(0, 10),
)


@given(st.lists(lifetimes, max_size=25))
def test_buffers_alive_together_do_not_overlap(buffers: list[Lifetime]) -> None:
    offsets, total = plan_offsets(buffers)
    for i, one in enumerate(buffers):
        assert offsets[i] % ALIGNMENT == 0
        assert offsets[i] + one.bytes <= total
        for j, other in enumerate(buffers[:i]):
            if one.first <= other.last and other.first <= one.last:
                assert offsets[i] >= offsets[j] + other.bytes or offsets[j] >= offsets[i] + one.bytes


@given(st.lists(lifetimes, max_size=25))
def test_total_is_between_the_peak_and_the_sum(buffers: list[Lifetime]) -> None:
    _, total = plan_offsets(buffers)
    peak = max((sum(align(b.bytes) for b in buffers if b.first <= t <= b.last) for t in range(32)), default=0)
    assert peak <= total <= sum(align(b.bytes) for b in buffers)


def test_a_chain_reuses_two_buffers() -> None:
    offsets, total = plan_offsets([Lifetime(1000, i, i + 1) for i in range(10)])
    assert total == 2 * 1024
    assert sorted(set(offsets)) == [0, 1024]
