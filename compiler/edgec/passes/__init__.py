"""Passes over the ONNX graph. After each one onnxruntime still computes the same results."""

from edgec.passes.expand_contrib import CONTRIB_OPS
from edgec.passes.expand_functions import EXPANDED, PREVIEW
from edgec.passes.fix_inputs import fix_inputs
from edgec.passes.inline_control_flow import CONTROL_FLOW
from edgec.passes.pipeline import PIPELINE, simplify
from edgec.passes.rotate import rotate

SIMPLIFIED_OPS = EXPANDED | PREVIEW | CONTROL_FLOW | CONTRIB_OPS
"""Operators that `simplify` takes apart."""

__all__ = ["PIPELINE", "SIMPLIFIED_OPS", "fix_inputs", "rotate", "simplify"]
