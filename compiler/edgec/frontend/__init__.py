"""Frontends: every way a model comes in becomes a `ModelIR`.

`load` looks at the source to see what it is; `check` says what stands against it without reading
a weight.
"""

from edgec.frontend.problems import Problem
from edgec.frontend.sources import check, load

__all__ = ["Problem", "check", "load"]
