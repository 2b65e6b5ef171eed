"""Passes over the ONNX graph. After each one onnxruntime still computes the same results."""

from edgec.passes.pipeline import PIPELINE, simplify

__all__ = ["PIPELINE", "simplify"]
