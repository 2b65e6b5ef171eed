"""The report: where the bytes of a compiled model are, and why. Data, plots and one self-contained page."""

from edgec.report.data import Layer, Report, TensorRow, from_manifest, from_stages
from edgec.report.page import render

__all__ = ["Layer", "Report", "TensorRow", "from_manifest", "from_stages", "render"]
