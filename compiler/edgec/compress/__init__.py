"""The compress stage: weights to packed tensors, and back for checking."""

from edgec.compress.agreement import Agreement, held_out
from edgec.compress.calibration.samples import (
    Sample,
    generated_samples,
    is_archive,
    read_samples,
    whole_samples,
)
from edgec.compress.calibration.views import PictureViews
from edgec.compress.dequantize import dequantize, dequantized_model, stored_rows
from edgec.compress.hollow import hollow
from edgec.compress.rounding import rounding_errors
from edgec.compress.sensitivity import classifies, sensitivities
from edgec.compress.stage import compress, float_rounding, needs_samples

__all__ = [
    "Agreement",
    "PictureViews",
    "Sample",
    "classifies",
    "compress",
    "dequantize",
    "dequantized_model",
    "float_rounding",
    "generated_samples",
    "held_out",
    "hollow",
    "is_archive",
    "needs_samples",
    "read_samples",
    "rounding_errors",
    "sensitivities",
    "stored_rows",
    "whole_samples",
]
