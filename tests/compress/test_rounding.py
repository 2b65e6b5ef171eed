"""Rounding errors of weights that lie on a grid."""

from __future__ import annotations

from pathlib import Path

from edgec.compress import rounding_errors
from edgec.frontend import load
from edgec.passes import simplify
from edgec.plan import quantizable


def test_by_bits_and_sizes(tiny_llama: Path) -> None:
    model = simplify(load(str(tiny_llama)))
    names = quantizable(model)
    found = rounding_errors(model, names, (32, 64), narrow=3)
    assert list(found) == list(names)
    for errors in found.values():
        assert errors[3, 32] > errors[4, 32] > errors[8, 32] > 0
        assert errors[4, 64] >= errors[4, 32]
    assert rounding_errors(model, names, ()) == {}
