"""The compress stage: weights to packed tensors, and back for checking."""

from edgec.compress.dequantize import dequantize, dequantized_model
from edgec.compress.stage import compress

__all__ = ["compress", "dequantize", "dequantized_model"]
