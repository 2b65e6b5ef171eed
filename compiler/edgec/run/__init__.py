"""Running bundles in Python: the same wasm as in the browser, in wasmtime."""

from edgec.run.generation import Generation, GenerationStats
from edgec.run.golden import Difference, SelfTest, make_golden
from edgec.run.model import Model, load
from edgec.run.sampler import Sampling

__all__ = [
    "Difference",
    "Generation",
    "GenerationStats",
    "Model",
    "Sampling",
    "SelfTest",
    "load",
    "make_golden",
]
