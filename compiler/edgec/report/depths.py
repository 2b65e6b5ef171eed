"""Depths of nested codes, as sentences and as a section of the page."""

from __future__ import annotations

from edgec.report.data import Report
from edgec.report.units import mebibytes


def depth_lines(report: Report) -> list[str]:
    """One sentence for each; none where codes are not nested."""
    return [
        f"with {depth.bits} of 4 bits: {mebibytes(depth.packed_bytes)} of matrices instead of "
        f"{mebibytes(report.packed_bytes)}, error {100 * depth.relative_rmse:.2f} % instead of "
        f"{100 * report.relative_rmse:.2f} %"
        for depth in report.depths
    ]


def depths_section(report: Report) -> str:
    """HTML, empty where there is none."""
    items = "".join(f"<li>{line}</li>" for line in depth_lines(report))
    return f"<h2>Nested codes</h2><ul>{items}</ul>" if items else ""


__all__ = ["depth_lines", "depths_section"]
