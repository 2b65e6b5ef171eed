"""The equation of an Einsum."""

from __future__ import annotations

import re
from collections.abc import Sequence

_FORM = re.compile(r"[A-Za-z.,]*(->[A-Za-z.]*)?")


def einsum_terms(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """A letter per axis of each operand and of the result; the axes of an ellipsis are Greek letters.

    Raises `ValueError` for an equation that does not fit operands of `ranks` axes.
    """
    equation = equation.replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks) or not _FORM.fullmatch(equation):
        raise ValueError(f"the equation `{equation}` does not fit {len(ranks)} operands")
    spread = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)]
    widest = max((count for term, count in zip(terms, spread, strict=True) if "..." in term), default=0)
    greek = "".join(chr(0x391 + i) for i in range(widest))
    terms = [
        term.replace("...", greek[widest - count :] if count else "") for term, count in zip(terms, spread, strict=True)
    ]
    if any(len(term) != rank for term, rank in zip(terms, ranks, strict=True)):
        raise ValueError(f"the equation `{equation}` does not fit operands of {list(ranks)} axes")
    if not arrow:
        letters = left.replace("...", "").replace(",", "")
        right = ("..." if widest else "") + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    return terms, right.replace("...", greek)
