"""Early exits of a decoder, as sentences and as a section of the page."""

from __future__ import annotations

import html
from collections.abc import Iterable

from edgec.ir.lowered import ExitSlot


def exit_lines(exits: Iterable[ExitSlot]) -> list[str]:
    """One sentence for each."""
    return [_line(exit) for exit in exits]


def exits_section(exits: Iterable[ExitSlot]) -> str:
    """HTML, empty where there is none."""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in exit_lines(exits))
    return f"<h2>Early exits</h2><ul>{items}</ul>" if items else ""


def _line(exit: ExitSlot) -> str:
    if exit.threshold is None:
        return f"after layer {exit.layer}: no token is sure enough"
    return (
        f"after layer {exit.layer}: {100 * exit.share:.1f} % of {exit.tokens:,} tokens reach the probability "
        f"{exit.threshold:.3f}, {100 * exit.agreement:.1f} % of them are what the whole model says"
    )
