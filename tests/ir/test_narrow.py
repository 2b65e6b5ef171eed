"""Narrow forms, against what the format's page says, unit by unit."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.ir.narrow import NARROW, NarrowOp, is_narrow, merge_narrow, merge_scaled, narrow, scaled


def by_the_book(source: list[int], op: NarrowOp) -> list[int]:
    wide: list[int] = []
    if op == "upper4":
        for byte in source:
            wide += [byte % 16 * 16, byte // 16 * 16]
    elif op == "scale8":
        for byte in source:
            wide += list((byte * 64).to_bytes(2, "little"))
    else:
        for low, high in zip(source[::2], source[1::2], strict=True):
            wide += [0, 0, low, high]
    return wide


@pytest.mark.parametrize("op", NARROW)
def test_narrow_forms(op: NarrowOp) -> None:
    source = np.arange(256, dtype=np.uint8)
    data = np.array(by_the_book(source.tolist(), op), np.uint8)
    assert is_narrow(data, op)
    assert np.array_equal(narrow(data, op), source)
    merged = np.zeros_like(data)
    merge_narrow(merged, source, op)
    assert np.array_equal(merged, data)
    merge_narrow(merged, source[::-1].copy(), op)
    assert np.array_equal(merged, data | np.array(by_the_book(source[::-1].tolist(), op), np.uint8))


@pytest.mark.parametrize(
    ("op", "lost"), [("upper4", (0, 8)), ("scale8", (0, 32)), ("scale8", (1, 64)), ("upper16", (1, 128))]
)
def test_bits_that_a_narrow_form_would_lose(op: NarrowOp, lost: tuple[int, int]) -> None:
    data = np.zeros(64, np.uint8)
    data[32 + lost[0]] = lost[1]
    assert not is_narrow(data, op)


def test_scales_are_float16() -> None:
    """All codes of 8 bits are the float16 numbers below 2 with four bits of mantissa."""
    wide = np.zeros(512, np.uint8)
    merge_narrow(wide, np.arange(256, dtype=np.uint8), "scale8")
    values = wide.view(np.float16).astype(np.float64)
    normal = [2.0 ** (exponent - 15) * (1 + mantissa / 16) for exponent in range(1, 16) for mantissa in range(16)]
    assert values[16:].tolist() == normal


def test_bytes_with_a_scale_for_each_column() -> None:
    codes = np.array([[127, 0, -3], [-5, 0, -127]], np.int8)
    scales = np.array([0x3C81, 0, 0x42FF], np.uint16)  # bfloat16
    floats = (scales.astype(np.uint32) << 16).view(np.float32)
    data = (codes * floats).astype(np.float32).view(np.uint8).reshape(-1)
    source = scaled(data, 3)
    assert source is not None and source.tolist() == [*scales.view(np.uint8), *codes.view(np.uint8).reshape(-1)]
    merged = np.full_like(data, 255)
    merge_scaled(merged, source, 3)
    assert np.array_equal(merged, data)


@pytest.mark.parametrize("value", [-0.0, 1.5, 2.0**-20, 128.0])
def test_numbers_that_bytes_with_scales_would_lose(value: float) -> None:
    data = np.array([[127, 1], [3, 127]], np.float32)
    assert scaled(data.view(np.uint8).reshape(-1), 2) is not None
    data[1, 0] = value
    assert scaled(data.view(np.uint8).reshape(-1), 2) is None
